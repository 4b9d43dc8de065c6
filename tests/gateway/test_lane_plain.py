"""What is refused unread under overload: only what is framed plainly, with the answer that it would get."""

import json
import os
import select
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from typing import Final

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from gateway.admission import STANDING_SECONDS
from gateway.lane import answer as answers
from gateway.lane.line import OpenDoor
from gateway.lane.parser import read_head
from gateway.lane.plain import HEAD_BYTES_MAX, plain_request
from gateway.lane.poller import WORKED_MAX, Poller
from gateway.security_headers import SECURITY_HEADERS
from gateway.webhooks import Answer, WebhookLimits
from tests.gateway.test_lane import POLLED, Client, head, served
from tests.gateway.test_lane_differential import CORPUS, Maker, Way
from tests.gateway.test_webhooks import Edge, change, delivery, entry

MAKER: Final = Maker(
    Way(port=0, number_id="1", path="/api/webhooks/whatsapp/k", plain_path="/api/webhooks/whatsapp")
)

PLAIN: Final = {
    "a delivery",
    "without the key in the path",
    "with a query",
    "keeping alive",
    "a header twice",
    "many headers",
    "a body that is too large",
    "an empty value",
    "a name in capitals",
    "leading zeros in the length",
    "a bad signature",
    "no signature",
    "not JSON",
    "another JSON",
    "an unknown platform",
    "an unknown key",
}
"""Of the corpus that the lane and the plain route are compared with: what may be refused unread."""


def agrees(raw: bytes) -> bool:
    """Whether it is taken for plain; then the parser must read the same, or this fails."""
    plain = plain_request(raw)
    if plain is None:
        return False
    place, body = plain
    end = raw.index(b"\r\n\r\n") + 4
    head = read_head(raw[:end])
    assert head.path == f"/api/webhooks/{place}"
    assert body == raw[end:]
    assert head.length == len(body)
    assert head.keep_alive
    assert not head.wants_continue
    return True


@pytest.mark.parametrize("name", CORPUS)
def test_what_is_plain_the_parser_reads_alike(name: str) -> None:
    """All exchanges that the lane and the plain route are compared with."""
    assert agrees(CORPUS[name](MAKER)) is (name in PLAIN)


NAMES: Final = st.sampled_from(
    [
        "Host",
        "host",
        "Content-Length",
        "content-length",
        "Content-Length ",
        "Transfer-Encoding",
        "transfer-encoding",
        "Connection",
        "Proxy-Connection",
        "Keep-Alive",
        "Upgrade",
        "Expect",
        "TE",
        "Trailer",
        "Content-Type",
        "Content-Encoding",
        "Accept",
        "X-A",
        "x_a",
        "",
        " X-A",
    ]
)
VALUES: Final = st.sampled_from(
    [
        "x",
        "5",
        "05",
        "+5",
        "5 ",
        " 5",
        "5, 5",
        "0x5",
        "close",
        "keep-alive",
        "Keep-Alive, close",
        "chunked",
        "identity",
        "gzip, chunked",
        "websocket",
        "h2c",
        "100-continue",
        "",
        "a\tb",
        "a\x00b",
        "\x7f",
    ]
)
SEPARATORS: Final = st.sampled_from([": ", ":", " : ", ":\t", ":  "])
ENDS: Final = st.sampled_from(["\r\n", "\r\n", "\r\n", "\r\n", "\n", "\r", "\r\n ", "\r\r\n"])
LINES: Final = st.lists(st.tuples(NAMES, SEPARATORS, VALUES, ENDS).map("".join), max_size=4)
STARTS: Final = st.sampled_from(
    [
        "POST /api/webhooks/whatsapp HTTP/1.1",
        "POST /api/webhooks/whatsapp/k?a=b HTTP/1.1",
        "POST  /api/webhooks/a HTTP/1.1",
        "POST /api/webhooks/a HTTP/1.0",
        "POST /api/webhooks/a/b/c HTTP/1.1",
        "POST /api/webhooks/../x HTTP/1.1",
        "POST /api/webhooks/a HTTP/1.1 ",
        "GET /api/webhooks/a HTTP/1.1",
    ]
)
FRAMINGS: Final = st.sampled_from(
    [
        ("Host: x\r\n", "Content-Length: 5\r\n"),
        ("content-length:5\r\n", "host:x\r\n"),
        ("Host: x\r\n", ""),
        ("", "Content-Length: 5\r\n"),
        ("Host: x\r\n", "Content-Length: 4\r\n"),
    ]
)


