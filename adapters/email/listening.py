"""The built-in mail server: takes mail for the connected addresses, by aiosmtpd on the asyncio side.

Why         Who has a domain and no mail service points its MX record here.
Promises    250 after the final dot means that the mail is durable. A sender that has not seen it sends again,
            and the Message-ID tells that it is the same. 451 when it cannot be made durable now. Mail is
            taken for connected accounts alone, with or without a `+` part, and relayed to nobody.
Limits      `MESSAGE_BYTES_MAX` for a mail (552), `RECIPIENTS_MAX` of it; `CONNECTIONS_MAX` connections,
            `PER_ADDRESS_MAX` from one address, `TAKING_MAX` mails on their way at a time, half of them from
            one address (what is more is told to come back: 421, 452); `COMMANDS_MAX` of each command. A mail
            that comes too slowly, or goes on without end or in a line without end, is cut off.
            Who sends is judged (`judging`) and noted with the message; where every account that the mail is
            for says `refuse`, what its domain wants to be refused is (550 5.7.26). What a server of our own
            network passes on is not judged: the sender's address says nothing then.
Leaves      spam to a filter in front.
Off         unless the operator names the listener `smtp`. STARTTLS where there is a certificate.
Source      RFC 5321, 3207, 3463; the sheet, section 6.
"""

import logging
import socket
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Any, Final

import structlog
import trio
from aiosmtpd.smtp import SMTP, Envelope, Session

from adapters.email.describing import PLATFORM
from adapters.email.judging import Peer, judge
from adapters.email.letter import LeftOut
from adapters.email.lookups import Resolver, by_dns
from adapters.email.parts import source_of
from adapters.email.reading import read_message
from adapters.email.recognising import recognise
from adapters.email.threading import without_tag
from adapters.guard import is_public
from adapters.service import ServiceTools, TrioCalls
from engine.domain.inbound import InboundEvent
from engine.domain.intake import Delivery
from engine.errors import MijraError
from engine.ports import Endpoint

LISTENER: Final = "smtp"

MESSAGE_BYTES_MAX: Final = 30 * 1024 * 1024
"""What others take: Gmail 25 MB of attachments, 33 MB in base64; Exchange 35 MB."""
RECIPIENTS_MAX: Final = 100
"""RFC 5321, 4.5.3.1.8: at least so many."""
CONNECTIONS_MAX: Final = 200
PER_ADDRESS_MAX: Final = 20
TAKING_MAX: Final = 12
"""Times the largest mail: 360 MB."""
LINE_BYTES_MAX: Final = 1024 * 1024
"""Without its end. aiosmtpd refuses shorter ones already, but at their end, and keeps them until then."""
DATA_SECONDS_MAX: Final = 60.0
"""For a mail, and longer by what has come at `BYTES_PER_SECOND_MIN`: who trickles holds a place of few."""
BYTES_PER_SECOND_MIN: Final = 16 * 1024
COMMANDS_MAX: Final = 50
IDLE_SECONDS_MAX: Final = 120.0
HOPS_MAX: Final = 50
"""Received headers; mail that has passed more servers goes round in a circle (RFC 5321, 6.3)."""

JUDGING_MAX: Final = 8
"""At a time: each holds a thread for as long as name servers take."""

log = structlog.get_logger()
_judging = trio.CapacityLimiter(JUDGING_MAX)


