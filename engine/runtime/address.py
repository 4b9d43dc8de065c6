"""Names of actors and the lanes of their mailboxes.

An address is always valid: whoever holds one may send to it, whether or not the actor is resident now. It
says nothing about where the actor lives, and holding it keeps nothing alive.
"""

from enum import IntEnum
from typing import Any, NamedTuple, TypeAlias

Key: TypeAlias = str | int | tuple[Any, ...]


class Address(NamedTuple):
    """One actor: its kind (which spec decides for it), its tenant (0 for static kinds) and its key within
    both.

    Compared and hashed by value, millions of times a second; a key should therefore be short. Keep the object
    and send to it again where you can: an identical key is found without comparing.
    """

    kind: str
    tenant: int
    key: Key


class Lane(IntEnum):
    """Order of service within one mailbox: a higher lane is emptied before a lower one is looked at."""

    REALTIME = 0
    NORMAL = 1
    BULK = 2
