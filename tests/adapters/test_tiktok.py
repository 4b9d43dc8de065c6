"""TikTok, beyond the contract: signatures that grow old, whose echo it is, what a send looks like, pictures,
tokens."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from msgspec import structs

from adapters.guard import Guard
from adapters.port import Accepted, Account, Declined, ErrorClass, Renewed, Tools, Unanswered
from adapters.simulators.http import Request, Response
from adapters.simulators.media import png
from adapters.tiktok import ADAPTER
from adapters.tiktok.errors import read_failure
from adapters.tiktok.reading import CONVERSATIONS_MAX, MISSING_MS, SLACK_MS, TikTokReader
from adapters.tiktok.receiver import REPLAY_SECONDS_MAX, TikTokReceiver
from adapters.tiktok.sending import TikTokSender
from adapters.tiktok.shapes import read_source_id, source_id
from engine.domain.inbound import (
    AccessWithdrawn,
    AccountNotice,
    Announced,
    Contact,
    MessageEchoed,
    MessageReceived,
    StatusesReached,
    Unsupported,
)
from engine.domain.outbound import (
    MarkRead,
    MediaRef,
    Option,
    OutboxItem,
    Send,
    SendInteractive,
    SendMedia,
    SendText,
)
from engine.errors import InvalidInput, Unavailable
from engine.ports import Endpoint, WebhookRequest
from tests.adapters.contract.case import own_payloads
from tests.adapters.contract.cases.tiktok import sign
from tests.adapters.contract.files import Files
from tests.adapters.items import outbox_item
from tests.adapters.turns import AtOnce
from tests.simulators.receiver import listening

NOW = 1_764_000_000
PAYLOADS = {each.name: each.body for each in own_payloads("tiktok")}
ENDPOINT = Endpoint(
    platform="tiktok",
    external_id="o",
    parent_id=None,
    tenant_id=1,
    channel_id=2,
    endpoint_key="k",
    secrets={"client_secret": "s"},
)


def event(name: str) -> Any:
    (routed,) = TikTokReceiver().parse(PAYLOADS[name])
    return routed.event


def believed(headers: dict[str, str], *, at: float = NOW) -> bool:
    request = WebhookRequest(
        method="POST", path="/api/webhooks/tiktok", query="", headers=headers, body=PAYLOADS["text"]
    )
    return bool(TikTokReceiver(clock=lambda: at).verify(request, [ENDPOINT]))


# ------------------------------------------------------------------ receiving


def test_a_signature_counts_for_five_minutes() -> None:
    """Either way, since clocks differ; what was recorded is worth nothing later."""
    headers = sign(PAYLOADS["text"], "s", NOW)
    for seconds in (-REPLAY_SECONDS_MAX, 0, REPLAY_SECONDS_MAX):
        assert believed(headers, at=NOW + seconds)
    for seconds in (-REPLAY_SECONDS_MAX - 1, REPLAY_SECONDS_MAX + 1, 86_400):
        assert not believed(headers, at=NOW + seconds)


@pytest.mark.parametrize(
    "header",
    ["", "t=", "s=", "t=1764000000", "t=1764000000,s=", "s={s},t=1764000000", "t=1764000000,s={s},s={s}",
     "t=01764000000,s={s}", "t=+1764000000,s={s}", "t=١٧٦٤٠٠٠٠٠٠,s={s}", "v=1,t=1764000000,s={s}"],
)  # fmt: skip
def test_a_header_of_another_form_is_nobodys(header: str) -> None:
    """One time and one signature, as they were signed."""
    digest = sign(PAYLOADS["text"], "s", NOW)["tiktok-signature"].partition("s=")[2]
    assert not believed({"tiktok-signature": header.replace("{s}", digest)})


def test_only_what_was_written_by_the_api_may_be_ours() -> None:
    """And what says nothing of it; an app's name stands in the metadata."""
    for name, maybe_ours in (
        ("echo_by_api", True), ("echo_without_source", True), ("echo_by_app", False), ("echo_by_web", False),
        ("echo_by_others", False),
    ):  # fmt: skip
        echo = event(name)
        assert isinstance(echo, MessageEchoed)
        assert echo.maybe_ours is maybe_ours
    assert event("echo_by_app").metadata == {"app": "APP"}


def test_a_conversation_is_the_contact_and_the_other_side_the_name() -> None:
    """Whichever side wrote."""
    expected = Contact(keys=("c0NvErSaTiOn+ab/Cd0001==",), name="layla.reads")
    assert event("text").contact == expected
    assert event("echo_by_app").contact == expected


