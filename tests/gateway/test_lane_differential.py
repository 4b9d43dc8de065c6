"""The same bytes to two complete systems, one with the webhook lane and one without: the answers compared.

For each exchange: every answer's status, the envelope's code, the headers, and whether the connection then
takes another request. Where the two differ on purpose, `DIFFERENT` says how and for which of the numbered
reasons in `gateway.lane`; an entry that is no longer true fails as well.
"""

import hashlib
import hmac
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import count
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
import trio
from msgspec import Struct

from tests.gateway.conftest import APP_SECRET, Business, System
from tests.gateway.test_lane import Client
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.real_time

_numbers = count(1)


class Answered(Struct, frozen=True):
    """What one exchange led to. `answers` are (status, envelope code or None)."""

    answers: tuple[tuple[int, str | None], ...]
    stays_open: bool


class Way(Struct, frozen=True):
    """One of the systems, with a business in it."""

    port: int
    number_id: str
    path: str
    plain_path: str


class Maker:
    """The parts that a request is put together from, for one system."""

    def __init__(self, way: Way) -> None:
        self.way = way

    def body(self) -> bytes:
        value = {
            "messaging_product": "whatsapp",
            "metadata": {"display_phone_number": "966500000000", "phone_number_id": self.way.number_id},
            "contacts": [{"profile": {"name": "Sara"}, "wa_id": "966500000001"}],
            "messages": [
                {
                    "from": "966500000001",
                    "id": f"wamid.diff.{next(_numbers)}",
                    "timestamp": "1772355599",
                    "type": "text",
                    "text": {"body": "hello"},
                }
            ],
        }
        entry = {"id": f"9{self.way.number_id}", "changes": [{"field": "messages", "value": value}]}
        return json.dumps({"object": "whatsapp_business_account", "entry": [entry]}).encode()

    def post(
        self,
        *lines: str,
        body: bytes | None = None,
        path: str = "",
        start: str = "",
        sent: bytes | None = None,
        signature: str = "",
        framing: str = "Content-Length: {length}",
        host: str = "Host: x",
    ) -> bytes:
        """A signed delivery. `{length}` in lines is filled in; `sent` goes over the wire as the body."""
        body = self.body() if body is None else body
        signed = "sha256=" + hmac.new(APP_SECRET.encode(), body, hashlib.sha256).hexdigest()
        start = start or f"POST {path or self.way.path} HTTP/1.1"
        parts = [start, host, "Content-Type: application/json", f"X-Hub-Signature-256: {signature or signed}"]
        parts += [framing, *lines]
        text = "\r\n".join(part for part in parts if part).replace("{length}", str(len(body)))
        return text.encode("latin-1") + b"\r\n\r\n" + (body if sent is None else sent)

    def chunked(
        self, *lines: str, size: int = 100, end: bytes = b"0\r\n\r\n", line: bytes = b"%x\r\n"
    ) -> bytes:
        body = self.body()
        parts = [body[at : at + size] for at in range(0, len(body), size)]
        sent = b"".join(line % len(part) + part + b"\r\n" for part in parts) + end
        return self.post(*lines, body=body, sent=sent, framing="Transfer-Encoding: chunked")


GET: Final = b"GET /api/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
# Not a login: those are rationed by address, and other tests may have used the ration up.
ELSEWHERE: Final = b"POST /api/nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"

