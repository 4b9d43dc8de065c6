"""Two contacts that the platform has named in one breath become one: the younger moves into the older. Pure.

How they come to be two: one writes by a user id alone and by a number alone, and nobody can know. The first
event that carries both meets the other's handle, and tells the other contact. Each is its own only writer, so
it goes in steps, each of which may be lost with the process and comes again with the next such event:

    NamedBeside   from either contact to the other. The older stays, so that two who tell each other at the
                  same moment do not move into each other.
    the move      one commit of the younger: its handles lead to the older, its open conversation is closed
                  and handed over. From then on its mailbox forwards.
    Joined        to the older: what it owns now.
    the timer     durable: the older takes up the conversation that was handed over. It goes on as the
                  contact's open one, or the open one says that there is another, and counts its unread.

Conversations and messages keep their ids, and older ones their key: `ContactState.owns` knows them.
"""

from typing import Final

from engine.domain.conversation import consent
from engine.domain.conversation.changes import Change
from engine.domain.conversation.composing import next_message
from engine.domain.conversation.finding import conversation_of
from engine.domain.conversation.lifecycle import append, arm, hand_to, know_address, set_status, want_agent
from engine.domain.conversation.messages import SYSTEM, Joined, NamedBeside, TimerFired, address_of
from engine.domain.conversation.state import PLATFORM_SKEW_MS, ContactState, snapshot
from engine.domain.customers.messages import Merge
from engine.domain.customers.messages import address_of as customers_of
from engine.domain.resources import JOIN_KEY, OPTED_OUT
from engine.domain.rows import ContactMove, ConversationRow, TimerDone
from engine.runtime import Context, Effects, Lookup, Tell

TIMER: Final = "join"
"""Kind of the timer. `JOIN_KEY` in the metadata of a conversation that is handed over has its id, and whether
the conversation was open."""


def named_beside(state: ContactState, message: NamedBeside, ctx: Context) -> Effects:
    """The younger of the two moves; the older tells the younger to."""
    customer = state.customer
    if customer is None or customer.id == message.customer_id:
        return Effects()
    other = address_of(state.tenant_id, state.channel_id, message.contact_key)
    if customer.id < message.customer_id:
        return Effects(tell=(Tell(other, NamedBeside(state.key, customer.id, message.trace)),))
    change = Change(state, ctx, message.trace)
    change.add(
        ContactMove(
            tenant_id=state.tenant_id,
            channel_id=state.channel_id,
            from_key=state.key,
            into_key=message.contact_key,
            at=ctx.now,
        )
    )
    if state.conversation is not None:
        _hand_over(change, state.conversation, message)
    joined = Joined(
        customer_id=customer.id,
        handles=state.handles,
        phone=customer.phone,
        email=customer.email,
        trace=message.trace,
    )
    change.tells.insert(0, Tell(other, joined))
    effects = change.done()
    state.moved_to = message.contact_key
    return effects


def _hand_over(change: Change, conversation: ConversationRow, into: NamedBeside) -> None:
    was_open = change.state.has_open()
    if was_open:
        set_status(change, conversation, "resolved", SYSTEM)
    conversation.contact_key, conversation.customer_id = into.contact_key, into.customer_id
    timer_id = arm(change, conversation, TIMER, change.now)
    conversation.metadata = {**conversation.metadata, JOIN_KEY: {"timer": timer_id, "open": was_open}}
    change.touch(conversation)


def joined(state: ContactState, message: Joined, ctx: Context) -> Effects:
    """Another contact has moved into this one: what its names led to is ours. Their customers are one person,
    which people can undo."""
    customer = state.customer
    if customer is None:
        return Effects()
    state.handles = {**state.handles, **message.handles}
    for key in message.handles:
        state.foreign.pop(key, None)
    state.complete, state.floor = False, max(state.floor, ctx.now + PLATFORM_SKEW_MS)
    change = Change(state, ctx, message.trace)
    change.customer_event()
    if know_address(customer, phone=message.phone, email=message.email):
        change.add(snapshot(customer))
    merge = Merge(survivor_id=customer.id, merged_id=message.customer_id, by=SYSTEM, trace=message.trace)
    change.tell(Tell(customers_of(state.tenant_id), merge))
    return change.done()


def take_up(state: ContactState, message: TimerFired, ctx: Context) -> Effects | Lookup:
    """The conversation that was handed over finds its place, once."""
    conversation = conversation_of(state, message.conversation_id, ctx)
    if isinstance(conversation, Lookup):
        return conversation
    opted_out = consent.has_opted_out(state)
    if conversation is not None and opted_out != (OPTED_OUT in conversation.metadata):
        looked = consent.look_for_waiting(state, None, ctx)
        if isinstance(looked, Lookup):
            return looked
        opted_out = True
    change = Change(state, ctx, "")
    change.add(TimerDone(tenant_id=state.tenant_id, id=message.timer_id))
    joining = conversation.metadata.get(JOIN_KEY) if conversation is not None else None
    if conversation is None or joining is None or joining["timer"] != message.timer_id:
        return change.done()
    conversation.metadata = {k: v for k, v in conversation.metadata.items() if k != JOIN_KEY}
    change.touch(conversation)
    newest = state.conversation
    if newest is None or (joining["open"] and not state.has_open()):
        _go_on(change, conversation, reopen=joining["open"])
    elif joining["open"] and newest is not conversation:
        _continue_in(change, newest, conversation)
    if opted_out:
        consent.keep_out(change)
    return change.done()


def _go_on(change: Change, conversation: ConversationRow, *, reopen: bool) -> None:
    """It is the contact's newest from now on."""
    state = change.state
    before = state.conversation
    if before is not conversation:
        if before is not None:
            state.adopt(before)
        state.older.pop(conversation.id, None)
        state.conversation = conversation
    if reopen:
        set_status(change, conversation, "open", SYSTEM)
        want_agent(change, conversation)


def _continue_in(change: Change, conversation: ConversationRow, other: ConversationRow) -> None:
    """The open conversation counts the other's unread messages, and says where they are."""
    row = next_message(
        change,
        conversation,
        direction="inbound",
        type_="system",
        content={"kind": "conversation_joined", "body": "", "conversation_id": other.id},
        text="",
        sender=("system", None, None),
        status="received",
        reply_to=None,
        metadata={},
    )
    conversation.unread_count += other.unread_count
    other.unread_count = 0
    conversation.last_inbound_at = _later(conversation.last_inbound_at, other.last_inbound_at)
    conversation.reply_window_ends_at = _later(conversation.reply_window_ends_at, other.reply_window_ends_at)
    append(change, conversation, row)
    change.message_event("message.received", conversation, row)
    agent = change.config.agents.get(other.assigned_to) if other.assigned_to is not None else None
    if conversation.assigned_to is None and agent is not None and agent.active:
        hand_to(change, conversation, agent.id, by=SYSTEM, kind="assign")
    want_agent(change, conversation)
    change.event("conversation.updated", other)


def _later(one: int | None, other: int | None) -> int | None:
    return max((each for each in (one, other) if each is not None), default=None)