class MailListener:
    """`run` is the service."""

    def __init__(
        self,
        tools: ServiceTools,
        resolver: Resolver | None = None,
        is_stranger: Callable[[str], bool] = is_public,
    ) -> None:
        self.tools = tools
        self._resolver = resolver or by_dns()
        self._is_stranger = is_stranger
        self.closing = False
        self.taking: Counter[str] = Counter()
        self.connections: Counter[str] = Counter()
        self._under_way = 0
        self._idle = trio.Event()

    async def run(self, stopping: trio.Event) -> None:
        asked = self.tools.listen.get(LISTENER)
        if asked is None:
            return
        # aiosmtpd writes commands into it, and so the addresses of people, which no log of ours has.
        logging.getLogger("mail.log").disabled = True
        tls = self.tools.tls()

        def protocol(calls: TrioCalls) -> SMTP:
            return _Connection(
                self,
                _Handler(self, calls),
                hostname=socket.gethostname(),
                ident="Mijra",
                data_size_limit=MESSAGE_BYTES_MAX,
                enable_SMTPUTF8=True,
                tls_context=tls,
                auth_exclude_mechanism=["LOGIN", "PLAIN"],
                timeout=IDLE_SECONDS_MAX,
                command_call_limit={"RCPT": RECIPIENTS_MAX, "*": COMMANDS_MAX},
                loop=calls.loop,
            )

        async with trio.open_nursery() as nursery:
            port = await nursery.start(self.tools.serve_asyncio, protocol, asked.host, asked.port)
            self.tools.listening(LISTENER, asked.host, port)
            await stopping.wait()
            self.closing = True
            while self._under_way:
                self._idle = trio.Event()
                await self._idle.wait()
            nursery.cancel_scope.cancel()

    # ---------------------------------------------------------------- on trio's side

    async def known(self, address: str) -> bool:
        """Whether mail is taken for it."""
        return self.tools.endpoint(without_tag(address)) is not None

    async def take(self, peer: Peer, recipients: Sequence[str], raw: bytes) -> str:
        """The reply to a mail that has arrived whole."""
        self._under_way += 1
        try:
            return await self._take(peer, recipients, raw)
        except MijraError as error:
            log.warning("smtp.not_taken", code=error.code, reason=error.message)
            return "451 4.3.0 The mail cannot be stored now, please send it again"
        except Exception:  # a bug must not make the sender drop the mail
            log.exception("smtp.crashed")
            return "451 4.3.0 The mail cannot be taken now, please send it again"
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()

    async def _take(self, peer: Peer, recipients: Sequence[str], raw: bytes) -> str:
        if _hops(raw) > HOPS_MAX:
            return "554 5.4.6 The mail goes round in a circle"
        now, source = self.tools.wall_ms(), source_of(raw)
        addresses = dict.fromkeys(without_tag(each) for each in recipients)
        found = {address: self.tools.endpoint(address) for address in addresses}
        endpoints = {address: endpoint for address, endpoint in found.items() if endpoint is not None}
        if not endpoints:
            # Disconnected since RCPT.
            return "550 5.1.1 There is no such mailbox here"
        wishes = [await self._wish(endpoint) for endpoint in endpoints.values()]
        facts = NO_FACTS
        if wishes.count("off") < len(wishes) and self._is_stranger(peer.address):
            verdict = await trio.to_thread.run_sync(judge, raw, peer, self._resolver, limiter=_judging)
            if verdict.refused and wishes.count("refuse") == len(wishes):
                log.info("smtp.refused", domain=verdict.domain, spf=verdict.spf, dmarc=verdict.dmarc)
                return f"550 5.7.26 {verdict.domain} wants mail that it has not authenticated refused (DMARC)"
            facts = verdict.facts()
        groups: list[tuple[Endpoint, Sequence[InboundEvent]]] = []
        for address, endpoint in endpoints.items():
            to = [each.lower() for each in recipients if without_tag(each) == address]
            event = await read_mail(
                raw, endpoint, sender=peer.sender, to=to, source=source, at=now, facts=facts
            )
            groups.append((endpoint, (event,)))
        trace = self.tools.new_trace()
        receipt = await self.tools.deliver(delivery_of(raw, groups, trace=trace, at=now))
        log.info("smtp.taken", trace=trace, bytes=len(raw), stored=receipt.stored, known=receipt.duplicates)
        return f"250 2.0.0 Taken as {trace}"

    async def _wish(self, endpoint: Endpoint) -> str:
        """What the account wants of mail that is not authentic."""
        account = await self.tools.account(endpoint)
        return str(account.settings.get("dmarc") or "note") if account is not None else "note"


NO_FACTS: Final[Mapping[str, Any]] = {}


async def read_mail(
    raw: bytes,
    endpoint: Endpoint,
    *,
    sender: str | None,
    to: Sequence[str],
    source: str,
    at: int,
    left_out: LeftOut | None = None,
    facts: Mapping[str, Any] = NO_FACTS,
) -> InboundEvent:
    """The event that a mail is for an account; read in a thread, since a large one takes seconds."""

    def read() -> InboundEvent:
        return read_message(
            raw,
            account=endpoint.external_id,
            envelope_from=sender,
            envelope_to=to,
            source=source,
            at=at,
            left_out=left_out,
            facts=dict(facts),
        )

    return recognise(await trio.to_thread.run_sync(read), endpoint)


def delivery_of(
    raw: bytes, groups: Sequence[tuple[Endpoint, Sequence[InboundEvent]]], *, trace: str, at: int
) -> Delivery:
    return Delivery(
        platform=PLATFORM.name,
        trace=trace,
        received_at=at,
        headers={"content-type": "message/rfc822"},
        body=raw,
        groups=groups,
    )