@given(
    before=LINES,
    between=LINES,
    behind=LINES,
    start=STARTS,
    framing=FRAMINGS,
    body=st.sampled_from([b"hello", b"", b"hell", b"hello POST", b"5\r\nhello\r\n0\r\n\r\n"]),
)
def test_no_framing_is_doubtful_and_plain(
    before: list[str],
    between: list[str],
    behind: list[str],
    start: str,
    framing: tuple[str, str],
    body: bytes,
) -> None:
    """Whatever lines a request is put together from: the parser agrees, or it is not plain."""
    lines = "".join((*before, framing[0], *between, framing[1], *behind))
    agrees(f"{start}\r\n{lines}\r\n".encode("latin-1") + body)


@given(at=st.integers(0, 400), byte=st.binary(min_size=1, max_size=2), instead=st.booleans())
def test_no_changed_byte_makes_a_doubtful_request_plain(at: int, byte: bytes, instead: bool) -> None:
    """One or two bytes put into a plain request, or in the place of its own."""
    raw = MAKER.post("Connection: keep-alive", body=b'{"object":"whatsapp_business_account"}')
    at = min(at, len(raw))
    agrees(raw[:at] + byte + raw[at + (len(byte) if instead else 0) :])


def test_a_long_head_is_not_looked_at_for_long() -> None:
    """The pattern cannot be made to go back and forth over it."""
    assert plain_request(MAKER.post(f"X-A: {'a' * HEAD_BYTES_MAX}")) is None
    for line in ("a" * 60_000, "a:" * 30_000, "a: b\r\n" * 10_000, "content-length: 1\r\n" * 3_000):
        assert plain_request(f"POST /api/webhooks/a HTTP/1.1\r\nHost: x\r\n{line}\r\n\r\n".encode()) is None


def test_a_template_gives_the_answer_that_is_encoded() -> None:
    """Byte for byte, the date apart."""

    def undated(data: bytes) -> list[bytes]:
        return [line for line in data.split(b"\r\n") if not line.startswith(b"date:")]

    answer = Answer(
        status=503, headers={"Content-Type": "application/json", "Retry-After": "2"}, body=b'{"a":"?"}'
    )
    traced = Answer(status=503, headers={**answer.headers, "X-Request-Id": "f" * 32}, body=answer.body)
    filled = answers.Template(answer).filled("f" * 32)
    assert undated(filled) == undated(answers.encode(traced, close=False))
    assert all(f"{name.lower()}: {value}".encode() in filled for name, value in SECURITY_HEADERS.items())


@pytest.fixture
def polled() -> Iterator[None]:
    """The lane answers what it can without the connection's task, as it does in the program."""
    POLLED.append(True)
    yield
    POLLED.pop()


def compact(number: str, text: str, *, secret: str = "s1") -> bytes:
    """As the platform writes it: only then a look tells whose it is."""
    body = json.dumps(delivery(change(number, text)), separators=(",", ":")).encode()
    return head(body, secret=secret) + body


@pytest.mark.real_time
async def test_a_flood_is_refused_unread_on_connections_that_stay(polled: None) -> None:
    """While eight of its deliveries wait and a queue stands, the flood's others are told 503 at once, signed
    or not, and so many on one connection; what is not framed plainly is told the same by the long way.
    Another tenant is served, and so is the flood when its queue is gone."""
    edge = Edge(
        entry("1", tenant=10, secret="s1"),
        entry("2", tenant=20, secret="s2"),
        limits=WebhookLimits(in_flight_max=12),
    )
    edge.intake.held = trio.Event()
    async with served(edge=edge) as server, AsyncExitStack() as stack:
        flood = [await stack.enter_async_context(server.client()) for _ in range(8)]
        for client in flood[:7]:
            await client.send(compact("1", "flood"))
        await server.handed_on(7)
        await trio.sleep(3 * STANDING_SECONDS)
        await flood[7].send(compact("1", "flood"))
        await server.handed_on(8)
        client = await stack.enter_async_context(server.client())
        seen = set()
        for number in range(20):
            await client.send(compact("1", f"too much {number}", secret="not his"))
            status, headers, body = await client.answer()
            assert (status, json.loads(body)["code"], headers["retry-after"]) == (503, "over_share", "2")
            seen.add(headers["x-request-id"])
        assert len(seen) == 20
        await client.send(compact("1", "x").replace(b"Host: x", b"Host:\tx"))
        assert await client.status() == 503
        await client.send(compact("1", "x")[:-5])
        await trio.testing.wait_all_tasks_blocked(0.01)  # it is read on its own
        await client.send(compact("1", "x")[-5:])
        assert await client.status() == 503
        await client.send(compact("1", "x") * 3)
        assert [await client.status() for _ in range(3)] == [503] * 3
        other = await stack.enter_async_context(server.client())
        await other.send(compact("2", "other", secret="s2"))
        await server.handed_on(14)  # five of them refused by the long way
        edge.intake.held.set()
        assert await other.status() == 200
        assert [await one.status() for one in flood] == [200] * 8
        await client.send(compact("1", "again"))
        assert await client.status() == 200
    assert len(edge.intake.deliveries) == 10
    assert edge.count("shed") == 25


