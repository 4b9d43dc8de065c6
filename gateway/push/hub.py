"""The hub: committed events on their way to everybody who listens.

Owns       per tenant a ring of its newest events and who is subscribed to what.
Limits     the ring by count and bytes per tenant and by bytes in all (see `RingLimits`); replays from the
           log by number at once and by distance. The hub waits for nobody: a subscriber that has no room is
           cut off by its own connection.
Promises   On each subscription every event of the channel with a cursor above the one in `subscribed`
           arrives once and in cursor order, or a gap names the cursors that do not.
Restart    nothing is lost: rings are refilled by what is committed next, subscribers resume from the log.

The hub is a hint, the log is the truth. Why no event is missed, doubled or out of order:

A subscription has a `position`: the hub has handed over, skipped as another channel's, or declared as gap
every cursor up to it. Only two things move it, and never both at once:

1.  *Live*: `committed` hands it each event of its channel above its position. `committed` is synchronous
    and sees each tenant's events in cursor order without holes.
2.  *Replaying*: `replay` moves it forward, from the ring if the ring reaches back to the position, from
    the log if not. Meanwhile `committed` passes it by, so what happens in the meantime is not queued
    anywhere: it is found by the next look into the ring or the log.

The step from 2 to 1 is taken in one go, without a checkpoint, at a moment at which the position has reached
the newest cursor that `committed` has announced. So no event can fall between the two.

A page from the log says less than it seems, in both directions. It may end before the newest event although
it was not full, since others are committed while it is read; therefore a page that was not full moves the
position to the head *announced before the read*, or to its own last event if that is further. (Events are
announced after their commit, so that a read begun after an announcement sees them.) And it may hold events
that are committed but not announced yet; therefore a live subscription ignores what is not above its
position. It can also miss events whose partition was dropped by retention in the middle of the replay;
therefore the oldest cursor still held is asked for *after* each page: if it is not above the position + 1,
nothing that the page should have held was gone when it was read. If it is, the difference is declared a gap.

If a hole appears in what is announced (another process committed, and its word was lost), the ring starts
anew behind the hole and live subscriptions go back to replaying. The same road serves a rights check: a
subscription is paused, checked, and replays what it did not see meanwhile.
"""

from collections import OrderedDict, deque
from collections.abc import Sequence
from itertools import groupby, islice
from typing import Final, Protocol

import msgspec
import structlog
import trio
from msgspec import Struct

from engine.ports import EventLog, LoggedEvent
from gateway.metrics import Metrics
from gateway.push.connection import Outlet
from gateway.push.frames import Encoder

_log = structlog.get_logger()

EVENT_OVERHEAD_BYTES: Final = 400
"""What a LoggedEvent with its strings costs beside its data (measured 350 to 450 with two channels)."""

TRACES_LOGGED_MAX: Final = 64
"""A batch of the writer holds some dozens of events; a line with more traces than this is no longer read."""


class RingLimits(Struct, frozen=True, kw_only=True):
    """What is held of the past in memory.

    A reconnect after a network change takes seconds, so a thousand events per tenant answer nearly all
    resumes without the database; the bytes bound tenants with large events, and the total bounds ten
    thousand tenants that are each busy once. What is not held is read from the log.
    """

    events_max: int = 1_000
    bytes_max: int = 2 * 1024 * 1024
    total_bytes_max: int = 64 * 1024 * 1024


class ReplayLimits(Struct, frozen=True, kw_only=True):
    """`at_once_max` reads of the log run at a time: after a restart all clients resume at once, and they
    must not take the connections that messages need. `page_events` keeps a page's answer under a megabyte
    or so. A client more than `distance_max` cursors behind is told to refetch: that is cheaper for
    everybody than replaying what it would fold into a handful of rows."""

    at_once_max: int = 4
    page_events: int = 500
    distance_max: int = 50_000


class Subscriber(Protocol):
    """A connection as the hub sees it."""

    @property
    def tenant_id(self) -> int: ...

    @property
    def connection(self) -> Outlet: ...

    def start_replay(self, subscription: "Subscription") -> None:
        """Runs `Hub.replay` in the connection's own nursery. Must not block."""
        ...

    def listens(self, channel: str) -> bool:
        """Whether it has a subscription to the channel, live or not yet."""
        ...

    def recheck(self, user_id: int | None = None) -> None:
        """The rights of this user (or of anybody) may have changed: pause, ask again, go on or end. Must not
        block."""
        ...