CORPUS: Final[Mapping[str, Callable[[Maker], bytes]]] = {
    # sound
    "a delivery": lambda m: m.post(),
    "without the key in the path": lambda m: m.post(path=m.way.plain_path),
    "with a query": lambda m: m.post(path=m.way.path + "?a=b&c=%20<>\"'"),
    "chunked": lambda m: m.chunked(),
    "chunked in single bytes": lambda m: m.chunked(size=20),
    "chunked, capital letters": lambda m: m.post(
        body=(body := m.body()),
        sent=b"%X\r\n" % len(body) + body + b"\r\n0\r\n\r\n",
        framing="TRANSFER-ENCODING: CHUNKED",
    ),
    "chunked with extensions": lambda m: m.chunked(line=b'%x;name="value"\r\n'),
    "chunked with trailers": lambda m: m.chunked(end=b"0\r\nX-Checksum: 1\r\n\r\n"),
    "chunked with leading zeros": lambda m: m.chunked(line=b"000%x\r\n"),
    "pipelined": lambda m: m.post() + m.post(signature="sha256=00") + m.chunked() + m.post(),
    "pipelined with another request": lambda m: m.post() + GET + m.post() + ELSEWHERE + m.post(),
    "closing": lambda m: m.post("Connection: close"),
    "closing, in a list": lambda m: m.post("Connection: keep-alive, Close"),
    "keeping alive": lambda m: m.post("Connection: keep-alive"),
    "HTTP/1.0": lambda m: m.post(start=f"POST {m.way.path} HTTP/1.0"),
    "HTTP/1.0 without a host": lambda m: m.post(start=f"POST {m.way.path} HTTP/1.0", host=""),
    "HTTP/1.0 kept alive": lambda m: m.post("Connection: keep-alive", start=f"POST {m.way.path} HTTP/1.0"),
    "a header twice": lambda m: m.post("X-A: 1", "X-A: 2"),
    "spaces around a value": lambda m: m.post("X-A: \t 1 \t "),
    "spaces behind the length": lambda m: m.post(framing="Content-Length:   {length}  "),
    "leading zeros in the length": lambda m: m.post(framing="Content-Length: 000{length}"),
    "an empty value": lambda m: m.post("X-A:"),
    "a value beyond ASCII": lambda m: m.post("X-A: é"),
    "a name in capitals": lambda m: m.post(framing="CONTENT-LENGTH: {length}"),
    "an expectation nobody knows": lambda m: m.post("Expect: miracles"),
    "an expectation with the body sent along": lambda m: m.post("Expect: 100-continue"),
    "an upgrade to h2c": lambda m: m.post("Connection: upgrade", "Upgrade: h2c"),
    "an upgrade to websocket": lambda m: m.post("Connection: upgrade", "Upgrade: websocket"),
    "many headers": lambda m: m.post(*(f"X-{n}: {n}" for n in range(300))),
    # refused by the handler
    "a bad signature": lambda m: m.post(signature="sha256=00"),
    "no signature": lambda m: m.post(signature=" "),
    "no body": lambda m: m.post(body=b"", framing=""),
    "not JSON": lambda m: m.post(body=b"\xff\xfe{"),
    "another JSON": lambda m: m.post(body=b"[1]"),
    "an unknown platform": lambda m: m.post(path="/api/webhooks/nowhere"),
    "an unknown key": lambda m: m.post(path=m.way.plain_path + "/unknown"),
    "a body that is too large": lambda m: m.post(body=b"x" * 3_200_000),
    # addresses that are the router's business
    "a trailing slash": lambda m: m.post(path=m.way.path + "/"),
    "a double slash": lambda m: m.post(path="/api/webhooks//whatsapp"),
    "no platform": lambda m: m.post(path="/api/webhooks/"),
    "three segments": lambda m: m.post(path=m.way.path + "/more"),
    "percent-encoded letters": lambda m: m.post(path=m.way.path.replace("whatsapp", "%77hatsapp")),
    "a percent-encoded slash": lambda m: m.post(path="/api/webhooks/whatsapp%2fkey"),
    "a percent-encoded dot": lambda m: m.post(path="/api/webhooks/%2e%2e/landlord/auth/login"),
    "dots": lambda m: m.post(path="/api/webhooks/../landlord/auth/login"),
    "dots at the end": lambda m: m.post(path="/api/webhooks/whatsapp/.."),
    "a dot": lambda m: m.post(path="/api/webhooks/./whatsapp"),
    "a parameter": lambda m: m.post(path="/api/webhooks/whatsapp;x=1"),
    "a fragment": lambda m: m.post(path="/api/webhooks/whatsapp#x"),
    "a backslash": lambda m: m.post(path="/api/webhooks\\whatsapp"),
    "absolute form": lambda m: m.post(path="http://x" + m.way.path),
    "absolute form, elsewhere": lambda m: m.post(path="http://elsewhere.example" + m.way.path),
    "a broken percent sign": lambda m: m.post(path="/api/webhooks/whatsapp%zz"),
    # other methods
    "lower-case method": lambda m: m.post(start=f"post {m.way.path} HTTP/1.1"),
    "mixed-case method": lambda m: m.post(start=f"Post {m.way.path} HTTP/1.1"),
    "GET with a body": lambda m: m.post(start=f"GET {m.way.path} HTTP/1.1"),
    "a method beginning with POST": lambda m: m.post(start=f"POSTS {m.way.path} HTTP/1.1"),
    "an empty line before": lambda m: b"\r\n" + m.post(),
    "a space before": lambda m: b" " + m.post(),
    "something else entirely": lambda m: b"\x16\x03\x01\x02\x00" * 10 + b"\r\n\r\n",
    # broken
    "no host": lambda m: m.post(host=""),
    "two hosts": lambda m: m.post("Host: y"),
    "a signed length": lambda m: m.post(framing="Content-Length: +{length}"),
    "a negative length": lambda m: m.post(framing="Content-Length: -1"),
    "a hexadecimal length": lambda m: m.post(framing="Content-Length: 0x10"),
    "an empty length": lambda m: m.post(framing="Content-Length: "),
    "a length with an underscore": lambda m: m.post(framing="Content-Length: 1_0"),
    "an endless length": lambda m: m.post(framing="Content-Length: " + "9" * 25),
    "two different lengths": lambda m: m.post("Content-Length: 1"),
    "different lengths in a list": lambda m: m.post(framing="Content-Length: {length}, 1"),
    "a space before the colon": lambda m: m.post("X-A : 1"),
    "a space in a name": lambda m: m.post("X A: 1"),
    "no colon": lambda m: m.post("X-A"),
    "no name": lambda m: m.post(": 1"),
    "a name beyond ASCII": lambda m: m.post("é: 1"),
    "a zero byte in a value": lambda m: m.post("X-A: 1\0"),
    "a zero byte in a name": lambda m: m.post("X\0A: 1"),
    "a control character in a value": lambda m: m.post("X-A: 1\x7f2"),
    "a bare carriage return": lambda m: m.post("X-A: 1\r2"),
    "a vertical tab before a value": lambda m: m.post(framing="Transfer-Encoding:\x0bchunked"),
    "another coding": lambda m: m.post(framing="Transfer-Encoding: identity"),
    "a coding before chunked": lambda m: m.post(framing="Transfer-Encoding: gzip, chunked"),
    "a coding behind chunked": lambda m: m.post(framing="Transfer-Encoding: chunked, gzip"),
    "chunked twice": lambda m: m.chunked("Transfer-Encoding: chunked"),
    "two spaces in the request line": lambda m: m.post(start=f"POST {m.way.path}  HTTP/1.1"),
    "a space in the target": lambda m: m.post(start="POST /api/webhooks/whats app HTTP/1.1"),
    "a tab in the request line": lambda m: m.post(start=f"POST {m.way.path}\tHTTP/1.1"),
    "no version": lambda m: m.post(start=f"POST {m.way.path}"),
    "version 2.0": lambda m: m.post(start=f"POST {m.way.path} HTTP/2.0"),
    "version 1.2": lambda m: m.post(start=f"POST {m.way.path} HTTP/1.2"),
    "version of two digits": lambda m: m.post(start=f"POST {m.way.path} HTTP/1.10"),
    "lower-case version": lambda m: m.post(start=f"POST {m.way.path} http/1.1"),
    "a zero byte in the target": lambda m: m.post(path="/api/webhooks/whats\0app"),
    "a target beyond ASCII": lambda m: m.post(path="/api/webhooks/whatsäpp"),
    "an endless head": lambda m: m.post("X-A: " + "a" * 100_000),
    "a broken chunk": lambda m: m.chunked(line=b"%xg\r\n"),
    "a chunk without a size": lambda m: m.chunked(end=b"\r\n0\r\n\r\n"),
    "a chunk that is longer than its size": lambda m: m.chunked(end=b"1\r\nab\r\n0\r\n\r\n"),
    "a trailer that is none": lambda m: m.chunked(end=b"0\r\nnone\r\n\r\n"),
    # what h11 repairs
    "a length and a coding": lambda m: m.chunked("Content-Length: 5"),
    "the same length twice": lambda m: m.post("Content-Length: {length}"),
    "the same length in a list": lambda m: m.post(framing="Content-Length: {length}, {length}"),
    "a coding in HTTP/1.0": lambda m: m.chunked().replace(b" HTTP/1.1", b" HTTP/1.0"),
    "a folded line": lambda m: m.post("X-A: 1\r\n 2"),
    "bare line feeds": lambda m: m.post(body=b"").replace(b"\r\n", b"\n"),
    "one bare line feed": lambda m: m.post("X-A: 1\nX-B: 2"),
    "a large head in one piece": lambda m: m.post("X-A: " + "a" * 20_000),
}

