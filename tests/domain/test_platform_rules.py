"""What conversations decide by their platform's rules: windows for people, watermarks, echoes of our own
sends."""

from typing import Any

import msgspec
from msgspec import structs

from engine.domain.conversation.messages import By, KnowProfile, OutboxVerdict, Retry
from engine.domain.inbound import Contact, MessageEchoed, StatusChanged, StatusesReached
from engine.domain.outbound import OutboxItem, OutboxPayload, OutcomeUnknown, SendText, Sent
from engine.domain.outbox import Settled
from engine.domain.rows import CustomerRow, MessagePatch, MessageRow, OutboxPatch, OutboxRow, StatusRow
from engine.errors import Unavailable
from engine.ports import FoundMessage, FoundTracked, TrackedMessage, TrackedQuery
from engine.runtime import Effects, Lookup
from tests.domain.desk import ANN, CHANNEL, HOUR, KEY, NOON, NOTHING_FOUND, Story, config, rule

BOT = By(kind="bot", id=None, name="rule")
DAY = 24 * HOUR


def told(effects: Effects, kind: type[Any]) -> list[Any]:
    return [tell.message for tell in effects.tell if isinstance(tell.message, kind)]


def on(platform: str, **settings: Any) -> Story:
    made = config(rules={1: rule(1, "greeting")})
    channel = structs.replace(made.channels[CHANNEL], platform=platform, settings=settings)
    return Story(structs.replace(made, channels={CHANNEL: channel}, rules={}))


def sent(story: Story, text: str, platform_id: str) -> int:
    """A reply that the platform has taken; its id."""
    message: int = story.tell(story.reply(text)).reply.id
    story.tell(verdict(story, message, Sent(platform_id=platform_id, at=story.ctx.now)))
    return message


def verdict(story: Story, message_id: int, outcome: Any) -> OutboxVerdict:
    assert story.state.conversation is not None
    return OutboxVerdict(
        outbox_id=message_id,
        conversation_id=story.state.conversation.id,
        message_id=message_id,
        outcome=outcome,
        trace="t3",
    )


def reached(story: Story, status: str, **mark: Any) -> Any:
    event = StatusesReached(
        contact=Contact(keys=(KEY,)), status=status, at=story.ctx.now, raw_status=status, **mark
    )
    return story.receive(event)


def statuses(story: Story) -> dict[int, str]:
    return {each.id: each.status for each in story.state.messages.values() if each.outbound}


# ------------------------------------------------------------------ windows


def test_a_person_may_answer_for_a_week_where_the_account_has_the_permission() -> None:
    """And a rule may not; the queued item says that a person wrote it, and when the window ended."""
    story = on("facebook", human_agent=True)
    story.customer_writes()
    story.later(3 * DAY)
    assert story.tell(story.reply(by=BOT)).refuse.code == "window_closed"
    answer = story.tell(story.reply(by=ANN))
    assert answer.refuse is None
    (row,) = story.written(OutboxRow)
    assert (row.payload["window_ends_at"], row.payload["by_person"]) == (NOON + DAY, True)
    story.later(4 * DAY)
    refused = story.tell(story.reply(by=ANN)).refuse
    assert refused.code == "window_closed"
    assert refused.data["reply_window"].human_ends_at is not None
    assert "write first" in refused.message


def test_without_the_permission_a_day_is_a_day() -> None:
    """The setting is the account's."""
    story = on("facebook")
    story.customer_writes()
    story.later(DAY)
    assert story.tell(story.reply(by=ANN)).refuse.code == "window_closed"


def test_a_platform_without_a_window_is_always_open() -> None:
    """Also one that nobody has described."""
    story = on("pigeon")
    story.customer_writes()
    story.later(400 * DAY)
    assert story.tell(story.reply()).refuse is None


def test_what_opens_a_window_without_being_a_message() -> None:
    """A reaction on Messenger opens it; nothing is unread by it."""
    story = on("facebook")
    story.customer_writes()
    story.later(2 * DAY)
    content = {"emoji": "❤", "message_id": None, "platform_message_id": "m_1"}
    story.customer_writes(type="reaction", content=content, opens_window=True)
    assert story.state.conversation is not None
    assert story.state.conversation.reply_window_ends_at == NOON + 3 * DAY
    assert story.state.conversation.unread_count == 1


