"""The comparison of `bench.chaos` finds what it is there to find."""

from typing import Any

import pytest

from adapters.simulators import demo_account
from bench.chaos.customers import request_of
from bench.chaos.ledger import Account, Pushed, Violations
from bench.chaos.system import Business

Rows = list[tuple[Any, ...]]


def account() -> Account:
    business = Business(id=1, slug="shop", placement="own", token="t", account=demo_account())
    made = Account(business, "RUN", Violations())
    made.next_numbers(10)
    return made


def received(made: Account, cursor: int, number: int, *, seq: int | None = None) -> tuple[Any, ...]:
    """The row of a message's arrival: cursor, name, id, conversation, seq, direction, platform id, key."""
    return (
        cursor,
        "message.received",
        100 + number,
        7,
        seq or cursor,
        "inbound",
        made.platform_id(number),
        None,
    )


def compared(made: Account, rows: Rows) -> dict[str, int]:
    made.compare(made.promised(), rows)
    return dict(made.violations.counts)


def test_what_is_as_promised_is_no_violation() -> None:
    """Also what is there without having been acknowledged: its sender will send it again."""
    made = account()
    made.acknowledge([0, 1])
    made.answer("k1", 900)
    rows: Rows = [received(made, 1, 0), received(made, 2, 1), received(made, 3, 2)]
    rows.append((4, "message.sent", 900, 7, 4, "outbound", None, "k1"))
    rows.append((5, "message.status", None, None, None, None, None, None))
    assert compared(made, rows) == {}
    assert (made.messages, made.webhooks, made.cursor) == (2, 1, 5)


def test_a_repetition_is_acknowledged_once() -> None:
    made = account()
    made.acknowledge([0])
    made.acknowledge([0, 1])
    assert (made.messages, made.webhooks) == (2, 2)


@pytest.mark.parametrize(
    ("cursors_and_numbers", "kind"),
    [
        ([(1, 0, 1)], "lost"),
        ([(1, 0, 1), (2, 1, 2), (3, 1, 3)], "doubled"),
        ([(1, 0, 1), (3, 1, 2)], "gap"),
        ([(1, 0, 1), (2, 1, 3)], "gap"),
        ([(1, 1, 1), (2, 0, 2)], "out of order"),
    ],
    ids=["lost", "doubled", "a cursor missing", "a sequence number missing", "the wrong order"],
)
def test_each_kind_of_difference_is_found(cursors_and_numbers: list[tuple[int, int, int]], kind: str) -> None:
    made = account()
    made.acknowledge([0, 1])
    rows = [received(made, cursor, number, seq=seq) for cursor, number, seq in cursors_and_numbers]
    assert compared(made, rows) == {kind: 1}


def test_a_send_that_is_not_there_or_there_twice_or_answered_in_two_ways_is_found() -> None:
    made = account()
    made.answer("gone", 900)
    made.answer("twice", 901)
    made.answer("twice", 902)
    rows: Rows = [(1, "message.sent", 901, 7, 1, "outbound", None, "twice")]
    rows.append((2, "message.sent", 902, 7, 2, "outbound", None, "twice"))
    assert compared(made, rows) == {"lost": 1, "doubled": 2}


def test_an_event_without_its_message_and_a_message_that_nobody_wrote_are_found() -> None:
    made = account()
    rows: Rows = [(1, "message.received", None, None, None, None, None, None)]
    rows.append((2, "message.received", 5, 7, 1, "inbound", "wamid.somebody", None))
    assert compared(made, rows) == {"lost": 1, "invented": 1}


@pytest.mark.parametrize(
    ("pushed", "kinds"),
    [
        ([(1, 100), (2, 101)], {}),
        ([(1, 100)], {"not pushed": 1}),
        ([(1, 100), (1, 100), (2, 101)], {"pushed twice": 1}),
        ([(1, 100), (2, 999)], {"not pushed": 1, "pushed twice": 1}),
    ],
)
def test_a_screen_is_compared_with_the_log(pushed: list[tuple[int, int]], kinds: dict[str, int]) -> None:
    """As far as it has come; what it has not reached waits."""
    made = account()
    screen = Pushed("screen", cursor=2, arrivals=pushed)
    made.screens.append(screen)
    compared(made, [received(made, 1, 0), received(made, 2, 1), received(made, 3, 2)])
    made.compare_screen(screen)
    assert dict(made.violations.counts) == kinds
    assert screen.awaited == [(3, 102)]


def test_a_gap_that_was_announced_is_no_violation() -> None:
    made = account()
    screen = Pushed("screen", cursor=3, arrivals=[(3, 102)], gaps=[(1, 2)])
    made.screens.append(screen)
    compared(made, [received(made, 1, 0), received(made, 2, 1), received(made, 3, 2)])
    made.compare_screen(screen)
    assert not made.violations.counts


def test_a_webhook_carries_its_messages_signed() -> None:
    """One POST, each person once among the contacts."""
    said = [(1, "wamid.a", "x"), (2, "wamid.b", "y"), (1, "wamid.c", "z")]
    request = request_of(demo_account(), said, 5)
    head, body = request.split(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert b"X-Hub-Signature-256: sha256=" in head
    assert body.count(b'"wa_id"') == 2
    assert body.count(b'"wamid.') == 3
