"""Mail fetched from a mailbox (IMAP), for those who have nothing else; by imaplib in threads.

Why imaplib It is kept with Python and gives what is needed here: raw mails by UID. imap-tools stands on it
            and parses what we read ourselves; aioimaplib would need the asyncio side for each mailbox. A
            thread works while a server is spoken to; a mailbox that waits (IDLE) holds a socket and no
            thread.
Promises    A mail is passed over only after it is durable: the cursor (UIDVALIDITY and UID) moves behind the
            commit, so nothing is lost however long we or the server are away. What comes twice is settled by
            its Message-ID. A mailbox that was built anew (another UIDVALIDITY) is read again from the day
            before the last mail that was taken. Nothing in the mailbox is changed, not even `\\Seen`.
            The first look takes nothing: what is there then is older than the account.
Limits      `BATCH` mails between two moves of the cursor, one mail in memory for each mailbox, `THREADS` for
            all. A mail over `MESSAGE_BYTES_MAX` is passed over with a line in the log.
Trouble     A login that is refused marks the channel, and is tried again after `LOGIN_SECONDS`. Everything
            else is the services' to repeat, after pauses that grow (adapters/services.py).
Source      RFC 3501, 2177 (IDLE), 5530 (codes).
"""

import imaplib
import re
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, TypeVar

import msgspec
import structlog
import trio
from msgspec import Struct

from adapters.email.describing import MESSAGE_BYTES_MAX
from adapters.email.listening import delivery_of, read_mail
from adapters.email.parts import source_of
from adapters.guard import AddressRefused, PortRefused
from adapters.port import Account
from adapters.service import ServiceTools
from engine.errors import Unavailable

T = TypeVar("T")

BATCH: Final = 20
THREADS: Final = 32
STEP_SECONDS: Final = 60.0
LOGIN_SECONDS: Final = 900.0
"""Providers lock accounts after a handful of refused logins in an hour."""
POLL_SECONDS: Final = 60
IDLE_SECONDS: Final = 600.0
"""RFC 2177: under 29 minutes; routers forget connections earlier."""
OVERLAP_MS: Final = 24 * 3_600_000
_PASSING: Final = re.compile(r"\[(?:UNAVAILABLE|INUSE|LIMIT|SERVERBUG)\]|too many", re.IGNORECASE)
"""A refused login that says nothing of the password (RFC 5530; Gmail: too many simultaneous connections)."""
_PORTS: Final = {"tls": 993, "starttls": 143, "none": 143}

log = structlog.get_logger()
_threads = trio.CapacityLimiter(THREADS)


class Position(Struct, frozen=True, kw_only=True):
    """How far a mailbox was read. `at`: when that was, in ms."""

    validity: int
    uid: int
    at: int


class LoginRefused(Exception):
    """With a sentence for people."""


def has_mailbox(account: Account) -> bool:
    return bool(account.settings.get("imap_host"))


