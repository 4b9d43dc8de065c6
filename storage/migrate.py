"""Bringing a database's schema to what this version of Mijra needs.

A migration is a plain SQL file `NNNN_name.sql`, numbered from 0001 without gaps, forward only, and safe for
the version of Mijra before it. Each runs in one transaction, together with the row in `schema_migrations`
that records it, so it is there completely or not at all, and a run that was interrupted goes on where it
stopped. An advisory lock lets one process at a time migrate a database; the others find the work done.

Two numbers guard against a mistaken rollback. The code *needs* the schema of its newest file. The schema
*supports* code down to the number that a file states in its header as `-- supports: N` (a file without
one leaves it as it was). A database that is newer than the code is used as it is when it supports that code,
and refused when it does not.

Promises   each file is applied to each database once, in order; a file that changed after it was applied, a
gap
           or a number that is there twice is refused before anything is touched, with SchemaRefused.
Limits     one statement waits for a lock for at most `LOCK_SECONDS_MAX`, `DATABASES_AT_ONCE` databases at
once. Leaves     which databases there are to the caller; the contents of the files to whoever writes them.

Statements that refuse to run in a transaction (CREATE INDEX CONCURRENTLY, VACUUM) have no place in a file.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from importlib.resources.abc import Traversable
from typing import Final

import asyncpg
import structlog
import trio
from msgspec import Struct

from engine.errors import MijraError
from storage.databases import ADMINISTRATION_MAX, DatabaseServer, transaction
from storage.errors import SchemaRefused, verdict

# A migration that waits for a lock makes every later statement on that table wait behind it. Better to fail
# and be run again than to stop a business's inbox.
LOCK_SECONDS_MAX: Final = 30
# How long a process waits for another one that migrates the same database: rewriting a large table takes
# minutes.
TURN_SECONDS_MAX: Final = 900
DATABASES_AT_ONCE: Final = ADMINISTRATION_MAX
# "mijr" as a number; the lock's space is the database, so one key serves all.
_LOCK_KEY: Final = 0x6D696A72

_FILE_NAME: Final = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_SUPPORTS: Final = re.compile(r"^--\s*supports:\s*(\d{1,4})\s*$", re.MULTILINE)
_OWN_TRANSACTION: Final = re.compile(
    r"^\s*(BEGIN|START TRANSACTION|COMMIT|ROLLBACK)\s*;", re.MULTILINE | re.IGNORECASE
)
_TABLE: Final = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    number      integer PRIMARY KEY,
    name        text NOT NULL,
    checksum    text NOT NULL,
    supports    integer NOT NULL,
    applied_at  timestamptz NOT NULL DEFAULT now()
)
"""
_log = structlog.get_logger(__name__)


class Migration(Struct, frozen=True):
    """One file. `supports` is None when its header does not say."""

    number: int
    name: str
    sql: str
    checksum: str
    supports: int | None


class Migrated(Struct, frozen=True):
    """What became of one database: its schema's number, what was applied just now, and what went wrong."""

    database: str
    version: int
    applied: tuple[int, ...]
    error: MijraError | None = None


def load_migrations(directory: Traversable) -> tuple[Migration, ...]:
    """The files of a directory in order. Raises SchemaRefused for a gap, a duplicate or an unfit file."""
    migrations = []
    for entry in sorted(directory.iterdir(), key=lambda entry: entry.name):
        if not entry.name.endswith(".sql"):
            continue
        named = _FILE_NAME.fullmatch(entry.name)
        if named is None:
            raise SchemaRefused(f"{entry.name}: a migration's name is NNNN_name.sql, in lower case.")
        sql = entry.read_text(encoding="utf-8")
        if own := _OWN_TRANSACTION.search(sql):
            raise SchemaRefused(f"{entry.name}: a migration is one transaction; remove {own[1].upper()}.")
        oldest = _SUPPORTS.search(sql)
        checksum = hashlib.sha256(sql.encode()).hexdigest()
        migrations.append(
            Migration(int(named[1]), named[2], sql, checksum, int(oldest[1]) if oldest else None)
        )
    for expected, migration in enumerate(migrations, start=1):
        if migration.number != expected:
            what = "there twice" if migration.number < expected else f"missing before {migration.number:04}"
            number = min(migration.number, expected)
            raise SchemaRefused(f"Migration {number:04} is {what}; numbers rise by one from 0001.")
    return tuple(migrations)


