"""Tenants and lanes that share the runtime: how long a flood of one keeps the others waiting."""

from collections.abc import Sequence
from typing import Any

import trio
from trio.testing import MockClock

from engine.runtime import Context, Effects, Lane, LoadRequest, Lookup, LookupRequest, Tell
from engine.runtime.dispatcher import BITE_MAX, TURN_MESSAGES
from engine.runtime.gathering import BATCH_MAX, SHORT_BATCH_MAX
from tests.runtime.model import at, decider, running, settled

FLOOD = 1_000


class Handled:
    """A handler that remembers the order in which tenants were served."""

    def __init__(self) -> None:
        self.tenants: list[int] = []

    def __call__(self, state: object, message: object, context: Context) -> None:
        self.tenants.append(context.address.tenant)


async def test_a_tenant_is_served_within_one_turn_of_another_with_a_thousand_busy_actors(
    autojump_clock: MockClock,
) -> None:
    """Also of many others: each of them has one turn before."""
    handled = Handled()
    async with running(decider(handled)) as world:
        for tenant in (1, 2, 3):
            for key in range(FLOOD):
                world.system.offer(at(key, tenant=tenant), "first")
        world.system.offer(at(0, tenant=4), "first")
        await settled()
        handled.tenants.clear()
        for tenant in (1, 2, 3):
            for key in range(FLOOD):
                world.system.offer(at(key, tenant=tenant), "again")
        world.system.offer(at(0, tenant=4), "again")
        await settled()
        assert len(handled.tenants) == 3 * FLOOD + 1
        assert handled.tenants.index(4) == 3 * TURN_MESSAGES
        rounds = handled.tenants[: 3 * TURN_MESSAGES]
        assert [rounds.count(tenant) for tenant in (1, 2, 3)] == [TURN_MESSAGES] * 3


async def test_an_actor_that_takes_a_whole_bite_pays_for_it_with_its_tenants_next_turns(
    autojump_clock: MockClock,
) -> None:
    """One hot actor against a hundred with one message each: message for message the same."""
    handled = Handled()
    async with running(decider(handled, mailbox_max=10_000)) as world:
        for key in range(100):
            world.system.offer(at(key, tenant=2), "first")
        world.system.offer(at(0, tenant=1), "first")
        await settled()
        handled.tenants.clear()
        for _ in range(FLOOD):
            world.system.offer(at(0, tenant=1), "hot")
        for key in range(100):
            world.system.offer(at(key, tenant=2), "once")
        await settled()
        among = handled.tenants[: max(i for i, tenant in enumerate(handled.tenants) if tenant == 2)]
        assert abs(among.count(1) - among.count(2)) <= BITE_MAX + TURN_MESSAGES


async def test_a_flood_of_cold_actors_lets_others_be_loaded_after_a_short_call(
    autojump_clock: MockClock,
) -> None:
    """Ten thousand of one tenant want to be loaded, a millisecond each; another's first waits for a call of
    the last place and not for twenty long ones."""
    woken: dict[int, list[float]] = {1: [], 2: []}
    sizes: list[int] = []

    async def load(requests: Sequence[LoadRequest]) -> Sequence[Any]:
        sizes.append(len(requests))
        await trio.sleep(len(requests) / 1000)
        return [[] for _ in requests]

    def decide(state: object, message: object, context: Context) -> None:
        woken[context.address.tenant].append(trio.current_time())

    async with running(decider(decide, load=load)) as world:
        begun = trio.current_time()
        for key in range(10_000):
            world.system.offer(at(key, tenant=1), "come")
        await trio.sleep(0.01)
        for key in range(10):
            world.system.offer(at(key, tenant=2), "come")
        await trio.sleep(60)
        assert sorted(sizes[:4]) == [SHORT_BATCH_MAX, BATCH_MAX, BATCH_MAX, BATCH_MAX]
        assert sizes.count(BATCH_MAX) > 10
        assert (len(woken[1]), len(woken[2])) == (10_000, 10)
        assert max(woken[2]) - begun <= 2 * SHORT_BATCH_MAX / 1000 + 0.01
        assert max(woken[1]) - begun > 2.0


