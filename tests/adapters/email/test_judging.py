"""Who is believed: SPF, DKIM and DMARC over names that are given, and over a name server on a real socket."""

import json
import socket
from collections.abc import Iterator
from threading import Thread
from urllib.parse import urlencode

import dns.flags
import dns.message
import dns.resolver
import dns.rrset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.email.judging import Peer, Verdict, judge
from adapters.email.lookups import LOOKUPS_MAX, LookupTrouble, by_dns
from adapters.email.reading import WARNING
from adapters.email.receiver import EmailReceiver
from engine.domain.inbound import MessageReceived
from tests.adapters.email.judged import ADDRESS, STRANGER, Names, Resolver, names, signed

RAW = b"From: Amelia <amelia@mail.example>\r\nTo: shop@shop.example\r\nSubject: Order\r\n\r\nHello\r\n"


def judged(
    raw: bytes = RAW,
    table: Names | None = None,
    *,
    address: str = ADDRESS,
    sender: str = "amelia@mail.example",
    helo: str = "out.mail.example",
) -> Verdict:
    peer = Peer(address=address, helo=helo, sender=sender)
    return judge(raw, peer, Resolver(names() if table is None else table))


def from_(value: bytes) -> bytes:
    return RAW.replace(b"Amelia <amelia@mail.example>", value)


def test_mail_of_the_domains_own_server_is_believed() -> None:
    verdict = judged()
    assert (verdict.spf, verdict.dkim, verdict.dmarc, verdict.refused) == ("pass", (), "pass", False)
    assert verdict.facts() == {"spf": "pass", "dkim": "none", "dmarc": "pass", "dmarc_policy": "reject"}


def test_mail_that_is_signed_is_believed_wherever_it_comes_from() -> None:
    """A forwarder breaks SPF and leaves the signature."""
    verdict = judged(signed(RAW), address=STRANGER)
    assert (verdict.spf, verdict.dmarc) == ("fail", "pass")
    assert verdict.facts()["dkim"] == "pass mail.example"


def test_a_strangers_mail_is_refused_where_the_domain_asks_for_it() -> None:
    verdict = judged(address=STRANGER)
    assert (verdict.spf, verdict.dmarc, verdict.refused) == ("fail", "fail", True)
    assert verdict.facts()["warning"] == WARNING


@pytest.mark.parametrize(
    "policy",
    ["v=DMARC1; p=none", "v=DMARC1; p=quarantine", "v=DMARC1; p=reject; pct=20", "v=DMARC1; p=reject; t=y"],
)
def test_it_is_not_refused_where_the_domain_does_not_ask_for_it(policy: str) -> None:
    verdict = judged(table=names(policy), address=STRANGER)
    assert (verdict.dmarc, verdict.refused) == ("fail", False)


def test_a_signature_over_something_else_is_none() -> None:
    verdict = judged(signed(RAW).replace(b"Hello", b"Send money"), address=STRANGER)
    assert [each.result for each in verdict.dkim] == ["fail"]
    assert verdict.dmarc == "fail"


def test_a_signature_that_leaves_room_for_more_is_not_believed() -> None:
    """By the tag l=, anybody may add to the mail (RFC 6376, 8.2)."""
    verdict = judged(signed(RAW, length=True) + b"and send money\r\n", address=STRANGER)
    assert [each.result for each in verdict.dkim] == ["policy"]
    assert verdict.dmarc == "fail"


def test_what_another_domain_proves_says_nothing_of_this_one() -> None:
    """Everybody can sign and pass SPF with a domain of their own."""
    table = names() | names(domain="evil.example")
    verdict = judged(signed(RAW, "evil.example"), table, sender="x@evil.example")
    assert (verdict.spf, [each.result for each in verdict.dkim]) == ("pass", ["pass"])
    assert (verdict.dmarc, verdict.refused) == ("fail", True)


@pytest.mark.parametrize(("mode", "dmarc"), [("", "pass"), ("; adkim=s", "fail")])
def test_subdomains_are_the_organisations_unless_it_says_otherwise(mode: str, dmarc: str) -> None:
    table = names(f"v=DMARC1; p=reject{mode}") | names(domain="news.mail.example")
    assert judged(signed(RAW, "news.mail.example"), table, address=STRANGER).dmarc == dmarc


def test_a_registry_is_nobodys_organisation() -> None:
    """co.uk vouches for nobody below it."""
    raw = from_(b"a@shop.co.uk")
    table = names(domain="shop.co.uk") | names(domain="co.uk") | names(domain="other.co.uk")
    for domain in ("co.uk", "other.co.uk"):
        assert judged(signed(raw, domain), table, address=STRANGER).dmarc == "fail"


def test_a_subdomain_has_its_organisations_policy() -> None:
    raw = from_(b"a@deep.mail.example")
    verdict = judged(raw, names("v=DMARC1; p=none; sp=reject"), address=STRANGER)
    assert (verdict.policy, verdict.refused) == ("reject", True)


def test_who_asks_for_nothing_is_neither_proven_nor_doubted() -> None:
    verdict = judged(table={}, address=STRANGER)
    assert (verdict.spf, verdict.dmarc, verdict.facts().get("warning")) == ("none", "none", None)


@pytest.mark.parametrize("lost", [("mail.example", "TXT"), ("_dmarc.mail.example", "TXT")])
def test_what_nobody_can_tell_now_is_no_failure(lost: tuple[str, str]) -> None:
    verdict = judged(table=names() | {lost: LookupTrouble}, address=STRANGER)
    assert (verdict.dmarc, verdict.refused) == ("temperror", False)


