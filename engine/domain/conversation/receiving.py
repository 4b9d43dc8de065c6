"""The customer's side: what one inbound event changes. Pure.

Order of a stored message: dedup, customer and handles, find or create or reopen the conversation, the
message with its sequence number, the agent to be found, the automated reply. All in one commit.
"""

from typing import Any

from msgspec import ValidationError, convert, structs, to_builtins

from engine.domain import autoreply
from engine.domain.content import DELETED_PREVIEW, preview
from engine.domain.conversation import consent, echoes
from engine.domain.conversation.changes import Change
from engine.domain.conversation.composing import attachment_of, next_message
from engine.domain.conversation.delivery import receive_status, receive_watermark, sent_by_platform
from engine.domain.conversation.finding import by_id, by_platform, found_message
from engine.domain.conversation.lifecycle import (
    add_handle,
    append,
    hand_to,
    know_customer,
    name_customer,
    new_conversation,
    set_status,
    want_agent,
)
from engine.domain.conversation.messages import SYSTEM, By, KnowProfile, Receive, Received, address_of
from engine.domain.conversation.replying import queue_reply
from engine.domain.conversation.state import (
    OPEN_STATUSES,
    ContactState,
    Early,
    Tracked,
    snapshot,
    tracked_row,
)
from engine.domain.conversation.threads import may_answer_automatically, note_automatic, note_thread
from engine.domain.conversation.window import has_room
from engine.domain.inbound import (
    NO_TIME,
    AccessWithdrawn,
    AccountNotice,
    Announced,
    Contact,
    ContactRenumbered,
    Media,
    MessageDeleted,
    MessageEchoed,
    MessageEdited,
    MessageReceived,
    StandingChanged,
    StatusChanged,
    StatusesReached,
    Unsupported,
)
from engine.domain.outbound import SendInteractive, SendText
from engine.domain.phones import with_variants
from engine.domain.platforms import rules_of
from engine.domain.resources import rfc3339, window_is_open
from engine.domain.rows import (
    AttachmentRow,
    ConversationRow,
    MessagePatch,
    MessageRow,
)
from engine.ports import FoundMessage
from engine.runtime import Context, Effects, Lane, Lookup

FUTURE_MS_MAX = 5 * 60 * 1000
"""A platform time further ahead of ours is not believed: a wrong clock must not hold a window open."""

DUPLICATE = Received(outcome="duplicate")
IGNORED = Received(outcome="ignored")

NAME_CHARACTERS_MAX = 200
"""Names of people end before; what is longer is somebody's joke."""

SILENT_TYPES = frozenset({"reaction", "system"})
"""Kept in the history, but no new thing to read, to answer or to open a conversation's window."""


def receive(state: ContactState, message: Receive, ctx: Context) -> Effects | Lookup:
    event = message.event
    if event.at == NO_TIME:
        event = structs.replace(event, at=message.received_at)
    match event:
        case MessageReceived():
            return _message(state, message, event, ctx)
        case MessageEchoed():
            return _echo(state, message, event, ctx)
        case MessageEdited():
            return _edited(state, message, event, ctx)
        case MessageDeleted():
            return _deleted(state, message, event, ctx)
        case StatusChanged():
            return receive_status(state, message, event, ctx)
        case StatusesReached():
            return receive_watermark(state, message, event, ctx)
        case ContactRenumbered():
            return _renumbered(state, message, event, ctx)
        case StandingChanged():
            return consent.standing(state, message, event, ctx)
        case Unsupported():
            return _unsupported(state, message, event, ctx)
        case Announced() | AccountNotice() | AccessWithdrawn():
            # What is only announced was read before it came here, or nobody can read it.
            return Effects(reply=IGNORED)


# ------------------------------------------------------------------ messages


