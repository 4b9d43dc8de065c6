"""Serving: Hypercorn's connections under our own roof, with limits that Hypercorn leaves open.

Why not `hypercorn.trio.serve`: it shields every send without a deadline, so that a client which stops
reading pins its task, and the shutdown with it, for as long as TCP keeps the connection; it holds a
connection that the client has closed until the idle time is over; it accepts any number of connections; and
it opens its sockets itself, while a port may be shared with lanes in front. So the accept loop is here, each
connection's stream is wrapped, and Hypercorn's per-connection server, its lifespan and its protocols are used
as they are (written against 0.18; the tests of this module hold what is relied on).

With lanes (`gateway.lane`) each connection begins there. It comes to Hypercorn with its first request that
is not a lane's, and goes back for as many requests as are: all read on one connection in turns, and the
one who reads has all that was received and not used. A WebSocket of the push lane never comes back.

Promises   No send lasts longer than `send_seconds_max`. A request's head is complete within
           `idle_seconds_max` of the connection's start or the last answer, or the connection is closed.
           After the stop event: no new connections, idle ones are closed, calls under way get
           `graceful_seconds_max`, then everything is cancelled; `serve` then returns.
Limits     `ServingLimits`.
Leaves     limits on bodies and on the duration of calls to the application, TLS to a proxy in front.
"""

import logging
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from contextlib import suppress
from typing import Any, Final

import h11
import structlog
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState, LifespanState
from hypercorn.utils import wrap_app
from msgspec import Struct
from trio.abc import HalfCloseableStream

from gateway.accepting import accept_all
from gateway.lane.lanes import Lane, Lanes
from gateway.lane.parting import PARTING_SECONDS_MAX
from gateway.metrics import Metrics

_log = structlog.get_logger()

AsgiApp = Callable[
    [
        MutableMapping[str, Any],
        Callable[[], Awaitable[MutableMapping[str, Any]]],
        Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ],
    Awaitable[None],
]

_TOO_MANY: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
)
_REFUSING_SECONDS_MAX: Final = 1.0
_CLOSING_SECONDS_MAX: Final = 1.0
"""None of this waits for the other side; the bound is there because the scope is shielded."""


class ServingLimits(Struct, frozen=True, kw_only=True):
    """`connections_max`: ten thousand agents and some room; a process may usually open 20,000 files at
    most. `backlog`: a burst of connections while the loop is busy for a moment. `head_bytes_max`: the
    platforms send 2 KB. `send_seconds_max`: for one write, 64 KB as a rule; who takes half a minute for it is
    gone. `idle_seconds_max`: platforms and proxies reuse connections within seconds, and below the
    common proxies' 60 s it would be we who close first. `requests_per_connection_max` moves long-lived
    clients to other processes over time. `frame_bytes_max`: the session's own limit is tighter."""

    connections_max: int = 12_000
    backlog: int = 1_024
    head_bytes_max: int = 16 * 1024
    send_seconds_max: float = 30.0
    idle_seconds_max: float = 75.0
    requests_per_connection_max: int = 100_000
    graceful_seconds_max: float = 10.0
    frame_bytes_max: int = 64 * 1024


