"""The one door between trio and the asyncio libraries that we need.

asyncpg, redis-py and aiosmtpd run on asyncio only. This module is the sole place that knows how they run
beside trio; no other file imports asyncio. Whoever needs such a library writes a coroutine function for the
asyncio side and calls it through `Bridge.run`: one crossing for a whole query or batch, never one for each
row. A library that is a server is run by `Bridge.serve`; its handlers call back into trio.

Promises   the result or the exception of a call reaches its caller, and a closing bridge answers every call;
           a cancelled wait cancels the call and waits for its end, for `cancel_seconds_max` at most;
           calls cross in the order in which they were made, and those made together share one wake-up.
Limits     none of its own: a call holds one trio task, so whoever bounds the callers bounds the bridge.
Leaves     to the callers: time limits of calls, translation of the libraries' errors (`storage.errors`).

Two ways of running asyncio stand behind one interface:

``thread``        uvloop in a thread of its own, with the interpreter's switch interval lowered to 0.5 ms.
                  At the default of 5 ms each hand-over of the GIL may take that long while trio is busy.
``trio-asyncio``  an asyncio loop that is a trio task, in trio's thread. Its exit waits for every call, also
                  for one that was given up at its deadline: trio cannot leave a task behind.

The thread was chosen by measurement, and trio-asyncio stays as an argument for machines where it turns out
otherwise. `python -m bench.bridge --quick`, Python 3.11, embedded PostgreSQL 18 on the same two cores, quiet;
medians of five interleaved rounds. Rows are batches of 100, each committed durably, beside a trio task that
computes without pause in slices of 2 ms; the stall is how much later than asked another trio task wakes up
meanwhile. A round's load lasts 0.6 s, so the stalls rest on few samples: take them for an order of magnitude.

    ======================  =======  =======  =======  =============  =============
    candidate               idle µs  calls/s  rows/s   stall p99 ms   stall max ms
    ======================  =======  =======  =======  =============  =============
    thread, 0.5 ms              234    6,813   43,309            5.9            6.6
    thread, 0.1 ms              246    6,447   47,952            5.9            7.2
    thread, 5 ms (default)      239    6,183        0            3.4            3.4
    trio-asyncio                390    3,236    3,978            4.5            4.8
    storage process             320    6,832   19,305            3.7            3.9
    uvloop without trio          67   31,330  179,000
    ======================  =======  =======  =======  =============  =============

At the default interval the thread finished no batch at all beside the busy task. Under trio-asyncio each step
of a query waits for a turn of the busy loop, hence its rows; its stalls are a little shorter. A process of
its own behind a Unix socket (bench/peers/storage_process.py, without the checks that a real one would need)
stalls trio least, but the arguments are encoded and copied once more on both sides, on the same two cores,
and it wrote less than half of the thread's rows. 0.1 ms gained a tenth of the rows in this run and nothing
in the calls.
"""

import asyncio
import contextlib
import sys
import threading
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context, copy_context
from types import TracebackType
from typing import Any, Final, Literal, Protocol, Self, TypeVar, TypeVarTuple, cast

import trio
import uvloop
from msgspec import Struct

from engine.errors import StoreUnavailable

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
BridgeKind = Literal["thread", "trio-asyncio"]

# Between the default 5 ms, at which a busy trio loop starves the asyncio thread, and values so small that the
# threads do nothing but hand the GIL over. bench/bridge.py shows both ends.
SWITCH_INTERVAL_SECONDS: Final = 0.0005


class BridgeStatistics(Struct, frozen=True):
    """A moment's figures: `running` calls, their `peak`, and how many were `abandoned` at the deadline."""

    kind: BridgeKind
    running: int
    peak: int
    completed: int
    abandoned: int