def _message(
    state: ContactState,
    message: Receive,
    event: MessageReceived,
    ctx: Context,
    looked_up: FoundMessage | None = None,
) -> Effects | Lookup:
    if event.opts == consent.OUT and looked_up is None:
        looked = consent.look_for_waiting(state, event.platform_id, ctx)
        if isinstance(looked, Lookup):
            return looked
        looked_up = looked
    if event.answers is not None and event.answers not in state.messages:
        owner = _answered(state, event.answers, event.platform_id, ctx)
        if isinstance(owner, Effects | Lookup):
            return owner
        looked_up = owner
    seen = _seen(state, event.platform_id, event.at, ctx, looked_up or found_message(ctx))
    if seen is not None:
        return seen
    change = Change(state, ctx, message.trace)
    contact, written_by = event.contact, None
    if event.answers is not None and state.handles and not state.handles.keys() & {*contact.keys}:
        # The same person from another address, or whom they showed it to: it is this contact's matter, and no
        # address of theirs for all time.
        contact, written_by = Contact(keys=(state.key,)), contact.keys[0]
    know_customer(
        change,
        keys=_keys(contact),
        platform=_platform(change),
        name=None if contact.group else contact.name,
        phone=None if contact.group else contact.phone,
        email=None if contact.group else contact.email,
    )
    silent = event.type in SILENT_TYPES
    opts = event.opts or _opts_by_writing(state, event)
    conversation, opened = _conversation_for(change, contact, reopen=not silent)
    note_thread(conversation, event, written_by=written_by)
    content, reply_to = _linked(state, event.type, event.content, event.reply_to)
    if reply_to is None and event.answers is not None:
        reply_to = state.messages.get(event.answers)
    row = _row(
        change,
        conversation,
        direction="inbound",
        type_=event.type,
        content=content,
        text=event.text,
        platform_id=event.platform_id,
        at=event.at,
        reply_to=reply_to,
        metadata={
            **event.metadata,
            **_quoted(event.reply_to, reply_to),
            **({} if opts is None else {"opts": opts}),
            **({"written_by": written_by} if written_by is not None else {}),
        },
        sender_name=event.contact.name or written_by,
    )
    at = min(event.at, ctx.now + FUTURE_MS_MAX)
    attachments = _attachments(change, row, event.media)
    conversation.last_inbound_at = max(conversation.last_inbound_at or 0, at)
    if not silent:
        conversation.unread_count += 1
    window_ms = rules_of(conversation.platform).reply_window_ms
    if window_ms is not None and (not silent or event.opens_window):
        conversation.reply_window_ends_at = max(conversation.reply_window_ends_at or 0, at + window_ms)
    early = state.early.pop(event.platform_id, None)
    if early is not None and early.deleted_at is not None:
        row.deleted_at = early.deleted_at
    append(change, conversation, row, attachments)
    change.message_event("message.received", conversation, row, attachments)
    want_agent(change, conversation)
    if opts is not None:
        consent.opt(change, opts, source="message", message_id=row.id)
    if written_by is None:
        consent.arrives(change, source="message", since=at)
    if not silent and contact.group is None and event.automated:
        _answer_automatically(change, conversation, event, opened)
    return change.done(
        Received(outcome="stored", conversation_id=conversation.id, message_id=row.id, seq=row.seq)
    )


def _opts_by_writing(state: ContactState, event: MessageReceived) -> str | None:
    """A person who complained of a mail and writes another one is to be answered."""
    conversation = state.conversation
    if conversation is None or not event.automated or not consent.has_opted_out(state):
        return None
    return consent.IN if rules_of(conversation.platform).capabilities.writes_opt_in else None


def _answered(
    state: ContactState, message_id: int, platform_id: str, ctx: Context
) -> FoundMessage | Effects | Lookup:
    """The message of ours that an event proves to answer is looked up, and with it the event's own id, for
    which this is the answer. A message of another contact makes the event that contact's."""
    if not isinstance(ctx.found, tuple):
        return Lookup((by_id(state, message_id), by_platform(state, platform_id)))
    original, own = ctx.found
    row = original.message
    if row is not None and row.direction == "outbound":
        if not state.owns(row.contact_key):
            return Effects(forward=address_of(state.tenant_id, state.channel_id, row.contact_key))
        state.track(tracked_row(row))
    found: FoundMessage = own
    return found


