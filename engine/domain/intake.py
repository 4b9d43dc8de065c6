"""From a verified delivery to durable effects: the door between the edge and the conversations.

`deliver` returns only when everything in the delivery is committed: the raw body of each tenant's part, and
what its conversation made of each event. It is the promise behind every 200 that a platform gets. `begin` is
the same for a caller who spares the task.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import trio
from msgspec import Struct, structs

from engine.domain.configs import Configs
from engine.domain.conversation.messages import Receive, Received, address_of
from engine.domain.feeding import Feed, Feeder
from engine.domain.inbound import AccessWithdrawn, AccountNotice, InboundEvent, MessageReceived, StatusChanged
from engine.domain.rows import DeliveryRow
from engine.domain.tenant.messages import NeedAttention
from engine.domain.tenant.messages import address_of as tenant_of
from engine.errors import AskTimeout, CommitFailed, MijraError, Parked, StoreUnavailable
from engine.ports import Endpoint, MediaStore, chunks_of
from engine.runtime import Address, Committer, Gather, Lane, ReplySlot, System

WAIT_SECONDS_MAX = 10.0
"""Platforms give up after about this long and send again (Meta: more than 1 s counts as slow); what is
not durable by then is answered 503, and dedup makes the next delivery harmless."""

PATIENCE_SECONDS = 3.0
"""After so long it is asked whether the store is still there: in an outage the platform hears so at once."""

RETRY_AFTER_SECONDS = 2.0

INLINE_BYTES_MAX = 256 * 1024
"""A raw delivery above this is kept in the object store: a row of megabytes is written twice (the log), and
holds up the batch that everybody's messages are in."""


def delivery_key(tenant_id: int, digest: str) -> str:
    """Where the object store keeps a delivery's body, by the SHA-256 of its bytes (hex): one that comes again
    is the same object."""
    return f"{deliveries_prefix(tenant_id)}{digest}"


def deliveries_prefix(tenant_id: int) -> str:
    """What the keys of a tenant's deliveries begin with."""
    return f"{tenant_id}/deliveries/"


class Delivery(Struct, frozen=True, kw_only=True):
    """One webhook request whose signature was right. `headers`: those that are kept with it
    (`engine.domain.platforms.Platform.kept_of`). `groups`: its events by the account they are for.
    `outcome`: accepted, or not_understood for an authentic body that is kept and not interpreted.
    `stored_as`: the body's digest, once the object store has it."""

    platform: str
    trace: str
    received_at: int
    headers: Mapping[str, str]
    body: bytes
    groups: Sequence[tuple[Endpoint, Sequence[InboundEvent]]]
    outcome: str = "accepted"
    stored_as: str | None = None


class DeliveryReceipt(Struct, frozen=True, kw_only=True):
    """What became of the events; `parked` went to the dead letters, which is durable too."""

    stored: int = 0
    duplicates: int = 0
    applied: int = 0
    ignored: int = 0
    parked: int = 0
    tenants: tuple[int, ...] = ()


Done = Callable[[DeliveryReceipt | MijraError], None]


class _Begun:
    """A delivery that was begun, until it is done; what comes after its end is ignored."""

    __slots__ = ("_all", "_done", "_feed", "since", "tenants")

    def __init__(
        self, since: float, tenants: tuple[int, ...], feed: Feed, done: Done, everything: dict["_Begun", None]
    ) -> None:
        self.since = since
        self._feed = feed
        self.tenants = tenants
        self._done: Done | None = done
        self._all = everything
        everything[self] = None

    def gathered(self, outcomes: Sequence[object]) -> None:
        try:
            result: DeliveryReceipt | MijraError = _receipt(outcomes, self.tenants)
        except MijraError as error:
            result = error
        self.end(result)

    def end(self, result: DeliveryReceipt | MijraError) -> None:
        done, self._done = self._done, None
        if done is not None:
            del self._all[self]
            self._feed.drop()
            done(result)


