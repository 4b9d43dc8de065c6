"""Workers and supervisors: OTP's rules, traced; and the order of death."""

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from engine.errors import ActorStopped, Defect
from engine.runtime import (
    Backoff,
    Context,
    Effects,
    Gather,
    Inbox,
    Restart,
    RestartLimit,
    Strategy,
    Supervisor,
    Worker,
)
from tests.runtime.model import World, at, decider, running, settled

Run = Callable[[Inbox], Awaitable[None]]


class Crashing:
    """Workers that crash or end when they are told so."""

    def __init__(self) -> None:
        self.starts: dict[str, int] = {}

    def worker(self, kind: str, restart: Restart = Restart.PERMANENT, **options: Any) -> Worker:
        async def run(inbox: Inbox) -> None:
            self.starts[kind] = self.starts.get(kind, 0) + 1
            while batch := await inbox.take(1):
                for envelope in batch:
                    if envelope.message == "crash":
                        raise ValueError(kind)
                    if envelope.message == "end":
                        return
                    envelope.reply(kind)

        return Worker(kind=kind, run=run, restart=restart, **options)


def static(kind: str) -> Any:
    return at("", kind, tenant=0)


def group(strategy: Strategy, *children: Worker | Supervisor, **options: Any) -> Supervisor:
    return Supervisor(name="group", children=children, strategy=strategy, **options)


EXPECTED = {
    Strategy.ONE_FOR_ONE: ["crash b", "restart b", "start b"],
    Strategy.ONE_FOR_ALL: [
        "crash b",
        "shutdown c",
        "shutdown a",
        "restart b",
        "start a",
        "start b",
        "start c",
    ],
    Strategy.REST_FOR_ONE: ["crash b", "shutdown c", "restart b", "start b", "start c"],
}


@pytest.mark.parametrize("strategy", Strategy)
async def test_a_crash_restarts_whom_the_strategy_names(
    autojump_clock: MockClock, strategy: Strategy
) -> None:
    """Stopped in reverse order, started in order, exactly those that OTP's rule names."""
    crashing = Crashing()
    spec = group(strategy, *(crashing.worker(kind) for kind in "abc"))
    async with running(decider(_nothing), static=[spec]) as world:
        await settled()
        starts = [path for event, path in world.watch.trace if event == "start"]
        assert starts[:4] == ["system/group/a", "system/group/b", "system/group/c", "system/group"]
        world.watch.trace.clear()
        world.system.offer(static("b"), "crash")
        await settled()
        trace = [f"{event} {path.rsplit('/')[-1]}" for event, path in world.watch.trace]
        assert trace == EXPECTED[strategy]


def _nothing(state: object, message: object, context: Context) -> Effects | None:
    return Effects(reply="ok") if message == "ask" else None


@pytest.mark.parametrize(
    ("restart", "message", "again"),
    [
        (Restart.PERMANENT, "end", True),
        (Restart.PERMANENT, "crash", True),
        (Restart.TRANSIENT, "end", False),
        (Restart.TRANSIENT, "crash", True),
        (Restart.TEMPORARY, "crash", False),
    ],
)
async def test_who_is_restarted_after_what(
    autojump_clock: MockClock, restart: Restart, message: str, again: bool
) -> None:
    """Permanent always, transient after a crash, temporary never; what cannot be handled is refused."""
    crashing = Crashing()
    spec = crashing.worker("w", restart)
    async with running(decider(_nothing), static=[spec]) as world:
        world.system.offer(static("w"), message)
        await settled()
        assert crashing.starts["w"] == (2 if again else 1)
        if again:
            assert await world.system.ask(static("w"), "ask", timeout_seconds=1) == "w"
        else:
            with pytest.raises(ActorStopped):
                world.system.offer(static("w"), "ask")


async def test_over_the_limit_the_supervisor_gives_up_and_is_restarted(autojump_clock: MockClock) -> None:
    """Two restarts within ten seconds are allowed, the third failure stops the group and is its parent's."""
    crashing = Crashing()
    spec = group(Strategy.ONE_FOR_ONE, crashing.worker("a"), crashing.worker("b"), limit=RestartLimit(2, 10))
    async with running(decider(_nothing), static=[spec]) as world:
        for _ in range(3):
            world.system.offer(static("b"), "crash")
            await settled()
        events = [event for event, path in world.watch.trace if path == "system/group"]
        assert events == ["start", "give_up", "shutdown", "restart", "start"]
        assert crashing.starts == {"a": 2, "b": 4}
        await trio.sleep(11)
        for _ in range(2):
            world.system.offer(static("b"), "crash")
            await settled()
            await trio.sleep(11)
        assert crashing.starts == {"a": 2, "b": 6}


