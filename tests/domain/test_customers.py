"""Customers as persons: what the customers actor decides, what a contact makes of it, and both in one engine
in virtual time, with a database that refuses commits or goes away."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import count
from random import Random
from typing import Any, cast

import msgspec
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from engine.domain import rows
from engine.domain.conversation.messages import (
    Assign,
    ChangeCustomer,
    Joined,
    KnowProfile,
    Link,
    NamedBeside,
    Receive,
    SetStatus,
    Shared,
    Start,
    TimerFired,
    address_of,
)
from engine.domain.conversation.state import OPEN_STATUSES
from engine.domain.customers.actor import CustomersState, decide
from engine.domain.customers.messages import (
    CreateCustomer,
    Linked,
    Merge,
    Renamed,
    Unmerge,
)
from engine.domain.engine import Engine
from engine.domain.inbound import Contact, ContactRenumbered, MessageReceived, StatusChanged
from engine.domain.resources import JOIN_KEY, CustomerRef, CustomerResource
from engine.domain.rows import (
    AuditRow,
    ContactMove,
    ConversationRow,
    CustomerRow,
    HandleRow,
    MergeRow,
    MessagePatch,
    MessageRow,
    TimerDone,
    TimerRow,
)
from engine.errors import Conflicting, NotFound, Rejected
from engine.ports import FoundMessage, FoundTracked, PeopleQuery, Person, PersonsQuery
from engine.runtime import Context, Effects, Lookup, Tell
from storage.databases import Pool
from storage.writers import Writers
from tests.domain.desk import ANN, CHANNEL, KEY, NOON, TENANT, Story
from tests.simulation.database import Database
from tests.simulation.store import ModelStore

OTHER = 72
"""Another channel."""


# ------------------------------------------------------------------ a contact's side


def named(story: Story) -> str:
    assert story.state.customer is not None
    return story.state.customer.name


def link(story: Story, into: CustomerRef | None, version: int, *, confirm: bool = True) -> Effects:
    assert story.state.customer is not None
    message = Link(customer_id=story.state.customer.id, into=into, version=version, confirm=confirm)
    effects: Effects = story.tell(message)
    return effects


MARIA = CustomerRef(id=9, name="Maria")


def test_a_linked_contact_shows_the_other_from_the_next_event_on() -> None:
    story = Story()
    story.customer_writes()
    link(story, MARIA, 5)
    assert story.events()[-2:] == ["conversation.updated", "customer.merged"]
    story.customer_writes()
    shown = story.event("message.received")["conversation"]["customer"]
    own = story.state.customer
    assert own is not None
    assert shown == {"id": 9, "name": "Maria", "avatar_url": None, "merged_id": own.id}
    assert named(story) == "Zoe Doe"


def test_an_older_link_than_the_newest_changes_nothing_and_is_confirmed() -> None:
    """It is told until it is confirmed, and told twice where a process died in between."""
    story = Story()
    story.customer_writes()
    link(story, None, 7)
    effects = link(story, MARIA, 5)
    assert effects.commit == []
    assert story.state.customer is not None
    assert story.state.customer.merged_into is None
    assert [tell.message for tell in effects.tell] == [Linked(5, story.state.customer.id)]


def test_undoing_shows_the_contact_as_it_was() -> None:
    story = Story()
    story.customer_writes()
    before = story.event("message.received")["conversation"]["customer"]
    link(story, MARIA, 5)
    link(story, None, 6)
    assert story.events()[-2:] == ["conversation.updated", "customer.unmerged"]
    assert story.event("customer.unmerged")["customer"]["merged_into"] is None
    assert story.event("conversation.updated")["conversation"]["customer"] == before


def test_a_new_name_is_told_to_those_who_show_it() -> None:
    """Only if somebody does, and whoever gives the name."""
    story = Story()
    story.customer_writes()
    customer = story.state.customer
    assert customer is not None
    assert told_names(story.customer_writes(contact=Contact(keys=(KEY,), name="Zoë"))) == []
    shared = Shared(customer_id=customer.id, name="Zoë", avatar_url=None)
    assert told_names(story.tell(shared)) == []
    renamed = story.customer_writes(contact=Contact(keys=(KEY,), name="Zoë Doe"))
    assert told_names(renamed) == [customer.id]
    change = ChangeCustomer(customer_id=customer.id, values={"name": "Mrs. Doe"}, by=ANN)
    assert told_names(story.tell(change)) == [customer.id]
    # Told under a name that it has no more, it says so again.
    assert told_names(story.tell(shared)) == [customer.id]


def told_names(effects: Effects) -> list[int]:
    return [tell.message.customer_id for tell in effects.tell if isinstance(tell.message, Renamed)]


def test_a_name_given_by_hand_stays() -> None:
    story = Story()
    story.customer_writes()
    customer = story.state.customer
    assert customer is not None
    effects = story.tell(ChangeCustomer(customer_id=customer.id, values={"name": "Mrs. Doe"}, by=ANN))
    assert effects.reply.name == "Mrs. Doe"
    audit = story.written(AuditRow)[-1]
    assert (audit.user_id, audit.before, audit.after) == (501, {"name": "Zoe Doe"}, {"name": "Mrs. Doe"})
    story.customer_writes(contact=Contact(keys=(KEY,), name="Sparkling Unicorn"))
    story.tell(KnowProfile(name="Sparkling Unicorn"))
    assert named(story) == "Mrs. Doe"
    again = story.tell(ChangeCustomer(customer_id=customer.id, values={"name": "Mrs. Doe"}, by=ANN))
    assert again.commit == ()
    assert isinstance(
        story.tell(ChangeCustomer(customer_id=1, values={"name": "x"}, by=ANN)).refuse, NotFound
    )


def test_all_ways_to_write_the_number_are_handles() -> None:
    story = Story(key="551187654321")
    story.customer_writes(contact=Contact(keys=("551187654321", "BR.1"), name="Maria", phone="+551187654321"))
    assert [row.external_id for row in story.written(HandleRow)] == [
        "551187654321",
        "5511987654321",
        "BR.1",
    ]


def test_a_contact_whose_new_name_is_another_contacts_tells_it_once() -> None:
    story = Story(key="551187654321")
    story.customer_writes(contact=Contact(keys=("551187654321",), phone="+551187654321"))
    both = Contact(keys=("551187654321", "BR.1"), phone="+551187654321")
    written = story.written_by_customer(contact=both)
    conflicted = story.tell(written, suspect=True, found=FoundMessage(message=None))
    [told] = [each for each in conflicted.tell if isinstance(each.message, NamedBeside)]
    assert told.to == address_of(TENANT, CHANNEL, "BR.1")
    assert story.customer_writes(contact=both).tell == []
    assert Story(key="BR.1").tell(told.message) == Effects()


def test_of_two_contacts_the_younger_moves_and_the_older_says_so() -> None:
    """Whoever hears of it first; so they never move into each other."""
    story = Story(key="BR.1")
    story.customer_writes(contact=Contact(keys=("BR.1",), name="Maria"))
    own = story.state.customer
    assert own is not None
    assert story.tell(NamedBeside("551187654321", own.id)) == Effects()
    [told] = story.tell(NamedBeside("551187654321", own.id + 1)).tell
    assert told == Tell(address_of(TENANT, CHANNEL, "551187654321"), NamedBeside("BR.1", own.id))
    moved = story.tell(NamedBeside("551187654321", own.id - 1))
    assert story.written(ContactMove)[-1].into_key == "551187654321"
    [joined] = [each for each in moved.tell if isinstance(each.message, Joined)]
    assert joined.to == address_of(TENANT, CHANNEL, "551187654321")
    assert story.event("conversation.status.changed")["conversation"]["status"] == "resolved"
    forwarded = story.tell(story.written_by_customer())
    assert forwarded.forward == address_of(TENANT, CHANNEL, "551187654321")


def test_who_was_renumbered_is_found_by_both_ways_to_write_the_new_number() -> None:
    story = Story()
    story.customer_writes()
    story.tell(
        story.receive(
            ContactRenumbered(
                contact=Contact(keys=(KEY,), name="Zoe Doe"),
                platform_id="wamid.new",
                at=NOON,
                new_key="551187654321",
                new_phone="+551187654321",
                content={"kind": "user_changed_number"},
                text="",
            )
        )
    )
    assert [row.external_id for row in story.written(HandleRow)] == [KEY, "551187654321", "5511987654321"]
    assert story.written(CustomerRow)[-1].phone == "+551187654321"
    assert story.event("customer.updated")["customer"]["phone"] == "+551187654321"


# ------------------------------------------------------------------ the actor's side, alone


class Alone:
    """The customers actor over the model's tables, each message committed before the next."""

    def __init__(self, customers: int) -> None:
        self.database = Database("d")
        self.store = ModelStore({TENANT: self.database})
        self.state = CustomersState(TENANT)
        numbers = count(1000)
        self.ctx = Context(lambda: next(numbers))
        self.ctx.now = NOON
        self.ids = [self._new(f"c{number}") for number in range(customers)]

    def _new(self, name: str) -> int:
        made: CustomerResource = cast("Any", self.tell(CreateCustomer(values={"name": name}, by=ANN)).reply)
        return made.id

    def tell(self, message: Any) -> Effects:
        self.ctx.found = None
        outcome = decide(self.state, message, self.ctx)
        if isinstance(outcome, Lookup):
            self.ctx.found = self.store._people(cast("PeopleQuery", outcome.query))
            outcome = decide(self.state, message, self.ctx)
        assert isinstance(outcome, Effects)
        if outcome.refuse is None:
            # Without events: their cursors are the writer's to give.
            new = cast("Sequence[rows.Row]", outcome.commit)
            self.database.put(*[row for row in new if not isinstance(row, rows.EventRow)])
        return outcome

    def merge(self, survivor: int, merged: int) -> Effects:
        return self.tell(Merge(survivor_id=self.ids[survivor], merged_id=self.ids[merged], by=ANN))

    def unmerge(self, customer: int) -> Effects:
        return self.tell(Unmerge(customer_id=self.ids[customer], by=ANN))

    def shown(self) -> list[int | None]:
        """Whom each customer is shown as, by their places."""
        found = [self.store.row(TENANT, "customers", each).merged_into for each in self.ids]
        return [None if each is None else self.ids.index(each) for each in found]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(0, 5)), max_size=14))
