"""Fold equals fresh: what a screen makes of the events is what the API answers.

A client that has fetched a view and then applies events must end where one that fetches now begins. So the
state before, with the events applied as the push page describes, is compared with the state fetched afresh:
every field of the conversation and of each message, except what no event could carry.
"""

from typing import Any

from tests.fixtures.system import Json, Line, screen, until

VOLATILE = frozenset({"url"})
"""A file's signed link is made for each answer and dies; events carry none."""


class View:
    """A screen's copy of one conversation."""

    def __init__(self, conversation: Json, messages: list[Json]) -> None:
        self.conversation = conversation
        self.messages = {message["id"]: message for message in messages}

    def apply(self, event: Json) -> None:
        data = event["data"]
        if "conversation" in data:
            self.conversation = data["conversation"]
        match event["name"]:
            case "message.received" | "message.sent":
                self.messages[data["message"]["id"]] = data["message"]
            case "message.status.updated":
                self._change(data["id"], {name: data[name] for name in data if name in MESSAGE_FIELDS})
            case "message.updated":
                changes = {name: value for name, value in data.items() if name in MESSAGE_FIELDS}
                self._change(data["id"], changes)
            case "message.attachment.updated":
                for attachment in self.messages[data["message_id"]]["attachments"]:
                    if attachment["id"] == data["id"]:
                        attachment.update({name: data[name] for name in data if name in attachment})
            case _:  # all that it changes is in the conversation
                pass

    def _change(self, message_id: int, changes: Json) -> None:
        self.messages[message_id] = {**self.messages[message_id], **changes}


MESSAGE_FIELDS = frozenset(
    {
        "status",
        "sent_at",
        "delivered_at",
        "read_at",
        "failed_at",
        "error",
        "platform_message_id",
        "content",
        "edited_at",
        "deleted_at",
        "metadata",
    }
)


def without_volatile(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_volatile(inner) for name, inner in value.items() if name not in VOLATILE}
    if isinstance(value, list):
        return [without_volatile(inner) for inner in value]
    return value


async def test_events_applied_to_an_old_view_give_the_fresh_one(phone: Line) -> None:
    """Texts, a picture, a reaction, an edit, a deletion, answers with their statuses, a failure, tags, an
    assignment, a snooze, a resolution and a reopening later, both views are equal."""
    agent = phone.agent
    customer = phone.sim.cast.adopt(phone.new_customer())
    conversation = await phone.opened(wa_id=customer.key)
    path = f"conversations/{conversation['id']}"
    async with screen(phone.business, path.replace("/", ".")) as desk:
        view = View(await agent.get(path), await agent.messages(conversation["id"]))
        picture = phone.sim.send(customer, "image")
        await phone.stored(picture)
        sent = await agent.say(conversation["id"], "One")
        await agent.reaches(sent, "read")
        await phone.stored(phone.sim.send(customer, "reaction", "👍"))
        await phone.stored(phone.sim.send(customer, "text", "Wrnog"))
        phone.sim.send(customer, "edit", "Wrong")
        await phone.sim.wait_quiet()
        phone.sim.send(customer, "revoke")
        await phone.sim.wait_quiet()
        phone.sim.fail_recipient(customer.key, 131026)
        await agent.reaches(await agent.say(conversation["id"], "Two"), "failed")
        phone.sim.fail_recipient(customer.key, None)
        tag = await agent.post("tags", {"name": f"fold {conversation['id']}"})
        await agent.post(f"{path}/tags", {"tag_ids": [tag["id"]]})
        await agent.post(f"{path}/assign", {"user_id": phone.business.owner_id})
        await agent.post(f"{path}/mark-read")
        await agent.patch(f"{path}/status", {"status": "resolved"})
        await phone.stored(phone.sim.send(customer, "text", "And another thing"))
        await agent.patch(f"{path}/status", {"status": "pending"})
        await phone.sim.wait_quiet()

        async def settled() -> bool:
            messages = await agent.messages(conversation["id"])
            return all(one["status"] not in ("pending", "sent", "delivered") for one in messages) and all(
                attachment["state"] == "stored" for one in messages for attachment in one["attachments"]
            )

        await until("everything has happened", settled)
        head = (await agent.get("events", since=0, limit=1))["head"]
        last = await agent.get("events", since=max(0, head - 400), limit=500, channel=path.replace("/", "."))
        wanted = last["items"][-1]["cursor"]
        await desk.frame(lambda frame: frame["type"] == "event" and frame["cursor"] == wanted)
        for event in desk.events:
            view.apply(event)
        fresh = View(await agent.get(path), await agent.messages(conversation["id"]))
    assert without_volatile(view.conversation) == without_volatile(fresh.conversation)
    assert without_volatile(view.messages) == without_volatile(fresh.messages)