async def serve(
    app: AsgiApp,
    *,
    host: str,
    port: int,
    stop: trio.Event,
    metrics: Metrics | None = None,
    limits: ServingLimits | None = None,
    lanes: Sequence[Lane] = (),
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves `app` until `stop` is set, and a little longer for what is under way. Starts with the port that
    it listens on (`port` 0 takes a free one). Raises OSError when it cannot listen. `lanes` answer their
    requests without `app`; each serves one server."""
    await _Server(app, stop, metrics, limits or ServingLimits(), Lanes(lanes)).run(host, port, task_status)


class _Server:
    def __init__(
        self,
        app: AsgiApp,
        stop: trio.Event,
        metrics: Metrics | None,
        limits: ServingLimits,
        lanes: Lanes,
    ) -> None:
        self._lanes = lanes
        self._limits = limits
        self._metrics = metrics
        self._stop = stop
        self._config = _hypercorn_config(limits)
        self._app = wrap_app(app, self._config.wsgi_max_body_size, "asgi")  # type: ignore[arg-type]
        self._context = WorkerContext(None)
        self._state: LifespanState = {}
        self._open = 0

    async def run(self, host: str, port: int, task_status: trio.TaskStatus[int]) -> None:
        listeners = await _listen(host, port, self._limits.backlog)
        lifespan = Lifespan(self._app, self._config, self._state)
        async with trio.open_nursery() as lifespan_nursery:
            await lifespan_nursery.start(lifespan.handle_lifespan)
            await lifespan.wait_for_startup()
            await lifespan_nursery.start(self._lanes.work)
            async with trio.open_nursery() as connections:
                async with trio.open_nursery() as accepting:
                    accepting.start_soon(accept_all, self._connection, listeners, connections)
                    bound: int = listeners[0].socket.getsockname()[1]
                    _log.info("serving.started", host=host, port=bound)
                    task_status.started(bound)
                    await self._stop.wait()
                    accepting.cancel_scope.cancel()  # closes the listeners
                _log.info("serving.stopping", connections=self._open)
                self._lanes.stop()
                await self._context.terminated.set()  # Hypercorn closes idle connections and keeps none alive
                connections.cancel_scope.deadline = trio.current_time() + self._limits.graceful_seconds_max
            _log.info("serving.stopped")
            await lifespan.wait_for_shutdown()
            lifespan_nursery.cancel_scope.cancel()

    async def _connection(self, stream: trio.SocketStream) -> None:
        if self._open >= self._limits.connections_max:
            if self._metrics is not None:
                self._metrics.connections_refused.inc()
            with trio.move_on_after(_REFUSING_SECONDS_MAX), suppress(trio.BrokenResourceError):
                await stream.send_all(_TOO_MANY)
            await trio.aclose_forcefully(stream)
            return
        self._count(1)
        try:
            received = b""
            if self._lanes:
                received = await self._lanes.run(stream)
                if not received:
                    return
            bounded = BoundedStream(stream, self._limits.send_seconds_max, self._cut, received)
            state = ConnectionState(self._state.copy())
            connection = _Connection(self._app, self._config, self._context, state, bounded)  # type: ignore[arg-type]
            if self._lanes:
                connection.share_with(self._lanes, bounded)
            await connection
        except Exception:  # noqa: BLE001  # one connection's defect must not end all the others
            _log.exception("serving.connection_crashed")
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        self._open += change
        if self._metrics is not None:
            self._metrics.connections.set(self._open)

    def _cut(self) -> None:
        if self._metrics is not None:
            self._metrics.sends_timed_out.inc()


class _Connection(TCPServer):
    """Hypercorn's, except that it ends when the other side has gone: Hypercorn would wait for the idle time
    first, with the socket open. What becomes of a connection after an answer is not forgotten: that it is
    closed, or that its idle time begins. A client that was answered before its body was here gets to read
    the answer. And between requests the connection is lent to the lanes."""

    _turn: trio.Event | None = None  # set when an answer is complete, or the connection is over
    _reading: trio.CancelScope

    def share_with(self, lanes: Lanes, stream: "BoundedStream") -> None:
        """From now on `lanes` take their requests from this connection."""
        self._turn = trio.Event()

        async def first_look(data: bytes) -> bytes:
            if not (data and lanes.may_be_lanes(data) and await self._between_requests()):
                return data
            await self.idle_task.stop()  # the lanes have their own deadlines
            data = await stream.lend(lanes, data)
            if data:
                await self.idle_task.restart(self._task_group, self._idle_timeout)
            return data

        stream.first_look = first_look

    async def _between_requests(self) -> bool:
        """Whether what was just received begins a request. While the one before is being answered this
        waits, as Hypercorn would before it looked at it."""
        protocol = self.protocol.protocol
        while isinstance(protocol, H11Protocol) and isinstance(protocol.connection, h11.Connection):
            connection = protocol.connection
            ours, theirs = connection.our_state, connection.their_state
            if connection.trailing_data[0] or ours in (h11.MUST_CLOSE, h11.CLOSED, h11.ERROR):
                return False
            if theirs is not h11.DONE:
                return ours is h11.IDLE and theirs is h11.IDLE
            self._turn = trio.Event()
            await self._turn.wait()
        return False  # HTTP/2, or a WebSocket now

    async def _read_data(self) -> None:
        with trio.CancelScope() as self._reading:
            await super()._read_data()
        await self.idle_task.stop()

    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, RawData):  # has a shield and a bound of its own
            await super().protocol_send(event)
            return
        # After an answer the caller is the request's own task, and quart-trio cancels it as soon as it hears
        # that its stream was closed, which is just before this.
        try:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _CLOSING_SECONDS_MAX):
                if isinstance(event, Closed) and self._is_being_sent_to():
                    await self._part()
                else:
                    await super().protocol_send(event)
        finally:
            if self._turn is not None and isinstance(event, Updated | Closed):
                self._turn.set()

    def _is_being_sent_to(self) -> bool:
        """Whether a request is not all here, or what came was none."""
        connection = getattr(self.protocol.protocol, "connection", None)
        return isinstance(connection, h11.Connection) and connection.their_state in (h11.SEND_BODY, h11.ERROR)

    async def _part(self) -> None:
        """Closes our side alone, for the reason in `gateway.lane.parting`: the kernel would drop the answer.
        The task that reads goes on until the other side ends, for a moment; nobody takes what it reads."""
        self._reading.deadline = min(self._reading.deadline, trio.current_time() + PARTING_SECONDS_MAX)
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
            await self.stream.send_eof()
        await self.protocol.handle(Closed())


class BoundedStream(HalfCloseableStream):
    """A socket stream whose sends end: in time, or with the connection closed and BrokenResourceError.

    Hypercorn's shield keeps outer cancellation away and not this deadline, which is inside it. What was
    `received` before is read first, and `first_look` may take what arrives for itself.
    """

    def __init__(
        self,
        inner: trio.SocketStream,
        send_seconds_max: float,
        cut: Callable[[], None] = lambda: None,
        received: bytes = b"",
    ) -> None:
        self.first_look: Callable[[bytes], Awaitable[bytes]] | None = None
        self._received = received
        self._inner = inner
        self._send_seconds_max = send_seconds_max
        self._cut = cut
        self.socket = inner.socket

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        with trio.move_on_after(self._send_seconds_max) as patience:
            await self._inner.send_all(data)
        if patience.cancelled_caught:
            self._cut()
            await trio.aclose_forcefully(self._inner)
            raise trio.BrokenResourceError("the other side stopped reading")

    async def wait_send_all_might_not_block(self) -> None:
        await self._inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if self._received:
            received, self._received = self._received, b""
            return received
        data = bytes(await self._inner.receive_some(max_bytes))
        return data if self.first_look is None else await self.first_look(data)

    async def lend(self, lanes: Lanes, received: bytes) -> bytes:
        """Between two requests: the lanes' turn, as in `Lane.run`."""
        if self._inner.socket.fileno() < 0:
            return b""  # closed while it was decided whose turn it is
        return await lanes.run(self._inner, received)

    async def send_eof(self) -> None:
        await self._inner.send_eof()

    async def aclose(self) -> None:
        await self._inner.aclose()


async def _listen(host: str, port: int, backlog: int) -> list[trio.SocketListener]:
    listeners = await trio.open_tcp_listeners(port, host=host, backlog=backlog)
    if port == 0 and len(listeners) > 1:
        # A name with several addresses and a free port: each would get its own. The first one is told.
        for extra in listeners[1:]:
            await extra.aclose()
        listeners = listeners[:1]
    for listener in listeners:
        # Inherited by accepted sockets. Answers are written in pieces; the second must not wait for an ACK.
        listener.socket.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NODELAY, 1)
    return listeners


def _hypercorn_config(limits: ServingLimits) -> Config:
    config = Config()
    config.accesslog = None  # the application and the webhooks write their own canonical lines
    config.errorlog = logging.getLogger("hypercorn.error")
    config.include_server_header = False
    config.h11_max_incomplete_size = limits.head_bytes_max
    config.keep_alive_timeout = limits.idle_seconds_max
    config.keep_alive_max_requests = limits.requests_per_connection_max
    config.graceful_timeout = limits.graceful_seconds_max
    config.websocket_max_message_size = limits.frame_bytes_max
    config.shutdown_timeout = 10.0
    return config
