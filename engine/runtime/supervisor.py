"""The supervision tree at run time, with the semantics of OTP's supervisors.

A node is started by a plain call and ends either because its supervisor stops it, or by itself; then it tells
its supervisor, which decides by strategy and limit. A supervisor costs no task: what it has to wait for
(children that stop) runs in a task that exists only meanwhile, one at a time, so its decisions are taken
strictly one after the other, as in OTP.

    order of start   children in order, a nested supervisor with all of its own before the next sibling
    order of stop    the reverse; each child has its `stop_seconds_max`, then it is cancelled
    restart          counted within the limit's window, which includes its edge; over it, the supervisor stops
                     its children and ends towards its own; the root fails `System.run`

Our addition is the backoff: between the stop of the affected children and their start.
"""

from collections.abc import Callable
from functools import partial
from random import Random
from typing import Final

import trio

from engine.errors import Defect
from engine.runtime.observing import Observer, TreeNode
from engine.runtime.specs import Backoff, Restart, RestartLimit, Strategy
from engine.runtime.timers import Alarms

KILL_SECONDS_MAX: Final = 1.0
"""How long a cancelled worker is waited for. One that shields itself for longer is left behind; it ends with
the system."""


class _GaveUp(Defect):
    """A supervisor over its limit. Its own supervisor takes it for an end in order, as in OTP, where its exit
    reason is `shutdown`: a permanent one is started again, a transient one is not."""


class Household:
    """What all nodes of one tree share."""

    def __init__(
        self, *, alarms: Alarms, observer: Observer, random: Random, on_give_up: Callable[[Exception], None]
    ) -> None:
        self.alarms = alarms
        self.observer = observer
        self.random = random
        self.on_give_up = on_give_up
        self.nursery: trio.Nursery | None = None


class Node:
    """One place in the tree."""

    def __init__(
        self,
        name: str,
        parent: "SupervisorNode | None",
        household: Household,
        restart: Restart,
        stop_seconds_max: float,
    ) -> None:
        self.name = name
        self.parent = parent
        self.path: str = f"{parent.path}/{name}" if parent is not None else name
        self.household = household
        self.restart = restart
        self.stop_seconds_max = stop_seconds_max
        self.running = False
        self.restarts = 0
        self.incarnation = 0
        self.failures = 0
        self.started_at = 0.0

    def start(self) -> None:
        """Start (again). Never waits."""
        raise NotImplementedError

    async def stop(self, *, final: bool) -> None:
        """Stop and return when it has stopped. `final`: it will not start again, so nobody may be left
        waiting."""
        raise NotImplementedError

    async def kill(self, *, final: bool) -> None:
        """Stop at once, for the deadline has passed."""
        raise NotImplementedError

    def picture(self) -> TreeNode:
        """For people."""
        raise NotImplementedError


class RestartWindow:
    """Counts restarts within a time."""

    def __init__(self, limit: RestartLimit) -> None:
        self._limit = limit
        # Lists, not deques: a deque costs 600 bytes even when empty, and every tenant has some of these.
        self._times: list[float] = []

    def admits(self, now: float) -> bool:
        """Count one more restart at `now`; False when that is more than the limit allows."""
        self._times.append(now)
        while self._times[0] < now - self._limit.seconds:
            self._times.pop(0)
        # One more than the limit decides; what is beyond need not be remembered.
        while len(self._times) > self._limit.times + 1:
            self._times.pop(0)
        return len(self._times) <= self._limit.times

    def clear(self) -> None:
        self._times.clear()


