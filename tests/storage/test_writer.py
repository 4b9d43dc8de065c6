"""The batching writer on a real PostgreSQL: what becomes durable, in which order, with which verdicts."""

import pytest
import trio
import trio.testing

from engine.domain import rows
from engine.errors import CommitAbandoned, CommitConflict, Defect, Fenced
from engine.runtime import Lane
from storage.batch import PLANS
from storage.databases import DatabaseServer
from storage.writer import ANALYZE_AFTER_ROWS, TURN_ROWS, WriterLimits
from tests.patience import PATIENCE_SECONDS
from tests.storage.writing import (
    T0,
    conversation,
    customer,
    event,
    message,
    one_of_each,
    timer,
    writing,
)

pytestmark = pytest.mark.real_time


@pytest.fixture(params=["own", "pooled"])
async def database(request: pytest.FixtureRequest, databases: DatabaseServer, tenant_template: str) -> str:
    name = databases.own_database(1) if request.param == "own" else databases.pooled_database(1)
    await databases.create_database(name, template=tenant_template)
    return name


async def test_a_write_set_of_every_row_type_becomes_durable(
    databases: DatabaseServer, database: str
) -> None:
    """One row of each type, committed in one transaction, is in its table."""
    async with writing(databases, database) as bench:
        bench.submit("all", *one_of_each(1))
        await bench.writers.flush()
        assert bench.verdicts.all == [("all", None)]
        for table in {plan.table for plan in PLANS.values()}:
            assert await bench.value(f"SELECT count(*) FROM {table}") == 1, table
        rule = await bench.fetch("SELECT channel_ids, patterns FROM automated_replies")
        assert rule == [([7, 8], ["open", 'say "hi", \\ {x}'])]
        assert await bench.fetch("SELECT duration, width FROM attachments") == [(1.5, 10)]
        assert await bench.value("SELECT created_at FROM messages") == T0


async def test_what_gathers_while_a_batch_commits_shares_the_next_one(
    databases: DatabaseServer, database: str
) -> None:
    """Sets submitted at one moment are one batch, without any timer."""
    async with writing(databases, database) as bench:
        for number in range(300):
            bench.submit(number, message(conversation=number), event())
        await bench.writers.flush()
        (figures,) = bench.writers.statistics()
        assert (figures.batches, figures.sets, figures.rows) == (1, 300, 600)
        assert bench.verdicts.names == list(range(300))
        assert len(bench.sink.batches) == 1
        assert await bench.value("SELECT count(*) FROM messages") == 300


async def test_a_batch_is_bounded_in_rows_and_bytes_and_one_large_set_goes_alone(
    databases: DatabaseServer, database: str
) -> None:
    """Ten rows a batch; a set of eleven is not split."""
    limits = WriterLimits(batch_rows_max=10, batch_bytes_max=100_000)
    async with writing(databases, database, limits=limits) as bench:
        for number in range(20):
            bench.submit(number, message(conversation=number))
        bench.submit("large", *[message(conversation=99, seq=seq) for seq in range(1, 12)])
        bench.submit("wide", message(conversation=100, text="x" * 90_000))
        bench.submit("wider", message(conversation=101, text="x" * 90_000))
        await bench.writers.flush()
        (figures,) = bench.writers.statistics()
        assert figures.batches == 5
        assert set(bench.verdicts.codes().values()) == {None}


async def test_of_several_whole_rows_the_last_one_counts(databases: DatabaseServer, database: str) -> None:
    """Ten versions of a conversation cost one row; a removed timer stays removed, a later one is there."""
    async with writing(databases, database) as bench:
        for number in range(1, 11):
            bench.submit(number, conversation(last_seq=number, status="open"))
        bench.submit("t1", timer(id=1), timer(id=2), timer(id=3))
        bench.submit("t2", rows.TimerDone(tenant_id=1, id=1), rows.TimerDone(tenant_id=1, id=2), timer(id=2))
        await bench.writers.flush()
        bench.submit("t3", rows.TimerDone(tenant_id=1, id=3))
        await bench.writers.flush()
        assert await bench.fetch("SELECT last_seq FROM conversations") == [(10,)]
        assert await bench.fetch("SELECT id FROM timers") == [(2,)]


