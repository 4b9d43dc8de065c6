"""Housekeeping: partitions by day, retention, expired idempotency keys, bodies that no delivery names now.

`deliveries` and `events` are partitioned by UTC day, because dropping a day is instant and leaves no holes to
vacuum. Upkeep makes the partitions of today and the next `DAYS_AHEAD` days and drops those that are older
than the retention. It is to be run at start, before there is traffic, and daily.

Promises   running it twice, or in two processes, changes nothing; a row never has nowhere to go: the default
           partition takes what no day does, and gives it up when the day is made; upkeep waits for a lock for
           `LOCK_SECONDS_MAX` at most, since everybody who writes waits behind it.
Limits     `DROPPED_MAX` partitions of a table in one run; databases side by side as storage.databases allows.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

import structlog
import trio
from msgspec import Struct

from engine.errors import MijraError
from storage.databases import DatabaseServer, transaction
from storage.objects import Objects
from storage.statements import load_sql

DAYS_AHEAD: Final = 3
"""A daily run may fail on a weekend and be noticed on Monday."""

RETENTION_DAYS: Final = 7
"""Platforms redeliver for up to a week; what is older can no longer come back."""

DROPPED_MAX: Final = 62
FORGOTTEN_MAX: Final = 10_000
"""An hour's run of one tenant, a few minutes of an object store's time."""
GRACE_DAYS: Final = 2
"""A day's rows are dropped as a whole, and the object store has a clock of its own."""
LOCK_SECONDS_MAX: Final = 3
DAY_MS: Final = 24 * 3600 * 1000
IDEMPOTENCY_MS: Final = DAY_MS

TABLES: Final = {"deliveries": "received_at", "events": "at"}
_SQL: Final = load_sql("upkeep.sql")
_log = structlog.get_logger(__name__)


class Parked(Protocol):
    """The landlord's database, as far as it is kept small here."""

    async def forget_unrouted(self, before: int) -> int: ...


class Kept(Struct, frozen=True, kw_only=True):
    """What was done to one database. With an `error` it is as it was, and the next run tries again."""

    database: str
    made: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    error: MijraError | None = None


async def upkeep(
    server: DatabaseServer,
    databases: Mapping[str, Sequence[int]],
    *,
    now: int,
    retention_days: int = RETENTION_DAYS,
) -> list[Kept]:
    """Look after `databases` (name → its tenants), whatever becomes of the others. `now` in milliseconds."""
    results: list[Kept] = []

    async def one(database: str, tenants: Sequence[int]) -> None:
        try:
            made, dropped = await server.administer(database, _partitions, now, retention_days)
            await server.pool(database).fetch(
                _SQL["forget_idempotency_keys"], now - IDEMPOTENCY_MS, tenants=tenants
            )
        except MijraError as error:
            _log.warning("upkeep.failed", database=database, reason=error.message)
            results.append(Kept(database=database, error=error))
            return
        if made or dropped:
            _log.info("upkeep.done", database=database, made=made, dropped=dropped)
        results.append(Kept(database=database, made=tuple(made), dropped=tuple(dropped)))

    async with trio.open_nursery() as nursery:
        for database, tenants in databases.items():
            nursery.start_soon(one, database, tenants)
    return results


async def forget_parked(landlord: Parked, *, now: int, retention_days: int = RETENTION_DAYS) -> int:
    """Remove deliveries that nobody's account was meant by, as those that were are removed; how many."""
    try:
        return await landlord.forget_unrouted(now - retention_days * DAY_MS)
    except MijraError as error:
        _log.warning("upkeep.parked_not_forgotten", reason=error.message)
        return 0


async def forget_deliveries(
    objects: Objects,
    prefixes: Iterable[str],
    *,
    now: int,
    retention_days: int = RETENTION_DAYS,
) -> int:
    """Remove bodies of deliveries whose rows are gone, at most `FORGOTTEN_MAX` of each prefix; how many.
    What comes again is written again, and so stays. Where the store is away, the next run takes the rest."""
    before = datetime.fromtimestamp(now / 1000, UTC) - timedelta(days=retention_days + GRACE_DAYS)
    forgotten = 0
    for prefix in prefixes:
        try:
            forgotten += await objects.delete_older(prefix, before, limit=FORGOTTEN_MAX)
        except MijraError as error:
            _log.warning("upkeep.deliveries_not_forgotten", prefix=prefix, reason=error.message)
    return forgotten


def partition_name(table: str, day: datetime) -> str:
    return f"{table}_{day:%Y%m%d}"


# From here on: the asyncio side.


async def _partitions(connection: Any, now: int, retention_days: int) -> tuple[list[str], list[str]]:
    today = datetime.fromtimestamp(now // 1000, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    made: list[str] = []
    dropped: list[str] = []
    await connection.execute(f"SET lock_timeout = '{LOCK_SECONDS_MAX}s'")
    for table, column in TABLES.items():
        existing = {record[0] for record in await connection.fetch(_SQL["partitions"], table)}
        for ahead in range(DAYS_AHEAD + 1):
            day = today + timedelta(days=ahead)
            name = partition_name(table, day)
            if name not in existing:
                async with transaction(connection):
                    await connection.execute(_make(table, column, name, day))
                made.append(name)
        oldest = partition_name(table, today - timedelta(days=retention_days))
        # Names of one table sort by day. "_default" has no day.
        old = sorted(name for name in existing if name < oldest and name[len(table) + 1 :].isdigit())
        for name in old[:DROPPED_MAX]:
            await connection.execute(f'DROP TABLE IF EXISTS "{name}"')
            dropped.append(name)
    return made, dropped


def _make(table: str, column: str, name: str, day: datetime) -> str:
    """Make a day's partition from what the default one holds of it. Names and dates are ours."""
    values = {
        "{table}": table,
        "{column}": column,
        "{partition}": name,
        "{from}": day.isoformat(),
        "{to}": (day + timedelta(days=1)).isoformat(),
    }
    sql = _SQL["make_partition"]
    for mark, value in values.items():
        sql = sql.replace(mark, value)
    return sql
