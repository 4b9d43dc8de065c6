"""All push sessions of a process: which protocol a connection speaks, what sessions share, and their end."""

from collections.abc import Collection
from typing import Final

from gateway.client_address import DIRECT, ClientOf
from gateway.metrics import Metrics
from gateway.push import native
from gateway.push.codes import CloseCode
from gateway.push.connection import Connection, Ending, Peer
from gateway.push.hub import Hub
from gateway.push.native import NativeSession
from gateway.push.presence import Presence
from gateway.push.pusher.apps import Apps
from gateway.push.pusher.rooms import Rooms
from gateway.push.pusher.session import PusherSession
from gateway.push.rights import Rights
from gateway.push.session import LOST, EpochOf, Session, SessionLimits

PUSHER_PREFIX: Final = "/app/"


class Sessions:
    """Makes sessions; holds what they share. `close_all` is for the shutdown.

    `origins` are those whose pages may connect, `*` for all: a token travels in a message and never in a
    cookie, so another site's page has nothing to borrow.
    """

    def __init__(
        self,
        hub: Hub,
        metrics: Metrics,
        *,
        rights: Rights,
        epoch_of: EpochOf,
        apps: Apps | None = None,
        origins: Collection[str] = ("*",),
        client_of: ClientOf = DIRECT,
        limits: SessionLimits | None = None,
    ) -> None:
        self.hub = hub
        self.metrics = metrics
        self.rights = rights
        self.epoch_of = epoch_of
        self.apps = apps if apps is not None else Apps()
        self.origins = origins
        self.client_of = client_of
        self.limits = limits or SessionLimits()
        self.presence = Presence()
        self.rooms = Rooms()
        self._open: dict[Session, None] = {}
        self._closing = False

    def refusal(self, peer: Peer) -> int | None:
        """The HTTP status to refuse a handshake with: 404 for a path that is no WebSocket's, 403 for a page
        of another origin. None: accept it, and `run`."""
        key = peer.path.removeprefix(PUSHER_PREFIX)
        if peer.path != native.PATH and (key == peer.path or not key or "/" in key):
            return 404
        if peer.origin is not None and "*" not in self.origins and peer.origin not in self.origins:
            return 403
        return None

    async def run(self, connection: Connection) -> Ending | None:
        """One connection, whose handshake was accepted. Returns how to close it; None when the client has
        left. A transport may also cancel this when it has lost the client. Never raises anything of its own.
        """
        if self._closing:
            return Ending(code=CloseCode.GOING_AWAY.value, reason=CloseCode.GOING_AWAY.reason)
        is_native = connection.peer.path == native.PATH
        session = NativeSession(self, connection) if is_native else PusherSession(self, connection)
        self._open[session] = None
        code: CloseCode | None = None
        try:
            code = await session.run()
            return None if code is None else session.ending(code)
        finally:
            del self._open[session]
            self.metrics.push_closes.labels(code=str(LOST if code is None else code.value)).inc()

    def close_all(self, code: CloseCode = CloseCode.GOING_AWAY) -> None:
        """Ends every session, and every later one, with `code`. Returns at once."""
        self._closing = True
        for session in list(self._open):
            session.end(code)

    def __len__(self) -> int:
        return len(self._open)
