"""The load client in a process of its own, against a small server here."""

import pytest
import trio

from adapters.simulators.accounts import demo_account
from bench.apart import Load, ready
from bench.client import LoadFailed
from tests.bench.test_client import OK, server

pytestmark = pytest.mark.real_time

REFUSED = b"HTTP/1.1 503 \r\nRetry-After: 2\r\nContent-Length: 0\r\n\r\n"


def load(url: str, *, seconds: float = 0.2) -> Load:
    return Load(
        url=url,
        account=demo_account(),
        customers=10,
        seed=1,
        run="0123456789AB",
        rate=200,
        seconds=seconds,
        connections=16,
        drain_seconds_max=5,
        pause_seconds=0,
    )


async def test_the_outcome_comes_over_whole() -> None:
    """Every second request is refused; what was sent is what the parent's own stream says."""

    async def alternate(stream: trio.SocketStream, number: int) -> bool:
        await stream.send_all(REFUSED if number % 2 else OK)
        return True

    async with server(alternate) as (url, seen):
        asked = load(url)
        async with ready(asked) as run:
            assert seen == []
            outcome = await run()
    assert (outcome.sent, dict(outcome.statuses), outcome.broken) == (40, {200: 20, 503: 20}, 0)
    assert len(outcome.latency) == len(outcome.refused_latency) == outcome.refused_with_retry_after == 20
    assert 0 < outcome.latency.at(0.5) <= outcome.latency.largest
    traffic = asked.traffic()
    sent = {traffic.number_in(request) for request in seen}
    assert sent == set(range(40))
    assert sent > set(outcome.acknowledged_numbers)
    assert outcome.seconds > 0.19
    assert 0 < outcome.processor_seconds < outcome.seconds


async def test_a_load_that_cannot_be_is_said_so() -> None:
    async with ready(load("http://127.0.0.1:9/", seconds=0.6)) as run:
        with pytest.raises(LoadFailed):
            await run()
