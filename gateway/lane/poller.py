"""One wait for many sockets: which of the connections between two requests have something to read.

Why      A task that waits for its socket costs trio a registration with the kernel, a cancel scope's deadline
         and a task switch for each request: together more than reading the request. Here a socket is
         registered once, and whoever watches it is called.
Promises Callbacks in trio's thread, one socket after the other, at most `READY_MAX` between two looks at the
         rest of the program; the kernel lists the others first the next time.
Leaves   reading, deadlines and everything else to the callbacks. They must not raise.
"""

import select
from collections.abc import Callable
from typing import Final

import trio

READY_MAX: Final = 16
"""Sockets served in one go. A request costs about 0.1 ms, so that is what a timer may be late by, twice."""


class Poller:
    """`run` must be running while anything is watched."""

    def __init__(self) -> None:
        self._epoll: select.epoll | None = None
        self._watched: dict[int, Callable[[], None]] = {}

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
                    await trio.lowlevel.wait_readable(epoll.fileno())
                    for descriptor, _ in epoll.poll(0, READY_MAX):
                        # One callback may have ended another one's watch.
                        ready = self._watched.get(descriptor)
                        if ready is not None:
                            ready()
            finally:
                self._epoll = None

    def watch(self, descriptor: int, ready: Callable[[], None]) -> None:
        """Call `ready` whenever `descriptor` can be read or has ended, until `leave`."""
        assert self._epoll is not None, "the poller runs"
        self._epoll.register(descriptor, select.EPOLLIN)
        self._watched[descriptor] = ready

    def leave(self, descriptor: int) -> None:
        """End a watch; harmless when there is none."""
        if self._watched.pop(descriptor, None) is not None and self._epoll is not None:
            self._epoll.unregister(descriptor)
