"""Pace, circuit, retry plan and queue: pure arithmetic, looked at in every window."""

from bisect import bisect_right
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters import retrying
from adapters.circuit import Circuit, CircuitState
from adapters.lines import Entry, Lines
from adapters.pacing import AccountPace, PairPace, Window
from adapters.port import RETRYABLE, Declined, ErrorClass
from engine.domain.outbound import OutboxItem, SendText


def flood(limit: int, seconds: float, delays: Callable[[], float]) -> list[float]:
    """When the calls of a busy account are made: begun by the pace, made in turn when the window lets.

    `delays` says how long each takes from its beginning (its row is committed) until it is at the window."""
    pace, window, now, times = AccountPace(limit, 0.0), Window(limit), 0.0, []
    called = 0.0
    while called < seconds:
        now += pace.wait(now)
        pace.take(now)
        called = max(called, now + delays())
        while (wait := window.wait(called)) > 0:
            called += wait
        window.take(called)
        times.append(called)
    return times


def most_within(times: list[float], seconds: float) -> int:
    return max(bisect_right(times, at + seconds) - index for index, at in enumerate(times))


@pytest.mark.parametrize("limit", [1, 2, 5, 20, 80, 1000])
@pytest.mark.parametrize("jitter", [0.0, 0.03])
def test_no_second_holds_more_than_the_limit(limit: int, jitter: float) -> None:
    """Closed windows of one second, from a full bucket; and 99 % of the limit are used, however long the
    commits before the calls take."""
    random = Random(1)
    times = flood(limit, 30, lambda: random.uniform(0, jitter))
    assert most_within(times, 1.0) <= limit
    assert len([at for at in times if at < 30]) >= 0.99 * 30 * limit


def test_those_who_come_first_have_the_places() -> None:
    """With three places: each of those ahead takes the one that is free next, in turn."""
    window = Window(3)
    assert [window.wait(0.0, ahead) for ahead in (0, 2)] == [0, 0]
    assert window.wait(0.0, ahead=3) >= 0
    for at in (0.0, 0.1, 0.2):
        window.take(at)
    waits = [window.wait(0.2, ahead) for ahead in range(6)]
    assert waits == pytest.approx([0.8, 0.9, 1.0, 1.8, 1.9, 2.0], abs=0.01)


def test_a_call_counts_from_when_it_was_written() -> None:
    """What was held up between its turn and its writing keeps its place that much longer."""
    window = Window(2)
    first = window.take(0.0)
    first.written(0.05)
    window.take(0.1)
    assert 1.05 < window.wait(0.2) + 0.2 < 1.06
    assert window.wait(1.06) == 0


@given(
    st.lists(st.tuples(st.floats(0, 3), st.sampled_from(["send", "throttle", "pause"])), max_size=200),
    st.sampled_from([1, 5, 80]),
)
@settings(max_examples=150, deadline=None)
def test_no_history_of_refusals_makes_it_faster(history: list[tuple[float, str]], limit: int) -> None:
    """Whatever is learned between, t seconds hold at most t times the limit and a full bucket, and the rate
    stays within its bounds."""
    pace, now, times = AccountPace(limit, 0.0), 0.0, []
    for step, what in history:
        now += step
        if what == "throttle":
            pace.throttled(now, step)
        elif what == "pause":
            pace.pause(now, step)
        elif pace.wait(now) == 0:
            pace.take(now)
            times.append(now)
        assert min(0.5, pace.rate_max) <= pace.rate(now) <= pace.rate_max == limit
    for index, at in enumerate(times):
        for later, end in enumerate(times[index:], 1):
            assert later <= (end - at) * limit + pace.burst + 1e-6


def test_refusals_of_one_moment_are_one_lesson() -> None:
    """Thirty refusals in half a second halve the pace once; a second later the next halves it again."""
    pace = AccountPace(80, 0.0)
    for number in range(30):
        pace.throttled(number / 60)
    assert 40 <= pace.rate(0.5) < 42
    pace.throttled(1.5)
    assert 20 <= pace.rate(1.5) < 22


