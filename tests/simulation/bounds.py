"""Everything that waits, held against its bound after each step of each task.

A bound is what the configuration says, taken from where the process is put together and not from the part
that has to keep it; what waits is counted here, not asked for. Some days run with bounds so small that an
ordinary hour reaches them.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import trio
from msgspec import Struct

from engine.runtime import Lane
from engine.runtime.mailbox import room_of
from engine.runtime.release import RESERVE
from gateway.push.queue import FRAME_OVERHEAD_BYTES
from storage.writer import _settled

if TYPE_CHECKING:
    from random import Random

    from engine.runtime import Address
    from gateway.push.queue import FrameQueue
    from tests.simulation.process import Process
    from tests.simulation.world import World

CONVERSATION: Final = "conversation"


class Chosen(Struct, frozen=True):
    """The bounds of one process. `mailbox`: of each conversation. `waiting_rows`: of each database's writer.
    `in_flight`: webhooks. `items`: of an account's outbox in memory, for each lane."""

    mailbox: int
    waiting_rows: int
    in_flight: int
    items: int


def chosen(random: "Random", *, items: int) -> Chosen:
    """The usual ones, or small ones."""
    return Chosen(
        mailbox=random.choice((256, 12)),
        waiting_rows=random.choice((20_000, 20_000, 24)),
        in_flight=random.choice((2_000, 2_000, 4)),
        items=items,
    )


class Bounds(trio.abc.Instrument):
    """Watches the processes that live and the queues of the screens that are connected."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.queues: list[tuple[str, FrameQueue, int]] = []
        self._processes: list[Process] = []
        self._told: set[str] = set()

    def watch(self, process: "Process") -> None:
        """From now on; `process` is put together and has not begun."""
        self._processes.append(process)
        self._watch_offers(process)
        self._watch_submits(process)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        for process in self._processes:
            if not process.dead:
                self._mailboxes(process)
                self._in_flight(process)
                self._outbox(process)
        for name, queue, most in self.queues:
            self._queue(name, queue, most)

    def before_io_wait(self, timeout: float) -> None:
        if any(process.dead for process in self._processes):
            self._processes = [process for process in self._processes if not process.dead]

    # ---------------------------------------------------------------- one of each

    def _watch_offers(self, process: "Process") -> None:
        """Whoever asks from outside is refused at the limit; the bulk lane at three quarters of it."""
        system = process.engine.system
        offer: Callable[..., bool] = system.offer

        def offered(address: "Address", message: object, *, lane: Lane = Lane.NORMAL, **more: Any) -> bool:
            taken = offer(address, message, lane=lane, **more)
            mailbox = system._mailboxes.get(address)
            if taken and mailbox is not None:
                self._hold(
                    f"mailbox of a {address.kind}",
                    _waiting(mailbox),
                    room_of(self._limit(process, mailbox), lane),
                )
            return taken

        system.offer = offered  # type: ignore[method-assign]

    def _watch_submits(self, process: "Process") -> None:
        """Nobody hands in rows who has not been told that there is room for some."""
        writers = process.writers
        submit = writers.submit

        def submitted(address: Any, generation: int, rows: Any, done: Any) -> None:
            waiting = sum(len(one.encoded) for one in _waiting_sets(writers.writer(address.tenant)))
            self._hold("writer's room before more is handed in", waiting, process.bounds.waiting_rows - 1)
            submit(address, generation, rows, done)

        writers.submit = submitted  # type: ignore[method-assign]

    def _mailboxes(self, process: "Process") -> None:
        for address, mailbox in process.engine.system._mailboxes.items():
            if mailbox.waiting or mailbox.normal or mailbox.realtime or mailbox.bulk:
                limit = RESERVE * self._limit(process, mailbox)
                self._hold(f"mailbox of a {address.kind}, told by actors", _waiting(mailbox), limit)

    def _limit(self, process: "Process", mailbox: Any) -> int:
        return process.bounds.mailbox if mailbox.address.kind == CONVERSATION else mailbox.limit

    def _in_flight(self, process: "Process") -> None:
        flying = process.webhooks._in_flight
        most = process.bounds.in_flight
        self._hold("webhooks in flight", flying._deliveries, most)
        for tenant_id in self.world.tenants:
            # A lone tenant has two thirds: it takes one more while it holds less than twice what is free.
            self._hold("a tenant's share of them", 3 * flying._room.held(tenant_id), 2 * most + 2)

    def _outbox(self, process: "Process") -> None:
        for channel in process.channels._live.values():
            self._hold("outbox in memory", max(channel._lines.counts), process.bounds.items)

    def _queue(self, name: str, queue: "FrameQueue", most: int) -> None:
        frames = queue._frames
        if len(frames) > 1:  # one always fits
            size = sum(len(frame) + FRAME_OVERHEAD_BYTES for _, frame in frames)
            self._hold("frames that wait for a screen", size, most)

    def _hold(self, what: str, found: int, most: int) -> None:
        if found > most and what not in self._told:
            self._told.add(what)  # once is enough, and each step would tell it again
            self.world.violate("bounds", f"{what}: {found}, where {most} are allowed")


def _waiting(mailbox: Any) -> int:
    return sum(len(lane) for lane in (mailbox.realtime, mailbox.normal, mailbox.bulk) if lane)


def _waiting_sets(writer: Any) -> list[Any]:
    """Submitted and not settled: those that wait and those under way."""
    return [*writer._waiting, *(one for one in writer._under_way if one.done is not _settled)]
