"""The API's parts that need no server: rates, links, pages, decoding, errors, permissions, hours, CSV."""

import json
import re
from contextlib import suppress
from typing import Annotated

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.exceptions import MethodNotAllowed, RequestEntityTooLarge

from engine import errors
from engine.domain.config import Interval, Week
from engine.reading import ConversationPlace
from gateway.api import ALL_ROUTES
from gateway.api.bulk import spreadsheet_safe
from gateway.api.settings import IntervalBody, NamedDayBody, WeekBody, intervals_of, week_of, week_out
from gateway.idempotency import request_hash
from gateway.openapi import docs_page, document
from gateway.paging import page_by_id
from gateway.passwords import LoginGuard, Passwords
from gateway.permissions import ROLES, Permission, granted, may_see
from gateway.phones import e164
from gateway.problems import failure_of
from gateway.ratelimit import Buckets, Rate
from gateway.routing import Access
from gateway.schemas import END, Id, Input, decode_body, decode_query
from gateway.signed_urls import SignedUrls

# ------------------------------------------------------------------ rates


@given(st.lists(st.floats(min_value=0, max_value=5), max_size=60))
def test_no_window_holds_more_calls_than_burst_and_refill(pauses: list[float]) -> None:
    """Over any stretch of time, at most burst + rate · length calls are let through."""
    buckets: Buckets[str] = Buckets(Rate(per_second=2, burst=5))
    now, taken = 0.0, []
    for pause in pauses:
        now += pause
        if buckets.take("key", now).retry_after_seconds is None:
            taken.append(now)
    for start, first in enumerate(taken):
        for end in range(start, len(taken)):
            assert end - start + 1 <= 5 + 2 * (taken[end] - first) + 1e-6


def test_a_refused_caller_is_let_in_when_it_was_told() -> None:
    """Waiting for `retry_after_seconds`, and no longer, is enough."""
    buckets: Buckets[str] = Buckets(Rate(per_second=0.5, burst=1))
    assert buckets.take("key", 10).retry_after_seconds is None
    wait = buckets.take("key", 10.5).retry_after_seconds
    assert wait is not None
    assert wait == pytest.approx(1.5)
    assert buckets.take("key", 10.5 + wait).retry_after_seconds is None


def test_the_table_of_buckets_is_bounded() -> None:
    """The least recently used keys go; the others keep their level."""
    buckets: Buckets[int] = Buckets(Rate(per_second=0.001, burst=1), keys_max=3)
    for key in (1, 2, 3, 4):
        buckets.take(key, 0)
    assert len(buckets) == 3
    assert buckets.peek(4, 0).retry_after_seconds is not None
    assert buckets.peek(1, 0).retry_after_seconds is None


def test_rate_headers_say_limit_remaining_and_reset() -> None:
    """Whole numbers, the reset rounded up."""
    headers = Buckets[str](Rate(per_second=3, burst=10)).take("key", 0).headers()
    assert headers == {"RateLimit-Limit": "10", "RateLimit-Remaining": "9", "RateLimit-Reset": "1"}


# ------------------------------------------------------------------ links


def _links(now: list[int]) -> SignedUrls:
    return SignedUrls(b"k" * 32, lambda: "http://host", lambda: now[0])


def _parts(url: str) -> tuple[int, str]:
    query = dict(pair.split("=") for pair in url.partition("?")[2].split("&"))
    return int(query["expires"]), query["signature"]


def test_a_link_opens_its_own_file_until_it_expires() -> None:
    """It lives between one and two hours, and is the same within the hour."""
    now = [1_700_000_000_000]
    links = _links(now)
    url = links.for_tenant("acme")(7, 42)
    assert url == links.for_tenant("acme")(7, 42)
    expires, signature = _parts(url)
    assert 3600 <= expires - now[0] // 1000 <= 7200
    links.check(7, 42, expires, signature)
    now[0] = expires * 1000
    with pytest.raises(errors.Forbidden) as refused:
        links.check(7, 42, expires, signature)
    assert refused.value.code == "link_expired"


@pytest.mark.parametrize("change", ["tenant", "file", "expires", "signature", "unicode"])
def test_a_link_opens_nothing_else(change: str) -> None:
    """Another tenant, file, end or signature is refused as not ours."""
    links = _links([1_700_000_000_000])
    expires, signature = _parts(links.for_tenant("acme")(7, 42))
    wrong = {
        "tenant": (8, 42, expires, signature),
        "file": (7, 43, expires, signature),
        "expires": (7, 42, expires + 3600, signature),
        "signature": (7, 42, expires, signature[:-1] + ("0" if signature[-1] != "0" else "1")),
        "unicode": (7, 42, expires, "é" * len(signature)),
    }[change]
    with pytest.raises(errors.Forbidden) as refused:
        links.check(*wrong)
    assert refused.value.code == "bad_signature"


