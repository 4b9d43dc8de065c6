"""One native WebSocket connection, from its auth message to its close code.

Knows no transport: it is given a `Connection` and returns how to close it. So the plain Quart route and a
faster lane run the same session.

Owns       the connection's subscriptions and its message budget.
Limits     see `SessionLimits`.
Promises   a channel is listened to only after `may_subscribe` said yes, and after a recheck only when it
           said yes again; a message that is not understood ends the connection instead of being guessed at.
Restart    nothing is kept: the client comes back with its cursors.

Tasks: this one reads and handles the client's messages one after the other (so a client can have one rights
check under way and no more); replays and rechecks come and go.
"""

import secrets
from collections.abc import Awaitable, Callable, Collection
from typing import Final, assert_never

import msgspec
import structlog
import trio
from msgspec import Struct

from engine.errors import Forbidden, MijraError, Rejected, Unauthenticated, Unavailable
from gateway.metrics import Metrics
from gateway.push.codes import CloseCode, close_code_of
from gateway.push.connection import Connection, Ending, Gone, Peer
from gateway.push.frames import Encoder, NativeEncoder
from gateway.push.hub import Hub, Subscription
from gateway.push.protocol import (
    Ack,
    Auth,
    ClientMessage,
    ErrorMessage,
    Ping,
    Pong,
    Presence,
    Subscribe,
    Typing,
    TypingNotice,
    Unsubscribe,
    Unsubscribed,
    Welcome,
    decode_client,
    encode,
    is_channel,
    is_presence,
)

_log = structlog.get_logger()
_NATIVE: Final = NativeEncoder()
_PONG: Final = encode(Pong())

NATIVE_PATH: Final = "/ws"
LOST: Final = 1006
"""What RFC 6455 calls a connection that ended without a close frame of ours."""


class Viewer(Struct, frozen=True, kw_only=True):
    """Who is connected: one user in one tenant. `principal` is for `may_subscribe` and not looked at here."""

    tenant_id: int
    user_id: int
    name: str
    principal: object = None


Authenticate = Callable[[str, str | None], Awaitable[Viewer]]
"""(token, tenant slug or None) to a viewer. Raises Unauthenticated, Forbidden, NotFound, Unavailable."""

MaySubscribe = Callable[[Viewer, str], Awaitable[bool]]
"""(viewer, channel) to yes or no. Raises Unavailable when it cannot tell."""

EpochOf = Callable[[int], Awaitable[str]]
"""The epoch of a tenant's log: changes only if its cursors started anew."""


class SessionLimits(Struct, frozen=True, kw_only=True):
    """`message_bytes_max`: the longest client message is an auth with its token. `messages_burst` and
    `messages_per_second`: opening an inbox subscribes to some dozens of channels at once; after that a
    person clicks. `subscriptions_max`: tabs of one person. `queue_bytes_max`: some thousand events, and what
    a connection may cost at worst (twice that: as much again can be in the writer's hands).
    `queue_age_seconds_max`: what comes later is no longer "live". `silence_seconds_max`: two and a half
    pings of 30 s, shorter than the five minutes of common NATs. `connections_per_tenant_max` bounds what one
    tenant can take from the others."""

    auth_seconds_max: float = 10.0
    message_bytes_max: int = 8 * 1024
    messages_per_second: float = 20.0
    messages_burst: int = 200
    subscriptions_max: int = 200
    queue_bytes_max: int = 1024 * 1024
    queue_age_seconds_max: float = 15.0
    silence_seconds_max: float = 75.0
    connections_per_tenant_max: int = 5_000