FRAMING_CODES: Final = {400: "bad_request", 431: "too_large", 501: "not_supported"}
"""Reason 2: what Hypercorn refuses without a body, the lane refuses in the envelope."""

REFUSED: Final = Answered(((400, "bad_request"),), stays_open=False)
TAKEN: Final = Answered(((200, None),), stays_open=True)
UNKNOWN_CODING: Final = Answered(((501, None),), stays_open=False)

# What the lane answers, what the plain way answers, and the reason's number in `gateway.lane`.
DIFFERENT: Final[Mapping[str, tuple[Answered, Answered, int]]] = {
    "a length and a coding": (REFUSED, TAKEN, 1),
    "the same length twice": (REFUSED, TAKEN, 1),
    "the same length in a list": (REFUSED, TAKEN, 1),
    "a coding in HTTP/1.0": (REFUSED, Answered(((200, None),), stays_open=False), 1),
    "a folded line": (REFUSED, TAKEN, 1),
    "bare line feeds": (REFUSED, TAKEN, 1),
    "one bare line feed": (REFUSED, TAKEN, 1),
    "a control character in a value": (REFUSED, TAKEN, 1),
    "version 1.2": (REFUSED, TAKEN, 1),
    "version 2.0": (REFUSED, TAKEN, 1),
    "a coding behind chunked": (REFUSED, UNKNOWN_CODING, 2),
    "chunked twice": (REFUSED, UNKNOWN_CODING, 2),
    "a large head in one piece": (Answered(((431, "too_large"),), stays_open=False), TAKEN, 4),
}


