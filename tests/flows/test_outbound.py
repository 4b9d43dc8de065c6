"""The agent answers; the customer gets it, once. Every kind of message, both placements, from outside."""

import time
from typing import Any

import pytest
import trio

from adapters.simulators import builders
from adapters.simulators.media import pdf, png
from storage.databases import DatabaseServer
from tests.fixtures.system import Json, Line, screen, until
from tests.ledger import books_of

DAY_SECONDS = 86_400

BODIES: dict[str, Json] = {
    "text": {"type": "text", "content": "Yes, in blue & <red>, for 5 €"},
    "location": {
        "type": "location",
        "location": {"latitude": 24.7, "longitude": 46.6, "name": "Shop", "address": "King Road 1"},
    },
    "buttons": {
        "type": "interactive",
        "interactive": {
            "kind": "buttons",
            "body": "Which one?",
            "options": [{"id": "a", "title": "Blue"}, {"id": "b", "title": "Red"}],
        },
    },
    "list": {
        "type": "interactive",
        "interactive": {
            "kind": "list",
            "body": "Which size?",
            "button": "Sizes",
            "options": [{"id": "s", "title": "S", "description": "small", "section": "All"}],
        },
    },
    "template": {
        "type": "template",
        "template": {
            "name": "order_confirmation",
            "language": "en_US",
            "variables": {"body": ["Käthe", "4711"]},
        },
    },
}

EXPECTED: dict[str, Any] = {
    "text": lambda sent: sent["text"]["body"] == "Yes, in blue & <red>, for 5 €",
    "location": lambda sent: (sent["location"]["latitude"], sent["location"]["name"]) == (24.7, "Shop"),
    "buttons": lambda sent: (
        [one["reply"]["title"] for one in sent["interactive"]["action"]["buttons"]] == ["Blue", "Red"]
    ),
    "list": lambda sent: sent["interactive"]["action"]["sections"][0]["rows"][0]["id"] == "s",
    "template": lambda sent: (
        [one["text"] for one in sent["template"]["components"][0]["parameters"]] == ["Käthe", "4711"]
    ),
}


@pytest.mark.parametrize("kind", BODIES)
async def test_an_answer_reaches_the_customer_once(any_phone: Line, kind: str) -> None:
    """The platform accepts it once, with our message id as callback data."""
    conversation = await any_phone.opened()
    sent = await any_phone.agent.post(f"conversations/{conversation['id']}/messages", BODIES[kind])
    assert sent["status"] == "pending"
    await any_phone.agent.reaches(sent, "read")
    payload = any_phone.payload_of(sent)
    assert payload["biz_opaque_callback_data"] == str(sent["id"])
    assert EXPECTED[kind](payload), payload


async def test_statuses_are_pushed_as_they_come(phone: Line, database: DatabaseServer) -> None:
    """message.sent, then the message's status goes up: sent, delivered, read."""
    conversation = await phone.opened()
    async with screen(phone.business, f"conversations.{conversation['id']}") as desk:
        sent = await phone.agent.say(conversation["id"], "On its way")
        await phone.agent.reaches(sent, "read")
        await desk.event("message.sent", lambda data: data["message"]["id"] == sent["id"])
        # The platform tells them at once, each on a connection of its own: one may come after a higher one.
        order = ("sent", "delivered", "read")
        await desk.event("message.status.updated", lambda data: all(data[f"{each}_at"] for each in order))
        seen = [
            one["data"]["status"]
            for one in desk.named("message.status.updated")
            if one["data"]["id"] == sent["id"]
        ]
        assert seen == sorted(seen, key=order.index)
        assert seen[-1] == "read"
    shown = await phone.agent.get(f"conversations/{conversation['id']}")
    assert shown["first_response_at"] == sent["created_at"]
    books = await books_of(phone.business, phone.sim, phone.channel_id, database)
    books.note(sent)
    await books.settle()
    await books.check()


@pytest.mark.parametrize(
    ("type_", "filename", "media_type", "content"),
    [
        ("image", "blue.png", "image/png", png(0, 0, 255)),
        ("document", "rechnung ü.pdf", "application/pdf", pdf("Invoice")),
    ],
    ids=["image", "document"],
)
async def test_an_uploaded_file_is_sent(
    phone: Line, type_: str, filename: str, media_type: str, content: bytes
) -> None:
    """The bytes that were uploaded are the bytes that the platform has."""
    conversation = await phone.opened()
    file = await phone.agent.post("upload", files={"file": (filename, content, media_type)})
    assert (file["size"], file["filename"]) == (len(content), filename)
    body = {"type": type_, "content": "Here", "attachments": [{"file_id": file["id"]}]}
    sent = await phone.agent.post(f"conversations/{conversation['id']}/messages", body)
    assert sent["attachments"][0]["state"] == "stored"
    await phone.agent.reaches(sent, "read")
    media = phone.payload_of(sent)[type_]
    there = phone.sim.media.get(media["id"], 0.0)
    assert there is not None
    assert there.content == content
    assert media["caption"] == "Here"


async def test_a_quote_and_a_reaction_name_the_customers_message(phone: Line) -> None:
    """reply_to and reaction take our ids; the platform hears its own."""
    customer = phone.new_customer()
    wamid = phone.sim.say(customer, "Which one?")
    asked = await phone.stored(wamid)
    conversation_id = asked["conversation_id"]
    quoting = await phone.agent.say(conversation_id, "This one", reply_to=asked["id"])
    assert quoting["reply_to"] == {"id": asked["id"], "seq": 1}
    await phone.agent.reaches(quoting, "read")
    assert phone.payload_of(quoting)["context"]["message_id"] == wamid
    reacting = await phone.agent.post(f"messages/{asked['id']}/reaction", {"emoji": "👍"})
    await phone.agent.reaches(reacting, "read")
    assert phone.payload_of(reacting)["reaction"] == {"message_id": wamid, "emoji": "👍"}


