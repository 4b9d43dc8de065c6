"""What the two platforms of Pages and accounts are sent, beyond the contract: windows, marks, uploads,
reactions, and what the usage headers say."""

import json
from typing import Any

import pytest

from adapters.guard import Guard
from adapters.instagram.describing import DIALECT as INSTAGRAM
from adapters.messenger.describing import DIALECT as MESSENGER
from adapters.meta.composing import Dialect
from adapters.meta.errors import read_failure
from adapters.meta.graph import usage
from adapters.meta.sending import MessagingSender
from adapters.port import Accepted, Account, Declined, ErrorClass, Tools, Unanswered
from adapters.simulators.http import HttpServer, Request, Response
from engine.domain.outbound import (
    MarkRead,
    MediaRef,
    Option,
    OutboxItem,
    Send,
    SendInteractive,
    SendMedia,
    SendReaction,
    SendText,
)
from engine.errors import InvalidInput
from tests.adapters.contract.files import Files
from tests.adapters.items import outbox_item
from tests.adapters.turns import AtOnce
from tests.simulators.receiver import listening

NOW = 1_764_000_000_000


def item(send: Send, **changes: Any) -> OutboxItem:
    members = {"id": 9, "window_ends_at": NOW + 1, "by_person": True}
    return outbox_item(send, "7100", **{**members, **changes})


class Graph:
    """A platform that takes everything and keeps it; `headers` go with every answer."""

    def __init__(self) -> None:
        self.calls: list[Request] = []
        self.headers: dict[str, str] = {}

    async def answer(self, request: Request) -> Response:
        self.calls.append(request)
        if request.path.endswith("/message_attachments"):
            return Response(200, b'{"attachment_id": "77"}', headers=self.headers)
        return Response(200, b'{"recipient_id": "7100", "message_id": "m_1"}', headers=self.headers)

    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(each.body) for each in self.calls if each.path.endswith("/messages")]


async def sent(
    dialect: Dialect, *items: OutboxItem, settings: dict[str, Any] | None = None, graph: Graph | None = None
) -> tuple[list[Any], Graph]:
    """The results of one sender for these items, and what the platform got."""
    graph = graph or Graph()

    async def with_server(server: HttpServer) -> list[Any]:
        host = server.base_url.removeprefix("http://")
        tools = Tools(
            media=Files({"1/2026/5": b"x" * 10, "1/2026/6": b""}),
            guard=Guard(allowed=[host]),
            link=lambda tenant_id, key: f"https://files.example/{tenant_id}/{key}",
        )
        account = Account(
            tenant_id=1,
            channel_id=2,
            platform=dialect.platform,
            external_id="610",
            credentials={"access_token": "t"},
            settings={"base_url": server.base_url, **(settings or {})},
        )
        async with MessagingSender(dialect, tools, lambda: NOW) as sender:
            return [await sender.send(each, account, AtOnce()) for each in items]

    async with listening(graph.answer, 3_000_000) as server:
        return await with_server(server), graph


LATE = {"window_ends_at": NOW - 1}


@pytest.mark.parametrize(
    ("changes", "settings", "expected"),
    [
        ({}, {"human_agent": True}, {"messaging_type": "RESPONSE"}),
        (LATE, {"human_agent": True}, {"messaging_type": "MESSAGE_TAG", "tag": "HUMAN_AGENT"}),
        (LATE, {}, {"messaging_type": "RESPONSE"}),
        ({**LATE, "by_person": False}, {"human_agent": True}, {"messaging_type": "RESPONSE"}),
        ({"window_ends_at": None}, {"human_agent": True}, {"messaging_type": "RESPONSE"}),
    ],
    ids=["in the window", "after it", "without the permission", "by a rule", "window not known"],
)
async def test_the_tag_is_for_people_after_the_window(
    changes: dict[str, Any], settings: dict[str, Any], expected: dict[str, str]
) -> None:
    """And where the app has the permission; what waited past the end is tagged when it goes."""
    _, graph = await sent(MESSENGER, item(SendText(body="x"), **changes), settings=settings)
    (body,) = graph.bodies()
    assert {name: body[name] for name in ("messaging_type", "tag") if name in body} == expected


