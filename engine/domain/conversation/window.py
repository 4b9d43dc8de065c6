"""Whether a message may go out to a customer now: is the reply window open, and has it room? Pure.

Some platforms hold the messages in a window to a number: so many after each message of the customer. What
counts is what the platform has taken since then, and what is on its way, whenever it was written; what failed
does not. Nothing is kept for it beside the messages and the window's end, so a reload, an echo, a retry and a
failure need no book-keeping.

Limits     Judged by the messages in memory; after a reload these are the newest 32. Where more than that came
           in or failed meanwhile, the platform has the last word.
"""

from engine.domain.config import Channel
from engine.domain.conversation.changes import Change
from engine.domain.conversation.messages import By
from engine.domain.conversation.state import ContactState, Tracked
from engine.domain.conversation.statuses import UNDECIDED
from engine.domain.outbound import MarkRead, Send, SendTemplate
from engine.domain.platforms import rules_of
from engine.domain.resources import (
    has_human_window,
    human_window_ends_at,
    reply_window,
    window_is_open,
)
from engine.errors import Conflicting


def refusal(
    change: Change, *, send: Send, by: By, platform: str, ends_at: int | None, again: Tracked | None = None
) -> Conflicting | None:
    """Why this message may not go out now; None when it may. `ends_at` is the conversation's window, `again`
    the message itself where it was queued before."""
    if isinstance(send, SendTemplate | MarkRead):
        return None
    if not _is_open(change, by, platform, ends_at):
        return _closed(change, platform, ends_at)
    if not has_room(change.state, platform, ends_at, again=again):
        return _used_up(change, platform, ends_at)
    return None


def has_room(
    state: ContactState, platform: str, ends_at: int | None, *, again: Tracked | None = None
) -> bool:
    """Whether one more message fits into the window that ends at `ends_at`."""
    rules = rules_of(platform)
    most, length = rules.capabilities.window_messages_max, rules.reply_window_ms
    if most is None or length is None or ends_at is None:
        return True
    opened_at = ends_at - length
    opener = _opener(state, opened_at)
    counted = 0
    for each in state.messages.values():
        if each.outbound and each is not again and _counts(each, opened_at, opener):
            counted += 1
    return counted < most


def _counts(each: Tracked, opened_at: int, opener: Tracked | None) -> bool:
    if each.status in UNDECIDED:
        return True
    if each.status == "failed":
        return False
    # Ours and the platform's clock differ; what was written after the customer's message went out after it.
    written_after = opener is not None and each.id > opener.id
    return written_after or (each.sent_at or 0) >= opened_at


def _opener(state: ContactState, opened_at: int) -> Tracked | None:
    """The customer's message that opened the window, where it is in memory."""
    return next(
        (each for each in state.messages.values() if not each.outbound and each.platform_at == opened_at),
        None,
    )


def _is_open(change: Change, by: By, platform: str, ends_at: int | None) -> bool:
    """For everybody, or for a person in the longer time that some platforms give people."""
    if window_is_open(platform, ends_at, change.now):
        return True
    human_ends_at = human_window_ends_at(platform, ends_at)
    return (
        by.kind == "user"
        and human_ends_at is not None
        and change.now < human_ends_at
        and has_human_window(_channel(change))
    )


def _closed(change: Change, platform: str, ends_at: int | None) -> Conflicting:
    templates = rules_of(platform).capabilities.templates
    sentence = "only an approved template can be sent now" if templates else "the customer has to write first"
    return Conflicting(
        f"The reply window is closed; {sentence}.",
        code="window_closed",
        data={"reply_window": reply_window(platform, ends_at, change.now, _channel(change))},
    )


def _used_up(change: Change, platform: str, ends_at: int | None) -> Conflicting:
    most = rules_of(platform).capabilities.window_messages_max
    return Conflicting(
        f"The {most} messages that the platform takes after each of the customer's are used up; the customer "
        "has to write first.",
        code="window_used_up",
        data={
            "messages_max": most,
            "reply_window": reply_window(platform, ends_at, change.now, _channel(change)),
        },
    )


def _channel(change: Change) -> Channel | None:
    return change.config.channels.get(change.state.channel_id)
