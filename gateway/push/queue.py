"""The frames that wait for one connection: bounded in bytes and age, and no reason for anybody to wait.

Live events are `offer`ed: no room means that the reader is too slow, and the connection ends with a code
that says "resume" instead of holding memory or holding up the hub. A replay is not live and can wait:
it asks for `room` and sleeps on `wait_room`.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

import trio

from gateway.push.codes import CloseCode

FRAME_OVERHEAD_BYTES: Final = 100
"""What an entry costs beside its frame, so that many tiny frames are bounded too (the frame is shared)."""


class FrameQueue:
    """Calls `overflowed(code)` once, from within `offer`, when a limit is passed; afterwards takes nothing.

    One task may wait in `take`, one or more in `wait_room`.
    """

    def __init__(
        self,
        *,
        bytes_max: int,
        age_seconds_max: float,
        overflowed: Callable[[CloseCode], None],
    ) -> None:
        self._bytes_max = bytes_max
        self._age_seconds_max = age_seconds_max
        self._overflowed = overflowed
        self._frames: deque[tuple[float, bytes]] = deque()
        self._bytes = 0
        self._filled = trio.Event()
        self._drained = trio.Event()
        self.closed = False
        self.peak_bytes = 0

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def waiting_bytes(self) -> int:
        return self._bytes

    def offer(self, frame: bytes) -> bool:
        """Takes the frame, or ends the connection. False: not taken."""
        if self.closed:
            return False
        now = trio.current_time()
        size = len(frame) + FRAME_OVERHEAD_BYTES
        # One frame always fits, however large: an event is bounded where it is made, and refusing
        # it here would have the client come back for it forever.
        if self._frames and self._bytes + size > self._bytes_max:
            return self._overflow(CloseCode.SLOW_BYTES)
        if self._frames and now - self._frames[0][0] > self._age_seconds_max:
            return self._overflow(CloseCode.SLOW_AGE)
        self._frames.append((now, frame))
        self._bytes += size
        self.peak_bytes = max(self.peak_bytes, self._bytes)
        self._filled.set()
        return True

    def has_room(self) -> bool:
        """Whether a replay may put in another frame. Half of the queue is kept for live events."""
        return not self.closed and self._bytes * 2 < self._bytes_max

    async def wait_room(self) -> None:
        """Until a replay may go on; never returns once the queue is closed (the session is ending)."""
        while not self.has_room():
            if self._drained.is_set():
                self._drained = trio.Event()
            await self._drained.wait()

    async def take(self) -> list[bytes]:
        """Everything that waits, in order; waits for the first."""
        while not self._frames:
            self._filled = trio.Event()
            await self._filled.wait()
        frames = [frame for _, frame in self._frames]
        self._frames.clear()
        self._bytes = 0
        self._drained.set()
        return frames

    def close(self) -> None:
        """Lets go of everything; what is offered later is not taken."""
        self.closed = True
        self._frames.clear()
        self._bytes = 0

    def _overflow(self, code: CloseCode) -> bool:
        self.close()
        self._overflowed(code)
        return False
