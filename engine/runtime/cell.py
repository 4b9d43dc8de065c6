"""The runtime's record of one virtual actor, and of its kind.

Pure data: who changes it is `Dispatcher` (handling), `Release` (effects) and `Activator` (residency). A cell
exists only while its address is resident or has something waiting; an address without a cell costs nothing.
"""

from collections import OrderedDict, deque
from enum import Enum
from typing import TYPE_CHECKING, Any

from engine.errors import CommitFailed
from engine.runtime.address import Address, Lane
from engine.runtime.effects import Effects
from engine.runtime.gathering import Gathering
from engine.runtime.mailbox import Envelope, Mailbox
from engine.runtime.specs import Decider
from engine.runtime.timers import Alarm

if TYPE_CHECKING:
    from engine.runtime.decider_group import DeciderGroup


class Phase(Enum):
    """What a cell is doing. In every phase but ABSENT and LIVE somebody is responsible for moving it on."""

    ABSENT = "absent"
    """no activation; the next message loads one"""
    HELD = "held"
    """its group is closed; opening the group moves it on"""
    LOADING = "loading"
    """its load is under way"""
    LIVE = "live"
    LOOKING = "looking"
    """the message in hand waits for its lookup"""
    FULL = "full"
    """as much in flight as it may have; a release moves it on"""
    NO_ROOM = "no_room"
    """its writer has no room; the committer's callback moves it on"""
    STALLED = "stalled"
    """its effects do not fit a receiver's mailbox; room there moves it on"""
    CLOSING = "closing"
    """the activation is discarded; the end of what is in flight moves it on"""
    BACKOFF = "backoff"
    """waits before the next load"""
    GONE = "gone"
    """no longer in the system"""


class Step:
    """One decided message whose effects are not released yet. Its own `done` callback, to spare a closure."""

    __slots__ = ("cell", "durable", "effects", "item", "lane", "told", "void")

    def __init__(self, cell: "Cell", item: Any, lane: Lane, effects: Effects, durable: bool) -> None:
        self.cell = cell
        self.item = item
        self.lane = lane
        self.effects = effects
        self.durable = durable
        self.void = False
        self.told = 0

    def __call__(self, error: CommitFailed | None) -> None:
        self.cell.group.dispatcher.committed(self, error)

    def envelope(self) -> Envelope:
        """The message with what has happened to it, made when it has to be decided again."""
        item = self.item
        return item if type(item) is Envelope else Envelope(item, None, self.lane)


class Cell(Mailbox):
    """One virtual actor: its mailbox, its state, what is in flight.

    `flight`   decided and not released, oldest first.
    `redo`     to be decided again, before anything in the lanes.
    `voided`   write sets of a discarded activation whose verdict is still to come.
    `trouble`  activation failures in a row, for the backoff.
    `listed`   it is in the dispatcher's ready queue.
    `used`     when it was last drained (dispatcher's coarse clock).
    """

    __slots__ = (
        "delay",
        "flight",
        "generation",
        "group",
        "leaving",
        "listed",
        "phase",
        "redo",
        "restarts",
        "stalled_on",
        "state",
        "timers",
        "trouble",
        "used",
        "voided",
    )

    def __init__(self, address: Address, group: "DeciderGroup", limit: int) -> None:
        # The lines of Mailbox.__init__ once more: a call less for each of many thousand activations a second.
        self.address = address
        self.limit = limit
        self.waiting = 0
        self.engaged = False
        self.realtime = self.normal = self.bulk = None
        self.room = None
        self.group = group
        self.phase = Phase.ABSENT
        self.state: Any = None
        self.generation = 0
        self.flight: deque[Step] | None = None
        self.redo: deque[Envelope] | None = None
        self.timers: dict[str, Alarm] | None = None
        self.stalled_on: Mailbox | None = None
        self.voided = 0
        self.restarts = 0
        self.trouble = 0
        self.delay = 0.0
        self.used = 0.0
        self.leaving = False
        self.listed = False

    def engage(self) -> None:
        self.engaged = True
        if self.phase is Phase.LIVE:
            self.group.dispatcher.make_ready(self)
        else:
            self.group.dispatcher.activator.begin(self)

    def again(self, envelope: Envelope) -> None:
        """Put `envelope` before everything that waits."""
        if self.redo is None:
            self.redo = deque((envelope,))
        else:
            self.redo.appendleft(envelope)

    def idle(self) -> bool:
        """Whether nothing at all is going on, so that it may be passivated."""
        return (
            self.phase is Phase.LIVE
            and not self.engaged
            and not self.waiting
            and not self.redo
            and not self.flight
            and not self.timers
            and self.room is None
        )

    def busy(self) -> bool:
        """Whether stopping now would leave something undone (a timer is not: it lives in memory only)."""
        return bool(self.waiting or self.redo or self.flight or self.voided or self.engaged)

    def first_message(self) -> object:
        """What will be decided first, as a hint for the load."""
        return self.redo[0].message if self.redo else self.peek()


class Kind:
    """One kind of virtual actors over all tenants: what is batched and limited together, and its counts."""

    __slots__ = (
        "crashes",
        "handled",
        "load_batches",
        "loads",
        "lookups",
        "parked",
        "passivated",
        "refused",
        "residents",
        "restarts",
        "spec",
        "to_load",
        "to_look",
        "undeliverable",
    )

    def __init__(self, spec: Decider) -> None:
        self.spec = spec
        self.residents: OrderedDict[Cell, None] = OrderedDict()
        self.to_load: Gathering[Cell] = Gathering()
        self.to_look: Gathering[tuple[Cell, int, object]] = Gathering()
        self.handled = 0
        self.refused = 0
        self.loads = 0
        self.load_batches = 0
        self.lookups = 0
        self.crashes = 0
        self.restarts = 0
        self.parked = 0
        self.passivated = 0
        self.undeliverable = 0
