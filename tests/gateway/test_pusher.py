"""Pusher's protocol under virtual time: beginning and end, channels, rights, client events, resuming."""

import random
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from engine.errors import StoreUnavailable
from gateway.push.codes import CloseCode, PusherCode
from gateway.push.hub import ReplayLimits, RingLimits
from gateway.push.pusher.apps import App
from gateway.push.pusher.channels import channel_name
from gateway.push.pusher.rooms import DELIVERIES_PER_SECOND
from gateway.push.pusher.signature import subscription_auth, subscription_is_signed
from gateway.push.session import SessionLimits
from tests.gateway.push_house import (
    APP,
    PUSHER_PATH,
    House,
    Message,
    PusherClient,
    end_of,
    entered,
    pushers,
)
from tests.gateway.test_hub import TENANT


def names(heard: list[Message]) -> list[str]:
    return [message["event"] for message in heard]


def cursors(heard: list[Message]) -> list[int]:
    return [message["data"]["cursor"] for message in heard if message["event"] == "message.received"]


def refused(heard: list[Message]) -> tuple[str, int]:
    (error,) = heard
    assert error["event"] == "pusher:subscription_error"
    assert error["data"]["type"] == "AuthError"
    return error["channel"], error["data"]["status"]


# ------------------------------------------------------------------ beginning and ending


async def test_a_connection_is_told_its_socket_id(autojump_clock: trio.testing.MockClock) -> None:
    """With the number of seconds after which the client should ask whether anybody is there."""
    client = PusherClient(House())
    async with entered(client):
        (established,) = await client.heard()
        assert established["event"] == "pusher:connection_established"
        assert established["data"] == {"socket_id": client.socket_id, "activity_timeout": 30}
        left, dot, right = client.socket_id.partition(".")
        assert (left.isdecimal(), dot, right.isdecimal()) == (True, ".", True)


@pytest.mark.parametrize(
    ("path", "query", "code"),
    [
        ("/app/unknown", "protocol=7", PusherCode.NO_SUCH_APP),
        (PUSHER_PATH, "client=js", PusherCode.NO_VERSION),
        (PUSHER_PATH, "protocol=4", PusherCode.BAD_VERSION),
        (PUSHER_PATH, "protocol=x", PusherCode.BAD_VERSION),
    ],
)
async def test_an_app_or_a_version_that_is_none_is_not_to_come_back(
    path: str, query: str, code: PusherCode, autojump_clock: trio.testing.MockClock
) -> None:
    """4000 to 4099: the client gives up, instead of knocking for ever."""
    ended, heard = await end_of(PusherClient(House(), path, query))
    assert (ended, heard) == (code, [])
    assert 4000 < code < 4100


async def test_a_suspended_tenant_is_not_let_in_and_put_out(autojump_clock: trio.testing.MockClock) -> None:
    """At the door, and when it happens."""
    house = House()
    async with pushers(house) as (client,):
        house.rights.suspended = True
        house.hub.recheck(TENANT)
        await trio.sleep(1)
        assert client.code == PusherCode.SUSPENDED
    assert (await end_of(PusherClient(house)))[0] == PusherCode.SUSPENDED


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", '{"event": 5}', '{"event": "pusher:subscribe", "data": "x"}']
)
async def test_what_cannot_be_read_ends_the_connection(
    text: str, autojump_clock: trio.testing.MockClock
) -> None:
    """And is not to come back: the client is at fault."""
    assert (await end_of(PusherClient(House()), text))[0] == PusherCode.BAD_MESSAGE


async def test_events_nobody_knows_are_complained_about(autojump_clock: trio.testing.MockClock) -> None:
    """Newer clients say things that this version does not know: an error, and the connection goes on."""
    async with pushers(House()) as (client,):
        (error,) = await client.say({"event": "pusher:signin", "data": {}})
        assert (error["event"], error["data"]["code"]) == ("pusher:error", None)
        assert await client.say({"event": "pusher:ping", "data": {}}) == [
            {"event": "pusher:pong", "data": {}}
        ]