def test_what_is_shown_follows_from_the_merges_that_stand(
    steps: list[tuple[bool, int, int]],
) -> None:
    """In whatever order they are made and undone: everybody is shown as the root of his person, no chains, no
    circles; undoing all leaves nothing."""
    alone = Alone(6)
    above: dict[int, int] = {}

    def root(number: int) -> int:
        while number in above:
            number = above[number]
        return number

    for join, a, b in steps:
        if join:
            refuse = alone.merge(a, b).refuse
            if root(a) == root(b):
                assert isinstance(refuse, Conflicting)
                assert refuse.code == "already_merged"
            else:
                assert refuse is None
                above[root(b)] = root(a)
        else:
            refuse = alone.unmerge(a).refuse
            assert (refuse is None) == (a in above)
            above.pop(a, None)
        expected = [root(number) for number in range(6)]
        assert alone.shown() == [None if each == n else each for n, each in enumerate(expected)]
    for number in range(6):
        alone.unmerge(number)
    assert alone.shown() == [None] * 6
    for row in alone.store.table(TENANT, "customer_merges"):
        assert row.settled
        assert row.undone_at is not None


def test_a_person_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.domain.customers.actor.MEMBERS_MAX", 3)
    alone = Alone(5)
    alone.merge(0, 1)
    alone.merge(2, 3)
    refuse = alone.merge(0, 2).refuse
    assert isinstance(refuse, Conflicting)
    assert refuse.code == "limit_reached"
    assert alone.merge(0, 4).refuse is None


