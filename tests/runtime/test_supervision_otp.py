"""Supervision equals OTP: the same scripted crashes, the same starts, stops and surrenders in the same order.

OTP's side is a real Erlang supervisor (`tests/runtime/otp/supervisor.escript`). Its traces are recorded, so
that they are compared where there is no Erlang; where there is one, fresh scenarios are run beside. What our
runtime adds (the backoff) is off here. A supervisor's own end is not traced: it shows in its children's.
"""

import random
from contextlib import suppress

import pytest
import trio
from trio.testing import MockClock

from engine.errors import ActorStopped, Defect
from engine.runtime import (
    Backoff,
    Context,
    Effects,
    Inbox,
    Restart,
    RestartLimit,
    Spec,
    Strategy,
    Supervisor,
    Worker,
)
from tests.runtime.model import World, at, decider
from tests.runtime.otp import erlang
from tests.runtime.otp.scenarios import WAIT_SECONDS, Branch, Leaf, Scenario, generated

AT_ONCE = Backoff(first_seconds=0)
STUBBORN_SECONDS = 0.1
FRESH = 60
"""Scenarios that no recording has, where Erlang is installed; they run side by side there."""


def _spec(node: Leaf | Branch) -> Spec:
    if isinstance(node, Branch):
        return Supervisor(
            name=node.name,
            children=tuple(map(_spec, node.children)),
            strategy=Strategy(node.strategy),
            limit=RestartLimit(node.intensity, node.period),
            backoff=AT_ONCE,
            restart=Restart(node.restart),
        )

    async def run(inbox: Inbox) -> None:
        while batch := await inbox.take(1):
            for envelope in batch:
                if envelope.message == "crash":
                    raise ValueError(node.name)
                return
        if node.stubborn:
            await trio.sleep_forever()

    return Worker(
        kind=node.name,
        run=run,
        restart=Restart(node.restart),
        stop_seconds_max=STUBBORN_SECONDS if node.stubborn else 5,
    )


async def ours(scenario: Scenario) -> list[str]:
    """What our supervisors do, in OTP's words."""

    def nothing(state: object, message: object, context: Context) -> Effects | None:
        return None

    gave_up = trio.Event()
    # Whatever ends the top supervisor ends the root, as it ends the process that started it in OTP.
    world = World([decider(nothing)], [_spec(scenario.tree)], limit=RestartLimit(0, 1), backoff=AT_ONCE)

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        try:
            await world.system.run(task_status=task_status)
        except Defect:
            gave_up.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(run)
        for step in scenario.steps:
            if step.what == "wait":
                await trio.sleep(WAIT_SECONDS)
            elif not gave_up.is_set():
                with suppress(ActorStopped):  # it does not run; a script cannot know
                    world.system.offer(at("", step.name, tenant=0), step.what)
            # Longer than a stubborn child is waited for, however many of them.
            await trio.sleep(STUBBORN_SECONDS * 10)
        if not gave_up.is_set():
            await world.system.stop(60)
    return [*_told(world, scenario.tree), *(["give_up"] if gave_up.is_set() else [])]


def _told(world: World, tree: Branch) -> list[str]:
    workers, supervisors = _names(tree)
    told = []
    for event, path in world.watch.trace:
        name = path.rpartition("/")[2]
        of_a_worker = name in workers and event in ("start", "crash", "normal", "shutdown")
        if of_a_worker or (name in supervisors and event == "start"):
            told.append(f"{event} {name}")
    return told


def _names(node: Branch) -> tuple[set[str], set[str]]:
    workers, supervisors = set(), {node.name}
    for child in node.children:
        if isinstance(child, Leaf):
            workers.add(child.name)
        else:
            below = _names(child)
            workers |= below[0]
            supervisors |= below[1]
    return workers, supervisors


async def _compare(scenarios: list[Scenario], theirs: dict[str, list[str]]) -> None:
    different = []
    for scenario in scenarios:
        trace = await ours(scenario)
        if trace != theirs[scenario.id]:
            different.append(f"{scenario}\n  OTP:  {theirs[scenario.id]}\n  ours: {trace}")
    assert not different, f"{len(different)} of {len(scenarios)} differ:\n" + "\n".join(different[:5])


async def test_the_recorded_traces_of_otp_are_ours(autojump_clock: MockClock) -> None:
    """Every strategy, restart type, limit, window, escalation, stubborn child, and 200 mixed trees."""
    await _compare(erlang.recorded_scenarios(), erlang.recorded())


@pytest.mark.slow
async def test_fresh_scenarios_end_as_in_otp(autojump_clock: MockClock) -> None:
    """New trees and crashes each time, against the Erlang that is installed here."""
    if erlang.escript() is None:
        pytest.skip("no escript here (Debian: erlang-base); the recorded traces were compared")
    first = random.randrange(1000, 2**31)
    scenarios = [generated(seed) for seed in range(first, first + FRESH)]
    await _compare(scenarios, erlang.traces(scenarios))
