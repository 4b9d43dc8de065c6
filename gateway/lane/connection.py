"""Connections in the lane: their bytes, their deadlines, and the turn of each request.

Owns       what has been read from a connection and not yet used. Whoever takes the connection over gets it.
Promises   A connection that is not getting anywhere ends: idleness, heads, bodies and sends have
           each a deadline in all, however slowly bytes trickle. Requests are answered one at a time, in
           order; the next one is read when the last one's answer is on its way.
Cancelled  The connection is left as it is, for the caller to close; a delivery under way is then as after a
           hang-up, and the platform's repetition settles it.

A connection between two requests is parked: the lane's poller reads for it, and starts a request that
arrived whole. Its task sleeps meanwhile. It wakes for everything else (a part of a request, a chunked or
announced body, bytes behind the first request, a request that is somebody else's, an answer that does not
fit, the end), finds the bytes in the buffer and goes the long way with them, as it does without a poller.

Bytes go by `os.read` and `os.write` on the descriptor, which is non-blocking: the lane reads only when the
kernel says that there is something, and an answer nearly always fits into the send buffer, so the tries and
checkpoints of a stream's general methods are spared. A write that does not fit goes on through the stream.
"""

import os
from collections.abc import Awaitable, Callable, Mapping
from enum import Enum, auto
from math import inf
from typing import Final, Protocol

import trio
from msgspec import Struct

from gateway.lane import answer as answers
from gateway.lane.chunked import ChunkedBody
from gateway.lane.parser import (
    HEAD_END,
    LANE_PREFIX,
    Head,
    NotForLane,
    Refused,
    may_be_lanes,
    read_head,
)
from gateway.lane.parting import part, refuse
from gateway.lane.poller import Poller
from gateway.lane.refusing import Entrance, OpenEntrance, Refusing
from gateway.metrics import Metrics
from gateway.webhooks import Answer, Rest

_LOOK_SECONDS: Final = 0.5
"""How often deadlines are looked at that need not be met to the second: idleness, a store that hangs."""

_READ_BYTES: Final = 64 * 1024
_READ_CHUNKED_BYTES: Final = 16 * 1024
"""Decoding chunks is work in Python without a pause: some milliseconds for these at worst."""


class Handle(Protocol):
    """`gateway.webhooks.Webhooks.handle`."""

    def __call__(
        self, method: str, path: str, query: str, headers: Mapping[str, str], body: bytes, /
    ) -> Awaitable[Answer]: ...


class Begin(Protocol):
    """`gateway.webhooks.Webhooks.begin`."""

    def __call__(
        self,
        path: str,
        query: str,
        headers: Mapping[str, str],
        body: bytes,
        answered: Callable[[Answer], None],
        ready: float,
        /,
    ) -> Rest | None: ...


class LaneLimits(Struct, frozen=True, kw_only=True):
    """`body_bytes_max`: as the handler's. `head_bytes_max`, `idle_seconds_max`, `send_seconds_max` and
    `requests_per_connection_max`: as `gateway.serving.ServingLimits`, for its reasons. `head_seconds_max` and
    `body_seconds_max`: platforms send both at once; a body of 3 MB in 10 s is a poor mobile line.
    `answer_seconds_max`: a net below the handler's own limit of 12 s. `reading_bytes_max`: bodies that
    are still arriving, of all connections together; 20 of the largest, where ordinary ones have a few KB and
    arrive with their head."""

    head_bytes_max: int = 16 * 1024
    head_seconds_max: float = 10.0
    body_bytes_max: int = 3 * 1024 * 1024
    body_seconds_max: float = 10.0
    idle_seconds_max: float = 75.0
    answer_seconds_max: float = 30.0
    send_seconds_max: float = 30.0
    requests_per_connection_max: int = 100_000
    reading_bytes_max: int = 64 * 1024 * 1024


