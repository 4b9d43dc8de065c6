"""A mailbox's server, spoken to by imaplib in threads.

Promises    Nothing in the mailbox is changed: it is examined, and parts are peeked at. What a server sends is
            read within limits (`TooMuch`), so that none can fill our memory.
Source      RFC 3501, 2177 (IDLE), 5530 (codes).
"""

import imaplib
import re
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import trio

from adapters.email.connecting import connected
from adapters.email.describing import MESSAGE_BYTES_MAX
from adapters.email.structure import Leaf, leaves_of, told_of

T = TypeVar("T")

THREADS: Final = 32
STEP_SECONDS: Final = 60.0
LITERAL_BYTES_MAX: Final = MESSAGE_BYTES_MAX + 1024 * 1024
"""Nothing larger is asked for."""
_PASSING: Final = re.compile(r"\[(?:UNAVAILABLE|INUSE|LIMIT|SERVERBUG)\]|too many", re.IGNORECASE)
"""A refused login that says nothing of the password (RFC 5530; Gmail: too many simultaneous connections)."""

_threads = trio.CapacityLimiter(THREADS)


class LoginRefused(Exception):
    """With a sentence for people."""


class TooMuch(Exception):
    """The server sends more than is read of it. The connection is of no more use."""


class Mailbox(imaplib.IMAP4):
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
        return connected(self._addresses, host, port, timeout or STEP_SECONDS, tls=security == "tls")

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

    def sections(self, uid: int, wanted: Mapping[str, int]) -> dict[str, bytes] | None:
        """The beginnings of sections of a mail (RFC 3501, 6.4.5), each of so many bytes at most. None when it
        was removed meanwhile."""
        asked = " ".join(f"BODY.PEEK[{name}]<0.{most}>" for name, most in wanted.items())
        told = told_of(uid, self._ok(self.uid("FETCH", str(uid), f"(UID {asked})")))
        if told is None:
            return None
        found = {name: told.get(f"BODY[{name}]<0>") or told.get(f"BODY[{name}]") for name in wanted}
        return {
            name: value[: wanted[name]] if isinstance(value, bytes) else b"" for name, value in found.items()
        }

    def leaves(self, uid: int) -> Sequence[Leaf]:
        """The parts of a mail that hold something; empty where nobody can say."""
        told = told_of(uid, self._ok(self.uid("FETCH", str(uid), "(UID BODYSTRUCTURE)")))
        return leaves_of(told.get("BODYSTRUCTURE")) if told is not None else ()

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
        if end < 0 and len(self.buffer) >= limit:
            raise TooMuch
        return self._cut(end + 1 if end >= 0 else len(self.buffer))

    def read(self, size: int) -> bytes:
        if size > LITERAL_BYTES_MAX:
            raise TooMuch
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


async def in_thread(mailbox: Mailbox, do: Callable[[], T]) -> T:
    try:
        return await trio.to_thread.run_sync(do, abandon_on_cancel=True, limiter=_threads)
    except trio.Cancelled:
        mailbox.cut()
        raise
