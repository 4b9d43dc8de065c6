"""Customers whose address is dead: nothing more is sent until they write, or somebody knows better."""

import pytest

from engine.domain.conversation.messages import LiftUndeliverable, Start
from engine.domain.inbound import Contact, PlatformError, StandingChanged
from engine.domain.outbound import Refused, SendText, Sent
from engine.domain.rows import MessagePatch, OutboxPatch
from engine.errors import Conflicting
from engine.ports import FoundTracked, TrackedQuery
from engine.runtime import Effects, Lookup
from tests.domain.desk import ANN, KEY, NOON, Story, config, rule
from tests.domain.test_consent import queued, refusal, verdict, waiting

DEAD = PlatformError(platform_code="5.1.1", message="There is no such mailbox.", undeliverable=True)
WANTS_NO_MORE = PlatformError(platform_code="unsubscribed", message="No more.", opted_out=True)
CONTACT = Contact(keys=(KEY,))


def bounced(story: Story, error: PlatformError = DEAD) -> int:
    """A message that was sent, and came back."""
    message_id = queued(story)
    verdict(story, message_id, Sent(platform_id="wamid.1", at=NOON))
    story.later(60_000)
    story.tell(story.status("failed", "wamid.1", error=error))
    return message_id


def heard(story: Story, error: PlatformError | None, at: int) -> Effects:
    effects: Effects = story.tell(story.receive(StandingChanged(contact=CONTACT, at=at, error=error, raw={})))
    return effects


def after_hello() -> Story:
    story = Story()
    story.customer_writes("Hello")
    story.later(60_000)
    return story


def test_after_a_hard_bounce_the_next_message_is_refused_with_the_reason() -> None:
    story = after_hello()
    message_id = bounced(story)

    effects = story.tell(story.reply("Are you there?"))

    assert refusal(effects) == "undeliverable"
    assert "There is no such mailbox." in effects.refuse.message
    started = Start(by=ANN, recipient=KEY, name=None, platform="nowhere", send=SendText(body="Hi"), text="Hi")
    assert refusal(story.tell(started)) == "undeliverable"
    told = story.event("customer.undeliverable")
    assert (told["source"], told["message_id"]) == ("platform", message_id)
    shown = told["conversation"]["undeliverable"]
    assert (shown["platform_code"], shown["message"]) == ("5.1.1", "There is no such mailbox.")
    assert told["conversation"]["opted_out_at"] is None
    assert "undeliverable" not in told["conversation"]["metadata"]


def test_a_refusal_of_the_first_server_says_it_too() -> None:
    story = after_hello()
    at = story.ctx.now
    refused = Refused(platform_code="5.1.1", message="No.", retryable=False, at=at, undeliverable=True)
    verdict(story, queued(story), refused)
    assert refusal(story.tell(story.reply("Hm"))) == "undeliverable"


def test_a_soft_bounce_says_nothing_of_the_next_message() -> None:
    story = after_hello()
    bounced(story, PlatformError(platform_code="5.2.2", message="The mailbox is full."))
    assert story.tell(story.reply("Again")).refuse is None


def test_what_waited_is_withdrawn_and_may_be_sent_again_later() -> None:
    story = after_hello()
    first = queued(story, "1")
    second = queued(story, "2")
    verdict(story, first, Sent(platform_id="wamid.1", at=NOON))
    story.later(60_000)
    effects = story.tell(story.status("failed", "wamid.1", error=DEAD))
    assert [row.id for row in effects.commit if isinstance(row, OutboxPatch)] == [second]
    (error,) = [row.error for row in effects.commit if isinstance(row, MessagePatch) and row.id == second]
    assert error is not None
    assert (error["code"], error["retryable"]) == ("undeliverable", True)


def test_who_writes_again_is_answered_again() -> None:
    story = Story(config(rules={1: rule(1, "greeting")}))
    story.customer_writes("Hello")
    story.later(60_000)
    bounced(story)
    story.later(3_600_000)
    story.customer_writes("My mailbox works again")
    told = story.event("customer.deliverable")
    assert (told["source"], told["conversation"]["undeliverable"]) == ("message", None)
    assert story.tell(story.reply("Good")).refuse is None


