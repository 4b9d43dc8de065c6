"""The channel actor against a model platform, on the real runtime, in virtual time."""

from bisect import bisect_left
from collections.abc import Callable
from itertools import pairwise

import pytest
import trio
from trio.testing import MockClock

from adapters.port import Account, Declined, ErrorClass, SendResult, Unanswered
from engine.domain.outbound import OutboxItem, Refused, SendText
from engine.domain.outbox import Deliver, Halt, Refresh, Settled, Wake
from engine.domain.rows import OutboxPatch
from engine.errors import CommitFailed, CommitPoisoned, InvalidInput, StoreUnavailable
from tests.adapters.model import BASE_MS, POISON, Platform, World, item, wall_ms


def declined(error_class: ErrorClass, code: str = "1", wait: float | None = None) -> Declined:
    return Declined(
        error_class=error_class, platform_code=code, message="a sentence", retry_after_seconds=wait
    )


def most_in_a_second(times: list[float]) -> int:
    return max(bisect_left(times, at + 1.0) - index for index, at in enumerate(times))


# ------------------------------------------------------------------ order and lanes


async def test_an_item_is_written_down_sent_and_reported(autojump_clock: MockClock) -> None:
    """`sending` with its attempt is durable before the call; the conversation ends the row with `sent`."""
    async with World().running() as world:
        seen: list[str] = []
        world.platform.answer = _and_note(
            world.platform.answer, lambda one: seen.append(world.store.state(one.id))
        )
        world.deliver(item(1))
        await world.drained()
    assert seen == ["sending"]
    assert world.outcomes(1) == ["Sent"]
    assert [(patch.state, patch.attempts) for patch in world.store.patches] == [
        ("sending", 1),
        ("done", None),
    ]


def _and_note(
    answer: Callable[[OutboxItem], SendResult], note: Callable[[OutboxItem], None]
) -> Callable[[OutboxItem], SendResult]:
    def noting(one: OutboxItem) -> SendResult:
        note(one)
        return answer(one)

    return noting


async def test_a_conversation_goes_one_by_one_and_others_beside_it(autojump_clock: MockClock) -> None:
    """Three items of one contact in turn, each after the one before was reported; another contact at once."""
    async with World().running() as world:
        world.deliver(item(1), item(2), item(3), item(4, "b"))
        await world.drained()
    assert [number for number in world.platform.sent if number < 4] == [1, 2, 3]
    for before, after in ((1, 2), (2, 3)):
        reported = next(at for at, number, _ in world.verdicts if number == before)
        assert world.platform.times(after)[0] >= reported
    assert world.platform.times(4)[0] < world.platform.times(2)[0]


async def test_calls_in_hand_are_bounded(autojump_clock: MockClock) -> None:
    """Fifty conversations, eight at a time."""
    async with World(Platform(concurrency=8)).running() as world:
        world.deliver(*(item(number, f"c{number}") for number in range(1, 51)))
        await world.drained()
    assert world.platform.peak == 8
    assert sorted(world.platform.sent) == list(range(1, 51))


async def test_hands_that_are_full_wait_quietly(autojump_clock: MockClock) -> None:
    """A line that becomes due while no call may be made does not keep the processor busy: under this clock no
    time would ever pass."""
    async with World(Platform(concurrency=1, seconds=5.0)).running() as world:
        world.deliver(item(1), item_at(2, contact="b", seconds=1))
        with trio.fail_after(60):
            await world.drained()
    assert world.platform.sent == [1, 2]


async def test_what_weighs_more_takes_more_of_the_pace(autojump_clock: MockClock) -> None:
    """Of a sender that takes two segments a second, a message of six takes three seconds; signals weigh
    nothing more."""
    platform = Platform(per_second=2, concurrency=8)
    platform.weight = lambda send: 6 if isinstance(send, SendText) and send.body == "long" else 1
    async with World(platform).running() as world:
        long = item(1, "a", send=SendText(body="long"))
        world.deliver(long, *(item(number, f"c{number}") for number in range(2, 9)))
        await world.drained()
    first, second = platform.calls[0][0], platform.calls[1][0]
    assert platform.sent[0] == 1
    assert 2.4 <= second - first <= 3.2
    gaps = [later - earlier for (earlier, _), (later, _) in pairwise(platform.calls[1:])]
    assert all(0.4 <= gap <= 0.6 for gap in gaps)