def test_a_minute_without_refusals_forgets_them() -> None:
    """From the bottom to the full pace."""
    pace = AccountPace(80, 0.0)
    for number in range(10):
        pace.throttled(number * 1.1)
    assert pace.rate(10) < 10
    assert pace.rate(75) == pace.rate_max


def test_a_pause_is_a_pause() -> None:
    """Nothing before its end; a shorter one does not end a longer one."""
    pace = AccountPace(80, 0.0)
    pace.pause(0.0, 30)
    pace.pause(0.0, 5)
    assert pace.wait(0.0) == 30
    assert pace.wait(30.0) == 0


def test_one_recipient_gets_a_burst_that_is_paid_back() -> None:
    """In every stretch of t seconds at most 45 + t / 6; another recipient has a burst of its own."""
    pairs, now, times = PairPace(6.0, 45), 0.0, []
    while now < 1_000:
        wait = pairs.wait("a", now)
        if wait > 0:
            now += wait
            continue
        pairs.take("a", now)
        times.append(now)
    assert times[43] == 0.0
    assert times[44] < 0.01
    for index, at in enumerate(times):
        for later in range(index, len(times)):
            assert later - index + 1 <= 45 + (times[later] - at) / 6.0 + 1e-6
    assert len(times) == pytest.approx(45 + 1_000 / 6, abs=1)
    assert pairs.wait("b", 0.0) == 0


def test_a_refused_pair_waits_and_then_goes_slowly() -> None:
    """After the wait one message, then one in six seconds."""
    pairs = PairPace(6.0, 45)
    pairs.take("a", 0.0)
    pairs.refused("a", 16.0, 1.0)
    assert pairs.wait("a", 1.0) == pytest.approx(16.0, abs=0.01)
    assert pairs.wait("a", 17.01) == 0
    pairs.take("a", 17.01)
    assert pairs.wait("a", 17.01) == pytest.approx(6.0, abs=0.01)


def test_paid_debts_are_forgotten() -> None:
    """Memory holds those who have a debt, not everybody who ever got a message."""
    pairs = PairPace(6.0, 45)
    for number in range(50_000):
        pairs.take(str(number), number / 80)
    assert len(pairs) <= 2_048


def test_the_circuit_opens_probes_and_closes() -> None:
    """Ten failures in a row open it; one probe at a time; each failed probe doubles the wait to a minute."""
    circuit = Circuit()
    for _ in range(9):
        assert not circuit.failed(0.0, probe=False)
    assert circuit.wait(0.0) == 0
    assert circuit.failed(0.0, probe=False)
    assert circuit.state(0.0) is CircuitState.OPEN
    assert circuit.wait(0.5) == 1.5
    assert not circuit.failed(1.0, probe=False), "calls that were under way say nothing new"
    now, waits = 2.0, []
    for _ in range(7):
        assert circuit.state(now) is CircuitState.HALF_OPEN
        assert circuit.started(now)
        assert circuit.wait(now) is None
        assert not circuit.started(now)
        circuit.failed(now, probe=True)
        wait = circuit.wait(now)
        assert wait is not None
        waits.append(wait)
        now += wait
    assert waits == [4, 8, 16, 32, 60, 60, 60]
    assert circuit.started(now)
    circuit.abandoned(probe=True)
    assert circuit.started(now)
    circuit.succeeded()
    assert circuit.state(now) is CircuitState.CLOSED
    assert not circuit.started(now)


def test_a_success_between_failures_keeps_it_closed() -> None:
    """Only failures in a row count."""
    circuit = Circuit()
    for number in range(100):
        circuit.failed(0.0, probe=False)
        if number % 9 == 8:
            circuit.succeeded()
    assert circuit.state(0.0) is CircuitState.CLOSED


def plan(error_class: ErrorClass, wait: float | None = None) -> list[float]:
    """The waits until it gives up."""
    declined = Declined(error_class=error_class, platform_code="1", message="", retry_after_seconds=wait)
    waits: list[float] = []
    random = Random(3)
    while True:
        step = retrying.after(declined, len(waits) + 1, random)
        if not isinstance(step, retrying.RetryIn):
            return waits
        waits.append(step.seconds)