def _echo(
    state: ContactState,
    message: Receive,
    event: MessageEchoed,
    ctx: Context,
    looked_up: FoundMessage | None = None,
) -> Effects | Lookup:
    """Written by the business in the platform's own app: part of the history, never answered."""
    whose = echoes.whose(state, event, ctx)
    if isinstance(whose, Lookup):
        return whose
    if whose is echoes.Whose.NOT_SAID_YET:
        return Effects(refuse=echoes.come_again())
    if whose is echoes.Whose.KNOWN:
        return Effects(reply=DUPLICATE)
    if isinstance(whose, Tracked):
        return _echo_of_own(Change(state, ctx, message.trace), whose, event)
    if not isinstance(ctx.found, tuple):
        seen = _seen(state, event.platform_id, event.at, ctx, looked_up or found_message(ctx))
        if seen is not None:
            return seen
    change = Change(state, ctx, message.trace)
    contact = event.contact
    know_customer(
        change,
        keys=_keys(contact),
        platform=_platform(change),
        name=contact.name,
        phone=contact.phone,
        email=contact.email,
    )
    conversation, _ = _conversation_for(change, contact, reopen=False)
    content, reply_to = _linked(state, event.type, event.content, event.reply_to)
    row = _row(
        change,
        conversation,
        direction="outbound",
        type_=event.type,
        content=content,
        text=event.text,
        platform_id=event.platform_id,
        at=event.at,
        reply_to=reply_to,
        metadata={**event.metadata, "echo": True, **_quoted(event.reply_to, reply_to)},
        sender_name=None,
    )
    attachments = _attachments(change, row, event.media)
    append(change, conversation, row, attachments)
    change.message_event("message.sent", conversation, row, attachments)
    want_agent(change, conversation)
    return change.done(
        Received(outcome="stored", conversation_id=conversation.id, message_id=row.id, seq=row.seq)
    )


def _echo_of_own(change: Change, target: Tracked, event: MessageEchoed) -> Effects:
    """It overtook the answer to the send, or there never was one: the platform has taken the message."""
    sent_by_platform(change, target, event.platform_id, event.at)
    return change.done(
        Received(
            outcome="applied",
            conversation_id=target.conversation_id,
            message_id=target.id,
            seq=target.seq,
        )
    )


def _unsupported(state: ContactState, message: Receive, event: Unsupported, ctx: Context) -> Effects | Lookup:
    if event.contact is None or event.platform_id is None:
        return Effects(reply=IGNORED)
    stored = MessageReceived(
        contact=event.contact,
        platform_id=event.platform_id,
        at=event.at if event.at is not None else message.received_at,
        type="unsupported",
        content={"reason": event.reason, "raw": event.raw},
        text="",
    )
    return _message(state, message, stored, ctx)


def _seen(
    state: ContactState, platform_id: str, at: int, ctx: Context, found: FoundMessage | None
) -> Effects | Lookup | None:
    """The answer for an event that was stored before; None when it is new.

    Recent ids are resident. One that may be older than what is resident is looked up, and so is one
    whose write set met a conflict. The store's unique key stands behind both.
    """
    if platform_id in state.by_platform:
        return Effects(reply=DUPLICATE)
    if found is not None:
        return Effects(reply=DUPLICATE) if found.message is not None else None
    if ctx.suspect or (not state.complete and at <= state.floor):
        return Lookup(by_platform(state, platform_id))
    return None


def _conversation_for(
    change: Change, contact: Contact, *, reopen: bool = True
) -> tuple[ConversationRow, bool]:
    """The open conversation, the last one reopened, or a new one; and whether it is new.

    With `reopen` False (an echo, a reaction, a system message) a resolved conversation is used as it is."""
    conversation = change.state.conversation
    if conversation is not None and conversation.status != "archived":
        if conversation.status in OPEN_STATUSES:
            if conversation.status == "pending" and reopen:
                set_status(change, conversation, "open", SYSTEM)
            return conversation, False
        if not reopen:
            return conversation, False
        age = change.now - (conversation.resolved_at or 0)
        if age <= change.config.conversations.reopen_seconds * 1000:
            if _needs_other_agent(change, conversation):
                hand_to(change, conversation, None, by=SYSTEM, kind="unassign")
            set_status(change, conversation, "open", SYSTEM)
            return conversation, False
    created = new_conversation(
        change,
        platform=_platform(change),
        channel_type="group" if contact.group else "direct",
        status="new",
    )
    return created, True


