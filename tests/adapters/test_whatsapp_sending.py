"""Sends: their limits, their Graph requests, and the ends of a call over real HTTP against the played
platform."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio

from adapters.guard import Guard
from adapters.port import Accepted, Account, Declined, ErrorClass, FoundMedia, Unanswered
from adapters.simulators import Fault, Settings, Simulator, demo_account
from adapters.simulators.http import Cut, HttpServer, Request, Response
from adapters.simulators.ledger import Fact
from adapters.simulators.media import png
from adapters.whatsapp import errors
from adapters.whatsapp.composing import build, check
from adapters.whatsapp.media import WhatsAppMedia
from adapters.whatsapp.sending import WhatsAppSender
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
from tests.adapters.items import outbox_item
from tests.adapters.turns import AtOnce
from tests.patience import PATIENCE_SECONDS

ACCOUNT = demo_account()


CUSTOMER = "+15550100001"


def item(send: Send, *, recipient: str = CUSTOMER, **changes: Any) -> OutboxItem:
    return outbox_item(send, recipient, **changes)


def options(count: int, **more: Any) -> tuple[Option, ...]:
    return tuple(Option(id=f"o{number}", title=f"Option {number}", **more) for number in range(count))


GOOD: list[Send] = [
    SendText(body="x" * 4096),
    SendText(body="https://example.com", preview_url=True),
    SendMedia(media=MediaRef(kind="image", link="https://example.com/a.jpg", caption="c" * 1024)),
    SendMedia(media=MediaRef(kind="voice", link="https://example.com/a.ogg")),
    SendMedia(media=MediaRef(kind="document", link="https://example.com/a.pdf", filename="a.pdf")),
    SendTemplate(name="hello_world", language="en_US"),
    SendTemplate(name="order_confirmation", language="en_US", variables={"body": ["Huda", "A-1"]}),
    SendInteractive(kind="buttons", body="b" * 1024, options=options(3), header="h" * 60, footer="f" * 60),
    SendInteractive(kind="list", body="b" * 4096, options=options(10), button="Choose"),
    SendInteractive(
        kind="list",
        body="b",
        options=(*options(2, section="One"), Option(id="z", title="Z", section="Two")),
        button="Go",
    ),
    SendLocation(latitude=21.5, longitude=39.2, name="Shop", address="Jeddah"),
    SendReaction(platform_message_id="wamid.1", emoji="👍"),
    SendReaction(platform_message_id="wamid.1", emoji=None),
    MarkRead(platform_message_id="wamid.1", typing=True),
]

BAD: list[tuple[Send, str]] = [
    (SendText(body=""), "body"),
    (SendText(body=" \n"), "body"),
    (SendText(body="x" * 4097), "body"),
    (SendMedia(media=MediaRef(kind="image")), "attachment"),
    (SendMedia(media=MediaRef(kind="image", link="https://x.example", storage_key="k")), "attachment"),
    (SendMedia(media=MediaRef(kind="image", link="ftp://x.example")), "link"),
    (SendMedia(media=MediaRef(kind="image", storage_key="k", caption="c" * 1025)), "caption"),
    (SendMedia(media=MediaRef(kind="audio", storage_key="k", caption="c")), "caption"),
    (SendMedia(media=MediaRef(kind="hologram", storage_key="k")), "kind"),
    (SendTemplate(name="", language="ar"), "name"),
    (SendTemplate(name="x", language=""), "language"),
    (SendTemplate(name="x", language="ar", variables={"foot": ["a"]}), "variables.foot"),
    (SendTemplate(name="x", language="ar", variables={"button:x": ["a"]}), "variables.button:x"),
    (SendTemplate(name="x", language="ar", variables={"body": [""]}), "variables.body"),
    (SendTemplate(name="x", language="ar", variables={"body": [{"text": "a"}]}), "variables.body"),
    (SendInteractive(kind="buttons", body="b", options=options(4)), "options"),
    (SendInteractive(kind="buttons", body="b", options=()), "options"),
    (SendInteractive(kind="buttons", body="b" * 1025, options=options(1)), "body"),
    (SendInteractive(kind="buttons", body="b", options=options(1), header="h" * 61), "header"),
    (SendInteractive(kind="buttons", body="b", options=options(1), footer="f" * 61), "footer"),
    (SendInteractive(kind="buttons", body="b", options=(Option(id="a", title="t" * 21),)), "options.0.title"),
    (SendInteractive(kind="buttons", body="b", options=(Option(id="a" * 257, title="t"),)), "options.0.id"),
    (
        SendInteractive(
            kind="buttons", body="b", options=(Option(id="a", title="t"), Option(id="b", title="t"))
        ),
        "options",
    ),
    (
        SendInteractive(
            kind="buttons", body="b", options=(Option(id="a", title="t"), Option(id="a", title="u"))
        ),
        "options",
    ),
    (SendInteractive(kind="list", body="b", options=options(11), button="Go"), "options"),
    (SendInteractive(kind="list", body="b", options=options(1)), "button"),
    (SendInteractive(kind="list", body="b", options=options(1), button="g" * 21), "button"),
    (SendInteractive(kind="list", body="b" * 4097, options=options(1), button="Go"), "body"),
    (
        SendInteractive(kind="list", body="b", options=(Option(id="a", title="t" * 25),), button="Go"),
        "options.0.title",
    ),
    (
        SendInteractive(kind="list", body="b", options=(Option(id="a" * 201, title="t"),), button="Go"),
        "options.0.id",
    ),
    (
        SendInteractive(
            kind="list", body="b", options=(Option(id="a", title="t", description="d" * 73),), button="Go"
        ),
        "options.0.description",
    ),
    (
        SendInteractive(kind="buttons", body="b", options=(Option(id="a", title="t", description="d"),)),
        "options.0.description",
    ),
    (
        SendInteractive(
            kind="list", body="b", options=(Option(id="a", title="t", section="s" * 25),), button="Go"
        ),
        "options.0.section",
    ),
    (
        SendInteractive(
            kind="list",
            body="b",
            options=(Option(id="a", title="t", section="s"), Option(id="b", title="u")),
            button="Go",
        ),
        "options",
    ),
    (SendInteractive(kind="carousel", body="b", options=options(1)), "kind"),
    (SendLocation(latitude=90.1, longitude=0), "latitude"),
    (SendLocation(latitude=0, longitude=float("nan")), "longitude"),
    (SendReaction(platform_message_id="w" * 513, emoji="x"), "message_id"),
    (SendReaction(platform_message_id="wamid.1", emoji="x" * 33), "emoji"),
    (MarkRead(platform_message_id=""), "message_id"),
]


@pytest.mark.parametrize("send", GOOD, ids=lambda send: type(send).__name__)
def test_what_the_platform_takes_passes_the_check(send: Send) -> None:
    """The limits of section 5.1 at their edge."""
    check(send)


@pytest.mark.parametrize(("send", "field"), BAD)
def test_what_the_platform_refuses_is_refused_with_its_field(send: Send, field: str) -> None:
    """One over each limit."""
    with pytest.raises(InvalidInput) as caught:
        check(send)
    assert field in caught.value.fields


def test_a_request_names_recipient_quote_and_our_id() -> None:
    """The number with '+', the quoted message, our message id as callback data."""
    body = build(item(SendText(body="hi"), recipient="15550100001", reply_to="wamid.Q"))
    assert body == {
        "messaging_product": "whatsapp",
        "recipient_type": "individual",
        "to": "+15550100001",
        "context": {"message_id": "wamid.Q"},
        "type": "text",
        "text": {"body": "hi"},
        "biz_opaque_callback_data": "4242",
    }


def test_a_user_id_goes_as_recipient() -> None:
    """A customer without a visible number."""
    body = build(item(SendText(body="hi"), recipient="SA.4401"))
    assert body["recipient"] == "SA.4401"
    assert "to" not in body


def test_a_reaction_quotes_nothing_and_an_empty_one_removes() -> None:
    """The reaction names its message itself."""
    body = build(item(SendReaction(platform_message_id="wamid.1", emoji=None), reply_to="wamid.Q"))
    assert body["reaction"] == {"message_id": "wamid.1", "emoji": ""}
    assert "context" not in body


def test_template_components_have_the_platforms_form() -> None:
    """Text for header and body; a button's text is a URL's end, its payload a quick reply."""
    send = SendTemplate(
        name="t",
        language="ar",
        variables={
            "header": [{"type": "image", "image": {"link": "https://x.example/a.png"}}],
            "body": ["Huda"],
            "button:0": ["path"],
            "button:1": [{"type": "payload", "payload": "p"}],
        },
    )
    assert build(item(send))["template"] == {
        "name": "t",
        "language": {"code": "ar"},
        "components": [
            {
                "type": "header",
                "parameters": [{"type": "image", "image": {"link": "https://x.example/a.png"}}],
            },
            {"type": "body", "parameters": [{"type": "text", "text": "Huda"}]},
            {
                "type": "button",
                "sub_type": "url",
                "index": "0",
                "parameters": [{"type": "text", "text": "path"}],
            },
            {
                "type": "button",
                "sub_type": "quick_reply",
                "index": "1",
                "parameters": [{"type": "payload", "payload": "p"}],
            },
        ],
    }


# ------------------------------------------------------------------ what answers mean


@pytest.mark.parametrize(
    ("code", "error_class"),
    [
        *((code, ErrorClass.AUTH) for code in (0, 3, 10, 190, 200, 299, 131005)),
        *((code, ErrorClass.RATE_ACCOUNT) for code in (4, 80007, 130429, 131064, 133016)),
        (131056, ErrorClass.RATE_PAIR),
        (131048, ErrorClass.SPAM_PAUSE),
        *((code, ErrorClass.TRANSIENT) for code in (2, 131000, 131016, 131057, 135000)),
        *((code, ErrorClass.RECIPIENT) for code in (33, 131021, 131026, 131030, 130472, 131050, 137000)),
        *((code, ErrorClass.WAIT_LONG) for code in (131049, 131047)),
        *(
            (code, ErrorClass.BAD_REQUEST)
            for code in (100, 131008, 131009, 131051, 131052, 131053, 132000, 132001)
        ),
        *(
            (code, ErrorClass.BAD_REQUEST)
            for code in (132005, 132007, 132008, 132012, 132015, 132016, 132068, 132069)
        ),
        *(
            (code, ErrorClass.ACCOUNT)
            for code in (368, 130497, 131031, 131037, 131042, 131044, 131045, 131062, 131063)
        ),
        *((code, ErrorClass.ACCOUNT) for code in (133000, 133010)),
        (999999, ErrorClass.BAD_REQUEST),
    ],
)
def test_every_code_of_the_sheet_has_its_class(code: int, error_class: ErrorClass) -> None:
    """Table 6.3, whatever the HTTP status says."""
    for status in (400, 429):
        body = msgspec.json.encode({"error": {"code": code, "message": "m", "error_data": {"details": "d"}}})
        result = errors.read_failure(status, body, {})
        assert isinstance(result, Declined)
        assert (result.error_class, result.platform_code) == (error_class, str(code))
        assert result.message.endswith((".", ")"))


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (429, b"slow down", ErrorClass.RATE_ACCOUNT),
        (401, b"", ErrorClass.AUTH),
        (403, b"{}", ErrorClass.AUTH),
        (404, b"<html>", ErrorClass.ACCOUNT),
        (302, b"", ErrorClass.ACCOUNT),
        (400, b"[]", ErrorClass.BAD_REQUEST),
        (503, b"busy", ErrorClass.TRANSIENT),
        (408, b"", ErrorClass.TRANSIENT),
        (500, b"oops", None),
        (502, b"<html>bad gateway", None),
        (504, b'{"error": "x"}', None),
        (500, b'{"error":{"code":131000}}', ErrorClass.TRANSIENT),
        (500, b'{"error":{"code":1,"message":"An unknown error occurred"}}', ErrorClass.TRANSIENT),
        (400, b'{"error":{"code":1,"message":"Invalid request"}}', ErrorClass.BAD_REQUEST),
        (400, b'{"error":{"code":190,"error_data":"odd","message":7}}', ErrorClass.AUTH),
        (503, b'{"error":{"code":777}}', ErrorClass.TRANSIENT),
    ],
)
def test_without_a_code_the_status_decides(status: int, body: bytes, expected: ErrorClass | None) -> None:
    """None: a 5xx that is not the platform's own says nothing, so the outcome is unknown."""
    result = errors.read_failure(status, body, {"retry-after": "7"})
    if expected is None:
        assert isinstance(result, Unanswered)
        return
    assert isinstance(result, Declined)
    assert (result.error_class, result.retry_after_seconds) == (expected, 7.0)


