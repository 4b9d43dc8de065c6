"""The conventions of API.md, over real HTTP: envelope, ids, limits, methods, tokens, rates, idempotency."""

import re
import socket
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from gateway.api import ALL_ROUTES
from gateway.permissions import ROLES, Permission
from gateway.ratelimit import Buckets
from gateway.routing import Access
from tests.gateway.conftest import PASSWORD, Business, System, http
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.real_time


def test_every_answer_has_a_request_id_and_security_headers(business: Business) -> None:
    """Success, refusal and an address that does not exist alike; ids differ."""
    answers = [business.owner.call("GET", path) for path in ("/tags", "/tags/1", "/nothing-here")]
    assert [answer.status_code for answer in answers] == [200, 404, 404]
    ids = {answer.headers["X-Request-Id"] for answer in answers}
    assert len(ids) == 3
    for answer in answers:
        assert re.fullmatch("[0-9a-f]{32}", answer.headers["X-Request-Id"])
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Content-Type"] == "application/json"


def test_a_clients_request_id_is_not_taken_over(business: Business) -> None:
    """Ours is the trace; a client must not be able to forge one."""
    answer = business.owner.call("GET", "/tags", headers={"X-Request-Id": "mine"})
    assert answer.headers["X-Request-Id"] != "mine"


@pytest.mark.parametrize(
    ("content", "kind", "status", "code"),
    [
        (b"{", "application/json", 400, "not_json"),
        (b"\xff", "application/json", 400, "not_json"),
        (b'{"name": "a"}', "text/plain", 415, "unsupported_media_type"),
        (b"[]", "application/json", 422, "validation_failed"),
        (b"{}", "application/json", 422, "validation_failed"),
        (b'{"name": ""}', "application/json", 422, "validation_failed"),
        (b'{"name": "a", "colour": "#ffffff"}', "application/json", 422, "validation_failed"),
        (b'{"name": "a", "color": "#ffffff\\n"}', "application/json", 422, "validation_failed"),
        (b'{"name": "' + b"x" * 70_000 + b'"}', "application/json", 413, "too_large"),
    ],
)
def test_bodies_that_cannot_be_used_are_refused(
    business: Business, content: bytes, kind: str, status: int, code: str
) -> None:
    """With the status and code of the conventions."""
    headers = {"Content-Type": kind}
    assert business.owner.refused("POST", "/tags", content=content, headers=headers) == (status, code)


def test_a_body_without_a_length_is_limited_too(business: Business) -> None:
    """A chunked body is cut off at the limit."""
    answer = business.owner.call(
        "POST",
        "/tags",
        content=(b"x" * 10_000 for _ in range(20)),
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == 413


def test_validation_errors_name_the_field(business: Business) -> None:
    """A sentence per field."""
    answer = business.owner.call("POST", "/tags", {"name": "a", "color": "red"})
    assert list(answer.json()["errors"]) == ["color"]


def test_methods_that_do_not_fit_say_which_do(business: Business) -> None:
    """405 with Allow, and OPTIONS, both in the envelope; HEAD is GET without a body."""
    answer = business.owner.call("DELETE", "/tags")
    assert answer.status_code == 405
    assert answer.json()["code"] == "method_not_allowed"
    assert {"GET", "POST"} <= set(answer.headers["Allow"].split(", "))
    options = business.owner.call("OPTIONS", "/tags")
    assert options.status_code == 200
    assert {"GET", "POST"} <= set(options.json()["data"]["methods"])
    head = business.owner.call("HEAD", "/tags")
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize(
    "path", ["/tags/0", "/tags/-1", "/tags/abc", "/tags/01", "/tags/9007199254740992", "/tags/", "//tags"]
)
def test_addresses_that_are_none_are_404(business: Business, path: str) -> None:
    """Also ids that no id can be, whatever the method; never a redirect."""
    for method in ("GET", "PATCH", "DELETE"):
        assert business.owner.refused(method, path) == (404, "not_found")


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=101", "limit=x", "cursor=%21%21", "offset=3", "limit=5&page=2", "limit=5&limit=6"],
)
def test_queries_that_make_no_sense_are_422(business: Business, query: str) -> None:
    """Out of bounds, not ours, not known, or given twice."""
    assert business.owner.refused("GET", f"/tags?{query}") == (422, "validation_failed")


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Basic abc",
        "Bearer 1",
        "Bearer 1|x",
        "Bearer x|y",
        f"Bearer {'9' * 40}|x",
        "Bearer é|é",
    ],
)
def test_without_a_good_token_nothing_is_said(business: Business, header: str | None) -> None:
    """401 with the scheme, for tenants that exist and for those that do not."""
    for slug in (business.slug, "no-such-tenant"):
        headers = {} if header is None else {b"Authorization": header.encode()}
        answer = http.get(f"{business.system.base_url}/api/{slug}/tags", headers=headers)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert answer.json()["code"] == "unauthenticated"


