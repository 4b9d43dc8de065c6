"""One running system of actors: the door through which messages come in, and the order of birth and death.

Owns       the supervision tree, the dispatcher task, the clock task and the table of mailboxes.
Promises   `offer`, `tell` and `ask` say at once, or by their deadline, what became of the message. Whatever
ends, everybody who
           waits for an answer gets one.
Leaves     durability to the committer, names and meaning to the specs, logging to the observer.
"""

import heapq
import time
from collections import deque
from collections.abc import Callable, Sequence
from math import inf
from random import Random
from typing import Any, Final

import trio
from trio.lowlevel import Abort, checkpoint_if_cancelled, current_task, wait_task_rescheduled

from engine.errors import ActorStopped, Defect, MailboxFull, Unavailable
from engine.runtime.activation import Activator
from engine.runtime.address import Address, Lane
from engine.runtime.asking import Answer, Deadlines, ReplySlot
from engine.runtime.cell import Cell, Kind, Phase
from engine.runtime.decider_group import DeciderGroup, quiet
from engine.runtime.dispatcher import Dispatcher
from engine.runtime.effects import Context
from engine.runtime.inbox import INSIDE, Inbox, WorkerGroup, WorkerNode
from engine.runtime.mailbox import Envelope, Mailbox, Room, RoomWaiter, room_of
from engine.runtime.observing import (
    ActorDescription,
    KindStatistics,
    Observer,
    SilentObserver,
    SystemStatistics,
    TreeNode,
    format_tree,
)
from engine.runtime.registry import Home, Registry
from engine.runtime.release import Release
from engine.runtime.specs import (
    NO_BACKOFF,
    Backoff,
    Committer,
    DeadLetter,
    Decider,
    RestartLimit,
    Spec,
    Supervisor,
)
from engine.runtime.supervisor import Household, Node, SupervisorNode
from engine.runtime.timers import Alarms

_NORMAL = Lane.NORMAL

WALL_SLEEP_SECONDS_MAX: Final = 30.0
"""While a handler's timer is pending the wall clock is read at least this often: it may be set forward."""

ALARMS_AT_ONCE_MAX: Final = 1000

TENANTS_LIMIT: Final = RestartLimit(times=50, seconds=60.0)
"""Restarts of whole tenants before the root is told. With `TENANT_BACKOFF` one tenant makes at most 7 in a
minute, so it takes eight that fail without pause: then the fault is the process's, and a fresh process is the
better answer."""

TENANT_BACKOFF: Final = Backoff(first_seconds=1.0, factor=2.0, seconds_max=60.0, jitter=0.2)

ROOT_LIMIT: Final = RestartLimit(times=3, seconds=60.0)