class Bridge:
    """Runs asyncio coroutines for trio tasks, while entered as an async context manager.

    `cancel_seconds_max` bounds how long a cancelled wait, and the exit of the bridge, wait for a coroutine
    that does not end after its cancellation. Past it the call is abandoned: its caller goes on, the coroutine
    is left to itself on the asyncio side, and `statistics()` counts it. Five seconds are far more than
    asyncpg needs to cancel a query and far less than an operator waits for a stop. `switch_interval_seconds`
    is the interpreter's while a thread bridge is open.
    """

    def __init__(
        self,
        kind: BridgeKind = "thread",
        *,
        cancel_seconds_max: float = 5.0,
        switch_interval_seconds: float = SWITCH_INTERVAL_SECONDS,
    ) -> None:
        self.kind: Final = kind
        self._switch_interval_seconds = switch_interval_seconds
        self._cancel_seconds_max = cancel_seconds_max
        self._side: _Side | None = None
        self._running: set[_Call] = set()
        self._peak = 0
        self._completed = 0
        self._abandoned = 0

    async def __aenter__(self) -> Self:
        if self._side is not None:
            raise RuntimeError("this bridge is open already")
        side: _Side = _ThreadSide(self._switch_interval_seconds) if self.kind == "thread" else _TaskSide()
        await side.open()
        self._side = side
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        side, self._side = self._side, None
        assert side is not None
        for call in self._running:
            side.post(call.cancel)
        # Shielded: a call must not outlive the bridge because its owner is in a hurry. Each call ends, or is
        # given up by its own timer, within cancel_seconds_max.
        with trio.CancelScope(shield=True):
            while self._running:
                await next(iter(self._running)).settled.wait()
        await side.close()

    async def run(self, fn: Callable[[*Ts], Coroutine[Any, Any, T]], *args: *Ts) -> T:
        """Run `fn(*args)` on the asyncio side and return or raise what it returns or raises.

        When cancelled, cancels the coroutine and waits for its end. A coroutine that completed all the same
        has its result returned, as it is the truth about what happened. Raises StoreUnavailable when the
        bridge is closed, or closes meanwhile. A call whose caller is cancelled already is never begun.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        side = self._side
        if side is None:
            raise StoreUnavailable("The bridge to asyncio is closed.")
        call = _Call(fn, args, side, trio.lowlevel.current_task(), self._cancel_seconds_max)
        self._running.add(call)
        self._peak = max(self._peak, len(self._running))
        side.post(call.begin)
        raise_cancel: Callable[[], Any] | None = None

        def abort(raise_cancelled: Callable[[], Any]) -> trio.lowlevel.Abort:
            nonlocal raise_cancel
            raise_cancel = raise_cancelled
            side.post(call.cancel)
            return trio.lowlevel.Abort.FAILED

        try:
            await trio.lowlevel.wait_task_rescheduled(abort)
        finally:
            self._running.discard(call)
            call.settled.set()
            self._completed += 1
            self._abandoned += call.abandoned
        if isinstance(call.error, asyncio.CancelledError):
            if raise_cancel is not None:
                raise_cancel()
            raise StoreUnavailable("The bridge to asyncio closed during the call.") from call.error
        if call.error is not None:
            raise call.error
        return cast(T, call.value)

    async def serve(
        self,
        protocol: Callable[["TrioCalls"], asyncio.BaseProtocol],
        host: str,
        port: int,
        *,
        task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Listens until cancelled; `started` gives the port. `protocol` makes an asyncio protocol for each
        connection, on the asyncio side, with the way back to trio. The end closes the listener and cuts the
        connections; calls into trio that are under way then are cancelled. Raises OSError where nobody can
        listen."""
        side = self._side
        if side is None:
            raise StoreUnavailable("The bridge to asyncio is closed.")
        connections: weakref.WeakSet[asyncio.BaseProtocol] = weakref.WeakSet()
        calls = TrioCalls(side)

        def connected() -> asyncio.BaseProtocol:
            made = protocol(calls)
            connections.add(made)
            return made

        server = await self.run(_listen, connected, host, port)
        try:
            async with trio.open_nursery() as calls.nursery:
                await self.run(server.start_serving)
                task_status.started(server.sockets[0].getsockname()[1])
                await trio.sleep_forever()
        finally:
            calls.nursery = None
            with trio.CancelScope(shield=True):
                await self.run(_close, server, connections)

    def statistics(self) -> BridgeStatistics:
        """How many calls run now, ran at most, have ended, and were given up at the deadline."""
        return BridgeStatistics(self.kind, len(self._running), self._peak, self._completed, self._abandoned)


class _Call:
    """One crossing. `begin` and `cancel` run on the asyncio side; all else belongs to the trio side."""

    __slots__ = (
        "_args",
        "_cancel_seconds_max",
        "_fn",
        "_future",
        "_reported",
        "_side",
        "_task",
        "abandoned",
        "error",
        "settled",
        "value",
    )

    def __init__(
        self,
        fn: Callable[..., Coroutine[Any, Any, object]],
        args: tuple[Any, ...],
        side: "_Side",
        task: trio.lowlevel.Task,
        cancel_seconds_max: float,
    ) -> None:
        self._fn = fn
        self._args = args
        self._side = side
        self._task = task
        self._cancel_seconds_max = cancel_seconds_max
        self._future: asyncio.Task[object] | None = None
        self._reported = False
        self.abandoned = False
        self.value: object = None
        self.error: BaseException | None = None
        self.settled = trio.Event()

    def begin(self) -> None:
        self._future = self._side.loop.create_task(self._fn(*self._args), context=self._side.context)
        self._future.add_done_callback(self._ended)

    def cancel(self) -> None:
        if self._reported:
            return
        assert self._future is not None, "begin is posted before cancel and both keep their order"
        self._future.cancel()
        self._side.loop.call_later(self._cancel_seconds_max, self._give_up)

    def _ended(self, future: "asyncio.Task[object]") -> None:
        # Also after a give-up: asking for the exception keeps asyncio from logging it as never retrieved.
        error = asyncio.CancelledError() if future.cancelled() else future.exception()
        if not self._reported:
            self.error = error
            self.value = None if error is not None else future.result()
            self._report()

    def _give_up(self) -> None:
        if not self._reported:
            self.abandoned = True
            self.error = asyncio.CancelledError()
            self._report()

    def _report(self) -> None:
        self._reported = True
        self._side.answer(self.resume)

    def resume(self) -> None:
        trio.lowlevel.reschedule(self._task)


