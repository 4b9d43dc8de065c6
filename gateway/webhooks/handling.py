"""The steps of a webhook, from its bytes to its answer; see `gateway.webhooks`."""

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

import trio
from msgspec import Struct

from engine.domain.intake import DeliveryReceipt
from engine.errors import InvalidInput
from engine.ports import Receiver, WebhookRequest
from gateway.directory import Directory
from gateway.in_flight import Flight, InFlight
from gateway.metrics import Metrics
from gateway.webhooks.address import PREFIX
from gateway.webhooks.announced import ReadAnnounced, read_all
from gateway.webhooks.answers import Answer, traced
from gateway.webhooks.claims import Claim, Claims, NotUnderstood, Signed
from gateway.webhooks.deliveries import by_tenant, not_understood
from gateway.webhooks.handover import Deliver, Handover
from gateway.webhooks.outcomes import MethodNotAllowed, Outcomes
from gateway.webhooks.parking import Parking, UnroutedStore
from gateway.webhooks.receivers import Receivers, Served
from gateway.webhooks.shedding import Shedding
from gateway.webhooks.sorting import Sorted, sort
from gateway.webhooks.work import Work

Rest = Callable[[], Awaitable[Answer]]
"""What is left to do of a request, for its answer. To be called once, and cancelled as `Webhooks.handle`."""


class WebhookLimits(Struct, frozen=True, kw_only=True):
    """`body_bytes_max`: WhatsApp sends up to 3 MB; a platform that says so may send more to an address with
    an endpoint's key (`delivery_bytes_max`). `in_flight_max`: at the goal of 3,300 a second and 50 ms
    there are 165; ten times that is a store that hangs. `in_flight_bytes_max`: what the bodies that wait may
    hold in memory. Both are shared out among the tenants as they are free (`engine.runtime.shared_room`).
    `answer_seconds_max`: platforms count a second as slow and give up soon after ten."""

    body_bytes_max: int = 3 * 1024 * 1024
    in_flight_max: int = 2_000
    in_flight_bytes_max: int = 64 * 1024 * 1024
    answer_seconds_max: float = 12.0


