"""How many messages go out after each of the customer's, on a platform that counts them."""

from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import convert, structs

from engine.domain.conversation.messages import By, OutboxVerdict, Retry
from engine.domain.conversation.state import LOADED_MAX, Tracked, from_snapshot
from engine.domain.inbound import Contact, MessageEchoed
from engine.domain.outbound import OutboxItem, OutboxPayload, OutcomeUnknown, Refused, Resending, Sent
from engine.domain.platforms import rules_of
from engine.domain.rows import MessageRow, OutboxRow
from engine.ports import ContactSnapshot, FoundMessage, TrackedMessage
from tests.domain.desk import ANN, CHANNEL, HOUR, KEY, TENANT, Story, config, rule

MOST = 10
HOURS = 48


def story(**rules: Any) -> Story:
    """On the platform that holds a window to ten messages."""
    made = config(rules=rules.get("rules", {}))
    channel = structs.replace(made.channels[CHANNEL], platform="tiktok")
    capabilities = rules_of("tiktok").capabilities
    assert (capabilities.window_messages_max, capabilities.window_seconds) == (MOST, HOURS * 3_600)
    return Story(structs.replace(made, channels={CHANNEL: channel}))


def verdict(on: Story, message_id: int, outcome: Any) -> None:
    assert on.state.conversation is not None
    on.tell(
        OutboxVerdict(
            outbox_id=message_id,
            conversation_id=on.state.conversation.id,
            message_id=message_id,
            outcome=outcome,
            trace="t3",
        )
    )


def reply(on: Story, by: By = ANN) -> int | str:
    """The message's id, or the code of the refusal."""
    on.later(1)
    effects = on.tell(on.reply(by=by))
    if effects.refuse is not None:
        code: str = effects.refuse.code
        return code
    message_id: int = effects.reply.id
    return message_id


def fill(on: Story, count: int = MOST, outcome: Callable[[Story, int], Any] | None = None) -> list[int]:
    ids = []
    for _ in range(count):
        message_id = reply(on)
        assert isinstance(message_id, int)
        verdict(on, message_id, outcome(on, message_id) if outcome is not None else taken(on, message_id))
        ids.append(message_id)
    return ids


def taken(on: Story, message_id: int) -> Sent:
    return Sent(platform_id=f"m{message_id}", at=on.ctx.now)


def refused(on: Story, message_id: int) -> Refused:
    return Refused(platform_code="40002", message="No.", retryable=True, at=on.ctx.now)


def reload(on: Story) -> None:
    """The actor leaves and comes back: what the store gives of its messages, the newest ones."""
    state = on.state
    assert state.customer is not None
    newest = sorted(state.messages.values(), key=lambda each: each.id, reverse=True)
    on.state = from_snapshot(
        TENANT,
        CHANNEL,
        KEY,
        ContactSnapshot(
            customer=state.customer,
            handles=(),
            contact_key=KEY,
            conversation=state.conversation,
            messages=tuple(_row(each) for each in newest[:LOADED_MAX]),
            complete=len(newest) <= LOADED_MAX,
        ),
    )


def _row(each: Tracked) -> TrackedMessage:
    return TrackedMessage(
        id=each.id,
        conversation_id=each.conversation_id,
        seq=each.seq,
        direction="outbound" if each.outbound else "inbound",
        status=each.status,
        author=each.author,
        platform_message_id=each.platform_id,
        client_key=each.client_key,
        platform_at=each.platform_at or None,
        sent_at=each.sent_at,
        delivered_at=each.delivered_at,
        read_at=each.read_at,
        failed_at=each.failed_at,
        edited_at=each.edited_at,
        deleted_at=each.deleted_at,
        created_at=each.sent_at or each.platform_at,
    )


def retry(on: Story, message_id: int) -> Any:
    """A person sends a failed message again; its rows are what the story wrote."""
    (row,) = [each for each in on.written(MessageRow) if each.id == message_id]
    (queued,) = [each for each in on.written(OutboxRow) if each.id == message_id]
    tracked = on.state.messages[message_id]
    found = FoundMessage(message=structs.replace(row, status=tracked.status), outbox=outbox_item(queued))
    on.later(1)
    message = Retry(conversation_id=row.conversation_id, message_id=message_id, by=ANN, trace="t4")
    return on.tell(message, found=found).refuse


def outbox_item(row: OutboxRow) -> OutboxItem:
    payload = convert(row.payload, OutboxPayload)
    same = {name: getattr(row, name) for name in OutboxItem.__struct_fields__ if hasattr(row, name)}
    return OutboxItem(**{**same, "state": "dead", "send": payload.send, "reply_to": payload.reply_to})


def echo(on: Story, platform_id: str) -> None:
    """Somebody of the business wrote in the platform's own app."""
    on.later(1)
    event = MessageEchoed(
        contact=Contact(keys=(KEY,)),
        platform_id=platform_id,
        at=on.ctx.now,
        type="text",
        content={"body": "By telephone"},
        text="By telephone",
    )
    on.tell(on.receive(event))


# ------------------------------------------------------------------ examples


def test_ten_messages_go_out_and_the_eleventh_is_refused() -> None:
    """With a code and a sentence, for people and rules; the customer's next message makes room for ten."""
    on = story()
    on.customer_writes()
    fill(on)
    effects = on.tell(on.reply())
    assert effects.refuse.code == "window_used_up"
    assert effects.refuse.data["messages_max"] == MOST
    assert effects.refuse.data["reply_window"].open
    assert "write first" in effects.refuse.message
    assert reply(on, By(kind="bot", id=None, name="rule")) == "window_used_up"
    on.later(1)
    on.customer_writes()
    fill(on)
    assert reply(on) == "window_used_up"


