"""One suite over PostgreSQL and over the model that the simulation runs on: both keep the same contract.

What the writer promises on top of a database, and what the engine reads of it, as far as the engine uses it.
The writer is the same real one in both; what differs is what it writes to.
"""

import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import trio
from msgspec import structs, to_builtins

from engine.domain import rows
from engine.domain.outbound import Thread
from engine.domain.resources import CustomerRef
from engine.errors import CommitAbandoned, CommitConflict, CommitPoisoned, Fenced
from engine.ports import (
    ContactRequest,
    ConversationQuery,
    FoundMessage,
    MessageQuery,
    PersonsQuery,
    UnsettledQuery,
)
from engine.reading import Tenant
from storage.batch import WriteSet
from storage.bridge import Bridge
from storage.contacts import Contacts
from storage.databases import DatabaseServer
from storage.events import Events
from storage.outbox import Outbox
from storage.people import People
from storage.placements import Placements
from storage.tenants import Tenants
from storage.writers import Writers
from tests.patience import PATIENCE_SECONDS
from tests.simulation.database import Database
from tests.simulation.store import ModelStore
from tests.storage.proxy import commit_late, lose_the_answer, lose_the_commit, proxied
from tests.storage.writing import (
    T0,
    RememberingSink,
    Verdicts,
    address,
    attachment,
    conversation,
    customer,
    customer_merge,
    event,
    handle,
    message,
    one_of_each,
    outbox,
    timer,
)

pytestmark = pytest.mark.real_time

DATABASE = "d"
LATE_SECONDS = 0.3


class Node:
    """One process' writers, and the read side that it starts its actors from."""

    def __init__(self, writers: Writers, sink: RememberingSink, stores: Any) -> None:
        self.writers = writers
        self.sink = sink
        self.contacts, self.tenants, self.outbox, self.events, self.people = stores
        self.verdicts = Verdicts()

    def submit(self, name: object, *new: rows.Row, key: str | None = None, generation: int = 1) -> None:
        self.writers.submit(
            address(new[0].tenant_id, key or str(name)), generation, new, self.verdicts.of(name)
        )

    async def commit(self, *new: rows.Row) -> None:
        self.submit(f"set {len(self.verdicts.all)}", *new)
        await self.writers.flush()
        error = self.verdicts.all[-1][1]
        if error is not None:
            raise error


class Side:
    """A database that nodes can be started on. `fault` happens to the next commit."""

    def __init__(
        self,
        node: Callable[..., AbstractAsyncContextManager[Node]],
        fault: Callable[[str], None],
    ) -> None:
        self.node = node
        self.fault = fault


class OneFault:
    """Troubles of the model: one, once."""

    def __init__(self) -> None:
        self.next: str | None = None

    async def reach(self) -> None:
        await trio.lowlevel.checkpoint()

    def victim(self, sets: Any) -> tuple[WriteSet, Exception] | None:
        return None

    def breaks(self) -> bool:
        return False

    async def commit(self, apply: Callable[[], None], later: Callable[[float], None]) -> Exception | None:
        fault, self.next = self.next, None
        if fault == "late":
            later(LATE_SECONDS)
        elif fault != "lost":
            apply()
        gone: Any = asyncpg.ConnectionDoesNotExistError("the connection is gone")
        return None if fault is None else gone


@asynccontextmanager
async def _running(writers: Writers, sink: RememberingSink, stores: Any) -> AsyncIterator[Node]:
    async with trio.open_nursery() as nursery:
        await nursery.start(writers.run)
        yield Node(writers, sink, stores)
        writers.stop()


