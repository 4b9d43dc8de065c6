"""What conversations decide on platforms that thread by message ids: whose an answer is, what ours continue,
and when robots stop."""

from typing import Any, cast

import msgspec
from msgspec import structs

from engine.domain import platforms
from engine.domain.conversation.threads import may_answer_automatically
from engine.domain.inbound import Contact, PlatformError
from engine.domain.outbound import OutboxPayload, Thread
from engine.domain.outbox import Deliver
from engine.domain.platforms import Capabilities, Connection, Field, Platform
from engine.domain.rows import ConversationRow, HandleRow, MessageRow, OutboxRow
from engine.ports import FoundMessage, MessageQuery
from engine.runtime import Effects, Lookup
from tests.domain.desk import CHANNEL, HOUR, NOTHING_FOUND, Story, config, rule

ZOE = "zoe@example.org"
AWAY = "zoe@work.example"
POST = Platform(
    name="threaded",
    label="Threaded",
    capabilities=Capabilities(
        receives=("text",),
        sends=("text",),
        threads=True,
        automatic_max=2,
        automatic_seconds=3 * 3_600,
        writes_opt_in=True,
    ),
    connection=Connection(account=Field(name="address", label="Where people write to.")),
)
platforms.describe(POST)


def story(key: str = ZOE, **changes: Any) -> Story:
    made = config(**changes)
    channel = structs.replace(made.channels[CHANNEL], platform=POST.name)
    return Story(structs.replace(made, channels={CHANNEL: channel}), key=key)


def mail(told: Story, platform_id: str, *, sender: str = ZOE, **changes: Any) -> Any:
    return told.written_by_customer(
        contact=Contact(keys=(sender,), name=changes.pop("name", None)),
        platform_id=platform_id,
        thread=Thread(message_id=platform_id, subject="Order", references=changes.pop("references", ())),
        **changes,
    )


def test_an_answer_continues_the_customers_newest_message() -> None:
    told = story()
    told.tell(mail(told, "1@example.org"))
    told.tell(mail(told, "2@example.org", references=("1@example.org",)))

    effects = told.tell(told.reply("It is on its way"))

    (deliver,) = [each.message for each in effects.tell if isinstance(each.message, Deliver)]
    expected = Thread(message_id="2@example.org", subject="Order", references=("1@example.org",))
    assert deliver.item.thread == expected
    (row,) = told.written(OutboxRow)
    assert msgspec.convert(row.payload, OutboxPayload).thread == expected


def test_a_robots_mail_is_continued_only_where_nobody_else_has_written() -> None:
    told = story()
    told.tell(mail(told, "1@example.org", automated=False))
    told.tell(mail(told, "2@example.org"))
    told.tell(mail(told, "away@example.org", automated=False))

    told.tell(told.reply("Hello"))

    assert told.written(OutboxRow)[-1].payload["thread"]["message_id"] == "2@example.org"


def test_what_is_kept_for_threads_is_not_shown_to_clients() -> None:
    told = story(rules={1: rule(1, "greeting")})
    told.tell(mail(told, "1@example.org"))

    assert set(told.written(ConversationRow)[-1].metadata) == {"thread", "automatic_answers"}
    assert told.event("conversation.created")["conversation"]["metadata"] == {}


def test_an_answer_from_another_address_is_the_contacts_it_was_sent_to() -> None:
    """The writer is named with the message, and gets neither the contact's handle nor our answers."""
    told = story()
    told.tell(mail(told, "1@example.org"))
    ours = told.tell(told.reply("Which size?")).reply.id

    told.tell(mail(told, "9@work.example", sender=AWAY, name="Zoe at work", answers=ours, automated=True))

    message = told.written(MessageRow)[-1]
    assert (message.contact_key, message.reply_to_id, message.sender_name) == (ZOE, ours, "Zoe at work")
    assert message.metadata["written_by"] == AWAY
    assert [row.external_id for row in told.written(HandleRow)] == [ZOE]
    told.tell(told.reply("Thank you"))
    assert told.written(OutboxRow)[-1].recipient == ZOE
    assert told.written(OutboxRow)[-1].payload["thread"]["message_id"] == "9@work.example"


def test_who_writes_with_another_contacts_proof_is_led_to_it() -> None:
    """The writer's own actor looks the message up and hands the event on."""
    owner = story()
    owner.tell(mail(owner, "1@example.org"))
    ours = owner.tell(owner.reply("Which size?")).reply.id
    row = next(each for each in owner.written(MessageRow) if each.id == ours)
    stranger = story(AWAY)
    event = mail(stranger, "9@work.example", sender=AWAY, answers=ours)

    asked = stranger.raw(event)
    assert isinstance(asked, Lookup)
    by_id, by_platform = cast("tuple[MessageQuery, MessageQuery]", asked.query)
    assert by_id.message_id == ours
    assert by_platform.platform_message_id == "9@work.example"

    effects = stranger.raw(event, found=(FoundMessage(message=row), NOTHING_FOUND))
    assert isinstance(effects, Effects)
    assert effects.forward is not None
    assert effects.forward.key == (CHANNEL, ZOE)
    assert not effects.commit


def test_a_proof_of_a_message_that_is_gone_proves_nothing() -> None:
    told = story(AWAY)

    told.tell(mail(told, "9@work.example", sender=AWAY, answers=12345), found=(NOTHING_FOUND, NOTHING_FOUND))

    assert told.written(MessageRow)[-1].contact_key == AWAY


def test_a_message_without_a_time_has_that_of_its_arrival() -> None:
    told = story()
    told.tell(mail(told, "1@example.org", at=0))

    assert told.written(MessageRow)[-1].platform_at == told.ctx.now


def test_automatic_answers_to_one_contact_stop_at_the_budget() -> None:
    """Whatever the rules' own cooldowns; also in the contact's next conversation; and they begin again when
    the time is over."""
    told = story(rules={1: rule(1, "keyword", patterns=("hello",), cooldown_seconds=0)})
    for number in range(5):
        told.tell(mail(told, f"{number}@example.org", text="hello", content={"body": "hello"}))
        told.later(1_000)
    assert len(told.written(OutboxRow)) == 2
    assert told.state.conversation is not None
    assert not may_answer_automatically(told.state.conversation, told.ctx.now)

    told.later(4 * HOUR)
    told.tell(mail(told, "late@example.org", text="hello", content={"body": "hello"}))
    assert len(told.written(OutboxRow)) == 3


def test_robots_are_stored_and_never_answered() -> None:
    told = story(rules={1: rule(1, "keyword", patterns=("hello",))})

    told.tell(mail(told, "1@example.org", text="hello", content={"body": "hello"}, automated=False))

    assert len(told.written(MessageRow)) == 1
    assert not told.written(OutboxRow)


def test_who_complains_is_written_to_no_more_until_they_write_again() -> None:
    """A robot's mail changes nothing."""
    told = story()
    told.tell(mail(told, "1@example.org"))
    ours = told.tell(told.reply("News")).reply.id
    complaint = PlatformError(platform_code="complaint", message="Spam.", opted_out=True)
    told.tell(told.status("delivered", "ours", callback=ours))
    told.tell(told.status("failed", "ours", callback=ours, error=complaint))

    refused = told.tell(told.reply("More news")).refuse
    assert refused is not None
    assert refused.code == "opted_out"
    told.tell(mail(told, "away@example.org", automated=False))
    assert told.tell(told.reply("More news")).refuse is not None

    told.tell(mail(told, "2@example.org"))
    assert told.tell(told.reply("Of course")).refuse is None
