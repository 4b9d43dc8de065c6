"""Reading a delivery: whose it may be, whether one of them has signed it, and what is in it.

Owns       the threads in which large ones are read.
Leaves     signatures and payloads to the receivers; which account an event is for to `sorting`.
"""

from collections.abc import Sequence
from typing import Final

import trio
from msgspec import Struct

from engine.domain.inbound import RoutedEvent
from engine.errors import InvalidInput, NotFound, Unauthenticated
from engine.ports import Endpoint, WebhookRequest
from gateway.directory import Directory
from gateway.in_flight import InFlight
from gateway.webhooks.accounts import SIGNERS_TRIED_MAX, few_signers, named_by
from gateway.webhooks.receivers import Served
from gateway.webhooks.work import Work

IN_LOOP_BYTES_MAX: Final = 32 * 1024
"""What is read in the loop's own time on platforms with large deliveries: a millisecond or two."""

READERS_MAX: Final = 2
"""Deliveries that are read in threads at once. Each may hold a few times its size while it is read, and they
share one interpreter."""


class Signed(Struct):
    """Authentic, signed by each of `signers`, with everything that is in it."""

    signers: Sequence[Endpoint]
    events: Sequence[RoutedEvent]


class NotUnderstood(Struct):
    """Authentic, signed by one of `signers`, and not what the platform sends."""

    signers: Sequence[Endpoint]
    why: str


class Claim(Struct, frozen=True):
    """What a delivery says of itself, before any of it is believed. `addressed`: whose address it came to, if
    that is somebody's; `candidates`: whose secrets are tried."""

    served: Served
    request: WebhookRequest
    addressed: Endpoint | None
    candidates: Sequence[Endpoint]

    @property
    def is_large(self) -> bool:
        """Whether reading it would hold the loop up."""
        return self.served.delivery_bytes_max > 0 and len(self.request.body) > IN_LOOP_BYTES_MAX

    def read(self) -> Signed | NotUnderstood:
        """Touches nothing of ours, so that any thread may do it. Raises Unauthenticated."""
        signers = self.served.receiver.verify(self.request, self.candidates)
        if not signers:
            raise Unauthenticated("The signature is missing or wrong.", code="bad_signature")
        try:
            return Signed(signers, self.served.parse(self.request))
        except InvalidInput as error:
            return NotUnderstood(signers, error.message)


class Claims:
    def __init__(self, directory: Directory, in_flight: InFlight) -> None:
        self._directory = directory
        self._in_flight = in_flight
        self._threads = trio.CapacityLimiter(READERS_MAX)

    def of(self, work: Work, served: Served, endpoint_key: str | None) -> Claim:
        """Raises NotFound for a key that is nobody's, MailboxFull if its tenant has its share in flight."""
        if endpoint_key is None:
            return Claim(served, work.request, None, self._candidates(work, served))
        addressed = self._directory.by_key(served.platform, endpoint_key)
        if addressed is None:
            raise NotFound("There is no such endpoint.")
        # Before the signature: what a flood is refused for should not cost a pass over its bodies.
        work.tenants = (addressed.tenant_id,)
        self._in_flight.check(addressed.tenant_id)
        return Claim(served, work.request, addressed, (addressed,))

    async def read(self, claim: Claim) -> Signed | NotUnderstood:
        """As `Claim.read`, in a thread if it is large. A checkpoint only then."""
        if claim.is_large:
            return await trio.to_thread.run_sync(claim.read, limiter=self._threads)
        return claim.read()

    def _candidates(self, work: Work, served: Served) -> Sequence[Endpoint]:
        signers = self._directory.signers(served.platform, limit=SIGNERS_TRIED_MAX + 1)
        if len(signers) <= SIGNERS_TRIED_MAX:
            return signers
        try:
            events = served.parse(work.request)
        except InvalidInput:
            return ()  # names no account, so there is nobody whose secret could be tried
        return few_signers(
            [each for event in events for each in named_by(event, served.platform, self._directory)]
        )