async def test_an_opted_out_recipient_is_told_of(autojump_clock: MockClock) -> None:
    """Final, and the conversation hears why."""
    async with World().running() as world:
        world.platform.say(1, declined(ErrorClass.OPTED_OUT, "21610"))
        world.deliver(item(1))
        await world.drained()
    (outcome,) = [each for _, _, each in world.verdicts]
    assert isinstance(outcome, Refused)
    assert (outcome.opted_out, outcome.retryable) == (True, False)


async def test_agents_overtake_campaigns(autojump_clock: MockClock) -> None:
    """A realtime item that comes last goes next; normal before bulk."""
    async with World(Platform(concurrency=1)).running() as world:
        world.deliver(*(item(number, f"c{number}", lane=2) for number in range(1, 11)))
        await trio.sleep(0.25)
        world.deliver(item(11, "n", lane=1), item(12, "r", lane=0))
        await world.drained()
    position = world.platform.sent.index
    assert position(12) + 1 == position(11) <= 4


async def test_a_reply_behind_a_bulk_item_makes_its_line_urgent(autojump_clock: MockClock) -> None:
    """Within a conversation the order stays, so both go before other conversations' bulk items."""
    async with World(Platform(concurrency=1)).running() as world:
        world.deliver(*(item(number, f"c{number}", lane=2) for number in range(1, 9)))
        world.deliver(item(9, "x", lane=2), item(10, "x", lane=0))
        await world.drained()
    assert world.platform.sent.index(10) <= 4
    assert world.platform.sent.index(9) + 1 == world.platform.sent.index(10)


async def test_an_item_told_twice_is_sent_once(autojump_clock: MockClock) -> None:
    """While it is queued, while it is in hand, and after it has ended."""
    async with World().running() as world:
        one = item(1)
        world.deliver(one)
        world.tell(Deliver(one))
        await trio.sleep(0.05)
        world.tell(Deliver(one))
        await world.drained()
        world.tell(Deliver(one))
        world.tell(Wake())
        await trio.sleep(5)
    assert world.platform.sent == [1]


async def test_an_item_is_not_sent_before_its_time(autojump_clock: MockClock) -> None:
    """`not_before` is respected when told and when loaded."""
    world = World()
    world.store.insert(item_at(1, seconds=20))
    async with world.running():
        world.deliver(item_at(2, contact="b", seconds=40))
        await world.drained()
    assert world.platform.times(1)[0] >= 20
    assert world.platform.times(2)[0] >= 40


def item_at(number: int, *, contact: str = "a", seconds: float) -> OutboxItem:
    return item(number, contact, not_before=BASE_MS + round(seconds * 1000))


# ------------------------------------------------------------------ pace


async def test_no_second_holds_more_than_the_account_may_send(autojump_clock: MockClock) -> None:
    """800 messages at 80 a second, their rows committed now in 5 ms and now in 40: within the limit in every
    window, and 99 % of it used. None is written down as `sending` long before it is."""
    begun: dict[int, float] = {}
    async with World(Platform(per_second=80, concurrency=64)).running() as world:

        def note(patch: OutboxPatch) -> None:
            world.store.seconds = 0.04 if patch.id % 7 == 0 else 0.005
            if patch.state == "sending":
                begun[patch.id] = trio.current_time()

        world.store.on_patch = note
        world.deliver(*(item(number, f"c{number}") for number in range(1, 801)))
        await world.drained()
    times = sorted(at for at, _ in world.platform.calls)
    assert most_in_a_second(times) <= 80
    assert bisect_left(times, times[0] + 9.0) >= 0.99 * 9 * 80
    assert max(at - begun[number] for at, number in world.platform.calls) < 0.06


async def test_one_recipient_gets_a_burst_and_then_one_in_six_seconds(autojump_clock: MockClock) -> None:
    """45 at once, the rest paid back; another recipient is not held up."""
    async with World().running() as world:
        world.deliver(*(item(number) for number in range(1, 51)))
        await trio.sleep(60)
        world.deliver(item(51, "b"))
        await world.drained()
    times = sorted(at for at, number in world.platform.calls if number <= 50)
    for index, at in enumerate(times):
        for later, until in enumerate(times[index:], 1):
            assert later <= 45 + (until - at) / 6.0 + 1e-6
    assert world.platform.times(51)[0] < 61


