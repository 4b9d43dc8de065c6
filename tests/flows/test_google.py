"""Google Business from outside: an agent of Business Messages and a profile with reviews, through the real
server and database and played Google."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Generic, TypeVar

import pytest
import trio
from msgspec import Struct

from adapters.port import Play, StandIn
from adapters.simulators import Fault
from adapters.simulators.google.messages import MessagesSimulator
from adapters.simulators.google.reviews import ReviewsSimulator
from adapters.simulators.google.standing import MessagesStandIn, ReviewsStandIn
from tests.fixtures.system import QUICK, Agent, Business, Json, until

pytestmark = pytest.mark.real_time

_numbers = count(1)

S = TypeVar("S", MessagesSimulator, ReviewsSimulator)


class Shop(Struct, Generic[S], kw_only=True):
    """A business's account at Google, played."""

    sim: S
    agent: Agent
    channel_id: int

    async def conversation_with(self, platform_id: str) -> Json:
        """The one in which this was stored."""

        async def found() -> Json | None:
            for each in await self.agent.items("conversations", channel_id=self.channel_id):
                messages = await self.agent.messages(each["id"])
                if any(message["platform_message_id"] == platform_id for message in messages):
                    return each
            return None

        conversation: Json = await until(f"{platform_id} is stored", found)
        return conversation

    async def send(self, conversation: Json, body: Json) -> Json:
        made: Json = await self.agent.post(f"conversations/{conversation['id']}/messages", body)
        return made

    async def refusal(self, conversation: Json, body: Json) -> str:
        answer = await self.agent.call("POST", f"conversations/{conversation['id']}/messages", body)
        assert answer.status_code == 422
        return str(answer.json()["errors"])

    async def status_is(self, wanted: str) -> Json:
        channel = f"channels/{self.channel_id}"

        async def told() -> Json | None:
            health: Json = await self.agent.get(f"{channel}/health")
            return health if health["status"] == wanted else None

        health: Json = await until(f"the channel is {wanted}", told)
        return health


NOT_GIVEN = frozenset({"resource_name", "push_private_key", "push_key_id"})
"""Of a stand-in's keys what names the account, and what is Google's own."""


@asynccontextmanager
async def shop(business: Business, stand_in: StandIn, kind: type[S]) -> AsyncIterator[Shop[S]]:
    keys = stand_in.new_keys()
    port = business.server.simulator_ports_free.pop()
    simulator = stand_in.simulator(Play(accounts=[keys]))
    assert isinstance(simulator, kind)
    simulator.settings = QUICK
    try:
        async with simulator.running(port=port) as sim, business.agent() as agent:
            connected = await agent.post(
                "channels",
                {
                    "platform": "google-business",
                    "name": f"Google {next(_numbers)}",
                    "external_id": keys["resource_name"],
                    "credentials": {name: value for name, value in keys.items() if name not in NOT_GIVEN},
                    "settings": {"base_url": sim.base_url},
                },
            )
            await sim.connect(connected["webhook_url"])
            yield Shop(sim=sim, agent=agent, channel_id=connected["id"])
            await agent.delete(f"channels/{connected['id']}")
    finally:
        business.server.simulator_ports_free.append(port)


@pytest.fixture
async def agent(own_line: Business) -> AsyncIterator[Shop[MessagesSimulator]]:
    async with shop(own_line, MessagesStandIn(), MessagesSimulator) as opened:
        yield opened


@pytest.fixture
async def profile(own_line: Business) -> AsyncIterator[Shop[ReviewsSimulator]]:
    async with shop(own_line, ReviewsStandIn(), ReviewsSimulator) as opened:
        yield opened


# ------------------------------------------------------------------ Business Messages


