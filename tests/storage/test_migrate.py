"""Numbered files, applied once each: alone, by several at once, after an interruption; unfit ones refused."""

import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
import trio

from engine.errors import StoreUnavailable
from storage.databases import DatabaseServer
from storage.errors import SchemaRefused
from storage.migrate import load_migrations, migrate, migrate_all
from tests.patience import PATIENCE_SECONDS

FILES = {
    "0001_first.sql": "CREATE TABLE a (id int); INSERT INTO a VALUES (1);",
    "0002_second.sql": "INSERT INTO a VALUES (2);",
    "0003_third.sql": "-- supports: 2\nINSERT INTO a VALUES (3);",
}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Three good migrations."""
    for name, sql in FILES.items():
        (tmp_path / name).write_text(sql)
    return tmp_path


@pytest.fixture
async def database(databases: DatabaseServer) -> str:
    """An empty database."""
    name = databases.own_database(1)
    await databases.create_database(name)
    return name


async def contents(databases: DatabaseServer, database: str) -> list[int]:
    return [row[0] for row in await databases.pool(database).fetch("SELECT id FROM a ORDER BY id")]


def test_files_are_read_in_order_with_what_their_headers_say(directory: Path) -> None:
    """Other files are left alone; a file without a header says nothing."""
    (directory / "README.md").write_text("not a migration")
    migrations = load_migrations(directory)
    assert [(one.number, one.name, one.supports) for one in migrations] == [
        (1, "first", None),
        (2, "second", None),
        (3, "third", 2),
    ]


@pytest.mark.parametrize(
    ("name", "sql", "complaint"),
    [
        ("0005_gap.sql", "", "0004 is missing before 0005"),
        ("0002_again.sql", "", "0002 is there twice"),
        ("4_four.sql", "", "NNNN_name.sql"),
        ("0004_Upper.sql", "", "NNNN_name.sql"),
        ("0004_own.sql", "SELECT 1;\ncommit;", "remove COMMIT"),
    ],
)
def test_unfit_files_are_refused_before_anything_is_touched(
    directory: Path, name: str, sql: str, complaint: str
) -> None:
    """A gap, a duplicate, a wrong name, a transaction of its own."""
    (directory / name).write_text(sql)
    with pytest.raises(SchemaRefused, match=complaint):
        load_migrations(directory)


@pytest.mark.real_time
async def test_a_database_gets_what_it_lacks_and_no_more(
    databases: DatabaseServer, database: str, directory: Path
) -> None:
    """Two files, then the third, then nothing."""
    migrations = load_migrations(directory)
    first = await migrate(databases, database, migrations[:2])
    assert (first.version, first.applied) == (2, (1, 2))
    second = await migrate(databases, database, migrations)
    assert (second.version, second.applied) == (3, (3,))
    third = await migrate(databases, database, migrations)
    assert (third.version, third.applied) == (3, ())
    assert await contents(databases, database) == [1, 2, 3]


@pytest.mark.real_time
async def test_several_tasks_at_once_apply_each_file_once(
    databases: DatabaseServer, database: str, directory: Path
) -> None:
    """Four tasks, one of which finds everything to do and three nothing."""
    migrations = load_migrations(directory)
    applied: list[tuple[int, ...]] = []

    async def run() -> None:
        applied.append((await migrate(databases, database, migrations)).applied)

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(run)
    assert sorted(applied) == [(), (), (), (1, 2, 3)]
    assert await contents(databases, database) == [1, 2, 3]


_PROCESS = """
import sys, trio
from pathlib import Path
from storage.bridge import Bridge
from storage.databases import DatabaseServer
from storage.migrate import load_migrations, migrate

async def main(dsn, database, directory):
    async with Bridge() as bridge, DatabaseServer(bridge, dsn) as server:
        print("ready", flush=True)
        sys.stdin.readline()
        print(len((await migrate(server, database, load_migrations(Path(directory)))).applied))

