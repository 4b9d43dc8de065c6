"""All virtual actors of one kind within one tenant: their common place in the supervision tree.

It has no task. It counts the failures of its activations; over its limit it ends towards its supervisor,
which restarts it: all activations are discarded (what they have in flight still ends in order) and loaded
afresh by what waits for them.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from engine.errors import ActorStopped, MijraError
from engine.runtime.address import Address
from engine.runtime.cell import Cell, Kind, Phase
from engine.runtime.mailbox import Mailbox
from engine.runtime.observing import TreeNode
from engine.runtime.specs import Restart
from engine.runtime.supervisor import Household, Node, RestartWindow, SupervisorNode

if TYPE_CHECKING:
    from engine.runtime.dispatcher import Dispatcher
    from engine.runtime.registry import Registry


class DeciderGroup(Node):
    """The supervisor of activations."""

    def __init__(
        self,
        kind: Kind,
        parent: SupervisorNode,
        household: Household,
        dispatcher: "Dispatcher",
        registry: "Registry",
    ) -> None:
        super().__init__(kind.spec.kind, parent, household, Restart.PERMANENT, kind.spec.stop_seconds_max)
        self.kind = kind
        self.dispatcher = dispatcher
        self.open = False
        self.closed = False
        # Ordered, so that a simulation repeats itself exactly.
        self.cells: dict[Cell, None] = {}
        self._registry = registry
        self._window = RestartWindow(kind.spec.limit)

    def admit(self, address: Address) -> Mailbox:
        """A cell for an address that has none."""
        if self.closed:
            raise ActorStopped(f"{self.path} has stopped")
        cell = Cell(address, self, self.kind.spec.mailbox_max)
        self.cells[cell] = None
        self._registry.mailboxes[address] = cell
        if not self.open:
            cell.phase = Phase.HELD
            cell.engaged = True
        return cell

    def failed(self, error: BaseException) -> None:
        """An activation crashed: count it, and fail as a group over the limit."""
        if self.running and not self._window.admits(trio.current_time()):
            self._window.clear()
            self.running = False
            self.household.observer.escalated(self.path, error)
            self._hold()
            assert self.parent is not None
            self.parent.child_ended(self, error)

    def start(self) -> None:
        self.incarnation += 1
        self.started_at = trio.current_time()
        self.running = True
        self.open = True
        self.household.observer.started(self.path)
        for cell in list(self.cells):
            if cell.phase is Phase.HELD:
                self.dispatcher.activator.reopen(cell)

    async def stop(self, *, final: bool) -> None:
        if final:
            await quiet(lambda: list(self.cells))
            self.close_for_good(ActorStopped(f"{self.path} has stopped"))
        else:
            self._hold()
        if self.running:
            self.running = False
            self.household.observer.stopped(self.path, "shutdown")

    async def kill(self, *, final: bool) -> None:
        self._hold()
        if final:
            self.close_for_good(ActorStopped(f"{self.path} has stopped"))
        if self.running:
            self.running = False
            self.household.observer.stopped(self.path, "killed")

    def close_for_good(self, error: MijraError) -> None:
        """Discard everything; nothing is admitted afterwards."""
        self.closed = True
        self.open = False
        for cell in list(self.cells):
            if cell.phase is not Phase.GONE:
                self.dispatcher.activator.discard(cell, error)

    def picture(self) -> TreeNode:
        waiting = sum(cell.waiting for cell in self.cells)
        return TreeNode(
            self.name,
            "deciders",
            self.running,
            self.restarts,
            f"{len(self.cells)} addresses, {waiting} waiting",
        )

    def _hold(self) -> None:
        self.open = False
        for cell in list(self.cells):
            if cell.phase in (Phase.LOADING, Phase.BACKOFF, Phase.ABSENT):
                cell.phase = Phase.HELD
                cell.engaged = True
            elif cell.phase not in (Phase.CLOSING, Phase.HELD, Phase.GONE):
                self.dispatcher.close(cell, 0.0)


async def quiet(cells: Callable[[], list[Cell]]) -> None:
    """Return when none of the cells has anything to do. Looks at them all only when the known busy ones are
    through."""
    pause = 0.001
    while busy := [cell for cell in cells() if cell.busy()]:
        while busy:
            await trio.sleep(pause)
            pause = min(pause * 2, 0.05)
            busy = [cell for cell in busy if cell.phase is not Phase.GONE and cell.busy()]
