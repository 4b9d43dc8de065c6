"""A tenant's configuration over real HTTP: tags, automated replies, users, channels, settings, files."""

import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.gateway.conftest import PASSWORD, Business, http
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.real_time


def test_tags_are_made_changed_listed_and_removed(business: Business) -> None:
    """Names are unique whatever their case."""
    owner = business.owner
    tag = owner.ok("POST", "/tags", {"name": "Urgent", "color": "#ff0000"})
    assert owner.refused("POST", "/tags", {"name": "urgent"}) == (409, "conflict")
    changed = owner.ok("PUT", f"/tags/{tag['id']}", {"color": "#0000ff"})
    assert (changed["name"], changed["color"]) == ("Urgent", "#0000ff")
    assert tag["id"] in [
        each["id"] for each in business.agent.ok("GET", "/tags", params={"limit": 100})["items"]
    ]
    owner.ok("DELETE", f"/tags/{tag['id']}")
    assert owner.refused("GET", f"/tags/{tag['id']}") == (404, "not_found")
    assert owner.refused("DELETE", f"/tags/{tag['id']}") == (404, "not_found")


# ------------------------------------------------------------------ automated replies


def _rule(**members: Any) -> dict[str, Any]:
    return {
        "kind": "keyword",
        "name": "Prices",
        "match": "contains",
        "patterns": ["price"],
        "reply": {"type": "text", "body": "Dear {{ first_name }}, see our list."},
        **members,
    }


def test_a_rule_answers_the_text_it_is_for(new_business: Callable[[], Business]) -> None:
    """The dry run names the rule and its reply; a customer who writes it is answered once."""
    business = new_business()
    owner, channel_id = business.owner, business.channel["id"]
    rule = owner.ok("POST", "/automated-replies", _rule())
    test = {"text": "What is the PRICE?", "channel_id": channel_id}
    outcome = owner.ok("POST", "/automated-replies/test", test)
    assert (outcome["triggered"], outcome["rule"]["id"]) == (True, rule["id"])
    assert outcome["reply"] == "Dear Customer, see our list."
    assert owner.ok("POST", "/automated-replies/test", {**test, "text": "hello"})["triggered"] is False
    conversation = business.conversation("price please")
    messages = owner.ok("GET", f"/conversations/{conversation['id']}/messages")["items"]
    assert [each["sender"]["type"] for each in messages] == ["bot", "customer"]
    owner.ok("PUT", f"/automated-replies/{rule['id']}", {"active": False})
    assert owner.ok("POST", "/automated-replies/test", test)["triggered"] is False
    owner.ok("DELETE", f"/automated-replies/{rule['id']}")
    assert owner.ok("GET", "/automated-replies")["items"] == []


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"match": None}, "match"),
        ({"patterns": []}, "patterns"),
        ({"match": "regex", "patterns": ["(a"]}, "patterns"),
        ({"match": "regex", "patterns": ["(?=a)b"]}, "patterns"),
        ({"kind": "greeting"}, "patterns"),
        ({"channel_ids": [5]}, "channel_ids"),
        ({"reply": {"type": "text", "body": ""}}, "reply.body"),
        ({"reply": {"type": "video"}}, "reply.type"),
        ({"cooldown_seconds": -1}, "cooldown_seconds"),
    ],
)
def test_rules_that_make_no_sense_are_refused(business: Business, change: dict[str, Any], field: str) -> None:
    """Before a customer finds out."""
    answer = business.owner.call("POST", "/automated-replies", _rule(**change))
    assert answer.status_code == 422, answer.text
    assert field in answer.json()["errors"]


# ------------------------------------------------------------------ users


def test_a_user_is_added_logs_in_and_is_removed(new_business: Callable[[], Business]) -> None:
    """With the removal the token dies at once."""
    business = new_business()
    body = {"email": business.email("new"), "name": "New", "password": PASSWORD, "capacity": 5}
    user = business.admin.ok("POST", "/users", body)
    assert (user["role"], user["active"], user["availability"], user["capacity"]) == (
        "agent",
        True,
        "offline",
        5,
    )
    assert "password" not in user
    assert business.admin.refused("POST", "/users", body) == (409, "conflict")
    person = business.log_in("new")
    assert person.call("GET", "/tags").status_code == 200
    business.admin.ok("DELETE", f"/users/{user['id']}")
    assert person.refused("GET", "/tags")[0] == 401
    assert business.admin.refused("GET", f"/users/{user['id']}") == (404, "not_found")


