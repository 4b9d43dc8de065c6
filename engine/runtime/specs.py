"""The supervision tree and its actors as data.

A `Decider` describes a kind of virtual actors (pure handlers, activated by a message, any number of them); a
`Worker` describes actors whose job is I/O (a task each while active); a `Supervisor` groups them. Specs do
nothing. The defaults here are the place where the runtime's limits carry their reasons.
"""

from collections.abc import Awaitable, Callable, Sequence
from enum import Enum
from random import Random
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from msgspec import Struct

from engine.errors import CommitFailed
from engine.runtime.address import Address, Key, Lane
from engine.runtime.effects import Context, Effects, Lookup

if TYPE_CHECKING:
    from engine.runtime.inbox import Inbox


class Restart(Enum):
    """When a child that ended is started again (OTP's meaning)."""

    PERMANENT = "permanent"
    """always"""
    TRANSIENT = "transient"
    """only after a crash; a supervisor that gave up has not crashed"""
    TEMPORARY = "temporary"
    """never; what waits in its mailbox is refused"""


class Strategy(Enum):
    """Who is restarted together with a child that failed (OTP's meaning)."""

    ONE_FOR_ONE = "one_for_one"
    ONE_FOR_ALL = "one_for_all"
    REST_FOR_ONE = "rest_for_one"


class RestartLimit(Struct, frozen=True):
    """At most `times` restarts within any `seconds`; one more and the supervisor itself gives up (OTP's
    intensity)."""

    times: int
    seconds: float


class Backoff(Struct, frozen=True):
    """Delay before a restart: `first_seconds * factor**n`, at most `seconds_max`, shortened by up to `jitter`
    (0..1).

    `first_seconds=0` restarts at once, which is OTP's behaviour.
    """

    first_seconds: float = 0.0
    factor: float = 2.0
    seconds_max: float = 30.0
    jitter: float = 0.2

    def delay(self, failures: int, random: Random) -> float:
        """Seconds to wait after the `failures`-th failure in a row (1 is the first)."""
        if self.first_seconds <= 0:
            return 0.0
        # The exponent is capped because floats overflow long before an outage of some days ends.
        delay = min(self.seconds_max, self.first_seconds * self.factor ** min(failures - 1, 64))
        return delay * (1.0 - self.jitter * random.random()) if self.jitter else delay


NO_BACKOFF = Backoff()

DECIDER_BACKOFF = Backoff(first_seconds=0.1, factor=2.0, seconds_max=30.0, jitter=0.2)
"""0.1 s lets a passing fault pass; 30 s keeps a broken row from costing more than a query every half
minute."""

DECIDER_LIMIT = RestartLimit(times=1000, seconds=10.0)
"""One address cannot reach it: with `DECIDER_BACKOFF` an activation whose load always fails restarts 7 times
in 10 s, and one whose every message crashes about 120 times (3 crashes and 0.3 s of backoff for each parked
message). It takes a fault that many addresses share, where throwing the whole group away is cheap and may
help."""

WORKER_BACKOFF = Backoff(first_seconds=0.2, factor=2.0, seconds_max=30.0, jitter=0.2)

WORKER_LIMIT = RestartLimit(times=12, seconds=30.0)
"""One lazily started worker that always crashes makes at most 9 restarts in 30 s with `WORKER_BACKOFF`, so it
takes two of one tenant failing without pause to restart the group."""

SUPERVISOR_LIMIT = RestartLimit(times=5, seconds=30.0)
"""Limits multiply down the tree, so a supervisor of groups allows little: a group gives up only when it is in
trouble."""


class LoadRequest(Struct, frozen=True, gc=False):
    """One activation wanted: the address, and the message that waits first as a hint of what will be
    needed."""

    address: Address
    message: object


class LookupRequest(Struct, frozen=True):
    """One question of a handler."""

    address: Address
    query: object


