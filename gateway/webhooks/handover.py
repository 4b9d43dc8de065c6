"""Handing a tenant's delivery over to the intake, in the tenant's turn: with a task that waits, or without.

Promises   what is handed over counts for its tenant until its flight ends (`gateway.in_flight`), and has its
           turn at the turnstile. What was begun is concluded once: by the intake, or by `expire`.
Leaves     everything that is durable to the intake.
"""

from collections.abc import Callable
from typing import Protocol

import trio

from engine.domain.intake import Delivery, DeliveryReceipt, Done
from engine.errors import MijraError
from gateway.in_flight import Flight
from gateway.turnstile import Turnstile

Conclude = Callable[[DeliveryReceipt | Exception], None]


class Deliver(Protocol):
    """The intake as the edge sees it (`engine.domain.intake.Intake`)."""

    async def deliver(self, delivery: Delivery) -> DeliveryReceipt: ...

    def is_ready(self, tenant_id: int) -> bool: ...

    def begin(self, delivery: Delivery, done: Done) -> None: ...

    def expire(self, now: float) -> None: ...


class Handover:
    def __init__(self, intake: Deliver, *, seconds_max: float) -> None:
        """`seconds_max`: after so long what was begun is concluded by `expire`."""
        self._intake = intake
        self._seconds_max = seconds_max
        self._turnstile = Turnstile()
        self._begun: dict[_Begun, None] = {}  # oldest first

    async def deliver(self, flight: Flight, tenant_id: int, delivery: Delivery) -> DeliveryReceipt:
        """Returns when it is durable. Raises MailboxFull when the tenant has its share in flight, and what
        the intake raises; then, and when cancelled, the platform must send it again."""
        flight.begin(tenant_id)
        async with self._turnstile.passed(tenant_id):
            receipt = await self._intake.deliver(delivery)
        flight.end(durable=True)
        return receipt

    def begin(
        self, flight: Flight, tenant_id: int, delivery: Delivery, conclude: Conclude, *, since: float
    ) -> None:
        """As `deliver`, for a tenant that `is_ready` and a request that came at `since`: `conclude` is called
        with the receipt or the error, once, perhaps before this returns, and has to leave the flight. It must
        neither block nor raise. Raises MailboxFull; then nothing was begun."""
        flight.begin(tenant_id)
        _Begun(self._begun, since, tenant_id, delivery, conclude).enter(self._turnstile, self._intake)

    def is_ready(self, tenant_id: int) -> bool:
        """Whether the tenant's deliveries can be begun, without waiting for its configuration."""
        return self._intake.is_ready(tenant_id)

    def expire(self, now: float) -> None:
        """Conclude what was begun and has waited too long by `now` (trio's clock)."""
        self._intake.expire(now)
        for begun in list(self._begun):
            if now - begun.since < self._seconds_max:
                break
            begun.end(trio.TooSlowError())


class _Begun:
    """A delivery that no task waits for, from its turn at the turnstile to its answer."""

    __slots__ = ("_all", "_conclude", "_delivery", "_intake", "_tenant_id", "_turnstile", "since")

    def __init__(
        self,
        everything: "dict[_Begun, None]",
        since: float,
        tenant_id: int,
        delivery: Delivery,
        conclude: Conclude,
    ) -> None:
        self.since = since
        self._tenant_id = tenant_id
        self._delivery = delivery
        self._conclude: Conclude | None = conclude
        self._all = everything
        everything[self] = None

    def enter(self, turnstile: Turnstile, intake: Deliver) -> None:
        self._turnstile = turnstile
        self._intake = intake
        turnstile.enter(self._tenant_id, self._go)

    def end(self, result: DeliveryReceipt | Exception) -> None:
        """Answer, unless that has been done."""
        conclude, self._conclude = self._conclude, None
        if conclude is not None:
            del self._all[self]
            conclude(result)

    def _go(self) -> None:
        if self._conclude is None:  # answered while it waited for its turn
            self._turnstile.leave(self._tenant_id)
            return
        try:
            self._intake.begin(self._delivery, self._done)
        except MijraError as error:
            self._done(error)

    def _done(self, result: DeliveryReceipt | MijraError) -> None:
        self.end(result)
        self._turnstile.leave(self._tenant_id)
