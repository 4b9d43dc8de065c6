"""Deliveries with more for one contact than its mailbox holds: taken whole, in order, once, and bounded."""

import json
from collections.abc import Sequence

import pytest
import trio
from prometheus_client import CollectorRegistry

from adapters.whatsapp.receiver import WhatsAppReceiver
from engine.domain.conversation.actor import MAILBOX_MAX
from engine.domain.conversation.messages import Receive, address_of
from engine.domain.engine import Engine
from engine.domain.feeding import INSIDE_MAX
from engine.domain.ids import IdAllocator
from engine.domain.intake import WAIT_SECONDS_MAX, Delivery, DeliveryReceipt
from engine.errors import ActorStopped, AskTimeout, MailboxFull, MijraError
from engine.runtime import Lane
from gateway.admission import STANDING_SECONDS
from gateway.directory import Directory
from gateway.metrics import Metrics
from gateway.webhooks import Answer, Webhooks
from tests.domain.desk import CHANNEL, NOON, TENANT
from tests.domain.test_intake import Outcome, Room, delivery, opened
from tests.gateway.test_webhooks import RecordingLandlord, change, entry, signed
from tests.gateway.test_webhooks import delivery as posted
from tests.simulation.store import ModelStore

MANY = [f"m{number}" for number in range(2 * MAILBOX_MAX + INSIDE_MAX)]
CONTACT = address_of(TENANT, CHANNEL, "4915")
DOORS = pytest.mark.parametrize("door", ["deliver", "begin"])


async def ended(engine: Engine, door: str, given: Delivery) -> DeliveryReceipt | MijraError:
    """What becomes of the delivery, by either door of the intake."""
    if door == "deliver":
        try:
            return await engine.intake.deliver(given)
        except MijraError as error:
            return error
    outcome = Outcome()
    engine.intake.begin(given, outcome)
    await outcome.ended.wait()
    (result,) = outcome.results
    return result


def stored(writer: Room) -> list[str]:
    """The texts in the order of their numbers in the conversation."""
    rows = ModelStore({TENANT: writer.kept}).table(TENANT, "messages")
    return [row.text for row in sorted(rows, key=lambda row: row.seq)]


def occupy(engine: Engine, texts: Sequence[str]) -> None:
    """Others' messages in the contact's mailbox, which nobody has drained yet."""
    for _, events in delivery(*texts).groups:
        for event in events:
            message = Receive(event=event, trace="o", received_at=NOON)
            assert engine.system.offer(CONTACT, message, lane=Lane.REALTIME)


def waiting(engine: Engine) -> int:
    return next((one.waiting for one in engine.system.describe() if one.address == CONTACT), 0)


@DOORS
async def test_more_messages_of_one_contact_than_fit_are_taken_in_order_and_once(
    autojump_clock: object, door: str
) -> None:
    async with opened() as (engine, writer):
        await engine.configs.ensure(TENANT)
        assert await ended(engine, door, delivery(*MANY)) == DeliveryReceipt(
            stored=len(MANY), tenants=(TENANT,)
        )
        assert stored(writer) == MANY
        again = await ended(engine, door, delivery(*MANY))
        assert again == DeliveryReceipt(duplicates=len(MANY), tenants=(TENANT,))
        assert stored(writer) == MANY
        assert not engine.intake._feeder._lines


