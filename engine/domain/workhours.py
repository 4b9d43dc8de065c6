"""Work hours: is it open now, and when does it open next. Pure; times in ms, weeks in local time."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from engine.domain.config import Agent, TenantConfig, Week

MINUTES_PER_DAY = 24 * 60


def is_open(week: Week | None, zone: ZoneInfo, now: int) -> bool:
    """Whether `now` lies in one of the week's intervals, on the tenant's wall clock (so it follows
    daylight saving). No week means always open; a week without intervals never is."""
    if week is None:
        return True
    local = datetime.fromtimestamp(now / 1000, zone)
    minute = local.hour * 60 + local.minute
    return any(interval.start <= minute < interval.end for interval in week.days[local.weekday()])


def next_opening(week: Week | None, zone: ZoneInfo, now: int) -> int | None:
    """The first moment from `now` on at which it is open; `now` if it is; None if it never opens."""
    if is_open(week, zone, now):
        return now
    assert week is not None
    local = datetime.fromtimestamp(now / 1000, zone)
    # Eight days: today's later intervals, and today's weekday again in a week.
    for offset in range(8):
        day = (local + timedelta(days=offset)).replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
        for interval in sorted(week.days[day.weekday()], key=lambda each: each.start):
            # Wall-clock arithmetic first, then to UTC: 09:00 stays 09:00 when the clocks change.
            wall = day.replace(hour=interval.start // 60, minute=interval.start % 60)
            moment = round(wall.astimezone(UTC).timestamp() * 1000)
            if moment > now:
                return moment
    return None


def at_work(agent: Agent, config: TenantConfig, now: int) -> bool:
    """An agent's own week, where there is one, stands in for the tenant's."""
    return is_open(agent.week if agent.week is not None else config.week, config.timezone, now)
