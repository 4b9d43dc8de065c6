"""TikTok from outside: a person writes, an agent answers, through the real server and database and the played
platform."""

from collections.abc import AsyncIterator
from itertools import count

import pytest
from msgspec import Struct

from adapters.port import Play
from adapters.simulators import Fault
from adapters.simulators.media import png
from adapters.simulators.playing.cast import Customer
from adapters.simulators.tiktok.api import WINDOW_MESSAGES_MAX
from adapters.simulators.tiktok.platform import TikTokSimulator
from adapters.simulators.tiktok.standing import TikTokStandIn
from tests.fixtures.system import QUICK, Agent, Business, Json, until

pytestmark = pytest.mark.real_time

_numbers = count(1)
_SECRETS = ("access_token", "refresh_token", "client_secret")


class Shop(Struct, kw_only=True):
    """A business account, played."""

    sim: TikTokSimulator
    agent: Agent
    channel_id: int

    def customer(self) -> Customer:
        found: Customer = self.sim.cast.adopt(f"c0NvErSaTiOn+{next(_numbers):04d}==")
        return found

    async def conversation(self, text: str = "Hello", customer: Customer | None = None) -> Json:
        """One that a customer has just opened."""
        return await self.told(self.sim.send(customer or self.customer(), "text", text))

    async def told(self, mid: str) -> Json:
        async def found() -> Json | None:
            for each in await self.agent.items("conversations", channel_id=self.channel_id):
                messages = await self.agent.messages(each["id"])
                if any(message["platform_message_id"] == mid for message in messages):
                    return each
            return None

        conversation: Json = await until(f"{mid} is stored", found)
        return conversation

    async def send(self, conversation: Json, body: Json) -> Json:
        made: Json = await self.agent.post(f"conversations/{conversation['id']}/messages", body)
        return made

    async def becomes(self, status: str) -> Json:
        async def reached() -> Json | None:
            shown: Json = await self.agent.get(f"channels/{self.channel_id}")
            return shown if shown["status"] == status else None

        shown: Json = await until(f"the channel is {status}", reached)
        return shown

    def payloads(self) -> list[Json]:
        """The messages that the platform has accepted, in order."""
        found = (self.sim.ledger.payload(each.id) for each in self.sim.ledger.sends)
        return [each for each in found if each is not None]

    def texts(self) -> list[str]:
        return [each["text"]["body"] for each in self.payloads()]


@pytest.fixture
async def shop(own_line: Business) -> AsyncIterator[Shop]:
    keys = TikTokStandIn().new_keys()
    port = own_line.server.simulator_ports_free.pop()
    account = TikTokStandIn().simulator(Play(accounts=[keys])).account()
    try:
        async with (
            TikTokSimulator([account], settings=QUICK).running(port=port) as sim,
            own_line.agent() as agent,
        ):
            connected = await agent.post(
                "channels",
                {
                    "platform": "tiktok",
                    "name": f"tiktok {next(_numbers)}",
                    "external_id": keys["open_id"],
                    "business_account_id": keys["client_key"],
                    "credentials": {name: keys[name] for name in _SECRETS},
                    "settings": {"base_url": sim.base_url},
                },
            )
            await sim.connect(connected["webhook_url"])
            yield Shop(sim=sim, agent=agent, channel_id=connected["id"])
            await agent.delete(f"channels/{connected['id']}")
    finally:
        own_line.server.simulator_ports_free.append(port)


async def test_a_customer_is_answered_and_the_answer_is_read(shop: Shop) -> None:
    """Once at the platform and once in the history, although the platform echoes what is sent; the mark makes
    it read."""
    conversation = await shop.conversation("How much is shipping?")
    assert conversation["customer"]["name"] == shop.sim.cast.everybody[0].name
    sent = await shop.send(conversation, {"type": "text", "content": "It is free."})
    read = await shop.agent.reaches(sent, "read")
    assert read["platform_message_id"] == shop.sim.ledger.sends[0].id
    assert shop.texts() == ["It is free."]
    await shop.sim.wait_quiet()
    directions = [each["direction"] for each in await shop.agent.messages(conversation["id"])]
    assert directions == ["inbound", "outbound"]


async def test_what_is_written_in_the_app_is_part_of_the_history(shop: Shop) -> None:
    """As the business' own, answered by nobody."""
    customer = shop.customer()
    conversation = await shop.conversation(customer=customer)
    mid = shop.sim.echo(customer, "Answered from the phone")
    assert (await shop.told(mid))["id"] == conversation["id"]
    last = (await shop.agent.messages(conversation["id"]))[-1]
    assert (last["direction"], last["metadata"]["app"]) == ("outbound", "APP")


