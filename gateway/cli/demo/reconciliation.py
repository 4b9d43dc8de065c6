"""Did anything get lost, doubled or invented? The comparison at the end of the demo. Pure.

Three witnesses who do not know of each other are put side by side: what the platform has proof of (its
ledger), what is in the database, and what the agents' side saw and did (pushes, accepted replies). Each check
names what it looked at and lists every disagreement; a check with nothing to look at fails, because an empty
run proves nothing.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from msgspec import Struct

from adapters.simulators.ledger import Fact, Send

_RANK: Final = {"sent": 1, "failed": 1, "delivered": 2, "read": 3, "played": 3}
"""How far a message has got. `played` (voice) is read, for the message."""


class StoredMessage(Struct, frozen=True, kw_only=True):
    """One row of the demo tenant's messages."""

    id: int
    conversation_id: int
    seq: int
    direction: str
    platform_message_id: str | None
    status: str
    edited: bool = False
    deleted: bool = False


class Evidence(Struct, frozen=True, kw_only=True):
    """What the three witnesses say.

    `stored`: the rows of this run, those with an id above `earlier_id`, the highest before it began (0: there
    were none). `pushed`: message id to how often an event brought it, and `changed`: message id to what
    events said of it later ("edited", "deleted"). `replies`: ids of messages that the API accepted with 201.
    `without_our_id`: accounts on platforms that take no id of ours with a message.
    """

    facts: Sequence[Fact]
    sends: Sequence[Send]
    stored: Sequence[StoredMessage]
    pushed: Mapping[int, int]
    changed: Mapping[int, Collection[str]]
    replies: Collection[int]
    gaps: int = 0
    disordered: int = 0
    earlier_id: int = 0
    without_our_id: Collection[str] = ()


class Check(Struct, frozen=True, kw_only=True):
    """`looked_at` things were compared; `problems` has a sentence for each that does not agree."""

    name: str
    looked_at: int
    problems: tuple[str, ...]

    @property
    def clean(self) -> bool:
        return not self.problems


def reconcile(evidence: Evidence) -> list[Check]:
    """All checks, whatever each finds. The run was clean when all of them are."""
    messages = [fact for fact in evidence.facts if fact.kind == "message"]
    acknowledged = [fact for fact in messages if fact.acknowledged_at is not None]
    return [
        _check("every message was acknowledged", messages, _unacknowledged(messages)),
        _check("acknowledged: in the database once", acknowledged, _not_stored_once(acknowledged, evidence)),
        _check("in the database: nothing else", _inbound(evidence), _invented(messages, evidence)),
        _check("stored: pushed once", evidence.stored, _not_pushed_once(acknowledged, evidence)),
        _check("pushed: nothing else, in order", evidence.pushed, _pushed_wrongly(evidence)),
        _check("every reply reached the platform once", _expected(evidence), _not_sent_once(evidence)),
        _check("reached the platform: nothing else", evidence.sends, _sent_wrongly(evidence)),
        _check("statuses: as far as the platform said", evidence.sends, _behind(evidence)),
        _check("sequence numbers: no gap, no double", evidence.stored, _out_of_sequence(evidence)),
    ]


def _check(name: str, looked_at: Collection[object], problems: Iterable[str]) -> Check:
    found = tuple(problems)
    if not looked_at and not found:
        found = ("nothing to look at",)
    return Check(name=name, looked_at=len(looked_at), problems=found)


# ------------------------------------------------------------------ inbound


def _unacknowledged(messages: Sequence[Fact]) -> Iterable[str]:
    for fact in messages:
        if fact.acknowledged_at is None:
            yield f"{fact.id} ({fact.type}) was never acknowledged, after {fact.attempts} attempts"


def _not_stored_once(acknowledged: Sequence[Fact], evidence: Evidence) -> Iterable[str]:
    rows = _by_platform_id(evidence)
    for fact in acknowledged:
        count = len(rows[fact.id])
        if count > 1:
            yield f"{fact.id} ({fact.type}) is stored {count} times"
        elif count == 0 and fact.original_id is None:
            yield f"{fact.id} ({fact.type}) is lost"
        elif count == 0:
            yield from _not_changed(fact, rows[fact.original_id or ""])


def _not_changed(fact: Fact, originals: Sequence[StoredMessage]) -> Iterable[str]:
    """An edit or deletion is not a message of its own, unless it came before the message it is about."""
    if not originals:
        yield f"{fact.id} ({fact.type}) is lost, and so is {fact.original_id} that it is about"
    for original in originals:
        if not (original.deleted if fact.type == "revoke" else original.edited):
            yield f"{fact.id} ({fact.type}) has not changed message {original.id}"


def _invented(messages: Sequence[Fact], evidence: Evidence) -> Iterable[str]:
    told = {fact.id for fact in messages}
    for row in _inbound(evidence):
        if row.platform_message_id not in told:
            yield f"message {row.id} has the id {row.platform_message_id}, which nobody wrote"


