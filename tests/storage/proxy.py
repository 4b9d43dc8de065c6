"""A proxy before PostgreSQL that cuts connections at the worst moment.

It relays a Unix socket and watches for the client's COMMIT. What it does then is set by `at_commit`, once.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import trio

_COMMIT = b"Q\0\0\0\x0bCOMMIT\0"
_SOCKET = ".s.PGSQL.5432"


class Proxy:
    """`at_commit(client, server)` runs once, instead of forwarding the next COMMIT."""

    def __init__(self, server_path: str, dsn: str) -> None:
        self.server_path = server_path
        self.dsn = dsn
        self.at_commit: Callable[[trio.SocketStream, trio.SocketStream], Awaitable[None]] | None = None
        self.refusing = False
        self.cuts = 0
        self._open: set[trio.SocketStream] = set()

    async def cut_all(self) -> None:
        for stream in list(self._open):
            await trio.aclose_forcefully(stream)

    async def serve(self, client: trio.SocketStream) -> None:
        if self.refusing:
            await trio.aclose_forcefully(client)
            return
        server = await trio.open_unix_socket(self.server_path)
        self._open |= {client, server}
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._upstream, client, server, nursery.cancel_scope)
                nursery.start_soon(self._pump, server, client, nursery.cancel_scope)
        finally:
            self._open -= {client, server}
            await trio.aclose_forcefully(client)
            await trio.aclose_forcefully(server)

    async def _upstream(
        self, client: trio.SocketStream, server: trio.SocketStream, scope: trio.CancelScope
    ) -> None:
        try:
            while data := await client.receive_some():
                if self.at_commit is not None and _COMMIT in data:
                    act, self.at_commit = self.at_commit, None
                    self.cuts += 1
                    await act(client, server)
                    break
                await server.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()

    @staticmethod
    async def _pump(source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope) -> None:
        try:
            while data := await source.receive_some():
                await sink.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()


async def lose_the_commit(client: trio.SocketStream, server: trio.SocketStream) -> None:
    """The COMMIT never reaches the server; its session ends."""
    await trio.aclose_forcefully(server)
    await trio.aclose_forcefully(client)


async def lose_the_answer(client: trio.SocketStream, server: trio.SocketStream) -> None:
    """The server commits; the client never hears of it."""
    await trio.aclose_forcefully(client)
    await server.send_all(_COMMIT)


def commit_late(seconds: float) -> Callable[[trio.SocketStream, trio.SocketStream], Awaitable[None]]:
    """The client is cut off at once; the COMMIT reaches the server a while later, when a retry is waiting."""

    async def act(client: trio.SocketStream, server: trio.SocketStream) -> None:
        await trio.aclose_forcefully(client)
        await trio.sleep(seconds)
        await lose_the_answer(client, server)

    return act


def abort_late(seconds: float) -> Callable[[trio.SocketStream, trio.SocketStream], Awaitable[None]]:
    """The client is cut off at once; the transaction stays open for a while and is never committed."""

    async def act(client: trio.SocketStream, server: trio.SocketStream) -> None:
        await trio.aclose_forcefully(client)
        await trio.sleep(seconds)
        await trio.aclose_forcefully(server)

    return act


@asynccontextmanager
async def proxied(dsn: str, directory: Path) -> AsyncIterator[Proxy]:
    """A proxy before the server of `dsn`, which must be reached by a Unix socket."""
    (host,) = parse_qs(urlsplit(dsn).query)["host"]
    path = directory / _SOCKET
    proxy = Proxy(f"{host}/{_SOCKET}", dsn.replace(quote(host, safe="/"), quote(str(directory), safe="/")))
    listener = trio.socket.socket(trio.socket.AF_UNIX)
    await listener.bind(str(path))
    listener.listen()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, proxy.serve, [trio.SocketListener(listener)])
        try:
            yield proxy
        finally:
            nursery.cancel_scope.cancel()
            await trio.Path(path).unlink()
