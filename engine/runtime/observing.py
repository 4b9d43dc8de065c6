"""What an operator can see: events as they happen, and pictures of the moment.

The runtime logs nothing itself. It calls an `Observer`, which the composition root turns into log lines and
metrics.
`Trace` keeps the supervision events, for tests and for comparing with another implementation of the same
semantics.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from engine.runtime.address import Address
from engine.runtime.specs import DeadLetter


class Observer(Protocol):
    """Called in trio's thread, in the middle of the runtime's work: must be quick and must not raise.

    A `path` names a node of the supervision tree, as in `system/tenants/7/conversations`.
    """

    def started(self, path: str) -> None:
        """A supervised child was started (first start and restarts)."""

    def stopped(self, path: str, reason: str) -> None:
        """A supervised child ended: `normal`, `shutdown`, `killed` (deadline passed) or `crash`."""

    def restarting(self, path: str, delay_seconds: float) -> None:
        """A supervised child will be started again."""

    def escalated(self, path: str, error: BaseException | None) -> None:
        """A supervisor passed its restart limit and gives up; its own supervisor decides now."""

    def worker_crashed(self, path: str, error: BaseException) -> None:
        """A worker ended with an exception."""

    def crashed(self, address: Address, error: BaseException, attempts: int) -> None:
        """A handler raised; the message will be tried again, or parked when `attempts` has reached 3."""

    def commit_failed(self, address: Address, error: BaseException, decided_again: int) -> None:
        """A write set failed; the activation was discarded and so many messages are decided again."""

    def load_failed(self, address: Address, error: BaseException, delay_seconds: float) -> None:
        """A load (or lookup) failed and is repeated after the delay."""

    def parked(self, letter: DeadLetter) -> None:
        """A message is in the dead letters (durably)."""

    def undeliverable(self, address: Address, message: object, reason: str) -> None:
        """A message was given up: its actor stopped, or its dead letter could not be stored."""

    def stalled(self, sender: Address, receiver: Address) -> None:
        """An actor's effects do not fit its receiver's mailbox; it is not drained until they do."""

    def overrun(self, sender: Address, receiver: Address) -> None:
        """Actors stalled in a circle; the limit was passed to break it. The design has a cycle of tells."""

    def passivated(self, address: Address) -> None:
        """An activation left for idleness or for room."""

    def fenced(self, tenant: int) -> None:
        """Another process owns the tenant; everything of it was discarded here."""


class SilentObserver:
    """Sees nothing; derive from it and override what you want to see."""

    def started(self, path: str) -> None:
        pass

    def stopped(self, path: str, reason: str) -> None:
        pass

    def restarting(self, path: str, delay_seconds: float) -> None:
        pass

    def escalated(self, path: str, error: BaseException | None) -> None:
        pass

    def worker_crashed(self, path: str, error: BaseException) -> None:
        pass

    def crashed(self, address: Address, error: BaseException, attempts: int) -> None:
        pass

    def commit_failed(self, address: Address, error: BaseException, decided_again: int) -> None:
        pass

    def load_failed(self, address: Address, error: BaseException, delay_seconds: float) -> None:
        pass

    def parked(self, letter: DeadLetter) -> None:
        pass

    def undeliverable(self, address: Address, message: object, reason: str) -> None:
        pass

    def stalled(self, sender: Address, receiver: Address) -> None:
        pass

    def overrun(self, sender: Address, receiver: Address) -> None:
        pass

    def passivated(self, address: Address) -> None:
        pass

    def fenced(self, tenant: int) -> None:
        pass


class Trace(SilentObserver):
    """Keeps supervision events as (event, path) pairs, the newest 10,000."""

    def __init__(self, kept_max: int = 10_000) -> None:
        self.events: deque[tuple[str, str]] = deque(maxlen=kept_max)

    def started(self, path: str) -> None:
        self.events.append(("start", path))

    def stopped(self, path: str, reason: str) -> None:
        self.events.append((reason, path))

    def restarting(self, path: str, delay_seconds: float) -> None:
        self.events.append(("restart", path))

    def escalated(self, path: str, error: BaseException | None) -> None:
        self.events.append(("give_up", path))


class KindStatistics(Struct, frozen=True):
    """Counts of one kind since the start, except `addresses`, `resident`, `waiting` and `in_flight`: those
    are of the moment."""

    addresses: int
    resident: int
    waiting: int
    in_flight: int
    handled: int
    refused: int
    loads: int
    load_batches: int
    lookups: int
    crashes: int
    restarts: int
    parked: int
    passivated: int
    undeliverable: int


class SystemStatistics(Struct, frozen=True):
    """One picture of the system; making it walks over all addresses (about 0.2 ms for a thousand)."""

    addresses: int
    waiting: int
    in_flight: int
    ready: int
    asking: int
    timers: int
    tenants: int
    workers: int
    undeliverable: int
    kinds: Mapping[str, KindStatistics]


class ActorDescription(Struct, frozen=True):
    """One live address, for `GET system/actors`."""

    address: Address
    state: str
    waiting: int
    in_flight: int
    restarts: int


class TreeNode(Struct, frozen=True):
    """One node of the supervision tree. `detail` says what is particular to its type."""

    name: str
    type: str
    running: bool
    restarts: int
    detail: str
    children: "Sequence[TreeNode]" = ()


def format_tree(node: TreeNode) -> str:
    """The tree as text, one line for each node."""
    lines: list[str] = []

    def walk(node: TreeNode, lead: str, branch: str) -> None:
        state = "" if node.running else " (stopped)"
        restarts = f", {node.restarts} restarts" if node.restarts else ""
        lines.append(f"{lead}{branch}{node.name}{state}: {node.type}, {node.detail}{restarts}")
        inner = lead + {"": "", "├─ ": "│  ", "└─ ": "   "}[branch]
        for index, child in enumerate(node.children):
            walk(child, inner, "└─ " if index == len(node.children) - 1 else "├─ ")

    walk(node, "", "")
    return "\n".join(lines)
