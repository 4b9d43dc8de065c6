"""What the system does by itself: greeting, keyword and away replies, and finding an agent."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from tests.fixtures.system import PASSWORD, Business, Json, Line, line, until


async def rule(phone: Line, kind: str, body: str, **members: object) -> Json:
    """An automated reply for this number alone."""
    made: Json = await phone.agent.post(
        "automated-replies",
        {
            "kind": kind,
            "name": f"{kind} {phone.channel_id}",
            "reply": {"type": "text", "body": body},
            "channel_ids": [phone.channel_id],
            **members,
        },
    )
    return made


async def bot_texts(phone: Line, conversation_id: int, count: int) -> list[str]:
    """What the bot wrote, once there are so many and all have been read."""

    async def answered() -> list[str] | None:
        wrote = [one for one in await phone.agent.messages(conversation_id) if one["sender"]["type"] == "bot"]
        done = len(wrote) >= count and all(one["status"] == "read" for one in wrote)
        return [one["content"]["body"] for one in wrote] if done else None

    texts: list[str] = await until(f"{count} automated replies", answered)
    return texts


async def test_a_greeting_answers_the_first_message_and_a_keyword_the_right_one(phone: Line) -> None:
    """Each rule answers once within its cooldown, with the customer's name put in, and is sent once."""
    await rule(phone, "greeting", "Welcome, {{ first_name }}!")
    await rule(phone, "keyword", "We open at nine.", match="contains", patterns=["opening hours"])
    wa_id = phone.new_customer()
    stored = await phone.stored(phone.sim.say(wa_id, "Hello", name="Ada Lovelace"))
    conversation_id = stored["conversation_id"]
    assert await bot_texts(phone, conversation_id, 1) == ["Welcome, Ada!"]
    for text in ("What are your OPENING HOURS?", "opening hours, please", "thanks"):
        await phone.stored(phone.sim.say(wa_id, text))
    assert await bot_texts(phone, conversation_id, 2) == ["Welcome, Ada!", "We open at nine."]
    await phone.sim.wait_quiet()
    assert len(phone.sim.ledger.sends) == 2
    conversation = await phone.agent.get(f"conversations/{conversation_id}")
    assert conversation["first_response_at"] is None  # a bot's word is no agent's response


@asynccontextmanager
async def closed(phone: Line) -> AsyncIterator[None]:
    await phone.agent.post("settings/work-hours", {"days": []})
    try:
        yield
    finally:
        await phone.agent.post("settings/work-hours", {"always_open": True})


async def test_an_away_reply_answers_outside_work_hours(phone: Line) -> None:
    """Closed all week: away, once. Open again: silence."""
    await rule(phone, "away", "We are closed.")
    wa_id = phone.new_customer()
    async with closed(phone):
        stored = await phone.stored(phone.sim.say(wa_id, "Anybody there?"))
        assert await bot_texts(phone, stored["conversation_id"], 1) == ["We are closed."]
    other = await phone.stored(phone.sim.say(phone.new_customer(), "And now?"))
    await phone.sim.wait_quiet()
    assert len(await phone.agent.messages(other["conversation_id"])) == 1


@asynccontextmanager
async def staffed(phone: Line, mode: str) -> AsyncIterator[list[int]]:
    """Three agents online under an assignment mode; nobody and `manual` afterwards."""
    ids = []
    for n in range(3):
        email = f"agent{n}@{phone.account.phone_number_id}.example"
        user = await phone.agent.post(
            "users", {"email": email, "name": f"Agent {n}", "role": "agent", "password": PASSWORD}
        )
        ids.append(user["id"])
    for user_id in ids[:2]:
        await phone.agent.put(f"users/{user_id}/availability", {"availability": "online"})
    await phone.agent.patch("settings/assignment-settings", {"mode": mode})
    try:
        yield ids
    finally:
        await phone.agent.patch("settings/assignment-settings", {"mode": "manual"})
        for user_id in ids:
            await phone.agent.delete(f"users/{user_id}")


async def assignee(phone: Line, conversation_id: int) -> int:
    async def somebody() -> int | None:
        found = (await phone.agent.get(f"conversations/{conversation_id}"))["assigned_to"]
        return found["id"] if found else None

    user_id: int = await until(f"conversation {conversation_id} has an agent", somebody)
    return user_id


async def test_round_robin_takes_turns_among_those_who_are_there(neighbour: Business) -> None:
    """Six conversations, two agents online and one offline: three each for those online."""
    async with line(neighbour) as phone, staffed(phone, "round_robin") as (first, second, absent):
        got = Counter([await assignee(phone, (await phone.opened(f"Turn {n}"))["id"]) for n in range(6)])
        assert got == {first: 3, second: 3}
        assert absent not in got


async def test_least_loaded_evens_out(neighbour: Business) -> None:
    """One agent has three conversations already: the next three go to the other."""
    async with line(neighbour) as phone, staffed(phone, "manual") as (busy, idle, _):
        for n in range(3):
            conversation = await phone.opened(f"Old {n}")
            await phone.agent.post(f"conversations/{conversation['id']}/assign", {"user_id": busy})
        await phone.agent.patch("settings/assignment-settings", {"mode": "least_loaded"})
        got = [await assignee(phone, (await phone.opened(f"New {n}"))["id"]) for n in range(3)]
        assert got == [idle] * 3


async def test_who_waits_is_served_when_an_agent_comes(neighbour: Business) -> None:
    """Nobody is online: the conversation waits, and goes to the first who comes online."""
    async with line(neighbour) as phone, staffed(phone, "round_robin") as ids:
        for user_id in ids:
            await phone.agent.put(f"users/{user_id}/availability", {"availability": "offline"})
        waiting = await phone.opened("Hello?")
        await trio.sleep(0.2)
        assert (await phone.agent.get(f"conversations/{waiting['id']}"))["assigned_to"] is None
        await phone.agent.put(f"users/{ids[2]}/availability", {"availability": "online"})
        assert await assignee(phone, waiting["id"]) == ids[2]
