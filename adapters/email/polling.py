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
            Of a mail over `MESSAGE_BYTES_MAX` an agent sees what `excerpts` can read, and what was left out.
Limits      `BATCH` mails between two moves of the cursor, one mail in memory for each mailbox,
            `mailbox.THREADS` for all.
Trouble     A login that is refused marks the channel, and is tried again after `LOGIN_SECONDS`. Everything
            else is the services' to repeat, after pauses that grow (adapters/services.py).
Source      RFC 3501.
"""

import imaplib
from functools import partial
from typing import Final

import msgspec
import structlog
import trio
from msgspec import Struct

from adapters.email.describing import MESSAGE_BYTES_MAX
from adapters.email.excerpts import Excerpt, excerpt_of
from adapters.email.listening import delivery_of, read_mail
from adapters.email.mailbox import STEP_SECONDS, LoginRefused, Mailbox, TooMuch, in_thread
from adapters.email.parts import source_of
from adapters.guard import AddressRefused, PortRefused
from adapters.port import Account
from adapters.service import ServiceTools
from engine.errors import Unavailable

BATCH: Final = 20
LOGIN_SECONDS: Final = 900.0
"""Providers lock accounts after a handful of refused logins in an hour."""
POLL_SECONDS: Final = 60
IDLE_SECONDS: Final = 600.0
"""RFC 2177: under 29 minutes; routers forget connections earlier."""
OVERLAP_MS: Final = 24 * 3_600_000
_PORTS: Final = {"tls": 993, "starttls": 143, "none": 143}

_BY_PARTS: Final = 0
_HEAD_ALONE: Final = 1
"""How a mail is read that cannot be had whole. Where the server sends too much even so, it is passed over
with a line in the log."""

log = structlog.get_logger()


class Position(Struct, frozen=True, kw_only=True):
    """How far a mailbox was read. `at`: when that was, in ms."""

    validity: int
    uid: int
    at: int


def has_mailbox(account: Account) -> bool:
    return bool(account.settings.get("imap_host"))


class MailboxPoller:
    """`run` is the service of each account that has a mailbox."""

    def __init__(self, tools: ServiceTools) -> None:
        self._tools = tools
        self._excerpts: dict[tuple[int, int], int] = {}

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
        except (imaplib.IMAP4.error, OSError, TooMuch) as error:
            raise Unavailable(f"The mailbox cannot be read ({type(error).__name__}).") from error
        finally:
            mailbox.cut()

    async def _open(self, account: Account) -> Mailbox:
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
        mailbox = Mailbox(host, port, security, addresses)
        opened = False
        try:
            await in_thread(mailbox, partial(mailbox.enter, user, password))
            opened = True
        except (imaplib.IMAP4.error, OSError, TooMuch) as error:
            raise Unavailable(f"The mailbox cannot be reached ({type(error).__name__}).") from error
        finally:
            if not opened:
                mailbox.cut()
        return mailbox

    # ---------------------------------------------------------------- reading

    async def _look(self, mailbox: Mailbox, account: Account) -> None:
        """Takes what is new."""
        folder = str(account.settings.get("imap_folder") or "INBOX")
        validity, following = await in_thread(mailbox, partial(mailbox.examine, folder))
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
            uids = await in_thread(mailbox, partial(mailbox.since, position.at - OVERLAP_MS))
            last = 0
        else:
            uids = await in_thread(mailbox, partial(mailbox.after, position.uid))
            last = position.uid
        for start in range(0, len(uids), BATCH):
            batch = uids[start : start + BATCH]
            sizes = await in_thread(mailbox, partial(mailbox.sizes, batch))
            for uid in batch:
                await self._take(mailbox, account, uid, sizes.get(uid, 0))
            last = max(last, batch[-1])
            await self._move(account, validity, last)
        if position.validity != validity and not uids:
            await self._move(account, validity, following - 1)

    async def _take(self, mailbox: Mailbox, account: Account, uid: int, size: int) -> None:
        """Returns when the mail is durable, or is none any more. Raises Unavailable."""
        names = {"tenant": account.tenant_id, "channel_id": account.channel_id, "uid": uid, "bytes": size}
        reading = self._excerpts.get((account.channel_id, uid))
        if reading is None and size > MESSAGE_BYTES_MAX:
            reading = _BY_PARTS
        elif reading is not None and reading > _HEAD_ALONE:
            log.error("mailbox.unreadable", **names)
            return
        try:
            read = await in_thread(mailbox, partial(_read, mailbox, uid, size, reading))
        except TooMuch:
            # The connection is lost with it; with the next one less is asked for.
            self._excerpts[account.channel_id, uid] = _BY_PARTS if reading is None else reading + 1
            log.warning("mailbox.too_much", **names)
            raise
        endpoint = self._tools.endpoint(account.external_id)
        if read is None or endpoint is None:
            return
        raw = read.raw
        now, trace = self._tools.wall_ms(), self._tools.new_trace()
        event = await read_mail(
            raw, endpoint, sender=None, to=(), source=source_of(raw), at=now, left_out=read.left_out
        )
        delivery = delivery_of(raw, [(endpoint, (event,))], trace=trace, at=now)
        receipt = await self._tools.deliver(delivery)
        self._excerpts.pop((account.channel_id, uid), None)
        log.info(
            "mailbox.taken",
            trace=trace,
            stored=receipt.stored,
            known=receipt.duplicates,
            excerpt=read.left_out is not None,
            **names,
        )

    async def _move(self, account: Account, validity: int, uid: int) -> None:
        position = Position(validity=validity, uid=uid, at=self._tools.wall_ms())
        await self._tools.cursors.put(account, msgspec.json.encode(position).decode())

    async def _idle(self, mailbox: Mailbox, stopping: trio.Event) -> None:
        """Returns when the server tells something, when it has been long enough, or at the stop."""
        await in_thread(mailbox, mailbox.begin_idle)
        if not mailbox.has_pending():
            async with trio.open_nursery() as nursery:
                nursery.cancel_scope.deadline = trio.current_time() + IDLE_SECONDS

                async def until_stopped() -> None:
                    await stopping.wait()
                    nursery.cancel_scope.cancel()

                nursery.start_soon(until_stopped)
                await trio.lowlevel.wait_readable(mailbox.sock)
                nursery.cancel_scope.cancel()
        await in_thread(mailbox, mailbox.end_idle)


def _read(mailbox: Mailbox, uid: int, size: int, reading: int | None) -> Excerpt | None:
    """None: there is no such mail any more. In a thread."""
    if reading is None:
        raw = mailbox.whole(uid)
        return Excerpt(raw=raw) if raw is not None else None
    return excerpt_of(mailbox, uid, size=size, most=MESSAGE_BYTES_MAX, by_parts=reading == _BY_PARTS)
