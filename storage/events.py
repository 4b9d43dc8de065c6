"""The event log, read side (engine.ports.EventLog).

Promises   what is read is what was pushed, byte for byte; cursors come in order and without holes, except
           at the beginning, where old days are dropped (`storage.upkeep`).
Limits     whoever reads says how many; one page is one statement by primary key.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from engine.ports import LoggedEvent
from storage.placements import Placements
from storage.statements import load_sql

_SQL: Final = load_sql("actors.sql")


class Events:
    """`head_of` knows the head without asking the database (storage.writers.Writers.head); without one, it is
    read, which is enough for a process that does not push."""

    def __init__(
        self, placements: Placements, *, head_of: Callable[[int], Awaitable[int]] | None = None
    ) -> None:
        self._placements = placements
        self._head_of = head_of

    async def head(self, tenant_id: int) -> int:
        """The cursor of the last committed event; 0 before the first."""
        if self._head_of is not None:
            return await self._head_of(tenant_id)
        found = await self._value("head_of_log", tenant_id)
        return 0 if found is None else found

    async def oldest(self, tenant_id: int) -> int:
        """The smallest cursor still held; head + 1 when none is."""
        # Before the query: an event that is committed meanwhile is then found, not skipped.
        head = await self.head(tenant_id)
        found = await self._value("oldest_event", tenant_id)
        return head + 1 if found is None else found

    async def read(
        self, tenant_id: int, *, after: int, limit: int, channels: Sequence[str] | None = None
    ) -> Sequence[LoggedEvent]:
        """At most `limit` events with a cursor above `after`, in order; with `channels`, those of them that
        went to one of these."""
        records = await self._placements.pool(tenant_id).fetch(
            _SQL["read_events"],
            tenant_id,
            after,
            limit,
            None if channels is None else list(channels),
            tenants=(tenant_id,),
        )
        return [
            LoggedEvent(
                tenant_id=tenant_id,
                cursor=record["cursor"],
                name=record["name"],
                channels=tuple(record["channels"]),
                data=record["data"].encode(),
                trace=record["trace"],
                at=record["at"],
            )
            for record in records
        ]

    async def _value(self, statement: str, tenant_id: int) -> int | None:
        found: int | None = await self._placements.pool(tenant_id).fetchval(
            _SQL[statement], tenant_id, tenants=(tenant_id,)
        )
        return found
