"""pusher-js, laravel-echo and the server libraries of npm and PyPI, unmodified, against the real server."""

import re
from collections.abc import Iterator
from itertools import count
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import msgspec
import pusher
import pytest

import gateway.push.pusher
from tests.clients.node import NodeClient
from tests.gateway.conftest import NO_TLS, Business, Person, System
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.real_time

_numbers: Final = count(1)


@pytest.fixture
def node() -> Iterator[NodeClient]:
    with NodeClient() as client:
        yield client


def app_of(business: Business) -> dict[str, str]:
    app: dict[str, str] = business.owner.ok("GET", "/push-app")
    return app


def address(system: System) -> tuple[str, int]:
    parts = urlsplit(system.base_url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


def echo_options(business: Business, person: Person, **auth: Any) -> dict[str, Any]:
    """As the documentation shows them."""
    host, port = address(business.system)
    return {
        "broadcaster": "reverb",
        "key": app_of(business)["key"],
        "wsHost": host,
        "wsPort": port,
        "forceTLS": False,
        "enabledTransports": ["ws"],
        "authEndpoint": f"{business.system.base_url}/broadcasting/auth",
        "auth": {"headers": {"Authorization": f"Bearer {person.token}"}, "params": {}, **auth},
    }


def resume_line() -> str:
    """The one line, from the page for client authors."""
    found = re.search(r"^    (echo\.connector.*?;)$", gateway.push.pusher.__doc__, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


def connect(node: NodeClient, business: Business, person: Person, *, resume: bool = False) -> str:
    line = resume_line() if resume else ""
    node.do("echo", options=echo_options(business, person), resume=line)
    connected = node.next("state", state="connected")
    return str(connected["socket_id"])


class Talk:
    """A customer's conversation that goes on when the test says so."""

    def __init__(self, business: Business) -> None:
        self.business = business
        self.number = f"9667{next(_numbers):08d}"
        self.write("first")
        found = business.owner.ok("GET", "/conversations", params={"search": self.number, "limit": 1})
        self.id: int = found["items"][0]["id"]
        self.channel = f"conversations.{self.id}"

    def write(self, text: str) -> None:
        self.business.customer_writes(self.number, text)

    def assign(self, person: Person) -> None:
        self.business.owner.ok("POST", f"/conversations/{self.id}/assign", {"user_id": person.user_id})


def text_of(happened: dict[str, Any]) -> str:
    return str(happened["data"]["message"]["content"]["body"])


# ------------------------------------------------------------------ Echo


def test_echo_hears_what_it_may_and_is_told_what_it_may_not(node: NodeClient, business: Business) -> None:
    """`Echo.private`: events as the API gives them, with their cursor. An agent may not hear the inbox; the
    public form is refused on the channel, and says why."""
    talk = Talk(business)
    connect(node, business, business.agent)
    node.do("private", channel=talk.channel, events=[".message.received"])
    node.next("subscribed", channel=f"private-{talk.channel}")
    node.do("private", channel="inbox")
    assert node.next("refused", channel="private-inbox")["error"]["status"] == 403
    node.do("channel", channel=talk.channel)
    refused = node.next("refused", channel=talk.channel)
    assert f"private-{talk.channel}" in refused["error"]["error"]
    talk.write("second")
    event = node.next("event")
    assert (text_of(event), event["data"]["conversation"]["id"]) == ("second", talk.id)
    assert event["data"]["cursor"] > 0


def test_echo_with_the_names_it_has_always_listened_for(node: NodeClient, business: Business) -> None:
    """`listen("NewMessageReceived")` without a dot, as in an application written for Laravel."""
    talk = Talk(business)
    options = echo_options(business, business.owner, params={"names": "laravel"})
    node.do("echo", options=options, resume="")
    node.do("private", channel="inbox", events=["NewMessageReceived"])
    node.next("subscribed")
    talk.write("second")
    assert text_of(node.next("event")) == "second"


def test_echo_on_a_presence_channel(node: NodeClient, business: Business) -> None:
    """Here, joining, whispers in both directions, leaving: two clients on one conversation."""
    talk = Talk(business)
    channel = f"presence-{talk.channel}"
    with NodeClient() as other:
        connect(node, business, business.agent)
        node.do("join", channel=talk.channel)
        me: dict[str, Any] = {"user_id": business.agent.user_id, "name": "Agent"}
        assert node.next("here", channel=channel)["members"] == [me]
        connect(other, business, business.owner)
        other.do("join", channel=talk.channel)
        them: dict[str, Any] = {"user_id": business.owner.user_id, "name": "Owner"}
        assert node.next("joining")["member"] == them
        members = other.next("here")["members"]
        assert sorted(each["user_id"] for each in members) == sorted((me["user_id"], them["user_id"]))
        for client in (node, other):
            client.do("hear", channel=talk.channel, whisper="typing")
            client.do("hear", channel=talk.channel, whisper="moved")
        other.do("whisper", channel=talk.channel, whisper="typing", data={"name": "Owner"})
        assert node.next("whisper", whisper="typing")["data"] == {"name": "Owner"}
        node.do("whisper", channel=talk.channel, whisper="moved", data={"x": 1})
        assert other.next("whisper", whisper="moved")["data"] == {"x": 1}
        other.do("leave", channel=talk.channel)
        assert node.next("leaving")["member"] == them


def test_the_one_line_of_the_documentation_resumes(node: NodeClient, business: Business) -> None:
    """Disconnected, with messages meanwhile, and back: each of them once and in order, then what is new. A
    client without the line misses what came meanwhile, and nothing else is different for it."""
    talk = Talk(business)
    with NodeClient() as ordinary:
        for client, resume in ((node, True), (ordinary, False)):
            connect(client, business, business.owner, resume=resume)
            client.do("private", channel=talk.channel, events=[".message.received"])
            client.next("subscribed")
        talk.write("live")
        for client in (node, ordinary):
            assert text_of(client.next("event")) == "live"
            client.do("disconnect")
            client.next("state", state="disconnected")
        for number in range(5):
            talk.write(f"missed {number}")
        for client in (node, ordinary):
            client.do("connect")
            client.next("subscribed")
        heard = [text_of(node.next("event")) for _ in range(5)]
        assert heard == [f"missed {number}" for number in range(5)]
        talk.write("new")
        assert text_of(node.next("event")) == text_of(ordinary.next("event")) == "new"


def test_rights_that_are_lost_are_told_within_a_second(node: NodeClient, business: Business) -> None:
    """A conversation goes to a colleague; the agent's channel ends, and nothing more of it is heard. A
    revoked token ends everything it opened."""
    talk = Talk(business)
    agent = business.person("agent", business.agent.user_id)
    connect(node, business, agent)
    node.do("private", channel=talk.channel, events=[".message.received", ".conversation.assigned"])
    node.next("subscribed")
    node.do("private", channel=f"users.{agent.user_id}")
    node.next("subscribed")
    talk.assign(business.colleague)
    refused = node.until(lambda each: each["is"] == "refused", seconds=1)
    assert refused["channel"] == f"private-{talk.channel}"
    talk.write("not for you")
    mine = [each for each in agent.ok("GET", "/api-tokens")["items"] if each["current"]]
    agent.ok("DELETE", f"/api-tokens/{mine[0]['id']}")
    refused = node.until(lambda each: each["is"] == "refused", seconds=1)
    assert refused["channel"] == f"private-users.{agent.user_id}"
    assert not any(each["is"] == "event" and each["event"] == ".message.received" for each in node.seen)


def test_an_unknown_key_makes_the_client_give_up(node: NodeClient, business: Business) -> None:
    """A close code that says so: no knocking for ever."""
    options = {**echo_options(business, business.owner), "key": "unknown"}
    node.do("echo", options=options, resume="")
    assert node.next("error")["error"]["data"]["code"] == 4001
    node.next("state", state="disconnected")


# ------------------------------------------------------------------ back ends


def npm_config(business: Business) -> dict[str, Any]:
    host, port = address(business.system)
    app = app_of(business)
    return {"appId": app["app_id"], "key": app["key"], "secret": app["secret"], "host": host, "port": port}


def test_a_back_end_on_node_publishes_through_the_engine(node: NodeClient, business: Business) -> None:
    """npm's `pusher`: an event, a batch, the socket that is left out, channels; a forged one is refused."""
    talk = Talk(business)
    socket_id = connect(node, business, business.owner)
    node.do("subscribe", channel="orders")
    node.next("event", event="pusher:subscription_succeeded")
    node.do("private", channel=talk.channel, events=[".order.shipped"])
    node.next("subscribed")
    node.do("server", config=npm_config(business))
    node.do("trigger", channels=["orders", f"private-{talk.channel}"], event="order.shipped", data={"n": 1})
    heard = [node.next("event")["data"] for _ in range(2)]
    assert heard == [{"n": 1}, {"n": 1}]
    assert node.answer() == (200, {})
    params = {"socket_id": socket_id}
    node.do("trigger", channels=["orders"], event="own", data={"n": 2}, params=params)
    assert node.answer()[0] == 200
    node.do("batch", batch=[{"channel": "orders", "name": f"b{n}", "data": {"n": n}} for n in (3, 4)])
    assert [node.next("event")["event"] for _ in range(2)] == ["b3", "b4"]
    assert node.answer()[0] == 200
    node.do("get", path="/channels", params={"filter_by_prefix": "ord"})
    assert node.answer() == (200, {"channels": {"orders": {}}})
    node.do("trigger", channels=f"private-{talk.channel}", event="message.received", data={})
    assert node.answer()[0] == 403
    node.do("server", config={**npm_config(business), "secret": "wrong"})
    node.do("trigger", channels=["orders"], event="x", data={})
    assert node.answer()[0] == 401


def test_a_back_end_in_python_publishes_through_the_engine(business: Business) -> None:
    """PyPI's `pusher`, whose authorization of a channel is good here too."""
    config = npm_config(business)
    client = pusher.Pusher(
        app_id=config["appId"],
        key=config["key"],
        secret=config["secret"],
        host=config["host"],
        port=config["port"],
        ssl=False,
    )
    assert client.trigger(["orders", "private-orders.5"], "shipped", {"n": 1}) == {}
    assert client.trigger_batch([{"channel": "orders", "name": "b", "data": {"n": 1}}]) == {}
    assert client.channels_info("presence-", ["user_count"]) == {"channels": {}}
    assert client.channel_info("orders")["occupied"] is False
    assert client.users_info("presence-lobby") == {"users": []}
    with pytest.raises(pusher.errors.PusherForbidden):
        client.trigger("private-inbox", "message.received", {})
    stranger = pusher.Pusher("1", config["key"], "wrong", host=config["host"], port=config["port"], ssl=False)
    with pytest.raises(pusher.errors.PusherBadStatus):
        stranger.trigger("orders", "x", {})


# ------------------------------------------------------------------ authorization by hand


def authorize(business: Business, token: str | None, **options: Any) -> httpx.Response:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    url = f"{business.system.base_url}/broadcasting/auth"
    return httpx.post(url, headers=headers, timeout=PATIENCE_SECONDS, verify=NO_TLS, **options)


def test_authorization_takes_a_form_or_json(business: Business) -> None:
    """The same answer; it names the user, and the signature is the app's."""
    wish = {"socket_id": "1.2", "channel_name": "private-inbox", "since": "17"}
    token = business.owner.token
    by_form, by_json = authorize(business, token, data=wish), authorize(business, token, json=wish)
    assert by_form.status_code == by_json.status_code == 200
    assert by_form.json() == by_json.json()
    assert by_form.json()["auth"].startswith(app_of(business)["key"] + ":")
    data = msgspec.json.decode(by_form.json()["channel_data"])
    assert (data["user_id"], data["since"]) == (str(business.owner.user_id), 17)


@pytest.mark.parametrize(
    ("who", "wish", "status"),
    [
        ("agent", {"channel_name": "private-inbox"}, 403),
        ("agent", {"channel_name": "private-conversations.9007199254740991"}, 403),
        ("owner", {"channel_name": "inbox"}, 403),
        ("owner", {"channel_name": "private-orders.5"}, 403),
        ("owner", {"channel_name": "private-users.1"}, 403),
        ("owner", {"channel_name": ""}, 403),
        ("owner", {"channel_name": "private-inbox", "socket_id": "x"}, 422),
        ("owner", {"channel_name": "private-inbox", "since": "yesterday"}, 422),
        ("owner", {"channel_name": "private-inbox", "tenant": "no-such-tenant"}, 404),
        (None, {"channel_name": "private-inbox"}, 401),
    ],
    ids=range(10),
)
def test_who_may_not_listen_is_not_authorized(
    who: str | None, wish: dict[str, str], status: int, business: Business
) -> None:
    """403 for what one may not see, whether it exists or not."""
    token = None if who is None else getattr(business, who).token
    assert authorize(business, token, data={"socket_id": "1.2", **wish}).status_code == status


def test_another_tenants_conversation_is_none(business: Business, neighbour: Business) -> None:
    """Their token, their app, our conversation: refused, as if there were none."""
    talk = Talk(business)
    wish = {"socket_id": "1.2", "channel_name": f"private-{talk.channel}"}
    assert authorize(business, business.owner.token, data=wish).status_code == 200
    assert authorize(business, neighbour.owner.token, data=wish).status_code == 403
    assert (
        authorize(business, neighbour.owner.token, data={**wish, "tenant": business.slug}).status_code == 404
    )
