"""Residency: activations and lookups in batches, passivation by idleness and by number.

Activations that come up while the dispatcher is at work are loaded together when it has nothing left to
drain, at most `BATCH_MAX` in a call and `concurrency` calls of one kind at a time; while those run, the next
batch gathers. A tenant whose ten thousand customers come back at once delays another one's first customer by
a short call, not by twenty long ones (`engine.runtime.gathering`).
A call that fails as a whole is split in halves, so that one poisonous row fails alone.

Passivation looks at the least recently used end of an ordered table, every eighth of the idle time, and stops
at the first that is not idle; there is no timer for each actor.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import count
from random import Random
from typing import TYPE_CHECKING, Any, Final

from trio import Nursery

from engine.errors import Defect, MijraError, Unavailable
from engine.runtime.cell import Cell, Kind, Phase
from engine.runtime.observing import Observer
from engine.runtime.specs import LoadRequest, LookupRequest
from engine.runtime.timers import Alarms

if TYPE_CHECKING:
    from engine.runtime.dispatcher import Dispatcher
    from engine.runtime.registry import Registry
    from engine.runtime.release import Release

SWEEP_MAX: Final = 2000
"""Activations looked at in one go by the sweep or by eviction; 1 to 2 ms."""

EVICTION_LOOK_MAX: Final = 64
"""Busy activations passed over in one attempt to make room."""


class Activator:
    """Brings state into memory and lets it go."""

    def __init__(
        self,
        *,
        concurrency: int,
        registry: "Registry",
        alarms: Alarms,
        monotonic_now: Callable[[], float],
        random: Random,
        observer: Observer,
    ) -> None:
        self.now = 0.0
        self.nursery: Nursery | None = None
        self.dispatcher: Dispatcher
        self.release: Release
        self._concurrency = concurrency
        self._registry = registry
        self._alarms = alarms
        self._monotonic_now = monotonic_now
        self._random = random
        self._observer = observer
        self._generations = count(1)
        self._gathering: dict[Kind, None] = {}
        self._swept: set[str] = set()

    # Activation

    def begin(self, cell: Cell) -> None:
        """Load `cell` with the next batch (again, if a load is already under way: the older one is ignored
        then)."""
        cell.engaged = True
        if not cell.group.open:
            cell.phase = Phase.HELD
            return
        cell.phase = Phase.LOADING
        cell.generation = next(self._generations)
        kind = cell.group.kind
        waiting = kind.to_load.waiting
        if not waiting:
            self._gathering[kind] = None
            self.dispatcher.wake()
        waiting.push(cell.address.tenant, cell)

    def reopen(self, cell: Cell) -> None:
        """The activation of `cell` has ended: load again, after its delay if it has one, if anything waits
        for it."""
        if not cell.group.open:
            cell.phase = Phase.HELD
        elif cell.delay > 0:
            cell.phase = Phase.BACKOFF
            cell.generation = next(self._generations)
            delay, cell.delay = cell.delay, 0.0
            self._alarms.set(
                self._monotonic_now() + delay, partial(self._backoff_over, cell, cell.generation)
            )
        elif cell.redo or cell.waiting or cell.timers or cell.room is not None:
            self.begin(cell)
        else:
            self.remove(cell)

    def _backoff_over(self, cell: Cell, generation: int) -> None:
        if cell.phase is Phase.BACKOFF and cell.generation == generation:
            self.reopen(cell)

    def look(self, cell: Cell, query: object) -> None:
        """Answer `query` with the next batch of lookups; `cell` decides nothing until then."""
        cell.phase = Phase.LOOKING
        kind = cell.group.kind
        kind.to_look.waiting.push(cell.address.tenant, (cell, cell.generation, query))
        self._gathering[kind] = None
        self.dispatcher.wake()

    def start_batches(self) -> None:
        """Start calls for what has gathered, within the limits."""
        if not self._gathering:
            return
        assert self.nursery is not None
        for kind in list(self._gathering):
            while cells := kind.to_load.begin(self._concurrency):
                self.nursery.start_soon(self._load, kind, cells)
            while queries := kind.to_look.begin(self._concurrency):
                self.nursery.start_soon(self._lookup, kind, queries)
            if not kind.to_load.waiting and not kind.to_look.waiting:
                del self._gathering[kind]

    async def _load(self, kind: Kind, cells: list[Cell]) -> None:
        size = len(cells)
        cells = [cell for cell in cells if cell.phase is Phase.LOADING]
        generations = [cell.generation for cell in cells]
        requests = [LoadRequest(cell.address, cell.first_message()) for cell in cells]
        try:
            states = await _in_halves(kind.spec.load, requests)
        finally:
            kind.to_load.end(size)
        make_ready = self.dispatcher.make_ready
        kind.loads += len(cells)
        kind.load_batches += 1
        for cell, generation, state in zip(cells, generations, states, strict=True):
            if cell.generation != generation or cell.phase is not Phase.LOADING:
                continue
            if isinstance(state, Exception):
                self.dispatcher.activation_failed(cell, state)
                continue
            cell.state = state
            cell.trouble = 0
            cell.phase = Phase.LIVE
            kind.residents[cell] = None
            make_ready(cell)
        self._schedule_sweep(kind)
        self.dispatcher.wake()

    async def _lookup(self, kind: Kind, batch: list[tuple[Cell, int, object]]) -> None:
        size = len(batch)
        batch = [entry for entry in batch if _waits(entry[0], entry[1], Phase.LOOKING)]
        assert kind.spec.lookup is not None
        try:
            answers = await _in_halves(
                kind.spec.lookup, [LookupRequest(cell.address, query) for cell, _, query in batch]
            )
        finally:
            kind.to_look.end(size)
        kind.lookups += len(batch)
        for (cell, generation, query), answer in zip(batch, answers, strict=True):
            if not _waits(cell, generation, Phase.LOOKING):
                continue
            if isinstance(answer, Unavailable):
                cell.trouble += 1
                delay = kind.spec.backoff.delay(cell.trouble, self._random)
                self._observer.load_failed(cell.address, answer, delay)
                self._alarms.set(
                    self._monotonic_now() + delay, partial(self._look_again, cell, generation, query)
                )
            elif isinstance(answer, Exception):
                self.dispatcher.message_failed(cell, answer)
            elif answer is None:
                self.dispatcher.message_failed(
                    cell, Defect("a lookup answered None, which means that there was no lookup")
                )
            else:
                assert cell.redo is not None
                cell.redo[0].found = answer
                cell.trouble = 0
                cell.phase = Phase.LIVE
                self.dispatcher.make_ready(cell)
        self.dispatcher.wake()

    def _look_again(self, cell: Cell, generation: int, query: object) -> None:
        if _waits(cell, generation, Phase.LOOKING):
            self.look(cell, query)

    # Passivation

    def used(self, cell: Cell) -> None:
        """`cell` had a turn; evict others if there are too many of its kind."""
        cell.used = self.now
        kind = cell.group.kind
        kind.residents.move_to_end(cell)
        if len(kind.residents) > kind.spec.resident_max:
            self._evict(kind)

    def passivate(self, cell: Cell) -> None:
        """Let an idle activation go; the next message loads it again."""
        kind = cell.group.kind
        kind.passivated += 1
        if kind.spec.on_passivate is not None:
            kind.spec.on_passivate(cell.address, cell.state)
        self.remove(cell)
        self._observer.passivated(cell.address)

    def _evict(self, kind: Kind) -> None:
        busy = 0
        while len(kind.residents) > kind.spec.resident_max and busy < EVICTION_LOOK_MAX:
            cell = next(iter(kind.residents))
            if cell.idle():
                self.passivate(cell)
            else:
                busy += 1
                kind.residents.move_to_end(cell)

    def _schedule_sweep(self, kind: Kind, delay: float | None = None) -> None:
        if kind.residents and kind.spec.kind not in self._swept:
            self._swept.add(kind.spec.kind)
            wait = kind.spec.idle_seconds_max / 8 if delay is None else delay
            self._alarms.set(self._monotonic_now() + wait, partial(self._sweep, kind))

    def _sweep(self, kind: Kind) -> None:
        self._swept.discard(kind.spec.kind)
        now = self._monotonic_now()
        for _ in range(min(SWEEP_MAX, len(kind.residents))):
            cell = next(iter(kind.residents))
            if cell.used + kind.spec.idle_seconds_max > now:
                break
            if cell.idle():
                self.passivate(cell)
            else:
                # Busy, or with a timer: counted as used, so that it is looked at once in an idle time and not
                # in every sweep.
                cell.used = now
                kind.residents.move_to_end(cell)
        else:
            self._schedule_sweep(kind, 0.0)
        self._schedule_sweep(kind)

    # Leaving

    def remove(self, cell: Cell) -> None:
        """Take a cell that has nothing left to do out of the system."""
        cell.phase = Phase.GONE
        cell.state = None
        cell.group.kind.residents.pop(cell, None)
        del cell.group.cells[cell]
        self._registry.forget(cell)

    def discard(self, cell: Cell, error: MijraError) -> None:
        """Take a cell out with everything it holds: askers get `error`, the rest is reported as
        undeliverable."""
        items: list[Any] = [
            step.item for step in cell.flight or () if not step.durable or not step.effects.commit
        ]
        for step in cell.flight or ():
            if step.durable and step.effects.commit:
                # Committed, only its release did not come through: not lost, but its asker hears nothing
                # better.
                step.envelope().refuse(error)
        items += cell.redo or ()
        items += cell.empty()
        self.release.cancel_timers(cell)
        cell.flight = None
        cell.redo = None
        cell.stalled_on = None
        self.remove(cell)
        self._registry.refuse_all(cell.address, items, error)
        self.release.abandon_room(cell, error)


def _waits(cell: Cell, generation: int, phase: Phase) -> bool:
    return cell.phase is phase and cell.generation == generation


async def _in_halves(
    call: Callable[[Sequence[Any]], Awaitable[Sequence[Any]]], requests: list[Any]
) -> list[Any]:
    """The results of `call`, an exception in place of each that failed."""
    if not requests:
        return []
    try:
        results = list(await call(requests))
        if len(results) != len(requests):
            raise Defect(f"{len(requests)} requests got {len(results)} results")
        return results
    except Exception as error:  # noqa: BLE001
        # What is unavailable is so for all of them; asking again at once would only add to the trouble.
        if len(requests) == 1 or isinstance(error, Unavailable):
            return [error] * len(requests)
    middle = len(requests) // 2
    return await _in_halves(call, requests[:middle]) + await _in_halves(call, requests[middle:])
