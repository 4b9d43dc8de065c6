"""Which client a request is from, as a key: what limits by address count.

Why         Behind a reverse proxy every connection is the proxy's. Counted by that, all clients are one:
            whoever guesses passwords or sends wrong tokens would lock everybody out.
Promises    X-Forwarded-For is believed as far as trusted proxies wrote it: read from its end, the first
            address that is no trusted proxy's is the client. From anybody else the header is his own
            invention and not looked at. Pure.
Limits      `HOPS_MAX` proxies behind each other.
"""

from collections.abc import Callable, Collection
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

HOPS_MAX: Final = 16
"""A content network, a balancer and a proxy are three."""

_Address = IPv4Address | IPv6Address

ClientOf = Callable[[str, str | None], str]
"""(address of the connection, X-Forwarded-For): the key of the client."""


class Proxies:
    """`trusted`: addresses or networks of the proxies in front of us."""

    def __init__(self, trusted: Collection[str] = ()) -> None:
        self._trusted = tuple(ip_network(each) for each in trusted)

    def client_of(self, peer: str, forwarded: str | None) -> str:
        """The client's key. "unknown" for a connection without an address."""
        client = _address(peer)
        for entry in reversed((forwarded or "").split(",")[-HOPS_MAX:]):
            if client is None or not self._trusts(client):
                break
            found = _address(_without_port(entry))
            if found is None:
                break
            client = found
        return _key(client)

    def _trusts(self, address: _Address) -> bool:
        return any(address in network for network in self._trusted)


def _address(text: str) -> _Address | None:
    try:
        address = ip_address(text.strip())
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _without_port(entry: str) -> str:
    """Some proxies write `192.0.2.1:4711` and `[2001:db8::1]:4711`."""
    entry = entry.strip()
    if entry.startswith("["):
        return entry[1:].partition("]")[0]
    return entry.partition(":")[0] if entry.count(":") == 1 else entry


def _key(address: _Address | None) -> str:
    """An IPv6 host owns its /64, so that is what counts."""
    if isinstance(address, IPv6Address):
        return (int(address) >> 64).to_bytes(8, "big").hex()
    return "unknown" if address is None else str(address)


DIRECT: Final[ClientOf] = Proxies().client_of
"""Nobody is in front: the connection's address is the client's."""
