"""Activation, passivation, loads that fail, lookups, timers."""

from collections.abc import Sequence
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from engine.errors import StoreUnavailable
from engine.runtime import CancelTimer, Context, Effects, LoadRequest, Lookup, RestartLimit, SetTimer
from tests.runtime.model import at, decider, running, settled, wall_ms


def count(state: list[object], message: object, context: Context) -> Effects:
    """Answer how many messages this activation has had."""
    state.append(message)
    return Effects(reply=len(state))


async def test_activations_of_one_moment_share_a_load(autojump_clock: MockClock) -> None:
    """A thousand addresses are loaded in two calls of 500, each with its first message as the hint."""
    batches: list[int] = []
    hints: list[object] = []

    async def load(requests: Sequence[LoadRequest]) -> Sequence[Any]:
        batches.append(len(requests))
        hints.extend(request.message for request in requests)
        return [[] for _ in requests]

    async with running(decider(count, load=load)) as world:
        for key in range(1000):
            world.system.offer(at(key), key)
            world.system.offer(at(key), "second")
        await settled()
        assert batches == [500, 500]
        assert sorted(map(str, hints)) == sorted(map(str, range(1000)))
        kind = world.system.statistics().kinds["thing"]
        assert (kind.resident, kind.handled, kind.loads, kind.load_batches) == (1000, 2000, 1000, 2)


async def test_idle_activations_leave_and_come_back(autojump_clock: MockClock) -> None:
    """After the idle time nothing is left of the address; the next message loads it afresh."""
    async with running(decider(count, idle_seconds_max=8)) as world:
        assert await world.system.ask(at(1), "a", timeout_seconds=1) == 1
        await trio.sleep(7)
        assert await world.system.ask(at(1), "b", timeout_seconds=1) == 2
        await trio.sleep(7)
        assert world.watch.passive == []
        await trio.sleep(3)
        assert world.watch.passive == [at(1)]
        assert world.system.statistics().addresses == 0
        assert await world.system.ask(at(1), "c", timeout_seconds=1) == 1


async def test_the_least_recently_used_leave_first(autojump_clock: MockClock) -> None:
    """With room for two, using the first again makes the second leave."""
    async with running(decider(count, resident_max=2)) as world:
        for key in (1, 2, 1, 3):
            await world.system.ask(at(key), "a", timeout_seconds=1)
        assert world.watch.passive == [at(2)]


async def test_busy_activations_stay(autojump_clock: MockClock) -> None:
    """Over the resident limit and past the idle time, what is in flight or timed is kept."""

    def decide(state: list[object], message: str, context: Context) -> Effects:
        state.append(message)
        if message == "timer":
            return Effects(timers=[SetTimer("t", context.now + 60_000, "ring")])
        return Effects(commit=(message,))

    async with running(decider(decide, resident_max=1, idle_seconds_max=1)) as world:
        world.committer.held = True
        world.system.offer(at(1), "row")
        world.system.offer(at(2), "timer")
        await trio.sleep(30)
        assert world.watch.passive == []
        world.committer.let_go()
        await trio.sleep(5)
        assert world.watch.passive == [at(1)]


async def test_an_actor_may_ask_to_leave(autojump_clock: MockClock) -> None:
    """`passivate` is granted once its commit is through and nothing waits."""
    async with running(
        decider(lambda state, message, context: Effects(commit=(1,), passivate=True))
    ) as world:
        world.committer.held = True
        world.system.offer(at(1), "a")
        await settled()
        assert world.watch.passive == []
        world.committer.let_go()
        await settled()
        assert world.watch.passive == [at(1)]


async def test_an_unavailable_store_is_waited_for(autojump_clock: MockClock) -> None:
    """Loads are repeated with growing delays, nothing is parked and no restart limit is touched."""
    down = True

    async def load(requests: Sequence[LoadRequest]) -> Sequence[Any]:
        if down:
            raise StoreUnavailable("down")
        return [[] for _ in requests]

    async with running(decider(count, load=load, limit=RestartLimit(1, 1000))) as world:
        world.system.offer(at(1), "a")
        await trio.sleep(60)
        down = False
        assert await world.system.ask(at(1), "b", timeout_seconds=60) == 2
        delays = [delay for _, delay in world.watch.load_failures]
        assert len(delays) > 5
        assert delays[0] < 1 < delays[5]
        assert world.watch.parked_letters == []
        assert ("give_up", "system/tenants/1/thing") not in world.watch.trace