def _needs_other_agent(change: Change, conversation: ConversationRow) -> bool:
    """A reopened conversation goes back to its agent, unless the tenant or the agent's absence for
    good says otherwise."""
    if conversation.assigned_to is None:
        return False
    agent = change.config.agents.get(conversation.assigned_to)
    return change.config.assignment.reassign_on_reopen or agent is None or not agent.active


def _answer_automatically(
    change: Change, conversation: ConversationRow, event: MessageReceived, opened: bool
) -> None:
    config = change.config
    if not config.rules or not _can_be_answered(change, conversation):
        return
    if not may_answer_automatically(conversation, change.now):
        return
    rule = autoreply.choose(
        config,
        channel_id=conversation.channel_id,
        text=event.text,
        now=change.now,
        first_message=opened,
        answered={int(rule_id): at for rule_id, at in conversation.auto_replied.items()},
    )
    if rule is None:
        return
    agent = config.agents.get(conversation.assigned_to) if conversation.assigned_to else None
    customer = change.state.customer
    assert customer is not None
    variables = autoreply.variables_for(config, customer.name, agent.name if agent else None)
    try:
        send, type_, content, text = _automatic_send(rule.reply, variables)
    except ValidationError:
        # Checked when it was saved, perhaps by an older version. A reply that cannot be built answers
        # nothing; it does not stop the customer's message.
        return
    conversation.auto_replied = {**conversation.auto_replied, str(rule.id): change.now}
    note_automatic(conversation, change.now)
    queue_reply(
        change,
        conversation,
        send=send,
        type_=type_,
        content=content,
        text=text,
        by=By(kind="bot", id=None, name=rule.name),
        metadata={"auto_reply": rule.id},
        lane=Lane.NORMAL,
    )


def _can_be_answered(change: Change, conversation: ConversationRow) -> bool:
    """A message that comes days late finds its window closed, and the platform would refuse the reply; so it
    would where everything that still waits fills the window."""
    channel = change.config.channels.get(conversation.channel_id)
    if channel is None or channel.status == "disabled" or consent.refusal(change.state) is not None:
        return False
    ends_at = conversation.reply_window_ends_at
    return window_is_open(conversation.platform, ends_at, change.now) and has_room(
        change.state, conversation.platform, ends_at
    )


def _automatic_send(
    reply: dict[str, Any], variables: dict[str, str]
) -> tuple[SendText | SendInteractive, str, dict[str, Any], str]:
    """A rule's reply: {"type": "text", "body"} or {"type": "interactive", "kind", "body", "options", …}."""
    body = autoreply.render(str(reply.get("body", "")), variables)
    if reply.get("type") == "interactive":
        members = {**{k: v for k, v in reply.items() if k != "type"}, "body": body}
        send = convert(members, SendInteractive)
        content = {k: v for k, v in to_builtins(send).items() if v is not None and k != "type"}
        return send, "interactive", content, body
    return SendText(body=body), "text", {"body": body}, body


# ------------------------------------------------------------------ edits and deletions


def _edited(state: ContactState, message: Receive, event: MessageEdited, ctx: Context) -> Effects | Lookup:
    looked = _target(state, event, ctx)
    if not isinstance(looked, tuple):
        return looked
    target, own = looked
    if target is None:
        # The original never came, or comes later: the edit holds the whole new content, so keep it
        # as a message of its own.
        stored = MessageReceived(
            contact=event.contact,
            platform_id=event.platform_id,
            at=event.at,
            type=event.type,
            content=event.content,
            text=event.text,
            media=event.media,
            metadata={"edit_of": event.original_id},
        )
        return _instead(state, message, stored, ctx, own, by_business=event.by_business)
    if event.platform_id in state.by_platform:
        return Effects(reply=DUPLICATE)
    if target.edited_at is not None and event.at <= target.edited_at:
        return Effects(reply=DUPLICATE)
    target.edited_at = event.at
    return _patched(
        state,
        message,
        target,
        MessagePatch(
            tenant_id=state.tenant_id,
            id=target.id,
            content=event.content,
            text=event.text,
            edited_at=event.at,
        ),
        ctx,
        {"content": event.content, "edited_at": rfc3339(event.at)},
        preview(event.type, event.text),
    )


