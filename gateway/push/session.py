"""One WebSocket connection, from its first message to its close code: what all protocols have in common.

Knows no transport: it is given a `Connection` and returns how to close it. So the plain Quart route and a
faster lane run the same session.

Owns       the connection's subscriptions and its message budget.
Limits     see `SessionLimits`.
Promises   a channel is listened to only after `may_subscribe` said yes, and after a recheck only when it
           said yes again; a message that is not understood ends the connection instead of being guessed at.
Restart    nothing is kept: the client comes back with its cursors.

Tasks: one reads and handles the client's messages one after the other (so a client can have one rights
check under way and no more); replays and rechecks come and go.
"""

import secrets
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Final

import structlog
import trio
from msgspec import Struct

from engine.errors import Forbidden, MijraError, NotFound, Rejected, Unauthenticated, Unavailable
from gateway.push.codes import CloseCode, close_code_of
from gateway.push.connection import Connection, Ending, Gone
from gateway.push.frames import Encoder
from gateway.push.hub import Subscription
from gateway.push.presence import Visit
from gateway.push.rights import Viewer

if TYPE_CHECKING:
    from gateway.push.sessions import Sessions

_log = structlog.get_logger()

LOST: Final = 1006
"""What RFC 6455 calls a connection that ended without a close frame of ours."""

EpochOf = Callable[[int], Awaitable[str]]
"""The epoch of a tenant's log: changes only if its cursors started anew."""


class SessionLimits(Struct, frozen=True, kw_only=True):
    """`message_bytes_max`: the longest native message is an auth with its token; the longest of Pusher's is a
    client event of 10 KB. `messages_burst` and `messages_per_second`: opening an inbox subscribes to some
    dozens of channels at once; after that a person clicks. `subscriptions_max`: tabs of one person.
    `queue_bytes_max`: some thousand events, and what a connection may cost at worst (twice that: as much
    again can be in the writer's hands). `queue_age_seconds_max`: what comes later is no longer "live".
    `silence_seconds_max`: two and a half pings of 30 s, shorter than the five minutes of common NATs.
    `connections_per_tenant_max` bounds what one tenant can take from the others; of these,
    `strangers_per_tenant_max` may be Pusher connections that nobody has signed anything for: the key is
    public, and whoever has it must not be able to lock the agents out."""

    auth_seconds_max: float = 10.0
    message_bytes_max: int = 16 * 1024
    messages_per_second: float = 20.0
    messages_burst: int = 200
    subscriptions_max: int = 200
    queue_bytes_max: int = 1024 * 1024
    queue_age_seconds_max: float = 15.0
    silence_seconds_max: float = 75.0
    connections_per_tenant_max: int = 5_000
    strangers_per_tenant_max: int = 2_500


class Held:
    """A subscription that the session holds: under the name that its protocol has for it, for whom, and on a
    presence channel the visit there."""

    __slots__ = ("name", "subscription", "viewer", "visit")

    def __init__(self, name: str, subscription: Subscription, viewer: Viewer) -> None:
        self.name = name
        self.subscription = subscription
        self.viewer = viewer
        self.visit: Visit | None = None


