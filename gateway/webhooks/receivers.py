"""Who reads the requests of which platform, and what there is to know of a platform for that."""

from collections.abc import Callable, Sequence

from msgspec import Struct

from engine.domain.inbound import RoutedEvent
from engine.domain.platforms import rules_of
from engine.errors import NotFound
from engine.ports import Acknowledges, ReadsAddresses, Receiver, Recogniser, WebhookRequest
from gateway.webhooks.address import addressed
from gateway.webhooks.answers import ACCEPTED, Answer, acknowledged

Parse = Callable[[WebhookRequest], Sequence[RoutedEvent]]
"""Raises InvalidInput."""


class Served(Struct, frozen=True, kw_only=True):
    """A platform as the edge serves it. What a receiver may have beside is looked at once: most have none of
    it, and pay nothing for those that do. `accepted`: how a delivery that was taken is answered.
    `delivery_bytes_max`: more than usual; such deliveries bring files, and each has its task, which may wait
    for a thread and the object store."""

    platform: str
    receiver: Receiver
    parse: Parse
    recogniser: Recogniser | None
    accepted: Answer
    delivery_bytes_max: int


class Receivers:
    def __init__(self, receivers: Sequence[Receiver], *, body_bytes_max: int) -> None:
        """`body_bytes_max`: what a body may have where its platform says nothing else."""
        self._body_bytes_max = body_bytes_max
        self._served = {
            name: served
            for served in map(_served, receivers)
            for name in (served.platform, *served.receiver.aliases)
        }

    def named(self, name: str) -> Served | None:
        """The platform with this name, or spelling of it, in addresses."""
        return self._served.get(name)

    def at(self, path: str) -> tuple[Served, str | None]:
        """Whose requests come to `path`, and the endpoint's key if there is one in it. Raises NotFound."""
        name, endpoint_key = addressed(path)
        served = self._served.get(name)
        if served is None:
            raise NotFound("There is no such platform here.")
        return served, endpoint_key

    def bytes_max(self, path: str) -> int:
        """What a body may have that is posted to `path`: more than usual only where the address names the
        endpoint, so that whose secrets are tried does not depend on reading it."""
        try:
            served, endpoint_key = self.at(path)
        except NotFound:
            return self._body_bytes_max
        if endpoint_key is None:
            return self._body_bytes_max
        return max(self._body_bytes_max, served.delivery_bytes_max)


def _served(receiver: Receiver) -> Served:
    return Served(
        platform=receiver.platform,
        receiver=receiver,
        parse=_parser(receiver),
        recogniser=receiver if isinstance(receiver, Recogniser) else None,
        accepted=acknowledged(receiver.acknowledgement) if isinstance(receiver, Acknowledges) else ACCEPTED,
        delivery_bytes_max=rules_of(receiver.platform).delivery_bytes_max,
    )


def _parser(receiver: Receiver) -> Parse:
    if isinstance(receiver, ReadsAddresses):
        return receiver.parse_request
    return lambda request: receiver.parse(request.body, request.headers)
