"""Waiting for the next event of a tenant, for who reads the log by pull."""

from collections.abc import Sequence
from typing import Final

import trio

from engine.ports import LoggedEvent

WAITING_MAX: Final = 1_000
"""Calls that wait at once: each holds a connection and a task, some 30 KB. Beyond that nobody waits."""


class News:
    """An EventSink. Look with `watch` first, then read, then wait: nothing can come in between unseen."""

    def __init__(self) -> None:
        self._next: dict[int, trio.Event] = {}
        self._waiting = 0
        self._closed = False

    def committed(self, events: Sequence[LoggedEvent]) -> None:
        for tenant_id in {event.tenant_id for event in events}:
            waited_for = self._next.pop(tenant_id, None)
            if waited_for is not None:
                waited_for.set()

    def watch(self, tenant_id: int) -> trio.Event:
        """Set at the tenant's next commit."""
        return self._next.setdefault(tenant_id, trio.Event())

    async def wait(self, event: trio.Event, until: float) -> bool:
        """False: nothing came until then (trio's clock), or too many wait already."""
        if self._closed or self._waiting >= WAITING_MAX:
            return False
        self._waiting += 1
        try:
            with trio.move_on_at(until):
                await event.wait()
        finally:
            self._waiting -= 1
        return event.is_set()

    def close(self) -> None:
        """For the shutdown: nobody waits any more."""
        self._closed = True
        for waited_for in self._next.values():
            waited_for.set()
        self._next.clear()
