"""What comes twice, late, by another door or after the fact: the edges that the simulation and a second
reading found."""

from typing import Any

import msgspec
import pytest

from engine.domain.assigner.messages import Declined, Want
from engine.domain.config import AssignmentSettings
from engine.domain.conversation.messages import (
    SYSTEM,
    Assign,
    ChangeTags,
    OutboxVerdict,
    Retry,
    SetStatus,
    Start,
    Unassign,
)
from engine.domain.conversation.state import RECENT_MAX
from engine.domain.inbound import (
    Contact,
    ContactRenumbered,
    MessageDeleted,
    MessageEchoed,
    MessageEdited,
    PlatformError,
)
from engine.domain.outbound import (
    OutboxItem,
    OutcomeUnknown,
    Refused,
    Resending,
    SendTemplate,
    SendText,
    Sent,
)
from engine.domain.outbox import Deliver, Settled
from engine.domain.resources import CustomerRef, conversation_resource
from engine.domain.rows import (
    AssignmentRow,
    ConversationRow,
    EventRow,
    HandleRow,
    MessagePatch,
    MessageRow,
    OutboxPatch,
    OutboxRow,
    StatusRow,
)
from engine.errors import Conflicting
from engine.ports import FoundMessage, MessageQuery
from engine.runtime import Effects, Lookup
from tests.domain.desk import (
    ANN,
    CHANNEL,
    HOUR,
    KEY,
    NOON,
    NOTHING_FOUND,
    TENANT,
    Story,
    agent,
    config,
    rule,
)

AUTOMATIC = AssignmentSettings(mode="round_robin")


def told(effects: Effects, kind: type[Any]) -> list[Any]:
    return [tell.message for tell in effects.tell if isinstance(tell.message, kind)]


def verdict(message: MessageRow, outcome: Any) -> OutboxVerdict:
    return OutboxVerdict(
        outbox_id=message.id,
        conversation_id=message.conversation_id,
        message_id=message.id,
        outcome=outcome,
    )


def failure() -> PlatformError:
    return PlatformError(platform_code="131049", message="Not today.")


def sent_message(story: Story, platform_id: str = "wamid.out") -> MessageRow:
    """A reply that the platform has taken."""
    if story.state.conversation is None:
        story.customer_writes()
    story.tell(story.reply())
    row: MessageRow = story.written(MessageRow)[-1]
    story.tell(verdict(row, Sent(platform_id=platform_id, at=story.ctx.now)))
    return row


def as_stored(story: Story, row: MessageRow) -> FoundMessage:
    """The message as the store has it, with its outbox item."""
    target = story.state.messages[row.id]
    after = msgspec.structs.replace(
        row, status=target.status, platform_message_id=target.platform_id, sent_at=target.sent_at
    )
    item = OutboxItem(
        id=row.id,
        tenant_id=TENANT,
        channel_id=CHANNEL,
        conversation_id=row.conversation_id,
        contact_key=row.contact_key,
        message_id=row.id,
        recipient="+1",
        lane=0,
        state="dead",
        attempts=1,
        not_before=NOON,
        send=SendText(body="Hi"),
        reply_to=None,
        trace="t",
        created_at=NOON,
    )
    return FoundMessage(message=after, outbox=item)


def failed_then_retried(story: Story) -> MessageRow:
    row = sent_message(story, "wamid.first")
    story.tell(story.status("failed", "wamid.first", callback=row.id, error=failure()))
    found = as_stored(story, row)
    story.tell(Retry(conversation_id=row.conversation_id, message_id=row.id, by=ANN), found=found)
    return row


# ------------------------------------------------------------------ sending twice


def start(key: str | None) -> Start:
    return Start(
        by=ANN,
        recipient="+15550001111",
        name="Zoe",
        platform="whatsapp",
        send=SendTemplate(name="hello", language="en"),
        type="template",
        client_key=key,
    )


