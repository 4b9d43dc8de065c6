"""Who a request is from, with and without proxies in front."""

from types import SimpleNamespace
from typing import Any

import pytest
from trio.testing import MockClock
from werkzeug.datastructures import Headers

from engine.errors import RateLimited, Unauthenticated
from gateway.authentication import FAILURES, Authenticator
from gateway.client_address import HOPS_MAX, Proxies
from gateway.lane.upgrade import read_upgrade
from gateway.pipeline import client_address

BEHIND = Proxies(("10.0.0.0/8", "2001:db8:1::/48", "192.0.2.7"))


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("198.51.100.1", None, "198.51.100.1"),
        ("198.51.100.1", "203.0.113.9", "198.51.100.1"),  # his own invention
        ("10.1.2.3", None, "10.1.2.3"),
        ("10.1.2.3", "203.0.113.9", "203.0.113.9"),
        ("10.1.2.3", "1.1.1.1, 203.0.113.9", "203.0.113.9"),  # what the client had put in front
        ("10.1.2.3", "203.0.113.9, 192.0.2.7, 10.9.9.9", "203.0.113.9"),
        ("10.1.2.3", "10.9.9.9", "10.9.9.9"),
        ("10.1.2.3", "203.0.113.9:4711", "203.0.113.9"),
        ("10.1.2.3", "unknown", "10.1.2.3"),
        ("10.1.2.3", "203.0.113.9, ", "10.1.2.3"),
        ("10.1.2.3", ", ".join(["203.0.113.9"] + ["10.0.0.1"] * HOPS_MAX), "10.0.0.1"),
        ("2001:db8:1::5", "[2001:db8:2:3::4]:99", "20010db800020003"),
        ("2001:db8:2:3::4", None, "20010db800020003"),
        ("2001:db8:2:3:ffff::9", None, "20010db800020003"),
        ("::ffff:198.51.100.1", None, "198.51.100.1"),
        ("::ffff:10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("", "203.0.113.9", "unknown"),
    ],
)
def test_the_client_is_the_first_that_no_trusted_proxy_is(
    peer: str, forwarded: str | None, client: str
) -> None:
    """Read from the end; what stands before the first untrusted address anybody may have written."""
    assert BEHIND.client_of(peer, forwarded) == client


def test_without_proxies_nobody_is_believed() -> None:
    """The connection's address counts, whatever the header says."""
    assert Proxies().client_of("127.0.0.1", "203.0.113.9") == "127.0.0.1"


def test_all_of_the_header_counts_on_every_way_in() -> None:
    """Each proxy may write a line of its own; the later ones are those nearer to us."""
    lines = [("X-Forwarded-For", "1.1.1.1"), ("X-Forwarded-For", "203.0.113.9, 10.0.0.2")]
    site: Any = SimpleNamespace(deps=SimpleNamespace(client_of=BEHIND.client_of))
    request: Any = SimpleNamespace(remote_addr="10.0.0.1", headers=Headers(lines))
    assert client_address(site, request) == "203.0.113.9"
    head = "GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    head += "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in lines)
    assert BEHIND.client_of("10.0.0.1", read_upgrade(f"{head}\r\n".encode()).forwarded) == "203.0.113.9"


class Nobody:
    """A landlord who knows no token."""

    async def token(self, token_id: int) -> None:
        return None


async def test_wrong_tokens_close_the_door_for_their_sender_alone(autojump_clock: MockClock) -> None:
    """The others are looked up as ever."""
    landlord: Any = Nobody()
    authenticator = Authenticator(landlord, lambda: 0)
    for _ in range(FAILURES.burst):
        with pytest.raises(Unauthenticated):
            await authenticator.authenticate("1|guessed", "203.0.113.9")
    with pytest.raises(RateLimited):
        await authenticator.authenticate("1|guessed", "203.0.113.9")
    with pytest.raises(Unauthenticated):
        await authenticator.authenticate("1|guessed", "203.0.113.10")
