"""Deciding, committing and releasing."""

import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from engine.errors import (
    CommitConflict,
    CommitFailed,
    CommitPoisoned,
    Conflicting,
    MailboxFull,
    Parked,
    StoreUnavailable,
)
from engine.runtime import Context, Effects, Gather, Lane, LoadRequest, Lookup, Tell
from tests.runtime.model import at, decider, running, settled


def keep(state: list[object], message: object, context: Context) -> Effects:
    """Commit the message as a row and answer how many there were."""
    state.append(message)
    return Effects(commit=(message,), reply=len(state))


async def test_an_answer_comes_after_the_commit(autojump_clock: MockClock) -> None:
    """While the verdict is held back the asker waits; afterwards it has its answer."""
    async with running(decider(keep)) as world:
        world.committer.held = True
        answers: list[int] = []

        async def ask() -> None:
            answers.append(await world.system.ask(at(1), "a", timeout_seconds=5))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await settled()
            assert answers == []
            assert world.committer.submitted == 1
            world.committer.let_go()
        assert answers == [1]


async def test_the_next_message_is_decided_while_the_commit_is_under_way(autojump_clock: MockClock) -> None:
    """Three write sets are submitted before the first verdict; answers come in order with the verdicts."""
    async with running(decider(keep)) as world:
        world.committer.held = True
        gather = Gather()
        for message in "abc":
            assert world.system.offer(at(1), message, reply_to=gather.slot())
        await settled()
        assert [entry.rows for entry in world.committer.waiting] == [["a"], ["b"], ["c"]]
        world.committer.let_go()
        assert await gather.wait() == [1, 2, 3]


async def test_effects_without_rows_wait_behind_earlier_commits(autojump_clock: MockClock) -> None:
    """A reply and a tell that need no commit are held while an earlier set of the address is."""

    def decide(state: list[object], message: str, context: Context) -> Effects:
        if message == "row":
            return Effects(commit=("row",))
        return Effects(tell=[Tell(at(2, "sink"), message)], reply="free")

    seen: list[object] = []

    def sink(state: list[object], message: object, context: Context) -> None:
        seen.append(message)

    async with running(decider(decide), decider(sink, kind="sink")) as world:
        world.committer.held = True
        gather = Gather()
        world.system.offer(at(1), "row")
        world.system.offer(at(1), "tell", reply_to=gather.slot())
        await settled()
        assert seen == []
        world.committer.let_go()
        assert await gather.wait() == ["free"]
        await settled()
        assert seen == ["tell"]


async def test_lanes_are_served_in_order_and_fifo_within(autojump_clock: MockClock) -> None:
    """Realtime before normal before bulk, whatever the order of arrival."""
    seen: list[object] = []

    def decide(state: list[object], message: object, context: Context) -> None:
        seen.append(message)

    async with running(decider(decide)) as world:
        for lane in (Lane.BULK, Lane.NORMAL, Lane.REALTIME):
            for number in (1, 2):
                world.system.offer(at(1), (lane.name, number), lane=lane)
        await settled()
        assert seen == [(name, number) for name in ("REALTIME", "NORMAL", "BULK") for number in (1, 2)]


async def test_a_crash_is_tried_again_and_parked_after_three(autojump_clock: MockClock) -> None:
    """The asker gets Parked, the dead letter is committed, the next message and the neighbours go on."""

    def decide(state: list[object], message: str, context: Context) -> Effects:
        if message == "poison":
            raise ValueError("no")
        return keep(state, message, context)

    async with running(decider(decide)) as world:
        gather = Gather()
        for message in ("a", "poison", "b"):
            world.system.offer(at(1), message, reply_to=gather.slot())
        assert await world.system.ask(at(2), "x", timeout_seconds=0.01) == 1
        first, second, third = await gather.wait()
        assert first == 1
        assert isinstance(second, Parked)
        assert third == 1  # the state was loaded afresh
        assert world.committer.rows(1) == ["a", ("dead", "poison"), "b"]
        assert [attempts for _, attempts in world.watch.crashes] == [1, 2, 3]
        letter = world.watch.parked_letters[0]
        assert letter.attempts == 3
        assert "ValueError: no" in letter.error


