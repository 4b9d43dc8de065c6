"""The guard: what is public, what is refused, and that the checked address is the one connected to."""

import gzip
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpcore
import httpx
import pytest
import trio

from adapters.guard import (
    _TRANSLATIONS,
    REDIRECTS_MAX,
    AddressRefused,
    Guard,
    guarded_client,
    is_public,
    origin_of,
)
from adapters.simulators.http import HttpServer, Request, Response

pytestmark = pytest.mark.real_time


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "10.1.2.3",
        "100.64.0.1",
        "100.100.100.200",
        "127.0.0.1",
        "127.255.255.255",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.8",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.9",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1",
        "100::1",
        "2001::1",
        "2001:db8::1",
        "2002:7f00:1::",
        "3fff::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fe80::1%eth0",
        "2606:4700::1%eth0",
        "fec0::1",
        "ff02::1",
        "not an address",
        "",
        "2130706433",
        "0x7f.1",
    ],
)
def test_what_is_not_of_the_public_internet_is_refused(address: str) -> None:
    """Private, loopback, link-local, metadata, multicast, reserved, and IPv4 hidden in IPv6."""
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1",
        "8.8.8.8",
        "172.32.0.1",
        "100.128.0.1",
        "2606:4700::1111",
        "::ffff:1.1.1.1",
        "64:ff9b::101:101",
    ],
)
def test_the_public_internet_is_let_through(address: str) -> None:
    """Also behind a mapped address and NAT64."""
    assert is_public(address)


class Names(trio.abc.HostnameResolver):
    """Answers names from a table, each time with the next answer; counts."""

    def __init__(self, table: dict[str, list[list[str]]]) -> None:
        self.table = table
        self.asked: list[str] = []

    async def getaddrinfo(
        self,
        host: Any,
        port: Any,
        family: int = 0,
        type: int = 0,  # noqa: A002
        proto: int = 0,
        flags: int = 0,
    ) -> list[tuple[Any, ...]]:
        name = host.decode() if isinstance(host, bytes) else host
        self.asked.append(name)
        answers = self.table.get(name)
        if not answers:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        addresses = answers.pop(0) if len(answers) > 1 else answers[0]
        return [
            (socket.AF_INET6 if ":" in one else socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port))
            for one in addresses
        ]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        raise NotImplementedError("nobody asks for names of addresses here")


@asynccontextmanager
async def server(answer: Any) -> AsyncIterator[HttpServer]:
    """A small real server on a free port."""
    http = HttpServer(answer, body_limit=lambda method, path: 1_000)
    async with trio.open_nursery() as nursery:
        await nursery.start(http.run)
        yield http
        nursery.cancel_scope.cancel()


def client(guard: Guard) -> httpx.AsyncClient:
    return guarded_client(guard, connections_max=4, timeout=httpx.Timeout(5.0))


async def test_the_allow_list_names_host_and_port_exactly() -> None:
    """The stand-in is reached; the same host under another name is not, nor is another port."""

    async def answer(request: Request) -> Response:
        return Response(body=request.headers["host"].encode())

    async with server(answer) as http, client(Guard(allowed=[f"127.0.0.1:{http.port}"])) as web:
        assert (await web.get(http.base_url)).text == f"127.0.0.1:{http.port}"
        for url in (
            f"http://localhost:{http.port}/",
            f"https://localhost:{http.port}/",
            f"http://127.0.0.1:{http.port + 1}/",
            f"http://0.0.0.0:{http.port}/",
            f"http://[::ffff:127.0.0.1]:{http.port}/",
            f"http://2130706433:{http.port}/",
        ):
            with pytest.raises(AddressRefused):
                await web.get(url)
    assert http.requests == 1


@pytest.mark.parametrize(
    "url", ["http://example.com/", "ftp://example.com/", "file:///etc/passwd", "gopher://x/"]
)
async def test_other_schemes_are_refused(url: str) -> None:
    """https alone, unless http is allowed."""
    async with client(Guard()) as web:
        with pytest.raises((AddressRefused, httpx.UnsupportedProtocol)):
            await web.get(url)


async def test_a_name_with_one_private_address_is_refused() -> None:
    """No honest host mixes public and private addresses."""
    names = Names({"mixed.example": [["1.1.1.1", "10.0.0.1"]], "inside.example": [["169.254.169.254"]]})
    trio.socket.set_custom_hostname_resolver(names)
    async with client(Guard(plain_http=True)) as web:
        for url in ("http://mixed.example/", "http://inside.example/", "https://inside.example/"):
            with pytest.raises(AddressRefused):
                await web.get(url)