def test_the_customers_mark_counts_and_the_business_own_does_not() -> None:
    """A business that reads its own inbox has not been read."""
    read = event("read")
    assert isinstance(read, StatusesReached)
    assert (read.status, read.up_to) == ("read", 1_764_000_050_000)
    assert isinstance(event("read_by_the_business"), AccountNotice)


def test_seconds_are_milliseconds_too() -> None:
    """Some senders write them so."""
    assert event("seconds").at == 1_764_000_009_000


def test_access_that_was_withdrawn_says_why_and_when() -> None:
    """Whole seconds mean their last moment, so that news from the second of connecting is no old news."""
    withdrawn = event("authorization_removed")
    assert isinstance(withdrawn, AccessWithdrawn)
    assert withdrawn.at == 1_764_000_000_999
    assert "disconnected the app" in withdrawn.note
    delivery = json.loads(PAYLOADS["authorization_removed"])
    for content in ("{}", '{"reason": 99}', '{"reason": []}', "?", None):
        (routed,) = TikTokReceiver().parse(json.dumps({**delivery, "content": content}).encode())
        assert isinstance(routed.event, AccessWithdrawn)


def test_a_files_name_holds_all_that_the_platform_asks() -> None:
    """Whatever is in the ids."""
    for parts in (["image", "a+/=", 'b,"]', "ü"], ["video", "c", "m", "v"]):
        assert read_source_id(source_id(*parts)) == parts
    for other in ("", "abc", "[]", '["a"]', "[1,2,3,4]", "{"):
        assert read_source_id(other) is None


# ------------------------------------------------------------------ sending


class Api:
    """A platform that takes everything and keeps it. `answers` come first, by the end of the path."""

    def __init__(self, **answers: Response) -> None:
        self.calls: list[Request] = []
        self.answers = answers

    async def answer(self, request: Request) -> Response:
        self.calls.append(request)
        name = request.path.rstrip("/").rpartition("/")[2]
        usual: dict[str, Any] = {
            "send": {"message": {"message_id": "m1"}},
            "upload": {"media_id": "77"},
            "get": {"capability_infos": [{"capability_type": "IMAGE_SEND", "capability_result": True}]},
        }
        if name in self.answers:
            return self.answers[name]
        if request.path.startswith("/pictures/"):
            return Response(200, PICTURE, "image/png")
        return answered(0, usual.get(name, {}))

    def named(self, name: str) -> list[Request]:
        return [each for each in self.calls if each.path.rstrip("/").endswith(f"/{name}")]

    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(each.body) for each in self.named("send")]


PICTURE = png(1, 2, 3)


def answered(code: int, data: object = None, status: int = 200, **headers: str) -> Response:
    content = {"code": code, "message": "said so", "request_id": "r", "data": data or {}}
    return Response(status, json.dumps(content).encode(), headers=headers)


@asynccontextmanager
async def playing(api: Api) -> AsyncIterator[tuple[TikTokSender, Account, Tools]]:
    async with listening(api.answer, 3_500_000) as server:
        tools = Tools(
            media=Files(
                {"1/a": PICTURE, "1/empty": b"", "1/text": b"words", "1/big": PICTURE + b"x" * 3_000_000}
            ),
            guard=Guard(allowed=[server.base_url.removeprefix("http://")]),
            link=lambda tenant_id, key: "",
        )
        account = Account(
            tenant_id=1,
            channel_id=2,
            platform="tiktok",
            external_id="open",
            credentials={"access_token": "act.1", "refresh_token": "rft.1", "client_secret": "s"},
            settings={"base_url": server.base_url, "client_key": "key"},
        )
        async with TikTokSender(tools) as sender:
            yield sender, account, tools


def item(send: Send, **changes: Any) -> OutboxItem:
    return outbox_item(send, "c+1==", **{"id": 9, **changes})


async def sent(api: Api, *items: OutboxItem) -> list[Any]:
    async with playing(api) as (sender, account, _):
        return [await sender.send(each, account, AtOnce()) for each in items]


def stored(key: str, **more: Any) -> SendMedia:
    return SendMedia(media=MediaRef(kind="image", storage_key=key, **more))


async def test_a_text_quotes_and_a_picture_does_not() -> None:
    """The platform refuses a picture that quotes."""
    api = Api()
    await sent(api, item(SendText(body="Hi"), reply_to="m0"), item(stored("1/a"), reply_to="m0"))
    text, image = api.bodies()
    assert text == {
        "business_id": "open",
        "recipient_type": "CONVERSATION",
        "recipient": "c+1==",
        "message_type": "TEXT",
        "text": {"body": "Hi"},
        "referenced_message_info": {"referenced_message_id": "m0"},
    }
    assert image["image"] == {"media_id": "77"}
    assert "referenced_message_info" not in image
    assert {each.headers["access-token"] for each in api.calls} == {"act.1"}


