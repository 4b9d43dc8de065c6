"""The agents' desk: assignment, transfer, status, reading, notes, tags, and the snooze's end. Pure."""

from msgspec import structs

from engine.domain.assigner.messages import Declined
from engine.domain.assigner.messages import address_of as assigner_of
from engine.domain.conversation.changes import Change
from engine.domain.conversation.finding import conversation_of, no_conversation, on_conversation
from engine.domain.conversation.lifecycle import (
    SNOOZE_KEY,
    hand_to,
    set_status,
    snooze,
    status_event,
    wake,
    want_agent,
)
from engine.domain.conversation.messages import (
    SYSTEM,
    AddNote,
    Assign,
    ChangeTags,
    EditNote,
    MarkConversationRead,
    SetStatus,
    TimerFired,
    Transfer,
    Unassign,
)
from engine.domain.conversation.replying import queue_signal
from engine.domain.conversation.state import OPEN_STATUSES, ContactState
from engine.domain.resources import note_resource
from engine.domain.rows import ConversationRow, NoteRow, TagHistoryRow, TimerDone
from engine.errors import Conflicting, InvalidInput, NotFound
from engine.runtime import Context, Effects, Lookup, Tell

STATUSES = ("open", "pending", "resolved", "archived")
"""What a person may set; `new` is only ever the beginning."""

TAGS_MAX = 50
"""Per conversation: the whole list travels with every inbox line."""


def assign(state: ContactState, message: Assign, ctx: Context) -> Effects | Lookup:
    conversation = conversation_of(state, message.conversation_id, ctx)
    if isinstance(conversation, Lookup):
        return conversation
    change = Change(state, ctx, message.trace)
    if conversation is None:
        if message.from_pool:
            change.tell(
                Tell(assigner_of(state.tenant_id), Declined(message.conversation_id, message.user_id))
            )
            return change.done()
        return no_conversation()
    agent = ctx.config.agents.get(message.user_id)
    if message.from_pool:
        taken = conversation.assigned_to is not None or conversation.status not in OPEN_STATUSES
        if taken or agent is None or not agent.active:
            change.tell(Tell(assigner_of(state.tenant_id), Declined(conversation.id, message.user_id)))
            # Where only the agent was wrong it waits on, for another one.
            want_agent(change, conversation)
            return change.done(change.resource(conversation))
    elif agent is None or not agent.active:
        return _no_agent()
    if conversation.assigned_to != message.user_id:
        hand_to(change, conversation, message.user_id, by=message.by, kind="assign")
    return change.done(change.resource(conversation))


@on_conversation
def unassign(state: ContactState, conversation: ConversationRow, message: Unassign, ctx: Context) -> Effects:
    change = Change(state, ctx, message.trace)
    if conversation.assigned_to is not None:
        hand_to(change, conversation, None, by=message.by, kind="unassign")
        want_agent(change, conversation)
    return change.done(change.resource(conversation))


@on_conversation
def transfer(state: ContactState, conversation: ConversationRow, message: Transfer, ctx: Context) -> Effects:
    agent = ctx.config.agents.get(message.to_user_id)
    if agent is None or not agent.active:
        return _no_agent()
    if conversation.assigned_to == message.to_user_id:
        return Effects(refuse=Conflicting("The conversation is with that agent already.", code="conflict"))
    change = Change(state, ctx, message.trace)
    hand_to(
        change,
        conversation,
        message.to_user_id,
        by=message.by,
        kind="transfer",
        note=message.note,
    )
    return change.done(change.resource(conversation))


@on_conversation
def change_status(
    state: ContactState, conversation: ConversationRow, message: SetStatus, ctx: Context
) -> Effects:
    if message.status not in STATUSES:
        return Effects(
            refuse=InvalidInput(
                "That is not a status.", fields={"status": [f"One of {', '.join(STATUSES)}."]}
            )
        )
    if message.until is not None and (message.status != "pending" or message.until <= ctx.now):
        return Effects(
            refuse=InvalidInput(
                "The time cannot be used.",
                fields={"until": ["A future time, together with status pending."]},
            )
        )
    if conversation.status == "archived" and message.status != "archived":
        return Effects(
            refuse=Conflicting("The conversation is archived for good.", code="conversation_closed")
        )
    opening = message.status in OPEN_STATUSES and conversation.status not in OPEN_STATUSES
    if opening and conversation is not state.conversation and state.has_open():
        return Effects(refuse=Conflicting("The customer has another open conversation on this channel."))
    if opening and conversation is not state.conversation:
        return Effects(
            refuse=Conflicting(
                "A newer conversation with this customer exists; reopen that one.",
                code="conversation_closed",
            )
        )
    change = Change(state, ctx, message.trace)
    before = conversation.status
    snoozed_until = conversation.snoozed_until
    set_status(change, conversation, message.status, message.by)
    if message.status == "pending":
        if message.until is not None:
            snooze(change, conversation, message.until)
        else:
            wake(change, conversation)
        if before == "pending" and conversation.snoozed_until != snoozed_until:
            status_event(change, conversation, before, message.by)
    elif message.status == "open" and before != "open":
        want_agent(change, conversation)
    return change.done(change.resource(conversation))


