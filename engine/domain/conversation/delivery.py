"""What becomes of our messages: statuses from the platform, verdicts from the channel, media. Pure."""

from typing import Any

from engine.domain.conversation import consent
from engine.domain.conversation.changes import Change
from engine.domain.conversation.finding import by_id, by_platform, found_message
from engine.domain.conversation.messages import MediaVerdict, OutboxVerdict, Receive, Received, address_of
from engine.domain.conversation.settling import ended, outbox_patch, settle
from engine.domain.conversation.state import (
    PLATFORM_SKEW_MS,
    ContactState,
    Early,
    Tracked,
    tracked,
    tracked_row,
)
from engine.domain.conversation.statuses import UNDECIDED, advance
from engine.domain.inbound import StatusChanged, StatusesReached
from engine.domain.outbound import OutcomeUnknown, Refused, Resending, Sent
from engine.domain.rows import AttachmentPatch, MessagePatch, StatusRow
from engine.ports import FoundMessage, FoundTracked, TrackedQuery
from engine.runtime import Context, Effects, Lookup

DUPLICATE = Received(outcome="duplicate")

UP_TO_MAX = 100
"""Messages that one watermark moves beyond those in memory; fewer than are remembered, or they would push
each other out. More than that unread is a broadcast's list, and the rest moves with the next mark."""

CLOCKS_MS = 2_000
"""Our time of sending is that of the platform's answer; its own is a little earlier, by another clock."""


def receive_status(
    state: ContactState, message: Receive, event: StatusChanged, ctx: Context
) -> Effects | Lookup:
    own_id = int(event.callback) if event.callback and event.callback.isdecimal() else None
    target = state.messages.get(own_id) if own_id is not None else None
    if target is None:
        target = state.known(event.platform_id)
    if target is None:
        found = found_message(ctx)
        if found is None:
            query = by_id(state, own_id) if own_id is not None else by_platform(state, event.platform_id)
            return Lookup(query)
        if found.message is not None:
            if not state.owns(found.message.contact_key):
                # The person was named by an id that is new to us. A message has one writer: its owner.
                owner = found.message.contact_key
                return Effects(forward=address_of(state.tenant_id, state.channel_id, owner))
            target = tracked_row(found.message)
            state.track(target)
    change = Change(state, ctx, message.trace)
    if target is not None and not target.outbound:
        target = None
    if target is None and _kept_before(state, event):
        return Effects(reply=DUPLICATE)
    if target is not None and _reported_before(target, event.status):
        return Effects(reply=DUPLICATE)
    change.add(
        StatusRow(
            tenant_id=state.tenant_id,
            id=ctx.new_id(),
            message_id=target.id if target is not None else None,
            platform_message_id=event.platform_id,
            status=event.raw_status,
            code=event.error.platform_code if event.error is not None else None,
            detail=event.detail or None,
            at=event.at,
            received_at=message.received_at,
        )
    )
    if target is None:
        # It overtook the answer to our own send: kept for the moment when the message gets its id.
        known = state.early.get(event.platform_id, Early())
        state.remember_early(event.platform_id, Early(statuses=(*known.statuses, event)))
        return change.done(Received(outcome="applied"))
    apply_status(change, target, event)
    return change.done(
        Received(
            outcome="applied",
            conversation_id=target.conversation_id,
            message_id=target.id,
            seq=target.seq,
        )
    )


