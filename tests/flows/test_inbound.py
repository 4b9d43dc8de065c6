"""A customer writes; the agent sees it. Every kind of message, both placements, from outside."""

from typing import Any

import httpx

from adapters.simulators.customers import KINDS
from storage.databases import DatabaseServer
from tests.fixtures.system import Json, Line, screen, until
from tests.ledger import Books, books_of, check_pushed
from tests.patience import PATIENCE_SECONDS
from tests.plain import PLAIN

STORED_AS = {
    "text": "text",
    "text_reply": "text",
    "text_forwarded": "text",
    "text_ad": "text",
    "image": "image",
    "video": "video",
    "voice": "voice",
    "audio": "audio",
    "document": "document",
    "sticker": "sticker",
    "location": "location",
    "contacts": "contacts",
    "button_reply": "interactive",
    "list_reply": "interactive",
    "flow_reply": "interactive",
    "template_button": "interactive",
    "reaction": "reaction",
    "reaction_removed": "reaction",
    "order": "order",
    "unsupported": "unsupported",
    "interactive_empty": "unsupported",
    "number_changed": "system",
}
"""By the simulator's names; edits and deletions change another message and have tests of their own."""


def _is(platform_id: str) -> Any:
    return lambda data: data["message"]["platform_message_id"] == platform_id


async def test_a_first_message_opens_a_conversation_and_is_pushed(phone: Line) -> None:
    """The screen sees conversation.created, then message.received with both resources; the API agrees."""
    async with screen(phone.business) as desk:
        wamid = phone.sim.say(phone.new_customer(), "Is this in stock?", name="Käthe Weiß")
        received = await desk.event("message.received", _is(wamid))
        conversation_id = received["data"]["conversation"]["id"]
        created = next(one for one in desk.named("conversation.created"))
        assert created["cursor"] < received["cursor"]
        fresh = await phone.agent.get(f"conversations/{conversation_id}")
        assert (fresh["status"], fresh["unread_count"], fresh["last_seq"]) == ("new", 1, 1)
        assert fresh["customer"]["name"] == "Käthe Weiß"
        assert fresh["channel"]["id"] == phone.channel_id
        assert fresh["reply_window"]["open"] is True
        (message,) = await phone.agent.messages(conversation_id)
        assert message["content"] == {"body": "Is this in stock?"}
        assert message["trace"] == received["trace"]
        assert phone.sim.ledger.message(wamid).acknowledged_at  # type: ignore[union-attr]


async def test_every_kind_of_message_is_stored_and_pushed(phone: Line, database: DatabaseServer) -> None:
    """Each kind that the platform knows becomes one message of its type; a file that it has is fetched."""
    assert set(STORED_AS) | {"edit", "revoke"} == set(KINDS)
    customer = phone.sim.cast.adopt(phone.new_customer())
    async with screen(phone.business) as desk:
        conversation = await phone.opened(wa_id=customer.key)
        sent = await phone.agent.say(conversation["id"], "Something to answer to")
        await phone.agent.reaches(sent, "read")
        said = {kind: phone.sim.send(customer, kind) for kind in STORED_AS if kind != "number_changed"}
        for wamid in said.values():
            await desk.event("message.received", _is(wamid))
        said["number_changed"] = phone.sim.send(customer, "number_changed")
        await desk.event("message.received", _is(said["number_changed"]))
        history = {one["platform_message_id"]: one for one in await phone.agent.messages(conversation["id"])}
        assert {kind: history[wamid]["type"] for kind, wamid in said.items()} == STORED_AS
        books = await books_of(phone.business, phone.sim, phone.channel_id, database)
        books.note(sent)
        for kind in ("image", "video", "voice", "audio", "document", "sticker"):
            await _file_is_stored(phone, books, history[said[kind]])
        await books.settle()
        await books.check()


async def _file_is_stored(phone: Line, books: Books, message: Json) -> None:
    async def stored() -> Json | None:
        (attachment,) = (await phone.agent.message(message["conversation_id"], message["id"]))["attachments"]
        assert attachment["state"] != "failed", attachment
        return attachment if attachment["state"] == "stored" else None

    attachment = await until(f"the file of message {message['id']} is stored", stored)
    (row,) = await books.rows("SELECT source_id FROM attachments WHERE id = $1", attachment["id"])
    original = phone.sim.media.get(row["source_id"], 0.0)
    assert original is not None
    async with httpx.AsyncClient(timeout=PATIENCE_SECONDS, **PLAIN) as anybody:
        answer = await anybody.get(attachment["url"])
        assert (answer.status_code, answer.content) == (200, original.content)
        forged = await anybody.get(attachment["url"][:-4] + "AAAA")
        assert forged.status_code in (401, 403, 404)


