"""The hub against a model log, under virtual time: nothing missed, nothing twice, nothing out of order."""

import random
from collections.abc import Sequence

import msgspec
import pytest
import trio
import trio.testing
from msgspec import structs
from prometheus_client import CollectorRegistry

from engine.errors import StoreUnavailable
from engine.ports import LoggedEvent
from gateway.metrics import Metrics
from gateway.push.codes import CloseCode
from gateway.push.frames import Encoder, NativeEncoder
from gateway.push.hub import Hub, ReplayLimits, RingLimits, Subscription
from gateway.push.queue import FrameQueue
from gateway.push.reassigned import Reassigned

TENANT = 1
GAP = {"type": "gap", "channel": "inbox", "refetch": ["conversations"]}


class ModelLog:
    """A log as the port describes it, with answers that take time and are true at some moment of it."""

    def __init__(self, chance: random.Random | None = None) -> None:
        self.events: list[LoggedEvent] = []
        self.dropped = 0  # cursors up to here are gone
        self.reads = 0
        self.failing = False
        self._chance = chance

    async def _pass_time(self) -> None:
        await trio.sleep(self._chance.choice((0, 0, 0.001, 0.05, 0.3)) if self._chance else 0.01)

    async def head(self, tenant_id: int) -> int:
        await self._pass_time()
        answer = len([event for event in self.events if event.tenant_id == tenant_id])
        await self._pass_time()
        return answer

    async def oldest(self, tenant_id: int) -> int:
        await self._pass_time()
        answer = self.dropped + 1
        await self._pass_time()
        return answer

    async def read(
        self, tenant_id: int, *, after: int, limit: int, channels: Sequence[str] | None = None
    ) -> Sequence[LoggedEvent]:
        await self._pass_time()
        if self.failing:
            raise StoreUnavailable("The model's database is away.")
        self.reads += 1
        answer = [
            event
            for event in self.events
            if event.tenant_id == tenant_id
            and event.cursor > max(after, self.dropped)
            and (channels is None or set(channels) & set(event.channels))
        ][:limit]
        await self._pass_time()
        return answer

    def append(self, *channels: str, tenant_id: int = TENANT, data: bytes = b"{}") -> LoggedEvent:
        cursor = 1 + len([event for event in self.events if event.tenant_id == tenant_id])
        event = LoggedEvent(
            tenant_id=tenant_id,
            cursor=cursor,
            name="message.received",
            channels=channels,
            data=data,
            trace=f"t{cursor}",
            at=1_772_355_600_123,
        )
        self.events.append(event)
        return event


class Client:
    """The far end of one connection: a subscriber of the hub whose reader takes its time."""

    def __init__(
        self,
        hub: Hub,
        nursery: trio.Nursery,
        *,
        bytes_max: int = 1 << 20,
        age_seconds_max: float = 1e9,
        tenant_id: int = TENANT,
        encoder: Encoder | None = None,
    ) -> None:
        self.hub = hub
        self.nursery = nursery
        self.tenant_id = tenant_id
        self.encoder: Encoder = encoder or NativeEncoder()
        self.code: CloseCode | None = None
        self.connection = FrameQueue(
            bytes_max=bytes_max, age_seconds_max=age_seconds_max, overflowed=self._closed
        )
        self.rechecks: list[int | None] = []
        self.channels: set[str] = set()

    def _closed(self, code: CloseCode) -> None:
        self.code = code

    def start_replay(self, subscription: Subscription) -> None:
        self.nursery.start_soon(self.hub.replay, subscription)

    def recheck(self, user_id: int | None = None) -> None:
        self.rechecks.append(user_id)

    def listens(self, channel: str) -> bool:
        return channel in self.channels

    async def listen(self, channel: str, since: int | None = None) -> Subscription:
        self.channels.add(channel)
        subscription = await self.hub.subscribe(self, channel, since, self.encoder)
        self.hub.resume(subscription)
        return subscription

    def frames(self) -> list[dict[str, object]]:
        """What waits, decoded; the queue is empty afterwards."""
        if not len(self.connection):
            return []
        taken: list[bytes] = []

        async def take() -> None:
            taken.extend(await self.connection.take())

        coroutine = take()
        with pytest.raises(StopIteration):  # frames wait, so it ends without a pause
            coroutine.send(None)
        return [msgspec.json.decode(frame) for frame in taken]

    def cursors(self) -> list[object]:
        return [frame["cursor"] for frame in self.frames() if frame["type"] == "event"]