async def test_a_flood_of_lookups_lets_others_be_answered_after_a_short_call(
    autojump_clock: MockClock,
) -> None:
    """As for loads."""
    answered: dict[int, list[float]] = {1: [], 2: []}

    async def lookup(requests: Sequence[LookupRequest]) -> Sequence[Any]:
        await trio.sleep(len(requests) / 1000)
        return ["found" for _ in requests]

    def decide(state: object, message: object, context: Context) -> Lookup | None:
        if message == "come" and context.found is None:
            return Lookup("where?")
        answered[context.address.tenant].append(trio.current_time())
        return None

    async with running(decider(decide, lookup=lookup)) as world:
        for tenant, keys in ((1, 5_000), (2, 10)):
            for key in range(keys):
                world.system.offer(at(key, tenant=tenant), "wake")
        await trio.sleep(1)
        for times in answered.values():
            times.clear()
        begun = trio.current_time()
        for key in range(5_000):
            world.system.offer(at(key, tenant=1), "come")
        await trio.sleep(0.01)
        for key in range(10):
            world.system.offer(at(key, tenant=2), "come")
        await trio.sleep(60)
        assert (len(answered[1]), len(answered[2])) == (5_000, 10)
        assert max(answered[2]) - begun <= 2 * SHORT_BATCH_MAX / 1000 + 0.01
        assert max(answered[1]) - begun > 1.0


async def test_who_waits_for_room_goes_on_although_others_never_rest(autojump_clock: MockClock) -> None:
    """A tenant without room at the writer gets its turn when it has room again, not when all others are
    through."""
    served: list[int] = []

    def decide(state: object, message: object, context: Context) -> Effects:
        served.append(context.address.tenant)
        again = (
            Tell(context.address, message) if context.address.tenant == 2 and len(served) < 5_000 else None
        )
        return Effects(commit=["row"], tell=[again] if again else [])

    async with running(decider(decide)) as world:
        world.committer.closed_for.add((1, Lane.NORMAL))
        for key in range(3):
            world.system.offer(at(key, tenant=1), "wait")
        await settled()
        assert served == []
        for key in range(50):
            world.system.offer(at(key, tenant=2), "for ever")
        world.committer.closed_for.clear()
        world.committer.make_room()
        await settled()
        assert served.count(1) == 3
        assert max(i for i, tenant in enumerate(served) if tenant == 1) < 500


async def test_bulk_leaves_the_last_quarter_of_a_mailbox_to_the_other_lanes(
    autojump_clock: MockClock,
) -> None:
    """From outside: offers are refused, tells wait until there is room for bulk again."""
    handled: list[object] = []

    def decide(state: object, message: object, context: Context) -> Effects:
        handled.append(message)
        return Effects(commit=["row"])

    async with running(decider(decide, mailbox_max=8)) as world:
        world.committer.open = False
        taken = [world.system.offer(at(1), ("bulk", number), lane=Lane.BULK) for number in range(8)]
        assert taken == [True] * 6 + [False] * 2
        async with trio.open_nursery() as nursery:

            async def tell() -> None:
                await world.system.tell(at(1), ("bulk", "late"), lane=Lane.BULK)

            nursery.start_soon(tell)
            await settled()
            assert world.system.offer(at(1), "normal")
            assert world.system.offer(at(1), "now", lane=Lane.REALTIME)
            assert not world.system.offer(at(1), "too much", lane=Lane.REALTIME)
            world.committer.make_room()
            await settled()
        assert handled == ["now", "normal", *[("bulk", number) for number in range(6)], ("bulk", "late")]


