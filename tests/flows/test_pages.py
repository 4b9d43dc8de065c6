"""Messenger and Instagram from outside: a customer writes, an agent answers, through the real server and
database and the played platforms."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Final

import pytest
import trio
from msgspec import Struct

from adapters.port import Play
from adapters.simulators import Fault
from adapters.simulators.media import png
from adapters.simulators.messaging.platform import ACCOUNT_FIELDS, MessagingSimulator
from adapters.simulators.messaging.standing import MessagingStandIn
from tests.fixtures.system import QUICK, Agent, Business, Json, until

pytestmark = pytest.mark.real_time

_numbers = count(1)

LABELS: Final = {"facebook": "m_", "instagram": "aWdf"}


class Page(Struct, kw_only=True):
    """A business's account on one of the two, played."""

    platform: str
    sim: MessagingSimulator
    agent: Agent
    channel_id: int

    async def conversation(self, text: str = "Hello", key: str | None = None) -> Json:
        """One that a customer has just opened."""
        mid = self.sim.say(key or f"7{next(_numbers):015d}", text)

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

    def payloads(self) -> list[Json]:
        """The messages that the platform has accepted, in order."""
        found = (self.sim.ledger.payload(each.id) for each in self.sim.ledger.sends)
        return [each["message"] for each in found if each is not None]


@asynccontextmanager
async def page(business: Business, platform: str) -> AsyncIterator[Page]:
    keys = MessagingStandIn(platform).new_keys()
    field = ACCOUNT_FIELDS[platform]
    port = business.server.simulator_ports_free.pop()
    account = MessagingStandIn(platform).simulator(Play(accounts=[keys])).account()
    try:
        async with (
            MessagingSimulator(platform, [account], settings=QUICK).running(port=port) as sim,
            business.agent() as agent,
        ):
            connected = await agent.post(
                "channels",
                {
                    "platform": platform,
                    "name": f"{platform} {next(_numbers)}",
                    "external_id": keys[field],
                    "credentials": {name: value for name, value in keys.items() if name != field},
                    "settings": {"base_url": sim.base_url},
                },
            )
            await sim.connect(connected["webhook_url"])
            yield Page(platform=platform, sim=sim, agent=agent, channel_id=connected["id"])
            await agent.delete(f"channels/{connected['id']}")
    finally:
        business.server.simulator_ports_free.append(port)


@pytest.fixture(params=["facebook", "instagram"])
async def any_page(own_line: Business, request: pytest.FixtureRequest) -> AsyncIterator[Page]:
    async with page(own_line, str(request.param)) as opened:
        yield opened


async def test_a_customer_is_answered_and_the_answer_is_read(any_page: Page) -> None:
    """Once at the platform and once in the history, although the platform echoes what is sent; the watermark
    makes it read; and the customer gets their name."""
    conversation = await any_page.conversation("Is this in stock?")
    path = f"conversations/{conversation['id']}"
    sent = await any_page.send(conversation, {"type": "text", "content": "Yes, it is."})
    read = await any_page.agent.reaches(sent, "read")
    assert read["platform_message_id"].startswith(LABELS[any_page.platform])
    assert [each["text"] for each in any_page.payloads()] == ["Yes, it is."]
    await any_page.sim.wait_quiet()
    assert [each["direction"] for each in await any_page.agent.messages(conversation["id"])] == [
        "inbound",
        "outbound",
    ]

    async def named() -> bool:
        name: str = (await any_page.agent.get(path))["customer"]["name"]
        return not name.isdigit()

    assert await until("the customer has a name", named)