async def test_a_refusal_is_an_answer_and_no_crash(autojump_clock: MockClock) -> None:
    """`refuse` is raised to the asker; the activation stays."""

    def decide(state: list[object], message: str, context: Context) -> Effects:
        return Effects(refuse=Conflicting("stale", code="stale_conversation"))

    async with running(decider(decide)) as world:
        with pytest.raises(Conflicting, match="stale"):
            await world.system.ask(at(1), "a", timeout_seconds=1)
        assert world.watch.crashes == []


async def test_a_conflict_is_decided_again_in_order_on_fresh_state(autojump_clock: MockClock) -> None:
    """What was decided from lost state is decided again; only the conflicting message is suspect."""
    durable: list[object] = []
    suspects: list[object] = []

    async def load(requests: Sequence[LoadRequest]) -> Sequence[Any]:
        return [list(durable) for _ in requests]

    def decide(state: list[object], message: str, context: Context) -> Effects:
        if context.suspect:
            suspects.append(message)
            return Effects(reply="known")
        return keep(state, message, context)

    async with running(decider(decide, load=load)) as world:
        world.committer.held = True

        def verdict(rows: Sequence[object]) -> CommitFailed | None:
            if rows[0] == "b":
                return CommitConflict("there already", constraint="messages_key")
            durable.extend(rows)
            return None

        world.committer.verdict = verdict
        gather = Gather()
        for message in "abcd":
            world.system.offer(at(1), message, reply_to=gather.slot())
        await settled()
        world.committer.let_go()
        assert await gather.wait() == [1, "known", 2, 3]
        assert suspects == ["b"]
        assert world.committer.rows() == ["a", "c", "d"]
        assert world.watch.commit_failures == [3]


async def test_a_write_set_that_fails_three_times_is_parked(autojump_clock: MockClock) -> None:
    """Its followers were only abandoned: they go through."""
    async with running(decider(keep)) as world:
        world.committer.held = True
        world.committer.verdict = lambda rows: CommitPoisoned("bad") if rows[0] == "poison" else None
        gather = Gather()
        for message in ("poison", "b", "c"):
            world.system.offer(at(1), message, reply_to=gather.slot())
        await settled()
        world.committer.let_go()
        first, second, third = await gather.wait()
        assert isinstance(first, Parked)
        assert (second, third) == (1, 2)
        assert world.committer.rows() == [("dead", "poison"), "b", "c"]


async def test_rows_that_are_refused_pause_each_time(autojump_clock: MockClock) -> None:
    """Ten messages, each refused three times: their address is loaded again no faster than one that crashes.
    A message's first conflict costs no pause."""
    loads: list[float] = []

    async def load(requests: Sequence[LoadRequest]) -> Sequence[Any]:
        loads.append(trio.current_time())
        return [[] for _ in requests]

    async with running(decider(keep, load=load)) as world:
        refused = [CommitConflict("there already", constraint="messages_key")]
        world.committer.verdict = lambda rows: (
            (refused.pop() if refused else None)
            if rows[0] == "again"
            else CommitPoisoned("bad")
            if isinstance(rows[0], int)
            else None
        )
        await world.system.ask(at(1), "again", timeout_seconds=60)
        assert loads == [0.0, 0.0]
        gather = Gather()
        for number in range(10):
            world.system.offer(at(1), number, reply_to=gather.slot())
        assert all(isinstance(one, Parked) for one in await gather.wait())
    pauses = [later - earlier for earlier, later in pairwise(loads[1:])]
    assert sum(pause >= 0.8 * 0.1 for pause in pauses) >= 20
    assert trio.current_time() >= 10 * 0.8 * (0.1 + 0.2)


