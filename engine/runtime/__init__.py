"""The actor runtime: supervised actors with bounded mailboxes, pure handlers and commit-then-release.

A small library that knows nothing of messaging, HTTP or a database. What it needs of a store is the
`Committer`.

The model in five rules

1.  An address is (kind, tenant, key) and always valid. Its mailbox is bounded, has three lanes and belongs to
    the address; the activation behind it comes with a message and goes with idleness. (`address`, `mailbox`,
    `activation`)
2.  A `Decider`'s handler is pure: it may change the state it was given and nothing else, and returns
    `Effects` or a `Lookup`. The runtime throws the state away at any failure, so nothing else can be half
    done. (`effects`)
3.  Rows are committed first. Tells, timers and replies of a message are released when its rows and those of
    all earlier messages of the activation are durable; meanwhile the next message is decided already.
    (`dispatcher`)
4.  A failed write set takes back everything decided after it; all of that is decided again, in order, on a
    fresh state. A message that fails three times goes to the dead letters, and its asker hears `Parked`.
5.  I/O is the job of `Worker`s, a task each while active. They and the groups of deciders stand in a
    supervision tree with OTP's rules. No failure of one child is felt by another, unless the tree says so.
    (`inbox`, `supervisor`)

Birth and death

`run` starts the static children in order, then takes messages; the first one to any address of a tenant makes
the tenant's subtree. `stop` shuts the door for everybody but running workers, lets the deciders finish, then
stops tenants, then the static children in reverse, each within its `stop_seconds_max`. Whatever ends answers
those who wait: with its result, or with `ActorStopped`. What could not be delivered is counted and reported
(`Observer.undeliverable`). Escalation goes group, supervisor, tenant, root; at the root `run` raises, and the
process should end.

Fairness

What all tenants share is taken in turns (`fair_queue`: deficit round robin): the dispatcher's time, and the
calls that load activations and answer lookups (`gathering`). A flood of one tenant delays another one's
message by a turn. Within a mailbox the lanes are served in order, and the bulk lane leaves the last quarter
to the others. The writer and the edge share out their room by dynamic thresholds (`shared_room`).

Deadlocks

An actor never awaits another one: deciders cannot await, and `ask` is for the edge. What can wait is a sender
for room. A decider whose tells do not fit (twice `mailbox_max`, outsiders once) is not drained until they do.
Tells in a circle are detected when the last link would close, and pass the limit (`Observer.overrun`); a
decider that tells itself too much crashes before its commit. A worker that awaits `tell` to an actor that is
stalled on that very worker would wait for ever, so a worker offers, or tells with a deadline.

Limits

    mailbox                  `mailbox_max` from outside, twice that from actors,    a refusal, or waiting
                             the last quarter not for bulk
    in flight                `in_flight_max` messages of an activation              not drained meanwhile
    residents                `resident_max` of a kind, least recently used first    busy ones stay
    tries of a message       3, by crash or by its own failed write set             dead letter
    lookups, hops, timers    4 and 8 for a message, 64 for an actor                 crash, refusal, crash
    one call of `load`       500 requests (64, or 16 of each tenant, while others   the next batch gathers
                             wait), 4 calls at a time
    a tenant's turn          16 messages, while others wait                         the next turn
    restarts                 the defaults in `specs` and `system`, with reasons      escalation

What is not bounded: the number of tenants with a subtree (3.4 KB each with four kinds, kept until fenced or
stopped). A process with many residents should raise the thresholds of Python's cycle collector
(`gc.set_threshold(100_000, 50, 50)`): its passes over everything resident cost as much as the activations
themselves (bench/mailbox.py shows both).
"""

from engine.runtime.address import Address, Key, Lane
from engine.runtime.asking import Gather, ReplySlot
from engine.runtime.effects import NOTHING, CancelTimer, Context, Effects, Lookup, SetTimer, Tell
from engine.runtime.inbox import Inbox
from engine.runtime.mailbox import Envelope
from engine.runtime.observing import (
    ActorDescription,
    KindStatistics,
    Observer,
    SilentObserver,
    SystemStatistics,
    Trace,
    TreeNode,
    format_tree,
)
from engine.runtime.specs import (
    Backoff,
    Committer,
    DeadLetter,
    Decider,
    LoadRequest,
    LookupRequest,
    Restart,
    RestartLimit,
    Spec,
    Strategy,
    Supervisor,
    Worker,
)
from engine.runtime.system import System

__all__ = [
    "NOTHING",
    "ActorDescription",
    "Address",
    "Backoff",
    "CancelTimer",
    "Committer",
    "Context",
    "DeadLetter",
    "Decider",
    "Effects",
    "Envelope",
    "Gather",
    "Inbox",
    "Key",
    "KindStatistics",
    "Lane",
    "LoadRequest",
    "Lookup",
    "LookupRequest",
    "Observer",
    "ReplySlot",
    "Restart",
    "RestartLimit",
    "SetTimer",
    "SilentObserver",
    "Spec",
    "Strategy",
    "Supervisor",
    "System",
    "SystemStatistics",
    "Tell",
    "Trace",
    "TreeNode",
    "Worker",
    "format_tree",
]
