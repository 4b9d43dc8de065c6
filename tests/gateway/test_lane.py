"""The webhook lane over real sockets: framing, order, limits, deadlines, and turns with Hypercorn.

The handler behind the lane is the real one with recorders at its ports (`tests.gateway.test_webhooks`). What
the lane and the plain route answer to the same bytes is compared in `test_lane_differential`.
"""

import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import structlog
import trio
from hypothesis import given
from hypothesis import strategies as st
from quart_trio import QuartTrio

from gateway.lane import parting
from gateway.lane.chunked import ChunkedBody
from gateway.lane.parser import Head, NotForLane, Refused, read_head
from gateway.lane.shared import LaneLimits
from gateway.lane.webhook_lane import WebhookLane
from gateway.routes import webhook_blueprint
from gateway.serving import ServingLimits, serve
from gateway.webhooks import Answer, Rest
from tests.gateway.test_webhooks import Edge, change, delivery, entry, signed
from tests.logs import capture_logs
from tests.patience import PATIENCE_SECONDS

PATH = "/api/webhooks/whatsapp"


def post(
    text: str = "a", *, secret: str = "s1", path: str = PATH, version: str = "1.1", extra: str = ""
) -> bytes:
    """A signed delivery of one text, as the platform sends it."""
    body = json.dumps(delivery(change("1", text))).encode()
    return head(body, secret=secret, path=path, version=version, extra=extra) + body