async def test_removed_configuration_goes_and_its_name_is_free_again(
    databases: DatabaseServer, database: str
) -> None:
    """A tag that is removed in a batch gives its unique name to another one in the same batch."""

    def tag(number: int) -> rows.TagRow:
        return rows.TagRow(tenant_id=1, id=number, name="VIP", color="#000000", created_at=T0, updated_at=T0)

    async with writing(databases, database) as bench:
        bench.submit("first", tag(1))
        await bench.writers.flush()
        bench.submit("swap", rows.ConfigDelete(tenant_id=1, table="tags", id=1), tag(2))
        await bench.writers.flush()
        assert bench.verdicts.named("swap") is None
        assert await bench.fetch("SELECT id FROM tags") == [(2,)]


async def test_patches_of_one_row_are_merged_column_by_column(
    databases: DatabaseServer, database: str
) -> None:
    """None leaves a column alone; a cleared failure stays cleared, and a later failure counts."""

    def patch(number: int, **changes: object) -> rows.MessagePatch:
        return rows.MessagePatch(tenant_id=1, id=number, **changes)  # type: ignore[arg-type]

    async with writing(databases, database) as bench:
        bench.submit(
            "new",
            message(id=1, metadata={"group": "g"}),
            message(id=2, seq=2, failed_at=T0, error={"code": "x"}),
        )
        bench.submit("a", patch(1, status="sent", sent_at=T0 + 1), patch(1, status="delivered"))
        bench.submit("b", patch(1, delivered_at=T0 + 2, metadata={"resent": True, "x": 1}))
        bench.submit("b2", patch(1, metadata={"x": 2}))
        bench.submit(
            "c",
            patch(2, failed_at=T0 + 5, error={"code": "y"}),
            patch(2, status="pending", clear_failure=True),
        )
        await bench.writers.flush()
        (figures,) = bench.writers.statistics()
        assert figures.batches == 1
        assert await bench.fetch(
            "SELECT status, sent_at, delivered_at, text, metadata, failed_at, error FROM messages ORDER BY id"
        ) == [
            ("delivered", T0 + 1, T0 + 2, "hello", '{"x": 2, "group": "g", "resent": true}', None, None),
            ("pending", None, None, "hello", "{}", None, None),
        ]
        bench.submit("d", patch(2, clear_failure=True), patch(2, failed_at=T0 + 9, error={"code": "z"}))
        await bench.writers.flush()
        assert await bench.fetch("SELECT failed_at, error FROM messages WHERE id = 2") == [
            (T0 + 9, '{"code": "z"}')
        ]


async def test_cursors_have_no_gaps_in_commit_order_whoever_writes(
    databases: DatabaseServer, database: str
) -> None:
    """Three tenants, eight tasks, some refused sets: each log is 1..n, as the sink was told."""
    async with writing(databases, database, limits=WriterLimits(batch_rows_max=20)) as bench:

        async def customer_writes(task: int) -> None:
            for number in range(40):
                tenant = (task + number) % 3 + 1
                # Every tenth is refused: its message was stored by the one before it.
                platform_id = f"{tenant}.{task}.{number - 3 if number % 10 == 9 else number}"
                bench.submit(
                    (task, number),
                    event(tenant, data_json=b'{"n":%d}' % number),
                    message(tenant, task, number + 1, platform_message_id=platform_id),
                    event(tenant),
                )
                if number % 7 == task % 7:
                    await trio.sleep(0.001)

        async with trio.open_nursery() as nursery:
            for task in range(8):
                nursery.start_soon(customer_writes, task)
        await bench.writers.flush()
        refused = [name for name, error in bench.verdicts.all if error]
        assert len(refused) == 32
        total = 0
        for tenant in (1, 2, 3):
            stored = await bench.fetch(
                "SELECT cursor, data::text FROM events ORDER BY cursor", tenants=(tenant,)
            )
            assert [cursor for cursor, _ in stored] == list(range(1, len(stored) + 1))
            assert [(e.cursor, e.data.decode()) for e in bench.sink.of(tenant)] == stored
            head = await bench.value("SELECT cursor FROM ownership", tenants=(tenant,))
            assert head == len(stored) == await bench.writers.head(tenant)
            total += head
        assert total == 2 * (8 * 40 - 32)