def test_no_rule_answers_while_another_app_has_the_conversation() -> None:
    """The message is stored and shown all the same."""
    story = Story(config(rules={1: rule(1, "greeting")}))
    story.customer_writes(automated=False)
    assert [row.direction for row in story.written(MessageRow)] == ["inbound"]
    other = Story(config(rules={1: rule(1, "greeting")}))
    other.customer_writes()
    assert [row.direction for row in other.written(MessageRow)] == ["inbound", "outbound"]


# ------------------------------------------------------------------ watermarks


def test_a_watermark_moves_all_earlier_messages_and_no_later_one() -> None:
    """One event, a status for each; again it is a duplicate, and an older mark changes nothing."""
    story = on("facebook")
    story.customer_writes()
    first, second = sent(story, "one", "m_1"), sent(story, "two", "m_2")
    mark = story.ctx.now
    story.later(60_000)
    third = sent(story, "three", "m_3")
    assert story.tell(reached(story, "delivered", up_to=mark)).reply.outcome == "applied"
    assert statuses(story) == {first: "delivered", second: "delivered", third: "sent"}
    assert story.tell(reached(story, "delivered", up_to=mark)).reply.outcome == "duplicate"
    story.tell(reached(story, "read", up_to=story.ctx.now))
    assert set(statuses(story).values()) == {"read"}
    assert story.tell(reached(story, "delivered", up_to=story.ctx.now)).reply.outcome == "duplicate"
    assert len(story.written(StatusRow)) == 5


def test_a_mark_by_message_moves_it_and_those_before() -> None:
    """Instagram names the last message that was seen."""
    story = on("instagram")
    story.customer_writes()
    ids = [sent(story, text, f"aWdf{text}") for text in ("one", "two", "three")]
    story.tell(reached(story, "read", platform_id="aWdftwo"))
    assert statuses(story) == dict(zip(ids, ("read", "read", "sent"), strict=True))


def test_a_mark_that_overtakes_the_answer_to_the_send_is_not_lost() -> None:
    """By time and by message: applied when the message gets its id."""
    for mark in ({"up_to": NOON + 10}, {"platform_id": "m_9"}):
        story = on("facebook")
        story.customer_writes()
        message = story.tell(story.reply("quick")).reply.id
        found = (NOTHING_FOUND, FoundTracked()) if "platform_id" in mark else None
        story.tell(reached(story, "read", **mark), found=found)
        assert statuses(story) == {message: "pending"}
        story.tell(verdict(story, message, Sent(platform_id="m_9", at=NOON)))
        assert statuses(story) == {message: "read"}


def test_a_mark_that_overtakes_the_name_of_a_message_in_doubt_is_not_lost() -> None:
    """The answer to the send was lost; a status names the message, after the mark that has passed it."""
    story = on("facebook")
    story.customer_writes()
    message = story.tell(story.reply("quick")).reply.id
    story.tell(verdict(story, message, OutcomeUnknown(at=NOON)))
    story.tell(reached(story, "read", up_to=NOON + 10))
    named = StatusChanged(
        contact=Contact(keys=(KEY,)),
        platform_id="m_9",
        status="sent",
        at=NOON,
        raw_status="sent",
        callback=str(message),
    )
    story.tell(story.receive(named))
    assert statuses(story) == {message: "read"}


def test_what_is_not_resident_is_looked_up_once() -> None:
    """Older messages that may have to move are asked for; when the oldest in memory has moved, they have
    too."""
    story = on("facebook")
    story.customer_writes()
    sent(story, "one", "m_1")
    story.state.complete, story.state.floor = False, NOON
    query = story.raw(reached(story, "read", up_to=NOON))
    assert isinstance(query, Lookup)
    assert isinstance(query.query, tuple)
    assert [type(each) for each in query.query] == [TrackedQuery]
    old = TrackedMessage(
        id=5,
        conversation_id=4,
        seq=1,
        direction="outbound",
        status="delivered",
        author="user:501",
        platform_message_id="m_0",
        client_key=None,
        platform_at=None,
        sent_at=NOON - HOUR,
        delivered_at=NOON - HOUR,
        read_at=None,
        failed_at=None,
        edited_at=None,
        deleted_at=None,
        created_at=NOON - HOUR,
    )
    story.tell(reached(story, "read", up_to=NOON), found=(FoundTracked(messages=(old,)),))
    assert statuses(story)[5] == "read"
    assert 5 in {patch.id for patch in story.written(MessagePatch)}
    story.later(HOUR)
    assert isinstance(story.raw(reached(story, "read", up_to=NOON + HOUR)), Effects)