async def test_a_customer_is_answered_and_reads_it(agent: Shop[MessagesSimulator]) -> None:
    """Under the name that the webhook brings; receipts find the message by our own id."""
    conversation = await agent.conversation_with(agent.sim.say("c-1", "Is this in stock?", name="Huda"))
    assert conversation["customer"]["name"] == "Huda"
    sent = await agent.send(conversation, {"type": "text", "content": "Yes, it is."})
    await agent.agent.reaches(sent, "read")
    (send,) = agent.sim.ledger.sends
    assert send.callback_data == str(sent["id"])


async def test_a_choice_comes_back_and_a_picture_is_stored(agent: Shop[MessagesSimulator]) -> None:
    customer = agent.sim.cast.adopt("c-2")
    conversation = await agent.conversation_with(agent.sim.say("c-2", "Hi"))
    options = [{"id": "m", "title": "Medium"}]
    interactive = {"kind": "buttons", "body": "Which size?", "options": options}
    sent = await agent.send(conversation, {"type": "interactive", "interactive": interactive})
    await agent.agent.reaches(sent, "read")
    await agent.conversation_with(agent.sim.send(customer, "suggestion"))
    await agent.conversation_with(agent.sim.send(customer, "live_agent"))
    mid = agent.sim.send(customer, "image")

    async def stored() -> Json | None:
        for message in await agent.agent.messages(conversation["id"]):
            states = [attachment["state"] for attachment in message["attachments"]]
            if message["platform_message_id"] == mid and states == ["stored"]:
                return message
        return None

    await until("the picture is stored", stored)
    messages = await agent.agent.messages(conversation["id"])
    assert [each["type"] for each in messages] == ["text", "interactive", "interactive", "system", "image"]
    assert messages[2]["content"]["id"] == "m"


async def test_an_answer_that_got_lost_is_one_message(agent: Shop[MessagesSimulator]) -> None:
    """Sent again under the same id, which Google knows."""
    conversation = await agent.conversation_with(agent.sim.say("c-3", "Hi"))
    agent.sim.fault(Fault(kind="reset", accepts=True, times=1))
    sent = await agent.send(conversation, {"type": "text", "content": "Cut off"})
    await agent.agent.reaches(sent, "read")
    assert len(agent.sim.ledger.sends) == 1


# ------------------------------------------------------------------ reviews


async def test_a_review_is_a_conversation_whose_answer_is_public(profile: Shop[ReviewsSimulator]) -> None:
    sim = profile.sim
    conversation = await profile.conversation_with(sim.say("reviews/r1", "It came late.", name="Huda"))
    assert conversation["customer"]["name"] == "Huda"
    (review,) = await profile.agent.messages(conversation["id"])
    assert review["content"]["body"].endswith(" of 5\nIt came late.")
    assert review["content"]["rating"] in range(1, 6)
    first = await profile.send(conversation, {"type": "text", "content": "We are sorry."})
    assert first["content"]["sent_as"] == "Sent as the public answer under the review."
    await profile.agent.reaches(first, "sent")
    second = await profile.send(conversation, {"type": "text", "content": "We are very sorry."})
    assert second["content"]["sent_as"].endswith("in place of the earlier one.")
    await profile.agent.reaches(second, "sent")
    (stored,) = sim.reviews.values()
    assert stored["reviewReply"]["comment"] == "We are very sorry."
    # A change after the answer is a new message; our own answer, which is read with it, is not told twice.
    await profile.conversation_with(sim.send(sim.cast.adopt("reviews/r1"), "changed", "They made up for it."))
    messages = await profile.agent.messages(conversation["id"])
    assert [each["direction"] for each in messages] == ["inbound", "outbound", "outbound", "inbound"]
    assert messages[3]["reply_to"]["id"] == review["id"]


async def test_a_review_that_changes_before_the_answer_is_edited(profile: Shop[ReviewsSimulator]) -> None:
    sim = profile.sim
    conversation = await profile.conversation_with(sim.say("reviews/r2", "Bad."))
    sim.send(sim.cast.adopt("reviews/r2"), "changed", "Not so bad.")

    async def edited() -> bool:
        (message,) = await profile.agent.messages(conversation["id"])
        return bool(message["edited_at"]) and message["content"]["body"].endswith("\nNot so bad.")

    assert await until("the review is edited", edited)