async def test_a_tell_that_waits_is_not_held_up_by_bulk_that_waits_longer(autojump_clock: MockClock) -> None:
    """Room that is too little for bulk is enough for the other lanes, also among those who wait."""
    handled: list[object] = []
    came_in: list[str] = []

    def decide(state: object, message: object, context: Context) -> Effects:
        handled.append(message)
        return Effects(commit=["row"])

    async with running(decider(decide, mailbox_max=8, in_flight_max=1)) as world:
        world.committer.held = True
        # One is in flight and keeps the actor from going on; eight wait.
        world.system.offer(at(1), 0)
        await settled()
        for number in range(1, 9):
            assert world.system.offer(at(1), number)
        async with trio.open_nursery() as nursery:

            async def tell(name: str, lane: Lane) -> None:
                await world.system.tell(at(1), name, lane=lane)
                came_in.append(name)

            nursery.start_soon(tell, "bulk", Lane.BULK)
            await settled()
            nursery.start_soon(tell, "now", Lane.REALTIME)
            await settled()
            world.committer.settle(1)
            await settled()
            assert came_in == ["now"]
            world.committer.let_go()
        await settled()
        assert handled[1] == 1
        assert handled[-1] == "bulk"


async def test_what_actors_tell_in_bulk_leaves_room_for_what_they_tell_at_once(
    autojump_clock: MockClock,
) -> None:
    """A receiver that is stopped: bulk senders wait at three quarters of what actors may fill, others at the
    limit; afterwards everything has come, each lane in order."""
    received: list[object] = []

    def send(state: object, message: Any, context: Context) -> Effects | None:
        lane, thing = message
        return Effects(tell=[Tell(at("shop", "receiver"), (lane, thing), lane)])

    def receive(state: object, message: Any, context: Context) -> Effects:
        received.append(message)
        return Effects(commit=["row"])

    async with running(
        decider(send, kind="sender"), decider(receive, kind="receiver", mailbox_max=4)
    ) as world:
        world.committer.closed_for.add((1, Lane.NORMAL))
        world.committer.closed_for.add((1, Lane.BULK))
        world.system.offer(at("shop", "receiver"), "block")
        await settled()
        # Senders commit nothing, and yet are decided only when there is room: give it to them alone.
        world.committer.closed_for.clear()
        world.committer.held = True
        for number in range(10):
            world.system.offer(at(("bulk", number), "sender"), (Lane.BULK, number))
        await settled()
        for number in range(3):
            world.system.offer(at(("now", number), "sender"), (Lane.REALTIME, number))
        await settled()
        world.committer.let_go()
        world.committer.make_room()
        await settled()
        assert sorted(map(repr, received)) == sorted(
            map(
                repr,
                ["block", *((Lane.BULK, n) for n in range(10)), *((Lane.REALTIME, n) for n in range(3))],
            )
        )


async def test_bulk_waits_for_room_at_the_writer_while_the_other_lanes_go_on(
    autojump_clock: MockClock,
) -> None:
    """The actor stays live: what else comes in is decided at once, before the bulk that waits."""
    handled: list[object] = []

    def decide(state: object, message: object, context: Context) -> Effects:
        handled.append(message)
        return Effects(commit=["row"])

    async with running(decider(decide, idle_seconds_max=10)) as world:
        world.committer.closed_for.add((1, Lane.BULK))
        for number in range(3):
            world.system.offer(at(1), number, lane=Lane.BULK)
        world.system.offer(at(1), "normal")
        await settled()
        assert handled == ["normal"]
        world.system.offer(at(1), "now", lane=Lane.REALTIME)
        assert await world.system.ask(at(1), "asked", timeout_seconds=1) is None
        assert handled == ["normal", "now", "asked"]
        await trio.sleep(60)
        assert world.watch.passive == []
        world.committer.closed_for.clear()
        world.committer.make_room()
        await settled()
        assert handled[3:] == [0, 1, 2]
        await trio.sleep(60)
        assert world.watch.passive == [at(1)]
