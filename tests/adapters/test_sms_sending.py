"""Sends as Twilio's calls, over real HTTP: who sends to whom, where outcomes are told, what answers mean, and
who sees the credentials."""

import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl

import httpx
import pytest
import trio
from msgspec import structs

from adapters.guard import Guard, guarded_client
from adapters.port import Accepted, Account, Declined, ErrorClass, FoundMedia, Tools, Unanswered
from adapters.simulators.http import HttpServer, Request, Response
from adapters.sms.media import TwilioMedia
from adapters.sms.senders import limits_of, sender_type
from adapters.sms.sending import SmsSender
from engine.domain.outbound import (
    MarkRead,
    MediaRef,
    Option,
    OutboxItem,
    Send,
    SendInteractive,
    SendLocation,
    SendMedia,
    SendTemplate,
    SendText,
)
from engine.errors import InvalidInput
from tests.adapters.contract.files import Files
from tests.adapters.items import outbox_item
from tests.adapters.turns import AtOnce

pytestmark = pytest.mark.real_time

SID = "AC" + "7d" * 16
SERVICE = "MG" + "5c" * 16
NAME = "MYSHOP"
HELLO = SendText(body="Hello")
CHOICES = SendInteractive(
    kind="buttons", body="Which?", options=(Option(id="a", title="Red"), Option(id="b", title="Blue"))
)
SENT = {"sid": "SM1", "status": "queued", "error_code": None}


def account(sender: str = "+15005550006", base_url: str | None = None, **more: Any) -> Account:
    settings = {"account_sid": SID, **({"base_url": base_url} if base_url else {}), **more}
    return Account(
        tenant_id=1,
        channel_id=2,
        platform="sms",
        external_id=sender,
        credentials={"auth_token": "secret"},
        settings=settings,
    )


def item(send: Send = HELLO, recipient: str = "+14155550123") -> OutboxItem:
    return outbox_item(send, recipient)


class Twilio:
    """Answers every call alike and keeps what it was asked."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.calls: list[Request] = []
        self.answer = Response(201, json.dumps(SENT).encode())
        self.tools = Tools(
            media=Files({}),
            guard=Guard(allowed=[url.removeprefix("http://")]),
            link=lambda tenant_id, key: f"https://files.example/{tenant_id}/{key}",
            webhook=lambda account: "https://chat.example/api/webhooks/sms/k1",
        )

    async def send(self, one: OutboxItem, sender: str = "+15005550006", **settings: Any) -> Any:
        async with SmsSender(self.tools) as adapter:
            return await adapter.send(one, account(sender, self.url, **settings), AtOnce())

    def form(self) -> dict[str, str]:
        return dict(parse_qsl(self.calls[-1].body.decode(), keep_blank_values=True))


@asynccontextmanager
async def serving(answer: Callable[[Request], Response]) -> AsyncIterator[str]:
    async def take(request: Request) -> Response:
        return answer(request)

    async with trio.open_nursery() as nursery:
        server = HttpServer(take, body_limit=lambda method, path: 100_000)
        yield await nursery.start(server.run)
        nursery.cancel_scope.cancel()


@pytest.fixture
async def twilio() -> AsyncIterator[Twilio]:
    made: list[Twilio] = []

    def take(request: Request) -> Response:
        made[0].calls.append(request)
        return made[0].answer

    async with serving(take) as url:
        made.append(Twilio(url))
        yield made[0]


# ------------------------------------------------------------------ what goes out


@pytest.mark.parametrize(
    ("sender", "recipient", "expected"),
    [
        ("+15005550006", "+14155550123", {"To": "+14155550123", "From": "+15005550006"}),
        ("15005550006", "+14155550123", {"To": "+14155550123", "From": "+15005550006"}),
        ("72975", "+14155550123", {"To": "+14155550123", "From": "72975"}),
        ("+15005550006", "+72975", {"To": "72975", "From": "+15005550006"}),
        (SERVICE, "+14155550123", {"To": "+14155550123", "MessagingServiceSid": SERVICE}),
        (NAME, "+14155550123", {"To": "+14155550123", "From": NAME}),
        (f"{NAME}@{SID}", "+14155550123", {"To": "+14155550123", "From": NAME}),
        (
            "whatsapp:+15005550006",
            "+14155550123",
            {"To": "whatsapp:+14155550123", "From": "whatsapp:+15005550006"},
        ),
    ],
)
async def test_a_message_goes_from_the_sender_to_the_recipient(
    twilio: Twilio, sender: str, recipient: str, expected: dict[str, str]
) -> None:
    """As the platform writes either; by the account's own address and credentials."""
    result = await twilio.send(item(recipient=recipient), sender)
    assert result == Accepted(platform_id="SM1")
    form = twilio.form()
    form.pop("StatusCallback")
    assert form == {**expected, "Body": "Hello"}
    call = twilio.calls[-1]
    assert (call.method, call.path) == ("POST", f"/2010-04-01/Accounts/{SID}/Messages.json")
    assert call.headers["authorization"] == "Basic " + base64.b64encode(f"{SID}:secret".encode()).decode()


