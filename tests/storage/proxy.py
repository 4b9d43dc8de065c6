"""A proxy before PostgreSQL that cuts connections at the worst moment.

It relays a Unix socket and watches for what commits a batch: the client's COMMIT, or the one statement that
most batches are. What it does then is set by `at_commit`, once.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import trio

Act = Callable[[trio.SocketStream, trio.SocketStream, bytes], Awaitable[None]]

_COMMIT = b"Q\0\0\0\x0bCOMMIT\0"
# The batch's gate alone, without waves that follow it in a transaction, is found by what BEGIN leaves out.
_BEGIN = b"Q\0\0\0\x0aBEGIN\0"
_PARSED = re.compile(rb"P....([^\0]+)\0WITH noted", re.DOTALL)
_BOUND = re.compile(rb"B....\0([^\0]+)\0", re.DOTALL)
_SOCKET = ".s.PGSQL.5432"


class Proxy:
    """`at_commit(client, server, data)` runs once, instead of forwarding the next `data` that commits."""

    def __init__(self, server_path: str, dsn: str) -> None:
        self.server_path = server_path
        self.dsn = dsn
        self.at_commit: Act | None = None
        self.refusing = False
        self.cuts = 0
        self.acted = trio.Event()
        self._open: set[trio.SocketStream] = set()
        self._unheard: set[trio.SocketStream] = set()

    def withhold_the_answer(self, seconds: float) -> Act:
        """For `at_commit`: the server commits at once; the client hears nothing until the connection ends."""

        async def act(client: trio.SocketStream, server: trio.SocketStream, data: bytes) -> None:
            self._unheard.add(client)
            try:
                await server.send_all(data)
                await trio.sleep(seconds)
            finally:
                self._unheard.discard(client)
            await lose_the_commit(client, server, data)

        return act

    async def cut_all(self) -> None:
        for stream in list(self._open):
            await trio.aclose_forcefully(stream)

    async def serve(self, client: trio.SocketStream) -> None:
        if self.refusing:
            await trio.aclose_forcefully(client)
            return
        try:
            server = await trio.open_unix_socket(self.server_path)
        except OSError:  # the server is away: so are we
            await trio.aclose_forcefully(client)
            return
        self._open |= {client, server}
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._upstream, client, server, nursery.cancel_scope)
                nursery.start_soon(self._downstream, server, client, nursery.cancel_scope)
        finally:
            self._open -= {client, server}
            with trio.CancelScope(shield=True):  # it only closes
                await trio.aclose_forcefully(client)
                await trio.aclose_forcefully(server)

    async def _upstream(
        self, client: trio.SocketStream, server: trio.SocketStream, scope: trio.CancelScope
    ) -> None:
        batches: set[bytes] = set()
        in_transaction = False
        try:
            while data := await client.receive_some():
                batches.update(_PARSED.findall(data))
                in_transaction = (in_transaction or data == _BEGIN) and data != _COMMIT
                bound = None if in_transaction else _BOUND.match(data)
                commits = data == _COMMIT or (bound is not None and bound[1] in batches)
                if self.at_commit is not None and commits:
                    act, self.at_commit = self.at_commit, None
                    self.cuts += 1
                    try:
                        await act(client, server, data)
                    finally:
                        self.acted.set()
                    break
                await server.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()

    async def _downstream(
        self, server: trio.SocketStream, client: trio.SocketStream, scope: trio.CancelScope
    ) -> None:
        try:
            while data := await server.receive_some():
                if client not in self._unheard:
                    await client.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()


async def lose_the_commit(client: trio.SocketStream, server: trio.SocketStream, data: bytes) -> None:
    """What commits never reaches the server; its session ends."""
    await trio.aclose_forcefully(server)
    await trio.aclose_forcefully(client)


async def lose_the_answer(client: trio.SocketStream, server: trio.SocketStream, data: bytes) -> None:
    """The server commits; the client never hears of it."""
    await trio.aclose_forcefully(client)
    await server.send_all(data)


def commit_late(seconds: float) -> Act:
    """The client is cut off at once; what commits reaches the server a while later, when a retry waits."""

    async def act(client: trio.SocketStream, server: trio.SocketStream, data: bytes) -> None:
        await trio.aclose_forcefully(client)
        await trio.sleep(seconds)
        await lose_the_answer(client, server, data)

    return act


def abort_late(seconds: float) -> Act:
    """The client is cut off at once; a transaction stays open for a while and is never committed."""

    async def act(client: trio.SocketStream, server: trio.SocketStream, data: bytes) -> None:
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
