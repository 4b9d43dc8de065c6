"""What a contact's messages change, decided by hand: pure handlers, no loop, no store."""

from itertools import permutations
from typing import Any

import msgspec
import pytest
from msgspec import structs

from engine.domain.assigner.messages import Declined, LoadChanged, Want
from engine.domain.config import AssignmentSettings
from engine.domain.conversation.messages import (
    SYSTEM,
    AddNote,
    Assign,
    ChangeTags,
    MarkConversationRead,
    OutboxVerdict,
    Retry,
    SetStatus,
    Start,
    TimerFired,
    Transfer,
    Unassign,
)
from engine.domain.conversation.state import BURST_MAX, RECENT_MAX
from engine.domain.conversation.statuses import RANK, advance
from engine.domain.inbound import (
    Contact,
    ContactRenumbered,
    Media,
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
    SendReaction,
    SendTemplate,
    Sent,
)
from engine.domain.outbox import Deliver, Fetch, Settled
from engine.domain.resources import rfc3339
from engine.domain.rows import (
    AssignmentRow,
    AttachmentRow,
    ConversationRow,
    CustomerRow,
    EventRow,
    HandleRow,
    MessagePatch,
    MessageRow,
    NoteRow,
    OutboxPatch,
    OutboxRow,
    StatusRow,
    TagHistoryRow,
    TimerDone,
    TimerRow,
)
from engine.domain.timers.messages import Arm, Disarm
from engine.errors import Conflicting, InvalidInput, NotFound
from engine.ports import ConversationQuery, FoundMessage, MessageQuery
from engine.runtime import Effects, Lookup
from tests.domain.desk import ANN, BOB, CHANNEL, HOUR, KEY, NOON, NOTHING_FOUND, TENANT, Story, config, rule


def told(effects: Effects, kind: type[Any]) -> list[Any]:
    return [tell.message for tell in effects.tell if isinstance(tell.message, kind)]


# ------------------------------------------------------------------ customers write


def test_a_first_message_creates_customer_handle_conversation_and_message_in_one_commit() -> None:
    story = Story()

    effects = story.customer_writes("Hello")

    (customer,) = story.written(CustomerRow)
    (handle,) = story.written(HandleRow)
    (message,) = story.written(MessageRow)
    (conversation,) = story.written(ConversationRow)
    assert customer.name == "Zoe Doe"
    assert (handle.external_id, handle.contact_key, handle.customer_id) == (KEY, KEY, customer.id)
    assert (message.seq, message.status, message.conversation_id) == (1, "received", conversation.id)
    assert (conversation.status, conversation.last_seq, conversation.unread_count) == ("new", 1, 1)
    assert story.events() == ["conversation.created", "message.received"]
    assert effects.reply.outcome == "stored"


def test_the_same_platform_id_is_stored_once() -> None:
    story = Story()
    message = story.written_by_customer()
    story.tell(message)

    again = story.tell(message)

    assert again.reply.outcome == "duplicate"
    assert not again.commit
    assert len(story.written(MessageRow)) == 1


def test_sequence_numbers_rise_by_one_over_both_directions() -> None:
    story = Story()

    story.customer_writes()
    story.tell(story.reply())
    story.customer_writes()

    assert [row.seq for row in story.written(MessageRow)] == [1, 2, 3]
    assert story.written(ConversationRow)[-1].last_seq == 3


def test_a_committed_row_does_not_change_when_the_conversation_goes_on() -> None:
    story = Story()
    story.customer_writes()
    first = story.written(ConversationRow)[0]

    story.customer_writes()

    assert first.last_seq == 1


def test_an_id_that_may_be_older_than_what_is_resident_is_looked_up_first() -> None:
    story = Story()
    for _ in range(RECENT_MAX + 10):
        story.customer_writes()
        story.later(1000)
    late = story.written_by_customer(at=NOON, platform_id="wamid.late")

    question = story.raw(late)
    answer = story.tell(late, found=NOTHING_FOUND)

    assert question == Lookup(
        MessageQuery(tenant_id=TENANT, channel_id=CHANNEL, platform_message_id="wamid.late")
    )
    assert answer.reply.outcome == "stored"


