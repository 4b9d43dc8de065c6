"""Webhooks: from a request's bytes to the answer that the platform gets. Knows no web framework.

Promises   200 for a delivery only after everything in it is durable. `handle` never raises.
Limits     `WebhookLimits`; beyond them the answer says so, and nothing is half done that a repetition
           would double. A tenant that floods waits for itself (`gateway.turnstile`) and is refused at its
           share; the others neither wait nor are refused.
Leaves     reading the request under limits to the route or lane; signatures and payloads to the
           adapters' receivers; the effects to the intake.

Whom to believe, in this order:

1.  The key in the URL, which only the tenant and the platform know: exactly that endpoint's secret must
    have signed the body.
2.  Without a key, the signature: while a platform's accounts share a few apps, their secrets are tried and an
    unsigned body is not even parsed. With more apps than that, the account ids in the body choose whose
    secrets are tried.
3.  The account ids in the body, last: each event goes to its account's endpoint only if *that endpoint's*
    secret signed the body. A tenant who signs with his own secret can therefore name whatever account he
    likes and reaches his own alone; the other events are refused.

Some platforms announce what is new and do not hold it: their adapter reads it before the delivery is answered
(`engine.domain.inbound.Announced`), outside of the tenant's turn, and a delivery whose content cannot be read
now is refused, so that the platform keeps it.

What is authentic is never lost: a body that is not what the platform sends is stored as such, an event for
an account that nobody has connected is parked with the landlord, and both are answered 200, since platforms
repeat anything else for days. If one delivery holds events of several tenants (accounts of one app), the raw
bytes would show each what the others were written; each tenant is then given its own events as JSON instead.
"""

import logging
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Final, Protocol

import msgspec
import structlog
import trio
from msgspec import Struct

from engine.domain.inbound import Announced, InboundEvent, RoutedEvent
from engine.domain.intake import Delivery, DeliveryReceipt, Done
from engine.domain.platforms import rules_of
from engine.errors import InvalidInput, MijraError, NotFound, Unauthenticated, Unavailable
from engine.ports import (
    Acknowledgement,
    Acknowledges,
    Endpoint,
    ReadsAddresses,
    Receiver,
    Recogniser,
    WebhookRequest,
)
from gateway import envelope
from gateway.directory import Directory, Signer, signer_of
from gateway.in_flight import OVER_SHARE, InFlight, over_share, too_many
from gateway.metrics import Metrics
from gateway.problems import failure_of
from gateway.turnstile import Turnstile

_log = structlog.get_logger()

PREFIX: Final = "/api/webhooks/"
ALIASES: Final = {"pymob": "paymob"}
"""Existing shops have this spelling configured with the provider."""

SIGNERS_TRIED_MAX: Final = 4
"""An installation has one app of its own per platform, two while it moves to another. Each secret tried costs
another pass over an attacker's body."""

IN_LOOP_BYTES_MAX: Final = 32 * 1024
"""What is read in the loop's own time on platforms with large deliveries: a millisecond or two."""

READERS_MAX: Final = 2
"""Deliveries that are read in threads at once. Each may hold a few times its size while it is read, and they
share one interpreter."""

_KEPT_HEADERS_MAX: Final = 40
_SECRET_HEADERS: Final = frozenset({"authorization", "proxy-authorization", "cookie", "x-api-key"})


class Deliver(Protocol):
    """The intake as the edge sees it (`engine.domain.intake.Intake`)."""

    async def deliver(self, delivery: Delivery) -> DeliveryReceipt: ...

    def is_ready(self, tenant_id: int) -> bool: ...

    def begin(self, delivery: Delivery, done: Done) -> None: ...

    def expire(self, now: float) -> None: ...


class UnroutedStore(Protocol):
    """What of the landlord's database is used here."""

    async def park_unrouted(
        self,
        *,
        delivery_id: int,
        platform: str,
        external_id: str | None,
        headers: dict[str, str],
        body: bytes,
        reason: str,
        trace: str,
        now: int,
    ) -> None: ...


Parse = Callable[[WebhookRequest], Sequence[RoutedEvent]]
"""Raises InvalidInput."""