async def test_a_silent_client_is_asked_before_it_is_let_go(autojump_clock: trio.testing.MockClock) -> None:
    """A ping; an answer keeps the connection, silence ends it with a code to come back at once."""
    async with pushers(House()) as (client,):
        await trio.sleep(80)
        assert names(client.taken()) == ["pusher:ping"]
        await client.say({"event": "pusher:pong", "data": {}})
        await trio.sleep(100)
        assert client.code is None
        await trio.sleep(60)
        assert names(client.taken()) == ["pusher:ping"]
        assert client.code == PusherCode.NO_PONG


async def test_strangers_cannot_lock_the_agents_out(autojump_clock: trio.testing.MockClock) -> None:
    """The key is public: connections that nobody has signed anything for have a limit of their own."""
    house = House(limits=SessionLimits(strangers_per_tenant_max=2))
    async with pushers(house, 2) as (known, stranger):
        assert (await end_over(house)) == CloseCode.OVER_CAPACITY
        await stranger.subscribe("orders")
        assert (await end_over(house)) == CloseCode.OVER_CAPACITY
        await known.subscribe("private-inbox")
        assert (await end_over(house)) is None


async def end_over(house: House) -> int | None:
    """How one more connection ends, if it does at once."""
    late = PusherClient(house)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(late.run)
        await late.heard()
        late.lose()
    return late.code


@pytest.mark.parametrize(
    ("code", "range_"),
    [(CloseCode.GOING_AWAY, 42), (CloseCode.OVER_CAPACITY, 41), (CloseCode.UNAVAILABLE, 41)],
)
async def test_other_ends_keep_their_range(
    code: CloseCode, range_: int, autojump_clock: trio.testing.MockClock
) -> None:
    """Later or at once, as in the native protocol."""
    house = House()
    async with pushers(house) as (client,):
        house.sessions.close_all(code)
        await trio.sleep(1)
        assert client.code is not None
        assert client.code // 100 == range_


# ------------------------------------------------------------------ channels


@pytest.mark.parametrize(
    ("name", "engine", "sound"),
    [
        ("private-inbox", "inbox", True),
        ("private-conversations.17", "conversations.17", True),
        ("presence-conversations.17", "presence-conversations.17", True),
        ("private-users.5", "users.5", True),
        ("private-campaigns.9", "campaigns.9", True),
        ("orders", None, True),
        ("private-orders.5", None, True),
        ("private-inboxes", None, True),
        ("private-encrypted-orders", None, True),
        ("conversations.17", "conversations.17", False),
        ("inbox", "inbox", False),
        ("presence-inbox", "presence-inbox", False),
        ("private-conversations.0", "conversations.0", False),
        ("private-conversations.x", "conversations.x", False),
        ("private-conversations", "conversations", False),
        ("private-encrypted-conversations.17", "private-encrypted-conversations.17", False),
        ("", None, False),
        ("private-", None, False),
        ("private-a b", None, False),
        ("private-conversations.1\n", None, False),
        ("x" * 201, None, False),
        ("#server-to-user-7", None, False),
    ],
)
def test_channel_names(name: str, engine: str | None, sound: bool) -> None:
    """The engine's have one spelling each, and nothing that looks like one of them is the tenant's own."""
    parsed = channel_name(name)
    assert (parsed.engine, parsed.problem is None) == (engine, sound)


async def test_the_engines_events_arrive_with_their_cursor(autojump_clock: trio.testing.MockClock) -> None:
    """As text within the JSON; the same bytes object for every client."""
    house = House()
    async with pushers(house, 2) as clients:
        for client in clients:
            (succeeded,) = await client.subscribe("private-conversations.17")
            assert succeeded == {
                "event": "pusher_internal:subscription_succeeded",
                "channel": "private-conversations.17",
                "data": {"cursor": 0},
            }
        house.commit("inbox", "conversations.17", data='{"body": "\\"à\\""}'.encode())
        house.commit("inbox")
        for client in clients:
            await client.heard()
        frames = [client.frames[-1] for client in clients]
        assert frames[0] is frames[1]
        message = msgspec.json.decode(frames[0])
        assert (message["event"], message["channel"]) == ("message.received", "private-conversations.17")
        assert msgspec.json.decode(message["data"]) == {"body": '"à"', "cursor": 1}


