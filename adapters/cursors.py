"""How far accounts were read: the durable cursors that services keep.

Promises    `put` returns when the text is durable, through the batching writer, so that a process that has
            lost the tenant to another moves nothing.
"""

from collections.abc import Callable
from typing import Final

from adapters.committing import Commit, room
from adapters.port import Account
from engine.domain.rows import ChannelCursorRow
from engine.errors import InvalidInput
from engine.ports import CursorStore
from engine.runtime import Address, Committer

CURSOR_BYTES_MAX: Final = 4_096
"""A position, or a few for the folders of a mailbox; what is longer is no cursor. The table checks it too."""


class DurableCursors:
    """Implements `adapters.service.Cursors`."""

    def __init__(self, store: CursorStore, committer: Committer, wall_ms: Callable[[], int]) -> None:
        self._store = store
        self._committer = committer
        self._wall_ms = wall_ms

    async def get(self, account: Account) -> str | None:
        return await self._store.load_cursor(account.tenant_id, account.channel_id)

    async def put(self, account: Account, text: str) -> None:
        if len(text.encode()) > CURSOR_BYTES_MAX:
            raise InvalidInput(f"A cursor has {CURSOR_BYTES_MAX} bytes at most.")
        row = ChannelCursorRow(
            tenant_id=account.tenant_id,
            channel_id=account.channel_id,
            value=text,
            updated_at=self._wall_ms(),
        )
        await room(self._committer, account.tenant_id)
        address = Address("cursor", account.tenant_id, account.channel_id)
        await Commit(self._committer, address, 0, (row,)).wait()
