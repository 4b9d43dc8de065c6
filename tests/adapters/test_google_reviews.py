"""What a review's conversation is told, whatever was notified, and what is said while it cannot be read."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from adapters.google_business.calling import GoogleCalls
from adapters.google_business.reviews import (
    ANONYMOUS,
    MISSING_SECONDS,
    READ_SECONDS_MAX,
    READS_AT_ONCE,
    ReviewReader,
    events_of,
)
from adapters.guard import Guard
from adapters.port import Account, Declined, ErrorClass
from adapters.simulators.http import HttpServer, Request, Response
from engine.domain.inbound import (
    Announced,
    Contact,
    MessageDeleted,
    MessageEchoed,
    MessageEdited,
    MessageReceived,
    Unsupported,
)
from tests.patience import PATIENCE_SECONDS

KEY = "reviews/r1"
LOCATION = "accounts/1/locations/2"
CREATED, CHANGED, LATER = "2024-03-05T08:00:00Z", "2024-03-05T09:00:00.5Z", "2024-03-05T10:00:00Z"
CREATED_MS, CHANGED_MS, LATER_MS = 1_709_625_600_000, 1_709_629_200_500, 1_709_632_800_000


def review(**members: Any) -> dict[str, Any]:
    return {
        "name": f"{LOCATION}/{KEY}",
        "reviewId": "r1",
        "reviewer": {"displayName": "Huda Salem"},
        "starRating": "TWO",
        "comment": "It came late.",
        "createTime": CREATED,
        "updateTime": CREATED,
        **members,
    }


def answer(comment: str, at: str) -> dict[str, Any]:
    return {"comment": comment, "updateTime": at}


def test_a_review_is_a_message_with_its_rating() -> None:
    """Stars for people, a number for programs; no rule answers it in public."""
    (event,) = events_of(review(), KEY)
    assert isinstance(event, MessageReceived)
    assert (event.contact, event.platform_id, event.at) == (
        Contact(keys=(KEY,), name="Huda Salem"),
        KEY,
        CREATED_MS,
    )
    assert event.text == "★★☆☆☆ 2 of 5\nIt came late."
    assert event.content == {"body": event.text, "rating": 2}
    assert not event.automated


@pytest.mark.parametrize("comment", [None, "", "  "])
def test_a_review_without_words_is_visible(comment: str | None) -> None:
    """As is one of somebody without a name."""
    (event,) = events_of(review(comment=comment, starRating="FIVE", reviewer={"isAnonymous": True}), KEY)
    assert isinstance(event, MessageReceived)
    assert event.text == "★★★★★ 5 of 5, without words"
    assert event.contact.name == ANONYMOUS


def test_a_change_before_the_answer_is_an_edit() -> None:
    """Of the review, which comes first in case that its own notification did not."""
    original, edit = events_of(review(updateTime=CHANGED), KEY)
    assert isinstance(original, MessageReceived)
    assert (original.platform_id, original.at) == (KEY, CREATED_MS)
    assert isinstance(edit, MessageEdited)
    assert (edit.original_id, edit.at) == (KEY, CHANGED_MS)
    assert edit.platform_id == f"{KEY}@{CHANGED_MS * 1_000}"
    assert edit.content["rating"] == 2


def test_a_change_after_the_answer_is_a_new_message() -> None:
    """Which quotes the review; the answer in between is part of the history."""
    echo, newer = events_of(review(updateTime=LATER, reviewReply=answer("Sorry.", CHANGED)), KEY)
    assert isinstance(echo, MessageEchoed)
    assert (echo.text, echo.maybe_ours) == ("Sorry.", True)
    assert echo.platform_id == f"{KEY}/reply@{CHANGED_MS * 1_000}"
    assert isinstance(newer, MessageReceived)
    assert (newer.platform_id, newer.at, newer.reply_to) == (f"{KEY}@{LATER_MS * 1_000}", LATER_MS, KEY)


def test_an_answer_from_elsewhere_is_an_echo() -> None:
    """Behind the review that it answers, changed or not."""
    for changed, kinds in ((CREATED, [MessageReceived]), (CHANGED, [MessageReceived, MessageEdited])):
        events = events_of(review(updateTime=changed, reviewReply=answer("Thanks.", LATER)), KEY)
        assert [type(each) for each in events] == [*kinds, MessageEchoed]


@pytest.mark.parametrize(
    "odd",
    [
        {"starRating": "STAR_RATING_UNSPECIFIED"},
        {"starRating": 3},
        {"createTime": "yesterday"},
        {"createTime": None},
        {"name": f"{LOCATION}/reviews/another"},
    ],
)
def test_what_is_no_review_is_none(odd: dict[str, Any]) -> None:
    assert events_of(review(**odd), KEY) == []


@pytest.mark.parametrize("odd", [None, 7, [], "x", {}])
def test_odd_members_are_left_out(odd: Any) -> None:
    """Of what a review can be without."""
    for name in ("reviewer", "comment", "updateTime", "reviewReply"):
        (event,) = events_of(review(**{name: odd}), KEY)[:1]
        assert isinstance(event, MessageReceived)


# ------------------------------------------------------------------ reading

NOW_MS = CREATED_MS + 60_000
Handler = Callable[[Request], Awaitable[Response]]


class Stage:
    """A reader at an API that `handler` plays."""

    def __init__(self, reader: ReviewReader, account: Account) -> None:
        self._reader = reader
        self.account = account

    async def read(self, at: int = CREATED_MS) -> Any:
        announced = Announced(
            contact=Contact(keys=(KEY,)), kind="new_review", at=at, raw={"review_name": KEY}
        )
        return await self._reader.read(announced, self.account)


@asynccontextmanager
async def stage(handler: Handler, now_ms: int = NOW_MS, **credentials: str) -> AsyncIterator[Stage]:
    async with trio.open_nursery() as nursery:
        server = HttpServer(handler, body_limit=lambda method, path: 10_000)
        url = await nursery.start(server.run)
        account = Account(
            tenant_id=1,
            channel_id=2,
            platform="google-business",
            external_id=LOCATION,
            credentials=credentials or {"access_token": "good"},
            settings={"base_url": url},
        )
        guard = Guard(allowed=[url.removeprefix("http://")])
        calls = GoogleCalls(guard, connections_max=20, seconds_max=READ_SECONDS_MAX)
        async with ReviewReader("google-business", calls, lambda: now_ms) as reader:
            yield Stage(reader, account)
        nursery.cancel_scope.cancel()


def failing(status: int, word: str, **headers: str) -> Handler:
    async def handler(request: Request) -> Response:
        body = json.dumps({"error": {"code": status, "status": word, "message": "no"}}).encode()
        return Response(status, body, headers=headers)

    return handler


@pytest.mark.real_time
async def test_what_is_announced_is_read_with_the_accounts_token() -> None:
    asked: list[tuple[str, str, str]] = []

    async def handler(request: Request) -> Response:
        asked.append((request.method, request.path, request.headers["authorization"]))
        return Response(200, json.dumps(review()).encode())

    async with stage(handler) as on:
        (event,) = await on.read()
    assert event.platform_id == KEY
    assert asked == [("GET", f"/v4/{LOCATION}/{KEY}", "Bearer good")]


@pytest.mark.real_time
@pytest.mark.parametrize(
    ("status", "word", "error_class"),
    [
        (503, "UNAVAILABLE", ErrorClass.TRANSIENT),
        (500, "INTERNAL", ErrorClass.TRANSIENT),
        (429, "RESOURCE_EXHAUSTED", ErrorClass.RATE_ACCOUNT),
        (401, "UNAUTHENTICATED", ErrorClass.AUTH),
        (403, "PERMISSION_DENIED", ErrorClass.AUTH),
    ],
)
async def test_while_it_cannot_be_read_it_is_declined(
    status: int, word: str, error_class: ErrorClass
) -> None:
    """So that the push is repeated: what the platform or a person can mend loses nothing."""
    async with stage(failing(status, word)) as on:
        found = await on.read()
    assert isinstance(found, Declined)
    assert found.error_class is error_class


@pytest.mark.real_time
async def test_an_answer_that_is_none_is_declined() -> None:
    async def handler(request: Request) -> Response:
        return Response(200, b"<html>")

    async with stage(handler) as on:
        found = await on.read()
    assert isinstance(found, Declined)
    assert found.error_class is ErrorClass.TRANSIENT


@pytest.mark.real_time
async def test_a_review_that_is_gone_is_deleted_once_it_must_have_been_there() -> None:
    """A moment after its announcement another machine may just not know it yet."""
    async with stage(failing(404, "NOT_FOUND")) as on:
        found = await on.read()
        assert isinstance(found, Declined)
        assert found.error_class is ErrorClass.TRANSIENT
        (event,) = await on.read(NOW_MS - int(MISSING_SECONDS * 1_000))
    assert isinstance(event, MessageDeleted)
    assert event.original_id == KEY


@pytest.mark.real_time
async def test_what_can_never_be_read_is_visible() -> None:
    """Refused for good, or in a shape that nobody knows: stored with what was told."""

    async def strange(request: Request) -> Response:
        return Response(200, b'{"a": 1}')

    for handler in (failing(400, "INVALID_ARGUMENT"), strange):
        async with stage(handler) as on:
            (event,) = await on.read()
        assert isinstance(event, Unsupported)
        assert event.contact == Contact(keys=(KEY,))
        assert event.raw
        assert event.reason.endswith((".", ")")) or "not understood" in event.reason


@pytest.mark.real_time
async def test_a_platform_that_hangs_holds_few_deliveries() -> None:
    """More than so many of one account are declined at once."""
    waiting, go = 0, trio.Event()

    async def handler(request: Request) -> Response:
        nonlocal waiting
        waiting += 1
        await go.wait()
        return Response(200, json.dumps(review()).encode())

    async with stage(handler) as on:
        results: list[Any] = []

        async def read() -> None:
            results.append(await on.read())

        async with trio.open_nursery() as nursery:
            for _ in range(READS_AT_ONCE):
                nursery.start_soon(read)
            with trio.fail_after(PATIENCE_SECONDS):
                while waiting < READS_AT_ONCE:  # noqa: ASYNC110
                    await trio.sleep(0.01)
            found = await on.read()
            assert isinstance(found, Declined)
            assert found.error_class is ErrorClass.RATE_ACCOUNT
            go.set()
    assert all(not isinstance(each, Declined) for each in results)
