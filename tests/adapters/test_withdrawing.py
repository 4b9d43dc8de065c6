"""A customer opts out while messages to them wait, are under way and are being written: real conversations
and the real channel actor on the real runtime, in virtual time."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from engine.domain.conversation.actor import conversations
from engine.domain.conversation.messages import Receive, SendMessage, address_of
from engine.domain.inbound import Contact, MessageReceived
from engine.domain.outbound import OutboxItem, SendText
from engine.domain.rows import EventRow, MessagePatch, MessageRow, OutboxRow
from engine.errors import CommitFailed, Conflicting
from engine.ports import ContactRequest, FoundMessage, StoreQuery
from engine.runtime import Address, Supervisor, System
from tests.adapters.model import TENANT, Platform, Store, World, wall_ms
from tests.domain.desk import ANN, BOB, CHANNEL, config

KEYS = ("15550001111", "15550002222")


class Shelf(Store):
    """The model store, with a conversation's rows too."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: dict[int, str] = {}
        self.errors: dict[int, str] = {}
        self.events: list[tuple[float, str]] = []

    def submit(
        self,
        address: Address,
        generation: int,
        rows: Sequence[object],
        done: Callable[[CommitFailed | None], None],
    ) -> None:
        def committed(error: CommitFailed | None) -> None:
            assert error is None
            for row in rows:
                self._keep(row)
            done(None)

        # Inserts first: an item and its first patch may be in one batch.
        for row in rows:
            if isinstance(row, OutboxRow):
                self.insert(_item(row))
        super().submit(address, generation, rows, committed)

    def _keep(self, row: object) -> None:
        if isinstance(row, MessageRow):
            self.messages[row.id] = row.status
        elif isinstance(row, MessagePatch) and row.status is not None:
            self.messages[row.id] = row.status
            if row.error is not None:
                self.errors[row.id] = row.error["code"]
        elif isinstance(row, EventRow):
            self.events.append((trio.current_time(), row.name))

    async def load_contacts(self, requests: Sequence[ContactRequest], *, recent_max: int) -> Sequence[None]:
        return [None for _ in requests]

    async def find(self, queries: Sequence[StoreQuery]) -> Sequence[object]:
        return [FoundMessage(message=None) for _ in queries]


def _item(row: OutboxRow) -> OutboxItem:
    members = {name: getattr(row, name) for name in OutboxItem.__struct_fields__ if hasattr(row, name)}
    return OutboxItem(**members, send=SendText(body=row.payload["send"]["body"]), reply_to=None)


class Shop(World):
    """One account that sends one message a second."""

    def __init__(self, platform: Platform) -> None:
        super().__init__(platform)
        self.shelf = self.store = Shelf()
        self.channels.committer = self.channels.store = self.shelf
        ids = iter(range(1, 10**9))
        self.system = System(
            tenant=Supervisor(
                name="tenant",
                children=[conversations(self.shelf, resident_max=100), self.channels.worker()],
            ),
            committer=self.shelf,
            ids=lambda: next(ids),
            wall_ms=wall_ms,
            random=Random(2),
            config_for=lambda tenant: config(),
            dead_letter=lambda letter: (),
        )
        self._numbers = iter(range(1, 10**9))

    @asynccontextmanager
    async def opened(self) -> AsyncIterator["Shop"]:
        async with self.running():
            yield self

    async def says(self, key: str, text: str, opts: str | None = None) -> int:
        """The conversation's id."""
        number = next(self._numbers)
        event = MessageReceived(
            contact=Contact(keys=(key,), phone=f"+{key}"),
            platform_id=f"in.{number}",
            at=wall_ms(),
            type="text",
            content={"body": text},
            text=text,
            opts=opts,
        )
        receive = Receive(event=event, trace="t", received_at=wall_ms())
        received = await self.system.ask(address_of(TENANT, CHANNEL, key), receive, timeout_seconds=60)
        return int(received.conversation_id)

    async def writes(self, key: str, conversation_id: int, text: str, by: Any = ANN) -> int:
        send = SendMessage(
            conversation_id=conversation_id,
            by=by,
            send=SendText(body=text),
            type="text",
            content={"body": text},
            text=text,
        )
        shown = await self.system.ask(address_of(TENANT, CHANNEL, key), send, timeout_seconds=60)
        return int(shown.id)


