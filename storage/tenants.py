"""What a tenant's actors start from: configuration, assignment, timers (engine.ports.TenantStore).

Promises   a configuration is read in one crossing and one snapshot, after the tenant was taken (`take`), so
           that no other node can change it between reading and deciding; the assigner's and the timers'
           reads are bounded by the limits they are given.
Limits     those of `storage.databases`; a tenant has hundreds of users, tags and rules, not millions.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec

from engine.domain.config import (
    Agent,
    AssignmentSettings,
    Channel,
    ConversationSettings,
    ReplyRule,
    Tag,
    TenantConfig,
    Week,
)
from engine.domain.rows import EventRow, Row, TimerRow
from engine.errors import InvalidInput
from engine.ports import AssignmentSnapshot, WaitingConversation
from storage.batch import STATEMENTS, WriteSet, gather
from storage.databases import transaction
from storage.fused import fuse, waves
from storage.placements import Placements
from storage.records import Reader
from storage.statements import load_sql

_SQL: Final = load_sql("actors.sql")
_agents: Final = Reader(Agent, given=("week",))
_channels: Final = Reader(Channel)
_tags: Final = Reader(Tag)
_rules: Final = Reader(ReplyRule)
_timers: Final = Reader(TimerRow)
_waiting: Final = Reader(WaitingConversation)
_week: Final = msgspec.json.Decoder(Week).decode
_assignment: Final = msgspec.json.Decoder(AssignmentSettings).decode
_conversations: Final = msgspec.json.Decoder(ConversationSettings).decode
_NOTHING: Final = "{}"
_OPENED_BATCH: Final = STATEMENTS["opened_batch"]


class Tenants:
    """The store of what is the tenant's as a whole.

    `take` is called with the tenant's id before its configuration is read (storage.writers.Writers.take), and
    `newest_id` afterwards with the highest id that it has stored (engine.domain.ids.IdAllocator.above); None
    for a process that only looks.
    """

    def __init__(
        self,
        placements: Placements,
        *,
        take: Callable[[int], Awaitable[object]] | None = None,
        newest_id: Callable[[int], object] | None = None,
    ) -> None:
        self._placements = placements
        self._take = take
        self._newest_id = newest_id

    async def load_config(self, tenant_id: int) -> TenantConfig:
        """Raises NotFound for a tenant that is not placed."""
        tenant = self._placements.tenant(tenant_id)
        if self._take is not None:
            await self._take(tenant_id)
        found = await self._placements.pool(tenant_id).run(_configuration, tenant_id, tenants=(tenant_id,))
        if self._newest_id is not None:
            self._newest_id(found["newest_id"][0][0])
        settings = {record["name"]: record["value"] for record in found["settings"]}
        hours = settings.get("work_hours")
        return TenantConfig(
            tenant_id=tenant_id,
            slug=tenant.slug,
            name=tenant.name,
            timezone=ZoneInfo(tenant.timezone),
            agents={record["id"]: _agent(record) for record in found["users"]},
            channels={record["id"]: _channels.read(record) for record in found["channels"]},
            tags={record["id"]: _tags.read(record) for record in found["tags"]},
            rules={record["id"]: _rules.read(record) for record in found["automated_replies"]},
            assignment=_assignment(settings.get("assignment", _NOTHING)),
            week=None if hours is None else _week_of(hours),
            conversations=_conversations(settings.get("conversations", _NOTHING)),
        )

    async def load_assignment(self, tenant_id: int, *, waiting_max: int) -> AssignmentSnapshot:
        """See engine.ports."""
        pool = self._placements.pool(tenant_id)
        loads, last, waiting = await pool.run(_assignments, tenant_id, waiting_max + 1, tenants=(tenant_id,))
        return AssignmentSnapshot(
            loads={record["assigned_to"]: record["load"] for record in loads},
            last_user_id=last,
            waiting=tuple(_waiting.read(record) for record in waiting[:waiting_max]),
            more=len(waiting) > waiting_max,
        )

    async def load_timers(self, tenant_id: int, *, due_before: int, limit: int) -> Sequence[TimerRow]:
        """Deadlines before `due_before` (milliseconds), the earliest first."""
        records = await self._placements.pool(tenant_id).fetch(
            _SQL["due_timers"], tenant_id, due_before, limit, tenants=(tenant_id,)
        )
        return [_timers.read(record) for record in records]

    async def write_apart(self, tenant_id: int, rows: Sequence[Row]) -> None:
        """Commit rows of a tenant that no process serves yet: its first user, its first channel.

        Takes no ownership, so a running owner is not fenced off, and does not learn of it either. Events are
        refused with InvalidInput, because their cursor is the owner's. Raises CommitConflict and
        CommitPoisoned like the writer.
        """
        write_set = WriteSet(tenant_id, "apart", 0, rows, lambda error: None)
        if write_set.refused is not None:
            raise write_set.refused
        if any(isinstance(row, EventRow) for row in rows):
            raise InvalidInput("Only the owner of a tenant writes its event log.")
        await self._placements.pool(tenant_id).write(_write_apart, write_set, tenants=(tenant_id,))


def _agent(record: Any) -> Agent:
    hours = record["work_hours"]
    return _agents.read(record, week=None if hours is None else _week_of(hours))


def _week_of(text: str) -> Week | None:
    # A JSON null is "no hours set": always open, or the tenant's.
    return None if text == "null" else _week(text)


# From here on: the asyncio side.


async def _configuration(connection: Any, tenant_id: int) -> dict[str, list[Any]]:
    await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    try:
        return {
            name: await connection.fetch(_SQL[name], tenant_id)
            for name in ("users", "channels", "tags", "automated_replies", "settings", "newest_id")
        }
    finally:
        if not connection.is_closed():
            await connection.execute("COMMIT")


async def _assignments(
    connection: Any, tenant_id: int, limit: int
) -> tuple[list[Any], int | None, list[Any]]:
    loads = await connection.fetch(_SQL["agent_loads"], tenant_id)
    last = await connection.fetchval(_SQL["last_from_pool"], tenant_id)
    waiting = await connection.fetch(_SQL["waiting_conversations"], tenant_id, limit)
    return loads, last, waiting


async def _write_apart(connection: Any, write_set: WriteSet) -> None:
    async with transaction(connection):
        for wave in waves(gather((write_set,), {})):
            sql, arguments = fuse(_OPENED_BATCH, (), wave)
            await connection.execute(sql, *arguments)
