"""The model's read side: the engine's ports over the tables of `database`.

Answers are copies, as rows from PostgreSQL are. What a read sees is committed; how long it takes and whether
it fails is the troubles' to say.
"""

import copy
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol
from zoneinfo import ZoneInfo

import msgspec
from msgspec import structs

from engine.domain import rows
from engine.domain.config import (
    Agent,
    AssignmentSettings,
    Channel,
    ConversationSettings,
    ReplyRule,
    Tag,
    TenantConfig,
    Week,
)
from engine.domain.conversation.state import OPEN_STATUSES
from engine.domain.outbound import OutboxItem, OutboxPayload
from engine.domain.resources import CustomerRef
from engine.ports import (
    AssignmentSnapshot,
    ContactRequest,
    ContactSnapshot,
    ConversationQuery,
    FoundMessage,
    FoundTracked,
    LoggedEvent,
    Member,
    OpenWork,
    PeopleQuery,
    Person,
    PersonsQuery,
    StoreQuery,
    TrackedMessage,
    TrackedQuery,
    WaitingConversation,
)
from storage.batch import clean
from tests.simulation.database import Database

OPEN_ITEMS = frozenset({"queued", "sending", "unknown"})


class Reached(Protocol):
    async def read(self) -> None:
        """Before each read: takes time; raises StoreUnavailable, or a defect, when it is to fail."""
        ...

    async def answer(self) -> None:
        """After a read of the event log: the answer's way back, while the log grows."""
        ...


class AtOnce:
    async def read(self) -> None:
        pass

    async def answer(self) -> None:
        pass


