"""Customers who want no more messages here, and want them again: decided by hand."""

from typing import Any

import pytest

from engine.domain.conversation.messages import OutboxVerdict, Retry, SetStatus, Start
from engine.domain.conversation.state import LOADED_MAX, from_snapshot
from engine.domain.inbound import NO_TIME, PlatformError
from engine.domain.outbound import OutboxItem, OutcomeUnknown, Refused, SendText, Sent
from engine.domain.outbox import Settled
from engine.domain.rows import ConversationRow, MessagePatch, MessageRow, OutboxPatch, OutboxRow
from engine.errors import Conflicting
from engine.ports import ContactSnapshot, FoundMessage, FoundTracked, TrackedMessage, TrackedQuery
from engine.runtime import Lookup
from tests.domain.desk import ANN, CHANNEL, KEY, NOON, NOTHING_FOUND, TENANT, Story, config, rule

OUT, IN = {"opts": "out"}, {"opts": "in"}


def refusal(effects: Any) -> str:
    assert isinstance(effects.refuse, Conflicting)
    assert not effects.commit
    return effects.refuse.code


def verdict(story: Story, message_id: int, outcome: Any) -> Any:
    conversation = story.state.conversation
    assert conversation is not None
    return story.tell(
        OutboxVerdict(
            outbox_id=message_id, conversation_id=conversation.id, message_id=message_id, outcome=outcome
        )
    )


def item_of(story: Story, message_id: int) -> OutboxItem:
    row = next(each for each in story.written(OutboxRow) if each.id == message_id)
    members = {name: getattr(row, name) for name in OutboxItem.__struct_fields__ if hasattr(row, name)}
    return OutboxItem(**members, send=SendText(body="Hi"), reply_to=None)


def queued(story: Story, text: str = "Your parcel is here") -> int:
    message_id: int = story.tell(story.reply(text)).reply.id
    return message_id


def start(story: Story, send: SendText | None = None) -> Any:
    return story.tell(
        Start(by=ANN, recipient=f"+{KEY}", name=None, platform="nowhere", send=send, text="Hello")
    )


def test_nothing_is_sent_to_who_has_opted_out_until_they_opt_in() -> None:
    """Not by an agent, not by a conversation that is started, not again; a conversation may still be
    opened."""
    story = Story()
    story.customer_writes("Hello")
    first = queued(story)
    verdict(story, first, Refused(platform_code="1", message="No.", retryable=True, at=NOON))
    story.customer_writes("STOP", **OUT)
    conversation = story.state.conversation
    assert conversation is not None

    assert refusal(story.tell(story.reply("But why?"))) == "opted_out"
    assert refusal(start(story, SendText(body="Hello"))) == "opted_out"
    failed = next(row for row in story.written(MessageRow) if row.id == first)
    found = FoundMessage(message=failed, outbox=item_of(story, first))
    retried = story.tell(Retry(conversation_id=conversation.id, message_id=first, by=ANN), found=found)
    assert refusal(retried) == "opted_out"
    assert start(story).refuse is None
    assert story.events().count("customer.opted_out") == 1
    shown = story.event("customer.opted_out")
    assert shown["source"] == "message"
    assert shown["conversation"]["opted_out_at"] == "2026-01-03T12:00:00.000Z"

    story.customer_writes("START", **IN)

    assert story.event("customer.opted_in")["conversation"]["opted_out_at"] is None
    assert story.tell(story.reply("Welcome back")).refuse is None


def test_what_says_nothing_new_changes_nothing() -> None:
    """Neither a second STOP nor a START of somebody who never stopped."""
    story = Story()
    story.customer_writes("Yes", **IN)
    assert "customer.opted_in" not in story.events()
    story.customer_writes("STOP", **OUT)
    story.later(5_000)
    story.customer_writes("STOP", **OUT)
    assert story.events().count("customer.opted_out") == 1
    assert story.event("message.received")["message"]["metadata"] == {"opts": "out"}


def test_no_rule_answers_an_opt_out_or_what_comes_after_it() -> None:
    story = Story(config(rules={1: rule(1, "greeting"), 2: rule(2, "keyword", patterns=("stop", "hi"))}))
    story.customer_writes("stop", **OUT)
    story.customer_writes("hi")
    assert not story.written(OutboxRow)


def test_what_waits_is_withdrawn_in_the_same_commit() -> None:
    """Messages fail with a sentence, their outbox rows end, the channel lets go of them; what was sent
    stays."""
    story = Story()
    story.customer_writes("Hello")
    sent, waiting, unsure = queued(story, "1"), queued(story, "2"), queued(story, "3")
    verdict(story, sent, Sent(platform_id="wamid.1", at=NOON))
    verdict(story, unsure, OutcomeUnknown(at=NOON))

    effects = story.customer_writes("STOP", **OUT)

    ended = {row.id: row for row in effects.commit if isinstance(row, OutboxPatch)}
    assert {number: row.state for number, row in ended.items()} == {waiting: "dead", unsure: "dead"}
    patches = {row.id: row for row in effects.commit if isinstance(row, MessagePatch)}
    assert {row.status for row in patches.values()} == {"failed"}
    assert patches[waiting].error == {
        "code": "opted_out",
        "platform_code": None,
        "message": "The customer opted out before this was sent.",
        "retryable": False,
    }
    told = {tell.message.outbox_id for tell in effects.tell if isinstance(tell.message, Settled)}
    assert told == {waiting, unsure}
    assert story.state.messages[sent].status == "sent"


