"""The push on the real server, natively: tickets, apps, rights that end, waiting for events by pull."""

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import httpx
import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

from engine.reading import Landlord, PushApp
from gateway.push.pusher.apps import Apps
from gateway.push.rights import Viewer
from gateway.push.tickets import SECONDS, Tickets
from gateway.push_apps import PushApps
from storage.vault import Vault
from tests.gateway.conftest import Business, Person
from tests.gateway.push_house import Client, House, entered, hear, opened, talk
from tests.gateway.test_hub import TENANT
from tests.logs import capture_logs

pytestmark = pytest.mark.real_time


def ws_url(business: Business) -> str:
    return business.system.base_url.replace("http", "ws", 1) + "/ws"


async def never_silent(socket: WebSocketConnection) -> None:
    while True:
        await hear(socket)


async def in_thread(person: Person, method: str, path: str, body: object = None) -> httpx.Response:
    return await trio.to_thread.run_sync(lambda: person.call(method, path, body))


# ------------------------------------------------------------------ tickets


async def test_a_ticket_opens_one_connection_and_once(business: Business) -> None:
    """In the URL, where a token has no business to be; the second time it is worth nothing."""
    ticket = business.agent.ok("POST", "/push-tickets")["ticket"]
    url = f"{ws_url(business)}?ticket={ticket}"
    async with opened(url) as socket:
        welcome = await hear(socket)
        assert (welcome["type"], welcome["user_id"]) == ("welcome", business.agent.user_id)
        refused = await talk(socket, {"type": "subscribe", "channel": "inbox"})
        assert refused["code"] == "forbidden"  # an agent's ticket gives an agent's rights
    async with opened(url) as socket:
        with pytest.raises(ConnectionClosed) as closed:
            await hear(socket)
        assert closed.value.reason is not None
        assert closed.value.reason.code == 4001


async def test_a_ticket_in_the_auth_message(business: Business) -> None:
    """For clients that would rather not have it in the URL either."""
    ticket = business.owner.ok("POST", "/push-tickets")["ticket"]
    async with opened(ws_url(business)) as socket:
        assert (await talk(socket, {"type": "auth", "ticket": ticket}))["type"] == "welcome"


@pytest.mark.real_time
async def test_a_ticket_ends_with_its_token(new_business: Callable[[], Business]) -> None:
    """Made and not used yet, it is worth no more than the token it was made with."""
    business = await trio.to_thread.run_sync(new_business)
    person = business.person("owner", business.owner.user_id)
    ticket = person.ok("POST", "/push-tickets")["ticket"]
    person.ok("DELETE", f"/api-tokens/{person.token.partition('|')[0]}")
    async with opened(f"{ws_url(business)}?ticket={ticket}") as socket:
        with pytest.raises(ConnectionClosed):
            await hear(socket)


async def test_tickets_run_out(autojump_clock: trio.testing.MockClock) -> None:
    """After half a minute; and unused ones are bounded, the oldest go first."""
    tickets = Tickets()
    viewer = Viewer(tenant_id=TENANT, user_id=7, name="Noor")
    early, late = tickets.make(viewer), tickets.make(viewer)
    await trio.sleep(SECONDS - 1)
    assert tickets.use(early) == viewer
    await trio.sleep(2)
    assert tickets.use(late) is None
    assert tickets.use("never made") is None
    many = [tickets.make(viewer) for _ in range(10_001)]
    assert len(tickets) == 10_000
    assert tickets.use(many[0]) is None
    assert tickets.use(many[-1]) == viewer


async def test_a_ticket_in_the_model(autojump_clock: trio.testing.MockClock) -> None:
    """No auth message is waited for when the ticket stands in the URL."""
    house = House()
    ticket = house.rights.tickets.make(Viewer(tenant_id=TENANT, user_id=7, name="Noor"))
    client = Client(house, query=f"ticket={ticket}")
    async with entered(client):
        (welcome,) = await client.heard()
        assert welcome["type"] == "welcome"


# ------------------------------------------------------------------ apps


def test_the_app_is_its_owners_business(business: Business, neighbour: Business) -> None:
    """Each tenant has one, and it stays the same; agents do not see its secret."""
    app = business.owner.ok("GET", "/push-app")
    assert app["app_id"] == str(business.id)
    assert (len(app["key"]), len(app["secret"])) == (20, 40)
    assert business.admin.ok("GET", "/push-app") == app
    assert business.agent.refused("GET", "/push-app")[0] == 403
    theirs = neighbour.owner.ok("GET", "/push-app")
    assert theirs["key"] != app["key"]
    assert theirs["secret"] != app["secret"]


class ModelLandlord:
    """Two tenants, older than their apps."""

    def __init__(self) -> None:
        self.apps: dict[int, PushApp] = {}

    async def all_tenants(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(id=1), SimpleNamespace(id=2)]

    async def push_apps(self) -> list[PushApp]:
        return list(self.apps.values())

    async def add_push_app(self, app: PushApp) -> PushApp:
        return self.apps.setdefault(app.tenant_id, app)


async def test_older_tenants_get_an_app_and_keep_it() -> None:
    """At the start; the secret is sealed, and one that cannot be opened is left out instead of replaced."""
    landlord = ModelLandlord()
    key = bytes(32)

    async def started(master_key: bytes) -> Apps:
        apps = Apps()
        loaded = PushApps(cast(Landlord, landlord), Vault(master_key), apps, lambda: 0)
        await loaded.load()
        return apps

    first, second = await started(key), await started(key)
    made = first.of_tenant(1)
    assert made is not None
    assert second.by_key(made.key) == second.by_id("1") == made
    assert made.secret not in landlord.apps[1].secret
    assert made.secret.decode() not in repr(made)
    with capture_logs() as lines:
        strangers = await started(b"x" * 32)
    assert len(strangers) == 0
    assert len(landlord.apps) == 2
    assert [line["event"] for line in lines].count("push.app_unreadable") >= 2


