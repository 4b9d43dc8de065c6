"""Keeps requests to addresses that others chose away from our own network (server-side request forgery).

Why         Media addresses, links and base URLs come from platforms, customers and tenants. Without a guard
            any of them could make the server call its own metadata service, database or neighbours.
Promises    A connection is only made to an address that was checked, and it is the checked address that is
            connected to: the name is resolved once per connection, so a name server that answers differently
            the second time (DNS rebinding) gains nothing. Host header and TLS name stay those of the URL.
            Every redirect is a request of its own and is checked like the first. If one of a name's addresses
            is not public, the name is refused: no honest host mixes the two.
Limits      Schemes https, and http where `plain_http` allows it or the host and port are on the allow list.
Leaves      Redirect bounds, sizes and overall deadlines to the client that uses it; egress proxies
            (HTTPS_PROXY) are not used, since behind one nobody here could check anything.
Errors      httpx's own for the network; `AddressRefused` (an httpx.ConnectError, so surely nothing was sent)
            for the guard.

The allow list (`host:port`, exact) is for stand-ins of a platform on a developer's machine, and for servers
of the operator's own network. Servers that a tenant names without a URL (mail) are called on their protocol's
usual ports and those that the operator adds, so that nobody can look through others' ports.
"""

import ipaddress
import socket
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Collection, Iterable, Iterator
from contextlib import contextmanager
from math import inf
from typing import Any, Final

import httpcore
import httpx
import trio

from adapters.connections import Connections

_ADDRESSES_MAX: Final = 16
"""Addresses of one name that are tried; real names have a handful."""

_V4_FORBIDDEN: Final = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private (RFC 1918)
        "100.64.0.0/10",  # carrier-grade NAT (RFC 6598); one cloud's metadata service is in it
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local; the usual metadata services
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments (RFC 6890)
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays (RFC 7526)
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks (RFC 2544)
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved and broadcast
    )
)
_V6_PUBLIC: Final = ipaddress.IPv6Network("2000::/3")
"""All global unicast there is (RFC 4291); whatever is outside is local, special or not assigned."""
_V6_FORBIDDEN: Final = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments; Teredo tunnels to any IPv4 address
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: an IPv4 address in disguise
        "3fff::/20",  # documentation (RFC 9637)
    )
)
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
"""IPv4 as IPv6-only hosts see it (RFC 6052): judged by the IPv4 address inside. The local-use prefix
64:ff9b:1::/48 is outside the public range and so refused."""


class AddressRefused(httpx.ConnectError):
    """The guard does not connect there. Nothing was sent."""


class PortRefused(AddressRefused):
    """Not one of the ports on which such a server is called."""


class BodyTooLarge(httpx.ReadError):
    """The answer has more bytes than the request's extension `body_bytes_max` allows."""


def is_public(address: str) -> bool:
    """Whether an IP address (as text) is one of the public internet. What is no address is not."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.scope_id is not None:
            return False
        embedded = parsed.ipv4_mapped
        if embedded is None and parsed in _NAT64:
            embedded = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
        if embedded is None:
            return parsed in _V6_PUBLIC and not any(parsed in network for network in _V6_FORBIDDEN)
        parsed = embedded
    return not any(parsed in network for network in _V4_FORBIDDEN)


class Guard:
    """What may be connected to. `allowed` holds `host:port` entries that are let through unchecked, `ports`
    what `check_port` takes beside the usual ones."""

    def __init__(
        self, *, allowed: Collection[str] = (), plain_http: bool = False, ports: Collection[int] = ()
    ) -> None:
        self.allowed = frozenset(entry.lower() for entry in allowed)
        self.plain_http = plain_http
        self.ports = frozenset(ports)

    def check_scheme(self, scheme: str, host: str, port: int) -> None:
        """Raises AddressRefused for a scheme that is not acceptable for this host."""
        if scheme == "https" or (scheme == "http" and (self.plain_http or self.lets_through(host, port))):
            return
        raise AddressRefused(f"requests over {scheme[:20]} to this host are not allowed")

    def check_port(self, host: str, port: int, usual: Collection[int]) -> None:
        """Raises PortRefused."""
        if port not in usual and port not in self.ports and not self.lets_through(host, port):
            raise PortRefused(f"port {port} is not a usual one")

    def lets_through(self, host: str, port: int) -> bool:
        name = f"[{host}]" if ":" in host else host
        return f"{name.lower()}:{port}" in self.allowed

    async def resolve(self, host: str, port: int) -> list[str]:
        """The checked addresses of a host, at least one. Raises AddressRefused or OSError."""
        found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        if not self.lets_through(host, port):
            for address in addresses:
                if not is_public(address):
                    raise AddressRefused("the host has an address that is not public")
        return addresses[:_ADDRESSES_MAX]


class _GuardedNetwork(httpcore.AsyncNetworkBackend):
    """httpcore's trio backend with the guard between name and connection."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._inner = httpcore.TrioBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            with trio.fail_after(timeout if timeout is not None else float("inf")):
                addresses = await self._guard.resolve(host, port)
                for address in addresses[:-1]:
                    try:
                        return await self._inner.connect_tcp(
                            address, port, timeout, local_address, socket_options
                        )
                    except httpcore.ConnectError:
                        continue
                return await self._inner.connect_tcp(
                    addresses[-1], port, timeout, local_address, socket_options
                )
        except trio.TooSlowError as error:
            raise httpcore.ConnectTimeout("no connection within the time for it") from error
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"the host cannot be resolved: {error}") from error

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.AsyncNetworkStream:
        raise AddressRefused("sockets of this machine are not for requests")

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)