def head(
    body: bytes,
    *,
    secret: str = "s1",
    path: str = PATH,
    version: str = "1.1",
    extra: str = "",
    length: str = "",
) -> bytes:
    lines = [f"POST {path} HTTP/{version}", "Host: x", *extra.splitlines()]
    lines += [f"{name}: {value}" for name, value in signed(body, secret).items()]
    if "ransfer-" not in extra:
        lines.append(f"Content-Length: {length or len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def chunks(body: bytes, size: int) -> bytes:
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


POLLED = [False]
"""Whether the lane answers what it can without the connection's task."""


@pytest.fixture(params=["by its task", "by the poller"], autouse=True)
def polled(request: pytest.FixtureRequest) -> Iterator[None]:
    POLLED.append(request.param == "by the poller")
    yield
    POLLED.pop()


class Client:
    """A connection that is spoken to in bytes."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._buffer = b""

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """The next answer: status, headers by lower-case name, body. Raises EOFError when there is none."""
        with trio.fail_after(PATIENCE_SECONDS):
            while (end := self._buffer.find(b"\r\n\r\n")) < 0:
                await self._more()
            first, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            length = int(headers.get("content-length", "0"))
            while len(self._buffer) < end + 4 + length:
                await self._more()
            body = self._buffer[end + 4 : end + 4 + length]
            self._buffer = self._buffer[end + 4 + length :]
            return int(first.split(" ")[1]), headers, body

    async def status(self) -> int:
        return (await self.answer())[0]

    async def ended(self) -> bool:
        """Whether the server closes the connection without a word more."""
        with trio.fail_after(PATIENCE_SECONDS):
            try:
                return not self._buffer and await self.stream.receive_some() == b""
            except trio.BrokenResourceError:
                return not self._buffer

    async def _more(self) -> None:
        try:
            data = await self.stream.receive_some()
        except trio.BrokenResourceError:
            data = b""
        if not data:
            raise EOFError
        self._buffer += data


class Server:
    """A served edge. `in_lane` are the bodies that the lane has handed to the handler."""

    def __init__(self, edge: Edge, limits: LaneLimits | None) -> None:
        self.edge = edge
        self.in_lane: list[bytes] = []
        self._handed = trio.Event()
        begin = self._begin if POLLED[-1] else None
        self.lane = WebhookLane(
            self._handle,
            edge.metrics,
            limits,
            begin=begin,
            entrance=edge.webhooks.shedding,
        )
        self.stop = trio.Event()
        self.port = 0
        self.on_begin: Callable[[], object] = lambda: None

    async def _handle(
        self, method: str, path: str, query: str, headers: Mapping[str, str], body: bytes
    ) -> Answer:
        self.in_lane.append(body)
        self._handed.set()
        return await self.edge.webhooks.handle(method, path, query, headers, body)

    def _begin(
        self,
        path: str,
        query: str,
        headers: Mapping[str, str],
        body: bytes,
        answered: Callable[[Answer], None],
        ready: float,
    ) -> Rest | None:
        self.on_begin()
        rest = self.edge.webhooks.begin(path, query, headers, body, answered, ready)
        self.in_lane.append(body)
        self._handed.set()
        return rest

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        async with stream:
            yield Client(stream)

    async def handed_on(self, count: int) -> None:
        """Returns when the lane has handed that many bodies to the handler."""
        while len(self.in_lane) < count:
            self._handed = trio.Event()
            await self._handed.wait()

    def texts(self) -> list[str]:
        return self.edge.intake.texts().get((10, 1001), [])


@asynccontextmanager
async def served(
    *,
    limits: LaneLimits | None = None,
    serving: ServingLimits | None = None,
    edge: Edge | None = None,
) -> AsyncIterator[Server]:
    server = Server(edge or Edge(entry("1", tenant=10, secret="s1")), limits)
    app = QuartTrio("test")
    app.register_blueprint(webhook_blueprint(server.edge.webhooks))

    @app.route("/echo", methods=["GET", "POST"])
    async def echo() -> Any:
        from quart import request

        return await request.get_data()

    async with trio.open_nursery() as nursery:

        async def run(task_status: trio.TaskStatus[int]) -> None:
            await serve(
                app,  # type: ignore[arg-type]
                host="127.0.0.1",
                port=0,
                stop=server.stop,
                metrics=server.edge.metrics,
                limits=serving,
                lanes=(server.lane,),
                task_status=task_status,
            )

        server.port = await nursery.start(run)
        yield server
        server.stop.set()


# ------------------------------------------------------------------ the ordinary case


@pytest.mark.real_time
async def test_a_delivery_is_answered_in_the_lane_and_the_connection_stays() -> None:
    """Two in a row on one connection: both handed on, both 200 in the envelope with a request id."""
    async with served() as server, server.client() as client:
        for text in ("a", "b"):
            await client.send(post(text, path=f"{PATH}/key-1?x=%20y"))
            status, headers, body = await client.answer()
            assert (status, json.loads(body)["success"]) == (200, True)
            assert headers["x-request-id"] == server.edge.intake.deliveries[-1].trace
            assert headers["x-content-type-options"] == "nosniff"
            assert "connection" not in headers
        assert server.texts() == ["a", "b"]
        assert len(server.in_lane) == 2


@pytest.mark.real_time
async def test_pipelined_deliveries_are_answered_in_order() -> None:
    """Sixty in one write, every third badly signed: the answers come in that order, each once."""
    async with served() as server, server.client() as client:
        await client.send(b"".join(post(str(n), secret="s1" if n % 3 else "no") for n in range(60)))
        assert [await client.status() for _ in range(60)] == [200 if n % 3 else 401 for n in range(60)]
        assert server.texts() == [str(n) for n in range(60) if n % 3]


@pytest.mark.real_time
async def test_bytes_may_arrive_one_by_one() -> None:
    """A delivery with a length and a chunked one, in single bytes: both are whole in the end."""
    body = json.dumps(delivery(change("1", "chunked"))).encode()
    chunked = head(body, extra="Transfer-Encoding: chunked") + chunks(body, 100)
    async with served() as server, server.client() as client:
        for raw in (post("whole"), chunked):
            for byte in raw:
                await client.send(bytes([byte]))
            assert await client.status() == 200
        assert server.texts() == ["whole", "chunked"]
        assert server.lane.shared.reading_bytes == 0


@pytest.mark.real_time
async def test_a_large_body_arrives_whole() -> None:
    """A body of the largest allowed size, both ways of framing it; the next request is still found."""
    body = b"x" * LaneLimits().body_bytes_max
    chunked = head(body, extra="Transfer-Encoding: chunked") + chunks(body, 40_000)
    async with served() as server, server.client() as client:
        for raw in (head(body) + body, chunked):
            await client.send(raw)
            assert await client.status() == 200
        await client.send(post("next"))
        assert await client.status() == 200
        assert [len(body) for body in server.in_lane[:2]] == [len(body)] * 2
        assert server.lane.shared.reading_bytes == 0


@pytest.mark.real_time
@pytest.mark.parametrize("chunked", [False, True])
async def test_how_much_may_come_depends_on_the_path(chunked: bool) -> None:
    """A body above the usual limit is read where the path takes it, and refused elsewhere, unread."""
    body = b"x" * (LaneLimits().body_bytes_max + 1)
    framing, sent = ("Transfer-Encoding: chunked", chunks(body, 40_000)) if chunked else ("", body)
    async with served() as server:
        server.lane.shared.bytes_max = lambda path: len(body) if path.endswith("/large") else len(body) - 1
        async with server.client() as client:
            await client.send(head(body, extra=framing, path=f"{PATH}/large") + sent)
            await client.status()
        assert [len(each) for each in server.in_lane] == [len(body)]
        async with server.client() as client:
            await client.send(head(body, extra=framing))
            with suppress(trio.BrokenResourceError):
                await client.send(sent)
            assert await client.status() == 413
        assert len(server.in_lane) == 1


@pytest.mark.real_time
async def test_expect_is_answered_before_the_body() -> None:
    """100 when the head is here, 200 when the body is; too large a body is refused without 100."""
    body = json.dumps(delivery(change("1", "a"))).encode()
    async with served() as server, server.client() as client:
        for framing, sent in (("", body), ("\nTransfer-Encoding: chunked", chunks(body, 50))):
            await client.send(head(body, extra="Expect: 100-continue" + framing))
            assert await client.status() == 100
            await client.send(sent)
            assert await client.status() == 200
        await client.send(head(body, extra="Expect: 100-continue", length="99999999"))
        assert await client.status() == 413
        assert await client.ended()
        assert len(server.in_lane) == 2


@pytest.mark.real_time
@pytest.mark.parametrize("raw", [post(extra="Connection: close"), post(version="1.0")])
async def test_who_asks_for_the_end_of_the_connection_gets_it(raw: bytes) -> None:
    """`Connection: close` and HTTP/1.0: answered, told so, closed; what was pipelined behind is dropped."""
    async with served() as server, server.client() as client:
        await client.send(raw + post("behind"))
        status, headers, _ = await client.answer()
        assert (status, headers["connection"]) == (200, "close")
        assert await client.ended()
        assert server.texts() == ["a"]


@pytest.mark.real_time
async def test_a_client_that_has_said_all_still_gets_its_answer() -> None:
    """The sending side shut after the request: no hang-up, the answer comes."""
    async with served() as server, server.client() as client:
        await client.send(post())
        await client.stream.send_eof()
        assert await client.status() == 200
        assert await client.ended()
        assert server.texts() == ["a"]


# ------------------------------------------------------------------ turns with Hypercorn

GET = b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n"
ECHO = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi"


@pytest.mark.real_time
async def test_one_connection_alternates() -> None:
    """Webhook, other, webhook, other, other, webhook: each answered by who it is for, on one connection."""
    async with served() as server, server.client() as client:
        for raw, expected in ((post("1"), None), (GET, b""), (post("2"), None), (ECHO, b"hi"), (GET, b"")):
            await client.send(raw)
            status, _, body = await client.answer()
            assert status == 200
            assert expected is None or body == expected
        await client.send(post("3"))
        assert await client.status() == 200
        assert len(server.in_lane) == 3
        assert server.texts() == ["1", "2", "3"]


@pytest.mark.real_time
async def test_pipelined_requests_of_both_kinds_are_answered_in_order() -> None:
    """In one write: what the lane has read of the other's request reaches Hypercorn, and no byte is lost."""
    async with served() as server, server.client() as client:
        await client.send(post("1") + post("2") + ECHO + post("3") + GET)
        bodies = [(await client.answer())[2] for _ in range(5)]
        assert [body for body in bodies if not body.startswith(b"{")] == [b"hi", b""]
        assert bodies[2] == b"hi"
        assert server.texts() == ["1", "2", "3"]
        await client.send(post("4"))
        assert await client.status() == 200
        assert len(server.in_lane) == 3  # the third came to Hypercorn in one piece with its predecessor


@pytest.mark.real_time
async def test_other_requests_arriving_in_pieces_reach_hypercorn_whole() -> None:
    """Single bytes, beginning like a webhook or not, first on the connection or after one."""
    async with served() as server, server.client() as client:
        for raw in (ECHO, post("1"), ECHO, GET, post("2")):
            for byte in raw:
                await client.send(bytes([byte]))
            assert await client.status() == 200
        assert server.texts() == ["1", "2"]
        assert len(server.in_lane) == 2


@pytest.mark.real_time
@pytest.mark.parametrize("first", [b"", GET], ids=["fresh", "lent"])
async def test_what_only_looks_like_a_webhook_stays_with_its_request(first: bytes) -> None:
    """A header and a body that arrive on their own and spell a webhook: part of the other request."""
    lookalike = b"POST /api/webhooks/whatsapp HTTP/1.1\r\n"
    pieces = [
        b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nX: " % len(TWO),
        lookalike,
        b"\r\n",
        TWO[:-20],
        TWO[-20:],
    ]
    async with served() as server, server.client() as client:
        if first:
            await client.send(first)
            assert await client.status() == 200
        for piece in pieces:
            await client.send(piece)
            await trio.sleep(0.03)  # so that each is read on its own
        status, _, body = await client.answer()
        assert (status, body) == (200, TWO)
        assert server.in_lane == []
        await client.send(post())
        assert await client.status() == 200
        assert len(server.in_lane) == 1


@pytest.mark.real_time
async def test_idleness_is_the_lanes_while_the_lane_has_the_connection() -> None:
    """Hypercorn's idle time passes while the connection that it has lent is busy in the lane: it stays."""
    async with served(serving=ServingLimits(idle_seconds_max=1)) as server, server.client() as client:
        await client.send(GET)
        assert await client.status() == 200
        for text in "abc":
            await client.send(post(text))
            assert await client.status() == 200
            await trio.sleep(0.5)
        assert len(server.in_lane) == 3


@pytest.mark.real_time
async def test_a_connection_that_hypercorn_has_answered_ends_when_idle() -> None:
    """Also after Quart, whose task is cancelled at the moment when the idle time should begin."""
    async with served(serving=ServingLimits(idle_seconds_max=1)) as server, server.client() as client:
        for raw in (GET, post(), GET):
            await client.send(raw)
            assert await client.status() == 200
        assert await client.ended()


@pytest.mark.real_time
async def test_a_connection_that_hypercorn_said_it_closes_is_closed() -> None:
    """Also by Quart's task, which is cancelled at the moment of closing."""
    async with served() as server, server.client() as client:
        await client.send(GET[:-2] + b"Connection: close\r\n\r\n")
        status, headers, _ = await client.answer()
        assert (status, headers["connection"]) == (200, "close")
        assert await client.ended()


# ------------------------------------------------------------------ what is refused

TWO = b"POST /api/webhooks/whatsapp HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"


def framed(lines: bytes, rest: bytes = b"") -> bytes:
    return b"POST /api/webhooks/whatsapp HTTP/1.1\r\nHost: x\r\n" + lines + b"\r\n" + rest


SMUGGLED: Mapping[str, tuple[int, bytes]] = {
    "length and coding": (
        400,
        framed(b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n" + TWO),
    ),
    "coding and length": (
        400,
        framed(b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", b"0\r\n\r\n" + TWO),
    ),
    "two lengths": (400, framed(b"Content-Length: 0\r\nContent-Length: 72\r\n", TWO)),
    "twice the same length": (400, framed(b"Content-Length: 0\r\nContent-Length: 0\r\n", TWO)),
    "listed lengths": (400, framed(b"Content-Length: 0, 0\r\n", TWO)),
    "signed length": (400, framed(b"Content-Length: +0\r\n", TWO)),
    "hexadecimal length": (400, framed(b"Content-Length: 0x0\r\n", TWO)),
    "empty length": (400, framed(b"Content-Length: \r\n", TWO)),
    "length with a space within": (400, framed(b"Content-Length: 1 0\r\n", b"0123456789" + TWO)),
    "length of too many digits": (400, framed(b"Content-Length: 18446744073709551617\r\n", b"x" + TWO)),
    "space before the colon": (400, framed(b"Content-Length : 0\r\n", TWO)),
    "tab before the colon": (400, framed(b"Transfer-Encoding\t: chunked\r\n", b"0\r\n\r\n" + TWO)),
    "vertical tab before the value": (400, framed(b"Transfer-Encoding:\x0bchunked\r\n", b"0\r\n\r\n" + TWO)),
    "another coding": (501, framed(b"Transfer-Encoding: identity\r\n", TWO)),
    "coding behind chunked": (400, framed(b"Transfer-Encoding: chunked, identity\r\n", b"0\r\n\r\n" + TWO)),
    "coding before chunked": (501, framed(b"Transfer-Encoding: gzip, chunked\r\n", b"0\r\n\r\n" + TWO)),
    "two codings": (
        400,
        framed(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n" + TWO),
    ),
    "misspelt coding": (501, framed(b"Transfer-Encoding: xchunked\r\n", b"0\r\n\r\n" + TWO)),
    "coding in 1.0": (
        400,
        b"POST /api/webhooks/whatsapp HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        + TWO,
    ),
    "folded line": (400, framed(b"X: a\r\n Content-Length: 5\r\n", TWO)),
    "folded coding": (400, framed(b"Transfer-Encoding:\r\n chunked\r\n", b"0\r\n\r\n" + TWO)),
    "folded first line": (400, b"POST /api/webhooks/whatsapp HTTP/1.1\r\n Host: x\r\n\r\n" + TWO),
    "bare line feeds": (400, framed(b"").replace(b"\r\n", b"\n") + TWO),
    "bare line feed in a header": (400, framed(b"X: a\nTransfer-Encoding: chunked\r\n", TWO)),
    "bare line feed as the empty line": (400, framed(b"X: a\r\n")[:-2] + b"\n" + TWO),
    "bare carriage return": (400, framed(b"X: a\rContent-Length: 5\r\n", TWO)),
    "zero byte in a value": (400, framed(b"X: a\0b\r\n", TWO)),
    "zero byte in a name": (400, framed(b"Content-Length\0: 5\r\n", TWO)),
    "zero byte in the target": (400, b"POST /api/webhooks/what\0sapp HTTP/1.1\r\nHost: x\r\n\r\n" + TWO),
    "line without a colon": (400, framed(b"Content-Length\r\n", TWO)),
    "line without a name": (400, framed(b": 5\r\n", TWO)),
    "no host": (400, b"POST /api/webhooks/whatsapp HTTP/1.1\r\nContent-Length: 0\r\n\r\n" + TWO),
    "two hosts": (400, framed(b"Host: y\r\n", TWO)),
    "two spaces before the version": (400, framed(b"").replace(b" HTTP", b"  HTTP") + TWO),
    "a space in the target": (400, framed(b"").replace(b"whatsapp", b"what sapp") + TWO),
    "a tab for a space": (400, framed(b"").replace(b" HTTP", b"\tHTTP") + TWO),
    "no version": (400, framed(b"").replace(b" HTTP/1.1", b"") + TWO),
    "version 0.9": (400, framed(b"").replace(b"1.1", b"0.9") + TWO),
    "version 2.0": (400, framed(b"").replace(b"1.1", b"2.0") + TWO),
    "version 1.10": (400, framed(b"").replace(b"1.1", b"1.10") + TWO),
    "bytes beyond ASCII in the target": (400, framed(b"").replace(b"whatsapp", b"whats\xffapp") + TWO),
    "giant header": (431, framed(b"X: " + b"a" * 17_000 + b"\r\n", TWO)),
    "endless header": (431, framed(b"X: " + b"a" * 70_000)),
    "many headers": (431, framed(b"X: a\r\n" * 3_000, TWO)),
    "chunk of a negative size": (400, framed(b"Transfer-Encoding: chunked\r\n", b"-1\r\n\r\n" + TWO)),
    "chunk of a prefixed size": (
        400,
        framed(b"Transfer-Encoding: chunked\r\n", b"0x1\r\na\r\n0\r\n\r\n" + TWO),
    ),
    "chunk of no size": (400, framed(b"Transfer-Encoding: chunked\r\n", b"\r\n0\r\n\r\n" + TWO)),
    "chunk of an enormous size": (400, framed(b"Transfer-Encoding: chunked\r\n", b"f" * 17 + b"\r\n" + TWO)),
    "chunk with a space before its size": (
        400,
        framed(b"Transfer-Encoding: chunked\r\n", b" 0\r\n\r\n" + TWO),
    ),
    "chunk longer than its size": (
        400,
        framed(b"Transfer-Encoding: chunked\r\n", b"1\r\nab\r\n0\r\n\r\n" + TWO),
    ),
    "chunk with bare line feeds": (400, framed(b"Transfer-Encoding: chunked\r\n", b"1\na\n0\n\n" + TWO)),
    "chunk extension with a line feed": (
        400,
        framed(b"Transfer-Encoding: chunked\r\n", b"1;a\nb\r\nx\r\n0\r\n\r\n" + TWO),
    ),
    "chunk extension without end": (400, framed(b"Transfer-Encoding: chunked\r\n", b"1;" + b"a" * 5_000)),
    "trailer that is none": (
        400,
        framed(b"Transfer-Encoding: chunked\r\n", b"0\r\nPOST / HTTP/1.1\r\n\r\n" + TWO),
    ),
    "trailers without end": (400, framed(b"Transfer-Encoding: chunked\r\n", b"0\r\n" + b"A: b\r\n" * 2_000)),
    "mostly framing": (
        400,
        framed(
            b"Transfer-Encoding: chunked\r\n", b"1;aaaaaaaaaaaaaaaa\r\nx\r\n" * 2_000 + b"0\r\n\r\n" + TWO
        ),
    ),
    "body too large": (413, framed(b"Content-Length: 3145729\r\n", TWO)),
    "chunk too large": (413, framed(b"Transfer-Encoding: chunked\r\n", b"300001\r\n" + TWO)),
}


@pytest.mark.real_time
async def test_what_could_be_read_in_two_ways_is_refused_and_ends_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each attempt hides a second request: one answer in the envelope, then the end, and neither the handler
    nor Hypercorn has heard of either request."""
    # A logger that is bound here: an earlier test's system may have bound the module's to its own output.
    monkeypatch.setattr(parting, "_log", structlog.get_logger())
    async with served() as server:
        for name, (expected, raw) in SMUGGLED.items():
            with capture_logs() as lines:
                async with server.client() as client:
                    await client.send(raw)
                    status, headers, body = await client.answer()
                    assert (status, headers["connection"]) == (expected, "close"), name
                    assert json.loads(body)["success"] is False
                    assert await client.ended(), name
            refused = [line for line in lines if line["event"] == "lane.refused"]
            assert [line["trace"] for line in refused] == [headers["x-request-id"]]
        assert server.in_lane == []
        assert server.edge.metrics.registry.get_sample_value(
            "mijra_edge_lane_refused_total", {"status": "431"}
        ) == sum(status == 431 for status, _ in SMUGGLED.values())


@pytest.mark.parametrize(
    "target",
    [
        "/api/webhooks/%77hatsapp",
        "/api/webhooks/../landlord/tenants",
        "/api/webhooks/./whatsapp",
        "/api/webhooks/whatsapp/..",
        "/api/webhooks//whatsapp",
        "/api/webhooks/whatsapp/",
        "/api/webhooks/whatsapp/key/more",
        "/api/webhooks/whatsapp;x=1",
        "/api/webhooks/whatsapp#x",
        "/api/webhooks/whatsapp%2Fkey",
        "/api/webhooks/whatsapp\\key",
        "/api/webhooks/",
        "/api/webhooks/?x=1",
    ],
)
def test_targets_that_a_router_would_have_to_interpret_are_not_the_lanes(target: str) -> None:
    """There is one router; the lane takes what can be read in one way only."""
    with pytest.raises(NotForLane):
        read_head(f"POST {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())


@pytest.mark.parametrize("lines", ["Connection: upgrade\r\nUpgrade: h2c\r\n", "Upgrade: h2c\r\n"])
def test_upgrades_are_not_the_lanes(lines: str) -> None:
    """Another protocol is for who speaks it."""
    with pytest.raises(NotForLane):
        read_head(f"POST {PATH} HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode())


@given(st.data())
def test_a_head_with_anything_in_it_is_taken_refused_or_left(data: st.DataObject) -> None:
    """Random bytes put anywhere into a sound head: no other exception, and a length only from digits."""
    sound = b"POST /api/webhooks/whatsapp HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nX-A: b\r\n\r\n"
    at = data.draw(st.integers(len("POST /api/webhooks/"), len(sound) - 4))
    strange = data.draw(st.binary(min_size=1, max_size=6))
    raw = sound[:at] + strange + sound[at:]
    try:
        found = read_head(raw)
    except (Refused, NotForLane):
        return
    assert isinstance(found, Head)
    if not strange.isdigit():
        # A new line of its own may have cut the length off; nothing may have changed it.
        assert found.length in (0, 5)


# ------------------------------------------------------------------ chunked bodies


@given(
    st.binary(max_size=300),
    st.lists(st.integers(1, 40)),
    st.lists(st.integers(1, 30)),
    st.binary(max_size=40),
)
def test_a_chunked_body_is_the_same_however_it_is_cut(
    content: bytes, sizes: list[int], pieces: list[int], behind: bytes
) -> None:
    """Any chunking, any arrival: the content is whole, and what follows is kept for the next request."""
    raw = b""
    left = content
    for size in sizes:
        if left:
            raw += b"%X ; x=y\r\n%b\r\n" % (len(left[:size]), left[:size])
            left = left[size:]
    raw += (b"%x\r\n%b\r\n" % (len(left), left) if left else b"") + b"0\r\nX-T: 1\r\n\r\n"
    body = ChunkedBody(300)
    fed = 0
    for piece in pieces:
        if not body.complete:
            body.feed((raw + behind)[fed : fed + piece])
            fed += piece
    if not body.complete:
        body.feed((raw + behind)[fed:])
        fed = len(raw + behind)
    assert body.complete
    assert bytes(body.content) == content
    assert body.rest == (raw + behind)[len(raw) : fed]


@pytest.mark.parametrize("raw", [b"1\r\naXX0\r\n\r\n", b"1\r\na\n\n0\r\n\r\n", b"1\r\nab\r\n0\r\n\r\n"])
def test_a_chunk_ends_where_its_size_says(raw: bytes) -> None:
    """What stands where its line end should be is refused, not skipped."""
    with pytest.raises(Refused):
        ChunkedBody(100).feed(raw)


def test_an_unfinished_chunked_body_is_not_complete() -> None:
    """Every proper beginning of a chunked body waits for more."""
    raw = chunks(b"hello world", 4)
    for end in range(len(raw)):
        body = ChunkedBody(100)
        body.feed(raw[:end])
        assert not body.complete


# ------------------------------------------------------------------ limits and deadlines


@pytest.mark.real_time
@pytest.mark.parametrize(
    ("first", "dripped"),
    [
        (b"POST /api/", b"webhooks/whatsapp HTTP/1.1" + b"a" * 500),
        (b"POST /api/webhooks/whatsapp HTTP/1.1\r\nX: ", b"a" * 500),
        (head(b"", length="1000"), b"a" * 500),
        (head(b"", extra="Transfer-Encoding: chunked"), b"fff\r\n" + b"a" * 500),
    ],
    ids=["prefix", "head", "body", "chunks"],
)
async def test_who_drips_bytes_is_cut_in_time(first: bytes, dripped: bytes) -> None:
    """A byte now and then does not move the deadline: 408 in the envelope, and the end."""
    limits = LaneLimits(head_seconds_max=0.3, body_seconds_max=0.3)
    async with served(limits=limits) as server, server.client() as client:
        async with trio.open_nursery() as nursery:

            async def drip() -> None:
                await client.send(first)
                for byte in dripped:
                    await trio.sleep(0.05)
                    try:
                        await client.send(bytes([byte]))
                    except trio.BrokenResourceError:
                        return

            nursery.start_soon(drip)
            status, _, body = await client.answer()
            assert (status, json.loads(body)["code"]) == (408, "timeout")
            nursery.cancel_scope.cancel()
        assert server.lane.shared.reading_bytes == 0
        assert server.in_lane == []


@pytest.mark.real_time
async def test_an_idle_connection_ends_without_a_word() -> None:
    """Before the first request, and between two."""
    async with served(limits=LaneLimits(idle_seconds_max=0.8)) as server:
        async with server.client() as client:
            assert await client.ended()
        async with server.client() as client:
            await client.send(post())
            assert await client.status() == 200
            assert await client.ended()


@pytest.mark.real_time
async def test_bodies_that_are_arriving_have_a_budget_together() -> None:
    """Over it the sender is asked to come back later; what it held is free again."""
    async with served(limits=LaneLimits(reading_bytes_max=100_000)) as server, server.client() as client:
        await client.send(head(b"", length="2000000"))
        await client.send(b"a" * 300_000)
        status, headers, body = await client.answer()
        assert (status, json.loads(body)["code"]) == (503, "overloaded")
        assert headers["retry-after"] == "2"
        assert server.lane.shared.reading_bytes == 0
        async with server.client() as another:
            await another.send(head(b"a" * 90_000) + b"a" * 90_000)
            assert await another.status() == 200


@pytest.mark.real_time
async def test_who_does_not_read_is_cut() -> None:
    """Requests without end and no answer taken: the connection ends when a send has waited for its time."""
    async with served(limits=LaneLimits(send_seconds_max=0.3)) as server:
        plug = trio.socket.socket()
        plug.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)
        await plug.connect(("127.0.0.1", server.port))
        many = b"POST /api/webhooks/nowhere HTTP/1.1\r\nHost: x\r\n\r\n" * 100_000
        async with trio.SocketStream(plug) as stream:
            with trio.fail_after(PATIENCE_SECONDS), capture_logs(), pytest.raises(trio.BrokenResourceError):
                await stream.send_all(many)
        cut = server.edge.metrics.registry.get_sample_value("mijra_edge_sends_timed_out_total")
        assert cut == 1


@pytest.mark.real_time
async def test_a_stopping_server_ends_idle_connections_and_answers_what_is_under_way() -> None:
    """Idle: closed at once. Waiting for its commit: answered, told that it is the end, closed."""
    async with served() as server, server.client() as idle, server.client() as busy, server.client() as lent:
        for client in (idle, lent):
            await client.send(post("idle"))
            assert await client.status() == 200
        await lent.send(GET)
        assert await lent.status() == 200
        await lent.send(post("lent"))
        assert await lent.status() == 200
        server.edge.intake.held = trio.Event()
        await busy.send(post("busy"))
        await server.handed_on(4)
        server.stop.set()
        assert await idle.ended()
        assert await lent.ended()
        server.edge.intake.held.set()
        status, headers, _ = await busy.answer()
        assert (status, headers["connection"]) == (200, "close")
        assert await busy.ended()
