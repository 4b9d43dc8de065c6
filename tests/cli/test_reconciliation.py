"""The demo's verdict: a clean run is clean, and each kind of loss, doubling and invention is found."""

from collections.abc import Callable

import pytest
from msgspec import structs

from adapters.simulators.ledger import Fact, Send
from gateway.cli.demo.reconciliation import Check, Evidence, StoredMessage, reconcile

NUMBER = "106540352242000"


def _fact(fact_id: str, kind: str = "message", **members: object) -> Fact:
    told = {"status": "", "type": "text", "acknowledged_at": 2_000, "attempts": 1, "acknowledgements": 1}
    fixed = {"kind": kind, "id": fact_id, "phone_number_id": NUMBER, "wa_id": "15550100001"}
    return Fact(**{**fixed, "created_at": 1_000, **told, **members})  # type: ignore[arg-type]


def _stored(message_id: int, seq: int, platform_id: str, **members: object) -> StoredMessage:
    told = {"direction": "inbound", "status": "received", "conversation_id": 7}
    return StoredMessage(id=message_id, seq=seq, platform_message_id=platform_id, **{**told, **members})  # type: ignore[arg-type]


def _send(send_id: str, callback_data: str | None) -> Send:
    return Send(
        id=send_id,
        phone_number_id=NUMBER,
        recipient="15550100001",
        type="text",
        callback_data=callback_data,
        accepted_at=3_000,
    )


def _clean() -> Evidence:
    """Two messages, a third that was edited and deleted, and one reply that was read."""
    return Evidence(
        facts=[
            _fact("wamid.1"),
            _fact("wamid.2"),
            _fact("wamid.3"),
            _fact("wamid.4", type="edit", original_id="wamid.3"),
            _fact("wamid.5", type="revoke", original_id="wamid.3"),
            _fact("wamid.out", "status", status="delivered"),
            _fact("wamid.out", "status", status="read"),
        ],
        sends=[_send("wamid.out", "104")],
        stored=[
            _stored(101, 1, "wamid.1"),
            _stored(102, 2, "wamid.2"),
            _stored(103, 3, "wamid.3", edited=True, deleted=True),
            _stored(104, 4, "wamid.out", direction="outbound", status="read"),
        ],
        pushed={101: 1, 102: 1, 103: 1, 104: 1},
        changed={103: {"edited", "deleted"}},
        replies={104},
    )


def _found(evidence: Evidence) -> dict[str, Check]:
    return {check.name: check for check in reconcile(evidence) if not check.clean}


def test_a_run_in_which_nothing_went_wrong_is_clean() -> None:
    """No check finds anything, and each has looked at something."""
    checks = reconcile(_clean())
    assert [check for check in checks if check.problems] == []
    assert all(check.looked_at for check in checks)


def test_an_empty_run_proves_nothing() -> None:
    """Every check fails when there was nothing to compare."""
    empty = Evidence(facts=[], sends=[], stored=[], pushed={}, changed={}, replies=set())
    assert not any(check.clean for check in reconcile(empty))


def _without(evidence: Evidence, message_id: int) -> Evidence:
    rows = [row for row in evidence.stored if row.id != message_id]
    return structs.replace(evidence, stored=rows)


def _with_row(evidence: Evidence, row: StoredMessage) -> Evidence:
    rows = [each for each in evidence.stored if each.id != row.id]
    return structs.replace(evidence, stored=[*rows, row])


