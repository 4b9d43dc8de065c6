"""Every route of the API, asked by one tenant for what is another's: there is no such thing.

The routes come from the table that the server is made of and what they take from the OpenAPI document, so a
new route is asked as well, in each way that an id can be handed to it: in path, query and body.
"""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from gateway.api import ALL_ROUTES
from gateway.envelope import JSON_TYPE
from gateway.permissions import ROLES, Permission
from gateway.routing import Access, Route
from tests.gateway.belongings import Described, Json, address_of, belongings, mark_of
from tests.gateway.conftest import Business, Person, System, http

pytestmark = pytest.mark.real_time

IN_TENANT = [route for route in ALL_ROUTES if route.in_tenant]
IGNORED = {"conversations.remove_tags", "bulk.bulk_tags_remove"}
"""Taking a tag off that is not on it changes nothing, whosever it is."""


class Two:
    """Two tenants in one database, and what they have. `shown` is all that the one sees of its own."""

    def __init__(self, system: System) -> None:
        self.theirs, self.ours = Business(system, "pooled"), Business(system, "pooled")
        self.mark = mark_of(self.theirs)
        self.their_ids, self.our_ids = belongings(self.theirs), belongings(self.ours)
        document = http.get(f"{system.base_url}/api/openapi.json", timeout=30).json()
        self.described = Described(document)
        self.before = self.shown()

    def shown(self) -> Json:
        """What the other tenant's owner reads: with everything in it, and nothing that only time changes."""
        read = {}
        for route in IN_TENANT:
            if route.method == "GET" and isinstance(route.needs, Permission) and route.area != "api-tokens":
                read[route.name] = self.theirs.owner.call("GET", address_of(route, self.their_ids)).json()
        return read

    def people(self, *roles: str) -> Iterator[tuple[str, Person]]:
        """Of ours, with fresh tokens, so that no rate ends the walk."""
        for role in roles:
            if role == "operator":
                yield role, Person(self.ours.system, self.ours.slug, self.ours.system.local_token, 0)
            else:
                yield role, self.ours.person(role, getattr(self.ours, role).user_id)


@pytest.fixture(scope="module")
def two(api_system: System) -> Two:
    return Two(api_system)


def _call(two: Two, person: Person, route: Route, path: str, body: Any) -> httpx.Response:
    options: dict[str, Any] = {}
    if route.path.endswith("/upload"):
        options["files"] = {"file": ("a.txt", b"text", "text/plain")}
    return person.call(route.method, path, body, **options)


def _body(two: Two, route: Route, own: Json, also: tuple[str, ...] = ()) -> Any:
    schema = two.described.body(route)
    return None if schema is None else two.described.least(schema, own, also)


def _put(body: Any, where: tuple[str, ...], value: Any) -> None:
    """Another value where this id stands, in each item of a list."""
    if isinstance(body, list):
        for each in body:
            _put(each, where, value)
    elif len(where) == 1:
        body[where[0]] = [value] if isinstance(body.get(where[0]), list) else value
    else:
        _put(body[where[0]], where[1:], value)


def test_every_id_has_something_to_name(two: Two) -> None:
    """Or the walks below would pass a new kind of id by."""
    named: set[str] = set()
    for route in IN_TENANT:
        named |= set(two.described.query_ids(route))
        named |= {where[-1] for where in two.described.ids(two.described.body(route) or {})}
        address_of(route, two.their_ids)  # KeyError: an id in a path
    assert named <= set(two.their_ids)
    for name, read in two.before.items():
        assert read["success"], (name, read)  # there for its owner
    assert two.mark in str(two.before)


def test_at_anothers_address_nobody_finds_anything(two: Two) -> None:
    """Whatever is asked: 404, as for a tenant that does not exist. Operators of the system may enter; what
    customers wrote is closed to them."""
    for role, person in two.people("owner", "operator"):
        stranger = Person(two.ours.system, two.theirs.slug, person.token, person.user_id)
        for route in IN_TENANT:
            if not isinstance(route.needs, Permission) or (
                role == "operator" and route.needs in ROLES["operator"]
            ):
                continue
            path = address_of(route, two.their_ids)
            answer = _call(two, stranger, route, path, _body(two, route, two.their_ids))
            expected = 403 if role == "operator" else 404
            assert answer.status_code == expected, (role, route.name, answer.text)
            assert two.mark not in answer.text, (role, route.name)
    assert two.shown() == two.before