def receive_watermark(
    state: ContactState, message: Receive, event: StatusesReached, ctx: Context
) -> Effects | Lookup:
    """Every message of ours up to the mark moves on, unless it is further already or failed.

    Where not all messages are resident, those behind them that may still have to move are looked up first,
    `UP_TO_MAX` at most; not so where the oldest resident one has moved that far, since the mark that moved it
    has moved those before it.
    """
    mark = state.known(event.platform_id) if event.platform_id is not None else None
    if mark is None and event.platform_id is not None and not isinstance(ctx.found, tuple):
        return Lookup((by_platform(state, event.platform_id), _behind(state, event)))
    if not (state.complete or isinstance(ctx.found, tuple) or _moved_behind(state, event)):
        return Lookup((_behind(state, event),))
    for each in ctx.found if isinstance(ctx.found, tuple) else ():
        if isinstance(each, FoundMessage) and each.message is not None:
            mark = tracked_row(each.message)
        elif isinstance(each, FoundTracked):
            for row in each.messages:
                if row.id not in state.messages:
                    state.track(tracked(row))
    up_to = event.up_to
    if up_to is None:
        # A message that we do not know yet is the one whose answer has not come: all others are before it.
        up_to = event.at
        if mark is None and event.platform_id is not None:
            known = state.early.get(event.platform_id, Early())
            early = _status(event, event.platform_id)
            state.remember_early(event.platform_id, Early(statuses=(*known.statuses, early)))
    else:
        state.marks[event.status] = max(event, state.marks.get(event.status, event), key=_up_to)
    change = Change(state, ctx, message.trace)
    moved = [each for each in state.messages.values() if _reaches(each, event, up_to, mark)]
    for each in moved:
        assert each.platform_id is not None
        change.add(
            StatusRow(
                tenant_id=state.tenant_id,
                id=ctx.new_id(),
                message_id=each.id,
                platform_message_id=each.platform_id,
                status=event.raw_status,
                code=None,
                detail={"up_to": up_to},
                at=event.at,
                received_at=message.received_at,
            )
        )
        apply_status(change, each, _status(event, each.platform_id))
    return change.done(Received(outcome="applied" if moved else "duplicate"))


def _status(event: StatusesReached, platform_id: str) -> StatusChanged:
    return StatusChanged(
        contact=event.contact,
        platform_id=platform_id,
        status=event.status,
        at=event.at,
        raw_status=event.raw_status,
    )


def _up_to(event: StatusesReached) -> int:
    return event.up_to or 0


def _moved_behind(state: ContactState, event: StatusesReached) -> bool:
    for each in state.messages.values():
        if each.outbound and each.platform_id is not None and each.status in ("sent", "delivered", "read"):
            return advance(each.status, event.status) is None
    return False


def _behind(state: ContactState, event: StatusesReached) -> TrackedQuery:
    return TrackedQuery(
        tenant_id=state.tenant_id,
        channel_id=state.channel_id,
        contact_key=state.key,
        statuses=tuple(status for status in ("sent", "delivered") if advance(status, event.status)),
        limit=UP_TO_MAX,
    )


def _reaches(each: Tracked, event: StatusesReached, up_to: int, mark: Tracked | None) -> bool:
    """Whether a mark is about this message. Which second ours and the platform's clock differ in is not
    known, so the message that the mark names counts whatever its time."""
    if not each.outbound or each.platform_id is None or advance(each.status, event.status) is None:
        return False
    if each.status not in ("sent", "delivered"):
        return False
    if mark is not None:
        # What was queued before a message from the platform's app, and sent long after it, has not been seen
        # with it. Ours have no time of the platform's: they are sent in the order of their ids.
        seen_with = mark.platform_at == 0 or (each.sent_at or 0) <= mark.platform_at + PLATFORM_SKEW_MS
        return each.id <= mark.id and seen_with
    return (each.sent_at or 0) <= up_to + CLOCKS_MS


def apply_status(change: Change, target: Tracked, event: StatusChanged) -> None:
    """Moves a message of ours on: rank, times, platform id, and its outbox item where that was open.

    That an earlier attempt was taken or failed says nothing about this one (a retry has given the message
    another platform id, or is about to); that it arrived does.
    """
    state = change.state
    if event.status in ("sent", "failed") and _of_earlier_attempt(target, event.platform_id):
        return
    patch = MessagePatch(tenant_id=state.tenant_id, id=target.id)
    if event.status != "failed":
        _not_withdrawn(target, patch)
    was_undecided = target.status in UNDECIDED
    named = target.platform_id is None
    if named:
        state.learn_platform_id(target, event.platform_id)
        patch.platform_message_id = event.platform_id
    error = None
    match event.status:
        case "sent" if target.sent_at is None:
            target.sent_at = patch.sent_at = event.at
        case "delivered" if target.delivered_at is None:
            target.delivered_at = patch.delivered_at = event.at
        case "read" if target.read_at is None:
            target.read_at = patch.read_at = event.at
    after = advance(target.status, event.status)
    if after is not None:
        if target.status == "failed":
            patch.clear_failure = True
            target.failed_at = None
        target.status = patch.status = after
        if after == "failed":
            target.failed_at = patch.failed_at = event.at
            if event.error is not None:
                error = {
                    "code": "delivery_failed",
                    "platform_code": event.error.platform_code,
                    "message": event.error.message,
                    "retryable": event.error.retryable,
                }
                patch.error = error
    change.add(patch)
    if was_undecided:
        settle(change, target)
    _tell(change, target, patch, error)
    if named:
        _catch_up(change, target, event.platform_id)
    if event.error is not None:
        consent.heed(change, event.error, at=event.at, message_id=target.id)


