"""The limit: the handshake by hand, then nothing but a loop of non-blocking `send` of the same bytes, once
for each socket and publication. Prints its port and that of the control connection, whose lines are
published."""

import base64
import hashlib
import select
import socket
from contextlib import suppress

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def text(payload: bytes) -> bytes:
    size = len(payload)
    return (bytes((0x81, size)) if size < 126 else b"\x81\x7e" + size.to_bytes(2, "big")) + payload


def main() -> None:
    listener, control = (socket.create_server(("127.0.0.1", 0), backlog=1024) for _ in range(2))
    print(listener.getsockname()[1], control.getsockname()[1], flush=True)
    poll = select.epoll()
    by_descriptor = {listener.fileno(): listener, control.fileno(): control}
    for each in by_descriptor.values():
        poll.register(each, select.EPOLLIN)
    sockets: dict[int, socket.socket] = {}
    publishers: dict[int, bytes] = {}
    while True:
        for descriptor, _ in poll.poll():
            found = by_descriptor[descriptor]
            if found in (listener, control):
                opened, _ = found.accept()
                by_descriptor[opened.fileno()] = opened
                if found is control:
                    publishers[opened.fileno()] = b""
                else:
                    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                poll.register(opened, select.EPOLLIN)
                continue
            try:
                data = found.recv(65_536)
            except OSError:
                data = b""
            if not data:
                poll.unregister(found)
                for table in (by_descriptor, sockets, publishers):
                    table.pop(descriptor, None)
                found.close()
            elif descriptor in publishers:
                *lines, publishers[descriptor] = (publishers[descriptor] + data).split(b"\n")
                sends = [each.send for each in sockets.values()]
                for line in lines:
                    frame = text(line)
                    for send in sends:
                        try:
                            send(frame)
                        except BlockingIOError:  # cannot wait here; the bench would find the loss
                            raise SystemExit("a socket is full: the window is too large") from None
                        except OSError:
                            continue
            elif descriptor not in sockets:
                key = data.split(b"Sec-WebSocket-Key: ")[1].split(b"\r\n")[0]
                token = base64.b64encode(hashlib.sha1(key + GUID, usedforsecurity=False).digest())
                found.sendall(
                    b"HTTP/1.1 101 \r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                    b"Sec-WebSocket-Accept: " + token + b"\r\n\r\n"
                )
                found.setblocking(False)
                sockets[descriptor] = found


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