def test_a_burst_within_one_second_needs_no_look_up_and_stays_bounded() -> None:
    story = Story()

    for _ in range(BURST_MAX + 50):
        outcome = story.raw(story.written_by_customer())
        if len(story.state.messages) < BURST_MAX:
            assert isinstance(outcome, Effects)

    assert len(story.state.messages) <= BURST_MAX


def test_a_looked_up_message_that_is_there_is_a_duplicate() -> None:
    story = Story()
    story.customer_writes()
    known = story.written(MessageRow)[0]
    message = story.written_by_customer(platform_id="wamid.elsewhere")

    question = story.raw(message, suspect=True)
    answer = story.tell(message, found=FoundMessage(message=known), suspect=True)

    assert isinstance(question, Lookup)
    assert answer.reply.outcome == "duplicate"


def test_the_reply_window_runs_from_the_customers_last_message() -> None:
    story = Story()
    story.customer_writes(at=NOON - HOUR)

    (conversation,) = story.written(ConversationRow)

    assert conversation.reply_window_ends_at == NOON + 23 * HOUR


def test_a_late_old_message_does_not_shorten_the_window() -> None:
    story = Story()
    story.customer_writes(at=NOON)

    story.customer_writes(at=NOON - 5 * HOUR)

    assert story.written(ConversationRow)[-1].reply_window_ends_at == NOON + 24 * HOUR


def test_a_platform_clock_far_ahead_does_not_hold_the_window_open() -> None:
    story = Story()

    story.customer_writes(at=NOON + 100 * HOUR)

    assert story.written(ConversationRow)[-1].reply_window_ends_at <= NOON + 25 * HOUR


def test_a_reaction_is_kept_and_is_neither_unread_nor_a_reason_to_answer() -> None:
    story = Story(config(rules={1: rule(1, "greeting")}))
    story.customer_writes(
        text="",
        type="reaction",
        content={"emoji": "👍", "platform_message_id": "wamid.x"},
        reply_to="wamid.x",
    )

    (message,) = story.written(MessageRow)
    (conversation,) = story.written(ConversationRow)

    assert message.type == "reaction"
    assert conversation.unread_count == 0
    assert conversation.reply_window_ends_at is None


def test_media_is_stored_as_pending_and_fetched_after_the_commit() -> None:
    story = Story()

    effects = story.customer_writes(
        type="image", content={"caption": "look"}, media=(Media(kind="image", source_id="m1"),)
    )

    (attachment,) = story.written(AttachmentRow)
    assert (attachment.state, attachment.source_id) == ("pending", "m1")
    assert told(effects, Fetch)[0].row is attachment


def test_a_resolved_conversation_is_reopened_within_its_time_and_replaced_after_it() -> None:
    story = Story()
    story.customer_writes()
    first = story.state.conversation
    assert first is not None
    story.tell(SetStatus(conversation_id=first.id, status="resolved", by=ANN))

    story.later(HOUR)
    story.customer_writes()
    assert story.state.conversation is first
    assert first.status == "open"

    story.tell(SetStatus(conversation_id=first.id, status="resolved", by=ANN))
    story.later(8 * 24 * HOUR)
    story.customer_writes()
    assert story.state.conversation is not first
    assert story.written(MessageRow)[-1].seq == 1


def test_an_archived_conversation_is_never_reopened_by_the_customer() -> None:
    story = Story()
    story.customer_writes()
    first = story.state.conversation
    assert first is not None
    story.tell(SetStatus(conversation_id=first.id, status="archived", by=ANN))

    story.customer_writes()

    assert story.state.conversation is not first


def test_a_second_handle_of_the_same_person_is_added_once() -> None:
    story = Story()
    both = Contact(keys=(KEY, "US.42"), name="Zoe Doe")
    story.customer_writes()

    story.customer_writes(contact=both)
    story.customer_writes(contact=both)

    assert [row.external_id for row in story.written(HandleRow)] == [KEY, "US.42"]


def test_a_contact_that_another_key_owns_is_forwarded() -> None:
    story = Story()
    story.state.moved_to = "elsewhere"

    effects = story.raw(story.written_by_customer())

    assert isinstance(effects, Effects)
    assert effects.forward is not None
    assert effects.forward.key == (CHANNEL, "elsewhere")


