"""The intake's two doors: what was begun without a task ends as what is waited for, and in time."""

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import count
from random import Random
from typing import Any, cast

import pytest
import trio
from msgspec import structs

from engine.domain.configs import Configs
from engine.domain.engine import Engine
from engine.domain.inbound import (
    AccessWithdrawn,
    AccountNotice,
    Contact,
    InboundEvent,
    Media,
    MessageReceived,
)
from engine.domain.intake import (
    INLINE_BYTES_MAX,
    PATIENCE_SECONDS,
    WAIT_SECONDS_MAX,
    Delivery,
    DeliveryReceipt,
    delivery_key,
)
from engine.domain.outbox import CHANNEL_KIND, MEDIA_KIND, Halt
from engine.domain.rows import ChannelRow
from engine.errors import AskTimeout, MijraError, StoreUnavailable
from engine.ports import Endpoint, LoggedEvent, MediaFile
from engine.runtime import Inbox, Lane, Restart, Worker
from storage.databases import Pool
from storage.writers import Writers
from tests.domain.desk import CHANNEL, NOON, TENANT
from tests.simulation.database import Database
from tests.simulation.store import ModelStore


class Room(Writers):
    """A writer that may be told to be away, or never to commit."""

    away = False
    stuck = False
    kept: Database

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.told: list[object] = []

    async def listen(self, inbox: Inbox) -> None:
        """The channel's actor, as far as anybody asks here."""
        while batch := await inbox.take(16):
            self.told += [envelope.message for envelope in batch]

    def has_room(self, tenant: int, lane: Lane = Lane.NORMAL) -> bool:
        return not self.away

    def submit(self, address: Any, generation: int, rows: Any, done: Any) -> None:
        if not self.stuck:
            super().submit(address, generation, rows, done)


class Snapshots:
    """Has committed configurations in force, as the root does."""

    configs: Configs

    def committed(self, events: Sequence[LoggedEvent]) -> None:
        self.configs.committed(events)


@asynccontextmanager
async def opened() -> AsyncIterator[tuple[Engine, Room]]:
    database = Database("d")
    database.put(
        ChannelRow(
            tenant_id=TENANT,
            id=CHANNEL,
            platform="whatsapp",
            name="Shop line",
            external_id="1",
            credentials=b"",
            settings={},
            status="active",
            status_note=None,
            created_at=NOON,
            updated_at=NOON,
        )
    )
    store = ModelStore({TENANT: database})
    sink = Snapshots()
    writer = Room(lambda _: cast("Pool", database.pool()), lambda _: "d", node="n", sink=sink)
    writer.kept = database
    numbers = count(1)
    engine = Engine(
        conversation_store=store,
        tenant_store=store,
        customer_store=store,
        committer=writer,
        workers=tuple(
            Worker(kind=kind, run=writer.listen, restart=Restart.TRANSIENT, lazily=True)
            for kind in (CHANNEL_KIND, MEDIA_KIND)
        ),
        new_id=lambda: next(numbers),
        wall_ms=lambda: NOON,
        rng=Random(1),
        monotonic=trio.current_time,
    )
    sink.configs = engine.configs
    async with trio.open_nursery() as nursery:
        await nursery.start(writer.run)
        await nursery.start(engine.run)
        yield engine, writer
        nursery.cancel_scope.cancel()


def delivery(*texts: str) -> Delivery:
    events = [
        MessageReceived(
            contact=Contact(keys=("4915",), name="Mia", phone=None),
            platform_id=f"wamid.{text}",
            at=NOON,
            type="text",
            content={"body": text},
            text=text,
        )
        for text in texts
    ]
    return delivery_of(*events)


def delivery_of(*events: InboundEvent) -> Delivery:
    endpoint = Endpoint(
        platform="whatsapp",
        external_id="1",
        parent_id=None,
        tenant_id=TENANT,
        channel_id=CHANNEL,
        endpoint_key="k",
        secrets={},
    )
    return Delivery(
        platform="whatsapp",
        trace="t",
        received_at=NOON,
        headers={},
        body=b"{}",
        groups=[(endpoint, events)],
    )


class Outcome:
    def __init__(self) -> None:
        self.results: list[DeliveryReceipt | MijraError] = []
        self.ended = trio.Event()

    def __call__(self, result: DeliveryReceipt | MijraError) -> None:
        self.results.append(result)
        self.ended.set()


async def test_what_was_begun_ends_with_the_receipt_that_waiting_would_bring(autojump_clock: object) -> None:
    """Two new texts and one repeated: counted alike by both doors."""
    async with opened() as (engine, _):
        await engine.configs.ensure(TENANT)
        outcome = Outcome()
        engine.intake.begin(delivery("a", "b", "a"), outcome)
        await outcome.ended.wait()
        assert outcome.results == [DeliveryReceipt(stored=2, duplicates=1, tenants=(TENANT,))]
        again = await engine.intake.deliver(delivery("a", "c"))
        assert again == DeliveryReceipt(stored=1, duplicates=1, tenants=(TENANT,))


async def test_a_tenant_that_is_not_in_memory_is_for_whoever_can_wait(autojump_clock: object) -> None:
    """It is not ready until `deliver` has loaded the tenant."""
    async with opened() as (engine, _):
        assert not engine.intake.is_ready(TENANT)
        assert (await engine.intake.deliver(delivery("a"))).stored == 1
        assert engine.intake.is_ready(TENANT)


