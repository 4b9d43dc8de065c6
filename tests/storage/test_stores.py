"""What actors start from and what the API reads, against PostgreSQL, for both placements."""

from collections.abc import AsyncIterator
from importlib.resources import files
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import trio

from engine.domain import rows
from engine.domain.config import TenantConfig
from engine.domain.folding import fold
from engine.domain.outbound import SendText
from engine.errors import CommitConflict, Conflicting, InvalidInput, NotFound
from engine.ports import (
    ContactRequest,
    ConversationQuery,
    FoundMessage,
    FoundTracked,
    MessageQuery,
    TrackedQuery,
)
from engine.reading import ConversationFilter, PushApp
from storage.contacts import Contacts
from storage.cursors import CursorReads
from storage.databases import DatabaseServer
from storage.events import Events
from storage.landlord import LandlordStore
from storage.migrate import load_migrations
from storage.outbox import Outbox
from storage.pages import cursor_text
from storage.placements import Placements
from storage.reads import ReadStore
from storage.tenants import Tenants
from storage.upkeep import DAY_MS, RETENTION_DAYS, forget_parked, upkeep
from storage.writers import Writers
from tests.storage.writing import (
    T0,
    RememberingSink,
    Verdicts,
    address,
    attachment,
    conversation,
    customer,
    event,
    handle,
    message,
    note,
    one_of_each,
    outbox,
    timer,
)

pytestmark = pytest.mark.real_time


class World:
    """A landlord with two tenants in one placement each, writers, and all stores."""

    def __init__(self, server: DatabaseServer) -> None:
        self.server = server
        self.placements = Placements(server)
        self.landlord = LandlordStore(
            server, self.placements, tenant_migrations=load_migrations(files("storage") / "sql" / "tenant")
        )
        self.sink = RememberingSink()
        self.writers = Writers(self.placements.pool_named, self.placements.database, node="n", sink=self.sink)
        self.contacts = Contacts(self.placements)
        self.tenants = Tenants(self.placements, take=self.writers.take)
        self.outbox = Outbox(self.placements)
        self.events = Events(self.placements, head_of=self.writers.head)
        self.config: dict[int, TenantConfig] = {}
        self.reads = ReadStore(
            self.placements, config_for=lambda tenant: self.config[tenant], wall_ms=lambda: T0 + 1
        )

    async def commit(self, *new: rows.Row) -> None:
        verdicts = Verdicts()
        self.writers.submit(address(new[0].tenant_id), 1, new, verdicts.of("it"))
        await self.writers.flush()
        error = verdicts.named("it")
        if error is not None:
            raise error


@pytest.fixture(params=["own", "pooled"])
async def world(
    request: pytest.FixtureRequest, databases: DatabaseServer, landlord_database: str, tenant_template: str
) -> AsyncIterator[World]:
    made = World(databases)
    # Copied, so that the landlord finds nothing to migrate.
    own = request.param == "own"
    for name in map(databases.own_database, (1, 2)) if own else [databases.pooled_database(1)]:
        await databases.create_database(name, template=tenant_template)
    for number in (1, 2):
        await made.landlord.create_tenant(
            tenant_id=number,
            slug=f"t{number}",
            name=f"Tenant {number}",
            locale="en",
            timezone="Asia/Riyadh",
            isolation=request.param,
            now=T0,
        )
    async with trio.open_nursery() as nursery:
        await nursery.start(made.writers.run)
        for number in (1, 2):
            made.config[number] = await made.tenants.load_config(number)
        yield made
        made.writers.stop()