@DOORS
@pytest.mark.parametrize("free", [1, MAILBOX_MAX // 2])
async def test_a_mailbox_that_is_nearly_full_only_delays_them(
    autojump_clock: object, door: str, free: int
) -> None:
    """What is there goes first, and then all of the delivery."""
    async with opened() as (engine, writer):
        await engine.configs.ensure(TENANT)
        others = [f"other {number}" for number in range(MAILBOX_MAX - free)]
        occupy(engine, others)
        receipt = await ended(engine, door, delivery(*MANY))
        assert receipt == DeliveryReceipt(stored=len(MANY), tenants=(TENANT,))
        assert stored(writer) == others + MANY


@DOORS
async def test_a_mailbox_full_of_others_messages_refuses_them_at_once(
    autojump_clock: object, door: str
) -> None:
    """Nothing waits for room that others may take; the repetition finds it."""
    async with opened() as (engine, writer):
        await engine.configs.ensure(TENANT)
        others = [f"other {number}" for number in range(MAILBOX_MAX)]
        occupy(engine, others)
        assert isinstance(await ended(engine, door, delivery(*MANY)), MailboxFull)
        assert not engine.intake._feeder._lines
        assert (await engine.intake.deliver(delivery(*MANY))).stored == len(MANY)
        assert stored(writer) == others + MANY


async def test_what_comes_later_does_not_overtake_what_waits(autojump_clock: object) -> None:
    async with opened() as (engine, writer):
        await engine.configs.ensure(TENANT)
        first, later, last = Outcome(), Outcome(), Outcome()
        engine.intake.begin(delivery(*MANY), first)
        engine.intake.begin(delivery("later"), later)
        engine.intake.begin(delivery("last", "of all"), last)
        for outcome in (first, later, last):
            await outcome.ended.wait()
        assert stored(writer) == [*MANY, "later", "last", "of all"]


async def test_what_waits_is_outside_and_goes_with_its_delivery(autojump_clock: object) -> None:
    """The mailbox keeps room for others; a delivery that is given up leaves nothing behind that waits, and
    its repetition stores the rest."""
    async with opened() as (engine, writer):
        await engine.configs.ensure(TENANT)
        writer.stuck = True
        outcome, other = Outcome(), Outcome()
        engine.intake.begin(delivery(*MANY), outcome)
        engine.intake.begin(delivery("a", "b"), other)
        assert waiting(engine) == INSIDE_MAX
        (line,) = engine.intake._feeder._lines.values()
        assert len(line.waiting) == len(MANY) + 2 - INSIDE_MAX
        engine.intake.expire(trio.current_time() + WAIT_SECONDS_MAX)
        assert [type(result) for result in outcome.results + other.results] == [AskTimeout] * 2
        assert not line.waiting


async def test_a_caller_that_is_gone_leaves_nothing_that_waits(autojump_clock: object) -> None:
    async with opened() as (engine, writer):
        await engine.configs.ensure(TENANT)
        writer.stuck = True
        with trio.move_on_after(1.0):
            await engine.intake.deliver(delivery(*MANY))
        (line,) = engine.intake._feeder._lines.values()
        assert not line.waiting


async def test_a_system_that_stops_answers_what_waits(autojump_clock: object) -> None:
    """What is inside is decided; the rest is refused, and the platform repeats it."""
    async with opened() as (engine, writer):
        await engine.configs.ensure(TENANT)
        outcome = Outcome()
        engine.intake.begin(delivery(*MANY), outcome)
        await engine.stop(5.0)
        await outcome.ended.wait()
        assert [type(result) for result in outcome.results] == [ActorStopped]
        assert stored(writer) == MANY[: len(stored(writer))]
        assert not engine.intake._feeder._lines


async def test_they_are_taken_while_deliveries_are_refused_for_overload(autojump_clock: object) -> None:
    """A queue that stands limits how many deliveries are in flight, and not what one may hold."""
    async with opened() as (engine, writer):
        await engine.configs.ensure(TENANT)
        directory = Directory(lambda listed: json.loads(listed.credentials))
        directory.add(entry("1", tenant=TENANT, secret="s1"))
        webhooks = Webhooks(
            receivers=[WhatsAppReceiver()],
            directory=directory,
            intake=engine.intake,
            landlord=RecordingLandlord(),
            metrics=Metrics(CollectorRegistry()),
            new_id=IdAllocator(lambda: NOON),
            clock_ms=lambda: NOON,
        )

        def post(customer: str, *posted_texts: str) -> list[Answer]:
            raw = json.dumps(posted(change("1", *posted_texts))).replace("966500000001", customer).encode()
            answers: list[Answer] = []
            begun = webhooks.begin(
                "/api/webhooks/whatsapp", "", signed(raw, "s1"), raw, answers.append, trio.current_time()
            )
            assert begun is None
            return answers

        writer.stuck = True
        hanging = post("966500000001", "hangs")
        await trio.sleep(3 * STANDING_SECONDS)
        writer.stuck = False
        answers = post("966500000002", *MANY)
        assert webhooks.shedding.is_overloaded(0, trio.current_time())
        await trio.sleep(WAIT_SECONDS_MAX)
        assert [answer.status for answer in answers] == [200]
        assert stored(writer) == MANY
        assert not hanging
