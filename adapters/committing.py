"""Waiting for the writer from a worker: the `Committer` of the runtime speaks in callbacks, tasks want to
wait."""

from collections.abc import Sequence

import trio

from engine.errors import CommitFailed
from engine.runtime import Address, Committer


async def room(committer: Committer, tenant_id: int) -> None:
    """Returns when the tenant's writer wants more. Between the return and the next checkpoint it still
    does."""
    while not committer.has_room(tenant_id):
        ready = trio.Event()
        committer.when_room(ready.set)
        await ready.wait()


class Commit:
    """Rows on their way into the database. Submitted when this is made, without a checkpoint."""

    def __init__(
        self, committer: Committer, address: Address, generation: int, rows: Sequence[object]
    ) -> None:
        self._ended = trio.Event()
        self._error: CommitFailed | None = None
        committer.submit(address, generation, rows, self._done)

    def _done(self, error: CommitFailed | None) -> None:
        self._error = error
        self._ended.set()

    async def wait(self) -> None:
        """Returns when the rows are durable; raises CommitFailed. When cancelled they may still become so."""
        await self._ended.wait()
        if self._error is not None:
            raise self._error