@pytest.fixture(scope="module")
def ways(
    api_system: System, postgres_dsn: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Way, Way]]:
    assert api_system.settings.webhook_lane == "on"
    directory = tmp_path_factory.mktemp("without_lane")
    with System(postgres_dsn, directory, prefix="plain", webhook_lane="off") as without:
        yield _way(api_system), _way(without)


def _way(system: System) -> Way:
    business = Business(system, "pooled")
    port = urlsplit(system.base_url).port
    assert port is not None
    path = urlsplit(business.channel["webhook_url"]).path
    return Way(port=port, number_id=business.number_id, path=path, plain_path="/api/webhooks/whatsapp")


async def exchange(way: Way, raw: bytes) -> tuple[Answered, list[Mapping[str, str]]]:
    """Sends `raw`; when the first answer is here, a request whose 405 nothing in the corpus gets; reads to
    that or to the end."""
    answers: list[tuple[int, str | None]] = []
    all_headers: list[Mapping[str, str]] = []
    async with await trio.open_tcp_stream("127.0.0.1", way.port) as stream:
        client = Client(stream)
        asked = False
        try:
            with trio.fail_after(PATIENCE_SECONDS):
                with suppress(trio.BrokenResourceError):  # closed before all of it was taken; but answered
                    await client.send(raw)
                while True:
                    status, headers, body = await client.answer()
                    if status == 405:
                        return Answered(tuple(answers), True), all_headers
                    if status != 100:
                        answers.append((status, _code(headers, body)))
                        all_headers.append(headers)
                    if not asked:
                        asked = True
                        await client.send(b"DELETE /api/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n")
        except (EOFError, trio.BrokenResourceError):
            return Answered(tuple(answers), False), all_headers


def _code(headers: Mapping[str, str], body: bytes) -> str | None:
    if headers.get("content-type") != "application/json" or not body:
        return None
    envelope: dict[str, Any] = json.loads(body)
    code: str | None = envelope.get("code")
    return code


@pytest.mark.parametrize("name", CORPUS)
async def test_both_ways_answer_alike(ways: tuple[Way, Way], name: str) -> None:
    """Status, code, headers and the connection's fate are the same, or differ as is written down."""
    (lane, lane_headers), (plain, plain_headers) = [
        await exchange(way, CORPUS[name](Maker(way))) for way in ways
    ]
    if name in DIFFERENT:
        assert (lane, plain) == DIFFERENT[name][:2]
        return
    assert lane in (plain, _with_envelope(plain))
    for ours, theirs in zip(lane_headers, plain_headers, strict=True):
        if "content-type" in theirs:
            assert _comparable(ours) == _comparable(theirs)


async def test_requests_of_both_kinds_that_come_in_one_piece_are_all_answered(ways: tuple[Way, Way]) -> None:
    """In order, whoever answers them and whether or not their bodies were wanted."""
    for way in ways:
        answered, _ = await exchange(way, CORPUS["pipelined with another request"](Maker(way)))
        wanted = ((200, None), (200, None), (200, None), (404, "not_found"), (200, None))
        assert answered == Answered(wanted, stays_open=True)


def _with_envelope(plain: Answered) -> Answered:
    answers = tuple((status, code or FRAMING_CODES.get(status)) for status, code in plain.answers)
    return Answered(answers, plain.stays_open)


def _comparable(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name not in ("date", "x-request-id")}