def test_a_start_that_is_clicked_twice_is_one_message() -> None:
    """The second click is answered with the first message; it does not break on the unique key."""
    story = Story()

    first = story.tell(start("k1")).reply
    second = story.tell(start("k1")).reply

    assert second.message.id == first.message.id
    assert (first.created, second.created) == (True, False)
    assert len(story.written(MessageRow)) == 1


def test_a_start_whose_first_message_is_only_in_the_store_is_looked_up() -> None:
    """After a conflict the key's message is asked for and answered."""
    story = Story()
    story.tell(start(None))
    (row,) = story.written(MessageRow)
    conversation_id = row.conversation_id

    question = story.raw(start("k1"), suspect=True)
    answer = story.tell(start("k1"), suspect=True, found=FoundMessage(message=row))

    assert question == Lookup(
        MessageQuery(tenant_id=TENANT, channel_id=CHANNEL, client_key=(conversation_id, "k1"))
    )
    assert answer.reply.message.id == row.id


def test_a_retry_that_is_clicked_twice_is_refused_the_second_time() -> None:
    """The first retry of a message that is not resident is remembered, whatever the store still shows."""
    story = Story()
    row = sent_message(story)
    story.tell(story.status("failed", "wamid.out", callback=row.id, error=failure()))
    found, unchanged = as_stored(story, row), as_stored(story, row)
    for _ in range(RECENT_MAX):
        story.later(3000)
        story.customer_writes()
    assert row.id not in story.state.messages
    again = Retry(conversation_id=row.conversation_id, message_id=row.id, by=ANN)

    first = story.tell(again, found=found)
    second = story.tell(again, found=unchanged)

    assert told(first, Deliver)
    assert isinstance(second.refuse, Conflicting)


# ------------------------------------------------------------------ statuses of another attempt


@pytest.mark.parametrize("late", ["failed", "sent"])
def test_what_the_first_attempt_was_told_does_not_end_a_retry(late: str) -> None:
    """A redelivered status of the failed attempt leaves the new one on its way."""
    story = Story()
    row = failed_then_retried(story)

    effects = story.tell(story.status(late, "wamid.first", callback=row.id, error=failure()))

    assert story.state.messages[row.id].status == "pending"
    assert not told(effects, Settled)


def test_a_retried_message_goes_by_its_new_platform_id() -> None:
    """Statuses, quotes and reactions name the message that the customer has; the old failure stays out."""
    story = Story()
    row = failed_then_retried(story)

    story.tell(verdict(row, Sent(platform_id="wamid.second", at=NOON + 1)))
    story.tell(story.status("failed", "wamid.first", callback=row.id, error=failure()))

    assert story.written(MessagePatch)[-1].platform_message_id == "wamid.second"
    assert story.state.messages[row.id].status == "sent"
    assert story.state.known("wamid.second") is story.state.messages[row.id]
    assert story.state.known("wamid.first") is None


def test_an_earlier_attempt_that_arrived_after_all_ends_the_retry() -> None:
    """The customer has the message: it is not sent again."""
    story = Story()
    row = failed_then_retried(story)

    effects = story.tell(story.status("delivered", "wamid.first", callback=row.id))

    assert told(effects, Settled) == [Settled(row.id)]
    assert story.written(OutboxPatch)[-1].state == "done"


def test_a_retry_of_an_unknown_outcome_is_flagged_as_sent_again() -> None:
    """The first may have arrived; the copy says so, whoever asked for it."""
    story = Story()
    story.customer_writes()
    story.tell(story.reply())
    row = story.written(MessageRow)[-1]
    story.tell(verdict(row, OutcomeUnknown(at=NOON)))

    answer = story.tell(
        Retry(conversation_id=row.conversation_id, message_id=row.id, by=ANN), found=as_stored(story, row)
    )

    assert answer.reply.metadata == {"resent": True}
    assert story.written(MessagePatch)[-1].metadata == {"resent": True}


def test_a_resend_after_a_persons_retry_is_flagged_too() -> None:
    """The channel was waiting for the platform's word when somebody clicked retry."""
    story = Story()
    row = failed_then_retried(story)

    story.tell(verdict(row, Resending(at=NOON)))

    assert story.written(MessagePatch)[-1].metadata == {"resent": True}