# ------------------------------------------------------------------ pages


@given(
    st.sets(st.integers(min_value=1, max_value=10**15), max_size=60), st.integers(min_value=1, max_value=20)
)
def test_pages_hold_everything_once_in_order(ids: set[int], limit: int) -> None:
    """Walking from page to page shows each item once, sorted, whatever the limit."""
    seen: list[int] = []
    cursor: str | None = None
    while True:
        page = page_by_id(ids, lambda each: each, limit=limit, cursor=cursor)
        assert len(page.items) <= limit
        seen += page.items
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == sorted(ids)


@given(st.text(min_size=1, max_size=30))
def test_a_cursor_that_is_none_is_refused(cursor: str) -> None:
    """InvalidInput, never another error; a cursor that happens to be one gives a page."""
    with suppress(errors.InvalidInput):
        assert set(page_by_id([1, 2, 3], lambda each: each, limit=2, cursor=cursor).items) <= {1, 2, 3}


# ------------------------------------------------------------------ decoding


class _Inner(Input, frozen=True, kw_only=True):
    id: Id


class _Body(Input, frozen=True, kw_only=True):
    name: Annotated[str, msgspec.Meta(min_length=2)]
    inner: tuple[_Inner, ...] = ()


@pytest.mark.parametrize(
    ("raw", "code", "field"),
    [
        (b"{", "not_json", None),
        (b'{"name": "x" ', "not_json", None),
        (b"\xff\xfe", "not_json", None),
        (b'{"name": "ab"} trailing', "not_json", None),
        (b"[" * 100_000, "not_json", None),
        (b'{"name":' + b'{"a":' * 5_000 + b"1" + b"}" * 5_000 + b"}", None, None),
        (b"[]", "validation_failed", "body"),
        (b"{}", "validation_failed", "name"),
        (b"", "validation_failed", "name"),
        (b'{"name": "x"}', "validation_failed", "name"),
        (b'{"name": 5}', "validation_failed", "name"),
        (b'{"name": "ab", "nmae": 1}', "validation_failed", "nmae"),
        (b'{"name": "ab", "inner": [{"id": 0}]}', "validation_failed", "inner[0].id"),
        (b'{"name": "ab", "inner": [{"id": 9007199254740992}]}', "validation_failed", "inner[0].id"),
        (b'{"name": "ab", "inner": [{}]}', "validation_failed", "inner[0].id"),
    ],
)
def test_a_body_that_is_wrong_is_refused_with_its_field(
    raw: bytes, code: str | None, field: str | None
) -> None:
    """What is not JSON is not_json; what is JSON and does not fit names the field."""
    with pytest.raises(errors.InvalidInput) as refused:
        decode_body(raw, _Body)
    if code is not None:
        assert refused.value.code == code
    if field is not None:
        assert list(refused.value.fields) == [field]


def test_a_query_reads_numbers_and_switches_from_text() -> None:
    """`1` is true, `20` a number, and what is not known is refused."""

    class Query(Input, frozen=True, kw_only=True):
        limit: int = 5
        unread: bool = False

    assert decode_query({"limit": "20", "unread": "true"}.items(), Query) == Query(limit=20, unread=True)
    with pytest.raises(errors.InvalidInput):
        decode_query({"offset": "3"}.items(), Query)


def test_request_hashes_tell_requests_apart() -> None:
    """Method, path and body each count, and bytes cannot move from one to the other."""
    calls = [("POST", "/a", b"b"), ("PUT", "/a", b"b"), ("POST", "/ab", b""), ("POST", "/a", b"")]
    assert len({request_hash(b"key", *call) for call in calls}) == len(calls)
    assert request_hash(b"key", "POST", "/a", b"b") == request_hash(b"key", "POST", "/a", b"b")


def test_who_has_the_database_alone_cannot_guess_what_was_in_a_request() -> None:
    """A body may hold a password, which a plain digest would let anybody try at a billion a second."""
    assert request_hash(b"key", "POST", "/a", b"b") != request_hash(b"other", "POST", "/a", b"b")