def test_a_deactivated_user_is_out_at_once(new_business: Callable[[], Business]) -> None:
    """Tokens are revoked, for good; activated again, a new login works."""
    business = new_business()
    path = f"/users/{business.agent.user_id}"
    everywhere = business.log_in("agent", everywhere=True)
    for person in (business.agent, everywhere):
        assert person.call("GET", "/tags").status_code == 200
    business.admin.ok("PUT", path, {"active": False})
    assert business.agent.refused("GET", "/tags")[0] == 401
    again = business.log_in("agent")
    assert again.refused("GET", "/tags") == (403, "user_inactive")
    business.admin.ok("PUT", path, {"active": True})
    for person in (business.agent, everywhere):
        assert person.refused("GET", "/tags")[0] == 401
    assert business.log_in("agent").call("GET", "/tags").status_code == 200


def test_the_last_owner_stays(new_business: Callable[[], Business]) -> None:
    """Neither removed, demoted nor deactivated, until there is another."""
    business = new_business()
    path = f"/users/{business.owner.user_id}"
    for method, body in (("DELETE", None), ("PUT", {"role": "admin"}), ("PUT", {"active": False})):
        assert business.owner.refused(method, path, body) == (409, "last_owner")
    business.owner.ok("PUT", f"/users/{business.admin.user_id}", {"role": "owner"})
    assert business.owner.ok("PUT", path, {"role": "admin"})["role"] == "admin"


def test_only_owners_touch_owners(new_business: Callable[[], Business]) -> None:
    """An admin makes no owner, of himself or others, and removes none."""
    business = new_business()
    admin = business.admin
    body = {"email": business.email("second"), "name": "Second", "password": PASSWORD, "role": "owner"}
    assert admin.refused("POST", "/users", body)[0] == 403
    assert admin.refused("PUT", f"/users/{admin.user_id}", {"role": "owner"})[0] == 403
    assert admin.refused("DELETE", f"/users/{business.owner.user_id}")[0] == 403
    assert admin.refused("PUT", f"/users/{business.owner.user_id}", {"password": "y" * 12})[0] == 403
    assert business.agent.refused("PUT", f"/users/{business.agent.user_id}", {"role": "admin"})[0] == 403


def test_one_login_may_belong_to_two_tenants(new_business: Callable[[], Business]) -> None:
    """The second tenant neither sets its password nor learns anything but the membership."""
    first, second = new_business(), new_business()
    assert first.agent.call("GET", "/tags").status_code == 200
    body = {"email": first.email("agent"), "name": "Helper", "password": "another password"}
    user = second.owner.ok("POST", "/users", body)
    assert user["id"] == first.agent.user_id
    login = {"email": first.email("agent"), "password": PASSWORD}
    answer = http.post(
        f"{first.system.base_url}/api/landlord/auth/login", json=login, timeout=PATIENCE_SECONDS
    )
    assert {tenant["slug"] for tenant in answer.json()["data"]["tenants"]} == {first.slug, second.slug}
    path = f"/users/{user['id']}"
    assert second.owner.refused("PUT", path, {"password": "y" * 12})[0] == 403
    assert second.owner.refused("PUT", path, {"email": "mine@x.example"})[0] == 403
    assert second.owner.ok("PUT", path, {"name": "Our helper"})["name"] == "Our helper"
    assert first.owner.ok("GET", path)["name"] == "Agent"


def test_a_new_password_replaces_the_old_and_its_tokens(new_business: Callable[[], Business]) -> None:
    """The old tokens, those for all tenants too, and the old password are dead."""
    business = new_business()
    path = f"/users/{business.agent.user_id}"
    everywhere = business.log_in("agent", everywhere=True)
    assert everywhere.call("GET", "/tags").status_code == 200
    business.owner.ok("PUT", path, {"password": "a whole new password"})
    assert business.agent.refused("GET", "/tags")[0] == 401
    assert everywhere.refused("GET", "/tags")[0] == 401
    login = {"email": business.email("agent"), "password": PASSWORD}
    url = f"{business.system.base_url}/api/landlord/auth/login"
    assert http.post(url, json=login, timeout=PATIENCE_SECONDS).status_code == 401
    assert (
        http.post(
            url, json={**login, "password": "a whole new password"}, timeout=PATIENCE_SECONDS
        ).status_code
        == 200
    )


