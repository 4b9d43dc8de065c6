"""Channel names of Pusher's protocol, and which of them are the engine's."""

import re
from enum import Enum
from typing import Final

from msgspec import Struct

from gateway.push.protocol import is_channel

_ALLOWED: Final = re.compile(r"[A-Za-z0-9_\-=@,.;]{1,200}")
"""Pusher's documentation: these characters, at most 200."""

_RESERVED: Final = re.compile(r"(?:inbox|conversations|users|campaigns)(?:\..*)?", re.DOTALL)
_PREFIXES: Final = ("private-encrypted-", "private-", "presence-")


class Kind(Enum):
    PUBLIC = ""
    PRIVATE = "private-"
    ENCRYPTED = "private-encrypted-"
    PRESENCE = "presence-"


class ChannelName(Struct, frozen=True, kw_only=True):
    """`engine` is the engine's own name for the channel, None for the tenant's own channels. `problem` says
    why nobody can subscribe to it."""

    name: str
    kind: Kind
    engine: str | None = None
    problem: str | None = None


def channel_name(name: str) -> ChannelName:
    prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), "")
    kind, base = Kind(prefix), name[len(prefix) :]
    if not _ALLOWED.fullmatch(name) or not base:
        return ChannelName(name=name, kind=kind, problem="This cannot be a channel's name.")
    if not _RESERVED.fullmatch(base):
        return ChannelName(name=name, kind=kind)
    if kind is Kind.PUBLIC:
        problem = f"A public channel has no rights to check. Subscribe to private-{name}."
        return ChannelName(name=name, kind=kind, engine=name, problem=problem)
    engine = base if kind is Kind.PRIVATE else name
    if kind is Kind.ENCRYPTED or not is_channel(engine):
        return ChannelName(name=name, kind=kind, engine=engine, problem="There is no such channel.")
    return ChannelName(name=name, kind=kind, engine=engine)
