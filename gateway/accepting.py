"""The accept loop: many connections in one turn of the loop, not one.

Why not `trio.serve_listeners`: it takes one connection and then gives the loop to everybody else. When a turn
takes 50 ms because the server is busy, that is twenty connections a second, and who connects waits in the
backlog for seconds although the answer, a refusal perhaps, would take a millisecond.

Promises   as `trio.serve_listeners`: until cancelled, then the listeners are closed; each connection is
           closed when its handler returns; out of descriptors or memory it waits and tries again.
Limits     `ACCEPTS_AT_ONCE` connections per listener in a turn.
"""

import errno
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog
import trio

_log = structlog.get_logger()

Handler = Callable[[trio.SocketStream], Awaitable[object]]

ACCEPTS_AT_ONCE: Final = 64
"""Some 20 µs each, so a turn is hardly longer for it."""

CAPACITY_SECONDS: Final = 0.1
_OUT_OF: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS))


async def accept_all(
    handler: Handler, listeners: Sequence[trio.SocketListener], connections: trio.Nursery
) -> None:
    """Run `handler` for each connection, in a task of `connections`. Ends only when cancelled, or with what a
    listener raised."""
    async with trio.open_nursery() as nursery:
        for listener in listeners:
            nursery.start_soon(_accept, handler, listener, connections)


async def _accept(handler: Handler, listener: trio.SocketListener, connections: trio.Nursery) -> None:
    # The same open socket by a second descriptor: trio's own has no accept that does not wait.
    async with listener:
        with socket.socket(fileno=os.dup(listener.socket.fileno())) as listening:
            while True:
                await trio.lowlevel.wait_readable(listener.socket)
                try:
                    for _ in range(ACCEPTS_AT_ONCE):
                        accepted, _address = listening.accept()
                        accepted.setblocking(False)
                        stream = trio.SocketStream(trio.socket.from_stdlib_socket(accepted))
                        connections.start_soon(_handled, handler, stream)
                except (BlockingIOError, ConnectionAbortedError):
                    continue
                except OSError as error:
                    if error.errno not in _OUT_OF:
                        raise
                    _log.error("serving.out_of_capacity", reason=os.strerror(error.errno))
                    await trio.sleep(CAPACITY_SECONDS)


async def _handled(handler: Handler, stream: trio.SocketStream) -> None:
    try:
        await handler(stream)
    finally:
        await trio.aclose_forcefully(stream)