async def test_the_callback_brings_our_message_and_sender_back(twilio: Twilio) -> None:
    """Not where it could not reach us: the platform would refuse the message for it."""
    await twilio.send(item())
    expected = "https://chat.example/api/webhooks/sms/k1?message=4242&sender=%2B15005550006"
    assert twilio.form()["StatusCallback"] == expected
    for address, reachable in (
        ("http://127.0.0.1:8080/x", False),
        ("http://localhost:8080/x", False),
        ("http://[::1]:8080/x", False),
        ("http://192.168.1.5/x", False),
        ("https://chat.example/x", True),
        ("https://8.8.8.8/x", True),
    ):
        tools = structs.replace(twilio.tools, webhook=lambda account, address=address: address)
        real = SmsSender(tools)._callback(item(), account())
        assert (real is not None) == reachable, address
        assert SmsSender(tools)._callback(item(), account(base_url=twilio.url)) is not None


@pytest.mark.parametrize(
    ("send", "expected"),
    [
        (CHOICES, {"Body": "Which?\n1. Red\n2. Blue"}),
        (
            SendLocation(latitude=21.5, longitude=39.2, name="Shop"),
            {"Body": "Shop\nhttps://maps.google.com/?q=21.500000,39.200000"},
        ),
        (
            SendMedia(media=MediaRef(kind="image", storage_key="2026/7", caption="Look")),
            {"MediaUrl": "https://files.example/1/2026/7", "Body": "Look"},
        ),
        (
            SendMedia(media=MediaRef(kind="video", link="https://cdn.example/a.mp4")),
            {"MediaUrl": "https://cdn.example/a.mp4"},
        ),
        (
            SendTemplate(name="HX" + "0a" * 16, language="en", variables={"body": ["Zoe", "7"]}),
            {"ContentSid": "HX" + "0a" * 16, "ContentVariables": '{"1":"Zoe","2":"7"}'},
        ),
        (
            SendTemplate(name="HX" + "0a" * 16, language="en", variables={"body": [{"name": "Zoe"}]}),
            {"ContentSid": "HX" + "0a" * 16, "ContentVariables": '{"name":"Zoe"}'},
        ),
        (SendTemplate(name="HX" + "0a" * 16, language="en"), {"ContentSid": "HX" + "0a" * 16}),
    ],
)
async def test_each_kind_has_its_parameters(twilio: Twilio, send: Send, expected: dict[str, str]) -> None:
    await twilio.send(item(send))
    form = twilio.form()
    assert {name: form[name] for name in form if name not in ("To", "From", "StatusCallback")} == expected


async def test_a_key_is_used_in_place_of_the_token(twilio: Twilio) -> None:
    with_key = structs.replace(
        account(base_url=twilio.url),
        credentials={"auth_token": "secret", "api_key": "SK1", "api_secret": "key-secret"},
    )
    async with SmsSender(twilio.tools) as sender:
        await sender.send(item(), with_key, AtOnce())
    expected = "Basic " + base64.b64encode(b"SK1:key-secret").decode()
    assert twilio.calls[-1].headers["authorization"] == expected


async def test_a_name_carries_text_alone(twilio: Twilio) -> None:
    """Nobody can answer it, so nothing that asks for an answer goes out, and no file does."""
    for send in (CHOICES, SendMedia(media=MediaRef(kind="image", link="https://cdn.example/a"))):
        result = await twilio.send(item(send), NAME)
        assert isinstance(result, Declined)
        assert (result.platform_code, result.error_class) == ("one_way", ErrorClass.BAD_REQUEST)
    assert not twilio.calls
    assert isinstance(await twilio.send(item(), NAME), Accepted)


async def test_reading_is_not_told(twilio: Twilio) -> None:
    assert await twilio.send(item(MarkRead(platform_message_id="SM0"))) == Accepted(platform_id="")
    assert not twilio.calls


async def test_an_account_that_lacks_something_calls_nobody(twilio: Twilio) -> None:
    result = await twilio.send(item(), account_sid="")
    assert isinstance(result, Declined)
    assert result.error_class is ErrorClass.AUTH
    assert not twilio.calls


def test_a_text_says_how_many_parts_it_has() -> None:
    """And one that is too long is refused with them."""
    tools = Tools(media=Files({}), guard=Guard(), link=lambda tenant_id, key: key)
    sender = SmsSender(tools)
    assert sender.fit(SendText(body="م" * 71)).facts == {"segments": {"encoding": "UCS-2", "count": 2}}
    assert sender.fit(CHOICES).facts == {"segments": {"encoding": "GSM-7", "count": 1}}
    assert sender.fit(SendText(body="a" * 1_600)).facts["segments"]["count"] == 11
    with pytest.raises(InvalidInput) as refused:
        sender.fit(SendText(body="م" * 1_601))
    assert refused.value.fields == {"body": ["At most 1600 characters; this has 1601, in 24 segments."]}