def test_an_echo_is_outbound_and_sets_off_nothing() -> None:
    story = Story(config(rules={1: rule(1, "greeting")}))
    effects = story.tell(
        story.receive(
            MessageEchoed(
                contact=Contact(keys=(KEY,)),
                platform_id="wamid.echo",
                at=NOON,
                type="text",
                content={"body": "from the phone"},
                text="from the phone",
            )
        )
    )

    (message,) = story.written(MessageRow)
    assert (message.direction, message.status) == ("outbound", "sent")
    assert not story.written(OutboxRow)
    assert not told(effects, Deliver)


def test_an_edit_changes_the_message_and_its_redelivery_nothing() -> None:
    story = Story()
    story.customer_writes("tpyo", platform_id="wamid.1")
    edit = story.receive(
        MessageEdited(
            contact=Contact(keys=(KEY,)),
            platform_id="wamid.2",
            original_id="wamid.1",
            at=NOON + 1000,
            type="text",
            content={"body": "typo"},
            text="typo",
        )
    )

    story.tell(edit)
    again = story.tell(edit)

    (patch,) = story.written(MessagePatch)
    assert patch.content == {"body": "typo"}
    assert again.reply.outcome == "duplicate"
    assert len(story.written(MessageRow)) == 1


def test_a_deletion_that_overtakes_its_message_marks_it_when_it_comes() -> None:
    story = Story()
    story.tell(
        story.receive(
            MessageDeleted(
                contact=Contact(keys=(KEY,)), platform_id="wamid.del", original_id="wamid.1", at=NOON
            )
        )
    )

    story.customer_writes(platform_id="wamid.1")

    assert story.written(MessageRow)[-1].deleted_at == NOON


def test_a_changed_number_leads_to_the_same_contact_and_is_sent_to_from_then_on() -> None:
    story = Story()
    story.customer_writes()
    story.tell(
        story.receive(
            ContactRenumbered(
                contact=Contact(keys=(KEY,)),
                platform_id="wamid.sys",
                at=NOON,
                new_key="15550002222",
                new_phone="+15550002222",
                content={"kind": "user_changed_number", "body": "changed"},
                text="changed",
            )
        )
    )

    story.tell(story.reply())

    assert [row.contact_key for row in story.written(HandleRow)] == [KEY, KEY]
    assert story.written(OutboxRow)[-1].recipient == "+15550002222"


# ------------------------------------------------------------------ agents answer


def test_a_reply_is_pending_with_its_outbox_row_and_told_to_the_channel() -> None:
    story = Story()
    story.customer_writes()

    effects = story.tell(story.reply("Hi"))

    message = story.written(MessageRow)[-1]
    (item,) = story.written(OutboxRow)
    assert (message.status, message.sender_type) == ("pending", "user")
    assert (item.id, item.recipient, item.state) == (message.id, "+15550001111", "queued")
    assert told(effects, Deliver)[0].item.id == message.id
    assert effects.reply.id == message.id
    assert story.written(ConversationRow)[-1].status == "open"


def test_a_repeated_client_key_answers_with_the_first_message() -> None:
    story = Story()
    story.customer_writes()
    first = story.tell(story.reply(client_key="k1"))

    again = story.tell(story.reply(client_key="k1"))

    assert again.reply == first.reply
    assert len(story.written(OutboxRow)) == 1


def test_a_free_reply_after_the_window_is_refused_and_a_template_is_not() -> None:
    story = Story()
    story.customer_writes()
    story.later(24 * HOUR)

    refused = story.tell(story.reply())
    sent = story.tell(
        story.reply(send=SendTemplate(name="hello", language="en"), type="template", content={})
    )

    assert isinstance(refused.refuse, Conflicting)
    assert refused.refuse.code == "window_closed"
    assert sent.refuse is None


def test_a_reply_that_has_not_seen_the_customers_last_message_is_stale_unless_forced() -> None:
    story = Story()
    story.customer_writes()
    story.customer_writes()

    stale = story.tell(story.reply(seen_seq=1))
    forced = story.tell(story.reply(seen_seq=1, force=True))

    assert isinstance(stale.refuse, Conflicting)
    assert stale.refuse.code == "stale_conversation"
    assert stale.refuse.data == {"last_seq": 2, "missed_seqs": [2]}
    assert forced.refuse is None