# ------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.InvalidInput("x"), 422),
        (errors.InvalidInput("x", code="not_json"), 400),
        (errors.InvalidInput("x", code="too_large"), 413),
        (errors.InvalidInput("x", code="unsupported_media_type"), 415),
        (errors.Unauthenticated("x"), 401),
        (errors.Forbidden("x"), 403),
        (errors.NotFound("x"), 404),
        (errors.Conflicting("x"), 409),
        (errors.RateLimited("x"), 429),
        (errors.MailboxFull("x"), 503),
        (errors.AskTimeout("x"), 503),
        (errors.StoreUnavailable("x"), 503),
        (errors.Fenced("x"), 503),
        (errors.CommitConflict("x"), 409),
        (errors.CommitPoisoned("x"), 422),
        (errors.Parked("x"), 500),
        (errors.Defect("x"), 500),
        (ZeroDivisionError("secret detail"), 500),
        (trio.TooSlowError(), 503),
        (MethodNotAllowed(["GET"]), 405),
        (RequestEntityTooLarge(), 413),
        (ExceptionGroup("nursery", [errors.NotFound("x")]), 404),
    ],
)
def test_each_error_has_its_status(error: Exception, status: int) -> None:
    """By family; 429 and 503 say when to come back, a crash says nothing of itself."""
    failure = failure_of(error)
    assert failure.status == status
    assert ("Retry-After" in failure.headers) == (status in (429, 503))
    assert "secret" not in failure.message


def test_every_error_class_is_answered_on_purpose() -> None:
    """A class added to the tree is found by its family; only defects are 500."""

    def leaves(kind: type[errors.MijraError]) -> set[type[errors.MijraError]]:
        below = kind.__subclasses__()
        return {kind} | {leaf for each in below for leaf in leaves(each)}

    ours = {kind for kind in leaves(errors.MijraError) if kind.__module__ == "engine.errors"}
    internal = {kind for kind in ours if failure_of(kind("x")).status == 500}
    assert internal == {errors.MijraError, errors.CommitFailed, errors.Parked, errors.Defect}


# ------------------------------------------------------------------ permissions


def test_every_route_says_what_it_needs_and_does() -> None:
    """A permission or an access class, a sentence, a name of its own; in a tenant never a bare token."""
    assert len({route.name for route in ALL_ROUTES}) == len(ALL_ROUTES)
    assert len({(route.method, route.path) for route in ALL_ROUTES}) == len(ALL_ROUTES)
    for route in ALL_ROUTES:
        assert route.handler.__doc__, route.name
        assert isinstance(route.needs, Permission | Access), route.name
        if route.in_tenant:
            assert isinstance(route.needs, Permission) or route.name == "files.download", route.name
        else:
            assert isinstance(route.needs, Access), route.name


def test_every_permission_is_needed_somewhere() -> None:
    """A word that a token can name and no route asks for would promise protection of nothing."""
    assert {route.needs for route in ALL_ROUTES if isinstance(route.needs, Permission)} == set(Permission)


def test_mutating_routes_need_more_than_viewing() -> None:
    """No route that changes something is open to a token with viewing permissions alone."""
    # A question to the rules, and a stand-in for the caller's own token: both change nothing.
    exceptions = {"automated-replies.test_rules", "push.create_ticket"}
    for route in ALL_ROUTES:
        if route.mutating and isinstance(route.needs, Permission) and route.name not in exceptions:
            assert not route.needs.value.endswith(".view"), route.name


def test_abilities_only_take_away() -> None:
    """A token names permissions; what the role lacks stays away, and `*` is the role's own."""
    assert granted("agent", ["*"]) == ROLES["agent"]
    assert granted("agent", ["channels.manage"]) == frozenset()
    assert granted("owner", ["tags.view"]) == {Permission.TAGS_VIEW}
    assert granted("nobody", ["*"]) == frozenset()


def test_the_operator_reads_nothing_that_customers_wrote() -> None:
    """Set-up, and no conversations, events, exports or files."""
    words = {permission.value.partition(".")[0] for permission in ROLES["operator"]}
    assert not words & {"conversations", "events", "notes", "files", "tokens"}


@pytest.mark.parametrize(
    ("role", "assigned_to", "seen"),
    [("agent", 5, True), ("agent", None, True), ("agent", 6, False), ("admin", 6, True), ("owner", 6, True)],
)
def test_agents_see_their_own_and_unassigned_conversations(
    role: str, assigned_to: int | None, seen: bool
) -> None:
    """Admins and owners see all."""
    place = ConversationPlace(
        conversation_id=1, channel_id=1, contact_key="k", assigned_to=assigned_to, status="open"
    )
    assert may_see(role, 5, place) is seen


# ------------------------------------------------------------------ passwords


async def test_a_password_is_recognised_and_nobody_has_one() -> None:
    """The right one matches, a wrong one does not, and no hash at all never does."""
    passwords = Passwords()
    hashed = await passwords.hash("correct horse")
    assert hashed.startswith("$argon2id$")
    assert await passwords.matches(hashed, "correct horse")
    assert not await passwords.matches(hashed, "wrong horse")
    assert not await passwords.matches(None, "nobody has this password")
    assert not await passwords.matches("!", "!")


async def test_a_password_outside_the_limits_is_refused() -> None:
    """Shorter than eight or longer than 256 characters."""
    for password in ("short", "x" * 257):
        with pytest.raises(errors.InvalidInput):
            await Passwords().hash(password)