def _deleted(state: ContactState, message: Receive, event: MessageDeleted, ctx: Context) -> Effects | Lookup:
    looked = _target(state, event, ctx)
    if not isinstance(looked, tuple):
        return looked
    target, own = looked
    if target is None:
        state.remember_early(event.original_id, Early(deleted_at=event.at))
        stored = MessageReceived(
            contact=event.contact,
            platform_id=event.platform_id,
            at=event.at,
            type="system",
            content={"kind": "message_deleted", "body": "", "platform_message_id": event.original_id},
            text="",
        )
        return _instead(state, message, stored, ctx, own, by_business=event.by_business)
    if target.deleted_at is not None:
        return Effects(reply=DUPLICATE)
    target.deleted_at = event.at
    return _patched(
        state,
        message,
        target,
        MessagePatch(tenant_id=state.tenant_id, id=target.id, deleted_at=event.at),
        ctx,
        {"deleted_at": rfc3339(event.at)},
        DELETED_PREVIEW,
    )


_ECHOED = tuple(name for name in MessageEchoed.__struct_fields__ if name != "maybe_ours")


def _instead(
    state: ContactState,
    message: Receive,
    stored: MessageReceived,
    ctx: Context,
    own: FoundMessage | None,
    *,
    by_business: bool,
) -> Effects | Lookup:
    """An edit or deletion whose original is not there becomes a message, on the side that it came from."""
    if by_business:
        members = {name: getattr(stored, name) for name in _ECHOED}
        return _echo(state, message, MessageEchoed(**members), ctx, own)
    return _message(state, message, stored, ctx, own)


def _patched(
    state: ContactState,
    message: Receive,
    target: Tracked,
    patch: MessagePatch,
    ctx: Context,
    data: dict[str, Any],
    shown: str,
) -> Effects:
    """`shown`: what the inbox says from now on, where this is the conversation's last message."""
    change = Change(state, ctx, message.trace)
    change.add(patch)
    data = {"id": target.id, "conversation_id": target.conversation_id, "seq": target.seq, **data}
    conversation = state.resident(target.conversation_id)
    last = conversation.last_message if conversation is not None else None
    if conversation is not None and last is not None and last["seq"] == target.seq:
        conversation.last_message = {**last, "preview": shown}
        change.touch(conversation)
        change.event("message.updated", conversation, **data)
    else:
        change.plain_event("message.updated", target.conversation_id, data)
    return change.done(
        Received(
            outcome="applied",
            conversation_id=target.conversation_id,
            message_id=target.id,
            seq=target.seq,
        )
    )


# ------------------------------------------------------------------ renumbering


def _renumbered(
    state: ContactState, message: Receive, event: ContactRenumbered, ctx: Context
) -> Effects | Lookup:
    """The same person under a new number: the new handle leads to this contact from now on, and what
    we send goes to the new number."""
    seen = _seen(state, event.platform_id, event.at, ctx, found_message(ctx))
    if seen is not None:
        return seen
    change = Change(state, ctx, message.trace)
    know_customer(
        change,
        keys=_keys(event.contact),
        platform=_platform(change),
        name=event.contact.name,
        phone=event.contact.phone,
    )
    customer = state.customer
    assert customer is not None
    conversation, _ = _conversation_for(change, event.contact, reopen=False)
    if not ctx.suspect:
        for key in with_variants(event.new_key) if event.new_phone is not None else (event.new_key,):
            if state.wants_handle(key, ctx.now):
                add_handle(change, key, platform=conversation.platform, display=customer.name)
    if event.new_phone is not None and customer.phone != event.new_phone:
        customer.phone = event.new_phone
        change.add(snapshot(customer))
        change.customer_event()
    conversation.metadata = {
        **conversation.metadata,
        "recipient": event.new_phone or event.new_key,
    }
    row = _row(
        change,
        conversation,
        direction="inbound",
        type_="system",
        content=event.content,
        text=event.text,
        platform_id=event.platform_id,
        at=event.at,
        reply_to=None,
        metadata={},
        sender_name=customer.name,
    )
    append(change, conversation, row)
    change.message_event("message.received", conversation, row)
    want_agent(change, conversation)
    return change.done(
        Received(outcome="stored", conversation_id=conversation.id, message_id=row.id, seq=row.seq)
    )


