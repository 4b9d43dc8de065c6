"""The native protocol's messages, as types. `gateway/push/__init__.py` is the page for client authors.

Each message is one JSON object in one text frame, told apart by its `type`. Members that a client sends
and this version does not know are passed over, so that newer clients work; wrongly typed ones are refused.
"""

import re
from typing import Final

import msgspec
from msgspec import Raw, Struct, field

from gateway.push.names import Names

_CHANNEL: Final = re.compile(
    r"(?:inbox|(?:conversations|presence-conversations|users|campaigns)\.[1-9][0-9]{0,15})"
)


def is_channel(name: str) -> bool:
    """Whether `name` is the name of a channel at all; whether one may listen is another question."""
    return _CHANNEL.fullmatch(name) is not None


def is_presence(channel: str) -> bool:
    return channel.startswith("presence-")


# ------------------------------------------------------------------ what clients say


class Auth(Struct, frozen=True, tag="auth", kw_only=True):
    """The first message of a connection, with a token or a ticket. `tenant` is the slug; it may be left out
    when the token has one, and says nothing beside a ticket."""

    token: str | None = None
    ticket: str | None = None
    tenant: str | None = None


class Subscribe(Struct, frozen=True, tag="subscribe", kw_only=True):
    """`since` is the last cursor that the client has of this channel; without it only what is new comes.
    `names`: in which style events are named (`gateway/push/names.py`)."""

    channel: str
    since: int | None = None
    names: Names = Names.DOTTED


class Unsubscribe(Struct, frozen=True, tag="unsubscribe", kw_only=True):
    channel: str


class Ack(Struct, frozen=True, tag="ack", kw_only=True):
    """What the client has handled so far. Shown to operators as lag; nothing else depends on it."""

    channel: str
    cursor: int


class Ping(Struct, frozen=True, tag="ping", kw_only=True):
    pass


class Typing(Struct, frozen=True, tag="typing", kw_only=True):
    """For the others on a presence channel that the client is subscribed to. Not stored."""

    channel: str
    state: bool = True


ClientMessage = Auth | Subscribe | Unsubscribe | Ack | Ping | Typing
decode_client: Final = msgspec.json.Decoder(ClientMessage).decode


# ------------------------------------------------------------------ what the server says
# (`event` is put together by gateway/push/frames.py, because its data is encoded already.)


class Welcome(Struct, frozen=True, tag="welcome", kw_only=True):
    """`cursor` is the head of the tenant's log, `silence_seconds_max` how long the client may be silent."""

    epoch: str
    cursor: int
    session: str
    user_id: int
    silence_seconds_max: float


class Subscribed(Struct, frozen=True, tag="subscribed", kw_only=True):
    """Everything on the channel after `cursor` follows, or a gap says what does not."""

    channel: str
    cursor: int


class Unsubscribed(Struct, frozen=True, tag="unsubscribed", kw_only=True):
    channel: str


class Gap(Struct, frozen=True, tag="gap", kw_only=True):
    """The cursors from `from` to `to`, both included, are no longer held. `refetch` is what to load instead:
    paths below `/api/{tenant}/`."""

    channel: str
    first: int = field(name="from")
    last: int = field(name="to")
    refetch: list[str]


class ErrorMessage(Struct, frozen=True, tag="error", kw_only=True, omit_defaults=True):
    """Something was refused; the connection goes on. `channel` where it was about one."""

    code: str
    message: str
    channel: str | None = None


class Pong(Struct, frozen=True, tag="pong", kw_only=True):
    pass


class Present(Struct, frozen=True, kw_only=True):
    """Somebody on a presence channel."""

    user_id: int
    name: str


class Presence(Struct, frozen=True, tag="presence", kw_only=True):
    """Who is on a presence channel: sent whole to whoever has just come."""

    channel: str
    users: list[Raw]


class PresenceChange(Struct, frozen=True, tag="presence.changed", kw_only=True):
    """Who has come since, and the ids of those who have gone."""

    channel: str
    joined: list[Raw]
    left: list[int]


class TypingNow(Struct, frozen=True, tag="typing", kw_only=True):
    """All who type now; empty when nobody does any more. At most five, the latest."""

    channel: str
    user_ids: list[int]


ServerMessage = (
    Welcome | Subscribed | Unsubscribed | Gap | ErrorMessage | Pong | TypingNow | Presence | PresenceChange
)
encode: Final = msgspec.json.Encoder().encode