@asynccontextmanager
async def _model() -> AsyncIterator[Side]:
    async with trio.open_nursery() as nursery:
        troubles = OneFault()
        database = Database(DATABASE, troubles=troubles, spawn=nursery.start_soon)

        @asynccontextmanager
        async def node(name: str = "n1", newest_id: Any = None) -> AsyncIterator[Node]:
            sink = RememberingSink()
            writers = Writers(
                lambda _: database.pool(),  # type: ignore[arg-type, return-value]
                lambda tenant: DATABASE,
                node=name,
                sink=sink,
            )
            store = ModelStore(
                {1: database, 2: database}, take=writers.take, newest_id=newest_id, head=writers.head
            )
            async with _running(writers, sink, (store, store, store, store, store)) as running:
                yield running

        def fault(name: str) -> None:
            troubles.next = name

        yield Side(node, fault)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def _postgres(bridge: Bridge, dsn: str, prefix: str, database: str) -> AsyncIterator[Side]:
    # Not tmp_path: a socket's path has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="mijra-") as directory:
        async with (
            proxied(dsn, Path(directory)) as proxy,
            DatabaseServer(bridge, proxy.dsn, prefix=prefix) as server,
        ):
            placements = Placements(server)
            for number in (1, 2):
                placements.put(_tenant(number, database))

            @asynccontextmanager
            async def node(name: str = "n1", newest_id: Any = None) -> AsyncIterator[Node]:
                sink = RememberingSink()
                writers = Writers(placements.pool_named, placements.database, node=name, sink=sink)
                stores = (
                    Contacts(placements),
                    Tenants(placements, take=writers.take, newest_id=newest_id),
                    Outbox(placements),
                    Events(placements, head_of=writers.head),
                    People(placements),
                )
                async with _running(writers, sink, stores) as running:
                    yield running

            faults = {"answer": lose_the_answer, "lost": lose_the_commit, "late": commit_late(LATE_SECONDS)}

            def fault(name: str) -> None:
                proxy.at_commit = faults[name]

            yield Side(node, fault)


def _tenant(number: int, database: str) -> Tenant:
    return Tenant(
        id=number,
        slug=f"t{number}",
        name=f"Tenant {number}",
        status="active",
        locale="en",
        timezone="UTC",
        database=database,
        isolation="pooled",
        placement_state="ready",
        created_at=T0,
    )


@pytest.fixture(params=["model", "postgres"])
async def side(
    request: pytest.FixtureRequest,
    bridge: Bridge,
    postgres_dsn: str,
    databases: DatabaseServer,
    tenant_template: str,
) -> AsyncIterator[Side]:
    if request.param == "model":
        made = _model()
    else:
        name = databases.pooled_database(1)
        await databases.create_database(name, template=tenant_template)
        prefix = databases.landlord_database.removesuffix("landlord")
        made = _postgres(bridge, postgres_dsn, prefix, name)
    async with made as opened:
        yield opened


def opened(tenant: int = 1, number: int = 1, **changes: Any) -> rows.ConversationRow:
    return conversation(tenant, number, **{"contact_key": "c", **changes})


# ------------------------------------------------------------------ writing


async def test_what_is_refused_is_not_there_and_its_neighbours_are(side: Side) -> None:
    """Conflicts by each unique key, and a row that violates a check; each alone in one flood."""
    async with side.node() as node:
        await node.commit(
            opened(), message(1, 1, 1, id=1, platform_message_id="p", client_key="k"), handle(1, "c")
        )
        node.submit("before", message(1, 1, 2, id=2))
        node.submit("same seq", message(1, 1, 1, id=3))
        node.submit("same platform id", message(1, 1, 3, id=4, platform_message_id="p"))
        node.submit("same client key", message(1, 1, 4, id=5, client_key="k"))
        node.submit("same handle", handle(1, "c"))
        node.submit("second open", opened(1, 2))
        node.submit("poison", message(1, 1, 5, id=6, status="nonsense"), event())
        node.submit("other tenant", message(2, 1, 1, id=1, platform_message_id="p", client_key="k"))
        node.submit("after", message(1, 1, 3, id=7), event())
        await node.writers.flush()
        found = {name: type(error) for name, error in node.verdicts.all[1:]}
        assert found == {
            "before": type(None),
            "same seq": CommitConflict,
            "same platform id": CommitConflict,
            "same client key": CommitConflict,
            "same handle": CommitConflict,
            "second open": CommitConflict,
            "poison": CommitPoisoned,
            "other tenant": type(None),
            "after": type(None),
        }
        constraints = {name: getattr(error, "constraint", None) for name, error in node.verdicts.all}
        assert constraints["second open"] == "conversations_one_open"
        assert [one.cursor for one in node.sink.of(1)] == [1]
        await node.commit(customer(1))
        (contact,) = await node.contacts.load_contacts([_asked(1, "c")], recent_max=10)
        assert contact is not None
        assert [one.id for one in contact.messages] == [7, 2, 1]


