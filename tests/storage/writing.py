"""What the tests of the storage side share: rows with sensible contents, a sink that remembers, verdicts."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import trio

from engine.domain import rows
from engine.errors import CommitFailed
from engine.ports import LoggedEvent
from engine.runtime.address import Address
from storage.databases import DatabaseServer
from storage.writers import Writers

T0 = 1_790_000_000_000
ids = count(1_000_000)


def address(tenant: int = 1, key: str = "c") -> Address:
    return Address("conversation", tenant, (7, key))


def event(tenant: int = 1, name: str = "message.received", **changes: Any) -> rows.EventRow:
    values: dict[str, Any] = {"channels": ("inbox",), "data_json": b'{"a":1}', "trace": "t", "at": T0}
    return rows.EventRow(tenant_id=tenant, name=name, **(values | changes))


def message(tenant: int = 1, conversation: int = 1, seq: int = 1, **changes: Any) -> rows.MessageRow:
    values: dict[str, Any] = {
        "id": next(ids),
        "channel_id": 7,
        "contact_key": "c",
        "direction": "inbound",
        "type": "text",
        "sender_type": "customer",
        "sender_id": None,
        "sender_name": "Amal",
        "content": {"body": "hello"},
        "text": "hello",
        "reply_to_id": None,
        "reply_to_seq": None,
        "status": "received",
        "platform_message_id": None,
        "client_key": None,
        "platform_at": T0,
        "sent_at": None,
        "delivered_at": None,
        "read_at": None,
        "failed_at": None,
        "error": None,
        "edited_at": None,
        "deleted_at": None,
        "metadata": {},
        "trace": "t",
        "created_at": T0,
    }
    return rows.MessageRow(tenant_id=tenant, conversation_id=conversation, seq=seq, **(values | changes))


def conversation(tenant: int = 1, id: int = 1, **changes: Any) -> rows.ConversationRow:  # noqa: A002
    values: dict[str, Any] = {
        "channel_id": 7,
        "platform": "whatsapp",
        "contact_key": f"c{id}",
        "customer_id": id,
        "channel_type": "direct",
        "status": "open",
        "assigned_to": None,
        "department_id": None,
        "last_seq": 1,
        "message_count": 1,
        "unread_count": 1,
        "last_message": {"seq": 1, "direction": "inbound", "type": "text", "preview": "hello", "at": T0},
        "last_message_at": T0,
        "last_inbound_at": T0,
        "first_response_at": None,
        "resolved_at": None,
        "reply_window_ends_at": T0 + 86_400_000,
        "snoozed_until": None,
        "tag_ids": [],
        "auto_replied": {},
        "metadata": {},
        "created_at": T0,
        "updated_at": T0,
    }
    return rows.ConversationRow(tenant_id=tenant, id=id, **(values | changes))


def customer(tenant: int = 1, id: int = 1, **changes: Any) -> rows.CustomerRow:  # noqa: A002
    values: dict[str, Any] = {
        "name": "Amal",
        "avatar_url": None,
        "email": None,
        "phone": "+201000000001",
        "locale": "ar",
        "timezone": None,
        "attributes": {},
        "source": "whatsapp",
        "first_seen_at": T0,
        "last_seen_at": T0,
        "created_at": T0,
    }
    return rows.CustomerRow(tenant_id=tenant, id=id, **(values | changes))


def customer_merge(tenant: int = 1, id: int = 1, **changes: Any) -> rows.MergeRow:  # noqa: A002
    values: dict[str, Any] = {"survivor_id": 1, "merged_id": 2, "by_user_id": 5, "created_at": T0}
    return rows.MergeRow(tenant_id=tenant, id=id, **(values | changes))


def handle(tenant: int = 1, external_id: str = "c", **changes: Any) -> rows.HandleRow:
    values: dict[str, Any] = {
        "channel_id": 7,
        "contact_key": external_id,
        "customer_id": 1,
        "platform": "whatsapp",
        "display": None,
        "created_at": T0,
    }
    return rows.HandleRow(tenant_id=tenant, external_id=external_id, **(values | changes))


def outbox(tenant: int = 1, id: int | None = None, **changes: Any) -> rows.OutboxRow:  # noqa: A002
    values: dict[str, Any] = {
        "channel_id": 7,
        "conversation_id": 1,
        "contact_key": "c",
        "message_id": 1,
        "recipient": "+201000000001",
        "lane": 0,
        "state": "queued",
        "attempts": 0,
        "not_before": T0,
        "payload": {"send": {"type": "SendText", "body": "hi"}},
        "error": None,
        "trace": "t",
        "created_at": T0,
        "updated_at": T0,
    }
    return rows.OutboxRow(tenant_id=tenant, id=id or next(ids), **(values | changes))


def attachment(tenant: int = 1, id: int | None = None, **changes: Any) -> rows.AttachmentRow:  # noqa: A002
    values: dict[str, Any] = {
        "conversation_id": 1,
        "message_id": 1,
        "channel_id": 7,
        "contact_key": "c",
        "type": "image",
        "state": "pending",
        "source_id": "m1",
        "source_url": None,
        "sha256": None,
        "filename": None,
        "media_type": "image/jpeg",
        "size": None,
        "width": None,
        "height": None,
        "duration": None,
        "storage_key": None,
        "attempts": 0,
        "next_try_at": T0,
        "error": None,
        "created_at": T0,
    }
    return rows.AttachmentRow(tenant_id=tenant, id=id or next(ids), **(values | changes))


def timer(tenant: int = 1, id: int = 1, due_at: int = T0) -> rows.TimerRow:  # noqa: A002
    return rows.TimerRow(
        tenant_id=tenant,
        id=id,
        kind="snooze",
        channel_id=7,
        contact_key="c",
        conversation_id=1,
        due_at=due_at,
    )


def note(tenant: int = 1, id: int = 1, **changes: Any) -> rows.NoteRow:  # noqa: A002
    values: dict[str, Any] = {
        "conversation_id": 1,
        "user_id": 5,
        "user_name": "Huda",
        "body": "call back",
        "created_at": T0,
        "updated_at": T0,
        "deleted_at": None,
    }
    return rows.NoteRow(tenant_id=tenant, id=id, **(values | changes))


def one_of_each(tenant: int) -> list[rows.Row]:
    """A row of every type that may be committed, for one tenant."""
    at = {"created_at": T0, "updated_at": T0}
    return [
        rows.UserRow(
            tenant_id=tenant,
            id=5,
            name="Huda",
            email="h@x.test",
            role="agent",
            active=True,
            availability="online",
            work_hours={"days": [[{"start": 540, "end": 1020}]] + [[]] * 6},
            capacity=9,
            **at,
        ),
        rows.ChannelRow(
            tenant_id=tenant,
            id=7,
            platform="whatsapp",
            name="Main",
            external_id="1001",
            credentials=b"\0\1",
            settings={"base_url": "http://x.test"},
            status="active",
            status_note=None,
            **at,
        ),
        rows.TagRow(tenant_id=tenant, id=3, name="VIP", color="#ff0000", **at),
        rows.ReplyRuleRow(
            tenant_id=tenant,
            id=4,
            kind="keyword",
            name="Hours",
            active=True,
            priority=1,
            channel_ids=[7, 8],
            match="contains",
            patterns=["open", 'say "hi", \\ {x}'],
            reply={"body": "9 to 5"},
            cooldown_seconds=60,
            **at,
        ),
        rows.SettingRow(tenant_id=tenant, name="assignment", value={"mode": "round_robin"}, updated_at=T0),
        customer(tenant),
        customer_merge(tenant, 1, survivor_id=1, merged_id=2),
        handle(tenant, "c1"),
        rows.ContactMove(tenant_id=tenant, channel_id=7, from_key="c0", into_key="c1", at=T0),
        conversation(tenant, tag_ids=[3], auto_replied={"4": T0}),
        message(tenant, id=100, platform_message_id="wamid.1", client_key="k1"),
        attachment(tenant, id=200, message_id=100, width=10, duration=1.5),
        rows.StatusRow(
            tenant_id=tenant,
            id=300,
            message_id=100,
            platform_message_id="wamid.1",
            status="read",
            code=None,
            detail={"x": 1},
            at=T0,
            received_at=T0,
        ),
        outbox(tenant, id=400, message_id=100),
        note(tenant),
        rows.TagHistoryRow(
            tenant_id=tenant, id=500, conversation_id=1, tag_id=3, action="added", by_user_id=5, at=T0
        ),
        rows.AssignmentRow(
            tenant_id=tenant,
            id=600,
            conversation_id=1,
            kind="assign",
            from_user_id=None,
            to_user_id=5,
            by_user_id=None,
            note=None,
            at=T0,
        ),
        timer(tenant),
        rows.ChannelCursorRow(tenant_id=tenant, channel_id=7, value="1:42", updated_at=T0),
        rows.DeliveryRow(
            tenant_id=tenant,
            id=700,
            platform="whatsapp",
            channel_id=7,
            headers={"x-hub": "1"},
            body=b"{}\0",
            outcome="accepted",
            items=1,
            trace="t",
            received_at=T0,
        ),
        rows.FileRow(
            tenant_id=tenant,
            id=800,
            filename="a.pdf",
            media_type="application/pdf",
            size=10,
            sha256="00",
            storage_key="f/800",
            user_id=5,
            created_at=T0,
        ),
        rows.DeadLetterRow(
            tenant_id=tenant,
            id=900,
            address="a",
            message={"x": object},
            error="E",
            attempts=3,
            state="parked",
            trace="t",
            created_at=T0,
        ),
        rows.AuditRow(
            tenant_id=tenant,
            id=950,
            user_id=5,
            action="a",
            subject="s",
            before=None,
            after={"x": 1},
            trace="t",
            at=T0,
        ),
        event(tenant),
    ]


class RememberingSink:
    """An EventSink that keeps what it was given."""

    def __init__(self) -> None:
        self.batches: list[list[LoggedEvent]] = []

    def committed(self, events: Sequence[LoggedEvent]) -> None:
        self.batches.append(list(events))

    def of(self, tenant: int) -> list[LoggedEvent]:
        return [event for batch in self.batches for event in batch if event.tenant_id == tenant]


class Verdicts:
    """`done` callbacks that remember, and the order in which they were called."""

    def __init__(self) -> None:
        self.all: list[tuple[object, CommitFailed | None]] = []

    def of(self, name: object) -> Callable[[CommitFailed | None], None]:
        return lambda error: self.all.append((name, error))

    @property
    def names(self) -> list[object]:
        return [name for name, _ in self.all]

    def named(self, name: object) -> CommitFailed | None:
        found = [error for given, error in self.all if given == name]
        assert len(found) == 1, f"{name} got {len(found)} verdicts"
        return found[0]

    def codes(self) -> dict[object, str | None]:
        return {name: error.code if error else None for name, error in self.all}


class Bench:
    """Writers on one database of a test, and a way to look at it from outside."""

    def __init__(
        self, server: DatabaseServer, database: str, writers: Writers, sink: RememberingSink
    ) -> None:
        self.server = server
        self.database = database
        self.writers = writers
        self.sink = sink
        self.verdicts = Verdicts()
        self._generation = count(1)

    def submit(self, name: object, *new: rows.Row, key: str | None = None, generation: int = 1) -> None:
        tenant = new[0].tenant_id
        self.writers.submit(address(tenant, key or str(name)), generation, new, self.verdicts.of(name))

    async def fetch(self, sql: str, *args: object, tenants: Sequence[int] = (1,)) -> list[Any]:
        return [
            tuple(row) for row in await self.server.pool(self.database).fetch(sql, *args, tenants=tenants)
        ]

    async def value(self, sql: str, *args: object, tenants: Sequence[int] = (1,)) -> Any:
        return await self.server.pool(self.database).fetchval(sql, *args, tenants=tenants)


@asynccontextmanager
async def writing(
    server: DatabaseServer, database: str, *, node: str = "n1", **options: Any
) -> AsyncIterator[Bench]:
    """Writers for `database`, stopped in order at the end."""
    sink = RememberingSink()
    writers = Writers(server.pool, lambda tenant: database, node=node, sink=sink, **options)
    async with trio.open_nursery() as nursery:
        await nursery.start(writers.run)
        yield Bench(server, database, writers, sink)
        writers.stop()
