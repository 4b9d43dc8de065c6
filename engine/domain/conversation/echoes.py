"""Whose message an echo shows: one that is on its way from here, or one that was written in the platform's
app.

Why         Some platforms echo what we send as they echo what people write in their app, with nothing of ours
            in it, and at times before they answer the send. Until the answer comes nobody knows the message's
            id at the platform. One that is taken for a stranger's stands in the history twice, and its answer
            finds its id in use; a stranger's that is taken for ours leaves ours unsent.
Promises    Only a message whose call may have been made (its outbox row says `sending` or `unknown`, which is
            written before each call) can be what an echo shows; one that is still queued never is. Of these,
            the oldest that says the same is; that is also how a lost answer is made up for. Where one is
            under way that says something else, nothing is decided: the delivery is refused for now, the
            platform brings it again, and by then the answer has told the id.
Leaves      two that say the same, one from here and one from the app in the same second, to chance: they
            change places, and each stands in the history once. A message that is under way and older than
            all that are in memory (32 after a start) is not found here; its echo may be stored as a message
            of its own, which keeps the platform's id then.
"""

from enum import Enum
from typing import Any, Final

from engine.domain.conversation.finding import by_id, by_platform
from engine.domain.conversation.state import ContactState, Tracked
from engine.domain.conversation.statuses import UNDECIDED
from engine.domain.inbound import MessageEchoed
from engine.errors import Unavailable
from engine.ports import FoundMessage
from engine.runtime import Context, Lookup

ASKED_MAX: Final = 8
"""Messages of one contact that are looked at. They go out one after the other, the oldest first, so the one
that is under way is the first that is open."""

_UNDER_WAY: Final = frozenset({"sending", "unknown"})
_AGAIN_SECONDS: Final = 2.0


class Whose(Enum):
    KNOWN = "known"
    """It is stored already."""
    OTHERS = "others"
    """Written in the platform's app."""
    NOT_SAID_YET = "not_said_yet"
    """A message of ours is under way, whose answer will tell."""


def whose(state: ContactState, event: MessageEchoed, ctx: Context) -> Tracked | Whose | Lookup:
    """The message of ours that it shows, or what else is known; a Lookup where the store has to say which
    messages are under way."""
    if not event.maybe_ours:
        return Whose.OTHERS
    if event.platform_id in state.by_platform:
        return Whose.KNOWN
    open_ = sorted(
        (each for each in state.messages.values() if each.outbound and each.status in UNDECIDED),
        key=lambda each: each.id,
    )[:ASKED_MAX]
    if not open_:
        return Whose.OTHERS
    if not isinstance(ctx.found, tuple):
        return Lookup((by_platform(state, event.platform_id), *(by_id(state, each.id) for each in open_)))
    found = [each for each in ctx.found if isinstance(each, FoundMessage) and each.message is not None]
    if any(each.message.platform_message_id == event.platform_id for each in found if each.message):
        return Whose.KNOWN
    under_way = [
        each.message
        for each in found
        if each.message is not None and each.outbox is not None and each.outbox.state in _UNDER_WAY
    ]
    for row in sorted(under_way, key=lambda row: row.id):
        target = state.messages.get(row.id)
        if target is not None and says_the_same(row.type, row.content, event):
            return target
    return Whose.NOT_SAID_YET if under_way else Whose.OTHERS


def come_again() -> Unavailable:
    return Unavailable(
        "A message is under way, and nobody knows yet whether this is it.",
        code="undecided",
        retry_after_seconds=_AGAIN_SECONDS,
    )


def says_the_same(kind: str, content: dict[str, Any], event: MessageEchoed) -> bool:
    """Echoes show what was sent as the platform shows it: choices as a template or under their text, a place
    that went as text as text, a voice message as sound."""
    said = _said(content)
    match kind:
        case "interactive":
            return bool(event.content.get("shared")) or (bool(said) and said in event.text)
        case "location":
            return event.type == kind or ("sent_as" in content and f"{content['latitude']:.6f}" in event.text)
        case "voice":
            return event.type in ("voice", "audio") and said == _said(event.content)
        case _:
            return kind == event.type and said == _said(event.content)


def _said(content: dict[str, Any]) -> str:
    return str(content.get("body") or content.get("caption") or "").strip()