def test_who_and_when_is_recorded() -> None:
    alone = Alone(2)
    alone.merge(0, 1)
    alone.ctx.now += 1000
    alone.unmerge(1)
    [merge] = alone.store.table(TENANT, "customer_merges")
    assert (merge.by_user_id, merge.created_at) == (501, NOON)
    assert (merge.undone_by_user_id, merge.undone_at) == (501, NOON + 1000)
    trail = [row for row in alone.store.table(TENANT, "audit_log") if row.action != "created"]
    assert [(row.action, row.subject, row.user_id) for row in trail] == [
        ("merged", f"customer:{alone.ids[1]}", 501),
        ("unmerged", f"customer:{alone.ids[1]}", 501),
    ]


# ------------------------------------------------------------------ both, in one engine


class Nobody:
    def committed(self, events: object) -> None:
        pass


class House:
    """An engine over a model database in virtual time."""

    def __init__(self, engine: Engine, store: ModelStore) -> None:
        self.engine = engine
        self.store = store
        self._ids = count(1)

    async def write(self, key: str, *others: str, channel: int = CHANNEL, name: str = "Maria") -> None:
        phone = f"+{key}" if key.isdecimal() else None
        event = MessageReceived(
            contact=Contact(keys=(key, *others), name=name, phone=phone),
            platform_id=f"wamid.{next(self._ids)}",
            at=NOON,
            type="text",
            content={"body": "hello"},
            text="hello",
        )
        await self.engine.ask_contact(
            TENANT, channel, key, Receive(event=event, trace="t", received_at=NOON), timeout_seconds=300
        )

    def skip(self, number: int) -> None:
        """Messages are named from here on: another process' ones are taken."""
        self._ids = count(number)

    async def start(self, key: str) -> None:
        start = Start(by=ANN, recipient=f"+{key}", name=None, platform="whatsapp", send=None)
        await self.engine.ask_contact(TENANT, CHANNEL, key, start, timeout_seconds=300)

    async def ask(self, message: Any) -> Any:
        return await self.engine.ask_customers(TENANT, message, timeout_seconds=300)

    def customer(self, key: str, channel: int = CHANNEL) -> CustomerRow:
        handle = self.store.row(TENANT, "customer_handles", channel, key)
        row: CustomerRow = self.store.row(TENANT, "customers", handle.customer_id)
        return row

    def conversations(self) -> list[ConversationRow]:
        return self.store.table(TENANT, "conversations")

    async def rest(self) -> None:
        """Until nothing happens any more."""
        await trio.sleep(30)

    def last_shown(self) -> dict[int, Any]:
        """Each conversation's customer as the last event shows him."""
        shown: dict[int, Any] = {}
        for event in self.store._database_of[TENANT].log[TENANT]:
            data = msgspec.json.decode(event.data)
            if "conversation" in data:
                shown[data["conversation"]["id"]] = data["conversation"]["customer"]
        return shown


