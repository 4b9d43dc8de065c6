"""The Graph API as a business calls it, over real HTTP."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import trio
from msgspec.structs import replace

from adapters.simulators import Fault, Settings, Simulator
from adapters.simulators.media import png
from tests.patience import PATIENCE_SECONDS
from tests.simulators.receiver import ACCOUNT, OTHER, QUICK, Receiver, playing

Json = dict[str, Any]
CUSTOMER = "15550100001"


class Business:
    """A client with the account's token."""

    def __init__(self, platform: Simulator, client: httpx.AsyncClient) -> None:
        self.platform = platform
        self.client = client

    async def post(self, edge: str, body: Json, **more: Any) -> httpx.Response:
        return await self.client.post(f"/v25.0/{ACCOUNT.phone_number_id}/{edge}", json=body, **more)

    async def text(self, body: str = "hi", to: str = f"+{CUSTOMER}", **more: Any) -> httpx.Response:
        message = {"messaging_product": "whatsapp", "to": to, "type": "text", "text": {"body": body}}
        return await self.post("messages", message | more)

    async def upload(self, content: bytes, mime_type: str = "image/png") -> httpx.Response:
        return await self.client.post(
            f"/v25.0/{ACCOUNT.phone_number_id}/media",
            data={"messaging_product": "whatsapp", "type": mime_type},
            files={"file": ("f", content, mime_type)},
        )


@asynccontextmanager
async def trading(settings: Settings = QUICK) -> AsyncIterator[tuple[Business, Receiver]]:
    """A connected platform whose customer has just written, and a business with a client."""
    async with playing(settings, (ACCOUNT, OTHER)) as (platform, receiver):
        headers = {"Authorization": f"Bearer {ACCOUNT.access_token}"}
        async with httpx.AsyncClient(
            base_url=platform.base_url, headers=headers, trust_env=False, timeout=PATIENCE_SECONDS
        ) as client:
            platform.say(CUSTOMER, "hello")
            # Deliveries are concurrent: what tests tell later must not arrive before this one.
            with trio.fail_after(PATIENCE_SECONDS):
                await platform.wait_quiet()
            yield Business(platform, client), receiver


async def _quiet(business: Business) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        await business.platform.wait_quiet()


def _code(response: httpx.Response) -> int:
    code = response.json()["error"]["code"]
    assert isinstance(code, int)
    return code


async def test_an_accepted_send_is_answered_recorded_and_followed_by_statuses() -> None:
    """The answer of section 5.2; then sent, delivered, read, with our callback data in each."""
    settings = replace(QUICK, read_probability=1.0, webhook_connections_max=1)
    async with trading(settings) as (business, receiver):
        answer = await business.text(biz_opaque_callback_data="message-1")
        assert answer.status_code == 200
        body = answer.json()
        assert body["contacts"] == [{"input": f"+{CUSTOMER}", "wa_id": CUSTOMER}]
        message_id = body["messages"][0]["id"]
        await _quiet(business)
        told = receiver.statuses(message_id)
        assert [one["status"] for one in told] == ["sent", "delivered", "read"]
        assert {one["biz_opaque_callback_data"] for one in told} == {"message-1"}
        assert {one["recipient_id"] for one in told} == {CUSTOMER}
        send = business.platform.ledger.send(message_id)
        assert send is not None
        assert (send.recipient, send.type, send.callback_data) == (CUSTOMER, "text", "message-1")
        assert business.platform.ledger.payload(message_id)["text"]["body"] == "hi"  # type: ignore[index]


async def test_disorder_shuffles_statuses_or_drops_delivered_and_nothing_else() -> None:
    """Over many sends every order is a rearrangement of a plausible set, and some are out of order."""
    settings = replace(
        QUICK, status_disorder_probability=1.0, webhook_connections_max=1, pair_burst_max=1_000
    )
    async with trading(settings) as (business, receiver):
        ids = [(await business.text()).json()["messages"][0]["id"] for _ in range(40)]
        await _quiet(business)
        orders = [tuple(one["status"] for one in receiver.statuses(message_id)) for message_id in ids]
        plausible = ({"sent", "delivered"}, {"sent", "read"}, {"sent", "delivered", "read"})
        assert all(set(order) in plausible and len(set(order)) == len(order) for order in orders)
        assert ("sent", "read") in orders
        assert any(order[0] != "sent" for order in orders)


