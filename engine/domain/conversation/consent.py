"""Whether messages may go to the customer on this channel: who has opted out wants none, and whose address is
dead gets none. Pure.

Either way nothing is sent: by no person, rule or bulk call. What waits when it becomes known is withdrawn in
the same commit. A call that is under way then cannot be called back; if the platform takes it, the message
says so.

Who has opted out has to opt in again, which nobody can do for them. That an address is dead ends when the
customer writes from it, when the platform says so, or when a person lifts it: it may have been a mistake at
the other end. News of it from before the customer's last message is not heeded.

The standing is the contact's on this channel. It is kept in the newest conversation's metadata, from where it
goes into the next one, so it is read and written with what every decision reads and writes anyway.
"""

from typing import Any, Final

from engine.domain.conversation.changes import Change
from engine.domain.conversation.finding import by_platform, on_conversation
from engine.domain.conversation.messages import By, LiftUndeliverable, Receive, Received
from engine.domain.conversation.settling import settle
from engine.domain.conversation.state import ContactState, tracked
from engine.domain.conversation.statuses import UNDECIDED
from engine.domain.inbound import PlatformError, StandingChanged
from engine.domain.outbound import Refused
from engine.domain.resources import OPTED_OUT, UNDELIVERABLE
from engine.domain.rows import ConversationRow, MessagePatch
from engine.errors import Conflicting
from engine.ports import FoundMessage, FoundTracked, TrackedQuery
from engine.runtime import Context, Effects, Lookup

OUT: Final = "out"
IN: Final = "in"

CLOCKS_MS: Final = 15 * 60 * 1_000
"""The customer's clock and the platform's differ by less, mostly. A message that was under way when another
came back is at worst followed by one more that comes back."""
WAITING_MAX: Final = 100
"""Waiting messages to one contact that are looked up beyond those in memory: an account that has stopped for
days has some; fewer than are remembered, or they would push each other out."""


def has_opted_out(state: ContactState) -> bool:
    return state.conversation is not None and OPTED_OUT in state.conversation.metadata


def refusal(state: ContactState) -> Conflicting | None:
    """Why nothing may be sent; None where something may."""
    if has_opted_out(state):
        return Conflicting(
            "The customer wants no messages on this channel; nothing can be sent until they ask for them "
            "again.",
            code="opted_out",
        )
    if state.conversation is not None and UNDELIVERABLE in state.conversation.metadata:
        said = state.conversation.metadata[UNDELIVERABLE]["message"]
        return Conflicting(
            f"What is sent to this customer comes back: {said} Nothing is sent until they write again or "
            "somebody lifts this.",
            code="undeliverable",
        )
    return None


def look_for_waiting(
    state: ContactState, platform_id: str | None, ctx: Context
) -> Lookup | FoundMessage | None:
    """Brings into memory what waits for a customer who is to be sent nothing. The look-up asks for the
    message's own id too, where there is one: what is found of that is the answer."""
    if platform_id in state.by_platform or (state.complete and not ctx.suspect):
        return None
    if not isinstance(ctx.found, tuple):
        waiting = TrackedQuery(
            tenant_id=state.tenant_id,
            channel_id=state.channel_id,
            contact_key=state.key,
            statuses=tuple(sorted(UNDECIDED)),
            limit=WAITING_MAX,
            named=False,
        )
        return Lookup((waiting,) if platform_id is None else (by_platform(state, platform_id), waiting))
    own: FoundMessage | None = None
    for each in ctx.found:
        if isinstance(each, FoundMessage):
            own = each
        elif isinstance(each, FoundTracked):
            for row in each.messages:
                if row.id not in state.messages:
                    state.track(tracked(row))
    return own


def opt(change: Change, opts: str, *, source: str, message_id: int | None = None) -> None:
    """`opts`: out or in. `source`: message, where the customer said so, or platform. What is so already
    stays."""
    state = change.state
    conversation = state.conversation
    if conversation is None or (opts == OUT) == has_opted_out(state):
        return
    if opts == OUT:
        conversation.metadata = {**conversation.metadata, OPTED_OUT: change.now}
        _withdraw_unwanted(change)
    else:
        conversation.metadata = {k: v for k, v in conversation.metadata.items() if k != OPTED_OUT}
    change.touch(conversation)
    name = "customer.opted_out" if opts == OUT else "customer.opted_in"
    change.event(name, conversation, source=source, message_id=message_id)