# ------------------------------------------------------------------ over real HTTP


def account(base_url: str, token: str = ACCOUNT.access_token) -> Account:
    return Account(
        tenant_id=7,
        channel_id=70,
        platform="whatsapp",
        external_id=ACCOUNT.phone_number_id,
        credentials={"access_token": token},
        settings={"base_url": base_url},
    )


def guard_for(base_url: str) -> Guard:
    return Guard(allowed=[base_url.removeprefix("http://")])


@asynccontextmanager
async def platform(files: Files | None = None) -> AsyncIterator[tuple[Simulator, WhatsAppSender, Account]]:
    settings = Settings(window_enforced=False)
    async with Simulator([ACCOUNT], settings=settings).running() as simulator:
        guard = guard_for(simulator.base_url)
        async with WhatsAppSender(files or Files({}), guard, call_seconds_max=0.5) as sender:
            yield simulator, sender, account(simulator.base_url)


@pytest.mark.real_time
async def test_every_kind_of_send_is_accepted_by_the_platform() -> None:
    """The played platform checks each request as strictly as the sheet says."""
    async with platform() as (simulator, sender, where):
        simulator.ledger.record_fact(
            Fact(
                kind="message",
                id="wamid.1",
                status="",
                phone_number_id=ACCOUNT.phone_number_id,
                wa_id=CUSTOMER[1:],
                type="text",
                created_at=0,
            )
        )
        for send in GOOD:
            result = await sender.send(item(send), where, AtOnce())
            assert isinstance(result, Accepted), (send, result)
            assert bool(result.platform_id) != isinstance(send, MarkRead)
    assert len(simulator.ledger.sends) == len(GOOD) - 1
    assert {one.callback_data for one in simulator.ledger.sends} == {"4242"}
    assert [mark.typing for mark in simulator.ledger.marks] == [True]


