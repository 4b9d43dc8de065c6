"""Whether the customer wants messages on this channel. Pure.

Who has opted out is sent nothing: by no person, rule or bulk call, until they opt in again. What waits when
they opt out is withdrawn in the same commit. A call that is under way then cannot be called back; if the
platform takes it, the message says so.

The standing is the contact's on this channel. It is kept in the newest conversation's metadata, from where it
goes into the next one, so it is read and written with what every decision reads and writes anyway.
"""

from typing import Any, Final

from engine.domain.conversation.changes import Change
from engine.domain.conversation.finding import by_platform
from engine.domain.conversation.settling import settle
from engine.domain.conversation.state import ContactState, tracked
from engine.domain.conversation.statuses import UNDECIDED
from engine.domain.resources import OPTED_OUT
from engine.domain.rows import MessagePatch
from engine.errors import Conflicting
from engine.ports import FoundMessage, FoundTracked, TrackedQuery
from engine.runtime import Context, Lookup

OUT: Final = "out"
IN: Final = "in"

WAITING_MAX: Final = 100
"""Waiting messages to one contact that are looked up beyond those in memory: an account that has stopped for
days has some; fewer than are remembered, or they would push each other out."""


def has_opted_out(state: ContactState) -> bool:
    return state.conversation is not None and OPTED_OUT in state.conversation.metadata


def refusal() -> Conflicting:
    return Conflicting(
        "The customer wants no messages on this channel; nothing can be sent until they ask for them again.",
        code="opted_out",
    )


def look_for_waiting(state: ContactState, platform_id: str, ctx: Context) -> Lookup | FoundMessage | None:
    """Brings into memory what waits for a customer who opts out. The look-up asks for the message's own id
    too: what is found of that is the answer."""
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
        return Lookup((by_platform(state, platform_id), waiting))
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
        _withdraw(change)
    else:
        conversation.metadata = {k: v for k, v in conversation.metadata.items() if k != OPTED_OUT}
    change.touch(conversation)
    name = "customer.opted_out" if opts == OUT else "customer.opted_in"
    change.event(name, conversation, source=source, message_id=message_id)


def _withdraw(change: Change) -> None:
    for target in change.state.messages.values():
        if not target.outbound or target.status not in UNDECIDED:
            continue
        error: dict[str, Any] = {
            "code": "opted_out",
            "platform_code": None,
            "message": "The customer opted out before this was sent.",
            "retryable": False,
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
