"""More for one actor than should lie in its mailbox at once: the rest waits here and goes in as answers come.

Why        A delivery may hold more events of one contact than a mailbox takes. Were they refused for that,
           they would be refused again each time the platform repeats them.
Promises   What is put for an address reaches it in the order in which it was put, whoever put it; of it at
           most `INSIDE_MAX` messages are unanswered at a time, so that others find room in the mailbox. Each
           slot is answered once, unless its feed is dropped.
           Nothing waits for others' messages to go: with none of its own inside and no room, what waits is
           refused with MailboxFull.
Limits     what waits belongs to deliveries that somebody waits for; their number and bytes are bounded at the
           edge. Whoever gives one up drops its feed.
"""

from collections import deque
from typing import Final

from engine.errors import MailboxFull, MijraError, Unavailable
from engine.runtime import Address, Lane, ReplySlot, System

INSIDE_MAX: Final = 128
"""Half of a conversation's mailbox, and twice what one activation may have in flight: while one half commits,
the next is at hand."""

RETRY_AFTER_SECONDS: Final = 2.0


class Feeder:
    """All methods belong to the trio thread."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._lines: dict[Address, _Line] = {}

    def open(self, *, messages: int) -> "Feed":
        """For one delivery, which has so many messages in all."""
        return Feed(self._system, self._lines, lone=messages <= 1)


class Feed:
    """What one delivery has for the actors."""

    __slots__ = ("_all", "_lines", "_lone", "_system")

    def __init__(self, system: System, lines: "dict[Address, _Line]", *, lone: bool) -> None:
        self._system = system
        self._all = lines
        self._lone = lone
        self._lines: dict[_Line, None] = {}

    def put(self, address: Address, message: object, lane: Lane, slot: ReplySlot) -> None:
        """Send it as soon as there is room and its turn has come, perhaps now; the answer, or the refusal,
        comes to `slot`, also perhaps now. Raises ActorStopped while the system stops."""
        line = self._all.get(address) if self._all else None
        if line is None:
            if self._lone:  # nothing to keep in order, so nothing to keep
                if not self._system.offer(address, message, lane=lane, reply_to=slot):
                    slot.fail(_full(address))
                return
            line = self._all[address] = _Line(address, self._system, self._all)
        self._lines[line] = None
        line.waiting.append(_Fed(line, self, message, lane, slot))
        line.advance()

    def drop(self) -> None:
        """Nobody waits for the answers any more: what is not in a mailbox yet is forgotten."""
        for line in self._lines:
            line.drop(self)


class _Fed:
    """A message on its way, and the slot of its answer, which lets the next one in."""

    __slots__ = ("feed", "lane", "line", "message", "slot")

    def __init__(self, line: "_Line", feed: Feed, message: object, lane: Lane, slot: ReplySlot) -> None:
        self.line: _Line | None = line
        self.feed = feed
        self.message = message
        self.lane = lane
        self.slot = slot

    def resolve(self, value: object) -> None:
        line, self.line = self.line, None
        if line is not None:
            self.slot.resolve(value)
            line.answered()

    def fail(self, error: MijraError) -> None:
        line, self.line = self.line, None
        if line is not None:
            self.slot.fail(error)
            if isinstance(error, Unavailable):  # so would be what waits
                line.refuse(error)
            line.answered()


class _Line:
    """What waits for one address, for as long as something of it waits or is unanswered."""

    __slots__ = ("_address", "_all", "_inside", "_system", "waiting")

    def __init__(self, address: Address, system: System, everything: "dict[Address, _Line]") -> None:
        self._address = address
        self._system = system
        self._all = everything
        self._inside = 0
        self.waiting: deque[_Fed] = deque()

    def advance(self) -> None:
        """Let in what there is room for."""
        while self.waiting and self._inside < INSIDE_MAX:
            fed = self.waiting[0]
            try:
                taken = self._system.offer(self._address, fed.message, lane=fed.lane, reply_to=fed)
            except MijraError as error:
                self.refuse(error)
                break
            if not taken:
                if not self._inside:
                    self.refuse(_full(self._address))
                break
            self.waiting.popleft()
            self._inside += 1
        self._end()

    def answered(self) -> None:
        """One that was inside has its answer."""
        self._inside -= 1
        self.advance()

    def drop(self, feed: Feed) -> None:
        if self.waiting:
            self.waiting = deque(fed for fed in self.waiting if fed.feed is not feed)
            self._end()

    def refuse(self, error: MijraError) -> None:
        """Nothing of what waits goes in."""
        waiting, self.waiting = self.waiting, deque()
        for fed in waiting:
            fed.slot.fail(error)

    def _end(self) -> None:
        if not self.waiting and not self._inside:
            self._all.pop(self._address, None)


def _full(address: Address) -> MailboxFull:
    return MailboxFull(
        f"The {address.kind} has as much waiting as it may.", retry_after_seconds=RETRY_AFTER_SECONDS
    )