@pytest.mark.real_time
async def test_a_stored_file_is_uploaded_once() -> None:
    """Two sends, one upload; a refusal of the media makes the next attempt upload afresh."""
    files = Files({"picture": png(1, 2, 3)})
    send = SendMedia(
        media=MediaRef(kind="image", storage_key="picture", media_type="image/png", caption="hi")
    )
    async with platform(files) as (simulator, sender, where):
        for _ in range(2):
            assert isinstance(await sender.send(item(send), where, AtOnce()), Accepted)
        assert files.reads == 1
        simulator.fault(Fault(kind="error", code=131053, times=1))
        assert isinstance(await sender.send(item(send), where, AtOnce()), Declined)
        assert isinstance(await sender.send(item(send), where, AtOnce()), Accepted)
    assert files.reads == 2
    bodies = [simulator.ledger.payload(one.id) for one in simulator.ledger.sends]
    assert all(body is not None and body["image"]["caption"] == "hi" for body in bodies)


@pytest.mark.real_time
async def test_the_turn_comes_last_before_the_message_is_written() -> None:
    """After the upload and the connection, once for a message; until it returns the platform has nothing."""
    files = Files({"picture": png(1, 2, 3)})
    send = SendMedia(media=MediaRef(kind="image", storage_key="picture", media_type="image/png"))
    async with platform(files) as (simulator, sender, where):
        turn = AtOnce(0.05, lambda: (files.reads, len(simulator.ledger.sends)))
        for _ in range(2):
            assert isinstance(await sender.send(item(send), where, turn), Accepted)
    assert turn.came == [(1, 0), (1, 1)]
    assert turn.writings == 2
    async with WhatsAppSender(files, guard_for("http://127.0.0.1:9")) as sender:
        result = await sender.send(item(SendText(body="hi")), account("http://127.0.0.1:9"), turn)
    assert isinstance(result, Declined)
    assert len(turn.came) == turn.writings == 2, "a call that cannot be made takes no turn"