class Webhooks:
    def __init__(
        self,
        *,
        receivers: Sequence[Receiver],
        directory: Directory,
        intake: Deliver,
        landlord: UnroutedStore,
        metrics: Metrics,
        new_id: Callable[[], int],
        clock_ms: Callable[[], int],
        read: ReadAnnounced | None = None,
        limits: WebhookLimits | None = None,
        ready_since: Callable[[], float] = trio.current_time,
        public_url: str | None = None,
    ) -> None:
        """`ready_since`: when the request that is handled now was ready to be read, at the latest.
        `public_url`: how the outside reaches us, for platforms that sign the address."""
        self.limits = limits or WebhookLimits()
        self._clock_ms = clock_ms
        self._ready_since = ready_since
        self._public_url = public_url
        self._directory = directory
        self._read_announced = read
        self._receivers = Receivers(receivers, body_bytes_max=self.limits.body_bytes_max)
        self._in_flight = InFlight(
            deliveries_max=self.limits.in_flight_max,
            bytes_max=self.limits.in_flight_bytes_max,
            metrics=metrics,
        )
        self.shedding = Shedding(self._receivers, directory, self._in_flight)
        self._claims = Claims(directory, self._in_flight)
        self._handover = Handover(intake, seconds_max=self.limits.answer_seconds_max)
        self._parking = Parking(landlord, new_id)
        self._outcomes = Outcomes(metrics)

    async def handle(
        self,
        method: str,
        path: str,
        query: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        trace: str | None = None,
        raw_path: str | None = None,
    ) -> Answer:
        """The answer to one request. Header names are lower-case, `path` is without query and decoded,
        `raw_path` as it was written where that may differ; `trace` is the request id if there is one already.

        Cancelled (the platform hung up): parts may be durable; the platform repeats, and dedup settles it.
        """
        work = self._work(method, path, query, headers, body, trace, raw_path=raw_path)
        if method == "POST":
            refusal = self.shedding.over_share(path.removeprefix(PREFIX), body)
            if refusal is not None:
                return traced(refusal, work.trace)
        return await self._ended(work, partial(self._answer, work))

    def begin(
        self,
        path: str,
        query: str,
        headers: Mapping[str, str],
        body: bytes,
        answered: Callable[[Answer], None],
        ready: float,
    ) -> Rest | None:
        """`handle` for a POST that has been there since `ready` (trio's clock), without a task: `answered` is
        called with the answer, once, perhaps before this returns. `expire` must be called now and then.

        Where the request has to wait for more than one tenant's commits, nothing is in flight yet and
        `answered` is not called: the rest is returned, for a task to await soon, or to drop.

        `answered` must neither block nor raise; a caller who has hung up ignores it.
        """
        work = self._work("POST", path, query, headers, body, None, ready)
        refusal = self.shedding.refusal(path.removeprefix(PREFIX), body, ready)
        if refusal is not None:
            answered(traced(refusal, work.trace))
            return None
        try:
            rest = self._begin(work, answered)
        except Exception as error:  # noqa: BLE001  # as in `_ended`
            answered(traced(self._outcomes.failed(work, error), work.trace))
            return None
        return None if rest is None else partial(self._ended, work, rest)

    def bytes_max(self, path: str) -> int:
        """What a body may have that is posted to `path`."""
        return self._receivers.bytes_max(path)

    def expire(self, now: float) -> None:
        """Answer what was begun and has waited too long by `now` (trio's clock)."""
        self._handover.expire(now)

    def _work(
        self,
        method: str,
        path: str,
        query: str,
        headers: Mapping[str, str],
        body: bytes,
        trace: str | None,
        ready: float | None = None,
        raw_path: str | None = None,
    ) -> Work:
        return Work(
            trace=trace or os.urandom(16).hex(),
            request=WebhookRequest(
                method=method,
                path=path,
                query=query,
                headers=headers,
                body=body,
                raw_path=raw_path,
                public_url=self._public_url,
            ),
            started=trio.current_time(),
            ready=self._ready_since() if ready is None else ready,
            received_at=self._clock_ms(),
        )

    async def _ended(self, work: Work, rest: Rest) -> Answer:
        try:
            answer = await rest()
        except Exception as error:  # noqa: BLE001  # the platform gets an answer whatever our bug is
            answer = self._outcomes.failed(work, error)
        return traced(answer, work.trace)

    async def _answer(self, work: Work) -> Answer:
        served, endpoint_key = self._served(work)
        if served.receiver.is_handshake(work.request):
            return self._handshake(work, served, endpoint_key)
        if work.request.method != "POST":
            raise MethodNotAllowed
        return await self._deliver(work, served, endpoint_key)

    def _begin(self, work: Work, answered: Callable[[Answer], None]) -> Rest | None:
        served, endpoint_key = self._served(work)
        if served.receiver.is_handshake(work.request) or served.delivery_bytes_max:
            return partial(self._answer, work)
        flight = self._enter(work)
        begun = False
        try:
            claim = self._claims.of(work, served, endpoint_key)
            events = self._sorted(work, claim, claim.read())
            if isinstance(events, NotUnderstood) or events.unrouted or events.announced():
                return partial(self._deliver, work, served, endpoint_key, events)
            deliveries = by_tenant(work, list(events.groups.values()))
            if len(deliveries) != 1 or not self._handover.is_ready(*deliveries):
                return partial(self._deliver, work, served, endpoint_key, events)
            self._outcomes.note_refused(work, events)
            conclude = partial(self._concluded, flight, work, served, events, answered)
            ((tenant_id, delivery),) = deliveries.items()
            self._handover.begin(flight, tenant_id, delivery, conclude, since=work.started)
            begun = True
        finally:
            if not begun:
                flight.leave()
        return None

    def _concluded(
        self,
        flight: Flight,
        work: Work,
        served: Served,
        events: Sorted,
        answered: Callable[[Answer], None],
        result: DeliveryReceipt | Exception,
    ) -> None:
        flight.leave(durable=isinstance(result, DeliveryReceipt))
        try:
            if isinstance(result, Exception):
                raise result
            answer = self._outcomes.delivered(work, served, events, [result])
        except Exception as error:  # noqa: BLE001  # as in `_ended`
            answer = self._outcomes.failed(work, error)
        answered(traced(answer, work.trace))

    def _served(self, work: Work) -> tuple[Served, str | None]:
        served, endpoint_key = self._receivers.at(work.request.path)
        work.platform = served.platform
        return served, endpoint_key

    def _enter(self, work: Work) -> Flight:
        """Let the delivery in."""
        size = len(work.request.body)
        # The plain limit first: nearly all are below it.
        if size > self.limits.body_bytes_max and size > self.bytes_max(work.request.path):
            limit = self.bytes_max(work.request.path)
            raise InvalidInput(f"A webhook may have {limit} bytes.", code="too_large")
        return self._in_flight.enter(size, work.ready)

    def _sorted(self, work: Work, claim: Claim, read: Signed | NotUnderstood) -> Sorted | NotUnderstood:
        if isinstance(read, NotUnderstood):
            return read
        work.items = len(read.events)
        return sort(claim, read, self._directory)

    def _handshake(self, work: Work, served: Served, endpoint_key: str | None) -> Answer:
        if endpoint_key is None:
            candidates = self._directory.on(served.platform)
        else:
            endpoint = self._directory.by_key(served.platform, endpoint_key)
            candidates = () if endpoint is None else (endpoint,)
        challenge = served.receiver.challenge(work.request, candidates)
        if challenge is None:
            return self._outcomes.not_verified(work)
        return self._outcomes.verified(work, challenge)

    async def _deliver(
        self,
        work: Work,
        served: Served,
        endpoint_key: str | None,
        events: Sorted | NotUnderstood | None = None,
    ) -> Answer:
        """`events`: what is in the delivery, if it has been read already."""
        flight = self._enter(work)
        try:
            with trio.fail_after(self.limits.answer_seconds_max):
                if events is None:
                    claim = self._claims.of(work, served, endpoint_key)
                    events = self._sorted(work, claim, await self._claims.read(claim))
                if isinstance(events, NotUnderstood):
                    return await self._keep(flight, work, served, endpoint_key, events)
                return await self._hand_over(flight, work, served, events)
        finally:
            flight.leave()

    async def _hand_over(self, flight: Flight, work: Work, served: Served, events: Sorted) -> Answer:
        self._outcomes.note_refused(work, events)
        if events.announced():
            await read_all(events.groups.values(), self._read_announced)
        receipts = []
        # One after the other: several tenants in one delivery are rare, and if one fails all is repeated.
        for tenant_id, delivery in by_tenant(work, list(events.groups.values())).items():
            receipts.append(await self._handover.deliver(flight, tenant_id, delivery))
        if events.unrouted:
            first = events.unrouted[0]
            await self._parking.park(work, first.external_id or first.parent_id, "unknown_account")
            self._outcomes.note_unrouted(work, events)
        return self._outcomes.delivered(work, served, events, receipts)

    async def _keep(
        self, flight: Flight, work: Work, served: Served, endpoint_key: str | None, read: NotUnderstood
    ) -> Answer:
        """Stored with the one tenant that it can be for; with the landlord if several sign alike."""
        owner = read.signers[0]
        tenants = {tenant for each in read.signers for tenant in self._directory.tenants_signing_like(each)}
        if endpoint_key is not None or len(tenants) == 1:
            work.tenants = (owner.tenant_id,)
            await self._handover.deliver(flight, owner.tenant_id, not_understood(work, owner))
        else:
            await self._parking.park(work, None, "not_understood")
        return self._outcomes.accepted(work, served, "not_understood", why=read.why)
