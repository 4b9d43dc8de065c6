"""The native protocol: sessions under virtual time, then the route over real sockets."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio
import trio.lowlevel
import trio.testing
from prometheus_client import CollectorRegistry
from quart_trio import QuartTrio
from structlog.testing import capture_logs
from trio_websocket import ConnectionClosed, WebSocketConnection, open_websocket_url

from engine.errors import Forbidden, MijraError, StoreUnavailable, Unauthenticated
from gateway.lane.push.lane import PushLane
from gateway.lane.push.socket import SocketLimits
from gateway.metrics import Metrics
from gateway.push.codes import CloseCode, close_code_of
from gateway.push.connection import Peer
from gateway.push.hub import Hub, RingLimits
from gateway.push.protocol import is_channel
from gateway.push.queued import QueuedConnection
from gateway.push.session import SessionLimits, Sessions, Viewer
from gateway.routes import push_blueprint
from gateway.serving import ServingLimits, serve
from tests.gateway.test_hub import TENANT, ModelLog

Message = dict[str, Any]
AUTH: Message = {"type": "auth", "token": "1|good"}


class House:
    """A hub with sessions, and the two things that decide about them: tokens and rights."""

    def __init__(
        self,
        *,
        limits: SessionLimits | None = None,
        ring: RingLimits | None = None,
        origins: tuple[str, ...] = ("*",),
    ) -> None:
        self.log = ModelLog()
        self.metrics = Metrics(CollectorRegistry())
        self.hub = Hub(self.log, self.metrics, ring=ring)
        self.tokens = {"1|good": 7, "2|good": 8}
        self.forbidden: set[str] = set()
        self.auth_error: MijraError | None = None
        self.rights_error: Exception | None = None
        self.rights_held: trio.Event | None = None
        self.sessions = Sessions(
            self.hub,
            self.metrics,
            authenticate=self._authenticate,
            may_subscribe=self._may_subscribe,
            epoch_of=self._epoch_of,
            origins=origins,
            limits=limits,
        )

    async def _authenticate(self, token: str, tenant: str | None) -> Viewer:
        await trio.lowlevel.checkpoint()
        if self.auth_error is not None:
            raise self.auth_error
        if token not in self.tokens:
            raise Unauthenticated("No such token.")
        if tenant not in (None, "acme"):
            raise Forbidden("Not your tenant.")
        user_id = self.tokens[token]
        return Viewer(tenant_id=TENANT, user_id=user_id, name=f"Agent {user_id}")

    async def _may_subscribe(self, viewer: Viewer, channel: str) -> bool:
        answer = channel not in self.forbidden  # as it was when asked
        await trio.lowlevel.checkpoint()
        if self.rights_held is not None:
            await self.rights_held.wait()
        if self.rights_error is not None:
            raise self.rights_error
        return answer

    async def _epoch_of(self, tenant_id: int) -> str:
        return f"epoch-{tenant_id}"

    def commit(self, *channels: str) -> int:
        event = self.log.append(*channels)
        self.hub.committed([event])
        return event.cursor

    def nobody_is_left(self) -> bool:
        statistics = self.hub.statistics()
        tenants = self.hub._tenants.values()
        listening = any(tenant.live or tenant.presence for tenant in tenants)
        return not (statistics.connections or statistics.replaying or len(self.sessions) or listening)


class Client:
    """The client's end of a session, without a network."""

    def __init__(self, house: House) -> None:
        self.house = house
        self._to_session, self._from_client = trio.open_memory_channel[str](100)
        self.sent: list[Message] = []
        self.code: CloseCode | None = None
        self.reading = True
        self._go_on = trio.Event()

    async def run(self) -> None:
        connection = QueuedConnection(
            self.house.sessions, Peer(path="/ws"), self._from_client.receive, self._send
        )
        ending = await connection.run()
        self.code = None if ending is None else CloseCode(ending.code)

    async def _send(self, frame: bytes) -> None:
        await trio.lowlevel.checkpoint()
        if not self.reading:
            await self._go_on.wait()
        self.sent.append(msgspec.json.decode(frame))

    async def say(self, *messages: Message | str) -> list[Message]:
        """Sends, and returns what came back until everything is quiet."""
        for message in messages:
            text = message if isinstance(message, str) else msgspec.json.encode(message).decode()
            await self._to_session.send(text)
        return await self.heard()

    async def heard(self) -> list[Message]:
        await trio.testing.wait_all_tasks_blocked(0.001)
        await trio.sleep(0.1)  # the model log's answers take hundredths
        await trio.testing.wait_all_tasks_blocked(0.001)
        taken, self.sent = self.sent, []
        return taken