@pytest.mark.real_time
@pytest.mark.parametrize(
    ("ref", "error_class"),
    [
        (MediaRef(kind="image", storage_key="missing"), ErrorClass.BAD_REQUEST),
        (MediaRef(kind="sticker", storage_key="large"), ErrorClass.BAD_REQUEST),
        (MediaRef(kind="image", storage_key="empty"), ErrorClass.BAD_REQUEST),
        (
            MediaRef(kind="document", storage_key="odd", media_type="application/x-odd"),
            ErrorClass.BAD_REQUEST,
        ),
    ],
)
async def test_a_file_that_cannot_be_sent_is_declined(ref: MediaRef, error_class: ErrorClass) -> None:
    """Missing, too large, empty, or of a type that the platform refuses."""
    files = Files({"large": bytes(500_001), "empty": b"", "odd": b"x"})
    async with platform(files) as (simulator, sender, where):
        result = await sender.send(item(SendMedia(media=ref)), where, AtOnce())
    assert isinstance(result, Declined)
    assert result.error_class is error_class
    assert simulator.ledger.sends == []


FAULTS: list[tuple[Fault, type, ErrorClass | None, int]] = [
    (Fault(kind="error", code=190), Declined, ErrorClass.AUTH, 0),
    (Fault(kind="error", code=130429, retry_after_seconds=3), Declined, ErrorClass.RATE_ACCOUNT, 0),
    (Fault(kind="error", code=131000), Declined, ErrorClass.TRANSIENT, 0),
    (Fault(kind="garbage"), Unanswered, None, 0),
    (Fault(kind="garbage", accepts=True), Unanswered, None, 1),
    (Fault(kind="garbage", status=500), Unanswered, None, 0),
    (Fault(kind="hang", seconds=3), Unanswered, None, 0),
    (Fault(kind="hang", seconds=3, accepts=True), Unanswered, None, 1),
    (Fault(kind="reset"), Unanswered, None, 0),
    (Fault(kind="reset", accepts=True), Unanswered, None, 1),
    (Fault(kind="drip", bytes_per_second=20), Unanswered, None, 1),
]