class System:
    """The actors of one process. Made, then `run` in a nursery, then `stop`ped; not to be run twice.

    `static`      children of the root, started in order before anything else.
    `tenant`      the template of each tenant's subtree, made by the first message to one of its addresses. It
                  takes no task unless it has running workers.
    `ids`, `wall_ms`, `random`, `monotonic`  where fresh ids, the time (ms since the epoch), jitter and the
                                             length of a work
                  slice come from; a simulation supplies its own.
    `config_for`  the configuration snapshot of a tenant, called for each drain of a mailbox: a dictionary
                  lookup.
    `dead_letter` the rows that keep a parked message.
    """

    def __init__(
        self,
        *,
        static: Sequence[Spec] = (),
        tenant: Supervisor,
        committer: Committer,
        ids: Callable[[], int],
        wall_ms: Callable[[], int],
        random: Random,
        config_for: Callable[[int], object],
        dead_letter: Callable[[DeadLetter], Sequence[object]],
        observer: Observer | None = None,
        loads_concurrency: int = 4,
        limit: RestartLimit = ROOT_LIMIT,
        backoff: Backoff = NO_BACKOFF,
        tenants_limit: RestartLimit = TENANTS_LIMIT,
        tenant_backoff: Backoff = TENANT_BACKOFF,
        monotonic: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._observer: Observer = observer or SilentObserver()
        self._wall_ms = wall_ms
        self._template = tenant
        self._nap: trio.CancelScope | None = None
        self._alarms = Alarms(self._wake_clock)
        self._timers = Alarms(self._wake_clock_wall)
        self._deadlines = Deadlines(self._wake_clock)
        self._registry = Registry(self._observer)
        self._mailboxes = self._registry.mailboxes
        self._activator = Activator(
            concurrency=loads_concurrency,
            registry=self._registry,
            alarms=self._alarms,
            monotonic_now=trio.current_time,
            random=random,
            observer=self._observer,
        )
        self._release = Release(
            registry=self._registry, timers=self._timers, wall_ms=wall_ms, observer=self._observer
        )
        self._dispatcher = Dispatcher(
            committer=committer,
            context=Context(ids),
            wall_ms=wall_ms,
            monotonic=monotonic,
            random=random,
            config_for=config_for,
            dead_letter=dead_letter,
            observer=self._observer,
            activator=self._activator,
            release=self._release,
            on_fenced=self._fenced,
        )
        self._activator.dispatcher = self._release.dispatcher = self._dispatcher
        self._activator.release = self._registry.release = self._release
        self._registry.make_tenant = self._make_tenant
        self._household = Household(
            alarms=self._alarms, observer=self._observer, random=random, on_give_up=self._give_up
        )
        self._root = SupervisorNode(
            "system", None, self._household, limit=limit, backoff=backoff, stop_seconds_max=inf
        )
        self._registry.static = self._grow(self._root, static, 0)
        self._registry.template = frozenset(self._kinds_of(tenant.children))
        for name in self._registry.template & self._registry.static.keys():
            raise Defect(f"the kind {name!r} is both static and each tenant's")
        self._tenants = SupervisorNode(
            "tenants",
            self._root,
            self._household,
            limit=tenants_limit,
            backoff=tenant_backoff,
            stop_seconds_max=inf,
            dynamic=True,
        )
        self._root.add(self._tenants)
        self._stopping = False
        self._stopped = False
        self._failure: Exception | None = None
        self._ended = trio.Event()
        self._finished = trio.Event()

    # Life

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until `stop` has done its work. Raises `Defect` when the root supervisor gives up.

        Cancelling it is the hard way down: workers are cancelled, everybody who waits hears `ActorStopped`.
        """
        try:
            async with trio.open_nursery() as nursery:
                self._household.nursery = self._activator.nursery = nursery
                nursery.start_soon(self._clock)
                self._root.start()
                nursery.start_soon(self._dispatcher.run)
                task_status.started()
                await self._ended.wait()
                nursery.cancel_scope.cancel()
        finally:
            self._bury()
        if self._failure is not None:
            raise self._failure

    async def stop(self, seconds_max: float) -> None:
        """Stop in order, within `seconds_max`: refuse what comes from outside; let the deciders finish (at
        most half of the time); then the tenants, then the static children in reverse order, each within its
        own limit. What is left then is cancelled and refused. Workers may send until their own end.
        """
        self._shut_door()
        try:
            with trio.move_on_after(seconds_max):
                with trio.move_on_after(seconds_max / 2):
                    await quiet(self._registry.cells)
                await self._root.stop(final=True)
        finally:
            self._ended.set()
            with trio.CancelScope(shield=True), trio.move_on_after(1.0):
                # The nursery only cancels and unwinds now; a second bounds workers that shield themselves.
                await self._finished.wait()

    # Sending

    def offer(
        self, address: Address, message: object, *, lane: Lane = _NORMAL, reply_to: ReplySlot | None = None
    ) -> bool:
        """Put `message` into the mailbox of `address`; False when that is full (for the bulk lane: three
        quarters full). Never waits.

        `reply_to` gets the answer (exactly one) if this returned True. Raises `ActorStopped` while stopping,
        `Defect` for a kind that does not exist.
        """
        mailbox = self._mailboxes.get(address)
        if mailbox is None:
            mailbox = self._find(address)
        if mailbox.waiting >= mailbox.limit:
            self._refused(address)
            return False
        if reply_to is not None:
            message = Envelope(message, reply_to, lane)
        if lane is _NORMAL:
            mailbox.waiting += 1
            if mailbox.normal is None:
                mailbox.normal = deque((message,))
            else:
                mailbox.normal.append(message)
        else:
            if mailbox.waiting >= room_of(mailbox.limit, lane):
                self._refused(address)
                return False
            mailbox.push(message, lane)
        if not mailbox.engaged:
            mailbox.engage()
        return True

    async def tell(self, address: Address, message: object, *, lane: Lane = _NORMAL) -> None:
        """Put `message` into the mailbox of `address`, waiting for room if need be, in turn with others who
        wait.

        It lets other tasks run only when it has to wait, which the mailbox's limit makes it do soon enough.
        When it is cancelled, nothing was sent. Raises as `offer` does.
        """
        await checkpoint_if_cancelled()
        if self.offer(address, message, lane=lane):
            return
        mailbox = self._find(address)
        waiter = RoomWaiter(current_task(), message, lane)
        room = mailbox.room
        if room is None:
            room = mailbox.room = Room()
        tasks = room.waiters(lane).tasks
        tasks.append(waiter)

        def abort(_: object) -> Abort:
            tasks.remove(waiter)
            return Abort.SUCCEEDED

        await wait_task_rescheduled(abort)

    async def ask(
        self, address: Address, message: object, *, lane: Lane = _NORMAL, timeout_seconds: float
    ) -> Any:
        """Send `message` and wait for the answer, which comes after the commit of what it changed.

        Raises the actor's refusal, `MailboxFull`, `AskTimeout` (up to 10 ms late; the message may still be
        handled, so repeat it only with the same key), `ActorStopped`, `Parked`. On cancel the message may
        still be handled as well.
        """
        answer = Answer()
        if not self.offer(address, message, lane=lane, reply_to=answer):
            await trio.lowlevel.checkpoint()
            raise MailboxFull(f"the mailbox of {address.kind} is full", retry_after_seconds=1.0)
        self._deadlines.add(answer, trio.current_time() + timeout_seconds)
        return await answer.wait()

    def reset(self, address: Address) -> None:
        """Discard the activation of `address`, if there is one: what changed outside is seen from the next
        message on.

        What is in flight ends in order first. For a worker this is nothing.
        """
        cell = self._mailboxes.get(address)
        if not isinstance(cell, Cell) or cell.phase in (
            Phase.HELD,
            Phase.CLOSING,
            Phase.BACKOFF,
            Phase.ABSENT,
        ):
            return
        if cell.phase is Phase.LOADING:
            self._activator.begin(cell)
        else:
            self._dispatcher.close(cell, 0.0)

    # Looking

    def statistics(self) -> SystemStatistics:
        """One picture of the moment. Walks over all addresses."""
        addresses: dict[str, int] = {}
        waiting: dict[str, int] = {}
        in_flight: dict[str, int] = {}
        workers = 0
        waiting_total = 0
        for mailbox in self._registry.mailboxes.values():
            waiting_total += mailbox.waiting
            if isinstance(mailbox, Cell):
                kind = mailbox.address.kind
                addresses[kind] = addresses.get(kind, 0) + 1
                waiting[kind] = waiting.get(kind, 0) + mailbox.waiting + len(mailbox.redo or ())
                in_flight[kind] = in_flight.get(kind, 0) + len(mailbox.flight or ())
            else:
                workers += 1
        kinds = {
            name: KindStatistics(
                addresses=addresses.get(name, 0),
                resident=len(kind.residents),
                waiting=waiting.get(name, 0),
                in_flight=in_flight.get(name, 0),
                handled=kind.handled,
                refused=kind.refused,
                loads=kind.loads,
                load_batches=kind.load_batches,
                lookups=kind.lookups,
                crashes=kind.crashes,
                restarts=kind.restarts,
                parked=kind.parked,
                passivated=kind.passivated,
                undeliverable=kind.undeliverable,
            )
            for name, kind in self._registry.kinds.items()
        }
        return SystemStatistics(
            addresses=sum(addresses.values()),
            waiting=waiting_total,
            in_flight=sum(in_flight.values()),
            ready=len(self._dispatcher.ready),
            asking=len(self._deadlines),
            timers=len(self._timers),
            tenants=len(self._registry.tenants),
            workers=workers,
            undeliverable=self._registry.undeliverable,
            kinds=kinds,
        )

    def tree(self) -> TreeNode:
        """The supervision tree as it is now."""
        return self._root.picture()

    def format_tree(self) -> str:
        """The supervision tree as text."""
        return format_tree(self.tree())

    def describe(
        self, limit: int = 100, *, kind: str | None = None, tenant: int | None = None
    ) -> list[ActorDescription]:
        """The live actors with the most waiting, at most `limit`."""
        chosen = (
            mailbox
            for address, mailbox in self._registry.mailboxes.items()
            if (kind is None or address.kind == kind) and (tenant is None or address.tenant == tenant)
        )
        return [
            _description(mailbox) for mailbox in heapq.nlargest(limit, chosen, key=lambda one: one.waiting)
        ]

    # The tree

    def _grow(self, parent: SupervisorNode, specs: Sequence[Spec], tenant: int) -> dict[str, Home]:
        homes: dict[str, Home] = {}
        for spec in specs:
            node: Node
            if isinstance(spec, Supervisor):
                node = self._supervisor(spec, spec.name, parent)
                grown = self._grow(node, spec.children, tenant)
            elif isinstance(spec, Decider):
                kind = self._registry.kinds.setdefault(spec.kind, Kind(spec))
                if kind.spec is not spec:
                    raise Defect(f"two specs have the kind {spec.kind!r}")
                node = DeciderGroup(kind, parent, self._household, self._dispatcher, self._registry)
                grown = {spec.kind: node}
            elif spec.lazily:
                node = WorkerGroup(spec, parent, self._household, self._registry)
                grown = {spec.kind: node}
            else:
                address = Address(spec.kind, tenant, spec.key)
                node = WorkerNode(spec, address, parent, self._household, self._registry)
                grown = {spec.kind: node}
            parent.add(node)
            if clash := homes.keys() & grown.keys():
                raise Defect(f"two specs have the kind {clash.pop()!r}")
            homes |= grown
        return homes

    def _supervisor(self, spec: Supervisor, name: str, parent: SupervisorNode) -> SupervisorNode:
        return SupervisorNode(
            name,
            parent,
            self._household,
            strategy=spec.strategy,
            limit=spec.limit,
            backoff=spec.backoff,
            restart=spec.restart,
            stop_seconds_max=spec.stop_seconds_max,
        )

    def _kinds_of(self, specs: Sequence[Spec]) -> list[str]:
        kinds: list[str] = []
        for spec in specs:
            kinds += self._kinds_of(spec.children) if isinstance(spec, Supervisor) else [spec.kind]
        if len(set(kinds)) != len(kinds):
            raise Defect("two specs of the tenant template have the same kind")
        return kinds

    def _make_tenant(self, tenant: int) -> dict[str, Home]:
        if self._stopped:
            raise ActorStopped("the system has stopped")
        node = self._supervisor(self._template, str(tenant), self._tenants)
        homes = self._registry.tenants[tenant] = self._grow(node, self._template.children, tenant)
        self._tenants.add(node)
        if self._tenants.running:
            node.start()
        return homes

    def _fenced(self, tenant: int) -> None:
        """Another process owns `tenant`: nothing that is in memory about it is worth keeping."""
        homes = self._registry.tenants.pop(tenant, None)
        if homes is None:
            return
        node = self._tenants.children.pop(str(tenant))
        self._observer.fenced(tenant)
        error = Unavailable("another process serves this tenant now", code="fenced", retry_after_seconds=1.0)
        for home in homes.values():
            if isinstance(home, DeciderGroup):
                home.close_for_good(error)
            elif isinstance(home, WorkerNode):
                home.close()
            elif isinstance(home, WorkerGroup):
                for worker in list(home.children.values()):
                    if isinstance(worker, WorkerNode):
                        worker.close()
        if self._household.nursery is not None:
            self._household.nursery.start_soon(_end_for_good, node)

    def _give_up(self, error: Exception) -> None:
        self._failure = error
        self._ended.set()

    # The door

    def _find(self, address: Address) -> Mailbox:
        if self._stopping and not INSIDE.get():
            raise ActorStopped("the system is stopping")
        return self._registry.find(address)

    def _refused(self, address: Address) -> None:
        kind = self._registry.kinds.get(address.kind)
        if kind is not None:
            kind.refused += 1

    def _shut_door(self) -> None:
        # `offer` looks here first: an empty table sends everybody through `_find`, and the open door pays
        # nothing for it.
        self._stopping = True
        self._mailboxes = {}

    def _bury(self) -> None:
        self._shut_door()
        self._stopped = True
        error = ActorStopped("the system has stopped")
        for mailbox in list(self._registry.mailboxes.values()):
            if isinstance(mailbox, Cell):
                mailbox.group.closed = True
                self._activator.discard(mailbox, error)
            elif isinstance(mailbox, Inbox):
                mailbox.end()
                self._registry.forget(mailbox)
                self._registry.refuse_all(mailbox.address, mailbox.empty(), error)
                self._release.abandon_room(mailbox, error)
        self._deadlines.fail_all(error.message)
        self._finished.set()

    # The clock

    async def _clock(self) -> None:
        while True:
            now = trio.current_time()
            self._deadlines.expire(now)
            self._alarms.go_off(now, ALARMS_AT_ONCE_MAX)
            self._timers.go_off(self._wall_ms(), ALARMS_AT_ONCE_MAX)
            due = min(self._alarms.next_due(), self._deadlines.next_due(), self._wall_due())
            with trio.CancelScope(deadline=due) as self._nap:
                await trio.sleep_forever()
            self._nap = None

    def _wall_due(self) -> float:
        due = self._timers.next_due()
        if due == inf:
            return inf
        seconds = max(0.0, (due - self._wall_ms()) / 1000)
        return trio.current_time() + min(seconds, WALL_SLEEP_SECONDS_MAX)

    def _wake_clock(self, at: float) -> None:
        if self._nap is not None and at < self._nap.deadline:
            self._nap.deadline = at

    def _wake_clock_wall(self, _: float) -> None:
        self._wake_clock(self._wall_due())


def _description(mailbox: Mailbox) -> ActorDescription:
    if isinstance(mailbox, Cell):
        return ActorDescription(
            mailbox.address,
            mailbox.phase.value if mailbox.stalled_on is None else Phase.STALLED.value,
            mailbox.waiting + len(mailbox.redo or ()),
            len(mailbox.flight or ()),
            mailbox.restarts,
        )
    assert isinstance(mailbox, Inbox)
    node = mailbox.node
    return ActorDescription(
        mailbox.address,
        "running" if node.running else "stopped",
        mailbox.waiting,
        mailbox.taken,
        node.restarts,
    )


async def _end_for_good(node: Node) -> None:
    await node.kill(final=True)
