"""The platform's two sending limits, as plain arithmetic with the time passed in (seconds, monotonic)."""

from collections import deque
from collections.abc import Callable


class NumberLimit:
    """At most `per_second` sends in any one second: a sliding window, stricter than a token bucket.

    The platform does not publish its algorithm; who stays within this one stays within a softer one.
    Refused sends do not count. Memory: one float per send of the last second.
    """

    def __init__(self, per_second: int) -> None:
        self.per_second = per_second
        self.peak = 0
        self._recent: deque[float] = deque()

    def has_room(self, now: float) -> bool:
        """Whether one more send fits now."""
        while self._recent and self._recent[0] <= now - 1.0:
            self._recent.popleft()
        return len(self._recent) < self.per_second

    def count(self, now: float) -> None:
        """A send was accepted."""
        self._recent.append(now)
        self.peak = max(self.peak, len(self._recent))


class AccountLimits:
    """One window for each account. `per_second` is how many sends it takes at this moment."""

    def __init__(self, per_second: Callable[[str], int]) -> None:
        self._per_second = per_second
        self._limits: dict[str, NumberLimit] = {}

    def admit(self, account_id: str, now: float) -> bool:
        """Whether one more send fits now; if so it is counted."""
        limit = self._limits.setdefault(account_id, NumberLimit(0))
        limit.per_second = self._per_second(account_id)
        if not limit.has_room(now):
            return False
        limit.count(now)
        return True


class PairLimit:
    """One message per `seconds` to one user, with bursts of `burst` that are paid back (GCRA).

    A user's debt is one number: the time at which it is paid. Paid debts are forgotten when there are
    more than `users_max`; it holds a few times more users than a number can reach in a burst period.
    """

    users_max = 100_000

    def __init__(self, seconds: float, burst: int) -> None:
        self.seconds = seconds
        self.burst = burst
        self._paid_at: dict[tuple[str, str], float] = {}

    def admit(self, number: str, user: str, now: float) -> bool:
        """Whether one more message of `number` to `user` fits now; if so it is counted."""
        pair = (number, user)
        paid_at = max(self._paid_at.get(pair, now), now)
        # A hundredth of a step of slack (60 ms as delivered) absorbs floating point and the network's jitter.
        if paid_at + self.seconds - now > (self.burst + 0.01) * self.seconds:
            return False
        self._paid_at[pair] = paid_at + self.seconds
        if len(self._paid_at) > self.users_max:
            self._paid_at = {key: at for key, at in self._paid_at.items() if at > now}
        return True
