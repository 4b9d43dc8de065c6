"""How fast an account may send: arithmetic over times that are passed in (seconds, any monotonic clock).

Why         Being throttled costs more than waiting: a refused call spends a connection and a retry, and
            repeated throttling lowers an account's standing. So the platform's limits are kept on our side,
            and learned down when the platform shows that it sees them differently.
Promises    Whatever the calls, no second holds more than `limit` calls of an account (`Window`), and no
            stretch of t seconds more than burst + t / seconds calls to one recipient (`PairPace`); tests look
            at every window. Under a steady load at least 99 % of the limit are used.
Leaves      Waiting to the caller: `wait` says how long, `take` counts. Deciding whose turn it is goes by
            `AccountPace`, some time before the call; `Window` and `PairPace` count when the request is
            written, since what lies between (the commit that says `sending`, an upload, a new connection)
            takes now longer, now shorter, and would push calls together.
"""

from collections import deque
from typing import Final

_BACK_TO_FULL_SECONDS: Final = 60.0
"""A halved pace needs half a minute to recover: long enough that the next throttling, if the limit really is
lower, comes after many good sends, short enough that a passing one is forgotten before anybody looks."""

_LEARN_SECONDS: Final = 1.0
"""A full house of calls in flight is refused together; that is one lesson, not thirty."""

_PACE_MIN: Final = 0.5
"""Sends per second below which learning stops: slower still would make a whole minute's guess of one
refusal."""


_SLACK_SECONDS: Final = 0.006
"""What of a window is left unused, because the way from us to the platform takes now longer, now shorter: a
call is on its way for as much less than the one before it. 0.6 % of the rate."""


class Window:
    """The last second's calls of an account: at most `limit`."""

    __slots__ = ("_calls", "_limit")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._calls: deque[Call] = deque()

    def wait(self, now: float, ahead: int = 0) -> float:
        """Seconds until a call may be made, after `ahead` others that have not been counted yet; 0 when it
        may be made now."""
        calls = self._calls
        while calls and calls[0].free_at <= now:
            calls.popleft()
        place = len(calls) + ahead - self._limit
        if place < 0:
            return 0.0
        # More ahead than places: the last one's time, and a second for each whole round of them.
        rounds, place = divmod(place, max(len(calls), 1))
        return max(0.0, calls[place].free_at - now + rounds) if calls else float(rounds)

    def take(self, now: float) -> "Call":
        """Counts a call that is made now. Only when `wait` gave 0."""
        call = Call(now)
        self._calls.append(call)
        return call


class Call:
    """A call that a window has counted. `free_at`: when its place is free again."""

    __slots__ = ("free_at",)

    def __init__(self, now: float) -> None:
        self.free_at = now + 1.0 + _SLACK_SECONDS

    def written(self, now: float) -> None:
        """Only now it went out (the process was held up, or the socket was full)."""
        self.free_at = now + 1.0 + _SLACK_SECONDS


class AccountPace:
    """A token bucket whose rate is learned: halved by a throttling, slowly up again, never above the limit.

    It spreads calls evenly. The bucket holds a tenth of a second's worth, so that a moment in which nothing
    could go is made up for; that a second holds no more than the limit is `Window`'s to see to.
    """

    __slots__ = ("_learned_at", "_paused_until", "_rate", "_seen_at", "_tokens", "burst", "rate_max")

    def __init__(self, limit: int, now: float) -> None:
        self.burst = max(1, limit // 10)
        self.rate_max = float(limit)
        self._rate = self.rate_max
        self._tokens = float(self.burst)
        self._seen_at = now
        self._learned_at = now - _LEARN_SECONDS
        self._paused_until = now

    def rate(self, now: float) -> float:
        """Sends per second at present."""
        self._flow(now)
        return self._rate

    def wait(self, now: float) -> float:
        """Seconds until a send may go; 0 when it may go now."""
        self._flow(now)
        if now < self._paused_until:
            return self._paused_until - now
        # The room for rounding is a billionth of a send.
        return 0.0 if self._tokens >= 1.0 - 1e-9 else (1.0 - self._tokens) / self._rate

    def paused(self, now: float) -> float:
        """Seconds that are left of a pause; 0 without one."""
        return max(0.0, self._paused_until - now)

    def take(self, now: float, weight: int = 1) -> None:
        """Counts a send that is begun. Call it only when `wait` gave 0. What weighs more than one is paid
        back before the next."""
        self._flow(now)
        self._tokens -= weight

    def throttled(self, now: float, seconds: float = 0.0) -> None:
        """The platform refused for speed; nothing goes for `seconds` (its Retry-After)."""
        self._flow(now)
        if now - self._learned_at >= _LEARN_SECONDS:
            self._rate = max(min(_PACE_MIN, self.rate_max), self._rate / 2)
            self._learned_at = now
        self._tokens = min(self._tokens, 0.0)
        self.pause(now, seconds)

    def pause(self, now: float, seconds: float) -> None:
        """Nothing goes for `seconds`; a longer pause that is on already stays."""
        self._paused_until = max(self._paused_until, now + seconds)

    def _flow(self, now: float) -> None:
        passed = now - self._seen_at
        if passed <= 0:
            return
        self._seen_at = now
        # The old rate for the whole stretch: a little less than the integral, so never too fast.
        self._tokens = min(float(self.burst), self._tokens + self._rate * passed)
        self._rate = min(self.rate_max, self._rate + self.rate_max / _BACK_TO_FULL_SECONDS * passed)


class PairPace:
    """One message per `seconds` to one recipient, with bursts of `burst` that are paid back.

    The last one of a burst that takes no time at all waits for the slack of a window.

    A recipient's debt is one number: when it will be paid. Memory holds those who have a debt, so at most
    what an account can send in burst * seconds (270 s for WhatsApp: about 21,000 at 80 messages a second).
    """

    __slots__ = ("_paid_at", "_sweep_at", "burst", "seconds")

    def __init__(self, seconds: float, burst: int) -> None:
        self.seconds = seconds
        self.burst = burst
        self._paid_at: dict[str, float] = {}
        self._sweep_at = 1_024

    def wait(self, recipient: str, now: float) -> float:
        """Seconds until a message to this recipient may go; 0 when it may go now."""
        paid_at = self._paid_at.get(recipient)
        if paid_at is None:
            return 0.0
        # The slack: as in a window, the way to the platform may be shorter than it was before.
        over = paid_at + self.seconds - now - self.burst * self.seconds + _SLACK_SECONDS
        # The room for rounding is far below what a clock can tell.
        return over if over > 1e-6 else 0.0

    def take(self, recipient: str, now: float) -> None:
        """Counts a message. Call it only when `wait` gave 0."""
        self._paid_at[recipient] = max(self._paid_at.get(recipient, now), now) + self.seconds
        if len(self._paid_at) > self._sweep_at:
            self._paid_at = {key: at for key, at in self._paid_at.items() if at > now}
            # Sweeping when the table has doubled costs each message a constant share.
            self._sweep_at = max(1_024, 2 * len(self._paid_at))

    def refused(self, recipient: str, seconds: float, now: float) -> None:
        """The platform counts differently: the burst is used up and the next may go in `seconds`."""
        debt = now + (self.burst - 1) * self.seconds + seconds
        self._paid_at[recipient] = max(self._paid_at.get(recipient, now), debt)

    def __len__(self) -> int:
        return len(self._paid_at)
