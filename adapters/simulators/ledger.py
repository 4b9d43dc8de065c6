"""What the played platform knows for certain, to be compared with what the server under test claims.

Owns        One record for each thing told to the server (message, status, echo, other event), one for each
            send that was accepted, one for each read mark, and the attempts at telling.
Limits      `records_max` records in all (1 million by default, about 400 MB). When they are used up the
            ledger refuses with `Unavailable(code="ledger_full")`, because one that forgets could no longer
            prove anything. Details of single attempts are a convenience: the last 100 000 are kept, while
            the counts per record are exact.
Promises    `acknowledged_at` is set only by an HTTP 200 that was wholly received. Sends that carry the same
            callback data are listed by `duplicates()`.
Restart     Nothing is kept.
"""

from collections import Counter, deque
from collections.abc import Sequence
from typing import Any, Literal

from msgspec import Struct

from engine.errors import InvalidInput, Unavailable

FactKind = Literal["message", "status", "echo", "other"]

_ATTEMPTS_KEPT = 100_000
_PAYLOADS_KEPT = 10_000
"""Whole bodies of sends weigh about 1 KB; tests and people look at the latest ones."""
_MARKS_KEPT = 200_000
"""Read marks and typing signs carry no promise, so the oldest are let go."""


class Fact(Struct, kw_only=True, gc=False):
    """One thing that the platform tells the server. Times in ms since the epoch.

    `original_id` is the message that an edit or a deletion is about; `posted_at` when the first POST that
    carried the fact began."""

    kind: FactKind
    id: str
    status: str
    phone_number_id: str
    wa_id: str
    type: str
    created_at: int
    acknowledged_at: int | None = None
    attempts: int = 0
    acknowledgements: int = 0
    abandoned: bool = False
    original_id: str | None = None
    posted_at: int | None = None


class Send(Struct, kw_only=True, gc=False):
    """One send that the platform accepted. `answered` is false when a fault kept the answer back."""

    id: str
    phone_number_id: str
    recipient: str
    type: str
    callback_data: str | None
    accepted_at: int
    answered: bool = True


class Mark(Struct, frozen=True, kw_only=True, gc=False):
    """The server marked an inbound message as read, perhaps with a typing sign."""

    message_id: str
    phone_number_id: str
    typing: bool
    at: int


class Attempt(Struct, frozen=True, kw_only=True, gc=False):
    """One webhook POST. `outcome` is the HTTP status, or `timeout`, `refused`, `cut`."""

    delivery: int
    number: int
    outcome: str
    facts: int
    bytes: int
    milliseconds: float
    at: int