async def test_two_posts_are_two_messages_and_the_ledger_shows_the_double() -> None:
    """The platform offers no idempotency."""
    async with trading() as (business, _):
        first, second = [
            (await business.text(biz_opaque_callback_data="once")).json()["messages"][0]["id"]
            for _ in range(2)
        ]
        await business.text(biz_opaque_callback_data="other")
        assert business.platform.ledger.duplicates() == {"once": [first, second]}
        assert business.platform.statistics()["sends"]["duplicated"] == 1


@pytest.mark.parametrize("headers", [{"Authorization": ""}, {"Authorization": "Bearer nobody"}])
async def test_a_bad_token_is_refused_with_190(headers: dict[str, str]) -> None:
    """401 and the OAuth error body, for every route."""
    async with trading() as (business, _):
        business.client.headers.update(headers)
        for answer in (await business.text(), await business.client.get(f"/v25.0/{ACCOUNT.phone_number_id}")):
            assert (answer.status_code, _code(answer)) == (401, 190)
            assert answer.json()["error"]["type"] == "OAuthException"


async def test_another_accounts_number_is_not_there() -> None:
    """A valid token of one business does not reach the number of another."""
    async with trading() as (business, _):
        path = f"/v25.0/{OTHER.phone_number_id}"
        message = {"messaging_product": "whatsapp", "to": CUSTOMER, "text": {"body": "hi"}}
        for answer in (
            await business.client.post(f"{path}/messages", json=message),
            await business.client.get(path),
        ):
            assert (answer.status_code, _code(answer)) == (400, 100)
        assert business.platform.ledger.sends == []


async def test_what_is_not_json_or_not_a_path_is_refused() -> None:
    """Errors of the frame."""
    async with trading() as (business, _):
        path = f"/v25.0/{ACCOUNT.phone_number_id}/messages"
        assert _code(await business.client.post(path, content=b"{")) == 100
        assert _code(await business.client.post(path, content=b"[]")) == 100
        assert (await business.client.get("/nothing/here/at/all")).status_code == 404
        assert (await business.client.get("/v25.0/123")).status_code == 400


async def test_the_numbers_rate_is_limited_and_nothing_refused_is_accepted() -> None:
    """5 per second: the sixth at once gets 130429; a second later there is room."""
    async with trading(replace(QUICK, sends_per_second_max=5)) as (business, _):
        answers = [await business.text() for _ in range(8)]
        assert [one.status_code for one in answers] == [200] * 5 + [429] * 3
        assert _code(answers[-1]) == 130429
        assert len(business.platform.ledger.sends) == 5
        await trio.sleep(1.05)
        assert (await business.text()).status_code == 200
        assert business.platform.api.peaks()[ACCOUNT.phone_number_id] == 5
        assert business.platform.ledger.refusals == {130429: 3}


async def test_a_throttled_number_gets_less_for_a_while() -> None:
    """Zero per second for a moment, then the usual rate."""
    async with trading() as (business, _):
        business.platform.throttle(0, ACCOUNT.phone_number_id, 1)
        assert _code(await business.text()) == 130429
        await trio.sleep(1.05)
        assert (await business.text()).status_code == 200


async def test_one_user_gets_a_burst_and_then_131056() -> None:
    """Three at once to one user, the fourth is refused, another user is free."""
    async with trading(replace(QUICK, pair_burst_max=3)) as (business, _):
        answers = [await business.text() for _ in range(4)]
        assert [one.status_code for one in answers] == [200, 200, 200, 400]
        assert _code(answers[-1]) == 131056
        assert (await business.text(to="15550100002")).status_code == 200


async def test_outside_the_window_only_templates_arrive() -> None:
    """Accepted, then failed with 131047; a template is delivered; the customer's next word opens it."""
    async with trading() as (business, receiver):
        stranger = "15550100077"
        late = (await business.text(to=stranger)).json()["messages"][0]["id"]
        template = {"name": "hello_world", "language": {"code": "en_US"}}
        message = {"messaging_product": "whatsapp", "to": stranger, "type": "template", "template": template}
        allowed = (await business.post("messages", message)).json()["messages"][0]["id"]
        business.platform.say(stranger, "now I write")
        answered = (await business.text(to=stranger)).json()["messages"][0]["id"]
        await _quiet(business)
        (failed,) = receiver.statuses(late)
        assert (failed["status"], failed["errors"][0]["code"]) == ("failed", 131047)
        assert "delivered" in {one["status"] for one in receiver.statuses(allowed)}
        assert "delivered" in {one["status"] for one in receiver.statuses(answered)}
        business.platform.set_window(stranger, opened=False)
        closed = (await business.text(to=stranger)).json()["messages"][0]["id"]
        await _quiet(business)
        assert receiver.statuses(closed)[0]["errors"][0]["code"] == 131047