async def test_guessing_is_braked_per_email_and_per_address() -> None:
    """Ten attempts for an e-mail, from wherever; thirty from an address, for whomever."""
    guard = LoginGuard(Passwords())
    for attempt in range(10):
        guard.admit("A@x.org" if attempt % 2 else "a@X.org", f"10.0.0.{attempt}")
    with pytest.raises(errors.RateLimited):
        guard.admit("a@x.org", "10.0.0.99")
    for attempt in range(30):
        guard.admit(f"{attempt}@x.org", "10.9.9.9")
    with pytest.raises(errors.RateLimited):
        guard.admit("other@x.org", "10.9.9.9")


# ------------------------------------------------------------------ hours, numbers, CSV


def test_hours_are_read_and_written_alike() -> None:
    """What was set is what is shown; days that were left out are closed."""
    morning, evening = IntervalBody(start="09:00", end="12:30"), IntervalBody(start="20:00", end="24:00")
    week = week_of(WeekBody(days=(NamedDayBody(day="tuesday", intervals=[evening, morning]),)))
    assert isinstance(week, Week)
    assert week.days[1] == (Interval(start=540, end=750), Interval(start=1200, end=1440))
    assert not any(week.days[index] for index in (0, 2, 3, 4, 5, 6))
    shown = week_out(week)[1]
    assert [(each.start, each.end) for each in shown.intervals] == [("09:00", "12:30"), ("20:00", "24:00")]


@pytest.mark.parametrize(
    "hours", [[("10:00", "09:00")], [("10:00", "10:00")], [("09:00", "12:00"), ("11:59", "13:00")]]
)
def test_hours_that_make_no_sense_are_refused(hours: list[tuple[str, str]]) -> None:
    """Inverted, empty or overlapping intervals."""
    with pytest.raises(errors.InvalidInput):
        intervals_of([IntervalBody(start=start, end=end) for start, end in hours])


def test_hours_that_touch_are_fine() -> None:
    """The end is exclusive."""
    assert (
        len(
            intervals_of([IntervalBody(start="09:00", end="12:00"), IntervalBody(start="12:00", end="13:00")])
        )
        == 2
    )


@pytest.mark.parametrize(
    ("text", "country", "number"),
    [("+966 50 123 4567", None, "+966501234567"), ("050 123 4567", "SA", "+966501234567")],
)
def test_phone_numbers_become_e164(text: str, country: str | None, number: str) -> None:
    """However they are written, if the country is known."""
    assert e164(text, country) == number


@pytest.mark.parametrize("text", ["0501234567", "hello", "+12", "+999999999999999999"])
def test_what_is_no_phone_number_is_refused(text: str) -> None:
    """Without a country, or with too few or too many digits."""
    with pytest.raises(errors.InvalidInput):
        e164(text, None)


@pytest.mark.parametrize("text", ["=1+1", "+SUM(A1)", "-2", "@x", "\tx", "  =x", "＝x"])
def test_text_that_a_spreadsheet_would_run_is_disarmed(text: str) -> None:
    """An apostrophe in front makes it text."""
    assert spreadsheet_safe(text) == "'" + text


@pytest.mark.parametrize("value", ["Ahmad", "a=b", 17, "", "10-11"])
def test_other_values_are_left_alone(value: object) -> None:
    """Numbers and ordinary text go out as they are."""
    assert spreadsheet_safe(value) == value


# ------------------------------------------------------------------ the document


def test_no_pattern_lets_a_line_feed_through() -> None:
    """At the end, where `$` alone would: it would end a header that the text is put into."""
    patterns = re.findall(r'"pattern":("(?:[^"\\]|\\.)*")', document(ALL_ROUTES).decode())
    assert len(patterns) > 5
    assert [each for each in patterns if not json.loads(each).endswith(END)] == []


def test_the_document_describes_every_route_and_resolves() -> None:
    """Each route once, every reference there, and the page names each path and loads nothing from outside."""
    described = document(ALL_ROUTES)
    content = msgspec.json.decode(described)
    operations = [operation for path in content["paths"].values() for operation in path.values()]
    assert len(operations) == len(ALL_ROUTES)
    assert len({operation["operationId"] for operation in operations}) == len(ALL_ROUTES)

    def references(value: object) -> set[str]:
        if isinstance(value, dict):
            own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
            return own.union(*(references(each) for each in value.values()))
        if isinstance(value, list):
            return set().union(*(references(each) for each in value))
        return set()

    names = {reference.rpartition("/")[2] for reference in references(content)}
    assert names <= set(content["components"]["schemas"])
    page = docs_page(described)
    assert all(path in page for path in content["paths"])
    assert "<script" not in page
    assert "http://" not in page
    assert "https://" not in page.replace("^https?://", "")
