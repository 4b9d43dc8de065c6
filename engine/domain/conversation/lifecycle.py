"""How a conversation comes to be, opens and closes again, changes hands and takes in messages.

The verbs that both sides of the story share: the customer's (receiving.py) and the agent's (replying.py,
desk.py). Each works on a Change and leaves the decision to its caller.
"""

from typing import Any

from engine.domain.assigner.messages import ASSIGNER_LOAD, LoadChanged, Want
from engine.domain.assigner.messages import address_of as assigner_of
from engine.domain.content import DELETED_PREVIEW, preview
from engine.domain.conversation.changes import Change
from engine.domain.conversation.messages import By, NamedBeside, address_of
from engine.domain.conversation.state import OPEN_STATUSES, snapshot, tracked_row
from engine.domain.conversation.threads import CARRIED
from engine.domain.customers.messages import Renamed
from engine.domain.customers.messages import address_of as customers_of
from engine.domain.outbox import Fetch, media_address
from engine.domain.phones import with_variants
from engine.domain.platforms import rules_of
from engine.domain.resources import CustomerRef
from engine.domain.rows import (
    AssignmentRow,
    AttachmentRow,
    ConversationRow,
    CustomerRow,
    HandleRow,
    MessageRow,
    TimerDone,
    TimerRow,
)
from engine.domain.timers.messages import Arm, Disarm
from engine.domain.timers.messages import address_of as timers_of
from engine.runtime import Lane, Tell

SNOOZE_KEY = "snooze_timer"
"""In a conversation's metadata: the id of the durable timer that will wake it."""

LAST_SEEN_PRECISION_MS = 5 * 60 * 1000
"""`last_seen_at` of a customer is this coarse: one row less to write for each message of a burst."""


def know_customer(
    change: Change,
    *,
    keys: tuple[str, ...],
    platform: str,
    name: str | None,
    phone: str | None,
    email: str | None = None,
) -> None:
    """Creates the customer on first sight, adds handles that are new, keeps the name fresh.

    Where contacts are telephone numbers, all ways to write theirs are handles, so that the unique key holds
    one contact for them however many mailboxes they come by.
    """
    if rules_of(platform).by_phone:
        keys = tuple(each for key in keys for each in with_variants(key))
    state, now = change.state, change.now
    customer = state.customer
    if customer is None:
        customer = state.customer = CustomerRow(
            tenant_id=state.tenant_id,
            id=change.ctx.new_id(),
            name=name or phone or keys[0],
            avatar_url=None,
            email=email,
            phone=phone,
            locale=None,
            timezone=None,
            attributes={},
            source=platform,
            first_seen_at=now,
            last_seen_at=now,
            created_at=now,
        )
        change.add(snapshot(customer))
        keys = tuple(dict.fromkeys((state.key, *keys)))
    else:
        known = name_customer(change, name=name) | shown_as(change, state.root)
        known |= know_address(customer, phone=phone, email=email)
        if known:
            change.customer_event()
        if known or now - customer.last_seen_at > LAST_SEEN_PRECISION_MS:
            customer.last_seen_at = now
            change.add(snapshot(customer))
    if change.ctx.suspect and state.handles:
        # One of the handles belongs to another contact, which is the same person.
        beside = NamedBeside(state.key, customer.id, change.trace)
        for key in keys:
            if state.wants_handle(key, now):
                state.leave_handle(key, now)
                change.tell(Tell(address_of(state.tenant_id, state.channel_id, key), beside))
        return
    for key in keys:
        if state.wants_handle(key, now):
            add_handle(change, key, platform=platform, display=name)


def know_address(customer: CustomerRow, *, phone: str | None, email: str | None) -> bool:
    """Takes in number and address where the customer has none; whether one is new."""
    before = (customer.phone, customer.email)
    customer.phone, customer.email = customer.phone or phone, customer.email or email
    return (customer.phone, customer.email) != before


def name_customer(change: Change, *, name: str | None, avatar_url: str | None = None) -> bool:
    """The platform's word on name and picture, which counts until a person has given a name. Whether it is
    new."""
    customer = change.state.customer
    assert customer is not None
    before = (customer.name, customer.avatar_url)
    if name and not customer.named_by_hand:
        customer.name = name
    customer.avatar_url = avatar_url or customer.avatar_url
    return spread_name(change, before)