async def test_choices_places_and_files_go_out(any_page: Page) -> None:
    """Buttons as a template, quick replies under the text, a list as cards, a place as text of which the
    agent is told, a file."""
    conversation = await any_page.conversation()
    options = [{"id": "a", "title": "Blue"}, {"id": "b", "title": "Red"}]
    for kind in ("buttons", "quick_replies", "list"):
        interactive = {"kind": kind, "body": "Which one?", "options": options, "button": "Take it"}
        if kind != "list":
            del interactive["button"]
        await any_page.send(conversation, {"type": "interactive", "interactive": interactive})
    place = {"latitude": 21.5, "longitude": 39.2, "name": "Shop"}
    told = await any_page.send(conversation, {"type": "location", "location": place})
    assert told["content"]["sent_as"] == "Sent as text with a link to the map."
    uploaded = await any_page.agent.http.post("upload", files={"file": ("a.png", png(1, 2, 3), "image/png")})
    file_id = uploaded.json()["data"]["id"]
    last = await any_page.send(conversation, {"type": "image", "attachments": [{"file_id": file_id}]})
    await any_page.agent.reaches(last, "read")
    buttons, replies, cards, located, image = any_page.payloads()
    assert [each["payload"] for each in buttons["attachment"]["payload"]["buttons"]] == ["a", "b"]
    assert [each["title"] for each in replies["quick_replies"]] == ["Blue", "Red"]
    assert [each["title"] for each in cards["attachment"]["payload"]["elements"]] == [
        "Which one?",
        "Blue",
        "Red",
    ]
    assert located["text"].startswith("Shop\nhttps://maps.google.com/")
    assert ("attachment_id" if any_page.platform == "facebook" else "url") in image["attachment"]["payload"]
    refused = await any_page.agent.call(
        "POST",
        f"conversations/{conversation['id']}/messages",
        {"type": "template", "template": {"name": "hello", "language": "en"}},
    )
    assert refused.status_code == 422
    assert "no approved templates" in str(refused.json()["errors"])


async def test_a_token_that_ends_parks_what_is_sent_until_there_is_another(any_page: Page) -> None:
    """The channel needs attention and says why; nothing is lost, nothing is doubled, all goes out in
    order."""
    conversation = await any_page.conversation()
    any_page.sim.expire_token()
    sent = [
        await any_page.send(conversation, {"type": "text", "content": f"{number}"}) for number in range(3)
    ]
    channel = f"channels/{any_page.channel_id}"

    async def status(wanted: str) -> bool:
        return bool((await any_page.agent.get(channel))["status"] == wanted)

    await until("the channel needs attention", lambda: status("needs_attention"))
    health = await any_page.agent.get(f"{channel}/health")
    assert "expired" in health["status_note"]
    assert any_page.payloads() == []
    await trio.sleep(1.0)
    # Where tokens can be renewed, one try at that before a person has to act.
    knocks = 2 if any_page.platform == "instagram" else 1
    assert any_page.sim.ledger.refusals[190] == knocks, (
        "an account that waits for a person does not knock again"
    )
    any_page.sim.renew_token("another-token")
    await any_page.agent.put(channel, {"credentials": {"access_token": "another-token"}})
    for message in sent:
        await any_page.agent.reaches(message, "read")
    assert [each["text"] for each in any_page.payloads()] == ["0", "1", "2"]
    await until("the channel is active", lambda: status("active"))


async def test_a_send_whose_answer_is_lost_is_settled_by_its_echo(any_page: Page) -> None:
    """The platform took it and cut the line: the echo says so, and it is not sent again."""
    conversation = await any_page.conversation()
    any_page.sim.fault(Fault(kind="reset", accepts=True, times=1))
    sent = await any_page.send(conversation, {"type": "text", "content": "Cut off"})
    await any_page.agent.reaches(sent, "read")
    await trio.sleep(0.3)
    assert [each["text"] for each in any_page.payloads()] == ["Cut off"]
    outbound = [
        each for each in await any_page.agent.messages(conversation["id"]) if each["direction"] == "outbound"
    ]
    assert len(outbound) == 1


async def test_throttling_slows_down_and_loses_nothing(any_page: Page) -> None:
    """Refused for speed with the time to wait, it goes out afterwards."""
    conversation = await any_page.conversation()
    any_page.sim.fault(Fault(kind="error", code=613, status=429, retry_after_seconds=0.3, times=1))
    sent = await any_page.send(conversation, {"type": "text", "content": "Slowly"})
    await any_page.agent.reaches(sent, "read")
    assert [each["text"] for each in any_page.payloads()] == ["Slowly"]


async def test_files_of_customers_are_fetched_and_stored(any_page: Page) -> None:
    """Two pictures of one message are two attachments."""
    customer = any_page.sim.cast.adopt(f"7{next(_numbers):015d}")
    mid = any_page.sim.send(customer, "images", "look")

    async def stored() -> Json | None:
        for each in await any_page.agent.items("conversations", channel_id=any_page.channel_id):
            for message in await any_page.agent.messages(each["id"]):
                states = [attachment["state"] for attachment in message["attachments"]]
                if message["platform_message_id"] == mid and states == ["stored", "stored"]:
                    return message
        return None

    message = await until("both pictures are stored", stored)
    assert (message["type"], message["content"]["caption"]) == ("image", "look")
