"""The business' side: what is sent to a customer, by whom, and when that is refused. Pure.

A message and its outbox row are committed together; the outbox row has the message's id. The channel
actor hears of it after the commit.
"""

from typing import Any

from msgspec import structs, to_builtins

from engine.domain.config import Channel
from engine.domain.conversation import consent, window
from engine.domain.conversation.changes import Change
from engine.domain.conversation.composing import attachment_of, next_message
from engine.domain.conversation.finding import by_id, on_conversation
from engine.domain.conversation.lifecycle import (
    append,
    hand_to,
    know_customer,
    new_conversation,
    set_status,
    want_agent,
)
from engine.domain.conversation.messages import (
    By,
    NewAttachment,
    Retry,
    SendMessage,
    ShowTyping,
    Start,
    Started,
)
from engine.domain.conversation.state import OPEN_STATUSES, ContactState, Tracked, tracked_row
from engine.domain.conversation.threads import thread_of
from engine.domain.outbound import (
    MarkRead,
    OutboxItem,
    OutboxPayload,
    Send,
    SendInteractive,
    SendReaction,
    SendTemplate,
)
from engine.domain.outbox import Deliver, channel_address
from engine.domain.platforms import rules_of
from engine.domain.resources import MessageResource, message_resource
from engine.domain.rows import (
    AttachmentRow,
    ConversationRow,
    MessagePatch,
    MessageRow,
    OutboxPatch,
    OutboxRow,
)
from engine.errors import Conflicting, MijraError, NotFound
from engine.ports import ConversationQuery, FoundMessage, MessageQuery
from engine.runtime import Context, Effects, Lane, Lookup, Tell

MISSED_MAX = 50
"""So many sequence numbers are named in a stale_conversation refusal; the client refetches beyond."""


def send(state: ContactState, message: SendMessage, ctx: Context) -> Effects | Lookup:
    if ctx.found is None:
        query = _needed(state, message, ctx)
        if query:
            return Lookup(query)
    found = ctx.found if isinstance(ctx.found, tuple) else ()
    conversation = state.resident(message.conversation_id) or _found_conversation(state, found)
    if conversation is None:
        return Effects(refuse=_not_found())
    first = _first_answer(state, message, found)
    if first is not None:
        return Effects(reply=first)
    change = Change(state, ctx, message.trace)
    refusal = _refusal(change, conversation, message)
    if refusal is not None:
        return Effects(refuse=refusal)
    reply_to = _message_named(state, message.reply_to, found)
    target = _message_named(state, message.target_message_id, found)
    if (message.reply_to is not None and reply_to is None) or (
        message.target_message_id is not None and (target is None or target.platform_id is None)
    ):
        return Effects(refuse=_not_found("The message that this one refers to was not found."))
    what, content = message.send, message.content
    if isinstance(what, SendReaction) and target is not None and target.platform_id is not None:
        what = structs.replace(what, platform_message_id=target.platform_id)
        content = {**content, "platform_message_id": target.platform_id, "message_id": target.id}
        reply_to = None
    if conversation.status not in OPEN_STATUSES or conversation.status == "pending":
        set_status(change, conversation, "open", message.by)
        want_agent(change, conversation)
    resource = queue_reply(
        change,
        conversation,
        send=what,
        type_=message.type,
        content=content,
        text=message.text,
        by=message.by,
        attachments=message.attachments,
        reply_to=reply_to if reply_to is not None else target,
        quote=reply_to,
        client_key=message.client_key,
        lane=Lane(message.lane),
    )
    return change.done(resource)


def start(state: ContactState, message: Start, ctx: Context) -> Effects | Lookup:
    """The business writes first. The open conversation is used where there is one, and with it the message
    that this client key stands for already."""
    change = Change(state, ctx, message.trace)
    existing = state.conversation
    if existing is not None and existing.status in OPEN_STATUSES and message.client_key is not None:
        first = _message_of_key(state, existing.id, message.client_key, ctx)
        if isinstance(first, Lookup):
            return first
        if first is not None:
            shown = change.resource(existing)
            return Effects(reply=Started(conversation=shown, message=first, created=False))
    unwanted = consent.refusal(state)
    if message.send is not None and unwanted is not None:
        return Effects(refuse=unwanted)
    if message.send is not None and _is_meaningless(_channel(change), message.send):
        return Effects(refuse=_one_way())
    if message.send is not None:
        ends_at = existing.reply_window_ends_at if existing is not None else None
        refusal = window.refusal(
            change, send=message.send, by=message.by, platform=message.platform, ends_at=ends_at
        )
        if refusal is not None:
            return Effects(refuse=refusal)
    phone = message.recipient if message.recipient.startswith("+") else None
    know_customer(change, keys=(state.key,), platform=message.platform, name=message.name, phone=phone)
    created = False
    conversation = existing
    if conversation is None or conversation.status not in OPEN_STATUSES:
        conversation = new_conversation(
            change, platform=message.platform, channel_type="direct", status="open"
        )
        if message.by.id is not None:
            hand_to(change, conversation, message.by.id, by=message.by, kind="assign")
        want_agent(change, conversation)
        created = True
    resource: MessageResource | None = None
    if message.send is not None:
        resource = queue_reply(
            change,
            conversation,
            send=message.send,
            type_=message.type,
            content=message.content,
            text=message.text,
            by=message.by,
            attachments=message.attachments,
            client_key=message.client_key,
            lane=Lane.REALTIME,
        )
    shown = change.resource(conversation)
    return change.done(Started(conversation=shown, message=resource, created=created))