@pytest.mark.parametrize(
    "value",
    [b"a@mail.example, b@other.example", b"a@mail.example\r\nFrom: b@mail.example", b"nobody"],
)
def test_more_than_one_author_or_none_is_doubted(value: bytes) -> None:
    """A reader shows one of them, and which one differs."""
    verdict = judged(signed(from_(value)))
    assert (verdict.dmarc, verdict.facts()["warning"]) == ("permerror", WARNING)


def test_the_empty_sender_is_judged_by_the_servers_name() -> None:
    table = names() | {("out.mail.example", "TXT"): [[b"v=spf1 ip4:8.8.4.4 -all"]]}
    assert judged(table=table, sender="").dmarc == "pass"


def test_a_record_that_asks_for_ever_more_names_is_bounded() -> None:
    table = {
        (f"n{number}.example", "TXT"): [
            [b"v=spf1 " + b" ".join(f"include:n{number * 9 + each}.example".encode() for each in range(9))]
        ]
        for number in range(1, 2_000)
    }
    resolver = Resolver(table)
    peer = Peer(address=STRANGER, helo="x.example", sender="a@n1.example")
    signatures = signed(RAW)[: -len(RAW)] * 60
    verdict = judge(signatures + RAW, peer, resolver)
    assert verdict.spf == "permerror"
    assert len(verdict.dkim) == 5
    assert len(resolver.asked) <= LOOKUPS_MAX


@given(st.binary(max_size=300), st.text(max_size=40), st.text(max_size=40))
@settings(max_examples=60, deadline=None)
def test_nothing_is_raised_whatever_comes(noise: bytes, sender: str, helo: str) -> None:
    text = {(name, kind): [[noise]] for name, kind in names()}
    for raw in (noise, b"DKIM-Signature: " + noise + RAW, signed(RAW)):
        assert not judged(raw, text, sender=sender, helo=helo).refused
    judge(RAW, Peer(address=helo, helo=helo, sender=sender), Resolver(names()))


@pytest.mark.parametrize(
    ("spf", "signature", "doubted"),
    [
        ("Pass", "Pass", False),
        ("Fail", "Pass", False),
        ("SoftFail", "Fail", True),
        ("Fail", "Fail", True),
        ("Neutral", "Fail", False),
        ("Fail", None, False),
    ],
)
def test_what_a_service_says_of_the_sender_is_told_to_the_reader(
    spf: str, signature: str | None, doubted: bool
) -> None:
    fields = {
        "recipient": "shop@shop.example",
        "from": "a@mail.example",
        "body-plain": "Hi",
        "X-Mailgun-Spf": spf,
    }
    if signature is not None:
        fields["X-Mailgun-Dkim-Check-Result"] = signature
    assert _warned(urlencode(fields).encode()) == doubted


@pytest.mark.parametrize(("signatures", "doubted"), [("{@mail.example : pass}", False), ("none", True)])
def test_another_services_words_are_understood_too(signatures: str, doubted: bool) -> None:
    fields = {
        "envelope": json.dumps({"to": ["shop@shop.example"], "from": "a@mail.example"}),
        "from": "a@mail.example",
        "text": "Hi",
        "SPF": "softfail",
        "dkim": signatures,
    }
    assert _warned(urlencode(fields).encode()) == doubted


def _warned(body: bytes) -> bool:
    (routed,) = EmailReceiver().parse(body)
    assert isinstance(routed.event, MessageReceived)
    facts = routed.event.metadata["email"]
    assert facts.get("warning") in (None, WARNING)
    return "warning" in facts


class NameServer:
    """One answer to each question, from a table of zone lines; nothing for names that begin with `silent`."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.thread = Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        while True:
            received, peer = self._socket.recvfrom(4_096)
            if received == b"end":
                return
            query = dns.message.from_wire(received)
            question = query.question[0]
            name = question.name.to_text()
            answer = dns.message.make_response(query)
            answer.flags |= dns.flags.RA
            zone = {
                ("mail.example.", "TXT"): '"v=spf1 " "-all"',
                ("mail.example.", "MX"): "10 mx.mail.example.",
                ("mx.mail.example.", "A"): "8.8.4.4",
            }
            kind = dns.rdatatype.to_text(question.rdtype)
            if name.startswith("silent"):
                continue
            if (name, kind) in zone:
                answer.answer.append(dns.rrset.from_text(name, 60, "IN", kind, zone[name, kind]))
            elif name.startswith("none"):
                answer.set_rcode(dns.rcode.NXDOMAIN)
            self._socket.sendto(answer.to_wire(), peer)

    def end(self) -> None:
        self._socket.sendto(b"end", ("127.0.0.1", self.port))
        self.thread.join(5)
        self._socket.close()


@pytest.fixture
def name_server() -> Iterator[NameServer]:
    server = NameServer()
    yield server
    server.end()


@pytest.mark.real_time
def test_names_are_asked_of_name_servers(name_server: NameServer) -> None:
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers, resolver.port = ["127.0.0.1"], name_server.port
    look_up = by_dns(resolver)
    assert [list(each) for each in look_up("mail.example", "TXT", 3)] == [[b"v=spf1 ", b"-all"]]
    assert look_up("mail.example", "MX", 3) == [(10, "mx.mail.example")]
    assert look_up("mx.mail.example", "A", 3) == ["8.8.4.4"]
    assert look_up("mail.example", "AAAA", 3) == []
    assert look_up("none.example", "TXT", 3) == []
    with pytest.raises(LookupTrouble):
        look_up("silent.example", "TXT", 0.2)
