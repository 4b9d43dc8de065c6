"""A circuit breaker: while a platform is down, one probe asks instead of everybody. Pure, time passed in.

    closed ──failures in a row──> open ──its time is over──> half-open ──probe succeeds──> closed
                                   ^                            │
                                   └────────probe fails─────────┘   (each time twice as long)

Only what says that the platform cannot be talked to counts as a failure. A refused message is a platform that
works.
"""

from enum import Enum
from typing import Final

_FAILURES_MAX: Final = 10
"""In a row, over all conversations of the account: one bad connection is none of it, a dead peer reaches it
within the first round of calls."""
_OPEN_SECONDS: Final = 2.0
_OPEN_SECONDS_MAX: Final = 60.0
"""A platform that comes back is noticed within a minute."""


class CircuitState(Enum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Circuit:
    """One for each account. Ask `wait` before a call and report how it ended."""

    __slots__ = ("_failures", "_open_seconds", "_opened_until", "_probing")

    def __init__(self) -> None:
        self._failures = 0
        self._open_seconds = 0.0
        self._opened_until = 0.0
        self._probing = False

    def state(self, now: float) -> CircuitState:
        if not self._open_seconds:
            return CircuitState.CLOSED
        return CircuitState.OPEN if now < self._opened_until else CircuitState.HALF_OPEN

    def wait(self, now: float) -> float | None:
        """Seconds until a call may be made: 0 now, None when the probe's end decides."""
        match self.state(now):
            case CircuitState.CLOSED:
                return 0.0
            case CircuitState.OPEN:
                return self._opened_until - now
            case CircuitState.HALF_OPEN:
                return None if self._probing else 0.0

    def started(self, now: float) -> bool:
        """A call is made. True: it is the probe, and its end must be reported as such."""
        if self.state(now) is CircuitState.HALF_OPEN and not self._probing:
            self._probing = True
            return True
        return False

    def succeeded(self) -> None:
        """The platform answered, whatever it said."""
        self._failures = 0
        self._open_seconds = 0.0
        self._probing = False

    def failed(self, now: float, *, probe: bool) -> bool:
        """No answer. True: this failure opened the circuit.

        Calls that were under way when it opened fail too; they say nothing new and do not prolong it.
        """
        if probe:
            self._probing = False
        elif self._open_seconds:
            return False
        else:
            self._failures += 1
            if self._failures < _FAILURES_MAX:
                return False
        self._open_seconds = min(_OPEN_SECONDS_MAX, self._open_seconds * 2 or _OPEN_SECONDS)
        self._opened_until = now + self._open_seconds
        return True

    def abandoned(self, *, probe: bool) -> None:
        """A call ended without telling anything about the platform (cancelled, settled meanwhile)."""
        if probe:
            self._probing = False
