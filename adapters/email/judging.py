"""Is a mail from whom it says? SPF, DKIM and DMARC for what servers hand in themselves.

Why these   dkimpy verifies signatures. pyspf is RFC 7208 as Debian's policy server uses it; its last release
            is of 2020, and the RFC has not changed since; names are looked up by us. Of the living libraries
            for DMARC one parses records and the other takes every parent domain for aligned, so its few rules
            are here, on publicsuffixlist.
Promises    `judge` raises nothing, whatever the mail; it blocks, so call it in a thread. What cannot be
            decided because lookups fail is never `fail`.
Limits      `SIGNATURES_MAX`; lookups as in `lookups`.
Source      RFC 7208, 6376, 8301, 7489.
"""

import re
from collections.abc import Sequence
from typing import Any, Final

import dkim
import spf
from msgspec import Struct
from publicsuffixlist import PublicSuffixList

from adapters.email.letter import Headers
from adapters.email.lookups import Lookups, LookupTrouble, Resolver
from adapters.email.mime import head_of
from adapters.email.reading import WARNING, people
from engine.domain.content import compact

Json = dict[str, Any]

SIGNATURES_MAX: Final = 5
"""Each costs a pass over the mail. Mail that went through services has two or three."""

_LENGTH: Final = re.compile(rb"(?:^|;)\s*l\s*=", re.IGNORECASE)
_SHA1: Final = re.compile(rb"(?:^|;)\s*a\s*=\s*rsa-sha1\b", re.IGNORECASE)
_SUFFIXES: Final = PublicSuffixList()
_UNEXPECTED: Final = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
"""What libraries have raised for records and signatures that nobody foresaw."""


class Peer(Struct, frozen=True, kw_only=True):
    """Who hands a mail in: address, name by its own word, and the SMTP sender ("" for the empty one)."""

    address: str
    helo: str
    sender: str


class Signature(Struct, frozen=True, kw_only=True):
    domain: str
    result: str


class Verdict(Struct, frozen=True, kw_only=True):
    """Results in the words of RFC 8601. `domain` is From's, None where that is not one; `policy` is what it
    asks for, and `refused` that this mail be refused."""

    domain: str | None
    spf: str
    dkim: tuple[Signature, ...]
    dmarc: str
    policy: str | None = None
    refused: bool = False

    def facts(self) -> Json:
        """Members of the message's metadata."""
        signatures = [f"{each.result} {each.domain}".strip() for each in self.dkim]
        return compact(
            spf=self.spf,
            dkim=", ".join(signatures) or "none",
            dmarc=self.dmarc,
            dmarc_policy=self.policy,
            warning=WARNING if self.dmarc in ("fail", "permerror") else None,
        )


def judge(raw: bytes, peer: Peer, resolver: Resolver) -> Verdict:
    lookups = Lookups(resolver)
    domain = _author_domain(raw)
    spf_result, spf_domain = _spf(peer, lookups)
    signatures = _dkim(raw, lookups)
    if domain is None:
        return Verdict(domain=None, spf=spf_result, dkim=signatures, dmarc="permerror")
    try:
        tags, inherited = _policy_of(domain, lookups)
    except LookupTrouble:
        return Verdict(domain=domain, spf=spf_result, dkim=signatures, dmarc="temperror")
    if tags is None:
        return Verdict(domain=domain, spf=spf_result, dkim=signatures, dmarc="none")
    by_dkim = any(
        each.result == "pass" and _aligned(domain, each.domain, tags.get("adkim")) for each in signatures
    )
    by_spf = spf_result == "pass" and _aligned(domain, spf_domain, tags.get("aspf"))
    policy = tags.get("sp", tags["p"]) if inherited else tags["p"]
    if by_dkim or by_spf:
        dmarc = "pass"
    elif spf_result == "temperror" or any(each.result == "temperror" for each in signatures):
        dmarc = "temperror"
    else:
        dmarc = "fail"
    # Who tests, or asks for it of a part of the mail, does not ask for it of this one.
    in_earnest = tags.get("t") != "y" and tags.get("pct", "100") == "100"
    return Verdict(
        domain=domain,
        spf=spf_result,
        dkim=signatures,
        dmarc=dmarc,
        policy=policy,
        refused=dmarc == "fail" and policy == "reject" and in_earnest,
    )


def _author_domain(raw: bytes) -> str | None:
    """The domain of From; None where there is none, or more than one (RFC 7489, 6.6.1)."""
    fields = [(str(name), str(value)) for name, value in head_of(raw).raw_items()]
    headers = Headers(fields)
    domains = {each.address.rpartition("@")[2] for each in people(headers, "from")}
    return _ascii(domains.pop()) if len(domains) == 1 and len(headers.all("from")) == 1 else None