async def test_a_refused_set_is_found_by_halving_and_the_rest_is_committed_in_order(
    databases: DatabaseServer, database: str
) -> None:
    """A platform id or a seq twice, a second open conversation, poisoned rows: all in one batch."""
    async with writing(databases, database) as bench:
        bench.submit("first", message(1, 1, 1, platform_message_id="p1"), conversation(contact_key="k"))
        bench.submit("same platform id", message(1, 2, 1, platform_message_id="p1"))
        bench.submit("fine", message(1, 3, 1), event())
        bench.submit("same seq", message(1, 1, 1))
        bench.submit("second open", conversation(id=2, contact_key="k", status="new"))
        bench.submit("poisoned", message(1, 4, 1, status="no such status"))
        bench.submit("unfit", message(1, 5, 1, created_at=10**30))
        bench.submit("last", message(1, 1, 2), event())
        await bench.writers.flush()
        assert bench.verdicts.codes() == {
            "first": None,
            "same platform id": "commit_conflict",
            "fine": None,
            "same seq": "commit_conflict",
            "second open": "commit_conflict",
            "poisoned": "commit_poisoned",
            "unfit": "commit_poisoned",
            "last": None,
        }
        assert bench.verdicts.names == list(bench.verdicts.codes())
        errors = [bench.verdicts.named(name) for name in ("same platform id", "same seq", "second open")]
        assert [error.constraint for error in errors if isinstance(error, CommitConflict)] == [
            "messages_platform_id",
            "messages_pkey",
            "conversations_one_open",
        ]
        assert [e.cursor for e in bench.sink.of(1)] == [1, 2]
        assert await bench.fetch("SELECT conversation_id, seq FROM messages ORDER BY 1, 2") == [
            (1, 1),
            (1, 2),
            (3, 1),
        ]


async def test_closing_a_conversation_and_opening_the_next_fit_in_one_batch(
    databases: DatabaseServer, database: str
) -> None:
    """The index that allows one open conversation sees the closed ones first, in whatever order."""
    async with writing(databases, database) as bench:
        bench.submit(1, conversation(id=1, contact_key="k", status="resolved"))
        bench.submit(2, conversation(id=2, contact_key="k", status="open"))
        await bench.writers.flush()
        bench.submit(3, conversation(id=1, contact_key="k", status="resolved", unread_count=0))
        bench.submit(4, conversation(id=2, contact_key="k", status="resolved"))
        bench.submit(5, conversation(id=1, contact_key="k", status="open"))
        await bench.writers.flush()
        (figures,) = bench.writers.statistics()
        assert figures.batches == 2
        assert await bench.fetch("SELECT id, status FROM conversations ORDER BY id") == [
            (1, "open"),
            (2, "resolved"),
        ]


async def test_later_sets_of_a_failed_activation_are_abandoned_and_a_new_activation_is_not(
    databases: DatabaseServer, database: str
) -> None:
    """In the batch of the failed set and in those that wait behind it; by (address, generation)."""
    async with writing(databases, database, limits=WriterLimits(batch_rows_max=4)) as bench:
        bench.submit("bad", message(status="?"), key="c", generation=1)
        bench.submit("same batch", message(1, 1, 2), key="c", generation=1)
        bench.submit("other", message(1, 2, 1), key="d", generation=1)
        for number in range(10):
            bench.submit(f"waiting {number}", message(1, 1, 3 + number), key="c", generation=1)
        bench.submit("fresh", message(1, 1, 1), key="c", generation=2)
        await bench.writers.flush()
        codes = bench.verdicts.codes()
        assert codes.pop("bad") == "commit_poisoned"
        assert (codes.pop("other"), codes.pop("fresh")) == (None, None)
        assert set(codes.values()) == {"commit_abandoned"}
        assert len(codes) == 11
        assert await bench.value("SELECT count(*) FROM messages") == 2
        bench.submit("late", message(1, 1, 2), key="c", generation=1)
        await bench.writers.flush()
        assert isinstance(bench.verdicts.named("late"), CommitAbandoned)


async def test_rows_that_cannot_be_encoded_fail_in_their_turn(
    databases: DatabaseServer, database: str
) -> None:
    """A row of a wrong type, of another tenant, or not a row: poisoned, and its neighbours are not."""
    async with writing(databases, database) as bench:
        bench.submit("a", message(1, 1, 1))
        bench.submit("number as text", message(1, 2, 1, text=17))
        bench.submit("another tenant's", message(1, 3, 1), message(2, 3, 2), key="c")
        bench.submit("rests on it", message(1, 3, 1), key="c")
        bench.submit("nested too deep", message(1, 4, 1, content=nested(100_000)))
        bench.submit("b", message(1, 5, 1))
        await bench.writers.flush()
        assert bench.verdicts.codes() == {
            "a": None,
            "number as text": "commit_poisoned",
            "another tenant's": "commit_poisoned",
            "rests on it": "commit_abandoned",
            "nested too deep": "commit_poisoned",
            "b": None,
        }
        assert bench.verdicts.names == list(bench.verdicts.codes())


