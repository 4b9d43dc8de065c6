"""Notes: what colleagues tell each other about a conversation. Customers never see them.

Everybody who may see the conversation reads its notes; only the author changes a note, and owners and admins
may remove any.
"""

from typing import Annotated

from msgspec import Meta, Struct

from engine.domain.conversation.messages import AddNote, EditNote
from engine.domain.resources import UserRef, rfc3339
from engine.domain.rows import NoteRow
from engine.errors import Forbidden, NotFound
from engine.reading import Page
from gateway.api.conversations import ask
from gateway.envelope import Answer
from gateway.permissions import Permission, sees_all
from gateway.routing import Routes, TenantCall
from gateway.schemas import Input, PageQuery

routes = Routes("notes")


class NoteBody(Input, frozen=True, kw_only=True):
    body: Annotated[str, Meta(min_length=1, max_length=10_000)]


class NoteOut(Struct, frozen=True, kw_only=True):
    id: int
    conversation_id: int
    user: UserRef
    body: str
    created_at: str
    updated_at: str


@routes.get(
    "/conversations/<id:conversation_id>/notes",
    needs=Permission.CONVERSATIONS_VIEW,
    answer=NoteOut,
    paged=True,
)
async def list_notes(call: TenantCall, conversation_id: int, query: PageQuery) -> Answer:
    """List the notes of a conversation, newest first."""
    await call.place(conversation_id)
    page = await call.deps.reads.notes(
        call.tenant.id, conversation_id, limit=query.limit, cursor=query.cursor
    )
    return Answer(data=Page(items=[_out(row) for row in page.items], next_cursor=page.next_cursor))


@routes.post(
    "/conversations/<id:conversation_id>/notes", needs=Permission.NOTES_WRITE, answer=NoteOut, status=201
)
async def add_note(call: TenantCall, conversation_id: int, body: NoteBody) -> Answer:
    """Write a note."""
    command = AddNote(conversation_id=conversation_id, body=body.body, by=call.by, trace=call.trace)
    return Answer(data=_out(await ask(call, conversation_id, command)), status=201, message="Note added")


@routes.patch(
    "/conversations/<id:conversation_id>/notes/<id:note_id>", needs=Permission.NOTES_WRITE, answer=NoteOut
)
async def edit_note(call: TenantCall, conversation_id: int, note_id: int, body: NoteBody) -> Answer:
    """Change one's own note."""
    note = await _note(call, conversation_id, note_id)
    if note.user_id != call.caller.user_id:
        raise Forbidden("Only its author may change a note.")
    command = EditNote(
        conversation_id=conversation_id, note=note, body=body.body, by=call.by, trace=call.trace
    )
    return Answer(data=_out(await ask(call, conversation_id, command)), message="Note changed")


@routes.delete("/conversations/<id:conversation_id>/notes/<id:note_id>", needs=Permission.NOTES_WRITE)
async def delete_note(call: TenantCall, conversation_id: int, note_id: int) -> Answer:
    """Remove a note: one's own, or any for owners and admins."""
    note = await _note(call, conversation_id, note_id)
    if note.user_id != call.caller.user_id and not sees_all(call.role):
        raise Forbidden("Only its author may remove a note.")
    command = EditNote(conversation_id=conversation_id, note=note, body=None, by=call.by, trace=call.trace)
    await ask(call, conversation_id, command)
    return Answer(message="Note removed")


async def _note(call: TenantCall, conversation_id: int, note_id: int) -> NoteRow:
    await call.place(conversation_id)
    note = await call.deps.reads.note(call.tenant.id, conversation_id, note_id)
    if note is None or note.deleted_at is not None:
        raise NotFound("There is no such note.")
    return note


def _out(row: NoteRow) -> NoteOut:
    return NoteOut(
        id=row.id,
        conversation_id=row.conversation_id,
        user=UserRef(id=row.user_id, name=row.user_name),
        body=row.body,
        created_at=rfc3339(row.created_at) or "",
        updated_at=rfc3339(row.updated_at) or "",
    )