ReadAnnounced = Callable[[Endpoint, Announced], Awaitable[Sequence[InboundEvent]]]
"""What an account's platform has only named. Raises Unavailable while it cannot be read."""


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


class Answer(Struct, frozen=True, kw_only=True):
    status: int
    headers: Mapping[str, str]
    body: bytes


class _MethodNotAllowed(Exception):
    pass


class _Sorted(Struct, kw_only=True):
    """A delivery's events by what may be done with them; `groups` by the account's id."""

    groups: dict[str, tuple[Endpoint, list[InboundEvent]]]
    unrouted: list[RoutedEvent]
    refused: int = 0

    def stored(self) -> int:
        return sum(len(events) for _, events in self.groups.values())

    def announced(self) -> bool:
        """Whether something in it has to be read from the platform first."""
        return any(type(event) is Announced for _, events in self.groups.values() for event in events)


class _NotUnderstood(Struct):
    """Authentic, signed by one of these, and not what the platform sends."""

    signed: Sequence[Endpoint]
    why: str


class _Work(Struct, kw_only=True):
    """One request on its way, and what its log line says in the end."""

    trace: str
    platform: str
    request: WebhookRequest
    started: float
    ready: float
    received_at: int
    items: int = 0
    tenants: tuple[int, ...] = ()

    def fields(self) -> dict[str, Any]:
        fields: dict[str, Any] = {"trace": self.trace, "platform": self.platform}
        if len(self.tenants) == 1:
            fields["tenant"] = self.tenants[0]
        elif self.tenants:
            fields["tenants"] = list(self.tenants)
        if self.items:
            fields["items"] = self.items
        fields["bytes"] = len(self.request.body)
        fields["duration_ms"] = round((trio.current_time() - self.started) * 1000, 2)
        return fields


