"""The store as a model: tables in memory, with the schema's unique keys and the writer's contract.

Stands in for PostgreSQL where a test runs the engine under virtual time. A write set is there completely or
not at all; a unique key refuses it as a CommitConflict; rows are copied when they are submitted; cursors are
given in commit order; events reach the sink after the batch and before any verdict. What fails, and how long
anything takes, comes from one seeded generator.

The store survives a crash of the engine, its `ModelWriter` does not: what the writer had in hand is then
committed up to some point and lost behind it, as a killed process leaves it.
"""

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Any

import msgspec
import trio
from msgspec import Struct

from engine.domain.config import TenantConfig
from engine.domain.conversation.state import OPEN_STATUSES
from engine.domain.outbound import OutboxItem, OutboxPayload
from engine.domain.rows import (
    AssignmentRow,
    AttachmentPatch,
    AttachmentRow,
    ConversationRow,
    CustomerRow,
    DeadLetterRow,
    DeliveryRow,
    EventRow,
    HandleRow,
    Insert,
    MessagePatch,
    MessageRow,
    NoteRow,
    OutboxPatch,
    OutboxRow,
    Patch,
    Row,
    StatusRow,
    TagHistoryRow,
    TimerDone,
    TimerRow,
    Upsert,
)
from engine.errors import (
    CommitAbandoned,
    CommitConflict,
    CommitFailed,
    CommitPoisoned,
    Defect,
    StoreUnavailable,
)
from engine.ports import (
    AssignmentSnapshot,
    ContactRequest,
    ContactSnapshot,
    ConversationQuery,
    EventSink,
    FoundMessage,
    FoundTracked,
    LoggedEvent,
    OpenWork,
    StoreQuery,
    TrackedMessage,
    TrackedQuery,
    WaitingConversation,
)
from engine.runtime import Address, Committer, Lane

OPEN_ITEMS = frozenset({"queued", "sending", "unknown"})
POISON = "poison"
"""A message with this text is refused by the model database whenever it comes."""

Done = Callable[[CommitFailed | None], None]


class Faults(Struct, kw_only=True):
    """Probabilities for each load or write set, and delays in seconds."""

    load_fails: float = 0.0
    conflict: float = 0.0
    poisoned: float = 0.0
    load_seconds_max: float = 0.0
    commit_seconds_max: float = 0.0


