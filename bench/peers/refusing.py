"""The least that can refuse a POST: one epoll, and for each request one read and one write of the same bytes.

It is the yardstick of `bench.overload`: beside it one sees what the load client and the kernel leave of a
server's capacity when somebody else does the refusing. Reads no framing; each read is taken for one whole
request, which holds for what the load client sends. Prints its port as the first line and runs until it is
terminated.
"""

import select
import socket
import sys
from typing import Final

_ANSWER: Final = (
    b"HTTP/1.1 503 \r\nretry-after: 2\r\ncontent-type: application/json\r\ncontent-length: 125\r\n\r\n"
    + b" " * 125
)
_EVENTS_MAX: Final = 512


def main() -> None:
    """Serve on a free port of the loopback address."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener, select.epoll() as poll:
        listener.setblocking(False)
        print(listener.getsockname()[1], flush=True)
        poll.register(listener, select.EPOLLIN)
        clients: dict[int, socket.socket] = {}
        while True:
            for descriptor, _ in poll.poll(-1, _EVENTS_MAX):
                client = clients.get(descriptor)
                if client is not None:
                    if not _answered(client):
                        poll.unregister(clients.pop(descriptor))
                        client.close()
                    continue
                accepted, _ = listener.accept()
                accepted.setblocking(False)
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                clients[accepted.fileno()] = accepted
                poll.register(accepted, select.EPOLLIN)


def _answered(client: socket.socket) -> bool:
    """Whether the connection goes on."""
    try:
        if not client.recv(65536):
            return False
        client.send(_ANSWER)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(0)
