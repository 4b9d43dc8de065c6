"""Running one scenario: everything random and every clock from the seed, and what came of it as a report."""

import traceback
from typing import Any

import msgspec
import trio
import trio.testing
from msgspec import Struct

from tests.simulation.channels import CHANNEL_CHECKERS
from tests.simulation.checkers import CHECKERS
from tests.simulation.determined import determined, windows
from tests.simulation.plan import Scenario
from tests.simulation.world import World

TURNS_MAX = 20_000
"""Turns of the scheduler at one moment of the day: a few hundred are a busy one, more are a loop that waits
for nothing, and under virtual time it would never end."""

TURNS_IN_ALL_MAX = 200_000
"""A day takes some 10,000, and some 60,000 where deliveries come days late while conversations wait for
agents who are away: the assigner looks each half minute. One that needs so many goes in circles."""


class Report(Struct, kw_only=True):
    """`violations`: what was not kept, as sentences. `story`: the timeline of what the first one concerns."""

    seed: int
    hash: str
    steps: int
    simulated_seconds: float
    faults: dict[str, int]
    violations: list[str]
    kinds: list[str] = []
    story: list[str] = []

    def line(self) -> str:
        """The one line for programs."""
        members = ("seed", "hash", "steps", "simulated_seconds", "faults", "violations")
        return msgspec.json.encode({name: getattr(self, name) for name in members}).decode()


def run(scenario: Scenario, *, whole_story: bool = False) -> Report:
    """One day, judged. Deterministic: the same scenario gives the same report in any process."""
    world = World(scenario)
    ended = [0.0]

    async def day() -> None:
        try:
            await world.live()
        finally:
            ended[0] = trio.current_time()
        for check in (*CHECKERS, *CHANNEL_CHECKERS) if world.complete else ():
            try:
                check(world)
            except AssertionError as error:
                world.violate(check.__name__.replace("_", " "), str(error))

    # Jumps to the next deadline whenever everybody sleeps.
    clock = trio.testing.MockClock(autojump_threshold=0)
    with determined(world):
        try:
            world.set_up()
            with windows(world):
                trio.run(day, clock=clock, instruments=[world.bounds, _Turns(world, clock)])
        except Exception as error:  # noqa: BLE001  # whatever it was, it is a finding
            world.violate("crash", "".join(traceback.format_exception(error))[-4_000:])
    return Report(
        seed=scenario.seed,
        hash=world.record.hash(),
        steps=world.record.steps,
        simulated_seconds=round(ended[0], 3),
        faults=dict(sorted(world.chance.struck.items())),
        violations=[f"{one.kind}: {one.what}" for one in world.violations],
        kinds=[one.kind for one in world.violations],
        story=_story(world, whole=whole_story),
    )


def _story(world: World, *, whole: bool) -> list[str]:
    if whole:
        return world.record.timeline(lines_max=1_000_000)
    if not world.violations:
        return []
    return world.record.timeline(_concerned(world, world.violations[0].about))


class _Turns(trio.abc.Instrument):
    """Ends the day when somebody runs and runs: the scheduler then turns without end at one moment, or all
    day."""

    def __init__(self, world: World, clock: trio.testing.MockClock) -> None:
        self._world = world
        self._now = clock.current_time
        self._moment = 0.0
        self._at_once = self._in_all = 0
        self._over = False
        clock.current_time = self._current_time  # type: ignore[method-assign]

    def _current_time(self) -> float:
        if self._over:
            raise RuntimeError("somebody still runs and runs after the day was cut")
        return self._now()

    def before_io_wait(self, timeout: float) -> None:
        now = self._now()
        self._at_once = self._at_once + 1 if now == self._moment else 0
        self._moment = now
        self._in_all += 1
        if self._at_once == TURNS_MAX or self._in_all == TURNS_IN_ALL_MAX:
            self._world.violate("spinning", "somebody runs and runs, at one moment or for ever")
            self._world.cut()
        # What spins may be shielded from the cut and hold the clock: then the day can only be broken off.
        self._over = self._at_once == 2 * TURNS_MAX or self._in_all == 2 * TURNS_IN_ALL_MAX


def _concerned(world: World, about: frozenset[Any]) -> frozenset[Any] | None:
    """The names under which the timeline knows what a violation is about: all of its conversation."""
    if not about:
        return None
    names = set(about)
    for tenant_id in world.tenants:
        rows = world.store.table(tenant_id, "messages")
        found = {row.conversation_id for row in rows if {row.id, row.platform_message_id} & about}
        found |= {row.id for row in world.store.table(tenant_id, "conversations") if row.id in about}
        names |= found
        for row in rows:
            if row.conversation_id in found:
                names |= {row.id, row.platform_message_id}
    return frozenset(names - {None})