@pytest.mark.parametrize(
    ("sender", "settings", "kind", "rate"),
    [
        ("+14155550123", {}, "long_code", 1),
        ("14155550123", {}, "long_code", 1),
        ("+18885550123", {}, "toll_free", 3),
        ("72975", {}, "short_code", 100),
        (NAME, {}, "alphanumeric", 10),
        (f"{NAME}@{SID}", {}, "alphanumeric", 10),
        (SERVICE, {}, "long_code", 1),
        (SERVICE, {"sender_type": "short_code"}, "short_code", 100),
        ("72975", {"segments_per_second": 30}, "short_code", 30),
        ("72975", {"segments_per_second": 0, "sender_type": "pigeon"}, "short_code", 100),
        ("72975", {"segments_per_second": True}, "short_code", 100),
    ],
)
def test_a_senders_pace_is_that_of_its_kind(
    sender: str, settings: dict[str, Any], kind: str, rate: int
) -> None:
    """In segments; the channel's settings say otherwise where they make sense."""
    one = account(sender, **settings)
    assert (sender_type(one), limits_of(one).messages_per_second) == (kind, rate)
    weight = limits_of(one).weight
    assert weight is not None
    assert weight(SendText(body="م" * 135)) == 3
    assert weight(structs.replace(CHOICES, body="a" * 200)) == 2
    assert weight(SendTemplate(name="x", language="en")) == 1


# ------------------------------------------------------------------ what comes back


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (400, {"code": 21610}, ErrorClass.OPTED_OUT),
        (401, {"code": 20003}, ErrorClass.AUTH),
        (401, None, ErrorClass.AUTH),
        (404, {"code": 20404}, ErrorClass.AUTH),
        (429, {"code": 20429}, ErrorClass.RATE_ACCOUNT),
        (429, None, ErrorClass.RATE_ACCOUNT),
        (429, {"code": 1}, ErrorClass.RATE_ACCOUNT),
        (400, {"code": 99999}, ErrorClass.BAD_REQUEST),
        (400, None, ErrorClass.BAD_REQUEST),
        (503, None, ErrorClass.TRANSIENT),
        (503, {"code": 20503}, ErrorClass.TRANSIENT),
        (201, {"sid": "SM1", "status": "failed", "error_code": 30034}, ErrorClass.ACCOUNT),
        # Nobody can know whether these were taken.
        (500, {"code": 20500}, None),
        (502, None, None),
        (201, None, None),
        (201, {"sid": ""}, None),
        (201, {"sid": 7}, None),
    ],
)
async def test_an_answer_is_taken_refused_or_unknown(
    twilio: Twilio, status: int, body: Any, expected: ErrorClass | None
) -> None:
    content = b"<html>" if body is None else json.dumps(body).encode()
    twilio.answer = Response(status, content, headers={"Retry-After": "7"})
    result = await twilio.send(item())
    if expected is None:
        assert isinstance(result, Unanswered)
        return
    assert isinstance(result, Declined)
    assert result.error_class is expected
    if expected is ErrorClass.RATE_ACCOUNT:
        assert result.retry_after_seconds == 7.0


# ------------------------------------------------------------------ files of customers


async def test_the_store_behind_a_redirect_does_not_see_the_credentials() -> None:
    """Twilio does; the other host that it redirects to gets the request without them."""
    seen: dict[str, str | None] = {}

    def store(request: Request) -> Response:
        seen["store"] = request.headers.get("authorization")
        return Response(200, b"picture", "image/png")

    async with serving(store) as elsewhere:

        def api(request: Request) -> Response:
            seen["twilio"] = request.headers.get("authorization")
            return Response(307, b"", headers={"Location": f"{elsewhere}/file"})

        async with serving(api) as url:
            guard = Guard(allowed=[each.removeprefix("http://") for each in (url, elsewhere)])
            found = await TwilioMedia().look_up(None, f"{url}/Media/ME1", account(base_url=url))
            assert isinstance(found, FoundMedia)
            async with guarded_client(guard, connections_max=2, timeout=httpx.Timeout(5.0)) as client:
                answer = await client.get(found.url, headers=found.headers, follow_redirects=True)
    assert answer.content == b"picture"
    assert seen["twilio"] is not None
    assert seen["twilio"].startswith("Basic ")
    assert seen["store"] is None


async def test_the_guard_looks_at_the_redirect_too() -> None:
    """An address of our own network behind Twilio's is not called."""

    def api(request: Request) -> Response:
        return Response(307, b"", headers={"Location": "http://127.0.0.1:9/file"})

    async with serving(api) as url:
        guard = Guard(allowed=[url.removeprefix("http://")])
        async with guarded_client(guard, connections_max=2, timeout=httpx.Timeout(5.0)) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get(url, follow_redirects=True)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://api.twilio.com/2010-04-01/Accounts/AC1/Messages/MM1/Media/ME1", True),
        ("http://api.twilio.com/2010-04-01/x", False),
        ("https://api.twilio.com.evil.example/x", False),
        ("https://evil.example/api.twilio.com", False),
        ("https://api.twilio.com@evil.example/x", False),
        ("https://api.twilio.com:444/x", False),
        ("https://[/x", False),
    ],
)
async def test_only_twilio_is_shown_the_credentials(address: str, shown: bool) -> None:
    found = await TwilioMedia().look_up(None, address, account())
    assert isinstance(found, FoundMedia)
    assert bool(found.headers) == shown
