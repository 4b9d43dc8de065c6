"""Conversations over real HTTP: customers write by webhook, agents read, answer, note, tag, assign, hand
on."""

import csv
import io
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from gateway.api.conversations import STATUSES
from tests.gateway.conftest import Business, Person, http

pytestmark = pytest.mark.real_time


def _send(person: Person, conversation: dict[str, Any], text: str, **members: Any) -> Any:
    body = {"type": "text", "content": {"body": text}, **members}
    return person.ok("POST", f"/conversations/{conversation['id']}/messages", body)


def test_what_a_customer_writes_is_in_the_inbox(business: Business) -> None:
    """The conversation with its customer, channel, counts and open window; the message with all its
    members."""
    conversation = business.conversation("good morning")
    assert conversation["status"] == "new"
    assert conversation["channel"] == {
        "id": business.channel["id"],
        "platform": "whatsapp",
        "name": "Main number",
    }
    assert (conversation["message_count"], conversation["unread_count"], conversation["last_seq"]) == (
        1,
        1,
        1,
    )
    assert conversation["reply_window"]["open"] is True
    assert conversation["last_message"]["preview"] == "good morning"
    shown = business.owner.ok("GET", f"/conversations/{conversation['id']}")
    assert shown == conversation
    [message] = business.owner.ok("GET", f"/conversations/{conversation['id']}/messages")["items"]
    assert message["content"] == {"body": "good morning"}
    assert (message["direction"], message["status"], message["seq"]) == ("inbound", "received", 1)
    assert message["created_at"].endswith("Z")


