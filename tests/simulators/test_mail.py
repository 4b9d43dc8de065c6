"""The played mail world against the adapter: what people write is understood, what is sent is told of."""

import smtplib
from typing import Any

import pytest
import trio

from adapters.registry import adapter_of
from adapters.simulators.mail.people import KINDS
from engine.domain.inbound import MessageReceived, StatusChanged
from engine.domain.outbound import SendText
from tests.adapters.contract.test_played import Stage, stage
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.real_time

FROM = "amelia.walker@mail.example"


async def status(on: Stage, wanted: str) -> StatusChanged:
    with trio.fail_after(PATIENCE_SECONDS):
        while True:
            found = [each for each in on.events if isinstance(each, StatusChanged) and each.status == wanted]
            if found:
                return found[-1]
            await trio.sleep(0.02)


@pytest.mark.parametrize("kind", sorted(KINDS))
async def test_every_kind_of_mail_is_understood(kind: str) -> None:
    """As the one from whom it is, with an id that the ledger knows."""
    async with stage(adapter_of("email")) as on:
        for _ in range(4):  # some are posted whole, some as fields
            on.events.clear()
            said = await on.call("POST", "messages", {"from": FROM, "kind": kind, "text": "Is it here?"})
            event: MessageReceived = await on.heard(MessageReceived)
            assert event.contact.keys == (FROM,)
            assert event.platform_id == said["id"]
            assert event.automated is (kind != "out_of_office")
            assert len(event.media) == (1 if kind in ("image", "document", "inline") else 0)
            if kind not in ("out_of_office", "forward"):
                assert event.text == "Is it here?"
            assert "script" not in event.content.get("html", "")


async def test_an_answer_is_answered_in_its_thread() -> None:
    async with stage(adapter_of("email")) as on:
        received = await on.customer_writes()
        result: Any = await on.answer(received, SendText(body="Yes."))
        on.events.clear()
        await on.call("POST", "messages", {"from": FROM, "kind": "reply", "text": "Thanks"})
        event: MessageReceived = await on.heard(MessageReceived)
        assert event.reply_to == result.platform_id
        assert (event.text, "> Yes." in event.content["quoted"]) == ("Thanks", True)


async def test_what_is_sent_is_delivered_and_read_or_comes_back() -> None:
    """By the service's events; each with our own id."""
    async with stage(adapter_of("email")) as on:
        received = await on.customer_writes()
        quick = {"delivered_seconds": [0, 0.01], "read_seconds": [0, 0.01], "read_probability": 1}
        await on.call("PATCH", "settings", quick)
        await on.answer(received, SendText(body="Yes."))
        delivered = await status(on, "delivered")
        assert delivered.callback == "4242"
        await status(on, "read")
        await on.call("PATCH", "settings", {"failure_probability": 1})
        await on.answer(received, SendText(body="No."))
        failed = await status(on, "failed")
        assert failed.error is not None
        assert failed.error.platform_code == "5.2.2"


async def test_over_smtp_a_failure_comes_back_as_a_report() -> None:
    async with stage(adapter_of("email")) as on:
        await on.customer_writes()
        await on.call("PATCH", "settings", {"failure_probability": 1, "delivered_seconds": [0, 0.01]})
        host, _, port = (await on.call("GET", "statistics"))["smtp"].rpartition(":")
        address, password = on.account.external_id, on.account.credentials["mailgun_api_key"]

        def send() -> None:
            with smtplib.SMTP(host, int(port), timeout=PATIENCE_SECONDS) as client:
                client.login(address, password)
                client.sendmail(
                    address, [FROM], f"From: {address}\r\nMessage-ID: <m1@shop.example>\r\n\r\nHi\r\n"
                )

        await trio.to_thread.run_sync(send)
        failed = await status(on, "failed")
        assert (failed.platform_id, failed.raw_status) == ("m1@shop.example", "dsn_failed")
        assert failed.contact.keys == (FROM,)


async def test_a_greylisting_server_wants_the_mail_later() -> None:
    async with stage(adapter_of("email")) as on:
        await on.call("POST", "greylist", {"seconds": 0.2})
        host, _, port = (await on.call("GET", "statistics"))["smtp"].rpartition(":")
        address, password = on.account.external_id, on.account.credentials["mailgun_api_key"]

        def codes() -> list[int]:
            with smtplib.SMTP(host, int(port), timeout=PATIENCE_SECONDS) as client:
                client.login(address, password)
                client.mail(address)
                return [client.rcpt(FROM)[0]]

        assert await trio.to_thread.run_sync(codes) == [450]
        await trio.sleep(0.3)
        assert await trio.to_thread.run_sync(codes) == [250]
