"""One at a time for each key: changes that read, wait and write.

Limits     costs memory only for keys that somebody has or waits for.
On cancel  whoever waited is out of the queue; whoever had it gives it on.
"""

from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager

import trio


class Locks:
    def __init__(self) -> None:
        self._locks: dict[Hashable, trio.Lock] = {}

    @asynccontextmanager
    async def held(self, key: Hashable) -> AsyncIterator[None]:
        """In order of coming."""
        lock = self._locks.setdefault(key, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked() and self._locks.get(key) is lock:
                del self._locks[key]
