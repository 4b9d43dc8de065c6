"""Forced drops at random bytes; `python -m tests.gateway.cutting` does the same ten thousand times."""

import pytest

from tests.gateway.cutting import Run

DROPS = 200


@pytest.mark.real_time
@pytest.mark.slow
async def test_connections_cut_at_any_byte_lose_and_double_nothing() -> None:
    """In the handshake, in a frame's header, in a replay: both protocols' clients see each event once and in
    order, with no gap."""
    proof = await Run(DROPS, clients=8, seed=1).prove()
    assert proof.drops >= DROPS
    assert proof.connections >= 50  # of those that were cut after their subscription
    assert proof.database_reads > 0
    assert proof.clean, proof
