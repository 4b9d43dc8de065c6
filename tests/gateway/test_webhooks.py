"""Webhooks: who is believed, what becomes of a delivery, and what the platform is told.

The receiver is WhatsApp's own; the intake and the landlord's table are recorders behind their ports, since
what they do with a delivery has its own tests. The last part goes over real sockets through the Quart route.
"""

import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx
import msgspec
import pytest
import trio
import trio.testing
from msgspec import structs
from prometheus_client import CollectorRegistry
from quart_trio import QuartTrio

from adapters.whatsapp.describing import PLATFORM
from adapters.whatsapp.receiver import WhatsAppReceiver
from engine.domain import platforms
from engine.domain.ids import IdAllocator
from engine.domain.inbound import Announced, InboundEvent, MessageReceived, RoutedEvent
from engine.domain.intake import Delivery, DeliveryReceipt, Done
from engine.errors import StoreUnavailable, Unavailable
from engine.ports import NO_HEADERS, Acknowledgement, Endpoint, WebhookRequest
from engine.reading import DirectoryEntry
from gateway.directory import Directory
from gateway.metrics import TENANTS_NAMED_MAX, Metrics
from gateway.routes import webhook_blueprint
from gateway.serving import serve
from gateway.turnstile import AT_ONCE
from gateway.webhooks import Answer, WebhookLimits, Webhooks
from gateway.webhooks.announced import ReadAnnounced
from tests.logs import capture_logs
from tests.patience import PATIENCE_SECONDS

NOW = 1_772_355_600_000
Json = dict[str, Any]


platforms.describe(PLATFORM)
KEPT = {"content-type", "x-hub-signature-256"}

WAYS = ["handle"]
"""The last one is how `Edge.post` asks: with a task that waits, or without."""


@pytest.fixture(params=["handle", "begin"], autouse=True)
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    WAYS.append(request.param)
    yield request.param
    WAYS.pop()


class RecordingIntake:
    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self.error: Exception | None = None
        self.held: trio.Event | None = None

    async def deliver(self, delivery: Delivery) -> DeliveryReceipt:
        await trio.lowlevel.checkpoint()
        if self.held is not None:
            await self.held.wait()
        if self.error is not None:
            raise self.error
        self.deliveries.append(delivery)
        return DeliveryReceipt(
            stored=sum(len(events) for _, events in delivery.groups),
            tenants=tuple({endpoint.tenant_id for endpoint, _ in delivery.groups}),
        )

    def is_ready(self, tenant_id: int) -> bool:
        return True

    def begin(self, delivery: Delivery, done: Done) -> None:
        async def work() -> None:
            try:
                done(await self.deliver(delivery))
            except Exception as error:  # noqa: BLE001  # as the real one hands on what a conversation answered
                done(error)  # type: ignore[arg-type]

        trio.lowlevel.spawn_system_task(work)

    def expire(self, now: float) -> None:
        """What the intake itself ends has tests of its own."""

    def texts(self) -> dict[tuple[int, int], list[str]]:
        """What was handed on, by (tenant, channel)."""
        found: dict[tuple[int, int], list[str]] = {}
        for delivery in self.deliveries:
            for endpoint, events in delivery.groups:
                texts = [event.text for event in events if isinstance(event, MessageReceived)]
                found.setdefault((endpoint.tenant_id, endpoint.channel_id), []).extend(texts)
        return found


class RecordingLandlord:
    def __init__(self, entries: Sequence[DirectoryEntry] = ()) -> None:
        self.entries = entries
        self.parked: list[Json] = []
        self.error: Exception | None = None

    async def directory(self) -> Sequence[DirectoryEntry]:
        return self.entries

    async def park_unrouted(
        self,
        *,
        delivery_id: int,
        platform: str,
        external_id: str | None,
        headers: dict[str, str],
        body: bytes,
        reason: str,
        trace: str,
        now: int,
    ) -> None:
        if self.error is not None:
            raise self.error
        self.parked.append(
            {
                "id": delivery_id,
                "external_id": external_id,
                "reason": reason,
                "body": body,
                "headers": headers,
            }
        )


def entry(
    number: str, *, tenant: int, secret: str, waba: str | None = None, verify_token: str = "hello"
) -> DirectoryEntry:
    return DirectoryEntry(
        platform="whatsapp",
        external_id=number,
        tenant_id=tenant,
        channel_id=int(number) + 1000,
        endpoint_key=f"key-{number}",
        parent_id=waba,
        credentials=msgspec.json.encode({"app_secret": secret, "verify_token": verify_token}),
        created_at=NOW,
    )


def open_plain(stored: DirectoryEntry) -> Mapping[str, str]:
    return msgspec.json.decode(stored.credentials, type=dict[str, str])