def test_an_email_that_is_somebody_elses_login_is_refused(new_business: Callable[[], Business]) -> None:
    """409, and the user keeps the old one everywhere."""
    first, second = new_business(), new_business()
    path = f"/users/{first.agent.user_id}"
    assert first.owner.refused("PUT", path, {"email": second.email("owner")}) == (409, "conflict")
    assert first.owner.ok("GET", path)["email"] == first.email("agent")


def test_availability_is_ones_own(business: Business) -> None:
    """An agent sets his, not a colleague's; an admin anybody's."""
    mine, other = f"/users/{business.agent.user_id}", f"/users/{business.colleague.user_id}"
    body = {"availability": "online"}
    assert business.agent.ok("PUT", f"{mine}/availability", body)["availability"] == "online"
    assert business.agent.refused("PUT", f"{other}/availability", body)[0] == 403
    assert (
        business.admin.ok("PUT", f"{other}/availability", {"availability": "away"})["availability"] == "away"
    )
    assert business.agent.refused("PUT", f"{mine}/availability", {"availability": "asleep"})[0] == 422


# ------------------------------------------------------------------ channels


def _account(number: str) -> dict[str, Any]:
    return {
        "platform": "whatsapp",
        "name": "Second number",
        "external_id": number,
        "credentials": {"access_token": "TOP-SECRET-TOKEN", "app_secret": "TOP-SECRET-KEY"},
        "settings": {"base_url": "http://127.0.0.1:9"},
    }


def test_credentials_go_in_and_never_come_out(new_business: Callable[[], Business]) -> None:
    """No answer of any channel route holds one; the verify token is shown when connecting and not again."""
    business = new_business()
    body = _account(f"7{business.number_id}")
    connected = business.owner.call("POST", "/channels", body)
    assert connected.status_code == 201
    channel = connected.json()["data"]
    assert channel["verify_token"]
    assert channel["webhook_url"].startswith(f"{business.system.base_url}/api/webhooks/whatsapp/")
    path = f"/channels/{channel['id']}"
    answers = [
        connected,
        business.owner.call("GET", "/channels"),
        business.owner.call("GET", path),
        business.owner.call("PUT", path, {"credentials": {"app_secret_previous": "TOP-SECRET-OLD"}}),
        business.owner.call("GET", f"{path}/health"),
    ]
    for answer in answers:
        assert answer.status_code < 300, answer.text
        assert "TOP-SECRET" not in answer.text
    assert all(channel["verify_token"] not in answer.text for answer in answers[1:])
    shown = business.owner.ok("GET", path)
    assert shown["credentials"] == {
        "access_token": True,
        "app_secret": True,
        "app_secret_previous": True,
        "verify_token": True,
    }
    assert business.agent.refused("GET", "/channels")[0] == 403


def test_an_account_belongs_to_one_tenant(new_business: Callable[[], Business]) -> None:
    """409 for everybody else, without saying whose it is; after disconnecting it is free again."""
    first, second = new_business(), new_business()
    body = _account(f"8{first.number_id}")
    channel = first.owner.ok("POST", "/channels", body)
    assert first.owner.refused("POST", "/channels", body)[0] == 409
    answer = second.owner.call("POST", "/channels", body)
    assert answer.status_code == 409
    assert first.slug not in answer.text
    first.owner.ok("DELETE", f"/channels/{channel['id']}")
    assert second.owner.ok("POST", "/channels", body)["external_id"] == body["external_id"]


def test_the_platforms_handshake_takes_the_channels_verify_token(
    new_business: Callable[[], Business],
) -> None:
    """What was shown when connecting is what the platform's console needs."""
    business = new_business()
    channel = business.channel
    params = {"hub.mode": "subscribe", "hub.challenge": "12345", "hub.verify_token": channel["verify_token"]}
    answer = http.get(channel["webhook_url"], params=params)
    assert (answer.status_code, answer.text) == (200, "12345")
    assert http.get(channel["webhook_url"], params={**params, "hub.verify_token": "x"}).status_code == 403