async def test_throttling_slows_the_account_down_and_time_speeds_it_up(autojump_clock: MockClock) -> None:
    """130429 halves the pace; a minute later it is back."""
    async with World().running() as world:
        world.platform.say(1, declined(ErrorClass.RATE_ACCOUNT, "130429"))
        world.deliver(item(1))
        await trio.sleep(0.2)
        (slow,) = world.channels.statistics()
        await world.drained()
        await trio.sleep(60)
        (fast,) = world.channels.statistics()
    assert slow.rate_per_second < 45
    assert fast.rate_per_second == 80
    assert world.platform.sent == [1, 1]


async def test_retry_after_stops_the_whole_account(autojump_clock: MockClock) -> None:
    """Nothing of any conversation goes before the platform's time is over."""
    async with World().running() as world:
        world.platform.say(1, declined(ErrorClass.RATE_ACCOUNT, "http_429", wait=40))
        world.deliver(item(1))
        await trio.sleep(1)
        world.deliver(item(2, "b"))
        await world.drained()
    assert world.platform.times(1)[1] >= 40
    assert world.platform.times(2)[0] >= 40


# ------------------------------------------------------------------ declined


async def test_a_retry_is_written_down_and_holds_its_conversation_only(autojump_clock: MockClock) -> None:
    """The row says queued, when, how often and why; the next of the conversation waits, another's goes."""
    async with World().running() as world:
        world.platform.say(1, *[declined(ErrorClass.TRANSIENT, "131000")] * 3)
        world.deliver(item(1), item(2), item(3, "b"))
        await trio.sleep(0.5)
        row = dict(world.store.rows[1])
        await world.drained()
    assert (row["state"], row["attempts"]) == ("queued", 1)
    assert row["not_before"] > BASE_MS + 1000
    assert row["error"]["platform_code"] == "131000"
    assert [number for number in world.platform.sent if number != 3] == [1, 1, 1, 1, 2]
    assert world.platform.times(3)[0] < 1
    waits = [later - at for at, later in pairwise(world.platform.times(1))]
    for wait, least in zip(waits, (1, 2, 4), strict=True):
        assert least <= wait < least * 1.2 + 0.5
    assert world.outcomes(1) == ["Sent"]


async def test_the_pair_limit_waits_four_to_the_n(autojump_clock: MockClock) -> None:
    """131056: 4, 16, 64 s; after seven attempts it is refused and can be retried by a person."""
    async with World().running() as world:
        world.platform.answer = lambda one: declined(ErrorClass.RATE_PAIR, "131056")
        world.deliver(item(1))
        await world.drained()
    times = world.platform.times(1)
    assert len(times) == 7
    for attempt, (at, later) in enumerate(pairwise(times), 1):
        assert 4**attempt <= later - at < 4**attempt * 1.2 + 1
    refusal = world.refusal(1)
    assert (refusal.platform_code, refusal.retryable) == ("131056", True)


async def test_transient_trouble_is_given_up_after_a_day(autojump_clock: MockClock) -> None:
    """Attempts are bounded; the conversation hears a retryable refusal."""
    async with World().running() as world:
        world.platform.answer = lambda one: declined(ErrorClass.TRANSIENT, "131016")
        world.deliver(item(1))
        await world.drained()
    assert 23 * 3600 < world.platform.times(1)[-1] < 32 * 3600
    assert world.refusal(1).retryable


@pytest.mark.parametrize(
    ("error_class", "retryable"),
    [
        (ErrorClass.RECIPIENT, False),
        (ErrorClass.BAD_REQUEST, False),
        (ErrorClass.WAIT_LONG, True),
        (ErrorClass.ACCOUNT, True),
    ],
)
async def test_a_final_refusal_is_reported_and_the_conversation_goes_on(
    autojump_clock: MockClock, error_class: ErrorClass, retryable: bool
) -> None:
    """One attempt; the next item goes."""
    async with World().running() as world:
        world.platform.say(1, declined(error_class, "131026"))
        world.deliver(item(1), item(2))
        await world.drained()
    assert world.platform.sent == [1, 2]
    refusal = world.refusal(1)
    assert (refusal.platform_code, refusal.message, refusal.retryable) == ("131026", "a sentence", retryable)
    assert bool(world.attention) == (error_class is ErrorClass.ACCOUNT)