def nested(depth: int) -> dict[str, object]:
    inner: dict[str, object] = {}
    for _ in range(depth):
        inner = {"x": inner}
    return inner


async def test_the_caller_may_change_its_objects_after_submitting(
    databases: DatabaseServer, database: str
) -> None:
    """What is stored is the row as it was when it was submitted."""
    async with writing(databases, database) as bench:
        row = conversation(auto_replied={"4": 1}, tag_ids=[1])
        bench.submit("a", row)
        row.auto_replied["4"] = 2
        row.tag_ids.append(2)
        row.last_seq = 99
        await bench.writers.flush()
        assert await bench.fetch("SELECT last_seq, tag_ids, auto_replied FROM conversations") == [
            (1, [1], '{"4": 1}')
        ]


async def test_nul_and_lone_surrogates_become_replacement_characters(
    databases: DatabaseServer, database: str
) -> None:
    """In text, in JSON keys and values, in arrays and in events, stored and pushed alike."""
    async with writing(databases, database) as bench:
        odd = "a\0b\ud800c\U0001f600"
        bench.submit(
            "odd",
            message(text=odd, content={odd: [odd, {"x": odd}]}, platform_message_id=odd),
            event(name="n", channels=(odd,), data_json=b'{"x":"a\\u0000b"}'),
            customer(name=odd, attributes={"deep": {"er": odd}}),
        )
        await bench.writers.flush()
        assert bench.verdicts.named("odd") is None
        good = "a\ufffdb\ufffdc\U0001f600"
        assert await bench.fetch("SELECT text, platform_message_id FROM messages") == [(good, good)]
        assert await bench.value("SELECT content->$1->1->>'x' FROM messages", good) == good
        assert await bench.fetch("SELECT channels, data::text FROM events") == [([good], '{"x":"a\ufffdb"}')]
        assert bench.sink.of(1)[0].data.decode() == '{"x":"a\ufffdb"}'
        assert await bench.value("SELECT attributes->'deep'->>'er' FROM customers") == good


async def test_a_message_of_a_megabyte_is_stored_whole(databases: DatabaseServer, database: str) -> None:
    """Also when every word differs, which PostgreSQL's search index alone would refuse."""
    async with writing(databases, database) as bench:
        text = " ".join(f"word{number}" for number in range(120_000))
        bench.submit("large", message(text=text, content={"body": text}))
        await bench.writers.flush()
        assert bench.verdicts.named("large") is None
        assert await bench.value("SELECT text FROM messages") == text


async def test_the_writer_says_when_it_has_no_room_and_when_it_has_again(
    databases: DatabaseServer, database: str
) -> None:
    """A lone tenant has two thirds; then has_room is False. The callback comes once, when there is room."""
    calls: list[bool] = []
    async with writing(databases, database, limits=WriterLimits(waiting_rows_max=75)) as bench:
        for number in range(60):
            assert bench.writers.has_room(1) is (number < 50)
            bench.submit(number, message(1, number, 1))
        bench.writers.when_room(lambda: calls.append(bench.writers.has_room(1)))
        await bench.writers.flush()
        assert calls == [True]
        (figures,) = bench.writers.statistics()
        assert (figures.waiting_rows, figures.waiting_bytes, figures.waiting_rows_peak) == (0, 0, 60)
    async with writing(databases, database, limits=WriterLimits(waiting_bytes_max=1_000_000)) as bench:
        bench.submit("large", message(2, 1, 1, text="x" * 1_000_000))
        assert not bench.writers.has_room(2)


async def test_a_tenant_that_floods_leaves_others_and_realtime_their_room(
    databases: DatabaseServer, database: str
) -> None:
    """It is sent away at its share and called back when it has room again; the others submit on. Bulk stops a
    quarter earlier."""
    called: list[bool] = []
    async with writing(databases, database, limits=WriterLimits(waiting_rows_max=60)) as bench:
        for number in range(30):
            assert bench.writers.has_room(1, Lane.BULK) is (number < 30)
            bench.submit((1, number), message(1, number, 1))
        assert not bench.writers.has_room(1, Lane.BULK)
        number = 30
        while bench.writers.has_room(1):
            bench.submit((1, number), message(1, number, 1))
            number += 1
        assert number == 40
        bench.writers.when_room(lambda: called.append(bench.writers.has_room(1)))
        for number in range(5):
            assert bench.writers.has_room(2)
            bench.submit((2, number), message(2, number, 1))
        assert not bench.writers.has_room(3, Lane.BULK)
        assert bench.writers.has_room(3)
        await bench.writers.flush()
        assert called == [True]
        assert bench.writers.has_room(1, Lane.BULK)