def test_ones_own_messages_do_not_make_a_reply_stale_and_a_colleagues_do() -> None:
    story = Story()
    story.customer_writes()
    story.tell(story.reply(by=ANN))

    own = story.tell(story.reply(by=ANN, seen_seq=1))
    colleagues = story.tell(story.reply(by=BOB, seen_seq=1))

    assert own.refuse is None
    assert colleagues.refuse is not None


def test_a_reaction_names_the_platforms_id_of_its_target() -> None:
    story = Story()
    story.customer_writes(platform_id="wamid.1")
    target = story.written(MessageRow)[0]

    effects = story.tell(
        story.reply(
            send=SendReaction(platform_message_id="", emoji="👍"),
            type="reaction",
            content={"emoji": "👍"},
            target_message_id=target.id,
        )
    )

    assert told(effects, Deliver)[0].item.send.platform_message_id == "wamid.1"


def test_a_reply_to_a_message_of_somebody_else_is_not_found() -> None:
    story = Story()
    story.customer_writes()
    message = story.reply(reply_to=12345)

    question = story.raw(message)
    answer = story.tell(message, found=(NOTHING_FOUND,))

    assert isinstance(question, Lookup)
    assert isinstance(answer.refuse, NotFound)


def test_a_command_for_an_older_conversation_looks_it_up() -> None:
    story = Story()
    story.customer_writes()
    older = story.written(ConversationRow)[0]
    story.state.conversation = None
    command = AddNote(conversation_id=older.id, body="remember", by=ANN)

    question = story.raw(command)
    story.tell(command, found=older)

    assert question == Lookup(ConversationQuery(tenant_id=TENANT, conversation_id=older.id))
    assert story.written(NoteRow)[0].body == "remember"


def test_a_conversation_of_another_contact_is_not_found() -> None:
    story = Story()
    story.customer_writes()
    other = Story(key="999")
    other.customer_writes(contact=Contact(keys=("999",)))
    strange = other.written(ConversationRow)[0]
    strange.id = 4242

    effects = story.tell(Unassign(conversation_id=4242, by=ANN), found=strange)

    assert isinstance(effects.refuse, NotFound)


def test_the_business_can_start_with_a_template_only_and_never_opens_a_second_conversation() -> None:
    story = Story()
    start = Start(
        by=ANN,
        recipient="+15550001111",
        name="Zoe",
        platform="whatsapp",
        send=SendTemplate(name="hello", language="en"),
        type="template",
    )

    first = story.tell(start)
    second = story.tell(start)
    free = Story().tell(
        Start(by=ANN, recipient="+15550001111", name=None, platform="whatsapp", send=story.reply().send)
    )

    assert first.reply.created
    assert not second.reply.created
    assert first.reply.conversation.id == second.reply.conversation.id
    assert isinstance(free.refuse, Conflicting)


# ------------------------------------------------------------------ what becomes of it


def test_the_channels_verdict_gives_the_platform_id_and_ends_the_outbox_row() -> None:
    story = Story()
    story.customer_writes()
    story.tell(story.reply())
    message = story.written(MessageRow)[-1]

    story.tell(_verdict(message, Sent(platform_id="wamid.out", at=NOON)))

    patch = story.written(MessagePatch)[-1]
    assert (patch.status, patch.platform_message_id) == ("sent", "wamid.out")
    assert story.written(OutboxPatch)[-1].state == "done"
    assert story.event("message.status.updated")["status"] == "sent"


def test_a_status_that_overtakes_the_verdict_is_applied_by_our_own_id() -> None:
    story = Story()
    story.customer_writes()
    story.tell(story.reply())
    message = story.written(MessageRow)[-1]

    effects = story.tell(story.status("delivered", "wamid.out", callback=message.id))
    story.tell(_verdict(message, Sent(platform_id="wamid.out", at=NOON)))

    assert told(effects, Settled)[0].outbox_id == message.id
    assert story.state.messages[message.id].status == "delivered"
    assert [p.status for p in story.written(MessagePatch) if p.status] == ["delivered"]


def test_a_status_for_an_unknown_platform_id_waits_for_its_message() -> None:
    story = Story()
    story.customer_writes()
    story.tell(story.reply())
    message = story.written(MessageRow)[-1]
    early = story.status("delivered", "wamid.out")

    question = story.raw(early)
    story.tell(early, found=NOTHING_FOUND)
    story.tell(_verdict(message, Sent(platform_id="wamid.out", at=NOON)))

    assert isinstance(question, Lookup)
    assert story.written(StatusRow)[0].message_id is None
    assert story.state.messages[message.id].status == "delivered"


