"""Who a request is from, with and without proxies in front."""

import pytest

from gateway.client_address import HOPS_MAX, Proxies

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