class Intake:
    def __init__(
        self,
        system: System,
        committer: Committer,
        configs: Configs,
        new_id: Callable[[], int],
        media: MediaStore | None = None,
    ) -> None:
        """`media` keeps what is large or brings files; without one, everything goes into the row."""
        self._feeder = Feeder(system)
        self._media = media
        self._committer = committer
        self._configs = configs
        self._new_id = new_id
        self._begun: dict[_Begun, None] = {}  # oldest first
        self._received: dict[tuple[int, int], int] = {}

    async def deliver(
        self, delivery: Delivery, *, wait_seconds_max: float = WAIT_SECONDS_MAX
    ) -> DeliveryReceipt:
        """Makes the delivery durable. Raises Unavailable (MailboxFull, AskTimeout, StoreUnavailable): the
        platform must send it again; parts of it may be durable already, which its repetition settles.
        On cancel the same holds."""
        with trio.move_on_after(wait_seconds_max):
            tenants = _tenants_of(delivery)
            for tenant_id in tenants:
                await self._configs.ensure(tenant_id)
            if self._media is not None and _is_kept_apart(delivery):
                delivery = await self._keep_apart(self._media, delivery, tenants)
            gather, feed = self._submit(delivery, tenants)
            try:
                with trio.move_on_after(PATIENCE_SECONDS):
                    return _receipt(await gather.wait(), tenants)
                if not self._has_room(tenants):
                    raise no_room()
                return _receipt(await gather.wait(), tenants)
            finally:
                feed.drop()
        raise _too_late()

    def received_at(self, tenant_id: int, channel_id: int) -> int | None:
        """When the last delivery for the channel came, in ms; None when none did since the start."""
        return self._received.get((tenant_id, channel_id))

    def is_ready(self, tenant_id: int) -> bool:
        """Whether the tenant's configuration is in memory, as `begin` needs it; `deliver` waits for it."""
        return self._configs.has(tenant_id)

    def begin(self, delivery: Delivery, done: Done) -> None:
        """As `deliver`, without a task: `done` is called once, perhaps before this returns, with the receipt
        or with what `deliver` would raise. It must neither block nor raise. Raises the refusals that are
        known at once. `expire` must be called now and then. The body goes into the row, whatever its size.
        """
        tenants = _tenants_of(delivery)
        gather, feed = self._submit(delivery, tenants)
        begun = _Begun(trio.current_time(), tenants, feed, done, self._begun)
        gather.then(begun.gathered)

    def expire(self, now: float) -> None:
        """End what was begun and has waited too long by `now` (trio's clock)."""
        for begun in list(self._begun):
            waited = now - begun.since
            if waited < PATIENCE_SECONDS:
                break
            if waited >= WAIT_SECONDS_MAX:
                begun.end(_too_late())
            elif not self._has_room(begun.tenants):
                begun.end(no_room())

    async def _keep_apart(self, media: MediaStore, delivery: Delivery, tenants: tuple[int, ...]) -> Delivery:
        """The body into the object store, before anything of it is promised; what is made of it is submitted
        afterwards, so that a file's row never names a delivery that is not there."""
        body = delivery.body
        digest = await _digest_of(body)
        media_type = delivery.headers.get("content-type", "application/octet-stream")[:200]
        for tenant_id in tenants:
            await media.write(
                delivery_key(tenant_id, digest), chunks_of(body), media_type=media_type, bytes_max=len(body)
            )
        return structs.replace(delivery, stored_as=digest)

    def _has_room(self, tenants: Iterable[int]) -> bool:
        return all(self._committer.has_room(tenant_id) for tenant_id in tenants)

    def _submit(self, delivery: Delivery, tenants: tuple[int, ...]) -> tuple[Gather, Feed]:
        """Everything in the delivery is on its way; the answers gather. The feed is to be dropped when nobody
        waits for them any more."""
        if not self._has_room(tenants):
            raise no_room()
        gather = Gather()
        feed = self._feeder.open(messages=sum([len(events) for _, events in delivery.groups]))
        for tenant_id in tenants:
            groups = [group for group in delivery.groups if group[0].tenant_id == tenant_id]
            self._keep_raw(delivery, tenant_id, groups, gather.slot())
            for endpoint, events in groups:
                self._received[tenant_id, endpoint.channel_id] = delivery.received_at
                for event in events:
                    _put(delivery, endpoint, event, feed, gather.slot())
        return gather, feed

    def _keep_raw(
        self,
        delivery: Delivery,
        tenant_id: int,
        groups: Sequence[tuple[Endpoint, Sequence[InboundEvent]]],
        slot: ReplySlot,
    ) -> None:
        """The raw body goes into the same batch as what is made of it, once for each tenant in it."""
        row = DeliveryRow(
            tenant_id=tenant_id,
            id=self._new_id(),
            platform=delivery.platform,
            channel_id=groups[0][0].channel_id,
            headers=dict(delivery.headers),
            body=delivery.body if delivery.stored_as is None else b"",
            outcome=delivery.outcome,
            items=sum(len(events) for _, events in groups),
            trace=delivery.trace,
            received_at=delivery.received_at,
            storage_key=delivery_key(tenant_id, delivery.stored_as) if delivery.stored_as else None,
        )

        # An address of its own: one delivery's failure must not void another's.
        self._committer.submit(Address("intake", tenant_id, row.id), 0, (row,), verdict_to(slot))


