"""When the loop's present turn began: until then, at the latest, what is handled in it was ready.

A request waits twice: in its socket until the loop comes to it, then for its commit. Only the second wait
shows in its handler. With a thousand readable sockets a turn takes hundreds of milliseconds, and the last
request of it would seem to have come just now.
"""

import trio


class Ticks(trio.abc.Instrument):
    """Install it with `trio.lowlevel.add_instrument` in the run that it is for."""

    def __init__(self) -> None:
        self._began: float | None = None

    def after_io_wait(self, timeout: float) -> None:
        """Trio has collected what is ready, and runs it next."""
        self._began = trio.current_time()

    def began(self) -> float:
        """On trio's clock; now where it is not installed."""
        return trio.current_time() if self._began is None else self._began