def test_pages_walk_the_whole_inbox_once(new_business: Callable[[], Business]) -> None:
    """Newest activity first, each once, whatever the limit."""
    business = new_business()
    made = [business.conversation(f"number {index}")["id"] for index in range(5)]
    seen: list[int] = []
    cursor: str | None = None
    while True:
        params = {"limit": 2, **({"cursor": cursor} if cursor else {})}
        page = business.owner.ok("GET", "/conversations", params=params)
        seen += [each["id"] for each in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == made[::-1]
    statistics = business.owner.ok("GET", "/conversations/statistics")
    assert statistics["total"] == 5
    assert statistics["by_status"]["new"] == 5


def test_filters_narrow_the_inbox(new_business: Callable[[], Business]) -> None:
    """Status, assignee, tag, unread, search and time."""
    business = new_business()
    plain, mine = business.conversation("apples"), business.conversation("oranges")
    owner = business.owner
    owner.ok("POST", f"/conversations/{mine['id']}/assign", {"user_id": owner.user_id})
    tag = owner.ok("POST", "/tags", {"name": "fruit"})
    owner.ok("POST", f"/conversations/{mine['id']}/tags", {"tag_ids": [tag["id"]]})
    owner.ok("POST", f"/conversations/{mine['id']}/mark-read", {})
    owner.ok("PATCH", f"/conversations/{plain['id']}/status", {"status": "resolved"})

    def found(**params: Any) -> list[int]:
        return [each["id"] for each in owner.ok("GET", "/conversations", params=params)["items"]]

    assert found(assigned_to="me") == [mine["id"]]
    assert found(assigned_to="none") == [plain["id"]]
    assert found(assigned_to=str(owner.user_id)) == [mine["id"]]
    assert found(tag=tag["id"]) == [mine["id"]]
    assert found(unread="true") == [plain["id"]]
    assert found(status="resolved") == [plain["id"]]
    assert set(found(status="resolved,new,open")) == {plain["id"], mine["id"]}
    assert found(search="apples") == [plain["id"]]
    assert found(platform="email") == []
    assert found(since="2099-01-01T00:00:00Z") == []
    assert set(found(until="2099-01-01T00:00:00Z")) == {plain["id"], mine["id"]}
    assert owner.refused("GET", "/conversations", params={"status": "closed"}) == (422, "validation_failed")
    assert owner.refused("GET", "/conversations", params={"since": "yesterday"}) == (422, "validation_failed")


def test_agents_see_their_own_and_unassigned_conversations(business: Business) -> None:
    """A colleague's conversation does not exist for an agent, in no list and under no route."""
    conversation = business.conversation()
    path = f"/conversations/{conversation['id']}"
    assert business.agent.ok("GET", path)["id"] == conversation["id"]
    business.owner.ok("POST", f"{path}/assign", {"user_id": business.colleague.user_id})
    assert business.agent.refused("GET", path) == (404, "not_found")
    assert business.agent.refused("POST", f"{path}/messages", {"type": "text", "content": "x"}) == (
        404,
        "not_found",
    )
    assert business.agent.refused("POST", f"{path}/assign", {"user_id": business.agent.user_id})[0] == 404
    listed = business.agent.ok("GET", "/conversations", params={"limit": 100})["items"]
    assert conversation["id"] not in [each["id"] for each in listed]
    assert business.colleague.ok("GET", path)["assigned_to"]["id"] == business.colleague.user_id


def test_agents_take_conversations_and_hand_them_on(business: Business) -> None:
    """An agent assigns only to himself, transfers to others, and the history says who and why."""
    conversation = business.conversation()
    path = f"/conversations/{conversation['id']}"
    assert business.agent.refused("POST", f"{path}/assign", {"user_id": business.colleague.user_id})[0] == 403
    taken = business.agent.ok("POST", f"{path}/assign", {"user_id": business.agent.user_id})
    assert taken["assigned_to"]["name"] == "Agent"
    body = {"user_id": business.colleague.user_id, "note": "she knows him"}
    business.agent.ok("POST", f"{path}/transfer", body)
    assert business.agent.refused("GET", path)[0] == 404
    history = business.colleague.ok("GET", f"{path}/transfer-history")["items"]
    assert [each["kind"] for each in history] == ["transfer", "assign"]
    assert history[0]["note"] == "she knows him"
    assert history[0]["to_user"]["id"] == business.colleague.user_id
    assert business.owner.ok("POST", f"{path}/unassign")["assigned_to"] is None
    assert business.owner.refused("POST", f"{path}/assign", {"user_id": 5}) == (422, "validation_failed")


def test_an_answer_is_stored_and_queued_before_the_201(business: Business) -> None:
    """Pending, with the next sequence number, the sender and the call's trace; the conversation is
    answered."""
    conversation = business.conversation()
    path = f"/conversations/{conversation['id']}/messages"
    answer = business.agent.call("POST", path, {"type": "text", "content": "at your service"})
    assert answer.status_code == 201
    message = answer.json()["data"]
    assert (message["seq"], message["direction"], message["status"]) == (2, "outbound", "pending")
    assert message["sender"] == {"type": "user", "id": business.agent.user_id, "name": "Agent"}
    assert message["trace"] == answer.headers["X-Request-Id"]
    shown = business.owner.ok("GET", f"/conversations/{conversation['id']}")
    assert (shown["last_seq"], shown["unread_count"], shown["status"]) == (2, 0, "open")
    assert shown["first_response_at"] is not None
    after = business.owner.ok("GET", path, params={"after_seq": 1})["items"]
    assert [each["id"] for each in after] == [message["id"]]


def test_a_double_click_is_one_message(business: Business) -> None:
    """The same client key, or the same Idempotency-Key: the first message is the answer."""
    conversation = business.conversation()
    key = uuid.uuid4().hex
    first = _send(business.agent, conversation, "once", client_key=key)
    second = _send(business.agent, conversation, "once", client_key=key)
    assert first["id"] == second["id"]
    path = f"/conversations/{conversation['id']}/messages"
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    body = {"type": "text", "content": "twice?"}
    third = business.agent.ok("POST", path, body, headers=headers)
    assert business.agent.ok("POST", path, body, headers=headers)["id"] == third["id"]
    assert business.owner.ok("GET", f"/conversations/{conversation['id']}")["message_count"] == 3


def test_an_answer_past_the_customer_is_refused_with_what_was_missed(business: Business) -> None:
    """409 with the messages that the agent had not seen; `force` sends all the same."""
    conversation = business.conversation("first")
    number = business.owner.ok("GET", f"/conversations/{conversation['id']}")["customer"]["name"].split()[1]
    business.customer_writes(number, "wait, one more thing")
    path = f"/conversations/{conversation['id']}/messages"
    body = {"type": "text", "content": "here is your answer", "seen_seq": 1}
    answer = business.agent.call("POST", path, body)
    assert answer.status_code == 409
    assert answer.json()["code"] == "stale_conversation"
    missed = answer.json()["data"]["missed"]
    assert [each["content"]["body"] for each in missed] == ["wait, one more thing"]
    assert business.agent.ok("POST", path, {**body, "force": True})["seq"] == 3
    assert _send(business.agent, conversation, "and now", seen_seq=3)["seq"] == 4


def _uploaded(person: Person) -> int:
    files = {"file": ("photo.jpg", b"\xff\xd8\xff a small picture", "image/jpeg")}
    identity: int = person.ok("POST", "/upload", files=files)["id"]
    return identity


@pytest.mark.parametrize(
    ("body", "content"),
    [
        (
            {"type": "location", "location": {"latitude": 24.7, "longitude": 46.7, "name": "Office"}},
            "latitude",
        ),
        (
            {
                "type": "interactive",
                "interactive": {"kind": "buttons", "body": "Sure?", "options": [{"id": "y", "title": "Yes"}]},
            },
            "options",
        ),
        (
            {
                "type": "template",
                "template": {"name": "hello", "language": "en", "variables": {"body": ["Ali"]}},
            },
            "variables",
        ),
        (
            {"type": "image", "attachments": [{"url": "https://example.com/a.jpg", "caption": "look"}]},
            "caption",
        ),
        ({"type": "text", "content": "plain words"}, "body"),
    ],
)
def test_every_kind_of_message_can_be_sent(business: Business, body: dict[str, Any], content: str) -> None:
    """Each with its content in the shape of the resource."""
    conversation = business.conversation()
    message = business.agent.ok("POST", f"/conversations/{conversation['id']}/messages", body)
    assert message["type"] == body["type"]
    assert content in message["content"]


def test_an_uploaded_file_is_sent_and_served_by_a_signed_link(
    business: Business, neighbour: Business
) -> None:
    """The link works without a token and only as it is; another tenant cannot send the file."""
    file_id = _uploaded(business.agent)
    conversation = business.conversation()
    body = {"type": "image", "attachments": [{"file_id": file_id}], "content": {"caption": "a photo"}}
    message = business.agent.ok("POST", f"/conversations/{conversation['id']}/messages", body)
    [attachment] = message["attachments"]
    assert (attachment["type"], attachment["state"], attachment["media_type"]) == (
        "image",
        "stored",
        "image/jpeg",
    )
    answer = http.get(attachment["url"])
    assert answer.content == b"\xff\xd8\xff a small picture"
    assert answer.headers["Content-Type"] == "image/jpeg"
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    assert http.get(attachment["url"] + "0").status_code == 403
    assert http.get(attachment["url"].partition("?")[0]).status_code == 422
    theirs = neighbour.conversation()
    assert neighbour.owner.refused("POST", f"/conversations/{theirs['id']}/messages", body) == (
        422,
        "validation_failed",
    )


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"type": "text"}, "content"),
        ({"type": "text", "content": "   "}, "content"),
        ({"type": "text", "content": "a", "location": {"latitude": 1, "longitude": 1}}, "location"),
        ({"type": "image"}, "attachments"),
        ({"type": "image", "attachments": [{}]}, "attachments"),
        ({"type": "image", "attachments": [{"file_id": 77}]}, "attachments"),
        ({"type": "location", "location": {"latitude": 91, "longitude": 0}}, "location.latitude"),
        ({"type": "fax"}, "type"),
    ],
)
def test_messages_that_make_no_sense_are_refused(
    business: Business, body: dict[str, Any], field: str
) -> None:
    """With the field, before anything is stored."""
    conversation = business.conversation()
    answer = business.agent.call("POST", f"/conversations/{conversation['id']}/messages", body)
    assert answer.status_code == 422, answer.text
    assert field in answer.json()["errors"]
    assert business.owner.ok("GET", f"/conversations/{conversation['id']}")["message_count"] == 1


