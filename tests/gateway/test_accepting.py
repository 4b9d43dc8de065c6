"""The accept loop: a crowd is let in in one turn, and lack of descriptors passes."""

import resource
import socket

import pytest
import trio
import trio.testing

from gateway.accepting import ACCEPTS_AT_ONCE, accept_all
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.real_time


class Turns(trio.abc.Instrument):
    """Counts the loop's turns."""

    def __init__(self) -> None:
        self.count = 0

    def before_io_wait(self, timeout: float) -> None:
        self.count += 1


class Hall:
    """A listener whose connections are counted and echo one byte."""

    def __init__(self) -> None:
        self.inside = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        self.inside += 1
        await stream.send_all(await stream.receive_some(1))


async def open_hall(nursery: trio.Nursery) -> tuple[Hall, int]:
    hall = Hall()
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=512)
    nursery.start_soon(accept_all, hall.serve, listeners, nursery)
    return hall, listeners[0].socket.getsockname()[1]


async def test_a_crowd_at_the_door_is_let_in_within_a_few_turns() -> None:
    """Not one connection for each turn of the loop, which is long when the server is busy."""
    crowd: list[socket.socket] = []
    async with trio.open_nursery() as nursery:
        hall, port = await open_hall(nursery)
        # All are in the backlog before the loop looks at it.
        for _ in range(2 * ACCEPTS_AT_ONCE):
            crowd.append(socket.create_connection(("127.0.0.1", port)))
        turns = Turns()
        trio.lowlevel.add_instrument(turns)
        with trio.fail_after(PATIENCE_SECONDS):
            while hall.inside < len(crowd):
                await trio.lowlevel.checkpoint()
        trio.lowlevel.remove_instrument(turns)
        assert turns.count <= 20
        nursery.cancel_scope.cancel()
    for one in crowd:
        one.close()


async def test_without_descriptors_it_waits_and_goes_on() -> None:
    """Who is in the backlog meanwhile is let in when there is room again."""
    async with trio.open_nursery() as nursery:
        hall, port = await open_hall(nursery)
        await trio.testing.wait_all_tasks_blocked()
        waiting = socket.socket()
        waiting.setblocking(False)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        with socket.socket() as highest:
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest.fileno(), limits[1]))
            try:
                waiting.connect_ex(("127.0.0.1", port))
                await trio.sleep(0.15)
                assert hall.inside == 0
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        with trio.fail_after(PATIENCE_SECONDS):
            while hall.inside == 0:  # noqa: ASYNC110
                await trio.sleep(0.01)
        waiting.close()
        nursery.cancel_scope.cancel()
