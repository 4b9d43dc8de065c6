"""What goes to Google: agents' messages, public answers, and the tokens that they are authorised with."""

import json
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs

import jwt
import pytest
import trio
from cryptography.hazmat.primitives import serialization
from msgspec import structs

from adapters.degrading import LOCATED
from adapters.google_business import ADAPTER
from adapters.google_business.messages import our_id, our_uuid
from adapters.google_business.sending import PUBLIC, REPLACES, GoogleSender
from adapters.guard import Guard
from adapters.port import Accepted, Account, Declined, ErrorClass, Outlet, Tools, Unanswered
from adapters.simulators.http import HttpServer, Request, Response
from engine.domain.ids import ID_MAX
from engine.domain.outbound import (
    MarkRead,
    MediaRef,
    Option,
    OutboxItem,
    Send,
    SendInteractive,
    SendLocation,
    SendMedia,
    SendReaction,
    SendTemplate,
    SendText,
)
from engine.errors import InvalidInput
from tests.adapters.contract.files import Files
from tests.adapters.google_tokens import private_key
from tests.adapters.items import outbox_item
from tests.adapters.turns import AtOnce

AGENT, LOCATION = "brands/b/agents/a", "accounts/1/locations/2"
OPTIONS = tuple(Option(id=f"o{number}", title=f"Choice {number}") for number in range(3))


class Google:
    """An API that notes what it is asked; `answers` are given in turn, the last one again and again."""

    def __init__(self) -> None:
        self.asked: list[Request] = []
        self.answers: list[Response] = [Response(200, b'{"name": "x"}')]

    async def take(self, request: Request) -> Response:
        self.asked.append(request)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    @property
    def body(self) -> Any:
        return json.loads(self.asked[-1].body)


@asynccontextmanager
async def google(
    external_id: str = AGENT, **credentials: str
) -> AsyncIterator[tuple[Google, Callable[..., Any], Account]]:
    played = Google()
    async with trio.open_nursery() as nursery:
        server = HttpServer(played.take, body_limit=lambda method, path: 100_000)
        url = await nursery.start(server.run)
        account = Account(
            tenant_id=1,
            channel_id=2,
            platform="google-business",
            external_id=external_id,
            credentials=credentials or {"access_token": "good"},
            settings={"base_url": url, "representative_name": "Sara"},
        )
        tools = Tools(
            media=Files({}),
            guard=Guard(allowed=[url.removeprefix("http://")]),
            link=lambda tenant_id, key: f"https://files.example/{tenant_id}/{key}",
        )
        async with GoogleSender("google-business", tools) as sender:

            async def send(what: Send, recipient: str = "c/1", changed: Account | None = None) -> Any:
                return await sender.send(item(what, recipient), changed or account, AtOnce())

            yield played, send, account
        nursery.cancel_scope.cancel()


def item(send: Send, recipient: str) -> OutboxItem:
    return outbox_item(send, recipient, id=4_242, by_person=True)


def test_an_id_of_ours_goes_there_and_comes_back() -> None:
    """As a UUID, for every id that there can be; nobody else's is taken for one."""
    for number in (0, 1, 4_242, ID_MAX):
        name = our_uuid(number)
        assert str(uuid.UUID(name)) == name
        assert (uuid.UUID(name).version, uuid.UUID(name).variant) == (8, uuid.RFC_4122)
        assert our_id(name) == str(number)
    for other in ("", "x", "7d9f2b1c-0000-4f0a-9a5e-000000000004", str(uuid.uuid4())):
        assert our_id(other) is None


@pytest.mark.real_time
async def test_a_text_goes_under_an_id_of_ours() -> None:
    """The same for each attempt, so a repetition is one message."""
    async with google() as (played, send, _):
        result = await send(SendText(body="Yes."))
        assert result == Accepted(platform_id=our_uuid(4_242))
        assert (played.asked[0].method, played.asked[0].path) == ("POST", "/v1/conversations/c/1/messages")
        assert played.asked[0].headers["authorization"] == "Bearer good"
        assert played.body == {
            "messageId": our_uuid(4_242),
            "representative": {"representativeType": "HUMAN", "displayName": "Sara"},
            "text": "Yes.",
        }
        played.answers = [Response(409, b'{"error": {"code": 409, "status": "ALREADY_EXISTS"}}')]
        assert await send(SendText(body="Yes.")) == result