def keep_out(change: Change) -> None:
    """The customer opted out under another of their names: they have under all."""
    if has_opted_out(change.state):
        _withdraw_unwanted(change)
    else:
        opt(change, OUT, source="platform")


def heed(change: Change, error: PlatformError | Refused, *, at: int, message_id: int | None = None) -> None:
    """What a platform's word about a message, or about the contact, says of all that may be sent."""
    if error.opted_out:
        opt(change, OUT, source="platform", message_id=message_id)
    if error.undeliverable:
        _mark_undeliverable(change, error, at=at, message_id=message_id)


def standing(state: ContactState, message: Receive, event: StandingChanged, ctx: Context) -> Effects | Lookup:
    """The platform sends the contact nothing more, or does so again."""
    conversation = state.conversation
    if conversation is None or (conversation.last_inbound_at or 0) > event.at:
        return Effects(reply=Received(outcome="ignored"))
    if event.error is not None:
        looked = look_for_waiting(state, None, ctx)
        if isinstance(looked, Lookup):
            return looked
    change = Change(state, ctx, message.trace)
    if event.error is not None:
        heed(change, event.error, at=event.at)
    else:
        opt(change, IN, source="platform")
        arrives(change, source="platform")
    return change.done(Received(outcome="applied", conversation_id=conversation.id))


def _mark_undeliverable(
    change: Change, error: PlatformError | Refused, *, at: int, message_id: int | None
) -> None:
    conversation = change.state.conversation
    if conversation is None or UNDELIVERABLE in conversation.metadata:
        return
    if (conversation.last_inbound_at or 0) > at:
        return
    mark = {"at": at, "platform_code": error.platform_code, "message": error.message}
    conversation.metadata = {**conversation.metadata, UNDELIVERABLE: mark}
    sentence = f"Before this was sent, another message came back: {error.message}"
    _withdraw(change, "undeliverable", sentence, retryable=True)
    change.touch(conversation)
    change.event("customer.undeliverable", conversation, source="platform", message_id=message_id)


def arrives(change: Change, *, source: str, by: By | None = None, since: int | None = None) -> None:
    """The address is not dead after all. `source`: message, platform or user; `since`: what proves it is of
    then, and says nothing of what became known later."""
    conversation = change.state.conversation
    mark = conversation.metadata.get(UNDELIVERABLE) if conversation is not None else None
    if conversation is None or mark is None or (since is not None and since + CLOCKS_MS <= mark["at"]):
        return
    conversation.metadata = {k: v for k, v in conversation.metadata.items() if k != UNDELIVERABLE}
    change.touch(conversation)
    shown = {"type": by.kind, "id": by.id, "name": by.name} if by is not None else None
    change.event("customer.deliverable", conversation, source=source, by=shown)


@on_conversation
def lift(
    state: ContactState, conversation: ConversationRow, message: LiftUndeliverable, ctx: Context
) -> Effects:
    """A person knows better. Lifted where it is not marked changes nothing."""
    change = Change(state, ctx, message.trace)
    arrives(change, source="user", by=message.by)
    return change.done(change.resource(conversation))


def _withdraw_unwanted(change: Change) -> None:
    _withdraw(change, "opted_out", "The customer opted out before this was sent.", retryable=False)


def _withdraw(change: Change, code: str, sentence: str, *, retryable: bool) -> None:
    for target in change.state.messages.values():
        if not target.outbound or target.status not in UNDECIDED:
            continue
        error: dict[str, Any] = {
            "code": code,
            "platform_code": None,
            "message": sentence,
            "retryable": retryable,
        }
        target.status, target.failed_at, target.withdrawn = "failed", change.now, True
        change.add(
            MessagePatch(
                tenant_id=change.state.tenant_id,
                id=target.id,
                status="failed",
                failed_at=change.now,
                error=error,
            )
        )
        settle(change, target)
        change.status_event(target.conversation_id, target, error)