async def test_a_tenants_configuration_is_what_its_rows_say(world: World) -> None:
    """Agents with their weeks, channels, tags, rules, settings; defaults where nothing is set."""
    empty = world.config[2]
    assert (empty.slug, empty.name, empty.timezone) == ("t2", "Tenant 2", ZoneInfo("Asia/Riyadh"))
    assert (empty.agents, empty.week, empty.assignment.mode) == ({}, None, "manual")
    await world.commit(*one_of_each(1))
    await world.commit(
        rows.SettingRow(
            tenant_id=1,
            name="work_hours",
            value={"days": [[]] * 6 + [[{"start": 0, "end": 60}]]},
            updated_at=T0,
        )
    )
    config = await world.tenants.load_config(1)
    assert config.agents[5].week is not None
    assert config.agents[5].week.days[0][0].start == 540
    assert config.channels[7].credentials == b"\0\1"
    assert config.rules[4].patterns == ("open", 'say "hi", \\ {x}')
    assert config.tags[3].name == "VIP"
    assert config.assignment.mode == "round_robin"
    assert config.week is not None
    assert config.week.days[6][0].end == 60
    with pytest.raises(NotFound):
        await world.tenants.load_config(99)


async def test_a_channels_cursor_is_the_last_one_and_its_tenants_own(world: World) -> None:
    """None before the first; another tenant's channel of the same id has its own."""
    cursors = CursorReads(world.placements)
    assert await cursors.load_cursor(1, 7) is None
    for value in ("1:41", "1:42"):
        await world.commit(
            rows.ChannelCursorRow(tenant_id=1, channel_id=7, value=value, updated_at=T0),
        )
    await world.commit(rows.ChannelCursorRow(tenant_id=2, channel_id=7, value="other", updated_at=T0))
    assert await cursors.load_cursor(1, 7) == "1:42"
    assert await cursors.load_cursor(2, 7) == "other"
    assert await cursors.load_cursor(2, 8) is None


async def test_contacts_are_loaded_in_one_batch_over_tenants(world: World) -> None:
    """By any of a contact's keys; strangers are None; messages newest first, over conversations."""
    for tenant in (1, 2):
        await world.commit(
            customer(tenant),
            handle(tenant, "a"),
            handle(tenant, "b", contact_key="a"),
            conversation(tenant, 10, contact_key="a", status="resolved"),
            conversation(tenant, 11, contact_key="a", status="open", last_seq=3),
            message(tenant, 10, 1, id=1),
            *[message(tenant, 11, seq, id=1 + seq, text=f"m{seq}") for seq in (1, 2, 3)],
        )

    def asked(tenant: int, *keys: str) -> ContactRequest:
        return ContactRequest(tenant_id=tenant, channel_id=7, keys=keys)

    found = await world.contacts.load_contacts(
        [asked(1, "b"), asked(2, "nobody"), asked(2, "nobody", "a", "b"), asked(1, "a")], recent_max=3
    )
    assert found[1] is None
    for snapshot in (found[0], found[2], found[3]):
        assert snapshot is not None
        assert snapshot.contact_key == "a"
        assert {each.external_id for each in snapshot.handles} == {"a", "b"}
        assert snapshot.conversation is not None
        assert (snapshot.conversation.id, snapshot.conversation.last_message) == (
            11,
            {"seq": 1, "direction": "inbound", "type": "text", "preview": "hello", "at": T0},
        )
        assert [each.id for each in snapshot.messages] == [4, 3, 2]
        assert not snapshot.complete
    assert found[2] is not None
    assert found[2].customer.tenant_id == 2
    (whole,) = await world.contacts.load_contacts([asked(1, "a")], recent_max=4)
    assert whole is not None
    assert whole.complete
    assert [each.id for each in whole.messages] == [4, 3, 2, 1]


async def test_messages_and_conversations_are_found_as_they_were_stored(world: World) -> None:
    """By platform id, our id and client key, with attachments and last outbox item; nothing of others."""
    stored = message(1, 1, 1, id=100, platform_message_id="w\0", client_key="k")
    held = conversation(1, 1)
    await world.commit(stored, held, attachment(1, 200, message_id=100), outbox(1, 400, message_id=100))

    def query(tenant: int = 1, **by: Any) -> MessageQuery:
        return MessageQuery(tenant_id=tenant, channel_id=7, **by)

    found = await world.contacts.find(
        [
            query(platform_message_id="w\0"),
            query(message_id=100),
            query(client_key=(1, "k")),
            query(2, message_id=100),
            query(platform_message_id="other"),
            ConversationQuery(tenant_id=1, conversation_id=1),
            ConversationQuery(tenant_id=2, conversation_id=1),
        ]
    )
    for answer in found[:3]:
        assert isinstance(answer, FoundMessage)
        assert answer.message == rows.MessageRow(
            **{
                name: getattr(stored, name)
                for name in stored.__struct_fields__
                if name != "platform_message_id"
            },
            platform_message_id="w\ufffd",
        )
        assert [each.id for each in answer.attachments] == [200]
        assert answer.outbox is not None
        assert answer.outbox.send == SendText(body="hi")
    assert found[3:5] == [FoundMessage(message=None)] * 2
    assert found[5:] == [held, None]


