"""Names looked up for one judgement, in bounded time and number.

Promises    Blocks: for threads. A name that is not there gives an empty list; trouble is `LookupTrouble`.
Limits      `SECONDS_MAX` and `LOOKUPS_MAX` for each mail, `SECONDS_EACH` for one.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import dns.exception
import dns.resolver

SECONDS_MAX: Final = 10.0
"""The sender's server waits ten minutes for the answer to its mail (RFC 5321, 4.5.3.2.6)."""
SECONDS_EACH: Final = 3.0
LOOKUPS_MAX: Final = 40
"""SPF may take ten terms, with ten names in some of them (RFC 7208, 4.6.4); honest records need about ten."""

Resolver = Callable[[str, str, float], Sequence[Any]]
"""(name, type, seconds) -> for TXT the strings of each record as a sequence of bytes, for MX pairs of
preference and name, for A, AAAA and PTR texts. Raises LookupTrouble."""


class LookupTrouble(Exception):
    """Nobody can tell now."""


class Lookups:
    """What one judgement may look up."""

    def __init__(self, resolver: Resolver, clock: Callable[[], float] = time.monotonic) -> None:
        self._resolver = resolver
        self._clock = clock
        self._left = LOOKUPS_MAX
        self._until = clock() + SECONDS_MAX
        self._known: dict[tuple[str, str], Sequence[Any]] = {}

    def __call__(self, name: str, kind: str) -> Sequence[Any]:
        name = name.rstrip(".").lower()
        if (name, kind) in self._known:
            return self._known[name, kind]
        seconds = min(SECONDS_EACH, self._until - self._clock())
        if not self._left or seconds <= 0:
            raise LookupTrouble("more lookups than one mail may cost")
        if len(name) > 253 or not all(0 < len(label) < 64 for label in name.split(".")):
            return []
        self._left -= 1
        self._known[name, kind] = found = self._resolver(name, kind, seconds)
        return found

    def texts(self, name: str) -> list[bytes]:
        return [b"".join(strings) for strings in self(name, "TXT")]


def by_dns(resolver: dns.resolver.Resolver | None = None) -> Resolver:
    """By the name servers of the machine, or those of the given resolver."""

    def look_up(name: str, kind: str, seconds: float) -> Sequence[Any]:
        try:
            using = resolver or dns.resolver.get_default_resolver()
            answers = using.resolve(f"{name}.", kind, lifetime=seconds, search=False)
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            return []
        except (dns.exception.DNSException, OSError, UnicodeError) as error:
            raise LookupTrouble(type(error).__name__) from error
        return [_plain(record, kind) for record in answers]

    return look_up


def _plain(record: Any, kind: str) -> Any:
    match kind:
        case "TXT":
            return record.strings
        case "MX":
            return record.preference, record.exchange.to_text(omit_final_dot=True)
        case "PTR":
            return record.target.to_text(omit_final_dot=True)
        case _:
            return record.address