DOCTORED: dict[str, tuple[Callable[[Evidence], Evidence], str]] = {
    "an acknowledged message is lost": (
        lambda e: _without(e, 102),
        "acknowledged: in the database once",
    ),
    "an acknowledged message is stored twice": (
        lambda e: _with_row(e, _stored(105, 5, "wamid.1")),
        "acknowledged: in the database once",
    ),
    "a message is never acknowledged": (
        lambda e: structs.replace(e, facts=[*e.facts, _fact("wamid.9", acknowledged_at=None)]),
        "every message was acknowledged",
    ),
    "an edit had no effect": (
        lambda e: _with_row(e, _stored(103, 3, "wamid.3", deleted=True)),
        "acknowledged: in the database once",
    ),
    "a deletion had no effect": (
        lambda e: _with_row(e, _stored(103, 3, "wamid.3", edited=True)),
        "acknowledged: in the database once",
    ),
    "an edit is lost with its message": (
        lambda e: structs.replace(
            e, facts=[*e.facts, _fact("wamid.8", type="edit", original_id="wamid.never")]
        ),
        "acknowledged: in the database once",
    ),
    "a message that nobody wrote is stored": (
        lambda e: _with_row(e, _stored(105, 5, "wamid.ghost")),
        "in the database: nothing else",
    ),
    "a message is not pushed": (
        lambda e: structs.replace(e, pushed={101: 1, 103: 1, 104: 1}),
        "stored: pushed once",
    ),
    "a message is pushed twice": (
        lambda e: structs.replace(e, pushed={**e.pushed, 101: 2}),
        "stored: pushed once",
    ),
    "a reply is not pushed to colleagues": (
        lambda e: structs.replace(e, pushed={101: 1, 102: 1, 103: 1}),
        "stored: pushed once",
    ),
    "an edit is not pushed": (
        lambda e: structs.replace(e, changed={103: {"deleted"}}),
        "stored: pushed once",
    ),
    "something is pushed that is not stored": (
        lambda e: structs.replace(e, pushed={**e.pushed, 999: 1}),
        "pushed: nothing else, in order",
    ),
    "a gap is announced": (
        lambda e: structs.replace(e, gaps=1),
        "pushed: nothing else, in order",
    ),
    "events come out of order": (
        lambda e: structs.replace(e, disordered=1),
        "pushed: nothing else, in order",
    ),
    "a reply never reaches the platform": (
        lambda e: structs.replace(e, sends=[_send("wamid.out", None)]),
        "every reply reached the platform once",
    ),
    "a reply reaches the platform twice": (
        lambda e: structs.replace(e, sends=[*e.sends, _send("wamid.again", "104")]),
        "every reply reached the platform once",
    ),
    "an accepted reply is not stored": (
        lambda e: structs.replace(e, replies={104, 106}),
        "every reply reached the platform once",
    ),
    "something reaches the platform that nobody wrote": (
        lambda e: structs.replace(e, sends=[*e.sends, _send("wamid.other", "555")]),
        "reached the platform: nothing else",
    ),
    "something reaches the platform without our id": (
        lambda e: structs.replace(e, sends=[*e.sends, _send("wamid.other", None)]),
        "reached the platform: nothing else",
    ),
    "a status is lost": (
        lambda e: _with_row(e, _stored(104, 4, "wamid.out", direction="outbound", status="delivered")),
        "statuses: as far as the platform said",
    ),
    "a sequence number is skipped": (
        lambda e: _with_row(e, _stored(104, 5, "wamid.out", direction="outbound", status="read")),
        "sequence numbers: no gap, no double",
    ),
    "a sequence number is given twice": (
        lambda e: _with_row(e, _stored(104, 3, "wamid.out", direction="outbound", status="read")),
        "sequence numbers: no gap, no double",
    ),
}


@pytest.mark.parametrize("what", DOCTORED)
def test_each_kind_of_damage_is_found_by_its_check(what: str) -> None:
    """Doctoring one thing in a clean run makes the check that is about it fail."""
    doctor, name = DOCTORED[what]
    assert name in _found(doctor(_clean()))


def test_an_edit_that_came_before_its_message_is_a_message_of_its_own() -> None:
    """Then it is stored under its own id, and the original needs no mark."""
    evidence = _clean()
    facts = [*evidence.facts, _fact("wamid.6", type="edit", original_id="wamid.1")]
    rows = [*evidence.stored, _stored(105, 5, "wamid.6")]
    pushed = {**evidence.pushed, 105: 1}
    assert _found(structs.replace(evidence, facts=facts, stored=rows, pushed=pushed)) == {}


def test_what_an_earlier_run_left_over_is_not_held_against_this_one() -> None:
    """Ids up to the newest of before are neither invented pushes nor invented sends."""
    evidence = _clean()
    late = structs.replace(
        evidence,
        sends=[*evidence.sends, _send("wamid.late", "90")],
        pushed={**evidence.pushed, 90: 1},
        earlier_id=100,
    )
    assert _found(late) == {}


def test_a_message_stored_without_an_acknowledgement_is_not_invented() -> None:
    """The answer may have been lost on its way: the platform asks again, and the row is right."""
    evidence = _clean()
    facts = [*evidence.facts, _fact("wamid.6", acknowledged_at=None)]
    rows = [*evidence.stored, _stored(105, 5, "wamid.6")]
    found = _found(structs.replace(evidence, facts=facts, stored=rows, pushed={**evidence.pushed, 105: 1}))
    assert list(found) == ["every message was acknowledged"]
