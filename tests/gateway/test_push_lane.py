"""The push lane over real sockets: handshakes, frames, slow and rude clients, and the end.

What the sessions say is the same on both ways and is tested in `test_websocket`; here is what the lane adds.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from quart_trio import QuartTrio
from trio_websocket import open_websocket_url

from gateway.lane.parser import NotForLane
from gateway.lane.push import wire
from gateway.lane.push.incoming import Closing, Incoming, IncomingLimits, Ping, Refused
from gateway.lane.push.lane import PushLane, PushLaneLimits
from gateway.lane.push.sender import SLICE, Sender
from gateway.lane.push.socket import SocketLimits
from gateway.lane.upgrade import may_be_upgrade, read_upgrade
from gateway.push.session import SessionLimits
from gateway.routes import push_blueprint
from gateway.serving import ServingLimits, serve
from tests.gateway.push_house import AUTH, House, talk
from tests.gateway.test_hub import TENANT
from tests.logs import capture_logs
from tests.patience import PATIENCE_SECONDS, until

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
SUBSCRIBE = {"type": "subscribe", "channel": "inbox"}


def handshake(path: str = "/ws", *extra: str, version: str = "13", start: str = "GET {} HTTP/1.1") -> bytes:
    lines = [start.format(path), "Host: x", "Upgrade: websocket", "Connection: keep-alive, Upgrade"]
    lines += [f"Sec-WebSocket-Version: {version}", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", *extra]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def frame(
    payload: bytes, opcode: int = TEXT, *, fin: bool = True, masked: bool = True, rsv: int = 0
) -> bytes:
    """A client's frame with a mask of its own."""
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    size = len(payload)
    mark = 0x80 if masked else 0
    if size < 126:
        head = bytes((first, mark | size))
    elif size < 1 << 16:
        head = bytes((first, mark | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, mark | 127)) + size.to_bytes(8, "big")
    if not masked:
        return head + payload
    mask = os.urandom(4)
    return head + mask + bytes(byte ^ mask[place & 3] for place, byte in enumerate(payload))


def said(message: dict[str, Any]) -> bytes:
    return frame(msgspec.json.encode(message))


