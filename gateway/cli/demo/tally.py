"""What has happened so far: counted from the platform's ledger and from what the WebSocket brought.

Counts only go forward, so a refresh looks at new records and at those that are still open, not at all.

Limits     the latest `LATENCIES_KEPT` latencies and `LINES_KEPT` lines of conversation.
"""

import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

from msgspec import Struct

from adapters.simulators.ledger import Fact, Ledger

LATENCIES_KEPT: Final = 20_000
LINES_KEPT: Final = 8


class Line(Struct, frozen=True):
    """One message, as somebody looking over the agents' shoulders sees it; no `agent`: the customer wrote."""

    customer: str
    agent: str | None
    text: str
    platform: str


class Share(Struct, kw_only=True):
    """What one channel has of the inbox; `replies` are agents' and automatic ones."""

    conversations: set[int]
    received: int = 0
    replies: int = 0


class Counts(Struct, frozen=True, kw_only=True):
    """The columns of the table. Latencies in milliseconds, from the webhook's first byte to the screen."""

    received: int
    acknowledged: int
    stored: int
    pushed: int
    sent: int
    delivered: int
    read: int
    p50_ms: float | None
    p99_ms: float | None


class Tally:
    """`hear` takes the events of the inbox, `refresh` reads the ledger, `stored` is told from outside."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._facts_seen = 0
        self._open: list[Fact] = []
        self._unmeasured: list[Fact] = []
        self._received = 0
        self._acknowledged = 0
        self._inbound_pushed = 0
        self._shown_at: dict[str, int] = {}
        self._latencies: deque[int] = deque(maxlen=LATENCIES_KEPT)
        self._delivered: set[int] = set()
        self._read: set[int] = set()
        self.stored = 0
        self.pushed: dict[int, int] = {}
        self.changed: dict[int, set[str]] = {}
        self.shares: dict[str, Share] = {}
        self.lines: deque[Line] = deque(maxlen=LINES_KEPT)

    def hear(self, event: dict[str, Any]) -> None:
        """One event of the tenant's inbox, at the moment when it came."""
        data = event["data"]
        match event["name"]:
            case "message.received" | "message.sent":
                self._message(data["message"], data["conversation"])
            case "message.updated":
                said = self.changed.setdefault(data["id"], set())
                said.update(word for word in ("edited", "deleted") if data.get(f"{word}_at"))
            case "message.status.updated":
                if data["status"] in ("delivered", "read"):
                    self._delivered.add(data["id"])
                if data["status"] == "read":
                    self._read.add(data["id"])
            case _:
                pass  # assignments, notes and the like are not counted

    def _message(self, message: dict[str, Any], conversation: dict[str, Any]) -> None:
        times = self.pushed[message["id"]] = self.pushed.get(message["id"], 0) + 1
        inbound = message["direction"] == "inbound"
        if inbound and times == 1:
            self._inbound_pushed += 1
            self._shown_at[message["platform_message_id"]] = time.time_ns() // 1_000_000
        platform = conversation["platform"]
        if times == 1:
            share = self.shares.setdefault(platform, Share(conversations=set()))
            share.conversations.add(conversation["id"])
            share.received += inbound
            share.replies += not inbound
        last = conversation["last_message"]
        customer = conversation["customer"]["name"]
        preview = last["preview"] if last is not None and last["seq"] == message["seq"] else ""
        agent = None if inbound else message["sender"]["name"] or "automatic reply"
        self.lines.append(Line(customer, agent, preview or f"({message['type']})", platform))

    def refresh(self) -> Counts:
        """The counts of now."""
        facts = self._ledger.facts
        new = [fact for fact in facts[self._facts_seen :] if fact.kind == "message"]
        self._facts_seen = len(facts)
        self._received += len(new)
        acknowledged, self._open = _split([*self._open, *new])
        self._acknowledged += len(acknowledged)
        self._unmeasured = [fact for fact in [*self._unmeasured, *acknowledged] if not self._measured(fact)]
        ordered = sorted(self._latencies)
        return Counts(
            received=self._received,
            acknowledged=self._acknowledged,
            stored=self.stored,
            pushed=self._inbound_pushed,
            sent=len(self._ledger.sends),
            delivered=len(self._delivered),
            read=len(self._read),
            p50_ms=_quantile(ordered, 0.5),
            p99_ms=_quantile(ordered, 0.99),
        )

    def _measured(self, fact: Fact) -> bool:
        """Whether there is nothing more to wait for: an edit is not shown as a message, all else is."""
        shown_at = self._shown_at.pop(fact.id, None)
        if shown_at is not None and fact.posted_at is not None:
            self._latencies.append(shown_at - fact.posted_at)
        return shown_at is not None or fact.original_id is not None


def _split(facts: Sequence[Fact]) -> tuple[list[Fact], list[Fact]]:
    """Those that are acknowledged, and the others."""
    acknowledged = [fact for fact in facts if fact.acknowledged_at is not None]
    return acknowledged, [fact for fact in facts if fact.acknowledged_at is None]


def _quantile(ordered: Sequence[int], q: float) -> float | None:
    return float(ordered[int(q * (len(ordered) - 1))]) if ordered else None