@asynccontextmanager
async def house(database: Database, seed: int = 1) -> AsyncIterator[House]:
    store = ModelStore({TENANT: database})
    writers = Writers(lambda _: cast("Pool", database.pool()), lambda _: "d", node=f"n{seed}", sink=Nobody())
    stored = ModelStore({TENANT: database}, take=writers.take)
    numbers = count(1_000_000 * seed)
    engine = Engine(
        conversation_store=stored,
        tenant_store=stored,
        customer_store=stored,
        committer=writers,
        workers=(),
        new_id=lambda: next(numbers),
        wall_ms=lambda: NOON + round(trio.current_time() * 1000),
        rng=Random(seed),
        monotonic=trio.current_time,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(writers.run)
        await nursery.start(engine.run)
        yield House(engine, store)
        nursery.cancel_scope.cancel()


def database_of_two_channels(**options: Any) -> Database:
    database = Database("d", **options)
    for number in (CHANNEL, OTHER):
        database.put(
            rows.ChannelRow(
                tenant_id=TENANT,
                id=number,
                platform="whatsapp",
                name=f"Line {number}",
                external_id=str(number),
                credentials=b"",
                settings={},
                status="active",
                status_note=None,
                created_at=NOON,
                updated_at=NOON,
            )
        )
    return database


OLDER, NEWER = "551187654321", "5511987654321"


@pytest.mark.parametrize("seed", range(12))
async def test_one_contact_whoever_comes_first(seed: int, autojump_clock: trio.testing.MockClock) -> None:
    """A number in both its forms, a user id, and the business that writes first, in all orders and at once:
    one contact, one open conversation, every message."""
    async with house(database_of_two_channels(), seed + 1) as here:
        calls: list[Callable[[], Awaitable[None]]] = [
            lambda: here.write(OLDER),
            lambda: here.write(NEWER),
            lambda: here.write(OLDER, "BR.1"),
            lambda: here.write("BR.1", NEWER),
            lambda: here.start(NEWER),
            lambda: here.start(OLDER),
        ]
        random = Random(seed)
        random.shuffle(calls)
        async with trio.open_nursery() as nursery:
            for call in calls:
                nursery.start_soon(call)
                if random.random() < 0.3:
                    await trio.sleep(random.random() / 100)
        [conversation] = here.conversations()
        assert conversation.message_count == 4
        assert len(here.store.table(TENANT, "customers")) == 1


class Bumpy:
    """A database that refuses some commits as if another had been faster, and is slow in others."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)

    async def reach(self) -> None:
        await trio.sleep(self.random.random() / 20)

    def victim(self, sets: Any) -> Any:
        return None

    def breaks(self) -> bool:
        return self.random.random() < 0.1

    async def commit(self, apply: Callable[[], None], later: Callable[[float], None]) -> Exception | None:
        apply()
        return None


@pytest.mark.parametrize("seed", range(8))
async def test_merging_and_undoing_among_messages(seed: int, autojump_clock: trio.testing.MockClock) -> None:
    """While both write, over a database whose connections break: the last word counts, in rows and in events,
    and each contact keeps its one conversation."""
    async with house(database_of_two_channels(troubles=Bumpy(seed)), seed + 1) as here:
        await here.write(OLDER, name="Maria")
        await here.write(NEWER, channel=OTHER, name="55 11")
        first, second = here.customer(OLDER).id, here.customer(NEWER, OTHER).id
        random = Random(seed)

        async def order() -> None:
            message = random.choice(
                (
                    Merge(survivor_id=first, merged_id=second, by=ANN),
                    Merge(survivor_id=second, merged_id=first, by=ANN),
                    Unmerge(customer_id=second, by=ANN),
                    Unmerge(customer_id=first, by=ANN),
                    ChangeCustomer(customer_id=first, values={"name": f"Maria {random.random()}"}, by=ANN),
                )
            )
            with suppress(Rejected):
                await here.ask(message)

        async with trio.open_nursery() as nursery:
            for number in range(12):
                nursery.start_soon(order)
                nursery.start_soon(here.write, OLDER)
                nursery.start_soon(partial(here.write, NEWER, channel=OTHER, name=f"55 {number}"))
                await trio.sleep(random.random() / 10)
        await here.rest()
        [person, *_] = here.store._people(PersonsQuery(tenant_id=TENANT, customer_ids=(first,)))
        assert isinstance(person, Person)
        customers = {row.id: row for row in here.store.table(TENANT, "customers")}
        root = customers[person.root_id]
        for member in person.members:
            shown = customers[member.customer.id]
            if shown.id == root.id:
                assert shown.merged_into is None
            else:
                assert (shown.merged_into, shown.shown_name) == (root.id, root.name)
        assert {row.message_count for row in here.conversations()} == {13}
        assert len(here.conversations()) == 2
        for conversation in here.conversations():
            row = customers[conversation.customer_id]
            into = row.merged_into or row.id
            assert here.last_shown()[conversation.id]["id"] == into
            assert here.last_shown()[conversation.id]["name"] == (row.shown_name or row.name)
        assert all(row.settled for row in here.store.table(TENANT, "customer_merges"))


async def test_a_merge_that_nobody_was_told_of_is_told_by_the_next_process(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """It is durable, and the process dies before the contact hears of it."""
    database = database_of_two_channels()
    async with house(database, 1) as here:
        await here.write(OLDER)
        await here.write(NEWER, channel=OTHER)
        first, second = here.customer(OLDER).id, here.customer(NEWER, OTHER).id
    database.put(
        MergeRow(
            tenant_id=TENANT,
            id=1_500_000,
            survivor_id=first,
            merged_id=second,
            by_user_id=None,
            created_at=NOON,
        )
    )
    async with house(database, 2) as here:
        work = await here.store.open_work(TENANT)
        assert work.merges
        await here.engine.wake(TENANT, work)
        await here.rest()
        assert here.customer(NEWER, OTHER).merged_into == first
        assert not (await here.store.open_work(TENANT)).merges
        assert [shown["id"] for shown in here.last_shown().values()] == [first, first]


# ------------------------------------------------------------------ two contacts that turn out to be one


def names_lead_to(here: House) -> set[str]:
    return {row.contact_key for row in here.store.table(TENANT, "customer_handles")}


def opened(here: House) -> list[ConversationRow]:
    return [row for row in here.conversations() if row.status in OPEN_STATUSES]


def said(here: House) -> list[str]:
    """What customers wrote, once for each time that it is stored."""
    return sorted(row.platform_message_id for row in here.store.table(TENANT, "messages") if row.text)


@pytest.mark.parametrize("seed", range(16))
async def test_two_contacts_that_are_named_in_one_breath_become_one(
    seed: int, autojump_clock: trio.testing.MockClock
) -> None:
    """A user id alone and a number alone are two, as nobody can know better. Who names both at last, while
    both go on writing and commits are refused, makes them one: one open conversation, every message once,
    one person, all names with him."""
    async with house(database_of_two_channels(troubles=Bumpy(seed)), seed + 1) as here:
        random = Random(seed)
        if seed % 2:
            await here.write("BR.1")
            await here.write(OLDER)
            assert len(opened(here)) == 2
        calls: list[Callable[[], Awaitable[None]]] = [
            lambda: here.write(OLDER),
            lambda: here.write("BR.1"),
            lambda: here.start(NEWER),
            lambda: here.write(NEWER, "BR.1"),
            lambda: here.write("BR.1", OLDER),
            lambda: here.write("BR.1"),
        ]
        random.shuffle(calls)
        async with trio.open_nursery() as nursery:
            for call in calls:
                nursery.start_soon(call)
                if random.random() < 0.5:
                    await trio.sleep(random.random() / 10)
        await here.rest()
        await here.write(OLDER, "BR.1")
        await here.write("BR.1", OLDER)
        await here.rest()
        assert len(names_lead_to(here)) == 1
        [conversation] = opened(here)
        assert {conversation.contact_key} == names_lead_to(here)
        assert said(here) == sorted(f"wamid.{number}" for number in range(1, len(said(here)) + 1))
        assert len(said(here)) == 7 + 2 * (seed % 2)
        assert sum(row.unread_count for row in here.conversations()) == len(said(here))
        assert sum(row.unread_count for row in opened(here)) == len(said(here))
        persons = [row for row in here.store.table(TENANT, "customers") if row.merged_into is None]
        assert [row.id for row in persons] == [conversation.customer_id]
        assert here.store.table(TENANT, "timers") == []
        assert not any(JOIN_KEY in row.metadata for row in here.conversations())


@pytest.mark.parametrize("seed", range(16))
async def test_a_process_that_dies_while_two_become_one_leaves_it_to_the_next(
    seed: int, autojump_clock: trio.testing.MockClock
) -> None:
    database = database_of_two_channels(troubles=Bumpy(seed))
    random = Random(seed)
    async with house(database, 1) as here:
        await here.write("BR.1")
        await here.write(OLDER)
        await here.write(OLDER, "BR.1")
        await trio.sleep(random.random() / 3)
    async with house(database, 2) as here:
        here.skip(100)
        await here.engine.wake(TENANT, await here.store.open_work(TENANT))
        await here.write(NEWER)
        await trio.sleep(400)
        await here.write(OLDER, "BR.1")
        await here.rest()
        assert len(names_lead_to(here)) == 1
        [conversation] = opened(here)
        assert conversation.unread_count == 5
        assert here.store.table(TENANT, "timers") == []


def handed_over(
    older: Story, younger: Story, *, told: tuple[str, ...] = ("BR.1",)
) -> tuple[TimerFired, ConversationRow]:
    """The younger has moved into the older, which knows; what the older's timer says, and what it finds."""
    own = older.state.customer
    assert own is not None
    moved = younger.tell(NamedBeside(older.state.key, own.id))
    for each in moved.tell:
        if isinstance(each.message, Joined):
            older.tell(each.message)
    row = younger.written(ConversationRow)[-1]
    timer = younger.written(TimerRow)[-1]
    fired = TimerFired(timer_id=timer.id, timer=timer.kind, conversation_id=row.id, due_at=timer.due_at)
    return fired, structs.replace(row)


def two_contacts() -> tuple[Story, Story]:
    older, younger = Story(key="551187654321"), Story(key="BR.1")
    older.customer_writes(contact=Contact(keys=("551187654321",), phone="+551187654321"))
    younger.ctx.new_id = older.ctx.new_id
    younger.customer_writes(contact=Contact(keys=("BR.1",)))
    return older, younger


def test_an_open_conversation_goes_on_where_the_older_contact_has_none() -> None:
    older, younger = two_contacts()
    assert older.state.conversation is not None
    older.tell(SetStatus(conversation_id=older.state.conversation.id, status="resolved", by=ANN))
    fired, row = handed_over(older, younger)
    older.tell(fired, found=row)
    conversation = older.written(ConversationRow)[-1]
    assert (conversation.id, conversation.status, conversation.unread_count) == (row.id, "open", 1)
    own = older.state.customer
    assert own is not None
    assert (conversation.contact_key, conversation.customer_id) == (older.state.key, own.id)
    assert older.written(TimerDone)[-1].id == fired.timer_id
    again = older.tell(fired)
    assert [type(each) for each in again.commit] == [TimerDone]


def test_an_open_conversation_says_that_there_is_another_and_counts_its_unread_messages() -> None:
    older, younger = two_contacts()
    before = younger.state.conversation
    assert before is not None
    younger.tell(Assign(conversation_id=before.id, user_id=501, by=ANN))
    fired, row = handed_over(older, younger)
    assert row.status == "resolved"
    older.tell(fired, found=row)
    kept = older.state.conversation
    assert kept is not None
    assert (kept.unread_count, kept.assigned_to, kept.status) == (2, 501, "open")
    said = older.event("message.received")["message"]
    assert said["content"]["kind"] == "conversation_joined"
    assert said["content"]["conversation_id"] == row.id


def test_who_opted_out_under_one_name_has_opted_out_under_all() -> None:
    """What waits under the other is looked up and withdrawn with it."""
    older, younger = two_contacts()
    younger.customer_writes(contact=Contact(keys=("BR.1",)), opts="out")
    older.tell(older.reply("waits"))
    fired, row = handed_over(older, younger)
    assert isinstance(older.raw(fired, found=row), Lookup)
    older.tell(fired, found=(FoundTracked(),))
    assert older.events().count("customer.opted_out") == 1
    assert older.event("message.status.updated")["status"] == "failed"
    refused = older.tell(older.reply()).refuse
    assert isinstance(refused, Conflicting)
    assert refused.code == "opted_out"


def test_what_was_sent_before_two_became_one_still_has_its_statuses_and_can_be_sent_again() -> None:
    """Its rows keep the key under which they were written."""
    older, younger = two_contacts()
    younger.tell(younger.reply("sent before"))
    message = younger.written(MessageRow)[-1]
    message.platform_message_id, message.status = "wamid.before", "sent"
    handed_over(older, younger)
    reached = StatusChanged(
        contact=Contact(keys=(older.state.key,)),
        platform_id="wamid.before",
        status="delivered",
        at=NOON,
        raw_status="delivered",
    )
    told = older.tell(older.receive(reached), found=FoundMessage(message=message))
    assert told.reply.outcome == "applied"
    assert older.written(MessagePatch)[-1].status == "delivered"