async def test_a_scripted_recipient_fails_with_its_code() -> None:
    """Until it is allowed again."""
    async with trading() as (business, receiver):
        business.platform.fail_recipient(CUSTOMER, 131026)
        message_id = (await business.text()).json()["messages"][0]["id"]
        await _quiet(business)
        (failed,) = receiver.statuses(message_id)
        assert failed["errors"][0]["code"] == 131026
        business.platform.fail_recipient(CUSTOMER, None)
        message_id = (await business.text()).json()["messages"][0]["id"]
        await _quiet(business)
        assert "failed" not in {one["status"] for one in receiver.statuses(message_id)}


async def test_read_marks_are_recorded_for_known_messages_only() -> None:
    """With typing; an id that was never told is 131009."""
    async with trading() as (business, _):
        known = business.platform.say(CUSTOMER, "read me")
        mark = {"messaging_product": "whatsapp", "status": "read", "message_id": known}
        answer = await business.post("messages", mark | {"typing_indicator": {"type": "text"}})
        assert answer.json() == {"success": True}
        assert _code(await business.post("messages", mark | {"message_id": "wamid.unknown"})) == 131009
        (recorded,) = business.platform.ledger.marks
        assert (recorded.message_id, recorded.typing) == (known, True)


async def test_customers_media_can_be_looked_up_and_downloaded() -> None:
    """The address needs the token, ends after its time, and the bytes have the digest of the webhook."""
    async with trading(replace(QUICK, media_url_seconds=1.5)) as (business, receiver):
        business.platform.send(business.platform.cast.adopt(CUSTOMER), "image")
        await _quiet(business)
        image = receiver.messages()[-1]["image"]
        found = (await business.client.get(f"/v25.0/{image['id']}")).json()
        assert found["mime_type"] == "image/png"
        content = await business.client.get(found["url"])
        assert content.content.startswith(b"\x89PNG")
        assert content.headers["content-type"] == "image/png"
        assert hashlib.sha256(content.content).hexdigest() == found["sha256"]
        assert len(content.content) == found["file_size"]
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_SECONDS) as stranger:
            assert (await stranger.get(found["url"])).status_code == 401
        await trio.sleep(1.55)
        assert (await business.client.get(found["url"])).status_code == 404
        again = (await business.client.get(f"/v25.0/{image['id']}")).json()["url"]
        assert (await business.client.get(again)).status_code == 200


async def test_uploads_can_be_sent_and_deleted() -> None:
    """Upload, send by id, delete; then neither the look-up nor the id works."""
    async with trading() as (business, _):
        content = png(1, 2, 3) + bytes(range(256)) + b"\r\n--\r\n"
        media_id = (await business.upload(content)).json()["id"]
        message = {
            "messaging_product": "whatsapp",
            "to": CUSTOMER,
            "type": "image",
            "image": {"id": media_id},
        }
        assert (await business.post("messages", message)).status_code == 200
        url = (await business.client.get(f"/v25.0/{media_id}")).json()["url"]
        assert (await business.client.get(url)).content == content
        assert (await business.client.delete(f"/v25.0/{media_id}")).json() == {"success": True}
        assert (await business.client.get(f"/v25.0/{media_id}")).status_code == 400
        assert _code(await business.post("messages", message)) == 131009


async def test_wrong_and_oversized_uploads_get_131053() -> None:
    """The type list and the sizes of section 5.4."""
    async with trading() as (business, _):
        assert _code(await business.upload(b"MZ", "application/x-msdownload")) == 131053
        assert _code(await business.upload(bytes(500_001), "image/webp")) == 131053
        assert (await business.upload(bytes(500_000), "image/webp")).status_code == 200


async def test_numbers_and_templates_are_listed() -> None:
    """Section 8."""
    async with trading() as (business, _):
        number = (await business.client.get(f"/v25.0/{ACCOUNT.phone_number_id}")).json()
        assert number["id"] == ACCOUNT.phone_number_id
        listed = (await business.client.get(f"/v25.0/{ACCOUNT.waba_id}/phone_numbers")).json()["data"]
        assert listed == [number]
        templates = (await business.client.get(f"/v25.0/{ACCOUNT.waba_id}/message_templates")).json()["data"]
        assert "hello_world" in {one["name"] for one in templates}
        subscribed = await business.client.post(f"/v25.0/{ACCOUNT.waba_id}/subscribed_apps")
        assert subscribed.json() == {"success": True}


# ── faults ───────────────────────────────────────────────────────────────────────────────────────────