async def test_after_a_refusal_the_activation_is_abandoned(side: Side) -> None:
    """Until its next generation; other addresses go on."""
    async with side.node() as node:
        node.submit("first", message(1, 1, 1, id=1), key="a")
        node.submit("refused", message(1, 1, 1, id=2), key="a")
        node.submit("void", message(1, 1, 2, id=3), key="a")
        node.submit("another", message(1, 2, 1, id=4), key="b")
        node.submit("again", message(1, 1, 2, id=5), key="a", generation=2)
        await node.writers.flush()
        found = {name: type(error) for name, error in node.verdicts.all}
        assert found["refused"] is CommitConflict
        assert found["void"] is CommitAbandoned
        assert {found[name] for name in ("first", "another", "again")} == {type(None)}


async def test_closing_one_and_opening_the_next_goes_in_one_batch(side: Side) -> None:
    """Whatever the order in which they were written."""
    async with side.node() as node:
        await node.commit(opened())
        await node.commit(opened(1, 2), opened(1, 1, status="resolved"))
        await node.commit(handle(1, "c"), customer(1))
        (contact,) = await node.contacts.load_contacts([_asked(1, "c")], recent_max=10)
        assert contact is not None
        assert contact.conversation is not None
        assert contact.conversation.id == 2


async def test_patches_change_what_they_name(side: Side) -> None:
    """Columns given; metadata merged; a failure cleared before the rest; a patch of nothing does nothing."""
    async with side.node() as node:
        await node.commit(message(1, 1, 1, id=1, failed_at=5, error={"x": 1}, metadata={"a": 1}))
        await node.commit(
            rows.MessagePatch(tenant_id=1, id=1, status="sent", metadata={"b": 2}, clear_failure=True),
            rows.MessagePatch(tenant_id=1, id=1, sent_at=T0, platform_message_id="p"),
            rows.MessagePatch(tenant_id=1, id=99, status="sent"),
        )
        found = (await node.contacts.find([_by(platform_message_id="p")]))[0]
        assert isinstance(found, FoundMessage)
        assert found.message is not None
        stored = found.message
        assert (stored.status, stored.sent_at, stored.failed_at, stored.error) == ("sent", T0, None, None)
        assert stored.metadata == {"a": 1, "b": 2}


async def test_events_are_numbered_in_the_order_of_commits(side: Side) -> None:
    """By tenant, from one, without gaps, also over a restart; read as they were told."""
    async with side.node() as node:
        for number in range(5):
            node.submit(number, event(1 + number % 2, trace=str(number), channels=("inbox", f"c{number}")))
        await node.writers.flush()
        assert [(one.cursor, one.trace) for one in node.sink.of(1)] == [(1, "0"), (2, "2"), (3, "4")]
        assert [(one.cursor, one.trace) for one in node.sink.of(2)] == [(1, "1"), (2, "3")]
    async with side.node("n2") as later:
        assert await later.events.head(1) == 3
        await later.commit(event(1, trace="later"))
        read = await later.events.read(1, after=1, limit=2)
        assert [(one.cursor, one.trace) for one in read] == [(2, "2"), (3, "4")]
        chosen = await later.events.read(1, after=0, limit=10, channels=("c4", "none"))
        assert [one.cursor for one in chosen] == [3]
        assert await later.events.oldest(1) == 1
        assert [one.cursor for one in later.sink.of(1)] == [4]


@pytest.mark.parametrize("fault", ["answer", "lost", "late"])
async def test_a_commit_in_doubt_is_settled(side: Side, fault: str) -> None:
    """Whatever became of the first try, it is there once, and its sets are told so."""
    async with side.node() as node:
        await node.writers.take(1)
        side.fault(fault)
        for number in range(1, 6):
            node.submit(number, message(1, 1, number, id=number), event(trace=str(number)))
        with trio.fail_after(PATIENCE_SECONDS):
            await node.writers.flush()
        assert node.verdicts.all == [(number, None) for number in range(1, 6)]
        (figures,) = node.writers.statistics()
        assert figures.unavailable >= 1
        # A late one may come before or after the retry that it races with.
        assert figures.resolved in {"lost": (0,), "answer": (1,), "late": (0, 1)}[fault]
        read = await node.events.read(1, after=0, limit=10)
        assert [(one.cursor, one.trace) for one in read] == [(n, str(n)) for n in range(1, 6)]
        assert [one.cursor for one in node.sink.of(1)] == [1, 2, 3, 4, 5]


