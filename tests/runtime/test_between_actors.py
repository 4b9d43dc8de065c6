"""Tells, forwards, room and fencing."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from engine.errors import AskTimeout, Defect, Fenced, Unavailable
from engine.runtime import Context, Effects, Gather, Inbox, Tell, Worker
from tests.runtime.model import at, decider, running, settled


async def test_a_sender_waits_for_room_and_nothing_is_dropped(autojump_clock: MockClock) -> None:
    """A receiver takes twice its limit from actors; over that its sender is stalled until there is room."""
    seen: list[object] = []
    go = trio.Event()

    async def slow(inbox: Inbox) -> None:
        await go.wait()
        while batch := await inbox.take(1):
            seen.extend(envelope.message for envelope in batch)

    def fan(state: list[object], message: int, context: Context) -> Effects:
        return Effects(tell=[Tell(at(1, "slow"), (message, n)) for n in range(3)], reply=message)

    async with running(decider(fan), Worker(kind="slow", run=slow, lazily=True, mailbox_max=2)) as world:
        gather = Gather()
        for message in range(4):
            world.system.offer(at(1), message, reply_to=gather.slot())
        await settled()
        assert world.watch.stalls == [(at(1), at(1, "slow"))]
        assert not world.system.offer(at(1, "slow"), "outside")
        go.set()
        assert await gather.wait() == [0, 1, 2, 3]
        await settled()
        assert seen == [(message, n) for message in range(4) for n in range(3)]


async def test_a_circle_of_full_mailboxes_is_broken(autojump_clock: MockClock) -> None:
    """Two actors that flood each other pass the limit once instead of waiting for each other for ever."""
    handled: list[int] = []
    done = trio.Event()

    def decide(state: list[object], message: int, context: Context) -> Effects | None:
        handled.append(message)
        if len(handled) == 2 * (2**7 - 1):
            done.set()
        other = at(3 - int(str(context.address.key)))
        return Effects(tell=[Tell(other, message - 1)] * 2) if message > 0 else None

    async with running(decider(decide, mailbox_max=1)) as world:
        for key in (1, 2):
            world.system.offer(at(key), 6)
        with trio.fail_after(60):
            await done.wait()
        assert world.watch.overruns


async def test_telling_oneself_too_much_is_a_crash(autojump_clock: MockClock) -> None:
    """It could neither wait for itself nor be let grow."""

    def decide(state: list[object], message: object, context: Context) -> Effects:
        return Effects(tell=[Tell(context.address, "more")] * 5)

    async with running(decider(decide, mailbox_max=2)) as world:
        world.system.offer(at(1), "a")
        await trio.sleep(5)
        assert len(world.watch.parked_letters) == 1


async def test_a_forward_takes_the_asker_along(autojump_clock: MockClock) -> None:
    """The second actor's answer reaches who asked the first; a circle of forwards is refused."""

    def decide(state: list[object], message: object, context: Context) -> Effects:
        if context.address.key == "first":
            return Effects(forward=at("second"))
        if context.address.key == "circle":
            return Effects(forward=at("circle"))
        return Effects(reply=f"{message} from {context.address.key}")

    async with running(decider(decide)) as world:
        assert await world.system.ask(at("first"), "hello", timeout_seconds=1) == "hello from second"
        with pytest.raises(Defect, match="circle"):
            await world.system.ask(at("circle"), "hello", timeout_seconds=1)


async def test_an_unknown_kind_is_refused_before_the_commit(autojump_clock: MockClock) -> None:
    """From outside it raises; as an effect it is a crash, and no row of it is committed."""

    def decide(state: list[object], message: object, context: Context) -> Effects:
        return Effects(commit=("row",), tell=[Tell(at(1, "nobody"), "x")])

    async with running(decider(decide)) as world:
        with pytest.raises(Defect, match="nobody"):
            world.system.offer(at(1, "nobody"), "x")
        world.system.offer(at(1), "a")
        await trio.sleep(5)
        assert world.committer.rows() == [("dead", "a")]


async def test_no_room_in_the_writer_stops_deciding(autojump_clock: MockClock) -> None:
    """Nothing is decided until the committer calls; then everything is."""
    async with running(decider(lambda state, message, context: Effects(commit=(message,)))) as world:
        world.committer.open = False
        for key in range(600):
            world.system.offer(at(key), key)
        await settled()
        assert world.committer.submitted == 0
        world.committer.make_room()
        await settled()
        assert sorted(map(str, world.committer.rows())) == sorted(map(str, range(600)))


async def test_a_fenced_tenant_is_discarded_whole(autojump_clock: MockClock) -> None:
    """Its askers get Unavailable, its worker ends, other tenants notice nothing."""
    ended: list[str] = []

    async def work(inbox: Inbox) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(str(inbox.address.tenant))

    def decide(state: list[object], message: object, context: Context) -> Effects:
        return Effects(commit=(message,), reply="kept")

    async with running(decider(decide), Worker(kind="work", run=work, stop_seconds_max=0.1)) as world:
        world.committer.held = True
        gather = Gather()
        for tenant in (1, 1, 2):
            world.system.offer(at(1, tenant=tenant), tenant, reply_to=gather.slot())
        await settled()
        world.committer.verdict = lambda rows: Fenced("epoch 2") if rows == [1] else None
        world.committer.let_go()
        first, second, third = await gather.wait()
        assert isinstance(first, Unavailable)
        assert first.code == "fenced"
        assert isinstance(second, Unavailable)
        assert third == "kept"
        assert world.watch.fences == [1]
        await trio.sleep(1)
        assert ended == ["1"]
        assert world.system.statistics().tenants == 1


async def test_an_ask_has_a_deadline(autojump_clock: MockClock) -> None:
    """AskTimeout comes at the deadline (within 10 ms); the message is still handled."""
    done: list[Any] = []

    async def slow(inbox: Inbox) -> None:
        for envelope in await inbox.take():
            await trio.sleep(10)
            envelope.reply("late")
            done.append(envelope.message)

    async with running(Worker(kind="slow", run=slow, lazily=True)) as world:
        start = trio.current_time()
        with pytest.raises(AskTimeout):
            await world.system.ask(at(1, "slow"), "a", timeout_seconds=2)
        assert 2 <= trio.current_time() - start <= 2.011
        await trio.sleep(10)
        assert done == ["a"]


async def test_a_cancelled_ask_leaves_nothing_behind(autojump_clock: MockClock) -> None:
    """The late answer goes nowhere, and no deadline stays."""
    async with running(decider(lambda state, message, context: Effects(commit=(1,), reply=1))) as world:
        world.committer.held = True
        with trio.move_on_after(1):
            await world.system.ask(at(1), "a", timeout_seconds=60)
        assert world.system.statistics().asking == 0
        world.committer.let_go()
        await settled()
        assert world.committer.rows() == [1]