class Session:
    """A Subscriber of the hub. Made and run by `Sessions.run`; a protocol is a subclass, which says how a
    connection begins, what messages mean and how a lost right is told."""

    encoder: Encoder

    def __init__(self, shared: "Sessions", connection: Connection) -> None:
        self._shared = shared
        self._hub = shared.hub
        self._limits = shared.limits
        self.connection = connection
        self._scope = trio.CancelScope()
        self._code: CloseCode | None = None
        self._nursery: trio.Nursery | None = None
        self._held: dict[str, Held] = {}
        self._asking: str | None = None  # the channel whose rights are being looked up
        self._rechecks = 0
        self._recheck_wanted = False
        self._rechecking = False
        self._expiries_until = float("-inf")
        self._tenant_id: int | None = None
        self._budget = float(self._limits.messages_burst)
        self._budget_at = trio.current_time()
        self.id = secrets.token_hex(8)
        connection.attach(self.end)

    # -------------------------------------------------------------- what a protocol says

    async def _begin(self) -> int:
        """Hears who is there, if the protocol has that; returns the tenant's id. Within
        `auth_seconds_max`."""
        raise NotImplementedError

    def _greet(self, cursor: int) -> None:
        """The first frame, now that the hub knows the connection. `cursor` is the head of the log."""
        raise NotImplementedError

    async def _handle(self, text: str | bytes) -> None:
        raise NotImplementedError

    def _tell_lost(self, held: Held) -> None:
        """The right to listen is lost, and the subscription dropped already."""
        raise NotImplementedError

    def _shown(self) -> dict[str, object]:
        """What of it stands in the log, beside the session and the tenant."""
        return {}

    def _silent(self) -> bool:
        """Nothing was heard for `silence_seconds_max`. True: wait once more."""
        return False

    # -------------------------------------------------------------- the life of a connection

    @property
    def tenant_id(self) -> int:
        assert self._tenant_id is not None, "nothing asks whose this is before it has begun"
        return self._tenant_id

    def end(self, code: CloseCode) -> None:
        """Ends the session with `code`; the first one wins. Never blocks."""
        if self._code is None:
            self._code = code
            self._scope.cancel()

    def ending(self, code: CloseCode) -> Ending:
        """How the protocol says it."""
        return Ending(code=code.value, reason=code.reason)

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
        shown, reason = (LOST, "lost") if code is None else (self.ending(code).code, code.name.lower())
        if self._tenant_id is not None:
            _log.info(
                "push.closed",
                session=self.id,
                tenant=self.tenant_id,
                **self._shown(),
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
            self._tenant_id = await self._begin()
        if patience.cancelled_caught:
            self.end(CloseCode.AUTH_TIMEOUT)
            return
        if self._hub.connections(self.tenant_id) >= self._limits.connections_per_tenant_max:
            self.end(CloseCode.OVER_CAPACITY)
            return
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._greet(await self._hub.join(self))
            _log.info(
                "push.opened",
                session=self.id,
                tenant=self.tenant_id,
                protocol=self.encoder.protocol,
                **self._shown(),
            )
            await self._read()

    def _leave(self) -> None:
        for name in list(self._held):
            self._drop(name, lost=True)
        if self._tenant_id is not None:
            self._hub.leave(self)
        self.connection.detach()
        self._nursery = None

    async def _read(self) -> None:
        heard_at = trio.current_time()
        patience = self._limits.silence_seconds_max
        while True:
            text = None
            silent_at = heard_at + patience
            with trio.move_on_at(min(silent_at, self._next_expiry())):
                text = await self.connection.receive()
            now = trio.current_time()
            if text is None:
                if now < silent_at:
                    self._expiries_until = now
                    self.recheck()  # a token has come to its end
                elif self._silent():
                    heard_at = now
                else:
                    self.end(CloseCode.SILENT)
                    return
                continue
            heard_at = now
            if len(text) > self._limits.message_bytes_max:
                raise Rejected(f"A message may have {self._limits.message_bytes_max} bytes.")
            if not self._spend():
                self.end(CloseCode.RATE_LIMITED)
                return
            await self._handle(text)

    def _next_expiry(self) -> float:
        """When the next token behind this connection ends that was not asked about yet."""
        ends = (viewer.expires_at for viewer in self._viewers())
        return min((end for end in ends if end > self._expiries_until), default=float("inf"))

    def _viewers(self) -> Iterable[Viewer]:
        return (held.viewer for held in self._held.values())

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

    # -------------------------------------------------------------- subscriptions

    async def _listen(
        self, name: str, channel: str, viewer: Viewer, since: int | None, encoder: Encoder
    ) -> Held | None:
        """Subscribes under `name` to the engine's `channel`, in place of what was there. None: the viewer
        may not. Raises Unavailable when that cannot be told."""
        # Subscribing again starts anew from the new `since`.
        self._drop(name)
        asked_after, self._asking = self._rechecks, channel
        try:
            if not await self._shared.rights.may_subscribe(viewer, channel):
                return None
            subscription = await self._hub.subscribe(self, channel, since, encoder)
        finally:
            self._asking = None
        held = self._held[name] = Held(name, subscription, viewer)
        if self._rechecks == asked_after:
            self._hub.resume(subscription)
        else:
            self.recheck()  # rights changed while ours was looked up, so the answer may be the old one
        return held

    def _full(self, name: str) -> bool:
        return name not in self._held and len(self._held) >= self._limits.subscriptions_max

    def _drop(self, name: str, *, lost: bool = False) -> None:
        """`lost`: the connection is, and the client may be back in a moment."""
        held = self._held.pop(name, None)
        if held is None:
            return
        self._hub.unsubscribe(held.subscription)
        if held.visit is not None:
            self._shared.presence.leave(held.visit, lost=lost)

    # -------------------------------------------------------------- what the hub asks for

    def start_replay(self, subscription: Subscription) -> None:
        assert self._nursery is not None, "subscriptions exist only inside the nursery"
        self._nursery.start_soon(self._hub.replay, subscription)

    def listens(self, channel: str) -> bool:
        return channel == self._asking or channel in self._held

    def recheck(self, user_id: int | None = None) -> None:
        """Pauses what the user (or anybody) listens to at once; a task asks again. Repeated while it asks: it
        asks once more."""
        self._rechecks += 1
        if user_id is not None and all(viewer.user_id != user_id for viewer in self._viewers()):
            return
        for held in self._held.values():
            if user_id is None or held.viewer.user_id == user_id:
                self._hub.pause(held.subscription)
        self._recheck_wanted = True
        if not self._rechecking and self._nursery is not None:
            self._rechecking = True
            self._nursery.start_soon(self._recheck)

    async def _recheck(self) -> None:
        try:
            while self._recheck_wanted:
                self._recheck_wanted = False
                if not await self._recheck_viewers():
                    return
                for held in list(self._held.values()):
                    if held.subscription.paused:
                        await self._recheck_one(held)
        finally:
            self._rechecking = False

    async def _recheck_viewers(self) -> bool:
        """For a protocol whose connection is one user's: whether it still is. False: the session ends."""
        return True

    async def _recheck_one(self, held: Held) -> None:
        allowed = False
        try:
            viewer = await self._shared.rights.renew(held.viewer)
            allowed = await self._shared.rights.may_subscribe(viewer, held.subscription.channel)
            held.viewer = viewer
        except (Unauthenticated, Forbidden, NotFound):
            pass
        # Only another recheck's answer counts now, or the client has dropped it meanwhile.
        if self._recheck_wanted or self._held.get(held.name) is not held:
            return
        if allowed:
            self._hub.resume(held.subscription)
        else:
            self._drop(held.name)
            self._tell_lost(held)


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
