"""From a connection on the public port to a session: the handshake, and who stops whom.

Promises   A handshake is complete within `head_seconds_max`, however slowly its bytes come, or gets 408; a
           head that is too large gets 431. A page of another origin gets 403. Whatever is no handshake for a
           path of the sessions goes back with all its bytes.
Leaves     the frames to `socket` and `sender`, their meaning to the sessions.
"""

import os
from contextlib import suppress
from typing import Final

import trio
from msgspec import Struct

from gateway.lane.parser import HEAD_END, NotForLane, Refused
from gateway.lane.parting import refuse
from gateway.lane.push.incoming import IncomingLimits
from gateway.lane.push.sender import Sender
from gateway.lane.push.socket import PushSocket, Sessions, SocketLimits
from gateway.lane.upgrade import accepted, is_upgrade, may_be_upgrade, read_upgrade
from gateway.metrics import Metrics
from gateway.push.connection import Peer

_READ_BYTES: Final = 16 * 1024


class PushLaneLimits(Struct, frozen=True, kw_only=True):
    """`head_bytes_max`, `head_seconds_max` and `idle_seconds_max`: as the webhook lane's, for its reasons."""

    head_bytes_max: int = 16 * 1024
    head_seconds_max: float = 10.0
    idle_seconds_max: float = 75.0


class PushLane:
    """The lane of one listening server for the WebSockets of `sessions`. `work` must be running."""

    def __init__(
        self,
        sessions: Sessions,
        metrics: Metrics,
        *,
        limits: PushLaneLimits | None = None,
        sockets: SocketLimits | None = None,
    ) -> None:
        self._sessions = sessions
        self._metrics = metrics
        self._limits = limits or PushLaneLimits()
        self._sockets = sockets or SocketLimits()
        self._incoming = IncomingLimits(
            message_characters_max=2 * sessions.limits.message_bytes_max,
            frames_burst=sessions.limits.messages_burst,
            frames_per_second=sessions.limits.messages_per_second,
        )
        self._sender = Sender()
        self._shaking_hands: set[trio.CancelScope] = set()
        self._stopping = False

    def may_be_lanes(self, received: bytes) -> bool:
        return may_be_upgrade(received)

    async def work(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        await self._sender.run(task_status=task_status)

    def stop(self) -> None:
        """Sessions end with GOING_AWAY."""
        self._stopping = True
        for scope in self._shaking_hands:
            scope.cancel()
        self._sessions.close_all()

    async def run(self, stream: trio.SocketStream, received: bytes = b"") -> bytes:
        # Nothing of the handshake stays in this frame, which lives as long as the connection.
        taken = await self._shake_hands(stream, received)
        received = b""
        if isinstance(taken, bytes):
            return taken
        await taken.run()
        return b""

    async def _shake_hands(self, stream: trio.SocketStream, received: bytes) -> PushSocket | bytes:
        """The opened WebSocket; or bytes to return from `run`."""
        try:
            received, end = await self._read_head(stream, received)
            if not end:
                return received
            return await self._open(stream, received, end)
        except Refused as refused:
            await refuse(stream, refused, self._metrics)
            return b""
        except (OSError, trio.TooSlowError, trio.BrokenResourceError, trio.ClosedResourceError):
            return b""

    async def _read_head(self, stream: trio.SocketStream, received: bytes) -> tuple[bytes, int]:
        """What was read, and where the head ends in it; 0: it is not ours, or nothing comes."""
        limits = self._limits
        descriptor = stream.socket.fileno()
        began = trio.current_time()
        with trio.CancelScope() as patience:
            self._shaking_hands.add(patience)
            try:
                searched = 0
                while may_be_upgrade(received):
                    end = HEAD_END.search(received, searched)
                    size = len(received) if end is None else end.end()
                    if size > limits.head_bytes_max:
                        raise Refused(431, "too_large", "a head larger than allowed")
                    if end is not None:
                        return received, size
                    searched = max(0, size - 2)
                    patience.deadline = began + (
                        limits.head_seconds_max if received else limits.idle_seconds_max
                    )
                    await trio.lowlevel.wait_readable(descriptor)
                    with suppress(BlockingIOError):  # woken for nothing
                        data = os.read(descriptor, _READ_BYTES)
                        if not data:
                            return b"", 0
                        if not received:
                            began = trio.current_time()
                        received += data
            finally:
                self._shaking_hands.discard(patience)
        if patience.cancelled_caught:
            if self._stopping:
                return b"", 0
            if is_upgrade(received):
                raise Refused(408, "timeout", "the head took too long")
        return received, 0

    async def _open(self, stream: trio.SocketStream, received: bytes, end: int) -> PushSocket | bytes:
        try:
            upgrade = read_upgrade(received[:end])
        except NotForLane:
            return received
        peer = Peer(
            path=upgrade.path,
            query=upgrade.query,
            origin=upgrade.origin,
            address=str(stream.socket.getpeername()[0]),
            forwarded=upgrade.forwarded,
        )
        status = self._sessions.refusal(peer)
        if status == 404:
            return received
        if status is not None:
            raise Refused(status, "forbidden", "a page of another origin")
        answer = accepted(upgrade)
        written = 0
        with suppress(BlockingIOError):
            written = os.write(stream.socket.fileno(), answer)
        if written < len(answer):  # after unread answers to other requests
            with trio.fail_after(self._limits.head_seconds_max):
                await stream.send_all(answer[written:])
        return PushSocket(
            stream,
            peer,
            received[end:],
            sessions=self._sessions,
            sender=self._sender,
            limits=self._sockets,
            incoming=self._incoming,
        )
