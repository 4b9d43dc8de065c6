"""A connection of Pusher's protocol. `gateway/push/pusher/__init__.py` is the page for client authors.

The connection is a tenant's and nobody's in particular: who listens is said, and signed, for each channel.
On the engine's channels that is a user with rights, which are checked here and again when they change; on the
tenant's own channels the signature of its back end is all there is to check.
"""

import secrets
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl

import msgspec
import trio

from engine.domain.ids import ID_MAX
from engine.errors import Forbidden, MijraError, NotFound, Rejected, Unauthenticated
from gateway.push.codes import CloseCode, PusherCode
from gateway.push.connection import Connection, Ending
from gateway.push.names import Names
from gateway.push.native import member_of
from gateway.push.presence import Member, Visit
from gateway.push.pusher.apps import App
from gateway.push.pusher.channels import ChannelName, Kind, channel_name
from gateway.push.pusher.frames import (
    SUBSCRIBED,
    TYPING,
    PresenceEncoder,
    PusherEncoder,
    PusherVoice,
    client_event,
)
from gateway.push.pusher.protocol import (
    VERSIONS,
    Grant,
    Message,
    PresenceData,
    Subscribe,
    Unsubscribe,
    data_of,
    decode_message,
    error_frame,
    frame,
    grant_of,
)
from gateway.push.pusher.rooms import Seat
from gateway.push.pusher.signature import subscription_is_signed
from gateway.push.session import Held, Session
from gateway.ratelimit import Buckets, Rate

if TYPE_CHECKING:
    from gateway.push.sessions import Sessions

ACTIVITY_SECONDS: Final = 30
"""After so long without a word from here, clients ask with a ping."""

CLIENT_EVENT_BYTES_MAX: Final = 10 * 1024
CLIENT_EVENTS: Final = Rate(per_second=10, burst=20)
"""Pusher's own limits, with room for a moment's hurry."""

EVENT_NAME_CHARACTERS_MAX: Final = 200
INFO_BYTES_MAX: Final = 1024
"""Pusher's limit for a member's `user_info`."""

_ENCODERS: Final = {names: PusherEncoder(names) for names in Names}
_PRESENCE: Final = PresenceEncoder()
_VOICE: Final = PusherVoice()
_PING: Final = frame("pusher:ping", {})
_PONG: Final = frame("pusher:pong", {})

_CODES: Final = {
    CloseCode.UNAUTHENTICATED: PusherCode.NOT_ALLOWED,
    CloseCode.FORBIDDEN: PusherCode.NOT_ALLOWED,
    CloseCode.REVOKED: PusherCode.NOT_ALLOWED,
    CloseCode.BAD_MESSAGE: PusherCode.BAD_MESSAGE,
    CloseCode.SILENT: PusherCode.NO_PONG,
}
"""The others have numbers of the right range in both protocols."""


