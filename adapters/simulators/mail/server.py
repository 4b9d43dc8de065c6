"""A small SMTP server on trio that takes a business's mail, for mail worlds that are played.

Why         A played server must be able to misbehave on the wire: to want the mail later, to refuse a login,
            to cut the connection after it took a mail. Servers that are meant for mail do none of it.
Promises    EHLO, AUTH PLAIN and LOGIN, MAIL, RCPT, DATA, RSET, NOOP, QUIT, and STARTTLS where it has a
            context (RFC 5321, 3207, 4954). Faults of the route `send` apply to DATA: `error` with an SMTP
            code, `reset` (with `accepts`: after the mail was taken), `hang`, `slow`.
Limits      Lines of 4,096 bytes, mails of 25 MB, 100 connections.
"""

import base64
import binascii
import ssl
from collections.abc import Collection, Mapping
from typing import Final

import trio

from adapters.simulators.faults import Fault
from adapters.simulators.mail.service import MESSAGE_BYTES_MAX, MailAccount, MailService, opened
from adapters.simulators.playing.calls import Refusal
from engine.errors import Unavailable

LINE_MAX: Final = 4_096
CONNECTIONS_MAX: Final = 100


class _Gone(Exception):
    """The peer left, or is left."""


class MailDoor:
    """`run` is for `nursery.start`. `log` are the commands of all sessions, without what is secret.
    `mails_max`: how many a connection takes before it is closed, None for any number."""

    def __init__(
        self,
        service: MailService,
        accounts: Mapping[str, MailAccount],
        expired: Collection[str],
        *,
        tls: ssl.SSLContext | None = None,
        implicit_tls: bool = False,
    ) -> None:
        self.service = service
        self.accounts = accounts
        self.expired = expired
        self.tls = tls
        self.implicit_tls = implicit_tls
        self.greylist_seconds = 0.0
        self.refuse_recipients: dict[str, str] = {}
        self.mails_max: int | None = None
        self.connections_made = 0
        self.address = ""
        self.log: list[str] = []
        self._seen: dict[str, float] = {}
        self._streams: set[trio.SocketStream] = set()

    async def run(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        listeners = await trio.open_tcp_listeners(port, host=host)
        bound = listeners[0].socket.getsockname()
        self.address = f"{bound[0]}:{bound[1]}"
        task_status.started(self.address)
        await trio.serve_listeners(self._serve, listeners)

    async def _serve(self, stream: trio.SocketStream) -> None:
        if len(self._streams) >= CONNECTIONS_MAX:
            await stream.aclose()
            return
        self._streams.add(stream)
        self.connections_made += 1
        try:
            await _Session(self, stream).run()
        except (trio.BrokenResourceError, trio.ClosedResourceError, _Gone, ssl.SSLError):
            pass
        finally:
            self._streams.discard(stream)
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await trio.aclose_forcefully(stream)

    @property
    def connected(self) -> int:
        return len(self._streams)

    async def cut_all(self) -> None:
        """Every connection ends without a word, as when a server is started anew."""
        for stream in list(self._streams):
            await trio.aclose_forcefully(stream)

    def greylisted(self, recipient: str) -> bool:
        """Whether this recipient is to be tried again later."""
        now = trio.current_time()
        first = self._seen.setdefault(recipient, now)
        return now < first + self.greylist_seconds

    def account_for(self, user: str, password: str) -> MailAccount | None:
        account = self.accounts.get(user)
        good = account is not None and account.access_token == password and user not in self.expired
        return account if good else None


class _Session:
    def __init__(self, door: MailDoor, stream: trio.SocketStream) -> None:
        self._door = door
        self._stream: trio.abc.Stream = stream
        self._buffer = bytearray()
        self._secure = False
        self._account: MailAccount | None = None
        self._sender: str | None = None
        self._mails = 0
        self._recipients: list[str] = []

    async def run(self) -> None:
        if self._door.implicit_tls:
            await self._start_tls()
        await self._say("220 relay.example ESMTP")
        while True:
            line = (await self._line()).decode("utf-8", "replace")
            verb, _, rest = line.partition(" ")
            self._door.log.append("AUTH" if verb.upper() == "AUTH" else line)
            if not await self._obey(verb.upper(), rest.strip()):
                return

    async def _obey(self, verb: str, rest: str) -> bool:
        match verb:
            case "EHLO":
                offers = ["relay.example", f"SIZE {MESSAGE_BYTES_MAX}", "8BITMIME", "ENHANCEDSTATUSCODES"]
                offers.append("AUTH PLAIN LOGIN")
                if self._door.tls is not None and not self._secure:
                    offers.append("STARTTLS")
                for offer in offers[:-1]:
                    await self._say(f"250-{offer}")
                await self._say(f"250 {offers[-1]}")
            case "HELO":
                await self._say("250 relay.example")
            case "STARTTLS" if self._door.tls is not None and not self._secure:
                await self._say("220 2.0.0 Go ahead")
                await self._start_tls()
            case "AUTH":
                await self._login(rest)
            case "MAIL":
                await self._mail(rest)
            case "RCPT":
                await self._rcpt(rest)
            case "DATA":
                await self._data()
            case "RSET":
                self._sender, self._recipients = None, []
                await self._say("250 2.0.0 Ok")
            case "NOOP":
                await self._say("250 2.0.0 Ok")
            case "QUIT":
                await self._say("221 2.0.0 Bye")
                return False
            case _:
                await self._say("502 5.5.1 Not known here")
        return True

    async def _login(self, rest: str) -> None:
        mechanism, _, initial = rest.partition(" ")
        if mechanism.upper() == "PLAIN":
            if not initial:
                await self._say("334 ")
                initial = (await self._line()).decode("ascii", "replace")
            _, user, password = [*_decoded(initial).split("\0"), "", "", ""][:3]
        else:
            user = _decoded(initial) if initial else await self._ask("VXNlcm5hbWU6")
            password = await self._ask("UGFzc3dvcmQ6")
        self._account = self._door.account_for(user, password)
        if self._account is None:
            await self._say("535 5.7.8 Authentication credentials invalid")
        else:
            await self._say("235 2.7.0 Authentication successful")

    async def _ask(self, what: str) -> str:
        await self._say(f"334 {what}")
        return _decoded((await self._line()).decode("ascii", "replace"))

    async def _mail(self, rest: str) -> None:
        account = self._account
        if account is None or account.account_id in self._door.expired:
            await self._say("530 5.7.0 Authentication required")
            return
        if self._door.mails_max is not None and self._mails >= self._door.mails_max:
            await self._say("421 4.7.0 Too many messages on this connection")
            raise _Gone
        self._mails += 1
        self._sender, self._recipients = _address(rest), []
        await self._say("250 2.1.0 Ok")

    async def _rcpt(self, rest: str) -> None:
        recipient = _address(rest)
        if self._sender is None:
            await self._say("503 5.5.1 MAIL first")
        elif recipient in self._door.refuse_recipients:
            await self._say(self._door.refuse_recipients[recipient])
        elif self._door.greylisted(recipient):
            await self._say("450 4.7.1 Greylisted, please try again")
        else:
            self._recipients.append(recipient)
            await self._say("250 2.1.5 Ok")

    async def _data(self) -> None:
        account = self._account
        if not self._recipients or account is None:
            await self._say("503 5.5.1 RCPT first")
            return
        await self._say("354 End data with <CR><LF>.<CR><LF>")
        raw = await self._content()
        fault = self._door.service.faults.take("send", account.account_id, trio.current_time())
        if fault is not None and not await self._misbehave(fault, account, raw):
            return
        await self._say(self._take(account, raw))

    async def _misbehave(self, fault: Fault, account: MailAccount, raw: bytes) -> bool:
        """Whether the mail is taken all the same."""
        if fault.accepts:
            self._take(account, raw)
        match fault.kind:
            case "slow":
                await trio.sleep(fault.seconds)
                return True
            case "error":
                code = fault.status or (fault.code if 400 <= fault.code < 600 else 451)
                await self._say(f"{code} {'4.3.0' if code < 500 else '5.3.0'} A fault was set for this mail")
            case "garbage":
                await self._say("what?")
            case "hang":
                await trio.sleep(fault.seconds)
                raise _Gone
            case _:
                raise _Gone
        return False

    def _take(self, account: MailAccount, raw: bytes) -> str:
        try:
            received = opened(raw, sender=self._sender or "", to=self._recipients[0], variables={})
            self._door.service.take(account, received)
        except Refusal as refused:
            self._door.service.ledger.record_refusal(refused.code)
            return "452 4.7.28 Too much mail" if refused.code == 429 else "554 5.6.0 Not acceptable"
        except Unavailable:
            return "452 4.3.1 No room"
        return "250 2.0.0 Ok: queued"

    # ── the wire ─────────────────────────────────────────────────────────────────────────────────

    async def _start_tls(self) -> None:
        assert self._door.tls is not None
        self._buffer.clear()
        secure = trio.SSLStream(self._stream, self._door.tls, server_side=True, https_compatible=True)
        await secure.do_handshake()
        self._stream, self._secure, self._account = secure, True, None

    async def _say(self, line: str) -> None:
        await self._stream.send_all(f"{line}\r\n".encode())

    async def _line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            if len(self._buffer) > LINE_MAX:
                raise _Gone
            await self._more()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    async def _content(self) -> bytes:
        """Up to the final dot, with doubled dots single again."""
        # As if the line before had ended too: a mail may be empty, or begin with a dot.
        self._buffer[:0] = b"\r\n"
        start = 0
        while (end := self._buffer.find(b"\r\n.\r\n", max(0, start - 5))) < 0:
            start = len(self._buffer)
            if start > MESSAGE_BYTES_MAX + LINE_MAX:
                raise _Gone
            await self._more()
        raw = bytes(self._buffer[: end + 2])
        del self._buffer[: end + 5]
        return raw.replace(b"\r\n..", b"\r\n.")[2:]

    async def _more(self) -> None:
        received = await self._stream.receive_some(65_536)
        if not received:
            raise _Gone
        self._buffer += received


def _address(rest: str) -> str:
    return rest.partition("<")[2].partition(">")[0].lower()


def _decoded(text: str) -> str:
    try:
        return base64.b64decode(text).decode("utf-8", "replace")
    except (binascii.Error, ValueError):
        return ""