def retry(state: ContactState, message: Retry, ctx: Context) -> Effects | Lookup:
    """Sends a failed message again: the same message, the same outbox row."""
    found = ctx.found
    if not isinstance(found, FoundMessage):
        return Lookup(by_id(state, message.message_id))
    row = found.message
    if (
        row is None
        or row.conversation_id != message.conversation_id
        or not state.owns(row.contact_key)
        or found.outbox is None
    ):
        return Effects(refuse=_not_found("There is no such message to send again."))
    target = state.messages.get(row.id)
    if target is None:
        target = tracked_row(row)
        state.track(target)
    if target.status not in ("failed", "unknown"):
        return Effects(
            refuse=Conflicting(
                f"The message is {target.status}; only failed messages can be sent again.",
                code="not_retryable",
            )
        )
    unwanted = consent.refusal(state)
    if unwanted is not None:
        return Effects(refuse=unwanted)
    item = structs.replace(found.outbox, state="queued", attempts=0, not_before=ctx.now)
    change = Change(state, ctx, message.trace)
    if not isinstance(item.send, SendTemplate | MarkRead):
        conversation = state.resident(message.conversation_id) or state.conversation
        ends_at = conversation.reply_window_ends_at if conversation is not None else None
        platform = conversation.platform if conversation is not None else ""
        refusal = window.refusal(
            change, send=item.send, by=message.by, platform=platform, ends_at=ends_at, again=target
        )
        if refusal is not None:
            return Effects(refuse=refusal)
        item = structs.replace(item, window_ends_at=ends_at, by_person=message.by.kind == "user")
    flagged = target.status == "unknown"
    target.status, target.withdrawn = "pending", False
    target.failed_at = None
    change.add(
        MessagePatch(
            tenant_id=state.tenant_id,
            id=target.id,
            status="pending",
            clear_failure=True,
            metadata={"resent": True} if flagged else None,
        )
    )
    change.add(
        OutboxPatch(
            tenant_id=state.tenant_id,
            id=item.id,
            state="queued",
            attempts=0,
            not_before=ctx.now,
            payload=to_builtins(
                OutboxPayload(
                    send=item.send,
                    reply_to=item.reply_to,
                    resent=flagged,
                    window_ends_at=item.window_ends_at,
                    by_person=item.by_person,
                    thread=item.thread,
                )
            ),
            updated_at=ctx.now,
        )
    )
    change.tell(
        Tell(channel_address(state.tenant_id, state.channel_id), Deliver(item, again=True), Lane.REALTIME)
    )
    change.status_event(target.conversation_id, target, None)
    row.status, row.failed_at, row.error = "pending", None, None
    if flagged:
        row.metadata = {**row.metadata, "resent": True}
    return change.done(message_resource(row, found.attachments))


@on_conversation
def show_typing(
    state: ContactState, conversation: ConversationRow, message: ShowTyping, ctx: Context
) -> Effects:
    change = Change(state, ctx, message.trace)
    queue_signal(change, conversation, typing=True)
    return change.done()


def queue_reply(
    change: Change,
    conversation: ConversationRow,
    *,
    send: Send,
    type_: str,
    content: dict[str, Any],
    text: str,
    by: By,
    attachments: tuple[NewAttachment, ...] = (),
    reply_to: Tracked | None = None,
    quote: Tracked | None = None,
    client_key: str | None = None,
    metadata: dict[str, Any] | None = None,
    lane: Lane,
) -> MessageResource:
    """Stores a message of ours as pending with its outbox row, and tells the channel after the commit."""
    row = next_message(
        change,
        conversation,
        direction="outbound",
        type_=type_,
        content=content,
        text=text,
        sender=(by.kind, by.id, by.name),
        status="pending",
        reply_to=reply_to,
        metadata=metadata or {},
        client_key=client_key,
    )
    files = tuple(_attachment(change, row, each) for each in attachments)
    if by.kind == "user":
        conversation.unread_count = 0
        if conversation.status == "new":
            conversation.status = "open"
        if conversation.first_response_at is None and conversation.last_inbound_at is not None:
            conversation.first_response_at = change.now
    append(change, conversation, row, files)
    _queue(
        change,
        conversation,
        outbox_id=row.id,
        message_id=row.id,
        send=send,
        reply_to=quote.platform_id if quote is not None else None,
        lane=lane,
        by_person=by.kind == "user",
    )
    resource = change.message_event("message.sent", conversation, row, files)
    change.state.messages[row.id].answer = resource
    return resource


