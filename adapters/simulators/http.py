"""A small HTTP/1.1 server on trio, for platforms that are played and not for production traffic.

Why         A simulated platform must be able to misbehave on the wire: hang, cut the connection, drip a
            body, vanish for a while. Web frameworks hide exactly that.
Promises    Keep-alive, Content-Length and chunked bodies, `Expect: 100-continue`, limits on everything a
            peer can make us hold. Malformed requests get 4xx and a closed connection.
Leaves      TLS, HTTP/2, pipelined concurrency (requests of one connection are answered in turn, RFC 9112
            section 9.3.2) and routing to others.
"""

import re
import struct
from collections.abc import Awaitable, Callable, Mapping
from socket import SO_LINGER, SOL_SOCKET
from urllib.parse import parse_qsl, unquote, urlsplit

import h11
import msgspec
import trio
from msgspec import Struct, field

_READ_BYTES = 65_536
"""One read; large enough that a webhook or a send arrives in a single one."""

_DRIP_SECONDS = 0.05
"""Slices of a paced body: short enough to look like a slow line, long enough to cost nothing."""

_LINGER_SECONDS = 1.0
"""How long what a refused peer still sends is read and thrown away, so that it can read the refusal."""


class HttpLimits(Struct, frozen=True, kw_only=True):
    """What one peer may occupy. The numbers suit a sandbox on a developer's machine."""

    connections_max: int = 1_000
    """Beyond it new connections are closed at once; a file descriptor each, below the usual 1024."""
    head_bytes_max: int = 16_384
    """Request line and headers still unfinished; Graph calls need under 2 KB, tokens included. A head that
    arrives whole within one read of 64 KB is let through."""
    idle_seconds_max: float = 75.0
    """Keep-alive between two requests, longer than the 60 s that many clients keep a connection."""
    request_seconds_max: float = 60.0
    """From the first byte of a request to its last."""
    write_seconds_max: float = 60.0
    """A peer that stops reading is cut off; a paced body gets its own time on top."""


class Request(Struct, frozen=True):
    """One request, wholly read. Header names are lower case; the last one of a name wins."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


def multipart_of(request: Request) -> dict[str, tuple[bytes, str]] | None:
    """name -> (content, content type) of a multipart/form-data body (RFC 7578), 20 parts at most; None for a
    body of another type."""
    found = re.search(
        r'multipart/form-data;.*boundary="?([^";]{1,70})', request.headers.get("content-type", "")
    )
    if found is None:
        return None
    parts: dict[str, tuple[bytes, str]] = {}
    pieces = (b"\r\n" + request.body).split(b"\r\n--" + found[1].encode("latin-1"), 21)
    for piece in pieces[1:]:
        head, separator, content = piece.partition(b"\r\n\r\n")
        text = head.decode("utf-8", "replace")
        name = re.search(r'[; ]name="([^"]*)"', text)
        if separator and name is not None:
            kind = re.search(r"content-type: *([^\r\n]+)", text, re.IGNORECASE)
            parts[name[1]] = (content, kind[1].strip() if kind else "application/octet-stream")
    return parts


class Response(Struct, frozen=True):
    """One answer. `pace_bytes_per_second` drips the body, for peers that must bear a slow platform."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json; charset=UTF-8"
    headers: Mapping[str, str] = field(default_factory=dict)
    pace_bytes_per_second: float | None = None


