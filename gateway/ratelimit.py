"""Rate limits of the API: token buckets by key, in a bounded table.

Pure arithmetic with the time passed in (seconds of any monotonic clock). One `Buckets` per kind of key:
token, tenant, client address, e-mail of a login.

Limits     `keys_max` buckets are kept, least recently used ones go first. A bucket that went is full again,
           which errs on the caller's side; the table is sized so that only keys idle for long go.
Leaves     limits across several processes to a shared store, when there are several.
"""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

from msgspec import Struct

from engine.errors import RateLimited

KEYS_MAX = 20_000
"""About 5 MB at its fullest; more keys than one process serves within a refill time."""

K = TypeVar("K", bound=Hashable)


class Rate(Struct, frozen=True, kw_only=True):
    """`burst` calls at once, and `per_second` more as time goes by."""

    per_second: float
    burst: int


class Verdict(Struct, frozen=True, kw_only=True):
    """`retry_after_seconds` is None when the call may go on; `reset_seconds` is until the bucket is full."""

    limit: int
    remaining: int
    reset_seconds: float
    retry_after_seconds: float | None

    def headers(self) -> dict[str, str]:
        """RateLimit header fields (draft-ietf-httpapi-ratelimit-headers, the three-field form)."""
        return {
            "RateLimit-Limit": str(self.limit),
            "RateLimit-Remaining": str(self.remaining),
            "RateLimit-Reset": str(int(self.reset_seconds + 0.999)),
        }


class Buckets(Generic[K]):
    """`take` asks for one call by `key`. A refused call costs nothing, so a client that retries too early
    is not pushed back further."""

    def __init__(self, rate: Rate, *, keys_max: int = KEYS_MAX) -> None:
        self._rate = rate
        self._keys_max = keys_max
        self._levels: OrderedDict[K, tuple[float, float]] = OrderedDict()

    def take(self, key: K, now: float) -> Verdict:
        level = self._level(key, now)
        verdict = self._verdict(level)
        self._levels[key] = (level if verdict.retry_after_seconds is not None else level - 1, now)
        self._levels.move_to_end(key)
        if len(self._levels) > self._keys_max:
            self._levels.popitem(last=False)
        return verdict

    def give_back(self, key: K, now: float) -> None:
        """Undoes one `take`: what was reserved turned out not to count."""
        self._levels[key] = (min(float(self._rate.burst), self._level(key, now) + 1), now)

    def peek(self, key: K, now: float) -> Verdict:
        """What `take` would say, without taking."""
        return self._verdict(self._level(key, now))

    def _level(self, key: K, now: float) -> float:
        full = float(self._rate.burst)
        level, since = self._levels.get(key, (full, now))
        return min(full, level + max(0.0, now - since) * self._rate.per_second)

    def _verdict(self, level: float) -> Verdict:
        rate = self._rate
        retry = None if level >= 1 else (1 - level) / rate.per_second
        if retry is None:
            level -= 1
        return Verdict(
            limit=rate.burst,
            remaining=int(level),
            reset_seconds=(rate.burst - level) / rate.per_second,
            retry_after_seconds=retry,
        )

    def __len__(self) -> int:
        return len(self._levels)


def refuse_over(verdict: Verdict, sentence: str) -> None:
    """Raises RateLimited when the verdict is no."""
    if verdict.retry_after_seconds is not None:
        raise RateLimited(sentence, retry_after_seconds=verdict.retry_after_seconds)