def test_a_failed_message_stays_failed() -> None:
    """A watermark is about what arrived."""
    story = on("facebook")
    story.customer_writes()
    message = sent(story, "one", "m_1")
    story.tell(story.status("failed", "m_1"))
    story.tell(reached(story, "read", up_to=NOON))
    assert statuses(story) == {message: "failed"}


# ------------------------------------------------------------------ echoes


def echo(story: Story, text: str, platform_id: str, *, maybe_ours: bool) -> Any:
    return story.receive(
        MessageEchoed(
            contact=Contact(keys=(KEY,)),
            platform_id=platform_id,
            at=story.ctx.now,
            type="text",
            content={"body": text},
            text=text,
            maybe_ours=maybe_ours,
        )
    )


def hears(story: Story, message: Any, **outbox: str) -> Any:
    """Tells an echo, with the store's answer where it is asked: `outbox` has the states of items by their
    messages, as `m1001="sending"`; the others are queued."""
    outcome = story.raw(message)
    if isinstance(outcome, Lookup):
        found: list[FoundMessage] = []
        for query in outcome.query:  # type: ignore[attr-defined]
            row = next((row for row in story.written(MessageRow) if row.id == query.message_id), None)
            found.append(NOTHING_FOUND if row is None else stored(row, outbox.get(f"m{row.id}", "queued")))
        return story.tell(message, found=tuple(found))
    story.rows.extend(outcome.commit)  # type: ignore[arg-type]
    return outcome


def stored(row: MessageRow, state: str) -> FoundMessage:
    item = OutboxItem(
        id=row.id,
        tenant_id=row.tenant_id,
        channel_id=row.channel_id,
        conversation_id=row.conversation_id,
        contact_key=row.contact_key,
        message_id=row.id,
        recipient=row.contact_key,
        lane=0,
        state=state,
        attempts=1,
        not_before=0,
        send=SendText(body=row.text),
        reply_to=None,
        trace="t",
        created_at=0,
    )
    return FoundMessage(message=row, outbox=item)


def outbound(story: Story) -> list[MessageRow]:
    return [row for row in story.written(MessageRow) if row.direction == "outbound"]


def test_an_echo_before_the_answer_is_our_message_and_not_another() -> None:
    """It settles the send; what the channel says later changes nothing."""
    story = on("instagram")
    story.customer_writes()
    message = story.tell(story.reply("On its way.")).reply.id
    early = echo(story, "On its way.", "aWdf1", maybe_ours=True)
    effects = hears(story, early, **{f"m{message}": "sending"})
    assert told(effects, Settled)
    assert statuses(story) == {message: "sent"}
    story.tell(verdict(story, message, Sent(platform_id="aWdf1", at=story.ctx.now)))
    assert len(outbound(story)) == 1
    assert story.tell(early).reply.outcome == "duplicate"


def test_an_echo_settles_an_unknown_outcome() -> None:
    """The call was cut, the platform took the message, and it must not be sent again."""
    story = on("instagram")
    story.customer_writes()
    message = story.tell(story.reply("Cut off")).reply.id
    story.tell(verdict(story, message, OutcomeUnknown(at=story.ctx.now)))
    effects = hears(story, echo(story, "Cut off", "aWdf2", maybe_ours=True), **{f"m{message}": "unknown"})
    assert told(effects, Settled)
    assert statuses(story) == {message: "sent"}
    assert story.written(OutboxPatch)[-1].state == "done"


def test_an_echo_settles_what_was_sent_before_a_restart() -> None:
    """The content is the store's, since an actor that was started anew remembers ids alone."""
    story = on("instagram")
    story.customer_writes()
    message = story.tell(story.reply("Cut off")).reply.id
    story.state.messages[message].answer = None
    hears(story, echo(story, "Cut off", "aWdf2", maybe_ours=True), **{f"m{message}": "sending"})
    assert statuses(story) == {message: "sent"}
    assert len(outbound(story)) == 1


