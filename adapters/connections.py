"""Kept connections to platforms: httpcore's connections, taken and put back in constant time.

Why         httpcore's own pool looks at all of its connections for every request and every answer. With the
            hundred that an account of a thousand messages a second needs, that took more processor time than
            everything else together, and held the account at a fifth of its rate.
Promises    A request goes over a connection on which nothing else is under way: the one of its origin that
            rested last, or a new one. A kept connection that the server has closed, or that rested for
            `idle_seconds_max`, is not used. A connection whose answer was not read to its end is closed.
Limits      `connections_max` requests at a time (more wait, for the `pool` timeout of their request at most,
            and then get httpcore.PoolTimeout: nothing was sent); as many again may rest, the oldest is closed
            for a new one.
Leaves      Name, address and TLS to the network backend and httpcore.
On cancel   The connection under way is closed.
"""

from collections import OrderedDict
from collections.abc import AsyncIterable, AsyncIterator
from math import inf
from ssl import SSLContext
from typing import Protocol, runtime_checkable

import httpcore
import trio

_Place = tuple[bytes, bytes, int]
"""Scheme, host and port."""


def _place(origin: httpcore.Origin) -> _Place:
    return origin.scheme, origin.host, origin.port


class Connections:
    """The pool. `handle` is for any number of tasks."""

    def __init__(
        self,
        network: httpcore.AsyncNetworkBackend,
        ssl_context: SSLContext,
        *,
        connections_max: int,
        idle_seconds_max: float,
    ) -> None:
        self._network = network
        self._ssl_context = ssl_context
        self._connections_max = connections_max
        self._idle_seconds_max = idle_seconds_max
        self._room = trio.Semaphore(connections_max)
        # By age of their rest.
        self._resting: OrderedDict[httpcore.AsyncHTTPConnection, _Place] = OrderedDict()
        self._by_place: dict[_Place, list[httpcore.AsyncHTTPConnection]] = {}

    @property
    def resting(self) -> int:
        """How many connections are kept without a request."""
        return len(self._resting)

    async def handle(self, request: httpcore.Request) -> httpcore.Response:
        """One exchange. The answer's stream must be closed; the connection is free again then."""
        seconds_max = request.extensions.get("timeout", {}).get("pool")
        with trio.move_on_after(inf if seconds_max is None else seconds_max) as waiting:
            await self._room.acquire()
        if waiting.cancelled_caught:
            raise httpcore.PoolTimeout("no connection was free within the time for it")
        connection: httpcore.AsyncHTTPConnection | None = None
        try:
            connection = await self._take(request.url.origin)
            answer = await connection.handle_async_request(request)
        except BaseException:
            self._room.release()
            if connection is not None:
                with trio.CancelScope(shield=True):
                    await connection.aclose()
            raise
        assert isinstance(answer.stream, AsyncIterable)
        answer.stream = _Stream(answer.stream, self, connection, _place(request.url.origin))
        return answer

    async def _take(self, origin: httpcore.Origin) -> httpcore.AsyncHTTPConnection:
        place = _place(origin)
        while resting := self._by_place.get(place):
            connection = resting[-1]
            self._forget(connection, place)
            if connection.is_idle() and not connection.has_expired():
                return connection
            await connection.aclose()
        return httpcore.AsyncHTTPConnection(
            origin,
            ssl_context=self._ssl_context,
            keepalive_expiry=self._idle_seconds_max,
            network_backend=self._network,
        )

    async def put_back(self, connection: httpcore.AsyncHTTPConnection, place: _Place) -> None:
        """The exchange on this connection is over."""
        self._room.release()
        if not connection.is_idle():
            await connection.aclose()
            return
        self._resting[connection] = place
        self._by_place.setdefault(place, []).append(connection)
        while self._resting:
            oldest, its_place = next(iter(self._resting.items()))
            if len(self._resting) <= self._connections_max and not oldest.has_expired():
                break
            self._forget(oldest, its_place)
            await oldest.aclose()

    def _forget(self, connection: httpcore.AsyncHTTPConnection, place: _Place) -> None:
        del self._resting[connection]
        resting = self._by_place[place]
        # Only ever its newest, or its oldest one, which is the first that `remove` looks at.
        if resting[-1] is connection:
            resting.pop()
        else:
            resting.remove(connection)
        if not resting:
            del self._by_place[place]

    async def aclose(self) -> None:
        """Close what rests. Exchanges under way end by themselves and are closed then."""
        self._connections_max = 0
        while self._resting:
            connection, place = self._resting.popitem()
            self._by_place.pop(place, None)
            await connection.aclose()


@runtime_checkable
class _Closable(Protocol):
    async def aclose(self) -> None: ...


class _Stream:
    """An answer's body that gives its connection back once."""

    def __init__(
        self,
        inner: AsyncIterable[bytes],
        connections: Connections,
        connection: httpcore.AsyncHTTPConnection,
        place: _Place,
    ) -> None:
        self._inner = inner
        self._connections = connections
        self._connection = connection
        self._place = place
        self._closed = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self._inner)

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        # A connection that is given back half closed would be lost, and its place with it.
        with trio.CancelScope(shield=True):
            try:
                if isinstance(self._inner, _Closable):
                    await self._inner.aclose()
            finally:
                await self._connections.put_back(self._connection, self._place)