@pytest.mark.parametrize("error_class", list(ErrorClass))
def test_every_class_has_a_plan_that_ends(error_class: ErrorClass) -> None:
    """Rate, transient and spam classes within about a day; the others at once."""
    if error_class is ErrorClass.AUTH:
        declined = Declined(error_class=error_class, platform_code="190", message="")
        assert isinstance(retrying.after(declined, 1, Random(1)), retrying.Halt)
        return
    total = sum(plan(error_class))
    if error_class in (
        ErrorClass.RATE_ACCOUNT,
        ErrorClass.TRANSIENT,
        ErrorClass.UNREACHABLE,
        ErrorClass.SPAM_PAUSE,
    ):
        assert 20 * 3600 < total < 31 * 3600
    elif error_class is ErrorClass.RATE_PAIR:
        assert 5_000 < total < 7_000
    else:
        assert total == 0


def test_a_retry_is_never_before_the_platforms_time() -> None:
    """Retry-After is a floor for every wait."""
    assert min(plan(ErrorClass.TRANSIENT, 90.0)) >= 90
    assert ErrorClass.RECIPIENT not in RETRYABLE


def entry(number: int, contact: str, lane: int, due: float = 0.0) -> Entry:
    item = OutboxItem(
        id=number,
        tenant_id=1,
        channel_id=1,
        conversation_id=1,
        contact_key=contact,
        message_id=number,
        recipient=contact,
        lane=lane,
        state="queued",
        attempts=0,
        not_before=0,
        send=SendText(body=""),
        reply_to=None,
        trace="",
        created_at=0,
    )
    return Entry(item, due)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_the_queue_keeps_every_conversations_order(data: st.DataObject) -> None:
    """Any mix of arrivals, retries and ends: each conversation in id order, one in hand, nothing lost, and
    nothing goes before its time."""
    lines, now = Lines(), 0.0
    arrivals = data.draw(
        st.lists(
            st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.sampled_from([0.0, 0.0, 5.0])),
            max_size=25,
        )
    )
    waiting = [entry(number, who, lane, due) for number, (who, lane, due) in enumerate(arrivals, 1)]
    in_hand: list[Entry] = []
    ended: list[Entry] = []
    for _ in range(600):
        if len(ended) == len(arrivals):
            break
        choice = (
            data.draw(st.sampled_from(["arrive", "begin", "end", "retry", "time"]))
            if waiting or in_hand
            else "time"
        )
        if choice == "arrive" and waiting:
            lines.add(waiting.pop(0), now)
        elif choice == "begin" and (line := lines.next(now)) is not None:
            head = lines.begin(line)
            assert head.due <= now
            assert all(one.item.contact_key != head.item.contact_key for one in in_hand)
            in_hand.append(head)
        elif choice == "end" and in_hand:
            ended.append(in_hand.pop())
            lines.finish(ended[-1], now)
        elif choice == "retry" and in_hand:
            again = in_hand.pop()
            again.due = now + 3.0
            lines.put_back(again, now)
        elif choice == "time":
            now += 2.0
            if not in_hand and not waiting and (line := lines.next(now)) is not None:
                in_hand.append(lines.begin(line))
    else:
        return  # the draw was long on arrivals and short on ends; what was checked on the way holds
    for contact in "abc":
        mine = [one.id for one in ended if one.item.contact_key == contact]
        assert mine == sorted(mine)
    assert len(lines) == 0
    assert lines.counts == [0, 0, 0]


def test_a_line_that_waits_is_due_at_its_heads_time() -> None:
    """`next_due` names it, `next` gives it from then on; a postponed one later."""
    lines = Lines()
    lines.add(entry(1, "a", 2, due=5.0), 0.0)
    lines.add(entry(2, "b", 0, due=3.0), 0.0)
    assert lines.next(0.0) is None
    assert lines.next_due() == 3.0
    line = lines.next(3.0)
    assert line is not None
    assert line.key == "b"
    lines.postpone(line, 9.0, 3.0)
    assert lines.next(3.0) is None
    assert lines.next_due() == 5.0
    assert [one for at in (5.0, 9.0) if (found := lines.next(at)) and (one := lines.begin(found).id)] == [
        1,
        2,
    ]
