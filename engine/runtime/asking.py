"""Answers: who waits for one, how it comes back, and what ends the wait.

A `ReplySlot` travels with a message and is resolved once, after the commit of what the message changed.
`Answer` is the slot behind `System.ask`; `Gather` collects many answers with one wake-up, for the edge that
took a batch apart. Later resolutions of the same slot are ignored, so a deadline and an answer may race.
"""

from collections.abc import Callable
from heapq import heappop, heappush
from math import ceil, inf
from typing import Any, Protocol

import outcome
import trio
from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

from engine.errors import ActorStopped, AskTimeout, MijraError


class ReplySlot(Protocol):
    """Where an answer goes. Called in trio's thread; must neither block nor raise."""

    def resolve(self, value: object) -> None:
        """The answer."""
        ...

    def fail(self, error: MijraError) -> None:
        """The refusal, or the reason why there will be no answer."""
        ...


class Answer:
    """The slot of one `ask`: one task waits, for at most its deadline."""

    __slots__ = ("bucket", "task")

    def __init__(self) -> None:
        self.task: Task | None = None
        self.bucket: dict[Answer, None] | None = None

    def resolve(self, value: object) -> None:
        if (task := self._take()) is not None:
            reschedule(task, outcome.Value(value))

    def fail(self, error: MijraError) -> None:
        if (task := self._take()) is not None:
            reschedule(task, outcome.Error(error))

    async def wait(self) -> Any:
        """The value, or the error raised. Nothing is undone on cancel: the message may still be handled."""
        self.task = current_task()
        return await wait_task_rescheduled(self._abort)

    def _take(self) -> Task | None:
        task, self.task = self.task, None
        if self.bucket is not None:
            self.bucket.pop(self, None)
            self.bucket = None
        return task

    def _abort(self, _: object) -> Abort:
        self._take()
        return Abort.SUCCEEDED


class Deadlines:
    """The deadlines of all asks, in buckets of 10 ms.

    A cancel scope for each ask costs more than the ask, and a heap entry would stay until its time although
    nearly every ask is answered long before; leaving a bucket is one dictionary operation. A timeout is up to
    10 ms late.
    """

    BUCKET_SECONDS = 0.01

    def __init__(self, wake_at: Callable[[float], None]) -> None:
        self._buckets: dict[int, dict[Answer, None]] = {}
        self._order: list[int] = []
        self._wake_at = wake_at

    def add(self, answer: Answer, at: float) -> None:
        """Fail `answer` with `AskTimeout` at `at` (trio's clock), unless it is resolved before."""
        number = ceil(at / self.BUCKET_SECONDS) if at != inf else 1 << 62
        bucket = self._buckets.get(number)
        if bucket is None:
            bucket = self._buckets[number] = {}
            heappush(self._order, number)
            self._wake_at(number * self.BUCKET_SECONDS)
        bucket[answer] = None
        answer.bucket = bucket

    def next_due(self) -> float:
        """When the next bucket is due (trio's clock); empty buckets are passed over, infinity when none is
        left."""
        while self._order and not self._buckets[self._order[0]]:
            del self._buckets[heappop(self._order)]
        return self._order[0] * self.BUCKET_SECONDS if self._order else inf

    def expire(self, now: float) -> None:
        """Fail what is due."""
        while self._order and self._order[0] * self.BUCKET_SECONDS <= now:
            bucket = self._buckets.pop(heappop(self._order))
            for answer in list(bucket):
                answer.fail(AskTimeout("no answer within the deadline; the message may still be handled"))

    def fail_all(self, reason: str) -> None:
        """Answer everybody who still waits with `ActorStopped`."""
        for bucket in list(self._buckets.values()):
            for answer in list(bucket):
                answer.fail(ActorStopped(reason))

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))


class Gather:
    """Collects the answers to several messages: `slot()` for each, then one `wait()` for all, with one
    wake-up in all.

    The outcomes come in the order of the slots; an error is returned, not raised. `wait` has no deadline of
    its own: the caller's cancel scope is it, and a cancelled wait may be repeated. A slot that was handed out
    and never offered must be resolved by the caller. For one waiting task at a time, or for a callback.
    """

    __slots__ = ("_missing", "_outcomes", "_then")

    def __init__(self) -> None:
        self._outcomes: list[Any] = []
        self._missing = 0
        self._then: Callable[[list[Any]], object] | None = None

    def slot(self) -> ReplySlot:
        """One more answer to wait for."""
        self._outcomes.append(None)
        self._missing += 1
        return _GatherSlot(self, len(self._outcomes) - 1)

    async def wait(self) -> list[Any]:
        """All outcomes: for each slot its value, or the `MijraError` it failed with."""
        if self._missing:
            task = current_task()
            self._then = lambda _: reschedule(task)
            await wait_task_rescheduled(self._abort)
        else:
            await trio.lowlevel.checkpoint()
        return list(self._outcomes)

    def then(self, callback: Callable[[list[Any]], object]) -> None:
        """Instead of `wait`: call back with all outcomes as soon as they are there, which may be now. The
        callback must neither block nor raise."""
        if self._missing:
            self._then = callback
        else:
            callback(self._outcomes)

    def _put(self, index: int, value: object) -> None:
        self._outcomes[index] = value
        self._missing -= 1
        if not self._missing and self._then is not None:
            then, self._then = self._then, None
            then(self._outcomes)

    def _abort(self, _: object) -> Abort:
        self._then = None
        return Abort.SUCCEEDED


class _GatherSlot:
    __slots__ = ("_gather", "_index")

    def __init__(self, gather: Gather, index: int) -> None:
        self._gather: Gather | None = gather
        self._index = index

    def resolve(self, value: object) -> None:
        gather, self._gather = self._gather, None
        if gather is not None:
            gather._put(self._index, value)

    def fail(self, error: MijraError) -> None:
        self.resolve(error)