async def test_what_is_no_answer_is_refused_at_once(profile: Shop[ReviewsSimulator]) -> None:
    conversation = await profile.conversation_with(profile.sim.say("reviews/r3", "Hm."))
    assert "4096 bytes" in await profile.refusal(conversation, {"type": "text", "content": "م" * 2_049})
    picture = {"type": "image", "attachments": [{"url": "https://shop.example/a.jpg"}]}
    assert "words alone" in await profile.refusal(conversation, picture)


async def test_no_rule_answers_a_review(profile: Shop[ReviewsSimulator]) -> None:
    """What stands in public under the business' name is a person's word."""
    rule = {
        "kind": "greeting",
        "name": f"Hello {next(_numbers)}",
        "reply": {"type": "text", "body": "Hello!"},
        "channel_ids": [profile.channel_id],
    }
    made = await profile.agent.post("automated-replies", rule)
    conversation = await profile.conversation_with(profile.sim.say("reviews/r4", "Hm."))
    await profile.sim.wait_quiet()
    assert len(await profile.agent.messages(conversation["id"])) == 1
    await profile.agent.delete(f"automated-replies/{made['id']}")


async def test_an_outage_of_googles_api_loses_no_review(profile: Shop[ReviewsSimulator]) -> None:
    """Pushes are turned away until what they name can be read."""
    sim = profile.sim
    # Its keys are known: the outage is not of those.
    await profile.conversation_with(sim.say("reviews/o", "Hello"))
    fault = sim.fault(Fault(kind="error", code=503, route="management"))
    keys = [sim.say(f"reviews/o{number}", "Hello") for number in range(5)]
    await trio.sleep(0.5)
    assert len(sim.ledger.acknowledged()) == 1
    sim.clear_faults(fault)
    for key in keys:
        await profile.conversation_with(key)
    await sim.wait_quiet()
    assert len(sim.ledger.acknowledged()) == 6


async def test_a_revoked_grant_waits_for_a_person(profile: Shop[ReviewsSimulator]) -> None:
    """The channel says so, reviews wait at Google and answers here; with a new grant all of it goes on."""
    sim = profile.sim
    conversation = await profile.conversation_with(sim.say("reviews/t1", "Hello"))
    sim.expire_token()
    waiting = sim.say("reviews/t2", "Hello?")
    health = await profile.status_is("needs_attention")
    assert "Connect the account again." in health["status_note"]
    answer = await profile.send(conversation, {"type": "text", "content": "Welcome."})
    sim.expire_token(expired=False)
    grant = {"refresh_token": sim.account().refresh_token}
    await profile.agent.put(f"channels/{profile.channel_id}", {"credentials": grant})
    await profile.agent.reaches(answer, "sent")
    await profile.conversation_with(waiting)
    await profile.status_is("active")


async def test_a_review_that_nobody_told_of_is_found(profile: Shop[ReviewsSimulator]) -> None:
    """By the look at the newest ones, of which one is taken when the channel starts again."""
    sim = profile.sim
    await profile.conversation_with(sim.say("reviews/n1", "Hello"))
    name, at = f"{sim.account().account_id}/reviews/n2", sim.now()
    sim.reviews[name] = {"name": name, "starRating": "ONE", "createTime": at, "updateTime": at}
    settings = {"base_url": sim.base_url, "representative_name": "x"}
    await profile.agent.put(f"channels/{profile.channel_id}", {"settings": settings})
    await profile.conversation_with("reviews/n2")


async def test_an_account_has_googles_name(own_line: Business) -> None:
    """Another is refused before anything is made of it."""
    async with own_line.agent() as agent:
        body = {"platform": "google", "name": "x", "external_id": "locations/1", "credentials": {}}
        answer = await agent.call("POST", "channels", body)
        assert answer.status_code == 422
        assert "external_id" in answer.json()["errors"]