def _put(delivery: Delivery, endpoint: Endpoint, event: InboundEvent, feed: Feed, slot: ReplySlot) -> None:
    """The event is on its way to whoever decides on it."""
    if isinstance(event, AccountNotice | AccessWithdrawn):
        _mark(delivery, endpoint, event, feed, slot)
        return
    if event.contact is None:
        slot.resolve(Received(outcome="ignored"))
        return
    key = event.contact.group or event.contact.keys[0]
    feed.put(
        address_of(endpoint.tenant_id, endpoint.channel_id, key),
        Receive(event=event, trace=delivery.trace, received_at=delivery.received_at),
        # Statuses give way: they are three for each message and nobody waits on a screen for them.
        Lane.NORMAL if isinstance(event, StatusChanged) else Lane.REALTIME,
        slot,
    )


def _mark(
    delivery: Delivery,
    endpoint: Endpoint,
    event: AccountNotice | AccessWithdrawn,
    feed: Feed,
    slot: ReplySlot,
) -> None:
    """What a person has to act on is for the tenant, whose word makes it durable; the rest is kept as it
    came."""
    note = event.note if isinstance(event, AccessWithdrawn) else event.attention
    if note is None:
        slot.resolve(Received(outcome="ignored"))
        return
    mark = NeedAttention(
        channel_id=endpoint.channel_id,
        note=note,
        halts=isinstance(event, AccessWithdrawn),
        at=event.at,
        trace=delivery.trace,
    )
    feed.put(tenant_of(endpoint.tenant_id), mark, Lane.REALTIME, slot)


def verdict_to(slot: ReplySlot) -> Callable[[CommitFailed | None], None]:
    """Where the writer's verdict on rows that no actor decided goes."""

    def done(error: CommitFailed | None) -> None:
        if error is None:
            slot.resolve(None)
        else:
            slot.fail(error)

    return done


async def _digest_of(body: bytes) -> str:
    """In pieces: hashing tens of megabytes at once would hold the loop for a tenth of a second."""
    digest = hashlib.sha256()
    chunk = chunks_of(body)
    while piece := await chunk():
        digest.update(piece)
        await trio.lowlevel.checkpoint()
    return digest.hexdigest()


def _is_kept_apart(delivery: Delivery) -> bool:
    return len(delivery.body) > INLINE_BYTES_MAX or any(
        each.in_delivery
        for _, events in delivery.groups
        for event in events
        if isinstance(event, MessageReceived)
        for each in event.media
    )


def _tenants_of(delivery: Delivery) -> tuple[int, ...]:
    return tuple(dict.fromkeys(endpoint.tenant_id for endpoint, _ in delivery.groups))


def _too_late() -> AskTimeout:
    return AskTimeout(
        "The delivery could not be made durable in time.", retry_after_seconds=RETRY_AFTER_SECONDS
    )


def no_room() -> StoreUnavailable:
    """The store is away, or has as much waiting as it may."""
    return StoreUnavailable(
        "The store takes nothing more at the moment.", retry_after_seconds=RETRY_AFTER_SECONDS
    )


def _receipt(outcomes: Sequence[object], tenants: tuple[int, ...]) -> DeliveryReceipt:
    counts = {"stored": 0, "duplicate": 0, "applied": 0, "ignored": 0}
    parked = 0
    for outcome in outcomes:
        if type(outcome) is Received:
            counts[outcome.outcome] += 1
        elif outcome is None:
            pass  # the raw delivery
        elif isinstance(outcome, Parked):
            parked += 1
        elif isinstance(outcome, CommitFailed):
            raise StoreUnavailable(
                "The delivery was refused by the store.", retry_after_seconds=RETRY_AFTER_SECONDS
            ) from outcome
        elif isinstance(outcome, MijraError):
            raise outcome
    return DeliveryReceipt(
        stored=counts["stored"],
        duplicates=counts["duplicate"],
        applied=counts["applied"],
        ignored=counts["ignored"],
        parked=parked,
        tenants=tenants,
    )
