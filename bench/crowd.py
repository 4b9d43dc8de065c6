"""A crowd of WebSocket clients in one process, for every server alike: raw sockets, one epoll, no library.

Why        What is measured is the server. A client library would cost more for a frame than the server
           spends, and the machine's cores are shared.
Promises   Frames are counted at their boundaries; each socket gets each publication once and in order, or the
           run ends with CrowdFailed. A publication's latency ends when the last socket's frame was read.
           In an open loop it begins when the publication was due (no coordinated omission).
Limits     the client's part of RFC 6455 that is needed here; no TLS, no extensions. A step of the greeting
           may take `_GREETING_SECONDS_MAX`.

How fast the crowd itself is, is in `Heard`: frames per second of its own processor time. While that is well
above what a server reaches, and its share of a core below one, it was not the crowd that set the pace.
"""

import base64
import errno
import os
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, Protocol

from msgspec import Struct

from bench.histogram import Histogram

_GREETING_SECONDS_MAX: Final = 60.0
_QUIET_SECONDS_MAX: Final = 20.0
_READ_BYTES: Final = 65_536
_FIRST_READ_BYTES: Final = 2_048
"""A larger buffer is made for each read, and costs more than the read; when it is full there is a second
one."""

_PUBLICATIONS_MIN: Final = 3
_CONNECTING_MAX: Final = 200
"""At once: below every server's backlog, so that none has to wait for a repeated SYN."""


class CrowdFailed(Exception):
    """A server refused, lost or doubled something, or fell silent; the text says what."""


class Dialect(Struct, frozen=True, kw_only=True):
    """What a client says to one kind of server until it hears publications.

    `greeting`: pairs of a frame to send (or nothing) and bytes that the answer must contain. `publish` turns
    a payload into what the publisher sends. `marker` begins each publication in the frames; for a server that
    puts several into one frame, or cuts them, `stream_bytes` is the length of one in the stream of payloads.
    """

    path: str = "/"
    headers: str = ""
    greeting: tuple[tuple[bytes, bytes], ...] = ()
    publish: Callable[[bytes], bytes] = lambda payload: frame(payload)  # noqa: PLW0108  it is defined below
    publisher_path: str | None = None
    publisher_greeting: tuple[tuple[bytes, bytes], ...] | None = None
    marker: bytes = b""
    stream_bytes: int | None = None
    every_frame: bool = True
    """Whether each frame is a publication; otherwise those are that hold the marker."""

    keep_alive: tuple[bytes, bytes] | None = None
    """What the server's protocol asks from time to time, and the frame to answer with."""


class Heard(Struct, kw_only=True):
    """What one run showed."""

    publications: int
    frames: int
    seconds: float
    processor_seconds: float
    latency: Histogram

    @property
    def rate(self) -> float:
        """Frames that reached a client, per second."""
        return self.frames / self.seconds

    @property
    def share(self) -> float:
        """Of a core, the crowd's own."""
        return self.processor_seconds / self.seconds

    @property
    def own_limit(self) -> float:
        """Frames per second of the crowd's processor time."""
        return self.frames / max(self.processor_seconds, 1e-9)


def frame(payload: bytes, opcode: int = 1) -> bytes:
    """A client's frame, masked with zeros."""
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | opcode, 0x80 | size))
    elif size < 1 << 16:
        head = bytes((0x80 | opcode, 0xFE)) + struct.pack(">H", size)
    else:
        head = bytes((0x80 | opcode, 0xFF)) + struct.pack(">Q", size)
    return head + b"\0\0\0\0" + payload


def first_frame(data: bytes, at: int = 0) -> tuple[int, bytes, int] | None:
    """The opcode, the payload and the end of the frame that begins at `at`; None when it is not whole."""
    if len(data) - at < 2:
        return None
    size, start = data[at + 1] & 0x7F, at + 2
    if size == 126:
        size, start = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
    elif size == 127:
        size, start = int.from_bytes(data[at + 2 : at + 10], "big"), at + 10
    if len(data) < start + size or len(data) < start:
        return None
    return data[at] & 15, data[start : start + size], start + size


