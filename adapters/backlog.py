"""What of an account's outbox is in the store and not in memory, and how it gets there.

Why         Memory is bounded and rows are not, so an item may be forgotten when its row is committed. What
            must survive the forgetting is the order within a conversation: nothing of it may be sent while an
            older item of it is only in the store.
Promises    Every open row is in memory, or it is known that rows from some id on have to be read. Items of a
            conversation come into memory in the order of their ids. A row that ended while a page was being
            read does not come back through that page.
Limits      Pages of 500 rows; 100,000 conversations remembered as having something in the store only, beyond
            which every conversation is assumed to have.
"""

from collections.abc import Sequence
from typing import Final, Protocol

import structlog
import trio

from adapters.lines import LANES, Lines
from engine.domain.outbound import OutboxItem
from engine.errors import Unavailable
from engine.ports import OutboxStore

log = structlog.get_logger()

_FORGOTTEN_MAX: Final = 100_000
"""About 10 MB of keys."""
_PAGE: Final = 500
"""A few hundred KB."""
_STORE_BACKOFF_SECONDS: Final = (0.5, 15.0)


class Admit(Protocol):
    def __call__(self, item: OutboxItem) -> None:
        """Queues an item; called without a checkpoint in between when there is room for it."""
        ...


class Backlog:
    """One account's. Everything but `fill` is for the same task or between checkpoints."""

    def __init__(
        self,
        store: OutboxStore,
        lines: Lines,
        admit: Admit,
        *,
        tenant_id: int,
        channel_id: int,
        items_max: int,
        page_max: int = _PAGE,
    ) -> None:
        self._store = store
        self._lines = lines
        self._admit = admit
        self._tenant_id = tenant_id
        self._channel_id = channel_id
        self._items_max = items_max
        self._page_max = page_max
        # Rows with a higher id than this may be missing from memory; None: none is.
        self._after: int | None = 0
        self._thorough = True
        # Conversations that have a row in the store only; None: nobody knows which.
        self._forgotten: set[str] | None = None
        self._missed: int | None = None
        self._reading = False
        self._ended: set[int] = set()

    @property
    def behind(self) -> bool:
        """Whether something may be in the store that is not in memory."""
        return self._after is not None

    def wants_more(self) -> bool:
        """Whether to read now: half empty, so that a full queue costs one reading for thousands of sends."""
        half = all(2 * count <= self._items_max for count in self._lines.counts)
        return self._after is not None and (self._thorough or half)

    def look_again(self) -> None:
        """Something may have been committed without being told: read everything once."""
        self._forgotten = None
        self._thorough = True
        self._miss(1)

    def offer(self, item: OutboxItem) -> None:
        """An item whose row is committed: into memory if that keeps the order and there is room, else
        forgotten."""
        settled_order = self._after is None or (
            self._forgotten is not None and item.contact_key not in self._forgotten
        )
        if settled_order and self._has_room(item):
            self._admit(item)
            return
        self._forget(item.contact_key)
        self._miss(item.id)

    def ended(self, item_id: int) -> None:
        """The row of this item is no longer open, durably."""
        if self._reading:
            self._ended.add(item_id)

    async def fill(self) -> None:
        """One pass over the open rows in id order, admitting what has room, each conversation in order.

        What has no room is remembered by its conversation, and the next pass begins there. The first pass,
        and one after `look_again`, goes on to the end, so that an agent's reply is found behind a campaign;
        others stop where room ends, since what was told meanwhile is known anyway. Retries while the store is
        away.
        """
        self._reading = True
        try:
            await self._pass()
        finally:
            self._reading = False
            self._ended.clear()

    async def _pass(self) -> None:
        thorough, self._thorough = self._thorough, False
        cursor = self._after or 0
        skipped: set[str] = set()
        first_skipped: int | None = None
        self._missed = None
        at_end = False
        while not at_end and (first_skipped is None or thorough):
            page = await self._page(cursor)
            at_end = len(page) < self._page_max
            for item in page:
                cursor = item.id
                if item.id in self._lines or item.id in self._ended:
                    continue
                if item.contact_key not in skipped and self._has_room(item):
                    self._admit(item)
                    continue
                skipped.add(item.contact_key)
                self._forget(item.contact_key)
                first_skipped = item.id if first_skipped is None else first_skipped
        beyond = None if at_end else cursor + 1
        starts = [start for start in (first_skipped, self._missed, beyond) if start is not None]
        self._after = min(starts) - 1 if starts else None
        if at_end and self._missed is None:
            self._forgotten = skipped if len(skipped) <= _FORGOTTEN_MAX else None

    async def _page(self, after: int) -> Sequence[OutboxItem]:
        wait, most = _STORE_BACKOFF_SECONDS
        while True:
            try:
                return await self._store.load_outbox(
                    self._tenant_id, self._channel_id, after_id=after, limit=self._page_max
                )
            except Unavailable as error:
                log.warning(
                    "channel.store_unavailable",
                    tenant=self._tenant_id,
                    channel=self._channel_id,
                    error=error.message,
                    seconds=wait,
                )
            await trio.sleep(wait)
            wait = min(most, wait * 2)

    def _has_room(self, item: OutboxItem) -> bool:
        return self._lines.counts[min(max(item.lane, 0), LANES - 1)] < self._items_max

    def _forget(self, contact_key: str) -> None:
        if self._forgotten is not None:
            self._forgotten.add(contact_key)
            if len(self._forgotten) > _FORGOTTEN_MAX:
                self._forgotten = None

    def _miss(self, item_id: int) -> None:
        """Rows from this id on have to be read (again)."""
        self._after = item_id - 1 if self._after is None else min(self._after, item_id - 1)
        self._missed = item_id if self._missed is None else min(self._missed, item_id)