class TrioCalls:
    """The way back: called on the asyncio side with a trio function, gives its result or raises its error.
    `loop` is the asyncio loop. A cancelled wait cancels the function."""

    def __init__(self, side: "_Side") -> None:
        self.loop = side.loop
        self.nursery: trio.Nursery | None = None
        self._side = side

    async def __call__(self, fn: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        future: asyncio.Future[T] = self.loop.create_future()
        scope = trio.CancelScope()

        def begin() -> None:
            if self.nursery is None or self.nursery.cancel_scope.cancel_called:
                self._settle(future, None, _closing())
            else:
                self.nursery.start_soon(self._run, scope, future, fn, args)

        self._side.answer(begin)
        try:
            return await future
        except asyncio.CancelledError:
            self._side.answer(scope.cancel)
            raise

    async def _run(
        self,
        scope: trio.CancelScope,
        future: "asyncio.Future[Any]",
        fn: Callable[..., Awaitable[Any]],
        args: tuple[Any, ...],
    ) -> None:
        value: Any = None
        error: Exception | None = _closing()
        try:
            with scope:
                try:
                    value, error = await fn(*args), None
                except Exception as failed:  # noqa: BLE001  # its caller on the other side gets it
                    error = failed
        finally:
            self._settle(future, value, error)

    def _settle(self, future: "asyncio.Future[Any]", value: object, error: Exception | None) -> None:
        def settle() -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(value)

        self._side.post(settle)


def _closing() -> StoreUnavailable:
    return StoreUnavailable("The server is closing.")


async def _listen(connected: Callable[[], asyncio.BaseProtocol], host: str, port: int) -> asyncio.Server:
    return await asyncio.get_running_loop().create_server(connected, host, port, start_serving=False)


async def _close(server: asyncio.Server, connections: "weakref.WeakSet[asyncio.BaseProtocol]") -> None:
    server.close()
    for connection in list(connections):
        transport: asyncio.Transport | None = getattr(connection, "transport", None)
        if transport is not None:
            transport.abort()


class _Side(Protocol):
    """Where asyncio runs, and how to reach it and get back."""

    loop: asyncio.AbstractEventLoop
    context: Context

    async def open(self) -> None: ...
    def post(self, step: Callable[[], None]) -> None: ...
    def answer(self, step: Callable[[], None]) -> None: ...
    async def close(self) -> None: ...


class _ThreadSide:
    """uvloop in a thread. Both directions are a deque and one wake-up for all that has gathered in it."""

    def __init__(self, switch_interval_seconds: float) -> None:
        self._switch_interval_seconds = switch_interval_seconds
        self.loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        self.context = Context()
        self._posted: deque[Callable[[], None]] = deque()
        self._post_woken = False
        self._answered: deque[Callable[[], None]] = deque()
        self._thread = threading.Thread(target=self._serve, name="mijra-asyncio", daemon=True)
        self._switch_interval_before = sys.getswitchinterval()

    async def open(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        sys.setswitchinterval(self._switch_interval_seconds)
        self._thread.start()

    def post(self, step: Callable[[], None]) -> None:
        self._posted.append(step)
        if not self._post_woken:
            self._post_woken = True
            self.loop.call_soon_threadsafe(self._take_posted)

    def _take_posted(self) -> None:
        # Lowered before the first pop: a post after this line wakes the loop again, at worst for nothing.
        self._post_woken = False
        while self._posted:
            self._posted.popleft()()

    def answer(self, step: Callable[[], None]) -> None:
        self._answered.append(step)
        # trio.RunFinishedError: the run is over, so nobody waits any longer.
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._take_answered, idempotent=True)

    def _take_answered(self) -> None:
        while self._answered:
            self._answered.popleft()()

    async def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        with trio.CancelScope(shield=True):  # bounded: `_serve` ends within about a second of the stop
            await trio.to_thread.run_sync(self._thread.join)
        sys.setswitchinterval(self._switch_interval_before)

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
            _cancel_leftovers(self.loop)
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        finally:
            self.loop.close()


def _cancel_leftovers(loop: asyncio.AbstractEventLoop) -> None:
    """End the tasks that a library left behind; one that refuses has a second, then the loop closes."""
    leftovers = asyncio.all_tasks(loop)
    for task in leftovers:
        task.cancel()
    if leftovers:
        loop.run_until_complete(asyncio.wait(leftovers, timeout=1))


class _TaskSide:
    """An asyncio loop that trio-asyncio runs as a trio task; both sides share the thread."""

    loop: asyncio.AbstractEventLoop
    context: Context

    async def open(self) -> None:
        # Imported here because the import itself replaces asyncio's notion of the running loop, process-wide.
        import trio_asyncio

        self._opened = trio_asyncio.open_loop()
        self.loop = await self._opened.__aenter__()
        self.context = copy_context()

    def post(self, step: Callable[[], None]) -> None:
        step()

    def answer(self, step: Callable[[], None]) -> None:
        step()

    async def close(self) -> None:
        await self._opened.__aexit__(None, None, None)