def test_a_reload_forgets_nothing() -> None:
    """What went out is counted from the stored messages."""
    on = story()
    on.customer_writes()
    fill(on, 7)
    reload(on)
    fill(on, 3)
    reload(on)
    assert reply(on) == "window_used_up"


def test_what_waits_counts_also_in_the_next_window() -> None:
    """The platform counts a message when it takes it, and these were not taken yet."""
    on = story()
    on.customer_writes()
    waiting = [reply(on) for _ in range(MOST)]
    on.later(1)
    on.customer_writes()
    assert reply(on) == "window_used_up"
    on.later(1)
    for message_id in waiting[:4]:
        assert isinstance(message_id, int)
        verdict(on, message_id, taken(on, message_id))
    assert reply(on) == "window_used_up"
    on.later(1)
    on.customer_writes()
    fill(on, 4)
    assert reply(on) == "window_used_up"


def test_what_failed_makes_room_and_needs_it_again_when_it_is_retried() -> None:
    """As the platform, which took nothing."""
    on = story()
    on.customer_writes()
    (failed,) = fill(on, 1, refused)
    fill(on)
    refusal = retry(on, failed)
    assert refusal.code == "window_used_up"
    on.later(1)
    on.customer_writes()
    assert retry(on, failed) is None
    assert on.state.messages[failed].status == "pending"


def test_an_unknown_outcome_counts_and_can_be_sent_again() -> None:
    """It may have been taken; sent again it is the same message."""
    on = story()
    on.customer_writes()
    fill(on, MOST - 1)
    (unknown,) = fill(on, 1, lambda told, message_id: OutcomeUnknown(at=told.ctx.now))
    assert reply(on) == "window_used_up"
    assert retry(on, unknown) is None
    verdict(on, unknown, Resending(at=on.ctx.now))
    assert reply(on) == "window_used_up"


def test_what_was_written_in_the_platforms_app_counts() -> None:
    """The limit is the business', not ours."""
    on = story()
    on.customer_writes()
    echo(on, "m_app")
    fill(on, MOST - 1)
    assert reply(on) == "window_used_up"


def test_a_message_that_comes_late_opens_no_new_window() -> None:
    """It was written before those that have been answered."""
    on = story()
    on.customer_writes(at=on.ctx.now - HOUR)
    on.customer_writes()
    fill(on)
    on.customer_writes(at=on.ctx.now - HOUR)
    assert reply(on) == "window_used_up"


def test_a_clock_behind_the_platforms_lets_no_more_out() -> None:
    """What was written after the customer's message counts, whatever the times say."""
    on = story()
    on.customer_writes(at=on.ctx.now + 60_000)
    fill(on)
    assert reply(on) == "window_used_up"


def test_no_rule_answers_into_a_full_window() -> None:
    """Where all that waits fills it."""
    on = story(rules={1: rule(1, "keyword", patterns=("hello",), cooldown_seconds=0)})
    on.customer_writes("bye")
    for _ in range(MOST):
        reply(on)
    on.later(1)
    on.customer_writes("hello")
    assert reply(on) == "window_used_up"
    assert len([row for row in on.written(MessageRow) if row.direction == "outbound"]) == MOST


def test_a_platform_without_the_limit_has_none() -> None:
    """As before there was one."""
    on = Story(config())
    on.customer_writes()
    fill(on, 3 * MOST)


# ------------------------------------------------------------------ any order of things


class Platform:
    """Counts as the platform does: what it took since the customer's last message."""

    def __init__(self) -> None:
        self.taken = 0

    def customer_wrote(self) -> None:
        self.taken = 0

    def takes(self) -> None:
        self.taken += 1
        assert self.taken <= MOST, "more than the platform takes went out"


STEPS = st.lists(
    st.sampled_from(["write", "reply", "reply", "reply", "take", "take", "refuse", "retry", "reload"]),
    max_size=LOADED_MAX - MOST - 1,  # so that a reload has them all
)


@given(steps=STEPS, filled=st.integers(0, MOST))
@settings(max_examples=200, deadline=None)
def test_exactly_what_the_platform_takes_is_let_out(steps: list[str], filled: int) -> None:
    """Whatever the order: a message is let out exactly when the platform will have room for it, those on
    their way included."""
    on, platform = story(), Platform()
    on.customer_writes()
    waiting: list[int] = []
    failed: list[int] = []

    def answer() -> None:
        room = platform.taken + len(waiting) < MOST
        message = reply(on)
        assert (message != "window_used_up") == room
        if isinstance(message, int):
            waiting.append(message)

    for _ in range(filled):
        answer()
    for step in steps:
        on.later(1)
        match step:
            case "write":
                on.customer_writes()
                platform.customer_wrote()
            case "reply":
                answer()
            case "take" if waiting:
                message = waiting.pop(0)
                platform.takes()
                verdict(on, message, taken(on, message))
            case "refuse" if waiting:
                message = waiting.pop(0)
                verdict(on, message, refused(on, message))
                failed.append(message)
            case "retry" if failed:
                room = platform.taken + len(waiting) < MOST
                assert (retry(on, failed[0]) is None) == room
                if room:
                    waiting.append(failed.pop(0))
            case "reload":
                reload(on)
            case _:
                pass
