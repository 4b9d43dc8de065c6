"""The load client against small servers that behave and misbehave."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from adapters.simulators.accounts import demo_account
from bench.client import LoadClient, LoadFailed, parse_answer
from bench.webhooks import Traffic

pytestmark = pytest.mark.real_time

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
Answer = Callable[[trio.SocketStream, int], Awaitable[bool]]


async def read_request(stream: trio.SocketStream, buffer: bytearray) -> bytes | None:
    """One request off a connection; None at its end."""
    while True:
        head, found, _ = bytes(buffer).partition(b"\r\n\r\n")
        if found:
            length = next(
                int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:")
            )
            if len(buffer) >= len(head) + 4 + length:
                request = bytes(buffer[: len(head) + 4 + length])
                del buffer[: len(request)]
                return request
        data = await stream.receive_some(65536)
        if not data:
            return None
        buffer += data


@asynccontextmanager
async def server(answer: Answer) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Serve with `answer(stream, number of the request)`, which says whether the connection goes on."""
    seen: list[bytes] = []

    async def handle(stream: trio.SocketStream) -> None:
        buffer = bytearray()
        async with stream:
            while (request := await read_request(stream, buffer)) is not None:
                seen.append(request)
                if not await answer(stream, len(seen) - 1):
                    return

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, handle, listeners)
        yield f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/hook", seen
        nursery.cancel_scope.cancel()


async def answer_ok(stream: trio.SocketStream, number: int) -> bool:
    await stream.send_all(OK)
    return True


async def test_an_open_loop_sends_each_request_once_and_counts_every_answer() -> None:
    """200/s for 0.2 s are 40 requests, 40 acknowledgements, 40 latencies, each request as encoded."""
    async with server(answer_ok) as (url, seen):
        traffic = Traffic(url, demo_account())
        outcome = await LoadClient(traffic, rate=200, seconds=0.2, connections=4).run()
    assert (outcome.sent, outcome.acknowledged, outcome.broken, outcome.unanswered) == (40, 40, 0, 0)
    assert len(outcome.latency) == len(outcome.lag) == 40
    assert sorted(outcome.acknowledged_numbers) == list(range(40))
    assert sorted(seen) == sorted(traffic.requests)


async def test_a_closed_loop_goes_on_for_the_time_and_encodes_what_it_needs() -> None:
    """With nothing encoded beforehand it tops up, and at the end nothing is left without an answer."""
    async with server(answer_ok) as (url, seen):
        traffic = Traffic(url, demo_account())
        outcome = await LoadClient(traffic, seconds=0.3, connections=8).run()
    assert outcome.sent == outcome.acknowledged == len(seen) > 8
    assert outcome.unanswered == 0


async def test_latency_counts_from_the_moment_a_request_was_due() -> None:
    """One stall of 0.3 s on the only connection is charged to every request that had to wait behind it."""

    async def stall_once(stream: trio.SocketStream, number: int) -> bool:
        if number == 0:
            await trio.sleep(0.3)
        return await answer_ok(stream, number)

    async with server(stall_once) as (url, _):
        outcome = await LoadClient(Traffic(url, demo_account()), rate=100, seconds=0.2, connections=1).run()
    assert outcome.acknowledged == 20
    # The last was due 0.1 s before the stall ended; counted from the sending, all but one would be tiny.
    assert outcome.latency.smallest >= 90_000_000
    assert outcome.latency.largest >= 300_000_000


async def test_a_lost_connection_breaks_its_request_and_no_other() -> None:
    """The request is not repeated (its outcome is unknown) and the client connects again for the next."""

    async def hang_up(stream: trio.SocketStream, number: int) -> bool:
        return number % 5 != 0 and await answer_ok(stream, number)

    async with server(hang_up) as (url, seen):
        outcome = await LoadClient(Traffic(url, demo_account()), rate=200, seconds=0.1, connections=2).run()
    assert len(seen) == outcome.sent == 20
    assert (outcome.acknowledged, outcome.broken) == (16, 4)


async def test_other_answers_than_200_are_counted_and_not_acknowledged() -> None:
    """A 503 has no latency and no place among the acknowledged numbers; `close` is respected."""

    async def refuse(stream: trio.SocketStream, number: int) -> bool:
        await stream.send_all(b"HTTP/1.1 503 Busy\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        return False

    async with server(refuse) as (url, _):
        outcome = await LoadClient(Traffic(url, demo_account()), rate=100, seconds=0.1, connections=2).run()
    assert outcome.statuses == {503: 10}
    assert (outcome.acknowledged, outcome.broken, len(outcome.latency)) == (0, 0, 0)


async def test_an_answer_in_pieces_is_put_together() -> None:
    """Head and body cut anywhere, one byte at a time."""

    async def dribble(stream: trio.SocketStream, number: int) -> bool:
        for place in range(len(OK)):
            await stream.send_all(OK[place : place + 1])
            await trio.lowlevel.checkpoint()
        return True

    async with server(dribble) as (url, _):
        outcome = await LoadClient(Traffic(url, demo_account()), rate=50, seconds=0.1, connections=1).run()
    assert outcome.acknowledged == 5


async def test_a_server_that_never_answers_ends_the_run_at_its_deadline() -> None:
    """What was sent is unanswered, neither acknowledged nor broken."""

    async def silence(stream: trio.SocketStream, number: int) -> bool:
        return True

    async with server(silence) as (url, _):
        client = LoadClient(
            Traffic(url, demo_account()), rate=100, seconds=0.1, connections=2, drain_seconds_max=0.1
        )
        outcome = await client.run()
    assert (outcome.sent, outcome.unanswered, outcome.acknowledged, outcome.broken) == (2, 2, 0, 0)


async def test_where_nobody_listens_the_load_fails() -> None:
    """It does not pretend to have measured something."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    await listeners[0].aclose()
    with pytest.raises(LoadFailed, match="nobody answers"):
        await LoadClient(Traffic(f"http://127.0.0.1:{port}/", demo_account()), seconds=5).run()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (OK, (200, True)),
        (OK[:-1], None),
        (b"HTTP/1.1 200 OK\r\nContent-Le", None),
        (b"HTTP/1.1 401 No\r\ncontent-length:0\r\nconnection: close\r\n\r\n", (401, False)),
        (b"HTTP/1.1 204 No Content\r\n\r\n", (204, True)),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", None),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", (200, True)),
    ],
)
def test_an_answer_is_taken_when_it_is_whole(data: bytes, expected: tuple[int, bool] | None) -> None:
    """By length or by the last chunk; None asks for more bytes."""
    assert parse_answer(data) == expected


@pytest.mark.parametrize("data", [b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\nuntil the end"])
def test_what_is_no_answer_of_known_length_fails_the_load(data: bytes) -> None:
    """Another protocol, or a body that only the end of the connection would end."""
    with pytest.raises(LoadFailed):
        parse_answer(data)