@pytest.mark.real_time
async def test_choices_are_suggestions_and_cards() -> None:
    async with google() as (played, send, _):
        quick = SendInteractive(kind="quick_replies", header="Hi", body="Which?", options=OPTIONS)
        assert isinstance(await send(quick), Accepted)
        assert played.body["text"] == "Hi\nWhich?"
        assert played.body["suggestions"][0] == {"reply": {"text": "Choice 0", "postbackData": "o0"}}
        buttons = structs.replace(quick, kind="buttons", footer="Thanks")
        assert isinstance(await send(buttons), Accepted)
        card = played.body["richCard"]["standaloneCard"]["cardContent"]
        assert (card["title"], card["description"], len(card["suggestions"])) == ("Hi", "Which?\nThanks", 3)
        assert "3. Choice 2" in played.body["fallback"]
        assert "text" not in played.body
        rows = structs.replace(quick, kind="list", button="This")
        assert isinstance(await send(rows), Accepted)
        cards = played.body["richCard"]["carouselCard"]["cardContents"]
        assert [each.get("title") for each in cards] == ["Hi", "Choice 0", "Choice 1", "Choice 2"]
        assert cards[1]["suggestions"] == [{"reply": {"text": "This", "postbackData": "o0"}}]


@pytest.mark.real_time
async def test_a_picture_is_fetched_by_google() -> None:
    """From our own store by a signed link, or from where it is."""
    async with google() as (played, send, _):
        for ref, url in (
            (MediaRef(kind="image", storage_key="7/f"), "https://files.example/1/7/f"),
            (MediaRef(kind="image", link="https://shop.example/a.jpg"), "https://shop.example/a.jpg"),
        ):
            assert isinstance(await send(SendMedia(media=ref)), Accepted)
            assert played.body["image"]["contentInfo"]["fileUrl"] == url


@pytest.mark.real_time
async def test_typing_is_shown_and_reading_is_not() -> None:
    async with google() as (played, send, _):
        assert await send(MarkRead(platform_message_id="m")) == Accepted(platform_id="")
        assert played.asked == []
        assert await send(MarkRead(platform_message_id="m", typing=True)) == Accepted(platform_id="")
        assert played.asked[0].path == "/v1/conversations/c/1/events"
        assert played.asked[0].query["eventId"] == our_uuid(4_242)
        assert played.body["eventType"] == "TYPING_STARTED"