def spread_name(change: Change, before: tuple[str, str | None]) -> bool:
    """Whether the customer has another name or picture than `before`; those who are shown as he is hear of
    it."""
    state = change.state
    customer = state.customer
    assert customer is not None
    if (customer.name, customer.avatar_url) == before:
        return False
    if state.shared and customer.merged_into is None:
        change.tell(Tell(customers_of(state.tenant_id), Renamed(customer.id, change.trace)))
    return True


def shown_as(change: Change, root: CustomerRef | None) -> bool:
    """Name and picture of whom the customer was merged into, as they are now; whether they were others. They
    are told when they change; a process that died in between has told nobody."""
    customer = change.state.customer
    assert customer is not None
    if root is None or root.id != customer.merged_into:
        return False
    if (root.name, root.avatar_url) == (customer.shown_name, customer.shown_avatar_url):
        return False
    customer.shown_name, customer.shown_avatar_url = root.name, root.avatar_url
    return True


def add_handle(change: Change, key: str, *, platform: str, display: str | None) -> None:
    """From now on `key` leads to this contact."""
    state = change.state
    assert state.customer is not None
    if state.handles:
        change.customer_event()
    state.handles[key] = display
    change.add(
        HandleRow(
            tenant_id=state.tenant_id,
            channel_id=state.channel_id,
            external_id=key,
            contact_key=state.key,
            customer_id=state.customer.id,
            platform=platform,
            display=display,
            created_at=change.now,
        )
    )


def new_conversation(
    change: Change, *, platform: str, channel_type: str, status: str, recipient: str | None = None
) -> ConversationRow:
    """Opens a new conversation of the contact; the previous one, if any, is closed."""
    state = change.state
    assert state.customer is not None
    previous = state.conversation
    metadata: dict[str, Any] = {}
    if recipient is not None:
        metadata["recipient"] = recipient
    if previous is not None:
        carried = {name: previous.metadata[name] for name in CARRIED if name in previous.metadata}
        metadata = {**carried, **metadata}
    if previous is not None:
        state.adopt(previous)
    conversation = state.conversation = ConversationRow(
        tenant_id=state.tenant_id,
        id=change.ctx.new_id(),
        channel_id=state.channel_id,
        platform=platform,
        contact_key=state.key,
        customer_id=state.customer.id,
        channel_type=channel_type,
        status=status,
        assigned_to=None,
        department_id=None,
        last_seq=0,
        message_count=0,
        unread_count=0,
        last_message=None,
        last_message_at=change.now,
        last_inbound_at=None,
        first_response_at=None,
        resolved_at=None,
        reply_window_ends_at=previous.reply_window_ends_at if previous is not None else None,
        snoozed_until=None,
        tag_ids=[],
        auto_replied={},
        metadata=metadata,
        created_at=change.now,
        updated_at=change.now,
    )
    change.touch(conversation)
    change.event("conversation.created", conversation)
    return conversation


def set_status(change: Change, conversation: ConversationRow, status: str, by: By) -> None:
    """Moves to `status` with all that follows: times, the snooze timer, the agent's load, the event."""
    before = conversation.status
    if before == status:
        return
    was_open, is_open = before in OPEN_STATUSES, status in OPEN_STATUSES
    conversation.status = status
    if status == "resolved":
        conversation.resolved_at = change.now
    elif is_open:
        conversation.resolved_at = None
    if status != "pending":
        wake(change, conversation)
    change.touch(conversation)
    status_event(change, conversation, before, by)
    agent = conversation.assigned_to
    if was_open != is_open and agent is not None:
        report_load(change, conversation, agent if was_open else None, agent if is_open else None)


def status_event(change: Change, conversation: ConversationRow, before: str, by: By) -> None:
    """Also when only the end of a snooze moved: whoever shows the conversation must hear of it."""
    change.event(
        "conversation.status.changed",
        conversation,
        previous_status=before,
        by={"type": by.kind, "id": by.id, "name": by.name},
    )


def snooze(change: Change, conversation: ConversationRow, until: int) -> None:
    """Arms the durable timer that reopens the conversation; an earlier one is replaced."""
    wake(change, conversation)
    timer_id = arm(change, conversation, "snooze", until)
    conversation.snoozed_until = until
    conversation.metadata = {**conversation.metadata, SNOOZE_KEY: timer_id}
    change.touch(conversation)