class MailboxPoller:
    """`run` is the service of each account that has a mailbox."""

    def __init__(self, tools: ServiceTools) -> None:
        self._tools = tools

    async def run(self, account: Account, stopping: trio.Event) -> None:
        seconds = float(account.settings.get("imap_poll_seconds") or POLL_SECONDS)
        while not stopping.is_set():
            pause = seconds
            try:
                await self._visit(account, stopping)
            except LoginRefused as refused:
                self._tools.attention(account, str(refused))
                pause = max(seconds, LOGIN_SECONDS)
            with trio.move_on_after(pause):
                await stopping.wait()

    async def _visit(self, account: Account, stopping: trio.Event) -> None:
        """One connection: what is new is taken; where the server tells of more by itself, so is that."""
        mailbox = await self._open(account)
        try:
            while not stopping.is_set():
                await self._look(mailbox, account)
                if "IDLE" not in mailbox.capabilities:
                    return
                await self._idle(mailbox, stopping)
        except (imaplib.IMAP4.error, OSError) as error:
            raise Unavailable(f"The mailbox cannot be read ({type(error).__name__}).") from error
        finally:
            mailbox.cut()

    async def _open(self, account: Account) -> "_Mailbox":
        settings = account.settings
        host, security = str(settings["imap_host"]), str(settings.get("imap_security") or "tls")
        port = int(settings.get("imap_port") or _PORTS.get(security, 993))
        guard = self._tools.tools.guard
        if security == "none" and not guard.lets_through(host, port):
            raise LoginRefused("A password is not sent without TLS: set imap_security to tls or starttls.")
        try:
            guard.check_port(host, port, _PORTS.values())
            with trio.fail_after(STEP_SECONDS):
                addresses = await guard.resolve(host, port)
        except PortRefused as error:
            raise LoginRefused(
                f"Mailboxes are called on the ports 143 and 993; the operator may allow {port} too."
            ) from error
        except AddressRefused as error:
            raise LoginRefused("The mailbox's address is not one that may be called.") from error
        except (OSError, UnicodeError, trio.TooSlowError) as error:
            raise Unavailable(f"The mailbox's server is not found ({type(error).__name__}).") from error
        user = str(settings.get("imap_username") or settings.get("smtp_username") or account.external_id)
        credentials = account.credentials
        password = credentials.get("imap_password") or credentials.get("smtp_password", "")
        mailbox = _Mailbox(host, port, security, addresses)
        opened = False
        try:
            await _in_thread(mailbox, partial(mailbox.enter, user, password))
            opened = True
        except (imaplib.IMAP4.error, OSError) as error:
            raise Unavailable(f"The mailbox cannot be reached ({type(error).__name__}).") from error
        finally:
            if not opened:
                mailbox.cut()
        return mailbox

    # ---------------------------------------------------------------- reading

    async def _look(self, mailbox: "_Mailbox", account: Account) -> None:
        """Takes what is new."""
        folder = str(account.settings.get("imap_folder") or "INBOX")
        validity, following = await _in_thread(mailbox, partial(mailbox.examine, folder))
        known = await self._tools.cursors.get(account)
        position = msgspec.json.decode(known, type=Position) if known is not None else None
        if position is None:
            await self._move(account, validity, following - 1)
            return
        if position.validity != validity:
            log.warning(
                "mailbox.built_anew",
                tenant=account.tenant_id,
                channel_id=account.channel_id,
                before=position.validity,
                now=validity,
            )
            uids = await _in_thread(mailbox, partial(mailbox.since, position.at - OVERLAP_MS))
            last = 0
        else:
            uids = await _in_thread(mailbox, partial(mailbox.after, position.uid))
            last = position.uid
        for start in range(0, len(uids), BATCH):
            batch = uids[start : start + BATCH]
            sizes = await _in_thread(mailbox, partial(mailbox.sizes, batch))
            for uid in batch:
                await self._take(mailbox, account, uid, sizes.get(uid, 0))
            last = max(last, batch[-1])
            await self._move(account, validity, last)
        if position.validity != validity and not uids:
            await self._move(account, validity, following - 1)

    async def _take(self, mailbox: "_Mailbox", account: Account, uid: int, size: int) -> None:
        """Returns when the mail is durable, or is none any more. Raises Unavailable."""
        names = {"tenant": account.tenant_id, "channel_id": account.channel_id, "uid": uid, "bytes": size}
        if size > MESSAGE_BYTES_MAX:
            log.error("mailbox.too_large", **names)
            return
        raw = await _in_thread(mailbox, partial(mailbox.whole, uid))
        endpoint = self._tools.endpoint(account.external_id)
        if raw is None or endpoint is None:
            return
        now, trace = self._tools.wall_ms(), self._tools.new_trace()
        event = await read_mail(raw, endpoint, sender=None, to=(), source=source_of(raw), at=now)
        delivery = delivery_of(raw, [(endpoint, (event,))], trace=trace, at=now)
        receipt = await self._tools.deliver(delivery)
        log.info("mailbox.taken", trace=trace, stored=receipt.stored, known=receipt.duplicates, **names)

    async def _move(self, account: Account, validity: int, uid: int) -> None:
        position = Position(validity=validity, uid=uid, at=self._tools.wall_ms())
        await self._tools.cursors.put(account, msgspec.json.encode(position).decode())

    async def _idle(self, mailbox: "_Mailbox", stopping: trio.Event) -> None:
        """Returns when the server tells something, when it has been long enough, or at the stop."""
        await _in_thread(mailbox, mailbox.begin_idle)
        if not mailbox.has_pending():
            async with trio.open_nursery() as nursery:
                nursery.cancel_scope.deadline = trio.current_time() + IDLE_SECONDS

                async def until_stopped() -> None:
                    await stopping.wait()
                    nursery.cancel_scope.cancel()

                nursery.start_soon(until_stopped)
                await trio.lowlevel.wait_readable(mailbox.sock)
                nursery.cancel_scope.cancel()
        await _in_thread(mailbox, mailbox.end_idle)


# -------------------------------------------------------------------- the protocol, in a thread


