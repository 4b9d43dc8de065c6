"""What the demo's table shows, from a ledger and events that are written here."""

import time
from typing import Any

from adapters.simulators.ledger import Attempt, Fact, Ledger
from gateway.cli.demo.screen import plain
from gateway.cli.demo.tally import Tally


def _told(ledger: Ledger, fact_id: str, *, acknowledged: bool = True, original_id: str | None = None) -> None:
    fact = Fact(
        kind="message",
        id=fact_id,
        status="",
        phone_number_id="1",
        wa_id="15550100001",
        type="text",
        created_at=0,
        original_id=original_id,
    )
    ledger.record_fact(fact)
    now = time.time_ns() // 1_000_000
    attempt = Attempt(delivery=1, number=1, outcome="200", facts=1, bytes=1, milliseconds=20.0, at=now)
    ledger.record_attempt(attempt, [fact], acknowledged=acknowledged)


def _event(name: str, message_id: int, *, newest: bool = True, **message: Any) -> dict[str, Any]:
    shown = {"id": message_id, "direction": "inbound", "type": "text", "sender": {"name": "Mei"}, **message}
    last = {"seq": message.get("seq", 1) + (not newest), "preview": "Hello"}
    conversation = {
        "id": 7,
        "platform": "whatsapp",
        "customer": {"name": "Amelia Walker"},
        "last_message": last,
    }
    return {"name": name, "data": {"message": shown, "conversation": conversation}}


def test_a_message_is_counted_at_each_stage_once() -> None:
    """Refreshing again changes nothing, and a second push is remembered for the verdict."""
    ledger = Ledger()
    tally = Tally(ledger)
    _told(ledger, "wamid.1")
    _told(ledger, "wamid.2", acknowledged=False)
    tally.hear(_event("message.received", 101, platform_message_id="wamid.1", seq=1))
    tally.hear(_event("message.received", 101, platform_message_id="wamid.1", seq=1))
    for _ in range(2):
        counts = tally.refresh()
        assert (counts.received, counts.acknowledged, counts.pushed) == (2, 1, 1)
    assert tally.pushed == {101: 2}
    (share,) = tally.shares.values()
    assert (share.conversations, share.received, share.replies) == ({7}, 1, 0)


def test_latency_is_measured_whether_the_push_or_the_acknowledgement_comes_first() -> None:
    """From the beginning of the POST, 20 ms before its end here, to the moment when the event came."""
    ledger = Ledger()
    tally = Tally(ledger)
    tally.hear(_event("message.received", 101, platform_message_id="wamid.1", seq=1))
    _told(ledger, "wamid.1")
    first = tally.refresh()
    _told(ledger, "wamid.2")
    assert tally.refresh().p99_ms == first.p99_ms
    tally.hear(_event("message.received", 102, platform_message_id="wamid.2", seq=2))
    second = tally.refresh()
    assert first.p50_ms is not None
    assert second.p99_ms is not None
    assert second.p99_ms >= 20


def test_an_edit_waits_for_no_push_of_its_own() -> None:
    """It is acknowledged and changes another message; nothing stays open for it."""
    ledger = Ledger()
    tally = Tally(ledger)
    _told(ledger, "wamid.2", original_id="wamid.1")
    assert tally.refresh().acknowledged == 1
    assert tally.refresh().p50_ms is None


def test_statuses_count_messages_and_read_implies_delivered() -> None:
    """`read` without `delivered` happens on the real platform."""
    tally = Tally(Ledger())
    for status in ("delivered", "delivered", "read"):
        tally.hear({"name": "message.status.updated", "data": {"id": 5, "status": status}})
    tally.hear({"name": "message.status.updated", "data": {"id": 6, "status": "read"}})
    counts = tally.refresh()
    assert (counts.delivered, counts.read) == (2, 2)


def test_the_line_over_the_shoulder_names_customer_speaker_and_text() -> None:
    """A preview belongs to the newest message alone; another's is shown by its type."""
    tally = Tally(Ledger())
    tally.hear(_event("message.received", 1, platform_message_id="a", seq=1))
    tally.hear(_event("message.sent", 2, direction="outbound", seq=9, type="image", newest=False))
    assert [(line.customer, line.agent) for line in tally.lines] == [
        ("Amelia Walker", None),
        ("Amelia Walker", "Mei"),
    ]
    assert [line.text for line in tally.lines] == ["Hello", "(image)"]


def test_the_plain_line_has_every_count() -> None:
    """What a log file or a pipe shows is what the table shows."""
    text = plain("settling", 12.0, Tally(Ledger()).refresh())
    for word in ("settling", "received 0", "acknowledged 0", "stored 0", "pushed 0", "p99 - ms"):
        assert word in text