async def test_a_restarted_supervisor_starts_all_that_was_specified(autojump_clock: MockClock) -> None:
    """Also temporary children that had ended: only their own supervisor's restart brings them back."""
    crashing = Crashing()
    spec = group(
        Strategy.ONE_FOR_ONE,
        crashing.worker("a"),
        crashing.worker("b", Restart.TEMPORARY),
        crashing.worker("c"),
        limit=RestartLimit(1, 10),
    )
    async with running(decider(_nothing), static=[spec]) as world:
        world.system.offer(static("b"), "crash")
        await settled()
        with pytest.raises(ActorStopped):
            world.system.offer(static("b"), "ask")
        world.watch.trace.clear()
        for _ in range(2):
            world.system.offer(static("a"), "crash")
            await settled()
        starts = [path.rpartition("/")[2] for event, path in world.watch.trace if event == "start"]
        assert starts == ["a", "a", "b", "c", "group"]
        assert await world.system.ask(static("b"), "ask", timeout_seconds=1) == "b"


async def test_nobody_waits_for_those_who_will_not_come_back(autojump_clock: MockClock) -> None:
    """A temporary child that stopped with its siblings, the children of a supervisor that is not restarted:
    who asks them is refused at once, and so is who had asked already."""
    crashing = Crashing()
    inner = Supervisor(
        name="inner",
        children=(crashing.worker("d"), crashing.worker("e")),
        limit=RestartLimit(0, 10),
        restart=Restart.TRANSIENT,
    )
    spec = group(Strategy.ONE_FOR_ALL, crashing.worker("a"), crashing.worker("b", Restart.TEMPORARY), inner)
    async with running(decider(_nothing), static=[spec]) as world:
        gather = Gather()
        world.system.offer(static("d"), "crash")
        world.system.offer(static("d"), "ask", reply_to=gather.slot())
        assert isinstance((await gather.wait())[0], ActorStopped)
        for kind in "de":
            with pytest.raises(ActorStopped):
                world.system.offer(static(kind), "ask")
        world.system.offer(static("a"), "crash")
        await settled()
        with pytest.raises(ActorStopped):
            world.system.offer(static("b"), "ask")
        for kind in "ade":
            assert await world.system.ask(static(kind), "ask", timeout_seconds=1) == kind


async def test_when_the_root_gives_up_run_raises(autojump_clock: MockClock) -> None:
    """And everybody who waits is answered."""
    crashing = Crashing()
    world = World([decider(_nothing)], [crashing.worker("a")], limit=RestartLimit(0, 1))
    world.committer.open = False
    gather = Gather()
    failures: list[Defect] = []

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        try:
            await world.system.run(task_status=task_status)
        except Defect as error:
            failures.append(error)

    async with trio.open_nursery() as nursery:
        await nursery.start(run)
        world.system.offer(at(1), "ask", reply_to=gather.slot())
        world.system.offer(static("a"), "crash")
    assert [str(error) for error in failures] == ["system gave up: too many restarts, the last of system/a"]
    assert isinstance((await gather.wait())[0], ActorStopped)
    with pytest.raises(ActorStopped):
        world.system.offer(at(1), "ask")


async def test_backoff_delays_a_restart_and_grows(autojump_clock: MockClock) -> None:
    """1 s, 2 s, 4 s with factor 2 and no jitter; what came meanwhile is handled after it."""
    crashing = Crashing()
    spec = group(
        Strategy.ONE_FOR_ONE,
        crashing.worker("a"),
        limit=RestartLimit(10, 1000),
        backoff=Backoff(first_seconds=1, factor=2, seconds_max=100, jitter=0),
    )
    async with running(decider(_nothing), static=[spec]) as world:
        for delay in (1, 2, 4):
            start = trio.current_time()
            world.system.offer(static("a"), "crash")
            await settled()
            assert await world.system.ask(static("a"), "ask", timeout_seconds=100) == "a"
            assert trio.current_time() - start == pytest.approx(delay, abs=0.02)


async def test_lazy_workers_are_one_for_each_key_and_leave(autojump_clock: MockClock) -> None:
    """The first message starts one; after a normal end nothing is left and the next one starts another."""
    crashing = Crashing()
    async with running(crashing.worker("w", Restart.TRANSIENT, lazily=True)) as world:
        assert await world.system.ask(at("x", "w"), "ask", timeout_seconds=1) == "w"
        assert await world.system.ask(at("y", "w"), "ask", timeout_seconds=1) == "w"
        assert world.system.statistics().workers == 2
        assert "x: worker" in world.system.format_tree()
        world.system.offer(at("x", "w"), "end")
        await settled()
        assert world.system.statistics().workers == 1
        assert await world.system.ask(at("x", "w"), "ask", timeout_seconds=1) == "w"
        assert crashing.starts["w"] == 3


