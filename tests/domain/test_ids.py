"""Ids and clocks that go wrong."""

from engine.domain.ids import COUNTER_BITS, ID_EPOCH_MS, IdAllocator


def test_ids_rise_when_the_clock_steps_back() -> None:
    now = [ID_EPOCH_MS + 5_000]
    new_id = IdAllocator(lambda: now[0])
    first = new_id()
    now[0] -= 3_000

    assert first < new_id() < new_id()
    assert first == 5_000 << COUNTER_BITS


def test_a_new_process_goes_on_above_what_is_stored() -> None:
    """The clock was set back while no process ran; a lower number leaves ids alone."""
    new_id = IdAllocator(lambda: ID_EPOCH_MS + 1_000)
    new_id.above(9_000 << COUNTER_BITS)
    new_id.above(3)

    assert new_id() == (9_000 << COUNTER_BITS) + 1