async def test_messages_of_ours_are_found_by_status(world: World) -> None:
    """Those that the platform has named, for a watermark, or all, for a customer who opts out; newest
    first."""
    ours = {"direction": "outbound", "contact_key": "c1"}
    await world.commit(
        conversation(1, 1),
        message(1, 1, 1, id=101, status="sent", platform_message_id="w1", **ours),
        message(1, 1, 2, id=102, status="pending", **ours),
        message(1, 1, 3, id=103, status="unknown", **ours),
        message(1, 1, 4, id=104, status="pending", platform_message_id="w4", **ours),
        message(1, 1, 5, id=105, status="received", contact_key="c1"),
    )

    async def ids(*statuses: str, named: bool, limit: int = 10, tenant: int = 1) -> list[int]:
        query = TrackedQuery(
            tenant_id=tenant, channel_id=7, contact_key="c1", statuses=statuses, limit=limit, named=named
        )
        (found,) = await world.contacts.find([query])
        assert isinstance(found, FoundTracked)
        return [each.id for each in found.messages]

    assert await ids("sent", "delivered", named=True) == [101]
    assert await ids("pending", "unknown", named=False) == [104, 103, 102]
    assert await ids("pending", "unknown", named=True) == [104]
    assert await ids("pending", "unknown", named=False, limit=2) == [104, 103]
    assert await ids("pending", "unknown", named=False, tenant=2) == []


async def test_text_is_folded_here_as_in_the_database(world: World) -> None:
    """Every letter of the blocks that it is about, and words."""
    letters = [chr(code) for code in (*range(0x20, 0x250), *range(0x600, 0x700))]
    words = ["إِيقَاف", "مَرْحَبًا", "الغـــاء", "١٢٣ ۴۵۶", "STOP", "Émile", "مساعدة"]
    pool = world.placements.pool(1)
    folded = await pool.fetchval(
        "SELECT array(SELECT mijra_fold(t.one) FROM unnest($1::text[]) WITH ORDINALITY AS t (one, n)"
        " ORDER BY t.n)",
        [*letters, *words],
        tenants=(1,),
    )
    both = zip((*letters, *words), folded, strict=True)
    different = {ours for ours, theirs in both if fold(ours) != theirs}
    # Turkish dotted I: a letter and a mark here, one letter there. It is in none of the words.
    assert different <= {"\u0130"}


async def test_open_work_is_what_is_left_to_do(world: World) -> None:
    """Channels with open items, media, timers, the assignment's loads and queue."""
    nothing = await world.outbox.open_work(1)
    assert (nothing.channel_ids, nothing.media, nothing.timers, nothing.waiting) == ((), False, False, False)
    await world.commit(
        outbox(1, 1),
        outbox(1, 2, state="done"),
        outbox(1, 3, channel_id=9, state="unknown"),
        outbox(1, 4),
        attachment(1, 20),
        attachment(1, 21, state="stored"),
        timer(1, 1, T0 + 5),
        timer(1, 2, T0),
        conversation(1, 1, assigned_to=5),
        conversation(1, 2),
        conversation(1, 3, status="new"),
        rows.AssignmentRow(
            tenant_id=1,
            id=1,
            conversation_id=1,
            kind="assign",
            from_user_id=None,
            to_user_id=5,
            by_user_id=None,
            note=None,
            at=T0,
        ),
    )
    work = await world.outbox.open_work(1)
    assert (work.channel_ids, work.media, work.timers, work.waiting) == ((7, 9), True, True, True)
    assert [item.id for item in await world.outbox.load_outbox(1, 7, after_id=0, limit=10)] == [1, 4]
    assert [item.id for item in await world.outbox.load_outbox(1, 7, after_id=1, limit=10)] == [4]
    assert [each.id for each in await world.outbox.load_pending_media(1, after_id=0, limit=10)] == [20]
    assert [each.id for each in await world.tenants.load_timers(1, due_before=T0 + 6, limit=1)] == [2]
    assert [each.id for each in await world.tenants.load_timers(1, due_before=T0 + 5, limit=9)] == [2]
    snapshot = await world.tenants.load_assignment(1, waiting_max=1)
    assert (snapshot.loads, snapshot.last_user_id, snapshot.more) == ({5: 1}, 5, True)
    assert [each.conversation_id for each in snapshot.waiting] == [2]