class Edge:
    """Webhooks with recorders behind, and the platform's way of calling them."""

    def __init__(
        self,
        *entries: DirectoryEntry,
        limits: WebhookLimits | None = None,
        receiver: WhatsAppReceiver | None = None,
        read: ReadAnnounced | None = None,
        public_url: str | None = None,
    ) -> None:
        self.intake = RecordingIntake()
        self.landlord = RecordingLandlord()
        self.directory = Directory(open_plain)
        for stored in entries:
            self.directory.add(stored)
        self.metrics = Metrics(CollectorRegistry())
        self.webhooks = Webhooks(
            receivers=[receiver or WhatsAppReceiver()],
            directory=self.directory,
            intake=self.intake,
            landlord=self.landlord,
            metrics=self.metrics,
            new_id=IdAllocator(lambda: NOW),
            clock_ms=lambda: NOW,
            read=read,
            limits=limits,
            public_url=public_url,
        )

    async def post(
        self,
        body: Json | bytes,
        *,
        secret: str | None,
        key: str | None = None,
        path: str | None = None,
        query: str = "",
    ) -> Answer:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        target = path or "/api/webhooks/whatsapp" + (f"/{key}" if key else "")
        headers = signed(raw, secret)
        if WAYS[-1] == "begin":
            answered = trio.Event()
            answers: list[Answer] = []

            def take(answer: Answer) -> None:
                answers.append(answer)
                answered.set()

            rest = self.webhooks.begin(target, query, headers, raw, take, trio.current_time())
            if rest is not None:
                assert not answers
                return await rest()
            await answered.wait()
            (answer,) = answers
            return answer
        return await self.webhooks.handle("POST", target, query, headers, raw)

    def in_flight(self) -> float:
        return self.metrics.registry.get_sample_value("mijra_webhook_in_flight") or 0.0

    def count(self, outcome: str, platform: str = "whatsapp") -> float:
        value = self.metrics.registry.get_sample_value(
            "mijra_webhook_deliveries_total", {"platform": platform, "outcome": outcome}
        )
        return value or 0.0


def signed(raw: bytes, secret: str | None) -> dict[str, str]:
    headers = {"content-type": "application/json", "authorization": "Bearer 1|x"}
    if secret is not None:
        headers["x-hub-signature-256"] = (
            "sha256=" + hmac.new(secret.encode(), raw, hashlib.sha256).hexdigest()
        )
    return headers


def message(text: str) -> Json:
    return {
        "from": "966500000001",
        "id": f"wamid.{text}",
        "timestamp": "1772355599",
        "type": "text",
        "text": {"body": text},
    }


def change(number: str, *texts: str) -> Json:
    return {
        "field": "messages",
        "value": {
            "messaging_product": "whatsapp",
            "metadata": {"display_phone_number": "966110000000", "phone_number_id": number},
            "contacts": [{"profile": {"name": "Sara"}, "wa_id": "966500000001"}],
            "messages": [message(text) for text in texts],
        },
    }


def delivery(*changes: Json, waba: str = "900") -> Json:
    return {"object": "whatsapp_business_account", "entry": [{"id": waba, "changes": list(changes)}]}


def failure(answer: Answer) -> str:
    body = msgspec.json.decode(answer.body)
    assert body["success"] is False
    return str(body["code"])


# ------------------------------------------------------------------ deliveries


@pytest.mark.parametrize("key", [None, "key-1"])
async def test_a_signed_delivery_is_handed_on_before_the_200(key: str | None) -> None:
    """With and without the key: the events, the exact bytes and one trace reach the intake; then 200."""
    edge = Edge(entry("1", tenant=10, secret="s1"))
    body = json.dumps(delivery(change("1", "a", "b"))).encode()
    with capture_logs() as lines:
        answer = await edge.post(body, secret="s1", key=key)
    assert answer.status == 200
    assert msgspec.json.decode(answer.body)["success"] is True
    assert edge.intake.texts() == {(10, 1001): ["a", "b"]}
    handed = edge.intake.deliveries[0]
    assert (handed.body, handed.outcome, handed.received_at) == (body, "accepted", NOW)
    assert handed.trace == answer.headers["X-Request-Id"]
    assert handed.headers == {name: value for name, value in signed(body, "s1").items() if name in KEPT}
    line = next(line for line in lines if line["event"] == "webhook.accepted")
    assert (line["trace"], line["tenant"], line["items"]) == (handed.trace, 10, 2)
    assert edge.count("accepted") == 1


class Particular(WhatsAppReceiver):
    """Reads the address beside the body, knows accounts by several names, and wants another answer."""

    acknowledgement = Acknowledgement(status=202, content_type="text/xml", body=b"<Response/>")

    def parse_request(self, request: WebhookRequest) -> Sequence[RoutedEvent]:
        assert request.public_url == "https://chat.example"
        return [
            structs.replace(one, external_id="nobody", also_known_as=("nobody-either", request.query, "2"))
            for one in self.parse(request.body, request.headers)
        ]