class Subscription:
    """One channel for one connection. Made by `Hub.subscribe`, ended by `Hub.unsubscribe`."""

    __slots__ = ("acked", "channel", "encoder", "live", "paused", "position", "replaying", "subscriber")

    def __init__(self, subscriber: Subscriber, channel: str, position: int, encoder: Encoder) -> None:
        self.subscriber = subscriber
        self.channel = channel
        self.encoder = encoder
        self.position = position
        self.acked = position
        self.live = False
        self.replaying = False  # a task is in `Hub.replay` for it
        self.paused = True  # nothing may be handed over, not even by that task

    def may_deliver(self) -> bool:
        return not self.paused


class _Tenant:
    """A tenant's ring holds exactly the events with cursors in (floor, last]."""

    __slots__ = ("floor", "last", "live", "members", "presence", "ring", "ring_bytes")

    def __init__(self, head: int) -> None:
        self.floor = head
        self.last = head
        self.ring: deque[LoggedEvent] = deque()
        self.ring_bytes = 0
        self.live: dict[str, dict[Subscription, None]] = {}  # insertion-ordered sets: fan-out is first come
        self.members: dict[Subscriber, None] = {}

    def after(self, position: int) -> Sequence[LoggedEvent]:
        """The ring's events above `position`, which must not be below the floor."""
        return list(islice(self.ring, position - self.floor, None))


class HubStatistics(Struct, frozen=True, kw_only=True):
    tenants: int
    connections: int
    ring_events: int
    ring_bytes: int
    replaying: int