def split(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """The whole frames in `data` as (opcode, payload), and the rest."""
    frames, at = [], 0
    while (found := first_frame(data, at)) is not None:
        opcode, payload, at = found
        frames.append((opcode, payload))
    return frames, data[at:]


class _Client:
    __slots__ = ("buffer", "bytes", "count", "descriptor", "ready", "socket", "step")

    def __init__(self, opened: socket.socket) -> None:
        self.socket = opened
        self.descriptor = opened.fileno()
        self.buffer = b""
        self.step = -1  # -1: the handshake; then the index of the greeting
        self.ready = False
        self.count = 0  # publications heard
        self.bytes = 0  # of payloads, for a stream


class Publishes(Protocol):
    """Whoever makes a publication of a payload, at once."""

    def publish(self, payload: bytes) -> None: ...


class Publisher:
    """A blocking connection that publishes: a WebSocket of the dialect, or lines of text to a control
    port."""

    def __init__(self, dialect: Dialect, port: int, *, lines: bool) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._wrap = (lambda payload: payload + b"\n") if lines else dialect.publish
        if not lines:
            steps = dialect.publisher_greeting if dialect.publisher_greeting is not None else dialect.greeting
            path = dialect.publisher_path or dialect.path
            self._greet(Dialect(path=path, headers=dialect.headers, greeting=steps))

    def _greet(self, dialect: Dialect) -> None:
        self._socket.settimeout(_GREETING_SECONDS_MAX)
        client = _Client(self._socket)
        self._socket.sendall(_handshake(dialect))
        while not client.ready:
            data = self._socket.recv(_READ_BYTES)
            if not data:
                raise CrowdFailed("the publisher's connection was closed")
            for answer in _greeted(client, data, dialect):
                self._socket.sendall(answer)
        self._socket.settimeout(None)

    def publish(self, payload: bytes) -> None:
        self._socket.sendall(self._wrap(payload))
        # A server that echoes to its publisher must not find its buffer full.
        try:
            while self._socket.recv(_READ_BYTES, socket.MSG_DONTWAIT):
                pass
        except BlockingIOError:
            pass

    def close(self) -> None:
        self._socket.close()


class Crowd:
    """`size` clients of one server. `hello` is sent through the greeting; publications are heard after it."""

    def __init__(self, dialect: Dialect, port: int, size: int, *, source: str = "127.0.0.1") -> None:
        self._dialect = dialect
        self._address = ("127.0.0.1", port)
        self._source = source
        self._size = size
        self._poll = select.epoll()
        self._clients: dict[int, _Client] = {}
        self._left: deque[int] = deque()  # of each publication under way, the clients that have not heard it
        self._due: deque[int] = deque()
        self._first = 0  # the number of the first of them
        self._latency = Histogram()
        self._frames = 0

    # -------------------------------------------------------------- coming and going

    def open(
        self, *, at_once: int = _CONNECTING_MAX, behind: Callable[[_Client], None] | None = None
    ) -> float:
        """Connects and greets, so many at a time; returns the seconds it took. `behind` is called with each
        client that is in when more has come for it. Raises CrowdFailed."""
        began = time.perf_counter()
        starting: set[int] = set()
        ready = 0
        while ready < self._size:
            while len(self._clients) < self._size and len(starting) < at_once:
                client = self._connect()
                starting.add(client.descriptor)
            if time.perf_counter() - began > _GREETING_SECONDS_MAX:
                raise CrowdFailed(f"only {ready} of {self._size} clients got in")
            for descriptor, _ in self._poll.poll(1):
                client = self._clients[descriptor]
                data = self._read(client)
                if data is None:
                    continue
                if descriptor not in starting:
                    client.buffer += data
                    if behind is not None:
                        behind(client)
                    continue
                for answer in _greeted(client, data, self._dialect):
                    client.socket.sendall(answer)
                if client.ready:
                    starting.discard(descriptor)
                    ready += 1
                    if behind is not None:
                        behind(client)
        return time.perf_counter() - began

    def resume(self, first: int, count: int, *, at_once: int) -> tuple[float, float]:
        """Everybody comes at once, with a greeting that asks for what was missed: `count` publications from
        the number `first` on. Returns the seconds until all were in and until all had heard them, each one
        once and in order. Raises CrowdFailed."""
        missing = self._size

        def hear(client: _Client) -> None:
            nonlocal missing
            frames, client.buffer = split(client.buffer)
            for opcode, payload in frames:
                if opcode == 8:
                    raise CrowdFailed(f"the server closed a connection: {payload[:80]!r}")
                at = payload.find(self._dialect.marker)
                if at < 0:
                    raise CrowdFailed(f"not a publication: {payload[:120]!r}")
                start = at + len(self._dialect.marker)
                number = int(payload[start : start + 10])
                if number != first + client.count or client.count >= count:
                    raise CrowdFailed(f"a client heard {number} instead of {first + client.count}")
                client.count += 1
                missing -= client.count == count

        began = time.perf_counter()
        connected = self.open(at_once=at_once, behind=hear)
        while missing:
            ready = self._poll.poll(_QUIET_SECONDS_MAX)
            if not ready:
                raise CrowdFailed(f"{missing} of {self._size} clients did not hear everything")
            for descriptor, _ in ready:
                client = self._clients[descriptor]
                data = self._read(client)
                if data is not None:
                    client.buffer += data
                    hear(client)
        return connected, time.perf_counter() - began

    def _connect(self) -> _Client:
        opened = socket.socket()
        # Reset at the end: ten thousand sockets in TIME-WAIT would leave no ports for the next round.
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        opened.bind((self._source, 0))
        try:
            opened.connect(self._address)
        except OSError as error:
            raise CrowdFailed(f"connecting: {errno.errorcode.get(error.errno or 0, error)}") from error
        opened.setblocking(False)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.sendall(_handshake(self._dialect))
        client = _Client(opened)
        self._clients[client.descriptor] = client
        self._poll.register(opened, select.EPOLLIN)
        return client

    def close(self) -> None:
        for client in self._clients.values():
            client.socket.close()
        self._clients.clear()
        self._poll.close()

    # -------------------------------------------------------------- publications

    def flood(
        self, publisher: Publishes, payload: Callable[[int], bytes], *, seconds: float, window: int
    ) -> Heard:
        """Keeps `window` publications under way for so long, three at least; then waits for the rest."""
        began, processor = self._begin()
        end = began + int(seconds * 1e9)
        number = self._first
        while (now := time.perf_counter_ns()) < end or len(self._latency) < _PUBLICATIONS_MIN:
            while len(self._left) < window:
                self._announce(time.perf_counter_ns())
                publisher.publish(payload(number))
                number += 1
            self._hear(max((end - now) / 1e9, 0.01))
        return self._finish(began, processor, number)

    def steady(
        self, publisher: Publishes, payload: Callable[[int], bytes], *, seconds: float, rate: float
    ) -> Heard:
        """Publications at a fixed rate, whatever becomes of the ones before."""
        began, processor = self._begin()
        interval = 1e9 / rate
        number = self._first
        for due in (began + int(interval * place) for place in range(max(1, int(rate * seconds)))):
            while (now := time.perf_counter_ns()) < due:
                self._hear((due - now) / 1e9)
            self._announce(due)
            publisher.publish(payload(number))
            number += 1
        return self._finish(began, processor, number)

    def _begin(self) -> tuple[int, float]:
        self._latency = Histogram()
        self._frames = 0
        return time.perf_counter_ns(), time.process_time()

    def _announce(self, due: int) -> None:
        self._left.append(self._size)
        self._due.append(due)

    def _finish(self, began: int, processor: float, number: int) -> Heard:
        patience = time.perf_counter() + _QUIET_SECONDS_MAX
        while self._left:
            if time.perf_counter() > patience:
                raise CrowdFailed(f"a publication did not reach {self._left[0]} of {self._size} clients")
            self._hear(0.5)
        ended = time.perf_counter_ns()
        wrong = [client.count for client in self._clients.values() if client.count != number]
        if wrong:
            raise CrowdFailed(f"{len(wrong)} clients have heard {wrong[0]} publications instead of {number}")
        return Heard(
            publications=len(self._latency),
            frames=self._frames,
            seconds=(ended - began) / 1e9,
            processor_seconds=time.process_time() - processor,
            latency=self._latency,
        )

    def _hear(self, seconds_max: float) -> None:
        clients, read = self._clients, os.read
        simple = self._dialect.every_frame and self._dialect.stream_bytes is None
        for descriptor, _ in self._poll.poll(seconds_max, 512):
            client = clients[descriptor]
            try:
                data = read(descriptor, _FIRST_READ_BYTES)
            except BlockingIOError:
                continue
            except OSError as error:
                raise CrowdFailed(f"a client lost its connection: {error}") from error
            if len(data) == _FIRST_READ_BYTES:
                with suppress(BlockingIOError):
                    data += read(descriptor, _READ_BYTES)
            if not data:
                raise CrowdFailed("the server closed a connection")
            # Nearly always one whole text frame of under 64 KiB.
            if (
                simple
                and not client.buffer
                and data[1] == 126
                and data[0] & 15 < 8
                and len(data) == 4 + (data[2] << 8 | data[3])
            ):
                count = 1
            else:
                count = self._count(client, data)
            if count:
                self._note(client, count)

    def _count(self, client: _Client, data: bytes) -> int:
        """The publications in what arrived."""
        frames, client.buffer = split(client.buffer + data)
        dialect, count = self._dialect, 0
        for opcode, payload in frames:
            if opcode == 9:
                client.socket.send(frame(payload, 10))
            elif opcode == 8:
                raise CrowdFailed(f"the server closed a connection: {payload[:80]!r}")
            elif dialect.stream_bytes is not None:
                if dialect.keep_alive is not None and payload == dialect.keep_alive[0]:
                    client.socket.send(dialect.keep_alive[1])
                else:
                    client.bytes += len(payload)
            elif dialect.marker in payload:
                count += 1
        if dialect.stream_bytes is not None:
            return client.bytes // dialect.stream_bytes - client.count
        return count

    def _note(self, client: _Client, count: int) -> None:
        self._frames += count
        left = self._left
        for number in range(client.count - self._first, client.count - self._first + count):
            if number >= len(left):
                raise CrowdFailed("a client heard more than was published")
            left[number] -= 1
        client.count += count
        while left and not left[0]:
            left.popleft()
            self._first += 1
            self._latency.record(time.perf_counter_ns() - self._due.popleft())

    def _read(self, client: _Client) -> bytes | None:
        try:
            data = client.socket.recv(_READ_BYTES)
        except BlockingIOError:
            return None
        except OSError as error:
            raise CrowdFailed(f"a client lost its connection: {error}") from error
        if not data:
            raise CrowdFailed(f"the server closed a connection during step {client.step} of the greeting")
        return data


def _handshake(dialect: Dialect) -> bytes:
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        f"GET {dialect.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n{dialect.headers}\r\n"
    ).encode()


def _greeted(client: _Client, data: bytes, dialect: Dialect) -> Sequence[bytes]:
    """Takes the greeting as far as `data` brings it; what is to be sent for it."""
    client.buffer += data
    answers: list[bytes] = []
    steps = dialect.greeting
    if client.step < 0:
        head, found, rest = client.buffer.partition(b"\r\n\r\n")
        if not found:
            return answers
        if not head.startswith(b"HTTP/1.1 101"):
            raise CrowdFailed(f"no upgrade: {head[:80]!r}")
        client.buffer, client.step = rest, 0
        if steps and steps[0][0]:
            answers.append(steps[0][0])
    while client.step < len(steps):
        found_frame = first_frame(client.buffer)
        if found_frame is None:
            return answers
        _, payload, end = found_frame
        client.buffer = client.buffer[end:]
        if steps[client.step][1] in payload:
            client.step += 1
            if client.step < len(steps) and steps[client.step][0]:
                answers.append(steps[client.step][0])
    client.ready = True
    return answers
