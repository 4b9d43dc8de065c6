"""A load client that costs the machine little: pre-encoded HTTP/1.1 requests over a pool of kept connections.

Why        Client and server share the cores here. Whatever the client burns, the server lacks, and a client
           that is slow itself measures itself.
How        One task, one epoll of all connections; trio waits on the epoll's own descriptor and is woken once
           for everything that is ready. A request is one `send` of bytes made beforehand, an answer mostly
           one `recv`.
Promises   Open loop (`rate`): request n is due at start + n / rate whatever became of the ones before, and
           its latency counts from that moment, so a server that stalls is charged for everyone who had to
           wait (no coordinated omission). Closed loop (no rate): each connection sends as soon as it has its
           answer, and latency counts from the sending. A request is never sent twice; one whose connection
           ends without an answer is `broken`, and what became of it is unknown.
Limits     one request in flight per connection; answers of at most 1 MiB, with a length or chunked; no TLS.
           The client wakes in steps of a millisecond (epoll's), which `lag` shows. With `pause_seconds` it
           rests so long between two looks, which goes into each latency and spares it most of its wake-ups.
On cancel  the connections are closed; requests under way are neither acknowledged nor broken.
"""

import gc
import select
import socket
import time
from array import array
from collections import Counter
from collections.abc import Callable
from errno import EINPROGRESS
from typing import Final

import trio

from bench.histogram import Histogram
from bench.webhooks import Traffic

_ANSWER_BYTES_MAX: Final = 1024 * 1024
# In a closed loop nobody knows how many requests will be needed; each top-up takes some 5 ms.
_TOP_UP: Final = 500


class LoadFailed(Exception):
    """The load cannot go on: nobody listens, or what listens does not speak HTTP."""


class Outcome:
    """What a run did, readable while it goes on."""

    def __init__(self) -> None:
        self.sent = 0
        self.acknowledged = 0
        self.broken = 0
        self.statuses: Counter[int] = Counter()
        self.latency = Histogram()
        """From due (open loop) or sent (closed loop) until the answer was read; status 200 only."""
        self.refused_latency = Histogram()
        """The same of status 503, from sent in both loops: how quickly a refusal is told."""
        self.refused_with_retry_after = 0
        self.lag = Histogram()
        """Open loop: from due until sent, be it the client's own delay or no free connection."""
        self.acknowledged_numbers: array[int] = array("q")
        self.started_ns = 0
        self.ended_ns = 0
        self.processor_seconds = 0.0
        self.interval_ns = 0.0

    @property
    def seconds(self) -> float:
        """From the first request's moment until the last answer."""
        return max((self.ended_ns or time.perf_counter_ns()) - self.started_ns, 1) / 1e9

    @property
    def rate(self) -> float:
        """Acknowledgements per second."""
        return self.acknowledged / self.seconds

    @property
    def unanswered(self) -> int:
        """Sent, and neither answered nor broken by the end of the run."""
        return self.sent - self.broken - self.statuses.total()

    @property
    def processor_share(self) -> float:
        """How much of one core the client took. Near 1 the client is the bottleneck."""
        return self.processor_seconds / self.seconds

    def due_ns(self, number: int) -> int:
        """When request `number` was due, on `time.perf_counter_ns`; open loop only."""
        return self.started_ns + int(number * self.interval_ns)


class _Connection:
    __slots__ = ("buffer", "due_ns", "number", "rest", "sent_ns", "socket")

    def __init__(self) -> None:
        self.socket: socket.socket | None = None
        self.number = -1
        self.due_ns = 0
        self.sent_ns = 0
        self.buffer = b""
        self.rest = b""


