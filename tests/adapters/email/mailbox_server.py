"""A mailbox on real sockets, scriptable: what imaplib asks of a server, and the ways in which one fails."""

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from email.parser import BytesParser

import trio


class MailboxServer:
    """`mails` by UID. `cut_after`: how many fetches are answered before each connection is cut. `size_told`:
    what is told of every mail's size, whatever it is. `structured`: whether BODYSTRUCTURE can be read."""

    def __init__(self, *, idle: bool = True) -> None:
        self.mails: dict[int, bytes] = {}
        self.validity = 1
        self.idle = idle
        self.password = "secret"
        self.refusal = "[AUTHENTICATIONFAILED] no"
        self.cut_after: int | None = None
        self.size_told: int | None = None
        self.structured = True
        self.commands: list[str] = []
        self.logins = 0
        self.connections = 0
        self.connections_made = 0
        self.port = 0
        self._next = 1
        self._changed = trio.Event()

    def put(self, raw: bytes) -> int:
        uid, self._next = self._next, self._next + 1
        self.mails[uid] = raw
        self.tell()
        return uid

    def build_anew(self, *mails: bytes) -> None:
        """Another mailbox under the same name: UIDs begin again."""
        self.validity += 1
        self.mails, self._next = {}, 1
        for raw in mails:
            self.put(raw)

    def tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    @asynccontextmanager
    async def running(self, port: int = 0) -> AsyncIterator["MailboxServer"]:
        async with trio.open_nursery() as nursery:
            (listener,) = await trio.open_tcp_listeners(port, host="127.0.0.1")
            self.port = listener.socket.getsockname()[1]
            nursery.start_soon(trio.serve_listeners, self._serve, [listener])
            yield self
            nursery.cancel_scope.cancel()

    async def _serve(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        self.connections_made += 1
        async with stream:
            try:
                await _Session(self, stream).run()
            except* (trio.BrokenResourceError, EOFError):
                pass
        self.connections -= 1

    @property
    def changed(self) -> trio.Event:
        return self._changed


class _Session:
    def __init__(self, server: MailboxServer, stream: trio.SocketStream) -> None:
        self._server = server
        self._stream = stream
        self._buffer = bytearray()
        self._fetched = 0
        self._told = 0

    async def run(self) -> None:
        await self._say("* OK ready")
        while True:
            line = await self._line()
            tag, _, command = line.partition(" ")
            self._server.commands.append(re.sub("(?i)^LOGIN.*", "LOGIN", command))
            if not await self._obey(tag, command):
                return

    async def _obey(self, tag: str, command: str) -> bool:
        server, upper = self._server, command.upper()
        if upper.startswith("CAPABILITY"):
            await self._say(f"* CAPABILITY IMAP4rev1{' IDLE' if server.idle else ''}")
        elif upper.startswith("LOGIN"):
            server.logins += 1
            if server.password not in command:
                await self._say(f"{tag} NO {server.refusal}")
                return True
        elif upper.startswith("EXAMINE"):
            await self._say(f"* {len(server.mails)} EXISTS")
            self._told = len(server.mails)
            await self._say(f"* OK [UIDVALIDITY {server.validity}] valid")
            await self._say(f"* OK [UIDNEXT {server._next}] next")
        elif upper.startswith("UID SEARCH UID"):
            least = int(command.split()[3].partition(":")[0])
            found = [uid for uid in server.mails if uid >= least] or list(server.mails)[-1:]
            await self._say(f"* SEARCH {' '.join(map(str, found))}")
        elif upper.startswith("UID SEARCH SINCE"):
            await self._say(f"* SEARCH {' '.join(map(str, server.mails))}")
        elif "RFC822.SIZE" in upper:
            for uid in command.split()[2].split(","):
                if int(uid) in server.mails:
                    size = server.size_told or len(server.mails[int(uid)])
                    await self._say(f"* {uid} FETCH (UID {uid} RFC822.SIZE {size})")
        elif upper.startswith("UID FETCH"):
            if server.cut_after is not None and self._fetched >= server.cut_after:
                return False
            self._fetched += 1
            uid = command.split()[2]
            raw = server.mails.get(int(uid))
            if raw is not None:
                told = b" ".join(self._told_of(raw, upper))
                await self._stream.send_all(f"* {uid} FETCH (UID {uid} ".encode() + told + b")\r\n")
        elif upper == "IDLE":
            await self._idle(tag)
            return True
        elif upper == "LOGOUT":
            await self._say("* BYE")
        await self._say(f"{tag} OK done")
        return True

    def _told_of(self, raw: bytes, asked: str) -> Iterator[bytes]:
        if "BODYSTRUCTURE" in asked:
            yield b"BODYSTRUCTURE " + (_structure(raw) if self._server.structured else b"((((")
        for name, most in re.findall(r"BODY\.PEEK\[([A-Z0-9.]*)\](?:<0\.(\d+)>)?", asked):
            content = _section(raw, name)[: int(most) if most else None]
            told = f"BODY[{name}]{'<0>' if most else ''} {{{len(content)}}}\r\n"
            yield told.encode() + content

    async def _idle(self, tag: str) -> None:
        changed = self._server.changed
        if self._told != len(self._server.mails):
            # What came since the last command is told at once, in one piece with the answer.
            await self._say(f"+ idling\r\n* {len(self._server.mails)} EXISTS")
        else:
            await self._say("+ idling")
        async with trio.open_nursery() as nursery:

            async def tell() -> None:
                await changed.wait()
                await self._say(f"* {len(self._server.mails)} EXISTS")

            nursery.start_soon(tell)
            assert await self._line() == "DONE"
            nursery.cancel_scope.cancel()
        await self._say(f"{tag} OK done")

    async def _say(self, line: str) -> None:
        await self._stream.send_all(f"{line}\r\n".encode())

    async def _line(self) -> str:
        while b"\r\n" not in self._buffer:
            received = await self._stream.receive_some()
            if not received:
                raise EOFError
            self._buffer += received
        line, _, rest = bytes(self._buffer).partition(b"\r\n")
        self._buffer[:] = rest
        return line.decode()


def _split(raw: bytes) -> tuple[bytes, bytes, list[bytes]]:
    """Head, content, and the parts of a container."""
    head, end, content = raw.partition(b"\r\n\r\n")
    boundary = BytesParser().parsebytes(head + end, headersonly=True).get_boundary()
    if boundary is None:
        return head + end, content, []
    pieces = (b"\r\n" + content).split(f"\r\n--{boundary}".encode())
    return head + end, content, [piece.partition(b"\r\n")[2] for piece in pieces[1:-1]]


def _section(raw: bytes, name: str) -> bytes:
    if not name:
        return raw
    if name in ("HEADER", "MIME"):
        return _split(raw)[0]
    number, _, rest = name.partition(".")
    _, content, parts = _split(raw)
    if not parts:
        return content
    part = parts[int(number) - 1]
    return _section(part, rest) if rest else _split(part)[1]


def _structure(raw: bytes) -> bytes:
    head, content, parts = _split(raw)
    kind = BytesParser().parsebytes(head, headersonly=True)
    sub = kind.get_content_subtype()
    if parts:
        return b"(" + b"".join(map(_structure, parts)) + f' "{sub}" ("BOUNDARY" "x") NIL NIL)'.encode()
    encoding = kind.get("Content-Transfer-Encoding", "7bit")
    return (
        f'("{kind.get_content_maintype()}" "{sub}" NIL NIL NIL "{encoding}" {len(content)} NIL NIL)'.encode()
    )
