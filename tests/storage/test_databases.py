"""Connections under their budgets, tenants under row-level security, and connections that break."""

from collections.abc import AsyncIterator

import asyncpg
import pytest
import trio
import trio.testing

from engine.errors import CommitConflict, Defect, StoreUnavailable
from storage.bridge import Bridge
from storage.databases import APP_ROLE, ConnectionLimits, DatabaseServer, Pool, transaction
from storage.errors import CommitOutcomeUnknown
from tests.patience import PATIENCE_SECONDS
from tests.storage.sessions import until_asleep

pytestmark = pytest.mark.real_time

_TENANTS_TABLE = """
CREATE TABLE things (tenant_id bigint NOT NULL, name text NOT NULL, PRIMARY KEY (tenant_id, name));
ALTER TABLE things ENABLE ROW LEVEL SECURITY;
ALTER TABLE things FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenants ON things USING
    (tenant_id = ANY (string_to_array(current_setting('mijra.tenants', true), ',')::bigint[]));
"""


@pytest.fixture
async def pool(databases: DatabaseServer) -> Pool:
    """An empty pooled database."""
    await databases.create_database(databases.pooled_database(1))
    return databases.pool(databases.pooled_database(1))


@pytest.fixture
async def things(pool: Pool) -> Pool:
    """A table under forced row-level security with a row of each of the tenants 1, 2 and 3."""
    await pool.run(execute, _TENANTS_TABLE)
    for tenant in (1, 2, 3):
        await pool.fetch("INSERT INTO things VALUES ($1, 'first')", tenant, tenants=(tenant,))
    return pool


@pytest.fixture
async def two_readers(
    bridge: Bridge, postgres_dsn: str, databases: DatabaseServer
) -> AsyncIterator[DatabaseServer]:
    """A second server object over the same databases, with a budget of two readers that are soon idle."""
    limits = ConnectionLimits(
        readers_max=2, readers_per_database_max=2, waiters_max=2, idle_seconds_max=1, read_seconds_max=1.5
    )
    async with DatabaseServer(bridge, postgres_dsn, prefix=databases._prefix, limits=limits) as server:
        yield server


async def execute(connection: asyncpg.Connection, sql: str) -> None:
    await connection.execute(sql)


async def backend(connection: asyncpg.Connection) -> int:
    pid: int = connection.get_server_pid()
    return pid


async def kill(databases: DatabaseServer, pid: int) -> None:
    """End a session from outside, as a restart or a network device would."""
    bridge = databases._bridge
    await bridge.run(databases._apart, None, execute, f"SELECT pg_terminate_backend({pid}, 5000)")


async def names(pool: Pool, *tenants: int) -> list[int]:
    return [row[0] for row in await pool.fetch("SELECT tenant_id FROM things ORDER BY 1", tenants=tenants)]


async def test_a_statement_sees_the_tenants_that_its_call_names(things: Pool) -> None:
    """One, several or none; and the next call on the same connection sees its own, not the last one's."""
    assert await names(things, 2) == [2]
    assert await names(things, 1, 3) == [1, 3]
    assert await names(things) == []
    assert await names(things, 4) == []


async def test_a_row_of_another_tenant_is_refused(things: Pool) -> None:
    """Writing for a tenant that the call does not name is a defect of the caller, and nothing is written."""
    with pytest.raises(Defect):
        await things.fetch("INSERT INTO things VALUES (2, 'stolen')", tenants=(1,))
    assert await things.fetchval("SELECT count(*) FROM things", tenants=(2,)) == 1


async def test_tenants_do_not_leak_through_a_failed_or_rolled_back_use(things: Pool) -> None:
    """An error, and a transaction that is undone, leave the connection without the tenants of that use."""

    async def undo(connection: asyncpg.Connection) -> None:
        async with transaction(connection):
            await connection.execute("SELECT 1/0")

    with pytest.raises(Exception, match="DivisionByZeroError"):
        await things.run(undo, tenants=(1, 2, 3))
    assert await names(things) == []
    assert await names(things, 1) == [1]