class ModelStore:
    """ConversationStore, TenantStore, OutboxStore and EventLog over one or several databases.

    `take` is called before a tenant's configuration is read, `newest_id` after it, and `head` gives the log's
    end, as the root wires the real ones.
    """

    def __init__(
        self,
        database_of: Mapping[int, Database],
        *,
        reached: Reached | None = None,
        take: Callable[[int], Awaitable[object]] | None = None,
        newest_id: Callable[[int], object] | None = None,
        head: Callable[[int], Awaitable[int]] | None = None,
    ) -> None:
        self._database_of = database_of
        self._reached = reached or AtOnce()
        self._take = take
        self._head = head
        self._newest_id = newest_id

    def table(self, tenant_id: int, name: str) -> list[Any]:
        """The tenant's rows."""
        held = self._database_of[tenant_id].tables[name]
        return [row for key, row in held.items() if key[0] == tenant_id]

    def row(self, tenant_id: int, table: str, *key: Any) -> Any:
        return self._database_of[tenant_id].tables[table].get((tenant_id, *key))

    # ---------------------------------------------------------------- conversations

    async def load_contacts(
        self, requests: Sequence[ContactRequest], *, recent_max: int
    ) -> Sequence[ContactSnapshot | None]:
        await self._reached.read()
        return [self._contact(request, recent_max) for request in requests]

    def _contact(self, request: ContactRequest, recent_max: int) -> ContactSnapshot | None:
        tenant, channel = request.tenant_id, request.channel_id
        known = next(
            (
                row
                for key in request.keys
                if (row := self.row(tenant, "customer_handles", channel, clean(key))) is not None
            ),
            None,
        )
        if known is None:
            return None

        def here(row: Any) -> bool:
            return bool(row.channel_id == channel and row.contact_key == known.contact_key)

        conversations = [row for row in self.table(tenant, "conversations") if here(row)]
        messages = sorted(
            (row for row in self.table(tenant, "messages") if here(row)), key=lambda row: -row.id
        )
        newest = max(conversations, key=lambda row: (row.status in OPEN_STATUSES, row.id), default=None)
        customer = _copied(self.row(tenant, "customers", known.customer_id))
        others = self.table(tenant, "customers")
        handles = tuple(copy.copy(row) for row in self.table(tenant, "customer_handles") if here(row))
        return ContactSnapshot(
            customer=customer,
            shared=any(row.merged_into == known.customer_id for row in others),
            root=self._root(customer) if customer is not None else None,
            handles=handles,
            contact_key=known.contact_key,
            conversation=_copied(newest),
            messages=tuple(_tracked(row) for row in messages[:recent_max]),
            complete=len(messages) <= recent_max and all(row.moved_at is None for row in handles),
        )

    def _root(self, customer: rows.CustomerRow) -> CustomerRef | None:
        root = self.row(customer.tenant_id, "customers", customer.merged_into)
        return (
            CustomerRef(id=root.id, name=root.name, avatar_url=root.avatar_url) if root is not None else None
        )

    async def find(self, queries: Sequence[StoreQuery]) -> Sequence[object]:
        await self._reached.read()
        return [self._find(query) for query in queries]

    def _find(self, query: StoreQuery) -> object:
        tenant = query.tenant_id
        if isinstance(query, ConversationQuery):
            return _copied(self.row(tenant, "conversations", query.conversation_id))
        if isinstance(query, TrackedQuery):
            ours = [
                row
                for row in self.table(tenant, "messages")
                if (row.channel_id, row.contact_key) == (query.channel_id, query.contact_key)
                and row.direction == "outbound"
                and row.status in query.statuses
                and (row.platform_message_id is not None or not query.named)
            ]
            newest = sorted(ours, key=lambda row: -row.id)[: query.limit]
            return FoundTracked(messages=tuple(_tracked(row) for row in newest))
        unique = self._database_of[tenant].unique
        key: tuple[Any, ...] | None = (tenant, query.message_id)
        if query.platform_message_id is not None:
            key = unique.get(
                ("messages_platform_id", tenant, query.channel_id, clean(query.platform_message_id))
            )
        elif query.client_key is not None:
            conversation_id, client_key = query.client_key
            key = unique.get(("messages_client_key", tenant, conversation_id, clean(client_key)))
        row = self.row(*key[:1], "messages", *key[1:]) if key is not None else None
        if row is None or row.channel_id != query.channel_id:
            return FoundMessage(message=None)
        item = max(
            (one for one in self.table(tenant, "outbox") if one.message_id == row.id),
            key=lambda one: one.id,
            default=None,
        )
        return FoundMessage(
            message=_copied(row),
            attachments=tuple(
                copy.copy(one) for one in self.table(tenant, "attachments") if one.message_id == row.id
            ),
            outbox=_item(item) if item is not None else None,
        )

    # ---------------------------------------------------------------- customers

    async def find_people(self, queries: Sequence[PeopleQuery]) -> Sequence[tuple[Any, ...]]:
        await self._reached.read()
        return [self._people(query) for query in queries]

    def _people(self, query: PeopleQuery) -> tuple[Any, ...]:
        merges = self.table(query.tenant_id, "customer_merges")
        if isinstance(query, PersonsQuery):
            return tuple(self._person(query.tenant_id, each) for each in query.customer_ids)
        unsettled = sorted((row for row in merges if not row.settled), key=lambda row: row.id)
        return tuple(_copied(row) for row in unsettled[: query.limit])

    def _person(self, tenant_id: int, customer_id: int) -> Person | None:
        if self.row(tenant_id, "customers", customer_id) is None:
            return None
        standing = [row for row in self.table(tenant_id, "customer_merges") if row.undone_at is None]
        above = {row.merged_id: row for row in standing}
        root_id = customer_id
        while root_id in above:
            root_id = above[root_id].survivor_id
        ids = [root_id]
        for each in ids:
            ids += [row.merged_id for row in standing if row.survivor_id == each]
        handles = self.table(tenant_id, "customer_handles")
        members = [
            Member(
                customer=_copied(self.row(tenant_id, "customers", each)),
                merge=_copied(above.get(each)),
                place=next(
                    ((row.channel_id, row.contact_key) for row in handles if row.customer_id == each), None
                ),
            )
            for each in ids
        ]
        return Person(root_id=root_id, members=tuple(members))

    # ---------------------------------------------------------------- the tenant

    async def load_config(self, tenant_id: int) -> TenantConfig:
        if self._take is not None:
            await self._take(tenant_id)
        await self._reached.read()
        if self._newest_id is not None:
            names = ("conversations", "messages", "outbox", "customer_merges")
            ids = [row.id for name in names for row in self.table(tenant_id, name)]
            ids += [row.link_version for row in self.table(tenant_id, "customers")]
            self._newest_id(max(ids, default=0))
        return self.config(tenant_id)

    def config(self, tenant_id: int) -> TenantConfig:
        """As the rows say now."""
        settings = {row.name: row.value for row in self.table(tenant_id, "settings")}
        hours = settings.get("work_hours")
        return TenantConfig(
            tenant_id=tenant_id,
            slug=f"t{tenant_id}",
            name=f"Tenant {tenant_id}",
            timezone=ZoneInfo("UTC"),
            agents={row.id: _agent(row) for row in self.table(tenant_id, "users")},
            channels={row.id: _as(Channel, row) for row in self.table(tenant_id, "channels")},
            tags={row.id: _as(Tag, row) for row in self.table(tenant_id, "tags")},
            rules={
                row.id: _as(ReplyRule, row, channel_ids=tuple(row.channel_ids), patterns=tuple(row.patterns))
                for row in self.table(tenant_id, "automated_replies")
            },
            assignment=msgspec.convert(settings.get("assignment", {}), AssignmentSettings),
            week=None if hours is None else msgspec.convert(hours, Week),
            conversations=msgspec.convert(settings.get("conversations", {}), ConversationSettings),
        )

    async def load_assignment(self, tenant_id: int, *, waiting_max: int) -> AssignmentSnapshot:
        await self._reached.read()
        waiting = [
            WaitingConversation(
                conversation_id=row.id, channel_id=row.channel_id, contact_key=row.contact_key
            )
            for row in sorted(self.waiting(tenant_id), key=lambda row: row.id)
        ]
        given = [
            row
            for row in self.table(tenant_id, "assignments")
            if row.by_user_id is None and row.kind == "assign"
        ]
        return AssignmentSnapshot(
            loads=self.loads(tenant_id),
            last_user_id=max(given, key=lambda row: row.id).to_user_id if given else None,
            waiting=tuple(waiting[:waiting_max]),
            more=len(waiting) > waiting_max,
        )

    def waiting(self, tenant_id: int) -> list[rows.ConversationRow]:
        """Conversations that nobody has."""
        return [
            row
            for row in self.table(tenant_id, "conversations")
            if row.assigned_to is None and row.status in ("new", "open")
        ]

    def loads(self, tenant_id: int) -> dict[int, int]:
        """Open conversations by agent."""
        loads: dict[int, int] = defaultdict(int)
        for row in self.table(tenant_id, "conversations"):
            if row.assigned_to is not None and row.status in OPEN_STATUSES:
                loads[row.assigned_to] += 1
        return dict(loads)

    async def load_timers(self, tenant_id: int, *, due_before: int, limit: int) -> Sequence[rows.TimerRow]:
        await self._reached.read()
        due = [copy.copy(row) for row in self.table(tenant_id, "timers") if row.due_at < due_before]
        return sorted(due, key=lambda row: (row.due_at, row.id))[:limit]

    # ---------------------------------------------------------------- the outbox

    async def load_outbox(
        self, tenant_id: int, channel_id: int, *, after_id: int, limit: int
    ) -> Sequence[OutboxItem]:
        await self._reached.read()
        found = [
            row
            for row in self.table(tenant_id, "outbox")
            if row.id > after_id and row.channel_id == channel_id and row.state in OPEN_ITEMS
        ]
        return [_item(row) for row in sorted(found, key=lambda row: row.id)[:limit]]

    async def load_pending_media(
        self, tenant_id: int, *, after_id: int, limit: int
    ) -> Sequence[rows.AttachmentRow]:
        await self._reached.read()
        found = [
            copy.copy(row)
            for row in self.table(tenant_id, "attachments")
            if row.id > after_id and row.state == "pending"
        ]
        return sorted(found, key=lambda row: row.id)[:limit]

    async def open_work(self, tenant_id: int) -> OpenWork:
        await self._reached.read()
        busy = {row.channel_id for row in self.table(tenant_id, "outbox") if row.state in OPEN_ITEMS}
        return OpenWork(
            channel_ids=tuple(sorted(busy)),
            media=any(row.state == "pending" for row in self.table(tenant_id, "attachments")),
            timers=bool(self.table(tenant_id, "timers")),
            waiting=bool(self.waiting(tenant_id)),
            merges=any(not row.settled for row in self.table(tenant_id, "customer_merges")),
        )

    # ---------------------------------------------------------------- the event log

    async def head(self, tenant_id: int) -> int:
        if self._head is not None:
            return await self._head(tenant_id)
        owner = self._database_of[tenant_id].owners.get(tenant_id)
        return owner.cursor if owner is not None else 0

    async def oldest(self, tenant_id: int) -> int:
        head = await self.head(tenant_id)
        await self._reached.read()
        database = self._database_of[tenant_id]
        trimmed = database.trimmed[tenant_id]
        held = next((event.cursor for event in database.log[tenant_id] if event.cursor > trimmed), None)
        await self._reached.answer()
        return head + 1 if held is None else held

    async def read(
        self, tenant_id: int, *, after: int, limit: int, channels: Sequence[str] | None = None
    ) -> Sequence[LoggedEvent]:
        await self._reached.read()
        database = self._database_of[tenant_id]
        after = max(after, database.trimmed[tenant_id])
        found = [
            event
            for event in database.log[tenant_id]
            if event.cursor > after and (channels is None or set(channels) & set(event.channels))
        ][:limit]
        await self._reached.answer()
        return found