async def test_bad_credentials_stop_the_account_and_lose_nothing(autojump_clock: MockClock) -> None:
    """One call for attention; the items stay queued and go after Refresh, with the new credentials."""
    async with World().running() as world:
        world.platform.answer = lambda one: declined(ErrorClass.AUTH, "190")
        world.deliver(*(item(number, f"c{number}") for number in range(1, 6)))
        await trio.sleep(3600)
        calls = len(world.platform.calls)
        assert calls <= 5
        assert world.attention == ["a sentence"]
        assert {world.store.state(number) for number in range(1, 6)} == {"queued"}
        assert {world.store.rows[number]["attempts"] for number in range(1, 6)} == {0}
        (statistics,) = world.channels.statistics()
        assert statistics.halted == "a sentence"
        world.platform.answer = Platform().answer
        world.account = Account(
            tenant_id=7,
            channel_id=70,
            platform="model",
            external_id="1",
            credentials={"access_token": "two"},
            settings={},
        )
        world.tell(Refresh())
        await world.drained()
    assert len(world.platform.calls) == calls + 5
    assert world.platform.accounts[-1].credentials == {"access_token": "two"}
    assert all(world.outcomes(number) == ["Sent"] for number in range(1, 6))


async def test_withdrawn_access_stops_the_account_without_a_call(autojump_clock: MockClock) -> None:
    """Told by the platform itself: everything is kept until Refresh, and goes in order then."""
    async with World().running() as world:
        world.tell(Halt("The owner removed the app."))
        world.deliver(*(item(number, "c1") for number in range(1, 4)))
        await trio.sleep(200)
        (statistics,) = world.channels.statistics()
        assert (statistics.halted, statistics.queued) == ("The owner removed the app.", 3)
        assert world.platform.calls == []
        world.tell(Refresh())
        await world.drained()
    assert world.platform.sent == [1, 2, 3]


async def test_an_answer_to_the_old_credentials_does_not_stop_the_new_ones(autojump_clock: MockClock) -> None:
    """Refresh while a call is under way that will fail for the old token: it is repeated with the new one."""
    async with World(Platform(seconds=2)).running() as world:
        world.platform.say(1, declined(ErrorClass.AUTH, "190"))
        world.deliver(item(1))
        await trio.sleep(1)
        assert world.account is not None
        world.account = Account(
            tenant_id=7,
            channel_id=70,
            platform="model",
            external_id="1",
            credentials={"access_token": "two"},
            settings={},
        )
        world.tell(Refresh())
        await world.drained(60)
    assert world.attention == []
    assert [one.credentials["access_token"] for one in world.platform.accounts] == ["one", "two"]


async def test_a_disabled_account_keeps_its_items(autojump_clock: MockClock) -> None:
    """Nothing is sent while it is disabled, everything after it is enabled."""
    world = World()
    enabled = world.account
    assert enabled is not None
    world.account = Account(
        tenant_id=7,
        channel_id=70,
        platform="model",
        external_id="1",
        credentials={},
        settings={},
        active=False,
    )
    async with world.running():
        world.deliver(item(1))
        await trio.sleep(1000)
        assert world.platform.calls == []
        world.account = enabled
        world.tell(Refresh())
        await world.drained()


async def test_a_spam_pause_stops_the_account_for_an_hour(autojump_clock: MockClock) -> None:
    """131048: other conversations wait too."""
    async with World().running() as world:
        world.platform.say(1, declined(ErrorClass.SPAM_PAUSE, "131048"))
        world.deliver(item(1))
        await trio.sleep(1)
        world.deliver(item(2, "b"))
        await world.drained()
    assert world.platform.times(1)[1] >= 3600
    assert world.platform.times(2)[0] >= 3600