class SupervisorNode(Node):
    """A supervisor. `dynamic` (a group of like children): they come and go, stop all at once, and are
    forgotten when they are not restarted."""

    def __init__(
        self,
        name: str,
        parent: "SupervisorNode | None",
        household: Household,
        *,
        strategy: Strategy = Strategy.ONE_FOR_ONE,
        limit: RestartLimit,
        backoff: Backoff,
        restart: Restart = Restart.PERMANENT,
        stop_seconds_max: float,
        dynamic: bool = False,
    ) -> None:
        super().__init__(name, parent, household, restart, stop_seconds_max)
        self.children: dict[str, Node] = {}
        self.strategy = strategy
        self.backoff = backoff
        self.dynamic = dynamic
        self._limit = limit
        self._window = RestartWindow(limit)
        self._ended: list[tuple[Node, int, BaseException | None]] = []
        self._working = False
        self._closing = False
        self._settled: trio.Event | None = None
        self._as_specified: list[Node] | None = None

    def add(self, child: Node) -> None:
        """A new last child; not started by this."""
        if child.name in self.children:
            raise Defect(f"{self.path} has two children named {child.name!r}")
        self.children[child.name] = child

    def start(self) -> None:
        self.incarnation += 1
        self._closing = False
        self._window.clear()
        self._ended.clear()
        self.running = True
        self.started_at = trio.current_time()
        if self._as_specified is not None:
            self.children = {child.name: child for child in self._as_specified}
            self._as_specified = None
        for child in list(self.children.values()):
            child.start()
        self.household.observer.started(self.path)

    async def stop(self, *, final: bool) -> None:
        self._closing = True
        if self._working:
            settled = self._settled = trio.Event()
            await settled.wait()
        await self._stop_children(list(self.children.values()), final=final)
        if self.running:
            self.running = False
            self.household.observer.stopped(self.path, "shutdown")

    async def kill(self, *, final: bool) -> None:
        self._closing = True
        for child in reversed(list(self.children.values())):
            await child.kill(final=final)
        if self.running:
            self.running = False
            self.household.observer.stopped(self.path, "killed")

    def child_ended(self, child: Node, error: BaseException | None) -> None:
        """`child` ended by itself: with an error, or normally."""
        if self._closing:
            return
        self._ended.append((child, child.incarnation, error))
        if not self._working:
            assert self.household.nursery is not None
            self._working = True
            self.household.nursery.start_soon(self._work)

    def picture(self) -> TreeNode:
        detail = f"{self.strategy.value}, at most {self._limit.times} restarts in {self._limit.seconds:g} s"
        return TreeNode(
            self.name,
            "group" if self.dynamic else "supervisor",
            self.running,
            self.restarts,
            detail,
            [child.picture() for child in self.children.values()],
        )

    async def _work(self) -> None:
        try:
            while self._ended and not self._closing:
                child, incarnation, error = self._ended.pop(0)
                if child.incarnation == incarnation and self.children.get(child.name) is child:
                    await self._child_ended(child, error)
        finally:
            self._working = False
            if self._settled is not None:
                self._settled.set()
                self._settled = None

    async def _child_ended(self, child: Node, error: BaseException | None) -> None:
        in_order = error is None or isinstance(error, _GaveUp)
        if child.restart is Restart.TEMPORARY or (child.restart is Restart.TRANSIENT and in_order):
            if self.dynamic or child.restart is Restart.TEMPORARY:
                self._forget(child)
            # Of a supervisor the children stopped for a restart that does not come.
            await child.stop(final=True)
            return
        now = trio.current_time()
        if not self._window.admits(now):
            await self._give_up(child, error)
            return
        if now - child.started_at > self._limit.seconds:
            child.failures = 0
        child.failures += 1
        child.restarts += 1
        affected = self._affected(child)
        await self._stop_children([other for other in affected if other is not child], final=False)
        if self._closing:
            return
        for other in affected:
            if other is not child and other.restart is Restart.TEMPORARY:
                self._forget(other)
        delay = self.backoff.delay(child.failures, self.household.random)
        self.household.observer.restarting(child.path, delay)
        again = [(other, other.incarnation) for other in affected]
        if delay > 0:
            self.household.alarms.set(trio.current_time() + delay, partial(self._start_again, again))
        else:
            self._start_again(again)

    def _forget(self, child: Node) -> None:
        """It is not started again, unless the whole supervisor is: then all that was specified is."""
        if not self.dynamic and self._as_specified is None:
            self._as_specified = list(self.children.values())
        self.children.pop(child.name, None)

    def _affected(self, child: Node) -> list[Node]:
        if self.strategy is Strategy.ONE_FOR_ONE:
            return [child]
        children = list(self.children.values())
        return children if self.strategy is Strategy.ONE_FOR_ALL else children[children.index(child) :]

    def _start_again(self, again: list[tuple[Node, int]]) -> None:
        if self._closing:
            return
        for child, incarnation in again:
            if child.incarnation == incarnation and self.children.get(child.name) is child:
                child.start()

    async def _give_up(self, child: Node, error: BaseException | None) -> None:
        self.household.observer.escalated(self.path, error)
        self._closing = True
        await self._stop_children(list(self.children.values()), final=False)
        self.running = False
        self.household.observer.stopped(self.path, "shutdown")
        failure = _GaveUp(f"{self.path} gave up: too many restarts, the last of {child.path}")
        failure.__cause__ = error
        if self.parent is not None:
            self.parent.child_ended(self, failure)
        else:
            self.household.on_give_up(failure)

    async def _stop_children(self, children: list[Node], *, final: bool) -> None:
        if self.dynamic:
            async with trio.open_nursery() as nursery:
                for child in children:
                    nursery.start_soon(partial(_stop_child, child, final=final))
        else:
            for child in reversed(children):
                await _stop_child(child, final=final or child.restart is Restart.TEMPORARY)


async def _stop_child(child: Node, *, final: bool) -> None:
    # An end that was on its way when we stopped the child is not to be counted as one more failure.
    child.incarnation += 1
    with trio.move_on_after(child.stop_seconds_max) as deadline:
        await child.stop(final=final)
    if deadline.cancelled_caught:
        await child.kill(final=final)