@pytest.mark.real_time
async def test_a_refusal_waits_for_nobody_who_is_served(polled: None) -> None:
    """Twenty requests come at once while four wait and a queue stands. Four more have room; the other sixteen
    are answered before the first of the four is begun, whatever the order they came in."""
    edge = Edge(entry("1", tenant=10, secret="s1"), limits=WebhookLimits(in_flight_max=12))
    edge.intake.held = trio.Event()
    async with served(edge=edge) as server, AsyncExitStack() as stack:
        flood = [await stack.enter_async_context(server.client()) for _ in range(24)]
        for client in flood[:3]:
            await client.send(compact("1", "flood"))
        await server.handed_on(3)
        await trio.sleep(1.5 * STANDING_SECONDS)
        await flood[3].send(compact("1", "flood"))
        await server.handed_on(4)
        answered: list[int] = []
        server.on_begin = lambda: answered.append(len(readable(flood[4:])))
        for client in flood[4:]:
            os.write(client.stream.socket.fileno(), compact("1", "too much"))  # all in one turn of the loop
        await server.handed_on(8)
        assert answered == [16] * 4
        refused = readable(flood[4:])
        assert [await client.status() for client in refused] == [503] * 16
        edge.intake.held.set()
        assert [await client.status() for client in flood if client not in refused] == [200] * 8
        for client in flood:  # every place is free again
            await client.send(compact("1", "again"))
        assert [await client.status() for client in flood] == [200] * 24


def readable(clients: Sequence[Client]) -> list[Client]:
    """Those that have something to read."""
    ready, _, _ = select.select([client.stream.socket for client in clients], [], [], 0)
    return [client for client in clients if client.stream.socket in ready]


class Counted:
    """A watcher that says what its turn cost."""

    def __init__(self, reader: int, *, costs: bool) -> None:
        self.reader = reader
        self.costs = costs
        self.turns = 0

    def read(self) -> bool:
        os.read(self.reader, 1)
        return True

    def enter(self) -> int | None:
        return 0

    def work(self, ready: float) -> bool:
        self.turns += 1
        return self.costs


@pytest.mark.real_time
@pytest.mark.parametrize("costs", [True, False])
async def test_what_costs_nothing_does_not_wait_behind_what_does(costs: bool) -> None:
    """Of a hundred requests so many are begun in one turn of the loop; of refusals, all that time allows."""
    poller = Poller(OpenDoor())
    async with trio.open_nursery() as nursery:
        pipes = [os.pipe() for _ in range(100)]
        watchers = [Counted(reader, costs=costs) for reader, _ in pipes]
        await nursery.start(poller.run)
        for watcher, (_, writer) in zip(watchers, pipes, strict=True):
            poller.watch(watcher.reader, watcher)
            os.write(writer, b"x")
        turns = 0
        while (worked := sum(one.turns for one in watchers)) < len(watchers):
            turns += worked > 0
            await trio.lowlevel.checkpoint()
        for watcher in watchers:
            poller.leave(watcher.reader)
        nursery.cancel_scope.cancel()
    for ends in pipes:
        for end in ends:
            os.close(end)
    assert turns >= len(watchers) // WORKED_MAX - 1 if costs else turns < len(watchers) // WORKED_MAX - 1