async def test_an_unreachable_platform_is_probed_not_stormed(autojump_clock: MockClock) -> None:
    """With 100 conversations waiting, ten minutes of outage cost some dozen calls; then all is sent."""
    async with World(Platform(concurrency=8)).running() as world:
        world.platform.answer = lambda one: declined(ErrorClass.UNREACHABLE, "unreachable")
        world.deliver(*(item(number, f"c{number}") for number in range(1, 101)))
        await trio.sleep(600)
        calls = len(world.platform.calls)
        (statistics,) = world.channels.statistics()
        world.platform.answer = Platform().answer
        await world.drained()
    assert calls < 45
    assert statistics.circuit in ("open", "half_open")
    assert all(world.outcomes(number) == ["Sent"] for number in range(1, 101))


# ------------------------------------------------------------------ unknown outcomes


async def test_an_unknown_outcome_waits_for_the_platforms_word(autojump_clock: MockClock) -> None:
    """Unknown, half a minute of waiting, Resending before the second call, and the row is flagged."""
    async with World().running() as world:
        world.platform.say(1, Unanswered(reason="timeout"))
        world.deliver(item(1), item(2))
        await trio.sleep(20)
        assert world.store.state(1) == "unknown"
        assert world.platform.sent == [1]
        await world.drained()
    assert world.outcomes(1) == ["OutcomeUnknown", "Resending", "Sent"]
    first, second = world.platform.times(1)
    assert second - first >= 30
    assert world.platform.sent == [1, 1, 2]
    assert world.store.rows[1]["payload"]["resent"] is True
    resending = next(at for at, _, outcome in world.verdicts if type(outcome).__name__ == "Resending")
    assert resending <= second


async def test_what_the_platform_settles_is_not_sent_again(autojump_clock: MockClock) -> None:
    """`Settled` during the wait ends the item; the next of the conversation goes at once."""
    async with World().running() as world:
        world.platform.say(1, Unanswered(reason="timeout"))
        world.deliver(item(1), item(2))
        await trio.sleep(10)
        world.store.rows[1]["state"] = "done"
        world.tell(Settled(1))
        await trio.sleep(1)
        assert world.platform.sent == [1, 2]
        await trio.sleep(100)
    assert world.platform.sent == [1, 2]
    assert world.store.state(1) == "done"


async def test_a_status_that_overtakes_the_answer_settles_too(autojump_clock: MockClock) -> None:
    """Settled while the first call hangs: its lost answer makes no unknown outcome."""
    async with World(Platform(seconds=5)).running() as world:
        world.platform.say(1, Unanswered(reason="timeout"))
        world.deliver(item(1))
        await trio.sleep(2)
        world.store.rows[1]["state"] = "done"
        world.tell(Settled(1))
        await trio.sleep(100)
    assert world.platform.sent == [1]
    assert world.outcomes(1) == []
    assert world.store.state(1) == "done"


async def test_a_settlement_between_decision_and_resend_wins(autojump_clock: MockClock) -> None:
    """The word arrives in the very moment in which the wait ends: it is read before the second call."""
    async with World().running() as world:
        world.platform.say(1, Unanswered(reason="timeout"))
        world.deliver(item(1))
        resent = trio.Event()
        world.on_resending = resent.set
        await resent.wait()
        world.tell(Settled(1))
        world.store.rows[1]["state"] = "done"
        await trio.sleep(100)
    assert world.platform.sent == [1]


async def test_a_settlement_that_our_own_write_overtakes_leaves_no_open_row(
    autojump_clock: MockClock,
) -> None:
    """The conversation ends the row in the batch before ours says `sending`: nothing is sent, and the row is
    ended again, or the next start would take it for unknown."""
    async with World().running() as world:
        world.platform.say(1, Unanswered(reason="timeout"))
        world.deliver(item(1))
        world.store.on_patch = lambda patch: (
            world.tell(Settled(1)) if (patch.state, patch.attempts) == ("sending", 2) else None
        )
        await world.drained(100)
    assert world.platform.sent == [1]
    assert [patch.state for patch in world.store.patches][-2:] == ["sending", "done"]


async def test_a_row_that_our_write_reopened_is_ended_though_the_store_refuses_that_once(
    autojump_clock: MockClock,
) -> None:
    """A customer opts out while `sending` is being written. Left open, the row would be taken for one whose
    outcome nobody knows, and never come to rest."""
    async with World().running() as world:
        world.platform.say(1, Unanswered(reason="timeout"))
        world.deliver(item(1))

        def overtake(patch: OutboxPatch) -> None:
            if (patch.state, patch.attempts) == ("sending", 2):
                world.tell(Settled(1))
                world.store.refuse_next.append(CommitPoisoned("a passing refusal"))

        world.store.on_patch = overtake
        await world.drained(100)
    assert world.platform.sent == [1]
    assert world.store.state(1) == "done"