trio.run(main, *sys.argv[1:])
"""


@pytest.mark.real_time
async def test_two_processes_at_once_apply_each_file_once(
    databases: DatabaseServer, postgres_dsn: str, database: str, directory: Path
) -> None:
    """Both are ready before either begins; between them they apply the three files once."""
    # Long enough that whoever is second really meets the first one at work.
    (directory / "0004_slow.sql").write_text("INSERT INTO a SELECT 4 FROM pg_sleep(0.3);")
    command = [sys.executable, "-c", _PROCESS, postgres_dsn, database, str(directory)]
    processes = [
        await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(2)
    ]

    async def line(process: trio.Process) -> str:
        """The next line, without the log lines that a migration may write."""
        assert process.stdout is not None
        said = b""
        while not (ended := [one for one in said.split(b"\n")[:-1] if b"[" not in one]):
            chunk = await process.stdout.receive_some()
            assert chunk, "the process ended without an answer"
            said += chunk
        return ended[0].decode()

    with trio.fail_after(PATIENCE_SECONDS):
        assert [await line(process) for process in processes] == ["ready", "ready"]
        for process in processes:
            assert process.stdin is not None
            await process.stdin.send_all(b"go\n")
        applied = sorted([await line(process) for process in processes])
        for process in processes:
            assert await process.wait() == 0
    assert applied == ["0", "4"]
    assert await contents(databases, database) == [1, 2, 3, 4]


@pytest.mark.real_time
async def test_a_file_that_fails_leaves_nothing_and_the_next_run_goes_on_there(
    databases: DatabaseServer, database: str, directory: Path
) -> None:
    """The files before it stay; the broken one is undone whole; mended, it is applied."""
    (directory / "0003_third.sql").write_text("INSERT INTO a VALUES (3); INSERT INTO absent VALUES (1);")
    with pytest.raises(SchemaRefused, match="0003_third failed"):
        await migrate(databases, database, load_migrations(directory))
    assert await contents(databases, database) == [1, 2]
    (directory / "0003_third.sql").write_text(FILES["0003_third.sql"])
    assert (await migrate(databases, database, load_migrations(directory))).applied == (3,)


@pytest.mark.real_time
async def test_a_file_that_changed_after_it_was_applied_is_refused(
    databases: DatabaseServer, database: str, directory: Path
) -> None:
    """By name, with what to do, and without applying what comes after it."""
    await migrate(databases, database, load_migrations(directory)[:2])
    (directory / "0002_second.sql").write_text("INSERT INTO a VALUES (20);")
    with pytest.raises(SchemaRefused, match="0002_second is not the file"):
        await migrate(databases, database, load_migrations(directory))
    assert await contents(databases, database) == [1, 2]


@pytest.mark.real_time
async def test_a_newer_database_is_used_by_the_code_that_it_supports_and_refused_to_older(
    databases: DatabaseServer, database: str, directory: Path
) -> None:
    """Schema 3 says that it supports code 2: code 2 starts on it, code 1 is told what to do."""
    migrations = load_migrations(directory)
    await migrate(databases, database, migrations)
    older = await migrate(databases, database, migrations[:2])
    assert (older.version, older.applied) == (3, ())
    with pytest.raises(SchemaRefused, match="Start the newer version of Mijra again"):
        await migrate(databases, database, migrations[:1])


@pytest.mark.real_time
async def test_one_database_that_fails_does_not_hold_up_the_others(
    databases: DatabaseServer, directory: Path
) -> None:
    """Six databases, one missing: five are migrated, the sixth's outcome carries its error."""
    names = [databases.own_database(number) for number in range(6)]
    for name in names[:5]:
        await databases.create_database(name)
    outcomes = await migrate_all(databases, names, load_migrations(directory))
    assert [outcome.database for outcome in outcomes] == names
    assert [outcome.applied for outcome in outcomes[:5]] == [(1, 2, 3)] * 5
    assert isinstance(outcomes[5].error, StoreUnavailable)
    await databases.create_database(names[5])
    outcomes = await migrate_all(databases, names, load_migrations(directory))
    assert [outcome.applied for outcome in outcomes] == [()] * 5 + [(1, 2, 3)]


@pytest.mark.real_time
@pytest.mark.parametrize("kind", ["tenant", "landlord"])
async def test_our_own_schema_applies_to_an_empty_database(databases: DatabaseServer, kind: str) -> None:
    """The files that Mijra ships, run by the role that owns the database, from nothing to the newest."""
    migrations = load_migrations(files("storage") / "sql" / kind)
    await databases.create_database(databases.own_database(1))
    migrated = await migrate(databases, databases.own_database(1), migrations)
    assert migrated.applied == tuple(range(1, len(migrations) + 1))
    assert migrated.applied
