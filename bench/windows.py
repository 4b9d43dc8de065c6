"""What a platform would say about the moments at which calls reached it: every window is looked at.

Pure; times are seconds, ascending.
"""

from bisect import bisect_left
from collections.abc import Sequence

# Two clocks' readings of one moment differ by the resolution of a float at today's epoch, far below this.
_ROUNDING_SECONDS = 1e-6


def fullest(times: Sequence[float], seconds: float) -> int:
    """The most arrivals in any stretch of so many seconds, its end not included."""
    return max((bisect_left(times, at + seconds) - place for place, at in enumerate(times)), default=0)


def over_limit(times: Sequence[float], limit: int, seconds: float) -> int:
    """How many of the windows that begin at an arrival hold more than `limit` arrivals."""
    return sum(bisect_left(times, at + seconds) - place > limit for place, at in enumerate(times))


def over_pair_limit(times: Sequence[float], *, seconds: float, burst: int) -> int:
    """How many arrivals at one recipient came too early: before them, some stretch of t seconds had held
    burst + t / seconds already (WhatsApp sheet, 6.1: bursts are paid back)."""
    over, paid_at = 0, float("-inf")
    for at in times:
        debt_ends = max(paid_at, at) + seconds
        if debt_ends - at > burst * seconds + _ROUNDING_SECONDS:
            # It was refused, so it costs nothing.
            over += 1
        else:
            paid_at = debt_ends
    return over


def share_used(times: Sequence[float], limit: int, seconds: int) -> float:
    """Arrivals in the first whole `seconds` after the first one, of the most that is allowed in them."""
    return bisect_left(times, times[0] + seconds) / (limit * seconds) if times else 0.0
