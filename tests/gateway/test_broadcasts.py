"""The server API of Pusher's protocol: signatures, limits, what may be said where; without a network."""

import hashlib
from typing import Any
from urllib.parse import parse_qsl, urlencode

import msgspec
import pytest
import trio.testing

from gateway.push.pusher.apps import App
from gateway.push.pusher.broadcasts import Broadcasts, Refusal
from gateway.push.pusher.signature import request_problem, request_signature
from tests.gateway.push_house import APP, AUTH, Client, House, Message, PusherClient, entered, pushers
from tests.gateway.test_hub import TENANT

NOW = 1_353_088_179
"""Of the worked example in Pusher's documentation."""


class BackEnd:
    """Signs as a library does."""

    def __init__(self, house: House) -> None:
        sessions = house.sessions
        self.broadcasts = Broadcasts(sessions.apps, sessions.rooms, sessions.presence)

    def post(self, rest: str, body: Any, **changes: str) -> Any:
        raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
        return self._call("POST", rest, raw, {"body_md5": hashlib.md5(raw).hexdigest()}, changes)

    def get(self, rest: str, **parameters: str) -> Any:
        return self._call("GET", rest, b"", parameters, {})

    def _call(
        self, method: str, rest: str, body: bytes, parameters: dict[str, str], changes: dict[str, str]
    ) -> Any:
        path = f"/apps/{APP.id}/{rest}"
        signed = {"auth_key": APP.key, "auth_timestamp": str(NOW), "auth_version": "1.0", **parameters}
        query = [*signed.items()]
        query.append(("auth_signature", request_signature(APP, method, path, query)))
        sent = list({**dict(query), **changes}.items())
        return self.broadcasts.answer(method, path, APP.id, rest, sent, body, now_seconds=NOW)

    def refused(self, rest: str, body: Any, **changes: str) -> tuple[int, str]:
        answer = self.post(rest, body, **changes)
        assert isinstance(answer, Refusal), answer
        assert answer.sentence
        return answer.status, answer.code


def event(**changes: Any) -> Message:
    return {"name": "shipped", "channel": "private-orders.5", "data": '{"n": 1}', **changes}


# ------------------------------------------------------------------ signatures


def test_the_signature_of_the_documentation_is_ours() -> None:
    """Pusher's HTTP API reference, "Worked authentication example"."""
    app = App(tenant_id=3, key="278d425bdf160c739803", secret=b"7ad3773142a6692b25b8")
    body = b'{"name":"foo","channels":["project-3"],"data":"{\\"some\\":\\"data\\"}"}'
    query = parse_qsl(
        "auth_key=278d425bdf160c739803&auth_signature="
        "da454824c97ba181a32ccc17a72625ba02771f50b50e1e7430e47a1f3f457e6c"
        "&auth_timestamp=1353088179&auth_version=1.0&body_md5=ec365a775a4cd0599faeb73354201b6f"
    )
    assert request_problem(app, "POST", "/apps/3/events", query, body, NOW) is None
    assert request_problem(app, "POST", "/apps/4/events", query, body, NOW) is not None
    assert request_problem(app, "PUT", "/apps/3/events", query, body, NOW) is not None
    assert request_problem(app, "POST", "/apps/3/events", query, body + b" ", NOW) is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"auth_key": "another"},
        {"auth_version": "2.0"},
        {"auth_timestamp": str(NOW - 601)},
        {"auth_timestamp": "yesterday"},
        {"auth_timestamp": "١٣"},
        {"auth_signature": "0" * 64},
        {"auth_signature": "é"},
        {"body_md5": "0" * 32},
        {"info": "user_count"},
    ],
    ids=str,
)
async def test_a_request_that_is_not_the_apps_is_refused(
    changes: dict[str, str], autojump_clock: trio.testing.MockClock
) -> None:
    """401 for whatever was changed after signing; nothing is published."""
    house = House()
    async with pushers(house) as (client,):
        await client.subscribe("private-orders.5")
        assert BackEnd(house).refused("events", event(), **changes) == (401, "unauthenticated")
        assert await client.heard() == []


def test_old_and_early_requests_are_refused_by_the_clock() -> None:
    """Ten minutes in both directions, signed or not."""
    for difference, sound in ((600, True), (-600, True), (601, False), (-601, False)):
        query = [("auth_key", APP.key), ("auth_timestamp", str(NOW + difference)), ("auth_version", "1.0")]
        query.append(("auth_signature", request_signature(APP, "GET", "/apps/1/channels", query)))
        problem = request_problem(APP, "GET", "/apps/1/channels", query, b"", NOW)
        assert (problem is None) == sound


# ------------------------------------------------------------------ publishing


async def test_an_event_goes_to_who_is_on_the_channel(autojump_clock: trio.testing.MockClock) -> None:
    """Except the socket that is named; its data arrives as it was given."""
    house = House()
    async with pushers(house, 3) as (one, other, elsewhere):
        for client in (one, other):
            await client.subscribe("private-orders.5")
        await elsewhere.subscribe("private-orders.6")
        back_end = BackEnd(house)
        assert back_end.post("events", event()) == {}
        got = {"event": "shipped", "channel": "private-orders.5", "data": {"n": 1}}
        assert (await one.heard(), other.taken(), elsewhere.taken()) == ([got], [got], [])
        wanted = event(channel=None, channels=["private-orders.5", "private-orders.6"])
        back_end.post("events", {**wanted, "socket_id": one.socket_id})
        assert (await one.heard(), other.taken()) == ([], [got])
        assert elsewhere.taken() == [{**got, "channel": "private-orders.6"}]
    assert house.log.events == []


