"""Workers: actors with a task of their own, because their job is I/O.

The inbox belongs to the address: a worker that crashes finds in it what it had not taken. What it had taken
is in doubt and is the worker's to recover from its durable source; whoever asked for it hears that the actor
stopped.
"""

from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

import trio
from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

from engine.errors import ActorStopped, Defect
from engine.runtime.address import Address
from engine.runtime.mailbox import Envelope, Mailbox
from engine.runtime.observing import TreeNode
from engine.runtime.specs import Restart, Worker
from engine.runtime.supervisor import KILL_SECONDS_MAX, Household, Node, SupervisorNode

if TYPE_CHECKING:
    from engine.runtime.registry import Registry

INSIDE: Final[ContextVar[bool]] = ContextVar("inside", default=False)
"""True in the tasks of workers and in the tasks they start: they may still send while the system stops."""


class Inbox(Mailbox):
    """What a worker's `run` is given."""

    __slots__ = ("_stopping", "_taken", "_task", "node", "took")

    def __init__(self, address: Address, node: "WorkerNode", limit: int) -> None:
        super().__init__(address, limit)
        self.node = node
        self._task: Task | None = None
        self._taken: list[Envelope] = []
        self._stopping = trio.Event()
        self.took = False

    @property
    def stopping(self) -> bool:
        """Whether the worker was asked to stop. What is in the inbox may still be taken until the
        deadline."""
        return self._stopping.is_set()

    @property
    def taken(self) -> int:
        """How many taken messages still have an asker without an answer."""
        return sum(envelope.asked for envelope in self._taken)

    async def wait_stopping(self) -> None:
        """Return when the worker is asked to stop."""
        await self._stopping.wait()

    async def take(self, at_most: int = 64) -> list[Envelope]:
        """Up to `at_most` messages, waiting for the first; empty only when asked to stop and nothing is left.

        Always a checkpoint; nothing is taken when it is cancelled. For one task at a time.
        """
        await trio.lowlevel.checkpoint()
        while True:
            if batch := self.take_nowait(at_most):
                return batch
            if self._stopping.is_set():
                return []
            self.engaged = False
            self._task = current_task()
            await wait_task_rescheduled(self._abort)

    def take_nowait(self, at_most: int = 64) -> list[Envelope]:
        """Up to `at_most` messages that are there now."""
        batch: list[Envelope] = []
        while self.waiting and len(batch) < at_most:
            item, lane = self.pop()
            batch.append(item if type(item) is Envelope else Envelope(item, None, lane))
        if batch:
            self.took = True
            if not self.waiting:
                self.trim()
            self._taken = [envelope for envelope in self._taken if envelope.asked]
            self._taken += [envelope for envelope in batch if envelope.asked]
            self.node.registry.release.made_room(self)
        return batch

    def engage(self) -> None:
        self.engaged = True
        if self._task is not None:
            self._wake()
        else:
            self.node.wanted()

    def ask_to_stop(self) -> None:
        self._stopping.set()
        if self._task is not None:
            self._wake()

    def begin(self) -> None:
        """A new run starts."""
        self._stopping = trio.Event()
        self.took = False
        self.engaged = True

    def end(self) -> None:
        """The run is over: answer those whose messages it took and did not answer."""
        self._task = None
        taken, self._taken = self._taken, []
        for envelope in taken:
            envelope.refuse(ActorStopped("the actor stopped before it answered"))

    def _wake(self) -> None:
        task, self._task = self._task, None
        assert task is not None
        reschedule(task)

    def _abort(self, _: object) -> Abort:
        self._task = None
        return Abort.SUCCEEDED


