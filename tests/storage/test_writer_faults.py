"""The writer when the database goes away: nothing lost, nothing twice, order and cursors kept."""

import tempfile
from collections.abc import AsyncIterator
from importlib.resources import files
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import trio

from engine.domain.rows import MessagePatch, Row
from engine.errors import StoreUnavailable
from storage.bridge import Bridge
from storage.databases import DatabaseServer
from storage.embedded import embedded_postgres
from storage.migrate import load_migrations, migrate
from storage.writer import WriterLimits
from tests.patience import PATIENCE_SECONDS
from tests.storage.proxy import Act, Proxy, abort_late, commit_late, lose_the_answer, lose_the_commit, proxied
from tests.storage.sessions import until_a_session
from tests.storage.writing import Bench, event, message, writing

pytestmark = pytest.mark.real_time


@pytest.fixture
async def proxy(postgres_dsn: str) -> AsyncIterator[Proxy]:
    # Not tmp_path: a socket's path has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="mijra-") as directory:
        async with proxied(postgres_dsn, Path(directory)) as opened:
            yield opened


@pytest.fixture
async def behind_proxy(
    bridge: Bridge, proxy: Proxy, databases: DatabaseServer
) -> AsyncIterator[DatabaseServer]:
    """The same databases as `databases`, through the proxy."""
    prefix = databases.landlord_database.removesuffix("landlord")
    async with DatabaseServer(bridge, proxy.dsn, prefix=prefix) as server:
        yield server


async def everything_is_there_once(bench: Bench, direct: DatabaseServer, count: int) -> None:
    """`count` sets, each durable once, in order, with its event."""
    assert [name for name, error in bench.verdicts.all if error is None] == list(range(count))
    pool = direct.pool(bench.database)
    stored = await pool.fetch(
        "SELECT conversation_id, count(*) FROM messages GROUP BY 1 ORDER BY 1", tenants=(1,)
    )
    assert [tuple(row) for row in stored] == [(number, 1) for number in range(count)]
    log = await pool.fetch("SELECT cursor, trace FROM events ORDER BY cursor", tenants=(1,))
    assert [tuple(row) for row in log] == [(number + 1, str(number)) for number in range(count)]
    assert [(e.cursor, e.trace) for e in bench.sink.of(1)] == [tuple(row) for row in log]


@pytest.mark.parametrize(
    ("fault", "resolved"),
    [
        # Resolved: the retry found the first try committed. In one statement there is nothing for a retry to
        # wait for, so the late one is the second to come.
        pytest.param(lose_the_commit, {"one": 0, "several": 0}, id="the commit was lost"),
        pytest.param(lose_the_answer, {"one": 1, "several": 1}, id="the answer was lost"),
        pytest.param(
            commit_late(0.3), {"one": 0, "several": 1}, id="the commit arrives after the client has gone"
        ),
        pytest.param(
            abort_late(0.3), {"one": 0, "several": 0}, id="the old transaction ends while the retry waits"
        ),
    ],
)
@pytest.mark.parametrize("statements", ["one", "several"])
async def test_a_commit_in_doubt_is_settled_by_its_batch_id(
    databases: DatabaseServer,
    behind_proxy: DatabaseServer,
    proxy: Proxy,
    tenant_database: str,
    fault: Act,
    resolved: dict[str, int],
    statements: str,
) -> None:
    """Whatever became of the first try, the batch is there once, and its sets are told so."""
    async with writing(behind_proxy, tenant_database, limits=WriterLimits(batch_rows_max=20)) as bench:
        await bench.writers.take(1)
        proxy.at_commit = fault
        for number in range(50):
            rows: list[Row] = [message(1, number, 1), event(trace=str(number))]
            if statements == "several":
                # A new row and its change do not fit into one statement.
                rows.append(MessagePatch(tenant_id=1, id=rows[0].id, status="read"))  # type: ignore[attr-defined]
            bench.submit(number, *rows)
        with trio.fail_after(PATIENCE_SECONDS):
            await bench.writers.flush()
            await proxy.acted.wait()
        assert proxy.cuts == 1
        (figures,) = bench.writers.statistics()
        assert figures.resolved == resolved[statements]
        assert figures.unavailable >= 1
        await everything_is_there_once(bench, databases, 50)