@asynccontextmanager
async def connected(house: House, *auths: Message) -> AsyncIterator[list[Client]]:
    """Peers that have said their auth message and heard the welcome."""
    async with trio.open_nursery() as nursery:
        peers = []
        for auth in auths or (AUTH,):
            peer = Client(house)
            nursery.start_soon(peer.run)
            (welcome,) = await peer.say(auth)
            assert welcome["type"] == "welcome"
            peers.append(peer)
        yield peers
        nursery.cancel_scope.cancel()
    assert house.nobody_is_left()


async def end_of(house: House, *messages: Message | str) -> tuple[CloseCode | None, list[Message]]:
    """How a connection ends that says this and then waits."""
    peer = Client(house)
    heard: list[Message] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.run)
        for message in messages:
            heard += await peer.say(message)
        with trio.move_on_after(1000):
            while peer.code is None:  # noqa: ASYNC110  # virtual time
                await trio.sleep(0.1)
        heard += await peer.heard()
        nursery.cancel_scope.cancel()
    assert house.nobody_is_left()
    return peer.code, heard


# ------------------------------------------------------------------ coming in


async def test_a_good_token_is_welcomed(autojump_clock: trio.testing.MockClock) -> None:
    """The welcome tells the log's epoch and head, who one is, and how long one may be silent."""
    house = House()
    house.commit("inbox")
    async with trio.open_nursery() as nursery:
        peer = Client(house)
        nursery.start_soon(peer.run)
        (welcome,) = await peer.say({**AUTH, "tenant": "acme", "later_member": 1})
        assert len(welcome.pop("session")) == 16
        assert welcome == {
            "type": "welcome",
            "epoch": "epoch-1",
            "cursor": 1,
            "user_id": 7,
            "silence_seconds_max": 75.0,
        }
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("first", "code"),
    [
        ({"type": "auth", "token": "bad"}, CloseCode.UNAUTHENTICATED),
        ({"type": "ping"}, CloseCode.UNAUTHENTICATED),
        ({**AUTH, "tenant": "other"}, CloseCode.FORBIDDEN),
        ({"type": "auth"}, CloseCode.BAD_MESSAGE),
        ({"type": "auth", "token": 5}, CloseCode.BAD_MESSAGE),
        ({"type": "nonsense"}, CloseCode.BAD_MESSAGE),
        ("{", CloseCode.BAD_MESSAGE),
        ("", CloseCode.BAD_MESSAGE),
        ("[" * 5_000, CloseCode.BAD_MESSAGE),
        ("\ud800", CloseCode.BAD_MESSAGE),
        ('{"type":"auth","token":"' + "x" * 9_000 + '"}', CloseCode.BAD_MESSAGE),
    ],
    ids=range(11),
)
async def test_whoever_does_not_say_who_he_is_does_not_get_in(
    first: Message | str, code: CloseCode, autojump_clock: trio.testing.MockClock
) -> None:
    """Each refusal has its code, all of them of the range that says not to come back unchanged."""
    given: Message | str = first
    ended, heard = await end_of(House(), given)
    assert (ended, heard) == (code, [])
    assert not code.comes_back


async def test_silence_before_auth_ends_soon(autojump_clock: trio.testing.MockClock) -> None:
    """Ten seconds, so that empty connections cost little."""
    ended, _ = await end_of(House())
    assert ended is CloseCode.AUTH_TIMEOUT
    assert trio.current_time() < 15


async def test_a_store_that_is_away_says_come_back_later(autojump_clock: trio.testing.MockClock) -> None:
    """An outage is not a bad token."""
    house = House()
    house.auth_error = StoreUnavailable("away")
    ended, _ = await end_of(house, AUTH)
    assert ended is CloseCode.UNAVAILABLE


async def test_a_tenant_has_a_limit_of_connections(autojump_clock: trio.testing.MockClock) -> None:
    """The one over the limit is refused with a code to come back; when one leaves there is room."""
    house = House(limits=SessionLimits(connections_per_tenant_max=1))
    async with connected(house):
        late = Client(house)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(late.run)
            await late.say(AUTH)
        assert late.code is CloseCode.OVER_CAPACITY
    async with connected(house):
        pass


