"""The sending task of the push lane: frames that were offered in one turn of the loop go out in the next.

Why not at once, from within `offer`: whoever publishes to five thousand connections would hold the loop for
all their system calls. And a batch of commits offers a connection several frames, which then cost one call.

Promises   Each connection's frames in the order of the offers. Between two slices everybody else has a turn.
Limits     `SLICE` connections at a time. What waits is bounded by the connections.
"""

from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, Protocol

import structlog
import trio

from gateway.lane.push import wire
from gateway.push.queue import FRAME_OVERHEAD_BYTES

_log = structlog.get_logger()

SLICE: Final = 256
"""Connections: some two milliseconds of sends, for which another task may have to wait. A turn of the loop in
between costs a twentieth of that. Counted and not timed, because on a machine that is short of processors the
time passes without us, and giving way would then help nobody."""

_SHARED_MAX: Final = 1_000


class Shared(NamedTuple):
    """A frame for the socket, the same object for all who are sent it. `cost` is what it counts as while it
    waits, `at` trio's time when it was first offered."""

    at: float
    wire: bytes
    cost: int


class Sendable(Protocol):
    """A connection that has something to send."""

    def flush(self) -> None:
        """Sends what the socket takes now. Neither blocks nor raises."""
        ...


class Sender:
    """One for all connections of a lane. `run` must be running before anything is offered."""

    def __init__(self) -> None:
        self.marked: list[Sendable] = []  # whose `flush` is called soon
        self._wanted = trio.Event()
        self._nursery: trio.Nursery | None = None
        self.last: bytes | None = None  # the payload whose frame is `last_shared`
        self.last_shared = Shared(0.0, b"", 0)
        self._shared: dict[int, tuple[bytes, Shared]] = {}

    def shared(self, payload: bytes) -> Shared:
        """The payload as a text frame, encoded once for all that are offered this very object in one turn.
        Who asks often looks at `last` first."""
        # By identity, for there are readers of other protocols between two of one. The payload is kept with
        # its frame, so that its id stays its own.
        found = self._shared.get(id(payload))
        if found is None:
            if len(self._shared) >= _SHARED_MAX:
                self._shared.clear()
            frame = wire.text(payload)
            found = payload, Shared(trio.current_time(), frame, len(frame) + FRAME_OVERHEAD_BYTES)
            self._shared[id(payload)] = found
        self.last, self.last_shared = found
        return self.last_shared

    def wake(self) -> None:
        """To be called when something is put into `marked` while it is empty."""
        self._wanted.set()

    def start(self, task: Callable[[], Awaitable[None]]) -> None:
        """Runs a connection's task beside the sending."""
        if self._nursery is not None:
            self._nursery.start_soon(task)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Sends until it is cancelled; the tasks of the connections end with it."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            while True:
                await self._wanted.wait()
                self._wanted = trio.Event()
                # What is offered from now on is another turn's: its age counts from then.
                self.last = None
                self._shared.clear()
                marked, self.marked = self.marked, []
                await self._flush(marked)

    async def _flush(self, marked: list[Sendable]) -> None:
        for start in range(0, len(marked), SLICE):
            if start:
                await trio.lowlevel.checkpoint()
            for connection in marked[start : start + SLICE]:
                try:
                    connection.flush()
                except Exception:  # noqa: BLE001  # one connection's defect must not silence all the others
                    _log.exception("push.send_crashed")