async def test_a_lookup_holds_later_messages_back(autojump_clock: MockClock) -> None:
    """The message is decided again with the answer, before those that came after; lookups share a call."""
    calls: list[int] = []

    async def lookup(requests: Sequence[Any]) -> Sequence[object]:
        calls.append(len(requests))
        await trio.sleep(1)
        return [f"found {request.query}" for request in requests]

    def decide(state: list[object], message: str, context: Context) -> Effects | Lookup:
        if message == "old" and context.found is None:
            return Lookup(message)
        state.append(context.found or message)
        return Effects(reply=list(state))

    async with running(decider(decide, lookup=lookup)) as world:
        gather = Gather()
        for key in (1, 2):
            world.system.offer(at(key), "old")
            world.system.offer(at(key), "new", reply_to=gather.slot())
        assert await gather.wait() == [["found old", "new"]] * 2
        assert calls == [2]


async def test_a_full_mailbox_refuses(autojump_clock: MockClock) -> None:
    """`offer` says no, `ask` raises, `tell` waits until there is room."""
    seen: list[object] = []

    def decide(state: list[object], message: object, context: Context) -> None:
        seen.append(message)

    async with running(decider(decide, mailbox_max=2)) as world:
        world.committer.open = False
        assert world.system.offer(at(1), 1)
        await settled()
        assert world.system.offer(at(1), 2)
        assert not world.system.offer(at(1), 3)
        with pytest.raises(MailboxFull):
            await world.system.ask(at(1), 3, timeout_seconds=1)
        with trio.move_on_after(1) as cancelled:
            await world.system.tell(at(1), "never sent")
        assert cancelled.cancelled_caught
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.system.tell, at(1), 4)
            await settled()
            world.committer.make_room()
        await settled()
        assert seen == [1, 2, 4]


async def test_a_dead_letter_that_cannot_be_stored_is_reported(autojump_clock: MockClock) -> None:
    """After three tries the message is given up: its asker hears Parked, the operator hears of it."""

    def decide(state: list[object], message: str, context: Context) -> Effects:
        if message == "poison":
            raise ValueError("no")
        return keep(state, message, context)

    async with running(decider(decide)) as world:
        world.committer.verdict = lambda rows: CommitPoisoned("no") if isinstance(rows[0], tuple) else None
        with pytest.raises(Parked, match="so did its dead letter"):
            await world.system.ask(at(1), "poison", timeout_seconds=60)
        assert world.watch.lost == [(at(1), "poison")]
        assert world.watch.parked_letters == []
        assert await world.system.ask(at(1), "a", timeout_seconds=1) == 1


async def test_a_crash_leaves_an_equal_message_in_flight_alone(autojump_clock: MockClock) -> None:
    """The very same object sent twice: the first one's commit goes on although the second one crashes."""
    crash = False

    def decide(state: list[object], message: object, context: Context) -> Effects:
        if crash:
            raise ValueError("no")
        return Effects(commit=(message,), reply="kept")

    async with running(decider(decide)) as world:
        world.committer.held = True
        gather = Gather()
        world.system.offer(at(1), 7, reply_to=gather.slot())
        await settled()
        crash = True
        world.system.offer(at(1), 7, reply_to=gather.slot())
        await settled()
        world.committer.let_go()
        first, second = await gather.wait()
        assert first == "kept"
        assert isinstance(second, Parked)
        assert world.committer.rows() == [7, ("dead", 7)]


async def test_a_committer_that_raises_is_a_crash_of_the_message(autojump_clock: MockClock) -> None:
    """The set in flight before it keeps its verdict."""
    async with running(decider(keep)) as world:
        submit = world.committer.submit

        def refuse(address: Any, generation: int, rows: Sequence[object], done: Any) -> None:
            if rows[0] == "b":
                raise RuntimeError("no")
            submit(address, generation, rows, done)

        world.committer.submit = refuse  # type: ignore[method-assign]
        gather = Gather()
        for message in "abc":
            world.system.offer(at(1), message, reply_to=gather.slot())
        first, second, third = await gather.wait()
        assert first == 1
        assert isinstance(second, Parked)
        assert third == 1
        assert world.committer.rows() == ["a", ("dead", "b"), "c"]