async def test_a_silent_client_is_let_go_and_a_ping_keeps_it(autojump_clock: trio.testing.MockClock) -> None:
    """75 s without a word end it; a ping every minute does not."""
    house = House()
    async with connected(house) as (peer,):
        for _ in range(5):
            await trio.sleep(60)
            assert await peer.say({"type": "ping"}) == [{"type": "pong"}]
        await trio.sleep(80)
        assert peer.code is CloseCode.SILENT


async def test_a_flood_of_messages_ends_the_connection(autojump_clock: trio.testing.MockClock) -> None:
    """The burst is allowed, what is beyond it closes with a code to come back later."""
    house = House(limits=SessionLimits(messages_burst=5, messages_per_second=1))
    async with connected(house) as (peer,):
        assert len(await peer.say(*[{"type": "ping"}] * 5)) == 5
        await trio.sleep(10)
        assert len(await peer.say(*[{"type": "ping"}] * 5)) == 5
        await peer.say({"type": "ping"})
        assert peer.code is CloseCode.RATE_LIMITED


async def test_a_message_that_is_not_understood_ends_the_connection(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Later messages are judged like the first."""
    ended, _ = await end_of(House(), AUTH, {"type": "subscribe", "channel": 5})
    assert ended is CloseCode.BAD_MESSAGE


async def test_a_defect_closes_one_session_and_is_logged(autojump_clock: trio.testing.MockClock) -> None:
    """The client hears 'internal' and may come back; the log has the traceback."""
    house = House()
    house.rights_error = RuntimeError("a bug")
    with capture_logs() as lines:
        ended, _ = await end_of(house, AUTH, {"type": "subscribe", "channel": "inbox"})
    assert ended is CloseCode.INTERNAL
    assert [line["event"] for line in lines if line["log_level"] == "error"] == ["push.crashed"]


# ------------------------------------------------------------------ listening


async def test_events_of_a_channel_arrive_as_they_are_committed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """`subscribed` first, then each event of the channel and none of another."""
    house = House()
    async with connected(house) as (peer,):
        heard = await peer.say({"type": "subscribe", "channel": "conversations.5"})
        assert heard == [{"type": "subscribed", "channel": "conversations.5", "cursor": 0}]
        house.commit("inbox")
        house.commit("conversations.5", "inbox")
        (event,) = await peer.heard()
        assert (event["type"], event["cursor"], event["channel"], event["name"], event["data"]) == (
            "event",
            2,
            "conversations.5",
            "message.received",
            {},
        )
        await peer.say({"type": "unsubscribe", "channel": "conversations.5"})
        house.commit("conversations.5")
        assert await peer.heard() == []


async def test_a_client_that_comes_back_misses_nothing(autojump_clock: trio.testing.MockClock) -> None:
    """With its last cursor it gets the rest, from the log where the ring has let go of it."""
    house = House(ring=RingLimits(events_max=2))
    async with connected(house) as (peer,):
        await peer.say({"type": "subscribe", "channel": "inbox"})
        house.commit("inbox")
        assert [event["cursor"] for event in await peer.heard()] == [1]
    for _ in range(6):
        house.commit("inbox")
    async with connected(house) as (peer,):
        heard = await peer.say({"type": "subscribe", "channel": "inbox", "since": 1})
        assert [event["cursor"] for event in heard[1:]] == [2, 3, 4, 5, 6, 7]
        house.commit("inbox")
        assert [event["cursor"] for event in await peer.heard()] == [8]


async def test_subscribing_again_starts_anew(autojump_clock: trio.testing.MockClock) -> None:
    """A second subscribe replaces the first: events come once, from the new cursor on."""
    house = House()
    async with connected(house) as (peer,):
        await peer.say({"type": "subscribe", "channel": "inbox"})
        house.commit("inbox")
        heard = await peer.say({"type": "subscribe", "channel": "inbox", "since": 0})
        assert [message["type"] for message in heard] == ["event", "subscribed", "event"]
        house.commit("inbox")
        assert [event["cursor"] for event in await peer.heard()] == [2]


async def test_what_may_not_be_heard_is_refused_and_the_connection_goes_on(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Forbidden, unknown and too many channels: an error with a code, and nothing else happens."""
    house = House(limits=SessionLimits(subscriptions_max=1))
    house.forbidden.add("inbox")
    async with connected(house) as (peer,):
        (error,) = await peer.say({"type": "subscribe", "channel": "inbox"})
        assert (error["type"], error["code"], error["channel"]) == ("error", "forbidden", "inbox")
        (error,) = await peer.say({"type": "subscribe", "channel": "secrets.1"})
        assert error["code"] == "not_found"
        await peer.say({"type": "subscribe", "channel": "conversations.1"})
        (error,) = await peer.say({"type": "subscribe", "channel": "conversations.2"})
        assert error["code"] == "too_many_subscriptions"
        house.commit("inbox", "conversations.2")
        assert await peer.heard() == []
        house.commit("conversations.1")
        assert len(await peer.heard()) == 1


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("inbox", True),
        ("conversations.1", True),
        ("users.9007199254740991", True),
        ("presence-conversations.7", True),
        ("campaigns.3", True),
        ("conversations.0", False),
        ("conversations.", False),
        ("conversations.1.2", False),
        ("conversations.1\n", False),
        ("inbox ", False),
        ("private-inbox", False),
        ("conversations.99999999999999999", False),
    ],
)
def test_channels_have_one_spelling(name: str, known: bool) -> None:
    """What is not exactly a channel's name is none."""
    assert is_channel(name) is known


