"""The channel's queue: a line for each conversation, and which line's head may go next. Pure.

Promises    Items of one conversation leave in the order of their ids, one at a time: the next one is not
            given out before the one in hand was finished or put back. Among lines that may go, those with an
            item of a more urgent lane come first, and within a lane the one that has waited longest. A line
            is as urgent as its most urgent item, since that item cannot overtake the ones before it.
Leaves      Pace, calls and memory bounds to the channel actor. Times are any monotonic seconds.
"""

from bisect import insort
from collections import OrderedDict
from heapq import heappop, heappush
from math import inf
from operator import attrgetter

from engine.domain.outbound import OutboxItem

LANES = 3


class Entry:
    """An item and what the channel has learned about it. `due`: not before this time."""

    __slots__ = (
        "again",
        "attempts",
        "due",
        "item",
        "reopened",
        "resent",
        "settled",
        "took_ms",
        "unknown",
        "unknowns",
        "unsure",
    )

    def __init__(self, item: OutboxItem, due: float) -> None:
        self.item = item
        self.attempts = item.attempts
        self.due = due
        self.unsure = item.state == "sending"
        """It was being sent when a process ended; the conversation does not know yet."""
        self.unknown = item.state in ("sending", "unknown")
        """An attempt has no known outcome; the next attempt is a resend."""
        self.unknowns = 0
        self.resent = False
        self.settled = False
        self.reopened = False
        """Its row was ended by the conversation, and opened again by a write of ours that came just after."""
        self.again: OutboxItem | None = None
        """The same item, told anew before this one was let go."""
        self.took_ms = 0.0
        """How long the last call took."""

    @property
    def id(self) -> int:
        return self.item.id

    @property
    def is_signal(self) -> bool:
        return self.item.message_id is None


class Line:
    """One conversation's items, in id order."""

    __slots__ = ("busy", "counts", "entries", "key", "place")

    def __init__(self, key: str) -> None:
        self.key = key
        self.entries: list[Entry] = []
        self.counts = [0] * LANES
        self.busy = False
        self.place: int | None = None

    @property
    def lane(self) -> int:
        return next(lane for lane, count in enumerate(self.counts) if count)


_by_id = attrgetter("id")


class Lines:
    """All lines of one account."""

    def __init__(self) -> None:
        self._lines: dict[str, Line] = {}
        self._entries: dict[int, Entry] = {}
        self._ready: tuple[OrderedDict[str, Line], ...] = tuple(OrderedDict() for _ in range(LANES))
        self._later: list[tuple[float, int, Line]] = []
        self._pushed = 0
        self.counts = [0] * LANES

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, item_id: int) -> bool:
        return item_id in self._entries

    def find(self, item_id: int) -> Entry | None:
        return self._entries.get(item_id)

    def in_hand(self, entry: Entry) -> bool:
        """Whether this entry was begun and neither finished nor put back."""
        line = self._lines.get(entry.item.contact_key)
        return line is not None and line.busy and line.entries[0] is entry

    def add(self, entry: Entry, now: float) -> None:
        """Queues an item whose id is not here yet."""
        lane = _lane(entry)
        line = self._lines.get(entry.item.contact_key)
        if line is None:
            line = self._lines[entry.item.contact_key] = Line(entry.item.contact_key)
        # What is in hand stays in front, whatever comes.
        insort(line.entries, entry, lo=1 if line.busy else 0, key=_by_id)
        line.counts[lane] += 1
        self.counts[lane] += 1
        self._entries[entry.id] = entry
        self._settle(line, now)

    def next(self, now: float) -> Line | None:
        """The line whose head should go now; it stays where it is until `begin` or `postpone`."""
        while self._later and self._later[0][0] <= now:
            _, _, line = heappop(self._later)
            # A line that has got another due time meanwhile has another place in the heap too.
            if line.place is None and not line.busy and line.entries and line.entries[0].due <= now:
                self._settle(line, now)
        for ready in self._ready:
            for line in ready.values():
                return line
        return None

    def next_due(self) -> float:
        """When the next waiting line may go; infinity when none waits for a time."""
        while self._later:
            due, _, line = self._later[0]
            if line.place is None and not line.busy and line.entries and line.entries[0].due == due:
                return due
            heappop(self._later)
        return inf

    def begin(self, line: Line) -> Entry:
        """Takes the line's head in hand."""
        self._leave(line)
        line.busy = True
        return line.entries[0]

    def postpone(self, line: Line, due: float, now: float) -> None:
        """The head, not in hand, may not go before `due`."""
        line.entries[0].due = max(due, line.entries[0].due)
        self._settle(line, now)

    def put_back(self, entry: Entry, now: float) -> None:
        """The entry in hand goes again at its `due`; its line waits for it."""
        line = self._lines[entry.item.contact_key]
        line.busy = False
        self._settle(line, now)

    def finish(self, entry: Entry, now: float) -> None:
        """The entry, in hand or not, is over; the line's next one may go."""
        if self._entries.pop(entry.id, None) is None:
            return
        line, lane = self._lines[entry.item.contact_key], _lane(entry)
        if line.busy and line.entries[0] is entry:
            line.busy = False
        line.entries.remove(entry)
        line.counts[lane] -= 1
        self.counts[lane] -= 1
        self._settle(line, now)
        if not line.entries:
            del self._lines[line.key]

    def _settle(self, line: Line, now: float) -> None:
        """Puts the line where its head belongs."""
        if line.busy or not line.entries:
            self._leave(line)
            return
        due = line.entries[0].due
        if due > now:
            self._leave(line)
            self._pushed += 1
            heappush(self._later, (due, self._pushed, line))
            return
        lane = line.lane
        if line.place != lane:
            self._leave(line)
            line.place = lane
            self._ready[lane][line.key] = line

    def _leave(self, line: Line) -> None:
        if line.place is not None:
            self._ready[line.place].pop(line.key, None)
            line.place = None


def _lane(entry: Entry) -> int:
    return min(max(entry.item.lane, 0), LANES - 1)