async def test_an_item_that_its_own_end_overtakes_is_not_sent(autojump_clock: MockClock) -> None:
    """A reply is queued and withdrawn in one batch; the news of the withdrawal takes a faster lane. A later
    retry by a person goes out all the same."""
    async with World().running() as world:
        world.tell(Settled(1))
        world.store.insert(item(1, state="dead"))
        world.tell(Deliver(item(1)))
        await trio.sleep(5)
        assert world.platform.sent == []
        world.store.rows[1]["state"] = "queued"
        world.tell(Settled(1))
        world.tell(Deliver(item(1, not_before=wall_ms()), again=True))
        await world.drained()
    assert world.platform.sent == [1]


async def test_a_persons_retry_is_sent_however_early_it_comes(autojump_clock: MockClock) -> None:
    """The same row, told anew: long after the refusal, and before the channel knows that it was taken."""
    async with World().running() as world:
        world.platform.say(1, declined(ErrorClass.RECIPIENT, "131026"))
        world.platform.say(2, declined(ErrorClass.RECIPIENT, "131026"))
        world.deliver(item(1))
        await world.drained()
        await trio.sleep(1)
        world.deliver(item(1, not_before=wall_ms()))
        await world.drained()
        world.deliver(item(2))
        while not world.outcomes(2):
            await world.store.change.wait()
        world.deliver(item(2, not_before=wall_ms()))
        await trio.sleep(5)
    assert world.outcomes(1) == ["Refused", "Sent"]
    assert world.platform.sent.count(2) == 2


async def test_a_retry_after_a_status_of_failure_is_sent_although_the_first_call_still_hangs(
    autojump_clock: MockClock,
) -> None:
    """A status told that it failed, a person sends it again, and only then the first call is given up."""
    async with World(Platform(seconds=5)).running() as world:
        world.platform.say(1, Unanswered(reason="timeout"))
        world.deliver(item(1))
        await trio.sleep(2)
        world.store.rows[1]["state"] = "dead"
        world.tell(Settled(1))
        await trio.sleep(0.1)
        world.store.rows[1]["state"] = "queued"
        world.deliver(item(1, not_before=wall_ms()))
        await trio.sleep(20)
    assert world.platform.sent == [1, 1]
    assert world.outcomes(1)[-1] == "Sent"


async def test_rows_that_were_being_sent_are_unknown_at_the_start(autojump_clock: MockClock) -> None:
    """`sending` is reported as unknown; `unknown` was; both wait, then go again in order."""
    world = World()
    world.store.insert(item(1, "a", state="sending", attempts=1))
    world.store.insert(item(2, "b", state="unknown", attempts=1))
    world.store.insert(item(3, "a"))
    async with world.running():
        world.tell(Wake())
        await trio.sleep(20)
        assert world.platform.sent == []
        assert (world.outcomes(1), world.outcomes(2)) == (["OutcomeUnknown"], [])
        await world.drained()
    assert world.outcomes(1) == ["OutcomeUnknown", "Resending", "Sent"]
    assert world.outcomes(2) == ["Resending", "Sent"]
    assert world.platform.sent.index(1) < world.platform.sent.index(3)
    assert min(at for at, number in world.platform.calls if number < 3) >= 30


async def test_unknown_outcomes_are_bounded(autojump_clock: MockClock) -> None:
    """A platform that never answers gets a message three times at most; then a person decides."""
    async with World().running() as world:
        world.platform.answer = lambda one: Unanswered(reason="timeout")
        world.deliver(item(1))
        await world.drained()
    assert world.platform.sent == [1, 1, 1]
    refusal = world.refusal(1)
    assert (refusal.platform_code, refusal.retryable) == ("outcome_unknown", True)


async def test_a_sender_that_raises_cannot_stop_the_account(autojump_clock: MockClock) -> None:
    """A defect of an adapter is an unknown outcome of one item; the others go on."""
    async with World().running() as world:
        world.platform.say(1, *[ValueError("defect")] * 9)
        world.deliver(item(1), item(2, "b"))
        await world.drained()
    assert world.platform.sent.count(1) == 3
    assert world.outcomes(2) == ["Sent"]
    assert world.refusal(1).platform_code == "outcome_unknown"