def test_another_tenants_name_is_one_that_does_not_exist(business: Business, neighbour: Business) -> None:
    """The same answer, but for the request id."""
    strange = {"Authorization": f"Bearer {business.owner.token}"}
    base = business.system.base_url
    theirs = http.get(f"{base}/api/{neighbour.slug}/tags", headers=strange)
    nobodys = http.get(f"{base}/api/no-such-tenant/tags", headers=strange)
    assert theirs.status_code == nobodys.status_code == 404
    assert theirs.json() == nobodys.json()


def test_each_role_is_let_through_where_its_permissions_say(business: Business) -> None:
    """Every tenant route, asked by an agent: 403 exactly where the agent lacks the permission."""
    for route in ALL_ROUTES:
        if not route.in_tenant or not isinstance(route.needs, Permission):
            continue
        path = re.sub(r"<id:\w+>", "1", route.path.removeprefix("/api/<slug:tenant>"))
        path = path.replace("<string:day>", "someday")
        status = business.agent.call(
            route.method, path, content=b"{", headers={"Content-Type": "application/json"}
        ).status_code
        assert (status == 403) == (route.needs not in ROLES["agent"]), (route.name, status)


def test_landlord_routes_are_closed_to_tenants(business: Business) -> None:
    """An owner is nobody there: 403; without a token 401."""
    base = business.system.base_url
    for route in ALL_ROUTES:
        if route.needs is not Access.LANDLORD:
            continue
        path = base + re.sub(r"<id:\w+>", "1", route.path)
        headers = {"Authorization": f"Bearer {business.owner.token}"}
        assert http.request(route.method, path, headers=headers).status_code == 403, route.name
        assert http.request(route.method, path).status_code == 401, route.name


def test_rate_headers_count_down(business: Business) -> None:
    """Each call costs one."""
    answer = business.owner.call("GET", "/tags")
    assert int(answer.headers["RateLimit-Limit"]) > int(answer.headers["RateLimit-Remaining"]) >= 0
    assert int(answer.headers["RateLimit-Reset"]) >= 0


