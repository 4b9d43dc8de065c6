"""The actor runtime: supervised actors with bounded mailboxes, pure handlers and commit-then-release."""

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