def queue_signal(change: Change, conversation: ConversationRow, *, typing: bool) -> None:
    """Mark-read (and typing) on the platform, about the newest message of the customer that is known."""
    newest = _newest_inbound(change.state, conversation.id)
    if newest is None or newest.platform_id is None:
        return
    _queue(
        change,
        conversation,
        outbox_id=change.ctx.new_id(),
        message_id=None,
        send=MarkRead(platform_message_id=newest.platform_id, typing=typing),
        reply_to=None,
        lane=Lane.REALTIME,
    )


def _queue(
    change: Change,
    conversation: ConversationRow,
    *,
    outbox_id: int,
    message_id: int | None,
    send: Send,
    reply_to: str | None,
    lane: Lane,
    by_person: bool = False,
) -> None:
    recipient = conversation.metadata.get("recipient") or _recipient(conversation)
    thread = thread_of(conversation) if message_id is not None else None
    row = OutboxRow(
        tenant_id=conversation.tenant_id,
        id=outbox_id,
        channel_id=conversation.channel_id,
        conversation_id=conversation.id,
        contact_key=conversation.contact_key,
        message_id=message_id,
        recipient=recipient,
        lane=int(lane),
        state="queued",
        attempts=0,
        not_before=change.now,
        payload=to_builtins(
            OutboxPayload(
                send=send,
                reply_to=reply_to,
                window_ends_at=conversation.reply_window_ends_at,
                by_person=by_person,
                thread=thread,
            )
        ),
        error=None,
        trace=change.trace,
        created_at=change.now,
        updated_at=change.now,
    )
    change.add(row)
    item = OutboxItem(
        id=row.id,
        tenant_id=row.tenant_id,
        channel_id=row.channel_id,
        conversation_id=row.conversation_id,
        contact_key=row.contact_key,
        message_id=message_id,
        recipient=recipient,
        lane=row.lane,
        state="queued",
        attempts=0,
        not_before=row.not_before,
        send=send,
        reply_to=reply_to,
        trace=row.trace,
        created_at=row.created_at,
        window_ends_at=conversation.reply_window_ends_at,
        by_person=by_person,
        thread=thread,
    )
    change.tell(Tell(channel_address(conversation.tenant_id, conversation.channel_id), Deliver(item), lane))


def _recipient(conversation: ConversationRow) -> str:
    """Telephone numbers are keys without '+' and go out with it; other ids stay as they are."""
    key = conversation.contact_key
    return f"+{key}" if rules_of(conversation.platform).by_phone and key.isdecimal() else key


def _attachment(change: Change, row: MessageRow, new: NewAttachment) -> AttachmentRow:
    return attachment_of(
        change,
        row,
        kind=new.kind,
        state="stored",
        source_url=new.link,
        sha256=new.sha256,
        filename=new.filename,
        media_type=new.media_type,
        size=new.size,
        storage_key=new.storage_key,
    )


# ------------------------------------------------------------------ what must be known, what is refused


def _needed(
    state: ContactState, message: SendMessage, ctx: Context
) -> tuple[ConversationQuery | MessageQuery, ...]:
    """All that is not resident and that the decision needs, asked for at once."""
    needed: list[ConversationQuery | MessageQuery] = []
    if state.resident(message.conversation_id) is None:
        needed.append(ConversationQuery(tenant_id=state.tenant_id, conversation_id=message.conversation_id))
    for message_id in (message.reply_to, message.target_message_id):
        if message_id is not None and message_id not in state.messages:
            needed.append(by_id(state, message_id))
    if message.client_key is not None:
        known = _resident_of_key(state, message.conversation_id, message.client_key)
        if (known is None and ctx.suspect) or (known is not None and known.answer is None):
            needed.append(_key_query(state, message.conversation_id, message.client_key))
    return tuple(needed)


def _message_of_key(
    state: ContactState, conversation_id: int, key: str, ctx: Context
) -> MessageResource | Lookup | None:
    """The message that a client key stands for already, where no other question is to be asked."""
    known = _resident_of_key(state, conversation_id, key)
    if known is not None and known.answer is not None:
        return known.answer
    if known is None and not ctx.suspect:
        return None
    found = ctx.found
    if not isinstance(found, FoundMessage):
        return Lookup(_key_query(state, conversation_id, key))
    return message_resource(found.message, found.attachments) if found.message is not None else None