def choices(kind: str = "buttons", body: str = "Which one?", count: int = 2, title: str = "Blue") -> Send:
    options = tuple(Option(id=f"o{number}", title=title) for number in range(count))
    return SendInteractive(kind=kind, body=body, options=options)


@pytest.mark.parametrize(
    ("send", "expected"),
    [
        (choices(), "QA_BUTTON_CARD"),
        (choices("quick_replies", count=3), "QA_BUTTON_CARD"),
        (choices(title="x" * 20), "QA_BUTTON_CARD"),
        (choices(title="x" * 21), "QA_LINK_CARD"),
        (choices(title="x" * 41), None),
        (choices(count=4), None),
        (choices(body="x" * 41), None),
        (choices("list"), None),
    ],
)
async def test_choices_that_fit_are_a_card_and_others_a_list(send: Send, expected: str | None) -> None:
    """Of buttons or of links, by the length of their words."""
    api = Api()
    await sent(api, item(send))
    (body,) = api.bodies()
    assert body.get("template", {}).get("type") == expected
    assert (expected is None) == (body["message_type"] == "TEXT")


def test_choices_that_no_way_of_sending_repairs_are_refused() -> None:
    """By field."""
    option = Option(id="o", title="Blue")
    for changes, field in (
        ({"options": ()}, "options"),
        ({"options": (option, option)}, "options"),
        ({"options": (Option(id="o", title=" "),)}, "options.0.title"),
        ({"body": ""}, "body"),
        ({"body": "x" * 7_000}, "body"),
    ):
        send = structs.replace(SendInteractive(kind="list", body="Which?", options=(option,)), **changes)
        sender = ADAPTER.sender(Tools(media=Files({}), guard=Guard(), link=lambda tenant_id, key: ""))
        with pytest.raises(InvalidInput) as caught:
            sender.fit(send)
        assert field in caught.value.fields


async def test_signals_are_one_call_each() -> None:
    """Ten calls a second are few."""
    api = Api()
    marks = [
        item(MarkRead(platform_message_id="m", typing=typing), message_id=None) for typing in (False, True)
    ]
    assert all(isinstance(each, Accepted) for each in await sent(api, *marks))
    assert [each["sender_action"] for each in api.bodies()] == ["MARK_READ", "TYPING"]


async def test_a_picture_is_uploaded_once_and_what_is_none_never() -> None:
    """By its bytes, not by its name."""
    api = Api()
    first, second = await sent(api, item(stored("1/a")), item(stored("1/a")))
    assert (first, second) == (Accepted(platform_id="m1"), Accepted(platform_id="m1"))
    assert len(api.named("upload")) == len(api.named("get")) == 1
    other = Api()
    results = await sent(other, *(item(stored(key)) for key in ("1/empty", "1/text", "1/big", "1/gone")))
    assert [each.error_class for each in results] == [ErrorClass.BAD_REQUEST] * 4
    assert [each.platform_code for each in results] == [
        "image_size",
        "not_an_image",
        "image_size",
        "file_missing",
    ]
    assert not other.bodies()


async def test_what_is_behind_a_link_is_brought_and_uploaded() -> None:
    """The platform fetches nothing; our own network is not fetched from."""
    api = Api()
    async with playing(api) as (sender, account, _):
        base = account.settings["base_url"]

        async def linked(link: str) -> Any:
            send = SendMedia(media=MediaRef(kind="image", link=link))
            return await sender.send(item(send), account, AtOnce())

        assert await linked(f"{base}/pictures/a.png") == Accepted(platform_id="m1")
        assert PICTURE in api.named("upload")[0].body
        await linked(f"{base}/pictures/a.png")
        assert len(api.named("upload")) == 2, "it may be another picture by now"
        refused = await linked("http://127.0.0.1:9/a.png")
        assert (refused.error_class, refused.platform_code) == (ErrorClass.BAD_REQUEST, "link_refused")


async def test_where_no_pictures_are_allowed_none_is_uploaded() -> None:
    """The platform says so before; without an answer the send itself will tell."""
    no = {"capability_infos": [{"capability_type": "IMAGE_SEND", "capability_result": False}]}
    api = Api(get=answered(0, no))
    (refused,) = await sent(api, item(stored("1/a")))
    assert (refused.error_class, refused.platform_code) == (ErrorClass.BAD_REQUEST, "image_not_available")
    assert not api.named("upload")
    silent = Api(get=answered(50000))
    assert await sent(silent, item(stored("1/a"))) == [Accepted(platform_id="m1")]