async def test_our_id_travels_where_it_is_echoed() -> None:
    """On Messenger; Instagram has no place for it."""
    _, page = await sent(MESSENGER, item(SendText(body="x"), reply_to="m_0"))
    assert page.bodies()[0]["message"] == {"text": "x", "metadata": "mijra:4242"}
    assert page.bodies()[0]["reply_to"] == {"mid": "m_0"}
    _, account = await sent(INSTAGRAM, item(SendText(body="x")))
    assert account.bodies()[0]["message"] == {"text": "x"}


async def test_instagram_through_a_page_is_sent_as_the_page() -> None:
    """The node of the call is the Page's id; its address is Facebook's where no other is set."""
    _, graph = await sent(INSTAGRAM, item(SendText(body="x")), settings={"page_id": "99"})
    assert graph.calls[0].path == "/v25.0/99/messages"
    bare = Account(
        tenant_id=1, channel_id=2, platform="instagram", external_id="1", credentials={}, settings={}
    )
    assert INSTAGRAM.base_url_of(bare) == "https://graph.instagram.com"


async def test_reactions_and_signals_are_actions() -> None:
    """A reaction has an id of its own, since the platform gives none; typing follows seen."""
    results, graph = await sent(
        MESSENGER,
        item(SendReaction(platform_message_id="m_5", emoji="❤️")),
        item(SendReaction(platform_message_id="m_5", emoji=None)),
        item(MarkRead(platform_message_id="m_5", typing=True), message_id=None),
    )
    assert [each.platform_id for each in results[:2]] == ["reaction:9", "reaction:9"]
    love, taken_back, seen, typing = graph.bodies()
    assert (love["sender_action"], love["payload"]) == ("react", {"message_id": "m_5", "reaction": "love"})
    assert (taken_back["sender_action"], taken_back["payload"]) == ("unreact", {"message_id": "m_5"})
    assert (seen["sender_action"], typing["sender_action"]) == ("mark_seen", "typing_on")


async def test_a_file_is_uploaded_once_or_linked() -> None:
    """Messenger gets the bytes and is named the upload again; Instagram fetches it from us."""
    stored = item(SendMedia(media=MediaRef(kind="image", storage_key="1/2026/5", media_type="image/png")))
    _, page = await sent(MESSENGER, stored, stored)
    assert [each.path.rpartition("/")[2] for each in page.calls] == [
        "message_attachments",
        "messages",
        "messages",
    ]
    assert page.bodies()[1]["message"]["attachment"] == {"type": "image", "payload": {"attachment_id": "77"}}
    _, account = await sent(INSTAGRAM, stored)
    assert account.bodies()[0]["message"]["attachment"]["payload"] == {
        "url": "https://files.example/1/1/2026/5"
    }


@pytest.mark.parametrize("key", ["1/2026/6", "gone"])
async def test_a_file_that_cannot_be_sent_is_refused_before_a_call(key: str) -> None:
    """Empty, or no longer stored."""
    (result,), graph = await sent(
        MESSENGER, item(SendMedia(media=MediaRef(kind="document", storage_key=key)))
    )
    assert isinstance(result, Declined)
    assert result.error_class is ErrorClass.BAD_REQUEST
    assert graph.calls == []


async def test_calls_that_are_nearly_used_up_slow_the_account_down() -> None:
    """The headers say so before the platform refuses."""
    for percent, expected in ((12, False), (95, True)):
        graph = Graph()
        graph.headers = {"X-Business-Use-Case-Usage": f'{{"610": [{{"call_count": {percent}}}]}}'}
        (result,), _ = await sent(MESSENGER, item(SendText(body="x")), graph=graph)
        assert isinstance(result, Accepted)
        assert result.slow_down is expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, (0.0, 0.0)),
        ({"x-app-usage": '{"call_count": 28, "total_time": 25, "total_cputime": 31}'}, (31.0, 0.0)),
        (
            {"x-business-use-case-usage": '{"1": [{"estimated_time_to_regain_access": 9}]}'},
            (0.0, 9.0),
        ),
        ({"x-app-usage": "no json"}, (0.0, 0.0)),
        ({"x-app-usage": '[{"call_count": 5}]'}, (0.0, 0.0)),
        ({"x-app-usage": '{"call_count": true, "total_time": -1}'}, (0.0, 0.0)),
    ],
)
def test_usage_headers_are_read_with_care(headers: dict[str, str], expected: tuple[float, float]) -> None:
    """Percent and minutes; what is no number counts as nothing."""
    assert usage(headers) == expected


