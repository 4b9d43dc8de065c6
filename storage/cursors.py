"""How far accounts were read that an adapter reads itself, read side (engine.ports.CursorStore).

Leaves     every change to the writer, like all rows: a process that lost the tenant moves no cursor.
"""

from typing import Final

from storage.placements import Placements
from storage.statements import load_sql

_SQL: Final = load_sql("actors.sql")


class CursorReads:
    def __init__(self, placements: Placements) -> None:
        self._placements = placements

    async def load_cursor(self, tenant_id: int, channel_id: int) -> str | None:
        """See engine.ports."""
        value: str | None = await self._placements.pool(tenant_id).fetchval(
            _SQL["channel_cursor"], tenant_id, channel_id, tenants=(tenant_id,)
        )
        return value