def test_a_message_from_before_the_bounce_that_comes_late_proves_nothing() -> None:
    story = after_hello()
    story.later(12 * 3_600_000)
    bounced(story)
    story.customer_writes("Written this morning", at=NOON + 1)
    assert refusal(story.tell(story.reply("Hm"))) == "undeliverable"


def test_a_bounce_from_before_the_last_message_is_not_heeded() -> None:
    """A report that was under way for days, while the customer wrote."""
    story = after_hello()
    message_id = queued(story)
    verdict(story, message_id, Sent(platform_id="wamid.1", at=NOON))
    bounced_at = story.ctx.now
    story.later(3_600_000)
    story.customer_writes("I have a new provider")
    story.tell(story.status("failed", "wamid.1", error=DEAD, at=bounced_at))
    assert story.tell(story.reply("Good")).refuse is None


def test_a_person_may_lift_it_and_that_is_told() -> None:
    story = after_hello()
    bounced(story)
    conversation = story.state.conversation
    assert conversation is not None
    lift = LiftUndeliverable(conversation_id=conversation.id, by=ANN)
    assert story.tell(lift).reply.undeliverable is None
    told = story.event("customer.deliverable")
    assert (told["source"], told["by"]["id"]) == ("user", ANN.id)
    assert story.tell(story.reply("Again")).refuse is None
    again = story.tell(lift)
    assert not again.commit
    assert story.events().count("customer.deliverable") == 1


def test_nobody_lifts_what_the_customer_wants() -> None:
    story = after_hello()
    heard(story, WANTS_NO_MORE, story.ctx.now)
    conversation = story.state.conversation
    assert conversation is not None
    story.tell(LiftUndeliverable(conversation_id=conversation.id, by=ANN))
    assert refusal(story.tell(story.reply("Please?"))) == "opted_out"


@pytest.mark.parametrize(("error", "code"), [(WANTS_NO_MORE, "opted_out"), (DEAD, "undeliverable")])
def test_the_platform_tells_of_it_alone_and_takes_it_back(error: PlatformError, code: str) -> None:
    """An unsubscribe link, a list of dead addresses: what waits is withdrawn."""
    story = after_hello()
    queued(story)
    effects = heard(story, error, story.ctx.now)
    assert any(isinstance(row, OutboxPatch) for row in effects.commit)
    assert refusal(story.tell(story.reply("Hm"))) == code
    story.later(1_000)
    heard(story, None, story.ctx.now)
    assert story.tell(story.reply("Hello again")).refuse is None


def test_old_news_of_it_and_news_of_strangers_change_nothing() -> None:
    story = after_hello()
    hours_ago = story.ctx.now - 3_600_000
    for error in (DEAD, WANTS_NO_MORE, None):
        effects = heard(story, error, hours_ago)
        assert not effects.commit
    stranger = heard(Story(), DEAD, NOON)
    assert not stranger.commit


def test_what_waits_and_is_not_in_memory_is_looked_up() -> None:
    story = after_hello()
    story.state.complete = False
    event = story.receive(StandingChanged(contact=CONTACT, at=story.ctx.now, error=DEAD, raw={}))
    question = story.raw(event)
    assert isinstance(question, Lookup)
    assert isinstance(question.query, tuple)
    assert [type(each) for each in question.query] == [TrackedQuery]
    story.tell(event, found=(FoundTracked(messages=(waiting(5),)),))
    assert [row.id for row in story.written(OutboxPatch)] == [5]


def test_the_refusal_is_one_that_a_client_can_tell_apart() -> None:
    story = after_hello()
    bounced(story)
    refused = story.tell(story.reply("Hm")).refuse
    assert isinstance(refused, Conflicting)
    assert refused.code == "undeliverable"