async def test_concurrent_readers_of_different_tenants_never_see_each_other(things: Pool) -> None:
    """Three hundred reads by three tenants over eight connections: each sees its own row and no other."""
    seen: list[tuple[int, list[int]]] = []

    async def read(tenant: int) -> None:
        seen.append((tenant, await names(things, tenant)))

    async with trio.open_nursery() as nursery:
        for number in range(300):
            nursery.start_soon(read, number % 3 + 1)
    assert len(seen) == 300
    assert all(found == [tenant] for tenant, found in seen)


async def test_the_connections_work_as_a_role_that_the_policies_bind(pool: Pool) -> None:
    """The DSN's user is a superuser here, whom no policy binds, so another role does the work and owns it."""
    row = await pool.fetchrow(
        "SELECT current_user::text AS name, rolsuper, rolbypassrls, "
        "(SELECT datdba::regrole::text FROM pg_database WHERE datname = current_database()) AS owner "
        "FROM pg_roles WHERE rolname = current_user"
    )
    assert row is not None
    assert (row["name"], row["rolsuper"], row["rolbypassrls"]) == (APP_ROLE, False, False)
    assert row["owner"] == APP_ROLE


async def test_timestamps_are_milliseconds_also_in_arrays(pool: Pool) -> None:
    """The epoch, a time before it, and one with milliseconds go in and out unchanged, alone and in arrays."""
    for moment in (0, -1, 1_770_000_000_123):
        assert await pool.fetchval("SELECT $1::timestamptz", moment) == moment
    moments = [0, -1, 1_770_000_000_123, None]
    assert await pool.fetchval("SELECT $1::timestamptz[]", moments) == moments
    rows = await pool.fetch("SELECT * FROM unnest($1::timestamptz[])", moments)
    assert [row[0] for row in rows] == moments
    assert await pool.fetchval("SELECT '2026-02-03T04:05:06.789Z'::timestamptz") == 1_770_091_506_789


async def test_json_is_text_on_both_ways(pool: Pool) -> None:
    """bytes or str in, str out, unparsed; also in arrays."""
    assert await pool.fetchval("SELECT $1::jsonb", b'{"a": "\xd8\xb3"}') == '{"a": "س"}'
    assert await pool.fetchval("SELECT $1::json", '{"a":  1}') == '{"a":  1}'
    assert await pool.fetchval("SELECT $1::jsonb[]", [b"1", "[2]", None]) == ["1", "[2]", None]


async def test_databases_are_created_once_and_listed(databases: DatabaseServer) -> None:
    """A second creation says that it was there; eight at once make one."""
    name = databases.own_database(7)
    created: list[bool] = []

    async def create() -> None:
        created.append(await databases.create_database(name))

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(create)
    assert sorted(created) == [False] * 7 + [True]
    await databases.create_database(databases.landlord_database)
    assert await databases.databases() == sorted([name, databases.landlord_database])


async def test_a_database_that_is_not_there_is_unavailable(databases: DatabaseServer) -> None:
    """The first call says so; the place in the budget is free again."""
    with pytest.raises(StoreUnavailable, match="does not exist"):
        await databases.pool(databases.own_database(404)).fetch("SELECT 1")
    assert databases.statistics().readers.open == 0


async def test_callers_wait_for_a_busy_budget_and_are_refused_beyond_the_limit(
    two_readers: DatabaseServer, pool: Pool
) -> None:
    """Two run, two wait and are served, a fifth is refused at once with a hint when to come again."""
    few = two_readers.pool(pool.database)
    answers: list[int] = []

    async def slow(number: int) -> None:
        answers.append(await few.fetchval("SELECT $1::int FROM pg_sleep(0.5)", number))

    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(slow, number)
        while two_readers.statistics().readers.waiting < 2:
            await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(StoreUnavailable) as caught:
            await few.fetch("SELECT 1")
        assert caught.value.retry_after_seconds
    assert sorted(answers) == [0, 1, 2, 3]
    assert two_readers.statistics().readers.peak == 2


