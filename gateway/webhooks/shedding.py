"""Refusals by a look, while a queue stands: what is over a share, or would be late, is refused unread.

Refusing must cost next to nothing then, or it would be all that the server does: two thirds of what comes at
three times the capacity end here, after some microseconds. Nothing is proven yet; who lies about the account
is refused what would be refused anyway.

Whoever reads requests asks when one arrives (`arrive`), so that who is refused does not wait for others'
turns; what came another way is asked about in its turn.
"""

from engine.ports import Endpoint
from gateway.directory import Directory
from gateway.in_flight import NOBODY, InFlight
from gateway.webhooks.address import seems_addressed
from gateway.webhooks.answers import OVER_SHARE, TOO_MANY, Answer
from gateway.webhooks.receivers import Receivers


class Shedding:
    """`place` is what follows `PREFIX` in the path. What is refused has been counted; answers are without a
    request id."""

    def __init__(self, receivers: Receivers, directory: Directory, in_flight: InFlight) -> None:
        self._receivers = receivers
        self._directory = directory
        self._in_flight = in_flight

    def is_overloaded(self, waiting: int, oldest: float) -> bool:
        """Whether a queue stands, so that what arrives has to `arrive`. So many wait to be begun, the oldest
        since then (trio's clock)."""
        return self._in_flight.is_overloaded(waiting, oldest)

    def arrive(self, place: str | None, body: bytes) -> Answer | int:
        """A POST has arrived while a queue stands: the answer, if it is refused for its tenant's share; else
        the tenant whose place it has until it is `called`, `NOBODY` where that is not plain. Without a
        `place` it is not refused."""
        if place is None:
            tenant_id = NOBODY
        else:
            endpoint = self._endpoint(place, body)
            platform, tenant_id = (
                ("", NOBODY) if endpoint is None else (endpoint.platform, endpoint.tenant_id)
            )
            if self._in_flight.sheds(platform, tenant_id):
                return TOO_MANY if tenant_id == NOBODY else OVER_SHARE
        self._in_flight.arrive(tenant_id)
        return tenant_id

    def called(self, tenant_id: int) -> None:
        """What had the tenant's place since it came to `arrive` is begun next, or gone."""
        self._in_flight.called(tenant_id)

    def refusal(self, place: str, body: bytes, ready: float) -> Answer | None:
        """The answer if it is refused in its turn: for its tenant's share, or because it has been there since
        `ready` (trio's clock) and would be late."""
        if not self._in_flight.standing:
            return None
        refused = self.over_share(place, body)
        if refused is None and self._in_flight.is_late(ready):
            refused = TOO_MANY
        return refused

    def over_share(self, place: str, body: bytes) -> Answer | None:
        """As `refusal`, for the tenant's share alone."""
        if not self._in_flight.standing:
            return None
        endpoint = self._endpoint(place, body)
        if endpoint is None or not self._in_flight.sheds(endpoint.platform, endpoint.tenant_id):
            return None
        return OVER_SHARE

    def _endpoint(self, place: str, body: bytes) -> Endpoint | None:
        """Whose the delivery seems to be."""
        name, key = seems_addressed(place)
        served = self._receivers.named(name)
        if served is None:
            return None
        if key:
            return self._directory.by_key(served.platform, key)
        account = served.receiver.account_hint(body)
        return None if account is None else self._directory.by_account(served.platform, account)