async def test_a_batch_is_sent_whole_or_not_at_all(autojump_clock: trio.testing.MockClock) -> None:
    """One event that may not be, and none is sent."""
    house = House()
    async with pushers(house) as (client,):
        await client.subscribe("private-orders.5")
        back_end = BackEnd(house)
        assert back_end.post("batch_events", {"batch": [event(name=f"e{n}") for n in range(10)]}) == {}
        assert [message["event"] for message in await client.heard()] == [f"e{n}" for n in range(10)]
        forged = event(channel="private-inbox", name="message.received")
        assert back_end.refused("batch_events", {"batch": [event(), forged]}) == (403, "forbidden")
        assert await client.heard() == []


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (event(data="x" * 10_241), 413),
        (event(channel=None, channels=[]), 400),
        (event(channel=None, channels=[f"c{n}" for n in range(101)]), 400),
        (event(name=""), 400),
        (event(name="x" * 201), 400),
        (event(channel="a b"), 400),
        (event(channel="conversations.5"), 400),
        (event(channel="#server-to-user-7"), 400),
        (event(data={"n": 1}), 400),
        (event(name="pusher_internal:member_added"), 403),
        (event(name="pusher:error"), 403),
        (event(name="mijra:gap"), 403),
        (b"{", 400),
        (b"", 400),
    ],
    ids=range(14),
)
async def test_events_that_may_not_be(body: Any, status: int, autojump_clock: trio.testing.MockClock) -> None:
    """Pusher's limits with its statuses."""
    assert BackEnd(House()).refused("events", body)[0] == status


@pytest.mark.parametrize(
    "name", ["message.received", "NewMessageReceived", "App\\Events\\ConversationAssigned"]
)
async def test_nobody_speaks_for_the_engine_on_its_channels(
    name: str, autojump_clock: trio.testing.MockClock
) -> None:
    """Its event names are its own there, in every style; other names and other channels are free."""
    house = House()
    async with pushers(house) as (client,):
        await client.subscribe("private-conversations.1")
        await client.subscribe("orders")
        back_end = BackEnd(house)
        forged = event(channel="private-conversations.1", name=name)
        assert back_end.refused("events", forged) == (403, "forbidden")
        assert await client.heard() == []
        back_end.post("events", {**forged, "name": "order.shipped"})
        back_end.post("events", {**forged, "channel": "orders"})
        assert [message["event"] for message in await client.heard()] == ["order.shipped", name]


async def test_the_api_has_a_rate(autojump_clock: trio.testing.MockClock) -> None:
    """Beyond the burst 429."""
    back_end = BackEnd(House())
    answers = [back_end.get("channels") for _ in range(1_001)]
    assert answers[0] == {"channels": {}}
    assert isinstance(answers[-1], Refusal)
    assert answers[-1].status == 429


# ------------------------------------------------------------------ asking


async def test_channels_and_who_is_on_them(autojump_clock: trio.testing.MockClock) -> None:
    """Occupied channels, by prefix; counts; the users of a presence channel, natives too."""
    house = House()
    native, one, other = Client(house), PusherClient(house), PusherClient(house)
    async with entered(native, one, other):
        await native.say({**AUTH, "token": "2|good"})
        one.taken(), other.taken()
        await native.say({"type": "subscribe", "channel": "presence-conversations.3"})
        for client in (one, other):
            await client.subscribe("presence-conversations.3")
            await client.subscribe("orders")
        back_end = BackEnd(house)
        assert back_end.get("channels") == {"channels": {"presence-conversations.3": {}, "orders": {}}}
        counted = back_end.get("channels", filter_by_prefix="presence-", info="user_count")
        assert counted == {"channels": {"presence-conversations.3": {"user_count": 2}}}
        assert isinstance(back_end.get("channels", info="user_count"), Refusal)
        assert back_end.get("channels/orders", info="subscription_count") == {
            "occupied": True,
            "subscription_count": 2,
        }
        assert back_end.get("channels/nobody") == {"occupied": False}
        users = back_end.get("channels/presence-conversations.3/users")
        assert users == {"users": [{"id": "8"}, {"id": "7"}]}
        assert isinstance(back_end.get("channels/orders/users"), Refusal)
        assert isinstance(back_end.get("elsewhere"), Refusal)
        info = event(channel="orders", info="subscription_count")
        assert back_end.post("events", info) == {"channels": {"orders": {"subscription_count": 2}}}


async def test_an_app_sees_its_own_tenant_alone(autojump_clock: trio.testing.MockClock) -> None:
    """Another tenant's app, with its own good signature: other channels, though they have the same names."""
    house = House()
    theirs = App(tenant_id=TENANT + 1, key="their-key", secret=b"their-secret")
    house.apps.add(theirs)
    async with pushers(house) as (client,):
        await client.subscribe("orders")
        back_end = BackEnd(house).broadcasts
        body = msgspec.json.encode(event(channel="orders"))
        query = parse_qsl(
            urlencode(
                {
                    "auth_key": theirs.key,
                    "auth_timestamp": NOW,
                    "auth_version": "1.0",
                    "body_md5": hashlib.md5(body).hexdigest(),
                }
            )
        )
        for app_id, good in ((theirs.id, True), (APP.id, False), ("0", False), ("x", False), ("١", False)):
            path = f"/apps/{app_id}/events"
            signed = [*query, ("auth_signature", request_signature(theirs, "POST", path, query))]
            answer = back_end.answer("POST", path, app_id, "events", signed, body, now_seconds=NOW)
            assert (answer == {}) == good
        assert await client.heard() == []