async def migrate(server: DatabaseServer, database: str, migrations: Sequence[Migration]) -> Migrated:
    """Apply to one database what it lacks. Harmless when repeated, or done by several processes at once.

    Raises SchemaRefused when database and code do not belong together, and what `DatabaseServer.administer`
    raises. When cancelled, the file under way is rolled back; those before it stay.
    """
    migrated = await server.administer(database, _migrate, database, tuple(migrations))
    if migrated.applied:
        _log.info("schema.migrated", database=database, version=migrated.version, applied=migrated.applied)
    return migrated


async def migrate_all(
    server: DatabaseServer, databases: Iterable[str], migrations: Sequence[Migration]
) -> list[Migrated]:
    """Apply to every database what it lacks, `DATABASES_AT_ONCE` at a time; outcomes in the order given.

    A database that fails does not hold up the others; its outcome carries the error, and the next run goes on
    there.
    """
    outcomes: dict[str, Migrated] = {}
    limiter = trio.CapacityLimiter(DATABASES_AT_ONCE)

    async def one(database: str) -> None:
        async with limiter:
            try:
                outcomes[database] = await migrate(server, database, migrations)
            except MijraError as error:
                _log.error("schema.migration_failed", database=database, error=str(error))
                outcomes[database] = Migrated(database, 0, (), error)

    names = list(dict.fromkeys(databases))
    async with trio.open_nursery() as nursery:
        for database in names:
            nursery.start_soon(one, database)
    return [outcomes[database] for database in names]


# The asyncio side.


async def _migrate(
    connection: asyncpg.Connection, database: str, migrations: tuple[Migration, ...]
) -> Migrated:
    # Held by the session, so that it spans the transactions, and given up with it, whatever happens.
    await connection.execute(f"SET lock_timeout = '{TURN_SECONDS_MAX}s'")
    await connection.execute(f"SELECT pg_advisory_lock({_LOCK_KEY})")
    await connection.execute(f"SET lock_timeout = '{LOCK_SECONDS_MAX}s'")
    await connection.execute(_TABLE)
    rows = await connection.fetch("SELECT number, checksum, supports FROM schema_migrations ORDER BY number")
    _check_belongs(database, rows, migrations)
    supports = rows[-1]["supports"] if rows else 1
    applied = []
    for migration in migrations[len(rows) :]:
        supports = migration.supports or supports
        async with transaction(connection):
            await _apply(connection, database, migration, supports)
        applied.append(migration.number)
    return Migrated(database, max(len(rows), len(migrations)), tuple(applied))


async def _apply(connection: asyncpg.Connection, database: str, migration: Migration, supports: int) -> None:
    try:
        await connection.execute(migration.sql)
    except asyncpg.PostgresError as error:
        if verdict(error, connection_closed=connection.is_closed()) == "unavailable":
            raise
        raise SchemaRefused(
            f"{database}: migration {migration.number:04}_{migration.name} failed and left nothing behind: "
            f"{error}"
        ) from error
    await connection.execute(
        "INSERT INTO schema_migrations (number, name, checksum, supports) VALUES ($1, $2, $3, $4)",
        migration.number,
        migration.name,
        migration.checksum,
        supports,
    )


def _check_belongs(database: str, rows: list[asyncpg.Record], migrations: tuple[Migration, ...]) -> None:
    for row, migration in zip(rows, migrations, strict=False):
        if row["checksum"] != migration.checksum:
            raise SchemaRefused(
                f"{database}: migration {migration.number:04}_{migration.name} is not the file that was "
                f"applied. Put the applied file back and make the change in a new migration."
            )
    if len(rows) > len(migrations) and rows[-1]["supports"] > len(migrations):
        raise SchemaRefused(
            f"{database} has schema {len(rows)}, which works with code for schema {rows[-1]['supports']} "
            f"and later; this is code for schema {len(migrations)}. Start the newer version of Mijra again "
            f"or restore the backup that was made before the upgrade."
        )