async def test_a_waiter_that_is_cancelled_leaves_its_place_to_others(
    two_readers: DatabaseServer, pool: Pool
) -> None:
    """The queue is as long as before, and the budget is whole afterwards."""
    few = two_readers.pool(pool.database)
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(few.fetch, "SELECT pg_sleep(0.6)")
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(0.02) as scope:
            await few.fetch("SELECT 1")
        assert scope.cancelled_caught
        assert two_readers.statistics().readers.waiting == 0
    assert await few.fetchval("SELECT 1") == 1
    assert two_readers.statistics().readers.busy == 0


async def test_an_idle_connection_of_another_database_makes_room(
    two_readers: DatabaseServer, databases: DatabaseServer
) -> None:
    """Four databases over two connections: each is served, never more than two sessions are open."""
    for number in range(4):
        await databases.create_database(databases.own_database(number))
    for number in (0, 1, 2, 3, 0):
        own = two_readers.pool(databases.own_database(number))
        assert await own.fetchval("SELECT current_database()::text") == databases.own_database(number)
    sessions = (
        "SELECT count(*) FROM pg_stat_activity WHERE starts_with(datname, $1) AND pid <> pg_backend_pid()"
    )
    own = two_readers.pool(databases.own_database(0))
    assert await own.fetchval(sessions, databases._prefix) <= 1
    assert two_readers.statistics().readers.open == 2


async def test_databases_that_nobody_uses_are_disconnected(two_readers: DatabaseServer, pool: Pool) -> None:
    """Reader and writer are gone soon after their idle time, and come back when they are needed."""
    few = two_readers.pool(pool.database)
    await few.fetch("SELECT 1")
    await few.write(execute, "SELECT 1")
    assert two_readers.statistics().writers.open == 1
    with trio.fail_after(PATIENCE_SECONDS):
        while two_readers.statistics().readers.open or two_readers.statistics().writers.open:  # noqa: ASYNC110
            await trio.sleep(0.05)
    assert await few.fetchval("SELECT 1") == 1


async def test_the_writer_is_one_connection_that_readers_do_not_take(pool: Pool) -> None:
    """Two writes use the same session, one after the other, while readers have theirs."""
    writer = await pool.write(backend)
    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(pool.fetch, "SELECT pg_sleep(0.05)")
        assert await pool.write(backend) == writer
    assert await pool.run(backend) != writer


async def test_a_read_that_takes_too_long_is_ended_by_the_server(
    two_readers: DatabaseServer, pool: Pool
) -> None:
    """StoreUnavailable after the read limit, and the connection serves on."""
    with pytest.raises(StoreUnavailable, match="QueryCanceled"):
        await two_readers.pool(pool.database).fetch("SELECT pg_sleep(10)")
    assert await two_readers.pool(pool.database).fetchval("SELECT 1") == 1
    assert two_readers.statistics().readers.open == 1


