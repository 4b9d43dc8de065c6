"""Connections in the lane: their bytes, their deadlines, and the turn of each request.

Owns       what has been read from a connection and not yet used. Whoever takes the connection over gets it.
Promises   A connection that is not getting anywhere ends: idleness, heads, bodies and sends have
           each a deadline in all, however slowly bytes trickle. Requests are answered one at a time, in
           order; the next one is read when the last one's answer is on its way.
Cancelled  The connection is left as it is, for the caller to close; a delivery under way is then as after a
           hang-up, and the platform's repetition settles it.

A connection between two requests is parked (`parked`): the lane's poller reads for it, and starts a request
that arrived whole. Its task sleeps meanwhile. It wakes for everything else (a part of a request, a chunked or
announced body, bytes behind the first request, a request that is somebody else's, an answer that does not
fit, the end), finds the bytes in the buffer and goes the long way with them, as it does without a poller.

Bytes go by `os.read` and `os.write` on the descriptor, which is non-blocking: the lane reads only when the
kernel says that there is something, and an answer nearly always fits into the send buffer, so the tries and
checkpoints of a stream's general methods are spared. A write that does not fit goes on through the stream.
"""

import os
from collections.abc import Awaitable
from enum import Enum, auto
from math import inf
from typing import Final

import trio

from gateway.lane import answer as answers
from gateway.lane.chunked import ChunkedBody
from gateway.lane.parked import Parked
from gateway.lane.parser import HEAD_END, Head, NotForLane, Refused, may_be_lanes, read_head
from gateway.lane.parting import part, refuse
from gateway.lane.shared import READ_BYTES, Shared
from gateway.webhooks import Answer, Rest

_READ_CHUNKED_BYTES: Final = 16 * 1024
"""Decoding chunks is work in Python without a pause: some milliseconds for these at worst."""


class _Phase(Enum):
    IDLE = auto()
    HEAD = auto()
    BODY = auto()
    ANSWER = auto()
    SEND = auto()


class _Ended(Exception):
    """The other side is gone."""


class Connection:
    def __init__(self, shared: Shared, stream: trio.SocketStream, received: bytes) -> None:
        self._shared = shared
        self._limits = shared.limits
        self._stream = stream
        self._descriptor = stream.socket.fileno()
        self._buffer = received
        self._phase = _Phase.IDLE
        self._scope = trio.CancelScope()
        self._held = 0
        self._parked = Parked(shared, self._descriptor)

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
            self._shared.reading_bytes -= self._held
            self._held = 0
        if refused is None:  # the deadline has passed, or the server stops
            if self._phase is _Phase.SEND:
                self._shared.metrics.sends_timed_out.inc()
            if self._shared.stopping or self._phase not in (_Phase.HEAD, _Phase.BODY):
                return b""
            refused = Refused(408, "timeout", f"the {self._phase.name.lower()} took too long")
        await refuse(self._stream, refused, self._shared.metrics)
        return b""

    def stop(self) -> None:
        """End it if it waits for a request; otherwise the answer under way is its last one."""
        if self._phase is _Phase.HEAD or (self._phase is _Phase.IDLE and not self._parked.busy):
            self._scope.cancel()

    async def _serve(self) -> bytes:
        shared = self._shared
        while not shared.stopping:
            if not self._buffer and shared.poller.running:
                rest = await self._park()
                if rest is not None:
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
            handling = shared.handle("POST", head.path, head.query, head.headers, body)
            if not await self._answer(handling, keep_alive=head.keep_alive):
                return b""
        return b""

    async def _answer(self, handling: Awaitable[Answer], *, keep_alive: bool) -> bool:
        """Send the answer; whether the connection goes on behind it."""
        self._enter(_Phase.ANSWER, self._limits.answer_seconds_max)
        answer = await handling
        self._parked.requests += 1
        over = self._parked.requests > self._limits.requests_per_connection_max
        last = over or not keep_alive or self._shared.stopping
        await self._send(answers.encode(answer, close=last))
        if last and self._buffer:
            await part(self._stream)
        return not last

    async def _park(self) -> Rest | None:
        """Leave the connection to the poller until it needs this task. Then there is something in the
        buffer, or the rest of a request to see to, or the connection is over."""
        self._phase = _Phase.IDLE
        self._scope.deadline = inf
        woken = await self._parked.wait()
        self._buffer = woken.received
        if woken.unsent:
            await self._send(woken.unsent)
        if woken.over and self._buffer:  # the server stops, and more was sent
            await part(self._stream)
            self._buffer = b""
        return woken.rest

    # -------------------------------------------------------------- a request

    async def _head(self) -> bytes | None:
        """The next head, or None when what comes next is not the lane's. It stays in the buffer."""
        if self._buffer:
            # Pipelined, or handed in. Many requests in one read must not keep the loop from everybody else.
            self._enter(_Phase.HEAD, self._limits.head_seconds_max)
            await trio.lowlevel.checkpoint()
        else:
            self._enter(_Phase.IDLE, self._limits.idle_seconds_max)
            self._buffer = await self._read(READ_BYTES)
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
            self._buffer += await self._read(READ_BYTES)

    async def _body(self, head: Head) -> bytes:
        if head.length is None:
            return await self._chunked_body(head)
        if head.length > self._shared.bytes_max(head.path):
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
            arriving += self._hold(await self._read(min(missing, READ_BYTES)))
        self._release()
        return bytes(arriving)

    async def _chunked_body(self, head: Head) -> bytes:
        bytes_max = self._shared.bytes_max(head.path)
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
        self._shared.reading_bytes += len(data)
        if self._shared.reading_bytes > self._limits.reading_bytes_max:
            raise Refused(503, "overloaded", "too many bytes of bodies are being read")
        return data

    def _release(self) -> None:
        self._shared.reading_bytes -= self._held
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