# ------------------------------------------------------------------ statuses of what is not resident


def old_message(story: Story) -> tuple[MessageRow, FoundMessage]:
    row = sent_message(story)
    found = as_stored(story, row)
    for _ in range(RECENT_MAX):
        story.later(3000)
        story.customer_writes()
    assert row.id not in story.state.messages
    return row, found


def test_a_looked_up_message_never_goes_back_while_its_commit_is_under_way() -> None:
    """`read` is decided and not yet in the store when `delivered` looks the message up again."""
    story = Story()
    row, found = old_message(story)

    story.tell(story.status("read", "wamid.out", callback=row.id), found=found)
    story.tell(story.status("delivered", "wamid.out", callback=row.id), found=found)

    statuses = [patch.status for patch in story.written(MessagePatch) if patch.id == row.id and patch.status]
    assert statuses == ["sent", "read"]


def test_an_older_edit_of_a_looked_up_message_does_not_win_over_a_newer_one() -> None:
    """The newer edit is decided and not yet in the store when the older one comes."""
    story = Story()
    story.customer_writes(platform_id="wamid.old")
    original = story.written(MessageRow)[-1]
    for _ in range(RECENT_MAX):
        story.later(3000)
        story.customer_writes()

    def edit(number: int) -> Any:
        return story.receive(
            MessageEdited(
                contact=Contact(keys=("15550001111",)),
                platform_id=f"wamid.edit{number}",
                original_id="wamid.old",
                at=NOON + number,
                type="text",
                content={"body": str(number)},
                text=str(number),
            )
        )

    found = (FoundMessage(message=original), NOTHING_FOUND)
    story.tell(edit(2), found=found)
    story.tell(edit(1), found=found)

    assert [patch.text for patch in story.written(MessagePatch)] == ["2"]


def test_a_status_about_another_contacts_message_is_that_actors_to_decide() -> None:
    """A message has one writer, also when a status names the person by an id that nobody knew."""
    story = Story()
    row = sent_message(story)
    stranger = Story(key="US.42")
    status = stranger.status("read", "wamid.out", callback=row.id)

    effects = stranger.raw(status, found=as_stored(story, row))

    assert isinstance(effects, Effects)
    assert effects.forward is not None
    assert effects.forward.key == (CHANNEL, row.contact_key)
    assert not effects.commit


def test_a_deletion_of_another_contacts_message_is_that_actors_to_decide() -> None:
    """The same for edits and deletions."""
    story = Story()
    story.customer_writes(platform_id="wamid.1")
    original = story.written(MessageRow)[-1]
    stranger = Story(key="US.42")
    gone = MessageDeleted(
        contact=Contact(keys=("US.42",)), platform_id="wamid.2", original_id="wamid.1", at=NOON
    )

    effects = stranger.raw(
        stranger.receive(gone), suspect=True, found=(FoundMessage(message=original), NOTHING_FOUND)
    )

    assert isinstance(effects, Effects)
    assert effects.forward is not None


def test_all_statuses_that_overtook_their_message_count_in_any_order() -> None:
    """`read` came before `sent`, and both before the platform's answer: the message is read."""
    story = Story()
    story.customer_writes()
    story.tell(story.reply())
    row = story.written(MessageRow)[-1]
    for status in ("read", "sent", "read"):
        story.tell(story.status(status, "wamid.out"), found=NOTHING_FOUND)

    story.tell(verdict(row, Sent(platform_id="wamid.out", at=NOON)))

    assert story.state.messages[row.id].status == "read"
    assert len(story.written(StatusRow)) == 2


# ------------------------------------------------------------------ the outbox row's end


def test_a_failure_that_overtakes_the_answer_leaves_the_item_dead() -> None:
    """Message and item agree: failed is dead, whichever word came first."""
    story = Story()
    story.customer_writes()
    story.tell(story.reply())
    row = story.written(MessageRow)[-1]

    story.tell(story.status("failed", "wamid.out", callback=row.id, error=failure()))
    story.tell(verdict(row, Sent(platform_id="wamid.out", at=NOON)))

    assert story.state.messages[row.id].status == "failed"
    assert story.written(OutboxPatch)[-1].state == "dead"