async def test_who_was_fenced_off_writes_nothing(side: Side) -> None:
    """Of that tenant; of another one it goes on."""
    async with side.node("old") as old, side.node("new") as new:
        await old.commit(event(1, trace="mine"))
        await new.commit(event(1, trace="yours"))
        with pytest.raises(Fenced):
            await old.commit(message(1, 1, 1, id=1), event(1, trace="too late"))
        await old.commit(event(2, trace="another tenant"))
        read = await new.events.read(1, after=0, limit=10)
        assert [(one.cursor, one.trace) for one in read] == [(1, "mine"), (2, "yours")]
        found = (await new.contacts.find([_by(message_id=1)]))[0]
        assert found == FoundMessage(message=None)


# ------------------------------------------------------------------ reading


def _asked(tenant: int, *keys: str) -> ContactRequest:
    return ContactRequest(tenant_id=tenant, channel_id=7, keys=keys)


def _by(tenant: int = 1, **by: Any) -> MessageQuery:
    return MessageQuery(tenant_id=tenant, channel_id=7, **by)


async def test_contacts_are_loaded_as_they_were_stored(side: Side) -> None:
    """By the first key that is known; the open conversation, else the newest; messages newest first."""
    async with side.node() as node:
        held = opened(1, 11, contact_key="a", last_seq=3, tag_ids=[3], auto_replied={"4": T0})
        await node.commit(
            customer(1, attributes={"x": [1]}),
            handle(1, "a"),
            handle(1, "b", contact_key="a"),
            opened(1, 10, contact_key="a", status="archived"),
            held,
            opened(1, 12, contact_key="a", status="resolved"),
            *[
                message(1, 11, seq, id=seq, contact_key="a", sender_type="user", sender_id=5)
                for seq in (1, 2, 3)
            ],
        )
        found = await node.contacts.load_contacts(
            [_asked(1, "nobody", "b"), _asked(2, "a"), _asked(1, "nobody")], recent_max=2
        )
        assert found[1] is None
        assert found[2] is None
        contact = found[0]
        assert contact is not None
        assert (contact.contact_key, contact.customer.attributes) == ("a", {"x": [1]})
        assert {one.external_id for one in contact.handles} == {"a", "b"}
        assert contact.conversation == held
        assert [(one.id, one.author) for one in contact.messages] == [(3, "user:5"), (2, "user:5")]
        assert not contact.complete
        (whole,) = await node.contacts.load_contacts([_asked(1, "a")], recent_max=3)
        assert whole is not None
        assert whole.complete


@pytest.mark.parametrize(
    "order", [(("c", "b"), ("b", "a")), (("b", "a"), ("c", "b"))], ids=["cb ba", "ba cb"]
)
async def test_a_contact_moves_with_all_its_names_to_where_the_other_leads(
    side: Side, order: tuple[tuple[str, str], ...]
) -> None:
    """Also where two move in one batch, whichever is decided first; nobody else's names move."""
    async with side.node() as node:
        await node.commit(
            handle(1, "a", customer_id=1),
            handle(1, "b", customer_id=2),
            handle(1, "b2", contact_key="b", customer_id=2),
            handle(1, "c", customer_id=3),
            handle(1, "b", channel_id=8, customer_id=4),
            *(customer(1, number) for number in (1, 2, 3, 4)),
        )
        await node.commit(handle(2, "b", customer_id=2), customer(2, 2))
        for one, other in order:
            move = rows.ContactMove(tenant_id=1, channel_id=7, from_key=one, into_key=other, at=T0)
            node.submit(one, move)
        await node.writers.flush()
        assert node.verdicts.all[-2:] == [(name, None) for name, _ in order]
        for contact in await node.contacts.load_contacts(
            [_asked(1, key) for key in ("a", "b", "b2", "c")], recent_max=2
        ):
            assert contact is not None
            assert (contact.contact_key, contact.customer.id, contact.complete) == ("a", 1, False)
            assert {one.external_id for one in contact.handles} == {"a", "b", "b2", "c"}
        elsewhere = ContactRequest(tenant_id=1, channel_id=8, keys=("b",))
        for asked, customer_id in ((elsewhere, 4), (_asked(2, "b"), 2)):
            [contact] = await node.contacts.load_contacts([asked], recent_max=2)
            assert contact is not None
            assert (contact.contact_key, contact.customer.id, contact.complete) == ("b", customer_id, True)