def origin_of(url: httpx.URL) -> tuple[str, str, int]:
    """Scheme, host and port."""
    return url.scheme, url.host, url.port or (80 if url.scheme == "http" else 443)


_ANYBODYS: Final = frozenset((b"host", b"accept", b"accept-encoding", b"connection", b"user-agent", b"range"))


class GuardedTransport(httpx.AsyncBaseTransport):
    """An httpx transport that connects through a guard. Close it with its client.

    A request's extension `body_bytes_max` bounds its answer as it comes over the wire: more raises
    `BodyTooLarge`. A compressed answer raises httpx.DecodingError. Its extension `meant_for` is the origin
    (`origin_of`) that its own headers are for: a redirect to another loses all but `_ANYBODYS`, whatever a
    platform calls the header with its token.
    """

    def __init__(
        self,
        guard: Guard,
        *,
        connections_max: int,
        idle_seconds_max: float = 4.0,
    ) -> None:
        """`idle_seconds_max` lies below the 5 s after which common servers close an idle connection: a
        request that meets the closing has an unknown outcome, which costs far more than a handshake."""
        self._guard = guard
        self._connections = Connections(
            _GuardedNetwork(guard),
            httpx.create_ssl_context(trust_env=False),
            connections_max=connections_max,
            idle_seconds_max=idle_seconds_max,
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        scheme, host, port = origin = origin_of(url)
        self._guard.check_scheme(scheme, host, port)
        headers = request.headers.raw
        if request.extensions.get("meant_for", origin) != origin:
            headers = [each for each in headers if each[0].lower() in _ANYBODYS]
        assert isinstance(request.stream, httpx.AsyncByteStream)
        with _translated(request):
            answer = await self._connections.handle(
                httpcore.Request(
                    method=request.method,
                    url=httpcore.URL(
                        scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
                    ),
                    headers=headers,
                    content=request.stream,
                    extensions=request.extensions,
                )
            )
        if not _is_plain(answer.headers):
            await answer.aclose()
            raise httpx.DecodingError("the answer is compressed, which nobody asked for", request=request)
        return httpx.Response(
            answer.status,
            headers=answer.headers,
            stream=_Body(answer, request),
            extensions=answer.extensions,
        )

    async def aclose(self) -> None:
        await self._connections.aclose()


def _is_plain(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a body is bounded by what comes over the wire. httpx would decode it, and each layer of a
    compression may make a thousand times as much of it, in memory and in one go."""
    codings = (value for name, value in headers if name.lower() == b"content-encoding")
    return all(coding.strip().lower() in (b"", b"identity") for coding in codings)


class _Body(httpx.AsyncByteStream):
    """The body, closed by name: an async generator left in the middle would be closed by the garbage
    collector, at a time when nobody can wait for it."""

    def __init__(self, answer: httpcore.Response, request: httpx.Request) -> None:
        self._answer = answer
        self._request = request
        assert isinstance(answer.stream, AsyncIterable)
        self._chunks: AsyncIterator[bytes] = aiter(answer.stream)
        self._left = request.extensions.get("body_bytes_max", inf)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        with _translated(self._request):
            chunk = await anext(self._chunks)
        self._left -= len(chunk)
        if self._left < 0:
            # Raised from within the reading, so that it ends every layer of the client above.
            raise BodyTooLarge("the answer is longer than expected", request=self._request)
        return chunk

    async def aclose(self) -> None:
        if isinstance(self._chunks, AsyncGenerator):
            await self._chunks.aclose()
        await self._answer.aclose()


_TRANSLATIONS: Final[tuple[tuple[type[Exception], type[httpx.TransportError]], ...]] = (
    (httpcore.ConnectTimeout, httpx.ConnectTimeout),
    (httpcore.ReadTimeout, httpx.ReadTimeout),
    (httpcore.WriteTimeout, httpx.WriteTimeout),
    (httpcore.PoolTimeout, httpx.PoolTimeout),
    (httpcore.ConnectError, httpx.ConnectError),
    (httpcore.ReadError, httpx.ReadError),
    (httpcore.WriteError, httpx.WriteError),
    (httpcore.LocalProtocolError, httpx.LocalProtocolError),
    (httpcore.RemoteProtocolError, httpx.RemoteProtocolError),
    (httpcore.UnsupportedProtocol, httpx.UnsupportedProtocol),
    (httpcore.TimeoutException, httpx.ReadTimeout),
    (httpcore.NetworkError, httpx.ReadError),
    (httpcore.ProtocolError, httpx.RemoteProtocolError),
    (httpcore.ProxyError, httpx.ProxyError),
)
"""Specific classes first; every class of httpcore that is raised is under one of them (a test looks)."""


@contextmanager
def _translated(request: httpx.Request) -> Iterator[None]:
    try:
        yield
    except httpx.TransportError:
        raise
    except Exception as error:
        for foreign, ours in _TRANSLATIONS:
            if isinstance(error, foreign):
                raise ours(str(error), request=request) from error
        raise


def guarded_client(guard: Guard, *, connections_max: int, timeout: httpx.Timeout) -> httpx.AsyncClient:
    """A client behind the guard. It follows no redirects of itself and reads nothing from the environment. It
    asks for bodies as they are, so that what is bounded on the wire does not grow when it is decoded."""
    return httpx.AsyncClient(
        transport=GuardedTransport(guard, connections_max=connections_max),
        timeout=timeout,
        trust_env=False,
        headers={"Accept-Encoding": "identity"},
        follow_redirects=False,
        max_redirects=REDIRECTS_MAX,
    )


REDIRECTS_MAX: Final = 5
"""Content networks redirect once or twice."""