class Sessions:
    """Makes sessions; holds what they share. `close_all` is for the shutdown.

    `origins` are those whose pages may connect, `*` for all: the token travels in a message and never in a
    cookie, so another site's page has nothing to borrow.
    """

    def __init__(
        self,
        hub: Hub,
        metrics: Metrics,
        *,
        authenticate: Authenticate,
        may_subscribe: MaySubscribe,
        epoch_of: EpochOf,
        origins: Collection[str] = ("*",),
        limits: SessionLimits | None = None,
    ) -> None:
        self.hub = hub
        self.metrics = metrics
        self.authenticate = authenticate
        self.may_subscribe = may_subscribe
        self.epoch_of = epoch_of
        self.origins = origins
        self.limits = limits or SessionLimits()
        self._open: dict[Session, None] = {}
        self._closing = False

    def refusal(self, peer: Peer) -> int | None:
        """The HTTP status to refuse a handshake with: 404 for a path that is no WebSocket's, 403 for a page
        of another origin. None: accept it, and `run`."""
        if peer.path != NATIVE_PATH:
            return 404
        if peer.origin is not None and "*" not in self.origins and peer.origin not in self.origins:
            return 403
        return None

    async def run(self, connection: Connection) -> Ending | None:
        """One connection, whose handshake was accepted. Returns how to close it; None when the client has
        left. A transport may also cancel this when it has lost the client. Never raises anything of its own.
        """
        if self._closing:
            return _ending(CloseCode.GOING_AWAY)
        session = Session(self, connection)
        self._open[session] = None
        code: CloseCode | None = None
        try:
            code = await session.run()
            return None if code is None else _ending(code)
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