def make_hub(log: ModelLog, *, ring: RingLimits | None = None, replays: ReplayLimits | None = None) -> Hub:
    return Hub(log, Metrics(CollectorRegistry()), ring=ring, replays=replays)


# ------------------------------------------------------------------ random histories


@pytest.mark.parametrize("seed", range(60))
async def test_a_subscription_sees_each_event_once_and_in_order_or_a_gap(
    seed: int, autojump_clock: trio.testing.MockClock
) -> None:
    """Whatever the interleaving of commits, announcements, reads, retention, rechecks, slow readers and
    lost connections: what a client got, with the gaps it was told of, is exactly the log after its start."""
    chance = random.Random(seed)
    log = ModelLog(chance)
    hub = make_hub(
        log,
        ring=RingLimits(
            events_max=chance.choice((1, 3, 10, 100)), total_bytes_max=chance.choice((900, 10**6))
        ),
        replays=ReplayLimits(
            page_events=chance.choice((1, 2, 7, 100)), distance_max=chance.choice((30, 10**6))
        ),
    )
    channels = ("inbox", "conversations.1", "conversations.2")
    writing = True

    async def write() -> None:
        nonlocal writing
        for _ in range(40):
            batch = [
                log.append(*chance.sample(channels, chance.randint(0, 3)))
                for _ in range(chance.randint(1, 4))
            ]
            await trio.sleep(chance.choice((0, 0, 0.001, 0.2)))  # committed, not announced yet
            if chance.random() > 0.05:  # else: its word is lost, as another process's may be
                hub.committed(batch)
            await trio.sleep(chance.choice((0, 0, 0.01, 0.1, 1)))
            if chance.random() < 0.1:
                log.dropped = max(log.dropped, chance.randint(0, len(log.events)))
        # The word of the last batches may be lost; the next event makes it good.
        hub.committed([log.append(*channels)])
        writing = False

    async def follow(channel: str) -> None:
        await trio.sleep(chance.choice((0, 0.1, 3)))
        # A client may have read ahead of what was announced, by the pull API; not ahead of the log.
        position: int | None = chance.choice((None, 0, min(5, len(log.events)), len(log.events)))
        covered: list[tuple[int, int]] = []  # (first, last) of gaps and of single events, as they came
        events: set[int] = set()
        start = -1
        while True:
            over = False
            async with trio.open_nursery() as nursery:
                client = Client(hub, nursery, bytes_max=chance.choice((400, 1200, 10**6)))
                await hub.join(client)
                subscription = await client.listen(channel, position)
                lifetime = trio.current_time() + chance.choice((0.05, 1, 10, 1000))
                while client.code is None and trio.current_time() < lifetime and not over:
                    for frame in client.frames():
                        kind = frame["type"]
                        if kind == "subscribed":
                            if position is None:
                                position = int(str(frame["cursor"]))
                            if start < 0:
                                start = position
                        elif kind == "event":
                            position = int(str(frame["cursor"]))
                            covered.append((position, position))
                            events.add(position)
                        else:
                            assert kind == "gap"
                            position = int(str(frame["to"]))
                            covered.append((int(str(frame["from"])), position))
                    if chance.random() < 0.2:
                        hub.pause(subscription)
                        await trio.sleep(chance.choice((0, 0.05)))
                        hub.resume(subscription)
                    over = not writing and subscription.live and not len(client.connection)
                    await trio.sleep(chance.choice((0.001, 0.01, 0.3)))
                hub.unsubscribe(subscription)
                hub.leave(client)
                nursery.cancel_scope.cancel()
            if over:
                break
        last = start
        for first, end in covered:
            assert first > last, f"twice or out of order: {covered}"
            assert end >= first
            last = end
        got = {cursor for first, end in covered for cursor in range(first, end + 1)}
        wanted = {event.cursor for event in log.events if channel in event.channels and event.cursor > start}
        assert wanted <= got, f"missed {sorted(wanted - got)} after {start}"
        assert events <= wanted, "an event of another channel"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        for _ in range(6):
            nursery.start_soon(follow, chance.choice(channels))
    assert hub.statistics().connections == 0
    assert hub.statistics().replaying == 0