def test_a_late_failure_of_a_delivered_message_is_recorded_and_shown_nowhere() -> None:
    """The customer has it, so it has no time of failing either."""
    story = Story()
    row = sent_message(story)
    story.tell(story.status("delivered", "wamid.out", callback=row.id))

    story.tell(story.status("failed", "wamid.out", callback=row.id, error=failure()))

    assert all(patch.failed_at is None for patch in story.written(MessagePatch))
    assert len(story.written(StatusRow)) == 2


@pytest.mark.parametrize(
    "word",
    [
        OutcomeUnknown(at=NOON),
        Resending(at=NOON),
        Refused(platform_code="x", message="y", retryable=True, at=NOON),
    ],
)
def test_a_verdict_about_a_decided_message_ends_its_row_and_lets_the_channel_go(word: Any) -> None:
    """Else a row that the channel marked `sending` after the fact would be sent again by the next process."""
    story = Story()
    story.customer_writes()
    story.tell(story.reply())
    row = story.written(MessageRow)[-1]
    story.tell(story.status("delivered", "wamid.out", callback=row.id))

    effects = story.tell(verdict(row, word))

    assert story.written(OutboxPatch)[-1].state == "done"
    assert told(effects, Settled) == [Settled(row.id)]
    assert story.state.messages[row.id].status == "delivered"


# ------------------------------------------------------------------ who said it


def test_the_businesss_own_edit_of_an_unknown_message_is_not_the_customers() -> None:
    """Stored as outbound: it opens no window, counts as nothing unread and is not answered."""
    story = Story(config(rules={1: rule(1, "greeting")}))
    edit = MessageEdited(
        contact=Contact(keys=("15550001111",)),
        platform_id="wamid.2",
        original_id="wamid.1",
        at=NOON,
        type="text",
        content={"body": "x"},
        text="x",
        by_business=True,
    )

    story.tell(story.receive(edit))

    (row,) = story.written(MessageRow)
    assert (row.direction, row.metadata["edit_of"]) == ("outbound", "wamid.1")
    assert story.written(ConversationRow)[-1].unread_count == 0
    assert not story.written(OutboxRow)


def test_an_edit_that_became_a_message_is_not_applied_again() -> None:
    """The edit came first, then its original, then the edit once more."""
    story = Story()
    edit = story.receive(
        MessageEdited(
            contact=Contact(keys=("15550001111",)),
            platform_id="wamid.2",
            original_id="wamid.1",
            at=NOON,
            type="text",
            content={"body": "x"},
            text="x",
        )
    )
    story.tell(edit)
    story.customer_writes(platform_id="wamid.1")

    assert story.tell(edit).reply.outcome == "duplicate"


def test_a_reaction_does_not_reopen_what_is_resolved() -> None:
    """A thumb under the goodbye is kept, and nobody's work."""
    story = Story(config(assignment=AUTOMATIC))
    story.customer_writes()
    conversation = story.state.conversation
    assert conversation is not None
    story.tell(SetStatus(conversation_id=conversation.id, status="resolved", by=ANN))

    effects = story.customer_writes(text="", type="reaction", content={"emoji": "+"})

    assert story.written(ConversationRow)[-1].status == "resolved"
    assert story.written(MessageRow)[-1].type == "reaction"
    assert not told(effects, Want)


def test_a_handle_of_somebody_else_is_not_tried_with_every_message() -> None:
    """One refused commit, then quiet for a while: a merge will settle it."""
    story = Story()
    story.customer_writes()
    both = Contact(keys=("15550001111", "US.42"), name="Zoe Doe")
    refused = story.written_by_customer(contact=both)

    story.tell(refused, suspect=True, found=NOTHING_FOUND)
    story.customer_writes(contact=both)
    assert [row.external_id for row in story.written(HandleRow)] == ["15550001111"]

    story.later(HOUR)
    story.customer_writes(contact=both)
    assert [row.external_id for row in story.written(HandleRow)] == ["15550001111", "US.42"]


