"""The simulator's HTTP server, on real sockets."""

import httpx
import pytest
import trio

from adapters.simulators.http import Cut, HttpLimits, HttpServer, Request, Response
from tests.patience import PATIENCE_SECONDS
from tests.plain import PLAIN
from tests.simulators.receiver import listening


async def _echo(request: Request) -> Response:
    if request.path == "/cut":
        raise Cut(reset=True)
    if request.path == "/drip":
        return Response(200, b"x" * 500, pace_bytes_per_second=5_000)
    return Response(200, request.body or request.query.get("say", "").encode(), "text/plain")


async def _raw(port: int, sent: bytes) -> bytes:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        await stream.send_all(sent)
        received = b""
        with trio.fail_after(PATIENCE_SECONDS):
            async for piece in stream:
                received += piece
    return received


async def test_bodies_of_both_framings_arrive_whole_on_one_connection() -> None:
    """Content-Length and chunked bodies are read, and the connection is used again."""

    async def pieces() -> "trio.abc.AsyncIterator[bytes]":  # type: ignore[name-defined]
        for piece in (b"one ", b"two ", b"three"):
            yield piece

    async with (
        listening(_echo) as server,
        httpx.AsyncClient(timeout=PATIENCE_SECONDS, **PLAIN) as client,
    ):
        first = await client.post(server.base_url, content=b"whole")
        second = await client.post(server.base_url, content=pieces())
        third = await client.get(f"{server.base_url}/x", params={"say": "a&b"})
        assert (first.text, second.text, third.text) == ("whole", "one two three", "a&b")
        assert server.connections == 1


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2000\r\n\r\n", b"413"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n7d0\r\n" + b"x" * 2_000, b"413"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 70_000, b"431"),
        (b"NONSENSE\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n", b"400"),
    ],
)
async def test_what_is_too_large_or_malformed_is_refused_and_the_connection_closed(
    sent: bytes, status: bytes
) -> None:
    """413 for bodies of both framings, 431 for headers, 400 for what is not HTTP."""
    async with listening(_echo, body_bytes_max=1_000) as server:
        assert (await _raw(server.port, sent)).split()[1] == status


async def test_an_expected_continue_is_given() -> None:
    """A client that waits for 100 gets it before it sends the body."""
    async with listening(_echo) as server:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        async with stream:
            head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
            await stream.send_all(head)
            with trio.fail_after(PATIENCE_SECONDS):
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 100")
                await stream.send_all(b"hi")
                assert (await stream.receive_some()).endswith(b"hi")


async def test_a_cut_resets_the_connection_and_the_server_lives_on() -> None:
    """The client sees a broken connection; the next call is answered."""
    async with (
        listening(_echo) as server,
        httpx.AsyncClient(timeout=PATIENCE_SECONDS, **PLAIN) as client,
    ):
        with pytest.raises(httpx.TransportError):
            await client.get(f"{server.base_url}/cut")
        assert (await client.get(server.base_url)).status_code == 200


async def test_a_paced_body_arrives_whole_and_in_pieces() -> None:
    """500 bytes at 5000 a second take several reads."""
    async with (
        listening(_echo) as server,
        httpx.AsyncClient(timeout=PATIENCE_SECONDS, **PLAIN) as client,
    ):
        pieces = []
        async with client.stream("GET", f"{server.base_url}/drip") as response:
            pieces = [piece async for piece in response.aiter_raw()]
        assert b"".join(pieces) == b"x" * 500
        assert len(pieces) > 1


async def test_a_server_that_goes_down_refuses_and_comes_back_on_its_port() -> None:
    """Open connections are cut, new ones refused, and the same address works again afterwards."""
    async with (
        listening(_echo) as server,
        httpx.AsyncClient(timeout=PATIENCE_SECONDS, **PLAIN) as client,
    ):
        assert (await client.get(server.base_url)).status_code == 200
        server.go_down(60)
        await trio.sleep(0.05)
        with pytest.raises(httpx.TransportError):
            await client.get(server.base_url)
        with pytest.raises(httpx.ConnectError):
            await client.get(server.base_url)
        server.come_up()
        await trio.sleep(0.05)
        assert (await client.get(server.base_url)).status_code == 200


async def test_a_silent_peer_is_let_go() -> None:
    """A connection that sends nothing, or half a request, ends after its time."""
    server = HttpServer(
        _echo,
        body_limit=lambda method, path: 1_000,
        limits=HttpLimits(idle_seconds_max=0.5, request_seconds_max=0.05),
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        assert await _raw(server.port, b"") == b""
        half = await _raw(server.port, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab")
        assert half.split()[1] == b"408"
        nursery.cancel_scope.cancel()
