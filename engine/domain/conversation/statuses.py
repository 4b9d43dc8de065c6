"""Message statuses: a monotone maximum. Pure.

    pending < sending = unknown < sent < delivered < read

`failed` ends a message that was not delivered; a later `delivered` or `read` wins over it, because the
customer has seen the message whatever the platform said before (WhatsApp sheet, section 7).
"""

from typing import Final

RANK: Final = {
    "pending": 0,
    "sending": 1,
    "unknown": 1,
    "failed": 2,
    "sent": 2,
    "delivered": 3,
    "read": 4,
    "received": 5,
}

UNDECIDED: Final = frozenset({"pending", "sending", "unknown"})
"""Statuses of a message whose outbox item is still open."""


def advance(current: str, reported: str) -> str | None:
    """The status after `reported`, or None when it changes nothing.

    `failed` is taken from anything short of delivered; `sent` never overwrites `failed`, which is the
    later fact, unless the message was only thought to have failed before it was sent (then it is unknown).
    """
    if reported == current or current == "received":
        return None
    if reported == "failed":
        return "failed" if RANK[current] < RANK["delivered"] else None
    return reported if RANK[reported] > RANK[current] else None
