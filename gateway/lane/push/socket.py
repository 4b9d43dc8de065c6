"""One WebSocket in the push lane: `gateway.push.connection.Connection` on a socket.

Owns       the descriptor's reading and writing from the accepted handshake to the close; the frames that the
           socket did not take.
Promises   Frames go out whole and in order. A client that does not take them is closed with 4201 or 4202 and
           the reason, and nobody waits for it. A protocol error is answered by the code of RFC 6455.
Limits     bytes and age of what waits as in `SessionLimits`; incoming as in `IncomingLimits`;
           `SocketLimits` for the rest.
Cancelled  a close frame 1001, if the socket takes it at once; the caller closes the socket.

Nearly always the socket takes a frame at once, and then an idle connection is one parked task. Only while it
is full is there a second one, which waits until it can be written.

The kernel's own buffer would grow to megabytes for a client that stalls, so its size is set. When such a
client is closed, the buffer is made larger by what the close frame needs: the kernel then holds the reason at
the end of what the client has not read, even after we have closed the socket.
"""

import math
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

import trio
from msgspec import Struct
from wsproto.frame_protocol import CloseReason

from gateway.lane.push import wire
from gateway.lane.push.incoming import Closing, Incoming, IncomingLimits, Ping, Refused
from gateway.lane.push.sender import Sender, Shared
from gateway.push.codes import CloseCode
from gateway.push.connection import Connection, Ending, Gone, Peer
from gateway.push.queue import FRAME_OVERHEAD_BYTES
from gateway.push.session import SessionLimits

_READ_BYTES: Final = 16 * 1024
"""Parsing is work without a pause: some milliseconds for this at worst."""

_JOINED_FRAMES_MAX: Final = 256
_JOINED_BYTES_MAX: Final = 64 * 1024
"""For one send. More would not fit into the socket's buffer; IOV_MAX is 1,024."""

_PARTING_BYTES_MAX: Final = 1024 * 1024
"""What is read away, unparsed, of a client that is being closed."""


class Sessions(Protocol):
    """What the lane asks of the sessions behind it, as `gateway.push.connection` describes it."""

    @property
    def limits(self) -> SessionLimits: ...

    def refusal(self, peer: Peer) -> int | None: ...

    async def run(self, connection: Connection) -> Ending | None: ...

    def close_all(self) -> None: ...


class SocketLimits(Struct, frozen=True, kw_only=True):
    """`send_buffer_bytes`: the kernel doubles it for its bookkeeping; a hundred events, and some 300 KB/s
    over a line of 200 ms. `close_seconds_max`: for the other side's close frame; who needs longer is gone."""

    send_buffer_bytes: int = 64 * 1024
    close_seconds_max: float = 3.0


