"""The least that can answer a POST with 200: llhttp on trio sockets, nothing behind it.

It is the yardstick of the load client: a rate that the client reaches here is one that it can drive. Prints
its port as the first line and runs until it is terminated.
"""

import sys
from typing import Any

import httptools
import trio

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: text/plain\r\n\r\nok"


class _Requests:
    """Counts the requests that the parser has seen to their end."""

    def __init__(self) -> None:
        self.complete = 0

    def on_message_complete(self) -> None:
        self.complete += 1


async def serve_one(stream: trio.SocketStream) -> None:
    """Answer every request of one connection until it ends."""
    requests = _Requests()
    parser: Any = httptools.HttpRequestParser(requests)
    while data := await stream.receive_some(65536):
        parser.feed_data(data)
        if requests.complete:
            await stream.send_all(_ANSWER * requests.complete)
            requests.complete = 0


async def main() -> None:
    """Serve on a free port of the loopback address."""
    async with trio.open_nursery() as nursery:

        async def handle(stream: trio.SocketStream) -> None:
            try:
                await serve_one(stream)
            except trio.BrokenResourceError:
                await stream.aclose()

        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        print(listeners[0].socket.getsockname()[1], flush=True)
        nursery.start_soon(trio.serve_listeners, handle, listeners)


if __name__ == "__main__":
    try:
        trio.run(main)
    except KeyboardInterrupt:
        sys.exit(0)
