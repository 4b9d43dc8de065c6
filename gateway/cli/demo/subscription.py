"""A subscriber as a client author would write it: one channel, resumed by its cursor when the line is cut.

Promises   every event of the channel reaches `hear` once and in order, over any number of connections, unless
           the server announces a gap; gaps and disorder are counted, and then the run is not clean.
Limits     64 frames wait here; the server bounds what waits there. After a lost connection, pauses from
           0.2 s doubling to 5 s.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec
import trio
from trio_websocket import ConnectionClosed, HandshakeError, WebSocketConnection, open_websocket_url

from engine.errors import Unauthenticated, Unavailable
from gateway.push.codes import CloseCode

PING_SECONDS: Final = 25.0
CONNECT_SECONDS_MAX: Final = 10.0
PAUSE_SECONDS: Final = (0.2, 5.0)
FRAME_BYTES_MAX: Final = 4 * 1024 * 1024
FRAMES_WAITING_MAX: Final = 64


class Subscription:
    """`run` in a nursery; it starts when the server has confirmed the subscription."""

    def __init__(
        self, ws_url: str, token: str, tenant: str, channel: str, hear: Callable[[dict[str, Any]], None]
    ) -> None:
        self._ws_url = ws_url
        self._greeting = {"type": "auth", "token": token, "tenant": tenant}
        self._channel = channel
        self._hear = hear
        self.cursor: int | None = None
        self.connections = 0
        self.gaps = 0
        self.disordered = 0

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen until cancelled. Raises Unauthenticated when the server says that coming back is no use."""
        self._ready: Callable[[], None] | None = task_status.started
        pause, most = PAUSE_SECONDS
        while True:
            before = self.connections
            try:
                async with open_websocket_url(
                    self._ws_url,
                    connect_timeout=CONNECT_SECONDS_MAX,
                    disconnect_timeout=1,
                    message_queue_size=FRAMES_WAITING_MAX,
                    max_message_size=FRAME_BYTES_MAX,
                ) as socket:
                    await self._converse(socket)
            except* (ConnectionClosed, HandshakeError, OSError) as lost:
                _check_may_return(lost)
            pause = PAUSE_SECONDS[0] if self.connections > before else min(2 * pause, most)
            await trio.sleep(pause)

    async def _converse(self, socket: WebSocketConnection) -> None:
        await _send(socket, self._greeting)
        wish: dict[str, Any] = {"type": "subscribe", "channel": self._channel}
        if self.cursor is not None:
            wish["since"] = self.cursor
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_keep_alive, socket)
            while True:
                message = msgspec.json.decode(await socket.get_message())
                match message["type"]:
                    case "welcome":
                        await _send(socket, wish)
                    case "subscribed":
                        self._subscribed(message["cursor"])
                    case "event":
                        self._event(message)
                    case "gap":
                        self.gaps += 1
                        self.cursor = message["to"]
                    case "error":
                        raise Unavailable(f"The server refused {self._channel}: {message['message']}")
                    case _:
                        pass  # pong, and what a newer server may say

    def _subscribed(self, cursor: int) -> None:
        self.connections += 1
        if self.cursor is None:
            self.cursor = cursor
        if self._ready is not None:
            self._ready()
            self._ready = None

    def _event(self, message: dict[str, Any]) -> None:
        if self.cursor is not None and message["cursor"] <= self.cursor:
            self.disordered += 1
        self.cursor = message["cursor"]
        self._hear(message)


async def _send(socket: WebSocketConnection, message: dict[str, Any]) -> None:
    await socket.send_message(msgspec.json.encode(message).decode())


async def _keep_alive(socket: WebSocketConnection) -> None:
    while True:
        await trio.sleep(PING_SECONDS)
        await _send(socket, {"type": "ping"})


def _check_may_return(lost: BaseExceptionGroup[BaseException]) -> None:
    for error in lost.exceptions:
        if isinstance(error, BaseExceptionGroup):
            _check_may_return(error)
        elif isinstance(error, ConnectionClosed) and error.reason is not None:
            code = error.reason.code
            if CloseCode.UNAUTHENTICATED <= code < CloseCode.OVER_CAPACITY:
                raise Unauthenticated(f"The server closed with {code}: {error.reason.reason}")
