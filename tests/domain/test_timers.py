"""Durable deadlines in one heap."""

from typing import Any

from engine.domain.conversation.messages import TimerFired
from engine.domain.rows import TimerRow
from engine.domain.timers.actor import FIRED_MAX, HORIZON_MS, TimersState, decide
from engine.domain.timers.messages import Arm, Disarm, Tick
from engine.runtime import Address, Context, Lookup
from tests.domain.desk import NOON, TENANT


def timer(timer_id: int, due_at: int) -> TimerRow:
    return TimerRow(
        tenant_id=TENANT,
        id=timer_id,
        kind="snooze",
        channel_id=71,
        contact_key=str(timer_id),
        conversation_id=timer_id,
        due_at=due_at,
    )


class Clockmaker:
    def __init__(self) -> None:
        self.state = TimersState(heap=[], rows={}, until=NOON + HORIZON_MS)
        self.ctx = Context(lambda: 1)
        self.ctx.now = NOON
        self.ctx.address = Address("timers", TENANT, "timers")

    def tell(self, message: Any, found: object = None) -> list[int]:
        """The deadlines that fire; the next look is in `next_at`."""
        self.ctx.found = found
        outcome = decide(self.state, message, self.ctx)
        assert not isinstance(outcome, Lookup)
        self.next_at = outcome.timers[-1].at  # type: ignore[union-attr]
        return [tell.message.timer_id for tell in outcome.tell if isinstance(tell.message, TimerFired)]


def test_deadlines_fire_in_order_when_they_are_due_and_not_before() -> None:
    clock = Clockmaker()
    assert clock.tell(Arm(timer(2, NOON + 2000))) == []
    assert clock.tell(Arm(timer(1, NOON + 1000))) == []
    assert clock.next_at == NOON + 1000

    clock.ctx.now = NOON + 1000
    assert clock.tell(Tick()) == [1]
    clock.ctx.now = NOON + 5000
    assert clock.tell(Tick()) == [2]


def test_a_disarmed_deadline_does_not_fire() -> None:
    clock = Clockmaker()
    clock.tell(Arm(timer(1, NOON + 1000)))
    clock.tell(Disarm(1))

    clock.ctx.now = NOON + 1000

    assert clock.tell(Tick()) == []


def test_what_was_missed_during_an_outage_fires_at_once() -> None:
    clock = Clockmaker()

    assert clock.tell(Arm(timer(1, NOON - 5000))) == [1]


def test_many_due_at_once_fire_in_several_steps() -> None:
    clock = Clockmaker()
    for number in range(FIRED_MAX + 10):
        clock.state.heap.append((NOON, number))
        clock.state.rows[number] = timer(number, NOON)

    first, second = clock.tell(Tick()), clock.tell(Tick())

    assert (len(first), len(second)) == (FIRED_MAX, 10)


def test_deadlines_beyond_the_horizon_are_left_to_the_store_and_read_when_their_hour_comes() -> None:
    clock = Clockmaker()
    far = timer(1, NOON + HORIZON_MS + 1000)
    assert clock.tell(Arm(far)) == []
    assert not clock.state.heap

    clock.ctx.now = NOON + HORIZON_MS
    question = decide(clock.state, Tick(), clock.ctx)
    later = TimersState(heap=[(far.due_at, 1)], rows={1: far}, until=clock.ctx.now + HORIZON_MS)

    assert isinstance(question, Lookup)
    assert clock.tell(Tick(), found=later) == []
    assert clock.next_at == far.due_at


def test_a_deadline_beyond_the_horizon_alone_still_has_its_hour_come() -> None:
    """The only message that this actor ever gets sets the look that will find the row."""
    clock = Clockmaker()

    clock.tell(Arm(timer(1, NOON + 3 * HORIZON_MS)))

    assert clock.next_at == NOON + HORIZON_MS


def test_a_disarming_message_leaves_the_other_deadlines_armed() -> None:
    """It may be the message that loaded the actor."""
    clock = Clockmaker()
    clock.state.heap, clock.state.rows = [(NOON + 5000, 2)], {2: timer(2, NOON + 5000)}

    clock.tell(Disarm(1))

    assert clock.next_at == NOON + 5000