# ------------------------------------------------------------------ rights that end


@pytest.mark.parametrize("change", ["role", "deactivation", "password", "token", "suspension", "removal"])
async def test_what_changes_a_persons_rights_ends_what_they_gave(
    change: str, new_business: Callable[[], Business]
) -> None:
    """The inbox of an admin ends, or the whole connection, without a word from the client."""
    business = await trio.to_thread.run_sync(new_business)
    admin = await trio.to_thread.run_sync(lambda: business.admin)
    path = f"/users/{admin.user_id}"
    calls = {
        "role": ("PATCH", path, {"role": "agent"}),
        "deactivation": ("PATCH", path, {"active": False}),
        "password": ("PATCH", path, {"password": "another long password"}),
        "removal": ("DELETE", path, None),
    }
    async with opened(ws_url(business)) as socket:
        await talk(socket, {"type": "auth", "token": admin.token, "tenant": business.slug})
        await talk(socket, {"type": "subscribe", "channel": "inbox"})
        if change == "token":
            answer = await in_thread(admin, "DELETE", f"/api-tokens/{admin.token.partition('|')[0]}")
        elif change == "suspension":
            suspend = f"/tenants/{business.id}/toggle-status"
            answer = await trio.to_thread.run_sync(
                lambda: business.system.landlord("PATCH", suspend, {"status": "suspended"})
            )
        else:
            answer = await in_thread(business.owner, *calls[change])
        assert answer.status_code == 200, answer.text
        if change == "role":
            heard = await hear(socket)
            while heard["type"] == "event":  # that of the change itself
                heard = await hear(socket)
            assert (heard["type"], heard["channel"]) == ("error", "inbox")
        else:
            with pytest.raises(ConnectionClosed) as closed:
                await never_silent(socket)
            assert closed.value.reason is not None
            assert closed.value.reason.code == 4005


async def test_a_token_that_expires_ends_its_connection(new_business: Callable[[], Business]) -> None:
    """By itself, and not before its time."""
    business = await trio.to_thread.run_sync(new_business)
    heard: list[str] = []
    code: int | None = None
    ends, seconds = 0, 4
    while not heard and seconds < 60:  # a slow machine is here when the token is over
        ends = int(time.time()) + seconds
        expires_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(ends))
        body = {"name": "short", "expires_at": expires_at}
        token = business.owner.ok("POST", "/api-tokens", body)["token"]
        async with opened(ws_url(business)) as socket:
            try:
                heard.append((await talk(socket, {"type": "auth", "token": token}))["type"])
                heard.append((await hear(socket))["type"])
            except ConnectionClosed as closed:
                code = closed.reason.code if closed.reason else None
        seconds *= 4
    assert (heard, code) == (["welcome"], 4005)
    assert time.time() >= ends


# ------------------------------------------------------------------ by pull


async def test_waiting_for_the_next_event(new_business: Callable[[], Business]) -> None:
    """Nothing yet: the answer comes with the event, or empty after the time; what is there comes at once."""
    business = await trio.to_thread.run_sync(new_business)
    number = "966699999001"
    business.customer_writes(number, "first")
    head = business.owner.ok("GET", "/events", params={"since": 0, "limit": 1})["head"]
    started = time.monotonic()
    empty = business.owner.ok("GET", "/events", params={"since": head, "wait": 1})
    assert (empty["items"], empty["cursor"]) == ([], head)
    assert time.monotonic() - started >= 1

    async with trio.open_nursery() as nursery:

        async def write_later() -> None:
            await trio.sleep(0.5)
            await trio.to_thread.run_sync(business.customer_writes, number, "second")

        nursery.start_soon(write_later)
        params = {"since": head, "wait": 25}
        started = time.monotonic()
        page = await trio.to_thread.run_sync(lambda: business.owner.ok("GET", "/events", params=params))
    assert page["items"][0]["cursor"] == head + 1
    assert time.monotonic() - started >= 0.5
    again = business.owner.ok("GET", "/events", params={"since": head, "wait": 25})
    assert again["items"][: len(page["items"])] == page["items"]


async def test_waiting_for_one_channel(new_business: Callable[[], Business]) -> None:
    """Events of other channels do not end the wait, and the cursor goes on with them."""
    business = await trio.to_thread.run_sync(new_business)
    mine, other = business.conversation("mine"), business.conversation("another")
    channel = f"conversations.{mine['id']}"
    head = business.owner.ok("GET", "/events", params={"since": 0, "limit": 1})["head"]
    async with trio.open_nursery() as nursery:

        async def change() -> None:
            for conversation in (other, mine):
                await trio.sleep(0.4)
                path = f"/conversations/{conversation['id']}/notes"
                await in_thread(business.owner, "POST", path, {"body": "noted"})

        nursery.start_soon(change)
        params = {"since": head, "wait": 25, "channel": channel}
        page = await trio.to_thread.run_sync(lambda: business.owner.ok("GET", "/events", params=params))
    assert [channel in item["channels"] for item in page["items"]] == [True]
    assert page["cursor"] > head + 1


@pytest.mark.parametrize("query", ["wait=26", "wait=-1", "wait=x"])
def test_waits_are_bounded(query: str, business: Business) -> None:
    """Longer than a proxy lets a request be silent makes no sense."""
    assert business.owner.refused("GET", f"/events?{query}") == (422, "validation_failed")