async def test_a_store_that_is_away_is_said_at_once(autojump_clock: object) -> None:
    """Refused before anything of it is on its way, at both doors."""
    async with opened() as (engine, writer):
        await engine.configs.ensure(TENANT)
        writer.away = True
        with pytest.raises(StoreUnavailable):
            engine.intake.begin(delivery("a"), Outcome())
        with pytest.raises(StoreUnavailable):
            await engine.intake.deliver(delivery("a"))


def _goes_away(writer: Room) -> None:
    writer.away = True


def _stays(writer: Room) -> None:
    pass


@pytest.mark.parametrize(
    ("happens", "ended_after", "error"),
    [(_goes_away, PATIENCE_SECONDS, StoreUnavailable), (_stays, WAIT_SECONDS_MAX, AskTimeout)],
)
async def test_what_was_begun_does_not_wait_for_ever(
    autojump_clock: object, happens: Callable[[Room], None], ended_after: float, error: type[MijraError]
) -> None:
    """Ended after the patience when the store has gone, after the limit when it only hangs; once."""
    async with opened() as (engine, writer):
        await engine.configs.ensure(TENANT)
        writer.stuck = True
        outcome = Outcome()
        engine.intake.begin(delivery("a"), outcome)
        happens(writer)
        began = trio.current_time()
        engine.intake.expire(began + ended_after - 0.01)
        assert outcome.results == []
        engine.intake.expire(began + ended_after)
        engine.intake.expire(began + ended_after + 60)
        assert [type(result) for result in outcome.results] == [error]


async def test_withdrawn_access_is_durable_before_the_platform_hears_so(autojump_clock: object) -> None:
    """The channel is marked in the store; a repeated delivery, and news without a call to act, change
    nothing."""
    async with opened() as (engine, writer):
        withdrawn = AccessWithdrawn(note="The owner removed the app.", at=NOON, raw={})
        first = await engine.intake.deliver(delivery_of(withdrawn))
        again = await engine.intake.deliver(delivery_of(withdrawn, AccountNotice(kind="x", at=NOON, raw={})))
        channel = (await engine.config(TENANT)).channels[CHANNEL]
        stored = (await ModelStore({TENANT: writer.kept}).load_config(TENANT)).channels[CHANNEL]

    assert first == DeliveryReceipt(applied=1, tenants=(TENANT,))
    assert again == DeliveryReceipt(ignored=2, tenants=(TENANT,))
    assert (channel.status, channel.status_note) == ("needs_attention", "The owner removed the app.")
    assert stored == channel
    assert writer.told == [Halt("The owner removed the app.")] * 2


async def test_news_that_a_person_has_to_act_on_marks_the_channel(autojump_clock: object) -> None:
    async with opened() as (engine, _):
        notice = AccountNotice(kind="review", at=None, raw={}, attention="The account is under review.")
        receipt = await engine.intake.deliver(delivery_of(notice))
        channel = (await engine.config(TENANT)).channels[CHANNEL]

    assert receipt.applied == 1
    assert (channel.status, channel.status_note) == ("needs_attention", "The account is under review.")


class Kept:
    """A `MediaStore` that notes in which order things became durable."""

    def __init__(self, writer: Room | None = None, *, away: bool = False) -> None:
        self.files: dict[str, bytes] = {}
        self.away = away
        self.rows_before: list[int] = []
        self.writer = writer

    async def write(
        self, key: str, chunks: Callable[[], Awaitable[bytes]], *, media_type: str, bytes_max: int
    ) -> MediaFile:
        content = b""
        while chunk := await chunks():
            content += chunk
        if self.away:
            raise StoreUnavailable("away")
        assert self.writer is not None
        self.rows_before.append(len(self.writer.kept.tables["deliveries"]))
        self.files[key] = content
        return MediaFile(storage_key=key, size=len(content), sha256="", media_type=media_type)

    async def read(self, key: str) -> bytes:
        return self.files[key]

    async def delete(self, key: str) -> None:
        raise NotImplementedError


def with_file() -> Delivery:
    plain = delivery("a")
    ((endpoint, (event,)),) = plain.groups
    assert isinstance(event, MessageReceived)
    media = (Media(kind="document", source_id="part 1", in_delivery=True),)
    return structs.replace(plain, groups=[(endpoint, [structs.replace(event, media=media)])])


LARGE = b"x" * (INLINE_BYTES_MAX + 1)


@pytest.mark.parametrize("what", [structs.replace(delivery("a"), body=LARGE), with_file()])
async def test_what_is_large_or_brings_files_is_in_the_object_store_before_its_rows(
    what: Delivery, autojump_clock: object
) -> None:
    """The row says where; the same delivery again is the same object."""
    async with opened() as (engine, writer):
        store = engine.intake._media = Kept(writer)
        assert (await engine.intake.deliver(what)).stored == 1
        assert (await engine.intake.deliver(what)).duplicates == 1
        first, again = writer.kept.tables["deliveries"].values()

    key = delivery_key(TENANT, hashlib.sha256(what.body).hexdigest())
    assert store.files == {key: what.body}
    assert store.rows_before[0] == 0
    assert (first.storage_key, first.body) == (again.storage_key, again.body) == (key, b"")


async def test_a_small_delivery_is_in_its_row(autojump_clock: object) -> None:
    async with opened() as (engine, writer):
        engine.intake._media = Kept(away=True)
        await engine.intake.deliver(delivery("a"))
        (row,) = writer.kept.tables["deliveries"].values()

    assert (row.storage_key, row.body) == (None, b"{}")


async def test_nothing_is_promised_while_the_object_store_is_away(autojump_clock: object) -> None:
    async with opened() as (engine, writer):
        engine.intake._media = Kept(away=True)
        with pytest.raises(StoreUnavailable):
            await engine.intake.deliver(with_file())
        assert not writer.kept.tables["messages"]
