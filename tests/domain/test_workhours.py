"""Opening times on the tenant's wall clock."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from engine.domain.config import Interval, Week
from engine.domain.workhours import is_open, next_opening

NINE_TO_FIVE = (Interval(start=9 * 60, end=17 * 60),)
WEEKDAYS = Week(days=(NINE_TO_FIVE,) * 5 + ((), ()))
RIYADH, BERLIN = ZoneInfo("Asia/Riyadh"), ZoneInfo("Europe/Berlin")


def at(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def test_no_week_is_always_open_and_an_empty_one_never() -> None:
    never = Week(days=((),) * 7)

    assert is_open(None, RIYADH, at("2026-01-03T03:00"))
    assert not is_open(never, RIYADH, at("2026-01-03T12:00"))
    assert next_opening(never, RIYADH, at("2026-01-03T12:00")) is None


def test_hours_are_those_of_the_tenants_time_zone_and_the_end_is_exclusive() -> None:
    # Monday 2026-01-05, Riyadh is UTC+3.
    assert not is_open(WEEKDAYS, RIYADH, at("2026-01-05T05:59"))
    assert is_open(WEEKDAYS, RIYADH, at("2026-01-05T06:00"))
    assert is_open(WEEKDAYS, RIYADH, at("2026-01-05T13:59"))
    assert not is_open(WEEKDAYS, RIYADH, at("2026-01-05T14:00"))


def test_the_next_opening_skips_the_weekend() -> None:
    assert next_opening(WEEKDAYS, RIYADH, at("2026-01-02T15:00")) == at("2026-01-05T06:00")


def test_nine_oclock_stays_nine_oclock_when_the_clocks_change() -> None:
    # Germany went to summer time on Sunday 2026-03-29.
    assert next_opening(WEEKDAYS, BERLIN, at("2026-03-27T17:00")) == at("2026-03-30T07:00")


intervals = st.tuples(st.integers(0, 1439), st.integers(1, 1440)).filter(lambda pair: pair[0] < pair[1])
days = st.lists(intervals, max_size=3).map(
    lambda pairs: tuple(Interval(start=start, end=end) for start, end in pairs)
)


@given(st.tuples(*[days] * 7), st.integers(at("2026-01-01T00:00"), at("2026-12-31T00:00")))
def test_it_is_open_at_the_next_opening_and_not_between(
    week_days: tuple[tuple[Interval, ...], ...], now: int
) -> None:
    """Whatever the week: the promised moment is open, and a minute before it is not (unless it is now)."""
    week = Week(days=week_days)

    opening = next_opening(week, RIYADH, now)

    if opening is None:
        assert not any(week_days)
    else:
        assert is_open(week, RIYADH, opening)
        assert opening == now or not is_open(week, RIYADH, opening - 1)