@pytest.mark.parametrize("by_status", [False, True])
def test_a_call_that_was_under_way_is_shown_as_it_ended(by_status: bool) -> None:
    """What the platform took all the same is sent, and what it refused stays failed."""
    story = Story()
    story.customer_writes("Hello")
    taken, refused = queued(story, "1"), queued(story, "2")
    story.customer_writes("STOP", **OUT)
    if by_status:
        story.tell(story.status("sent", "wamid.1", callback=taken))
    else:
        verdict(story, taken, Sent(platform_id="wamid.1", at=NOON))
    verdict(story, refused, Refused(platform_code="1", message="No.", retryable=False, at=NOON))
    assert story.state.messages[taken].status == "sent"
    assert story.state.messages[refused].status == "failed"
    cleared = [row for row in story.written(MessagePatch) if row.id == taken and row.clear_failure]
    assert [row.status for row in cleared] == ["sent"]


def test_the_platform_may_be_the_one_to_tell() -> None:
    """By a refusal, or by a status: from then on nothing is sent."""
    for told in ("refusal", "status"):
        story = Story()
        story.customer_writes("Hello")
        message_id = queued(story)
        if told == "refusal":
            outcome = Refused(platform_code="21610", message="No.", retryable=False, at=NOON, opted_out=True)
            verdict(story, message_id, outcome)
        else:
            verdict(story, message_id, Sent(platform_id="wamid.1", at=NOON))
            error = PlatformError(platform_code="21610", message="No.", opted_out=True)
            story.tell(story.status("failed", "wamid.1", error=error))
        assert story.event("customer.opted_out")["source"] == "platform"
        assert refusal(story.tell(story.reply("Hello?"))) == "opted_out"


def test_it_holds_in_the_next_conversation_and_after_a_reload() -> None:
    story = Story()
    story.customer_writes("STOP", **OUT)
    first = story.state.conversation
    assert first is not None
    story.tell(SetStatus(conversation_id=first.id, status="archived", by=ANN))
    story.customer_writes("Hello again")
    second = story.state.conversation
    assert second is not None
    assert second.id != first.id
    assert refusal(story.tell(story.reply("Hi"))) == "opted_out"

    customer = story.state.customer
    assert customer is not None
    story.state = from_snapshot(
        TENANT,
        CHANNEL,
        KEY,
        ContactSnapshot(
            customer=customer,
            handles=(),
            contact_key=KEY,
            conversation=story.written(ConversationRow)[-1],
            messages=(),
            complete=True,
        ),
    )

    assert refusal(story.tell(story.reply("Hi"))) == "opted_out"


def test_what_waits_and_is_not_in_memory_is_looked_up() -> None:
    """After a reload of a contact with more messages than are loaded."""
    story = Story()
    story.customer_writes("Hello")
    conversation, customer = story.state.conversation, story.state.customer
    assert conversation is not None
    assert customer is not None
    newest = tuple(waiting(number) for number in range(LOADED_MAX, 0, -1))
    story.state = from_snapshot(
        TENANT,
        CHANNEL,
        KEY,
        ContactSnapshot(
            customer=customer,
            handles=(),
            contact_key=KEY,
            conversation=conversation,
            messages=tuple(waiting(number, status="sent") for number in range(900, 868, -1)),
            complete=False,
        ),
    )
    stop = story.written_by_customer("STOP", **OUT)

    question = story.raw(stop)

    assert isinstance(question, Lookup)
    assert isinstance(question.query, tuple)
    query = question.query[1]
    assert isinstance(query, TrackedQuery)
    assert (set(query.statuses), query.named) == ({"pending", "sending", "unknown"}, False)
    story.tell(stop, found=(NOTHING_FOUND, FoundTracked(messages=newest)))
    withdrawn = {row.id for row in story.written(OutboxPatch)}
    assert withdrawn == set(range(1, LOADED_MAX + 1))


def waiting(number: int, status: str = "pending") -> TrackedMessage:
    return TrackedMessage(
        id=number,
        conversation_id=1,
        seq=number,
        direction="outbound",
        status=status,
        author="user:501",
        platform_message_id=None if status == "pending" else f"wamid.{number}",
        client_key=None,
        platform_at=None,
        sent_at=None,
        delivered_at=None,
        read_at=None,
        failed_at=None,
        edited_at=None,
        deleted_at=None,
        created_at=NOON,
    )


def test_where_the_platform_tells_no_time_that_of_receipt_counts() -> None:
    story = Story()
    story.customer_writes("Hello", at=NO_TIME)
    (row,) = story.written(MessageRow)
    assert row.platform_at == NOON
