"""How many deliveries of one tenant are worked on at a time.

Everything that was let in shares the processor, so what is let in without end makes everybody slow, however
fair the queues behind are. While several tenants have deliveries, each has at most `AT_ONCE` in work and its
others wait here, in the order of their coming, at no cost to anybody. A lone tenant is not held up.

Leaves     how many may wait to whoever calls (`gateway.webhooks`: a share of what may be in flight).
"""

from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from math import inf
from typing import Final

import trio

AT_ONCE: Final = 16
"""With 10 ms for each this is 1,600 a second for one tenant beside the others, about half of the edge's goal.
Each more is processor time that somebody else's delivery finds before it."""

SHARED_SECONDS: Final = 1.0
"""How long after another tenant's delivery a tenant does not count as alone: somebody who receives a message
every second should not find everything taken each time."""


class Turnstile:
    """All methods belong to the trio thread."""

    def __init__(self) -> None:
        self._working: dict[int, int] = {}
        self._lines: dict[int, deque[Callable[[], None]]] = {}
        self._last_tenant: int | None = None
        self._last_came = -inf
        self._shared_until = -inf

    def enter(self, tenant: int, go: Callable[[], None]) -> None:
        """Calls `go` when the tenant's turn comes, perhaps now. Whoever was let in says `leave` at the end.
        `go` must not raise."""
        if tenant != self._last_tenant:
            self._shared_until = self._last_came + SHARED_SECONDS
            self._last_tenant = tenant
        self._last_came = trio.current_time()
        if self._working.get(tenant, 0) < AT_ONCE or not self._is_shared():
            self._working[tenant] = self._working.get(tenant, 0) + 1
            go()
        else:
            # Whoever leaves hands the place over.
            self._lines.setdefault(tenant, deque()).append(go)

    def leave(self, tenant: int) -> None:
        """One of those who were let in is done."""
        working = self._working[tenant] - 1
        line = self._lines.get(tenant)
        going: list[Callable[[], None]] = []
        if line is not None:
            # Alone again: nobody is held up any more. And never more than the cap allows otherwise.
            free = max(0, AT_ONCE - working) if self._is_shared() else len(line)
            going = [line.popleft() for _ in range(min(free, len(line)))]
            if not line:
                del self._lines[tenant]
        working += len(going)
        if working:
            self._working[tenant] = working
        else:
            del self._working[tenant]
        for go in going:
            go()

    @asynccontextmanager
    async def passed(self, tenant: int) -> AsyncIterator[None]:
        """Waits for the tenant's turn, which lasts until the block is left. A checkpoint only if it waits;
        when cancelled then, nothing was entered."""
        turn = trio.Event()
        self.enter(tenant, turn.set)
        if not turn.is_set():
            try:
                await turn.wait()
            except trio.Cancelled:
                if turn.is_set():
                    self.leave(tenant)
                else:
                    self._give_up(tenant, turn.set)
                raise
        try:
            yield
        finally:
            self.leave(tenant)

    def waiting(self, tenant: int) -> int:
        """How many of the tenant's deliveries wait for their turn."""
        line = self._lines.get(tenant)
        return 0 if line is None else len(line)

    def _give_up(self, tenant: int, go: Callable[[], None]) -> None:
        line = self._lines[tenant]
        line.remove(go)
        if not line:
            del self._lines[tenant]

    def _is_shared(self) -> bool:
        return trio.current_time() < self._shared_until
