"""Settings that the engine decides with: how conversations are assigned, and when the business is open.

Hours are written as people write them, "09:00" to "17:30", in the tenant's time zone; "24:00" ends a day.
Hours over midnight are two intervals, one on each day.
"""

from itertools import pairwise
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from engine.domain.config import AssignmentSettings, Interval, Week
from engine.domain.tenant.messages import Save
from engine.domain.workhours import MINUTES_PER_DAY
from engine.errors import NotFound
from gateway.envelope import Answer
from gateway.permissions import Permission
from gateway.routing import Routes, TenantCall
from gateway.schemas import END, Input, given, invalid

routes = Routes("settings")

DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
Day = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
Clock = Annotated[str, Meta(pattern="^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)" + END)]


class AssignmentPatch(Input, frozen=True, kw_only=True):
    mode: Literal["manual", "round_robin", "least_loaded"] | UnsetType = UNSET
    respect_work_hours: bool | UnsetType = UNSET
    reassign_on_reopen: bool | UnsetType = UNSET


class IntervalBody(Input, frozen=True, kw_only=True):
    start: Clock
    end: Clock


Intervals = Annotated[list[IntervalBody], Meta(max_length=12)]


class DayBody(Input, frozen=True, kw_only=True):
    """No intervals: closed."""

    intervals: Intervals


class NamedDayBody(Input, frozen=True, kw_only=True):
    day: Day
    intervals: Intervals


class WeekBody(Input, frozen=True, kw_only=True):
    """The whole week: days that are left out are closed. `always_open` instead: no hours at all."""

    always_open: bool = False
    days: Annotated[tuple[NamedDayBody, ...], Meta(max_length=7)] = ()


class IntervalOut(Struct, frozen=True, kw_only=True):
    start: str
    end: str


class DayOut(Struct, frozen=True, kw_only=True):
    day: str
    intervals: list[IntervalOut]


class WeekOut(Struct, frozen=True, kw_only=True):
    timezone: str
    always_open: bool
    days: list[DayOut]


@routes.get("/settings/assignment-settings", needs=Permission.SETTINGS_VIEW, answer=AssignmentSettings)
async def show_assignment(call: TenantCall) -> Answer:
    """Show how new conversations are assigned."""
    return Answer(data=call.config.assignment)


@routes.patch("/settings/assignment-settings", needs=Permission.SETTINGS_MANAGE, answer=AssignmentSettings)
async def change_assignment(call: TenantCall, body: AssignmentPatch) -> Answer:
    """Change how new conversations are assigned; members that are left out stay."""
    save = Save(kind="assignment", values=given(body), by=call.by, trace=call.trace)
    return Answer(data=await call.deps.engine.ask_tenant(call.tenant.id, save), message="Settings changed")


@routes.get("/settings/work-hours", needs=Permission.SETTINGS_VIEW, answer=WeekOut)
async def show_work_hours(call: TenantCall) -> Answer:
    """Show the work hours of all days."""
    return Answer(data=_out(call, call.config.week))


@routes.post("/settings/work-hours", needs=Permission.SETTINGS_MANAGE, answer=WeekOut)
async def set_work_hours(call: TenantCall, body: WeekBody) -> Answer:
    """Set the work hours of the whole week."""
    return await _save(call, week_of(body))


@routes.post("/settings/work-hours/<string:day>", needs=Permission.SETTINGS_MANAGE, answer=WeekOut)
async def set_work_hours_of_day(call: TenantCall, day: str, body: DayBody) -> Answer:
    """Set the work hours of one day. Where there were none, the other days are open all day."""
    if day not in DAYS:
        raise NotFound("There is no such day; days are monday to sunday.")
    all_day = (Interval(start=0, end=MINUTES_PER_DAY),)
    days = list(call.config.week.days if call.config.week is not None else (all_day,) * 7)
    days[DAYS.index(day)] = intervals_of(body.intervals)
    return await _save(call, Week(days=tuple(days)))


def week_of(body: WeekBody) -> Week | None:
    """Raises InvalidInput for days named twice and for intervals that end before they begin or overlap."""
    if body.always_open:
        if body.days:
            raise invalid("days", "Do not go with always_open.")
        return None
    named = [each.day for each in body.days]
    if len(set(named)) != len(named):
        raise invalid("days", "Names a day twice.")
    hours: dict[str, tuple[Interval, ...]] = {each.day: intervals_of(each.intervals) for each in body.days}
    return Week(days=tuple(hours.get(day, ()) for day in DAYS))


def intervals_of(bodies: list[IntervalBody]) -> tuple[Interval, ...]:
    found = sorted((_minutes(each.start), _minutes(each.end)) for each in bodies)
    for start, end in found:
        if end <= start:
            raise invalid("intervals", "Must end after they begin; hours over midnight are two intervals.")
    for (_, end), (start, _) in pairwise(found):
        if start < end:
            raise invalid("intervals", "Must not overlap.")
    return tuple(Interval(start=start, end=end) for start, end in found)


def week_out(week: Week | None) -> list[DayOut]:
    days = week.days if week is not None else ((),) * 7
    return [
        DayOut(
            day=day,
            intervals=[IntervalOut(start=_clock(each.start), end=_clock(each.end)) for each in intervals],
        )
        for day, intervals in zip(DAYS, days, strict=True)
    ]


async def _save(call: TenantCall, week: Week | None) -> Answer:
    save = Save(kind="work_hours", values={"week": week}, by=call.by, trace=call.trace)
    await call.deps.engine.ask_tenant(call.tenant.id, save)
    return Answer(data=_out(call, week), message="Work hours changed")


def _out(call: TenantCall, week: Week | None) -> WeekOut:
    return WeekOut(timezone=str(call.config.timezone), always_open=week is None, days=week_out(week))


def _minutes(clock: str) -> int:
    hours, _, minutes = clock.partition(":")
    return int(hours) * 60 + int(minutes)


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02d}:{minutes % 60:02d}"