async def test_a_session_killed_in_the_middle_of_a_batch_is_retried(
    databases: DatabaseServer, tenant_database: str
) -> None:
    """The batch waits for a lock, its backend is terminated, the retry commits it once."""
    async with writing(databases, tenant_database) as bench:
        bench.submit(0, message(1, 0, 1), event(trace="0"))
        await bench.writers.flush()

        async def hold_the_table() -> None:
            async def hold(connection: Any) -> None:
                await connection.execute("BEGIN; LOCK TABLE messages IN SHARE MODE; SELECT pg_sleep(60)")

            with pytest.raises(StoreUnavailable):  # until it is cancelled
                await databases.pool(tenant_database).run(hold)

        here = f"datname = '{tenant_database}'"
        holds, waits = f"{here} AND wait_event = 'PgSleep'", f"{here} AND wait_event_type = 'Lock'"
        end = "SELECT pg_{}_backend(pid) FROM pg_stat_activity WHERE {}"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold_the_table)
            await until_a_session(databases, holds)
            for number in range(1, 10):
                bench.submit(number, message(1, number, 1), event(trace=str(number)))
            await until_a_session(databases, waits)
            await databases._execute_apart(end.format("terminate", waits))
            await databases._execute_apart(end.format("cancel", holds))
        await bench.writers.flush()
        (figures,) = bench.writers.statistics()
        assert figures.unavailable == 1
        await everything_is_there_once(bench, databases, 10)


async def test_an_absent_database_pushes_back_and_comes_back_to_everything(
    databases: DatabaseServer, behind_proxy: DatabaseServer, proxy: Proxy, tenant_database: str
) -> None:
    """While it is away sets wait and has_room turns False; afterwards all are durable in order."""
    limits = WriterLimits(batch_rows_max=20, waiting_rows_max=60)
    async with writing(behind_proxy, tenant_database, limits=limits) as bench:
        bench.submit(0, message(1, 0, 1), event(trace="0"))
        await bench.writers.flush()
        proxy.refusing = True
        await proxy.cut_all()
        for number in range(1, 40):
            bench.submit(number, message(1, number, 1), event(trace=str(number)))
        assert not bench.writers.has_room(1)
        await trio.sleep(0.5)
        assert len(bench.verdicts.all) == 1
        proxy.refusing = False
        with trio.fail_after(PATIENCE_SECONDS):
            await bench.writers.flush()
        assert bench.writers.has_room(1)
        await everything_is_there_once(bench, databases, 40)


@pytest.mark.slow
async def test_a_restarted_postgres_finds_its_writer_waiting(bridge: Bridge, tmp_path: Path) -> None:
    """The server is stopped and started while batches are under way."""
    async with trio.open_nursery() as nursery:
        async with embedded_postgres(tmp_path) as dsn, DatabaseServer(bridge, dsn) as server:
            name = server.pooled_database(1)
            await server.create_database(name)
            await migrate(server, name, load_migrations(files("storage") / "sql" / "tenant"))
        stop_first, started_again, done = trio.Event(), trio.Event(), trio.Event()

        async def server_life() -> None:
            async with embedded_postgres(tmp_path):
                started_again.set()
                await stop_first.wait()
            async with embedded_postgres(tmp_path):
                await done.wait()

        nursery.start_soon(server_life)
        await started_again.wait()
        limits = WriterLimits(batch_rows_max=10)
        async with DatabaseServer(bridge, dsn) as server, writing(server, name, limits=limits) as bench:
            numbers = count()
            with trio.fail_after(PATIENCE_SECONDS):
                while not any(figures.unavailable for figures in bench.writers.statistics()):
                    number = next(numbers)
                    bench.submit(number, message(1, number, 1), event(trace=str(number)))
                    if number == 50:
                        stop_first.set()
                    await trio.sleep(0.002)
                await bench.writers.flush()
            await everything_is_there_once(bench, server, next(numbers))
        done.set()