async def test_errors_can_be_ordered_with_and_without_retry_after() -> None:
    """Each for its number of calls, the first that fits first, and nothing is accepted."""
    async with trading() as (business, _):
        business.platform.fault(Fault(kind="error", code=130429, retry_after_seconds=7, times=1))
        business.platform.fault(Fault(kind="error", code=130429, times=1))
        business.platform.fault(Fault(kind="error", status=500, times=1))
        business.platform.fault(Fault(kind="error", code=190, times=1))
        answers = [await business.text() for _ in range(5)]
        assert [one.status_code for one in answers] == [429, 429, 500, 401, 200]
        assert [one.headers.get("retry-after") for one in answers[:2]] == ["7", None]
        assert len(business.platform.ledger.sends) == 1


@pytest.mark.parametrize("accepts", [False, True])
@pytest.mark.parametrize("kind", ["hang", "reset", "garbage"])
async def test_an_answer_can_be_lost_with_and_without_effect(kind: Any, accepts: bool) -> None:
    """The client cannot tell; the ledger can, and the statuses of what was accepted still come."""
    async with trading() as (business, receiver):
        business.platform.fault(Fault(kind=kind, seconds=0.05, accepts=accepts, times=1))
        if kind == "garbage":
            answer = await business.text(biz_opaque_callback_data="k")
            assert answer.status_code == 200
            assert answer.text.startswith("<!DOCTYPE")
        else:
            with pytest.raises(httpx.TransportError):
                await business.text(biz_opaque_callback_data="k")
        await _quiet(business)
        sends = business.platform.ledger.sends
        assert [send.answered for send in sends] == ([False] if accepts else [])
        told = {one.get("biz_opaque_callback_data") for one in receiver.statuses()}
        assert told == ({"k"} if accepts else set())


async def test_a_hang_ends_with_the_client() -> None:
    """A client with a deadline leaves first; the platform goes on serving others."""
    async with trading() as (business, _):
        business.platform.fault(Fault(kind="hang", seconds=30, times=1))
        with pytest.raises(httpx.ReadTimeout):
            await business.client.post(
                f"/v25.0/{ACCOUNT.phone_number_id}/messages",
                json={"messaging_product": "whatsapp", "to": CUSTOMER, "text": {"body": "x"}},
                timeout=httpx.Timeout(PATIENCE_SECONDS, read=0.1),
            )
        assert (await business.text()).status_code == 200


async def test_media_can_be_missing_once_and_slow() -> None:
    """404 then the file; then the file in drops."""
    async with trading() as (business, _):
        media_id = (await business.upload(png(9, 9, 9))).json()["id"]
        url = (await business.client.get(f"/v25.0/{media_id}")).json()["url"]
        business.platform.fault(Fault(kind="error", route="media_download", status=404, times=1))
        business.platform.fault(Fault(kind="drip", route="media_download", bytes_per_second=800, times=1))
        assert (await business.client.get(url)).status_code == 404
        async with business.client.stream("GET", url) as dripped:
            pieces = [piece async for piece in dripped.aiter_raw()]
        assert len(pieces) > 1
        assert b"".join(pieces) == png(9, 9, 9)


async def test_faults_keep_to_their_number_their_time_and_can_be_cleared() -> None:
    """Another number is not touched; time ends a fault; clearing ends it too."""
    async with trading() as (business, _):
        business.platform.fault(Fault(kind="error", phone_number_id=OTHER.phone_number_id))
        business.platform.fault(Fault(kind="error", for_seconds=1))
        assert (await business.text()).status_code == 500
        await trio.sleep(1.05)
        assert (await business.text()).status_code == 200
        fault_id = business.platform.fault(Fault(kind="slow", seconds=0.0, route="any"))
        assert (await business.text()).status_code == 200
        assert business.platform.clear_faults(fault_id) == 1
        assert business.platform.clear_faults() == 1


async def test_the_platform_can_be_gone_for_a_while_and_still_tells() -> None:
    """Connections are refused, webhooks go on, and afterwards sends are accepted again."""
    async with trading() as (business, receiver):
        await _quiet(business)
        business.platform.go_down(30)
        await trio.sleep(0.05)
        with pytest.raises(httpx.TransportError):
            await business.text()
        with pytest.raises(httpx.ConnectError):
            await business.text()
        business.platform.say(CUSTOMER, "can you hear me?")
        await _quiet(business)
        assert receiver.messages()[-1]["text"]["body"] == "can you hear me?"
        business.platform.come_up()
        await trio.sleep(0.05)
        assert (await business.text()).status_code == 200