@pytest.mark.parametrize("early", [False, True])
def test_the_inbox_does_not_show_what_the_customer_has_deleted(early: bool) -> None:
    """The preview goes with the message, whichever came first."""
    story = Story()
    gone = story.receive(
        MessageDeleted(
            contact=Contact(keys=("15550001111",)), platform_id="wamid.2", original_id="wamid.1", at=NOON
        )
    )
    written = story.written_by_customer("secret", platform_id="wamid.1")

    for message in (gone, written) if early else (written, gone):
        story.tell(message)

    last = story.written(ConversationRow)[-1].last_message
    assert last["preview"] == "Deleted message"


def test_the_inbox_shows_the_last_message_as_it_was_edited() -> None:
    """And the event of the edit says so."""
    story = Story()
    story.customer_writes("tpyo", platform_id="wamid.1")
    story.tell(
        story.receive(
            MessageEdited(
                contact=Contact(keys=("15550001111",)),
                platform_id="wamid.2",
                original_id="wamid.1",
                at=NOON + 1000,
                type="text",
                content={"body": "typo"},
                text="typo",
            )
        )
    )

    assert story.event("message.updated")["conversation"]["last_message"]["preview"] == "typo"
    assert story.written(ConversationRow)[-1].last_message["preview"] == "typo"


# ------------------------------------------------------------------ automated replies


def test_a_message_from_days_ago_is_not_answered_automatically() -> None:
    """Its window is closed; the platform would refuse the reply."""
    story = Story(config(rules={1: rule(1, "greeting")}))

    story.customer_writes(at=NOON - 30 * HOUR)

    assert not story.written(OutboxRow)


def test_a_reply_that_cannot_be_built_does_not_stop_the_customers_message() -> None:
    """A rule saved in a form that is not understood any more answers nothing."""
    broken = rule(1, "greeting", reply={"type": "interactive", "kind": "buttons", "body": "b", "options": 3})
    story = Story(config(rules={1: broken}))

    effects = story.customer_writes()

    assert effects.reply.outcome == "stored"
    assert not story.written(OutboxRow)


# ------------------------------------------------------------------ the desk


def test_a_bulk_command_over_many_conversations_of_one_contact_sees_its_own_changes() -> None:
    """What may be under way to the store is never read back from it; here: twenty closed conversations."""
    story = Story()
    numbers: list[int] = []
    for _ in range(20):
        story.customer_writes()
        conversation = story.state.conversation
        assert conversation is not None
        numbers.append(conversation.id)
        story.tell(SetStatus(conversation_id=conversation.id, status="archived", by=ANN))

    for number in numbers:
        story.tell(Assign(conversation_id=number, user_id=501, by=ANN))
    for number in numbers:
        story.tell(ChangeTags(conversation_id=number, add=(9,), by=ANN))

    last = {row.id: row for row in story.written(ConversationRow)}
    assert [(last[number].assigned_to, last[number].tag_ids) for number in numbers] == [(501, [9])] * 20


def test_an_archived_conversation_stays_archived() -> None:
    """Archived is final, for agents as for customers."""
    story = Story()
    story.customer_writes()
    conversation = story.state.conversation
    assert conversation is not None
    story.tell(SetStatus(conversation_id=conversation.id, status="archived", by=ANN))

    outcome = story.tell(SetStatus(conversation_id=conversation.id, status="open", by=ANN))

    assert isinstance(outcome.refuse, Conflicting)
    assert outcome.refuse.code == "conversation_closed"