async def test_nothing_that_waits_goes_out_after_an_opt_out(autojump_clock: MockClock) -> None:
    """Ten messages to each of two customers at one a second; one of them opts out after two have gone. The
    other's all arrive."""
    platform = Platform(per_second=1, concurrency=4)
    async with Shop(platform).opened() as shop:
        leaving, staying = KEYS
        first, second = await shop.says(leaving, "Hello"), await shop.says(staying, "Hello")
        theirs = [await shop.writes(leaving, first, f"{number}") for number in range(10)]
        others = [await shop.writes(staying, second, f"{number}") for number in range(10)]
        with trio.fail_after(60):
            while sum(one in theirs for one in platform.sent) < 2:  # noqa: ASYNC110
                await trio.sleep(0.05)
        await shop.says(leaving, "STOP", "out")
        stopped_at = trio.current_time()
        with pytest.raises(Conflicting) as refused:
            await shop.writes(leaving, first, "One more thing")
        await trio.sleep(60)
    assert refused.value.code == "opted_out"
    late = [one for at, one in platform.calls if at > stopped_at and one in theirs]
    assert not late
    assert sorted(one for one in platform.sent if one in others) == others
    for one in theirs:
        expected = ("sent", "done") if one in platform.sent else ("failed", "dead")
        assert (shop.shelf.messages[one], shop.shelf.state(one)) == expected
    withdrawn = [one for one in theirs if one not in platform.sent]
    assert withdrawn
    assert all(shop.shelf.errors[one] == "opted_out" for one in withdrawn)


async def test_many_who_write_at_the_moment_of_an_opt_out(autojump_clock: MockClock) -> None:
    """Each either got its message in before, and it went out or was withdrawn, or was refused; after an
    opt-in messages go out again."""
    platform = Platform(per_second=1, concurrency=4)
    async with Shop(platform).opened() as shop:
        key = KEYS[0]
        conversation = await shop.says(key, "Hello")
        taken: list[int] = []
        refused: list[str] = []

        async def agent(number: int) -> None:
            await trio.sleep(number * 0.1)
            try:
                text = f"agent {number}"
                taken.append(await shop.writes(key, conversation, text, ANN if number % 2 else BOB))
            except Conflicting as error:
                refused.append(error.code)

        async with trio.open_nursery() as nursery:
            for number in range(40):
                nursery.start_soon(agent, number)
            await trio.sleep(2.05)
            await shop.says(key, "STOP", "out")
            stopped_at = trio.current_time()
        await trio.sleep(60)
        assert {shop.shelf.messages[one] for one in taken} == {"sent", "failed"}
        assert len(taken) + len(refused) == 40
        assert set(refused) == {"opted_out"}
        assert all(at <= stopped_at for at, _ in platform.calls)
        assert sorted(platform.sent) == [one for one in taken if shop.shelf.messages[one] == "sent"]
        assert all(shop.shelf.state(one) in ("done", "dead") for one in taken)

        await shop.says(key, "START", "in")
        again = await shop.writes(key, conversation, "Welcome back")
        await trio.sleep(10)
    assert shop.shelf.messages[again] == "sent"
    assert again in platform.sent


async def test_a_call_under_way_ends_as_the_platform_says(autojump_clock: MockClock) -> None:
    """It cannot be called back: taken, it is shown as sent, and its row is ended."""
    platform = Platform(seconds=3.0)
    async with Shop(platform).opened() as shop:
        key = KEYS[0]
        conversation = await shop.says(key, "Hello")
        one = await shop.writes(key, conversation, "On its way")
        await trio.sleep(1)
        assert platform.sent == [one]
        await shop.says(key, "STOP", "out")
        assert shop.shelf.messages[one] == "failed"
        await trio.sleep(10)
    assert (shop.shelf.messages[one], shop.shelf.state(one)) == ("sent", "done")
    assert platform.sent == [one]