@pytest.mark.real_time
@pytest.mark.parametrize(("fault", "kind", "error_class", "sends"), FAULTS)
async def test_each_way_to_misbehave_ends_in_one_result(
    fault: Fault, kind: type, error_class: ErrorClass | None, sends: int
) -> None:
    """An error is a decline; garbage, silence, a cut and an endless answer leave the outcome unknown, whether
    the platform took the message or not."""
    async with platform() as (simulator, sender, where):
        simulator.fault(fault)
        with trio.fail_after(PATIENCE_SECONDS):
            result = await sender.send(item(SendText(body="hi")), where, AtOnce())
        accepted = len(simulator.ledger.sends)
    assert isinstance(result, kind)
    assert accepted == sends
    if isinstance(result, Declined):
        assert result.error_class is error_class
        assert result.retry_after_seconds == fault.retry_after_seconds


@pytest.mark.real_time
async def test_a_wrong_token_is_an_auth_error_and_a_limit_a_rate_error() -> None:
    """As the platform says them itself."""
    async with platform() as (simulator, sender, where):
        wrong = await sender.send(item(SendText(body="hi")), account(simulator.base_url, "WRONG"), AtOnce())
        simulator.throttle(1, ACCOUNT.phone_number_id)
        results = [await sender.send(item(SendText(body="hi")), where, AtOnce()) for _ in range(3)]
    assert isinstance(wrong, Declined)
    assert wrong.error_class is ErrorClass.AUTH
    assert isinstance(results[0], Accepted)
    assert isinstance(results[-1], Declined)
    assert results[-1].error_class is ErrorClass.RATE_ACCOUNT


@pytest.mark.real_time
async def test_no_connection_means_surely_not_sent() -> None:
    """A platform that is down refuses connections: declined, not unknown."""
    async with platform() as (simulator, sender, where):
        simulator.go_down(60)
        await trio.sleep(0.05)
        result = await sender.send(item(SendText(body="hi")), where, AtOnce())
    assert isinstance(result, Declined)
    assert (result.error_class, result.platform_code) == (ErrorClass.UNREACHABLE, "unreachable")