async def test_the_public_form_is_refused_and_says_why(autojump_clock: trio.testing.MockClock) -> None:
    """It names the channel to take instead; the connection goes on."""
    async with pushers(House()) as (client,):
        heard = await client.subscribe("conversations.17")
        assert refused(heard) == ("conversations.17", 403)
        assert "private-conversations.17" in heard[0]["data"]["error"]
        assert names(await client.subscribe("private-conversations.17")) == [
            "pusher_internal:subscription_succeeded"
        ]


async def test_only_what_was_signed_is_granted(autojump_clock: trio.testing.MockClock) -> None:
    """For another socket, another channel, another user, by another app, or with nothing: refused."""
    house = House()
    async with pushers(house) as (client,):
        good = client.subscription("private-inbox")["data"]
        other_app = App(tenant_id=2, key=APP.key, secret=b"guessed")
        stolen = subscription_auth(APP, "1.1", good["channel"], good["channel_data"])
        forged = subscription_auth(other_app, client.socket_id, good["channel"], good["channel_data"])
        for change in (
            {"auth": stolen},
            {"auth": forged},
            {"auth": ""},
            {"auth": "é"},
            {"auth": None},
            {"channel_data": good["channel_data"].replace("7", "8")},
            {"channel": "private-users.7"},
        ):
            heard = await client.say({"event": "pusher:subscribe", "data": {**good, **change}})
            assert refused(heard)[1] == 401
        house.commit("inbox", "users.7")
        assert await client.heard() == []


def test_a_signature_of_the_documentation_is_ours() -> None:
    """The worked example of Pusher's "Authorizing users" page: a private and a presence channel."""
    app = App(tenant_id=1, key="278d425bdf160c739803", secret=b"7ad3773142a6692b25b8")
    auth = "278d425bdf160c739803:58df8b0c36d6982b82c3ecf6b4662e34fe8c25bba48f5369f135bf843651c3a4"
    assert subscription_auth(app, "1234.1234", "private-foobar", None) == auth
    data = '{"user_id":10,"user_info":{"name":"Mr. Channels"}}'
    auth = "278d425bdf160c739803:31935e7d86dba64c2a90aed31fdc61869f9b22ba9d8863bba239c03ca481bc80"
    assert subscription_auth(app, "1234.1234", "presence-foobar", data) == auth
    assert not subscription_is_signed(app, auth, "1234.1235", "presence-foobar", data)


async def test_the_engines_channels_need_a_user(autojump_clock: trio.testing.MockClock) -> None:
    """A back end that signs without one, or with data that cannot be read, is told what is missing."""
    async with pushers(House()) as (client,):
        for data in (None, "", "7", "{}", '{"user_id": "seven"}', '{"user_id": 7, "names": "odd"}'):
            auth = subscription_auth(APP, client.socket_id, "private-inbox", data)
            wish = {"channel": "private-inbox", "auth": auth, "channel_data": data}
            assert refused(await client.say({"event": "pusher:subscribe", "data": wish}))[1] == 403


async def test_a_back_end_may_vouch_for_a_user(autojump_clock: trio.testing.MockClock) -> None:
    """Without a token: the user's rights count all the same."""
    house = House()
    house.rights.forbidden.add("inbox")
    async with pushers(house) as (client,):
        assert refused(await client.subscribe("private-inbox", token=None))[1] == 403
        assert len(await client.subscribe("private-users.7", token=None)) == 1
        house.rights.gone.add(7)
        house.hub.recheck(TENANT, 7)
        assert refused(await client.heard()) == ("private-users.7", 403)


