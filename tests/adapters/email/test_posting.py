"""Sending through mail services: what each is asked, and what its answers mean."""

import base64
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from msgspec import structs

from adapters.email.forms import read_form
from adapters.email.posting import read_answer
from adapters.email.sending import EmailSender
from adapters.guard import Guard
from adapters.port import Accepted, Account, Declined, ErrorClass, SendResult, Tools, Unanswered
from adapters.simulators.http import HttpServer, Request, Response
from engine.domain.outbound import MediaRef, SendMedia
from tests.adapters.contract.files import Files
from tests.adapters.email.test_composing import THREAD, account, item
from tests.adapters.turns import AtOnce

NO_HEADERS: Mapping[str, str] = {}


class Service:
    """Answers as it is told, and keeps what it was asked."""

    def __init__(self, answer: Response) -> None:
        self.answer = answer
        self.requests: list[Request] = []

    async def take(self, request: Request) -> Response:
        self.requests.append(request)
        return self.answer

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        server = HttpServer(self.take, body_limit=lambda method, path: 1_000_000)
        async with trio.open_nursery() as nursery:
            yield await nursery.start(server.run)
            nursery.cancel_scope.cancel()

    async def send(self, credentials: dict[str, str]) -> SendResult:
        async with self.running() as url:
            shop: Account = structs.replace(
                account(base_url=url, plus_addresses=True, html=True),
                credentials={"reply_secret": "secret", **credentials},
            )
            guard = Guard(allowed=[url.removeprefix("http://")])
            tools = Tools(media=Files({"k": b"%PDF"}), guard=guard, link=lambda tenant_id, key: key)
            media = MediaRef(
                kind="document",
                storage_key="k",
                filename="a.pdf",
                media_type="application/pdf",
                caption="See this",
            )
            async with EmailSender(tools) as sender:
                return await sender.send(item(send=SendMedia(media=media), thread=THREAD), shop, AtOnce())


@pytest.mark.real_time
async def test_mailgun_is_given_the_mail_whole() -> None:
    service = Service(Response(200, b'{"id": "<x@y>", "message": "Queued. Thank you."}'))
    result = await service.send({"mailgun_api_key": "key-1"})
    assert isinstance(result, Accepted)
    (request,) = service.requests
    assert (request.method, request.path) == ("POST", "/v3/shop.example/messages.mime")
    assert request.headers["authorization"] == f"Basic {base64.b64encode(b'api:key-1').decode()}"
    form = read_form(request.body)
    assert form.text("to") == "amelia@mail.example"
    assert form.text("v:mijra_message") == "4242"
    assert f"Message-ID: <{result.platform_id}>".encode() in form.files["message"].content


@pytest.mark.real_time
async def test_sendgrid_is_given_its_parts() -> None:
    service = Service(Response(202, b"", headers={"X-Message-Id": "abc"}))
    result = await service.send({"sendgrid_api_key": "SG.1"})
    assert isinstance(result, Accepted)
    (request,) = service.requests
    assert request.path == "/v3/mail/send"
    assert request.headers["authorization"] == "Bearer SG.1"
    body: Any = json.loads(request.body)
    assert body["personalizations"] == [{"to": [{"email": "amelia@mail.example"}]}]
    assert body["from"] == {"email": "support@shop.example", "name": "The Shop"}
    assert body["subject"] == "Re: Order"
    assert [each["type"] for each in body["content"]] == ["text/plain", "text/html"]
    assert body["headers"]["In-Reply-To"] == "<two@mail.example>"
    assert body["headers"]["Message-ID"] == f"<{result.platform_id}>"
    assert body["custom_args"]["mijra_message"] == "4242"
    assert body["reply_to"]["email"].startswith("support+m")
    (attached,) = body["attachments"]
    assert (attached["filename"], base64.b64decode(attached["content"])) == ("a.pdf", b"%PDF")


@pytest.mark.real_time
async def test_postmark_is_given_its_parts() -> None:
    service = Service(Response(200, b'{"ErrorCode": 0, "Message": "OK", "MessageID": "u-1"}'))
    result = await service.send({"postmark_server_token": "t-1"})
    assert isinstance(result, Accepted)
    (request,) = service.requests
    assert request.path == "/email"
    assert request.headers["x-postmark-server-token"] == "t-1"
    body: Any = json.loads(request.body)
    assert (body["From"], body["To"]) == ('"The Shop" <support@shop.example>', "amelia@mail.example")
    assert {"Name": "X-PM-KeepID", "Value": "true"} in body["Headers"]
    assert {"Name": "Message-ID", "Value": f"<{result.platform_id}>"} in body["Headers"]
    assert body["Metadata"]["mijra_message"] == "4242"
    assert body["Attachments"][0]["Name"] == "a.pdf"


@pytest.mark.parametrize(
    ("service", "status", "body", "error_class"),
    [
        ("mailgun", 401, b"Forbidden", ErrorClass.AUTH),
        ("mailgun", 404, b'{"message": "Domain not found"}', ErrorClass.ACCOUNT),
        ("mailgun", 400, b'{"message": "to parameter is not valid"}', ErrorClass.BAD_REQUEST),
        ("mailgun", 503, b"", ErrorClass.TRANSIENT),
        ("mailgun", 500, b'{"message": "trouble"}', ErrorClass.TRANSIENT),
        ("sendgrid", 403, b'{"errors": [{"message": "access forbidden"}]}', ErrorClass.AUTH),
        ("sendgrid", 429, b"", ErrorClass.RATE_ACCOUNT),
        ("sendgrid", 413, b"", ErrorClass.BAD_REQUEST),
        ("postmark", 422, b'{"ErrorCode": 406, "Message": "Inactive"}', ErrorClass.UNDELIVERABLE),
        ("postmark", 422, b'{"ErrorCode": 300, "Message": "Invalid"}', ErrorClass.BAD_REQUEST),
        ("postmark", 200, b'{"ErrorCode": 406, "Message": "Inactive"}', ErrorClass.UNDELIVERABLE),
        ("postmark", 401, b'{"ErrorCode": 10, "Message": "Bad token"}', ErrorClass.AUTH),
        ("postmark", 422, b'{"ErrorCode": 405, "Message": "No credits"}', ErrorClass.ACCOUNT),
    ],
)
def test_a_refusal_says_what_has_to_happen(
    service: str, status: int, body: bytes, error_class: ErrorClass
) -> None:
    result = read_answer(service, status, body, NO_HEADERS)
    assert isinstance(result, Declined)
    assert result.error_class is error_class


@pytest.mark.parametrize("service", ["mailgun", "sendgrid", "postmark"])
@pytest.mark.parametrize("status", [500, 502, 504])
def test_an_answer_from_something_in_front_leaves_it_open(service: str, status: int) -> None:
    assert isinstance(read_answer(service, status, b"<html>Bad gateway", NO_HEADERS), Unanswered)


def test_a_service_says_when_to_come_back() -> None:
    result = read_answer("mailgun", 429, b"", {"retry-after": "17"})
    assert isinstance(result, Declined)
    assert result.retry_after_seconds == 17.0
