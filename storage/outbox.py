"""The durable queues of the channel actors and media fetchers, read side (engine.ports.OutboxStore).

Promises   items come in the order of their ids, from where the caller stopped; each page is one statement
           served by a partial index that holds open items only, however long the history grows.
Leaves     every change to the writer: an item's state moves in the same commit as the message's.
"""

from collections.abc import Sequence
from typing import Final

from engine.domain.outbound import OutboxItem
from engine.domain.rows import AttachmentRow
from engine.ports import OpenWork
from storage.contacts import outbox_item
from storage.placements import Placements
from storage.records import Reader
from storage.statements import load_sql

_SQL: Final = load_sql("actors.sql")
_attachments: Final = Reader(AttachmentRow)


class Outbox:
    """What waits to be sent or fetched."""

    def __init__(self, placements: Placements) -> None:
        self._placements = placements

    async def load_outbox(
        self, tenant_id: int, channel_id: int, *, after_id: int, limit: int
    ) -> Sequence[OutboxItem]:
        """See engine.ports."""
        records = await self._placements.pool(tenant_id).fetch(
            _SQL["open_outbox"], tenant_id, channel_id, after_id, limit, tenants=(tenant_id,)
        )
        return [outbox_item(record) for record in records]

    async def load_pending_media(
        self, tenant_id: int, *, after_id: int, limit: int
    ) -> Sequence[AttachmentRow]:
        """Attachments still to be fetched, with id > after_id, in id order."""
        records = await self._placements.pool(tenant_id).fetch(
            _SQL["pending_media"], tenant_id, after_id, limit, tenants=(tenant_id,)
        )
        return [_attachments.read(record) for record in records]

    async def open_work(self, tenant_id: int) -> OpenWork:
        """See engine.ports."""
        record = await self._placements.pool(tenant_id).fetchrow(
            _SQL["open_work"], tenant_id, tenants=(tenant_id,)
        )
        assert record is not None, "the statement has no FROM"
        return OpenWork(
            channel_ids=tuple(record["channel_ids"]),
            media=record["media"],
            timers=record["timers"],
            waiting=record["waiting"],
            merges=record["merges"],
        )
