"""How many deliveries may be in flight, by how long they wait. Pure.

Why        What a server cannot do in time it should refuse at once: a queue that stands makes everybody
           late, costs memory, and ends in answers to platforms that have given up.
How        As CoDel does (Nichols and Jacobson, 2012; RFC 8289): a queue is bad only if it stands, that is if
           within a window even the quickest delivery waited for longer than a burst would explain, or if the
           oldest one has waited twice as long. While it stands, the limit is what is done within
           `WAIT_SECONDS` at the rate of the last windows (Little's law); otherwise it is `most`.
Promises   Bursts from rest are taken as far as there is room and can be done in time. After an overload the
           limit is lifted by the first window without a standing queue, or when nothing is in flight.
"""

from typing import Final

WINDOW_SECONDS: Final = 0.25
"""Some batches of the writer, and a few hundred deliveries of a busy server."""

STANDING_SECONDS: Final = 0.25
"""Five times the goal for the 99th percentile at an ordinary load."""

WAIT_SECONDS: Final = 0.6
"""A lone tenant gets two thirds of it (`engine.runtime.shared_room`), so waits for 0.4 s: in time for
platforms, to which more than a second is slow, and enough in flight for full batches."""

PATIENCE_SECONDS: Final = 0.4
"""What waited longer before it was even looked at is refused while a queue stands: with `WAIT_SECONDS` on top
its answer would come after a second."""

LIFTED_SECONDS: Final = 0.075
"""A queue that stands is gone when somebody waits for less: some batches of the writer. While the limit holds
a queue down, nobody's wait is as long as the one that it was found by."""

IN_FLIGHT_MIN: Final = 128
"""Below that the batches of a slow store would get small, and slower still; and who has 64 connections and no
neighbour should never be refused."""

_SMOOTHING: Final = 0.5


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
        self._quickest = 0.0
        self._rate = 0.0

    def begin(self, ready: float, now: float) -> int:
        """A delivery is taken in that has waited since `ready`; the number is for `end`."""
        self._number += 1
        self._in_flight[self._number] = ready
        if not self.standing and now - next(iter(self._in_flight.values())) > 2 * STANDING_SECONDS:
            self._stand()
        return self._number

    def end(self, number: int, now: float, *, durable: bool) -> None:
        """It has its answer."""
        waited = now - self._in_flight.pop(number)
        if durable:
            if self._ended == 0 or waited < self._quickest:
                self._quickest = waited
            self._ended += 1
            if now - self._began >= WINDOW_SECONDS:
                self._roll(now - self._began)
                self._began = now
        if not self._in_flight:
            self._lift()

    def _roll(self, seconds: float) -> None:
        rate = self._ended / seconds
        self._rate += (rate - self._rate) * (_SMOOTHING if self.standing else 1.0)
        self._ended = 0
        if self._quickest > (LIFTED_SECONDS if self.standing else STANDING_SECONDS):
            self._stand()
        else:
            self._lift()

    def _stand(self) -> None:
        self.standing = True
        self.limit = min(self._most, max(IN_FLIGHT_MIN, round(self._rate * WAIT_SECONDS)))

    def _lift(self) -> None:
        self.standing = False
        self.limit = self._most
