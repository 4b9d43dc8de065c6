"""Who sits on which Pusher channel: what back ends publish to, and what client events go to.

Owns       per tenant the seats on each channel, and the sockets by their ids.
Limits     a seat per subscription, which sessions bound. A channel passes on `DELIVERIES_PER_SECOND` copies
           of client events and no more: a hundred agents whose screens whisper at each key would otherwise
           cost ten thousand frames per second.
"""

from typing import Final, Protocol

import trio

from gateway.push.connection import Outlet
from gateway.push.hub import Subscription

DELIVERIES_PER_SECOND: Final = 2_000


class Seat:
    """One connection on one channel. On the engine's channels with the hub's subscription: while that is
    paused, because rights are in doubt, nothing is heard here either."""

    __slots__ = ("channel", "outlet", "socket_id", "subscription", "tenant_id")

    def __init__(
        self,
        tenant_id: int,
        channel: str,
        socket_id: str,
        outlet: Outlet,
        subscription: Subscription | None = None,
    ) -> None:
        self.tenant_id = tenant_id
        self.channel = channel
        self.socket_id = socket_id
        self.outlet = outlet
        self.subscription = subscription

    def may_deliver(self) -> bool:
        return self.subscription is None or self.subscription.may_deliver()


class _Channel:
    __slots__ = ("budget", "budget_at", "seats")

    def __init__(self) -> None:
        self.seats: dict[Seat, None] = {}
        self.budget = float(DELIVERIES_PER_SECOND)
        self.budget_at = trio.current_time()

    def spend(self, deliveries: int) -> bool:
        now = trio.current_time()
        refill = (now - self.budget_at) * DELIVERIES_PER_SECOND
        self.budget = min(float(DELIVERIES_PER_SECOND), self.budget + refill)
        self.budget_at = now
        if deliveries > self.budget:
            return False
        self.budget -= deliveries
        return True


class Socket(Protocol):
    @property
    def socket_id(self) -> str: ...

    @property
    def tenant_id(self) -> int: ...


class Rooms:
    def __init__(self) -> None:
        self._tenants: dict[int, dict[str, _Channel]] = {}
        self._sockets: dict[str, Socket] = {}
        self._strangers: dict[int, dict[str, None]] = {}

    def open(self, socket: Socket) -> None:
        """A stranger until `introduce`."""
        self._sockets[socket.socket_id] = socket
        self._strangers.setdefault(socket.tenant_id, {})[socket.socket_id] = None

    def introduce(self, socket: Socket) -> None:
        """Somebody has signed for this connection. Idempotent."""
        strangers = self._strangers.get(socket.tenant_id, {})
        strangers.pop(socket.socket_id, None)
        if not strangers:
            self._strangers.pop(socket.tenant_id, None)

    def close(self, socket: Socket) -> None:
        """Idempotent."""
        if self._sockets.pop(socket.socket_id, None) is not None:
            self.introduce(socket)

    def strangers(self, tenant_id: int) -> int:
        return len(self._strangers.get(tenant_id, {}))

    def tenant_of(self, socket_id: str) -> int | None:
        """Whose connection this is, if it is one of this process."""
        socket = self._sockets.get(socket_id)
        return None if socket is None else socket.tenant_id

    def sit(self, seat: Seat) -> None:
        channels = self._tenants.setdefault(seat.tenant_id, {})
        channel = channels.get(seat.channel)
        if channel is None:
            channel = channels[seat.channel] = _Channel()
        channel.seats[seat] = None

    def rise(self, seat: Seat) -> None:
        """Idempotent."""
        channels = self._tenants.get(seat.tenant_id, {})
        channel = channels.get(seat.channel)
        if channel is None:
            return
        channel.seats.pop(seat, None)
        if not channel.seats:
            del channels[seat.channel]
            if not channels:
                del self._tenants[seat.tenant_id]

    def channels(self, tenant_id: int, prefix: str = "") -> dict[str, int]:
        """The channels on which somebody sits, with the number of seats."""
        channels = self._tenants.get(tenant_id, {})
        return {name: len(each.seats) for name, each in channels.items() if name.startswith(prefix)}

    def seats(self, tenant_id: int, channel: str) -> int:
        found = self._tenants.get(tenant_id, {}).get(channel)
        return len(found.seats) if found else 0

    def publish(self, tenant_id: int, channel: str, frame: bytes, *, but: str | None = None) -> int:
        """To everybody on the channel, except the socket `but`. Returns how many took it."""
        found = self._tenants.get(tenant_id, {}).get(channel)
        return sum(seat.outlet.offer(frame) for seat in _listening(found, but))

    def whisper(self, tenant_id: int, channel: str, frame: bytes, *, but: str) -> bool:
        """As publish, within the channel's budget. False: it is spent, and nobody got it."""
        found = self._tenants.get(tenant_id, {}).get(channel)
        listening = _listening(found, but)
        if found is None or not found.spend(min(len(listening), DELIVERIES_PER_SECOND)):
            return False
        for seat in listening:
            seat.outlet.offer(frame)
        return True

    def __len__(self) -> int:
        return len(self._sockets)


def _listening(channel: _Channel | None, but: str | None) -> list[Seat]:
    # A copy: whoever overflows rises from within the loop.
    seats = channel.seats if channel is not None else ()
    return [seat for seat in seats if seat.socket_id != but and seat.may_deliver()]
