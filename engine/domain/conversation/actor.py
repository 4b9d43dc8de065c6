"""One contact on one channel account: the only writer of its conversations.

Owns       the contact's handles and conversations: sequence numbers, status, assignee, reply window, unread,
           recent platform ids and client keys, statuses of what was sent.
Limits     256 messages wait at most, then senders are pushed back; 128 messages are remembered by id.
Promises   sequence numbers rise by exactly one per stored message, and only here; a platform id is stored
           once; a contact has one open conversation per channel; statuses never go back; an automated reply
           answers only customers. The database's unique keys stand behind the first four.
Restart    the state is read afresh; what was not committed was never seen by anyone. Early statuses
           (at most 16 that overtook their message) are forgotten; their rows are kept. So are watermarks that
           overtook the answer to a send; the next one reaches further.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, assert_never, cast

from engine.domain.conversation import consent, customer, delivery, desk, joining, receiving, replying
from engine.domain.conversation.finding import ABSENT, no_conversation
from engine.domain.conversation.messages import (
    KIND,
    AddNote,
    Assign,
    ChangeCustomer,
    ChangeTags,
    ConversationCommand,
    EditNote,
    Joined,
    KnowProfile,
    LiftUndeliverable,
    Link,
    MarkConversationRead,
    MediaVerdict,
    NamedBeside,
    OutboxVerdict,
    Receive,
    Retry,
    SendMessage,
    SetStatus,
    Shared,
    ShowTyping,
    Start,
    TimerFired,
    Transfer,
    Unassign,
    address_of,
)
from engine.domain.conversation.state import LOADED_MAX, ContactState, from_snapshot
from engine.domain.inbound import AccessWithdrawn, AccountNotice, Contact
from engine.domain.phones import variants
from engine.ports import ContactRequest, ConversationStore
from engine.runtime import Context, Decider, Effects, LoadRequest, Lookup, LookupRequest

MAILBOX_MAX = 256
"""A person cannot write faster than this drains; a redelivery storm of one contact is pushed back."""

IDLE_SECONDS_MAX = 600.0
"""Most answers come within ten minutes; later ones pay one shared query."""


def decide(state: ContactState, message: ConversationCommand, ctx: Context) -> Effects | Lookup:
    """Pure: what one message changes, publishes and sets off."""
    if state.moved_to is not None:
        return Effects(forward=address_of(state.tenant_id, state.channel_id, state.moved_to))
    match message:
        case Receive():
            return receiving.receive(state, message, ctx)
        case OutboxVerdict():
            return delivery.outbox_verdict(state, message, ctx)
        case MediaVerdict():
            return delivery.media_verdict(state, message, ctx)
        case Start():
            return replying.start(state, message, ctx)
        case TimerFired(timer=joining.TIMER):
            return joining.take_up(state, message, ctx)
        case TimerFired():
            return desk.timer_fired(state, message, ctx)
        case NamedBeside():
            return joining.named_beside(state, message, ctx)
        case Joined():
            return joining.joined(state, message, ctx)
        case _ if state.customer is None:
            return no_conversation()
        case KnowProfile():
            return receiving.know_profile(state, message, ctx)
        case ChangeCustomer():
            return customer.change_customer(state, message, ctx)
        case Link():
            return customer.link_customer(state, message, ctx)
        case Shared():
            return customer.share_customer(state, message, ctx)
        case SendMessage():
            return replying.send(state, message, ctx)
        case Retry():
            return replying.retry(state, message, ctx)
        case ShowTyping():
            return replying.show_typing(state, message, ctx)
        case Assign():
            return desk.assign(state, message, ctx)
        case Unassign():
            return desk.unassign(state, message, ctx)
        case Transfer():
            return desk.transfer(state, message, ctx)
        case SetStatus():
            return desk.change_status(state, message, ctx)
        case MarkConversationRead():
            return desk.mark_read(state, message, ctx)
        case LiftUndeliverable():
            return consent.lift(state, message, ctx)
        case AddNote():
            return desk.add_note(state, message, ctx)
        case EditNote():
            return desk.edit_note(state, message, ctx)
        case ChangeTags():
            return desk.change_tags(state, message, ctx)
    assert_never(message)


def conversations(
    store: ConversationStore,
    *,
    resident_max: int,
    idle_seconds_max: float = IDLE_SECONDS_MAX,
) -> Decider:
    """The specification of all conversation actors."""
    return Decider(
        kind=KIND,
        decide=decide,
        load=_loader(store),
        lookup=_lookup(store),
        mailbox_max=MAILBOX_MAX,
        idle_seconds_max=idle_seconds_max,
        resident_max=resident_max,
    )


def _loader(store: ConversationStore) -> Callable[[Sequence[LoadRequest]], Awaitable[Sequence[Any]]]:
    async def load(requests: Sequence[LoadRequest]) -> Sequence[ContactState]:
        asked = [_contact_request(request) for request in requests]
        found = await store.load_contacts(asked, recent_max=LOADED_MAX)
        return [
            from_snapshot(each.tenant_id, each.channel_id, each.keys[0], snapshot)
            for each, snapshot in zip(asked, found, strict=True)
        ]

    return load


def _contact_request(request: LoadRequest) -> ContactRequest:
    """The actor's own key first, then what the waiting message knows the contact by."""
    channel_id, key = cast("tuple[int, str]", request.address.key)
    keys: tuple[str, ...] = (key,)
    message = request.message
    if isinstance(message, Receive) and not isinstance(message.event, AccountNotice | AccessWithdrawn):
        contact: Contact | None = message.event.contact
        if contact is not None and contact.group is None:
            keys = tuple(
                dict.fromkeys((key, *contact.keys, *_other_ways(contact.phone, (key, *contact.keys))))
            )
    elif isinstance(message, Start):
        keys = (key, *_other_ways(message.recipient, (key,)))
    return ContactRequest(tenant_id=request.address.tenant, channel_id=channel_id, keys=keys)


def _other_ways(phone: str | None, keys: Sequence[str]) -> tuple[str, ...]:
    """To write a telephone number that is one of the keys. A key that only looks like a number has none."""
    digits = phone.removeprefix("+") if phone is not None else ""
    return variants(digits) if digits in keys else ()


def _lookup(
    store: ConversationStore,
) -> Callable[[Sequence[LookupRequest]], Awaitable[Sequence[Any]]]:
    async def lookup(requests: Sequence[LookupRequest]) -> Sequence[object]:
        """A query is one of the store's, or a tuple of them; the answers have the same shape."""
        flat: list[Any] = []
        for request in requests:
            flat.extend(request.query if isinstance(request.query, tuple) else (request.query,))
        answers = iter([ABSENT if each is None else each for each in await store.find(flat)])
        shaped: list[object] = []
        for request in requests:
            if isinstance(request.query, tuple):
                shaped.append(tuple(next(answers) for _ in request.query))
            else:
                shaped.append(next(answers))
        return shaped

    return lookup
