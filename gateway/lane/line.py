"""Requests that have arrived whole, or seem so, and wait for their turn: in which order, and which do not.

Why        Under overload most requests are refused, and a refusal is worth something only at once. Whoever
           is refused when his turn comes has waited as long as those who are served.
Promises   While the server is not overloaded: first come, first served. While it is, each request is looked
           at when it arrives (`Watcher.enter`): it is refused then, or it has a place until its turn comes,
           and those with a place are served by tenant, one turn each. What waits when an overload is found
           is looked at then, in the order of its coming.
Limits     an entry for each connection that waits; of those with a place as many as the door lets in.
Leaves     to the door whether the server is overloaded and who has a place.
"""

from collections import deque
from math import inf
from typing import Final, Protocol

from engine.runtime.fair_queue import FairQueue

TURN: Final = 16
"""Requests of one tenant before it is another one's turn: what is begun in one turn of the loop."""


class Watcher(Protocol):
    """A connection, as poller and line see it."""

    def read(self) -> bool:
        """There is something to read, or an end. Says whether it wants to `work` on it in its turn."""
        ...

    def enter(self) -> int | None:
        """The server is overloaded: the tenant whose place it has from now on until its turn, or None if it
        has none, because it was refused, or has left meanwhile."""
        ...

    def work(self, ready: float) -> bool:
        """Its turn has come; it may have left meanwhile. What it read was there at `ready` (trio's clock), at
        the latest. Says whether that cost about as much as a request."""
        ...


class Door(Protocol):
    """Who is let in, as far as the line must know."""

    def is_overloaded(self, waiting: int, oldest: float) -> bool:
        """Whether what arrives has to `enter`. So many wait in the line, the oldest since then (trio's
        clock)."""
        ...

    def called(self, tenant: int) -> None:
        """A request with this tenant's place has its turn, so the place is free."""
        ...


class OpenDoor:
    """Nobody is ever refused."""

    def is_overloaded(self, waiting: int, oldest: float) -> bool:
        return False

    def called(self, tenant: int) -> None:
        """There are no places."""


class Line:
    """Add what arrives with `push` between an `open` and the next one; `call` whoever is next."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._overloaded = False
        self._places = 0
        self._coming: deque[tuple[Watcher, float]] = deque()
        self._entered: FairQueue[tuple[int, Watcher, float]] = FairQueue(TURN)

    def __bool__(self) -> bool:
        return bool(self._coming) or self._places > 0

    def open(self) -> None:
        """Find out whether the server is overloaded now; then what came before has to enter."""
        waiting = len(self._coming) + self._places
        self._overloaded = self._door.is_overloaded(waiting, self._oldest() if waiting else inf)
        if self._overloaded and self._coming:
            coming, self._coming = self._coming, deque()
            for watcher, ready in coming:
                self.push(watcher, ready)

    def push(self, watcher: Watcher, ready: float) -> None:
        """It has something to work on that was there at `ready`."""
        if not self._overloaded:
            self._coming.append((watcher, ready))
        elif (tenant := watcher.enter()) is not None:
            self._entered.push(tenant, (tenant, watcher, ready))
            self._places += 1

    def call(self) -> bool:
        """Let the next one work; as `Watcher.work`. There must be one."""
        entered = self._entered.pop()  # those came before an overload ended
        if entered is None:
            watcher, ready = self._coming.popleft()
        else:
            self._entered.balance -= 1
            self._places -= 1
            tenant, watcher, ready = entered
            self._door.called(tenant)
        return watcher.work(ready)

    def _oldest(self) -> float:
        """Of several tenants' the one whose turn it is: close enough, as they have turns."""
        entered = self._entered.peek()
        return self._coming[0][1] if entered is None else entered[2]