async def test_one_poisonous_row_fails_its_own_load_only(autojump_clock: MockClock) -> None:
    """A batch that raises is split until the culprit is alone; the culprit backs off."""

    async def load(requests: Sequence[LoadRequest]) -> Sequence[Any]:
        if any(request.address.key == 3 for request in requests):
            raise ValueError("bad row")
        return [[] for _ in requests]

    async with running(decider(count, load=load)) as world:
        for key in range(8):
            world.system.offer(at(key), "a")
        await settled()
        assert {address for address, _ in world.watch.load_failures} == {at(3)}
        assert world.system.statistics().kinds["thing"].resident == 7


async def test_a_lookup_without_an_answer_parks_the_message(autojump_clock: MockClock) -> None:
    """A lookup that raises for one message crashes that message three times; the next one goes on."""

    async def lookup(requests: Sequence[Any]) -> Sequence[object]:
        return [ValueError("no") for _ in requests]

    def decide(state: list[object], message: str, context: Context) -> Effects | Lookup:
        return Lookup(message) if message == "ask" else Effects(reply="fine")

    async with running(decider(decide, lookup=lookup)) as world:
        world.system.offer(at(1), "ask")
        assert await world.system.ask(at(1), "b", timeout_seconds=10) == "fine"
        assert [letter.message for letter in world.watch.parked_letters] == ["ask"]


async def test_timers_ring_once_and_in_order(autojump_clock: MockClock) -> None:
    """A timer of the same name replaces the older one, a cancelled one is silent, a restart keeps them."""
    rung: list[tuple[int, object]] = []
    start = wall_ms()

    def decide(state: list[object], message: Any, context: Context) -> Effects | None:
        match message:
            case "set":
                later = [SetTimer("a", context.now + 1000, "first"), SetTimer("b", context.now + 5000, "b")]
                return Effects(timers=[*later, SetTimer("c", context.now + 6000, "c")])
            case "again":
                return Effects(timers=[SetTimer("a", context.now + 9000, "a"), CancelTimer("c")])
            case "crash":
                raise ValueError("no")
            case _:
                pass
        rung.append((context.now - start, message))
        return None

    async with running(decider(decide)) as world:
        for message in ("set", "again", "crash"):
            world.system.offer(at(1), message)
        await trio.sleep(20)
        assert rung == [(5000, "b"), (9000, "a")]
        assert world.system.statistics().timers == 0


async def test_reset_loads_afresh_after_what_is_in_flight(autojump_clock: MockClock) -> None:
    """Messages offered after a reset are decided on a new state, and the commit under way still answers."""

    def decide(state: list[object], message: object, context: Context) -> Effects:
        state.append(message)
        return Effects(commit=(message,), reply=len(state))

    async with running(decider(decide)) as world:
        answers: list[int] = []

        async def ask(message: object) -> None:
            answers.append(await world.system.ask(at(1), message, timeout_seconds=5))

        world.committer.held = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "a")
            await settled()
            world.system.reset(at(1))
            nursery.start_soon(ask, "b")
            await settled()
            assert world.committer.submitted == 1
            world.committer.let_go()
        assert answers == [1, 1]


@pytest.mark.parametrize("result", [42, Effects(forward=at(2), reply=1), Lookup("x")])
async def test_a_handler_that_breaks_the_rules_crashes(autojump_clock: MockClock, result: Any) -> None:
    """A wrong type, a forward with company and a lookup where there is none are parked like any crash."""
    async with running(decider(lambda state, message, context: result)) as world:
        world.system.offer(at(1), "a")
        await trio.sleep(5)
        assert len(world.watch.parked_letters) == 1
        assert "Defect" in world.watch.parked_letters[0].error