@pytest.mark.parametrize(
    ("send", "field"),
    [
        (SendText(body="x" * 3_073), "body"),
        (SendInteractive(kind="buttons", body="?", options=(*OPTIONS, *OPTIONS)), "options"),
        (
            SendInteractive(kind="buttons", body="?", options=(Option(id="a", title="x" * 26),)),
            "options.0.title",
        ),
        (SendInteractive(kind="carousel", body="?", options=OPTIONS), "kind"),
        (SendMedia(media=MediaRef(kind="image")), "attachment"),
        (SendMedia(media=MediaRef(kind="image", link="ftp://x")), "link"),
        (SendMedia(media=MediaRef(kind="image", link="https://x.example/a", caption="x")), "caption"),
    ],
)
def test_what_does_not_fit_is_refused(send: Send, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        ADAPTER.sender(tools()).fit(send)
    assert field in caught.value.fields


def tools() -> Tools:
    return Tools(media=Files({}), guard=Guard(), link=lambda tenant_id, key: key)


# ------------------------------------------------------------------ public answers


def fitted(send: Send, *, answered: bool = False) -> Any:
    outlet = Outlet(external_id=LOCATION, settings={}, answered=answered)
    return ADAPTER.fit(ADAPTER.sender(tools()), send, outlet)


def test_an_agent_knows_that_the_answer_is_public() -> None:
    """And when it takes the place of an earlier one."""
    assert fitted(SendText(body="Thank you.")).note == PUBLIC
    assert fitted(SendText(body="Thank you.")).send == SendText(body="Thank you.")
    assert fitted(SendText(body="Thank you."), answered=True).note == REPLACES
    place = fitted(SendLocation(latitude=1.5, longitude=2.5))
    assert "maps.google.com" in place.send.body
    assert place.note == f"{LOCATED} {PUBLIC}"


@pytest.mark.parametrize(
    "send",
    [
        SendText(body="x" * 4_097),
        SendText(body="م" * 2_049),
        SendText(body=" "),
        SendMedia(media=MediaRef(kind="image", link="https://x.example/a")),
        SendInteractive(kind="quick_replies", body="?", options=OPTIONS),
        SendTemplate(name="x", language="en"),
        SendReaction(platform_message_id="m", emoji="👍"),
    ],
    ids=lambda send: type(send).__name__,
)
def test_an_answer_is_words_alone(send: Send) -> None:
    """4,096 bytes of them; the rest is refused with a sentence."""
    with pytest.raises(InvalidInput) as caught:
        fitted(send)
    assert all(one.endswith(".") for some in caught.value.fields.values() for one in some)
    assert fitted(SendText(body="م" * 2_048)).send.body


@pytest.mark.real_time
async def test_an_answer_is_put_under_the_review() -> None:
    """Its id is that under which the review is read with it later."""
    async with google(LOCATION) as (played, send, _):
        played.answers = [
            Response(200, b'{"comment": "Thanks", "updateTime": "2024-03-05T10:00:00.000001Z"}')
        ]
        result = await send(SendText(body="Thanks"), "reviews/r1")
        assert result == Accepted(platform_id="reviews/r1/reply@1709632800000001")
        assert (played.asked[0].method, played.asked[0].path) == ("PUT", f"/v4/{LOCATION}/reviews/r1/reply")
        assert played.body == {"comment": "Thanks"}
        for body in (b"<html>", b"", b"{}"):
            played.answers = [Response(200, body)]
            assert isinstance(await send(SendText(body="Thanks"), "reviews/r1"), Unanswered)
        played.answers = [Response(404, b'{"error": {"code": 404, "status": "NOT_FOUND"}}')]
        gone = await send(SendText(body="Thanks"), "reviews/r1")
        assert isinstance(gone, Declined)
        assert gone.error_class is ErrorClass.RECIPIENT
        asked = len(played.asked)
        assert isinstance(await send(SendText(body="Thanks"), "questions/q1"), Declined)
        assert await send(MarkRead(platform_message_id="m", typing=True), "reviews/r1") == Accepted(
            platform_id=""
        )
        assert isinstance(await send(SendText(body="x" * 5_000), "reviews/r1"), Declined)
        assert len(played.asked) == asked


# ------------------------------------------------------------------ tokens

GRANT = {"refresh_token": "r", "client_id": "i", "client_secret": "s"}


def granted(token: str, seconds: int = 3_600) -> Response:
    return Response(200, json.dumps({"access_token": token, "expires_in": seconds}).encode())


TAKEN = Response(200, b'{"name": "x"}')
REFUSED = Response(401, b'{"error": {"code": 401, "status": "UNAUTHENTICATED"}}')


@pytest.mark.real_time
async def test_a_token_is_had_once_for_its_hour() -> None:
    async with google(**GRANT) as (played, send, account):
        played.answers = [granted("t1"), TAKEN]
        for _ in range(3):
            assert isinstance(await send(SendText(body="x")), Accepted)
        form = parse_qs(played.asked[0].body.decode())
        assert (played.asked[0].path, form["grant_type"]) == ("/token", ["refresh_token"])
        assert [form[name] for name in GRANT] == [["r"], ["i"], ["s"]]
        assert [each.path for each in played.asked[1:]] == ["/v1/conversations/c/1/messages"] * 3
        assert {each.headers["authorization"] for each in played.asked[1:]} == {"Bearer t1"}
        # Other credentials have another token.
        played.answers = [granted("t2"), TAKEN]
        other = structs.replace(account, credentials={**GRANT, "refresh_token": "r2"})
        assert isinstance(await send(SendText(body="x"), "c/1", other), Accepted)
        assert played.asked[-1].headers["authorization"] == "Bearer t2"


@pytest.mark.real_time
async def test_a_token_that_is_about_to_expire_is_replaced() -> None:
    async with google(**GRANT) as (played, send, _):
        played.answers = [granted("t1", 200), TAKEN, granted("t2"), TAKEN]
        for token in ("t1", "t2"):
            assert isinstance(await send(SendText(body="x")), Accepted)
            assert played.asked[-1].headers["authorization"] == f"Bearer {token}"


@pytest.mark.real_time
async def test_a_refused_token_is_replaced_once() -> None:
    """Before an hour is over somebody may have revoked it; a second refusal is the grant's."""
    async with google(**GRANT) as (played, send, _):
        played.answers = [granted("t1"), REFUSED, granted("t2"), TAKEN]
        assert isinstance(await send(SendText(body="x")), Accepted)
        played.answers = [REFUSED, granted("t3"), REFUSED, TAKEN]
        result = await send(SendText(body="x"))
        assert isinstance(result, Declined)
        assert result.error_class is ErrorClass.AUTH


@pytest.mark.real_time
@pytest.mark.parametrize(
    ("answer", "error_class"),
    [
        (Response(400, b'{"error": "invalid_grant"}'), ErrorClass.AUTH),
        (Response(401, b'{"error": "invalid_client"}'), ErrorClass.AUTH),
        (Response(400, b'{"error": "invalid_request"}'), ErrorClass.AUTH),
        (Response(503, b"<html>"), ErrorClass.TRANSIENT),
        (Response(502, b"<html>"), ErrorClass.TRANSIENT),
        (Response(200, b"<html>"), ErrorClass.TRANSIENT),
        (Response(200, b'{"access_token": ""}'), ErrorClass.AUTH),
    ],
)
async def test_without_a_token_nothing_is_sent(answer: Response, error_class: ErrorClass) -> None:
    """And that is known for sure."""
    async with google(**GRANT) as (played, send, _):
        played.answers = [answer]
        result = await send(SendText(body="x"))
        assert isinstance(result, Declined)
        assert result.error_class is error_class
        assert len(played.asked) == 1


@pytest.mark.real_time
async def test_a_service_account_signs_for_its_token() -> None:
    pem = private_key("sa").private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    key = {"type": "service_account", "client_email": "bot@shop.example", "private_key": pem.decode()}
    async with google(LOCATION, service_account=json.dumps(key)) as (played, send, account):
        played.answers = [granted("t1"), Response(200, b'{"comment": "x"}')]
        assert isinstance(await send(SendText(body="x"), "reviews/r1"), Accepted)
        form = parse_qs(played.asked[0].body.decode())
        claims = jwt.decode(
            form["assertion"][0],
            private_key("sa").public_key(),
            algorithms=["RS256"],
            audience=f"{account.settings['base_url']}/token",
            issuer="bot@shop.example",
        )
        assert claims["scope"] == "https://www.googleapis.com/auth/business.manage"
        assert claims["exp"] - claims["iat"] == 3_600
        for broken in ("{}", "x", json.dumps({**key, "private_key": "x"})):
            changed = structs.replace(account, credentials={"service_account": broken})
            result = await send(SendText(body="x"), "reviews/r1", changed)
            assert isinstance(result, Declined)
            assert result.error_class is ErrorClass.AUTH


@pytest.mark.real_time
async def test_an_account_says_what_it_lacks() -> None:
    """Before Google is asked."""
    for external_id, credentials in ((AGENT, {}), (LOCATION, {"push_email": "x"})):
        async with google(external_id, **credentials) as (played, _, account):
            checked = await ADAPTER.check(account, tools())
            assert not checked.ok
            assert checked.detail.endswith(".")
            assert played.asked == []