def json_response(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(status, msgspec.json.encode(content), headers=headers or {})


class Cut(Exception):
    """Raised by a handler: give no answer and end the connection, with RST when `reset`, else with FIN."""

    def __init__(self, *, reset: bool) -> None:
        super().__init__("reset" if reset else "closed without an answer")
        self.reset = reset


Handler = Callable[[Request], Awaitable[Response]]
BodyLimit = Callable[[str, str], int]
"""(method, path) -> bytes: how much body that call may carry."""


class HttpServer:
    """Listens on one port and can be taken down and brought back while it runs.

    `run` is started in a nursery (`await nursery.start(server.run)`) and lasts until it is cancelled;
    cancelling closes the listener and every connection at once.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        body_limit: BodyLimit,
        limits: HttpLimits | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self.limits = limits or HttpLimits()
        self.connections = 0
        self.requests = 0
        self._handler = handler
        self._body_limit = body_limit
        self._up: trio.CancelScope | None = None
        self._down_until = 0.0
        self._wake = trio.Event()

    @property
    def base_url(self) -> str:
        """`http://host:port`, known once `run` has started."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    def go_down(self, seconds: float) -> None:
        """Refuse connections for `seconds` and cut those that exist. Called again, it extends or shortens."""
        self._down_until = trio.current_time() + seconds
        self._wake.set()
        if self._up is not None:
            self._up.cancel()

    def come_up(self) -> None:
        """End a `go_down` early; nothing happens when the server is up."""
        self._down_until = 0.0
        self._wake.set()

    async def run(self, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled. `OSError` when the port is taken, at first or after having been down."""
        listeners = await trio.open_tcp_listeners(self.port, host=self.host)
        if self.port == 0:
            self.port = int(listeners[0].socket.getsockname()[1])
        task_status.started(self.base_url)
        while True:
            with trio.CancelScope() as self._up:
                await trio.serve_listeners(self._connection, listeners)
            while (waiting := self._down_until - trio.current_time()) > 0:
                self._wake = trio.Event()
                with trio.move_on_after(waiting):
                    await self._wake.wait()
            listeners = await trio.open_tcp_listeners(self.port, host=self.host)

    async def _connection(self, stream: trio.SocketStream) -> None:
        if self.connections >= self.limits.connections_max:
            await stream.aclose()
            return
        self.connections += 1
        try:
            await _Conversation(self, stream).run()
        except Cut as cut:
            if cut.reset:
                # SO_LINGER with zero seconds makes close() send RST (POSIX setsockopt).
                stream.socket.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self.connections -= 1
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await trio.aclose_forcefully(stream)

    async def answer(self, request: Request) -> Response:
        """Run the handler. Its unforeseen exceptions pass through and end the server: they are defects."""
        self.requests += 1
        return await self._handler(request)

    def body_bytes_max(self, method: str, path: str) -> int:
        """How much body a call may carry."""
        return self._body_limit(method, path)


class _Refused(Exception):
    """The request cannot be read; the connection ends after the answer."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class _Conversation:
    """The requests of one connection, one after the other."""

    def __init__(self, server: HttpServer, stream: trio.SocketStream) -> None:
        self._server = server
        self._stream = stream
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=server.limits.head_bytes_max)

    async def run(self) -> None:
        limits = self._server.limits
        while True:
            head = None
            with trio.move_on_after(limits.idle_seconds_max):
                try:
                    head = await self._head()
                except (_Refused, h11.RemoteProtocolError) as error:
                    await self._refuse(error)
            if head is None:
                return
            try:
                with trio.fail_after(limits.request_seconds_max):
                    request = await self._request(head)
            except (_Refused, h11.RemoteProtocolError) as error:
                await self._refuse(error)
                return
            except trio.TooSlowError:
                await self._refuse(_Refused(408))
                return
            await self._send(await self._server.answer(request))
            if self._h11.our_state is h11.MUST_CLOSE or self._h11.their_state is not h11.DONE:
                return
            self._h11.start_next_cycle()

    async def _head(self) -> h11.Request | None:
        event = await self._event()
        if isinstance(event, h11.Request):
            return event
        return None

    async def _event(self) -> h11.Event | type[h11.PAUSED]:
        while (event := self._h11.next_event()) is h11.NEED_DATA:
            if self._h11.they_are_waiting_for_100_continue:
                await self._stream.send_all(
                    self._h11.send(h11.InformationalResponse(status_code=100, headers=[])) or b""
                )
            self._h11.receive_data(await self._stream.receive_some(_READ_BYTES))
        return event  # type: ignore[return-value]

    async def _request(self, head: h11.Request) -> Request:
        method = head.method.decode("ascii")
        target = urlsplit(head.target.decode("latin-1"))
        path = unquote(target.path)
        body_bytes_max = self._server.body_bytes_max(method, path)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
        if int(headers.get("content-length", 0)) > body_bytes_max:
            raise _Refused(413)
        body = bytearray()
        while isinstance(event := await self._event(), h11.Data):
            body += event.data
            if len(body) > body_bytes_max:
                raise _Refused(413)
        if not isinstance(event, h11.EndOfMessage):
            raise _Refused(400)
        query = dict(parse_qsl(target.query, keep_blank_values=True))
        return Request(method, path, query, headers, bytes(body))

    async def _send(self, response: Response, *, close: bool = False) -> None:
        headers = [
            ("content-type", response.content_type),
            ("content-length", str(len(response.body))),
            *response.headers.items(),
        ]
        if close:
            headers.append(("connection", "close"))
        head = self._h11.send(h11.Response(status_code=response.status, headers=headers)) or b""
        body = self._h11.send(h11.Data(data=response.body)) or b""
        self._h11.send(h11.EndOfMessage())
        seconds_max = self._server.limits.write_seconds_max
        pace = response.pace_bytes_per_second
        with trio.move_on_after(seconds_max + (len(body) / pace if pace else 0)) as scope:
            if not pace:
                await self._stream.send_all(head + body)
            else:
                await self._stream.send_all(head)
                step = max(1, int(pace * _DRIP_SECONDS))
                for at in range(0, len(body), step):
                    await self._stream.send_all(body[at : at + step])
                    await trio.sleep(_DRIP_SECONDS)
        if scope.cancelled_caught:
            raise Cut(reset=True)

    async def _refuse(self, error: _Refused | h11.RemoteProtocolError) -> None:
        status = error.status if isinstance(error, _Refused) else error.error_status_hint
        if self._h11.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            await self._send(Response(status, b"", "text/plain"), close=True)
            # Closing with unread input makes the kernel send RST, and the peer may lose the answer.
            with trio.move_on_after(_LINGER_SECONDS):
                await self._stream.send_eof()
                while await self._stream.receive_some(_READ_BYTES):
                    pass
