"""The native protocol: sessions under virtual time, then the route over real sockets."""

import msgspec
import pytest
import trio
import trio.lowlevel
import trio.testing
from trio_websocket import ConnectionClosed

from engine.errors import StoreUnavailable, Unauthenticated
from gateway.lane.push.socket import SocketLimits
from gateway.push.codes import CloseCode, PusherCode, close_code_of
from gateway.push.connection import Gone, Peer
from gateway.push.hub import RingLimits
from gateway.push.protocol import is_channel
from gateway.push.queued import QueuedConnection
from gateway.push.session import SessionLimits
from gateway.serving import ServingLimits
from tests.gateway.push_house import (
    AUTH,
    Client,
    House,
    Message,
    connected,
    end_of,
    hear,
    opened,
    served,
    talk,
)
from tests.gateway.test_hub import TENANT
from tests.logs import capture_logs
from tests.patience import PATIENCE_SECONDS, until

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
        ('{"type":"auth","token":"' + "x" * 17_000 + '"}', CloseCode.BAD_MESSAGE),
    ],
    ids=range(11),
)
async def test_whoever_does_not_say_who_he_is_does_not_get_in(
    first: Message | str, code: CloseCode, autojump_clock: trio.testing.MockClock
) -> None:
    """Each refusal has its code, all of them of the range that says not to come back unchanged."""
    given: Message | str = first
    ended, heard = await end_of(Client(House()), given)
    assert (ended, heard) == (code, [])
    assert not code.comes_back


async def test_silence_before_auth_ends_soon(autojump_clock: trio.testing.MockClock) -> None:
    """Ten seconds, so that empty connections cost little."""
    ended, _ = await end_of(Client(House()))
    assert ended == CloseCode.AUTH_TIMEOUT
    assert trio.current_time() < 15


async def test_a_store_that_is_away_says_come_back_later(autojump_clock: trio.testing.MockClock) -> None:
    """An outage is not a bad token."""
    house = House()
    house.rights.auth_error = StoreUnavailable("away")
    ended, _ = await end_of(Client(house), AUTH)
    assert ended == CloseCode.UNAVAILABLE


async def test_a_tenant_has_a_limit_of_connections(autojump_clock: trio.testing.MockClock) -> None:
    """The one over the limit is refused with a code to come back; when one leaves there is room."""
    house = House(limits=SessionLimits(connections_per_tenant_max=1))
    async with connected(house):
        late = Client(house)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(late.run)
            await late.say(AUTH)
        assert late.code == CloseCode.OVER_CAPACITY
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
        assert peer.code == CloseCode.SILENT


async def test_a_flood_of_messages_ends_the_connection(autojump_clock: trio.testing.MockClock) -> None:
    """The burst is allowed, what is beyond it closes with a code to come back later."""
    house = House(limits=SessionLimits(messages_burst=5, messages_per_second=1))
    async with connected(house) as (peer,):
        assert len(await peer.say(*[{"type": "ping"}] * 5)) == 5
        await trio.sleep(10)
        assert len(await peer.say(*[{"type": "ping"}] * 5)) == 5
        await peer.say({"type": "ping"})
        assert peer.code == CloseCode.RATE_LIMITED