def arm(change: Change, conversation: ConversationRow, kind: str, due_at: int) -> int:
    """A durable timer of this conversation, told to the contact that it is of now; its id."""
    row = TimerRow(
        tenant_id=conversation.tenant_id,
        id=change.ctx.new_id(),
        kind=kind,
        channel_id=conversation.channel_id,
        contact_key=conversation.contact_key,
        conversation_id=conversation.id,
        due_at=due_at,
    )
    change.add(row)
    change.tell(Tell(timers_of(conversation.tenant_id), Arm(row)))
    return row.id


def wake(change: Change, conversation: ConversationRow) -> None:
    """Drops the snooze, if there is one."""
    timer_id = conversation.metadata.get(SNOOZE_KEY)
    if timer_id is None:
        return
    conversation.snoozed_until = None
    conversation.metadata = {k: v for k, v in conversation.metadata.items() if k != SNOOZE_KEY}
    change.touch(conversation)
    change.add(TimerDone(tenant_id=conversation.tenant_id, id=timer_id))
    change.tell(Tell(timers_of(conversation.tenant_id), Disarm(timer_id)))


def hand_to(
    change: Change,
    conversation: ConversationRow,
    user_id: int | None,
    *,
    by: By,
    kind: str,
    note: str | None = None,
) -> None:
    """Assigns, unassigns (None) or transfers, with history, event and the agents' loads."""
    before = conversation.assigned_to
    conversation.assigned_to = user_id
    change.add(
        AssignmentRow(
            tenant_id=conversation.tenant_id,
            id=change.ctx.new_id(),
            conversation_id=conversation.id,
            kind=kind,
            from_user_id=before,
            to_user_id=user_id,
            by_user_id=by.id,
            note=note,
            at=change.now,
        )
    )
    if user_id is not None and conversation.status == "new":
        conversation.status = "open"
    change.touch(conversation)
    name = "conversation.transferred" if kind == "transfer" else "conversation.assigned"
    change.event(
        name,
        conversation,
        previous_assigned_to=before,
        note=note,
        by={"type": by.kind, "id": by.id, "name": by.name},
    )
    if conversation.status in OPEN_STATUSES:
        report_load(change, conversation, before, user_id)


def report_load(change: Change, conversation: ConversationRow, before: int | None, after: int | None) -> None:
    """Tells the assigner that an open conversation left or reached an agent."""
    if change.config.assignment.mode in ASSIGNER_LOAD and before != after:
        change.tell(Tell(assigner_of(conversation.tenant_id), LoadChanged(conversation.id, before, after)))


def want_agent(change: Change, conversation: ConversationRow) -> None:
    """Asks the assigner for an agent, where the tenant assigns automatically and the conversation needs one
    (the same ones that the store counts as waiting)."""
    if conversation.assigned_to is not None or conversation.status not in ("new", "open"):
        return
    if change.config.assignment.mode in ASSIGNER_LOAD:
        change.tell(
            Tell(
                assigner_of(conversation.tenant_id),
                Want(conversation.id, conversation.channel_id, conversation.contact_key),
            )
        )


def append(
    change: Change,
    conversation: ConversationRow,
    row: MessageRow,
    attachments: tuple[AttachmentRow, ...] = (),
) -> None:
    """Stores a message as the next of its conversation: sequence, counts, last message, tracking.
    `row.seq` must be `conversation.last_seq + 1`."""
    assert row.seq == conversation.last_seq + 1, "a sequence number is given out once, in order"
    conversation.last_seq = row.seq
    conversation.message_count += 1
    conversation.last_message = {
        "seq": row.seq,
        "direction": row.direction,
        "type": row.type,
        "preview": preview(row.type, row.text) if row.deleted_at is None else DELETED_PREVIEW,
        "at": row.created_at,
    }
    conversation.last_message_at = row.created_at
    change.touch(conversation)
    change.add(row)
    for attachment in attachments:
        change.add(attachment)
        if attachment.state == "pending":
            change.tell(
                Tell(
                    media_address(conversation.tenant_id),
                    Fetch(attachment, conversation.platform),
                    Lane.NORMAL,
                )
            )
    change.state.track(tracked_row(row))