async def test_reading_and_typing_are_shown_on_the_platform(phone: Line) -> None:
    """mark-read takes the unread count away and marks the last message there; typing shows a sign."""
    wamid = phone.sim.say(phone.new_customer(), "Anybody there?")
    conversation_id = (await phone.stored(wamid))["conversation_id"]
    read = await phone.agent.post(f"conversations/{conversation_id}/mark-read")
    assert read["unread_count"] == 0
    await phone.agent.post(f"conversations/{conversation_id}/typing")

    async def both() -> bool:
        marks = [mark for mark in phone.sim.ledger.marks if mark.message_id == wamid]
        return {mark.typing for mark in marks} == {False, True}

    await until("a read mark and a typing sign", both)


async def test_the_reply_window_closes_a_day_after_the_customers_last_message(phone: Line) -> None:
    """A text is refused with window_closed and nothing is stored; a template goes through."""
    customer = phone.sim.cast.adopt(phone.new_customer())
    person = customer.person
    old = builders.text_message(
        person, "wamid.OLD" + (person.wa_id or ""), int(time.time()) - DAY_SECONDS - 60, "Old"
    )
    told = phone.sim.tell(phone.account, customer, phone.sim.said(phone.account, person, old))
    conversation_id = (await phone.stored(told))["conversation_id"]
    path = f"conversations/{conversation_id}/messages"
    shown = await phone.agent.get(f"conversations/{conversation_id}")
    assert (shown["reply_window"]["open"], shown["reply_window"]["reason"]) == (False, "expired")
    await phone.agent.refused(409, "window_closed", "POST", path, BODIES["text"])
    assert len(await phone.agent.messages(conversation_id)) == 1
    await phone.agent.reaches(await phone.agent.post(path, BODIES["template"]), "read")


async def test_an_answer_to_an_old_screen_is_refused_with_what_was_missed(phone: Line) -> None:
    """409 stale_conversation carries the messages after seen_seq; force sends all the same."""
    wa_id = phone.new_customer()
    conversation = await phone.opened("First", wa_id)
    await phone.stored(phone.sim.say(wa_id, "Second"))
    path = f"conversations/{conversation['id']}/messages"
    body = {"type": "text", "content": "To the first", "seen_seq": 1}
    refused = await phone.agent.refused(409, "stale_conversation", "POST", path, body)
    assert [one["content"]["body"] for one in refused["data"]["missed"]] == ["Second"]
    await phone.agent.post(path, {**body, "seen_seq": 2})
    await phone.agent.post(path, {**body, "seen_seq": 1, "force": True})
    assert len(await phone.agent.messages(conversation["id"])) == 4


async def test_a_double_click_is_one_message(phone: Line) -> None:
    """The same client_key, five times at once: one message, the same answer, one send."""
    conversation = await phone.opened()
    answers: list[Json] = []

    async def click() -> None:
        answers.append(await phone.agent.say(conversation["id"], "Once", client_key="click-1"))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(click)
    assert len({one["id"] for one in answers}) == 1
    await phone.agent.reaches(answers[0], "read")
    assert len(await phone.agent.messages(conversation["id"])) == 2
    phone.payload_of(answers[0])


async def test_an_idempotency_key_gives_the_first_answer_again(phone: Line) -> None:
    """The same key and body: the same answer, marked as replayed. Another body: 409."""
    conversation = await phone.opened()
    path = f"conversations/{conversation['id']}/messages"
    key = {"headers": {"Idempotency-Key": f"key-{conversation['id']}"}}
    first = await phone.agent.call("POST", path, BODIES["text"], **key)
    again = await phone.agent.call("POST", path, BODIES["text"], **key)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.json() == first.json()
    other = await phone.agent.call("POST", path, BODIES["location"], **key)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_key_reused")
    assert len(await phone.agent.messages(conversation["id"])) == 2


async def test_a_refusal_of_the_platform_is_shown_and_one_call_tries_again(phone: Line) -> None:
    """failed, with the platform's code and a sentence; retry sends the same message."""
    wa_id = phone.new_customer()
    conversation = await phone.opened(wa_id=wa_id)
    phone.sim.fail_recipient(wa_id, 131026)
    sent = await phone.agent.say(conversation["id"], "Can you read this?")
    failed = await phone.agent.reaches(sent, "failed")
    assert failed["error"]["platform_code"] == "131026"
    assert failed["error"]["message"]
    phone.sim.fail_recipient(wa_id, None)
    await phone.agent.call("POST", f"messages/{sent['id']}/retry", {})
    await phone.agent.reaches(sent, "read")
    assert len(await phone.agent.messages(conversation["id"])) == 2


async def test_the_business_writes_first_with_a_template(phone: Line) -> None:
    """start opens a conversation that the customer's answer arrives in."""
    wa_id = phone.new_customer()
    body = {"channel_id": phone.channel_id, "phone": f"+{wa_id}", "message": BODIES["template"]}
    # A number for fiction, as the simulator's people have; its length is what counts.
    answer = await phone.agent.call("POST", "conversations/start", body)
    assert answer.status_code == 201, answer.text
    started = answer.json()["data"]
    assert started["created"] is True
    await phone.agent.reaches(started["message"], "read")
    replied = await phone.stored(phone.sim.say(wa_id, "Thank you"))
    assert replied["conversation_id"] == started["conversation"]["id"]
    again = await phone.agent.call("POST", "conversations/start", {**body, "message": None})
    assert (again.status_code, again.json()["data"]["conversation"]["id"]) == (
        200,
        replied["conversation_id"],
    )