async def test_a_flood_makes_nobody_elses_batch_longer(databases: DatabaseServer, database: str) -> None:
    """Tenant 1 has ten turns waiting when tenant 2's set comes: it is in the next batch, with one turn of
    tenant 1. Each tenant's own order stays."""
    async with writing(databases, database) as bench:
        bench.submit((1, "first"), message(1, 0, 1))
        await trio.testing.wait_all_tasks_blocked()
        for number in range(10 * TURN_ROWS):
            bench.submit((1, number), message(1, number, 2))
        bench.submit((2, 0), message(2, 1, 1), event(2))
        bench.submit((2, 1), message(2, 1, 2), event(2))
        await bench.writers.flush()
        names = bench.verdicts.names
        assert names[0] == (1, "first")
        assert max(names.index((2, 0)), names.index((2, 1))) <= TURN_ROWS + 2
        in_turn = [(1, "first"), *((1, number) for number in range(10 * TURN_ROWS))]
        assert [name for name in names if name not in ((2, 0), (2, 1))] == in_turn
        assert set(bench.verdicts.codes().values()) == {None}
        assert [e.cursor for e in bench.sink.of(2)] == [1, 2]
        (figures,) = bench.writers.statistics()
        # The first set, the shared one, and more of tenant 1 by the turn: somebody else may come any moment.
        assert figures.batches == 1 + 1 + 9


async def test_bytes_count_in_a_turn_as_they_count_in_a_batch(
    databases: DatabaseServer, database: str
) -> None:
    """Two large bodies of one tenant are a turn, although they are two rows."""
    limits = WriterLimits(batch_rows_max=2_000, batch_bytes_max=2_000_000)
    async with writing(databases, database, limits=limits) as bench:
        bench.submit((1, "first"), message(1, 0, 1))
        await trio.testing.wait_all_tasks_blocked()
        for number in range(8):
            bench.submit((1, number), message(1, 1, number + 1, text="x" * 100_000))
        for number in range(8):
            bench.submit((2, number), message(2, 1, number + 1))
        await bench.writers.flush()
        names = bench.verdicts.names
        assert max(names.index((2, number)) for number in range(8)) <= 2 + 8
        assert set(bench.verdicts.codes().values()) == {None}