def test_a_rotated_secret_counts_for_the_next_delivery(new_business: Callable[[], Business]) -> None:
    """Signed with the old key it is refused, unless the old key is kept beside the new one."""
    business = new_business()
    path = f"/channels/{business.channel['id']}"
    business.owner.ok("PUT", path, {"credentials": {"app_secret": "a new key"}})
    with pytest.raises(AssertionError):
        business.customer_writes("966500000001", "signed with the old key")
    business.owner.ok("PUT", path, {"credentials": {"app_secret_previous": "the app's secret"}})
    business.customer_writes("966500000001", "signed with the old key")


def test_a_platform_that_does_not_answer_is_no_verdict(new_business: Callable[[], Business]) -> None:
    """Verifying against a dead address neither says yes nor crashes."""
    business = new_business()
    answer = business.owner.call("POST", f"/channels/{business.channel['id']}/verify")
    assert answer.status_code in (200, 503)
    if answer.status_code == 200:
        assert answer.json()["data"]["verified"] is False


def test_a_disabled_channel_sends_nothing(new_business: Callable[[], Business]) -> None:
    """409 with a word of its own; enabled again, it sends."""
    business = new_business()
    conversation = business.conversation()
    path, body = f"/conversations/{conversation['id']}/messages", {"type": "text", "content": "x"}
    channel = f"/channels/{business.channel['id']}"
    assert business.owner.ok("PUT", channel, {"status": "disabled"})["status"] == "disabled"
    assert business.owner.refused("POST", path, body) == (409, "channel_disabled")
    business.owner.ok("PUT", channel, {"status": "active"})
    assert business.owner.ok("POST", path, body)["status"] == "pending"


# ------------------------------------------------------------------ settings


def test_assignment_settings_change_one_by_one(new_business: Callable[[], Business]) -> None:
    """What is left out stays."""
    business = new_business()
    path = "/settings/assignment-settings"
    assert business.owner.ok("GET", path)["mode"] == "manual"
    changed = business.owner.ok("PATCH", path, {"mode": "round_robin"})
    assert (changed["mode"], changed["respect_work_hours"]) == ("round_robin", True)
    assert business.owner.ok("PATCH", path, {"respect_work_hours": False})["mode"] == "round_robin"
    assert business.owner.refused("PATCH", path, {"mode": "dice"})[0] == 422
    assert business.agent.refused("PATCH", path, {"mode": "manual"})[0] == 403


def test_work_hours_are_set_by_week_and_by_day(new_business: Callable[[], Business]) -> None:
    """At first always open; a day set alone leaves the others open all day; a week sets them all."""
    business = new_business()
    path = "/settings/work-hours"
    shown = business.owner.ok("GET", path)
    assert (shown["always_open"], shown["timezone"], len(shown["days"])) == (True, "Asia/Riyadh", 7)
    nine_to_five = [{"start": "09:00", "end": "17:00"}]
    shown = business.owner.ok("POST", f"{path}/friday", {"intervals": []})
    assert shown["days"][4]["intervals"] == []
    assert shown["days"][0]["intervals"] == [{"start": "00:00", "end": "24:00"}]
    business.owner.ok("POST", path, {"days": [{"day": "sunday", "intervals": nine_to_five}]})
    shown = business.owner.ok("GET", path)
    assert [each["day"] for each in shown["days"] if each["intervals"]] == ["sunday"]
    assert business.owner.ok("POST", path, {"always_open": True})["always_open"] is True
    for body in (
        {"intervals": [{"start": "17:00", "end": "09:00"}]},
        {"intervals": [{"start": "9:00", "end": "17:00"}]},
        {"intervals": [{"start": "09:00", "end": "25:00"}]},
        {"intervals": [*nine_to_five, {"start": "16:00", "end": "18:00"}]},
    ):
        assert business.owner.refused("POST", f"{path}/monday", body)[0] == 422
    assert business.owner.refused("POST", f"{path}/someday", {"intervals": []}) == (404, "not_found")


# ------------------------------------------------------------------ files