def test_each_status_is_recorded_once_and_never_goes_back() -> None:
    story = Story()
    story.customer_writes()
    story.tell(story.reply())
    message = story.written(MessageRow)[-1]
    story.tell(_verdict(message, Sent(platform_id="wamid.out", at=NOON)))

    for status in ("read", "delivered", "sent", "read", "delivered"):
        story.tell(story.status(status, "wamid.out"))

    assert [row.status for row in story.written(StatusRow)] == ["read", "delivered"]
    assert story.state.messages[message.id].status == "read"
    assert [p.status for p in story.written(MessagePatch) if p.status] == ["sent", "read"]


@pytest.mark.parametrize(
    "told",
    [
        *permutations(("sent", "delivered", "read")),
        ("failed", "sent"),
        ("sent", "failed"),
        ("failed", "read"),
    ],
)
@pytest.mark.parametrize("verdict_comes", range(4))
def test_who_folds_the_status_events_has_what_is_stored(told: tuple[str, ...], verdict_comes: int) -> None:
    """In whatever order the platform tells them, before or after its answer to the send."""
    story = Story()
    story.customer_writes()
    story.tell(story.reply())
    message = story.written(MessageRow)[-1]
    error = PlatformError(platform_code="131026", message="Undeliverable.")
    steps: list[Any] = [
        story.status(each, "wamid.out", callback=message.id, error=error if each == "failed" else None)
        for each in told
    ]
    steps.insert(verdict_comes, _verdict(message, Sent(platform_id="wamid.out", at=NOON)))
    for step in steps:
        story.tell(step)

    shown: dict[str, Any] = {}
    for row in story.written(EventRow):
        if row.name == "message.status.updated":
            shown |= msgspec.json.decode(row.data_json)
    stored: dict[str, Any] = {}
    for patch in story.written(MessagePatch):
        if patch.clear_failure:
            stored |= {"failed_at": None, "error": None}
        stored |= {name: value for name, value in structs.asdict(patch).items() if value is not None}
    for name in ("status", "platform_message_id", "error"):
        assert shown[name] == stored.get(name)
    for name in ("sent_at", "delivered_at", "read_at", "failed_at"):
        assert shown[name] == rfc3339(stored.get(name))


def test_a_failed_message_carries_code_and_sentence_and_can_be_sent_again() -> None:
    story = Story()
    story.customer_writes()
    story.tell(story.reply())
    message = story.written(MessageRow)[-1]
    refused = Refused(platform_code="131026", message="Not deliverable.", retryable=False, at=NOON)
    story.tell(_verdict(message, refused))
    item = OutboxItem(
        id=message.id,
        tenant_id=TENANT,
        channel_id=CHANNEL,
        conversation_id=message.conversation_id,
        contact_key=KEY,
        message_id=message.id,
        recipient="+15550001111",
        lane=0,
        state="dead",
        attempts=1,
        not_before=NOON,
        send=story.reply().send,
        reply_to=None,
        trace="t2",
        created_at=NOON,
    )
    retry = Retry(conversation_id=message.conversation_id, message_id=message.id, by=ANN)

    failed = story.written(MessagePatch)[-1]
    again = story.tell(retry, found=FoundMessage(message=message, outbox=item))
    twice = story.tell(retry, found=FoundMessage(message=message, outbox=item))

    assert failed.error["platform_code"] == "131026"
    assert told(again, Deliver)[0].item.attempts == 0
    assert story.written(OutboxPatch)[-1].state == "queued"
    assert isinstance(twice.refuse, Conflicting)


def test_a_status_webhook_of_failure_is_shown_with_the_platforms_code() -> None:
    story = Story()
    story.customer_writes()
    story.tell(story.reply())
    message = story.written(MessageRow)[-1]
    story.tell(_verdict(message, Sent(platform_id="wamid.out", at=NOON)))

    story.tell(
        story.status(
            "failed", "wamid.out", error=PlatformError(platform_code="131047", message="Window closed.")
        )
    )

    assert story.event("message.status.updated")["error"]["platform_code"] == "131047"