async def test_a_message_that_is_not_understood_ends_the_connection(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Later messages are judged like the first."""
    ended, _ = await end_of(Client(House()), AUTH, {"type": "subscribe", "channel": 5})
    assert ended == CloseCode.BAD_MESSAGE


async def test_a_defect_closes_one_session_and_is_logged(autojump_clock: trio.testing.MockClock) -> None:
    """The client hears 'internal' and may come back; the log has the traceback."""
    house = House()
    house.rights.error = RuntimeError("a bug")
    with capture_logs() as lines:
        ended, _ = await end_of(Client(house), AUTH, {"type": "subscribe", "channel": "inbox"})
    assert ended == CloseCode.INTERNAL
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
    house.rights.forbidden.add("inbox")
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
        assert slow.code == CloseCode.SLOW_BYTES
        assert len(await quick.heard()) == 20
        assert house.hub.connections(TENANT) == 1


async def test_a_shutdown_sends_everybody_away_to_resume(autojump_clock: trio.testing.MockClock) -> None:
    """All sessions end with 4200, and so does whoever comes later."""
    house = House()
    async with connected(house, AUTH, AUTH) as peers:
        house.sessions.close_all()
        await trio.sleep(1)
        assert [peer.code for peer in peers] == [CloseCode.GOING_AWAY] * 2
    assert (await end_of(Client(house), AUTH))[0] == CloseCode.GOING_AWAY


async def test_a_client_that_leaves_is_nobody_to_close(autojump_clock: trio.testing.MockClock) -> None:
    """The transport says so in the middle of anything; nothing is left of the session, and it counts as
    lost."""
    house = House()
    messages = [msgspec.json.encode(AUTH), b'{"type": "subscribe", "channel": "inbox"}']

    async def receive() -> bytes:
        await trio.sleep(0.1)
        if not messages:
            raise Gone
        return messages.pop(0)

    async def send(frame: bytes) -> None:
        await trio.lowlevel.checkpoint()

    connection = QueuedConnection(house.sessions, Peer(path="/ws"), receive, send)
    assert await connection.run() is None
    assert not connection.offer(b"{}")
    assert house.nobody_is_left()
    closes = house.metrics.registry.get_sample_value("mijra_push_closes_total", {"code": "1006"})
    assert closes == 1


@pytest.mark.parametrize(
    ("path", "origin", "status"),
    [
        ("/ws", None, None),
        ("/app/a-key", None, None),
        ("/ws", "https://inbox.example.com", None),
        ("/ws", "https://evil.example", 403),
        ("/app/a-key", "null", 403),
        ("/ws/", None, 404),
        ("/app/", None, 404),
        ("/app/a/b", None, 404),
        ("/api/ws", None, 404),
    ],
)
def test_handshakes_that_are_refused(path: str, origin: str | None, status: int | None) -> None:
    """By path and by the page's origin, before anything is accepted."""
    house = House(origins=("https://inbox.example.com",))
    assert house.sessions.refusal(Peer(path=path, origin=origin)) == status


async def test_older_names_for_who_asks_natively(autojump_clock: trio.testing.MockClock) -> None:
    """Per subscription; a style that is none ends the connection like any message not understood."""
    house = House()
    async with connected(house) as (peer,):
        await peer.say({"type": "subscribe", "channel": "inbox", "names": "classes"})
        house.commit("inbox")
        assert [each["name"] for each in await peer.heard()] == ["NewMessageReceived"]
        await peer.say({"type": "subscribe", "channel": "inbox", "names": "odd"})
        assert peer.code == CloseCode.BAD_MESSAGE


# ------------------------------------------------------------------ rights that change


async def test_a_lost_right_ends_the_subscription(autojump_clock: trio.testing.MockClock) -> None:
    """After a recheck nothing more of that channel comes; the others go on without a loss."""
    house = House()
    async with connected(house) as (peer,):
        await peer.say(
            {"type": "subscribe", "channel": "inbox"}, {"type": "subscribe", "channel": "conversations.1"}
        )
        house.rights.forbidden.add("inbox")
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
        house.rights.held = trio.Event()
        house.hub.recheck(TENANT)
        for _ in range(3):
            house.commit("inbox")
        assert await peer.heard() == []
        house.rights.held.set()
        assert [event["cursor"] for event in await peer.heard()] == [1, 2, 3]


async def test_a_right_that_is_lost_while_it_is_looked_up_is_not_granted(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The answer to a subscribe may be older than the change that came meanwhile: it is asked again."""
    house = House()
    house.rights.held = trio.Event()
    async with connected(house) as (peer,):
        await peer.say({"type": "subscribe", "channel": "inbox"})  # allowed, and the answer is on its way
        house.rights.forbidden.add("inbox")
        house.hub.recheck(TENANT, 7)
        await trio.sleep(1)  # the recheck is over: it found no subscription to ask about
        house.commit("inbox")
        house.rights.held.set()
        heard = await peer.heard()
        house.commit("inbox")
        heard += await peer.heard()
        assert [message["type"] for message in heard] == ["subscribed", "error"]


async def test_a_conversation_that_goes_elsewhere_while_it_is_looked_up_is_not_granted(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The reassignment asks those who listen, and also those who are about to."""
    house = House()
    house.rights.held = trio.Event()
    async with connected(house) as (peer,):
        await peer.say({"type": "subscribe", "channel": "conversations.1"})
        house.rights.forbidden.add("conversations.1")
        house.hub.recheck_channel(TENANT, "conversations.1")
        house.rights.held.set()
        heard = await peer.heard()
        house.commit("conversations.1")
        heard += await peer.heard()
        assert [message["type"] for message in heard] == ["subscribed", "error"]


async def test_a_second_change_during_the_recheck_counts(autojump_clock: trio.testing.MockClock) -> None:
    """A yes that was given before the second change opens nothing, not even until the second answer."""
    house = House()
    async with connected(house) as (peer,):
        await peer.say({"type": "subscribe", "channel": "inbox"})
        first, second = trio.Event(), trio.Event()
        house.rights.held = first
        house.hub.recheck(TENANT)
        await trio.sleep(0.1)  # the first question is on its way, with a yes
        house.rights.forbidden.add("inbox")
        house.hub.recheck(TENANT)
        house.rights.held = second
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
        del house.rights.tokens["1|good"]
        house.hub.recheck(TENANT, 7)
        await trio.sleep(1)
        assert peer.code == CloseCode.REVOKED
        assert not CloseCode.REVOKED.comes_back


async def test_rights_that_cannot_be_looked_up_are_not_assumed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """With the store away a recheck closes the connection, to come back later."""
    house = House()
    async with connected(house) as (peer,):
        await peer.say({"type": "subscribe", "channel": "inbox"})
        house.rights.error = StoreUnavailable("away")
        house.hub.recheck(TENANT)
        house.commit("inbox")
        await trio.sleep(1)
        assert peer.code == CloseCode.UNAVAILABLE
        assert peer.sent == []


def test_every_close_code_has_a_sentence_that_fits_its_frame() -> None:
    """RFC 6455: a close frame holds 123 bytes of reason; and the range is the advice."""
    for code in (*CloseCode, *PusherCode):
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
        with trio.fail_after(PATIENCE_SECONDS):
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
        with trio.fail_after(PATIENCE_SECONDS):
            assert bytes(await stream.receive_some()).startswith(f"HTTP/1.1 {status} ".encode())
        await stream.aclose()


@pytest.mark.real_time
async def test_a_client_that_stops_reading_is_cut_and_costs_nobody_else(way: str) -> None:
    """Its socket is full, its send ends by the edge's own deadline although Hypercorn shields it, and the
    session leaves; another client hears everything meanwhile."""
    house = House(limits=SessionLimits(queue_bytes_max=200_000))
    limits = ServingLimits(send_seconds_max=1.5)
    async with served(house, way, limits=limits, sockets=SocketLimits(close_seconds_max=1.5)) as (url, _):
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
