"""What is in the database, read by SQL beside the server: the demo's second witness."""

from typing import Final

from msgspec import Struct

from engine.errors import NotFound
from gateway.cli.demo.reconciliation import StoredMessage
from storage.databases import DatabaseServer, Pool

_PLACE: Final = """
SELECT tenants.id, placements.database FROM tenants JOIN placements ON tenant_id = tenants.id WHERE slug = $1
"""
_NEWEST: Final = "SELECT coalesce(max(id), 0) FROM messages WHERE tenant_id = $1"
_INBOUND: Final = "SELECT count(*) FROM messages WHERE tenant_id = $1 AND id > $2 AND direction = 'inbound'"
_OPEN: Final = """
SELECT
    (SELECT count(*) FROM outbox WHERE tenant_id = $1 AND state IN ('queued', 'sending', 'unknown')),
    (SELECT count(*) FROM attachments WHERE tenant_id = $1 AND state = 'pending'),
    (SELECT coalesce(max(cursor), 0) FROM ownership WHERE tenant_id = $1)
"""
_MESSAGES: Final = """
SELECT id, conversation_id, seq, direction, platform_message_id, status,
       edited_at IS NOT NULL AS edited, deleted_at IS NOT NULL AS deleted
FROM messages WHERE tenant_id = $1 AND id > $2 ORDER BY id
"""
_ATTACHMENTS: Final = """
SELECT state, count(*) FROM attachments WHERE tenant_id = $1 AND message_id > $2 GROUP BY state
"""


class Open(Struct, frozen=True, kw_only=True):
    """What the server still has to do, and the cursor of the newest event."""

    outbox: int
    attachments: int
    cursor: int


class Witness:
    """One tenant's database. Every read is a new look; nothing is kept."""

    def __init__(self, pool: Pool, tenant_id: int, earlier_id: int) -> None:
        self._pool = pool
        self._tenant_id = tenant_id
        self.earlier_id = earlier_id

    @classmethod
    async def find(cls, server: DatabaseServer, slug: str) -> "Witness":
        """Also notes the newest message of now: what comes later belongs to this run."""
        place = await server.pool(server.landlord_database).fetchrow(_PLACE, slug)
        if place is None:
            raise NotFound(f"There is no tenant {slug}.")
        pool, tenant_id = server.pool(place["database"]), place["id"]
        return cls(pool, tenant_id, await pool.fetchval(_NEWEST, tenant_id, tenants=[tenant_id]))

    async def inbound(self) -> int:
        count: int = await self._fetchval(_INBOUND, self.earlier_id)
        return count

    async def open(self) -> Open:
        outbox, attachments, cursor = (await self._pool.fetch(_OPEN, self._tenant_id, tenants=self._own))[0]
        return Open(outbox=outbox, attachments=attachments, cursor=cursor)

    async def messages(self) -> list[StoredMessage]:
        rows = await self._pool.fetch(_MESSAGES, self._tenant_id, self.earlier_id, tenants=self._own)
        return [StoredMessage(**dict(row)) for row in rows]

    async def attachments(self) -> dict[str, int]:
        """How many are in which state."""
        rows = await self._pool.fetch(_ATTACHMENTS, self._tenant_id, self.earlier_id, tenants=self._own)
        return {row["state"]: row["count"] for row in rows}

    @property
    def _own(self) -> list[int]:
        return [self._tenant_id]

    async def _fetchval(self, sql: str, *args: object) -> int:
        value: int = await self._pool.fetchval(sql, self._tenant_id, *args, tenants=self._own)
        return value