def test_an_unknown_outcome_is_shown_and_settled_by_a_status() -> None:
    story = Story()
    story.customer_writes()
    story.tell(story.reply())
    message = story.written(MessageRow)[-1]

    story.tell(_verdict(message, OutcomeUnknown(at=NOON)))
    effects = story.tell(story.status("sent", "wamid.out", callback=message.id))

    assert [p.status for p in story.written(MessagePatch)] == ["unknown", "sent"]
    assert [p.state for p in story.written(OutboxPatch)] == ["unknown", "done"]
    assert told(effects, Settled)


def test_a_message_that_is_sent_again_after_an_unknown_outcome_is_flagged() -> None:
    story = Story()
    story.customer_writes()
    story.tell(story.reply())
    message = story.written(MessageRow)[-1]
    story.tell(_verdict(message, OutcomeUnknown(at=NOON)))

    story.tell(_verdict(message, Resending(at=NOON)))

    assert story.written(MessagePatch)[-1].metadata == {"resent": True}


@pytest.mark.parametrize("current", sorted(set(RANK) - {"received"}))
@pytest.mark.parametrize("reported", ["sent", "delivered", "read", "failed"])
def test_a_status_never_lowers_the_rank(current: str, reported: str) -> None:
    after = advance(current, reported)

    assert after is None or RANK[after] >= RANK[current]


# ------------------------------------------------------------------ automated replies


def test_a_greeting_answers_the_first_message_only() -> None:
    story = Story(config(rules={1: rule(1, "greeting")}))

    story.customer_writes()
    story.customer_writes()

    (item,) = story.written(OutboxRow)
    answer = next(row for row in story.written(MessageRow) if row.id == item.id)
    assert (answer.sender_type, answer.seq, answer.metadata) == ("bot", 2, {"auto_reply": 1})


def test_a_keyword_answers_again_only_after_its_cooldown() -> None:
    story = Story(config(rules={1: rule(1, "keyword", patterns=("price",))}))

    story.customer_writes("What is the PRICE?")
    story.customer_writes("price price")
    story.later(HOUR)
    story.customer_writes("price?")

    assert len(story.written(OutboxRow)) == 2


def test_an_automated_reply_does_not_count_as_the_first_response() -> None:
    story = Story(config(rules={1: rule(1, "greeting")}))

    story.customer_writes()

    assert story.written(ConversationRow)[-1].first_response_at is None
    assert story.written(ConversationRow)[-1].unread_count == 1


# ------------------------------------------------------------------ the desk


def test_assignment_is_kept_in_history_and_told_to_those_concerned() -> None:
    story = Story()
    story.customer_writes()
    conversation = story.written(ConversationRow)[0]

    story.tell(Assign(conversation_id=conversation.id, user_id=501, by=BOB))
    story.tell(Transfer(conversation_id=conversation.id, to_user_id=502, note="yours", by=ANN))
    story.tell(Unassign(conversation_id=conversation.id, by=BOB))

    assert [row.kind for row in story.written(AssignmentRow)] == ["assign", "transfer", "unassign"]
    assert story.event("conversation.transferred")["previous_assigned_to"] == 501
    assert story.written(ConversationRow)[-1].assigned_to is None


def test_an_unknown_or_inactive_agent_is_refused() -> None:
    story = Story()
    story.customer_writes()
    conversation = story.written(ConversationRow)[0]

    effects = story.tell(Assign(conversation_id=conversation.id, user_id=999, by=BOB))

    assert isinstance(effects.refuse, InvalidInput)


def test_a_person_who_was_faster_is_not_overruled_by_the_assigner() -> None:
    story = Story(config(assignment=AssignmentSettings(mode="round_robin")))
    first = story.customer_writes()
    conversation = story.written(ConversationRow)[0]
    taken = story.tell(Assign(conversation_id=conversation.id, user_id=501, by=BOB))

    pooled = story.tell(Assign(conversation_id=conversation.id, user_id=502, by=SYSTEM, from_pool=True))

    assert told(first, Want)
    assert told(taken, LoadChanged) == [LoadChanged(conversation.id, None, 501)]
    assert told(pooled, Declined) == [Declined(conversation.id, 502)]
    assert story.state.conversation is not None
    assert story.state.conversation.assigned_to == 501