def _copied(row: Any) -> Any:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(row), type=type(row)) if row is not None else None


def _as(kind: type[Any], row: Any, **changed: Any) -> Any:
    return kind(
        **{name: getattr(row, name) for name in kind.__struct_fields__ if name not in changed} | changed
    )


def _agent(row: rows.UserRow) -> Agent:
    members = structs.asdict(row)
    hours = members.pop("work_hours")
    del members["tenant_id"]
    return Agent(**members, week=None if hours is None else msgspec.convert(hours, Week))


def _tracked(row: rows.MessageRow) -> TrackedMessage:
    members = {name: getattr(row, name) for name in TrackedMessage.__struct_fields__ if name != "author"}
    author = f"user:{row.sender_id}" if row.sender_type == "user" else row.sender_type
    return TrackedMessage(**{**members, "platform_message_id": row.platform_message_id, "author": author})


def _item(row: rows.OutboxRow) -> OutboxItem:
    payload = msgspec.convert(row.payload, OutboxPayload)
    members = {
        name: getattr(row, name) for name in OutboxItem.__struct_fields__ if name in row.__struct_fields__
    }
    # The rest travels in the payload, under the same names.
    opened = {name: getattr(payload, name) for name in OutboxItem.__struct_fields__ if hasattr(payload, name)}
    return OutboxItem(**members, **opened)