def _catch_up(change: Change, target: Tracked, platform_id: str) -> None:
    """What overtook the message's name: statuses under it, and watermarks."""
    state = change.state
    for status in state.early.pop(platform_id, Early()).statuses:
        if not _reported_before(target, status.status):
            apply_status(change, target, status)
    for reached in state.marks.values():
        if target.platform_id is not None and _reaches(target, reached, _up_to(reached), None):
            apply_status(change, target, _status(reached, target.platform_id))


def _tell(change: Change, target: Tracked, patch: MessagePatch, error: dict[str, Any] | None) -> None:
    """Screens show another status with its error, or only a time or the platform's id: as when a status comes
    after a higher one."""
    if patch.status is not None:
        change.status_event(target.conversation_id, target, error)
    elif any((patch.platform_message_id, patch.sent_at, patch.delivered_at, patch.read_at)):
        change.status_event(target.conversation_id, target)


def _not_withdrawn(target: Tracked, patch: MessagePatch) -> None:
    """The platform has a message that was withdrawn: its call was under way."""
    if target.withdrawn:
        target.withdrawn = False
        target.status, target.failed_at = "pending", None
        patch.clear_failure = True


def _kept_before(state: ContactState, event: StatusChanged) -> bool:
    known = state.early.get(event.platform_id)
    return known is not None and any(each.status == event.status for each in known.statuses)


def _of_earlier_attempt(target: Tracked, platform_id: str) -> bool:
    """An undecided message has a platform id only while it is sent again; it is the failed attempt's."""
    if target.platform_id is None:
        return False
    return target.platform_id != platform_id or target.status in UNDECIDED


def _reported_before(target: Tracked, status: str) -> bool:
    return {
        "sent": target.sent_at,
        "delivered": target.delivered_at,
        "read": target.read_at,
        "failed": target.failed_at,
    }.get(status) is not None and target.status not in UNDECIDED


def outbox_verdict(state: ContactState, message: OutboxVerdict, ctx: Context) -> Effects | Lookup:
    """The channel actor's word on an outbox item; the row's end is committed with the status."""
    change = Change(state, ctx, message.trace)
    if message.message_id is None:
        done = "dead" if isinstance(message.outcome, Refused) else "done"
        change.add(outbox_patch(change, message.outbox_id, done))
        return change.done()
    target = state.messages.get(message.message_id)
    if ctx.suspect and isinstance(message.outcome, Sent) and not isinstance(ctx.found, tuple):
        # A commit met a conflict, perhaps over the platform's id.
        return Lookup((by_id(state, message.message_id), by_platform(state, message.outcome.platform_id)))
    if target is None:
        found = ctx.found[0] if isinstance(ctx.found, tuple) else found_message(ctx)
        if found is None:
            return Lookup(by_id(state, message.message_id))
        if found.message is None:
            change.add(outbox_patch(change, message.outbox_id, "dead"))
            return change.done()
        target = tracked_row(found.message)
        state.track(target)
    match message.outcome:
        case Sent(platform_id=platform_id, at=at):
            if _is_anothers(state, target, platform_id, ctx):
                _sent_without_id(change, target, at)
            else:
                _sent(change, target, platform_id, at)
        case _ if target.status not in UNDECIDED:
            # A status was faster. The channel's own "sending" may have been written after our "done": the row
            # is ended once more, or it would be sent again by the next process.
            settle(change, target)
        case Refused() as refused:
            _refused(change, target, refused)
        case OutcomeUnknown():
            change.add(outbox_patch(change, target.id, "unknown"))
            _move(change, target, "unknown")
        case Resending():
            _move(change, target, "pending", resent=True)
    return change.done()