async def test_older_class_names_are_there_for_who_asks(autojump_clock: trio.testing.MockClock) -> None:
    """Each subscription in its own style; what has no older name keeps its own."""
    house = House()
    async with pushers(house, 3) as clients:
        styles = ("dotted", "classes", "laravel")
        for client, style in zip(clients, styles, strict=True):
            await client.subscribe("private-inbox", names=style)
        house.commit("inbox", name="message.received")
        house.commit("inbox", name="note.added")
        assert [names(await client.heard()) for client in clients] == [
            ["message.received", "note.added"],
            ["NewMessageReceived", "note.added"],
            ["App\\Events\\NewMessageReceived", "note.added"],
        ]


async def test_the_tenants_own_channels(autojump_clock: trio.testing.MockClock) -> None:
    """Public ones for everybody, private ones for whom the back end signs, presence ones with members."""
    house = House()
    async with pushers(house, 2) as (one, other):
        assert names(await one.subscribe("orders")) == ["pusher_internal:subscription_succeeded"]
        unsigned = {"event": "pusher:subscribe", "data": {"channel": "private-orders.5"}}
        assert refused(await one.say(unsigned)) == ("private-orders.5", 401)
        assert len(await one.subscribe("private-orders.5")) == 1
        await one.subscribe("presence-lobby", user_id="a", user_info={"name": "Ann"})
        await trio.sleep(1)
        (succeeded,) = await other.subscribe("presence-lobby", user_id=5, user_info={"name": "Bob"})
        assert succeeded["data"]["presence"]["hash"] == {"a": {"name": "Ann"}, "5": {"name": "Bob"}}
        await trio.sleep(1)
        (added,) = one.taken()
        assert added["data"] == {"user_id": "5", "user_info": {"name": "Bob"}}
        large = {"name": "x" * 2000}
        assert refused(await other.subscribe("presence-room", user_id="5", user_info=large))[1] == 403
        await one.say({"event": "pusher:unsubscribe", "data": {"channel": "orders"}})
        assert house.sessions.rooms.channels(TENANT) == {"private-orders.5": 1, "presence-lobby": 2}


async def test_subscriptions_of_all_kinds_are_counted(autojump_clock: trio.testing.MockClock) -> None:
    """One limit for the engine's channels and the tenant's own; the same channel again is no more."""
    async with pushers(House(limits=SessionLimits(subscriptions_max=2))) as (client,):
        await client.subscribe("orders")
        await client.subscribe("private-inbox")
        assert refused(await client.subscribe("private-users.7")) == ("private-users.7", 429)
        assert names(await client.subscribe("private-inbox")) == ["pusher_internal:subscription_succeeded"]
        await client.say({"event": "pusher:unsubscribe", "data": {"channel": "orders"}})
        assert names(await client.subscribe("private-users.7")) == ["pusher_internal:subscription_succeeded"]


# ------------------------------------------------------------------ rights that change


