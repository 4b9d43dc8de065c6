"""The webhook lane of one listening server: its connections, and what it does beside them."""

from collections.abc import Callable
from typing import Final

import trio

from gateway.lane.connection import Connection
from gateway.lane.parser import may_be_lanes
from gateway.lane.refusing import Entrance
from gateway.lane.shared import Begin, Handle, LaneLimits, Shared
from gateway.metrics import Metrics

_LOOK_SECONDS: Final = 0.5
"""How often deadlines are looked at that need not be met to the second: idleness, a store that hangs."""


class WebhookLane:
    """The lane of one listening server; its connections share the budget of bytes and the stop.

    With `begin`, and while `work` runs, a request that arrives whole is answered without its connection's
    task: the poller reads it, `begin` starts it, and the answer is written by whoever has it. Everything out
    of the ordinary wakes the task, which then has the bytes, or the rest of what there is to do. `expire` is
    called a few times a second with trio's time, for what `begin` started and is overdue. `bytes_max` says
    how much a body may have at a path, where that is not the same for all.

    `entrance` is asked when a request arrives while it says that the server is overloaded: what it refuses,
    if it is framed plainly, is answered then, without a parser, a log line or anything else that a delivery
    costs.
    """

    def __init__(
        self,
        handle: Handle,
        metrics: Metrics,
        limits: LaneLimits | None = None,
        *,
        begin: Begin | None = None,
        expire: Callable[[float], None] = lambda now: None,
        bytes_max: Callable[[str], int] | None = None,
        entrance: Entrance | None = None,
    ) -> None:
        self.shared = Shared(
            handle, metrics, limits or LaneLimits(), begin=begin, bytes_max=bytes_max, entrance=entrance
        )
        self._expire = expire
        self._connections: set[Connection] = set()

    def may_be_lanes(self, received: bytes) -> bool:
        return may_be_lanes(received)

    async def work(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        shared = self.shared
        if shared.begin is None:
            task_status.started()  # there is nothing to do beside the connections
            return
        async with trio.open_nursery() as nursery:
            await nursery.start(shared.poller.run)
            task_status.started()
            while True:
                await trio.sleep(min(_LOOK_SECONDS, shared.limits.idle_seconds_max / 4))
                now = trio.current_time()
                self._expire(now)
                for connection in [one for one in shared.parked if one.is_idle(now)]:
                    connection.dismiss()

    async def run(self, stream: trio.SocketStream, received: bytes = b"") -> bytes:
        connection = Connection(self.shared, stream, received)
        self._connections.add(connection)
        try:
            return await connection.run()
        finally:
            self._connections.discard(connection)

    def stop(self) -> None:
        """Ends the connections that wait for a request, and each other one with its answer."""
        self.shared.stopping = True
        for connection in self._connections:
            connection.stop()
