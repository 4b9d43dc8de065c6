"""The port between a push session and whatever carries its frames.

A session speaks a protocol and knows no socket; a transport moves text frames and knows no protocol. A
transport makes a `Connection`, runs `Sessions.run(connection)` in the connection's own task and closes with
the `Ending` that it returns. There are two: Quart's route (`gateway.websocket`) and the lane in front of it.
"""

from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from gateway.push.codes import CloseCode


class Gone(Exception):
    """The client has left, with a close frame or without one. Raised by `Connection.receive`."""


class Peer(Struct, frozen=True, kw_only=True):
    """What the handshake said. `query` is the raw query string without its question mark; `forwarded` its
    X-Forwarded-For, which anybody may have written."""

    path: str
    query: str = ""
    origin: str | None = None
    address: str = ""
    forwarded: str | None = None


class Ending(Struct, frozen=True, kw_only=True):
    """How to close: RFC 6455 close code and reason (at most 123 bytes). What still waits is dropped."""

    code: int
    reason: str


class Outlet(Protocol):
    """Where the hub puts frames. Nothing here waits for the client, `wait_room` excepted."""

    def offer(self, frame: bytes) -> bool:
        """Takes the payload of one text frame (UTF-8), in order, or ends the connection because a bound is
        passed. False: not taken. The hub offers the very same object to every reader of a channel, one right
        after the other. Never blocks, never raises."""
        ...

    def has_room(self) -> bool:
        """Whether a replay may put in another frame: half of the bound is kept for live events."""
        ...

    async def wait_room(self) -> None:
        """Until `has_room`; for ever once the connection is ending (the waiting task is cancelled)."""
        ...


class Connection(Outlet, Protocol):
    """One client, from its accepted handshake on."""

    @property
    def peer(self) -> Peer: ...

    @property
    def peak_bytes(self) -> int:
        """The most that ever waited, for the log."""
        ...

    def attach(self, slow: Callable[[CloseCode], None]) -> None:
        """Called once by the session before it does anything else. `slow` is called at most once, also from
        within `offer`, when the client reads too slowly: with SLOW_BYTES or SLOW_AGE. It never blocks."""
        ...

    async def receive(self) -> str | bytes:
        """The next whole text message, decoded or as its UTF-8 bytes. Only one task calls it. Raises Gone.
        A message that cannot be one (over the frame limit, not UTF-8, binary) is for the transport to
        refuse with a code of RFC 6455; the session hears of it as Gone."""
        ...

    def detach(self) -> None:
        """The session is over: what waits may be let go, what is offered later is not taken."""
        ...