def _resident_of_key(state: ContactState, conversation_id: int, key: str) -> Tracked | None:
    first = state.client_keys.get((conversation_id, key))
    return state.messages.get(first) if first is not None else None


def _key_query(state: ContactState, conversation_id: int, key: str) -> MessageQuery:
    return MessageQuery(
        tenant_id=state.tenant_id, channel_id=state.channel_id, client_key=(conversation_id, key)
    )


def _first_answer(
    state: ContactState, message: SendMessage, found: tuple[object, ...]
) -> MessageResource | None:
    """The message that this client key stands for already."""
    key = message.client_key
    if key is None:
        return None
    known = _resident_of_key(state, message.conversation_id, key)
    if known is not None and known.answer is not None:
        return known.answer
    for each in found:
        if isinstance(each, FoundMessage) and each.message is not None:
            row = each.message
            if row.client_key == key and row.conversation_id == message.conversation_id:
                return message_resource(row, each.attachments)
    return None


def _refusal(change: Change, conversation: ConversationRow, message: SendMessage) -> MijraError | None:
    state, ctx = change.state, change.ctx
    if conversation.status == "archived":
        return Conflicting("The conversation is archived.", code="conversation_closed")
    if conversation.status not in OPEN_STATUSES and conversation is not state.conversation:
        # The newest is the one that the customer's next message continues; two must never be open.
        return Conflicting(
            "The customer has a newer conversation on this channel; answer there.",
            code="conversation_closed",
        )
    channel = ctx.config.channels.get(conversation.channel_id)
    if channel is None or channel.status == "disabled":
        return Conflicting("The channel is not connected any more.", code="channel_disabled")
    if conversation.channel_type == "group":
        return Conflicting("Messages to groups cannot be sent on this channel.", code="not_supported")
    unwanted = consent.refusal(state)
    if unwanted is not None:
        return unwanted
    if _is_meaningless(channel, message.send):
        return _one_way()
    refusal = window.refusal(
        change,
        send=message.send,
        by=message.by,
        platform=conversation.platform,
        ends_at=conversation.reply_window_ends_at,
    )
    if refusal is not None:
        return refusal
    if message.seen_seq is not None and not message.force:
        missed = _missed(state, conversation, message.seen_seq, message.by)
        if missed:
            return Conflicting(
                "Others have written since you last looked.",
                code="stale_conversation",
                data={"last_seq": conversation.last_seq, "missed_seqs": missed},
            )
    return None


def _missed(state: ContactState, conversation: ConversationRow, seen_seq: int, by: By) -> list[int]:
    """Sequence numbers after `seen_seq` that a customer or a colleague wrote. Those that are not
    resident count: better one question too many than an answer past the customer."""
    authors = {
        each.seq: each.author for each in state.messages.values() if each.conversation_id == conversation.id
    }
    own = f"user:{by.id}"
    missed: list[int] = []
    for seq in range(max(seen_seq, 0) + 1, conversation.last_seq + 1):
        author = authors.get(seq, "customer")
        if author == "customer" or (author.startswith("user:") and author != own):
            missed.append(seq)
            if len(missed) == MISSED_MAX:
                break
    return missed


def _is_meaningless(channel: Channel | None, send: Send) -> bool:
    """Choices, where nobody can answer."""
    if channel is None or not isinstance(send, SendInteractive):
        return False
    return rules_of(channel.platform).connection.is_one_way(channel.external_id)


def _one_way() -> Conflicting:
    return Conflicting("Nobody can answer this sender, so choices cannot be offered.", code="one_way")


def _channel(change: Change) -> Channel | None:
    return change.config.channels.get(change.state.channel_id)


def _not_found(sentence: str = "There is no such conversation.") -> NotFound:
    return NotFound(sentence)


def _message_named(state: ContactState, message_id: int | None, found: tuple[object, ...]) -> Tracked | None:
    if message_id is None:
        return None
    resident = state.messages.get(message_id)
    if resident is not None:
        return resident
    for each in found:
        if isinstance(each, FoundMessage) and each.message is not None:
            row = each.message
            if row.id == message_id and state.owns(row.contact_key):
                return tracked_row(row)
    return None


def _found_conversation(state: ContactState, found: tuple[object, ...]) -> ConversationRow | None:
    for each in found:
        if (
            isinstance(each, ConversationRow)
            and each.channel_id == state.channel_id
            and state.owns(each.contact_key)
        ):
            return state.adopt(each)
    return None


def _newest_inbound(state: ContactState, conversation_id: int) -> Tracked | None:
    newest: Tracked | None = None
    for each in state.messages.values():
        if each.outbound or each.conversation_id != conversation_id:
            continue
        if newest is None or each.seq > newest.seq:
            newest = each
    return newest