class PushSocket:
    """Made when the handshake was accepted; `received` is what came behind it."""

    __slots__ = (
        "_bytes",
        "_bytes_max",
        "_descriptor",
        "_failed",
        "_farewell",
        "_full",
        "_incoming",
        "_limits",
        "_marked",
        "_open",
        "_peer",
        "_room",
        "_sender",
        "_sent",
        "_sessions",
        "_slow",
        "_stream",
        "_they_closed",
        "_waiting",
        "peak_bytes",
    )

    def __init__(
        self,
        stream: trio.SocketStream,
        peer: Peer,
        received: bytes,
        *,
        sessions: Sessions,
        sender: Sender,
        limits: SocketLimits,
        incoming: IncomingLimits,
    ) -> None:
        self._stream = stream
        self._descriptor = stream.socket.fileno()
        self._peer = peer
        self._sessions = sessions
        self._sender = sender
        self._limits = limits
        self._incoming = Incoming(incoming, trio.current_time)
        if received:
            self._incoming.feed(received)
        self._bytes_max = sessions.limits.queue_bytes_max
        self._slow: Callable[[CloseCode], None] | None = None
        self._waiting: list[Shared] = []
        self._bytes = 0
        self._sent = 0  # of the first frame that waits
        self._marked = False
        self._full = False  # `_drain` is running
        self._open = True
        self._room: trio.Event | None = None
        self._farewell: bytes | None = None  # when it is the transport that ends it
        self._failed = False  # what else comes is not understood
        self._they_closed = False
        self.peak_bytes = 0
        _set_send_buffer(stream, limits.send_buffer_bytes)

    @property
    def peer(self) -> Peer:
        return self._peer

    async def run(self) -> None:
        """The session from beginning to end, and the close. The caller closes the socket."""
        cancelled = True
        try:
            ending = await self._sessions.run(self)
            cancelled = False
            self._open = False
            farewell = self._farewell if ending is None else wire.close(ending.code, ending.reason)
            if farewell is not None:
                await self._part(farewell)
        finally:
            if cancelled:
                self._say(wire.close(CloseReason.GOING_AWAY, "The server is going away."))
            # The number will be somebody else's.
            self._open = False
            self._waiting.clear()
            self._descriptor = -1

    # -------------------------------------------------------------- what the session asks for

    def attach(self, slow: Callable[[CloseCode], None]) -> None:
        self._slow = slow

    def detach(self) -> None:
        if self._open:
            self.flush()
        self._open = False

    def offer(self, frame: bytes) -> bool:
        # Called for every reader of every event. `_enqueue` says what this does, and does the rest.
        if not self._open:
            return False
        sender = self._sender
        shared = sender.last_shared if frame is sender.last else sender.shared(frame)
        if self._waiting:
            return self._enqueue(shared)
        self._waiting.append(shared)
        self._bytes = shared.cost
        if shared.cost > self.peak_bytes:
            self.peak_bytes = shared.cost
        if not (self._marked or self._full):
            self._marked = True
            if not sender.marked:
                sender.wake()
            sender.marked.append(self)
        return True

    def has_room(self) -> bool:
        return self._open and self._bytes * 2 < self._bytes_max

    async def wait_room(self) -> None:
        while not self.has_room():
            if self._room is None:
                self._room = trio.Event()
            await self._room.wait()

    async def receive(self) -> str | bytes:
        incoming = self._incoming
        while True:
            try:
                item = incoming.take()
            except Refused as refused:
                self._farewell = wire.close(refused.code, refused.reason)
                self._failed = True
                raise Gone from refused
            match item:
                case None:
                    await trio.lowlevel.wait_readable(self._descriptor)
                    incoming.feed(self._read())
                case Ping():
                    pong = wire.pong(item.payload)
                    self._enqueue(Shared(trio.current_time(), pong, len(pong) + FRAME_OVERHEAD_BYTES))
                case Closing():
                    self._they_closed = True
                    self._farewell = _answer_to(item)
                    raise Gone
                case _:
                    return item

    # -------------------------------------------------------------- output

    def flush(self) -> None:
        """Sends what the socket takes; starts waiting for it if that is not all."""
        self._marked = False
        if self._full:
            return
        waiting = self._waiting
        if len(waiting) == 1 and not self._sent:  # nearly always, and then it is taken whole
            frame = waiting[0].wire
            try:
                self._sent = os.write(self._descriptor, frame)
            except BlockingIOError:
                pass
            except OSError:
                self._broken()
            if self._sent == len(frame):
                waiting.clear()
                self._bytes = self._sent = 0
        if waiting and not self._write():
            self._full = True
            self._sender.start(self._drain)
        if self._room is not None:
            self._wake()

    def _enqueue(self, frame: Shared) -> bool:
        if self._bytes + frame.cost > self._bytes_max and self._waiting:
            if not self._full:
                self.flush()  # a burst, and not a slow reader
            # One frame always fits, however large: an event is bounded where it is made, and refusing it
            # here would have the client come back for it forever.
            if self._bytes + frame.cost > self._bytes_max and self._waiting:
                self._too_slow(CloseCode.SLOW_BYTES)
                return False
        self._waiting.append(frame)
        self._bytes += frame.cost
        if self._bytes > self.peak_bytes:
            self.peak_bytes = self._bytes
        if not (self._marked or self._full):
            self._marked = True
            if not self._sender.marked:
                self._sender.wake()
            self._sender.marked.append(self)
        return True

    def _write(self) -> bool:
        """False when the socket takes no more. One that is broken takes everything, and its reader wakes."""
        while self._waiting:
            try:
                written = os.writev(self._descriptor, self._pieces())
            except BlockingIOError:
                return False
            except OSError:
                self._broken()
                return True
            self._written(written)  # a short write does not mean that it is full
        return True

    def _pieces(self) -> list[bytes | memoryview]:
        """The next frames, for one call."""
        pieces: list[bytes | memoryview] = []
        size = 0
        for shared in self._waiting:
            frame: bytes | memoryview = shared.wire
            if not pieces and self._sent:
                frame = memoryview(frame)[self._sent :]
            elif pieces and (size + len(frame) > _JOINED_BYTES_MAX or len(pieces) == _JOINED_FRAMES_MAX):
                break
            pieces.append(frame)
            size += len(frame)
        return pieces

    def _written(self, count: int) -> None:
        count += self._sent
        done = 0
        for shared in self._waiting:
            if count < len(shared.wire):
                break
            count -= len(shared.wire)
            self._bytes -= shared.cost
            done += 1
        del self._waiting[:done]
        self._sent = count

    async def _drain(self) -> None:
        """Runs while the socket is full."""
        age_max = self._sessions.limits.queue_age_seconds_max
        try:
            while self._waiting:
                # At the end it is `_part` that watches the time.
                deadline = self._waiting[0].at + age_max if self._open else math.inf
                with trio.CancelScope(deadline=deadline) as patience:
                    await trio.lowlevel.wait_writable(self._descriptor)
                if patience.cancelled_caught:
                    if self._open:
                        self._too_slow(CloseCode.SLOW_AGE)
                    continue
                if self._descriptor < 0:
                    return
                self._write()
                self._wake()
        except (OSError, trio.ClosedResourceError):
            self._let_go()
        finally:
            self._full = False

    def _wake(self) -> None:
        """Wakes who waits for room, or for the last frames to be on their way."""
        if self._room is not None and (self.has_room() or not (self._open or self._waiting)):
            self._room.set()
            self._room = None

    def _too_slow(self, code: CloseCode) -> None:
        self._open = False
        self._drop()
        if self._slow is not None:
            self._slow(code)

    def _drop(self) -> None:
        """Lets go of what waits, except a frame of which the client has the beginning."""
        del self._waiting[1 if self._sent else 0 :]
        self._bytes = sum(shared.cost for shared in self._waiting)

    def _broken(self) -> None:
        self._let_go()
        with suppress(OSError):
            self._stream.socket.shutdown(socket.SHUT_RDWR)  # so that the reader wakes

    def _let_go(self) -> None:
        self._open = False
        self._waiting.clear()
        self._bytes = self._sent = 0
        self._wake()

    # -------------------------------------------------------------- the end

    async def _part(self, farewell: bytes) -> None:
        """Says goodbye and waits a moment for theirs (RFC 6455, section 7.1.2). The server closes first."""
        self._say(farewell)
        try:
            with trio.move_on_after(self._limits.close_seconds_max):
                await self._said()
                if self._failed:
                    self._stream.socket.shutdown(socket.SHUT_WR)  # their close frame would not be recognised
                if not self._they_closed:
                    await self._until_they_close()
            # Closing on unread bytes resets the connection, and what the client has not read yet is lost.
            for _ in range(_PARTING_BYTES_MAX // _READ_BYTES):
                if not self._read():
                    return
        except (Gone, OSError):
            return

    def _say(self, farewell: bytes) -> None:
        """Puts the last frames behind the one that is on its way."""
        self._drop()
        self._waiting.append(Shared(trio.current_time(), farewell, 0))
        if not self._write():
            missing = sum(len(shared.wire) for shared in self._waiting)
            _set_send_buffer(self._stream, 2 * self._limits.send_buffer_bytes + 2 * missing)
            self._write()

    async def _said(self) -> None:
        """Until the last frames are out; nearly always they are. The kernel may be too short of memory to
        make the buffer larger, and then only a client that reads on hears them."""
        if self._waiting and not self._full:
            self._full = True
            self._sender.start(self._drain)
        while self._waiting:
            if self._room is None:
                self._room = trio.Event()
            await self._room.wait()

    async def _until_they_close(self) -> None:
        incoming = None if self._failed else self._incoming
        dropped = 0
        while dropped < _PARTING_BYTES_MAX:
            await trio.lowlevel.wait_readable(self._descriptor)
            data = self._read()
            dropped += len(data)
            if incoming is None:
                continue
            try:
                incoming.feed(data)
                while (item := incoming.take()) is not None:
                    if isinstance(item, Closing):
                        return
            except Refused:
                incoming = None

    def _read(self) -> bytes:
        """What has arrived; nothing if the kernel woke us for nothing. Raises Gone when it is the end."""
        try:
            data = os.read(self._descriptor, _READ_BYTES)
        except BlockingIOError:
            return b""
        except OSError:
            raise Gone from None
        if not data:
            raise Gone
        return data


def _answer_to(closing: Closing) -> bytes:
    if closing.code == CloseReason.NO_STATUS_RCVD:
        return wire.close_without_code()
    return wire.close(closing.code)


def _set_send_buffer(stream: trio.SocketStream, size: int) -> None:
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
