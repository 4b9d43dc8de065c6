"""Requests of one sort that wait for the next call to the store, and the calls under way."""

from typing import Final, Generic, TypeVar

from engine.runtime.fair_queue import FairQueue

T = TypeVar("T")

BATCH_MAX: Final = 500
"""Requests in one call of `load` or `lookup`: one set-based query; beyond that its latency grows faster than
its gain."""

SHORT_BATCH_MAX: Final = 64
"""Requests in a call that is soon back. When long calls have all places but one, that one is kept for short
calls: a flood from one tenant would fill every place with long ones, and everybody else would wait for the
first of them to end."""

TURN_REQUESTS: Final = 16
"""Requests that a tenant may have in a call with others': the flood beside them makes it hardly longer."""


class Gathering(Generic[T]):
    """What waits by tenant, in turns (`engine.runtime.fair_queue`), for at most `places` calls at a time."""

    __slots__ = ("_calls", "_long", "waiting")

    def __init__(self) -> None:
        self.waiting: FairQueue[T] = FairQueue(TURN_REQUESTS)
        self._calls = 0
        self._long = 0

    def begin(self, places: int) -> list[T]:
        """The requests of a call that is to be made now, to be `end`ed; none when nothing waits or all places
        are taken."""
        if self._calls >= places:
            return []
        batch = self.waiting.take(SHORT_BATCH_MAX if 1 < places == self._long + 1 else BATCH_MAX)
        if batch:
            self._calls += 1
            self._long += len(batch) > SHORT_BATCH_MAX
        return batch

    def end(self, size: int) -> None:
        """The call that `begin` gave `size` requests for is over."""
        self._calls -= 1
        self._long -= size > SHORT_BATCH_MAX