class PusherSession(Session):
    def __init__(self, shared: "Sessions", connection: Connection) -> None:
        self.encoder = _ENCODERS[Names.DOTTED]
        self._app: App | None = None
        self._refused_with: PusherCode | None = None
        self._pinged = False
        self._seats: dict[str, Seat] = {}
        self._own: dict[str, Visit | None] = {}  # the tenant's own channels; on presence ones the visit
        self._client_events: Buckets[None] = Buckets(CLIENT_EVENTS)
        # Two numbers, because the server libraries insist on \d+\.\d+.
        self.socket_id = f"{1 + secrets.randbelow(10**9)}.{1 + secrets.randbelow(10**9)}"
        super().__init__(shared, connection)

    @property
    def app(self) -> App:
        assert self._app is not None, "nothing is handled before the app was found"
        return self._app

    async def _begin(self) -> int:
        peer = self.connection.peer
        version = dict(parse_qsl(peer.query)).get("protocol")
        app = self._shared.apps.by_key(peer.path.rpartition("/")[2])
        if app is None:
            raise self._refusal(PusherCode.NO_SUCH_APP)
        if version not in VERSIONS:
            raise self._refusal(PusherCode.BAD_VERSION if version else PusherCode.NO_VERSION)
        if not await self._shared.rights.tenant_is_active(app.tenant_id):
            raise self._refusal(PusherCode.SUSPENDED)
        self._app = app
        return app.tenant_id

    def _refusal(self, code: PusherCode) -> MijraError:
        self._refused_with = code
        return Rejected(code.reason)

    def ending(self, code: CloseCode) -> Ending:
        said: CloseCode | PusherCode = self._refused_with or _CODES.get(code) or code
        return Ending(code=said.value, reason=said.reason)

    def _greet(self, cursor: int) -> None:
        if self._shared.rooms.strangers(self.tenant_id) >= self._limits.strangers_per_tenant_max:
            self.end(CloseCode.OVER_CAPACITY)
            return
        self._shared.rooms.open(self)
        data = {"socket_id": self.socket_id, "activity_timeout": ACTIVITY_SECONDS}
        self.connection.offer(frame("pusher:connection_established", data))

    def _shown(self) -> dict[str, object]:
        return {"socket_id": self.socket_id}

    def _silent(self) -> bool:
        if self._pinged:
            return False
        self._pinged = True
        self.connection.offer(_PING)
        return True

    # -------------------------------------------------------------- the client's messages

    async def _handle(self, text: str | bytes) -> None:
        self._pinged = False
        message = _decoded(text)
        match message:
            case Subscribe():
                await self._subscribe(message)
            case Unsubscribe(channel=channel):
                self._drop(channel)
            case Message(event="pusher:ping"):
                self.connection.offer(_PONG)
            case Message(event="pusher:pong"):
                pass
            case Message(event=name) if name.startswith("client-"):
                self._client_event(message)
            case _:
                self._complain(None, "This event is not known here.")

    async def _subscribe(self, wish: Subscribe) -> None:
        channel = channel_name(wish.channel)
        if channel.problem is not None:
            self._refuse(channel.name, channel.problem)
        elif self._held_in_all() >= self._limits.subscriptions_max and not self._holds(channel.name):
            self._refuse(channel.name, "Too many subscriptions: unsubscribe from something first.", 429)
        elif channel.kind is not Kind.PUBLIC and not subscription_is_signed(
            self.app, wish.auth or "", self.socket_id, channel.name, wish.channel_data
        ):
            self._refuse(channel.name, "The signature does not fit: authorize at /broadcasting/auth.", 401)
        else:
            if channel.kind is not Kind.PUBLIC:
                self._shared.rooms.introduce(self)
            if channel.engine is not None:
                await self._subscribe_engine(channel, channel.engine, wish.channel_data)
            else:
                self._subscribe_own(channel, wish.channel_data)

    async def _subscribe_engine(self, channel: ChannelName, engine: str, channel_data: str | None) -> None:
        try:
            grant = grant_of(channel_data or "")
            names = Names(grant.names or Names.DOTTED.value)
        except (msgspec.DecodeError, ValueError):
            self._refuse(channel.name, 'channel_data must name the user: {"user_id": "7"}.')
            return
        is_presence = channel.kind is Kind.PRESENCE
        encoder = _PRESENCE if is_presence else _ENCODERS[names]
        viewer, held = None, None
        try:
            viewer = await self._shared.rights.vouched(self.tenant_id, grant.user_id, grant.token)
            held = await self._listen(channel.name, engine, viewer, _since(grant, is_presence), encoder)
        except (Unauthenticated, Forbidden, NotFound):
            pass
        if viewer is None or held is None:
            self._refuse(channel.name, "You may not listen to this channel.")
            return
        self._sit(Seat(self.tenant_id, channel.name, self.socket_id, self.connection, held.subscription))
        if is_presence:
            held.visit = self._enter(channel.name, member_of(viewer))
            if held.visit is None:
                self._drop(channel.name)

    def _subscribe_own(self, channel: ChannelName, channel_data: str | None) -> None:
        member = None
        if channel.kind is Kind.PRESENCE:
            try:
                member = _member(channel_data)
            except msgspec.DecodeError:
                self._refuse(channel.name, 'channel_data must name the user: {"user_id": "7"}.')
                return
        self._drop(channel.name)
        self._own[channel.name] = None
        self._sit(Seat(self.tenant_id, channel.name, self.socket_id, self.connection))
        if member is None:
            self.connection.offer(frame(SUBSCRIBED, {}, channel.name))
            return
        visit = self._own[channel.name] = self._enter(channel.name, member)
        if visit is None:
            self._drop(channel.name)

    def _enter(self, name: str, member: Member) -> Visit | None:
        visit = self._shared.presence.enter(self.tenant_id, name, member, self.connection, _VOICE)
        if visit is None:
            self._refuse(name, "Too many are on this channel.", 429)
        return visit

    def _client_event(self, message: Message) -> None:
        channel = channel_name(message.channel or "")
        seat = self._seats.get(channel.name)
        if seat is None or channel.kind not in (Kind.PRIVATE, Kind.PRESENCE):
            self._complain(4009, "Client events are for private and presence channels that one is on.")
            return
        data = bytes(message.data)
        if len(data) > CLIENT_EVENT_BYTES_MAX or len(message.event) > EVENT_NAME_CHARACTERS_MAX:
            self._complain(4301, "A client event may have 10 KB of data and a name of 200 characters.")
            return
        if self._client_events.take(None, trio.current_time()).retry_after_seconds is not None:
            self._complain(4301, "Client event rejected: 10 per second and connection.")
            return
        if not seat.may_deliver():
            return
        visit = self._visit(channel.name)
        if visit is not None and message.event == TYPING:
            self._shared.presence.typing(visit, _is_typing(data), data)
            return
        user_id = None if visit is None else visit.member.id
        copy = client_event(message.event, channel.name, data, user_id)
        if not self._shared.rooms.whisper(self.tenant_id, channel.name, copy, but=self.socket_id):
            self._complain(4301, "Client event rejected: too much is said on this channel.")

    def _refuse(self, channel: str, sentence: str, status: int = 403) -> None:
        data = {"type": "AuthError", "error": sentence, "status": status}
        self.connection.offer(frame("pusher:subscription_error", data, channel[:EVENT_NAME_CHARACTERS_MAX]))

    def _complain(self, code: int | None, sentence: str) -> None:
        self.connection.offer(error_frame(code, sentence))

    # -------------------------------------------------------------- what is held

    def _held_in_all(self) -> int:
        return len(self._held) + len(self._own)

    def _holds(self, name: str) -> bool:
        return name in self._held or name in self._own

    def _visit(self, name: str) -> Visit | None:
        held = self._held.get(name)
        return held.visit if held is not None else self._own.get(name)

    def _sit(self, seat: Seat) -> None:
        self._seats[seat.channel] = seat
        self._shared.rooms.sit(seat)

    def _drop(self, name: str, *, lost: bool = False) -> None:
        seat = self._seats.pop(name, None)
        if seat is not None:
            self._shared.rooms.rise(seat)
        visit = self._own.pop(name, None)
        if visit is not None:
            self._shared.presence.leave(visit, lost=lost)
        super()._drop(name, lost=lost)

    def _leave(self) -> None:
        for name in list(self._own):
            self._drop(name, lost=True)
        self._shared.rooms.close(self)
        super()._leave()

    # -------------------------------------------------------------- rights that change

    def listens(self, channel: str) -> bool:
        return f"{Kind.PRIVATE.value}{channel}" in self._held or super().listens(channel)

    def _tell_lost(self, held: Held) -> None:
        self._refuse(held.name, "You may no longer listen to this channel.")

    async def _recheck_viewers(self) -> bool:
        if await self._shared.rights.tenant_is_active(self.tenant_id):
            return True
        self._refused_with = PusherCode.SUSPENDED
        self.end(CloseCode.REVOKED)
        return False


def _decoded(text: str | bytes) -> Message | Subscribe | Unsubscribe:
    try:
        message: Message = decode_message(text)
        if message.event == "pusher:subscribe":
            return data_of(message, Subscribe)
        if message.event == "pusher:unsubscribe":
            return data_of(message, Unsubscribe)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise Rejected("The message is not one of this protocol.") from error
    return message


def _since(grant: Grant, is_presence: bool) -> int | None:
    if is_presence or grant.since is None:
        return None
    return min(max(grant.since, 0), ID_MAX)


def _member(channel_data: str | None) -> Member:
    data = msgspec.json.decode(channel_data or "", type=PresenceData)
    info = msgspec.Raw(b"{}") if data.user_info is msgspec.UNSET else data.user_info
    if len(bytes(info)) > INFO_BYTES_MAX:
        raise msgspec.DecodeError("user_info is too large")
    return Member(id=str(data.user_id), info=msgspec.Raw(bytes(info)))


def _is_typing(data: bytes) -> bool:
    """Whispers have no form of their own; `{"typing": false}` is how most say that it is over."""
    try:
        said = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError):
        return True
    return not (isinstance(said, dict) and said.get("typing") is False)
