"""Loading conversations' actors, and looking up what they do not remember (engine.ports.ConversationStore).

Promises   a batch of requests costs one statement per table and database, and one crossing of the bridge per
           database, whatever its size; keys are cleaned as the writer cleans them, so what was stored with a
           replaced character is found by what the platform sends.
Limits     as many requests as the runtime batches (500); per contact `recent_max` messages from its
           `CONVERSATIONS_MAX` newest conversations.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import msgspec

from engine.domain.outbound import OutboxItem, OutboxPayload
from engine.domain.resources import CustomerRef
from engine.domain.rows import AttachmentRow, ConversationRow, CustomerRow, HandleRow, MessageRow
from engine.ports import (
    ContactRequest,
    ContactSnapshot,
    ConversationQuery,
    FoundMessage,
    FoundTracked,
    StoreQuery,
    TrackedMessage,
    TrackedQuery,
)
from storage.batch import clean
from storage.databases import Pool
from storage.placements import Placements
from storage.records import Reader
from storage.statements import load_sql

CONVERSATIONS_MAX: Final = 50
"""Conversations of a contact that are looked into for recent messages; with more, `complete` is False."""

_SQL: Final = load_sql("contacts.sql")
_customers: Final = Reader(CustomerRow)
_handles: Final = Reader(HandleRow)
_conversations: Final = Reader(ConversationRow)
_tracked: Final = Reader(TrackedMessage)
_messages: Final = Reader(MessageRow)
_attachments: Final = Reader(AttachmentRow)
_outbox: Final = Reader(OutboxItem, given=("send", "reply_to", "window_ends_at", "by_person", "thread"))
_payload: Final = msgspec.json.Decoder(OutboxPayload)

T = TypeVar("T")


class Contacts:
    """The store of what conversations decide with."""

    def __init__(self, placements: Placements) -> None:
        self._placements = placements

    async def load_contacts(
        self, requests: Sequence[ContactRequest], *, recent_max: int
    ) -> Sequence[ContactSnapshot | None]:
        """See engine.ports. The conversation is the open one where there is one, else the newest."""

        async def load(pool: Pool, asked: list[ContactRequest]) -> list[ContactSnapshot | None]:
            tenants = {request.tenant_id for request in asked}
            return await pool.run(_load, asked, recent_max, tenants=tenants)

        return await self._placements.each_database(requests, lambda request: request.tenant_id, load)

    async def find(self, queries: Sequence[StoreQuery]) -> Sequence[object]:
        """See engine.ports."""

        async def find(pool: Pool, asked: list[StoreQuery]) -> list[object]:
            return await pool.run(_find, asked, tenants={query.tenant_id for query in asked})

        return await self._placements.each_database(queries, lambda query: query.tenant_id, find)


def outbox_item(record: Any) -> OutboxItem:
    """An outbox row with its payload opened."""
    payload = _payload.decode(record["payload"])
    return _outbox.read(
        record,
        send=payload.send,
        reply_to=payload.reply_to,
        window_ends_at=payload.window_ends_at,
        by_person=payload.by_person,
        thread=payload.thread,
    )


# From here on: the asyncio side.


async def _load(
    connection: Any, requests: list[ContactRequest], recent_max: int
) -> list[ContactSnapshot | None]:
    flat = [
        (position, rank, request.tenant_id, request.channel_id, clean(key))
        for position, request in enumerate(requests)
        for rank, key in enumerate(request.keys)
    ]
    handles: dict[int, list[HandleRow]] = {}
    ranks: dict[int, int] = {}
    for record in await connection.fetch(_SQL["handles"], *_columns(flat, 5)):
        # In order of rank: the first key that is known decides which contact it is.
        position = record["position"]
        if ranks.setdefault(position, record["rank"]) == record["rank"]:
            handles.setdefault(position, []).append(_handles.read(record))
    if not handles:
        return [None] * len(requests)
    people = [(position, found[0].tenant_id, found[0].customer_id) for position, found in handles.items()]
    contacts = [
        (position, found[0].tenant_id, found[0].channel_id, found[0].contact_key)
        for position, found in handles.items()
    ]
    customers = _by_position(await connection.fetch(_SQL["customers"], *_columns(people, 3)), _same)
    counted = await connection.fetch(
        _SQL["newest_conversations"], *_columns(contacts, 4), CONVERSATIONS_MAX + 1
    )
    conversations = _by_position(counted, _conversations.read)
    numbers = {record["position"]: record["conversations"] for record in counted}
    messages: dict[int, list[TrackedMessage]] = {}
    for record in await connection.fetch(
        _SQL["newest_messages"], *_columns(contacts, 4), CONVERSATIONS_MAX, recent_max + 1
    ):
        messages.setdefault(record["position"], []).append(_tracked.read(record))

    def snapshot(position: int) -> ContactSnapshot | None:
        if position not in handles or position not in customers:
            return None
        recent = messages.get(position, [])
        customer = _customers.read(customers[position])
        return ContactSnapshot(
            customer=customer,
            shared=customers[position]["shared"],
            root=_root(customer, customers[position]),
            handles=tuple(handles[position]),
            contact_key=handles[position][0].contact_key,
            conversation=conversations.get(position),
            messages=tuple(recent[:recent_max]),
            complete=len(recent) <= recent_max
            and numbers.get(position, 0) <= CONVERSATIONS_MAX
            and all(handle.moved_at is None for handle in handles[position]),
        )

    return [snapshot(position) for position in range(len(requests))]


async def _find(connection: Any, queries: list[StoreQuery]) -> list[object]:
    by_statement: dict[str, list[tuple[object, ...]]] = {}
    for position, query in enumerate(queries):
        name, row = _asked(position, query)
        by_statement.setdefault(name, []).append(row)
    answers: list[object] = [_nothing(query) for query in queries]
    found: dict[int, MessageRow] = {}
    for name, rows in by_statement.items():
        records = await connection.fetch(_SQL[name], *_columns(rows, len(rows[0])))
        if name == "conversations_by_id":
            for position, conversation in _by_position(records, _conversations.read).items():
                answers[position] = conversation
        elif name == "messages_to_move":
            moving: dict[int, list[TrackedMessage]] = {}
            for record in records:
                moving.setdefault(record["position"], []).append(_tracked.read(record))
            for position, messages in moving.items():
                answers[position] = FoundTracked(messages=tuple(messages))
        else:
            found.update(_by_position(records, _messages.read))
    if found:
        asked = _columns([(position, m.tenant_id, m.id) for position, m in found.items()], 3)
        attachments: dict[int, list[AttachmentRow]] = {}
        for record in await connection.fetch(_SQL["attachments_of"], *asked):
            attachments.setdefault(record["position"], []).append(_attachments.read(record))
        items = _by_position(await connection.fetch(_SQL["last_outbox_of"], *asked), outbox_item)
        for position, message in found.items():
            answers[position] = FoundMessage(
                message=message,
                attachments=tuple(attachments.get(position, ())),
                outbox=items.get(position),
            )
    return answers


def _same(record: Any) -> Any:
    return record


def _root(customer: CustomerRow, record: Any) -> CustomerRef | None:
    if customer.merged_into is None or record["root_name"] is None:
        return None
    return CustomerRef(
        id=customer.merged_into, name=record["root_name"], avatar_url=record["root_avatar_url"]
    )


def _nothing(query: StoreQuery) -> object:
    """The answer where there is none."""
    if isinstance(query, ConversationQuery):
        return None
    return FoundTracked() if isinstance(query, TrackedQuery) else FoundMessage(message=None)


def _asked(position: int, query: StoreQuery) -> tuple[str, tuple[object, ...]]:
    """The statement that answers `query`, and its row of arguments."""
    if isinstance(query, ConversationQuery):
        return "conversations_by_id", (position, query.tenant_id, query.conversation_id)
    head = (position, query.tenant_id, query.channel_id)
    if isinstance(query, TrackedQuery):
        statuses = ",".join(query.statuses)
        return "messages_to_move", (*head, clean(query.contact_key), statuses, query.limit, query.named)
    if query.platform_message_id is not None:
        return "messages_by_platform_id", (*head, clean(query.platform_message_id))
    if query.message_id is not None:
        return "messages_by_id", (*head, query.message_id)
    if query.client_key is not None:
        conversation_id, key = query.client_key
        return "messages_by_client_key", (*head, conversation_id, clean(key))
    raise ValueError("a message query names what it looks for")


def _columns(rows: Sequence[tuple[object, ...]], width: int) -> list[tuple[object, ...]]:
    return list(zip(*rows, strict=True)) if rows else [()] * width


def _by_position(records: list[Any], read: Callable[[Any], T]) -> dict[int, T]:
    return {record["position"]: read(record) for record in records}