def test_anothers_ids_in_a_path_name_nothing(two: Two) -> None:
    """At one's own address, with whatever role; also together with something of one's own."""
    for role, person in two.people("owner", "admin", "agent", "operator"):
        for route in IN_TENANT:
            if "<id:" not in route.path or not isinstance(route.needs, Permission):
                continue
            strange = [{**two.our_ids, **two.their_ids}]
            if route.path.count("<id:") > 1:
                strange.append({**two.our_ids, "note_id": two.their_ids["note_id"]})
            for ids in strange:
                answer = _call(two, person, route, address_of(route, ids), _body(two, route, two.our_ids))
                expected = (403, "forbidden") if route.needs not in ROLES[role] else (404, "not_found")
                found = (answer.status_code, answer.json()["code"])
                assert found == expected, (role, route.name, answer.text)
                assert two.mark not in answer.text, (role, route.name)
    assert two.shown() == two.before


def test_anothers_ids_in_a_body_name_nothing(two: Two) -> None:
    """Refused as ids that nobody has; of many at once, each by itself."""
    owner = two.ours.person("owner", two.ours.owner.user_id)
    tried = 0
    for route in IN_TENANT:
        for where in two.described.ids(two.described.body(route) or {}):
            body = _body(two, route, two.our_ids, where)
            theirs = two.their_ids[where[-1]]
            _put(body, where, theirs[0] if isinstance(theirs, list) else theirs)
            answer = _call(two, owner, route, address_of(route, two.our_ids), body)
            tried += 1
            assert two.mark not in answer.text, (route.name, where)
            if route.name in IGNORED or answer.headers["content-type"] != JSON_TYPE:
                assert answer.status_code == 200, (route.name, where)  # an export without it
                continue
            said = answer.json()
            if answer.status_code < 300:
                (one,) = said["data"]["items"]
                assert (said["data"]["succeeded"], one["code"]) == (0, "not_found"), (route.name, where)
            else:
                at_fault = {part for name in said["errors"] for part in name.split(".")}
                assert said["code"] == "not_found" or at_fault & set(where), (route.name, where, said)
    assert tried > 20
    assert two.shown() == two.before


def test_anothers_ids_in_a_query_find_nothing(two: Two) -> None:
    """Filters by what is not there."""
    for route in IN_TENANT:
        for name in two.described.query_ids(route):
            path = address_of(route, two.our_ids)
            answer = two.ours.owner.call("GET", path, params={name: two.their_ids[name]})
            assert answer.status_code in (200, 404, 422), (route.name, answer.text)
            if answer.status_code == 200:
                assert answer.json()["data"]["items"] == [], (route.name, name)
    channels = ("conversations", "presence-conversations", "campaigns")
    for channel in (*(f"{kind}.{two.their_ids['conversation_id']}" for kind in channels), "inbox"):
        page = two.ours.owner.ok("GET", "/events", params={"channel": channel, "limit": 500})
        assert str(two.theirs.slug) not in str(page)
        assert channel == "inbox" or page["items"] == []


def test_a_signed_link_is_good_for_its_own_tenant_alone(two: Two) -> None:
    """The signature covers whose file it is."""
    link = two.their_ids["file_url"]
    assert http.get(link).text == two.mark
    moved = link.replace(f"/{two.theirs.slug}/", f"/{two.ours.slug}/")
    assert http.get(moved).json()["code"] == "bad_signature"
    other = link.replace(str(two.their_ids["file_id"]), str(two.our_ids["file_id"]))
    assert http.get(other).json()["code"] == "bad_signature"


def test_what_needs_no_token_is_known(two: Two) -> None:
    """A new public route is looked at here before it is one."""
    public = {route.name for route in ALL_ROUTES if route.needs is Access.PUBLIC}
    assert public == {"auth.login", "auth.admin_login", "files.download"}
