"""The limit that follows how long deliveries wait, and the refusals that cost next to nothing."""

import json
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from gateway.admission import (
    IN_FLIGHT_MIN,
    PATIENCE_SECONDS,
    STANDING_SECONDS,
    WAIT_SECONDS,
    WINDOW_SECONDS,
    Admission,
)
from gateway.in_flight import NOBODY
from gateway.webhooks import WebhookLimits
from gateway.webhooks.answers import OVER_SHARE, TOO_MANY
from tests.gateway.test_webhooks import Edge, change, delivery, entry, failure, signed
from tests.logs import capture_logs

MOST = 2000


def served(admission: Admission, since: float, *, rate: int, wait: float, seconds: float) -> float:
    """Deliveries that each waited for so long end at a rate; the time afterwards. One is always in flight."""
    now = since
    begun = admission.begin(now, now)
    for number in range(round(rate * seconds)):
        now = since + (number + 1) / rate
        following = admission.begin(now - wait, now - wait)
        admission.end(begun, now, durable=number > 0)
        begun = following
    return now


def as_sent(changed: Any) -> bytes:
    """Compact, as the platform writes it."""
    return json.dumps(delivery(changed), separators=(",", ":")).encode()


def test_at_an_ordinary_load_there_is_no_other_limit() -> None:
    """Deliveries that wait for less than a burst would explain."""
    admission = Admission(MOST)
    served(admission, 10.0, rate=1000, wait=STANDING_SECONDS / 5, seconds=0.4)
    assert (admission.standing, admission.limit) == (False, MOST)


@pytest.mark.parametrize("rate", [1000, 2400])
def test_a_standing_queue_is_cut_to_what_is_done_in_time(rate: int) -> None:
    """By the rate at which deliveries end: Little's law."""
    admission = Admission(MOST)
    served(admission, 10.0, rate=rate, wait=1.0, seconds=2)
    assert admission.standing
    assert admission.limit == pytest.approx(rate * WAIT_SECONDS, rel=0.02)


def test_a_stall_is_no_lesson_about_what_can_be_done() -> None:
    """A fifth is forgotten with each window that was worse, and nothing with one that was better."""
    admission = Admission(MOST)
    now = served(admission, 10.0, rate=1000, wait=1.0, seconds=1)
    now = served(admission, now, rate=20, wait=1.0, seconds=WINDOW_SECONDS + 0.05)
    assert 0.75 * 1000 * WAIT_SECONDS < admission.limit < 1000 * WAIT_SECONDS
    served(admission, now, rate=2000, wait=1.0, seconds=0.5)
    assert admission.limit == pytest.approx(2000 * WAIT_SECONDS, rel=0.1)


def test_what_waits_to_be_begun_is_seen_to_stand_before_it_has_waited() -> None:
    """More than can be done in time, as the window that is under way tells if there was none before."""
    admission = Admission(MOST)
    now = served(admission, 10.0, rate=1200, wait=0.01, seconds=0.2)
    admission.look(round(1200 * STANDING_SECONDS / 2), now - 0.1, now)
    assert admission.limit == MOST
    admission.look(round(1200 * STANDING_SECONDS * 1.5), now - 0.1, now)
    assert admission.limit == pytest.approx(1200 * WAIT_SECONDS, rel=0.05)


def test_a_burst_from_rest_is_waited_for_before_it_is_judged() -> None:
    """Nothing has ended yet, so nothing is known; the first commit may take a moment."""
    admission = Admission(MOST)
    admission.begin(10.0, 10.0)
    admission.look(400, 10.0, 10.1)
    assert admission.limit == MOST
    for number in range(120):
        admission.end(admission.begin(10.0, 10.1), 10.1 + number / 10_000, durable=True)
    admission.look(200, 10.0, 10.14)
    assert admission.limit == MOST
    admission.look(10, 10.0, 10.0 + 1.1 * STANDING_SECONDS)
    assert admission.limit < MOST


def test_what_ended_before_the_queue_was_found_does_not_lift_the_limit() -> None:
    """Whoever came first waited for nothing; a window later everybody waits."""
    admission = Admission(MOST)
    now = served(admission, 10.0, rate=1000, wait=0.01, seconds=WINDOW_SECONDS * 1.8)
    admission.look(MOST, now, now)
    assert admission.standing
    served(admission, now, rate=1000, wait=0.2, seconds=WINDOW_SECONDS)
    assert admission.standing


def test_a_slow_store_keeps_enough_in_flight_for_its_batches() -> None:
    admission = Admission(MOST)
    served(admission, 10.0, rate=20, wait=2.0, seconds=3)
    assert (admission.standing, admission.limit) == (True, IN_FLIGHT_MIN)


def test_a_flood_is_seen_before_its_first_delivery_ends() -> None:
    """The oldest one has waited for twice as long as a burst explains."""
    admission = Admission(MOST)
    for number in range(600):
        admission.begin(10 + number / 1000, 10 + number / 1000)
    assert (admission.standing, admission.limit) == (True, IN_FLIGHT_MIN)


def test_the_limit_is_lifted_by_a_window_without_a_queue_and_when_nothing_is_in_flight() -> None:
    admission = Admission(MOST)
    began = admission.begin(10.0, 11.0)
    assert admission.standing
    quick = admission.begin(11.0, 11.0)
    admission.end(began, 11.01, durable=False)
    for number in range(300):
        now = 11.01 + number * WINDOW_SECONDS / 100
        following = admission.begin(now, now)
        admission.end(quick, now, durable=True)
        quick = following
    assert (admission.standing, admission.limit) == (False, MOST)
    alone = Admission(MOST)
    number = alone.begin(10.0, 10.0)
    alone.begin(10.0, 11.0)
    assert alone.standing
    alone.end(number, 12.0, durable=False)
    assert alone.standing
    alone.end(number + 1, 12.0, durable=False)
    assert (alone.standing, alone.limit) == (False, MOST)


