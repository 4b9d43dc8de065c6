"""What the API reads (engine.reading.Reads), as resources.

Promises   committed data only, of one tenant only; a list is a keyset page served by an index in the page's
           order (tests look at the plans); a page and what hangs on it cost one crossing of the bridge.
Limits     pages of 100, exports of 100,000; the database's own read timeout.
Leaves     rights to the gateway, writing to the writer. The one thing written here are idempotency keys: they
           belong to calls, not to the tenant's state, and must be there before the call does anything.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

from engine.domain.config import TenantConfig
from engine.domain.ids import ID_MAX
from engine.domain.resources import (
    ConversationResource,
    CustomerRef,
    MessageResource,
    SignUrl,
    conversation_resource,
    message_resource,
)
from engine.domain.rows import AssignmentRow, AttachmentRow, ConversationRow, FileRow, MessageRow, NoteRow
from engine.reading import ConversationFilter, ConversationPlace, KeyClaim, MessagePlace, Page
from storage.batch import clean
from storage.inbox import inbox_statement
from storage.pages import LIMIT_MAX, bounded, cursor_text, cursor_values, cut
from storage.placements import Placements
from storage.records import Reader
from storage.statements import load_sql

EXPORT_MAX: Final = 100_000
IDEMPOTENCY_MS: Final = 24 * 3600 * 1000
CLAIM_MS_MAX: Final = 120 * 1000
"""A call that has not ended after this died with its process: no request may take that long."""

_SQL: Final = load_sql("reads.sql")
_conversations: Final = Reader(ConversationRow)
_messages: Final = Reader(MessageRow)
_attachments: Final = Reader(AttachmentRow)
_notes: Final = Reader(NoteRow)
_assignments: Final = Reader(AssignmentRow)
_files: Final = Reader(FileRow)
_places: Final = Reader(ConversationPlace)


class ReadStore:
    """`config_for` gives the names of channels, agents and tags; `wall_ms` the time that decides whether a
    reply window is open."""

    def __init__(
        self,
        placements: Placements,
        *,
        config_for: Callable[[int], TenantConfig],
        wall_ms: Callable[[], int],
    ) -> None:
        self._placements = placements
        self._config_for = config_for
        self._wall_ms = wall_ms

    # ---------------------------------------------------------------- conversations

    async def conversations(
        self, tenant_id: int, where: ConversationFilter, *, limit: int, cursor: str | None
    ) -> Page[ConversationResource]:
        """Newest activity first."""
        limit = bounded(limit)
        before = None
        if cursor is not None:
            active_at, conversation_id = cursor_values("conversations", cursor, 2)
            before = (active_at, conversation_id)
        records, more = cut(await self._inbox(tenant_id, where, limit + 1, before), limit)
        return Page(
            items=[self._resource(tenant_id, record) for record in records],
            next_cursor=cursor_text("conversations", records[-1]["active_at"], records[-1]["id"])
            if more
            else None,
        )

    async def conversation(self, tenant_id: int, conversation_id: int) -> ConversationResource | None:
        record = await self._row("conversation", tenant_id, conversation_id)
        return None if record is None else self._resource(tenant_id, record)

    async def conversation_statistics(
        self, tenant_id: int, *, visible_to: int | None = None
    ) -> dict[str, Any]:
        """See engine.reading. Reads every conversation of the tenant."""
        answer: dict[str, Any] = {
            "total": 0,
            "unread": 0,
            "unassigned": 0,
            "by_status": {},
            "by_platform": {},
        }
        for record in await self._rows("conversation_statistics", tenant_id, visible_to):
            for name in ("total", "unread", "unassigned"):
                answer[name] += record[name]
            for name in ("status", "platform"):
                counts = answer[f"by_{name}"]
                counts[record[name]] = counts.get(record[name], 0) + record["total"]
        return answer

    async def export_conversations(
        self, tenant_id: int, where: ConversationFilter
    ) -> AsyncIterator[ConversationResource]:
        """All that match, at most EXPORT_MAX, newest activity first. A conversation that becomes active while
        we walk is not met twice: it is exported as it was, or, if not met yet, missed."""
        before: tuple[int, int] | None = None
        left = EXPORT_MAX
        while left > 0:
            records = await self._inbox(tenant_id, where, min(LIMIT_MAX, left), before)
            for record in records:
                yield self._resource(tenant_id, record)
            if len(records) < LIMIT_MAX:
                return
            left -= len(records)
            before = (records[-1]["active_at"], records[-1]["id"])

    # ---------------------------------------------------------------- places

    async def place(self, tenant_id: int, conversation_id: int) -> ConversationPlace | None:
        found = await self.places(tenant_id, [conversation_id])
        return found[0] if found else None

    async def places(self, tenant_id: int, ids: Sequence[int]) -> Sequence[ConversationPlace]:
        """Those that are there, in the order asked."""
        records = await self._rows("places", tenant_id, list(ids))
        found = {record["conversation_id"]: _places.read(record) for record in records}
        return [found[each] for each in dict.fromkeys(ids) if each in found]

    async def message_place(self, tenant_id: int, message_id: int) -> MessagePlace | None:
        record = await self._row("message_place", tenant_id, message_id)
        if record is None:
            return None
        return MessagePlace(message_id=message_id, conversation=_places.read(record))

    # ---------------------------------------------------------------- messages

    async def messages(
        self,
        tenant_id: int,
        conversation_id: int,
        *,
        limit: int,
        cursor: str | None,
        sign: SignUrl,
        after_seq: int | None = None,
    ) -> Page[MessageResource]:
        """Newest first; with `after_seq`, those after it, oldest first. A cursor goes on in the direction in
        which its page went."""
        limit = bounded(limit)
        name = "messages_before" if after_seq is None else "messages_after"
        start = ID_MAX if after_seq is None else after_seq
        if cursor is not None:
            start = cursor_values(name, cursor, 1)[0]
        records, attachments = await self._placements.pool(tenant_id).run(
            _with_attachments,
            _SQL[name],
            (tenant_id, conversation_id, start, limit + 1),
            tenant_id,
            tenants=(tenant_id,),
        )
        page, more = cut(records, limit)
        items = _resources(page, attachments, sign)
        return Page(items=items, next_cursor=cursor_text(name, items[-1].seq) if more else None)

    async def message(self, tenant_id: int, message_id: int, *, sign: SignUrl) -> MessageResource | None:
        records, attachments = await self._placements.pool(tenant_id).run(
            _with_attachments, _SQL["message"], (tenant_id, message_id), tenant_id, tenants=(tenant_id,)
        )
        found = _resources(records, attachments, sign)
        return found[0] if found else None

    # ---------------------------------------------------------------- what belongs to conversations

    async def notes(
        self, tenant_id: int, conversation_id: int, *, limit: int, cursor: str | None
    ) -> Page[NoteRow]:
        """Newest first, without the deleted ones."""
        return await self._page("notes", _notes, tenant_id, conversation_id, limit, cursor)

    async def note(self, tenant_id: int, conversation_id: int, note_id: int) -> NoteRow | None:
        record = await self._row("note", tenant_id, note_id, conversation_id)
        return None if record is None else _notes.read(record)

    async def transfers(
        self, tenant_id: int, conversation_id: int, *, limit: int, cursor: str | None
    ) -> Page[AssignmentRow]:
        """The whole history of assignments and transfers, newest first."""
        return await self._page("transfers", _assignments, tenant_id, conversation_id, limit, cursor)

    async def attachment(self, tenant_id: int, attachment_id: int) -> AttachmentRow | None:
        record = await self._row("attachment", tenant_id, attachment_id)
        return None if record is None else _attachments.read(record)

    async def file(self, tenant_id: int, file_id: int) -> FileRow | None:
        record = await self._row("file", tenant_id, file_id)
        return None if record is None else _files.read(record)

    # ---------------------------------------------------------------- idempotency keys

    async def claim_key(self, tenant_id: int, user_id: int, key: str, request: bytes, now: int) -> KeyClaim:
        """See engine.reading. A key whose call died without an end is free again after CLAIM_MS_MAX."""
        record = await self._row(
            "claim_key",
            tenant_id,
            user_id,
            clean(key),
            request,
            now,
            now - IDEMPOTENCY_MS,
            now - CLAIM_MS_MAX,
        )
        assert record is not None, "the statement always has one row"
        if record["claimed"]:
            return KeyClaim(state="claimed")
        if record["request"] is None:
            return KeyClaim(state="running")
        if record["request"] != request:
            return KeyClaim(state="reused")
        if record["status"] is None:
            return KeyClaim(state="running")
        return KeyClaim(state="answered", status=record["status"], answer=record["answer"])

    async def keep_answer(self, tenant_id: int, user_id: int, key: str, status: int, answer: bytes) -> None:
        await self._rows("keep_answer", tenant_id, user_id, clean(key), status, answer)

    async def release_key(self, tenant_id: int, user_id: int, key: str) -> None:
        """The call failed without effect: the next one may try again."""
        await self._rows("release_key", tenant_id, user_id, clean(key))

    # ---------------------------------------------------------------- helpers

    async def _inbox(
        self, tenant_id: int, where: ConversationFilter, limit: int, before: tuple[int, int] | None
    ) -> list[Any]:
        sql, arguments = inbox_statement(tenant_id, where, limit=limit, before=before)
        return await self._placements.pool(tenant_id).fetch(sql, *arguments, tenants=(tenant_id,))

    def _resource(self, tenant_id: int, record: Any) -> ConversationResource:
        return shown_conversation(record, self._config_for(tenant_id), self._wall_ms())

    async def _page(
        self,
        name: str,
        reader: Reader[Any],
        tenant_id: int,
        conversation_id: int,
        limit: int,
        cursor: str | None,
    ) -> Page[Any]:
        limit = bounded(limit)
        before = ID_MAX + 1 if cursor is None else cursor_values(name, cursor, 1)[0]
        records, more = cut(await self._rows(name, tenant_id, conversation_id, before, limit + 1), limit)
        items = [reader.read(record) for record in records]
        return Page(items=items, next_cursor=cursor_text(name, items[-1].id) if more else None)

    async def _rows(self, name: str, tenant_id: int, *arguments: object) -> list[Any]:
        pool = self._placements.pool(tenant_id)
        return await pool.fetch(_SQL[name], tenant_id, *arguments, tenants=(tenant_id,))

    async def _row(self, name: str, tenant_id: int, *arguments: object) -> Any | None:
        pool = self._placements.pool(tenant_id)
        return await pool.fetchrow(_SQL[name], tenant_id, *arguments, tenants=(tenant_id,))


def shown_conversation(record: Any, config: TenantConfig, now: int) -> ConversationResource:
    """From a conversation's record with what its customer is shown as."""
    own, into = record["customer_id"], record["customer_merged_into"]
    customer = CustomerRef(
        id=own if into is None else into,
        name=record["customer_name"],
        avatar_url=record["customer_avatar"],
        merged_id=None if into is None else own,
    )
    return conversation_resource(_conversations.read(record), customer, config, now)


def _resources(records: Sequence[Any], attachments: Sequence[Any], sign: SignUrl) -> list[MessageResource]:
    by_message: dict[int, list[AttachmentRow]] = {}
    for record in attachments:
        by_message.setdefault(record["message_id"], []).append(_attachments.read(record))
    return [
        message_resource(_messages.read(record), by_message.get(record["id"], ()), sign) for record in records
    ]


# From here on: the asyncio side.


async def _with_attachments(
    connection: Any, sql: str, arguments: tuple[object, ...], tenant_id: int
) -> tuple[list[Any], list[Any]]:
    records = await connection.fetch(sql, *arguments)
    if not records:
        return [], []
    ids = [record["id"] for record in records]
    return records, await connection.fetch(_SQL["attachments_of"], tenant_id, ids)