@pytest.mark.parametrize("key", [None, "key-1"])
async def test_a_receiver_may_read_the_address_and_say_how_it_is_answered(key: str | None) -> None:
    """The first name that is connected counts; what is refused is refused as ever."""
    edge = Edge(
        entry("1", tenant=10, secret="s1"),
        entry("2", tenant=10, secret="s1"),
        receiver=Particular(),
        public_url="https://chat.example",
    )
    for query, account in (("1", 1001), ("", 1002)):
        answer = await edge.post(delivery(change("7", query or "x")), secret="s1", key=key, query=query)
        assert (answer.status, answer.headers["Content-Type"]) == (202, "text/xml")
        assert answer.body == b"<Response/>"
        assert edge.intake.texts()[10, account] == [query or "x"]
    answer = await edge.post(delivery(change("7", "a")), secret="wrong", key=key)
    assert (answer.status, failure(answer)) == (401, "bad_signature")


async def test_a_name_of_an_account_proves_nothing() -> None:
    """Another name leads to an account only if its secret has signed."""
    edge = Edge(
        entry("1", tenant=10, secret="s1"),
        entry("2", tenant=20, secret="s2"),
        receiver=Particular(),
        public_url="https://chat.example",
    )
    answer = await edge.post(delivery(change("1", "injected")), secret="s1", query="2")
    assert (answer.status, failure(answer)) == (401, "bad_signature")
    assert edge.intake.deliveries == []