class ModelStore:
    """The tables of one tenant, and the read side of the engine's ports."""

    def __init__(self, config: TenantConfig, random: Random, faults: Faults) -> None:
        # For the checkers: `status_moves`, each status patch with the status before it, and `untold`, each
        # conversation that was committed without an event that shows it.
        self.config = config
        self.random = random
        self.faults = faults
        self.customers: dict[int, CustomerRow] = {}
        self.handles: dict[tuple[int, str], HandleRow] = {}
        self.conversations: dict[int, ConversationRow] = {}
        self.messages: dict[int, MessageRow] = {}
        self.attachments: dict[int, AttachmentRow] = {}
        self.statuses: dict[int, StatusRow] = {}
        self.outbox: dict[int, OutboxRow] = {}
        self.notes: dict[int, NoteRow] = {}
        self.timers: dict[int, TimerRow] = {}
        self.assignments: dict[int, AssignmentRow] = {}
        self.tag_history: dict[int, TagHistoryRow] = {}
        self.deliveries: dict[int, DeliveryRow] = {}
        self.dead_letters: dict[int, DeadLetterRow] = {}
        self.events: list[LoggedEvent] = []
        self.status_moves: list[tuple[MessagePatch, str]] = []
        self.untold: list[ConversationRow] = []
        self._unique: dict[tuple[object, ...], int] = {}

    # ------------------------------------------------------------------ writing

    def apply(self, rows: Sequence[Row]) -> list[LoggedEvent]:
        """One write set, all or nothing. Raises CommitConflict or CommitPoisoned and changes nothing then."""
        undo: list[Callable[[], object]] = []
        try:
            for row in _in_writers_order(rows):
                self._apply(row, undo)
        except CommitFailed:
            for step in reversed(undo):
                step()
            raise
        logged = [row for row in rows if isinstance(row, EventRow)]
        for row in rows:
            if isinstance(row, ConversationRow):
                shown = b'"conversation":{"id":%d,' % row.id
                if not any(shown in event.data_json for event in logged):
                    self.untold.append(row)
        return [self._log(row) for row in logged]

    def _apply(self, row: Row, undo: list[Callable[[], object]]) -> None:
        match row:
            case EventRow():
                return
            case MessageRow():
                if row.text == POISON:
                    raise CommitPoisoned("the model refuses this text")
                self._claim(("messages_pkey", row.conversation_id, row.seq), row.id, undo)
                if row.platform_message_id is not None:
                    key = ("messages_platform_id", row.channel_id, row.platform_message_id)
                    self._claim(key, row.id, undo)
                if row.client_key is not None:
                    self._claim(("messages_client_key", row.conversation_id, row.client_key), row.id, undo)
                self._put(self.messages, row.id, row, undo, "messages_id")
            case HandleRow():
                self._put(self.handles, (row.channel_id, row.external_id), row, undo, "customer_handles_pkey")
            case ConversationRow():
                self._conversation(row, undo)
            case MessagePatch():
                self._patch_message(row, undo)
            case OutboxPatch():
                self._patch(self.outbox, row, undo)
            case AttachmentPatch():
                self._patch(self.attachments, row, undo)
            case TimerDone():
                timer = self.timers.pop(row.id, None)
                if timer is not None:
                    undo.append(lambda: self.timers.__setitem__(row.id, timer))
            case CustomerRow() | NoteRow() | TimerRow():
                self._put(self._table(row), row.id, row, undo)
            case Insert() if type(row) in _TABLES:
                self._put(self._table(row), row.id, row, undo, f"{_TABLES[type(row)]}_pkey")  # type: ignore[attr-defined]
            case Upsert() | Insert():
                # Configuration, audit, files: the configuration is read from its event, the rest by nobody.
                return
            case _:
                raise Defect(f"the model knows no {type(row).__name__}")

    def _table(self, row: Row) -> dict[int, Any]:
        table: dict[int, Any] = getattr(self, _TABLES[type(row)])
        return table

    @staticmethod
    def _put(
        table: dict[Any, Any],
        key: object,
        row: Row,
        undo: list[Callable[[], object]],
        constraint: str | None = None,
    ) -> None:
        """Into the table; with a constraint, only if the key is free."""
        if key in table:
            if constraint is not None:
                raise CommitConflict(f"{key} is there", constraint=constraint)
            before = table[key]
            undo.append(lambda: table.__setitem__(key, before))
        else:
            undo.append(lambda: table.pop(key))
        table[key] = row

    def _claim(self, key: tuple[object, ...], owner: int, undo: list[Callable[[], object]]) -> None:
        if self._unique.get(key, owner) != owner:
            raise CommitConflict(f"{key} is taken", constraint=str(key[0]))
        if key not in self._unique:
            self._unique[key] = owner
            undo.append(lambda: self._unique.pop(key))

    def _conversation(self, row: ConversationRow, undo: list[Callable[[], object]]) -> None:
        key = ("conversations_one_open", row.channel_id, row.contact_key)
        before = self.conversations.get(row.id)
        if before is not None and before.status in OPEN_STATUSES and self._unique.get(key) == row.id:
            del self._unique[key]
            undo.append(lambda: self._unique.__setitem__(key, row.id))
        if row.status in OPEN_STATUSES:
            self._claim(key, row.id, undo)
        self._put(self.conversations, row.id, row, undo)

    def _patch_message(self, patch: MessagePatch, undo: list[Callable[[], object]]) -> None:
        row = self.messages.get(patch.id)
        if row is None:
            return
        after = copy.copy(row)
        if patch.clear_failure:
            after.failed_at = after.error = None
        for name in patch.__struct_fields__:
            value = getattr(patch, name)
            if name in ("tenant_id", "id", "clear_failure") or value is None:
                continue
            setattr(after, name, {**row.metadata, **value} if name == "metadata" else value)
        if patch.platform_message_id is not None and patch.platform_message_id != row.platform_message_id:
            key = ("messages_platform_id", row.channel_id, patch.platform_message_id)
            self._claim(key, row.id, undo)
            old = ("messages_platform_id", row.channel_id, row.platform_message_id)
            if self._unique.pop(old, None) is not None:
                undo.append(lambda: self._unique.__setitem__(old, row.id))
        self._put(self.messages, row.id, after, undo)
        if patch.status is not None:
            self.status_moves.append((patch, row.status))
            undo.append(self.status_moves.pop)

    @staticmethod
    def _patch(table: dict[int, Any], patch: Patch, undo: list[Callable[[], object]]) -> None:
        key: int = patch.id  # type: ignore[attr-defined]
        row = table.get(key)
        if row is None:
            return
        after = copy.copy(row)
        for name in patch.__struct_fields__:
            if name not in ("tenant_id", "id") and getattr(patch, name) is not None:
                setattr(after, name, getattr(patch, name))
        ModelStore._put(table, key, after, undo)

    def _log(self, row: EventRow) -> LoggedEvent:
        if isinstance(row.local, TenantConfig):
            self.config = row.local
        event = LoggedEvent(
            tenant_id=row.tenant_id,
            cursor=len(self.events) + 1,
            name=row.name,
            channels=row.channels,
            data=row.data_json,
            trace=row.trace,
            at=row.at,
            local=row.local,
        )
        self.events.append(event)
        return event

    # ------------------------------------------------------------------ reading

    async def _reached(self) -> None:
        await trio.sleep(self.random.uniform(0, self.faults.load_seconds_max))
        if self.random.random() < self.faults.load_fails:
            raise StoreUnavailable("the model store is away")

    async def load_contacts(
        self, requests: Sequence[ContactRequest], *, recent_max: int
    ) -> Sequence[ContactSnapshot | None]:
        await self._reached()
        return [self._contact(request, recent_max) for request in requests]

    def _contact(self, request: ContactRequest, recent_max: int) -> ContactSnapshot | None:
        known = next(
            (
                self.handles[request.channel_id, key]
                for key in request.keys
                if (request.channel_id, key) in self.handles
            ),
            None,
        )
        if known is None:
            return None
        place = (known.channel_id, known.contact_key)
        conversations = [
            row for row in self.conversations.values() if (row.channel_id, row.contact_key) == place
        ]
        messages = sorted(
            (row for row in self.messages.values() if (row.channel_id, row.contact_key) == place),
            key=lambda row: -row.id,
        )
        newest = max(conversations, key=lambda row: (row.status in OPEN_STATUSES, row.id), default=None)
        return ContactSnapshot(
            customer=copy.copy(self.customers[known.customer_id]),
            handles=tuple(row for row in self.handles.values() if (row.channel_id, row.contact_key) == place),
            contact_key=known.contact_key,
            conversation=copy.copy(newest),
            messages=tuple(_tracked(row) for row in messages[:recent_max]),
            complete=len(messages) <= recent_max,
        )

    async def find(self, queries: Sequence[StoreQuery]) -> Sequence[object]:
        await self._reached()
        return [self._find(query) for query in queries]

    def _find(self, query: StoreQuery) -> object:
        if isinstance(query, ConversationQuery):
            return copy.copy(self.conversations.get(query.conversation_id))
        if isinstance(query, TrackedQuery):
            return FoundTracked()  # the model's customers send no watermarks
        message_id = query.message_id
        if query.platform_message_id is not None:
            key: tuple[object, ...] = ("messages_platform_id", query.channel_id, query.platform_message_id)
            message_id = self._unique.get(key)
        elif query.client_key is not None:
            message_id = self._unique.get(("messages_client_key", *query.client_key))
        row = self.messages.get(message_id) if message_id is not None else None
        if row is None or row.channel_id != query.channel_id:
            return FoundMessage(message=None)
        item = self.outbox.get(row.id)
        return FoundMessage(
            message=copy.copy(row),
            attachments=tuple(one for one in self.attachments.values() if one.message_id == row.id),
            outbox=_item(item) if item is not None else None,
        )

    async def load_config(self, tenant_id: int) -> TenantConfig:
        await self._reached()
        return self.config

    async def load_assignment(self, tenant_id: int, *, waiting_max: int) -> AssignmentSnapshot:
        await self._reached()
        waiting = [
            WaitingConversation(
                conversation_id=row.id, channel_id=row.channel_id, contact_key=row.contact_key
            )
            for row in sorted(self.waiting(), key=lambda row: row.id)
        ]
        given = [row for row in self.assignments.values() if row.by_user_id is None and row.kind == "assign"]
        return AssignmentSnapshot(
            loads=self.loads(),
            last_user_id=max(given, key=lambda row: row.id).to_user_id if given else None,
            waiting=tuple(waiting[:waiting_max]),
            more=len(waiting) > waiting_max,
        )

    def waiting(self) -> list[ConversationRow]:
        """Conversations that nobody has."""
        return [
            row
            for row in self.conversations.values()
            if row.assigned_to is None and row.status in ("new", "open")
        ]

    def loads(self) -> dict[int, int]:
        """Open conversations by agent."""
        loads: dict[int, int] = defaultdict(int)
        for row in self.conversations.values():
            if row.assigned_to is not None and row.status in OPEN_STATUSES:
                loads[row.assigned_to] += 1
        return dict(loads)

    async def load_timers(self, tenant_id: int, *, due_before: int, limit: int) -> Sequence[TimerRow]:
        await self._reached()
        due = [row for row in self.timers.values() if row.due_at < due_before]
        return sorted(due, key=lambda row: (row.due_at, row.id))[:limit]

    async def load_outbox(
        self, tenant_id: int, channel_id: int, *, after_id: int, limit: int
    ) -> Sequence[OutboxItem]:
        await self._reached()
        found = [row for row in self.outbox.values() if row.id > after_id and row.channel_id == channel_id]
        return [_item(row) for row in sorted(found, key=lambda row: row.id) if row.state in OPEN_ITEMS][
            :limit
        ]

    async def load_pending_media(
        self, tenant_id: int, *, after_id: int, limit: int
    ) -> Sequence[AttachmentRow]:
        await self._reached()
        found = [row for row in self.attachments.values() if row.id > after_id and row.state == "pending"]
        return sorted(found, key=lambda row: row.id)[:limit]

    async def open_work(self, tenant_id: int) -> OpenWork:
        busy = {row.channel_id for row in self.outbox.values() if row.state in OPEN_ITEMS}
        return OpenWork(
            channel_ids=tuple(sorted(busy)),
            media=any(row.state == "pending" for row in self.attachments.values()),
            timers=bool(self.timers),
            waiting=bool(self.waiting()),
        )