@pytest.mark.parametrize("seed", range(30))
async def test_whatever_fails_order_holds_and_everyone_is_answered_once(
    autojump_clock: MockClock, seed: int
) -> None:
    """Conflicts, poison, crashes, held verdicts and tells, at random: each message is committed once, in
    order, or parked; its answer says which; each tell of a committed message arrives once, in order."""
    chance = random.Random(seed)
    durable: dict[object, list[object]] = {}
    received: dict[object, list[object]] = {}
    flaky: dict[object, int] = {}

    async def load(requests: Sequence[LoadRequest]) -> Sequence[Any]:
        await trio.sleep(chance.random())
        if chance.random() < 0.2:
            raise StoreUnavailable("down")
        return [list(durable.get(request.address.key, [])) for request in requests]

    def decide(state: list[object], message: int, context: Context) -> Effects | Lookup:
        if message % 13 == 5:
            state.append("garbage")
            raise ValueError("poison")
        if message % 7 == 1 and context.found is None:
            return Lookup(message)
        state.append(message)
        tell = [Tell(at(context.address.key, "sink"), message)]
        return Effects(commit=(message,), tell=tell, reply=list(state))

    async def lookup(requests: Sequence[Any]) -> Sequence[object]:
        await trio.sleep(chance.random())
        return [True for _ in requests]

    def sink(state: list[object], message: int, context: Context) -> None:
        received.setdefault(context.address.key, []).append(message)

    def verdict(rows: Sequence[object]) -> CommitFailed | None:
        row = rows[0]
        if not isinstance(row, int):
            return None
        if row % 11 == 3:
            return CommitPoisoned("bad row")
        if row % 5 == 2 and flaky.setdefault(row, chance.randrange(1, 3)) > 0:
            flaky[row] -= 1
            return CommitConflict("there already")
        return None

    async with running(
        decider(decide, load=load, lookup=lookup, in_flight_max=8, mailbox_max=64),
        decider(sink, kind="sink", mailbox_max=2),
    ) as world:
        settle = world.committer._settle

        def settling(entry: Any) -> None:
            before = len(world.committer.committed)
            done = entry.done

            def record(error: CommitFailed | None) -> None:
                for address, row in world.committer.committed[before:]:
                    if isinstance(row, int):
                        durable.setdefault(address.key, []).append(row)
                done(error)

            entry.done = record
            settle(entry)

        world.committer._settle = settling  # type: ignore[method-assign]
        world.committer.verdict = verdict
        world.committer.held = True
        gather = Gather()
        sent: dict[int, list[int]] = {0: [], 1: [], 2: []}
        for message in range(120):
            key = chance.randrange(3)
            assert world.system.offer(at(key), message, reply_to=gather.slot())
            sent[key].append(message)
            if chance.random() < 0.3:
                await trio.sleep(chance.random())
            world.committer.settle(chance.randrange(4))
        world.committer.let_go()
        with trio.fail_after(600):
            outcomes = await gather.wait()
        await trio.sleep(1)
    for key, messages in sent.items():
        good = [message for message in messages if message % 13 != 5 and message % 11 != 3]
        assert durable.get(key, []) == good
        assert received.get(key, []) == good
    for message, outcome in enumerate(outcomes):
        if message % 13 == 5 or message % 11 == 3:
            assert isinstance(outcome, Parked)
        else:
            assert outcome[-1] == message
    parked = sorted(str(letter.message) for letter in world.watch.parked_letters)
    assert parked == sorted(str(message) for message in range(120) if message % 13 == 5 or message % 11 == 3)