async def test_the_event_log_reads_what_was_pushed(world: World) -> None:
    """Head, oldest, pages and channels; equal to what the sink got."""
    assert (await world.events.head(1), await world.events.oldest(1)) == (0, 1)
    await world.commit(event(), event(channels=("x", "y"), data_json=b'{"b": 1,"a":2}'), event())
    assert (await world.events.head(1), await world.events.oldest(1)) == (3, 1)
    assert list(await world.events.read(1, after=0, limit=10)) == world.sink.of(1)
    assert [e.cursor for e in await world.events.read(1, after=1, limit=1)] == [2]
    assert [e.cursor for e in await world.events.read(1, after=0, limit=9, channels=["y", "z"])] == [2]
    assert await Events(world.placements).head(1) == 3
    assert list(await world.events.read(2, after=0, limit=10)) == []


async def test_the_inbox_filters_and_pages(world: World) -> None:
    """Newest activity first, page by page without holes; each filter alone; strange cursors refused."""
    await world.commit(customer(1, 1), customer(1, 2, name="Émile", phone="+966500000001"))
    for number in range(1, 8):
        await world.commit(
            conversation(
                1,
                number,
                customer_id=1 + number % 2,
                last_message_at=T0 + number // 2 if number > 1 else None,
                status="open" if number % 3 else "resolved",
                assigned_to={1: 5, 2: 6}.get(number),
                unread_count=number % 2,
                tag_ids=[3] if number == 4 else [],
            ),
            message(1, number, 1, text=f"مرحبا بكم order {number}"),
        )

    async def ids(**where: Any) -> list[int]:
        page = await world.reads.conversations(1, ConversationFilter(**where), limit=50, cursor=None)
        return [each.id for each in page.items]

    walked: list[int] = []
    cursor = None
    while True:
        page = await world.reads.conversations(1, ConversationFilter(), limit=2, cursor=cursor)
        walked += [each.id for each in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert walked == [7, 6, 5, 4, 3, 2, 1]
    assert await ids(status=("resolved",)) == [6, 3]
    assert await ids(status=("resolved", "open"), unread=True) == [7, 5, 3, 1]
    assert await ids(assigned_to=0) == [7, 6, 5, 4, 3]
    assert await ids(assigned_to=5) == [1]
    assert await ids(visible_to=5) == [7, 6, 5, 4, 3, 1]
    assert await ids(tag_id=3) == [4]
    assert await ids(since=T0 + 1, until=T0 + 2) == [3, 2]
    assert await ids(platform="facebook") == []
    assert await ids(search="order 5") == [5]
    assert await ids(search="ord") == [7, 6, 5, 4, 3, 2, 1]
    assert await ids(search="مَرْحَبًا") == [7, 6, 5, 4, 3, 2, 1]
    assert await ids(search="+9665000") == await ids(search="émi") == [7, 5, 3, 1]
    assert await ids(search='it\'s "a b" & ! (') == []
    assert [each.id async for each in world.reads.export_conversations(1, ConversationFilter())] == walked
    statistics = await world.reads.conversation_statistics(1)
    assert statistics["by_status"] == {"open": 5, "resolved": 2}
    assert (statistics["total"], statistics["unread"], statistics["unassigned"]) == (7, 4, 5)
    of_another_list = cursor_text("messages_before", 1, 2)
    for wrong in ("x", "!", "bm90IG91cnM", of_another_list):
        with pytest.raises(InvalidInput):
            await world.reads.conversations(1, ConversationFilter(), limit=2, cursor=wrong)
    assert (await world.reads.conversations(2, ConversationFilter(), limit=2, cursor=None)).items == []


def sign(tenant: int, attachment_id: int) -> str:
    return f"/files/{tenant}/{attachment_id}"


async def test_history_notes_and_places_are_read(world: World) -> None:
    """Pages in both directions, attachments with signed URLs, deleted notes hidden."""
    await world.commit(
        conversation(1, 1),
        customer(1, 1),
        *[message(1, 1, seq, id=10 + seq) for seq in range(1, 6)],
        attachment(1, 70, message_id=15, state="stored"),
        note(1, 1),
        note(1, 2, deleted_at=T0),
        rows.FileRow(
            tenant_id=1,
            id=8,
            filename="f",
            media_type="m",
            size=1,
            sha256="s",
            storage_key="k",
            user_id=1,
            created_at=T0,
        ),
    )
    page = await world.reads.messages(1, 1, limit=3, cursor=None, sign=sign)
    assert [each.seq for each in page.items] == [5, 4, 3]
    assert page.items[0].attachments[0].url == "/files/1/70"
    rest = await world.reads.messages(1, 1, limit=3, cursor=page.next_cursor, sign=sign)
    assert ([each.seq for each in rest.items], rest.next_cursor) == ([2, 1], None)
    after = await world.reads.messages(1, 1, limit=9, cursor=None, sign=sign, after_seq=3)
    assert [each.seq for each in after.items] == [4, 5]
    assert [each.id for each in (await world.reads.notes(1, 1, limit=9, cursor=None)).items] == [1]
    assert await world.reads.note(1, 1, 2) is None
    place = await world.reads.message_place(1, 13)
    assert place is not None
    assert place.conversation == await world.reads.place(1, 1)
    assert await world.reads.places(1, [9, 1]) == [place.conversation]
    single = await world.reads.message(1, 15, sign=sign)
    assert single == page.items[0]
    shown = await world.reads.conversation(1, 1)
    assert shown is not None
    assert (shown.customer.name, shown.reply_window.open) == ("Amal", True)
    stored = await world.reads.file(1, 8)
    assert stored is not None
    assert (await world.reads.attachment(1, 70), await world.reads.attachment(2, 70)) != (None, None)
    assert await world.reads.conversation(2, 1) is None


async def test_an_idempotency_key_is_claimed_once(world: World) -> None:
    """Claimed, running, answered, reused; free again after release, after a death, and after a day."""

    async def claim(request: bytes = b"r", now: int = T0) -> tuple[str, int | None, bytes | None]:
        found = await world.reads.claim_key(1, 5, "k", request, now)
        return found.state, found.status, found.answer

    assert await claim() == ("claimed", None, None)
    assert await claim() == ("running", None, None)
    assert await claim(b"other") == ("reused", None, None)
    await world.reads.release_key(1, 5, "k")
    assert await claim() == ("claimed", None, None)
    assert await claim(now=T0 + 121_000) == ("claimed", None, None)
    await world.reads.keep_answer(1, 5, "k", 201, b"{}")
    assert await claim() == ("answered", 201, b"{}")
    await world.reads.release_key(1, 5, "k")
    assert await claim(b"other") == ("reused", None, None)
    assert await claim(b"other", now=T0 + 25 * 3_600_000) == ("claimed", None, None)


async def test_rows_written_apart_take_no_ownership(world: World) -> None:
    """A tenant's first user, from the command line, does not fence off the running server."""
    epoch = world.writers.writer(1).epoch(1)
    user = one_of_each(1)[0]
    await world.tenants.write_apart(1, [user])
    assert list((await world.tenants.load_config(1)).agents) == [5]
    assert epoch == 1
    with pytest.raises(InvalidInput):
        await world.tenants.write_apart(1, [event()])
    with pytest.raises(CommitConflict):
        await world.tenants.write_apart(1, [message(id=1), message(id=1, seq=2)])


async def test_a_tenant_has_one_push_app(world: World) -> None:
    """However many are made for it at once: all get the same, and it is there for the next start."""
    made: list[PushApp] = []

    async def make(number: int) -> None:
        app = PushApp(tenant_id=1, key=f"key-{number}", secret=b"sealed", created_at=T0)
        made.append(await world.landlord.add_push_app(app))

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(make, number)
    assert len(made) == 5
    assert list(await world.landlord.push_apps()) == [made[0]]
    assert all(each == made[0] for each in made)


async def test_what_nobody_comes_for_is_forgotten(world: World) -> None:
    """Parked deliveries go after as long as all others; younger ones stay."""
    now = T0 + RETENTION_DAYS * DAY_MS
    for number, at in enumerate((T0 - 1, T0, now), 1):
        await world.landlord.park_unrouted(
            delivery_id=number,
            platform="whatsapp",
            external_id="42",
            headers={},
            body=b"{}",
            reason="unknown_account",
            trace="t",
            now=at,
        )
    assert await forget_parked(world.landlord, now=now) == 1
    assert await forget_parked(world.landlord, now=now) == 0
    assert await forget_parked(world.landlord, now=now + 1) == 1


async def test_a_tenant_half_created_is_finished(databases: DatabaseServer, landlord_database: str) -> None:
    """By the next start or the next call; a ready slug is refused; a full pool opens the next."""
    placements = Placements(databases)
    landlord = LandlordStore(
        databases,
        placements,
        tenant_migrations=load_migrations(files("storage") / "sql" / "tenant"),
        pool_tenants_max=2,
    )

    async def create(number: int, isolation: str = "pooled") -> Any:
        return await landlord.create_tenant(
            tenant_id=number,
            slug=f"s{number}",
            name="n",
            locale="ar",
            timezone="UTC",
            isolation=isolation,
            now=T0,
        )

    made = [await create(number) for number in (1, 2, 3)]
    assert [each.database for each in made] == [databases.pooled_database(n) for n in (1, 1, 2)]
    with pytest.raises(Conflicting):
        await create(1)
    pool = databases.pool(landlord_database)
    for number in (4, 5):
        await pool.write(landlord._place, number, f"s{number}", "n", "ar", "UTC", "own", T0)
    assert (await create(5, "own")).placement_state == "ready"
    with pytest.raises(NotFound):
        placements.tenant(4)
    assert [each.id for each in await landlord.finish_creating(T0)] == [4]
    assert placements.database(4) == databases.own_database(4)
    page = await landlord.tenants(limit=3, cursor=None)
    rest = await landlord.tenants(limit=3, cursor=page.next_cursor)
    assert [each.id for each in (*page.items, *rest.items)] == [1, 2, 3, 4, 5]


async def test_upkeep_makes_coming_days_and_drops_old_ones(
    databases: DatabaseServer, tenant_database: str
) -> None:
    """Rows of a day that had no partition yet move into it; a second run changes nothing."""
    day = 86_400_000
    insert = "INSERT INTO events SELECT 1, c, 'n', '{}', '{}', 't', mijra_at($1) FROM unnest($2::bigint[]) c"
    pool = databases.pool(tenant_database)
    await pool.fetch(insert, T0, [1, 2], tenants=(1,))
    (kept,) = await upkeep(databases, {tenant_database: [1]}, now=T0)
    assert kept.error is None
    assert len(kept.made) == 8
    assert await pool.fetchval("SELECT count(*) FROM events", tenants=(1,)) == 2
    for partition in ("events_default", kept.made[-4]):
        assert await pool.fetchval(f"SELECT count(*) FROM {partition}", tenants=(1,)) == 0, (
            "seen only via events"
        )
    (again,) = await upkeep(databases, {tenant_database: [1]}, now=T0)
    assert (again.made, again.dropped) == ((), ())
    (later,) = await upkeep(databases, {tenant_database: [1]}, now=T0 + 7 * day)
    assert later.dropped == ()
    (later,) = await upkeep(databases, {tenant_database: [1]}, now=T0 + 8 * day)
    assert len(later.dropped) == 2
    assert await pool.fetchval("SELECT count(*) FROM events", tenants=(1,)) == 0