class _Mailbox(imaplib.IMAP4):
    """imaplib's client, which connects to the addresses that it is given when it is entered."""

    sock: socket.socket

    def __init__(self, host: str, port: int, security: str, addresses: Sequence[str]) -> None:
        # The rest of it connects, which belongs into a thread.
        self._where = (host, port, security)
        self._addresses = addresses
        self._idle_tag = b""

    def enter(self, user: str, password: str) -> None:
        host, port, security = self._where
        super().__init__(host, port, timeout=STEP_SECONDS)
        if security == "starttls":
            self.starttls(ssl.create_default_context())
            self._read_by_hand()
        try:
            self.login(user, password)
        except imaplib.IMAP4.abort:
            raise
        except imaplib.IMAP4.error as error:
            if _PASSING.search(str(error)) is not None:
                raise imaplib.IMAP4.abort("the server takes no login now") from error
            raise LoginRefused("The mailbox does not accept the user name and password.") from error

    def open(self, host: str = "", port: int = 143, timeout: float | None = None) -> None:
        super().open(host, port, timeout)
        self._read_by_hand()

    def _read_by_hand(self) -> None:
        self.file.close()
        self._reader = _Reader(self.sock)
        self.file = self._reader  # type: ignore[assignment]  # what imaplib uses of a file

    def _create_socket(self, timeout: float | None) -> socket.socket:
        """What imaplib connects by."""
        host, port, security = self._where
        found: socket.socket | None = None
        for address in self._addresses:
            try:
                found = socket.create_connection((address, port), timeout)
                break
            except OSError:
                if address == self._addresses[-1]:
                    raise
        assert found is not None, "the guard gives one address at least"
        if security == "tls":
            return ssl.create_default_context().wrap_socket(found, server_hostname=host)
        return found

    def examine(self, folder: str) -> tuple[int, int]:
        """UIDVALIDITY and UIDNEXT, without changing anything."""
        quoted = folder.replace("\\", "\\\\").replace('"', '\\"')
        self._ok(self.select(f'"{quoted}"', readonly=True))
        return self._number("UIDVALIDITY"), self._number("UIDNEXT")

    def after(self, uid: int) -> list[int]:
        """UIDs above, ascending. `n:*` names the last mail even where n is above it."""
        return [found for found in self._search("UID", f"{uid + 1}:*") if found > uid]

    def since(self, at_ms: int) -> list[int]:
        """UIDs of what came since a day, ascending."""
        day = datetime.fromtimestamp(max(0, at_ms) / 1000, UTC)
        month = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
        return self._search("SINCE", f"{day.day}-{month[day.month - 1]}-{day.year}")

    def sizes(self, uids: Sequence[int]) -> dict[int, int]:
        data = self._ok(self.uid("FETCH", ",".join(map(str, uids)), "(UID RFC822.SIZE)"))
        found = {}
        for line in data:
            text = (line[0] if isinstance(line, tuple) else line or b"").decode("ascii", "replace")
            uid, size = re.search(r"\bUID (\d+)", text), re.search(r"\bRFC822\.SIZE (\d+)", text)
            if uid is not None and size is not None:
                found[int(uid[1])] = int(size[1])
        return found

    def whole(self, uid: int) -> bytes | None:
        """The mail as it is; None when it was removed meanwhile."""
        data = self._ok(self.uid("FETCH", str(uid), "(UID BODY.PEEK[])"))
        return next((part[1] for part in data if isinstance(part, tuple)), None)

    def begin_idle(self) -> None:
        # imaplib itself has IDLE from Python 3.14 on.
        self._idle_tag = self._new_tag()
        self.send(self._idle_tag + b" IDLE\r\n")
        if not self.readline().startswith(b"+"):
            raise imaplib.IMAP4.abort("the server does not idle")

    def has_pending(self) -> bool:
        """Whether the server has told something already, which the socket will not say again."""
        held = self.sock.pending() if isinstance(self.sock, ssl.SSLSocket) else 0
        return held > 0 or bool(self._reader.buffer)

    def end_idle(self) -> None:
        self.send(b"DONE\r\n")
        while line := self.readline():
            if line.startswith(self._idle_tag + b" "):
                return
        raise imaplib.IMAP4.abort("the connection ended")

    def cut(self) -> None:
        """Ends the connection at once, also under a thread that waits on it. Never raises."""
        sock: socket.socket | None = getattr(self, "sock", None)
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            with suppress(OSError):
                self.file.close()
            with suppress(OSError):
                sock.close()

    def _search(self, *criteria: str) -> list[int]:
        data = self._ok(self.uid("SEARCH", *criteria))
        words = b" ".join(part for part in data if isinstance(part, bytes)).split()
        return sorted({int(word) for word in words if word.isdigit()})

    def _number(self, name: str) -> int:
        _, data = self.response(name)
        value = data[0] if data else None
        if not isinstance(value, bytes) or not value.isdigit():
            raise imaplib.IMAP4.abort(f"the server gives no {name}")
        return int(value)

    def _ok(self, answer: tuple[str, list[Any]]) -> list[Any]:
        if answer[0] != "OK":
            raise imaplib.IMAP4.abort("the server refused a command")
        return answer[1]


class _Reader:
    """A socket's file whose buffer can be looked into: what came behind the answer to IDLE is news."""

    def __init__(self, sock: socket.socket) -> None:
        self.buffer = bytearray()
        self._sock = sock

    def readline(self, limit: int) -> bytes:
        looked = 0
        while (end := self.buffer.find(b"\n", looked)) < 0 and len(self.buffer) < limit:
            looked = len(self.buffer)
            if not self._more():
                break
        return self._cut(end + 1 if end >= 0 else min(limit, len(self.buffer)))

    def read(self, size: int) -> bytes:
        while len(self.buffer) < size and self._more():
            pass
        return self._cut(size)

    def close(self) -> None:
        """The socket is closed by its owner."""

    def _more(self) -> bool:
        received = self._sock.recv(65_536)
        self.buffer += received
        return bool(received)

    def _cut(self, size: int) -> bytes:
        cut = bytes(self.buffer[:size])
        del self.buffer[:size]
        return cut


async def _in_thread(mailbox: _Mailbox, do: Callable[[], T]) -> T:
    try:
        return await trio.to_thread.run_sync(do, abandon_on_cancel=True, limiter=_threads)
    except trio.Cancelled:
        mailbox.cut()
        raise
