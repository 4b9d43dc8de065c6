"""Conversations: lists, one of them, and what an agent does with it besides writing.

What an agent may not see does not exist for him: 404, not 403.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from engine.domain.conversation.messages import (
    Assign,
    ChangeTags,
    LiftUndeliverable,
    MarkConversationRead,
    SetStatus,
    ShowTyping,
    Transfer,
    Unassign,
)
from engine.domain.resources import ConversationResource, UserRef, rfc3339
from engine.domain.rows import AssignmentRow
from engine.errors import Forbidden, NotFound
from engine.reading import ConversationFilter, Page
from gateway.envelope import Answer
from gateway.permissions import Permission, sees_all
from gateway.routing import Routes, TenantCall
from gateway.schemas import END, Id, Ids, Input, Moment, PageQuery, invalid, milliseconds

routes = Routes("conversations")

Status = Literal["new", "open", "pending", "resolved", "archived"]
STATUSES: tuple[str, ...] = ("new", "open", "pending", "resolved", "archived")
SEARCH_CHARACTERS_MAX = 200
"""Names, numbers and phrases; longer texts are not searched for by people."""


class FilterQuery(PageQuery, frozen=True, kw_only=True):
    """`status` may be several, separated by commas. `assigned_to` is a user id, `me` or `none`."""

    status: Annotated[str, Meta(max_length=100)] | None = None
    platform: Annotated[str, Meta(max_length=40)] | None = None
    channel_id: Id | None = None
    assigned_to: Annotated[str, Meta(pattern="^(me|none|[0-9]{1,16})" + END)] | None = None
    unread: bool | None = None
    tag: Id | None = None
    search: Annotated[str, Meta(min_length=1, max_length=SEARCH_CHARACTERS_MAX)] | None = None
    since: Moment | None = None
    until: Moment | None = None


class AssignBody(Input, frozen=True, kw_only=True):
    user_id: Id


class TransferBody(Input, frozen=True, kw_only=True):
    user_id: Id
    note: Annotated[str, Meta(max_length=2000)] | None = None


class StatusBody(Input, frozen=True, kw_only=True):
    """`until` wakes a pending conversation up again."""

    status: Status
    until: Moment | None = None


class ReadBody(Input, frozen=True, kw_only=True):
    """Without `up_to_seq`, everything is read."""

    up_to_seq: Annotated[int, Meta(ge=0)] | None = None


class TagsBody(Input, frozen=True, kw_only=True):
    tag_ids: Ids


class Statistics(Struct, frozen=True, kw_only=True):
    total: int
    unread: int
    unassigned: int
    by_status: dict[str, int]
    by_platform: dict[str, int]


class TransferOut(Struct, frozen=True, kw_only=True):
    id: int
    kind: str
    from_user: UserRef | None
    to_user: UserRef | None
    by_user: UserRef | None
    note: str | None
    at: str


@routes.get("/conversations", needs=Permission.CONVERSATIONS_VIEW, answer=ConversationResource, paged=True)
async def list_conversations(call: TenantCall, query: FilterQuery) -> Answer:
    """List conversations, newest activity first."""
    where = filter_of(call, query)
    return Answer(
        data=await call.deps.reads.conversations(
            call.tenant.id, where, limit=query.limit, cursor=query.cursor
        )
    )


@routes.get("/conversations/statistics", needs=Permission.CONVERSATIONS_VIEW, answer=Statistics)
async def statistics(call: TenantCall) -> Answer:
    """Count conversations by status and platform."""
    return Answer(
        data=await call.deps.reads.conversation_statistics(call.tenant.id, visible_to=call.visible_to)
    )


@routes.get(
    "/conversations/<id:conversation_id>", needs=Permission.CONVERSATIONS_VIEW, answer=ConversationResource
)
async def show(call: TenantCall, conversation_id: int) -> Answer:
    """Show one conversation."""
    await call.place(conversation_id)
    conversation = await call.deps.reads.conversation(call.tenant.id, conversation_id)
    if conversation is None:
        raise NotFound("There is no such conversation.")
    return Answer(data=conversation)


@routes.post(
    "/conversations/<id:conversation_id>/assign",
    needs=Permission.CONVERSATIONS_ASSIGN,
    answer=ConversationResource,
)
async def assign(call: TenantCall, conversation_id: int, body: AssignBody) -> Answer:
    """Assign the conversation. Agents may only take it themselves."""
    return Answer(data=await assign_to(call, conversation_id, body.user_id), message="Assigned")


@routes.post(
    "/conversations/<id:conversation_id>/unassign",
    needs=Permission.CONVERSATIONS_ASSIGN,
    answer=ConversationResource,
)
async def unassign(call: TenantCall, conversation_id: int) -> Answer:
    """Give the conversation back to nobody."""
    return Answer(
        data=await ask(call, conversation_id, Unassign(**_common(call, conversation_id))),
        message="Unassigned",
    )


@routes.post(
    "/conversations/<id:conversation_id>/transfer",
    needs=Permission.CONVERSATIONS_ASSIGN,
    answer=ConversationResource,
)
async def transfer(call: TenantCall, conversation_id: int, body: TransferBody) -> Answer:
    """Hand the conversation to a colleague, with a note if wanted."""
    check_assignable(call, body.user_id)
    command = Transfer(to_user_id=body.user_id, note=body.note, **_common(call, conversation_id))
    return Answer(data=await ask(call, conversation_id, command), message="Transferred")


@routes.get(
    "/conversations/<id:conversation_id>/transfer-history",
    needs=Permission.CONVERSATIONS_VIEW,
    answer=TransferOut,
    paged=True,
)
async def transfer_history(call: TenantCall, conversation_id: int, query: PageQuery) -> Answer:
    """List who had the conversation, newest first."""
    await call.place(conversation_id)
    page = await call.deps.reads.transfers(
        call.tenant.id, conversation_id, limit=query.limit, cursor=query.cursor
    )
    shown = [_transfer_out(call, row) for row in page.items]
    return Answer(data=Page(items=shown, next_cursor=page.next_cursor))


@routes.patch(
    "/conversations/<id:conversation_id>/status",
    needs=Permission.CONVERSATIONS_MANAGE,
    answer=ConversationResource,
)
async def set_status(call: TenantCall, conversation_id: int, body: StatusBody) -> Answer:
    """Change the status; `pending` may say until when."""
    until = milliseconds(body.until)
    if until is not None and body.status != "pending":
        raise invalid("until", "Goes with the status pending only.")
    if until is not None and until <= call.deps.engine.now():
        raise invalid("until", "Must lie in the future.")
    command = SetStatus(status=body.status, until=until, **_common(call, conversation_id))
    return Answer(data=await ask(call, conversation_id, command), message="Status changed")


@routes.post(
    "/conversations/<id:conversation_id>/mark-read",
    needs=Permission.CONVERSATIONS_REPLY,
    answer=ConversationResource,
)
async def mark_read(call: TenantCall, conversation_id: int, body: ReadBody) -> Answer:
    """Mark the conversation as read, here and on the platform where it can show it."""
    command = MarkConversationRead(up_to_seq=body.up_to_seq, **_common(call, conversation_id))
    return Answer(data=await ask(call, conversation_id, command), message="Read")


@routes.post(
    "/conversations/<id:conversation_id>/tags",
    needs=Permission.CONVERSATIONS_MANAGE,
    answer=ConversationResource,
)
async def add_tags(call: TenantCall, conversation_id: int, body: TagsBody) -> Answer:
    """Put tags on the conversation."""
    check_tags(call, body.tag_ids)
    command = ChangeTags(add=tuple(body.tag_ids), **_common(call, conversation_id))
    return Answer(data=await ask(call, conversation_id, command), message="Tags added")


@routes.delete(
    "/conversations/<id:conversation_id>/tags",
    needs=Permission.CONVERSATIONS_MANAGE,
    answer=ConversationResource,
)
async def remove_tags(call: TenantCall, conversation_id: int, body: TagsBody) -> Answer:
    """Take tags off the conversation."""
    command = ChangeTags(remove=tuple(body.tag_ids), **_common(call, conversation_id))
    return Answer(data=await ask(call, conversation_id, command), message="Tags removed")


@routes.delete(
    "/conversations/<id:conversation_id>/undeliverable",
    needs=Permission.CONVERSATIONS_REPLY,
    answer=ConversationResource,
)
async def lift_undeliverable(call: TenantCall, conversation_id: int) -> Answer:
    """Send to the customer again, although earlier messages came back."""
    command = LiftUndeliverable(**_common(call, conversation_id))
    return Answer(data=await ask(call, conversation_id, command), message="Lifted")


@routes.post("/conversations/<id:conversation_id>/typing", needs=Permission.CONVERSATIONS_REPLY, status=202)
async def typing(call: TenantCall, conversation_id: int) -> Answer:
    """Show the customer that somebody is typing, where the platform can."""
    await ask(call, conversation_id, ShowTyping(**_common(call, conversation_id)))
    return Answer(status=202, message="Shown where the platform can")


# ------------------------------------------------------------------ shared with the bulk calls


def filter_of(call: TenantCall, query: FilterQuery) -> ConversationFilter:
    statuses = tuple(word.strip() for word in query.status.split(",")) if query.status else ()
    if any(status not in STATUSES for status in statuses):
        raise invalid("status", f"Must be of {', '.join(STATUSES)}.")
    return ConversationFilter(
        status=statuses,
        platform=query.platform,
        channel_id=query.channel_id,
        assigned_to=_assignee(call, query.assigned_to),
        unread=query.unread,
        tag_id=query.tag,
        search=query.search,
        since=milliseconds(query.since),
        until=milliseconds(query.until),
        visible_to=call.visible_to,
    )


async def ask(call: TenantCall, conversation_id: int, command: Any) -> Any:
    """One command to the conversation, if the caller may see it."""
    place = await call.place(conversation_id)
    return await call.deps.engine.ask_conversation(call.tenant.id, place, command)


async def assign_to(call: TenantCall, conversation_id: int, user_id: int) -> Any:
    if not sees_all(call.role) and user_id != call.caller.user_id:
        raise Forbidden("Agents may only take conversations themselves; use transfer to hand one on.")
    check_assignable(call, user_id)
    return await ask(call, conversation_id, Assign(user_id=user_id, **_common(call, conversation_id)))


def check_assignable(call: TenantCall, user_id: int) -> None:
    agent = call.config.agents.get(user_id)
    if agent is None or not agent.active:
        raise invalid("user_id", "Is not an active user of this tenant.")


def check_tags(call: TenantCall, tag_ids: list[int]) -> None:
    unknown = [tag_id for tag_id in tag_ids if tag_id not in call.config.tags]
    if unknown:
        raise invalid("tag_ids", f"There is no tag {unknown[0]}.")


def _common(call: TenantCall, conversation_id: int) -> dict[str, Any]:
    return {"conversation_id": conversation_id, "by": call.by, "trace": call.trace}


def _assignee(call: TenantCall, word: str | None) -> int | None:
    """0 stands for nobody in the filter."""
    match word:
        case None:
            return None
        case "me":
            return call.caller.user_id
        case "none":
            return 0
        case _:
            return int(word)


def _transfer_out(call: TenantCall, row: AssignmentRow) -> TransferOut:
    return TransferOut(
        id=row.id,
        kind=row.kind,
        from_user=_user_ref(call, row.from_user_id),
        to_user=_user_ref(call, row.to_user_id),
        by_user=_user_ref(call, row.by_user_id),
        note=row.note,
        at=rfc3339(row.at) or "",
    )


def _user_ref(call: TenantCall, user_id: int | None) -> UserRef | None:
    if user_id is None:
        return None
    agent = call.config.agents.get(user_id)
    return UserRef(id=user_id, name=agent.name if agent else "")