def test_an_echo_brings_the_statuses_that_overtook_it() -> None:
    """Read before anybody here knew its id."""
    story = on("instagram")
    story.customer_writes()
    message = story.tell(story.reply("Quick")).reply.id
    mark = reached(story, "read", platform_id="aWdf7")
    story.tell(mark, found=(NOTHING_FOUND, FoundTracked()))
    hears(story, echo(story, "Quick", "aWdf7", maybe_ours=True), **{f"m{message}": "sending"})
    assert statuses(story) == {message: "read"}


def test_an_echo_of_a_retry_is_known_by_its_new_id() -> None:
    """The failed attempt's id stays until then."""
    story = on("instagram")
    story.customer_writes()
    message = sent(story, "Again", "aWdf1")
    story.tell(story.status("failed", "aWdf1"))
    (row,) = outbound(story)
    again = Retry(conversation_id=row.conversation_id, message_id=message, by=ANN)
    story.tell(again, found=stored(row, "dead"))
    assert statuses(story) == {message: "pending"}
    hears(story, echo(story, "Again", "aWdf2", maybe_ours=True), **{f"m{message}": "sending"})
    assert statuses(story) == {message: "sent"}
    assert story.state.known("aWdf2") is not None
    story.tell(verdict(story, message, Sent(platform_id="aWdf2", at=story.ctx.now)))
    assert len(outbound(story)) == 1


def test_an_echo_of_choices_looks_like_a_template() -> None:
    """And is ours all the same; quick replies come back as their text."""
    for content, text in (
        ({"body": "template", "shared": [{"type": "template"}]}, "template"),
        ({}, "Which one?"),
    ):
        story = on("instagram")
        story.customer_writes()
        shown = {"kind": "buttons", "body": "Which one?", "options": []}
        message = story.tell(story.reply("Which one?", type="interactive", content=shown)).reply.id
        echoed = structs.replace(
            echo(story, text, "aWdf5", maybe_ours=True).event, content={"body": text, **content}
        )
        effects = hears(story, story.receive(echoed), **{f"m{message}": "sending"})
        assert effects.reply.outcome == "applied"
        assert statuses(story) == {message: "sent"}


def test_an_echo_that_says_something_else_waits_for_the_answer() -> None:
    """The platform shows a text otherwise than it was sent, or a colleague wrote in the app at that moment:
    refused for now, and decided by the id when it comes again."""
    for id_, outcome, rows in (("aWdf1", "duplicate", 1), ("aWdf2", "stored", 2)):
        story = on("instagram")
        story.customer_writes()
        message = story.tell(story.reply("On its way.")).reply.id
        other = echo(story, "On its way…", "aWdf1", maybe_ours=True)
        refused = hears(story, other, **{f"m{message}": "sending"})
        assert (refused.refuse.code, isinstance(refused.refuse, Unavailable)) == ("undecided", True)
        assert len(outbound(story)) == 1
        story.tell(verdict(story, message, Sent(platform_id=id_, at=story.ctx.now)))
        assert hears(story, other).reply.outcome == outcome
        assert len(outbound(story)) == rows


def test_a_message_that_is_still_queued_is_not_what_an_echo_shows() -> None:
    """A colleague wrote the same in the app before ours was begun: ours is sent all the same."""
    story = on("instagram")
    story.customer_writes()
    message = story.tell(story.reply("One moment")).reply.id
    effects = hears(story, echo(story, "One moment", "aWdf3", maybe_ours=True))
    assert effects.reply.outcome == "stored"
    assert not told(effects, Settled)
    assert statuses(story)[message] == "pending"
    story.tell(verdict(story, message, Sent(platform_id="aWdf4", at=story.ctx.now)))
    assert len(outbound(story)) == 2