class ModelWriter(Committer):
    """The committer of one life of the engine."""

    def __init__(self, store: ModelStore, sinks: Sequence[EventSink]) -> None:
        self._store = store
        self._sinks = sinks
        self._queue: list[tuple[Address, int, list[Row], Done]] = []
        self._failed: set[tuple[Address, int]] = set()
        self._work = trio.Event()
        self._dead = False
        self._room: list[Callable[[], None]] = []
        self._struck: set[Address] = set()

    def submit(self, address: Address, generation: int, rows: Sequence[object], done: Done) -> None:
        if not self._dead:
            self._queue.append((address, generation, [_copied(row) for row in rows], done))
            self._work.set()

    def has_room(self, tenant: int, lane: Lane = Lane.NORMAL) -> bool:
        return len(self._queue) < 64

    def when_room(self, callback: Callable[[], None]) -> None:
        self._room.append(callback)

    async def run(self) -> None:
        random, faults = self._store.random, self._store.faults
        while True:
            while not self._queue:
                self._work = trio.Event()
                await self._work.wait()
            await trio.sleep(random.uniform(0, faults.commit_seconds_max))
            size = random.randint(1, len(self._queue))
            batch, self._queue = self._queue[:size], self._queue[size:]
            self._finish(batch)
            callbacks, self._room = self._room, []
            for callback in callbacks:
                callback()

    def crash(self) -> None:
        """The process dies: some of what waits is durable and nobody was told, the rest is lost."""
        self._dead = True
        survivors = self._store.random.randint(0, len(self._queue))
        for address, generation, rows, _ in self._queue[:survivors]:
            if (address, generation) not in self._failed:
                try:
                    self._store.apply(rows)
                except CommitFailed:
                    self._failed.add((address, generation))

    def _finish(self, batch: list[tuple[Address, int, list[Row], Done]]) -> None:
        verdicts: list[tuple[Done, CommitFailed | None]] = []
        events: list[LoggedEvent] = []
        for address, generation, rows, done in batch:
            error = self._refusal(address, generation)
            if error is None:
                try:
                    events += self._store.apply(rows)
                except CommitFailed as refused:
                    error = refused
            if error is not None:
                self._failed.add((address, generation))
            verdicts.append((done, error))
        if events:
            for sink in self._sinks:
                sink.committed(events)
        for done, error in verdicts:
            done(error)

    def _refusal(self, address: Address, generation: int) -> CommitFailed | None:
        random, faults = self._store.random, self._store.faults
        if (address, generation) in self._failed:
            return CommitAbandoned("an earlier set of this activation failed")
        if address in self._struck:
            self._struck.remove(address)
            # Three faults in a row would park a message that nothing is wrong with.
            return None
        if random.random() < faults.conflict:
            self._struck.add(address)
            return CommitConflict("somebody else was there for a moment", constraint="model")
        if random.random() < faults.poisoned:
            self._struck.add(address)
            return CommitPoisoned("a passing refusal")
        return None