class Raw:
    """A client that is spoken to in bytes."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.buffer = b""

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def head(self) -> str:
        with trio.fail_after(PATIENCE_SECONDS):
            while b"\r\n\r\n" not in self.buffer:
                await self._more()
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        return head.decode()

    async def frame(self) -> tuple[int, bytes]:
        """The next frame: opcode and payload. Raises EOFError at the end."""
        with trio.fail_after(PATIENCE_SECONDS):
            while True:
                buffer = self.buffer
                if len(buffer) >= 2:
                    assert buffer[0] & 0xF0 == 0x80, "whole frames without extensions"
                    size, start = buffer[1], 2  # and never masked
                    if size == 126:
                        size, start = int.from_bytes(buffer[2:4], "big"), 4
                    elif size == 127:
                        size, start = int.from_bytes(buffer[2:10], "big"), 10
                    if len(buffer) >= start + size:
                        self.buffer = buffer[start + size :]
                        return buffer[0] & 15, buffer[start : start + size]
                await self._more()

    async def message(self) -> dict[str, Any]:
        opcode, payload = await self.frame()
        assert opcode == TEXT, (opcode, payload)
        decoded: dict[str, Any] = msgspec.json.decode(payload)
        return decoded

    async def close_code(self) -> tuple[int, str]:
        """Reads on to the close frame."""
        while True:
            opcode, payload = await self.frame()
            if opcode == CLOSE:
                return int.from_bytes(payload[:2], "big"), payload[2:].decode()

    async def ended(self) -> bool:
        """Whether the server closes the connection now."""
        with trio.fail_after(PATIENCE_SECONDS):
            try:
                return await self.stream.receive_some() == b""
            except trio.BrokenResourceError:
                return True

    async def join(self, since: int | None = None) -> None:
        """Handshake, auth and a subscription to the inbox."""
        await self.send(handshake() + said(AUTH) + said({**SUBSCRIBE, "since": since}))
        assert " 101 " in await self.head()
        assert (await self.message())["type"] == "welcome"
        assert (await self.message())["type"] == "subscribed"

    async def _more(self) -> None:
        try:
            data = bytes(await self.stream.receive_some())
        except trio.BrokenResourceError:
            data = b""
        if not data:
            raise EOFError
        self.buffer += data


class Edge:
    def __init__(self, house: House, port: int, stop: trio.Event) -> None:
        self.house = house
        self.port = port
        self.stop = stop
        self.url = f"ws://127.0.0.1:{port}/ws"

    @asynccontextmanager
    async def client(self, *, receive_buffer: int | None = None) -> AsyncIterator[Raw]:
        socket = trio.socket.socket()
        if receive_buffer is not None:  # before connecting, so that the window is small from the start
            socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, receive_buffer)
        await socket.connect(("127.0.0.1", self.port))
        async with trio.SocketStream(socket) as stream:
            yield Raw(stream)

    def count(self, name: str, labels: dict[str, str] | None = None) -> float:
        return self.house.metrics.registry.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def edge(
    house: House,
    *,
    limits: PushLaneLimits | None = None,
    sockets: SocketLimits | None = None,
    serving: ServingLimits | None = None,
) -> AsyncIterator[Edge]:
    """The lane in front of a Quart application that has the same sessions behind its route."""
    app = QuartTrio("test")
    app.register_blueprint(push_blueprint(house.sessions))

    @app.route("/hello")
    async def hello() -> str:
        return "hello"

    stop = trio.Event()
    async with trio.open_nursery() as nursery:

        async def run(task_status: trio.TaskStatus[int]) -> None:
            await serve(
                app,  # type: ignore[arg-type]
                host="127.0.0.1",
                port=0,
                stop=stop,
                metrics=house.metrics,
                limits=serving,
                lanes=[PushLane(house.sessions, house.metrics, limits=limits, sockets=sockets)],
                task_status=task_status,
            )

        yield Edge(house, await nursery.start(run), stop)
        stop.set()


# ------------------------------------------------------------------ what a client sends, without a socket


def incoming(clock: float = 0.0) -> Incoming:
    return Incoming(IncomingLimits(), lambda: clock)


def taken(reader: Incoming) -> list[object]:
    items: list[object] = []
    while (item := reader.take()) is not None:
        items.append(item)
    return items


CONVERSATION = (
    frame(b"one")
    + frame("zw\u00f6lf \U0001f600".encode()[:6], fin=False)
    + frame(b"ping", PING)
    + frame("zw\u00f6lf \U0001f600".encode()[6:8], 0, fin=False)
    + frame("zw\u00f6lf \U0001f600".encode()[8:], 0)
    + frame(b"", PONG)
    + frame(b"x" * 300)
    + frame(b"")
    + frame((4000).to_bytes(2, "big") + b"bye", CLOSE)
)
MEANING = ["one", Ping(b"ping"), "zw\u00f6lf \U0001f600", "x" * 300, "", Closing(4000)]


def test_frames_mean_the_same_wherever_they_are_cut() -> None:
    """At every byte, a character of several bytes among them."""
    for cut in range(len(CONVERSATION) + 1):
        reader = incoming()
        reader.feed(CONVERSATION[:cut])
        items = taken(reader)
        if not items or not isinstance(items[-1], Closing):
            reader.feed(CONVERSATION[cut:])
            items += taken(reader)
        assert items == MEANING, cut


def test_frames_may_come_byte_by_byte() -> None:
    """A message is put together however small its pieces are."""
    reader, items = incoming(), []
    for byte in CONVERSATION:
        reader.feed(bytes((byte,)))
        items += taken(reader)
    assert items == MEANING


@given(st.lists(st.binary(max_size=40), max_size=12))
def test_no_bytes_break_the_reader(pieces: list[bytes]) -> None:
    """Whatever comes is a message, a control frame or a refusal with a code of RFC 6455."""
    reader = incoming()
    try:
        for piece in pieces:
            reader.feed(piece)
            if any(isinstance(item, Closing) for item in taken(reader)):
                return
    except Refused as refused:
        assert refused.code in (1002, 1003, 1007, 1008, 1009)  # noqa: PT017  it may as well not be raised


REFUSED = {
    "unmasked": (frame(b"x", masked=False), 1002),
    "a reserved bit": (frame(b"x", rsv=4), 1002),
    "an unknown opcode": (frame(b"x", 3), 1002),
    "a fragmented ping": (frame(b"x", PING, fin=False), 1002),
    "a long ping": (frame(b"x" * 126, PING), 1002),
    "a continuation of nothing": (frame(b"x", 0), 1002),
    "a message in a message": (frame(b"x", fin=False) + frame(b"y"), 1002),
    "half a close code": (frame(b"\x03", CLOSE), 1002),
    "a close code that is none": (frame((1005).to_bytes(2, "big"), CLOSE), 1002),
    "not UTF-8": (frame(b"\xff\xfe"), 1007),
    "a surrogate": (frame(b"\xed\xa0\x80"), 1007),
    "half a character": (frame(b"\xc3"), 1007),
    "binary": (frame(b"x", BINARY), 1003),
    "too large": (frame(b"x" * 40_000), 1009),
    "too large in pieces": (frame(b"x" * 9_000, fin=False) + frame(b"x" * 9_000, 0), 1009),
    "a flood of pings": (frame(b"", PING) * 201, 1008),
    "a message in crumbs": (frame(b"x", fin=False) + frame(b"x", 0, fin=False) * 201, 1008),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_taken_has_the_code_of_the_rfc(name: str) -> None:
    """Protocol errors, bad text, what is too large, and what costs more than it brings."""
    sent, code = REFUSED[name]
    reader = incoming()
    reader.feed(sent)
    with pytest.raises(Refused) as refused:
        taken(reader)
    assert refused.value.code == code


def test_a_ping_now_and_then_is_welcome_for_ever() -> None:
    """The budget fills up again: twenty a second."""
    now = 0.0
    reader = Incoming(IncomingLimits(), lambda: now)
    for _ in range(1_000):
        now += 0.06
        reader.feed(frame(b"", PING))
        assert taken(reader) == [Ping(b"")]


# ------------------------------------------------------------------ the handshake


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (handshake(), "/ws"),
        (handshake("/ws?a=b"), "/ws"),
        (handshake("/app/key-1_a?protocol=7"), "/app/key-1_a"),
    ],
)
def test_sound_handshakes_are_read(raw: bytes, path: str) -> None:
    """At the native path and at those of apps, with and without a query."""
    assert may_be_upgrade(raw)
    assert read_upgrade(raw).path == path


@pytest.mark.parametrize(
    "raw",
    [
        handshake(version="12"),
        handshake("/ws/"),
        handshake("/app/a/b"),
        handshake("/app/a%2Fb"),
        handshake("/app/"),
        handshake("http://x/ws"),
        handshake(start="POST {} HTTP/1.1"),
        handshake(start="GET {} HTTP/1.0"),
        handshake(start="GET  {} HTTP/1.1"),
        handshake("/ws", "Host: y"),
        handshake("/ws", "Content-Length: 5"),
        handshake("/ws", "Transfer-Encoding: chunked"),
        handshake("/ws", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
        handshake().replace(b"Upgrade: websocket", b"Upgrade: h2c"),
        handshake().replace(b"keep-alive, Upgrade", b"keep-alive"),
        handshake().replace(b"b25jZQ==", b"b25jZQ"),
        handshake().replace(b"\r\nHost: x", b""),
        handshake().replace(b"\r\nHost: x", b"\r\nHost : x"),
        handshake().replace(b"\r\n", b"\n"),
        b"GET /ws HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_every_other_request_is_somebody_elses(raw: bytes) -> None:
    """What is not sound to the letter is not judged here."""
    with pytest.raises(NotForLane):
        read_upgrade(raw)


@pytest.mark.real_time
async def test_a_handshake_may_dribble_and_frames_may_come_with_it() -> None:
    """Byte by byte, and all at once: the session hears the same."""
    async with edge(House()) as server:
        async with server.client() as client:
            for byte in handshake() + said(AUTH):
                await client.send(bytes((byte,)))
            assert " 101 " in await client.head()
            assert (await client.message())["type"] == "welcome"
        async with server.client() as client:
            await client.join()


@pytest.mark.real_time
async def test_a_handshake_takes_its_turn_after_other_requests() -> None:
    """A connection that Hypercorn has answered on comes back to the lane for its upgrade."""
    async with edge(House()) as server, server.client() as client:
        await client.send(b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await client.head()).startswith("HTTP/1.1 200")
        with trio.fail_after(PATIENCE_SECONDS):
            while client.buffer != b"hello":
                await client._more()
        client.buffer = b""
        await client.join()


@pytest.mark.real_time
@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (handshake(version="12"), 400),
        (handshake("/app/"), 404),
        (handshake("/elsewhere"), 404),
        (b"GET /ws HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n", 200),
    ],
)
async def test_what_is_not_the_lanes_is_answered_by_the_application(sent: bytes, status: int) -> None:
    """With the bytes that were read."""
    async with edge(House()) as server, server.client() as client:
        await client.send(sent[:9])
        await client.send(sent[9:])
        assert (await client.head()).split()[1] == str(status)


@pytest.mark.real_time
async def test_a_handshake_that_does_not_come_to_an_end_is_refused() -> None:
    """408 after the deadline however it dribbles; 431 when it is too large; nothing for silence."""
    limits = PushLaneLimits(head_seconds_max=0.3, idle_seconds_max=0.3)
    async with edge(House(), limits=limits) as server:
        async with server.client() as client:
            await client.send(handshake()[:40])
            assert " 408 " in await client.head()
        async with server.client() as client:
            await client.send(handshake("/ws", "X: " + "x" * 17_000))
            assert " 431 " in await client.head()
        async with server.client() as client:
            assert await client.ended()


@pytest.mark.real_time
async def test_a_foreign_page_is_told_so() -> None:
    """403 in the envelope, and the connection is closed."""
    async with edge(House(origins=("https://inbox.example.com",))) as server, server.client() as client:
        await client.send(handshake("/ws", "Origin: https://evil.example"))
        assert " 403 " in await client.head()


# ------------------------------------------------------------------ frames over the socket


@pytest.mark.real_time
@pytest.mark.parametrize("name", ["unmasked", "not UTF-8", "binary", "too large", "a flood of pings"])
async def test_a_protocol_error_is_closed_with_its_code(name: str) -> None:
    """The client can read why, the session leaves, and the socket is closed."""
    sent, code = REFUSED[name]
    house = House()
    async with edge(house) as server, server.client() as client:
        await client.join()
        await client.send(sent)
        assert (await client.close_code())[0] == code
        await client.send(frame(code.to_bytes(2, "big"), CLOSE))
        assert await client.ended()
        await until(house.nobody_is_left)
        assert server.count("mijra_push_closes_total", {"code": "1006"}) == 1


@pytest.mark.real_time
async def test_pings_are_answered_between_the_fragments_of_a_message() -> None:
    """Control frames have their turn anywhere (RFC 6455, section 5.5)."""
    async with edge(House()) as server, server.client() as client:
        await client.join()
        await client.send(frame(b'{"type":', fin=False) + frame(b"hey", PING) + frame(b'"ping"}', 0))
        assert await client.frame() == (PONG, b"hey")
        assert await client.message() == {"type": "pong"}


@pytest.mark.real_time
@pytest.mark.parametrize("code", [b"", (1000).to_bytes(2, "big"), (4321).to_bytes(2, "big")])
async def test_a_close_frame_is_answered_and_the_server_closes_first(code: bytes) -> None:
    """With the same code, or with none as theirs."""
    house = House()
    async with edge(house) as server, server.client() as client:
        await client.join()
        await client.send(frame(code, CLOSE))
        assert await client.frame() == (CLOSE, code)
        assert await client.ended()
        await until(house.nobody_is_left)


@pytest.mark.real_time
async def test_an_end_of_theirs_without_a_close_frame_is_an_end() -> None:
    """A client that closes only its sending side does not listen on for ever."""
    house = House()
    async with edge(house) as server, server.client() as client:
        await client.join()
        await client.stream.send_eof()
        assert await client.ended()
        await until(house.nobody_is_left)


@pytest.mark.real_time
async def test_a_client_that_does_not_answer_the_close_is_not_waited_for() -> None:
    """After a moment the socket is closed from here."""
    async with (
        edge(House(), sockets=SocketLimits(close_seconds_max=0.2)) as server,
        server.client() as client,
    ):
        await client.send(handshake() + said({"type": "auth", "token": "bad"}))
        await client.head()
        assert (await client.close_code())[0] == 4001
        await client.send(frame(b"deaf") * 5)
        assert await client.ended()
        await until(lambda: server.count("mijra_edge_connections") == 0)


# ------------------------------------------------------------------ slow readers

PATIENT: Final = SocketLimits(close_seconds_max=PATIENCE_SECONDS)
"""What is read late here is late because the test has other things to do."""


def large(house: House, size: int = 20_000) -> None:
    house.hub.committed([house.log.append("inbox", data=b'"' + b"x" * size + b'"')])


@pytest.mark.real_time
async def test_a_slow_reader_learns_why_it_was_closed_and_resumes_without_a_loss() -> None:
    """What it was sent it can still read, whole frames in order, and then the code and the reason; what came
    later it gets by its cursor. While it stalled it held no more than its bound."""
    house = House(limits=SessionLimits(queue_bytes_max=200_000, queue_age_seconds_max=600))
    async with edge(house, sockets=PATIENT) as server:
        async with server.client(receive_buffer=4_096) as slow:
            await slow.join()
            with capture_logs() as lines:
                while house.hub.connections(TENANT):
                    large(house)
                    await trio.sleep(0.002)
            (closed,) = [line for line in lines if line["event"] == "push.closed"]
            assert 150_000 < closed["peak_bytes"] <= 200_000
            cursors: list[int] = []
            while True:
                opcode, payload = await slow.frame()
                if opcode == CLOSE:
                    break
                cursors.append(msgspec.json.decode(payload)["cursor"])
            assert int.from_bytes(payload[:2], "big") == 4201
            assert payload[2:] == b"Reading too slowly, too much is waiting. Reconnect and resume."
        assert cursors == list(range(1, len(cursors) + 1))
        assert len(house.log.events) > len(cursors)
        async with server.client() as again:
            await again.join(since=cursors[-1])
            for cursor in range(cursors[-1] + 1, len(house.log.events) + 1):
                assert (await again.message())["cursor"] == cursor


@pytest.mark.real_time
async def test_what_waits_for_too_long_ends_the_connection_without_another_event() -> None:
    """The age is watched, not looked at when the next frame comes."""
    house = House(limits=SessionLimits(queue_age_seconds_max=0.3))
    async with edge(house) as server, server.client(receive_buffer=4_096) as slow:
        await slow.join()
        for _ in range(20):
            large(house)
        await until(lambda: house.hub.connections(TENANT) == 0)
        assert (await slow.close_code())[0] == 4202


@pytest.mark.real_time
async def test_a_reader_that_catches_up_stays() -> None:
    """A full socket is written on as it drains, and then frames go directly again."""
    house = House()
    async with edge(house) as server, server.client(receive_buffer=4_096) as slow:
        await slow.join()
        for burst in range(3):
            for _ in range(30):
                large(house)
            await trio.sleep(0.05)
            for place in range(30):
                assert (await slow.message())["cursor"] == burst * 30 + place + 1
        await slow.send(said({"type": "ping"}))
        assert await slow.message() == {"type": "pong"}


@pytest.mark.real_time
async def test_a_burst_over_the_bound_is_not_a_slow_reader() -> None:
    """One batch of commits may be larger than what may wait: the socket takes it as it comes."""
    house = House(limits=SessionLimits(queue_bytes_max=100_000))
    async with edge(house) as server, server.client() as client:
        await client.join()
        events = [house.log.append("inbox", data=b'"' + b"x" * 1_000 + b'"') for _ in range(150)]
        house.hub.committed(events)
        for event in events:
            assert (await client.message())["cursor"] == event.cursor


@pytest.mark.real_time
async def test_stalled_readers_hold_up_nobody() -> None:
    """Four of forty clients stop reading. The others hear each event before the next is published; the four
    are closed with 4201 and get the rest when they come back."""
    house = House(limits=SessionLimits(queue_bytes_max=150_000, queue_age_seconds_max=600))
    async with edge(house, sockets=PATIENT) as server, trio.open_nursery() as nursery:
        stalled = []
        for _ in range(4):
            manager = server.client(receive_buffer=4_096)
            client = await manager.__aenter__()
            await client.join()
            stalled.append((manager, client))
        quick = []
        for _ in range(36):
            socket = await nursery.start(_hold, server.url)
            await talk(socket, AUTH)
            await talk(socket, SUBSCRIBE)
            quick.append(socket)
        for cursor in range(1, 41):
            large(house, 10_000)
            for socket in quick:
                with trio.fail_after(PATIENCE_SECONDS):
                    assert msgspec.json.decode(await socket.get_message())["cursor"] == cursor
        await until(lambda: house.hub.connections(TENANT) == 36)
        assert server.count("mijra_push_closes_total", {"code": "4201"}) == 4
        for manager, client in stalled:
            last = 0
            while (heard := await client.frame())[0] == TEXT:
                last = msgspec.json.decode(heard[1])["cursor"]
            assert int.from_bytes(heard[1][:2], "big") == 4201
            await manager.__aexit__(None, None, None)
            async with server.client() as again:
                await again.join(since=last)
                for cursor in range(last + 1, 41):
                    assert (await again.message())["cursor"] == cursor
        nursery.cancel_scope.cancel()


async def _hold(url: str, *, task_status: trio.TaskStatus[Any]) -> None:
    async with open_websocket_url(url) as socket:
        task_status.started(socket)
        await trio.sleep_forever()


# ------------------------------------------------------------------ the end


@pytest.mark.real_time
async def test_a_stopping_server_sends_everybody_away_with_a_code() -> None:
    """Sessions read 4200, half a handshake ends, and the server is down before its grace is over."""
    house = House()
    with trio.fail_after(PATIENCE_SECONDS):
        async with edge(house) as server, server.client() as shaking, server.client() as client:
            await shaking.send(handshake()[:30])
            await client.join()
            server.stop.set()
            assert await client.close_code() == (4200, "The server is going away. Reconnect and resume.")
            await client.send(frame((4200).to_bytes(2, "big"), CLOSE))
            assert await client.ended()
            assert await shaking.ended()


@pytest.mark.real_time
async def test_a_server_that_is_torn_down_still_says_that_it_goes() -> None:
    """Cancelled without a stop: 1001 on the sockets that take it."""
    house = House()
    listening, joined = trio.Event(), trio.Event()
    ports: list[int] = []

    async def torn_down() -> None:
        with trio.CancelScope() as scope:
            async with edge(house) as server:
                ports.append(server.port)
                listening.set()
                await joined.wait()
                scope.cancel()
                await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(torn_down)
        await listening.wait()
        async with await trio.open_tcp_stream("127.0.0.1", ports[0]) as stream:
            client = Raw(stream)
            await client.join()
            joined.set()
            assert await client.close_code() == (1001, "The server is going away.")


# ------------------------------------------------------------------ the sender


class Counted:
    def __init__(self, sender: Sender, log: list[str]) -> None:
        self.sender = sender
        self.log = log

    def flush(self) -> None:
        self.log.append("sent")


async def test_others_have_their_turn_between_slices() -> None:
    """A publication to ten slices of connections gives way nine times."""
    log: list[str] = []
    sender = Sender()
    async with trio.open_nursery() as nursery:
        await nursery.start(sender.run)

        async def other() -> None:
            while True:
                log.append("other")
                await trio.lowlevel.checkpoint()

        sender.marked += [Counted(sender, log) for _ in range(10 * SLICE)]
        sender.wake()
        nursery.start_soon(other)
        while log.count("sent") < 10 * SLICE:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    longest = max(len(run) for run in "".join(entry[0] for entry in log).split("o"))
    assert longest <= 2 * SLICE, "two, because the order within a turn of the loop is random"


async def test_one_connections_defect_silences_nobody() -> None:
    """It is logged, and the next ones are sent to."""

    class Broken(Counted):
        def flush(self) -> None:
            raise RuntimeError("a bug")

    log: list[str] = []
    sender = Sender()
    async with trio.open_nursery() as nursery:
        await nursery.start(sender.run)
        sender.marked += [Broken(sender, log), Counted(sender, log)]
        sender.wake()
        await trio.testing.wait_all_tasks_blocked()
        assert log == ["sent"]
        nursery.cancel_scope.cancel()


def _shared(sender: Sender, payload: bytes) -> bytes:
    return sender.shared(payload).wire


async def test_a_frame_is_encoded_once_for_all_readers_of_its_payload() -> None:
    """By identity, with readers of another protocol between them; two equal payloads are two frames."""
    sender = Sender()
    one, other = b"x" * 300, b"y" * 300
    first, second = _shared(sender, one), _shared(sender, other)
    assert _shared(sender, one) is first
    assert _shared(sender, other) is second
    assert _shared(sender, bytes(bytearray(one))) is not first


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 100_000])
async def test_frames_of_every_size_are_read_by_another_implementation(size: int) -> None:
    """wsproto, as a client, reads what `wire` writes."""
    from wsproto.frame_protocol import FrameProtocol

    reader = FrameProtocol(client=True, extensions=[])
    reader.receive_bytes(wire.text(b"x" * size) + wire.pong(b"p") + wire.close(4201, "\u00e9" * 100))
    frames = list(reader.received_frames())
    assert "".join(str(frame.payload) for frame in frames[:-2]) == "x" * size
    assert frames[-2].payload == b"p"
    assert frames[-1].payload == (4201, "\u00e9" * 61)