def network_of(address: str) -> str:
    """What is counted as one sender: an IPv6 host owns its /64."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None:
        return str(IPv6Network((int(parsed) >> 64 << 64, 64)))
    return str(parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else parsed)


def _hops(raw: bytes) -> int:
    head = raw[:100_000].replace(b"\r\n", b"\n").partition(b"\n\n")[0]
    return head.lower().count(b"\nreceived:") + head[:9].lower().startswith(b"received:")


# -------------------------------------------------------------------- on asyncio's side


_NOBODY: Final = "<>"


class _Connection(SMTP):
    """aiosmtpd's server for one connection, with limits on how many there are."""

    # RFC 5321 says 1,000 bytes; programs that write HTML in one line are many, and other servers take it.
    line_length_limit = 64 * 1024

    def __init__(self, listener: MailListener, handler: "_Handler", **options: Any) -> None:
        super().__init__(handler, **options)
        self._listener = listener
        self._peer: str | None = None
        self._refused = False
        self._began: float | None = None  # of a mail's bytes
        self._bytes = 0
        self._line = 0

    def connection_made(self, transport: Any) -> None:
        if self._peer is None:
            # The first time: TLS that begins makes the connection once more.
            name = transport.get_extra_info("peername")
            self._peer = network_of(str(name[0]) if name else "")
            counts = self._listener.connections
            if (
                self._listener.closing
                or counts.total() >= CONNECTIONS_MAX
                or counts[self._peer] >= PER_ADDRESS_MAX
            ):
                self._refused = True
                transport.write(b"421 4.3.2 Too many connections, please come back later\r\n")
                transport.close()
                return
            counts[self._peer] += 1
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self._refused:
            return
        if self._peer is not None:
            counts = self._listener.connections
            counts[self._peer] -= 1
            if counts[self._peer] <= 0:
                del counts[self._peer]
            self._peer = None
        super().connection_lost(error)

    async def smtp_DATA(self, arg: str) -> None:  # noqa: N802  # aiosmtpd's name
        taking, peer = self._listener.taking, self._peer or ""
        if taking.total() >= TAKING_MAX or taking[peer] >= TAKING_MAX // 2:
            await self.push("452 4.3.2 Too many mails at a time, please send it again")
            return
        taking[peer] += 1
        self._began, self._bytes, self._line = self.loop.time(), 0, 0
        self._reset_timeout(DATA_SECONDS_MAX)
        try:
            await super().smtp_DATA(arg)
        finally:
            self._began = None
            taking[peer] -= 1
            if taking[peer] <= 0:
                del taking[peer]

    def data_received(self, data: bytes) -> None:
        if self._began is not None:
            self._bytes += len(data)
            end = data.rfind(b"\r\n")
            self._line = self._line + len(data) if end < 0 else len(data) - end - 2
            # Twice the size: a mail that is somewhat too large is read to its end, where its sender listens.
            if self._bytes > 2 * MESSAGE_BYTES_MAX or self._line > LINE_BYTES_MAX:
                self._cut_off()
                return
            left = self._began + DATA_SECONDS_MAX + self._bytes / BYTES_PER_SECOND_MIN - self.loop.time()
            self._reset_timeout(max(left, 0.001))
        super().data_received(data)

    def _cut_off(self) -> None:
        transport: Any = self.transport
        self._began = None
        if transport is not None:
            transport.write(b"552 5.3.4 The mail does not end\r\n")
            transport.close()


class _Handler:
    """What aiosmtpd asks."""

    def __init__(self, listener: MailListener, calls: TrioCalls) -> None:
        self._listener = listener
        self._calls = calls

    async def handle_MAIL(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self._listener.closing:
            return "421 4.3.2 Closing, please come back later"
        # aiosmtpd takes nothing for no MAIL, so the empty sender stays as it was written.
        envelope.mail_from = address or _NOBODY
        envelope.mail_options.extend(options)
        return "250 2.1.0 Ok"

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if len(envelope.rcpt_tos) >= RECIPIENTS_MAX:
            return "452 4.5.3 Too many recipients"
        if not await self._calls(self._listener.known, address):
            return "550 5.1.1 There is no such mailbox here"
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 2.1.5 Ok"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        content = envelope.content
        assert isinstance(content, bytes), "decode_data is off"
        recipients = tuple(envelope.rcpt_tos)
        sender = "" if envelope.mail_from in (None, _NOBODY) else str(envelope.mail_from)
        name: Any = session.peer  # as the socket has it; aiosmtpd says that it is a text
        peer = Peer(address=str(name[0]) if name else "", helo=session.host_name or "", sender=sender)
        return await self._calls(self._listener.take, peer, recipients, content)

    async def handle_exception(self, error: Exception) -> str:
        log.warning("smtp.failed", error=type(error).__name__, reason=str(error)[:200])
        return "451 4.3.0 Please try again"
