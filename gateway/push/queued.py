"""A connection whose frames wait in a queue for a task that sends them one after another: for any transport
that has an asynchronous `receive` and `send` and nothing faster."""

from collections.abc import Awaitable, Callable

import trio

from gateway.push.codes import CloseCode
from gateway.push.connection import Ending, Peer
from gateway.push.queue import FrameQueue
from gateway.push.sessions import Sessions


class QueuedConnection:
    """`receive` and `send` may take as long as they like; the transport bounds them."""

    def __init__(
        self,
        sessions: Sessions,
        peer: Peer,
        receive: Callable[[], Awaitable[str | bytes]],
        send: Callable[[bytes], Awaitable[None]],
    ) -> None:
        self._sessions = sessions
        self._peer = peer
        self._receive = receive
        self._send = send
        self._slow: Callable[[CloseCode], None] | None = None
        limits = sessions.limits
        self._queue = FrameQueue(
            bytes_max=limits.queue_bytes_max,
            age_seconds_max=limits.queue_age_seconds_max,
            overflowed=self._overflowed,
        )
        self.offer = self._queue.offer
        self.has_room = self._queue.has_room
        self.wait_room = self._queue.wait_room

    @property
    def peer(self) -> Peer:
        return self._peer

    @property
    def peak_bytes(self) -> int:
        return self._queue.peak_bytes

    def attach(self, slow: Callable[[CloseCode], None]) -> None:
        self._slow = slow

    def detach(self) -> None:
        self._queue.close()

    async def receive(self) -> str | bytes:
        return await self._receive()

    async def run(self) -> Ending | None:
        """The whole session. None: the client has gone, so there is nobody to close."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write)
            ending = await self._sessions.run(self)
            nursery.cancel_scope.cancel()
        return ending

    async def _write(self) -> None:
        while True:
            for frame in await self._queue.take():
                await self._send(frame)

    def _overflowed(self, code: CloseCode) -> None:
        if self._slow is not None:
            self._slow(code)
