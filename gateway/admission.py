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

WAIT_SECONDS: Final = 0.75
"""A lone tenant gets two thirds of it (`engine.runtime.shared_room`), so waits for half a second: in time for
platforms, to which more than one is slow, and enough in flight for full batches."""

BURST_SECONDS: Final = 1.0
PATIENCE_FIRST_SECONDS: Final = 0.5
PATIENCE_SECONDS: Final = 0.15
"""What waited longer before it was even looked at is refused while a queue stands. A burst is over within a
second, and half of one is in time for platforms. An overload is not over: then a client who has a thousand
connections finds none of them free unless each is answered within a fraction of that."""

IN_FLIGHT_MIN: Final = 256
"""Below that the batches of a slow store would get small, and slower still."""

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
        self._stood_since = 0.0
        self._ended = 0
        self._quickest = 0.0
        self._rate = 0.0

    def begin(self, ready: float, now: float) -> int:
        """A delivery is taken in that has waited since `ready`; the number is for `end`."""
        self._number += 1
        self._in_flight[self._number] = ready
        if not self.standing and now - next(iter(self._in_flight.values())) > 2 * STANDING_SECONDS:
            self._stand(now)
        return self._number

    def end(self, number: int, now: float, *, durable: bool) -> None:
        """It has its answer."""
        waited = now - self._in_flight.pop(number)
        if durable:
            if self._ended == 0 or waited < self._quickest:
                self._quickest = waited
            self._ended += 1
            if now - self._began >= WINDOW_SECONDS:
                self._roll(now - self._began, now)
                self._began = now
        if not self._in_flight:
            self._lift()

    def patience(self, now: float) -> float:
        """Seconds that a delivery may have waited before it is looked at, while `standing`."""
        return PATIENCE_FIRST_SECONDS if now - self._stood_since < BURST_SECONDS else PATIENCE_SECONDS

    def _roll(self, seconds: float, now: float) -> None:
        rate = self._ended / seconds
        self._rate += (rate - self._rate) * (_SMOOTHING if self.standing else 1.0)
        self._ended = 0
        # While late ones are refused the quickest is as quick as that allows; the queue stands all the same.
        if self._quickest > (PATIENCE_SECONDS / 2 if self.standing else STANDING_SECONDS):
            self._stand(now)
        else:
            self._lift()

    def _stand(self, now: float) -> None:
        if not self.standing:
            self._stood_since = now
        self.standing = True
        self.limit = min(self._most, max(IN_FLIGHT_MIN, round(self._rate * WAIT_SECONDS)))

    def _lift(self) -> None:
        self.standing = False
        self.limit = self._most