async def test_an_upload_that_may_be_at_fault_is_made_afresh() -> None:
    """After a refusal of the message, and not after a throttle."""
    for code, uploads in ((40002, 2), (40100, 1)):
        api = Api(send=answered(code))
        await sent(api, item(stored("1/a")), item(stored("1/a")))
        assert len(api.named("upload")) == uploads


# ------------------------------------------------------------------ answers


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (answered(40105), ErrorClass.AUTH),
        (answered(40100, status=429), ErrorClass.RATE_ACCOUNT),
        (answered(40002, status=429), ErrorClass.RATE_ACCOUNT),
        (answered(40002), ErrorClass.BAD_REQUEST),
        (answered(40002, status=500), ErrorClass.TRANSIENT),
        (answered(50000), ErrorClass.TRANSIENT),
        (answered(987), ErrorClass.BAD_REQUEST),
        (Response(401, b""), ErrorClass.AUTH),
        (Response(429, b"slow"), ErrorClass.RATE_ACCOUNT),
        (Response(503, b""), ErrorClass.TRANSIENT),
        (Response(404, b"<html>"), ErrorClass.ACCOUNT),
        (Response(413, b""), ErrorClass.BAD_REQUEST),
    ],
)
def test_the_code_decides_and_the_status_where_there_is_none(
    response: Response, expected: ErrorClass
) -> None:
    """HTTP says 200 for most refusals."""
    read = read_failure(response.status, response.body, response.headers)
    assert isinstance(read, Declined)
    assert read.error_class is expected


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"code": "0"}', b"\xff", b"[" * 100_000])
def test_an_answer_that_cannot_be_read_leaves_it_open(body: bytes) -> None:
    """Nobody knows whether the message was taken."""
    assert isinstance(read_failure(200, body, {}), Unanswered)
    assert isinstance(read_failure(502, body, {}), Unanswered)


async def test_a_success_without_an_id_leaves_it_open() -> None:
    """A message needs one; a signal has none."""
    odd: list[Any] = [{}, {"message": {}}, {"message": {"message_id": ""}}, {"message": {"message_id": 5}}]
    for data in odd:
        (result,) = await sent(Api(send=answered(0, data)), item(SendText(body="Hi")))
        assert isinstance(result, Unanswered)


# ------------------------------------------------------------------ what webhooks do not say


TOLD_AT = 1_764_000_100_000


def listed(number: int, at: int = TOLD_AT, **changes: Any) -> dict[str, Any]:
    person = {"id": f"p{number}", "role": "PERSONAL_ACCOUNT"}
    return {
        "message_id": f"m{number}",
        "conversation_id": f"c{number}",
        "sender": "anna",
        "timestamp": at,
        "from_user": person,
        "to_user": {"id": "open", "role": "BUSINESS_ACCOUNT"},
        "message_type": "TEXT",
        "text": {"body": f"text {number}"},
        **changes,
    }


class Lists(Api):
    """The message lists of an account: conversation -> its messages."""

    def __init__(self, conversations: dict[str, list[dict[str, Any]]], **answers: Response) -> None:
        super().__init__(**answers)
        self.conversations = conversations

    async def answer(self, request: Request) -> Response:
        self.calls.append(request)
        if request.path.endswith("/conversation/list/"):
            if "listing" in self.answers:
                return self.answers["listing"]
            shown = [
                {"conversation_id": key, "update_time": max(each["timestamp"] for each in messages)}
                for key, messages in self.conversations.items()
            ]
            stranger = request.query["conversation_type"] == "STRANGER"
            return answered(0, {"conversations": shown if stranger else [], "has_more": False})
        return answered(0, {"messages": self.conversations[request.query["conversation_id"]]})


async def read(api: Api, *, now: int = TOLD_AT + 1_000) -> Any:
    announced = event("stripped")
    assert isinstance(announced, Announced)
    assert announced.at == TOLD_AT
    async with playing(api) as (_, account, tools), TikTokReader(tools.guard, lambda: now) as reader:
        return await reader.read(announced, account)