async def test_under_a_standing_queue_the_flood_is_refused_unread_and_others_are_not(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Neither the signature nor the payload is looked at, one line a second tells of all refusals; another
    tenant is served, and so is the flood's when the queue is gone."""
    edge = Edge(
        entry("1", tenant=10, secret="s1"),
        entry("2", tenant=20, secret="s2"),
        limits=WebhookLimits(in_flight_max=12),
    )
    edge.intake.held = trio.Event()
    flood = partial(edge.post, as_sent(change("1", "flood")), secret="s1")
    with capture_logs() as logs:
        await flooded(edge, flood)
    told = [line for line in logs if line["event"] == "webhook.shed"]
    assert [(line["tenant"], line["refused"]) for line in told] == [(10, 50)]
    assert {tenant: len(said) for (tenant, _), said in edge.intake.texts().items()} == {10: 8, 20: 1}
    assert edge.count("shed") == 50
    assert edge.metrics.registry.get_sample_value("mijra_webhook_over_share_total", {"tenant": "10"}) == 50
    assert (await flood()).status == 200


async def flooded(edge: Edge, flood: Callable[[], Awaitable[object]]) -> None:
    """Eight of the flood in flight, fifty refused, one of somebody else's taken; then all become durable."""
    async with trio.open_nursery() as nursery:
        for _ in range(7):
            nursery.start_soon(flood)
        await trio.sleep(3 * STANDING_SECONDS)
        nursery.start_soon(flood)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(50):
            # Signed by nobody: a signature that is looked at would be 401.
            answer = await edge.post(as_sent(change("1", "too much")), secret="not his")
            assert (answer.status, failure(answer)) == (503, "over_share")
            assert answer.headers["Retry-After"] == "2"
            assert answer.headers["X-Request-Id"]
        nursery.start_soon(partial(edge.post, delivery(change("2", "other")), secret="s2"))
        await trio.testing.wait_all_tasks_blocked()
        assert edge.intake.held is not None
        edge.intake.held.set()


async def test_under_a_standing_queue_what_waited_too_long_is_refused_unread(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Whoever it is from: it would be late, and everything behind it. What came just now is taken. Without
    a standing queue nothing is late."""
    edge = Edge(entry("1", tenant=10, secret="s1"))

    def ask(waited: float) -> list[int]:
        """The answers so far, and whether it was taken shows in the intake."""
        answers: list[int] = []
        raw = json.dumps(delivery(change("1", f"waited {waited}"))).encode()
        headers = signed(raw, "s1")
        ready = trio.current_time() - waited
        path = "/api/webhooks/whatsapp"
        rest = edge.webhooks.begin(path, "", headers, raw, lambda a: answers.append(a.status), ready)
        assert rest is None
        return answers

    edge.intake.held = trio.Event()
    early = ask(0.0)
    await trio.sleep(3 * STANDING_SECONDS)
    ask(0.0)  # the queue is found to stand
    assert ask(2 * PATIENCE_SECONDS) == [503]
    assert ask(PATIENCE_SECONDS / 2) == []
    edge.intake.held.set()
    await trio.sleep(0.01)
    assert early == [200]
    ask(PATIENCE_SECONDS)
    await trio.sleep(0.01)
    texts = [text for said in edge.intake.texts().values() for text in said]
    assert sorted(texts) == sorted(
        ["waited 0.0", "waited 0.0", f"waited {PATIENCE_SECONDS / 2}", f"waited {PATIENCE_SECONDS}"]
    )


async def test_on_arrival_those_who_name_nobody_have_one_share_between_them(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """They are told that there is no room; a tenant has his own, and a place is free when it was called.
    What must not be refused here has a place beyond the limit."""
    edge = Edge(entry("1", tenant=10, secret="s1"), limits=WebhookLimits(in_flight_max=12))
    door = edge.webhooks.shedding
    assert not door.is_overloaded(1, trio.current_time())
    assert door.is_overloaded(1, trio.current_time() - 2 * STANDING_SECONDS)
    said = [door.arrive("whatsapp", b"{}") for _ in range(9)]
    assert said == [NOBODY] * 8 + [TOO_MANY]
    assert door.arrive("nothing/like/it", b"") is TOO_MANY
    assert door.arrive("whatsapp", as_sent(change("1", "his"))) == 10
    assert [door.arrive(None, b"") for _ in range(20)] == [NOBODY] * 20
    assert door.arrive("whatsapp", as_sent(change("1", "his"))) is OVER_SHARE
    for _ in range(28):
        door.called(NOBODY)
    assert door.arrive("whatsapp", as_sent(change("1", "his"))) == 10
    assert door.arrive("whatsapp", b"{}") == NOBODY


async def test_what_names_no_account_is_read_as_ever(autojump_clock: trio.testing.MockClock) -> None:
    """A refusal is only for whom it is plain that he has his share."""
    edge = Edge(entry("1", tenant=10, secret="s1"), limits=WebhookLimits(in_flight_max=12))
    edge.intake.held = trio.Event()
    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(partial(edge.post, delivery(change("1", "flood")), secret="s1"))
            await trio.sleep(STANDING_SECONDS)
        assert (await edge.post(delivery(change("77", "who?")), secret="not ours")).status == 401
        assert (await edge.post(b"{}", secret="not ours")).status == 401
        edge.intake.held.set()