def _ascii(domain: str) -> str | None:
    try:
        return domain.encode("idna").decode("ascii").lower()
    except UnicodeError:
        return None


# ------------------------------------------------------------------ SPF


class _Query(spf.query):  # type: ignore[misc]  # pyspf has no types
    """pyspf, with names looked up by us."""

    names: Lookups

    def dns(self, name: Any, qtype: str, cnames: Any = None, ignore_void: bool = False) -> list[Any]:
        try:
            found = list(self.names(str(name), qtype)) if qtype != "SPF" else []
        except LookupTrouble as trouble:
            raise spf.TempError(f"DNS {trouble}") from trouble
        if not found and not ignore_void:
            self.void_lookups += 1
            if self.void_lookups > spf.MAX_VOID_LOOKUPS:
                raise spf.PermError("too many names that are not there")
        return found


def _spf(peer: Peer, lookups: Lookups) -> tuple[str, str]:
    """The result, and the domain that it is about."""
    domain = (peer.sender.rpartition("@")[2] or peer.helo).lower().strip("[]")
    try:
        query = _Query(i=peer.address, s=peer.sender, h=peer.helo)
        query.names = lookups
        result = str(query.check()[0]).lower()
    except (spf.PermError, *_UNEXPECTED):
        result = "permerror"
    except spf.TempError:
        result = "temperror"
    return result, domain


# ------------------------------------------------------------------ DKIM


def _dkim(raw: bytes, lookups: Lookups) -> tuple[Signature, ...]:
    def look_up(name: bytes | str, timeout: float = 0) -> bytes | None:
        found = lookups.texts(name.decode("ascii", "replace") if isinstance(name, bytes) else name)
        return found[0] if found else None

    try:
        checking = dkim.DKIM(raw)
    except (dkim.DKIMException, *_UNEXPECTED):
        return ()
    values = [value for name, value in checking.headers if name.lower() == b"dkim-signature"]
    return tuple(_signature(checking, at, value, look_up) for at, value in enumerate(values[:SIGNATURES_MAX]))


def _signature(checking: Any, at: int, value: bytes, look_up: Any) -> Signature:
    checking.domain = None
    try:
        good = checking.verify(idx=at, dnsfunc=look_up)
        result = "pass" if good else "fail"
    except LookupTrouble:
        result = "temperror"
    except dkim.ValidationError:
        result = "fail"
    except (dkim.DKIMException, *_UNEXPECTED):
        result = "permerror"
    # What may be added to, and what RFC 8301 forbids to believe.
    if result == "pass" and (_LENGTH.search(value) or _SHA1.search(value)):
        result = "policy"
    domain = checking.domain
    text = domain.decode("ascii", "replace") if isinstance(domain, bytes) else ""
    return Signature(domain=text.lower(), result=result)


# ------------------------------------------------------------------ DMARC


def _policy_of(domain: str, lookups: Lookups) -> tuple[dict[str, str] | None, bool]:
    """The tags of the domain's policy, and whether it is its organisation's (RFC 7489, 6.6.3)."""
    found = _record(lookups.texts(f"_dmarc.{domain}"))
    if found is not None:
        return found, False
    organisation = _organisation(domain)
    if organisation == domain:
        return None, False
    return _record(lookups.texts(f"_dmarc.{organisation}")), True


def _record(texts: Sequence[bytes]) -> dict[str, str] | None:
    """None unless exactly one is a policy."""
    policies = [text for text in texts if re.match(rb"v\s*=\s*DMARC1\s*(?:;|$)", text)]
    if len(policies) != 1:
        return None
    pairs = (part.partition("=") for part in policies[0].decode("ascii", "replace").split(";"))
    tags = {name.strip().lower(): value.strip().lower() for name, _, value in pairs}
    if tags.get("p") not in ("none", "quarantine", "reject"):
        if "rua" not in tags:
            return None
        tags["p"] = "none"
    if tags.get("sp") not in ("none", "quarantine", "reject"):
        tags.pop("sp", None)
    return tags


def _organisation(domain: str) -> str:
    """The domain that somebody registered."""
    return _SUFFIXES.privatesuffix(domain) or domain


def _aligned(author: str, proven: str, mode: str | None) -> bool:
    if mode == "s":
        return author == proven
    return bool(proven) and _organisation(author) == _organisation(proven)
