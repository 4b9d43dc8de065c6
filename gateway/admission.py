"""How many deliveries may be in flight, by how long they wait. Pure.

Why        What a server cannot do in time it should refuse at once: a queue that stands makes everybody
           late, costs memory, and ends in answers to platforms that have given up.
How        After CoDel (Nichols and Jacobson, 2012; RFC 8289): what counts is how long a queue stands, not how
           long it is. It stands when more waits than is done within `STANDING_SECONDS` (Little's law), which
           is known before anybody has waited; or when the oldest delivery has waited for so long, or within a
           window even the quickest one. Then the limit is what is done within `WAIT_SECONDS`; otherwise it is
           `most`. What is done is the best rate of the last windows, as BBR tells a path's bandwidth
           (Cardwell et al., 2016): a stall is no lesson about what can be done.
Promises   Bursts from rest are taken as far as there is room and can be done in time. After an overload the
           limit is lifted by the first window without a standing queue, or when nothing is in flight.
"""

from math import inf
from typing import Final

WINDOW_SECONDS: Final = 0.25
"""Some batches of the writer, and a few hundred deliveries of a busy server."""

STANDING_SECONDS: Final = 0.25
"""Five times the goal for the 99th percentile at an ordinary load. It is less than what may be in flight, so
hardly anybody has to be told late that there is no room."""

_TOLD_SECONDS: Final = 0.125
"""How much of a busy time tells what is done in it: some batches."""

WAIT_SECONDS: Final = 0.6
"""From the arrival. A lone tenant gets two thirds of it (`engine.runtime.shared_room`), so waits for 0.4 s:
in time for platforms, to which more than a second is slow; and a store that stalls for so long at full load
costs nobody a refusal."""

PATIENCE_SECONDS: Final = 0.6
"""What waited longer before it was even looked at is refused while a queue stands: nothing told whose it is
when it came, and its answer would be late."""

LIFTED_SECONDS: Final = 0.075
"""A queue that stands is gone when somebody waits for less: some batches of the writer. While the limit holds
a queue down, nobody's wait is as long as the one that it was found by."""

IN_FLIGHT_MIN: Final = 128
"""Below that the batches of a slow store would get small, and slower still; and who has 64 connections and no
neighbour should never be refused."""

_FORGOTTEN: Final = 0.2
"""Of a better rate, by each window that was worse: half of it in 0.8 s."""


class Admission:
    """The limit for `most` places; `standing` says whether it is below that. Times on one clock."""

    def __init__(self, most: int) -> None:
        self.limit = most
        self.standing = False
        self._most = most
        self._in_flight: dict[int, float] = {}
        self._number = 0
        self._began = 0.0
        self._ended = 0
        self._quickest = inf
        self._rate = 0.0

    def look(self, waiting: int, oldest: float, now: float) -> None:
        """So many are to be begun, or will be refused, and the oldest of them has waited since then."""
        if self.standing:
            return
        oldest = min(oldest, next(iter(self._in_flight.values()), inf))
        present = waiting + len(self._in_flight)
        if now - oldest > STANDING_SECONDS or (
            present > IN_FLIGHT_MIN
            and now - self._began > _TOLD_SECONDS
            and present > self._speed(now) * STANDING_SECONDS
        ):
            self._stand(now)

    def begin(self, ready: float, now: float) -> int:
        """A delivery is taken in that has waited since `ready`; the number is for `end`."""
        if not self._in_flight:
            self._began = now
            self._ended = 0
        self._number += 1
        self._in_flight[self._number] = ready
        self.look(0, inf, now)
        return self._number

    def end(self, number: int, now: float, *, durable: bool) -> None:
        """It has its answer."""
        waited = now - self._in_flight.pop(number)
        if durable:
            self._quickest = min(self._quickest, waited)
            self._ended += 1
            if now - self._began >= WINDOW_SECONDS:
                self._roll(now)
        if not self._in_flight:
            self._lift()

    def _roll(self, now: float) -> None:
        rate = self._ended / (now - self._began)
        self._rate = max(rate, self._rate + (rate - self._rate) * _FORGOTTEN)
        self._ended = 0
        self._began = now
        if self._quickest > (LIFTED_SECONDS if self.standing else STANDING_SECONDS):
            self._stand(now)
        else:
            self._lift()
        self._quickest = inf

    def _stand(self, now: float) -> None:
        if not self.standing:
            self.standing = True
            self._quickest = inf  # what ended before says nothing about the queue that was found now
        self.limit = min(self._most, max(IN_FLIGHT_MIN, round(self._speed(now) * WAIT_SECONDS)))

    def _speed(self, now: float) -> float:
        """Deliveries a second, as far as is known. The window that is under way counts too: it is the first
        one of a burst from rest."""
        return max(self._rate, self._ended / max(now - self._began, _TOLD_SECONDS))

    def _lift(self) -> None:
        self.standing = False
        self.limit = self._most
