"""Handling: one task drains the mailboxes of all virtual actors, in bites, and no actor has a task of its
own.

Promises
    Tenants that have something to do take turns (`engine.runtime.fair_queue`): a tenant with a thousand busy
    actors delays another one's only message by its turn, not by its thousand.
    The messages of an address are decided in the order of their lanes, one at a time, each on the state that
    the previous one left, without waiting for its commit.
    What a message leads to is released only when its rows and those of every earlier message of the
    activation are durable, in order (`engine.runtime.release`).
    When a write set fails, everything decided from it on is void and is decided again, in order, on a fresh
    state. When a handler raises, the activation is discarded once what it has in flight has ended, and the
    message is tried again; after three crashes it goes to the dead letters and the actor goes on with the
    next one. A failure of one address is never felt by another.

Leaves to others: who may send (`System`), loading and passivation (`Activator`), restart limits
(`DeciderGroup`).
"""

import traceback
from collections import deque
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final

import trio
from trio.lowlevel import Task, checkpoint, current_task, reschedule, wait_task_rescheduled

from engine.errors import CommitAbandoned, CommitConflict, CommitFailed, Defect, Fenced, Parked, Unavailable
from engine.runtime.activation import Activator
from engine.runtime.address import Lane
from engine.runtime.cell import Cell, Phase, Step
from engine.runtime.effects import NOTHING, Context, Effects, Lookup
from engine.runtime.fair_queue import FairQueue
from engine.runtime.mailbox import Envelope
from engine.runtime.observing import Observer
from engine.runtime.release import Release
from engine.runtime.specs import Committer, DeadLetter

BITE_MAX: Final = 64
"""Messages of one address handled before the next address has its turn: enough to make the turn's own cost
(about 1 us) disappear, and at most a few ms with ordinary handlers."""

TURN_MESSAGES: Final = 16
"""What a tenant's turn is worth while others wait: 1 to 3 ms with ordinary handlers, so one slice of work. A
bite is not cut short for it, what it takes beyond is paid by the tenant's next turns."""

SLICE_SECONDS: Final = 0.003
"""Work between two visits to trio's scheduler. A visit costs about 10 us, so 0.3 %; sockets wait at most this
long."""

SLICE_BITES_MAX: Final = 512
"""The same bound as a count, which alone holds when the clock stands still (simulation)."""

CRASHES_MAX: Final = 3
"""Tries of one message, by crash or by failed write set, before it is parked."""

LOOKUPS_MAX: Final = 4
"""Lookups that one message may ask for; a handler that wants more asks in a circle."""

LETTERS_MAX: Final = 3
"""Tries to store one dead letter before the message is given up, loudly."""

ERROR_CHARACTERS_MAX: Final = 8000

UNPARKED_MAX: Final = 256
"""Cells of one tenant that go on at once when its writer has room; more would only find it full again."""

_LIVE = Phase.LIVE


