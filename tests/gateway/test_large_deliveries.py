"""Webhooks of a platform that posts whole mails: how large they may be and where, whose they are, and that
the loop does not wait for them."""

import json
from typing import Any
from urllib.parse import urlencode

import pytest
import trio
import trio.lowlevel
from prometheus_client import CollectorRegistry

from adapters.email.describing import PLATFORM as EMAIL
from adapters.email.receiver import EmailReceiver
from adapters.email.threading import message_id_for
from adapters.whatsapp.receiver import WhatsAppReceiver
from engine.domain import platforms
from engine.domain.ids import IdAllocator
from engine.domain.inbound import MessageReceived
from engine.reading import DirectoryEntry
from gateway.directory import Directory
from gateway.metrics import Metrics
from gateway.webhooks import Webhooks
from gateway.webhooks.claims import IN_LOOP_BYTES_MAX
from tests.gateway.test_webhooks import NOW, RecordingIntake, RecordingLandlord

platforms.describe(EMAIL)
MEGABYTE = 1024 * 1024


def entry(address: str, *, tenant: int, key: str) -> DirectoryEntry:
    return DirectoryEntry(
        platform="email",
        external_id=address,
        tenant_id=tenant,
        channel_id=tenant * 100,
        endpoint_key=key,
        parent_id=None,
        credentials=json.dumps({"reply_secret": f"secret of {tenant}"}).encode(),
        created_at=NOW,
    )


class Edge:
    def __init__(self, *entries: DirectoryEntry) -> None:
        self.intake = RecordingIntake()
        self.landlord = RecordingLandlord()
        directory = Directory(lambda stored: json.loads(stored.credentials))
        for stored in entries:
            directory.add(stored)
        self.webhooks = Webhooks(
            receivers=[WhatsAppReceiver(), EmailReceiver()],
            directory=directory,
            intake=self.intake,
            landlord=self.landlord,
            metrics=Metrics(CollectorRegistry()),
            new_id=IdAllocator(lambda: NOW),
            clock_ms=lambda: NOW,
        )

    async def post(self, body: bytes, path: str = "/api/webhooks/email/k1") -> int:
        return (await self.webhooks.handle("POST", path, "", {}, body)).status

    def received(self) -> list[tuple[str, Any]]:
        return [
            (endpoint.external_id, event)
            for delivery in self.intake.deliveries
            for endpoint, events in delivery.groups
            for event in events
        ]


def mail(*to: str, text: str = "Hello", size: int = 0, headers: str = "") -> bytes:
    envelope = json.dumps({"to": to, "from": "zoe@example.org"})
    head = f"From: zoe@example.org\r\nMessage-ID: <1@example.org>\r\n{headers}"
    return urlencode({"headers": head, "text": text + "x" * size, "envelope": envelope}).encode()


HELP = entry("help@shop.example", tenant=1, key="k1")
SALES = entry("sales@shop.example", tenant=1, key="k2")
RIVAL = entry("help@rival.example", tenant=2, key="k3")


@pytest.mark.parametrize("size", [0, IN_LOOP_BYTES_MAX, 8 * MEGABYTE])
async def test_mail_of_any_size_is_read_at_the_accounts_own_address(size: int) -> None:
    edge = Edge(HELP)
    assert await edge.post(mail("help@shop.example", size=size)) == 200
    ((account, event),) = edge.received()
    assert account == "help@shop.example"
    assert event.text.startswith("Hello")


async def test_how_large_a_body_may_be_depends_on_the_platform_and_the_address() -> None:
    edge = Edge(HELP)
    usual = edge.webhooks.limits.body_bytes_max
    assert edge.webhooks.bytes_max("/api/webhooks/email/k1") == EMAIL.delivery_bytes_max > usual
    for path in ("/api/webhooks/email", "/api/webhooks/whatsapp/k1", "/api/webhooks/none/k1", "/x"):
        assert edge.webhooks.bytes_max(path) == usual
    large = b"x" * (usual + 1)
    assert await edge.post(large, "/api/webhooks/email") == 413
    assert await edge.post(large, "/api/webhooks/whatsapp/k1") == 413
    assert await edge.post(b"x" * (EMAIL.delivery_bytes_max + 1)) == 413
    assert not edge.intake.deliveries


async def test_the_loop_goes_on_while_a_large_mail_is_read() -> None:
    edge = Edge(HELP)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        await edge.post(mail("help@shop.example", size=4 * MEGABYTE))
        nursery.cancel_scope.cancel()
    assert turns > 10


async def test_a_mail_is_its_recipients_or_else_the_addresss_own() -> None:
    """A forwarded one has an address that nobody connected; a tenant's address speaks for the tenant's other
    accounts too, and never for anybody else's."""
    edge = Edge(HELP, SALES, RIVAL)
    for to in ("abc@inbound.example", "help+tag@shop.example", "sales@shop.example", "help@rival.example"):
        assert await edge.post(mail(to)) == 200
    assert [account for account, _ in edge.received()] == [
        "help@shop.example", "help@shop.example", "sales@shop.example", "help@shop.example",
    ]  # fmt: skip
    assert {delivery.groups[0][0].tenant_id for delivery in edge.intake.deliveries} == {1}


async def test_without_the_secret_address_nothing_unsigned_is_believed() -> None:
    edge = Edge(HELP)
    assert await edge.post(mail("help@shop.example"), "/api/webhooks/email") == 401
    assert await edge.post(mail("help@shop.example"), "/api/webhooks/email/guess") == 404


async def test_proof_of_what_is_answered_is_opened_with_the_accounts_secret() -> None:
    edge = Edge(HELP)
    ours = message_id_for(42, account="help@shop.example", secret="secret of 1")
    theirs = message_id_for(43, account="help@rival.example", secret="secret of 2")
    for named in (ours, theirs):
        await edge.post(mail("help@shop.example", headers=f"In-Reply-To: <{named}>\r\n"))
    events = [event for _, event in edge.received()]
    assert all(isinstance(event, MessageReceived) for event in events)
    assert [event.answers for event in events] == [42, None]


async def test_such_deliveries_have_their_task() -> None:
    """The lane's way without one is for platforms whose deliveries are small."""
    edge = Edge(HELP)
    rest = edge.webhooks.begin(
        "/api/webhooks/email/k1", "", {}, mail("help@shop.example"), lambda answer: None, trio.current_time()
    )
    assert rest is not None
    assert not edge.intake.deliveries
    assert (await rest()).status == 200
    assert len(edge.intake.deliveries) == 1


async def test_what_nobody_understands_is_kept() -> None:
    edge = Edge(HELP)
    assert await edge.post(b"\x00\x01 nothing") == 200
    (delivery,) = edge.intake.deliveries
    assert (delivery.outcome, delivery.body) == ("not_understood", b"\x00\x01 nothing")