class _Begun:
    """A delivery that no task waits for, from its turn at the turnstile to its answer."""

    __slots__ = ("_all", "_conclude", "_delivery", "_intake", "_tenant_id", "_turnstile", "since")

    def __init__(
        self,
        everything: "dict[_Begun, None]",
        since: float,
        tenant_id: int,
        delivery: Delivery,
        conclude: Callable[[DeliveryReceipt | Exception], None],
    ) -> None:
        self.since = since
        self._tenant_id = tenant_id
        self._delivery = delivery
        self._conclude: Callable[[DeliveryReceipt | Exception], None] | None = conclude
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
        self._ready_since = ready_since
        self._receivers = {
            name: receiver for receiver in receivers for name in (receiver.platform, *receiver.aliases)
        }
        # Looked at once: most receivers have neither, and pay nothing for those that do.
        self._parse = {each.platform: _parser(each) for each in receivers}
        self._accepted_answers = {
            each.platform: _acknowledged(each.acknowledgement)
            for each in receivers
            if isinstance(each, Acknowledges)
        }
        self._public_url = public_url
        self._directory = directory
        self._intake = intake
        self._landlord = landlord
        self._metrics = metrics
        self._new_id = new_id
        self._clock_ms = clock_ms
        self._read_announced = read
        self.limits = limits or WebhookLimits()
        self._in_flight = InFlight(
            deliveries_max=self.limits.in_flight_max,
            bytes_max=self.limits.in_flight_bytes_max,
            metrics=metrics,
        )
        self._begun: dict[_Begun, None] = {}  # oldest first
        self._slow = frozenset(
            each.platform for each in receivers if rules_of(each.platform).delivery_bytes_max
        )
        self._recognisers = {each.platform: each for each in receivers if isinstance(each, Recogniser)}
        self._readers = trio.CapacityLimiter(READERS_MAX)

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
        if self._in_flight.standing and method == "POST" and self._is_shed(path.removeprefix(PREFIX), body):
            return _traced(_SHED, work)
        try:
            answer = await self._answer(work)
        except Exception as error:  # noqa: BLE001  # the platform gets an answer whatever our bug is
            answer = self._failed(work, error)
        return _traced(answer, work)

    def begin(
        self,
        path: str,
        query: str,
        headers: Mapping[str, str],
        body: bytes,
        answered: Callable[[Answer], None],
        ready: float,
    ) -> bool:
        """`handle` for a POST that has been there since `ready` (trio's clock), without a task: `answered` is
        called with the answer, once, perhaps before this returns. False when the request has to wait for
        more than one tenant's commits: nothing was done, and `handle` is to be asked. `expire` must be called
        now and then.

        `answered` must neither block nor raise; a caller who has hung up ignores it.
        """
        work = self._work("POST", path, query, headers, body, None, ready)
        refusal = self._refusal(path.removeprefix(PREFIX), body, ready)
        if refusal is not None:
            answered(_traced(refusal, work))
            return True
        try:
            return self._begin(work, answered)
        except Exception as error:  # noqa: BLE001  # as in `handle`
            answered(_traced(self._failed(work, error), work))
            return True

    def bytes_max(self, path: str) -> int:
        """What a body may have that is posted to `path`: more than usual only where the address names the
        endpoint, so that whose secrets are tried does not depend on reading it."""
        try:
            platform, endpoint_key = _addressed(path)
        except NotFound:
            return self.limits.body_bytes_max
        receiver = self._receivers.get(platform)
        if receiver is None or endpoint_key is None:
            return self.limits.body_bytes_max
        return max(self.limits.body_bytes_max, rules_of(receiver.platform).delivery_bytes_max)

    def is_overloaded(self, waiting: int, oldest: float) -> bool:
        """Whether a queue stands, so that what arrives has to `arrive`. So many wait for `begin`, the oldest
        since then (trio's clock)."""
        return self._in_flight.is_overloaded(waiting, oldest)

    def arrive(self, place: str | None, body: bytes) -> Answer | int:
        """A POST has arrived while a queue stands. The answer, without a request id, if it is refused unread;
        it is counted then. Else the tenant whose place it has until it is `called`: 0 if that is not plain.
        `place` is what follows `PREFIX` in the path, or None for what is not to be refused.

        Costs some microseconds: two thirds of what comes at three times the capacity end here."""
        meant = None if place is None else self._meant(place, body)
        platform, tenant_id = meant or ("unknown", 0)
        if place is not None and self._in_flight.sheds(platform, tenant_id):
            return _SHED if tenant_id else _LATE
        self._in_flight.arrive(tenant_id)
        return tenant_id

    def called(self, tenant_id: int) -> None:
        """What had the tenant's place since it came to `arrive` is begun next, or gone."""
        self._in_flight.called(tenant_id)

    def expire(self, now: float) -> None:
        """Answer what was begun and has waited too long by `now` (trio's clock)."""
        self._intake.expire(now)
        for begun in list(self._begun):
            if now - begun.since < self.limits.answer_seconds_max:
                break
            begun.end(trio.TooSlowError())

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
    ) -> _Work:
        return _Work(
            trace=trace or os.urandom(16).hex(),
            platform="unknown",  # a label must not be the caller's choice
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

    async def _answer(self, work: _Work) -> Answer:
        receiver, endpoint_key = self._receiver(work)
        if receiver.is_handshake(work.request):
            return self._handshake(work, receiver, endpoint_key)
        if work.request.method != "POST":
            raise _MethodNotAllowed
        size = self._enter(work)
        try:
            with trio.fail_after(self.limits.answer_seconds_max):
                if size > IN_LOOP_BYTES_MAX and self._is_slow(work.platform):
                    read = await self._read_apart(work, receiver, endpoint_key)
                else:
                    read = self._read(work, receiver, endpoint_key)
                return await self._delivery(work, read)
        finally:
            self._in_flight.leave(size)

    def _begin(self, work: _Work, answered: Callable[[Answer], None]) -> bool:
        receiver, endpoint_key = self._receiver(work)
        if receiver.is_handshake(work.request) or self._is_slow(work.platform):
            return False
        size = self._enter(work)
        begun = False
        try:
            read = self._read(work, receiver, endpoint_key)
            if isinstance(read, _NotUnderstood) or read.unrouted:
                return False
            groups = list(read.groups.values())
            tenants = {endpoint.tenant_id for endpoint, _ in groups}
            if len(tenants) > 1 or read.announced():
                return False
            self._note_refused(work, read)
            (tenant_id,) = work.tenants = tuple(tenants)
            if not self._intake.is_ready(tenant_id):
                return False
            delivery = self._as_delivery(work, groups, work.request.body, "accepted")
            self._in_flight.check(tenant_id)
            number = self._in_flight.begin(tenant_id, size, work.ready)
            begun = True
        finally:
            if not begun:
                self._in_flight.leave(size)

        def conclude(result: DeliveryReceipt | Exception) -> None:
            self._in_flight.leave(size)
            self._in_flight.end(tenant_id, size, number, durable=isinstance(result, DeliveryReceipt))
            try:
                if isinstance(result, Exception):
                    raise result
                answer = self._delivered(work, read, [result])
            except Exception as error:  # noqa: BLE001  # as in `handle`
                answer = self._failed(work, error)
            answered(_traced(answer, work))

        _Begun(self._begun, work.started, tenant_id, delivery, conclude).enter(
            self._in_flight.turnstile, self._intake
        )
        return True

    def _receiver(self, work: _Work) -> tuple[Receiver, str | None]:
        """Who reads the platform's requests, and the endpoint's key if the address has one."""
        platform, endpoint_key = _addressed(work.request.path)
        receiver = self._receivers.get(platform)
        if receiver is None:
            raise NotFound("There is no such platform here.")
        work.platform = receiver.platform
        return receiver, endpoint_key

    def _enter(self, work: _Work) -> int:
        """Let the delivery in; its size, for the way out."""
        size = len(work.request.body)
        # The plain limit first: nearly all are below it.
        if size > self.limits.body_bytes_max and size > self.bytes_max(work.request.path):
            limit = self.bytes_max(work.request.path)
            raise InvalidInput(f"A webhook may have {limit} bytes.", code="too_large")
        self._in_flight.enter(size)
        return size

    def _refusal(self, place: str, body: bytes, ready: float) -> Answer | None:
        """The answer to what is refused unread in its turn: what came before the queue was found to stand, or
        could not be looked at when it came."""
        if not self._in_flight.standing:
            return None
        if self._is_shed(place, body):
            return _SHED
        return _LATE if self._in_flight.is_late(ready) else None

    def _is_shed(self, place: str, body: bytes) -> bool:
        """Whether a tenant that has its share in flight, while a queue stands, seems to be meant: then the
        refusal must cost next to nothing, or refusing would be what the server does. Nothing is proven yet;
        who lies about the account is refused what would be refused anyway."""
        meant = self._meant(place, body)
        return meant is not None and self._in_flight.sheds(*meant)

    def _meant(self, place: str, body: bytes) -> tuple[str, int] | None:
        """Platform and tenant of what is posted to `place`, by a look; None when that does not tell."""
        name, _, key = place.partition("/")
        receiver = self._receivers.get(ALIASES.get(name, name))
        if receiver is None:
            return None
        platform = receiver.platform
        if key:
            endpoint = self._directory.by_key(platform, key.rstrip("/"))
        else:
            account = receiver.account_hint(body)
            endpoint = None if account is None else self._directory.by_account(platform, account)
        return None if endpoint is None else (platform, endpoint.tenant_id)

    # -------------------------------------------------------------- the handshake

    def _handshake(self, work: _Work, receiver: Receiver, endpoint_key: str | None) -> Answer:
        if endpoint_key is None:
            candidates = self._directory.on(work.platform)
        else:
            endpoint = self._directory.by_key(work.platform, endpoint_key)
            candidates = () if endpoint is None else (endpoint,)
        challenge = receiver.challenge(work.request, candidates)
        if challenge is None:
            failure = envelope.Failure(
                status=403, code="forbidden", message="The verify token is not one of ours."
            )
            self._refused(work, failure, "verify_token")
            return _failure(failure)
        self._count(work, "handshake")
        _log.info("webhook.verified", **work.fields())
        return Answer(
            status=200,
            # Without sniffing: the text is the caller's own.
            headers={"Content-Type": "text/plain; charset=utf-8", "X-Content-Type-Options": "nosniff"},
            body=challenge,
        )

    # -------------------------------------------------------------- a delivery

    def _read(self, work: _Work, receiver: Receiver, endpoint_key: str | None) -> _Sorted | _NotUnderstood:
        """The delivery's events, if somebody whom we know has signed it. Raises the refusal otherwise."""
        addressed = self._addressee(work, endpoint_key)
        candidates = (addressed,) if addressed is not None else self._candidates(work, receiver)
        return self._sorted(
            work,
            receiver,
            addressed,
            _understand(receiver, self._parse[work.platform], work.request, candidates),
        )

    async def _read_apart(
        self, work: _Work, receiver: Receiver, endpoint_key: str | None
    ) -> _Sorted | _NotUnderstood:
        """As `_read`, for bodies whose reading would hold the loop up."""
        addressed = self._addressee(work, endpoint_key)
        candidates = (addressed,) if addressed is not None else self._candidates(work, receiver)
        understood = await trio.to_thread.run_sync(
            _understand,
            receiver,
            self._parse[work.platform],
            work.request,
            candidates,
            limiter=self._readers,
        )
        return self._sorted(work, receiver, addressed, understood)

    def _addressee(self, work: _Work, endpoint_key: str | None) -> Endpoint | None:
        """Whose address it came to, if that is somebody's."""
        if endpoint_key is None:
            return None
        addressed = self._directory.by_key(work.platform, endpoint_key)
        if addressed is None:
            raise NotFound("There is no such endpoint.")
        # Before the signature: what a flood is refused for should not cost a pass over its bodies.
        work.tenants = (addressed.tenant_id,)
        self._in_flight.check(addressed.tenant_id)
        return addressed

    def _sorted(
        self,
        work: _Work,
        receiver: Receiver,
        addressed: Endpoint | None,
        understood: tuple[Sequence[Endpoint], Sequence[RoutedEvent] | str],
    ) -> _Sorted | _NotUnderstood:
        signed, routed = understood
        if not signed:
            raise Unauthenticated("The signature is missing or wrong.", code="bad_signature")
        if isinstance(routed, str):
            return _NotUnderstood(signed, routed)
        work.items = len(routed)
        return self._sort(work, receiver, routed, addressed, signed)

    def _is_slow(self, platform: str) -> bool:
        """Whether the platform's deliveries are large, or bring files: then each has its task, which may wait
        for a thread and the object store."""
        return platform in self._slow

    async def _delivery(self, work: _Work, read: _Sorted | _NotUnderstood) -> Answer:
        if isinstance(read, _NotUnderstood):
            return await self._keep_not_understood(work, read)
        self._note_refused(work, read)
        if read.announced():
            await self._read_all(read)
        receipts = await self._deliver(work, list(read.groups.values()))
        if read.unrouted:
            first = read.unrouted[0]
            await self._park(work, first.external_id or first.parent_id, "unknown_account")
            self._metrics.webhook_events.labels(work.platform, "unrouted").inc(len(read.unrouted))
        return self._delivered(work, read, receipts)

    async def _read_all(self, read: _Sorted) -> None:
        """Puts what was announced in place of the announcements. Raises Unavailable: the platform keeps the
        delivery and repeats it."""
        if self._read_announced is None:
            raise Unavailable("Nothing here reads what the platform announces.", code="not_readable_now")
        for endpoint, events in read.groups.values():
            whole: list[InboundEvent] = []
            for event in events:
                found = (
                    await self._read_announced(endpoint, event) if isinstance(event, Announced) else (event,)
                )
                whole += found
            events[:] = whole

    def _note_refused(self, work: _Work, read: _Sorted) -> None:
        """Count and log the events of accounts that did not sign. Raises if there are no others."""
        if not read.refused:
            return
        self._metrics.webhook_events.labels(work.platform, "refused").inc(read.refused)
        _log.warning("webhook.events_refused", refused=read.refused, **work.fields())
        if not read.groups and not read.unrouted:
            raise Unauthenticated("The signature is not that of the accounts named.", code="bad_signature")

    def _delivered(self, work: _Work, read: _Sorted, receipts: Sequence[DeliveryReceipt]) -> Answer:
        metrics = self._metrics
        metrics.child(metrics.webhook_events, work.platform, "accepted").inc(read.stored())
        return self._accepted(
            work,
            "unrouted" if read.unrouted and not read.groups else "accepted",
            stored=sum([receipt.stored for receipt in receipts]),
            duplicates=sum([receipt.duplicates for receipt in receipts]),
            parked=sum([receipt.parked for receipt in receipts]),
            unrouted=len(read.unrouted),
            refused=read.refused,
        )

    def _candidates(self, work: _Work, receiver: Receiver) -> Sequence[Endpoint]:
        """Whose secrets are tried on a delivery without a key."""
        signers = self._directory.signers(work.platform, limit=SIGNERS_TRIED_MAX + 1)
        if len(signers) <= SIGNERS_TRIED_MAX:
            return signers
        try:
            routed = self._parse[work.platform](work.request)
        except InvalidInput:
            return ()  # names no account, so there is nobody whose secret could be tried
        return _few_signers([target for event in routed for target in self._targets(work.platform, event)])

    def _targets(self, platform: str, event: RoutedEvent) -> Sequence[Endpoint]:
        """The endpoints that the event names. About a whole parent account: all accounts under it."""
        if event.external_id is not None:
            for name in (event.external_id, *event.also_known_as):
                endpoint = self._directory.by_account(platform, name)
                if endpoint is not None:
                    return (endpoint,)
            return ()
        if event.parent_id is not None:
            return self._directory.by_parent(platform, event.parent_id)
        return ()

    def _sort(
        self,
        work: _Work,
        receiver: Receiver,
        routed: Sequence[RoutedEvent],
        addressed: Endpoint | None,
        signed: Sequence[Endpoint],
    ) -> _Sorted:
        wanted: list[tuple[RoutedEvent, Sequence[Endpoint]]] = []
        proven = {endpoint.external_id for endpoint in signed}
        unproven: dict[str, Endpoint] = {}
        for event in routed:
            targets = self._targets(work.platform, event)
            if event.or_addressed and addressed is not None:
                # A tenant's own address speaks for all of the tenant's accounts, and for nobody else's.
                own = tuple(each for each in targets if each.tenant_id == addressed.tenant_id)
                targets = own or (addressed,)
                proven.update(each.external_id for each in targets)
            elif not targets and addressed is not None and _may_speak_of(event, addressed):
                targets = (addressed,)
            wanted.append((event, targets))
            unproven.update((t.external_id, t) for t in targets if t.external_id not in proven)
        if unproven:
            also_signed = receiver.verify(work.request, _few_signers(unproven.values()))
            proven.update(endpoint.external_id for endpoint in also_signed)
        sorting = _Sorted(groups={}, unrouted=[])
        recogniser = self._recognisers.get(work.platform)
        for event, targets in wanted:
            if not targets:
                sorting.unrouted.append(event)
                continue
            believed = [target for target in targets if target.external_id in proven]
            if not believed:
                sorting.refused += 1
            for target in believed:
                own_event = event.event if recogniser is None else recogniser.recognise(event.event, target)
                sorting.groups.setdefault(target.external_id, (target, []))[1].append(own_event)
        if addressed is not None and not wanted:
            sorting.groups[addressed.external_id] = (addressed, [])  # nothing in it, but authentic: kept
        return sorting

    async def _deliver(
        self, work: _Work, groups: Sequence[tuple[Endpoint, list[InboundEvent]]]
    ) -> list[DeliveryReceipt]:
        by_tenant: dict[int, list[tuple[Endpoint, list[InboundEvent]]]] = {}
        for endpoint, events in groups:
            by_tenant.setdefault(endpoint.tenant_id, []).append((endpoint, events))
        work.tenants = tuple(by_tenant)
        receipts = []
        # One after the other: several tenants in one delivery are rare, and if one fails all is repeated.
        for tenant_id, of_tenant in by_tenant.items():
            body = work.request.body if len(by_tenant) == 1 else _own_part(of_tenant)
            delivery = self._as_delivery(work, of_tenant, body, "accepted")
            receipts.append(await self._hand_over(work, tenant_id, delivery))
        return receipts

    async def _hand_over(self, work: _Work, tenant_id: int, delivery: Delivery) -> DeliveryReceipt:
        """To the intake, if the tenant has its share of what may wait for it not yet in flight."""
        size, durable = len(work.request.body), False
        self._in_flight.check(tenant_id)
        number = self._in_flight.begin(tenant_id, size, work.ready)
        try:
            async with self._in_flight.turnstile.passed(tenant_id):
                receipt = await self._intake.deliver(delivery)
            durable = True
            return receipt
        finally:
            self._in_flight.end(tenant_id, size, number, durable=durable)

    async def _keep_not_understood(self, work: _Work, read: _NotUnderstood) -> Answer:
        """Stored with the one tenant that it can be for; with the landlord if several sign alike."""
        signed = read.signed
        tenants = {tenant for endpoint in signed for tenant in self._directory.tenants_signing_like(endpoint)}
        keyed = _addressed(work.request.path)[1] is not None
        if keyed or len(tenants) == 1:
            owner = signed[0]
            work.tenants = (owner.tenant_id,)
            delivery = self._as_delivery(work, [(owner, [])], work.request.body, "not_understood")
            await self._hand_over(work, owner.tenant_id, delivery)
        else:
            await self._park(work, None, "not_understood")
        return self._accepted(work, "not_understood", why=read.why)

    async def _park(self, work: _Work, external_id: str | None, reason: str) -> None:
        await self._landlord.park_unrouted(
            delivery_id=self._new_id(),
            platform=work.platform,
            external_id=external_id,
            headers=_kept(work.request.headers),
            body=work.request.body,
            reason=reason,
            trace=work.trace,
            now=work.received_at,
        )
        _log.warning("webhook.parked", reason=reason, external_id=external_id, **work.fields())

    def _as_delivery(
        self, work: _Work, groups: Sequence[tuple[Endpoint, list[InboundEvent]]], body: bytes, outcome: str
    ) -> Delivery:
        return Delivery(
            platform=work.platform,
            trace=work.trace,
            received_at=work.received_at,
            headers=_kept(work.request.headers),
            body=body,
            groups=groups,
            outcome=outcome,
        )

    # -------------------------------------------------------------- one line and one count for each

    def _accepted(self, work: _Work, outcome: str, **said: object) -> Answer:
        self._count(work, outcome)
        metrics = self._metrics
        metrics.child(metrics.webhook_seconds, work.platform).observe(trio.current_time() - work.started)
        if _log.is_enabled_for(logging.INFO):
            shown = {name: value for name, value in said.items() if value}
            event = "webhook.accepted" if outcome == "accepted" else f"webhook.{outcome}"
            _log.info(event, **work.fields(), **shown)
        return self._accepted_answers.get(work.platform, _OK)

    def _failed(self, work: _Work, error: Exception) -> Answer:
        """The answer to whatever went wrong, counted and logged."""
        if isinstance(error, _MethodNotAllowed):
            failure = envelope.Failure(
                status=405,
                code="method_not_allowed",
                message="Webhooks take GET (the handshake) and POST.",
                headers={"Allow": "GET, POST"},
            )
            self._refused(work, failure, "method_not_allowed")
            return _failure(failure)
        failure = failure_of(error)
        if not isinstance(error, MijraError | trio.TooSlowError):
            _log.error("webhook.crashed", exc_info=error, **work.fields())
            self._count(work, "crashed")
            return _failure(failure)
        reason = error.code if isinstance(error, MijraError) else "timeout"
        if failure.status >= 500 and reason != OVER_SHARE:
            self._unavailable(work, failure, reason, error)
        else:
            self._refused(work, failure, reason)
        return _failure(failure)

    def _refused(self, work: _Work, failure: envelope.Failure, reason: str) -> None:
        self._count(work, reason)
        _log.warning("webhook.refused", status=failure.status, reason=reason, **work.fields())

    def _unavailable(self, work: _Work, failure: envelope.Failure, reason: str, error: Exception) -> None:
        self._count(work, "unavailable")
        _log.error(
            "webhook.unavailable", status=failure.status, reason=reason, why=str(error), **work.fields()
        )

    def _count(self, work: _Work, outcome: str) -> None:
        self._metrics.child(self._metrics.webhook_deliveries, work.platform, outcome).inc()


_JSON_HEADERS: Final = {"Content-Type": envelope.JSON_TYPE}
_OK: Final = Answer(
    status=200,
    headers=_JSON_HEADERS,
    body=envelope.success_body(envelope.Answer(message="Accepted")),
)


def _acknowledged(how: Acknowledgement) -> Answer:
    return Answer(status=how.status, headers={"Content-Type": how.content_type}, body=how.body)


def _traced(answer: Answer, work: _Work) -> Answer:
    return Answer(
        status=answer.status, headers={**answer.headers, "X-Request-Id": work.trace}, body=answer.body
    )


def _failure(failure: envelope.Failure) -> Answer:
    return Answer(
        status=failure.status,
        headers={**_JSON_HEADERS, **failure.headers},
        body=envelope.failure_body(failure),
    )


_SHED: Final = _failure(failure_of(over_share()))
_LATE: Final = _failure(failure_of(too_many()))
"""Made once: what is refused in thousands should not be encoded each time."""


def _understand(
    receiver: Receiver, parse: Parse, request: WebhookRequest, candidates: Sequence[Endpoint]
) -> tuple[Sequence[Endpoint], Sequence[RoutedEvent] | str]:
    """Who signed a delivery, and its events or why it is not understood. Touches nothing of ours."""
    signed = receiver.verify(request, candidates)
    if not signed:
        return (), ()
    try:
        return signed, parse(request)
    except InvalidInput as error:
        return signed, error.message


def _parser(receiver: Receiver) -> Parse:
    """How the receiver is asked; found out once, not for each delivery."""
    if isinstance(receiver, ReadsAddresses):
        return receiver.parse_request
    return lambda request: receiver.parse(request.body, request.headers)


def _addressed(path: str) -> tuple[str, str | None]:
    """Platform and endpoint key of a path. Raises NotFound for another form."""
    parts = path.removeprefix(PREFIX).rstrip("/").split("/") if path.startswith(PREFIX) else []
    if not 1 <= len(parts) <= 2 or not all(parts):
        raise NotFound("There is nothing at this address.")
    return ALIASES.get(parts[0], parts[0]), parts[1] if len(parts) == 2 else None


def _may_speak_of(event: RoutedEvent, addressed: Endpoint) -> bool:
    """Whether an event that names no connected account is the keyed endpoint's own: it names none, or only
    the parent, and not another parent than the one we know."""
    return event.external_id is None and (
        event.parent_id is None or addressed.parent_id in (None, event.parent_id)
    )


def _few_signers(endpoints: Iterable[Endpoint]) -> list[Endpoint]:
    """Those of the first few different secrets: a body can name accounts of a thousand apps, and each app
    costs a pass over it, while a real one names accounts of one."""
    signers: set[Signer] = set()
    kept = []
    for endpoint in endpoints:
        signer = signer_of(endpoint)
        if signer not in signers and len(signers) == SIGNERS_TRIED_MAX:
            continue
        signers.add(signer)
        kept.append(endpoint)
    return kept


def _own_part(groups: Sequence[tuple[Endpoint, list[InboundEvent]]]) -> bytes:
    part = [{"external_id": endpoint.external_id, "events": events} for endpoint, events in groups]
    return msgspec.json.encode({"shared_delivery": part})


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    """What is worth keeping with a raw body; what proves the caller's identity by itself is not."""
    kept = {name: value for name, value in headers.items() if name not in _SECRET_HEADERS}
    return kept if len(kept) <= _KEPT_HEADERS_MAX else dict(islice(kept.items(), _KEPT_HEADERS_MAX))
