"""A domain of people who sign their mail, and the names that say so, for tests of who is believed."""

import base64
from collections.abc import Sequence
from functools import cache
from typing import Any

import dkim
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from adapters.email.lookups import LookupTrouble

ADDRESS = "8.8.4.4"
"""Of the domain's own server."""
STRANGER = "9.9.9.9"

Names = dict[tuple[str, str], Any]


@cache
def key() -> tuple[bytes, bytes]:
    """A private key (PEM), and the record of its public one."""
    made = rsa.generate_private_key(65_537, 1_024)
    private = made.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    public = made.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return private, b"v=DKIM1; k=rsa; p=" + base64.b64encode(public)


def names(policy: str = "v=DMARC1; p=reject", domain: str = "mail.example") -> Names:
    return {
        (domain, "TXT"): [[b"v=spf1 ip4:8.8.4.4 -all"]],
        (f"_dmarc.{domain}", "TXT"): [[policy.encode()]],
        (f"k._domainkey.{domain}", "TXT"): [[key()[1]]],
    }


class Resolver:
    """Answers from a table; `asked` is what was. A value that is an exception is raised."""

    def __init__(self, table: Names) -> None:
        self.table = table
        self.asked: list[tuple[str, str]] = []

    def __call__(self, name: str, kind: str, seconds: float) -> Sequence[Any]:
        assert 0 < seconds <= 3
        self.asked.append((name, kind))
        found = self.table.get((name, kind), [])
        if found is LookupTrouble:
            raise LookupTrouble("away")
        answer: Sequence[Any] = found
        return answer


def signed(raw: bytes, domain: str = "mail.example", **options: Any) -> bytes:
    header: bytes = dkim.sign(raw, b"k", domain.encode(), key()[0], **options)
    return header + raw