def test_a_refusal_says_when_there_are_calls_again() -> None:
    """From Retry-After, else from the usage header, in seconds."""
    body = b'{"error": {"message": "slow", "code": 613}}'
    header = {"x-business-use-case-usage": '{"1": [{"estimated_time_to_regain_access": 2}]}'}
    result = read_failure(400, body, header, "Messenger")
    assert isinstance(result, Declined)
    assert (result.error_class, result.retry_after_seconds) == (ErrorClass.RATE_ACCOUNT, 120.0)
    result = read_failure(400, body, {**header, "retry-after": "7"}, "Messenger")
    assert isinstance(result, Declined)
    assert result.retry_after_seconds == 7.0


@pytest.mark.parametrize(
    ("body", "status", "expected"),
    [
        (b'{"error": {"code": 10, "error_subcode": 2018278}}', 403, ErrorClass.WAIT_LONG),
        (b'{"error": {"code": 190, "error_subcode": 463}}', 401, ErrorClass.AUTH),
        (b'{"error": {"code": 200, "error_subcode": 1545041}}', 403, ErrorClass.RECIPIENT),
        (b'{"error": {"code": 987654, "is_transient": true}}', 400, ErrorClass.TRANSIENT),
        (b'{"error": {"code": 987654}}', 400, ErrorClass.BAD_REQUEST),
        (b'{"error": {"code": 987654}}', 500, ErrorClass.TRANSIENT),
        (b"<html>", 503, ErrorClass.TRANSIENT),
        (b"<html>", 429, ErrorClass.RATE_ACCOUNT),
        (b"", 401, ErrorClass.AUTH),
        (b"", 404, ErrorClass.ACCOUNT),
    ],
)
def test_code_and_subcode_decide(body: bytes, status: int, expected: ErrorClass) -> None:
    """The status only in their absence."""
    result = read_failure(status, body, {}, "Messenger")
    assert isinstance(result, Declined)
    assert result.error_class is expected


def test_a_page_of_a_proxy_says_nothing() -> None:
    """A 5xx without an error: whether the message went through, nobody knows."""
    assert isinstance(read_failure(502, b"<html>", {}, "Messenger"), Unanswered)


def options(number: int, **more: Any) -> tuple[Option, ...]:
    return tuple(Option(id=f"o{index}", title=f"Option {index}", **more) for index in range(number))


@pytest.mark.parametrize(
    ("dialect", "send", "field"),
    [
        (MESSENGER, SendText(body="x" * 2_000), "body"),
        (INSTAGRAM, SendText(body="م" * 501), "body"),
        (
            MESSENGER,
            SendMedia(media=MediaRef(kind="image", link="https://x.example/a", caption="c")),
            "caption",
        ),
        (MESSENGER, SendMedia(media=MediaRef(kind="sticker", link="https://x.example/a")), "kind"),
        (MESSENGER, SendMedia(media=MediaRef(kind="image")), "attachment"),
        (MESSENGER, SendMedia(media=MediaRef(kind="image", link="ftp://x")), "link"),
        (MESSENGER, SendInteractive(kind="buttons", body="b", options=options(4)), "options"),
        (MESSENGER, SendInteractive(kind="buttons", body="b" * 641, options=options(1)), "body"),
        (MESSENGER, SendInteractive(kind="quick_replies", body="b", options=options(14)), "options"),
        (MESSENGER, SendInteractive(kind="list", body="b", options=options(10)), "options"),
        (
            MESSENGER,
            SendInteractive(kind="list", body="b", header="h", footer="f", options=options(1)),
            "footer",
        ),
        (
            MESSENGER,
            SendInteractive(kind="buttons", body="b", options=options(1, description="d")),
            "options.0.description",
        ),
        (MESSENGER, SendReaction(platform_message_id="m", emoji="🦄"), "emoji"),
    ],
)
def test_what_the_platform_would_refuse_is_refused_here(dialect: Dialect, send: Send, field: str) -> None:
    """With a sentence for the field."""
    tools = Tools(media=Files({}), guard=Guard(), link=lambda tenant_id, key: key)
    with pytest.raises(InvalidInput) as caught:
        MessagingSender(dialect, tools).fit(send)
    assert field in caught.value.fields


def test_the_longest_that_fits_fits() -> None:
    """Text is counted in characters here and in bytes there."""
    tools = Tools(media=Files({}), guard=Guard(), link=lambda tenant_id, key: key)
    MessagingSender(MESSENGER, tools).fit(SendText(body="م" * 1_999))
    MessagingSender(INSTAGRAM, tools).fit(SendText(body="م" * 500))