def test_what_the_platform_would_refuse_is_refused_here(business: Business) -> None:
    """WhatsApp takes 4,096 characters of text and three buttons."""
    conversation = business.conversation()
    path = f"/conversations/{conversation['id']}/messages"
    options = [{"id": str(index), "title": f"Button {index}"} for index in range(4)]
    too_many = {"type": "interactive", "interactive": {"kind": "buttons", "body": "?", "options": options}}
    assert business.agent.refused("POST", path, too_many)[0] == 422
    assert business.agent.refused("POST", path, {"type": "text", "content": "x" * 4097})[0] == 422


def test_reactions_refer_to_a_message(business: Business) -> None:
    """A reaction is a message of its own that points at the customer's."""
    conversation = business.conversation()
    [message] = business.owner.ok("GET", f"/conversations/{conversation['id']}/messages")["items"]
    reaction = business.agent.ok("POST", f"/messages/{message['id']}/reaction", {"emoji": "👍"})
    assert reaction["content"]["emoji"] == "👍"
    assert reaction["reply_to"]["id"] == message["id"]
    assert business.agent.refused("POST", "/messages/12345/reaction", {"emoji": "👍"}) == (404, "not_found")
    assert business.agent.refused("POST", f"/messages/{message['id']}/retry")[0] in (404, 409)


