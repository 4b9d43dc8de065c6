"""One batch's transaction, as it runs on the asyncio side.

Why a file of its own: everything here runs beside asyncpg, inside one crossing of the bridge, and touches no
state of the writer. What each statement does is said in storage/sql/writer.sql.

Promises   a batch is there completely or not at all; a lost answer to what commits it is
           CommitOutcomeUnknown; no transaction is left open. Nearly every batch is one statement, which is
           its own transaction; one whose statements might meet in a row is several between BEGIN and COMMIT.
Leaves     trying again, splitting and verdicts to `storage.writer`.
"""

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, Protocol
from uuid import UUID

import asyncpg
from msgspec import Struct

from engine.errors import Defect
from storage.batch import STATEMENTS, WriteSet, gather
from storage.errors import FOREIGN_ERRORS, translate
from storage.fused import fuse, waves

_OPEN_BATCH: Final = STATEMENTS["open_batch"]
_OPENED_BATCH: Final = STATEMENTS["opened_batch"]
_TAKE_OWNERSHIP: Final = STATEMENTS["take_ownership"].sql
_FORGET_BATCHES: Final = STATEMENTS["forget_batches"].sql
_ANALYZE: Final = STATEMENTS["analyze"].sql

_TAKEN_OVER: Final = "MJ001"
"""What mijra_kept ends a statement with (storage/sql/tenant/0002_one_statement.sql)."""

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
    """The batch's transaction. Returns the tenants that are no longer ours; then nothing was written.

    The session must be set to the batch's tenants.
    """
    first, *rest = waves(gather(batch.sets, dict(zip(batch.tenants, batch.before, strict=True)))) or [[]]
    opening = (batch.tenants, batch.epochs, batch.before, batch.after, batch.id)
    try:
        if not rest:
            await _commit(connection, *fuse(_OPEN_BATCH, opening, first))
            return []
        await connection.execute("BEGIN")
        try:
            sql, arguments = fuse(_OPEN_BATCH, opening, first)
            await connection.fetch(sql, *arguments)
            for wave in rest:
                sql, arguments = fuse(_OPENED_BATCH, (), wave)
                await connection.fetch(sql, *arguments)
        except BaseException:
            await _roll_back(connection)
            raise
        await _commit(connection, "COMMIT", ())
    except asyncpg.PostgresError as error:
        if error.sqlstate != _TAKEN_OVER:
            raise
        return [int(tenant_id) for tenant_id in error.detail.split(",")]
    return []


async def take_ownership(
    connection: _Connection, tenants: list[int], node: str
) -> list[tuple[int, int, int]]:
    return [tuple(row) for row in await connection.fetch(_TAKE_OWNERSHIP, tenants, node)]


async def forget_batches(connection: _Connection) -> None:
    await connection.execute(_FORGET_BATCHES, BATCH_IDS_KEPT_SECONDS, FORGET_MAX)


async def analyze(connection: _Connection) -> None:
    await connection.execute(_ANALYZE)


async def _roll_back(connection: _Connection) -> None:
    if not connection.is_closed():
        # What went wrong before is the error to report; its owner closes a connection that cannot roll back.
        with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
            await connection.execute("ROLLBACK")


async def _commit(connection: _Connection, sql: str, arguments: Sequence[object]) -> None:
    """Run what commits: COMMIT, or a statement that is its own transaction."""
    try:
        status = await connection.execute(sql, *arguments)
    except FOREIGN_ERRORS as error:
        if isinstance(error, asyncpg.PostgresError) and error.sqlstate == _TAKEN_OVER:
            raise
        raise translate(error, commit_sent=True, connection_closed=connection.is_closed()) from error
    if sql == "COMMIT" and status != "COMMIT":
        raise Defect(f"COMMIT was answered with {status}.")


def batch_id() -> UUID:
    """Sorts by time, so that the index on the ids grows at its end."""
    milliseconds = time.time_ns() // 1_000_000
    return UUID(int=(milliseconds << 80) | int.from_bytes(os.urandom(10), "big"))
