"""The control API: scripting from another process."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import trio

from adapters.simulators import Simulator
from tests.patience import PATIENCE_SECONDS, until
from tests.simulators.receiver import ACCOUNT, Receiver, playing


@asynccontextmanager
async def controlled() -> AsyncIterator[tuple[Simulator, Receiver, httpx.AsyncClient]]:
    async with (
        playing() as (platform, receiver),
        httpx.AsyncClient(
            base_url=f"{platform.base_url}/__sim", trust_env=False, timeout=PATIENCE_SECONDS
        ) as client,
    ):
        yield platform, receiver, client


async def _quiet(platform: Simulator) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        await platform.wait_quiet()


async def test_a_message_can_be_said_and_followed_in_the_ledger() -> None:
    """The page has the record with its acknowledgement; pages continue where they ended."""
    async with controlled() as (platform, receiver, client):
        ids = [
            (await client.post("/messages", json={"from": "15550100001", "text": f"n{n}"})).json()["id"]
            for n in range(5)
        ]
        await _quiet(platform)
        first = (await client.get("/ledger", params={"kind": "facts", "limit": 3})).json()
        rest = (await client.get("/ledger", params={"kind": "facts", "after": first["next_after"]})).json()
        assert [one["id"] for one in first["items"] + rest["items"]] == ids
        assert all(one["acknowledged_at"] for one in first["items"])
        assert (rest["next_after"], rest["total"], rest["forgotten"]) == (5, 5, 0)
        attempts = (await client.get("/ledger", params={"kind": "attempts"})).json()
        assert [one["outcome"] for one in attempts["items"]] == ["200"] * 5
        assert len(receiver.messages()) == 5


async def test_kinds_and_messages_built_by_hand_can_be_said() -> None:
    """By `kind`, and by a whole `messages[]` element."""
    async with controlled() as (platform, receiver, client):
        await client.post("/messages", json={"from": "15550100001", "kind": "location", "name": "Zoë"})
        message = {"from": "15550100002", "id": "wamid.mine", "timestamp": "1", "type": "hologram"}
        answer = await client.post("/messages", json={"from": "15550100002", "item": message})
        assert answer.json() == {"id": "wamid.mine"}
        await client.post("/echoes", json={"to": "15550100001", "text": "from the phone"})
        await client.post("/template-status", json={"name": "hello_world", "event": "PAUSED"})
        await _quiet(platform)
        assert {one["type"] for one in receiver.messages()} == {"location", "hologram"}
        statistics = (await client.get("/statistics")).json()
        assert {kind: told["created"] for kind, told in statistics["told"].items()} == {
            "message": 2,
            "status": 0,
            "echo": 1,
            "other": 1,
        }


async def test_sends_can_be_looked_at_whole() -> None:
    """With the body that the business sent, and doubles by callback data."""
    async with controlled() as (platform, _, client):
        message = {
            "messaging_product": "whatsapp",
            "to": "15550100001",
            "text": {"body": "hi"},
            "biz_opaque_callback_data": "twice",
        }
        headers = {"Authorization": f"Bearer {ACCOUNT.access_token}"}
        url = f"{platform.base_url}/v25.0/{ACCOUNT.phone_number_id}/messages"
        ids = [
            (await client.post(url, json=message, headers=headers)).json()["messages"][0]["id"]
            for _ in range(2)
        ]
        send = (await client.get(f"/sends/{ids[0]}")).json()
        assert (send["recipient"], send["body"]["text"]["body"]) == ("15550100001", "hi")
        doubles = (await client.get("/ledger", params={"kind": "duplicates"})).json()
        assert doubles["items"] == [{"callback_data": "twice", "ids": ids}]
        assert (await client.get("/sends/wamid.unknown")).status_code == 404


async def test_faults_limits_and_settings_can_be_changed() -> None:
    """What is set is listed and has effect; clearing ends it."""
    async with controlled() as (platform, _, client):
        fault = await client.post("/faults", json={"kind": "error", "code": 131016, "times": 3})
        (listed,) = (await client.get("/faults")).json()
        assert (listed["id"], listed["left"], listed["fault"]["code"]) == (fault.json()["id"], 3, 131016)
        assert (await client.delete("/faults")).json() == {"cleared": 1}
        await client.post("/throttle", json={"phone_number_id": ACCOUNT.phone_number_id, "per_second": 0})
        message = {"messaging_product": "whatsapp", "to": "15550100001", "text": {"body": "hi"}}
        headers = {"Authorization": f"Bearer {ACCOUNT.access_token}"}
        url = f"{platform.base_url}/v25.0/{ACCOUNT.phone_number_id}/messages"
        assert (await client.post(url, json=message, headers=headers)).status_code == 429
        changed = await client.patch("/settings", json={"duplicate_probability": 0.5})
        assert changed.json()["duplicate_probability"] == 0.5
        assert platform.settings.duplicate_probability == 0.5
        recipient = {"recipient": "15550100001", "code": 131026}
        assert (await client.post("/recipients", json=recipient)).json() == {"code": 131026}
        window = {"recipient": "15550100001", "opened": True}
        assert (await client.post("/window", json=window)).json() == {"opened": True}


async def test_talk_can_be_started_and_stopped() -> None:
    """Silent before and after."""
    async with controlled() as (platform, receiver, client):
        await client.post("/talk", json={"customers": 3, "messages_per_second": 200})
        await until(lambda: len(receiver.messages()) > 10)
        assert (await client.delete("/talk")).json() == {"talking": False}
        await _quiet(platform)
        count = len(receiver.messages())
        await trio.sleep(0.1)
        assert len(receiver.messages()) == count
        assert len((await client.get("/customers")).json()) == 3


async def test_the_platform_can_be_taken_down_for_a_while() -> None:
    """The order is still answered; then nothing is, then everything again."""
    async with controlled() as (_, _receiver, client):
        assert (await client.post("/down", json={"seconds": 1})).json() == {"down_seconds": 1.0}
        await trio.sleep(0.05)
        with pytest.raises(httpx.TransportError):
            await client.get("/health")
        with trio.fail_after(PATIENCE_SECONDS):
            while True:
                await trio.sleep(0.05)
                try:
                    assert (await client.get("/health")).json() == {"ok": True}
                except httpx.ConnectError:
                    continue
                break


async def test_raw_webhooks_can_be_posted() -> None:
    """Signed or not, JSON or not."""
    async with controlled() as (_, receiver, client):
        receiver.answers.append(400)
        assert (await client.post("/webhooks", json={"payload": {"a": "ü"}})).json() == {"outcome": "400"}
        assert receiver.bodies == [b'{"a":"\\u00fc"}']
        unsigned = await client.post("/webhooks", json={"text": "{", "signed": False})
        assert unsigned.json() == {"outcome": "401"}


async def test_a_callback_address_can_be_changed() -> None:
    """With the handshake unless it is left out."""
    async with controlled() as (platform, receiver, client):
        receiver.verify_token = "another"
        refused = await client.post("/connect", json={"callback_url": receiver.url})
        assert (refused.status_code, refused.json()["code"]) == (502, "delivery_failed")
        unchecked = {"callback_url": f"{receiver.url}/2", "check": False}
        assert (await client.post("/connect", json=unchecked)).status_code == 200
        (account,) = (await client.get("/accounts")).json()
        assert account["callback_url"] == f"{receiver.url}/2"
        assert platform.callback_url(ACCOUNT.phone_number_id) == f"{receiver.url}/2"


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/messages", {"text": "nobody says this"}, 422),
        ("POST", "/messages", {"from": "not a number", "text": "x"}, 422),
        ("POST", "/messages", {"from": "15550100001", "kind": "hologram"}, 422),
        ("POST", "/messages", {"from": "15550100001", "phone_number_id": "1"}, 404),
        ("POST", "/messages", {"from": "15550100001", "item": {}}, 422),
        ("POST", "/faults", {"kind": "meteor"}, 422),
        ("POST", "/faults", {"kind": "hang", "seconds": 1e9}, 422),
        ("PATCH", "/settings", {"no_such_setting": 1}, 422),
        ("PATCH", "/settings", {"sends_per_second_max": "many"}, 422),
        ("POST", "/nothing", {}, 404),
        ("GET", "/ledger?kind=secrets", None, 422),
        ("GET", "/ledger?after=-1", None, 422),
        ("DELETE", "/ledger", None, 404),
    ],
)
async def test_wrong_orders_are_refused_with_a_reason(method: str, path: str, body: Any, status: int) -> None:
    """A code and a sentence; the platform goes on."""
    async with controlled() as (_, _receiver, client):
        answer = await client.request(method, path, json=body)
        assert (answer.status_code, sorted(answer.json())) == (status, ["code", "message"])
        assert (await client.get("/health")).json() == {"ok": True}


async def test_the_page_lists_what_can_be_called() -> None:
    """For people, at the address that the commands tell: calls, kinds, and what only this platform has."""
    async with controlled() as (platform, _, client):
        page = await client.get("/")
        assert page.headers["content-type"].startswith("text/plain")
        for expected in ("POST   /__sim/faults", "POST /__sim/template-status", "voice", "whatsapp"):
            assert expected in page.text
        assert all(kind in page.text for kind in platform.cast.kinds)
