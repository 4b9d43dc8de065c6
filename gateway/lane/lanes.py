"""The lanes of one listening server, as its connections see them."""

from collections.abc import Sequence
from typing import Protocol

import trio


class Lane(Protocol):
    """A short way for some requests, in front of the web framework and on its port."""

    def may_be_lanes(self, received: bytes) -> bool:
        """Whether a request that begins so is the lane's, or may turn out to be. True for no bytes at all."""
        ...

    async def run(self, stream: trio.SocketStream, received: bytes = b"") -> bytes:
        """Answers the lane's requests on a connection that stands before a request, and of which `received`
        has been read already. Returns the bytes of the first request that is somebody else's, for whom the
        connection is untouched otherwise; or b"" when there is nothing more to come and it should be closed.
        """
        ...

    async def work(self, *, task_status: trio.TaskStatus[None]) -> None:
        """What the lane does beside its connections, until it is cancelled or there is nothing to do."""
        ...

    def stop(self) -> None:
        """Ends what waits for a request, and everything else as soon as it may. Returns at once."""
        ...


class Lanes:
    """Several lanes as one. Each request is offered to them in turn."""

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self._lanes = lanes

    def __bool__(self) -> bool:
        return bool(self._lanes)

    def may_be_lanes(self, received: bytes) -> bool:
        return any(lane.may_be_lanes(received) for lane in self._lanes)

    async def run(self, stream: trio.SocketStream, received: bytes = b"") -> bytes:
        """As `Lane.run`. A lane that gives a connection back has read some bytes of it, so that the next one
        can tell at once whether they are its own."""
        for lane in self._lanes:
            if lane.may_be_lanes(received):
                received = await lane.run(stream, received)
                if not received:
                    break
        return received

    async def work(self, *, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as nursery:
            for lane in self._lanes:
                await nursery.start(lane.work)
            task_status.started()

    def stop(self) -> None:
        for lane in self._lanes:
            lane.stop()