_TABLES: dict[type, str] = {
    CustomerRow: "customers",
    NoteRow: "notes",
    TimerRow: "timers",
    AttachmentRow: "attachments",
    StatusRow: "statuses",
    OutboxRow: "outbox",
    AssignmentRow: "assignments",
    TagHistoryRow: "tag_history",
    DeliveryRow: "deliveries",
    DeadLetterRow: "dead_letters",
}


def _in_writers_order(rows: Iterable[Row]) -> list[Row]:
    """New and whole rows before patches; of conversations the last standing, the closed ones first."""
    conversations = {row.id: row for row in rows if isinstance(row, ConversationRow)}
    closed_first = sorted(conversations.values(), key=lambda row: row.status in OPEN_STATUSES)
    others = [row for row in rows if not isinstance(row, ConversationRow)]
    patches = [row for row in others if isinstance(row, Patch | TimerDone)]
    return [*closed_first, *(row for row in others if not isinstance(row, Patch | TimerDone)), *patches]


def _copied(row: Any) -> Any:
    """As the real writer encodes at once: what the actor changes later is not in the row any more."""
    if isinstance(row, EventRow):
        return copy.copy(row)
    return msgspec.msgpack.decode(msgspec.msgpack.encode(row), type=type(row))


def _tracked(row: MessageRow) -> TrackedMessage:
    members = {name: getattr(row, name) for name in TrackedMessage.__struct_fields__ if name != "author"}
    author = f"user:{row.sender_id}" if row.sender_type == "user" else row.sender_type
    return TrackedMessage(**{**members, "platform_message_id": row.platform_message_id, "author": author})


def _item(row: OutboxRow) -> OutboxItem:
    payload = msgspec.convert(row.payload, OutboxPayload)
    members = {
        name: getattr(row, name) for name in OutboxItem.__struct_fields__ if name not in ("send", "reply_to")
    }
    return OutboxItem(**members, send=payload.send, reply_to=payload.reply_to)