def test_a_token_over_its_rate_is_429_and_told_when(
    business: Business, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A burst of calls beyond the bucket; other tokens of the tenant go on."""

    def level(buckets: Any, key: object, now: float) -> float:
        """Nothing comes back as time goes by: a slow machine would never use the bucket up."""
        held, _ = buckets._levels.get(key, (float(buckets._rate.burst), now))
        return float(held)

    monkeypatch.setattr(Buckets, "_level", level)
    greedy = business.person("admin", business.admin.user_id)
    limit = int(greedy.call("GET", "/tags").headers["RateLimit-Limit"])
    answer = greedy.call("GET", "/tags/1")
    for _ in range(limit - 2):
        assert answer.status_code == 404
        answer = greedy.call("GET", "/tags/1")
    assert answer.status_code == 404
    answer = greedy.call("GET", "/tags/1")
    assert answer.status_code == 429
    assert answer.json()["code"] == "rate_limited"
    assert int(answer.headers["Retry-After"]) >= 1
    assert business.owner.call("GET", "/tags").status_code == 200


# ------------------------------------------------------------------ idempotency


def test_the_same_call_twice_has_one_effect_and_one_answer(business: Business) -> None:
    """The second answer is the first, flagged; the tag exists once."""
    key = {"Idempotency-Key": "create-vip"}
    first = business.owner.call("POST", "/tags", {"name": "vip"}, headers=key)
    second = business.owner.call("POST", "/tags", {"name": "vip"}, headers=key)
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.content == second.content
    assert "Idempotency-Replayed" not in first.headers
    assert second.headers["Idempotency-Replayed"] == "true"


def test_a_key_with_another_request_is_refused(business: Business) -> None:
    """Another body or another path: 409. Another user's key is another key."""
    key = {"Idempotency-Key": "one-thing"}
    business.owner.ok("POST", "/tags", {"name": "one"}, headers=key)
    assert business.owner.refused("POST", "/tags", {"name": "two"}, headers=key) == (
        409,
        "idempotency_key_reused",
    )
    assert business.admin.ok("POST", "/tags", {"name": "two"}, headers=key)["name"] == "two"


@pytest.mark.parametrize("key", ["", "x" * 256, "with\ttab"])
def test_keys_that_cannot_be_kept_are_refused(business: Business, key: str) -> None:
    """Empty, too long, or not printable."""
    answer = business.owner.refused("POST", "/tags", {"name": "never"}, headers={"Idempotency-Key": key})
    assert answer == (422, "validation_failed")


def test_a_secret_is_repeated_to_its_owner_and_not_kept_in_clear(business: Business) -> None:
    """A token made twice with one key is one token, and works."""
    key = {"Idempotency-Key": "my-token"}
    first = business.owner.ok("POST", "/api-tokens", {"name": "once"}, headers=key)
    second = business.owner.ok("POST", "/api-tokens", {"name": "once"}, headers=key)
    assert first == second
    tokens = business.owner.ok("GET", "/api-tokens", params={"limit": 100})["items"]
    assert [token["name"] for token in tokens].count("once") == 1


def test_a_keyed_call_whose_client_hangs_up_is_carried_out_once(business: Business) -> None:
    """The connection is dropped as soon as the request is written; the repetition finds the first answer, or
    does it now, and never both."""
    conversation = business.conversation()
    body = b'{"body": "written once"}'
    path = f"/api/{business.slug}/conversations/{conversation['id']}/notes"
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {business.owner.token}\r\n"
        f"Content-Type: application/json\r\nIdempotency-Key: hang-up\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    url = urlsplit(business.system.base_url)
    with socket.create_connection((url.hostname, url.port)) as connection:
        connection.sendall(head.encode() + body)
    headers = {"Idempotency-Key": "hang-up", "Content-Type": "application/json"}
    while True:
        answer = business.owner.call(
            "POST", path.removeprefix(f"/api/{business.slug}"), content=body, headers=headers
        )
        if answer.status_code != 409:
            break
        assert answer.json()["code"] == "idempotency_key_in_use"
    assert answer.status_code == 201
    notes = business.owner.ok("GET", f"/conversations/{conversation['id']}/notes")["items"]
    assert [note["body"] for note in notes] == ["written once"]


# ------------------------------------------------------------------ login and tokens


def test_login_gives_a_token_and_logout_takes_it(business: Business) -> None:
    """The token works until it is revoked, and then at once no more."""
    assert business.agent.call("GET", "/tags").status_code == 200
    person = business.log_in("agent")
    assert person.call("GET", "/tags").status_code == 200
    answer = http.post(
        f"{business.system.base_url}/api/landlord/auth/logout",
        headers={"Authorization": f"Bearer {person.token}"},
    )
    assert answer.status_code == 200
    assert person.refused("GET", "/tags") == (401, "unauthenticated")


@pytest.mark.parametrize("change", ["password", "email", "tenant"])
def test_a_wrong_login_says_nothing_about_what_was_wrong(business: Business, change: str) -> None:
    """Wrong password, unknown e-mail, another tenant: the same answer."""
    right = {"email": business.email("owner"), "password": PASSWORD, "tenant": business.slug}
    wrong = {
        **right,
        change: {"password": "x" * 10, "email": "nobody@x.example", "tenant": "elsewhere"}[change],
    }
    answer = http.post(
        f"{business.system.base_url}/api/landlord/auth/login", json=wrong, timeout=PATIENCE_SECONDS
    )
    assert answer.status_code == 401
    assert answer.json() == {
        "success": False,
        "message": "E-mail or password is wrong.",
        "code": "wrong_credentials",
        "errors": {},
    }


def test_tokens_are_narrowed_listed_and_revoked(business: Business) -> None:
    """A token with one ability does that and no more, makes none that may do more, and dies when revoked."""
    body = {"name": "reader", "abilities": ["tags.view", "tokens.manage"]}
    made = business.owner.ok("POST", "/api-tokens", body)
    reader = business.system.client(f"/api/{business.slug}", made["token"])
    assert reader.get("/tags").status_code == 200
    assert reader.post("/tags", json={"name": "x"}).status_code == 403
    assert reader.post("/api-tokens", json={"name": "more"}).status_code == 403
    assert reader.post("/api-tokens", json={"name": "same", "abilities": ["tags.view"]}).status_code == 201
    shown = business.owner.ok("GET", f"/api-tokens/{made['id']}")
    assert "token" not in shown
    assert shown["last_used_at"] is not None
    business.owner.ok("DELETE", f"/api-tokens/{made['id']}")
    assert reader.get("/tags").status_code == 401
    assert business.admin.refused("DELETE", f"/api-tokens/{made['id']}") == (404, "not_found")


@pytest.mark.parametrize(
    "body", [{"name": "x", "abilities": ["fly"]}, {"name": "x", "expires_at": "2020-01-01T00:00:00Z"}]
)
def test_tokens_that_make_no_sense_are_refused(business: Business, body: dict[str, Any]) -> None:
    """An ability that does not exist, an end in the past."""
    assert business.owner.refused("POST", "/api-tokens", body) == (422, "validation_failed")


# ------------------------------------------------------------------ landlord and documents


def test_tenants_are_created_listed_and_suspended(api_system: System, new_business: Any) -> None:
    """A suspended tenant's users are refused with a word of its own; the slug stays taken."""
    business: Business = new_business()
    assert any(each["slug"] == business.slug for each in _all_tenants(api_system))
    api_system.landlord_ok("PATCH", f"/tenants/{business.id}/toggle-status", {"status": "suspended"})
    assert business.owner.refused("GET", "/tags") == (403, "tenant_suspended")
    api_system.landlord_ok("PATCH", f"/tenants/{business.id}/toggle-status", {"status": "active"})
    assert business.owner.call("GET", "/tags").status_code == 200
    owner = {"email": "x@y.example", "name": "X", "password": PASSWORD}
    for slug, status in ((business.slug, 409), ("landlord", 422), ("Not A Slug", 422)):
        answer = api_system.landlord("POST", "/tenants", {"slug": slug, "name": "Again", "owner": owner})
        assert answer.status_code == status, slug


def test_the_operator_sets_a_tenant_up_and_reads_no_messages(api_system: System, business: Business) -> None:
    """A landlord admin may list users and channels; conversations are 403."""
    headers = {"Authorization": f"Bearer {api_system.local_token}"}
    with httpx.Client(base_url=f"{api_system.base_url}/api/{business.slug}", headers=headers) as operator:
        assert operator.get("/users").status_code == 200
        assert operator.get("/channels").status_code == 200
        assert operator.get("/conversations").status_code == 403
        assert operator.get("/events").status_code == 403


def test_the_operator_sees_the_actors(api_system: System) -> None:
    """The live tree, as plain JSON."""
    data = api_system.landlord_ok("GET", "/system/actors")
    assert data["tree"]


def test_the_document_and_its_page_are_served(api_system: System) -> None:
    """Without a token; the page may load nothing."""
    document = http.get(f"{api_system.base_url}/api/openapi.json")
    assert document.json()["openapi"].startswith("3.1")
    page = http.get(f"{api_system.base_url}/api/docs")
    assert page.headers["Content-Type"].startswith("text/html")
    assert "script-src" not in page.headers["Content-Security-Policy"]


def _all_tenants(system: System) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        params = {"limit": "2", **({"cursor": cursor} if cursor else {})}
        page = system.landlord_ok("GET", "/tenants", params=params)
        found += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            return found
