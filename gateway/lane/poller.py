"""One wait for many sockets: which of the connections between two requests have something to read.

Why      A task that waits for its socket costs trio a registration with the kernel, a cancel scope's deadline
         and a task switch for each request: together more than reading the request. Here a socket is
         registered once, and whoever watches it is called.
Promises Whatever has arrived is read at once, so that how long it waits is known and not hidden in the
         kernel, and what is refused is refused then; the rest is worked on in the order of its line (`line`),
         at most `WORKED_MAX` requests and `TURN_SECONDS` between two looks at the rest of the program.
         Everything happens in trio's thread.
Limits   one entry for each connection that waits for its turn; what it has read is the connection's to bound.
Leaves   reading, deadlines and everything else to the watchers, which must not raise.
"""

import select
from time import perf_counter
from typing import Final

import trio

from gateway.lane.line import TURN, Door, Line, Watcher

READ_MAX: Final = 512
"""Sockets read in one go; 5 µs each, 20 µs if it is refused."""

WORKED_MAX: Final = TURN
"""Requests begun in one go. Each costs about 0.2 ms, so a timer may be late by three."""

TURN_SECONDS: Final = 0.008
"""For what costs less than a request: what left while it waited, what is refused in its turn."""


class Poller:
    """`run` must be running while anything is watched."""

    def __init__(self, door: Door) -> None:
        self._epoll: select.epoll | None = None
        self._watched: dict[int, Watcher] = {}
        self._line = Line(door)

    @property
    def running(self) -> bool:
        return self._epoll is not None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Call back until cancelled."""
        with select.epoll() as epoll:
            self._epoll = epoll
            task_status.started()
            try:
                while True:
                    if self._line:
                        await trio.lowlevel.checkpoint()
                    else:
                        await trio.lowlevel.wait_readable(epoll.fileno())
                    self._read(epoll)
                    self._work()
            finally:
                self._epoll = None

    def _read(self, epoll: select.epoll) -> None:
        now = trio.current_time()
        self._line.open()
        for descriptor, _ in epoll.poll(0, READ_MAX):
            watcher = self._watched.get(descriptor)
            if watcher is not None and watcher.read():
                self._line.push(watcher, now)

    def _work(self) -> None:
        line, worked, end = self._line, 0, perf_counter() + TURN_SECONDS
        while line and worked < WORKED_MAX and perf_counter() < end:
            worked += line.call()

    def watch(self, descriptor: int, watcher: Watcher) -> None:
        """Have `watcher` read whenever `descriptor` can be read or has ended, until `leave`."""
        assert self._epoll is not None, "the poller runs"
        self._epoll.register(descriptor, select.EPOLLIN)
        self._watched[descriptor] = watcher

    def leave(self, descriptor: int) -> None:
        """End a watch; harmless when there is none."""
        if self._watched.pop(descriptor, None) is not None and self._epoll is not None:
            self._epoll.unregister(descriptor)
