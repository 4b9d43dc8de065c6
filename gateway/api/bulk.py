"""The same action on many conversations, and the export of a list.

Each conversation is its own actor, so a bulk call is not a transaction: it answers what became of each, and
200 as a whole. At most a hundred at once, `AT_ONCE` of them side by side.
"""

import csv
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import trio
from msgspec import Struct
from quart import Response

from engine.domain.conversation.messages import Assign, ChangeTags, MarkConversationRead, SetStatus
from engine.domain.resources import ConversationResource
from engine.errors import Forbidden, MijraError, NotFound
from engine.reading import ConversationPlace
from gateway.api.conversations import FilterQuery, Status, check_assignable, check_tags, filter_of
from gateway.envelope import Answer
from gateway.permissions import Permission, sees_all
from gateway.routing import Routes, TenantCall
from gateway.schemas import Id, Ids, Input

routes = Routes("bulk")

AT_ONCE = 16
"""Enough to fill the writer's batch, few enough that one click does not fill its queue."""

EXPORT_FLUSH_ROWS = 200


class BulkBody(Input, frozen=True, kw_only=True):
    conversation_ids: Ids


class BulkAssignBody(BulkBody, frozen=True, kw_only=True):
    user_id: Id


class BulkStatusBody(BulkBody, frozen=True, kw_only=True):
    status: Status


class BulkTagsBody(BulkBody, frozen=True, kw_only=True):
    tag_ids: Ids


class ExportBody(FilterQuery, frozen=True, kw_only=True):
    """The filters of the list; `limit` and `cursor` do not count here."""


class Item(Struct, frozen=True, kw_only=True):
    conversation_id: int
    success: bool
    code: str | None = None
    message: str | None = None


class BulkResult(Struct, frozen=True, kw_only=True):
    succeeded: int
    failed: int
    items: Sequence[Item]


@routes.post("/conversations/bulk-assign", needs=Permission.CONVERSATIONS_ASSIGN, answer=BulkResult)
async def bulk_assign(call: TenantCall, body: BulkAssignBody) -> Answer:
    """Assign many conversations. Agents may only take them themselves."""
    if not sees_all(call.role) and body.user_id != call.caller.user_id:
        raise Forbidden("Agents may only take conversations themselves.")
    check_assignable(call, body.user_id)
    return await _for_each(
        call,
        body.conversation_ids,
        lambda one: Assign(conversation_id=one, user_id=body.user_id, by=call.by, trace=call.trace),
    )


@routes.post("/conversations/bulk-status", needs=Permission.CONVERSATIONS_MANAGE, answer=BulkResult)
async def bulk_status(call: TenantCall, body: BulkStatusBody) -> Answer:
    """Change the status of many conversations."""
    return await _set_status(call, body.conversation_ids, body.status)


@routes.post("/conversations/bulk-archive", needs=Permission.CONVERSATIONS_MANAGE, answer=BulkResult)
async def bulk_archive(call: TenantCall, body: BulkBody) -> Answer:
    """Archive many conversations."""
    return await _set_status(call, body.conversation_ids, "archived")


@routes.post("/conversations/bulk-tags/add", needs=Permission.CONVERSATIONS_MANAGE, answer=BulkResult)
async def bulk_tags_add(call: TenantCall, body: BulkTagsBody) -> Answer:
    """Put tags on many conversations."""
    check_tags(call, body.tag_ids)
    tags = tuple(body.tag_ids)
    return await _for_each(
        call,
        body.conversation_ids,
        lambda one: ChangeTags(conversation_id=one, add=tags, by=call.by, trace=call.trace),
    )


@routes.post("/conversations/bulk-tags/remove", needs=Permission.CONVERSATIONS_MANAGE, answer=BulkResult)
async def bulk_tags_remove(call: TenantCall, body: BulkTagsBody) -> Answer:
    """Take tags off many conversations."""
    tags = tuple(body.tag_ids)
    return await _for_each(
        call,
        body.conversation_ids,
        lambda one: ChangeTags(conversation_id=one, remove=tags, by=call.by, trace=call.trace),
    )


@routes.post("/conversations/bulk-mark-read", needs=Permission.CONVERSATIONS_REPLY, answer=BulkResult)
async def bulk_mark_read(call: TenantCall, body: BulkBody) -> Answer:
    """Mark many conversations as read."""
    return await _for_each(
        call,
        body.conversation_ids,
        lambda one: MarkConversationRead(conversation_id=one, by=call.by, trace=call.trace),
    )