def test_closing_and_reopening_tells_the_agents_load() -> None:
    story = Story(config(assignment=AssignmentSettings(mode="least_loaded")))
    story.customer_writes()
    conversation = story.written(ConversationRow)[0]
    story.tell(Assign(conversation_id=conversation.id, user_id=501, by=BOB))

    closed = story.tell(SetStatus(conversation_id=conversation.id, status="resolved", by=ANN))
    reopened = story.customer_writes()

    assert told(closed, LoadChanged) == [LoadChanged(conversation.id, 501, None)]
    assert told(reopened, LoadChanged) == [LoadChanged(conversation.id, None, 501)]


def test_a_snooze_ends_by_its_timer_and_by_the_customer() -> None:
    story = Story()
    story.customer_writes()
    conversation = story.state.conversation
    assert conversation is not None

    snoozed = story.tell(
        SetStatus(conversation_id=conversation.id, status="pending", by=ANN, until=NOON + HOUR)
    )
    (timer,) = story.written(TimerRow)
    story.tell(
        TimerFired(timer_id=timer.id, timer="snooze", conversation_id=conversation.id, due_at=NOON + HOUR)
    )
    assert told(snoozed, Arm) == [Arm(timer)]
    assert conversation.status == "open"
    assert story.written(TimerDone)[0].id == timer.id

    story.tell(SetStatus(conversation_id=conversation.id, status="pending", by=ANN, until=NOON + HOUR))
    woken = story.customer_writes()
    assert told(woken, Disarm)
    assert conversation.status == "open"


def test_a_snooze_in_the_past_is_refused() -> None:
    story = Story()
    story.customer_writes()
    conversation = story.written(ConversationRow)[0]

    effects = story.tell(SetStatus(conversation_id=conversation.id, status="pending", by=ANN, until=NOON))

    assert isinstance(effects.refuse, InvalidInput)


def test_an_older_conversation_cannot_be_reopened_beside_the_open_one() -> None:
    story = Story()
    story.customer_writes()
    first = story.state.conversation
    assert first is not None
    story.tell(SetStatus(conversation_id=first.id, status="archived", by=ANN))
    story.customer_writes()

    effects = story.tell(SetStatus(conversation_id=first.id, status="open", by=ANN))

    assert isinstance(effects.refuse, Conflicting)


def test_reading_clears_the_count_and_tells_the_platform_once() -> None:
    story = Story()
    story.customer_writes(platform_id="wamid.1")
    story.customer_writes(platform_id="wamid.2")
    conversation = story.written(ConversationRow)[0]

    story.tell(MarkConversationRead(conversation_id=conversation.id, by=ANN))
    again = story.tell(MarkConversationRead(conversation_id=conversation.id, by=ANN))

    (signal,) = story.written(OutboxRow)
    assert signal.message_id is None
    assert signal.payload["send"]["platform_message_id"] == "wamid.2"
    assert story.written(ConversationRow)[-1].unread_count == 0
    assert not again.commit


def test_reading_up_to_a_message_leaves_the_later_ones_unread() -> None:
    story = Story()
    for _ in range(3):
        story.customer_writes()
    conversation = story.written(ConversationRow)[0]

    story.tell(MarkConversationRead(conversation_id=conversation.id, by=ANN, up_to_seq=1))

    assert story.written(ConversationRow)[-1].unread_count == 2


def test_tags_are_added_and_removed_with_history_and_only_known_ones() -> None:
    story = Story()
    story.customer_writes()
    conversation = story.written(ConversationRow)[0]

    story.tell(ChangeTags(conversation_id=conversation.id, by=ANN, add=(9, 9)))
    story.tell(ChangeTags(conversation_id=conversation.id, by=ANN, remove=(9,)))
    unknown = story.tell(ChangeTags(conversation_id=conversation.id, by=ANN, add=(10,)))

    assert [row.action for row in story.written(TagHistoryRow)] == ["added", "removed"]
    assert story.written(ConversationRow)[-1].tag_ids == []
    assert isinstance(unknown.refuse, NotFound)


def _verdict(message: MessageRow, outcome: Any) -> OutboxVerdict:
    return OutboxVerdict(
        outbox_id=message.id,
        conversation_id=message.conversation_id,
        message_id=message.id,
        outcome=outcome,
        trace="t2",
    )