def test_an_answer_does_not_reopen_an_older_conversation_beside_the_newest() -> None:
    """The customer's next message continues the newest; two must never be open."""
    story = Story()
    story.customer_writes()
    first = story.state.conversation
    assert first is not None
    story.tell(SetStatus(conversation_id=first.id, status="resolved", by=ANN))
    story.later(8 * 24 * HOUR)
    story.customer_writes()
    newest = story.state.conversation
    assert newest is not None
    story.tell(SetStatus(conversation_id=newest.id, status="resolved", by=ANN))
    first.reply_window_ends_at = newest.reply_window_ends_at

    outcome = story.tell(story.reply(conversation_id=first.id))

    assert isinstance(outcome.refuse, Conflicting)


def test_a_snooze_that_is_moved_is_told_to_everybody() -> None:
    """The last event shows the conversation as it is."""
    story = Story()
    story.customer_writes()
    conversation = story.state.conversation
    assert conversation is not None
    for hours in (1, 2):
        story.tell(
            SetStatus(conversation_id=conversation.id, status="pending", until=NOON + hours * HOUR, by=ANN)
        )

    row = story.written(ConversationRow)[-1]
    customer = story.state.customer
    assert customer is not None
    fresh = conversation_resource(
        row, CustomerRef(id=customer.id, name=customer.name), story.ctx.config, NOON
    )
    shown = msgspec.json.decode(story.written(EventRow)[-1].data_json)["conversation"]
    assert shown == msgspec.json.decode(msgspec.json.encode(fresh))


def test_what_nobody_has_any_more_asks_for_an_agent() -> None:
    """As the store counts it: open and nobody's is waiting."""
    story = Story(config(assignment=AUTOMATIC))
    story.customer_writes()
    conversation = story.state.conversation
    assert conversation is not None
    number = conversation.id
    story.tell(Assign(conversation_id=number, user_id=501, by=ANN))

    assert told(story.tell(Unassign(conversation_id=number, by=ANN)), Want)
    assert not told(story.tell(SetStatus(conversation_id=number, status="pending", by=ANN)), Want)
    assert told(story.tell(SetStatus(conversation_id=number, status="open", by=ANN)), Want)


@pytest.mark.parametrize(
    "first",
    [
        MessageEchoed(
            contact=Contact(keys=(KEY,)),
            platform_id="wamid.1",
            at=NOON,
            type="text",
            content={"body": "Your table is free."},
            text="Your table is free.",
        ),
        ContactRenumbered(
            contact=Contact(keys=(KEY,)),
            platform_id="wamid.1",
            at=NOON,
            new_key="15550002222",
            new_phone="+15550002222",
            content={"kind": "user_changed_number", "body": "changed"},
            text="changed",
        ),
    ],
    ids=lambda first: type(first).__name__,
)
def test_a_conversation_that_the_customer_did_not_begin_asks_for_an_agent(first: Any) -> None:
    """Begun in the platform's own app, or by a changed number: it is open and nobody's like any other. It
    does not wait until the customer writes or a restart counts it."""
    story = Story(config(assignment=AUTOMATIC))

    effects = story.tell(story.receive(first))

    assert len(told(effects, Want)) == 1


def test_an_offer_of_an_agent_who_has_left_is_declined_and_another_one_wanted() -> None:
    """The conversation does not drop out of the line."""
    gone = config(assignment=AUTOMATIC, agents={501: agent(ANN, active=False)})
    story = Story(gone)
    story.customer_writes()
    conversation = story.state.conversation
    assert conversation is not None

    effects = story.tell(Assign(conversation_id=conversation.id, user_id=501, by=SYSTEM, from_pool=True))

    assert told(effects, Declined)
    assert told(effects, Want)


def test_losing_an_agent_on_reopening_is_part_of_the_history() -> None:
    """Kept: who had it until then."""
    story = Story(config(assignment=AssignmentSettings(mode="round_robin", reassign_on_reopen=True)))
    story.customer_writes()
    conversation = story.state.conversation
    assert conversation is not None
    story.tell(Assign(conversation_id=conversation.id, user_id=501, by=ANN))
    story.tell(SetStatus(conversation_id=conversation.id, status="resolved", by=ANN))

    story.customer_writes()

    last = story.written(AssignmentRow)[-1]
    assert (last.kind, last.from_user_id, last.to_user_id) == ("unassign", 501, None)