def test_a_business_opens_a_conversation_with_a_template(business: Business) -> None:
    """Outside the window only a template may open it; the open conversation is used, never doubled."""
    phone = f"+96655{uuid.uuid4().int % 10_000_000:07d}"
    body: dict[str, Any] = {"channel_id": business.channel["id"], "phone": phone, "name": "Sara"}
    text = {**body, "message": {"type": "text", "content": "hello"}}
    assert business.agent.refused("POST", "/conversations/start", text) == (409, "window_closed")
    template = {"type": "template", "template": {"name": "hello", "language": "en"}}
    first = business.agent.call("POST", "/conversations/start", {**body, "message": template})
    assert first.status_code == 201
    started = first.json()["data"]
    assert started["created"] is True
    assert started["message"]["type"] == "template"
    assert started["conversation"]["customer"]["name"] == "Sara"
    again = business.agent.call("POST", "/conversations/start", {**body, "message": template})
    assert again.status_code == 200
    assert again.json()["data"]["conversation"]["id"] == started["conversation"]["id"]
    assert business.agent.refused("POST", "/conversations/start", {**body, "phone": "12"})[0] == 422


def test_statuses_change_and_a_pending_one_may_say_until_when(business: Business) -> None:
    """Each status can be set; `until` belongs to pending and lies ahead."""
    conversation = business.conversation()
    path = f"/conversations/{conversation['id']}/status"
    for status in ("open", "resolved", "open", "archived"):
        assert business.owner.ok("PATCH", path, {"status": status})["status"] == status
    other = business.conversation()
    path = f"/conversations/{other['id']}/status"
    pending = business.owner.ok("PATCH", path, {"status": "pending", "until": "2099-01-01T00:00:00+03:00"})
    assert pending["snoozed_until"] == "2098-12-31T21:00:00.000Z"
    for body in (
        {"status": "asleep"},
        {"status": "open", "until": "2099-01-01T00:00:00Z"},
        {"status": "pending", "until": "2001-01-01T00:00:00Z"},
        {"status": "pending", "until": "2099-01-01T00:00:00"},
    ):
        assert business.owner.refused("PATCH", path, body) == (422, "validation_failed")
    assert "pending" in STATUSES


def test_notes_are_their_authors(business: Business) -> None:
    """Written, changed by the author alone, removed by the author or an admin, and then gone."""
    conversation = business.conversation()
    path = f"/conversations/{conversation['id']}/notes"
    note = business.agent.ok("POST", path, {"body": "likes tea"})
    assert note["user"]["name"] == "Agent"
    assert business.colleague.refused("PATCH", f"{path}/{note['id']}", {"body": "x"})[0] == 403
    assert business.colleague.refused("DELETE", f"{path}/{note['id']}")[0] == 403
    assert (
        business.agent.ok("PATCH", f"{path}/{note['id']}", {"body": "likes coffee"})["body"] == "likes coffee"
    )
    assert [each["body"] for each in business.colleague.ok("GET", path)["items"]] == ["likes coffee"]
    business.admin.ok("DELETE", f"{path}/{note['id']}")
    assert business.agent.ok("GET", path)["items"] == []
    assert business.agent.refused("PATCH", f"{path}/{note['id']}", {"body": "x"}) == (404, "not_found")


def test_tags_come_and_go_on_a_conversation(business: Business) -> None:
    """Unknown tags are refused; a removed tag leaves the conversation."""
    conversation = business.conversation()
    path = f"/conversations/{conversation['id']}/tags"
    tag = business.owner.ok("POST", "/tags", {"name": f"t-{conversation['id']}", "color": "#00ff00"})
    tagged = business.agent.ok("POST", path, {"tag_ids": [tag["id"]]})
    assert tagged["tags"] == [{"id": tag["id"], "name": tag["name"], "color": "#00ff00"}]
    assert business.agent.ok("DELETE", path, {"tag_ids": [tag["id"]]})["tags"] == []
    assert business.agent.refused("POST", path, {"tag_ids": [1]})[0] == 422
    business.agent.ok("POST", path, {"tag_ids": [tag["id"]]})
    business.owner.ok("DELETE", f"/tags/{tag['id']}")
    assert business.agent.ok("GET", f"/conversations/{conversation['id']}")["tags"] == []