async def test_the_checked_address_is_the_one_connected_to() -> None:
    """A name that is public when checked and private when asked again is asked once: the connection goes to
    the public address, which refuses here, and never to the private one."""
    names = Names({"rebind.example": [["127.0.0.1"], ["127.0.0.2"]]})

    async def answer(request: Request) -> Response:
        return Response(body=request.headers["host"].encode())

    async with server(answer) as http:
        trio.socket.set_custom_hostname_resolver(names)
        async with client(Guard(allowed=[f"rebind.example:{http.port}"])) as web:
            answered = await web.get(f"http://rebind.example:{http.port}/")
    assert answered.text == f"rebind.example:{http.port}", "the Host header stays the URL's"
    assert names.asked == ["rebind.example"]


async def test_a_redirect_inside_is_refused_like_a_first_request() -> None:
    """From an allowed stand-in to a private address: the second hop is not made."""
    inside: list[str] = []

    async def secret(request: Request) -> Response:
        inside.append(request.path)
        return Response()

    async with server(secret) as hidden:

        async def redirect(request: Request) -> Response:
            return Response(302, headers={"Location": f"{hidden.base_url}/secret"})

        async with server(redirect) as front, client(Guard(allowed=[f"127.0.0.1:{front.port}"])) as web:
            with pytest.raises(AddressRefused):
                await web.get(front.base_url, follow_redirects=True)
            assert (await web.get(front.base_url)).status_code == 302
    assert inside == []


async def test_a_redirect_elsewhere_takes_no_token_along() -> None:
    """Whatever the header is called that a platform wants it in; back where it is meant for, it is there."""
    seen: dict[str, list[str | None]] = {"front": [], "store": []}

    async def store(request: Request) -> Response:
        seen["store"].append(request.headers.get("x-user"))
        return Response(302, headers={"Location": f"{front.base_url}/end"})

    async def redirect(request: Request) -> Response:
        seen["front"].append(request.headers.get("x-user"))
        away = {"/": "/near", "/near": f"{elsewhere.base_url}/"}.get(request.path)
        return Response() if away is None else Response(302, headers={"Location": away})

    async with server(store) as elsewhere, server(redirect) as front:
        allowed = [f"127.0.0.1:{each.port}" for each in (front, elsewhere)]
        async with client(Guard(allowed=allowed)) as web:
            answer = await web.get(
                f"{front.base_url}/",
                headers={"X-User": "token"},
                follow_redirects=True,
                extensions={"meant_for": origin_of(httpx.URL(front.base_url))},
            )
    assert answer.status_code == 200
    assert seen == {"front": ["token", "token", "token"], "store": [None]}


@pytest.mark.parametrize("coding", ["gzip, gzip", "gzip", "deflate", "br", "x-unknown"])
async def test_an_answer_that_would_grow_is_not_decoded(coding: str) -> None:
    """Bodies are bounded on the wire and asked for as they are; 20 kB, twice compressed, can be gigabytes."""
    bomb = gzip.compress(gzip.compress(bytes(10_000_000)))

    async def answer(request: Request) -> Response:
        return Response(headers={"Content-Encoding": coding}, body=bomb)

    async with server(answer) as http, client(Guard(allowed=[f"127.0.0.1:{http.port}"])) as web:
        with pytest.raises(httpx.DecodingError):
            await web.get(http.base_url, extensions={"body_bytes_max": 65_536})
        assert http.requests == 1


async def test_an_answer_that_says_that_it_is_as_it_is() -> None:
    """`identity` is no coding."""

    async def answer(request: Request) -> Response:
        return Response(headers={"Content-Encoding": "identity"}, body=b"plain")

    async with server(answer) as http, client(Guard(allowed=[f"127.0.0.1:{http.port}"])) as web:
        assert (await web.get(http.base_url)).content == b"plain"


async def test_redirects_are_bounded() -> None:
    """A loop ends after five."""

    async def loop(request: Request) -> Response:
        return Response(302, headers={"Location": "/again"})

    async with server(loop) as http, client(Guard(allowed=[f"127.0.0.1:{http.port}"])) as web:
        with pytest.raises(httpx.TooManyRedirects):
            await web.get(http.base_url, follow_redirects=True)
    assert http.requests == REDIRECTS_MAX + 1


async def test_a_name_that_does_not_exist_is_a_connect_error() -> None:
    """Nothing was sent, and httpx's own error says so."""
    trio.socket.set_custom_hostname_resolver(Names({}))
    async with client(Guard()) as web:
        with pytest.raises(httpx.ConnectError):
            await web.get("https://nowhere.example/")


def test_every_error_of_the_connection_library_has_a_translation() -> None:
    """A class that httpcore raises and we do not name would pass as nobody's."""
    known = tuple(foreign for foreign, _ in _TRANSLATIONS)
    raised = [
        one
        for one in vars(httpcore).values()
        if isinstance(one, type) and issubclass(one, Exception) and one is not httpcore.ConnectionNotAvailable
    ]
    assert len(raised) > 10
    assert [one for one in raised if not issubclass(one, known)] == []
