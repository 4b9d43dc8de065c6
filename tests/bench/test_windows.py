"""The platform's view of a pace: what is over a limit, looked at in every window."""

import pytest

from bench.windows import fullest, over_limit, over_pair_limit, share_used


def test_an_even_pace_at_the_limit_is_within_it() -> None:
    """Eighty a second, evenly, for ten seconds; the first one of the next second is out of the window."""
    times = [number / 80 for number in range(801)]
    assert fullest(times, 1.0) == 80
    assert over_limit(times, 80, 1.0) == 0
    assert share_used(times, 80, 10) == 1.0


def test_one_call_too_early_is_in_every_window_that_holds_it() -> None:
    """Eleven calls within half a second at a limit of ten: the one window that begins with the first."""
    times = [number / 20 for number in range(11)]
    assert fullest(times, 1.0) == 11
    assert over_limit(times, 10, 1.0) == 1
    assert over_limit([*times, 0.9], 10, 1.0) == 2


@pytest.mark.parametrize(("count", "over"), [(45, 0), (46, 1), (50, 5)])
def test_a_burst_may_have_forty_five(count: int, over: int) -> None:
    """At once, to one recipient."""
    assert over_pair_limit([0.0] * count, seconds=6.0, burst=45) == over


def test_a_burst_is_paid_back() -> None:
    """After a full burst one in six seconds; a millisecond earlier is too early; later ones save up again."""
    burst = [0.0] * 45
    assert over_pair_limit([*burst, 6.0, 12.0], seconds=6.0, burst=45) == 0
    assert over_pair_limit([*burst, 5.999], seconds=6.0, burst=45) == 1
    assert over_pair_limit([*burst, *([60.0] * 10)], seconds=6.0, burst=45) == 0
    assert over_pair_limit([*burst, *([60.0] * 11)], seconds=6.0, burst=45) == 1


def test_nothing_arrived() -> None:
    """No windows, no share."""
    assert (fullest([], 1.0), over_limit([], 1, 1.0), share_used([], 1, 1)) == (0, 0, 0.0)