async def test_the_mailbox_outlives_a_crash_and_the_taken_asker_is_answered(
    autojump_clock: MockClock,
) -> None:
    """What was not taken is handled by the next run; the asker of what was taken hears ActorStopped."""
    crashing = Crashing()
    async with running(crashing.worker("w", lazily=True)) as world:
        gather = Gather()
        for message in ("crash", "ask"):
            world.system.offer(at(1, "w"), message, reply_to=gather.slot())
        first, second = await gather.wait()
        assert isinstance(first, ActorStopped)
        assert second == "w"


async def test_a_group_of_deciders_over_its_limit_is_restarted_whole(autojump_clock: MockClock) -> None:
    """All its activations are loaded afresh; its tenant and the other tenants go on."""

    def decide(state: list[object], message: str, context: Context) -> Effects:
        if message == "crash":
            raise ValueError("no")
        state.append(message)
        return Effects(reply=len(state))

    async with running(decider(decide, limit=RestartLimit(2, 10))) as world:
        assert await world.system.ask(at(1), "a", timeout_seconds=1) == 1
        assert await world.system.ask(at(1, tenant=2), "a", timeout_seconds=1) == 1
        world.system.offer(at(2), "crash")
        await trio.sleep(5)
        assert ("give_up", "system/tenants/1/thing") in world.watch.trace
        assert ("give_up", "system/tenants/1") not in world.watch.trace
        assert await world.system.ask(at(1), "b", timeout_seconds=1) == 1
        assert await world.system.ask(at(1, tenant=2), "b", timeout_seconds=1) == 2
        assert len(world.watch.parked_letters) == 1


async def test_one_poisonous_address_cannot_bring_down_its_group(autojump_clock: MockClock) -> None:
    """With the default limits, ten minutes of nothing but crashes on one address restarts nothing else."""

    def decide(state: list[object], message: str, context: Context) -> Effects:
        raise ValueError("no")

    async with running(decider(decide)) as world:
        for _ in range(600):
            world.system.offer(at(1), "x")
            await trio.sleep(1)
        assert len(world.watch.parked_letters) >= 500
        assert not [event for event, _ in world.watch.trace if event == "give_up"]


async def test_stopping_refuses_finishes_and_goes_in_reverse(autojump_clock: MockClock) -> None:
    """What was taken in is finished, workers may still send until their end, the door is shut for others."""
    order: list[str] = []

    def worker(kind: str) -> Worker:
        async def run(inbox: Inbox) -> None:
            await inbox.wait_stopping()
            order.append(kind)
            if kind == "channel":
                assert world.system.offer(at(1), "from the channel")
            else:
                with pytest.raises(ActorStopped):
                    world.system.offer(at(1), "too late")

        return Worker(kind=kind, run=run)

    def decide(state: list[object], message: object, context: Context) -> Effects:
        return Effects(commit=(message,), reply="kept")

    async with running(
        decider(decide), worker("channel"), static=[worker("first"), worker("second")]
    ) as world:
        gather = Gather()
        world.committer.held = True
        world.system.offer(at(1), "from outside", reply_to=gather.slot())
        await settled()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.system.stop, 20)
            await settled()
            with pytest.raises(ActorStopped):
                world.system.offer(at(1), "too late")
            assert order == []
            world.committer.held = False
            world.committer.settle()
        assert await gather.wait() == ["kept"]
        assert order == ["channel", "second", "first"]
        assert world.committer.rows() == ["from outside", "from the channel"]


async def test_stopping_ends_by_its_deadline(autojump_clock: MockClock) -> None:
    """A worker that does not stop is cancelled at its own deadline; who waits for a commit is refused."""

    async def stubborn(inbox: Inbox) -> None:
        await trio.sleep_forever()

    async with running(
        decider(lambda state, message, context: Effects(commit=(1,)), stop_seconds_max=1),
        static=[Worker(kind="stubborn", run=stubborn, stop_seconds_max=2)],
    ) as world:
        world.committer.held = True
        gather = Gather()
        world.system.offer(at(1), "a", reply_to=gather.slot())
        await settled()
        start = trio.current_time()
        await world.system.stop(10)
        assert trio.current_time() - start == pytest.approx(8, abs=0.2)
        assert ("killed", "system/stubborn") in world.watch.trace
        assert isinstance((await gather.wait())[0], ActorStopped)
        assert world.system.statistics().addresses == 0


async def test_a_seed_repeats_a_run(autojump_clock: MockClock) -> None:
    """The same messages, failures and time give the same trace."""

    async def once() -> Sequence[object]:
        chance = random.Random(7)

        def decide(state: list[object], message: int, context: Context) -> Effects:
            if message % 17 == 3 and not state:
                raise ValueError("no")
            state.append(message)
            return Effects(commit=((context.new_id(), message),))

        async with running(decider(decide)) as world:
            for number in range(300):
                world.system.offer(at(chance.randrange(9)), number)
                if chance.random() < 0.2:
                    await trio.sleep(chance.random())
            await trio.sleep(60)
            return world.committer.committed

    assert await once() == await once()
