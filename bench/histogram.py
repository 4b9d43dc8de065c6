"""Latencies in bounded memory, kept so that tails stay true.

Why        An average hides what a person waits for. A list of every latency grows with the run, and sorting
           it while the load goes on would disturb what is measured.
Promises   a recorded value is reported at most 1/128 (0.8 %) too high and never too low; count, smallest and
           largest are exact; two histograms merge without loss.
Leaves     what is a latency, and from when it counts, to the callers.

The layout is that of HdrHistogram (Gil Tene): each power of two is cut into equal parts, so the relative
error is the same for microseconds and for minutes.
"""

from collections.abc import Iterable, Iterator, Mapping
from math import ceil
from typing import Any, Final

_PART_BITS: Final = 7
_PARTS: Final = 1 << _PART_BITS
# 2^43 ns are 2.4 hours: no run lasts as long, and the table stays at 38 KiB.
_VALUE_BITS: Final = 43
_SLOTS: Final = (_VALUE_BITS - _PART_BITS + 1) << _PART_BITS
_VALUE_MAX: Final = (1 << _VALUE_BITS) - 1


def _slot(value: int) -> int:
    shift = value.bit_length() - _PART_BITS - 1
    return value if shift <= 0 else (shift << _PART_BITS) + (value >> shift)


def _slot_top(slot: int) -> int:
    """The largest value that `_slot` puts there."""
    if slot < 2 * _PARTS:
        return slot
    shift = (slot >> _PART_BITS) - 1
    return (((slot & (_PARTS - 1)) + _PARTS + 1) << shift) - 1


class Histogram:
    """Counts of whole numbers from 0 on, meant for nanoseconds."""

    def __init__(self, values: Iterable[int] = ()) -> None:
        self._counts = [0] * _SLOTS
        self._count = 0
        self._total = 0
        self._low = _VALUE_MAX
        self._high = 0
        for value in values:
            self.record(value)

    def __len__(self) -> int:
        return self._count

    def record(self, value: int) -> None:
        """Count one value. Below zero (two clocks that disagree) is zero, above the limit is the limit."""
        value = min(max(value, 0), _VALUE_MAX)
        self._counts[_slot(value)] += 1
        self._count += 1
        self._total += value
        if value < self._low:
            self._low = value
        if value > self._high:
            self._high = value

    def merge(self, other: "Histogram") -> None:
        """Add everything that `other` has counted."""
        for slot, count in enumerate(other._counts):
            if count:
                self._counts[slot] += count
        self._count += other._count
        self._total += other._total
        self._low = min(self._low, other._low)
        self._high = max(self._high, other._high)

    def packed(self) -> dict[str, Any]:
        """Everything in it as JSON takes it, for another process."""
        used = [[slot, count] for slot, count in enumerate(self._counts) if count]
        return {"counts": used, "total": self._total, "low": self._low, "high": self._high}

    @classmethod
    def unpacked(cls, packed: Mapping[str, Any]) -> "Histogram":
        """The histogram that was `packed`."""
        histogram = cls()
        for slot, count in packed["counts"]:
            histogram._counts[slot] = count
            histogram._count += count
        histogram._total, histogram._low, histogram._high = packed["total"], packed["low"], packed["high"]
        return histogram

    def count_up_to(self, value: int) -> int:
        """How many values were at most this, to the histogram's precision."""
        return sum(self._counts[: _slot(min(max(value, 0), _VALUE_MAX)) + 1])

    @property
    def smallest(self) -> int:
        return self._low if self._count else 0

    @property
    def largest(self) -> int:
        return self._high

    @property
    def mean(self) -> float:
        return self._total / self._count if self._count else 0.0

    def at(self, share: float) -> int:
        """The smallest value that at least `share` (0 to 1) of all values do not exceed; 0 when empty."""
        if not 0 <= share <= 1:
            raise ValueError(f"a share lies between 0 and 1, not {share}")
        if not self._count:
            return 0
        wanted = max(1, ceil(share * self._count))
        seen = 0
        for slot, count in enumerate(self._counts):
            seen += count
            if seen >= wanted:
                return min(max(_slot_top(slot), self._low), self._high)
        raise AssertionError("the counts sum up to less than the count")

    def curve(self) -> Iterator[tuple[int, float]]:
        """(value, share of all values up to it) for every slot in use: what a plot of the tail needs."""
        seen = 0
        for slot, count in enumerate(self._counts):
            if count:
                seen += count
                yield min(_slot_top(slot), self._high), seen / self._count


def milliseconds(nanoseconds: float) -> float:
    """For tables and JSON: rounded to the microsecond."""
    return round(nanoseconds / 1e6, 3)