# ------------------------------------------------------------------ the conversation and the store


async def test_a_conversation_that_is_away_is_asked_again(autojump_clock: MockClock) -> None:
    """The item is kept until the outcome is durable, and is not sent a second time."""
    async with World().running() as world:
        world.verdict_errors.extend([StoreUnavailable("away")] * 4)
        world.deliver(item(1), item(2))
        await world.drained()
    assert world.platform.sent == [1, 2]
    assert world.outcomes(1) == ["Sent"]


@pytest.mark.parametrize("error", [InvalidInput("odd"), ZeroDivisionError("crash")])
async def test_a_conversation_that_breaks_over_a_verdict_does_not_repeat_the_send(
    autojump_clock: MockClock, error: Exception
) -> None:
    """Refused or parked after three crashes: the row is ended by the channel."""
    async with World().running() as world:
        world.verdict_errors.extend([error] * (1 if isinstance(error, InvalidInput) else 3))
        world.deliver(item(1))
        await world.drained()
        await trio.sleep(100)
    assert world.platform.sent == [1]
    assert world.store.state(1) == "done"


async def test_nothing_goes_out_that_is_not_written_down(autojump_clock: MockClock) -> None:
    """A refused write set of one item delays that item alone."""
    async with World().running() as world:
        refused: list[CommitFailed] = [POISON, POISON]
        world.store.refuse_next = refused
        world.deliver(item(1))
        await trio.sleep(0.1)
        world.deliver(item(2, "b"))
        await trio.sleep(1)
        assert 1 not in world.platform.sent
        await world.drained()
    assert sorted(world.platform.sent) == [1, 2]


async def test_a_store_that_is_away_at_the_start_is_asked_again(autojump_clock: MockClock) -> None:
    """Nothing is sent before it is known what was being sent; then everything in order."""
    world = World()
    world.store.insert(item(1))
    world.store.away = True
    async with world.running():
        world.tell(Wake())
        world.deliver(item(2))
        await trio.sleep(60)
        assert world.platform.sent == []
        world.store.away = False
        await world.drained()
    assert world.platform.sent == [1, 2]


async def test_what_does_not_fit_in_memory_is_read_again_in_order(autojump_clock: MockClock) -> None:
    """500 items of 20 conversations through room for 40: each once, each conversation in order."""
    async with World(Platform(per_second=1000), items_max=40).running() as world:
        most = 0
        for number in range(1, 501):
            world.deliver(item(number, f"c{number % 20}", lane=2))
            if number % 50 == 0:
                await trio.sleep(0.3)
            most = max([most, *(one.queued for one in world.channels.statistics())])
        await world.drained()
    assert most <= 40
    assert sorted(world.platform.sent) == list(range(1, 501))
    for contact in range(20):
        mine = [number for number in world.platform.sent if number % 20 == contact]
        assert mine == sorted(mine)


async def test_a_reply_does_not_wait_behind_a_campaign_that_overflows(autojump_clock: MockClock) -> None:
    """Also at a start, where the reply's row stands behind thousands of the campaign's."""
    world = World(Platform(concurrency=4, per_second=20), items_max=50)
    for number in range(1, 1_201):
        world.store.insert(item(number, f"c{number}", lane=2))
    world.store.insert(item(2_000, "loaded", lane=0))
    async with world.running():
        world.tell(Wake())
        await trio.sleep(2)
        world.deliver(item(2_001, "told", lane=0))
        await trio.sleep(2)
        assert {2_000, 2_001} <= set(world.platform.sent)
        assert world.platform.times(2_000)[0] < 1.5
        await world.drained()
    assert sorted(world.platform.sent) == [*range(1, 1_201), 2_000, 2_001]


async def test_a_reply_to_a_conversation_with_a_forgotten_item_keeps_its_place(
    autojump_clock: MockClock,
) -> None:
    """The campaign's item of that conversation is only in the store: the reply waits for it."""
    async with World(Platform(concurrency=1), items_max=10).running() as world:
        await trio.sleep(1)
        world.deliver(*(item(number, f"c{number}", lane=2) for number in range(1, 31)))
        await trio.sleep(0.1)
        world.deliver(item(31, "c30", lane=0))
        await world.drained()
    assert world.platform.sent.index(30) < world.platform.sent.index(31)


