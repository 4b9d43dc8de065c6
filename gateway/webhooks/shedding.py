"""Refusals by a look, while a queue stands: what is over a share, or would be late, is refused unread.

Refusing must cost next to nothing then, or it would be all that the server does: two thirds of what comes at
three times the capacity end here, after some microseconds. Nothing is proven yet; who lies about the account
is refused what would be refused anyway.
"""

from engine.ports import Endpoint
from gateway.directory import Directory
from gateway.in_flight import InFlight
from gateway.webhooks.address import seems_addressed
from gateway.webhooks.answers import OVER_SHARE, TOO_MANY, Answer
from gateway.webhooks.receivers import Receivers


class Shedding:
    """`place` is what follows `PREFIX` in the path. What is refused has been counted."""

    def __init__(self, receivers: Receivers, directory: Directory, in_flight: InFlight) -> None:
        self._receivers = receivers
        self._directory = directory
        self._in_flight = in_flight

    def refusal(self, place: str, body: bytes, ready: float) -> Answer | None:
        """The answer, without a request id, if it is refused for its tenant's share, or because it has been
        there since `ready` (trio's clock) and would be late."""
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
