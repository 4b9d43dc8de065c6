"""What agents do with conversations besides writing: both placements, from outside, with what is pushed."""

import csv
import io

import trio

from tests.fixtures.system import PASSWORD, Colleague, Json, Line, screen


async def colleague(phone: Line, name: str, role: str = "agent") -> Colleague:
    """Somebody new in the team, with a token."""
    email = f"{name.lower()}@{phone.business.slug}.{phone.account.phone_number_id}.example"
    user = await phone.agent.post("users", {"email": email, "name": name, "role": role, "password": PASSWORD})
    token = await trio.to_thread.run_sync(phone.server.token_for, phone.business.slug, email)
    return Colleague(id=user["id"], name=name, token=token)


async def test_a_conversation_is_assigned_transferred_and_given_back(phone: Line) -> None:
    """Each step is pushed to whom it concerns, and the history tells it, newest first."""
    noor = await colleague(phone, "Noor")
    owner_id = phone.business.owner_id
    conversation = await phone.opened()
    path = f"conversations/{conversation['id']}"
    async with (
        screen(phone.business) as inbox,
        screen(phone.business, f"users.{noor.id}", token=noor.token) as hers,
    ):
        assigned = await phone.agent.post(f"{path}/assign", {"user_id": owner_id})
        assert assigned["assigned_to"]["id"] == owner_id
        await inbox.event("conversation.assigned")
        moved = await phone.agent.post(f"{path}/transfer", {"user_id": noor.id, "note": "Knows Arabic"})
        assert moved["assigned_to"] == {"id": noor.id, "name": "Noor"}
        await hers.event("conversation.transferred")
        async with phone.business.agent(noor.token) as her:
            assert (await her.get(path))["assigned_to"]["id"] == noor.id
            assert [one["id"] for one in await her.items("conversations", assigned_to="me")] == [
                conversation["id"]
            ]
        given_back = await phone.agent.post(f"{path}/unassign")
        assert given_back["assigned_to"] is None
    history = await phone.agent.items(f"{path}/transfer-history")
    assert [one["kind"] for one in history] == ["unassign", "transfer", "assign"]
    assert history[1]["note"] == "Knows Arabic"


async def test_an_agent_sees_what_is_his_or_nobodys(phone: Line) -> None:
    """Another's conversation does not exist for an agent, in the API and on the WebSocket."""
    sam = await colleague(phone, "Sam")
    conversation = await phone.opened()
    path = f"conversations/{conversation['id']}"
    await phone.agent.post(f"{path}/assign", {"user_id": phone.business.owner_id})
    async with (
        phone.business.agent(sam.token) as him,
        screen(phone.business, path.replace("/", "."), token=sam.token) as his,
    ):
        await him.refused(404, "not_found", "GET", path)
        await him.refused(404, "not_found", "POST", f"{path}/messages", {"type": "text", "content": "Hi"})
        assert his.frames[-1]["type"] == "error"


async def test_notes_stay_inside(phone: Line) -> None:
    """A note is pushed, changed by its author alone, and never reaches the platform."""
    conversation = await phone.opened()
    path = f"conversations/{conversation['id']}/notes"
    async with screen(phone.business, f"conversations.{conversation['id']}") as desk:
        note = await phone.agent.post(path, {"body": "Likes blue"})
        await desk.event("note.added")
        await phone.agent.patch(f"{path}/{note['id']}", {"body": "Likes green"})
        await desk.event("note.updated")
        assert [one["body"] for one in await phone.agent.items(path)] == ["Likes green"]
        await phone.agent.delete(f"{path}/{note['id']}")
        await desk.event("note.deleted")
    assert await phone.agent.items(path) == []
    assert not phone.sim.ledger.sends


async def test_tags_filters_search_and_counts_agree(phone: Line) -> None:
    """A tag goes on and off; the list finds by tag, status, unread and words; statistics count the same."""
    before = await phone.agent.get("conversations/statistics")
    one = await phone.opened("Do you have elephants?")
    two = await phone.opened("Only mice")
    tag = await phone.agent.post("tags", {"name": f"animals {one['id']}", "color": "#ff0000"})
    async with screen(phone.business) as desk:
        tagged = await phone.agent.post(f"conversations/{one['id']}/tags", {"tag_ids": [tag["id"]]})
        assert [each["id"] for each in tagged["tags"]] == [tag["id"]]
        await desk.event("tag.changed")
    await phone.agent.patch(f"conversations/{two['id']}/status", {"status": "resolved"})

    async def found(**filters: object) -> set[int]:
        items = await phone.agent.items("conversations", channel_id=phone.channel_id, **filters)
        return {each["id"] for each in items}

    assert await found(tag=tag["id"]) == {one["id"]}
    assert await found(search="elephants") == {one["id"]}
    assert await found(status="resolved") == {two["id"]}
    assert await found(status="new,open") == {one["id"]}
    assert await found(unread="true") == {one["id"], two["id"]}
    after = await phone.agent.get("conversations/statistics")
    assert after["total"] - before["total"] == 2
    assert after["by_status"].get("resolved", 0) - before["by_status"].get("resolved", 0) == 1
    await phone.agent.delete(f"conversations/{one['id']}/tags", {"tag_ids": [tag["id"]]})
    assert await found(tag=tag["id"]) == set()


async def test_bulk_calls_answer_for_each_conversation(phone: Line) -> None:
    """What exists is changed, what does not is named, and the export holds all of it."""
    ids = [(await phone.opened(f"Bulk {n}"))["id"] for n in range(3)]
    tag = await phone.agent.post("tags", {"name": f"bulk {ids[0]}"})
    wanted: Json = {"conversation_ids": [*ids, 4711]}
    for path, more in (
        ("bulk-assign", {"user_id": phone.business.owner_id}),
        ("bulk-tags/add", {"tag_ids": [tag["id"]]}),
        ("bulk-mark-read", {}),
        ("bulk-status", {"status": "resolved"}),
    ):
        result = await phone.agent.post(f"conversations/{path}", {**wanted, **more})
        assert (result["succeeded"], result["failed"]) == (3, 1), path
        assert result["items"][-1] == {**result["items"][-1], "conversation_id": 4711, "code": "not_found"}
    answer = await phone.agent.call("POST", "conversations/export", {"channel_id": phone.channel_id})
    assert answer.headers["Content-Type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig"))))
    assert {int(row["id"]) for row in rows} == set(ids)
    assert {(row["status"], row["unread"], row["tags"]) for row in rows} == {
        ("resolved", "0", f"bulk {ids[0]}")
    }