def media_verdict(state: ContactState, message: MediaVerdict, ctx: Context) -> Effects:
    change = Change(state, ctx, message.trace)
    after = "stored" if message.stored else "failed"
    change.add(
        AttachmentPatch(
            tenant_id=state.tenant_id,
            id=message.attachment_id,
            state=after,
            sha256=message.sha256,
            media_type=message.media_type,
            size=message.size,
            storage_key=message.storage_key,
            attempts=message.attempts,
            error=message.error,
        )
    )
    change.plain_event(
        "message.attachment.updated",
        message.conversation_id,
        {
            "id": message.attachment_id,
            "message_id": message.message_id,
            "conversation_id": message.conversation_id,
            "state": after,
            "media_type": message.media_type,
            "size": message.size,
        },
    )
    return change.done()


def sent_by_platform(change: Change, target: Tracked, platform_id: str, at: int) -> None:
    """The platform has told by itself that it took an open message: the channel lets go of it."""
    _sent(change, target, platform_id, at)
    settle(change, target)


def _is_anothers(state: ContactState, target: Tracked, platform_id: str, ctx: Context) -> bool:
    """Whether the platform's id stands on another message: its echo was stored as one, because nobody knew
    of ours when it came."""
    holder = state.known(platform_id)
    if holder is not None:
        return holder.id != target.id
    if not isinstance(ctx.found, tuple):
        return False
    stored = ctx.found[-1]
    return isinstance(stored, FoundMessage) and stored.message is not None and stored.message.id != target.id


def _sent_without_id(change: Change, target: Tracked, at: int) -> None:
    """It is sent, and what the platform tells of it later goes to the message that has its id."""
    patch = MessagePatch(tenant_id=change.state.tenant_id, id=target.id)
    if target.sent_at is None or target.status in UNDECIDED:
        target.sent_at = patch.sent_at = at
    after = advance(target.status, "sent")
    if after is not None:
        target.status = patch.status = after
    change.add(patch)
    change.add(outbox_patch(change, target.id, ended(target)))
    _tell(change, target, patch, None)


def _sent(change: Change, target: Tracked, platform_id: str, at: int) -> None:
    state = change.state
    patch = MessagePatch(tenant_id=state.tenant_id, id=target.id)
    _not_withdrawn(target, patch)
    undecided = target.status in UNDECIDED
    if target.platform_id is None or (undecided and target.platform_id != platform_id):
        state.learn_platform_id(target, platform_id)
        patch.platform_message_id = platform_id
    if target.sent_at is None or undecided:
        target.sent_at = patch.sent_at = at
    after = advance(target.status, "sent")
    if after is not None:
        target.status = patch.status = after
    change.add(patch)
    _tell(change, target, patch, None)
    _catch_up(change, target, platform_id)
    change.add(outbox_patch(change, target.id, ended(target)))


def _refused(change: Change, target: Tracked, refused: Refused) -> None:
    error = {
        "code": "delivery_failed",
        "platform_code": refused.platform_code,
        "message": refused.message,
        "retryable": refused.retryable,
    }
    target.status = "failed"
    target.failed_at = refused.at
    change.add(
        MessagePatch(
            tenant_id=change.state.tenant_id,
            id=target.id,
            status="failed",
            failed_at=refused.at,
            error=error,
        )
    )
    patch = outbox_patch(change, target.id, "dead")
    patch.error = error
    change.add(patch)
    change.status_event(target.conversation_id, target, error)
    consent.heed(change, refused, at=refused.at, message_id=target.id)


def _move(change: Change, target: Tracked, status: str, *, resent: bool = False) -> None:
    """Between the undecided statuses, which have no order of their own. That it is sent again is noted also
    where a person's retry has made it pending before."""
    if target.status == status and not resent:
        return
    target.status = status
    change.add(
        MessagePatch(
            tenant_id=change.state.tenant_id,
            id=target.id,
            status=status,
            metadata={"resent": True} if resent else None,
        )
    )
    change.status_event(target.conversation_id, target, None)