class Session:
    """A Subscriber of the hub. Made and run by `Sessions.run`."""

    def __init__(self, shared: Sessions, connection: Connection) -> None:
        self._shared = shared
        self._hub = shared.hub
        self._limits = shared.limits
        self.connection = connection
        self._scope = trio.CancelScope()
        self._code: CloseCode | None = None
        self._nursery: trio.Nursery | None = None
        self._subscriptions: dict[str, Subscription] = {}
        self._rechecks = 0
        self._recheck_wanted = False
        self._rechecking = False
        self._token = ""
        self._tenant: str | None = None
        self._viewer: Viewer | None = None
        self._budget = float(self._limits.messages_burst)
        self._budget_at = trio.current_time()
        self.id = secrets.token_hex(8)
        self.encoder: Encoder = _NATIVE
        connection.attach(self.end)

    @property
    def viewer(self) -> Viewer:
        assert self._viewer is not None, "nothing asks who this is before the auth message was accepted"
        return self._viewer

    @property
    def tenant_id(self) -> int:
        return self.viewer.tenant_id

    @property
    def user_id(self) -> int:
        return self.viewer.user_id

    def end(self, code: CloseCode) -> None:
        """Ends the session with `code`; the first one wins. Never blocks."""
        if self._code is None:
            self._code = code
            self._scope.cancel()

    async def run(self) -> CloseCode | None:
        """Returns the code to close with; None when the client has left."""
        started = trio.current_time()
        gone = False
        try:
            with self._scope:
                try:
                    await self._run()
                except* Gone:
                    gone = True
                except* MijraError as group:
                    self.end(close_code_of(_first(group)))
                except* Exception as group:  # noqa: BLE001  # one session may fail, the server may not
                    _log.exception("push.crashed", session=self.id, exc_info=group)
                    self.end(CloseCode.INTERNAL)
        finally:
            self._leave()
        code = self._code or (None if gone else CloseCode.INTERNAL)
        shown, reason = (LOST, "lost") if code is None else (code.value, code.name.lower())
        if self._viewer is not None:
            _log.info(
                "push.closed",
                session=self.id,
                tenant=self.tenant_id,
                user_id=self.user_id,
                code=shown,
                reason=reason,
                seconds=round(trio.current_time() - started, 3),
                peak_bytes=self.connection.peak_bytes,
            )
        else:
            _log.info("push.refused", session=self.id, code=shown, reason=reason)
        return code

    async def _run(self) -> None:
        with trio.move_on_after(self._limits.auth_seconds_max) as patience:
            auth = self._decode(await self.connection.receive())
            if not isinstance(auth, Auth):
                raise Unauthenticated("The first message must be auth.")
            self._token, self._tenant = auth.token, auth.tenant
            self._viewer = viewer = await self._shared.authenticate(auth.token, auth.tenant)
            epoch = await self._shared.epoch_of(viewer.tenant_id)
        if patience.cancelled_caught:
            self.end(CloseCode.AUTH_TIMEOUT)
            return
        if self._hub.connections(viewer.tenant_id) >= self._limits.connections_per_tenant_max:
            self.end(CloseCode.OVER_CAPACITY)
            return
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            cursor = await self._hub.join(self)
            self.connection.offer(
                encode(
                    Welcome(
                        epoch=epoch,
                        cursor=cursor,
                        session=self.id,
                        user_id=viewer.user_id,
                        silence_seconds_max=self._limits.silence_seconds_max,
                    )
                )
            )
            _log.info("push.opened", session=self.id, tenant=viewer.tenant_id, user_id=viewer.user_id)
            await self._read()

    def _leave(self) -> None:
        for channel in list(self._subscriptions):
            self._drop(channel)
        if self._viewer is not None:
            self._hub.leave(self)
        self.connection.detach()
        self._nursery = None

    async def _read(self) -> None:
        while True:
            with trio.move_on_after(self._limits.silence_seconds_max) as silence:
                text = await self.connection.receive()
            if silence.cancelled_caught:
                self.end(CloseCode.SILENT)
                return
            if not self._spend():
                self.end(CloseCode.RATE_LIMITED)
                return
            await self._handle(self._decode(text))

    def _decode(self, text: str | bytes) -> ClientMessage:
        if len(text) > self._limits.message_bytes_max:
            raise Rejected(f"A message may have {self._limits.message_bytes_max} bytes.")
        try:
            message: ClientMessage = decode_client(text)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise Rejected("The message is not one of this protocol.") from error
        return message

    def _spend(self) -> bool:
        limits = self._limits
        now = trio.current_time()
        refill = (now - self._budget_at) * limits.messages_per_second
        self._budget = min(float(limits.messages_burst), self._budget + refill)
        self._budget_at = now
        if self._budget < 1:
            return False
        self._budget -= 1
        return True

    # -------------------------------------------------------------- the client's messages

    async def _handle(self, message: ClientMessage) -> None:
        match message:
            case Ping():
                self.connection.offer(_PONG)
            case Subscribe(channel=channel, since=since):
                await self._subscribe(channel, since)
            case Unsubscribe(channel=channel):
                self._drop(channel)
                self.connection.offer(encode(Unsubscribed(channel=channel[:64])))
            case Ack(channel=channel, cursor=cursor):
                subscription = self._subscriptions.get(channel)
                if subscription is not None and subscription.acked < cursor <= subscription.position:
                    subscription.acked = cursor
            case Typing(channel=channel, state=state):
                self._typing(channel, state)
            case Auth():
                self._refuse("already_authenticated", "Open another connection for another token.")
            case _:
                assert_never(message)

    async def _subscribe(self, channel: str, since: int | None) -> None:
        if not is_channel(channel):
            self._refuse("not_found", "There is no such channel.", channel)
            return
        if channel not in self._subscriptions and len(self._subscriptions) >= self._limits.subscriptions_max:
            self._refuse("too_many_subscriptions", "Unsubscribe from something first.", channel)
            return
        # Subscribing again starts anew from the new `since`.
        self._drop(channel)
        asked_after = self._rechecks
        if not await self._shared.may_subscribe(self.viewer, channel):
            self._refuse("forbidden", "You may not listen to this channel.", channel)
            return
        subscription = self._subscriptions[channel] = await self._hub.subscribe(self, channel, since)
        if self._rechecks == asked_after:
            self._hub.resume(subscription)
        else:
            self.recheck()  # rights changed while ours was looked up, so the answer may be the old one
        if is_presence(channel):
            if self._hub.enter(subscription):
                self._announce_presence(channel)
            else:
                self.connection.offer(self._presence_frame(channel))

    def _typing(self, channel: str, state: bool) -> None:
        if not is_presence(channel) or channel not in self._subscriptions:
            self._refuse("not_subscribed", "Subscribe to the presence channel first.", channel)
            return
        viewer = self.viewer
        notice = TypingNotice(channel=channel, user_id=viewer.user_id, name=viewer.name, state=state)
        self._hub.whisper(viewer.tenant_id, channel, encode(notice), protocol=self.encoder.protocol, but=self)

    def _drop(self, channel: str) -> None:
        subscription = self._subscriptions.pop(channel, None)
        if subscription is None:
            return
        self._hub.unsubscribe(subscription)
        if is_presence(channel) and self._hub.exit(subscription):
            self._announce_presence(channel)

    def _announce_presence(self, channel: str) -> None:
        frame = self._presence_frame(channel)
        self._hub.whisper(self.tenant_id, channel, frame, protocol=self.encoder.protocol)

    def _presence_frame(self, channel: str) -> bytes:
        return encode(Presence(channel=channel, user_ids=self._hub.present(self.tenant_id, channel)))

    def _refuse(self, code: str, message: str, channel: str | None = None) -> None:
        # Cut, since it is the client's own text that is sent back.
        shown = None if channel is None else channel[:64]
        self.connection.offer(encode(ErrorMessage(code=code, message=message, channel=shown)))

    # -------------------------------------------------------------- what the hub asks for

    def start_replay(self, subscription: Subscription) -> None:
        assert self._nursery is not None, "subscriptions exist only inside the nursery"
        self._nursery.start_soon(self._hub.replay, subscription)

    def listens(self, channel: str) -> bool:
        return channel in self._subscriptions

    def recheck(self) -> None:
        """Pauses everything at once; a task asks again. Repeated while it asks: it asks once more."""
        for subscription in self._subscriptions.values():
            self._hub.pause(subscription)
        self._rechecks += 1
        self._recheck_wanted = True
        if not self._rechecking and self._nursery is not None:
            self._rechecking = True
            self._nursery.start_soon(self._recheck)

    async def _recheck(self) -> None:
        try:
            while self._recheck_wanted:
                self._recheck_wanted = False
                try:
                    viewer = await self._shared.authenticate(self._token, self._tenant)
                except (Unauthenticated, Forbidden):
                    self.end(CloseCode.REVOKED)
                    return
                if (viewer.tenant_id, viewer.user_id) != (self.tenant_id, self.user_id):
                    self.end(CloseCode.REVOKED)
                    return
                self._viewer = viewer
                for channel, subscription in list(self._subscriptions.items()):
                    allowed = await self._shared.may_subscribe(viewer, channel)
                    # Only another recheck's answer counts now, or the client has dropped it meanwhile.
                    if self._recheck_wanted or self._subscriptions.get(channel) is not subscription:
                        continue
                    if allowed:
                        self._hub.resume(subscription)
                    else:
                        self._drop(channel)
                        self._refuse("forbidden", "You may no longer listen to this channel.", channel)
        finally:
            self._rechecking = False


def _ending(code: CloseCode) -> Ending:
    return Ending(code=code.value, reason=code.reason)


def _first(group: BaseExceptionGroup[MijraError]) -> MijraError:
    """One of the errors that ended the session; with several at once, one that lets the client come back."""
    found: list[MijraError] = []
    pending: list[BaseException] = [group]
    while pending:
        error = pending.pop()
        if isinstance(error, BaseExceptionGroup):
            pending.extend(error.exceptions)
        elif isinstance(error, MijraError):
            found.append(error)
    return next((error for error in found if isinstance(error, Unavailable)), found[0])
