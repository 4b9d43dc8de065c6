"""One batch's transaction, as it runs on the asyncio side.

Why a file of its own: everything here runs beside asyncpg, inside one crossing of the bridge, and touches no
state of the writer. What each statement does is said in storage/sql/writer.sql.

Promises   a batch is there completely or not at all; a lost answer to its COMMIT is CommitOutcomeUnknown;
           no transaction is left open.
Leaves     trying again, splitting and verdicts to `storage.writer`.
"""

import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol
from uuid import UUID

import asyncpg
from msgspec import Struct

from engine.errors import Defect
from storage.batch import STATEMENTS, WriteSet, gather
from storage.errors import translate

_OPEN_BATCH: Final = STATEMENTS["open_batch"].sql
_TAKE_OWNERSHIP: Final = STATEMENTS["take_ownership"].sql
_FORGET_BATCHES: Final = STATEMENTS["forget_batches"].sql
_ANALYZE: Final = STATEMENTS["analyze"].sql

# For each transaction. A generic plan, by index whatever the statistics say: the statements join a batch with
# a table by key, and a plan made while the table was empty would scan it when it no longer is. A session that
# lost its client must let go of its locks before the retry gives up waiting for them.
_SETTINGS: Final = (
    "SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL enable_seqscan = off; "
    "SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; "
    "SET LOCAL synchronous_commit = on; SET LOCAL idle_in_transaction_session_timeout = '10s'"
)

BATCH_IDS_KEPT_SECONDS: Final = 3600.0
"""A retry follows within seconds; an hour covers a process that was suspended in between."""

FORGET_MAX: Final = 20_000
"""A minute holds at most about 10,000 batches, so this keeps up, within milliseconds."""


class Batch(Struct, frozen=True):
    """One transaction's worth, unchanged from the first try to the last."""

    id: UUID
    sets: Sequence[WriteSet]
    tenants: list[int]
    epochs: list[int]
    before: list[int]
    after: list[int]


class _Connection(Protocol):
    """What the statements below use of asyncpg's connection."""

    async def execute(self, query: str, *args: object) -> str: ...
    async def fetch(self, query: str, *args: object) -> list[Any]: ...
    def is_closed(self) -> bool: ...


async def commit_batch(connection: _Connection, batch: Batch) -> list[int]:
    """The batch's transaction. Returns the tenants that are no longer ours; then nothing was written."""
    calls = gather(batch.sets, dict(zip(batch.tenants, batch.before, strict=True)))
    await connection.execute(_begin(batch.tenants))
    try:
        kept = await connection.fetch(
            _OPEN_BATCH, batch.tenants, batch.epochs, batch.before, batch.after, batch.id
        )
        if len(kept) < len(batch.tenants):
            await connection.execute("ROLLBACK")
            return sorted(set(batch.tenants) - {row[0] for row in kept})
        for sql, columns in calls:
            await connection.execute(sql, *columns)
    except BaseException:
        await _roll_back(connection)
        raise
    await _commit(connection)
    return []


async def take_ownership(
    connection: _Connection, tenants: list[int], node: str
) -> list[tuple[int, int, int]]:
    await connection.execute(_begin(tenants))
    try:
        rows = await connection.fetch(_TAKE_OWNERSHIP, tenants, node)
    except BaseException:
        await _roll_back(connection)
        raise
    await _commit(connection)
    return [tuple(row) for row in rows]


async def forget_batches(connection: _Connection) -> None:
    await connection.execute(_FORGET_BATCHES, BATCH_IDS_KEPT_SECONDS, FORGET_MAX)


async def analyze(connection: _Connection) -> None:
    await connection.execute(_ANALYZE)


def _begin(tenants: Iterable[int]) -> str:
    return f"BEGIN; SET LOCAL mijra.tenants = '{','.join(map(str, tenants))}'; {_SETTINGS}"


async def _roll_back(connection: _Connection) -> None:
    if not connection.is_closed():
        # What went wrong before is the error to report; its owner closes a connection that cannot roll back.
        with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
            await connection.execute("ROLLBACK")


async def _commit(connection: _Connection) -> None:
    try:
        status = await connection.execute("COMMIT")
    except Exception as error:
        known = translate(error, commit_sent=True, connection_closed=connection.is_closed())
        if known is None:
            raise
        raise known from error
    if status != "COMMIT":
        raise Defect(f"COMMIT was answered with {status}.")


def batch_id() -> UUID:
    """Sorts by time, so that the index on the ids grows at its end."""
    milliseconds = time.time_ns() // 1_000_000
    return UUID(int=(milliseconds << 80) | int.from_bytes(os.urandom(10), "big"))
