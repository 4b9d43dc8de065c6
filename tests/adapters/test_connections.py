"""Kept connections, over real sockets: which one a request gets, and what becomes of it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpcore
import pytest
import trio
import trio.testing

from adapters.connections import Connections
from adapters.simulators.http import Cut, HttpServer, Request, Response
from tests.patience import until

pytestmark = pytest.mark.real_time


class Counting(httpcore.TrioBackend):
    """The network, counting connections."""

    opened = 0

    async def connect_tcp(self, *args: object, **named: object) -> httpcore.AsyncNetworkStream:
        self.opened += 1
        return await super().connect_tcp(*args, **named)  # type: ignore[arg-type]


class Place:
    """A server whose answers wait for `gate`, and a pool of two connections to it."""

    def __init__(self, idle_seconds_max: float) -> None:
        self.gate = trio.Event()
        self.gate.set()
        self.network = Counting()
        self.http = HttpServer(self._answer, body_limit=lambda method, path: 1_000)
        self.connections = Connections(
            self.network,
            httpcore.default_ssl_context(),
            connections_max=2,
            idle_seconds_max=idle_seconds_max,
        )

    async def _answer(self, request: Request) -> Response:
        await self.gate.wait()
        if request.path == "/cut":
            raise Cut(reset=True)
        return Response(body=b"x" * 100_000)

    def request(self, path: str = "/", pool_seconds: float | None = None) -> httpcore.Request:
        return httpcore.Request(
            "GET",
            self.http.base_url + path,
            headers=[(b"host", b"here")],
            extensions={"timeout": {"pool": pool_seconds}},
        )

    async def get(self, path: str = "/") -> int:
        answer = await self.connections.handle(self.request(path))
        try:
            return len(await answer.aread())
        finally:
            await answer.aclose()


@asynccontextmanager
async def place(idle_seconds_max: float = 5.0) -> AsyncIterator[Place]:
    here = Place(idle_seconds_max)
    async with trio.open_nursery() as nursery:
        await nursery.start(here.http.run)
        yield here
        await here.connections.aclose()
        nursery.cancel_scope.cancel()


async def test_one_after_the_other_shares_a_connection() -> None:
    """Ten requests, one connection, which rests in the end; none rests after closing."""
    async with place() as here:
        for _ in range(10):
            assert await here.get() == 100_000
        assert (here.network.opened, here.connections.resting) == (1, 1)
    assert here.connections.resting == 0


async def test_more_than_the_limit_wait_for_room_and_not_for_ever() -> None:
    """Two at a time; a third one gets its place when one ends, or PoolTimeout, having sent nothing."""
    async with place() as here:
        here.gate = trio.Event()
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(here.get)
            await until(lambda: here.http.requests == 2)
            with pytest.raises(httpcore.PoolTimeout):
                await here.connections.handle(here.request(pool_seconds=0.05))
            nursery.start_soon(here.get)
            await trio.sleep(0.05)
            assert here.http.requests == 2
            here.gate.set()
        assert here.http.requests == 3
        assert (here.network.opened, here.connections.resting) == (2, 2)


async def test_what_the_server_closed_or_rested_too_long_is_not_used() -> None:
    """A new connection each time, and no error."""
    async with place() as here:
        await here.get()
        here.http.go_down(0.05)
        await trio.sleep(0.2)
        await trio.testing.wait_all_tasks_blocked()
        assert await here.get() == 100_000
        assert here.network.opened == 2
    async with place(idle_seconds_max=0.05) as here:
        await here.get()
        await trio.sleep(0.1)
        await here.get()
        assert (here.network.opened, here.connections.resting) == (2, 1)


async def test_an_exchange_that_breaks_gives_its_place_back() -> None:
    """Cut by the server, cancelled by the caller, its answer left unread: the room is there again each time,
    and the connection is not used again."""
    async with place() as here:
        for _ in range(3):
            with pytest.raises(httpcore.ReadError):
                await here.get("/cut")
        for _ in range(3):
            here.gate = trio.Event()
            with trio.move_on_after(0.05):
                await here.get()
            here.gate.set()
        for _ in range(3):
            answer = await here.connections.handle(here.request())
            await answer.aclose()
            await answer.aclose()
        opened = here.network.opened
        assert here.connections.resting == 0
        assert await here.get() == 100_000
        assert here.network.opened == opened + 1
