"""Things to do later, in one heap instead of a task or a cancel scope each.

An `Alarms` is a heap over one clock; the system has two, trio's clock for backoff and sweeps and the wall
clock for the timers that handlers set. `System` sleeps until the nearest of both.
"""

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf


class Alarm:
    """One thing to do later; `action` is None once it is done or cancelled."""

    __slots__ = ("action", "due", "order")

    def __init__(self, due: float, order: int, action: Callable[[], None]) -> None:
        self.due = due
        self.order = order
        self.action: Callable[[], None] | None = action

    def __lt__(self, other: "Alarm") -> bool:
        return (self.due, self.order) < (other.due, other.order)


class Alarms:
    """A heap of alarms over one clock. Those of the same moment go off in the order they were set.

    A cancelled alarm stays in the heap until its time or until half of the heap is cancelled, so the heap is
    never more than twice what is pending (plus a small rest).
    """

    def __init__(self, wake_at: Callable[[float], None]) -> None:
        self._heap: list[Alarm] = []
        self._cancelled = 0
        self._order = count()
        self._wake_at = wake_at

    def set(self, due: float, action: Callable[[], None]) -> Alarm:
        """Call `action` when the clock has reached `due`. It must not raise."""
        alarm = Alarm(due, next(self._order), action)
        heappush(self._heap, alarm)
        if self._heap[0] is alarm:
            self._wake_at(due)
        return alarm

    def cancel(self, alarm: Alarm) -> None:
        """Forget the alarm; nothing happens if it went off already."""
        if alarm.action is None:
            return
        alarm.action = None
        self._cancelled += 1
        if self._cancelled > 64 and self._cancelled * 2 > len(self._heap):
            self._heap = [kept for kept in self._heap if kept.action is not None]
            heapify(self._heap)
            self._cancelled = 0

    def next_due(self) -> float:
        """When the next alarm is due; infinity when there is none."""
        while self._heap and self._heap[0].action is None:
            heappop(self._heap)
            self._cancelled -= 1
        return self._heap[0].due if self._heap else inf

    def go_off(self, now: float, at_most: int) -> None:
        """Let up to `at_most` of the alarms that are due go off; the caller yields between its calls."""
        while at_most > 0 and self.next_due() <= now:
            alarm = heappop(self._heap)
            action, alarm.action = alarm.action, None
            assert action is not None
            action()
            at_most -= 1

    def __len__(self) -> int:
        return len(self._heap) - self._cancelled