class WebhookLane:
    """The lane of one listening server; its connections share the budget of bytes and the stop.

    With `begin`, and while `work` runs, a request that arrives whole is answered without its connection's
    task: the poller reads it, `begin` starts it, and the answer is written by whoever has it. Everything out
    of the ordinary wakes the task, which then has the bytes, or the rest of what there is to do. `expire` is
    called a few times a second with trio's time, for what `begin` started and is overdue. `bytes_max` says
    how much a body may have at a path, where that is not the same for all.

    `entrance` is asked when a request arrives while it says that the server is overloaded: what it refuses,
    if it is framed plainly, is answered then, without a parser, a log line or anything else that a delivery
    costs.
    """

    def __init__(
        self,
        handle: Handle,
        metrics: Metrics,
        limits: LaneLimits | None = None,
        *,
        begin: Begin | None = None,
        expire: Callable[[float], None] = lambda now: None,
        bytes_max: Callable[[str], int] | None = None,
        entrance: Entrance | None = None,
    ) -> None:
        self.handle = handle
        self.begin = begin
        entrance = entrance or OpenEntrance()
        self.refusing = Refusing(entrance)
        self.metrics = metrics
        self.limits = limits or LaneLimits()
        self.bytes_max = bytes_max or (lambda path: self.limits.body_bytes_max)
        self.stopping = False
        self.reading_bytes = 0
        self.poller = Poller(entrance)
        self.parked: set[_Connection] = set()
        self._expire = expire
        self._connections: set[_Connection] = set()

    def may_be_lanes(self, received: bytes) -> bool:
        return may_be_lanes(received)

    async def work(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        if self.begin is None:
            task_status.started()  # there is nothing to do beside the connections
            return
        async with trio.open_nursery() as nursery:
            await nursery.start(self.poller.run)
            task_status.started()
            while True:
                await trio.sleep(min(_LOOK_SECONDS, self.limits.idle_seconds_max / 4))
                now = trio.current_time()
                self._expire(now)
                for connection in [one for one in self.parked if one.is_idle(now)]:
                    connection.dismiss()

    async def run(self, stream: trio.SocketStream, received: bytes = b"") -> bytes:
        connection = _Connection(self, stream, received)
        self._connections.add(connection)
        try:
            return await connection.run()
        finally:
            self._connections.discard(connection)

    def stop(self) -> None:
        """Ends the connections that wait for a request, and each other one with its answer."""
        self.stopping = True
        for connection in self._connections:
            connection.stop()


class _Phase(Enum):
    IDLE = auto()
    QUEUED = auto()
    HEAD = auto()
    BODY = auto()
    ANSWER = auto()
    SEND = auto()


class _Ended(Exception):
    """The other side is gone."""


class _Connection:
    def __init__(self, lane: WebhookLane, stream: trio.SocketStream, received: bytes) -> None:
        self._lane = lane
        self._limits = lane.limits
        self._stream = stream
        self._descriptor = stream.socket.fileno()
        self._buffer = received
        self._phase = _Phase.IDLE
        self._scope = trio.CancelScope()
        self._requests = 0
        self._held = 0
        # While parked: the task to wake, and what it then has to know.
        self._task: trio.lowlevel.Task | None = None
        self._idle_since = 0.0
        self._unsent = b""
        self._rest: Rest | None = None
        self._over = False

    async def run(self) -> bytes:
        refused: Refused | None = None
        try:
            with self._scope:
                return await self._serve()
        except Refused as refusal:
            refused = refusal
        except (_Ended, OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            return b""
        finally:
            self._lane.reading_bytes -= self._held
            self._held = 0
        if refused is None:  # the deadline has passed, or the server stops
            if self._phase is _Phase.SEND:
                self._lane.metrics.sends_timed_out.inc()
            if self._lane.stopping or self._phase not in (_Phase.HEAD, _Phase.BODY):
                return b""
            refused = Refused(408, "timeout", f"the {self._phase.name.lower()} took too long")
        await refuse(self._stream, refused, self._lane.metrics)
        return b""

    def stop(self) -> None:
        if self._phase in (_Phase.IDLE, _Phase.HEAD):
            self._scope.cancel()

    async def _serve(self) -> bytes:
        lane = self._lane
        while not lane.stopping:
            if not self._buffer and lane.poller.running:
                await self._park()
                if self._rest is not None:
                    rest, self._rest = self._rest, None
                    if await self._answer(rest(), keep_alive=True):
                        continue
                    return b""
                if not self._buffer:
                    return b""
            raw = await self._head()
            if raw is None:
                return self._buffer
            try:
                head = read_head(raw)
            except NotForLane:
                return self._buffer
            self._buffer = self._buffer[len(raw) :]
            body = await self._body(head)
            handling = lane.handle("POST", head.path, head.query, head.headers, body)
            if not await self._answer(handling, keep_alive=head.keep_alive):
                return b""
        return b""

    async def _answer(self, handling: Awaitable[Answer], *, keep_alive: bool) -> bool:
        """Send the answer; whether the connection goes on behind it."""
        self._enter(_Phase.ANSWER, self._limits.answer_seconds_max)
        answer = await handling
        self._requests += 1
        over = self._requests > self._limits.requests_per_connection_max
        last = over or not keep_alive or self._lane.stopping
        await self._send(answers.encode(answer, close=last))
        if last and self._buffer:
            await part(self._stream)
        return not last

    # -------------------------------------------------------------- parked

    async def _park(self) -> None:
        """Leave the connection to the poller until it needs this task. Then there is something in the
        buffer, or the rest of a request to see to, or the connection is over."""
        self._phase = _Phase.IDLE
        self._scope.deadline = inf
        self._idle_since = trio.current_time()
        self._task = trio.lowlevel.current_task()
        self._lane.parked.add(self)
        self._lane.poller.watch(self._descriptor, self)

        def abort(_: object) -> trio.lowlevel.Abort:
            self._unpark()
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        if self._unsent:
            unsent, self._unsent = self._unsent, b""
            await self._send(unsent)
        if self._over and self._buffer:  # the server stops, and more was sent
            await part(self._stream)
            self._buffer = b""

    def is_idle(self, now: float) -> bool:
        """Whether it is parked and has been between two requests for too long."""
        return self._phase is _Phase.IDLE and now - self._idle_since >= self._limits.idle_seconds_max

    def dismiss(self) -> None:
        """End the parked connection."""
        self._over = True
        self._wake()

    def read(self) -> bool:
        """The poller's word that there is something to read."""
        try:
            data = os.read(self._descriptor, _READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            self.dismiss()
            return False
        if self._phase is _Phase.IDLE:
            if not data:
                self.dismiss()
                return False
            self._buffer = data
            self._phase = _Phase.QUEUED
            return True
        # Sent before the last one was answered, or no more to come: for the task to see to, afterwards.
        if data:
            self._buffer += data
        else:
            self._over = True
        self._lane.poller.leave(self._descriptor)
        return False

    def enter(self) -> int | None:
        """What was read while the server is overloaded: as `Watcher.enter`."""
        if self._task is None or self._phase is not _Phase.QUEUED:
            return None  # ended meanwhile
        lane = self._lane
        if lane.stopping or self._requests >= self._limits.requests_per_connection_max:
            return lane.refusing.let_in()
        said = lane.refusing.enter(self._buffer)
        if isinstance(said, int):
            return said
        self._buffer = b""
        self._reply(said)
        return None

    def work(self, ready: float) -> bool:
        """The poller's word that it is this connection's turn."""
        if self._task is None or self._phase is not _Phase.QUEUED:
            return False  # ended meanwhile
        self._phase = _Phase.IDLE
        if not self._begin(ready):
            self._wake()
        return True

    def _begin(self, ready: float) -> bool:
        """Start the request that makes up the buffer; False if it, or the rest of it, is for the task."""
        lane, received = self._lane, self._buffer
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
            or self._requests >= self._limits.requests_per_connection_max
        ):
            return False
        assert lane.begin is not None
        self._phase = _Phase.ANSWER
        self._buffer = b""
        self._rest = lane.begin(head.path, head.query, head.headers, received[size:], self._answered, ready)
        return self._rest is None

    def _answered(self, answer: Answer) -> None:
        if self._task is None:
            return  # nobody is there any more
        self._reply(answers.encode(answer, close=self._lane.stopping))

    def _reply(self, data: bytes) -> None:
        """Send an answer from outside the task, and wait for the next request."""
        self._requests += 1
        self._phase = _Phase.IDLE
        self._idle_since = trio.current_time()
        try:
            written = os.write(self._descriptor, data)
        except BlockingIOError:
            written = 0
        except OSError:
            self.dismiss()
            return
        self._unsent = data[written:]
        if self._lane.stopping:
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
        self._lane.poller.leave(self._descriptor)
        self._lane.parked.discard(self)

    # -------------------------------------------------------------- by the task

    async def _head(self) -> bytes | None:
        """The next head, or None when what comes next is not the lane's. It stays in the buffer."""
        if self._buffer:
            # Pipelined, or handed in. Many requests in one read must not keep the loop from everybody else.
            self._enter(_Phase.HEAD, self._limits.head_seconds_max)
            await trio.lowlevel.checkpoint()
        else:
            self._enter(_Phase.IDLE, self._limits.idle_seconds_max)
            self._buffer = await self._read(_READ_BYTES)
        searched = 0
        while True:
            if not may_be_lanes(self._buffer):
                return None
            end = HEAD_END.search(self._buffer, searched)
            size = len(self._buffer) if end is None else end.end()
            if size > self._limits.head_bytes_max:
                raise Refused(431, "too_large", "a head larger than allowed")
            if end is not None:
                return self._buffer[:size]
            if self._phase is _Phase.IDLE:
                self._enter(_Phase.HEAD, self._limits.head_seconds_max)
            searched = max(0, size - 2)
            self._buffer += await self._read(_READ_BYTES)

    async def _body(self, head: Head) -> bytes:
        if head.length is None:
            return await self._chunked_body(head)
        if head.length > self._lane.bytes_max(head.path):
            raise Refused(413, "too_large", "a body larger than allowed")
        if len(self._buffer) >= head.length:
            body, self._buffer = self._buffer[: head.length], self._buffer[head.length :]
            return body
        self._enter(_Phase.BODY, self._body_seconds_max(head.length))
        await self._invite(head)
        arriving = bytearray(self._buffer)
        self._buffer = b""
        while missing := head.length - len(arriving):
            # Never more than is missing, so nothing of the next request.
            arriving += self._hold(await self._read(min(missing, _READ_BYTES)))
        self._release()
        return bytes(arriving)

    async def _chunked_body(self, head: Head) -> bytes:
        bytes_max = self._lane.bytes_max(head.path)
        self._enter(_Phase.BODY, self._body_seconds_max(bytes_max))
        body = ChunkedBody(bytes_max)
        body.feed(self._buffer)
        if not body.complete and not self._buffer:
            await self._invite(head)
        self._buffer = b""
        while not body.complete:
            body.feed(self._hold(await self._read(_READ_CHUNKED_BYTES)))
        self._buffer = body.rest
        self._release()
        return bytes(body.content)

    def _body_seconds_max(self, size: int) -> float:
        """What is larger than the usual limit may take as much longer."""
        return self._limits.body_seconds_max * max(1.0, size / self._limits.body_bytes_max)

    async def _invite(self, head: Head) -> None:
        if head.wants_continue and not self._buffer:
            await self._write(answers.continue_())

    def _hold(self, data: bytes) -> bytes:
        """Counts bytes of a body that is not complete; its first read, with the head, is not worth it."""
        self._held += len(data)
        self._lane.reading_bytes += len(data)
        if self._lane.reading_bytes > self._limits.reading_bytes_max:
            raise Refused(503, "overloaded", "too many bytes of bodies are being read")
        return data

    def _release(self) -> None:
        self._lane.reading_bytes -= self._held
        self._held = 0

    # -------------------------------------------------------------- input and output

    def _enter(self, phase: _Phase, seconds_max: float) -> None:
        self._phase = phase
        self._scope.deadline = trio.current_time() + seconds_max

    async def _read(self, bytes_max: int) -> bytes:
        while True:
            await trio.lowlevel.wait_readable(self._descriptor)
            try:
                data = os.read(self._descriptor, bytes_max)
            except BlockingIOError:  # the kernel may wake a reader for nothing (select(2), BUGS)
                continue
            if not data:
                raise _Ended
            return data

    async def _send(self, data: bytes) -> None:
        self._phase = _Phase.SEND
        await self._write(data)

    async def _write(self, data: bytes) -> None:
        try:
            written = os.write(self._descriptor, data)
        except BlockingIOError:
            written = 0
        if written < len(data):
            if self._phase is _Phase.SEND:
                self._enter(_Phase.SEND, self._limits.send_seconds_max)
            await self._stream.send_all(memoryview(data)[written:])