async def test_many_failed_activations_are_remembered_as_long_as_their_sets_wait(
    databases: DatabaseServer, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tenant 2's sets are settled long before tenant 1's, which must still be abandoned with their first."""
    monkeypatch.setattr("storage.writer.BROKEN_MAX", 4)
    async with writing(databases, database, limits=WriterLimits(batch_rows_max=20)) as bench:
        bench.submit((1, "bad"), message(1, 1, 1, status="?"), key="c")
        for number in range(100):
            bench.submit((1, number), message(1, 100 + number, 1))
        bench.submit((1, "rests on it"), message(1, 1, 2), key="c")
        for number in range(8):
            bench.submit((2, number), message(2, number, 1, status="?"))
        await bench.writers.flush()
        assert isinstance(bench.verdicts.named((1, "rests on it")), CommitAbandoned)
        assert all(bench.verdicts.named((2, number)) is not None for number in range(8))
        assert all(bench.verdicts.named((1, number)) is None for number in range(100))
        # And forgotten once nothing waits any more.
        for number in range(8):
            bench.submit((3, number), message(3, number, 1, status="?"))
            await bench.writers.flush()
        assert len(bench.writers.writer(1)._broken) <= 5


async def test_a_second_owner_fences_the_first_one_off(databases: DatabaseServer, database: str) -> None:
    """Tenant 1 is taken over: its sets are refused whole, tenant 2 goes on in the same batch."""
    async with (
        writing(databases, database, node="old") as old,
        writing(databases, database, node="new") as new,
    ):
        old.submit("before", message(1, 1, 1), event(1))
        old.submit("two", message(2, 1, 1))
        await old.writers.flush()
        assert await new.writers.take(1) == 2
        assert await new.writers.head(1) == 1
        old.submit("refused", message(1, 1, 2), event(1), key="c")
        old.submit("of two", message(2, 1, 2), event(2))
        old.submit("behind", message(1, 1, 3), key="c")
        await old.writers.flush()
        assert isinstance(old.verdicts.named("refused"), Fenced)
        assert old.verdicts.named("of two") is None
        assert old.verdicts.named("behind") is not None
        assert old.writers.writer(1).epoch(1) is None
        new.submit("after", message(1, 1, 2), event(1))
        await new.writers.flush()
        assert new.verdicts.named("after") is None
        assert [e.cursor for e in new.sink.of(1)] == [2]
        old.submit("still", message(1, 1, 4))
        await old.writers.flush()
        assert isinstance(old.verdicts.named("still"), Fenced)
        assert await old.writers.take(1) == 3
        old.submit("again", message(1, 1, 3), event(1))
        await old.writers.flush()
        assert old.verdicts.named("again") is None
        assert [e.cursor for e in old.sink.of(1)] == [1, 3]


async def test_no_tenant_sees_anothers_rows_in_any_table(databases: DatabaseServer, database: str) -> None:
    """Every table with a tenant_id, also new ones: forced row-level security, seen from outside."""
    async with writing(databases, database) as bench:
        bench.submit("one", *one_of_each(1))
        bench.submit("two", *one_of_each(2))
        await bench.writers.flush()
        tables = await bench.fetch(
            "SELECT c.relname::text, c.relforcerowsecurity FROM pg_class c"
            " JOIN pg_attribute a ON a.attrelid = c.oid"
            " WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND a.attname = 'tenant_id'"
            " AND c.relnamespace = 'public'::regnamespace"
        )
        assert len(tables) >= 23
        for table, forced in tables:
            assert forced, table
            expected = 0 if table == "idempotency_keys" else 1
            for tenants in ((1,), (2,)):
                seen = await bench.fetch(f"SELECT tenant_id FROM {table}", tenants=tenants)
                assert seen == [tenants] * expected, table
            assert await bench.fetch(f"SELECT tenant_id FROM {table}", tenants=()) == [], table
            assert len(await bench.fetch(f"SELECT tenant_id FROM {table}", tenants=(1, 2))) == 2 * expected, (
                table
            )
            assert (
                await bench.fetch(f"DELETE FROM {table} WHERE tenant_id = 2 RETURNING 1", tenants=(1,)) == []
            )


async def test_a_cancelled_writer_answers_everything_it_holds(
    databases: DatabaseServer, database: str
) -> None:
    """Nobody waits forever for a verdict."""
    with trio.CancelScope() as scope:
        async with writing(databases, database, limits=WriterLimits(batch_rows_max=10)) as bench:
            for number in range(100):
                bench.submit(number, message(1, number, 1))
            scope.cancel()
    assert len(bench.verdicts.all) == 100
    assert {error.code for _, error in bench.verdicts.all if error} == {"commit_abandoned"}
    # Who waits for his turn elsewhere may come only now, called by somebody else's end.
    with pytest.raises(Defect):
        bench.submit("late", message(1, 200, 1))


async def test_a_stopped_writer_finishes_what_was_submitted(databases: DatabaseServer, database: str) -> None:
    """Leaving the context stops in order: all sets are durable."""
    async with writing(databases, database, limits=WriterLimits(batch_rows_max=10)) as bench:
        for number in range(100):
            bench.submit(number, message(1, number, 1))
    assert [error for _, error in bench.verdicts.all] == [None] * 100


async def test_old_batch_ids_are_forgotten_and_young_ones_kept(
    databases: DatabaseServer, database: str
) -> None:
    """An hour old: gone with the next round of housekeeping."""
    async with writing(databases, database) as bench:
        await bench.fetch(
            "INSERT INTO batches SELECT gen_random_uuid(), now() - make_interval(mins => m)"
            " FROM unnest($1::int[]) m",
            [59, 61, 10_000],
        )
        bench.submit("a", message())
        await bench.writers.flush()
        assert await bench.value("SELECT count(*) FROM batches") == 2


async def test_tables_that_have_grown_are_counted_for_the_planner(
    databases: DatabaseServer, database: str
) -> None:
    """Before autovacuum would look: a planner that believes tables empty chooses any index."""
    async with writing(databases, database) as bench:
        for number in range(ANALYZE_AFTER_ROWS):
            bench.submit(number, message(conversation=number))
        await bench.writers.flush()
        with trio.fail_after(PATIENCE_SECONDS):
            while await bench.value("SELECT reltuples::int FROM pg_class WHERE relname = 'messages'") <= 0:  # noqa: ASYNC110
                await trio.sleep(0.05)