def test_typing_is_taken_and_stores_no_message(business: Business) -> None:
    """202, and the history stays as it is."""
    conversation = business.conversation()
    assert business.agent.call("POST", f"/conversations/{conversation['id']}/typing").status_code == 202
    assert business.owner.ok("GET", f"/conversations/{conversation['id']}")["message_count"] == 1


def test_bulk_calls_say_what_became_of_each(business: Business) -> None:
    """Those that worked and those that do not exist, in the order asked; more than a hundred are refused."""
    ids = [business.conversation()["id"] for _ in range(3)]
    tag = business.owner.ok("POST", "/tags", {"name": f"bulk-{ids[0]}"})
    body: dict[str, Any] = {"conversation_ids": [*ids, 4711]}
    for path, extra in (
        ("bulk-assign", {"user_id": business.agent.user_id}),
        ("bulk-tags/add", {"tag_ids": [tag["id"]]}),
        ("bulk-mark-read", {}),
        ("bulk-status", {"status": "open"}),
    ):
        result = business.owner.ok("POST", f"/conversations/{path}", {**body, **extra})
        assert (result["succeeded"], result["failed"]) == (3, 1), path
        assert [each["conversation_id"] for each in result["items"]] == [*ids, 4711]
        assert result["items"][3]["code"] == "not_found"
    shown = business.owner.ok("GET", f"/conversations/{ids[0]}")
    assert (shown["assigned_to"]["id"], shown["unread_count"], shown["status"]) == (
        business.agent.user_id,
        0,
        "open",
    )
    assert shown["tags"][0]["id"] == tag["id"]
    business.owner.ok("POST", "/conversations/bulk-tags/remove", {**body, "tag_ids": [tag["id"]]})
    business.owner.ok("POST", "/conversations/bulk-archive", body)
    shown = business.owner.ok("GET", f"/conversations/{ids[0]}")
    assert (shown["status"], shown["tags"]) == ("archived", [])
    theirs = business.colleague.ok("POST", "/conversations/bulk-mark-read", body)
    assert theirs["succeeded"] == 0
    too_many = {"conversation_ids": list(range(1, 102))}
    assert business.owner.refused("POST", "/conversations/bulk-mark-read", too_many)[0] == 422


def test_the_export_is_csv_that_runs_nothing(new_business: Callable[[], Business]) -> None:
    """One row per conversation that matches; a tag that looks like a formula is disarmed."""
    business = new_business()
    first, _ = business.conversation("one"), business.conversation("two")
    tag = business.owner.ok("POST", "/tags", {"name": '=HYPERLINK("x")'})
    business.owner.ok("POST", f"/conversations/{first['id']}/tags", {"tag_ids": [tag["id"]]})
    answer = business.owner.call("POST", "/conversations/export", {})
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/csv")
    assert answer.content.startswith(b"\xef\xbb\xbf")
    rows = list(csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig"))))
    assert len(rows) == 2
    assert {row["tags"] for row in rows} == {"", '\'=HYPERLINK("x")'}
    narrowed = business.owner.call("POST", "/conversations/export", {"tag": tag["id"]})
    assert len(narrowed.text.strip().splitlines()) == 2
    assert business.agent.refused("POST", "/conversations/export", {})[0] == 403


def test_the_event_log_is_read_from_a_cursor_on(new_business: Callable[[], Business]) -> None:
    """Every event once, in order, page by page; from the head on there is nothing."""
    business = new_business()
    start = business.owner.ok("GET", "/events")["head"]
    conversation = business.conversation()
    _send(business.owner, conversation, "hi")
    events: list[dict[str, Any]] = []
    cursor = start
    while True:
        page = business.owner.ok("GET", "/events", params={"since": cursor, "limit": 1})
        assert page["gap"] is None
        if not page["items"]:
            break
        events += page["items"]
        cursor = page["cursor"]
    assert [each["cursor"] for each in events] == list(range(start + 1, start + 1 + len(events)))
    names = [each["name"] for each in events]
    assert "message.received" in names
    assert "message.sent" in names
    assert names.index("message.received") < names.index("message.sent")
    assert all(each["trace"] for each in events if each["name"].startswith(("message.", "conversation.")))
    only = business.owner.ok(
        "GET", "/events", params={"since": start, "channel": f"conversations.{conversation['id']}"}
    )
    assert all(f"conversations.{conversation['id']}" in each["channels"] for each in only["items"])
    assert only["items"]
