"""Effects on their way out, once what they rest on is durable.

A tell goes into its receiver's mailbox, where actors may fill up to twice what outsiders may: what has been
committed must get through while the edge is already refusing. (The last quarter is closed to the bulk lane,
as it is for outsiders.) When even that is full the sender waits: it is not drained and releases nothing
further until there is room, so nothing is dropped and nothing overtakes.

Actors that tell each other in a circle could wait for each other. A sender whose waiting would close such a
circle passes the limit instead, and the observer hears of it (`overrun`).
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import outcome
from trio.lowlevel import reschedule

from engine.errors import ActorStopped, Defect, MijraError
from engine.runtime.address import Address, Lane
from engine.runtime.cell import Cell, Phase, Step
from engine.runtime.effects import NOTHING, Effects, SetTimer
from engine.runtime.mailbox import Envelope, Mailbox, Room, Waiters, room_of
from engine.runtime.observing import Observer
from engine.runtime.timers import Alarms

if TYPE_CHECKING:
    from engine.runtime.dispatcher import Dispatcher
    from engine.runtime.registry import Registry

RESERVE: Final = 2
"""Actors may fill a mailbox to this multiple of its limit."""

HOPS_MAX: Final = 8
"""Times a message may be forwarded; more is a circle."""

TIMERS_MAX: Final = 64
"""Timers of one actor. A handler that needs more wants rows."""


class Release:
    """Acts on effects; knows nothing of commits."""

    def __init__(
        self, *, registry: "Registry", timers: Alarms, wall_ms: Callable[[], int], observer: Observer
    ) -> None:
        self._registry = registry
        self._timers = timers
        self._wall_ms = wall_ms
        self._observer = observer
        self.dispatcher: Dispatcher

    def check(self, cell: Cell, effects: Effects) -> None:
        """Raise `Defect` for effects that could not be released, before anything of them is committed."""
        if effects.forward is not None:
            if effects != Effects(forward=effects.forward):
                raise Defect("a forwarded message has no other effect")
            self._registry.check(effects.forward)
        own = 0
        for tell in effects.tell:
            self._registry.check(tell.to)
            own += tell.to == cell.address
        if own and cell.waiting + own > RESERVE * cell.limit:
            raise Defect("an actor tells itself more than it can handle")
        if effects.timers:
            names = {timer.name for timer in effects.timers if isinstance(timer, SetTimer)}
            if len(names.union(cell.timers or ())) > TIMERS_MAX:
                raise Defect(f"an actor has more than {TIMERS_MAX} timers")

    def step(self, step: Step) -> bool:
        """Release the effects of `step`; False when its sender must wait for room and call again later."""
        effects = step.effects
        item = step.item
        if effects is NOTHING:
            if type(item) is Envelope:
                item.reply(None)
            return True
        cell = step.cell
        tells = effects.tell
        while step.told < len(tells):
            tell = tells[step.told]
            if not self._deliver(cell, tell.to, tell.message, tell.lane):
                return False
            step.told += 1
        if effects.forward is not None:
            return self._forward(cell, effects.forward, step.envelope())
        for timer in effects.timers:
            self._cancel_timer(cell, timer.name)
            if isinstance(timer, SetTimer):
                self._set_timer(cell, timer)
        if type(item) is Envelope:
            if item.letter is not None:
                cell.group.kind.parked += 1
                self._observer.parked(item.letter)
            if effects.refuse is not None:
                item.refuse(effects.refuse)
            else:
                item.reply(effects.reply)
        if effects.passivate:
            cell.leaving = True
        return True

    def made_room(self, mailbox: Mailbox) -> None:
        """Something was taken out of `mailbox`: let those who wait for room go on, actors first."""
        room = mailbox.room
        if room is None:
            return
        self._let_in(mailbox, room.urgent, Lane.NORMAL)
        self._let_in(mailbox, room.bulk, Lane.BULK)
        if not room.wanted():
            mailbox.room = None
        if mailbox.waiting and not mailbox.engaged:
            mailbox.engage()

    def _let_in(self, mailbox: Mailbox, waiters: Waiters, lane: Lane) -> None:
        while waiters.actors and mailbox.waiting < room_of(RESERVE * mailbox.limit, lane):
            sender: Cell = waiters.actors.popleft()
            if sender.stalled_on is mailbox:
                sender.stalled_on = None
                self.dispatcher.release_ready(sender)
        while waiters.tasks and mailbox.waiting < room_of(mailbox.limit, lane):
            waiter = waiters.tasks.popleft()
            mailbox.push(waiter.item, waiter.lane)
            reschedule(waiter.task)

    def abandon_room(self, mailbox: Mailbox, error: MijraError) -> None:
        """`mailbox` is gone: refuse the tasks that wait for room in it, and let actors try the address
        afresh."""
        room, mailbox.room = mailbox.room, None
        if room is None:
            return
        for waiters in (room.urgent, room.bulk):
            for waiter in waiters.tasks:
                reschedule(waiter.task, outcome.Error(error))
            for sender in waiters.actors:
                if sender.stalled_on is mailbox:
                    sender.stalled_on = None
                    self.dispatcher.release_ready(sender)

    def _deliver(self, cell: Cell, to: Address, item: Any, lane: Lane) -> bool:
        try:
            mailbox = self._registry.find(to)
        except ActorStopped as error:
            message = item
            if type(item) is Envelope:
                message = item.message
                item.refuse(error)
            self._registry.lost(to, message, error.message)
            return True
        if mailbox.waiting >= room_of(RESERVE * mailbox.limit, lane) and mailbox is not cell:
            if not self._closes_circle(cell, mailbox):
                cell.stalled_on = mailbox
                if mailbox.room is None:
                    mailbox.room = Room()
                mailbox.room.waiters(lane).actors.append(cell)
                self._observer.stalled(cell.address, to)
                return False
            self._observer.overrun(cell.address, to)
        mailbox.push(item, lane)
        if not mailbox.engaged:
            mailbox.engage()
        return True

    @staticmethod
    def _closes_circle(cell: Cell, mailbox: Mailbox) -> bool:
        # A chain longer than 64 is treated as a circle: passing a limit once does less harm than a long walk
        # each time.
        for _ in range(64):
            if not isinstance(mailbox, Cell) or mailbox.stalled_on is None:
                return False
            mailbox = mailbox.stalled_on
            if mailbox is cell:
                return True
        return True

    def _forward(self, cell: Cell, to: Address, envelope: Envelope) -> bool:
        if envelope.hops >= HOPS_MAX:
            envelope.refuse(Defect("the message was forwarded in a circle"))
            self._registry.lost(to, envelope.message, "forwarded in a circle")
            return True
        # For its new receiver the message has not failed yet.
        fresh = Envelope(envelope.message, envelope.slot, envelope.lane)
        fresh.hops = envelope.hops + 1
        return self._deliver(cell, to, fresh, envelope.lane)

    def _set_timer(self, cell: Cell, timer: SetTimer) -> None:
        if cell.timers is None:
            cell.timers = {}
        cell.timers[timer.name] = self._timers.set(timer.at, partial(self._fire, cell, timer))

    def _cancel_timer(self, cell: Cell, name: str) -> None:
        if cell.timers is not None and (alarm := cell.timers.pop(name, None)) is not None:
            self._timers.cancel(alarm)
            if not cell.timers:
                cell.timers = None

    def cancel_timers(self, cell: Cell) -> None:
        """Forget all timers of a cell that leaves the system."""
        timers, cell.timers = cell.timers, None
        for alarm in (timers or {}).values():
            self._timers.cancel(alarm)

    @staticmethod
    def _fire(cell: Cell, timer: SetTimer) -> None:
        if cell.phase is Phase.GONE or cell.timers is None:
            return
        cell.timers.pop(timer.name, None)
        if not cell.timers:
            cell.timers = None
        # Always taken in: there are at most TIMERS_MAX of them for one address.
        cell.push(timer.message, Lane.NORMAL)
        if not cell.engaged:
            cell.engage()