async def test_a_contact_knows_whom_it_is_shown_as_and_who_is_shown_as_it(side: Side) -> None:
    async with side.node() as node:
        await node.commit(
            customer(1, 1, name="Amal", avatar_url="https://x.test/a"),
            handle(1, "a"),
            customer(1, 2, merged_into=1, shown_name="before", link_version=8),
            handle(1, "b", customer_id=2),
        )
        await node.commit(customer(2, 1), handle(2, "a"))
        root, merged, stranger = await node.contacts.load_contacts(
            [_asked(1, "a"), _asked(1, "b"), _asked(2, "a")], recent_max=2
        )
        assert root is not None
        assert merged is not None
        assert stranger is not None
        assert (root.shared, root.root) == (True, None)
        assert (merged.shared, merged.root) == (
            False,
            CustomerRef(id=1, name="Amal", avatar_url="https://x.test/a"),
        )
        assert (merged.customer.shown_name, merged.customer.link_version) == ("before", 8)
        assert (stranger.shared, stranger.root) == (False, None)


async def test_a_person_is_all_that_stands_above_and_below_a_customer(side: Side) -> None:
    """By merges that were not undone, with the contact of each; nothing of another tenant."""
    async with side.node() as node:
        stands = [
            customer_merge(1, 10, survivor_id=1, merged_id=2),
            customer_merge(1, 11, survivor_id=2, merged_id=3, settled=True),
            customer_merge(1, 13, survivor_id=2, merged_id=4),
        ]
        await node.commit(
            *[customer(1, number) for number in (1, 2, 3, 4, 5)],
            handle(1, "a", customer_id=3, contact_key="k"),
            handle(1, "k", customer_id=3),
            *stands,
            customer_merge(1, 12, survivor_id=1, merged_id=5, undone_at=T0),
        )
        await node.commit(customer(2, 1), customer_merge(2, 12, survivor_id=1, merged_id=6))
        query = PersonsQuery(tenant_id=1, customer_ids=(3, 5, 99, 1))
        unsettled = UnsettledQuery(tenant_id=1, limit=2)
        (found, pending) = await node.people.find_people([query, unsettled])
        person, alone, nobody, again = found
        assert nobody is None
        assert (alone.root_id, [each.customer.id for each in alone.members]) == (5, [5])
        assert person == again
        assert person.root_id == 1
        members = {each.customer.id: each for each in person.members}
        assert {number: each.merge for number, each in members.items()} == {
            1: None,
            2: stands[0],
            3: stands[1],
            4: stands[2],
        }
        assert {number: each.place for number, each in members.items()} == {
            1: None,
            2: None,
            3: (7, "k"),
            4: None,
        }
        assert [each.customer.id for each in person.below(2)] == [2, 3, 4]
        assert [row.id for row in pending] == [10, 12]
        assert (await node.outbox.open_work(1)).merges


async def test_a_customer_is_part_of_another_by_one_merge(side: Side) -> None:
    """Whatever an actor believes; when it was undone, by another one."""
    async with side.node() as node:
        first = customer_merge(1, 1, survivor_id=1, merged_id=3)
        await node.commit(first)
        with pytest.raises(CommitConflict) as caught:
            await node.commit(customer_merge(1, 2, survivor_id=2, merged_id=3))
        assert caught.value.constraint == "customer_merges_one"
        await node.commit(structs.replace(first, undone_at=T0, settled=True))
        await node.commit(customer_merge(1, 2, survivor_id=2, merged_id=3, settled=True))
        assert not (await node.outbox.open_work(1)).merges