async def test_a_lost_right_ends_the_subscription_and_nothing_else(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Within a second, with an error on the channel; other channels and other users go on."""
    house = House()
    async with pushers(house, 2) as (ours, theirs):
        for client, grant in ((ours, {}), (theirs, {"user_id": "8", "token": "2"})):
            await client.subscribe("private-inbox", **grant)
            await client.subscribe("private-conversations.1", **grant)
        del house.rights.tokens["1|good"]
        changed = trio.current_time()
        house.hub.recheck(TENANT, 7)
        house.commit("inbox", "conversations.1")  # committed while it is looked up
        heard = await ours.heard()
        assert [each["event"] for each in heard] == ["pusher:subscription_error"] * 2
        assert trio.current_time() - changed < 1
        assert cursors(await theirs.heard()) == [1, 1]
        assert ours.code is None
        client_event = {"event": "client-x", "channel": "private-inbox", "data": {}}
        assert names(await ours.say(client_event)) == ["pusher:error"]


async def test_a_token_that_ends_by_itself_ends_its_subscriptions(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Nobody has to revoke it: within a second of its end nothing is heard any more."""
    house = House()
    house.rights.lifetimes[7] = trio.current_time() + 20
    async with pushers(house) as (client,):
        await client.subscribe("private-inbox")
        await trio.sleep(18)
        house.commit("inbox")
        assert cursors(await client.heard()) == [1]
        await trio.sleep(3)
        house.commit("inbox")
        assert refused(await client.heard()) == ("private-inbox", 403)


async def test_nothing_is_published_while_rights_are_in_doubt(autojump_clock: trio.testing.MockClock) -> None:
    """Neither the engine's events, nor a back end's, nor other clients'."""
    house = House()
    async with pushers(house) as (client,):
        await client.subscribe("private-conversations.1")
        house.rights.held = trio.Event()
        house.hub.recheck(TENANT)
        house.commit("conversations.1")
        assert house.sessions.rooms.publish(TENANT, "private-conversations.1", b'{"event": "x"}') == 0
        assert await client.heard() == []
        house.rights.held.set()
        assert cursors(await client.heard()) == [1]


async def test_rights_that_cannot_be_looked_up_are_not_assumed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """With the store away the connection ends, to come back later."""
    house = House()
    async with pushers(house) as (client,):
        house.rights.error = StoreUnavailable("away")
        await client.subscribe("private-inbox")
        await trio.sleep(1)
        assert client.code == CloseCode.UNAVAILABLE


# ------------------------------------------------------------------ client events


async def test_client_events_reach_the_others_on_the_channel(autojump_clock: trio.testing.MockClock) -> None:
    """Not the sender, not who is elsewhere; on presence channels with the sender's id."""
    async with pushers(House(), 3) as (sender, other, elsewhere):
        for client in (sender, other):
            await client.subscribe("private-orders.5")
            await client.subscribe("presence-lobby", user_id=client.socket_id)
        await elsewhere.subscribe("private-inbox")
        await trio.sleep(1)
        other.taken()
        data = {"x": [1, "é"]}
        event: Message = {"event": "client-moved", "channel": "private-orders.5", "data": data}
        await sender.say(event)
        assert other.taken() == [event]
        await sender.say({**event, "channel": "presence-lobby"})
        assert other.taken() == [{**event, "channel": "presence-lobby", "user_id": sender.socket_id}]
        assert elsewhere.taken() == []


@pytest.mark.parametrize(
    "event",
    [
        {"channel": "orders"},
        {"channel": "private-elsewhere"},
        {"channel": None},
        {"event": "client-" + "x" * 200},
        {"data": "x" * 11_000},
    ],
    ids=["public", "not subscribed", "no channel", "long name", "large"],
)
async def test_client_events_that_may_not_be(
    event: dict[str, Any], autojump_clock: trio.testing.MockClock
) -> None:
    """An error, nothing for the others, and the connection goes on."""
    async with pushers(House(), 2) as clients:
        for client in clients:
            await client.subscribe("orders")
            await client.subscribe("private-orders.5")
        sent = {"event": "client-x", "channel": "private-orders.5", "data": {}, **event}
        sender, other = clients
        other.taken()
        assert names(await sender.say(sent)) == ["pusher:error"]
        assert other.taken() == []
        assert sender.code is None


async def test_client_events_have_a_rate(autojump_clock: trio.testing.MockClock) -> None:
    """Ten per second: beyond it they are rejected with 4301, and the connection goes on."""
    async with pushers(House(), 2) as (sender, other):
        for client in (sender, other):
            await client.subscribe("private-orders.5")
        event: Message = {"event": "client-x", "channel": "private-orders.5", "data": {}}
        other.taken()
        errors = await sender.say(*[event] * 30)
        assert {error["data"]["code"] for error in errors} == {4301}
        assert 20 <= len(other.taken()) <= 21
        await trio.sleep(1)
        await sender.say(event)
        assert len(other.taken()) == 1


async def test_a_channel_has_a_budget_for_whispers(autojump_clock: trio.testing.MockClock) -> None:
    """However many whisper there: copies per second are bounded, so a crowd costs as much as a few."""
    house = House()
    async with pushers(house) as (client,):
        await client.subscribe("private-orders.5")
        rooms = house.sessions.rooms
        passed = sum(rooms.whisper(TENANT, "private-orders.5", b"{}", but="1.1") for _ in range(5_000))
        assert passed == DELIVERIES_PER_SECOND
        await trio.sleep(0.5)
        assert rooms.whisper(TENANT, "private-orders.5", b"{}", but="1.1")


# ------------------------------------------------------------------ resuming


async def test_a_client_that_comes_back_with_its_cursor_misses_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """From memory or from the log, then what is new; without a cursor only what is new."""
    house = House(ring=RingLimits(events_max=2))
    async with pushers(house) as (client,):
        await client.subscribe("private-inbox")
        house.commit("inbox")
        assert cursors(await client.heard()) == [1]
    for _ in range(6):
        house.commit("inbox")
    async with pushers(house, 2) as (back, ordinary):
        heard = await back.subscribe("private-inbox", since=1)
        assert (heard[0]["data"], cursors(heard)) == ({"cursor": 1}, [2, 3, 4, 5, 6, 7])
        assert (await ordinary.subscribe("private-inbox"))[0]["data"] == {"cursor": 7}
        house.commit("inbox")
        assert cursors(await back.heard()) == cursors(ordinary.taken()) == [8]


async def test_what_is_no_longer_held_is_a_gap_that_says_what_to_load(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A day away is replayed, as long as it is held; beyond it there is one gap and the rest."""
    house = House(ring=RingLimits(events_max=2), replays=ReplayLimits(page_events=5))
    for _ in range(30):
        house.commit("conversations.4")
    house.log.dropped = 10
    async with pushers(house) as (client,):
        heard = await client.subscribe("private-conversations.4", since=3)
        await trio.sleep(5)
        heard += client.taken()
        assert cursors(heard) == list(range(11, 31))
        assert [message for message in heard if message["event"] == "mijra:gap"] == [
            {
                "event": "mijra:gap",
                "channel": "private-conversations.4",
                "data": {
                    "from": 4,
                    "to": 10,
                    "cursor": 10,
                    "refetch": ["conversations/4", "conversations/4/messages"],
                },
            }
        ]


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_happens_a_resuming_client_sees_each_event_once_and_in_order(
    seed: int, autojump_clock: trio.testing.MockClock
) -> None:
    """Connections lost at any moment, rings too short, rights in doubt: nothing twice, nothing missed."""
    chance = random.Random(seed)
    house = House(ring=RingLimits(events_max=chance.choice((1, 5, 100))))
    seen: list[int] = []
    kept: dict[str, int] = {}

    def look(client: PusherClient) -> None:
        for message in client.taken():
            if message.get("channel") == "private-inbox" and "cursor" in message["data"]:
                kept["private-inbox"] = message["data"]["cursor"]
                if message["event"] == "message.received":
                    seen.append(message["data"]["cursor"])

    async with trio.open_nursery() as nursery:
        await nursery.start(house.sessions.presence.run)
        for _ in range(15):
            client = PusherClient(house)
            nursery.start_soon(client.run)
            await client.heard()
            since = kept.get("private-inbox", 0)
            await client._to_session.send(
                msgspec.json.encode(client.subscription("private-inbox", since=since)).decode()
            )
            for _ in range(chance.randint(0, 12)):
                house.commit(*chance.choice((("inbox",), ("conversations.1",), ("inbox", "users.7"))))
                await trio.sleep(chance.choice((0, 0.001, 0.02)))
                if chance.random() < 0.1:
                    house.hub.recheck(TENANT, 7)
                if chance.random() < 0.1:
                    look(client)
            client.lose()
            await trio.sleep(chance.choice((0, 0.1)))
            look(client)
        client = PusherClient(house)
        nursery.start_soon(client.run)
        await client.heard()
        await client._to_session.send(
            msgspec.json.encode(
                client.subscription("private-inbox", since=kept.get("private-inbox", 0))
            ).decode()
        )
        await trio.sleep(5)
        look(client)
        nursery.cancel_scope.cancel()
    assert seen == [event.cursor for event in house.log.events if "inbox" in event.channels]