class LoadClient:
    """One run against one endpoint; `run` is called once."""

    def __init__(
        self,
        traffic: Traffic,
        *,
        seconds: float,
        rate: float | None = None,
        connections: int = 64,
        drain_seconds_max: float = 10,
        pause_seconds: float = 0,
        on_sent: Callable[[int, int], None] | None = None,
    ) -> None:
        if seconds <= 0 or connections < 1 or (rate is not None and rate <= 0):
            raise ValueError("seconds, connections and rate are above zero")
        self.outcome: Final = Outcome()
        self._traffic: Final = traffic
        self._requests: Final = traffic.requests
        self._seconds: Final = seconds
        self._rate: Final = rate
        self._drain_seconds_max: Final = drain_seconds_max
        self._pause_seconds: Final = pause_seconds
        self._on_sent: Final = on_sent
        self._idle: Final = [_Connection() for _ in range(connections)]
        self._connections: Final = connections
        self._by_descriptor: Final[dict[int, _Connection]] = {}
        self._poll: Final = select.epoll()
        self._next = 0
        self._address: tuple[str, int] = ("", 0)
        self._family = socket.AF_INET

    async def run(self) -> Outcome:
        """Load for the given time, wait for the answers still due, and return the outcome."""
        found = await trio.socket.getaddrinfo(self._traffic.host, self._traffic.port, type=socket.SOCK_STREAM)
        self._family, self._address = found[0][0], (str(found[0][4][0]), int(found[0][4][1]))
        if self._rate is not None:
            self._traffic.encode(max(0, int(self._rate * self._seconds) - len(self._requests)))
        collecting = gc.isenabled()
        # The requests are many and live long: a collection in between would walk all of them.
        gc.collect()
        gc.disable()
        outcome = self.outcome
        processor_before = time.process_time()
        outcome.started_ns = time.perf_counter_ns()
        try:
            if self._rate is None:
                await self._run_closed()
            else:
                await self._run_open(self._rate)
        finally:
            outcome.ended_ns = time.perf_counter_ns()
            outcome.processor_seconds = time.process_time() - processor_before
            if collecting:
                gc.enable()
            self._close()
        return outcome

    async def _run_open(self, rate: float) -> None:
        outcome, idle = self.outcome, self._idle
        interval = outcome.interval_ns = 1e9 / rate
        start, total = outcome.started_ns, int(rate * self._seconds)
        while self._next < total:
            now = time.perf_counter_ns()
            due = start + int(self._next * interval)
            while idle and due <= now:
                self._send(idle.pop(), due)
                if self._next == total:
                    break
                due = start + int(self._next * interval)
            # Without a free connection only an answer helps; the deadline of the whole run bounds the wait.
            wait_ns = due - time.perf_counter_ns() if idle else self._left_ns()
            if wait_ns <= 0 and not idle:
                return
            await self._answers(max(wait_ns, 0) / 1e9)
        await self._drain()

    async def _run_closed(self) -> None:
        idle = self._idle
        end = self.outcome.started_ns + int(self._seconds * 1e9)
        while (now := time.perf_counter_ns()) < end:
            while idle:
                if self._next == len(self._requests):
                    self._traffic.encode(_TOP_UP)
                self._send(idle.pop(), None)
            await self._answers((end - now) / 1e9)
        await self._drain()

    async def _drain(self) -> None:
        while len(self._idle) < self._connections and (left := self._left_ns()) > 0:
            await self._answers(left / 1e9)

    def _left_ns(self) -> int:
        whole = int((self._seconds + self._drain_seconds_max) * 1e9)
        return self.outcome.started_ns + whole - time.perf_counter_ns()

    async def _answers(self, seconds_max: float) -> None:
        """Wait until something can be read or written, or for so long; then handle all that is ready."""
        if self._pause_seconds:
            await trio.sleep(self._pause_seconds)
        else:
            with trio.move_on_after(seconds_max):
                await trio.lowlevel.wait_readable(self._poll.fileno())
        for descriptor, events in self._poll.poll(0):
            connection = self._by_descriptor[descriptor]
            if events & select.EPOLLOUT:
                self._write(connection)
            if events & ~select.EPOLLOUT and connection.socket is not None:
                self._read(connection)

    def _send(self, connection: _Connection, due_ns: int | None) -> None:
        number = self._next
        self._next += 1
        if connection.socket is None:
            self._connect(connection)
        connection.number = number
        connection.rest = self._requests[number]
        now = time.perf_counter_ns()
        connection.due_ns = now if due_ns is None else due_ns
        connection.sent_ns = now
        outcome = self.outcome
        outcome.sent += 1
        if due_ns is not None:
            outcome.lag.record(now - due_ns)
        if self._on_sent is not None:
            self._on_sent(number, connection.due_ns)
        self._write(connection)

    def _connect(self, connection: _Connection) -> None:
        opened = socket.socket(self._family, socket.SOCK_STREAM)
        opened.setblocking(False)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        error = opened.connect_ex(self._address)
        if error not in (0, EINPROGRESS):
            opened.close()
            raise LoadFailed(f"connecting to {self._address}: error {error}")
        connection.socket = opened
        self._by_descriptor[opened.fileno()] = connection
        self._poll.register(opened, select.EPOLLIN)

    def _write(self, connection: _Connection) -> None:
        assert connection.socket is not None
        try:
            done = connection.socket.send(connection.rest)
        except BlockingIOError:
            done = 0
        except OSError:
            self._break(connection)
            return
        waiting = bool(connection.rest) and done < len(connection.rest)
        if waiting or done < len(self._requests[connection.number]):
            # Not connected yet, or the kernel's buffer is full: wait for room; once all is out, only read.
            interest = select.EPOLLIN | select.EPOLLOUT if waiting else select.EPOLLIN
            self._poll.modify(connection.socket, interest)
        connection.rest = connection.rest[done:] if waiting else b""

    def _read(self, connection: _Connection) -> None:
        assert connection.socket is not None
        try:
            data = connection.socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._break(connection)
            return
        if connection.buffer:
            data = connection.buffer + data
        answer = parse_answer(data)
        if answer is None:
            if len(data) > _ANSWER_BYTES_MAX:
                raise LoadFailed(f"an answer of more than {_ANSWER_BYTES_MAX} bytes")
            connection.buffer = data
            return
        status, keep = answer
        connection.buffer = b""
        outcome = self.outcome
        outcome.statuses[status] += 1
        if status == 200:
            outcome.acknowledged += 1
            outcome.acknowledged_numbers.append(connection.number)
            outcome.latency.record(time.perf_counter_ns() - connection.due_ns)
        elif status == 503:
            outcome.refused_latency.record(time.perf_counter_ns() - connection.sent_ns)
            outcome.refused_with_retry_after += b"retry-after:" in data[:2048].lower()
        connection.number = -1
        if not keep:
            self._forget(connection)
        self._idle.append(connection)

    def _break(self, connection: _Connection) -> None:
        """The connection ended. An idle one is opened again when it is needed; others lose their request."""
        self._forget(connection)
        connection.buffer = connection.rest = b""
        if connection.number >= 0:
            connection.number = -1
            outcome = self.outcome
            outcome.broken += 1
            self._idle.append(connection)
            if outcome.broken > 100 and not outcome.statuses:
                raise LoadFailed(f"nobody answers at {self._address}")

    def _forget(self, connection: _Connection) -> None:
        if connection.socket is not None:
            del self._by_descriptor[connection.socket.fileno()]
            self._poll.unregister(connection.socket)
            connection.socket.close()
            connection.socket = None

    def _close(self) -> None:
        for connection in list(self._by_descriptor.values()):
            self._forget(connection)
        self._poll.close()


def parse_answer(data: bytes) -> tuple[int, bool] | None:
    """(status, connection may be kept) when `data` is one whole answer, None when more has to come.

    Without pipelining an answer is the last thing on its connection, so the end of a chunked one is where its
    last chunk is. Raises LoadFailed for what is no HTTP/1 answer.
    """
    head_end = data.find(b"\r\n\r\n")
    if head_end < 0:
        return None
    if not data.startswith(b"HTTP/1.") or not data[9:12].isdigit():
        raise LoadFailed(f"not an HTTP/1 answer: {data[:40]!r}")
    head = data[:head_end].lower() + b"\r\n"
    keep = b"\r\nconnection: close\r\n" not in head
    at = head.find(b"\r\ncontent-length:")
    if at >= 0:
        length = int(head[at + 17 : head.index(b"\r\n", at + 17)])
        if len(data) < head_end + 4 + length:
            return None
    elif b"\r\ntransfer-encoding: chunked\r\n" in head:
        if not data.endswith(b"0\r\n\r\n"):
            return None
    elif data[9:12] != b"204":
        raise LoadFailed("an answer without a length")
    return int(data[9:12]), keep
