"""A connection between two requests, without its task: the poller reads for it and starts what arrives whole.

Promises   Answers in the order of the requests, one at a time. Everything out of the ordinary wakes the task,
           which then has what was read, or the rest of a request that is under way.
Leaves     deadlines of anything but idleness, and all other ways to read and write, to the connection.
"""

import os
from enum import Enum, auto

import trio
from msgspec import Struct

from gateway.lane import answer as answers
from gateway.lane.parser import HEAD_END, LANE_PREFIX, NotForLane, Refused, read_head
from gateway.lane.shared import READ_BYTES, Shared
from gateway.webhooks import Answer, Rest


class Woken(Struct, frozen=True):
    """Why the task goes on: what of an answer did not fit, what has been read and not used, the rest of a
    request, or the end of the connection."""

    unsent: bytes
    received: bytes
    rest: Rest | None
    over: bool


class _State(Enum):
    IDLE = auto()
    QUEUED = auto()
    ANSWER = auto()


class Parked:
    """One for each connection, which is parked while `wait` runs. `requests`: how many have been answered on
    the connection, by whomever."""

    def __init__(self, shared: Shared, descriptor: int) -> None:
        self.requests = 0
        self._shared = shared
        self._limits = shared.limits
        self._descriptor = descriptor
        self._state = _State.IDLE
        self._task: trio.lowlevel.Task | None = None
        self._idle_since = 0.0
        self._buffer = b""
        self._unsent = b""
        self._rest: Rest | None = None
        self._over = False

    @property
    def busy(self) -> bool:
        """Whether there is a request that has not been answered."""
        return self._state is not _State.IDLE

    async def wait(self) -> Woken:
        """Leave the connection to the poller until it needs its task. Cancelled, a request under way goes on,
        and its answer goes nowhere."""
        self._state = _State.IDLE
        self._idle_since = trio.current_time()
        self._task = trio.lowlevel.current_task()
        self._shared.parked.add(self)
        self._shared.poller.watch(self._descriptor, self)

        def abort(_: object) -> trio.lowlevel.Abort:
            self._unpark()
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        woken = Woken(self._unsent, self._buffer, self._rest, self._over)
        self._state = _State.IDLE
        self._unsent = self._buffer = b""
        self._rest = None
        return woken

    def is_idle(self, now: float) -> bool:
        """Whether it is parked and has been between two requests for too long."""
        return self._state is _State.IDLE and now - self._idle_since >= self._limits.idle_seconds_max

    def dismiss(self) -> None:
        """End the parked connection."""
        self._over = True
        self._wake()

    def read(self) -> bool:
        """The poller's word that there is something to read."""
        try:
            data = os.read(self._descriptor, READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            self.dismiss()
            return False
        if self._state is _State.IDLE:
            if not data:
                self.dismiss()
                return False
            self._buffer = data
            self._state = _State.QUEUED
            return True
        # Sent before the last one was answered, or no more to come: for the task to see to, afterwards.
        if data:
            self._buffer += data
        else:
            self._over = True
        self._shared.poller.leave(self._descriptor)
        return False

    def enter(self) -> int | None:
        """What was read while the server is overloaded: as `Watcher.enter`."""
        if self._task is None or self._state is not _State.QUEUED:
            return None  # ended meanwhile
        shared = self._shared
        if shared.stopping or self.requests >= self._limits.requests_per_connection_max:
            return shared.refusing.let_in()
        said = shared.refusing.enter(self._buffer)
        if isinstance(said, int):
            return said
        self._buffer = b""
        self._reply(said)
        return None

    def work(self, ready: float) -> bool:
        """The poller's word that it is this connection's turn."""
        if self._task is None or self._state is not _State.QUEUED:
            return False  # ended meanwhile
        self._state = _State.IDLE
        if not self._begin(ready):
            self._wake()
        return True

    def _begin(self, ready: float) -> bool:
        """Start the request that makes up the buffer; False if it, or the rest of it, is for the task."""
        shared, received = self._shared, self._buffer
        end = HEAD_END.search(received)
        if end is None or end.end() > self._limits.head_bytes_max or not received.startswith(LANE_PREFIX):
            return False
        size = end.end()
        try:
            head = read_head(received[:size])
        except (Refused, NotForLane):
            return False
        if (
            head.length is None
            or size + head.length != len(received)
            or not head.keep_alive
            or head.wants_continue
            or self.requests >= self._limits.requests_per_connection_max
        ):
            return False
        assert shared.begin is not None
        self._state = _State.ANSWER
        self._buffer = b""
        self._rest = shared.begin(head.path, head.query, head.headers, received[size:], self._answered, ready)
        return self._rest is None

    def _answered(self, answer: Answer) -> None:
        if self._task is None:
            return  # nobody is there any more
        self._reply(answers.encode(answer, close=self._shared.stopping))

    def _reply(self, data: bytes) -> None:
        """Send an answer from outside the task, and wait for the next request."""
        self.requests += 1
        self._state = _State.IDLE
        self._idle_since = trio.current_time()
        try:
            written = os.write(self._descriptor, data)
        except BlockingIOError:
            written = 0
        except OSError:
            self.dismiss()
            return
        self._unsent = data[written:]
        if self._shared.stopping:
            self.dismiss()
        elif self._unsent or self._buffer or self._over:
            self._wake()

    def _wake(self) -> None:
        task = self._task
        if task is not None:
            self._unpark()
            trio.lowlevel.reschedule(task)

    def _unpark(self) -> None:
        self._task = None
        self._shared.poller.leave(self._descriptor)
        self._shared.parked.discard(self)
