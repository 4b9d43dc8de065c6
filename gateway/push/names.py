"""Event names: the engine's own, and the class names that clients of older systems listen for.

A client asks for one of three styles per subscription; an event without an older name keeps its own.
"""

from enum import Enum
from typing import Final

_CLASSES: Final = {
    "message.received": "NewMessageReceived",
    "message.status.updated": "MessageStatusUpdated",
    "conversation.assigned": "ConversationAssigned",
    "conversation.status.changed": "ConversationStatusChanged",
    "conversation.transferred": "ConversationTransferred",
}

_NAMESPACE: Final = "App\\Events\\"
"""Where Laravel's events live: what `Echo.listen("NewMessageReceived")` without a leading dot waits for."""

_OTHERS: Final = frozenset(
    {
        "message.sent",
        "conversation.created",
        "customer.opted_in",
        "customer.opted_out",
        "customer.deliverable",
        "customer.undeliverable",
        "conversation.read",
        "customer.created",
        "customer.updated",
        "customer.merged",
        "customer.unmerged",
        "note.added",
        "tag.changed",
        "campaign.progress",
        "channel.updated",
        "order.created",
        "order.updated",
        "payment.updated",
        "sla.breached",
    }
)


class Names(Enum):
    DOTTED = "dotted"
    CLASSES = "classes"
    LARAVEL = "laravel"

    def of(self, name: str) -> str:
        older = _CLASSES.get(name)
        if older is None or self is Names.DOTTED:
            return name
        return older if self is Names.CLASSES else _NAMESPACE + older


_ENGINES: Final = frozenset(
    {*_CLASSES, *_CLASSES.values(), *(_NAMESPACE + each for each in _CLASSES.values()), *_OTHERS}
)


def is_engines(name: str) -> bool:
    """Whether only the engine may say this, on its own channels: its events in every style."""
    return name in _ENGINES
