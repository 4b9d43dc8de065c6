"""What waits for one address.

The mailbox belongs to the address and outlives activations. Three lanes, first in first out within each,
under one limit whose last quarter is closed to the bulk lane; a plain deque for each lane, allocated only
while something is in it (an empty deque costs 600 bytes, and 100,000 idle addresses are a normal day). A
plain tell lies there as the bare message; an `Envelope` is made for what needs more: an asker, a failed try.

Leaves to others: who may send and when it is drained (`System`, `Dispatcher`, `Inbox`).
"""

from collections import deque
from typing import Any, Final

from trio.lowlevel import Task

from engine.errors import MijraError
from engine.runtime.address import Address, Lane
from engine.runtime.asking import ReplySlot
from engine.runtime.specs import DeadLetter

BULK_RESERVE: Final = 4
"""Bulk never takes the last quarter, of a mailbox or of the writer's room: what a person waits for finds room
there, and of 256 messages or a second of writing a quarter is more than a campaign's pause costs."""


def room_of(limit: int, lane: Lane) -> int:
    """How much of `limit` messages may wait when a message of `lane` is to come in."""
    return limit - limit // BULK_RESERVE if lane is Lane.BULK else limit


class Envelope:
    """A message together with its asker and with what has happened to it so far.

    To a worker it is what `Inbox.take` gives: `message`, `asked`, `reply`, `refuse`. The other fields are the
    runtime's.
    """

    __slots__ = (
        "crashes",
        "error",
        "failures",
        "found",
        "hops",
        "lane",
        "letter",
        "lookups",
        "message",
        "slot",
        "suspect",
    )

    def __init__(self, message: object, slot: ReplySlot | None, lane: Lane) -> None:
        self.message = message
        self.slot = slot
        self.lane = lane
        self.crashes = 0
        self.failures = 0
        self.lookups = 0
        self.hops = 0
        self.suspect = False
        self.found: object | None = None
        self.error = ""
        self.letter: DeadLetter | None = None

    @property
    def asked(self) -> bool:
        """Whether somebody still waits for an answer."""
        return self.slot is not None

    def reply(self, value: object) -> None:
        """Answer the asker, if there is one. Only the first answer counts."""
        slot, self.slot = self.slot, None
        if slot is not None:
            slot.resolve(value)

    def refuse(self, error: MijraError) -> None:
        """Refuse the asker, if there is one. Only the first answer counts."""
        slot, self.slot = self.slot, None
        if slot is not None:
            slot.fail(error)


class RoomWaiter:
    """A `tell` that waits for room with its message in hand."""

    __slots__ = ("item", "lane", "task")

    def __init__(self, task: Task, item: object, lane: Lane) -> None:
        self.task = task
        self.item = item
        self.lane = lane


class Waiters:
    """Tasks inside `tell`, and actors whose released effects do not fit, in the order of their coming."""

    __slots__ = ("actors", "tasks")

    def __init__(self) -> None:
        self.tasks: deque[RoomWaiter] = deque()
        self.actors: deque[Any] = deque()


class Room:
    """Who waits for room in one mailbox. Those with a bulk message wait apart, so that nobody waits behind
    them."""

    __slots__ = ("bulk", "urgent")

    def __init__(self) -> None:
        self.urgent = Waiters()
        self.bulk = Waiters()

    def waiters(self, lane: Lane) -> Waiters:
        """Where to wait with a message of `lane`."""
        return self.bulk if lane is Lane.BULK else self.urgent

    def wanted(self) -> bool:
        """Whether anybody waits."""
        return bool(self.urgent.actors or self.urgent.tasks or self.bulk.actors or self.bulk.tasks)


class Mailbox:
    """The lanes of one address. `engaged` means that somebody already knows of the waiting messages."""

    __slots__ = ("address", "bulk", "engaged", "limit", "normal", "realtime", "room", "waiting")

    def __init__(self, address: Address, limit: int) -> None:
        self.address = address
        self.limit = limit
        self.waiting = 0
        self.engaged = False
        self.realtime: deque[Any] | None = None
        self.normal: deque[Any] | None = None
        self.bulk: deque[Any] | None = None
        self.room: Room | None = None

    def push(self, item: object, lane: Lane) -> None:
        """Put `item` at the end of its lane. The limit is the sender's to respect: senders differ in
        theirs."""
        self.waiting += 1
        if lane is Lane.NORMAL:
            if self.normal is None:
                self.normal = deque((item,))
            else:
                self.normal.append(item)
        elif lane is Lane.REALTIME:
            if self.realtime is None:
                self.realtime = deque((item,))
            else:
                self.realtime.append(item)
        elif self.bulk is None:
            self.bulk = deque((item,))
        else:
            self.bulk.append(item)

    def pop(self) -> tuple[Any, Lane]:
        """Take what is next; there must be something."""
        self.waiting -= 1
        if self.realtime:
            return self.realtime.popleft(), Lane.REALTIME
        if self.normal:
            return self.normal.popleft(), Lane.NORMAL
        assert self.bulk is not None
        return self.bulk.popleft(), Lane.BULK

    def only_bulk(self) -> bool:
        """Whether what is next comes from the bulk lane, if anything is."""
        return not self.realtime and not self.normal

    def peek(self) -> object:
        """The message that is next, or None."""
        for lane in (self.realtime, self.normal, self.bulk):
            if lane:
                item = lane[0]
                return item.message if type(item) is Envelope else item
        return None

    def trim(self) -> None:
        """Give the memory of empty lanes back."""
        if not self.realtime:
            self.realtime = None
        if not self.normal:
            self.normal = None
        if not self.bulk:
            self.bulk = None

    def empty(self) -> list[Any]:
        """Take everything out, for refusal."""
        items = [item for lane in (self.realtime, self.normal, self.bulk) if lane for item in lane]
        self.realtime = self.normal = self.bulk = None
        self.waiting = 0
        return items

    def engage(self) -> None:
        """Called when something came in and `engaged` was False: see that it is handled."""
        raise NotImplementedError