@routes.post("/conversations/export", needs=Permission.CONVERSATIONS_EXPORT, media="text/csv")
async def export(call: TenantCall, body: ExportBody) -> Response:
    """Export the conversations that match as CSV, at most 100,000, newest activity first."""
    found = call.deps.reads.export_conversations(call.tenant.id, filter_of(call, body))
    return Response(
        _csv(found),
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": 'attachment; filename="conversations.csv"'},
    )


async def _set_status(call: TenantCall, ids: Sequence[int], status: str) -> Answer:
    return await _for_each(
        call, ids, lambda one: SetStatus(conversation_id=one, status=status, by=call.by, trace=call.trace)
    )


async def _for_each(call: TenantCall, ids: Sequence[int], command: Callable[[int], Any]) -> Answer:
    wanted = list(dict.fromkeys(ids))
    places = {place.conversation_id: place for place in await call.deps.reads.places(call.tenant.id, wanted)}
    results: dict[int, Item] = {}
    limiter = trio.CapacityLimiter(AT_ONCE)

    async def one(conversation_id: int) -> None:
        async with limiter:
            results[conversation_id] = await _outcome(
                conversation_id, lambda: _ask(call, places.get(conversation_id), command(conversation_id))
            )

    async with trio.open_nursery() as nursery:
        for conversation_id in wanted:
            nursery.start_soon(one, conversation_id)
    items = [results[conversation_id] for conversation_id in wanted]
    succeeded = sum(item.success for item in items)
    result = BulkResult(succeeded=succeeded, failed=len(items) - succeeded, items=items)
    return Answer(data=result, message=f"{succeeded} of {len(items)} done")


async def _ask(call: TenantCall, place: ConversationPlace | None, command: Any) -> None:
    if place is None or not call.sees(place):
        raise NotFound("There is no such conversation.")
    await call.deps.engine.ask_conversation(call.tenant.id, place, command)


async def _outcome(conversation_id: int, action: Callable[[], Awaitable[None]]) -> Item:
    try:
        await action()
    except MijraError as error:
        return Item(conversation_id=conversation_id, success=False, code=error.code, message=error.message)
    return Item(conversation_id=conversation_id, success=True)


_COLUMNS = (
    "id", "customer", "platform", "channel", "status", "assigned_to", "tags", "messages", "unread",
    "last_message_at", "first_response_at", "resolved_at", "created_at",
)  # fmt: skip


async def _csv(found: AsyncIterator[ConversationResource]) -> AsyncIterator[bytes]:
    """UTF-8 with a byte order mark: without it Excel reads Arabic names as Latin-1."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(_COLUMNS)
    yield b"\xef\xbb\xbf" + _taken(buffer)
    rows = 0
    async for conversation in found:
        writer.writerow([spreadsheet_safe(value) for value in _row(conversation)])
        rows += 1
        if rows % EXPORT_FLUSH_ROWS == 0:
            yield _taken(buffer)
    yield _taken(buffer)


def _taken(buffer: io.StringIO) -> bytes:
    data = buffer.getvalue().encode("utf-8", "replace")
    buffer.seek(0)
    buffer.truncate()
    return data


def _row(conversation: ConversationResource) -> tuple[Any, ...]:
    return (
        conversation.id,
        conversation.customer.name,
        conversation.platform,
        conversation.channel.name,
        conversation.status,
        conversation.assigned_to.name if conversation.assigned_to else "",
        ", ".join(tag.name for tag in conversation.tags),
        conversation.message_count,
        conversation.unread_count,
        conversation.last_message_at or "",
        conversation.first_response_at or "",
        conversation.resolved_at or "",
        conversation.created_at,
    )


def spreadsheet_safe(value: Any) -> Any:
    """A customer may call himself `=HYPERLINK(…)`. Text that a spreadsheet would run gets an apostrophe in
    front (OWASP, CSV injection)."""
    if isinstance(value, str) and value.lstrip(" ")[:1] in (
        "=",
        "+",
        "-",
        "@",
        "\t",
        "\r",
        "\n",
        "＝",
        "＋",
        "－",
        "＠",
    ):
        return "'" + value
    return value