class Ledger:
    """The records, by kind and in the order in which they came to be."""

    def __init__(self, records_max: int = 1_000_000) -> None:
        self.records_max = records_max
        self.facts: list[Fact] = []
        self.sends: list[Send] = []
        self.marks: deque[Mark] = deque(maxlen=_MARKS_KEPT)
        self.attempts: deque[Attempt] = deque(maxlen=_ATTEMPTS_KEPT)
        self.refusals: Counter[int] = Counter()
        self.outcomes: Counter[str] = Counter()
        self._messages: dict[str, Fact] = {}
        self._sends: dict[str, Send] = {}
        self._by_callback: dict[str, list[str]] = {}
        self._payloads: dict[str, dict[str, Any]] = {}
        self._marks = 0
        self._attempts = 0

    def ensure_room(self) -> None:
        """`Unavailable(code="ledger_full")` when nothing more can be recorded."""
        if len(self.facts) + len(self.sends) >= self.records_max:
            raise Unavailable(
                f"The simulator's ledger holds {self.records_max} records and keeps every one; "
                "start a new simulator, or one with a larger ledger_records_max.",
                code="ledger_full",
            )

    def record_fact(self, fact: Fact) -> None:
        """A new thing to tell; refused when there is no room."""
        self.ensure_room()
        self.facts.append(fact)
        if fact.kind == "message":
            self._messages[fact.id] = fact

    def record_send(self, send: Send, payload: dict[str, Any]) -> None:
        """An accepted send; refused when there is no room."""
        self.ensure_room()
        self.sends.append(send)
        self._sends[send.id] = send
        if send.callback_data is not None:
            self._by_callback.setdefault(send.callback_data, []).append(send.id)
        self._payloads[send.id] = payload
        if len(self._payloads) > _PAYLOADS_KEPT:
            del self._payloads[next(iter(self._payloads))]

    def record_mark(self, mark: Mark) -> None:
        """A read mark."""
        self.marks.append(mark)
        self._marks += 1

    def record_refusal(self, code: int) -> None:
        """A Graph call that was answered with an error."""
        self.refusals[code] += 1

    def record_attempt(self, attempt: Attempt, facts: Sequence[Fact], *, acknowledged: bool) -> None:
        """One POST that carried `facts`."""
        self.attempts.append(attempt)
        self._attempts += 1
        self.outcomes[attempt.outcome] += 1
        for fact in facts:
            if not fact.attempts:
                fact.posted_at = round(attempt.at - attempt.milliseconds)
            fact.attempts += 1
            if acknowledged:
                fact.acknowledgements += 1
                fact.acknowledged_at = fact.acknowledged_at or attempt.at

    def message(self, message_id: str) -> Fact | None:
        """The record of a customer's message."""
        return self._messages.get(message_id)

    def send(self, message_id: str) -> Send | None:
        """The record of an accepted send."""
        return self._sends.get(message_id)

    def payload(self, message_id: str) -> dict[str, Any] | None:
        """The body of an accepted send, while it is among the latest 10 000."""
        return self._payloads.get(message_id)

    def sends_with(self, callback_data: str) -> list[str]:
        """Ids of the accepted sends that carried this callback data; more than one is a double send."""
        return list(self._by_callback.get(callback_data, ()))

    def acknowledged(self, kind: FactKind = "message") -> list[Fact]:
        """What the server has answered 200 for, and so must not lose."""
        return [fact for fact in self.facts if fact.kind == kind and fact.acknowledged_at is not None]

    def statuses_of(self, message_id: str) -> list[Fact]:
        """The statuses told of one send. Looks at every record; for tests."""
        return [fact for fact in self.facts if fact.kind == "status" and fact.id == message_id]

    def duplicates(self) -> dict[str, list[str]]:
        """Callback data -> ids, where the same data was accepted more than once."""
        return {data: list(ids) for data, ids in self._by_callback.items() if len(ids) > 1}

    def page(self, kind: str, after: int, limit: int) -> dict[str, Any]:
        """Records `after`, `after + 1`, … of a kind, at most `limit`; `InvalidInput` for an unknown kind.

        `next_after` continues. Kinds: facts, sends, marks, attempts, duplicates.
        """
        rows: Sequence[Any]
        forgotten = 0
        match kind:
            case "facts":
                rows = self.facts
            case "sends":
                rows = self.sends
            case "marks":
                rows, forgotten = list(self.marks), self._marks - len(self.marks)
            case "attempts":
                rows, forgotten = list(self.attempts), self._attempts - len(self.attempts)
            case "duplicates":
                rows = [{"callback_data": data, "ids": ids} for data, ids in self.duplicates().items()]
            case _:
                raise InvalidInput("kind is one of facts, sends, marks, attempts, duplicates")
        start = max(after - forgotten, 0)
        items = rows[start : start + limit]
        reached = forgotten + start + len(items)
        return {"items": items, "next_after": reached, "total": forgotten + len(rows), "forgotten": forgotten}

    def statistics(self) -> dict[str, Any]:
        """Counts. Walks all records: a second or so for a full ledger."""
        told = {kind: {"created": 0, "acknowledged": 0, "repeated": 0, "abandoned": 0} for kind in _KINDS}
        for fact in self.facts:
            count = told[fact.kind]
            count["created"] += 1
            count["acknowledged"] += fact.acknowledged_at is not None
            count["repeated"] += max(fact.acknowledgements - 1, 0)
            count["abandoned"] += fact.abandoned
        took = sorted(
            attempt.milliseconds for attempt in list(self.attempts)[-10_000:] if attempt.outcome == "200"
        )
        return {
            "told": told,
            "attempts": {"total": self._attempts, "by_outcome": dict(self.outcomes)},
            "acknowledge_ms": {"p50": _quantile(took, 0.5), "p99": _quantile(took, 0.99)},
            "sends": {
                "accepted": len(self.sends),
                "unanswered": sum(not send.answered for send in self.sends),
                "duplicated": len(self.duplicates()),
                "refused": {str(code): count for code, count in self.refusals.items()},
            },
            "marks": self._marks,
            "records": {"used": len(self.facts) + len(self.sends), "limit": self.records_max},
        }


_KINDS: tuple[FactKind, ...] = ("message", "status", "echo", "other")


def _quantile(ordered: Sequence[float], q: float) -> float | None:
    return round(ordered[int(q * (len(ordered) - 1))], 2) if ordered else None