class Decider(Struct, kw_only=True, frozen=True):
    """A kind of virtual actors with pure handlers.

    `decide`            the handler; see `engine.runtime.effects` for the purity rule.
    `load`              gives the state for each request, in order, or an exception in its place. Requests
                        that come up at the same moment share a call, whatever their tenants.
                        `StoreUnavailable` (any `Unavailable`) is retried with backoff for as long as it
                        lasts; another error is a crash of the activation.
    `lookup`            answers each query, in order, never with None; an exception in its place crashes the
                        message.
    `mailbox_max`       messages that may wait for one address, the last quarter of them not by the bulk lane.
                        Other actors may fill up to twice as many (see `Tell`).
    `idle_seconds_max`  an activation that long without a message is passivated (up to an eighth later).
    `resident_max`      activations of this kind kept over all tenants, the least recently used go first. Busy
                        ones stay, so it is passed when more than that are busy at once.
    `in_flight_max`     messages of one activation decided and not yet released. 64 is four batches of a busy
                        conversation.
    `limit`, `backoff`  of the group of this kind within one tenant; see `DECIDER_LIMIT` for why one address
                        cannot reach it.
    `on_passivate`      told (address, state) when an activation leaves for idleness; must not raise.
    """

    kind: str
    decide: Callable[[Any, Any, Context], Effects | Lookup | None]
    load: Callable[[Sequence[LoadRequest]], Awaitable[Sequence[Any]]]
    lookup: Callable[[Sequence[LookupRequest]], Awaitable[Sequence[Any]]] | None = None
    mailbox_max: int = 256
    idle_seconds_max: float = 300.0
    resident_max: int = 100_000
    in_flight_max: int = 64
    limit: RestartLimit = DECIDER_LIMIT
    backoff: Backoff = DECIDER_BACKOFF
    stop_seconds_max: float = 5.0
    on_passivate: Callable[[Address, Any], None] | None = None


class Worker(Struct, kw_only=True, frozen=True):
    """A kind of actors whose job is I/O: `run(inbox)` in a task of its own while active.

    Not `lazily`: one actor with the key `key`, started with its supervisor, at its place in the start order.
    `lazily`: one
    for each key, started by its first message, under a group of their own (one for one, `limit`, `backoff`).
    `run` ends when `inbox.take` gives an empty list; it is cancelled `stop_seconds_max` after it was asked to
    stop.
    """

    kind: str
    run: "Callable[[Inbox], Awaitable[None]]"
    restart: Restart = Restart.TRANSIENT
    mailbox_max: int = 1024
    stop_seconds_max: float = 5.0
    lazily: bool = False
    key: Key = ""
    limit: RestartLimit = WORKER_LIMIT
    backoff: Backoff = WORKER_BACKOFF


class Supervisor(Struct, kw_only=True, frozen=True):
    """A group of children: started in order, stopped in reverse, restarted by `strategy` within `limit`.

    Over the limit it stops its children in reverse order and ends; its own supervisor counts that as one
    failure of one child if it is permanent. `backoff` delays restarts; its default restarts at once, as OTP
    does.
    """

    name: str
    children: "Sequence[Spec]"
    strategy: Strategy = Strategy.ONE_FOR_ONE
    limit: RestartLimit = SUPERVISOR_LIMIT
    backoff: Backoff = NO_BACKOFF
    restart: Restart = Restart.PERMANENT
    stop_seconds_max: float = 30.0


Spec: TypeAlias = Decider | Worker | Supervisor


class DeadLetter(Struct, frozen=True):
    """A message that could not be handled, as the system's `dead_letter` turns it into rows.

    `error` is the last failure with its traceback (at most 8,000 characters), `attempts` how often it was
    tried.
    """

    address: Address
    message: object
    error: str
    attempts: int


class Committer(Protocol):
    """The writer, as the runtime needs it. All of it is called in trio's thread and nothing of it may block
    or raise."""

    def submit(
        self,
        address: Address,
        generation: int,
        rows: Sequence[object],
        done: Callable[[CommitFailed | None], None],
    ) -> None:
        """Make `rows` durable together, then call `done` in trio's thread, in submit order for each address.

        Once a set of an (address, generation) has failed, every later one of the same pair fails with
        `CommitAbandoned`.
        """
        ...

    def has_room(self, tenant: int, lane: Lane = Lane.NORMAL) -> bool:
        """Whether this tenant's writer wants more now. When not, the runtime stops deciding for the tenant;
        what came by the bulk lane waits already when there is none for that lane."""
        ...

    def when_room(self, callback: Callable[[], None]) -> None:
        """Call `callback` once when a writer has room again for a tenant and lane that it had none for."""
        ...