async def test_nothing_is_answered_before_the_intake_is_done() -> None:
    """While the intake waits for the commit there is no answer."""
    edge = Edge(entry("1", tenant=10, secret="s1"))
    edge.intake.held = trio.Event()
    answers: list[Answer] = []

    async def post() -> None:
        answers.append(await edge.post(delivery(change("1", "a")), secret="s1"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(post)
        await trio.testing.wait_all_tasks_blocked()
        assert answers == []
        edge.intake.held.set()
    assert answers[0].status == 200


@pytest.mark.parametrize("key", [None, "key-1"])
@pytest.mark.parametrize("secret", [None, "wrong"])
async def test_a_bad_signature_stores_nothing(key: str | None, secret: str | None) -> None:
    """Missing or wrong: 401, a counter and a line, and neither intake nor landlord heard of it."""
    edge = Edge(entry("1", tenant=10, secret="s1"))
    with capture_logs() as lines:
        answer = await edge.post(delivery(change("1", "a")), secret=secret, key=key)
    assert (answer.status, failure(answer)) == (401, "bad_signature")
    assert (edge.intake.deliveries, edge.landlord.parked) == ([], [])
    assert edge.count("bad_signature") == 1
    assert [line["reason"] for line in lines if line["event"] == "webhook.refused"] == ["bad_signature"]


async def test_a_signature_over_other_bytes_is_refused() -> None:
    """The bytes as they came are what is signed: one space more and it is another body."""
    edge = Edge(entry("1", tenant=10, secret="s1"))
    raw = json.dumps(delivery(change("1", "a"))).encode()
    answer = await edge.webhooks.handle("POST", "/api/webhooks/whatsapp", "", signed(raw, "s1"), raw + b" ")
    assert answer.status == 401


@pytest.mark.parametrize("key", [None, "key-1"])
@pytest.mark.parametrize("others", [0, 30])
async def test_a_tenant_cannot_write_into_another_tenants_account(key: str | None, others: int) -> None:
    """Whoever signs with his own secret and names somebody else's account is refused, with and without his
    own URL, with few apps on the platform and with many; nothing is stored with either."""
    strangers = [entry(str(n), tenant=n, secret=f"s{n}") for n in range(100, 100 + others)]
    edge = Edge(entry("1", tenant=10, secret="s1"), entry("2", tenant=20, secret="s2"), *strangers)
    answer = await edge.post(delivery(change("2", "injected")), secret="s1", key=key)
    assert (answer.status, failure(answer)) == (401, "bad_signature")
    assert (edge.intake.deliveries, edge.landlord.parked) == ([], [])


@pytest.mark.parametrize("key", [None, "key-1"])
@pytest.mark.parametrize("others", [0, 30])
async def test_a_foreign_event_beside_an_own_one_is_refused_alone(key: str | None, others: int) -> None:
    """In a mixed body the signer's own event goes through, the other tenant's does not."""
    strangers = [entry(str(n), tenant=n, secret=f"s{n}") for n in range(100, 100 + others)]
    edge = Edge(entry("1", tenant=10, secret="s1"), entry("2", tenant=20, secret="s2"), *strangers)
    body = delivery(change("2", "injected"), change("1", "own"), change("2", "again"))
    with capture_logs() as lines:
        answer = await edge.post(body, secret="s1", key=key)
    assert answer.status == 200
    assert edge.intake.texts() == {(10, 1001): ["own"]}
    assert [line["refused"] for line in lines if line["event"] == "webhook.events_refused"] == [2]


async def test_naming_a_thousand_accounts_costs_a_few_signature_checks() -> None:
    """A body that names accounts of many apps does not have them all tried; its own events still pass."""
    checked: list[int] = []

    class Counting(WhatsAppReceiver):
        def verify(self, request: Any, endpoints: Any) -> Any:
            checked.append(len({endpoint.secrets["app_secret"] for endpoint in endpoints}))
            return super().verify(request, endpoints)

    edge = Edge(*(entry(str(n), tenant=n, secret=f"s{n}") for n in range(1, 1001)), receiver=Counting())
    body = delivery(*(change(str(n), f"m{n}") for n in range(1, 1001)))
    assert (await edge.post(body, secret="s1")).status == 200
    assert edge.intake.texts() == {(1, 1001): ["m1"]}
    assert sum(checked) <= 8


async def test_accounts_of_one_app_share_a_delivery_and_not_its_contents() -> None:
    """One body for two tenants of one app reaches both, and neither's stored body shows the other's."""
    edge = Edge(entry("1", tenant=10, secret="app"), entry("2", tenant=20, secret="app"))
    body = delivery(change("1", "for-ten"), change("2", "for-twenty"))
    assert (await edge.post(body, secret="app")).status == 200
    assert edge.intake.texts() == {(10, 1001): ["for-ten"], (20, 1002): ["for-twenty"]}
    ours, theirs = edge.intake.deliveries
    assert b"for-ten" in ours.body
    assert b"for-twenty" not in ours.body
    assert b"for-ten" not in theirs.body
    assert ours.trace == theirs.trace


async def test_a_secret_under_rotation_is_taken_both_old_and_new() -> None:
    """Until the old secret is dropped, both sign."""
    rotating = msgspec.structs.replace(
        entry("1", tenant=10, secret="new"),
        credentials=msgspec.json.encode({"app_secret": "new", "app_secret_previous": "old"}),
    )
    edge = Edge(rotating)
    assert (await edge.post(delivery(change("1", "a")), secret="new")).status == 200
    assert (await edge.post(delivery(change("1", "b")), secret="old")).status == 200
    assert edge.intake.texts() == {(10, 1001): ["a", "b"]}


class Counting(WhatsAppReceiver):
    """Counts how often a delivery's signature and its contents are looked at."""

    def __init__(self) -> None:
        self.verified = 0
        self.parsed = 0

    def verify(self, request: WebhookRequest, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
        self.verified += 1
        return super().verify(request, endpoints)

    def parse(self, body: bytes, headers: Mapping[str, str] = NO_HEADERS) -> Sequence[RoutedEvent]:
        self.parsed += 1
        return super().parse(body, headers)


@pytest.mark.parametrize(
    ("body", "accounts_checked"),
    [
        (delivery(change("1", "a")), 1),
        (delivery(change("1", "a"), change("2", "b")), 2),
        (delivery(change("1", "a"), change("7", "b")), 1),
        (b"not json", 1),
    ],
    ids=["one tenant", "two tenants", "unrouted", "not understood"],
)
async def test_a_delivery_is_read_once_whatever_it_waits_for(
    body: Json | bytes, accounts_checked: int
) -> None:
    """What turns out to need a task is not verified and parsed a second time by it."""
    receiver = Counting()
    edge = Edge(entry("1", tenant=10, secret="s1"), entry("2", tenant=20, secret="s1"), receiver=receiver)
    assert (await edge.post(body, secret="s1")).status == 200
    assert (receiver.verified, receiver.parsed) == (accounts_checked, 1)
    assert edge.in_flight() == 0


async def test_what_is_refused_in_part_is_counted_once() -> None:
    """Also when the rest of the delivery needs a task."""
    edge = Edge(entry("1", tenant=10, secret="s1"), entry("2", tenant=20, secret="s2"))
    mixed = delivery(change("1", "a"), change("2", "b"), change("7", "c"))
    assert (await edge.post(mixed, secret="s1")).status == 200
    refused = edge.metrics.webhook_events.labels("whatsapp", "refused")
    assert refused._value.get() == 1


@pytest.mark.parametrize("key", [None, "key-1"])
async def test_a_signed_delivery_with_nothing_in_it_is_taken(key: str | None) -> None:
    edge = Edge(entry("1", tenant=10, secret="s1"))
    assert (await edge.post(delivery(), secret="s1", key=key)).status == 200
    assert len(edge.intake.deliveries) == (0 if key is None else 1)


@pytest.mark.parametrize("key", [None, "key-1"])
async def test_an_account_that_nobody_connected_is_parked(key: str | None) -> None:
    """Authentic and for an unknown number: kept by the landlord with its bytes, answered 200."""
    edge = Edge(entry("1", tenant=10, secret="s1"))
    body = json.dumps(delivery(change("77", "lost"))).encode()
    answer = await edge.post(body, secret="s1", key=key)
    assert answer.status == 200
    assert edge.intake.deliveries == []
    (parked,) = edge.landlord.parked
    assert (parked["external_id"], parked["reason"], parked["body"]) == ("77", "unknown_account", body)
    assert set(parked["headers"]) == KEPT
    assert edge.count("unrouted") == 1


async def test_a_parked_event_does_not_hold_up_its_neighbours() -> None:
    """Known and unknown accounts in one body: the one is handed on, the other parked."""
    edge = Edge(entry("1", tenant=10, secret="s1"))
    assert (await edge.post(delivery(change("77", "lost"), change("1", "found")), secret="s1")).status == 200
    assert edge.intake.texts() == {(10, 1001): ["found"]}
    assert len(edge.landlord.parked) == 1


async def test_an_event_about_the_parent_account_reaches_every_account_under_it() -> None:
    """A WABA's notice names no number: each of its numbers that the body's secret signs is told."""
    edge = Edge(
        entry("1", tenant=10, secret="s1", waba="900"),
        entry("2", tenant=10, secret="s1", waba="900"),
        entry("3", tenant=20, secret="s3", waba="900"),  # claims the same WABA with another app
    )
    notice = {"field": "account_alerts", "value": {"alert_severity": "INFORMATIONAL"}}
    assert (await edge.post(delivery(notice, waba="900"), secret="s1")).status == 200
    assert sorted(edge.intake.texts()) == [(10, 1001), (10, 1002)]


NOT_UNDERSTOOD = [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b'{"object":"page","entry":[]}', b"[" * 100_000]


@pytest.mark.parametrize("key", [None, "key-1"])
@pytest.mark.parametrize("body", NOT_UNDERSTOOD, ids=range(len(NOT_UNDERSTOOD)))
async def test_an_authentic_body_that_is_not_understood_is_kept(key: str | None, body: bytes) -> None:
    """Signed and not what the platform sends: stored as such and answered 200, else it comes for days."""
    edge = Edge(entry("1", tenant=10, secret="s1"))
    answer = await edge.post(body, secret="s1", key=key)
    assert answer.status == 200
    (kept,) = edge.intake.deliveries
    assert (kept.outcome, kept.body) == ("not_understood", body)
    assert [(endpoint.tenant_id, list(events)) for endpoint, events in kept.groups] == [(10, [])]
    assert (await edge.post(body, secret="wrong", key=key)).status == 401
    assert len(edge.intake.deliveries) == 1


async def test_an_unreadable_body_of_a_shared_app_stays_with_the_landlord() -> None:
    """When it could be for several tenants, none of them is shown it."""
    edge = Edge(entry("1", tenant=10, secret="app"), entry("2", tenant=20, secret="app"))
    assert (await edge.post(b"{", secret="app")).status == 200
    assert edge.intake.deliveries == []
    assert [parked["reason"] for parked in edge.landlord.parked] == ["not_understood"]


class Announcing(WhatsAppReceiver):
    """A platform that names its messages and does not hold them."""

    def parse(self, body: bytes, headers: Mapping[str, str] = NO_HEADERS) -> Sequence[RoutedEvent]:
        found = []
        for one in super().parse(body, headers):
            event = one.event
            assert isinstance(event, MessageReceived)
            named = Announced(contact=event.contact, kind="x", at=event.at, raw={"name": event.text})
            found.append(RoutedEvent(external_id=one.external_id, parent_id=one.parent_id, event=named))
        return found


async def test_what_is_announced_is_read_before_the_answer() -> None:
    """For its own account, in its place; while it cannot be read nothing is stored, and the platform keeps
    the delivery."""
    asked: list[tuple[int, str]] = []
    away = True

    async def read(endpoint: Endpoint, announced: Announced) -> Sequence[InboundEvent]:
        await trio.lowlevel.checkpoint()
        asked.append((endpoint.tenant_id, announced.raw["name"]))
        if away:
            raise Unavailable("Not now.", code="not_readable_now", retry_after_seconds=10.0)
        text, contact = f"read {announced.raw['name']}", announced.contact
        assert contact is not None
        return [
            MessageReceived(contact=contact, platform_id=text, at=NOW, type="text", content={}, text=text)
        ] * 2

    edge = Edge(entry("1", tenant=7, secret="a"), receiver=Announcing(), read=read)
    answer = await edge.post(delivery(change("1", "x", "y")), secret="a")
    assert (answer.status, answer.headers["Retry-After"]) == (503, "10")
    assert edge.intake.deliveries == []
    away = False
    asked.clear()
    assert (await edge.post(delivery(change("1", "x", "y")), secret="a")).status == 200
    assert asked == [(7, "x"), (7, "y")]
    assert edge.intake.texts() == {(7, 1001): ["read x", "read x", "read y", "read y"]}
    # Nobody's signature makes us call the platform.
    asked.clear()
    assert (await edge.post(delivery(change("1", "x")), secret="b")).status == 401
    assert asked == []


async def test_when_the_store_is_away_the_platform_is_told_to_come_back() -> None:
    """Unavailable becomes 503 with Retry-After, in the intake and in the parking; never a 200."""
    edge = Edge(entry("1", tenant=10, secret="s1"))
    edge.intake.error = StoreUnavailable("The database is away.", retry_after_seconds=3)
    answer = await edge.post(delivery(change("1", "a")), secret="s1")
    assert (answer.status, answer.headers["Retry-After"], failure(answer)) == (503, "3", "store_unavailable")
    edge.landlord.error = StoreUnavailable("The database is away.")
    answer = await edge.post(delivery(change("77", "a")), secret="s1")
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    assert edge.count("unavailable") == 2


@pytest.mark.parametrize("keyed", [False, True], ids=["signature", "key"])
async def test_a_tenant_that_floods_is_refused_at_its_share_and_the_others_are_not(keyed: bool) -> None:
    """Alone it may have two thirds of what may be in flight; then it alone hears 503 with Retry-After. The
    refusal is counted as such, and is no error of ours."""
    edge = Edge(
        entry("1", tenant=10, secret="s1"),
        entry("2", tenant=20, secret="s2"),
        limits=WebhookLimits(in_flight_max=12),
    )
    edge.intake.held = trio.Event()
    taken: list[int] = []

    async def post(number: str, text: str) -> None:
        answer = await edge.post(
            delivery(change(number, text)), secret=f"s{number}", key=f"key-{number}" if keyed else None
        )
        taken.append(answer.status)

    async with trio.open_nursery() as nursery:
        for count in range(8):
            nursery.start_soon(post, "1", f"flood {count}")
        await trio.testing.wait_all_tasks_blocked()
        with capture_logs() as logs:
            answer = await edge.post(
                delivery(change("1", "too much")), secret="s1", key="key-1" if keyed else None
            )
        assert (answer.status, failure(answer), answer.headers["Retry-After"]) == (503, "over_share", "2")
        assert [(line["event"], line["log_level"], line["tenant"]) for line in logs] == [
            ("webhook.refused", "warning", 10)
        ]
        for count in range(2):
            nursery.start_soon(post, "2", f"other {count}")
        await trio.testing.wait_all_tasks_blocked()
        assert taken == []
        edge.intake.held.set()
    assert taken == [200] * 10
    assert (edge.count("over_share"), edge.count("unavailable")) == (1, 0)
    assert edge.metrics.registry.get_sample_value("mijra_webhook_over_share_total", {"tenant": "10"}) == 1
    assert (await edge.post(delivery(change("1", "later")), secret="s1")).status == 200


async def test_bytes_in_flight_are_shared_out_as_well() -> None:
    """A few large bodies are a flood too."""
    edge = Edge(
        entry("1", tenant=10, secret="s1"),
        entry("2", tenant=20, secret="s2"),
        limits=WebhookLimits(in_flight_bytes_max=60_000),
    )
    edge.intake.held = trio.Event()
    async with trio.open_nursery() as nursery:
        for text in ("a", "b", "c"):
            nursery.start_soon(partial(edge.post, delivery(change("1", text * 14_000)), secret="s1"))
        await trio.testing.wait_all_tasks_blocked()
        answer = await edge.post(delivery(change("1", "small")), secret="s1")
        assert failure(answer) == "over_share"
        nursery.start_soon(partial(edge.post, delivery(change("2", "small")), secret="s2"))
        await trio.testing.wait_all_tasks_blocked()
        edge.intake.held.set()
    assert set(edge.intake.texts()) == {(10, 1001), (20, 1002)}


def test_the_series_of_tenants_that_flood_are_bounded() -> None:
    """The first fifty have their own, whoever comes later shares one."""
    metrics = Metrics(CollectorRegistry())
    for tenant in range(TENANTS_NAMED_MAX + 30):
        metrics.refuse_over_share(tenant)
        metrics.refuse_over_share(tenant)
    (family,) = [each for each in metrics.registry.collect() if each.name == "mijra_webhook_over_share"]
    counted = {
        sample.labels["tenant"]: sample.value for sample in family.samples if sample.name.endswith("_total")
    }
    assert len(counted) == TENANTS_NAMED_MAX + 1
    assert (counted["0"], counted["other"]) == (2, 60)


@pytest.mark.parametrize("way", ["handle"], indirect=True)  # what was begun ends by the intake's own time
async def test_a_commit_that_takes_too_long_is_a_503(autojump_clock: trio.testing.MockClock) -> None:
    """The edge's own deadline stands, whatever is behind it."""
    edge = Edge(entry("1", tenant=10, secret="s1"))
    edge.intake.held = trio.Event()
    answer = await edge.post(delivery(change("1", "a")), secret="s1")
    assert (answer.status, failure(answer)) == (503, "timeout")
    assert trio.current_time() == pytest.approx(WebhookLimits().answer_seconds_max)


@pytest.mark.parametrize("way", ["begin"], indirect=True)
async def test_what_was_begun_is_answered_in_time_and_once(autojump_clock: trio.testing.MockClock) -> None:
    """Whether it waits for its commit or still for its turn beside others: 503 at the deadline; what comes
    afterwards is nobody's answer, and everything is free again."""
    edge = Edge(entry("1", tenant=10, secret="s1"), entry("2", tenant=20, secret="s2"))
    edge.intake.held = trio.Event()
    answers: list[int] = []

    async def post(secret: str, number: str) -> None:
        answers.append((await edge.post(delivery(change(number, "a")), secret=secret)).status)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(post, "s2", "2")
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(AT_ONCE + 3):
            nursery.start_soon(post, "s1", "1")
        await trio.testing.wait_all_tasks_blocked()
        edge.webhooks.expire(trio.current_time() + WebhookLimits().answer_seconds_max)
        await trio.testing.wait_all_tasks_blocked()
        assert answers == [503] * (AT_ONCE + 4)
        edge.intake.held.set()
    await trio.testing.wait_all_tasks_blocked()
    assert len(edge.intake.deliveries) == AT_ONCE + 1  # the three were never begun
    assert (await edge.post(delivery(change("1", "b")), secret="s1")).status == 200
    for series in ("mijra_webhook_in_flight", "mijra_webhook_in_flight_bytes"):
        assert edge.metrics.registry.get_sample_value(series) == 0


@pytest.mark.parametrize(
    "limits",
    [WebhookLimits(in_flight_max=2), WebhookLimits(in_flight_bytes_max=1200)],
    ids=["count", "bytes"],
)
async def test_what_waits_is_bounded(limits: WebhookLimits) -> None:
    """Over the limit of deliveries or bytes in flight: 503 at once, and room again when they are done."""
    edge = Edge(entry("1", tenant=10, secret="s1"), limits=limits)
    edge.intake.held = trio.Event()
    async with trio.open_nursery() as nursery:
        for text in ("a", "b"):

            async def post(text: str = text) -> None:
                assert (await edge.post(delivery(change("1", text)), secret="s1")).status == 200

            nursery.start_soon(post)
        await trio.testing.wait_all_tasks_blocked()
        answer = await edge.post(delivery(change("1", "c")), secret="s1")
        assert (answer.status, failure(answer)) == (503, "overloaded")
        assert "Retry-After" in answer.headers
        edge.intake.held.set()
    assert (await edge.post(delivery(change("1", "d")), secret="s1")).status == 200


async def test_a_body_over_the_limit_is_refused_unread() -> None:
    """413 before any signature is computed."""
    edge = Edge(entry("1", tenant=10, secret="s1"), limits=WebhookLimits(body_bytes_max=100))
    answer = await edge.post(b"x" * 101, secret="s1")
    assert (answer.status, failure(answer)) == (413, "too_large")


async def test_a_bug_is_a_500_without_details() -> None:
    """Whatever breaks behind the edge: an envelope, a trace, the traceback in the log and nowhere else."""
    edge = Edge(entry("1", tenant=10, secret="s1"))
    edge.intake.error = RuntimeError("secret detail")
    with capture_logs() as lines:
        answer = await edge.post(delivery(change("1", "a")), secret="s1")
    assert (answer.status, failure(answer)) == (500, "internal")
    assert b"secret detail" not in answer.body
    crash = next(line for line in lines if line["event"] == "webhook.crashed")
    assert crash["trace"] == answer.headers["X-Request-Id"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/webhooks/nosuch", 404),
        ("/api/webhooks/", 404),
        ("/api/webhooks/whatsapp/a/b", 404),
        ("/api/webhooks/whatsapp/no-such-key", 404),
        ("/elsewhere", 404),
    ],
)
async def test_an_unknown_address_is_a_404(path: str, status: int) -> None:
    """No platform, no endpoint, no such path: nothing is read into it."""
    edge = Edge(entry("1", tenant=10, secret="s1"))
    answer = await edge.post(delivery(change("1", "a")), secret="s1", path=path)
    assert (answer.status, failure(answer)) == (status, "not_found")
    assert edge.intake.deliveries == []


async def test_other_methods_are_refused_with_what_is_allowed() -> None:
    """405 with Allow."""
    edge = Edge(entry("1", tenant=10, secret="s1"))
    answer = await edge.webhooks.handle("DELETE", "/api/webhooks/whatsapp", "", {}, b"")
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, POST")


# ------------------------------------------------------------------ the handshake


@pytest.mark.parametrize("path", ["/api/webhooks/whatsapp", "/api/webhooks/whatsapp/key-1"])
async def test_the_handshake_echoes_the_challenge(path: str) -> None:
    """The right token gets the challenge back as plain text; a wrong one gets 403."""
    edge = Edge(entry("1", tenant=10, secret="s1", verify_token="open"))
    query = "hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token="
    answer = await edge.webhooks.handle("GET", path, query + "open", {}, b"")
    assert (answer.status, answer.body) == (200, b"1158201444")
    assert answer.headers["Content-Type"].startswith("text/plain")
    refused = await edge.webhooks.handle("GET", path, query + "shut", {}, b"")
    assert (refused.status, failure(refused)) == (403, "forbidden")


async def test_a_keyed_handshake_takes_that_endpoints_token_alone() -> None:
    """Another account's token does not open this endpoint's URL; an unknown key opens nothing."""
    edge = Edge(
        entry("1", tenant=10, secret="s1", verify_token="one"),
        entry("2", tenant=20, secret="s2", verify_token="two"),
    )
    query = "hub.mode=subscribe&hub.challenge=1&hub.verify_token=two"
    for key, status in (("key-1", 403), ("key-2", 200), ("key-3", 403)):
        answer = await edge.webhooks.handle("GET", f"/api/webhooks/whatsapp/{key}", query, {}, b"")
        assert answer.status == status


# ------------------------------------------------------------------ the directory


async def test_the_directory_follows_what_is_connected() -> None:
    """Loaded at the start; what is added, changed or removed counts for the next delivery."""
    directory = Directory(open_plain)
    landlord = RecordingLandlord([entry("1", tenant=10, secret="s1", waba="900")])
    assert await directory.load(landlord) == 1
    directory.add(entry("2", tenant=10, secret="s1", waba="900"))
    assert [e.external_id for e in directory.by_parent("whatsapp", "900")] == ["1", "2"]
    assert len(directory.signers("whatsapp", limit=9)) == 1  # they share an app, whatever their tokens
    directory.add(entry("2", tenant=10, secret="s2", waba="901"))
    assert [e.external_id for e in directory.by_parent("whatsapp", "900")] == ["1"]
    assert len(directory.signers("whatsapp", limit=9)) == 2
    directory.remove("whatsapp", "2")
    directory.remove("whatsapp", "2")
    assert directory.by_key("whatsapp", "key-2") is None
    assert directory.by_account("whatsapp", "2") is None
    assert directory.by_parent("whatsapp", "901") == ()
    assert len(directory) == 1


async def test_an_account_whose_secrets_do_not_open_leaves_the_others_served() -> None:
    """One entry sealed with another master key is logged and left out."""
    broken = msgspec.structs.replace(entry("1", tenant=10, secret="x"), credentials=b"not json")
    directory = Directory(open_plain)
    with capture_logs() as lines:
        assert await directory.load(RecordingLandlord([broken, entry("2", tenant=20, secret="s2")])) == 1
    assert [line["event"] for line in lines] == ["directory.unreadable", "directory.loaded"]


# ------------------------------------------------------------------ over real sockets


@asynccontextmanager
async def served(edge: Edge, *, body_seconds_max: float = 5.0) -> AsyncIterator[int]:
    app = QuartTrio("test")
    app.config["MAX_CONTENT_LENGTH"] = None
    app.register_blueprint(webhook_blueprint(edge.webhooks, body_seconds_max=body_seconds_max))
    stop = trio.Event()
    async with trio.open_nursery() as nursery:

        async def run(task_status: trio.TaskStatus[int]) -> None:
            await serve(app, host="127.0.0.1", port=0, stop=stop, task_status=task_status)  # type: ignore[arg-type]

        yield await nursery.start(run)
        stop.set()


@pytest.mark.real_time
async def test_the_route_answers_as_the_function_does() -> None:
    """Through Hypercorn and Quart: delivery, handshake, bad signature, oversized body, wrong method."""
    edge = Edge(entry("1", tenant=10, secret="s1"), limits=WebhookLimits(body_bytes_max=200_000))
    raw = json.dumps(delivery(change("1", "مرحبا"))).encode()
    async with (
        served(edge) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_SECONDS) as client,
    ):
        url = "/api/webhooks/whatsapp"
        answer = await client.post(url, content=raw, headers=signed(raw, "s1"))
        assert answer.status_code == 200
        assert answer.json()["success"] is True
        assert edge.intake.deliveries[0].trace == answer.headers["X-Request-Id"]
        assert edge.intake.texts() == {(10, 1001): ["مرحبا"]}
        answer = await client.get(
            url, params={"hub.mode": "subscribe", "hub.challenge": "42", "hub.verify_token": "hello"}
        )
        assert (answer.status_code, answer.text) == (200, "42")
        assert (await client.post(url, content=raw, headers=signed(raw, "no"))).status_code == 401
        assert (await client.delete(url)).status_code == 405
        # Comes last: it is answered before the body is here, and nothing can follow on that connection.
        assert (await client.post(url, content=b"x" * 200_001)).status_code == 413


@pytest.mark.real_time
async def test_a_body_that_does_not_come_is_given_up() -> None:
    """A client that announces a body and stalls gets 408 and costs a few seconds, not a task forever."""
    edge = Edge(entry("1", tenant=10, secret="s1"))
    async with served(edge, body_seconds_max=0.2) as port:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        head = b"POST /api/webhooks/whatsapp HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf"
        await stream.send_all(head)
        with trio.fail_after(PATIENCE_SECONDS):
            assert b" 408 " in bytes(await stream.receive_some())
        await stream.aclose()