def know_profile(state: ContactState, message: KnowProfile, ctx: Context) -> Effects:
    """A name from the platform, for a customer who is shown by the id."""
    customer = state.customer
    assert customer is not None
    change = Change(state, ctx, message.trace)
    if customer.name in {*state.handles, state.key} and message.name:
        name = message.name[:NAME_CHARACTERS_MAX]
        if name_customer(change, name=name, avatar_url=message.avatar_url):
            change.add(snapshot(customer))
            change.customer_event()
            if state.conversation is not None:
                change.event("conversation.updated", state.conversation)
    return change.done()


# ------------------------------------------------------------------ small parts


def _row(
    change: Change,
    conversation: ConversationRow,
    *,
    direction: str,
    type_: str,
    content: dict[str, Any],
    text: str,
    platform_id: str,
    at: int,
    reply_to: Tracked | None,
    metadata: dict[str, Any],
    sender_name: str | None,
) -> MessageRow:
    inbound = direction == "inbound"
    customer = change.state.customer
    assert customer is not None
    return next_message(
        change,
        conversation,
        direction=direction,
        type_=type_,
        content=content,
        text=text,
        sender=("customer", customer.id, sender_name or customer.name)
        if inbound
        else ("user", None, sender_name),
        status="received" if inbound else "sent",
        reply_to=reply_to,
        metadata=metadata,
        platform_id=platform_id,
        platform_at=at,
        sent_at=None if inbound else at,
    )


def _attachments(change: Change, row: MessageRow, media: tuple[Media, ...]) -> tuple[AttachmentRow, ...]:
    return tuple(
        attachment_of(
            change,
            row,
            kind=each.kind,
            state="pending",
            source_id=each.source_id,
            source_url=each.source_url,
            sha256=each.sha256,
            filename=each.filename,
            media_type=each.media_type,
        )
        for each in media
    )


def _linked(
    state: ContactState, type_: str, content: dict[str, Any], reply_to: str | None
) -> tuple[dict[str, Any], Tracked | None]:
    """Puts our own ids where the platform's are known: the quoted message, a reaction's target."""
    # A reaction names its target in its content: it quotes nothing.
    about = content.get("platform_message_id") if type_ == "reaction" else reply_to
    target = state.known(about) if about is not None else None
    if type_ == "reaction":
        content = {**content, "message_id": target.id if target is not None else None}
    return content, target


def _quoted(reply_to: str | None, target: Tracked | None) -> dict[str, Any]:
    """A quoted message that is not resident keeps its platform id, so that clients can still find it."""
    return {"reply_to_platform_id": reply_to} if reply_to is not None and target is None else {}


def _target(
    state: ContactState, event: MessageEdited | MessageDeleted, ctx: Context
) -> tuple[Tracked | None, FoundMessage | None] | Effects | Lookup:
    """The message that an edit or deletion is about (None: never seen), and what was found under the
    event's own id, which is asked for in the same lookup: it may become a message itself. A message of
    another contact is for that contact's actor to change."""
    resident = state.known(event.original_id)
    if resident is not None:
        return resident, None
    if state.complete and not ctx.suspect:
        return None, None
    if not isinstance(ctx.found, tuple):
        return Lookup((by_platform(state, event.original_id), by_platform(state, event.platform_id)))
    original, own = ctx.found
    if original.message is None:
        return None, own
    if not state.owns(original.message.contact_key):
        return Effects(forward=address_of(state.tenant_id, state.channel_id, original.message.contact_key))
    target = tracked_row(original.message)
    state.track(target)
    return target, own


def _keys(contact: Contact) -> tuple[str, ...]:
    return (contact.group,) if contact.group is not None else contact.keys


def _platform(change: Change) -> str:
    channel = change.config.channels.get(change.state.channel_id)
    return channel.platform if channel is not None else "unknown"
