"""A connection of the native protocol. `gateway/push/__init__.py` is the page for client authors."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, assert_never
from urllib.parse import parse_qsl

import msgspec

from engine.errors import Forbidden, NotFound, Rejected, Unauthenticated
from gateway.push.codes import CloseCode
from gateway.push.connection import Connection
from gateway.push.frames import NativeEncoder, NativeVoice
from gateway.push.names import Names
from gateway.push.presence import Member
from gateway.push.protocol import (
    Ack,
    Auth,
    ClientMessage,
    ErrorMessage,
    Ping,
    Pong,
    Present,
    Subscribe,
    Typing,
    Unsubscribe,
    Unsubscribed,
    Welcome,
    decode_client,
    encode,
    is_channel,
    is_presence,
)
from gateway.push.rights import Viewer
from gateway.push.session import Held, Session

if TYPE_CHECKING:
    from gateway.push.sessions import Sessions

PATH: Final = "/ws"
SHOWN_CHARACTERS_MAX: Final = 64
"""Of the client's own text, where it is sent back."""

_ENCODERS: Final = {names: NativeEncoder(names) for names in Names}
_VOICE: Final = NativeVoice()
_PONG: Final = encode(Pong())


class NativeSession(Session):
    def __init__(self, shared: "Sessions", connection: Connection) -> None:
        self.encoder = _ENCODERS[Names.DOTTED]
        self._viewer: Viewer | None = None
        self._epoch = ""
        super().__init__(shared, connection)

    @property
    def viewer(self) -> Viewer:
        assert self._viewer is not None, "nothing asks who this is before the auth message was accepted"
        return self._viewer

    def _shown(self) -> dict[str, object]:
        return {"user_id": self.viewer.user_id}

    def _viewers(self) -> Iterable[Viewer]:
        return (self.viewer,)

    async def _begin(self) -> int:
        rights, peer = self._shared.rights, self.connection.peer
        address = self._shared.client_of(peer.address, peer.forwarded)
        ticket = _ticket_in(peer.query)
        if ticket is not None:
            auth = Auth(ticket=ticket)
        else:
            text = await self.connection.receive()
            if len(text) > self._limits.message_bytes_max:
                raise Rejected(f"A message may have {self._limits.message_bytes_max} bytes.")
            message = _decode(text)
            if not isinstance(message, Auth):
                raise Unauthenticated("The first message must be auth.")
            auth = message
        if auth.ticket is not None:
            self._viewer = await rights.redeem(auth.ticket, address)
        elif auth.token is not None:
            self._viewer = await rights.authenticate(auth.token, auth.tenant, address)
        else:
            raise Rejected("An auth message has a token or a ticket.")
        self._epoch = await self._shared.epoch_of(self.viewer.tenant_id)
        return self.viewer.tenant_id

    def _greet(self, cursor: int) -> None:
        welcome = Welcome(
            epoch=self._epoch,
            cursor=cursor,
            session=self.id,
            user_id=self.viewer.user_id,
            silence_seconds_max=self._limits.silence_seconds_max,
        )
        self.connection.offer(encode(welcome))

    async def _handle(self, text: str | bytes) -> None:
        message = _decode(text)
        match message:
            case Ping():
                self.connection.offer(_PONG)
            case Subscribe(channel=channel, since=since, names=names):
                await self._subscribe(channel, since, names)
            case Unsubscribe(channel=channel):
                self._drop(channel)
                self.connection.offer(encode(Unsubscribed(channel=channel[:SHOWN_CHARACTERS_MAX])))
            case Ack(channel=channel, cursor=cursor):
                held = self._held.get(channel)
                if held is not None and held.subscription.acked < cursor <= held.subscription.position:
                    held.subscription.acked = cursor
            case Typing(channel=channel, state=state):
                self._typing(channel, state)
            case Auth():
                self._refuse("already_authenticated", "Open another connection for another token.")
            case _:
                assert_never(message)

    async def _subscribe(self, channel: str, since: int | None, names: Names) -> None:
        if not is_channel(channel):
            self._refuse("not_found", "There is no such channel.", channel)
            return
        if self._full(channel):
            self._refuse("too_many_subscriptions", "Unsubscribe from something first.", channel)
            return
        held = await self._listen(channel, channel, self.viewer, since, _ENCODERS[names])
        if held is None:
            self._refuse("forbidden", "You may not listen to this channel.", channel)
        elif is_presence(channel):
            held.visit = self._shared.presence.enter(
                self.tenant_id, channel, member_of(self.viewer), self.connection, _VOICE
            )
            if held.visit is None:
                self._drop(channel)
                self._refuse("channel_full", "Too many are on this channel.", channel)

    def _typing(self, channel: str, state: bool) -> None:
        held = self._held.get(channel)
        if held is None or held.visit is None:
            self._refuse("not_subscribed", "Subscribe to the presence channel first.", channel)
        elif not held.subscription.paused:
            self._shared.presence.typing(held.visit, state)

    def _refuse(self, code: str, message: str, channel: str | None = None) -> None:
        shown = None if channel is None else channel[:SHOWN_CHARACTERS_MAX]
        self.connection.offer(encode(ErrorMessage(code=code, message=message, channel=shown)))

    def _tell_lost(self, held: Held) -> None:
        self._refuse("forbidden", "You may no longer listen to this channel.", held.name)

    async def _recheck_viewers(self) -> bool:
        try:
            self._viewer = await self._shared.rights.renew(self.viewer)
        except (Unauthenticated, Forbidden, NotFound):
            self.end(CloseCode.REVOKED)
            return False
        return True


def member_of(viewer: Viewer) -> Member:
    """The same in every protocol, so that a person is in a room once."""
    info = encode(Present(user_id=viewer.user_id, name=viewer.name))
    return Member(id=str(viewer.user_id), info=msgspec.Raw(info))


def _ticket_in(query: str) -> str | None:
    return next((value for name, value in parse_qsl(query) if name == "ticket"), None)


def _decode(text: str | bytes) -> ClientMessage:
    try:
        message: ClientMessage = decode_client(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise Rejected("The message is not one of this protocol.") from error
    return message