@pytest.mark.real_time
@pytest.mark.parametrize(
    ("base_url", "token"),
    [
        ("http://127.0.0.1:9", "t"),
        ("http://169.254.169.254", "t"),
        ("ftp://graph.example", "t"),
        ("not a url", "t"),
    ],
)
async def test_an_account_with_an_odd_address_calls_nobody(base_url: str, token: str) -> None:
    """A tenant's base URL goes through the guard; a token that is no header value is refused before a
    call."""
    async with WhatsAppSender(Files({}), Guard(), call_seconds_max=1) as sender:
        result = await sender.send(item(SendText(body="hi")), account(base_url, token), AtOnce())
    assert isinstance(result, Declined)
    assert result.error_class is ErrorClass.ACCOUNT


@pytest.mark.real_time
@pytest.mark.parametrize("token", ["", "line\nbreak", "tökèn", "two words"])
async def test_a_token_that_cannot_be_sent_is_an_auth_error(token: str) -> None:
    """The account stops and asks for attention, as for one that the platform refuses."""
    async with WhatsAppSender(Files({}), Guard()) as sender, WhatsAppMedia(Guard()) as media:
        where = account("https://graph.example", token)
        for result in (
            await sender.send(item(SendText(body="hi")), where, AtOnce()),
            await media.look_up("1", None, where),
        ):
            assert isinstance(result, Declined)
            assert result.error_class is ErrorClass.AUTH


@pytest.mark.real_time
async def test_a_send_over_the_limits_is_not_called() -> None:
    """What the check refuses never leaves, also when somebody forgot to check."""
    async with WhatsAppSender(Files({}), Guard()) as sender:
        result = await sender.send(item(SendText(body="")), account("https://example.com"), AtOnce())
    assert isinstance(result, Declined)
    assert result.error_class is ErrorClass.BAD_REQUEST


# httpcore leaves its own generators to the collector when a body is given up in the middle; trio closes them.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.real_time
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b'{"messages":[]}',
        b'{"messages":[{"id":""}]}',
        b'{"messages":[{"id":7}]}',
        b"[" * 9_000,
        b"x" * 70_000,
    ],
)
async def test_a_success_without_an_id_is_an_unknown_outcome(body: bytes) -> None:
    """A 200 that is no answer of the platform may hide an accepted message."""

    async def answer(request: Request) -> Response:
        if request.method == "GET":
            raise Cut(reset=False)
        return Response(200, body)

    server = HttpServer(answer, body_limit=lambda method, path: 10_000)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        async with WhatsAppSender(Files({}), guard_for(server.base_url)) as sender:
            result = await sender.send(item(SendText(body="hi")), account(server.base_url), AtOnce())
        nursery.cancel_scope.cancel()
    assert isinstance(result, Unanswered)


@pytest.mark.real_time
async def test_a_file_is_looked_up_by_its_id() -> None:
    """Address, type, size and digest in hex; the token goes along; an unknown id is gone."""
    async with platform() as (simulator, _, where):
        stored = simulator.media.put(ACCOUNT.phone_number_id, "image/png", png(1, 1, 1), trio.current_time())
        async with WhatsAppMedia(guard_for(simulator.base_url)) as media:
            found = await media.look_up(stored.id, None, where)
            gone = await media.look_up("1", None, where)
            direct = await media.look_up(None, "https://cdn.example.com/x", where)
            nothing = await media.look_up(None, None, where)
    assert isinstance(found, FoundMedia)
    assert found.url.startswith(simulator.base_url)
    assert (found.media_type, found.size) == ("image/png", len(stored.content))
    assert found.headers == {"Authorization": f"Bearer {ACCOUNT.access_token}"}
    assert found.sha256 in (None, stored.sha256.hex())
    assert isinstance(gone, Declined)
    assert isinstance(direct, FoundMedia)
    assert isinstance(nothing, Declined)


def test_an_account_does_not_show_its_credentials() -> None:
    """Neither in logs nor in tracebacks."""
    assert "secret" not in repr(account("https://x.example", "secret")) + str(
        [account("https://x.example", "secret")]
    )
