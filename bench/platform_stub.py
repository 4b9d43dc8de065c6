"""A platform that does nothing but look at the clock: `python -m bench.platform_stub`.

    POST /{version}/{account}/messages    noted with its time and recipient; answered like the Graph API
    GET  /arrivals/{account}              {"at": [seconds], "to": [recipient]} of the calls so far, by time

The moment of a call is when the kernel had its last bytes (SO_TIMESTAMPNS), so that this process may be held
up without anybody being charged for it. Answers come after `--answer-ms`, as a platform takes its time.

One thread, one epoll; the first line of standard output is `{"port": n}`. It ends with its standard input.
"""

import argparse
import heapq
import json
import select
import socket
import struct
import sys
import time
from typing import Final

import msgspec

# asm-generic/socket.h; Python's socket module does not name it.
_SO_TIMESTAMPNS: Final = 35
_REQUEST_BYTES_MAX: Final = 65_536


class _Body(msgspec.Struct):
    to: str = ""


_body: Final = msgspec.json.Decoder(_Body)


class Stub:
    """The server; `run` ends when standard input does."""

    def __init__(self, answer_seconds: float) -> None:
        self._answer_seconds = answer_seconds
        self._poll = select.epoll()
        self._connections: dict[int, socket.socket] = {}
        self._partial: dict[int, bytes] = {}
        self._arrivals: dict[str, list[tuple[float, str]]] = {}
        self._answers: list[tuple[float, int, socket.socket, bytes]] = []
        self._count = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._listener.setblocking(False)
        self._poll.register(self._listener, select.EPOLLIN)
        self._poll.register(sys.stdin, select.EPOLLIN)

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def run(self) -> None:
        while True:
            wait = max(0.0, self._answers[0][0] - time.monotonic()) if self._answers else -1
            for descriptor, _ in self._poll.poll(wait):
                if descriptor == sys.stdin.fileno():
                    return
                if descriptor == self._listener.fileno():
                    self._accept()
                elif descriptor in self._connections:
                    self._read(self._connections[descriptor])
            while self._answers and self._answers[0][0] <= time.monotonic():
                _, _, connection, answer = heapq.heappop(self._answers)
                self._send(connection, answer)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._connections[connection.fileno()] = connection
        self._poll.register(connection, select.EPOLLIN)

    def _read(self, connection: socket.socket) -> None:
        descriptor = connection.fileno()
        try:
            data, notes, _, _ = connection.recvmsg(_REQUEST_BYTES_MAX, 128)
        except BlockingIOError:
            return
        except OSError:
            data, notes = b"", []
        if not data:
            self._poll.unregister(connection)
            del self._connections[descriptor]
            self._partial.pop(descriptor, None)
            connection.close()
            return
        at = time.time()
        for _, kind, value in notes:
            if kind == _SO_TIMESTAMPNS:
                seconds, nanoseconds = struct.unpack("qq", value)
                at = seconds + nanoseconds / 1e9
        data = self._partial.pop(descriptor, b"") + data
        head_end = data.find(b"\r\n\r\n")
        if head_end < 0 or len(data) < head_end + 4 + _length(data[:head_end]):
            self._partial[descriptor] = data
            return
        method, target, _ = data.split(b" ", 2)
        parts = target.decode().split("/")
        if method == b"GET":
            noted = sorted(self._arrivals.get(parts[-1], []))
            answer = json.dumps({"at": [at for at, _ in noted], "to": [to for _, to in noted]}).encode()
            connection.setblocking(True)
            self._send(connection, answer)
            connection.setblocking(False)
            return
        self._arrivals.setdefault(parts[2], []).append((at, _body.decode(data[head_end + 4 :]).to))
        self._count += 1
        answer = b'{"messaging_product":"whatsapp","messages":[{"id":"wamid.%d"}]}' % self._count
        due = time.monotonic() + self._answer_seconds
        heapq.heappush(self._answers, (due, self._count, connection, answer))

    def _send(self, connection: socket.socket, body: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        try:
            connection.sendall(head + body)
        except OSError:
            # Its end is read, or was.
            return


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.platform_stub", description=__doc__)
    parser.add_argument("--answer-ms", type=float, default=0.0)
    chosen = parser.parse_args()
    stub = Stub(chosen.answer_ms / 1000)
    print(json.dumps({"port": stub.port}), flush=True)
    stub.run()


if __name__ == "__main__":
    main()
