"""Deliveries between their arrival and their answer: how many, whose, and whether one more is taken.

Promises   what is in flight is bounded in number and bytes, by how long it waits (`gateway.admission`), and
           for each tenant by what is free (`engine.runtime.shared_room`). While a queue stands, that counts
           from the arrival, so that who is refused need not wait for it.
Leaves     the order in which a tenant's are worked on to `gateway.turnstile`; that each `arrive` has its
           `called` to whoever reads requests.
"""

from collections import Counter
from typing import Final

import structlog
import trio

from engine.errors import MailboxFull
from engine.runtime.shared_room import SharedRoom
from gateway.admission import PATIENCE_SECONDS, Admission
from gateway.metrics import Metrics

_log = structlog.get_logger()

OVER_SHARE: Final = "over_share"
"""The code of a refusal that is one tenant's doing."""

NOBODY: Final = 0
"""In a tenant's stead, of those whose deliveries do not plainly tell: together they are as one tenant."""

_RETRY_AFTER_SECONDS: Final = 2.0

_SHED_TOLD_SECONDS: Final = 1.0
"""How often refusals by a look are counted and logged: each by itself would cost more than the refusal."""


class InFlight:
    """All methods belong to the trio thread. Bytes are those of the bodies."""

    def __init__(self, *, deliveries_max: int, bytes_max: int, metrics: Metrics) -> None:
        self._deliveries = 0
        self._bytes = 0
        self._deliveries_max = deliveries_max
        self._bytes_max = bytes_max
        self._admission = Admission(deliveries_max)
        self._room = SharedRoom(deliveries_max)
        self._bytes_room = SharedRoom(bytes_max)
        self._metrics = metrics
        self._shed: Counter[tuple[str, int]] = Counter()
        self._shed_told_at = 0.0
        self._late = 0
        metrics.webhook_in_flight.set_function(lambda: self._deliveries)
        metrics.webhook_in_flight_bytes.set_function(lambda: self._bytes)

    @property
    def standing(self) -> bool:
        """Whether a queue stands, so that refusals should cost next to nothing."""
        return self._admission.standing

    def is_overloaded(self, waiting: int, oldest: float) -> bool:
        """`standing`, now that so many wait for their `begin`, the oldest since then (trio's clock)."""
        admission = self._admission
        if not admission.standing:
            admission.look(waiting, oldest, trio.current_time())
            self._room.limit = admission.limit
        return admission.standing

    def arrive(self, tenant_id: int) -> None:
        """A delivery that seems to be this tenant's (or `NOBODY`'s) waits for its `begin`."""
        self._room.take(tenant_id, 1)

    def called(self, tenant_id: int) -> None:
        """It waits no longer."""
        self._room.give_back(tenant_id, 1)

    def enter(self, size: int, ready: float) -> "Flight":
        """A delivery has arrived that has waited since `ready` (trio's clock). Raises MailboxFull when there
        is no room for anybody's."""
        if self._deliveries >= self._deliveries_max or self._bytes + size > self._bytes_max:
            raise too_many()
        self._deliveries += 1
        self._bytes += size
        return Flight(self, size, ready)

    def check(self, tenant_id: int) -> None:
        """Raise MailboxFull when the tenant has its share."""
        if self._room.has_room(tenant_id) and self._bytes_room.has_room(tenant_id):
            return
        self._metrics.refuse_over_share(tenant_id)
        raise over_share()

    def sheds(self, platform: str, tenant_id: int) -> bool:
        """Whether a delivery that seems to be this tenant's (or `NOBODY`'s) is refused by a look; then it is
        counted."""
        if self._room.has_room(tenant_id):
            return False
        if tenant_id != NOBODY:
            self._shed[platform, tenant_id] += 1
        else:
            self._late += 1
        if trio.current_time() - self._shed_told_at >= _SHED_TOLD_SECONDS:
            self._tell_shed()
        return True

    def is_late(self, ready: float) -> bool:
        """Whether a delivery that has been there since `ready` is refused unread because it has waited for
        too long; then it is counted. Only while a queue stands."""
        now = trio.current_time()
        if now - ready < PATIENCE_SECONDS:
            return False
        self._late += 1
        if now - self._shed_told_at >= _SHED_TOLD_SECONDS:
            self._tell_shed()
        return True

    def _begin(self, tenant_id: int, size: int, ready: float) -> int:
        self.check(tenant_id)
        self._room.take(tenant_id, 1)
        self._bytes_room.take(tenant_id, size)
        number = self._admission.begin(ready, trio.current_time())
        self._room.limit = self._admission.limit
        return number

    def _end(self, tenant_id: int, size: int, number: int, *, durable: bool) -> None:
        self._admission.end(number, trio.current_time(), durable=durable)
        self._room.limit = self._admission.limit
        self._room.give_back(tenant_id, 1)
        self._bytes_room.give_back(tenant_id, size)
        if (self._shed or self._late) and not self._admission.standing:
            self._tell_shed()

    def _leave(self, size: int) -> None:
        self._deliveries -= 1
        self._bytes -= size

    def _tell_shed(self) -> None:
        if self._late:
            self._metrics.webhook_late.inc(self._late)
            _log.warning("webhook.late", refused=self._late)
            self._late = 0
        for (platform, tenant), refused in self._shed.items():
            self._metrics.refuse_over_share(tenant, refused)
            self._metrics.webhook_deliveries.labels(platform, "shed").inc(refused)
            _log.warning(
                "webhook.shed", platform=platform, tenant=tenant, refused=refused, limit=self._room.limit
            )
        self._shed.clear()
        self._shed_told_at = trio.current_time()


class Flight:
    """One delivery from its arrival to its answer; whoever entered it says `leave` at the end, of which only
    the first counts. In between it is at the store for one tenant at a time."""

    __slots__ = ("_in_flight", "_left", "_number", "_ready", "_size", "_tenant_id")

    def __init__(self, in_flight: InFlight, size: int, ready: float) -> None:
        self._in_flight = in_flight
        self._size = size
        self._ready = ready
        self._tenant_id: int | None = None
        self._number = 0
        self._left = False

    def begin(self, tenant_id: int) -> None:
        """It goes to the store for this tenant. Raises MailboxFull when the tenant has its share."""
        self._number = self._in_flight._begin(tenant_id, self._size, self._ready)
        self._tenant_id = tenant_id

    def end(self, *, durable: bool) -> None:
        """The store has answered, or nobody waits for it any more."""
        tenant_id, self._tenant_id = self._tenant_id, None
        if tenant_id is not None:
            self._in_flight._end(tenant_id, self._size, self._number, durable=durable)

    def leave(self, *, durable: bool = False) -> None:
        """It is answered. `durable`: as for `end`, if it is at the store."""
        if not self._left:
            self._left = True
            self._in_flight._leave(self._size)
            self.end(durable=durable)


def over_share() -> MailboxFull:
    """The refusal of a tenant that has its share."""
    return MailboxFull(
        "This account has its share of deliveries waiting for the store.",
        code=OVER_SHARE,
        retry_after_seconds=_RETRY_AFTER_SECONDS,
    )


def too_many() -> MailboxFull:
    """The refusal of whoever comes while there is no room for anybody."""
    return MailboxFull(
        "Too many deliveries are waiting for the store.", retry_after_seconds=_RETRY_AFTER_SECONDS
    )
