"""What a handler may know and what it may ask for.

A handler is one synchronous step: `decide(state, message, context) -> Effects | Lookup | None`. The purity
rule: it may change the state object it was given and nothing else. It reads no clock, draws no random number,
does no I/O and keeps neither the context nor the state. The runtime throws the state away on every failure
and decides the same message again on a fresh one, so whatever else a handler touched would be touched twice.

Nothing here acts: `engine.runtime.dispatcher` commits the rows and `engine.runtime.release` lets the rest go.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from msgspec import Struct

from engine.errors import MijraError
from engine.runtime.address import Address, Lane


class Context:
    """What a handler may know besides its state and the message.

    One object serves every handler of a system and is refilled for each drain: never keep it.

    `now`      wall clock, ms since the epoch, read once for each slice of the runtime's work (a few
               ms).
    `address`  the actor's own address.
    `config`   the tenant's configuration snapshot, as the system's `config_for` gave it for this drain.
    `found`    the answer to the `Lookup` that this message asked for; None in its first round.
    `suspect`  True when this message's own write set met a `CommitConflict`: something is there that the
               state does not know, so look it up instead of trusting what is resident.
    `new_id`   a fresh id, sortable by time.
    """

    __slots__ = ("address", "config", "found", "new_id", "now", "suspect")

    def __init__(self, new_id: Callable[[], int]) -> None:
        self.now: int = 0
        self.address: Address = Address("", 0, "")
        self.config: Any = None
        self.found: object | None = None
        self.suspect: bool = False
        self.new_id: Callable[[], int] = new_id


class Tell(Struct, frozen=True):
    """Send `message` to another actor (or to the same one)."""

    to: Address
    message: object
    lane: Lane = Lane.NORMAL


class SetTimer(Struct, frozen=True):
    """Deliver `message` to this actor at `at` (wall clock, ms since the epoch); replaces the timer of that
    name.

    Timers live in memory: they survive a restart of the activation as the mailbox does, and end with the
    process. An actor with a pending timer is not passivated. Durable deadlines are rows.
    """

    name: str
    at: int
    message: object


class CancelTimer(Struct, frozen=True):
    """Forget the timer of that name; nothing happens if there is none (it may have fired already)."""

    name: str


class Effects(Struct, frozen=True):
    """What one message leads to. Nothing of it has happened when `decide` returns.

    `commit` is made durable, all rows or none; the other effects are released after that and after the
    effects of every earlier message of this activation, in the order tells, timers, reply. An empty reply
    answers an asker with None. `forward` hands the message, with its asker, to another address and goes with
    no other effect.
    `passivate` is a wish: granted when nothing waits, is in flight or is timed.
    """

    commit: Sequence[object] = ()
    tell: Sequence[Tell] = ()
    timers: Sequence[SetTimer | CancelTimer] = ()
    reply: object = None
    refuse: MijraError | None = None
    forward: Address | None = None
    passivate: bool = False


class Lookup(Struct, frozen=True):
    """Returned instead of effects: fetch the answer to `query`, then decide this message again with
    `context.found`.

    The handler must not have changed its state in a round that ends like this. Later messages of the address
    wait. The answer shows what is committed; what this activation has in flight is in its state.
    """

    query: object


NOTHING: Final = Effects()