async def test_a_slow_reader_is_closed_and_the_others_are_not(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Over its queue's bytes the session ends with the code that says resume."""
    house = House(limits=SessionLimits(queue_bytes_max=2_000))
    async with connected(house, AUTH, AUTH) as (slow, quick):
        for peer in (slow, quick):
            await peer.say({"type": "subscribe", "channel": "inbox"})
        slow.reading = False
        for _ in range(20):
            house.commit("inbox")
            await trio.sleep(0.01)
        assert slow.code is CloseCode.SLOW_BYTES
        assert len(await quick.heard()) == 20
        assert house.hub.connections(TENANT) == 1


async def test_a_shutdown_sends_everybody_away_to_resume(autojump_clock: trio.testing.MockClock) -> None:
    """All sessions end with 4200, and so does whoever comes later."""
    house = House()
    async with connected(house, AUTH, AUTH) as peers:
        house.sessions.close_all()
        await trio.sleep(1)
        assert [peer.code for peer in peers] == [CloseCode.GOING_AWAY] * 2
    assert (await end_of(house, AUTH))[0] is CloseCode.GOING_AWAY


# ------------------------------------------------------------------ rights that change


async def test_a_lost_right_ends_the_subscription(autojump_clock: trio.testing.MockClock) -> None:
    """After a recheck nothing more of that channel comes; the others go on without a loss."""
    house = House()
    async with connected(house) as (peer,):
        await peer.say(
            {"type": "subscribe", "channel": "inbox"}, {"type": "subscribe", "channel": "conversations.1"}
        )
        house.forbidden.add("inbox")
        house.hub.recheck(TENANT, 7)
        house.commit("inbox", "conversations.1")  # committed while the rights are looked up
        heard = await peer.heard()
        assert sorted((message["type"], message["channel"]) for message in heard) == [
            ("error", "inbox"),
            ("event", "conversations.1"),
        ]
        house.commit("inbox", "conversations.1")
        assert [event["channel"] for event in await peer.heard()] == ["conversations.1"]


async def test_nothing_is_heard_while_the_rights_are_in_doubt(autojump_clock: trio.testing.MockClock) -> None:
    """Events wait for the answer: none before it, all after a yes."""
    house = House()
    async with connected(house) as (peer,):
        await peer.say({"type": "subscribe", "channel": "inbox"})
        house.rights_held = trio.Event()
        house.hub.recheck(TENANT)
        for _ in range(3):
            house.commit("inbox")
        assert await peer.heard() == []
        house.rights_held.set()
        assert [event["cursor"] for event in await peer.heard()] == [1, 2, 3]


async def test_a_right_that_is_lost_while_it_is_looked_up_is_not_granted(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The answer to a subscribe may be older than the change that came meanwhile: it is asked again."""
    house = House()
    house.rights_held = trio.Event()
    async with connected(house) as (peer,):
        await peer.say({"type": "subscribe", "channel": "inbox"})  # allowed, and the answer is on its way
        house.forbidden.add("inbox")
        house.hub.recheck(TENANT, 7)
        await trio.sleep(1)  # the recheck is over: it found no subscription to ask about
        house.commit("inbox")
        house.rights_held.set()
        heard = await peer.heard()
        house.commit("inbox")
        heard += await peer.heard()
        assert [message["type"] for message in heard] == ["subscribed", "error"]


async def test_a_second_change_during_the_recheck_counts(autojump_clock: trio.testing.MockClock) -> None:
    """A yes that was given before the second change opens nothing, not even until the second answer."""
    house = House()
    async with connected(house) as (peer,):
        await peer.say({"type": "subscribe", "channel": "inbox"})
        first, second = trio.Event(), trio.Event()
        house.rights_held = first
        house.hub.recheck(TENANT)
        await trio.sleep(0.1)  # the first question is on its way, with a yes
        house.forbidden.add("inbox")
        house.hub.recheck(TENANT)
        house.rights_held = second
        first.set()
        await trio.sleep(0.1)
        house.commit("inbox")
        assert await peer.heard() == []
        second.set()
        assert [message["type"] for message in await peer.heard()] == ["error"]
        house.commit("inbox")
        assert await peer.heard() == []


async def test_a_revoked_token_ends_the_connection(autojump_clock: trio.testing.MockClock) -> None:
    """The recheck asks for the token too, and its end is final."""
    house = House()
    async with connected(house) as (peer,):
        await peer.say({"type": "subscribe", "channel": "inbox"})
        del house.tokens["1|good"]
        house.hub.recheck(TENANT, 7)
        await trio.sleep(1)
        assert peer.code is CloseCode.REVOKED
        assert not CloseCode.REVOKED.comes_back


async def test_rights_that_cannot_be_looked_up_are_not_assumed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """With the store away a recheck closes the connection, to come back later."""
    house = House()
    async with connected(house) as (peer,):
        await peer.say({"type": "subscribe", "channel": "inbox"})
        house.rights_error = StoreUnavailable("away")
        house.hub.recheck(TENANT)
        house.commit("inbox")
        await trio.sleep(1)
        assert peer.code is CloseCode.UNAVAILABLE
        assert peer.sent == []


# ------------------------------------------------------------------ presence and typing


async def test_typing_reaches_the_others_on_the_presence_channel(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Not the sender, not who is elsewhere, not the log; and only from somebody who is there."""
    house = House()
    channel = "presence-conversations.3"
    async with connected(house, AUTH, {**AUTH, "token": "2|good"}, AUTH) as (writer, other, elsewhere):
        await elsewhere.say({"type": "subscribe", "channel": "conversations.3"})
        (error,) = await writer.say({"type": "typing", "channel": channel})
        assert error["code"] == "not_subscribed"
        for peer in (writer, other):
            await peer.say({"type": "subscribe", "channel": channel})
        await writer.heard()
        assert await writer.say({"type": "typing", "channel": channel}) == []
        assert await other.heard() == [
            {"type": "typing", "channel": channel, "user_id": 7, "name": "Agent 7", "state": True}
        ]
        assert await elsewhere.heard() == []
    assert house.log.events == []


async def test_presence_tells_who_is_there_as_they_come_and_go(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A user with two windows is there once, and gone with the last of them, also when it was lost."""
    house = House()
    channel = "presence-conversations.3"
    subscribe: Message = {"type": "subscribe", "channel": channel}
    async with connected(house, {**AUTH, "token": "2|good"}) as (watcher,):
        heard = await watcher.say(subscribe)
        assert heard[-1] == {"type": "presence", "channel": channel, "user_ids": [8]}
        async with connected(house, AUTH) as (first,), _second(house) as second:
            await first.say(subscribe)
            assert (await watcher.heard())[-1]["user_ids"] == [8, 7]
            assert (await second.say(subscribe))[-1]["user_ids"] == [8, 7]
            await first.say({"type": "unsubscribe", "channel": channel})
            assert await watcher.heard() == []
            second.lose()
            assert (await watcher.heard())[-1]["user_ids"] == [8]
            await first.heard()
            house.sessions.close_all()
            await trio.sleep(1)


class _Losable(Client):
    def __init__(self, house: House) -> None:
        super().__init__(house)
        self._scope = trio.CancelScope()

    async def run(self) -> None:
        with self._scope:
            await super().run()

    def lose(self) -> None:
        """As when the network is gone: the route cancels the session."""
        self._scope.cancel()


@asynccontextmanager
async def _second(house: House) -> AsyncIterator[_Losable]:
    peer = _Losable(house)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.run)
        await peer.say(AUTH)
        yield peer
        nursery.cancel_scope.cancel()


def test_every_close_code_has_a_sentence_that_fits_its_frame() -> None:
    """RFC 6455: a close frame holds 123 bytes of reason; and the range is the advice."""
    for code in CloseCode:
        assert 0 < len(code.reason.encode()) <= 123
    assert {code.value // 100 for code in CloseCode if code.comes_back} == {41, 42}


def test_errors_become_codes_by_their_family() -> None:
    """Whose doing it is decides whether to come back."""
    assert close_code_of(Unauthenticated("x")) is CloseCode.UNAUTHENTICATED
    assert close_code_of(StoreUnavailable("x")) is CloseCode.UNAVAILABLE
    assert close_code_of(RuntimeError("x")) is CloseCode.INTERNAL


# ------------------------------------------------------------------ over real sockets


@pytest.fixture(params=["lane", "route"])
def way(request: pytest.FixtureRequest) -> str:
    """Both ways to a session: the push lane, and Hypercorn with Quart."""
    return str(request.param)


@asynccontextmanager
async def served(
    house: House, way: str, *, limits: ServingLimits | None = None, sockets: SocketLimits | None = None
) -> AsyncIterator[tuple[str, trio.Event]]:
    app = QuartTrio("test")
    app.register_blueprint(push_blueprint(house.sessions))
    stop = trio.Event()
    async with trio.open_nursery() as nursery:

        async def run(task_status: trio.TaskStatus[int]) -> None:
            await serve(
                app,  # type: ignore[arg-type]
                host="127.0.0.1",
                port=0,
                stop=stop,
                metrics=house.metrics,
                limits=limits,
                lanes=[PushLane(house.sessions, house.metrics, sockets=sockets)] if way == "lane" else [],
                task_status=task_status,
            )

        port = await nursery.start(run)
        yield f"ws://127.0.0.1:{port}/ws", stop
        house.sessions.close_all()
        stop.set()


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[WebSocketConnection]:
    """A client that lets go of its socket also when the server closed first (the library keeps it then)."""
    sockets: list[WebSocketConnection] = []
    try:
        async with open_websocket_url(url) as socket:
            sockets.append(socket)
            yield socket
    finally:
        for socket in sockets:
            await trio.aclose_forcefully(socket._stream)


async def talk(socket: WebSocketConnection, message: Message) -> Message:
    await socket.send_message(msgspec.json.encode(message).decode())
    return await hear(socket)


async def hear(socket: WebSocketConnection) -> Message:
    with trio.fail_after(5):
        text = await socket.get_message()
    assert isinstance(text, str), "frames are text frames"
    decoded: Message = msgspec.json.decode(text)
    return decoded


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(5):
        while not condition():  # noqa: ASYNC110  # what is waited for has no event of its own
            await trio.sleep(0.01)


@pytest.mark.real_time
async def test_a_real_client_connects_listens_and_resumes(way: str) -> None:
    """Through Hypercorn and Quart, with a client library: welcome, events, a lost connection, the rest."""
    house = House()
    async with served(house, way) as (url, _):
        async with opened(url) as socket:
            assert (await talk(socket, AUTH))["type"] == "welcome"
            assert (await talk(socket, {"type": "subscribe", "channel": "inbox"}))["cursor"] == 0
            house.commit("inbox")
            assert (await hear(socket))["cursor"] == 1
        await until(house.nobody_is_left)
        house.commit("inbox")
        async with opened(url) as socket:
            await talk(socket, AUTH)
            await talk(socket, {"type": "subscribe", "channel": "inbox", "since": 1})
            assert (await hear(socket))["cursor"] == 2


@pytest.mark.real_time
async def test_the_close_code_and_its_reason_reach_the_client(way: str) -> None:
    """A refused token is a close frame that a client can read."""
    house = House()
    async with served(house, way) as (url, _), opened(url) as socket:
        with pytest.raises(ConnectionClosed) as closed:
            await talk(socket, {"type": "auth", "token": "bad"})
        assert closed.value.reason is not None
        assert (closed.value.reason.code, closed.value.reason.reason) == (4001, "The token is not valid.")


@pytest.mark.real_time
async def test_a_frame_over_the_limit_closes_the_connection(way: str) -> None:
    """The server does not collect what it will not read: close frame 1009 (RFC 6455), and the end."""
    house = House()
    async with served(house, way) as (url, _):
        stream = await _raw_client(url)
        await until(lambda: house.hub.connections(TENANT) == 1)
        size = 100_000
        await stream.send_all(b"\x81\xff" + size.to_bytes(8, "big") + bytes(4) + b"x" * size)
        seen = b""
        with trio.fail_after(5):
            while (1009).to_bytes(2, "big") not in seen:
                seen += bytes(await stream.receive_some())
        await stream.aclose()
        await until(house.nobody_is_left)


@pytest.mark.real_time
@pytest.mark.parametrize(
    ("origin", "status"), [("https://evil.example", 403), ("https://inbox.example.com", 101), (None, 101)]
)
async def test_pages_of_other_origins_are_turned_away(origin: str | None, status: int, way: str) -> None:
    """With a list of origins, a browser page from elsewhere gets 403; clients without an origin may come."""
    house = House(origins=("https://inbox.example.com",))
    async with served(house, way) as (url, _):
        stream = await trio.open_tcp_stream("127.0.0.1", _port(url))
        await stream.send_all(_handshake(origin))
        with trio.fail_after(5):
            assert bytes(await stream.receive_some()).startswith(f"HTTP/1.1 {status} ".encode())
        await stream.aclose()


@pytest.mark.real_time
async def test_a_client_that_stops_reading_is_cut_and_costs_nobody_else(way: str) -> None:
    """Its socket is full, its send ends by the edge's own deadline although Hypercorn shields it, and the
    session leaves; another client hears everything meanwhile."""
    house = House(limits=SessionLimits(queue_bytes_max=200_000))
    limits = ServingLimits(send_seconds_max=0.5)
    async with served(house, way, limits=limits, sockets=SocketLimits(close_seconds_max=0.5)) as (url, _):
        stalled = await _raw_client(url)
        async with opened(url) as quick:
            await talk(quick, AUTH)
            await talk(quick, {"type": "subscribe", "channel": "inbox"})
            await until(lambda: house.hub.connections(TENANT) == 2)
            data = b'"' + b"x" * 100_000 + b'"'
            for cursor in range(1, 81):
                house.hub.committed([house.log.append("inbox", data=data)])
                assert (await hear(quick))["cursor"] == cursor
            count = house.metrics.registry.get_sample_value
            await until(lambda: count("mijra_edge_connections") == 1)
            if way == "route":  # where nobody but the deadline of a send can end one that is under way
                assert count("mijra_edge_sends_timed_out_total") == 1
            assert count("mijra_push_closes_total", {"code": "4201"}) == 1
            assert house.hub.connections(TENANT) == 1
        await stalled.aclose()


def _port(url: str) -> int:
    return int(url.split(":")[2].split("/")[0])


def _handshake(origin: str | None = None) -> bytes:
    return (
        b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        + (f"Origin: {origin}\r\n".encode() if origin else b"")
        + b"\r\n"
    )


async def _raw_client(url: str) -> trio.SocketStream:
    """A handshake, auth and a subscribe by hand (masked with zeros), with a small window and no reader."""
    stream = await trio.open_tcp_stream("127.0.0.1", _port(url))
    stream.socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)
    await stream.send_all(_handshake())
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += bytes(await stream.receive_some(1))
    for message in (AUTH, {"type": "subscribe", "channel": "inbox"}):
        text = msgspec.json.encode(message)
        await stream.send_all(bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text)
    return stream


@pytest.mark.real_time
async def test_a_shutdown_closes_sockets_with_going_away(way: str) -> None:
    """Clients read 4200 and the server is down well before its grace is over."""
    house = House()
    async with served(house, way) as (url, stop), opened(url) as socket:
        await talk(socket, AUTH)
        house.sessions.close_all()
        stop.set()
        with pytest.raises(ConnectionClosed) as closed:
            await hear(socket)
        assert closed.value.reason is not None
        assert closed.value.reason.code == 4200