class WorkerNode(Node):
    """One worker in the tree, and the task that runs it."""

    def __init__(
        self,
        spec: Worker,
        address: Address,
        parent: SupervisorNode,
        household: Household,
        registry: "Registry",
    ) -> None:
        name = str(address.key) if spec.lazily else spec.kind
        super().__init__(name, parent, household, spec.restart, spec.stop_seconds_max)
        self.spec = spec
        self.registry = registry
        self.inbox = Inbox(address, self, spec.mailbox_max)
        self._ended = trio.Event()
        self._stopping = False
        self._scope: trio.CancelScope | None = None

    def admit(self, address: Address) -> Mailbox:
        """For a worker that is started with the tree: its inbox, if it is this one's address and runs."""
        if address != self.inbox.address:
            raise Defect(f"{self.path} is one actor, with the address {self.inbox.address}")
        raise ActorStopped(f"{self.path} is not running")

    def wanted(self) -> None:
        """Something came into the inbox and no task waits for it."""
        if (
            self.spec.lazily
            and not self.running
            and self.incarnation == 0
            and self.parent
            and self.parent.running
        ):
            self.start()

    def start(self) -> None:
        assert self.household.nursery is not None
        self.incarnation += 1
        self.running = True
        self.started_at = trio.current_time()
        self._ended = trio.Event()
        self._stopping = False
        self._scope = trio.CancelScope()
        self.inbox.begin()
        self.registry.mailboxes[self.inbox.address] = self.inbox
        self.household.observer.started(self.path)
        self.household.nursery.start_soon(self._run, self._scope, name=self.path)

    async def stop(self, *, final: bool) -> None:
        if self.running:
            self._stopping = True
            self.inbox.ask_to_stop()
            await self._ended.wait()
        if final:
            self.close()

    async def kill(self, *, final: bool) -> None:
        if self.running and self._scope is not None:
            self._stopping = True
            self._scope.cancel()
            with trio.move_on_after(KILL_SECONDS_MAX):
                await self._ended.wait()
        if final:
            self.close()

    def close(self) -> None:
        """Nobody will take what waits: refuse it."""
        error = ActorStopped(f"{self.path} has stopped")
        self.registry.forget(self.inbox)
        self.registry.refuse_all(self.inbox.address, self.inbox.empty(), error)
        self.registry.release.abandon_room(self.inbox, error)

    def picture(self) -> TreeNode:
        return TreeNode(self.name, "worker", self.running, self.restarts, f"{self.inbox.waiting} waiting")

    async def _run(self, scope: trio.CancelScope) -> None:
        INSIDE.set(True)
        error: Exception | None = None
        try:
            with scope:
                await self.spec.run(self.inbox)
        except Exception as crash:  # noqa: BLE001
            error = crash
            self.household.observer.worker_crashed(self.path, crash)
        finally:
            self.running = False
            self.inbox.end()
            self._ended.set()
        if error is not None:
            reason = "crash"
        elif scope.cancelled_caught:
            reason = "killed"
        else:
            reason = "shutdown" if self._stopping else "normal"
        self.household.observer.stopped(self.path, reason)
        if not self._stopping:
            self._ended_by_itself(error)

    def _ended_by_itself(self, error: Exception | None) -> None:
        assert self.parent is not None
        if error is None and self.spec.lazily and self.restart is Restart.TRANSIENT and self.inbox.waiting:
            # It ended for want of work, and work came meanwhile. One that takes nothing would be started for
            # ever.
            if self.inbox.took:
                self.start()
                return
            error = Defect(f"{self.path} ended without taking what waits for it")
        over = self.restart is Restart.TEMPORARY or (self.restart is Restart.TRANSIENT and error is None)
        if over:
            self.close()
            if self.spec.lazily:
                # At once, and not when the group comes to it: the next message wants a fresh worker of this
                # name.
                self.parent.children.pop(self.name, None)
                return
        self.parent.child_ended(self, error)


class WorkerGroup(SupervisorNode):
    """The lazily started workers of one kind within one supervisor, one for one."""

    def __init__(
        self, spec: Worker, parent: SupervisorNode, household: Household, registry: "Registry"
    ) -> None:
        super().__init__(
            spec.kind,
            parent,
            household,
            limit=spec.limit,
            backoff=spec.backoff,
            stop_seconds_max=spec.stop_seconds_max + KILL_SECONDS_MAX,
            dynamic=True,
        )
        self.spec = spec
        self.closed = False
        self._registry = registry

    def admit(self, address: Address) -> Mailbox:
        """An inbox for a key that has none; its worker starts with the first message."""
        if self.closed:
            raise ActorStopped(f"{self.path} has stopped")
        node = WorkerNode(self.spec, address, self, self.household, self._registry)
        self.add(node)
        self._registry.mailboxes[address] = node.inbox
        return node.inbox

    async def stop(self, *, final: bool) -> None:
        self.closed = self.closed or final
        await super().stop(final=final)

    async def kill(self, *, final: bool) -> None:
        self.closed = self.closed or final
        await super().kill(final=final)