async def test_the_lists_say_what_a_webhook_does_not() -> None:
    """What people wrote about that time, in the conversations that changed; not the business' own."""
    own = listed(3, from_user={"id": "open"}, to_user={"id": "p1"})
    odd = listed(4, message_type="OTHER", text=None)
    lists = Lists(
        {
            "c1": [listed(1, TOLD_AT + 5), listed(2, TOLD_AT - SLACK_MS - 1), own, odd],
            "c9": [listed(9, TOLD_AT - SLACK_MS - 1)],
        }
    )
    found = await read(lists)
    assert [(type(each), each.platform_id) for each in found] == [
        (Unsupported, "m4"),
        (MessageReceived, "m1"),
    ]
    assert found[1].contact == Contact(keys=("c1",), name="anna")
    assert [each.query["conversation_id"] for each in lists.calls if "conversation_id" in each.query] == [
        "c1"
    ]


async def test_what_is_not_listed_yet_is_waited_for_and_then_given_up() -> None:
    """The platform keeps the delivery meanwhile; after ten minutes it is kept as it came."""
    waits = await read(Lists({}))
    assert isinstance(waits, Declined)
    assert waits.error_class is ErrorClass.TRANSIENT
    (given_up,) = await read(Lists({}), now=TOLD_AT + MISSING_MS)
    assert isinstance(given_up, Unsupported)
    assert given_up.contact is None
    assert given_up.raw["event"] == "im_receive_msg_eu"


async def test_lists_that_cannot_be_read_are_read_later() -> None:
    """Whatever the reason; a token that ended says so."""
    for response, expected in (
        (answered(40105), ErrorClass.AUTH),
        (answered(50000), ErrorClass.TRANSIENT),
        (Response(200, b"<html>"), ErrorClass.TRANSIENT),
        (answered(0, {"conversations": {}}), ErrorClass.TRANSIENT),
        (answered(0, []), ErrorClass.TRANSIENT),
    ):
        result = await read(Lists({}, listing=response))
        assert isinstance(result, Declined)
        assert result.error_class is expected


async def test_a_delivery_reads_so_many_conversations_and_no_more() -> None:
    """Those that changed last: others have deliveries of their own."""
    many = {f"c{number}": [listed(number, TOLD_AT + number)] for number in range(3 * CONVERSATIONS_MAX)}
    found = await read(Lists(many))
    assert len(found) == CONVERSATIONS_MAX
    assert found[-1].platform_id == f"m{3 * CONVERSATIONS_MAX - 1}"


# ------------------------------------------------------------------ tokens


TOKENS: dict[str, Any] = {
    "open_id": "open", "access_token": "act.2", "expires_in": 86_400, "refresh_token": "rft.2",
    "refresh_token_expires_in": 31_536_000,
}  # fmt: skip


async def renewed(
    api: Api, change: Callable[[Account], Account] = lambda account: account
) -> Renewed | Declined | Unavailable | None:
    async with playing(api) as (_, account, tools):
        try:
            return await ADAPTER.renew(change(account), tools)
        except Unavailable as error:
            return error


async def test_tokens_are_renewed_together() -> None:
    """By the app's key and secret; the refresh token is another one too."""
    api = Api(refresh_token=answered(0, TOKENS))
    result = await renewed(api)
    assert isinstance(result, Renewed)
    assert result.credentials == {"access_token": "act.2", "refresh_token": "rft.2"}
    assert result.expires_at is not None
    (call,) = api.calls
    assert json.loads(call.body) == {
        "client_id": "key",
        "client_secret": "s",
        "grant_type": "refresh_token",
        "refresh_token": "rft.1",
    }


async def test_without_what_it_takes_nothing_is_renewed() -> None:
    """And nobody is called."""
    api = Api()
    keyless = {"base_url": "http://127.0.0.1:9"}
    assert await renewed(api, lambda account: structs.replace(account, settings=keyless)) is None
    assert await renewed(api, lambda account: structs.replace(account, credentials={})) is None
    assert not api.calls


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (answered(40002), ErrorClass.AUTH),
        (answered(40105), ErrorClass.AUTH),
        (answered(0, {**TOKENS, "open_id": "another"}), ErrorClass.AUTH),
        (answered(40100, status=429), None),
        (answered(50000), None),
        (Response(502, b""), None),
        (answered(0, {**TOKENS, "access_token": "with a space"}), None),
        (answered(0, {**TOKENS, "expires_in": 0}), None),
        (answered(0, {}), None),
    ],
)
async def test_a_renewal_that_fails_needs_a_person_or_another_try(
    response: Response, expected: ErrorClass | None
) -> None:
    """A refused refresh token needs a person; the platform's trouble does not."""
    api = Api(refresh_token=response)
    result = await renewed(api)
    if expected is None:
        assert isinstance(result, Unavailable)
        return
    assert isinstance(result, Declined)
    assert result.error_class is expected