# ------------------------------------------------------------------ signals


async def test_a_signal_is_sent_and_ended_here(autojump_clock: MockClock) -> None:
    """No conversation is asked about a read mark."""
    async with World().running() as world:
        world.deliver(item(1, signal=True))
        await world.drained()
    assert (world.platform.sent, world.verdicts, world.store.state(1)) == ([1], [], "done")


async def test_a_signal_is_tried_twice_at_most(autojump_clock: MockClock) -> None:
    """Whether it was declined or never answered."""
    async with World().running() as world:
        world.platform.answer = lambda one: (
            Unanswered(reason="x") if one.id == 1 else declined(ErrorClass.TRANSIENT)
        )
        world.deliver(item(1, signal=True), item(2, "b", signal=True))
        await world.drained()
    assert sorted(world.platform.sent) == [1, 1, 2, 2]


async def test_a_stale_signal_is_dropped(autojump_clock: MockClock) -> None:
    """Older than a minute: ended without a call."""
    world = World()
    world.store.insert(item(1, signal=True, created_at=BASE_MS - 61_000))
    async with world.running():
        world.tell(Wake())
        await world.drained()
    assert (world.platform.sent, world.store.state(1)) == ([], "done")


# ------------------------------------------------------------------ beginning and end


async def test_a_stop_ends_what_is_in_hand_and_takes_nothing_new(autojump_clock: MockClock) -> None:
    """The call under way is answered and reported; the next item stays queued in the store."""
    async with World(Platform(seconds=3)).running() as world:
        world.deliver(item(1), item(2))
        await trio.sleep(1)
    assert world.platform.sent == [1]
    assert (world.store.state(1), world.store.state(2)) == ("done", "queued")


async def test_what_a_stop_cuts_stays_sending(autojump_clock: MockClock) -> None:
    """A hanging call is cut at the deadline; its row says that it was being sent."""
    async with World().running() as world:
        world.platform.hang.add(1)
        world.deliver(item(1))
        await trio.sleep(1)
        began = trio.current_time()
    assert world.store.state(1) == "sending"
    assert trio.current_time() - began < 20


async def test_an_idle_account_costs_no_task(autojump_clock: MockClock) -> None:
    """Five quiet minutes end the actor; the next message starts it again."""
    async with World().running() as world:
        world.deliver(item(1))
        await world.drained()
        await trio.sleep(400)
        assert world.channels.statistics() == []
        world.deliver(item(2))
        await world.drained()
    assert world.platform.sent == [1, 2]


async def test_a_crash_between_call_and_report_is_an_unknown_outcome(autojump_clock: MockClock) -> None:
    """The actor is killed while calls hang; the next activation reads the rows and does not send blindly."""
    async with World().running() as world:
        world.platform.hang.add(1)
        world.deliver(item(1))
        await trio.sleep(1)
        world.platform.hang.clear()
        await crash(world)
        await trio.sleep(20)
        assert world.platform.sent == [1]
        await world.drained()
    assert world.outcomes(1) == ["OutcomeUnknown", "Resending", "Sent"]


async def crash(world: World) -> None:
    """Makes the actor fail at its next message."""
    account, world.channels.accounts = world.channels.accounts, _fail
    world.tell(Refresh())
    await trio.sleep(0.01)
    world.channels.accounts = account


def _fail(tenant_id: int, channel_id: int) -> Account | None:
    raise ZeroDivisionError("planted")


async def test_statistics_count_outcomes(autojump_clock: MockClock) -> None:
    """By outcome, since the start, over activations."""
    async with World().running() as world:
        world.platform.say(2, declined(ErrorClass.RECIPIENT))
        world.platform.say(3, declined(ErrorClass.TRANSIENT))
        world.deliver(item(1), item(2, "b"), item(3, "c"))
        await world.drained()
        (statistics,) = world.channels.statistics()
    assert statistics.outcomes == {"sent": 2, "refused": 1, "retry_transient": 1}
    assert (statistics.queued, statistics.in_hand, statistics.halted) == (0, 0, None)
    assert wall_ms() > 0