def test_of_two_that_say_the_same_the_echo_is_the_one_that_is_under_way() -> None:
    story = on("instagram")
    story.customer_writes()
    one, two = (story.tell(story.reply("Yes")).reply.id for _ in range(2))
    hears(story, echo(story, "Yes", "aWdf1", maybe_ours=True), **{f"m{one}": "sending"})
    assert statuses(story) == {one: "sent", two: "pending"}
    hears(story, echo(story, "Yes", "aWdf2", maybe_ours=True), **{f"m{two}": "sending"})
    assert statuses(story) == {one: "sent", two: "sent"}
    assert story.state.known("aWdf1").id == one  # type: ignore[union-attr]
    assert len(outbound(story)) == 2


def test_an_answer_whose_id_stands_on_another_message_meets_no_conflict() -> None:
    """Its echo was stored when nobody here knew of it. Sent, and told once; its id stays where it is."""
    story = on("instagram")
    story.customer_writes()
    message = story.tell(story.reply("Late")).reply.id
    hears(story, echo(story, "Late", "aWdf1", maybe_ours=True))
    story.tell(verdict(story, message, Sent(platform_id="aWdf1", at=story.ctx.now)))
    assert statuses(story)[message] == "sent"
    assert story.written(OutboxPatch)[-1].state == "done"
    assert not [patch for patch in story.written(MessagePatch) if patch.platform_message_id]


def test_an_answer_that_met_a_conflict_asks_who_has_its_id() -> None:
    """The other message is not in memory."""
    story = on("instagram")
    story.customer_writes()
    message = story.tell(story.reply("Late")).reply.id
    answer = verdict(story, message, Sent(platform_id="aWdf1", at=story.ctx.now))
    asked = story.raw(answer, suspect=True)
    assert isinstance(asked, Lookup)
    (row,) = outbound(story)
    other = structs.replace(row, id=999, platform_message_id="aWdf1")
    story.tell(answer, suspect=True, found=(stored(row, "sending"), stored(other, "done")))
    assert statuses(story) == {message: "sent"}
    assert not [patch for patch in story.written(MessagePatch) if patch.platform_message_id]


def test_what_a_colleague_wrote_in_the_app_is_a_message_of_its_own() -> None:
    """Nothing is under way here, or the platform says whose echoes are."""
    for text, maybe_ours in (("Something else", True), ("On its way.", False)):
        story = on("instagram")
        story.customer_writes()
        story.tell(story.reply("On its way."))
        heard = hears(story, echo(story, text, "aWdf3", maybe_ours=maybe_ours))
        assert heard.reply.outcome == "stored"
        assert len(statuses(story)) == 2


def test_a_mark_passes_over_what_was_queued_before_and_sent_after_the_message_it_names() -> None:
    """Ids are given out when messages are written; the platform's order is that of the sends."""
    story = on("instagram")
    story.customer_writes()
    late = story.tell(story.reply("Late")).reply.id
    hears(story, echo(story, "From the app", "aWdf1", maybe_ours=True))
    story.later(HOUR)
    story.tell(verdict(story, late, Sent(platform_id="aWdf2", at=story.ctx.now)))
    story.tell(reached(story, "read", platform_id="aWdf1"))
    assert statuses(story)[late] == "sent"
    story.tell(reached(story, "read", platform_id="aWdf2"))
    assert set(statuses(story).values()) == {"read"}


def test_the_payload_of_an_older_outbox_row_is_still_read() -> None:
    """Rows that were written before there were windows in them."""
    row = b'{"send": {"type": "SendText", "body": "x"}, "reply_to": null, "resent": false}'
    payload = msgspec.json.decode(row, type=OutboxPayload)
    assert (payload.window_ends_at, payload.by_person) == (None, False)


# ------------------------------------------------------------------ profiles


def test_a_name_from_the_platform_is_for_whom_nobody_has_named() -> None:
    """The screens hear of it; a name that the customer or an agent gave stays."""
    story = on("facebook")
    story.customer_writes(contact=Contact(keys=(KEY,)))
    assert story.event("conversation.created")["conversation"]["customer"]["name"] == KEY
    story.tell(KnowProfile(name="Zoe Doe", avatar_url="https://cdn.example/zoe.jpg"))
    shown = story.event("conversation.updated")["conversation"]["customer"]
    assert (shown["name"], shown["avatar_url"]) == ("Zoe Doe", "https://cdn.example/zoe.jpg")
    story.tell(KnowProfile(name="Somebody else"))
    assert story.written(CustomerRow)[-1].name == "Zoe Doe"