async def test_messages_are_found_by_each_of_their_names(side: Side) -> None:
    """With attachments and the last outbox item, thread and all, since a retry sends it from there; nothing
    of another tenant or channel."""
    thread = Thread(message_id="<1@shop.example>", subject="Order", references=("<0@shop.example>",))
    payload = {"send": {"type": "SendText", "body": "hi"}, "thread": to_builtins(thread)}
    async with side.node() as node:
        stored = message(1, 1, 1, id=100, platform_message_id="w\0", client_key="k", text="a\ud800b")
        item = outbox(1, 100, message_id=100, payload=payload)
        await node.commit(stored, opened(), attachment(1, 200, message_id=100), item)
        found = await node.contacts.find(
            [
                _by(platform_message_id="w\0"),
                _by(message_id=100),
                _by(client_key=(1, "k")),
                _by(2, message_id=100),
                MessageQuery(tenant_id=1, channel_id=8, message_id=100),
                ConversationQuery(tenant_id=1, conversation_id=1),
                ConversationQuery(tenant_id=2, conversation_id=1),
            ]
        )
        for answer in found[:3]:
            assert isinstance(answer, FoundMessage)
            assert answer.message == structs.replace(stored, platform_message_id="w\ufffd", text="a\ufffdb")
            assert [one.id for one in answer.attachments] == [200]
            assert answer.outbox is not None
            assert answer.outbox.state == "queued"
            assert answer.outbox.thread == thread
        assert found[3:5] == [FoundMessage(message=None)] * 2
        assert found[5] == opened()
        assert found[6] is None


async def test_open_work_is_what_a_dead_process_left(side: Side) -> None:
    """Outbox in order, media, deadlines, conversations that wait; none of it once it is done."""
    async with side.node() as node:
        idle = await node.outbox.open_work(1)
        assert (idle.channel_ids, idle.media, idle.timers, idle.waiting) == ((), False, False, False)
        await node.commit(
            outbox(1, 3, state="queued"),
            outbox(1, 2, state="sending"),
            outbox(1, 1, state="done"),
            outbox(1, 4, state="unknown", channel_id=8),
            attachment(1, 5),
            timer(1, 6, due_at=T0 + 10),
            timer(1, 7, due_at=T0 + 5),
            opened(1, 1, assigned_to=None),
            opened(1, 2, contact_key="d", assigned_to=5),
        )
        work = await node.outbox.open_work(1)
        assert (work.channel_ids, work.media, work.timers, work.waiting) == ((7, 8), True, True, True)
        items = await node.outbox.load_outbox(1, 7, after_id=0, limit=10)
        assert [(one.id, one.state) for one in items] == [(2, "sending"), (3, "queued")]
        assert [one.id for one in await node.outbox.load_outbox(1, 7, after_id=2, limit=1)] == [3]
        assert [one.id for one in await node.outbox.load_pending_media(1, after_id=0, limit=9)] == [5]
        due = await node.tenants.load_timers(1, due_before=T0 + 10, limit=9)
        assert [one.id for one in due] == [7]
        given = await node.tenants.load_assignment(1, waiting_max=5)
        assert (given.loads, [one.conversation_id for one in given.waiting], given.more) == (
            {5: 1},
            [1],
            False,
        )
        await node.commit(
            rows.OutboxPatch(tenant_id=1, id=2, updated_at=T0, state="done"),
            rows.OutboxPatch(tenant_id=1, id=3, updated_at=T0, state="dead"),
            rows.OutboxPatch(tenant_id=1, id=4, updated_at=T0, state="done"),
            rows.AttachmentPatch(tenant_id=1, id=5, state="stored"),
            rows.TimerDone(tenant_id=1, id=6),
            rows.TimerDone(tenant_id=1, id=7),
            opened(1, 1, status="resolved"),
        )
        assert await node.outbox.open_work(1) == idle


async def test_a_configuration_is_what_its_rows_say_and_ids_go_on_above_what_is_stored(side: Side) -> None:
    """A row of every kind can be written; the tenant is taken before it is read."""
    seen: list[int] = []
    async with side.node(newest_id=seen.append) as node:
        assert (await node.tenants.load_config(1)).agents == {}
        await node.commit(*one_of_each(1))
        config = await node.tenants.load_config(1)
        assert config.agents[5].week is not None
        assert config.agents[5].week.days[0][0].start == 540
        assert config.channels[7].credentials == b"\0\1"
        assert config.rules[4].patterns == ("open", 'say "hi", \\ {x}')
        assert config.rules[4].channel_ids == (7, 8)
        assert config.tags[3].name == "VIP"
        assert config.assignment.mode == "round_robin"
        assert seen == [0, 400]
        assert node.writers.writer(1).epoch(1) == 2
        await node.commit(rows.ConfigDelete(tenant_id=1, table="tags", id=3))
        assert (await node.tenants.load_config(1)).tags == {}