async def test_an_edit_changes_the_message_and_a_deletion_marks_it(phone: Line) -> None:
    """Both are pushed as message.updated, and no message is added."""
    customer = phone.sim.cast.adopt(phone.new_customer())
    async with screen(phone.business) as desk:
        original = phone.sim.send(customer, "text", "Tomorow")
        stored = await phone.stored(original)
        phone.sim.send(customer, "edit", "Tomorrow")
        edited = await desk.event("message.updated", lambda data: data["id"] == stored["id"])
        assert edited["data"]["content"] == {"body": "Tomorrow"}
        phone.sim.send(customer, "revoke")
        await desk.event("message.updated", lambda data: data.get("deleted_at") is not None)
        (message,) = await phone.agent.messages(stored["conversation_id"])
        assert message["content"] == {"body": "Tomorrow"}
        assert message["edited_at"]
        assert message["deleted_at"]


async def test_a_renumbered_customer_stays_the_same_person(phone: Line) -> None:
    """What the new number writes arrives in the old conversation; what we write goes to the new number."""
    customer = phone.sim.cast.adopt(phone.new_customer())
    conversation = await phone.opened(wa_id=customer.key)
    await phone.stored(phone.sim.send(customer, "number_changed"))
    again = await phone.stored(phone.sim.say(customer.key, "It is still me"))
    assert again["conversation_id"] == conversation["id"]
    assert len(await phone.conversations()) == 1
    sent = await phone.agent.say(conversation["id"], "Welcome back")
    await phone.agent.reaches(sent, "read")
    assert phone.payload_of(sent)["to"].lstrip("+") == customer.key


async def test_what_the_business_writes_on_its_phone_is_part_of_the_history(phone: Line) -> None:
    """An echo is an outbound message that is sent to nobody and makes nothing unread."""
    customer = phone.sim.cast.adopt(phone.new_customer())
    conversation = await phone.opened(wa_id=customer.key)
    echo = await phone.stored(phone.sim.echo(customer, "Written on the phone"))
    assert (echo["direction"], echo["seq"], echo["metadata"]["echo"]) == ("outbound", 2, True)
    assert (await phone.agent.get(f"conversations/{conversation['id']}"))["unread_count"] == 1
    await phone.sim.wait_quiet()
    assert not phone.sim.ledger.sends


async def test_a_reaction_names_our_message(phone: Line) -> None:
    """The platform's id of what was reacted to becomes ours; a reaction makes nothing unread."""
    customer = phone.sim.cast.adopt(phone.new_customer())
    conversation = await phone.opened(wa_id=customer.key)
    sent = await phone.agent.reaches(await phone.agent.say(conversation["id"], "Done!"), "read")
    reaction = await phone.stored(phone.sim.send(customer, "reaction", "👍"))
    assert reaction["content"]["message_id"] == sent["id"]
    assert (await phone.agent.get(f"conversations/{conversation['id']}"))["unread_count"] == 0


async def test_a_customer_who_comes_back_reopens_the_conversation(phone: Line) -> None:
    """A resolved conversation is opened again; one that was archived is left, and a new one begins."""
    wa_id = phone.new_customer()
    conversation = await phone.opened(wa_id=wa_id)
    path = f"conversations/{conversation['id']}/status"
    await phone.agent.patch(path, {"status": "resolved"})
    async with screen(phone.business) as desk:
        again = await phone.stored(phone.sim.say(wa_id, "One more thing"))
        assert (again["conversation_id"], again["seq"]) == (conversation["id"], 2)
        await desk.event("conversation.status.changed", lambda data: data["conversation"]["status"] == "open")
    await phone.agent.patch(path, {"status": "archived"})
    new = await phone.stored(phone.sim.say(wa_id, "Years later"))
    assert (new["conversation_id"] != conversation["id"], new["seq"]) == (True, 1)


async def test_a_burst_of_one_customer_is_stored_in_order(phone: Line, database: DatabaseServer) -> None:
    """Thirty messages posted at once by many connections end in one conversation with sequence 1 to 30."""
    wa_id = phone.new_customer()
    async with screen(phone.business) as desk:
        said = [phone.sim.say(wa_id, f"Number {n}") for n in range(30)]
        await phone.sim.wait_quiet()
        for wamid in said:
            await desk.event("message.received", _is(wamid))
        (conversation,) = await phone.conversations()
        assert (conversation["last_seq"], conversation["unread_count"]) == (30, 30)
        books = await books_of(phone.business, phone.sim, phone.channel_id, database)
        await books.check([])
        check_pushed(desk, await books.messages())
