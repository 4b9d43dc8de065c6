"""Turns for senders that are tested without a channel."""

from collections.abc import Callable

import trio


class AtOnce:
    """A turn that comes at once, after `seconds`."""

    def __init__(self, seconds: float = 0.0, look: Callable[[], object] = lambda: None) -> None:
        self.seconds = seconds
        self.look = look
        self.came: list[object] = []
        self.writings = 0

    async def come(self) -> None:
        await trio.sleep(self.seconds)
        self.came.append(self.look())

    def written(self) -> None:
        self.writings += 1