def test_what_a_browser_might_run_is_a_download(business: Business) -> None:
    """HTML and SVG are served as bytes to be saved, whatever their name."""
    for name, kind in (("page.html", "text/html"), ("drawing.svg", "image/svg+xml"), ("x", "nonsense")):
        files = {"file": (name, b"<script>alert(1)</script>", kind)}
        link = business.agent.ok("POST", "/upload", files=files)["url"]
        answer = http.get(link)
        assert answer.headers["Content-Type"] == "application/octet-stream"
        assert answer.headers["Content-Disposition"].startswith("attachment")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_a_link_that_is_passed_on_ends_no_header(business: Business) -> None:
    """A file that is only linked: its address comes back as one, and with a line feed it is refused."""
    path = f"/conversations/{business.conversation()['id']}/messages"

    def send(url: str) -> httpx.Response:
        return business.owner.call("POST", path, {"type": "image", "attachments": [{"url": url}]})

    assert send("https://cdn.example/a\r\nSet-Cookie: a=b").status_code == 422
    assert send("https://cdn.example/a.png\n").status_code == 422
    sent = send("https://cdn.example/صورة.png?a=b%20c#d")
    (attachment,) = sent.json()["data"]["attachments"]
    answer = http.get(attachment["url"])
    assert answer.status_code == 302
    assert answer.headers["Location"] == "https://cdn.example/%D8%B5%D9%88%D8%B1%D8%A9.png?a=b%20c#d"


def test_names_of_files_lose_their_paths(business: Business) -> None:
    """Only the last part of what the client called it."""
    files = {"file": ("../../etc/passwd.txt", b"text", "text/plain")}
    assert business.agent.ok("POST", "/upload", files=files)["filename"] == "passwd.txt"


def test_a_large_upload_is_stored_whole(business: Business) -> None:
    """Half a megabyte in pieces, byte for byte; size as it is."""
    content = bytes(range(256)) * 1900
    uploaded = business.agent.ok("POST", "/upload", files={"file": ("big.bin", content, "application/pdf")})
    assert uploaded["size"] == len(content)
    assert http.get(uploaded["url"]).content == content


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"files": {"file": ("big", b"x" * (513 * 1024 + 64 * 1024), "image/png")}}, 413),
        ({"files": {"file": ("big", b"x" * (520 * 1024), "image/png")}}, 413),
        ({"files": {"other": ("a", b"x", "image/png")}}, 422),
        ({"data": {"file": "text"}, "files": {"other": ("a", b"x", "image/png")}}, 422),
        ({"json": {"file": "x"}}, 415),
        ({"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}, 415),
        ({"content": b"rubbish", "headers": {"Content-Type": "multipart/form-data; boundary=b"}}, 422),
        (
            {
                "content": b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\ncut off',
                "headers": {"Content-Type": "multipart/form-data; boundary=b"},
            },
            422,
        ),
    ],
)
def test_uploads_that_cannot_be_used_are_refused(
    business: Business, options: dict[str, Any], status: int
) -> None:
    """Too large, without a file, not multipart, cut off."""
    assert business.agent.call("POST", "/upload", **options).status_code == status


# ------------------------------------------------------------------ PUT and PATCH


@pytest.mark.parametrize("resource", ["tags", "automated-replies", "users", "channels"])
def test_put_and_patch_change_what_is_sent_and_leave_the_rest(
    new_business: Callable[[], Business], resource: str
) -> None:
    """Both methods take a part of the resource and answer the whole of it; the document names both."""
    business = new_business()
    owner = business.owner
    bodies = {
        "tags": {"name": "Old", "color": "#ff0000"},
        "automated-replies": _rule(name="Old"),
        "users": {"name": "Old", "email": business.email("old"), "password": PASSWORD},
    }
    made = owner.ok("POST", f"/{resource}", bodies[resource]) if resource in bodies else business.channel
    path = f"/{resource}/{made['id']}"
    before = owner.ok("GET", path)
    for method in ("PUT", "PATCH"):
        after = owner.ok(method, path, {"name": f"New by {method}"})
        assert after == before | {"name": f"New by {method}", "updated_at": after["updated_at"]}
    described = http.get(f"{business.system.base_url}/api/openapi.json", timeout=PATIENCE_SECONDS).json()[
        "paths"
    ]
    one = next(methods for path, methods in described.items() if re.search(rf"/{resource}/{{\w+}}$", path))
    assert set(one) == {"get", "put", "patch", "delete"}
    assert one["put"]["requestBody"] == one["patch"]["requestBody"]
    assert len({operation["operationId"] for operation in one.values()}) == 4