async def test_pictures_go_both_ways_and_choices_as_a_card(shop: Shop) -> None:
    """A customer's picture is fetched with the token; ours is uploaded; what no card holds goes as text."""
    customer = shop.customer()
    conversation = await shop.told(shop.sim.send(customer, "image"))

    async def fetched() -> bool:
        (message,) = await shop.agent.messages(conversation["id"])
        return bool(message["attachments"][0]["state"] == "stored")

    await until("the picture is here", fetched)
    options = [{"id": "a", "title": "Blue"}, {"id": "b", "title": "Red"}]
    card = {"kind": "buttons", "body": "Which one?", "options": options}
    await shop.send(conversation, {"type": "interactive", "interactive": card})
    many = {**card, "kind": "list", "button": "Take it"}
    told = await shop.send(conversation, {"type": "interactive", "interactive": many})
    assert told["content"]["sent_as"] == "Sent as text with a numbered list of the choices."
    uploaded = await shop.agent.http.post("upload", files={"file": ("a.png", png(1, 2, 3), "image/png")})
    body = {"type": "image", "attachments": [{"file_id": uploaded.json()["data"]["id"]}]}
    await shop.agent.reaches(await shop.send(conversation, body), "read")
    first, second, third = shop.payloads()
    assert [each["title"] for each in first["template"]["buttons"]] == ["Blue", "Red"]
    assert second["text"]["body"] == "Which one?\n1. Blue\n2. Red"
    assert third["message_type"] == "IMAGE"


async def test_ten_messages_go_out_and_the_next_when_the_customer_has_written(shop: Shop) -> None:
    """The eleventh is refused before it is stored, and the platform has to refuse nothing."""
    customer = shop.customer()
    conversation = await shop.conversation(customer=customer)
    text = {"type": "text", "content": "Hi"}
    sent = [await shop.send(conversation, text) for _ in range(WINDOW_MESSAGES_MAX)]
    await shop.agent.reaches(sent[-1], "read")
    path = f"conversations/{conversation['id']}/messages"
    refused = await shop.agent.call("POST", path, text)
    assert (refused.status_code, refused.json()["code"]) == (409, "window_used_up")
    await shop.told(shop.sim.send(customer, "text", "And?"))
    await shop.agent.reaches(await shop.send(conversation, text), "read")
    assert len(shop.payloads()) == WINDOW_MESSAGES_MAX + 1
    assert not shop.sim.ledger.refusals


async def test_a_send_whose_answer_is_lost_is_settled_by_its_echo(shop: Shop) -> None:
    """The platform took it and cut the line: the echo says so, and it is not sent again."""
    conversation = await shop.conversation()
    shop.sim.fault(Fault(kind="reset", accepts=True, times=1))
    sent = await shop.send(conversation, {"type": "text", "content": "Cut off"})
    await shop.agent.reaches(sent, "read")
    await shop.sim.wait_quiet()
    assert shop.texts() == ["Cut off"]
    assert len(await shop.agent.messages(conversation["id"])) == 2


async def test_throttling_slows_down_and_loses_nothing(shop: Shop) -> None:
    """Refused for speed with the time to wait, it goes out afterwards."""
    conversation = await shop.conversation()
    shop.sim.fault(Fault(kind="error", code=40100, status=429, retry_after_seconds=0.3, times=1))
    sent = await shop.send(conversation, {"type": "text", "content": "Slowly"})
    await shop.agent.reaches(sent, "read")
    assert shop.texts() == ["Slowly"]


async def test_a_token_that_ends_is_renewed_and_what_waits_goes_out(shop: Shop) -> None:
    """Without a person: nothing is lost, nothing is doubled, in order."""
    conversation = await shop.conversation()
    before = shop.sim.account()
    shop.sim.expire_token()
    sent = [await shop.send(conversation, {"type": "text", "content": f"{number}"}) for number in range(3)]
    for message in sent:
        await shop.agent.reaches(message, "read")
    assert shop.texts() == ["0", "1", "2"]
    now = shop.sim.account()
    assert now.access_token != before.access_token
    assert now.refresh_token != before.refresh_token
    await shop.becomes("active")


async def test_access_that_is_taken_away_parks_what_is_sent_until_it_is_given_again(shop: Shop) -> None:
    """The platform says so by itself, before anything is sent: the channel needs attention and says why, and
    nothing knocks; afterwards all goes out in order."""
    conversation = await shop.conversation()
    shop.sim.remove_authorization()
    marked = await shop.becomes("needs_attention")
    assert "disconnected the app" in marked["status_note"]
    sent = [await shop.send(conversation, {"type": "text", "content": f"{number}"}) for number in range(3)]
    await shop.sim.wait_quiet()
    assert shop.payloads() == []
    assert not shop.sim.ledger.refusals
    shop.sim.renew_token("another-token")
    await shop.agent.put(f"channels/{shop.channel_id}", {"credentials": {"access_token": "another-token"}})
    for message in sent:
        await shop.agent.reaches(message, "read")
    assert shop.texts() == ["0", "1", "2"]
    await shop.becomes("active")


async def test_what_a_webhook_does_not_say_is_read(shop: Shop) -> None:
    """Of people in the EEA, Switzerland and the UK it tells nothing; while the lists cannot be read, it keeps
    what it has told, and repeats it."""
    shop.sim.fault(Fault(kind="error", code=50000, route="management", times=2))
    conversation = await shop.told(shop.sim.send(shop.customer(), "stripped", "Is it vegan?"))
    (message,) = await shop.agent.messages(conversation["id"])
    assert message["content"]["body"] == "Is it vegan?"
    await shop.agent.reaches(await shop.send(conversation, {"type": "text", "content": "Yes."}), "read")
    outcomes = [each.outcome for each in shop.sim.ledger.attempts]
    assert outcomes[:2] == ["503", "503"]
