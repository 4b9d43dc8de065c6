"""The writers of all databases, as the one Committer that the runtime knows.

Promises   a tenant's write sets go to the writer of the tenant's database, which is made on first use and
           costs no task while it has nothing to do; a stopping system finishes what was submitted.
Leaves     everything about batches to `storage.writer`; where a tenant is placed to `database_of`.
"""

from collections.abc import Awaitable, Callable, Sequence
from random import Random

import trio

from engine.errors import Defect
from engine.ports import EventSink
from engine.runtime import Lane
from storage.batch import Addressed, Done
from storage.databases import Pool
from storage.writer import Writer, WriterLimits, WriterStatistics


class Writers:
    """All databases' writers, as the runtime's Committer.

    `run` must be running while anything is submitted. `database_of` names the database of a tenant and
    raises for a tenant that is not placed.
    """

    def __init__(
        self,
        pool_of: Callable[[str], Pool],
        database_of: Callable[[int], str],
        *,
        node: str,
        sink: EventSink,
        limits: WriterLimits = WriterLimits(),  # noqa: B008  immutable
        random: Random | None = None,
    ) -> None:
        self._pool_of = pool_of
        self._database_of = database_of
        self._node = node
        self._sink = sink
        self._limits = limits
        self._random = random
        self._writers: dict[str, Writer] = {}
        self._nursery: trio.Nursery | None = None
        self._room_wanted: list[Callable[[], None]] = []
        self._stop = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until `stop`, then finish what was submitted. When cancelled, abandon it."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            try:
                await self._stop.wait()
                for writer in self._writers.values():
                    await writer.flush()
            finally:
                # While the end is waited for, what is handed in is refused: no task could be started for it.
                self._nursery = None

    def stop(self) -> None:
        """Let `run` return once everything has its verdict. Nothing may be submitted any more."""
        self._stop.set()

    def writer(self, tenant_id: int) -> Writer:
        """The writer of the tenant's database."""
        database = self._database_of(tenant_id)
        found = self._writers.get(database)
        if found is None:
            found = self._writers[database] = Writer(
                self._pool_of(database),
                node=self._node,
                sink=self._sink,
                spawn=self._start,
                on_room=self._room_made,
                limits=self._limits,
                random=self._random,
            )
        return found

    def submit(self, address: Addressed, generation: int, rows: Sequence[object], done: Done) -> None:
        """Take one write set for the address's tenant; see Writer.submit."""
        self.writer(address.tenant).submit(address.tenant, address, generation, rows, done)

    def has_room(self, tenant: int, lane: Lane = Lane.NORMAL) -> bool:
        """Whether the tenant's writer wants more. False is advice: `submit` takes rows all the same."""
        return self.writer(tenant).has_room(tenant, lane)

    def when_room(self, callback: Callable[[], None]) -> None:
        """Call back once, when a writer has room again for a tenant and lane that it had none for."""
        self._room_wanted.append(callback)

    async def take(self, tenant_id: int) -> int:
        """See Writer.take."""
        return await self.writer(tenant_id).take(tenant_id)

    async def head(self, tenant_id: int) -> int:
        """See Writer.head."""
        return await self.writer(tenant_id).head(tenant_id)

    async def flush(self) -> None:
        """Wait until everything submitted so far has its verdict."""
        for writer in list(self._writers.values()):
            await writer.flush()

    def statistics(self) -> list[WriterStatistics]:
        return [writer.statistics() for writer in self._writers.values()]

    def _start(self, task: Callable[[], Awaitable[object]]) -> None:
        if self._nursery is None:
            raise Defect("The writers are not running.")
        self._nursery.start_soon(task)

    def _room_made(self) -> None:
        callbacks, self._room_wanted = self._room_wanted, []
        for callback in callbacks:
            callback()