@on_conversation
def mark_read(
    state: ContactState, conversation: ConversationRow, message: MarkConversationRead, ctx: Context
) -> Effects:
    change = Change(state, ctx, message.trace)
    if conversation.unread_count:
        conversation.unread_count = _unread_after(state, conversation, message.up_to_seq)
        change.touch(conversation)
        change.event(
            "conversation.read",
            conversation,
            by={"type": message.by.kind, "id": message.by.id, "name": message.by.name},
        )
        queue_signal(change, conversation, typing=False)
    return change.done(change.resource(conversation))


@on_conversation
def add_note(state: ContactState, conversation: ConversationRow, message: AddNote, ctx: Context) -> Effects:
    change = Change(state, ctx, message.trace)
    note = NoteRow(
        tenant_id=state.tenant_id,
        id=ctx.new_id(),
        conversation_id=conversation.id,
        user_id=message.by.id or 0,
        user_name=message.by.name or "",
        body=message.body,
        created_at=ctx.now,
        updated_at=ctx.now,
        deleted_at=None,
    )
    return _note_saved(change, conversation.id, note, "note.added")


def edit_note(state: ContactState, message: EditNote, ctx: Context) -> Effects:
    change = Change(state, ctx, message.trace)
    note: NoteRow = message.note
    if message.body is None:
        note = structs.replace(note, deleted_at=ctx.now, updated_at=ctx.now)
        return _note_saved(change, note.conversation_id, note, "note.deleted")
    note = structs.replace(note, body=message.body, updated_at=ctx.now)
    return _note_saved(change, note.conversation_id, note, "note.updated")


@on_conversation
def change_tags(
    state: ContactState, conversation: ConversationRow, message: ChangeTags, ctx: Context
) -> Effects:
    if any(tag_id not in ctx.config.tags for tag_id in message.add):
        return Effects(refuse=NotFound("There is no such tag."))
    before = conversation.tag_ids
    added = [tag_id for tag_id in dict.fromkeys(message.add) if tag_id not in before]
    removed = [tag_id for tag_id in before if tag_id in message.remove]
    after = [tag_id for tag_id in before if tag_id not in removed] + added
    if len(after) > TAGS_MAX:
        return Effects(
            refuse=InvalidInput("Too many tags.", fields={"tags": [f"At most {TAGS_MAX} per conversation."]})
        )
    change = Change(state, ctx, message.trace)
    for action, tag_ids in (("added", added), ("removed", removed)):
        for tag_id in tag_ids:
            change.add(
                TagHistoryRow(
                    tenant_id=state.tenant_id,
                    id=ctx.new_id(),
                    conversation_id=conversation.id,
                    tag_id=tag_id,
                    action=action,
                    by_user_id=message.by.id,
                    at=ctx.now,
                )
            )
    if added or removed:
        conversation.tag_ids = after
        change.touch(conversation)
        change.event("tag.changed", conversation, added=added, removed=removed)
    return change.done(change.resource(conversation))


def timer_fired(state: ContactState, message: TimerFired, ctx: Context) -> Effects | Lookup:
    """A snooze ends: the conversation is open again. A timer that was replaced meanwhile does nothing."""
    conversation = conversation_of(state, message.conversation_id, ctx)
    if isinstance(conversation, Lookup):
        return conversation
    change = Change(state, ctx, "")
    if conversation is not None and conversation.metadata.get(SNOOZE_KEY) == message.timer_id:
        # Whatever else ends `pending` drops the snooze with it.
        set_status(change, conversation, "open", SYSTEM)
        want_agent(change, conversation)
    else:
        change.add(TimerDone(tenant_id=state.tenant_id, id=message.timer_id))
    return change.done()


def _unread_after(state: ContactState, conversation: ConversationRow, up_to_seq: int | None) -> int:
    """What stays unread when all up to `up_to_seq` is read; messages that are not resident count as read."""
    if up_to_seq is None or up_to_seq >= conversation.last_seq:
        return 0
    later = sum(
        1
        for each in state.messages.values()
        if each.conversation_id == conversation.id and not each.outbound and each.seq > up_to_seq
    )
    return min(conversation.unread_count, later)


def _note_saved(change: Change, conversation_id: int, note: NoteRow, event: str) -> Effects:
    change.add(note)
    change.plain_event(event, conversation_id, {"note": note_resource(note)})
    return change.done(note)


def _no_agent() -> Effects:
    return Effects(
        refuse=InvalidInput(
            "That user cannot take conversations.",
            fields={"user_id": ["An active user of this tenant."]},
        )
    )