# ------------------------------------------------------------------ pushed


def _not_pushed_once(acknowledged: Sequence[Fact], evidence: Evidence) -> Iterable[str]:
    for row in evidence.stored:
        count = evidence.pushed.get(row.id, 0)
        if count != 1:
            yield f"message {row.id} ({row.direction}) was pushed {_times(count)}"
    rows = _by_platform_id(evidence)
    for fact in acknowledged:
        if fact.original_id is None or rows[fact.id]:
            continue
        what = "deleted" if fact.type == "revoke" else "edited"
        for original in rows[fact.original_id]:
            if what not in evidence.changed.get(original.id, ()):
                yield f"that message {original.id} was {what} was not pushed"


def _pushed_wrongly(evidence: Evidence) -> Iterable[str]:
    stored = {row.id for row in evidence.stored}
    for message_id in evidence.pushed:
        if message_id not in stored and message_id > evidence.earlier_id:
            yield f"message {message_id} was pushed and is not stored"
    if evidence.gaps:
        yield f"{evidence.gaps} gaps were announced"
    if evidence.disordered:
        yield f"{evidence.disordered} events came out of order or twice"


# ------------------------------------------------------------------ outbound


def _not_sent_once(evidence: Evidence) -> Iterable[str]:
    ids = _message_of(evidence)
    sent = Counter(ids.get(send.id) for send in evidence.sends)
    outbound = {row.id: row for row in _outbound(evidence)}
    for message_id in sorted(_expected(evidence)):
        row = outbound.get(message_id)
        if row is None:
            yield f"reply {message_id} was accepted and is not stored"
            continue
        count = sent[str(message_id)]
        if count != 1:
            yield f"reply {message_id} ({row.status}) reached the platform {_times(count)}"


def _sent_wrongly(evidence: Evidence) -> Iterable[str]:
    ours = {str(row.id) for row in _outbound(evidence)}
    ids = _message_of(evidence)
    for send in evidence.sends:
        data = ids.get(send.id)
        if data is None:
            yield f"{send.id} was sent without our id, and no message has it"
        elif data not in ours and not _is_earlier(data, evidence.earlier_id):
            yield f"{send.id} was sent for message {data}, which is not stored"


def _behind(evidence: Evidence) -> Iterable[str]:
    reached: dict[str, int] = defaultdict(int)
    for fact in evidence.facts:
        if fact.kind == "status" and fact.acknowledged_at is not None:
            reached[fact.id] = max(reached[fact.id], _RANK.get(fact.status, 0))
    by_id = {str(row.id): row for row in _outbound(evidence)}
    ids = _message_of(evidence)
    for send in evidence.sends:
        row = by_id.get(ids.get(send.id) or "")
        if row is not None and _RANK.get(row.status, 0) < reached[send.id]:
            yield f"reply {row.id} is {row.status}; the platform said more"


def _out_of_sequence(evidence: Evidence) -> Iterable[str]:
    numbers: dict[int, list[int]] = defaultdict(list)
    for row in evidence.stored:
        numbers[row.conversation_id].append(row.seq)
    for conversation_id, found in numbers.items():
        if sorted(found) != list(range(min(found), min(found) + len(found))):
            yield f"conversation {conversation_id} has {len(found)} messages up to number {max(found)}"


# ------------------------------------------------------------------ small parts


def _message_of(evidence: Evidence) -> dict[str, str | None]:
    """Our id of what was sent, by the platform's. Where the platform takes none of ours, the message that was
    given the platform's id is the one; a second send of it would have another id, and no message."""
    rows = {row.platform_message_id: str(row.id) for row in _outbound(evidence)}
    return {
        send.id: rows.get(send.id) if send.phone_number_id in evidence.without_our_id else send.callback_data
        for send in evidence.sends
    }


def _by_platform_id(evidence: Evidence) -> dict[str, list[StoredMessage]]:
    rows: dict[str, list[StoredMessage]] = defaultdict(list)
    for row in evidence.stored:
        rows[row.platform_message_id or ""].append(row)
    return rows


def _inbound(evidence: Evidence) -> list[StoredMessage]:
    return [row for row in evidence.stored if row.direction == "inbound"]


def _outbound(evidence: Evidence) -> list[StoredMessage]:
    """What we sent; what the business wrote on its phone is told by the platform and not sent to it."""
    echoed = {fact.id for fact in evidence.facts if fact.kind == "echo"}
    return [
        row
        for row in evidence.stored
        if row.direction == "outbound" and row.platform_message_id not in echoed
    ]


def _expected(evidence: Evidence) -> set[int]:
    return {row.id for row in _outbound(evidence)} | set(evidence.replies)


def _is_earlier(callback_data: str, earlier_id: int) -> bool:
    """Left over by a run before this one on the same data, and sent when the server came back."""
    return callback_data.isdecimal() and int(callback_data) <= earlier_id


def _times(count: int) -> str:
    return {0: "never", 2: "twice"}.get(count, f"{count} times")