async def test_a_cancelled_read_is_cancelled_on_the_server(pool: Pool) -> None:
    """The statement no longer runs when the caller goes on, and its connection is not used again."""
    before = await pool.run(backend)
    with trio.move_on_after(0.1) as scope:
        await pool.fetch("SELECT pg_sleep(4) /* lingering */")
    assert scope.cancelled_caught
    running = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%4) /* linger%'"
    assert await pool.fetchval(running + " AND pid <> pg_backend_pid()") == 0
    assert await pool.run(backend) != before


async def test_a_connection_that_died_while_idle_is_replaced_in_silence(
    databases: DatabaseServer, pool: Pool
) -> None:
    """Nothing had been sent on it, so its next user need not know."""
    await kill(databases, await pool.run(backend))
    await trio.sleep(0.05)
    assert await pool.fetchval("SELECT 1") == 1


async def test_a_connection_that_dies_during_a_statement_is_unavailable(
    databases: DatabaseServer, pool: Pool
) -> None:
    """The caller learns it by type, and the next call works."""

    async def die() -> None:
        with pytest.raises(StoreUnavailable) as caught:
            await pool.fetch("SELECT pg_sleep(60)")
        assert not isinstance(caught.value, CommitOutcomeUnknown)

    victim = await pool.run(backend)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(die)
        await until_asleep(databases, victim)
        await kill(databases, victim)
    assert await pool.fetchval("SELECT 1") == 1


async def test_a_connection_that_dies_during_the_commit_leaves_the_outcome_unknown(
    databases: DatabaseServer, pool: Pool
) -> None:
    """A deferred trigger holds the COMMIT long enough to end the session in the midst of it."""
    await pool.write(
        execute,
        """
        CREATE TABLE slow (id int);
        CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(60); RETURN NULL;
        END'; CREATE CONSTRAINT TRIGGER lingers AFTER INSERT ON slow DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION linger();
        """,
    )
    victim = await pool.write(backend)

    async def insert(connection: asyncpg.Connection) -> None:
        async with transaction(connection):
            await connection.execute("INSERT INTO slow VALUES (1)")

    async def commit() -> None:
        with pytest.raises(CommitOutcomeUnknown):
            await pool.write(insert)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(commit)
        await until_asleep(databases, victim)
        await kill(databases, victim)
    assert await pool.fetchval("SELECT count(*) FROM slow") == 0


async def test_a_refused_write_rolls_back_and_keeps_its_connection(pool: Pool) -> None:
    """A conflict inside a transaction undoes it; the writer goes on with the same session."""
    await pool.write(execute, "CREATE TABLE keys (id int PRIMARY KEY)")
    session = await pool.write(backend)

    async def twice(connection: asyncpg.Connection) -> None:
        async with transaction(connection):
            await connection.execute("INSERT INTO keys VALUES (1)")
            await connection.execute("INSERT INTO keys VALUES (1)")

    with pytest.raises(CommitConflict):
        await pool.write(twice)
    assert await pool.fetchval("SELECT count(*) FROM keys") == 0
    assert await pool.write(backend) == session


async def test_a_transaction_left_open_is_a_defect_and_ends_with_its_connection(pool: Pool) -> None:
    """Its locks are gone, and the next user gets another session."""
    before = await pool.run(backend)

    async def forget(connection: asyncpg.Connection) -> None:
        await connection.execute("BEGIN")

    with pytest.raises(Defect, match="open"):
        await pool.run(forget)
    assert await pool.run(backend) != before


async def test_a_server_that_is_not_there_is_unavailable_at_once(bridge: Bridge) -> None:
    """No socket: refused in no time, by type."""
    with trio.fail_after(PATIENCE_SECONDS), pytest.raises(StoreUnavailable):
        async with DatabaseServer(bridge, "postgresql://postgres@/postgres?host=/nonexistent"):
            pass


async def test_connecting_to_a_server_that_never_answers_ends_at_the_deadline(bridge: Bridge) -> None:
    """A port that accepts and says nothing, as a hanging server does."""
    limits = ConnectionLimits(connect_seconds_max=0.3)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    with trio.fail_after(5), pytest.raises(StoreUnavailable):
        async with DatabaseServer(
            bridge, f"postgresql://x@127.0.0.1:{port}/x?sslmode=disable", limits=limits
        ):
            pass
    for listener in listeners:
        await listener.aclose()


async def test_leaving_refuses_those_who_come_later(bridge: Bridge, postgres_dsn: str, pool: Pool) -> None:
    """The pool of a closed server answers StoreUnavailable, and holds no session."""
    async with DatabaseServer(bridge, postgres_dsn) as server:
        held = server.pool(pool.database)
        await held.fetch("SELECT 1")
    assert server.statistics().readers.open == 0
    with pytest.raises(StoreUnavailable):
        await held.fetch("SELECT 1")