class Dispatcher:
    """The one place where handlers are called."""

    def __init__(
        self,
        *,
        committer: Committer,
        context: Context,
        wall_ms: Callable[[], int],
        monotonic: Callable[[], float],
        random: Random,
        config_for: Callable[[int], object],
        dead_letter: Callable[[DeadLetter], Sequence[object]],
        observer: Observer,
        activator: Activator,
        release: Release,
        on_fenced: Callable[[int], None],
    ) -> None:
        self.activator = activator
        self.observer = observer
        self.random = random
        self.ready: FairQueue[Cell] = FairQueue(TURN_MESSAGES)
        self._committer = committer
        self._context = context
        self._wall_ms = wall_ms
        self._monotonic = monotonic
        self._config_for = config_for
        self._dead_letter = dead_letter
        self._release = release
        self._on_fenced = on_fenced
        self._sleeper: Task | None = None
        self._parked: dict[int, dict[Cell, None]] = {}
        self._bulk_parked: dict[int, dict[Cell, None]] = {}
        self._room_asked = False
        self._unpark_wanted = False

    async def run(self) -> None:
        """Drain until cancelled."""
        ready = self.ready
        while True:
            slice_end = self._monotonic() + SLICE_SECONDS
            bites = SLICE_BITES_MAX
            self.activator.now = trio.current_time()
            self._context.now = self._wall_ms()
            while bites and (cell := ready.pop()) is not None:
                ready.balance -= self._drain(cell)
                bites -= 1
                if self._monotonic() > slice_end:
                    break
            if self._unpark_wanted:
                self._unpark()
            self.activator.start_batches()
            if ready:
                await checkpoint()
            else:
                self._sleeper = current_task()
                await wait_task_rescheduled(self._abort)

    def wake(self) -> None:
        """There is something to do."""
        task, self._sleeper = self._sleeper, None
        if task is not None:
            reschedule(task)

    def make_ready(self, cell: Cell) -> None:
        """Give `cell`, which is live and has something waiting, a turn."""
        if not cell.listed:
            cell.listed = True
            self.ready.push(cell.address.tenant, cell)
            if self._sleeper is not None:
                self.wake()

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._sleeper = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _drain(self, cell: Cell) -> int:
        """Give `cell` its bite; returns how many messages it was, and 1 for none."""
        cell.listed = False
        if cell.phase is not _LIVE:
            return 1
        if cell.stalled_on is not None:
            cell.phase = Phase.STALLED
            return 1
        address = cell.address
        tenant = address.tenant
        kind = cell.group.kind
        if not self._committer.has_room(tenant):
            self._wait_for_room(cell)
            return 1
        context = self._context
        context.address = address
        try:
            context.config = self._config_for(tenant)
        except Exception as error:  # noqa: BLE001
            self.activation_failed(cell, error)
            return 1
        decide = kind.spec.decide
        state = cell.state
        item: Any = None
        lane = Lane.NORMAL
        taken = 0
        again = 0
        bulk_waits = False
        try:
            queue = cell.normal
            if queue and cell.redo is None and not cell.realtime:
                # The common case, where a message costs little more than its handler. `waiting` is corrected
                # once, below.
                popleft = queue.popleft
                for _ in range(min(len(queue), BITE_MAX)):
                    item = popleft()
                    taken += 1
                    if type(item) is Envelope:
                        result = decide(state, item.message, context)
                    else:
                        result = decide(state, item, context)
                        if result is None and cell.flight is None:
                            continue
                    if not self._apply(cell, item, lane, result):
                        break
            else:
                while taken + again < BITE_MAX:
                    if cell.redo:
                        again += 1
                        item = cell.redo.popleft()
                        lane = item.lane
                        if not cell.redo:
                            cell.redo = None
                        if (
                            item.crashes >= CRASHES_MAX
                            or item.failures >= CRASHES_MAX
                            or item.letter is not None
                        ):
                            result = self._write_letter(cell, item)
                        else:
                            context.found = item.found
                            context.suspect = item.suspect
                            result = decide(state, item.message, context)
                            context.found = None
                            context.suspect = False
                    elif cell.waiting > taken:
                        if cell.only_bulk() and not self._committer.has_room(tenant, Lane.BULK):
                            bulk_waits = True
                            break
                        item, lane = cell.pop()
                        cell.waiting += 1
                        taken += 1
                        result = decide(state, item.message if type(item) is Envelope else item, context)
                    else:
                        break
                    if not self._apply(cell, item, lane, result):
                        break
        except Exception as error:  # noqa: BLE001
            context.found = None
            context.suspect = False
            cell.waiting -= taken
            kind.handled += taken
            again += taken
            taken = 0
            self._crashed(cell, item, lane, error)
        cell.waiting -= taken
        kind.handled += taken
        self._after_bite(cell, bulk_waits)
        return taken + again or 1

    def _after_bite(self, cell: Cell, bulk_waits: bool) -> None:
        if cell.room is not None:
            self._release.made_room(cell)
        if cell.phase is not _LIVE:
            return
        activator = self.activator
        if bulk_waits:
            self._wait_for_bulk_room(cell)
        elif cell.waiting or cell.redo:
            cell.listed = True
            self.ready.push(cell.address.tenant, cell)
        else:
            cell.engaged = False
            cell.trim()
            if cell.leaving and cell.idle():
                activator.passivate(cell)
                return
        activator.used(cell)

    def _apply(self, cell: Cell, item: Any, lane: Lane, result: Effects | Lookup | None) -> bool:
        """Start what `result` asks for; says whether the next message of `cell` may be decided now."""
        flight = cell.flight
        if result is None or result is NOTHING:
            if flight is None:
                if type(item) is Envelope:
                    item.reply(None)
                return True
            flight.append(Step(cell, item, lane, NOTHING, True))
            return self._may_go_on(cell)
        if type(result) is Lookup:
            self._look(cell, item, lane, result)
            return False
        if type(result) is not Effects:
            raise Defect(f"a handler of {cell.address.kind!r} returned {type(result).__name__}")
        self._release.check(cell, result)
        rows = result.commit
        step = Step(cell, item, lane, result, not rows)
        if rows:
            if flight is None:
                cell.flight = deque((step,))
            else:
                flight.append(step)
            try:
                self._committer.submit(cell.address, cell.generation, rows, step)
            except Exception:
                # Against its contract; nothing of this step is on its way, so it is a crash like any other.
                step.void = True
                if cell.flight is not None and cell.flight[-1] is step:
                    cell.flight.pop()
                    cell.flight = cell.flight or None
                raise
            if cell.phase is _LIVE and not self._committer.has_room(cell.address.tenant):
                self._wait_for_room(cell)
        elif flight is not None:
            flight.append(step)
        elif not self._release.step(step):
            cell.flight = deque((step,))
        return self._may_go_on(cell)

    def _may_go_on(self, cell: Cell) -> bool:
        if cell.phase is not _LIVE:
            return False
        if cell.stalled_on is not None:
            cell.phase = Phase.STALLED
            return False
        if cell.flight is not None and len(cell.flight) >= cell.group.kind.spec.in_flight_max:
            cell.phase = Phase.FULL
            return False
        return True

    def _look(self, cell: Cell, item: Any, lane: Lane, lookup: Lookup) -> None:
        spec = cell.group.kind.spec
        if spec.lookup is None:
            raise Defect(f"a handler of {spec.kind!r} asked for a lookup, and the kind has none")
        envelope = item if type(item) is Envelope else Envelope(item, None, lane)
        if envelope.lookups >= LOOKUPS_MAX:
            raise Defect(
                f"a handler of {spec.kind!r} asked for more than {LOOKUPS_MAX} lookups for one message"
            )
        envelope.lookups += 1
        cell.again(envelope)
        self.activator.look(cell, lookup.query)

    # Commits

    def committed(self, step: Step, error: CommitFailed | None) -> None:
        """The writer's verdict on one write set."""
        cell = step.cell
        if cell.phase is Phase.GONE:
            return
        if step.void:
            cell.voided -= 1
            if isinstance(error, CommitConflict):
                step.envelope().suspect = True
            self._try_closed(cell)
        elif error is None:
            step.durable = True
            self.release_ready(cell)
        elif isinstance(error, Fenced):
            self._on_fenced(cell.address.tenant)
        else:
            self._void(step, error)

    def _void(self, failed: Step, error: CommitFailed) -> None:
        """Take back `failed` and everything decided after it, to be decided again on a fresh state."""
        cell = failed.cell
        flight = cell.flight
        assert flight is not None
        voided: list[Step] = []
        while True:
            step = flight.pop()
            step.void = True
            voided.append(step)
            if step is failed:
                break
            if not step.durable:
                cell.voided += 1
        if not flight:
            cell.flight = None
        for step in voided:
            envelope = step.envelope()
            step.item = envelope
            envelope.found = None
            envelope.lookups = 0
            cell.again(envelope)
        envelope = failed.item
        delay = 0.0
        if isinstance(error, CommitConflict):
            envelope.suspect = True
        if not isinstance(error, CommitAbandoned):
            envelope.failures += 1
            envelope.error = self._describe(error)
            # The first conflict is ordinary (a redelivery, say) and needs only the reload. Rows that are
            # refused are as a crash: many in a row must not have the activation loaded without a pause.
            waits = envelope.failures - isinstance(error, CommitConflict)
            if waits and envelope.failures < CRASHES_MAX:
                delay = cell.group.kind.spec.backoff.delay(waits, self.random)
        else:
            cell.trouble += 1
            delay = cell.group.kind.spec.backoff.delay(cell.trouble, self.random)
        self.observer.commit_failed(cell.address, error, len(voided))
        self.close(cell, delay)

    def release_ready(self, cell: Cell) -> None:
        """Release what is durable, in order, and let the cell go on if that is what it waited for."""
        if cell.stalled_on is not None:
            return
        flight = cell.flight
        while flight and flight[0].durable and self._release.step(flight[0]):
            flight.popleft()
        if not flight:
            cell.flight = None
        phase = cell.phase
        if phase is Phase.CLOSING:
            self._try_closed(cell)
        elif phase is Phase.FULL or (phase is Phase.STALLED and cell.stalled_on is None):
            if not flight or len(flight) < cell.group.kind.spec.in_flight_max:
                cell.phase = _LIVE
                self.make_ready(cell)
        elif cell.leaving and cell.idle():
            self.activator.passivate(cell)

    # Crashes

    def _crashed(self, cell: Cell, item: Any, lane: Lane, error: Exception) -> None:
        kind = cell.group.kind
        envelope = item if type(item) is Envelope else Envelope(item, None, lane)
        envelope.crashes += 1
        envelope.found = None
        envelope.lookups = 0
        envelope.error = self._describe(error)
        kind.crashes += 1
        cell.again(envelope)
        self.observer.crashed(cell.address, error, envelope.crashes)
        delay = (
            0.0 if envelope.crashes >= CRASHES_MAX else kind.spec.backoff.delay(envelope.crashes, self.random)
        )
        self.close(cell, delay)
        cell.group.failed(error)

    def message_failed(self, cell: Cell, error: Exception) -> None:
        """The message in hand (first in `redo`) failed outside the handler: its lookup raised."""
        assert cell.redo is not None
        envelope = cell.redo.popleft()
        self._crashed(cell, envelope, envelope.lane, error)

    def activation_failed(self, cell: Cell, error: Exception) -> None:
        """The activation failed for no message's fault: it is tried again after a backoff, for as long as it
        takes."""
        cell.trouble += 1
        delay = cell.group.kind.spec.backoff.delay(cell.trouble, self.random)
        self.observer.load_failed(cell.address, error, delay)
        self.close(cell, delay)
        if not isinstance(error, Unavailable):
            cell.group.failed(error)

    def close(self, cell: Cell, delay: float) -> None:
        """Discard the activation; load again `delay` seconds after everything in flight has ended."""
        cell.phase = Phase.CLOSING
        cell.engaged = True
        cell.state = None
        cell.leaving = False
        cell.delay = delay
        cell.restarts += 1
        cell.group.kind.restarts += 1
        cell.group.kind.residents.pop(cell, None)
        self._try_closed(cell)

    def _try_closed(self, cell: Cell) -> None:
        if cell.phase is Phase.CLOSING and not cell.flight and not cell.voided:
            self.activator.reopen(cell)

    def _write_letter(self, cell: Cell, envelope: Envelope) -> Effects:
        """The effects that park a message: its dead letter, and the refusal for its asker."""
        if envelope.letter is None:
            tried = envelope.crashes + envelope.failures
            envelope.letter = DeadLetter(cell.address, envelope.message, envelope.error, tried)
            # From here on only the letter's own failures count; those of its predecessors bring it here too.
            envelope.failures = 0
        attempts = envelope.letter.attempts
        refusal = Parked(f"the message failed {attempts} times and is kept in the dead letters")
        rows: Sequence[object] = ()
        if envelope.failures < LETTERS_MAX:
            try:
                rows = self._dead_letter(envelope.letter)
            except Exception as error:  # noqa: BLE001
                self.observer.crashed(cell.address, error, attempts)
        if not rows:
            cell.group.kind.undeliverable += 1
            self.observer.undeliverable(cell.address, envelope.message, "its dead letter could not be stored")
            envelope.letter = None
            refusal = Parked(f"the message failed {attempts} times, and so did its dead letter")
        return Effects(commit=rows, refuse=refusal)

    @staticmethod
    def _describe(error: BaseException) -> str:
        return "".join(traceback.format_exception(error))[-ERROR_CHARACTERS_MAX:]

    # Room in the writer

    def _wait_for_room(self, cell: Cell) -> None:
        cell.phase = Phase.NO_ROOM
        cell.engaged = True
        self._parked.setdefault(cell.address.tenant, {})[cell] = None
        self._ask_for_room()

    def _wait_for_bulk_room(self, cell: Cell) -> None:
        """All that waits in `cell` is bulk. It stays live, and whatever else comes in engages it."""
        cell.engaged = False
        self._bulk_parked.setdefault(cell.address.tenant, {})[cell] = None
        self._ask_for_room()

    def _ask_for_room(self) -> None:
        if not self._room_asked:
            self._room_asked = True
            self._committer.when_room(self._room_made)

    def _room_made(self) -> None:
        self._room_asked = False
        self._unpark_wanted = True
        self.wake()

    def _unpark(self) -> None:
        """Let waiting cells go on, as many of each tenant as make a good batch; the rest of the tenant when
        these are through."""
        self._unpark_wanted = False
        for parked, lane in ((self._parked, Lane.NORMAL), (self._bulk_parked, Lane.BULK)):
            for tenant, cells in list(parked.items()):
                moved = self.ready.waiting(tenant)
                while cells and moved < UNPARKED_MAX and self._committer.has_room(tenant, lane):
                    cell = next(iter(cells))
                    del cells[cell]
                    if cell.phase is Phase.NO_ROOM:
                        cell.phase = _LIVE
                    if cell.phase is _LIVE:
                        cell.engaged = True
                        self.make_ready(cell)
                        moved += 1
                if not cells:
                    del parked[tenant]
                elif moved >= UNPARKED_MAX:
                    self._unpark_wanted = True
        if (self._parked or self._bulk_parked) and not self._unpark_wanted:
            self._ask_for_room()