# ------------------------------------------------------------------ one behaviour each


async def test_a_new_subscription_starts_at_the_head(autojump_clock: trio.testing.MockClock) -> None:
    """Without `since` the old is not sent; `subscribed` says from where on everything comes."""
    log = ModelLog()
    old = [log.append("inbox") for _ in range(3)]
    hub = make_hub(log)
    async with trio.open_nursery() as nursery:
        client = Client(hub, nursery)
        assert await hub.join(client) == 3
        await client.listen("inbox")
        hub.committed([log.append("inbox")])
        assert [(f["type"], f["cursor"]) for f in client.frames()] == [("subscribed", 3), ("event", 4)]
    assert old[0].cursor == 1


async def test_a_recent_resume_needs_no_database(autojump_clock: trio.testing.MockClock) -> None:
    """What the ring holds is replayed at once, in the same step that goes live."""
    log = ModelLog()
    hub = make_hub(log)
    hub.committed([log.append("inbox") for _ in range(5)])
    async with trio.open_nursery() as nursery:
        client = Client(hub, nursery)
        await hub.join(client)
        subscription = await client.listen("inbox", 2)
        assert subscription.live
        assert client.cursors() == [3, 4, 5]
    assert log.reads == 0


async def test_an_older_resume_reads_the_log_and_then_goes_live(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Beyond the ring's reach the log is read in pages; what is committed meanwhile is not lost."""
    log = ModelLog()
    hub = make_hub(log, ring=RingLimits(events_max=2), replays=ReplayLimits(page_events=3))
    hub.committed([log.append("inbox") for _ in range(8)])
    async with trio.open_nursery() as nursery:
        client = Client(hub, nursery)
        await hub.join(client)
        subscription = await client.listen("inbox", 0)
        assert hub.statistics().replaying == 1
        hub.committed([log.append("inbox") for _ in range(2)])
        await trio.sleep(1)
        assert subscription.live
        assert client.cursors() == list(range(1, 11))
    assert log.reads >= 3


async def test_what_retention_took_is_a_gap(autojump_clock: trio.testing.MockClock) -> None:
    """Cursors that are no longer held are named, and the rest follows."""
    log = ModelLog()
    for _ in range(6):
        log.append("inbox")
    log.dropped = 4
    hub = make_hub(log)
    async with trio.open_nursery() as nursery:
        client = Client(hub, nursery)
        await hub.join(client)
        await client.listen("inbox", 1)
        await trio.sleep(1)
        frames = client.frames()
        assert frames[1] == {**GAP, "from": 2, "to": 4}
        assert [frame["cursor"] for frame in frames[2:]] == [5, 6]


async def test_a_client_too_far_behind_is_told_to_refetch(autojump_clock: trio.testing.MockClock) -> None:
    """Beyond the replay distance one gap up to the head, without reading the log."""
    log = ModelLog()
    hub = make_hub(log, ring=RingLimits(events_max=2), replays=ReplayLimits(distance_max=10))
    hub.committed([log.append("inbox") for _ in range(30)])
    async with trio.open_nursery() as nursery:
        client = Client(hub, nursery)
        await hub.join(client)
        await client.listen("inbox", 3)
        await trio.sleep(1)
        assert client.frames()[1:] == [{**GAP, "from": 4, "to": 30}]
        hub.committed([log.append("inbox")])
        assert client.cursors() == [31]
    assert log.reads == 0


async def test_a_cursor_from_the_future_is_a_gap(autojump_clock: trio.testing.MockClock) -> None:
    """A cursor that this log never gave out (it was reset) is not waited for."""
    log = ModelLog()
    hub = make_hub(log)
    hub.committed([log.append("inbox")])
    async with trio.open_nursery() as nursery:
        client = Client(hub, nursery)
        await hub.join(client)
        await client.listen("inbox", 99)
        assert client.frames() == [
            {"type": "subscribed", "channel": "inbox", "cursor": 1},
            {**GAP, "from": 2, "to": 99},
        ]
        hub.committed([log.append("inbox")])
        assert client.cursors() == [2]


async def test_a_frame_is_encoded_once_for_all(autojump_clock: trio.testing.MockClock) -> None:
    """Every subscriber of a channel is given the very same bytes object."""
    calls = 0

    class Counting(NativeEncoder):
        def event(self, event: LoggedEvent, channel: str) -> bytes:
            nonlocal calls
            calls += 1
            return super().event(event, channel)

    log = ModelLog()
    hub = make_hub(log)
    async with trio.open_nursery() as nursery:
        clients = [Client(hub, nursery, encoder=Counting()) for _ in range(50)]
        for client in clients:
            await hub.join(client)
            await client.listen("inbox")
            await client.connection.take()
        hub.committed([log.append("inbox", "conversations.1")])
        taken = [(await client.connection.take())[0] for client in clients]
    assert calls == 1
    assert len({id(frame) for frame in taken}) == 1


async def test_tenants_do_not_hear_each_other(autojump_clock: trio.testing.MockClock) -> None:
    """The same channel name in another tenant is another channel, in a batch that holds both."""
    log = ModelLog()
    hub = make_hub(log)
    async with trio.open_nursery() as nursery:
        ours, theirs = Client(hub, nursery), Client(hub, nursery, tenant_id=2)
        for client in (ours, theirs):
            await hub.join(client)
            await client.listen("inbox")
        hub.committed(
            [log.append("inbox", data=b'"ours"'), log.append("inbox", tenant_id=2, data=b'"theirs"')]
        )
        assert [frame["data"] for frame in ours.frames()[1:]] == ["ours"]
        assert [frame["data"] for frame in theirs.frames()[1:]] == ["theirs"]


async def test_a_reader_that_is_too_slow_is_cut_off_and_can_resume(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Over the bytes the connection ends with the code that says resume; its brothers notice nothing."""
    log = ModelLog()
    hub = make_hub(log)
    async with trio.open_nursery() as nursery:
        slow, quick = Client(hub, nursery, bytes_max=1500), Client(hub, nursery)
        for client in (slow, quick):
            await hub.join(client)
            await client.listen("inbox")
        for _ in range(20):
            hub.committed([log.append("inbox")])
        assert slow.code is CloseCode.SLOW_BYTES
        assert slow.code.comes_back
        assert quick.cursors() == list(range(1, 21))
        hub.leave(slow)
        again = Client(hub, nursery)
        await hub.join(again)
        await again.listen("inbox", 0)
        assert again.cursors() == list(range(1, 21))


async def test_a_reader_that_stopped_is_cut_off_by_age(autojump_clock: trio.testing.MockClock) -> None:
    """Few bytes that nobody reads for long end the connection too."""
    log = ModelLog()
    hub = make_hub(log)
    async with trio.open_nursery() as nursery:
        client = Client(hub, nursery, age_seconds_max=15)
        await hub.join(client)
        await client.listen("inbox")
        hub.committed([log.append("inbox")])
        await trio.sleep(14)
        hub.committed([log.append("inbox")])
        assert client.code is None
        await trio.sleep(2)
        hub.committed([log.append("inbox")])
        assert client.code is CloseCode.SLOW_AGE


async def test_a_paused_subscription_hears_nothing_and_misses_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Between pause and resume nothing is queued, not even by a replay that was under way."""
    log = ModelLog()
    hub = make_hub(log, ring=RingLimits(events_max=1))
    hub.committed([log.append("inbox") for _ in range(5)])
    async with trio.open_nursery() as nursery:
        client = Client(hub, nursery)
        await hub.join(client)
        subscription = await client.listen("inbox", 0)
        hub.pause(subscription)
        await trio.sleep(1)
        hub.committed([log.append("inbox")])
        assert client.cursors() == []
        hub.resume(subscription)
        await trio.sleep(1)
        assert client.cursors() == [1, 2, 3, 4, 5, 6]
        hub.pause(subscription)
        hub.committed([log.append("inbox"), log.append("inbox")])
        assert client.cursors() == []
        hub.resume(subscription)
        await trio.sleep(1)
        assert client.cursors() == [7, 8]


async def test_memory_is_bounded_over_all_tenants(autojump_clock: trio.testing.MockClock) -> None:
    """Over the total, the rings of those who were quiet for longest go; who is gone wholly is forgotten."""
    log = ModelLog()
    hub = make_hub(log, ring=RingLimits(total_bytes_max=20_000))
    for tenant_id in range(1, 101):
        hub.committed([log.append("inbox", tenant_id=tenant_id) for _ in range(5)])
    statistics = hub.statistics()
    assert statistics.ring_bytes <= 20_000
    assert 0 < statistics.tenants < 20
    async with trio.open_nursery() as nursery:
        client = Client(hub, nursery, tenant_id=1)
        await hub.join(client)
        await client.listen("inbox", 2)
        await trio.sleep(1)
        assert client.cursors() == [3, 4, 5]


async def test_a_replay_without_a_database_fails_and_keeps_its_place(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """StoreUnavailable reaches the connection that runs the replay; the position has not moved."""
    log = ModelLog()
    for _ in range(3):
        log.append("inbox")
    log.failing = True
    hub = make_hub(log)
    listened: list[Subscription] = []
    with pytest.RaisesGroup(StoreUnavailable):
        async with trio.open_nursery() as nursery:
            client = Client(hub, nursery)
            await hub.join(client)
            listened.append(await client.listen("inbox", 1))
    assert [(subscription.position, subscription.live) for subscription in listened] == [(1, False)]
    assert hub.statistics().replaying == 0


async def test_a_recheck_reaches_the_tenant_and_says_whom_it_is_about(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Each connection of the tenant knows by itself whose it is."""
    log = ModelLog()
    hub = make_hub(log)
    async with trio.open_nursery() as nursery:
        ours, stranger = Client(hub, nursery), Client(hub, nursery, tenant_id=2)
        for client in (ours, stranger):
            await hub.join(client)
        hub.recheck(TENANT, 7)
        hub.recheck(TENANT)
        assert (ours.rechecks, stranger.rechecks) == ([7, None], [])


async def test_a_reassignment_makes_those_ask_again_who_listen_to_the_conversation(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Its channel and its presence channel; other conversations and other events are left in peace."""
    log = ModelLog()
    hub = make_hub(log)
    watch = Reassigned(hub)
    async with trio.open_nursery() as nursery:
        listener, viewer, other = (Client(hub, nursery) for _ in range(3))
        for client, channel in (
            (listener, "conversations.42"),
            (viewer, "presence-conversations.42"),
            (other, "conversations.43"),
        ):
            await hub.join(client)
            await client.listen(channel)
        event = log.append("inbox", "conversations.42")

        watch.committed([event])
        assert [len(client.rechecks) for client in (listener, viewer, other)] == [0, 0, 0]
        watch.committed([structs.replace(event, name="conversation.transferred")])
        assert [len(client.rechecks) for client in (listener, viewer, other)] == [1, 1, 0]


def test_an_event_frame_is_json_with_the_public_members() -> None:
    """Names that need escaping are escaped, the data is passed on as it is, the time is RFC 3339."""
    log = ModelLog()
    event = msgspec.structs.replace(
        log.append("inbox", data='{"text":"مرحبا"}'.encode()), name='odd"name', trace="a\\b"
    )
    assert msgspec.json.decode(NativeEncoder().event(event, "inbox")) == {
        "type": "event",
        "cursor": 1,
        "channel": "inbox",
        "name": 'odd"name',
        "data": {"text": "مرحبا"},
        "trace": "a\\b",
        "at": "2026-03-01T09:00:00.123Z",
    }