class Hub:
    """The one EventSink of a process. All methods belong to the trio thread."""

    def __init__(
        self,
        log: EventLog,
        metrics: Metrics,
        *,
        ring: RingLimits | None = None,
        replays: ReplayLimits | None = None,
    ) -> None:
        self._event_log = log
        self._metrics = metrics
        self._ring = ring or RingLimits()
        self._replays = replays or ReplayLimits()
        self._reading = trio.CapacityLimiter(self._replays.at_once_max)
        self._tenants: OrderedDict[int, _Tenant] = OrderedDict()  # the longest without an event first
        self._ring_bytes = 0
        self._replaying = 0

    # -------------------------------------------------------------- what is committed

    def committed(self, events: Sequence[LoggedEvent]) -> None:
        """Hands each event to its live subscribers and keeps it in the ring. Never blocks, never raises
        because of a subscriber."""
        frames = 0
        for tenant_id, group in groupby(events, key=lambda event: event.tenant_id):
            tenant = self._tenants.get(tenant_id)
            for event in group:
                if tenant is None:
                    tenant = self._tenants[tenant_id] = _Tenant(event.cursor - 1)
                if event.cursor <= tenant.last:
                    continue  # seen in the log before it was announced; whoever needs it reads it there
                if event.cursor > tenant.last + 1:
                    self._pass_hole(tenant_id, tenant, event.cursor - 1)
                self._keep(tenant, event)
                frames += self._fan_out(tenant, event)
            self._tenants.move_to_end(tenant_id)
        self._shrink()
        if events:
            self._metrics.push_events.inc(len(events))
            self._metrics.push_frames.inc(frames)
            traces = list(dict.fromkeys(event.trace for event in events))
            _log.info("push.published", events=len(events), frames=frames, traces=traces[:TRACES_LOGGED_MAX])

    def _keep(self, tenant: _Tenant, event: LoggedEvent) -> None:
        if event.local is not None:  # an in-process object (a whole configuration) that no client reads
            event = msgspec.structs.replace(event, local=None)
        tenant.ring.append(event)
        tenant.last = event.cursor
        size = _size(event)
        tenant.ring_bytes += size
        self._ring_bytes += size
        limits = self._ring
        while len(tenant.ring) > limits.events_max or tenant.ring_bytes > limits.bytes_max:
            oldest = tenant.ring.popleft()
            tenant.floor = oldest.cursor
            size = _size(oldest)
            tenant.ring_bytes -= size
            self._ring_bytes -= size

    def _fan_out(self, tenant: _Tenant, event: LoggedEvent) -> int:
        sent = 0
        for channel in event.channels:
            listening = tenant.live.get(channel)
            if not listening:
                continue
            shared: dict[str, bytes] = {}
            # A copy: whoever overflows is unsubscribed from within the loop.
            for subscription in list(listening):
                if event.cursor <= subscription.position or not subscription.live:
                    continue
                subscription.position = event.cursor
                encoder = subscription.encoder
                frame = shared.get(encoder.protocol)
                if frame is None:
                    frame = shared[encoder.protocol] = encoder.event(event, channel)
                sent += subscription.subscriber.connection.offer(frame)
        return sent

    def _pass_hole(self, tenant_id: int, tenant: _Tenant, floor: int) -> None:
        _log.warning("push.hole", tenant=tenant_id, after=tenant.last, before=floor + 1)
        live = [subscription for listening in tenant.live.values() for subscription in listening]
        for subscription in live:
            self.pause(subscription)  # their positions are on this side of the hole
        self._drop_ring(tenant)
        tenant.floor = tenant.last = floor
        for subscription in live:
            self.resume(subscription)

    def _shrink(self) -> None:
        """Empties the rings of the tenants that were quiet for longest. Goes a quarter below the limit, so
        that a process that lives at it does not walk its tenants at every batch."""
        if self._ring_bytes <= self._ring.total_bytes_max:
            return
        target = self._ring.total_bytes_max * 3 // 4
        for tenant_id, tenant in list(self._tenants.items()):
            self._drop_ring(tenant)
            self._forget_if_idle(tenant_id, tenant)
            if self._ring_bytes <= target:
                return

    def _drop_ring(self, tenant: _Tenant) -> None:
        self._ring_bytes -= tenant.ring_bytes
        tenant.ring.clear()
        tenant.ring_bytes = 0
        tenant.floor = tenant.last

    def _forget_if_idle(self, tenant_id: int, tenant: _Tenant) -> None:
        if not tenant.ring and not tenant.members and self._tenants.get(tenant_id) is tenant:
            del self._tenants[tenant_id]

    # -------------------------------------------------------------- connections

    async def join(self, subscriber: Subscriber) -> int:
        """Registers the connection; returns the head of its tenant's log. Cancelled or failed: as if it had
        not been called. Raises StoreUnavailable."""
        tenant_id = subscriber.tenant_id
        if tenant_id not in self._tenants:
            head = await self._event_log.head(tenant_id)
            # What was announced during the read has set up the tenant with a better `last`: one that the
            # ring agrees with.
            self._tenants.setdefault(tenant_id, _Tenant(head))
        tenant = self._tenants[tenant_id]
        tenant.members[subscriber] = None
        self._metrics.push_connections.inc()
        return tenant.last

    def leave(self, subscriber: Subscriber) -> None:
        """Forgets the connection; its subscriptions must have been ended before. Idempotent."""
        tenant = self._tenants.get(subscriber.tenant_id)
        if tenant is None or subscriber not in tenant.members:
            return
        del tenant.members[subscriber]
        self._metrics.push_connections.dec()
        self._forget_if_idle(subscriber.tenant_id, tenant)

    def connections(self, tenant_id: int) -> int:
        tenant = self._tenants.get(tenant_id)
        return len(tenant.members) if tenant else 0

    def recheck(self, tenant_id: int, user_id: int | None = None) -> None:
        """Roles, assignments or tokens changed: every connection of the user (or, without one, of the
        tenant) asks again what it may hear, and hears nothing until that is answered."""
        tenant = self._tenants.get(tenant_id)
        for subscriber in list(tenant.members) if tenant else ():
            subscriber.recheck(user_id)

    def recheck_channel(self, tenant_id: int, channel: str) -> None:
        """As recheck, for the connections that listen to this channel (or wait to)."""
        tenant = self._tenants.get(tenant_id)
        for subscriber in list(tenant.members) if tenant else ():
            if subscriber.listens(channel):
                subscriber.recheck()

    # -------------------------------------------------------------- subscriptions

    async def subscribe(
        self, subscriber: Subscriber, channel: str, since: int | None, encoder: Encoder
    ) -> Subscription:
        """Says `subscribed` to the client; what comes after `since`, or from now on, starts with `resume`.

        The caller has joined, has checked the right to listen, and calls `resume` at once unless that right
        has come into doubt meanwhile. A `since` beyond the head (the log was reset, or it is not ours) is
        answered by a gap and the head. Raises StoreUnavailable; then nothing was subscribed.
        """
        tenant = self._tenants[subscriber.tenant_id]
        beyond: int | None = None
        if since is not None and since > tenant.last:
            # The pull API reads the log and may be ahead of what was announced here.
            head = max(await self._event_log.head(subscriber.tenant_id), tenant.last)
            if since > head:
                beyond = since
                since = head
        position = tenant.last if since is None else max(0, since)
        subscription = Subscription(subscriber, channel, position, encoder)
        subscribed = encoder.subscribed(channel, position)
        if subscribed is not None:
            subscriber.connection.offer(subscribed)
        if beyond is not None:
            subscriber.connection.offer(encoder.gap(channel, position + 1, beyond))
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Nothing more is queued for it. Idempotent."""
        self.pause(subscription)

    def pause(self, subscription: Subscription) -> None:
        """Stops delivering at once; the position stays. `resume` goes on from there."""
        subscription.paused = True
        if not subscription.live:
            return
        subscription.live = False
        tenant = self._tenants[subscription.subscriber.tenant_id]
        subscription.position = max(subscription.position, tenant.last)
        listening = tenant.live[subscription.channel]
        del listening[subscription]
        if not listening:
            del tenant.live[subscription.channel]

    def resume(self, subscription: Subscription) -> None:
        """Goes live at once if the ring can bridge to now, and otherwise has the connection replay."""
        subscription.paused = False
        if subscription.live or subscription.replaying or self._catch_up(subscription):
            return
        subscription.replaying = True
        self._replaying += 1
        subscription.subscriber.start_replay(subscription)

    async def replay(self, subscription: Subscription) -> None:
        """Brings a subscription from its position to live, at the pace of its reader.

        Run by the connection, in a task of its own, whenever `start_replay` asks for it; returns early when
        the subscription is paused. Cancelled: the subscription stays where it was. Raises StoreUnavailable.
        """
        outlet = subscription.subscriber.connection
        try:
            while True:
                await outlet.wait_room()
                if not subscription.may_deliver() or self._catch_up(subscription):
                    return
                if outlet.has_room():  # so it was the ring that does not reach back far enough
                    await self._replay_page(subscription)
        finally:
            subscription.replaying = False
            self._replaying -= 1

    def _catch_up(self, subscription: Subscription) -> bool:
        """From the ring to live, in one step without a checkpoint. False: the ring does not reach back far
        enough, or the queue has no room for all; the position is then as far as it came."""
        subscriber = subscription.subscriber
        tenant = self._tenants[subscriber.tenant_id]
        if subscription.position < tenant.floor:
            return False
        if subscription.position < tenant.last:
            for event in tenant.after(subscription.position):
                if not subscriber.connection.has_room():
                    return False
                if subscription.channel in event.channels:
                    subscriber.connection.offer(subscription.encoder.event(event, subscription.channel))
                subscription.position = event.cursor
        subscription.live = True
        tenant.live.setdefault(subscription.channel, {})[subscription] = None
        return True

    async def _replay_page(self, subscription: Subscription) -> None:
        subscriber = subscription.subscriber
        tenant_id = subscriber.tenant_id
        page_max = self._replays.page_events
        # Held for the reads alone: a slow reader must not keep others from the database.
        async with self._reading:
            announced = self._tenants[tenant_id].last
            after = subscription.position
            if announced - after > self._replays.distance_max:
                page, oldest = [], announced + 1
            else:
                page = list(
                    await self._event_log.read(
                        tenant_id, after=after, limit=page_max, channels=(subscription.channel,)
                    )
                )
                oldest = await self._event_log.oldest(tenant_id)
        if not subscription.may_deliver():
            return
        if oldest > after + 1:
            self._declare_gap(subscription, oldest - 1)
        for event in page:
            if event.cursor <= subscription.position:
                continue
            await subscriber.connection.wait_room()
            if not subscription.may_deliver():
                return
            subscriber.connection.offer(subscription.encoder.event(event, subscription.channel))
            subscription.position = event.cursor
        if len(page) < page_max:
            subscription.position = max(subscription.position, announced)

    def _declare_gap(self, subscription: Subscription, last: int) -> None:
        first = subscription.position + 1
        subscription.position = last
        subscription.subscriber.connection.offer(subscription.encoder.gap(subscription.channel, first, last))
        self._metrics.push_gaps.inc()

    def statistics(self) -> HubStatistics:
        return HubStatistics(
            tenants=len(self._tenants),
            connections=sum(len(tenant.members) for tenant in self._tenants.values()),
            ring_events=sum(len(tenant.ring) for tenant in self._tenants.values()),
            ring_bytes=self._ring_bytes,
            replaying=self._replaying,
        )


def _size(event: LoggedEvent) -> int:
    return EVENT_OVERHEAD_BYTES + len(event.data)
