"""Ids: integers that sort by time, fit a JavaScript number (53 bits) and need no database round trip.

Layout: 41 bits of milliseconds since 2025-01-01 UTC (enough until 2094), then 12 bits of counter.
More than 4,096 ids within one millisecond borrow from the next one; the order stays strict.
Two processes never allocate for the same tenant at once (see the fencing epoch), and every key
has the tenant in front, so no node number is needed in an id.
"""

from collections.abc import Callable

ID_EPOCH_MS = 1_735_689_600_000
COUNTER_BITS = 12
ID_MAX = (1 << 53) - 1


class IdAllocator:
    """Call it for the next id. Strictly increasing, also when the clock steps back, and over restarts if each
    process is told (`above`) what the one before it has stored."""

    __slots__ = ("_clock_ms", "_last")

    def __init__(self, clock_ms: Callable[[], int]) -> None:
        self._clock_ms = clock_ms
        self._last = 0

    def __call__(self) -> int:
        candidate = (self._clock_ms() - ID_EPOCH_MS) << COUNTER_BITS
        self._last = candidate if candidate > self._last else self._last + 1
        return self._last

    def above(self, stored: int) -> None:
        """Ids from now on are higher than this one. Order is by id in the outbox and among conversations, and
        the clock may have been set back since the ids that are stored were given out."""
        self._last = max(self._last, stored)
