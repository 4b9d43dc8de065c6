"""Deciding, committing and releasing."""

from collections.abc import Sequence
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
