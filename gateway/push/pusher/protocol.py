"""Pusher's messages, as types. What a client says is lenient in one point: `data` is an object or the JSON
text of one, depending on the library."""

from typing import Any, Final, TypeVar

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

T = TypeVar("T")

VERSIONS: Final = frozenset({"5", "6", "7"})
"""Alike in all that this server says and hears: 6 and 7 only add close codes and end-to-end encryption."""


class Message(Struct, frozen=True, kw_only=True):
    event: str
    data: Raw = Raw(b"{}")
    channel: str | None = None


class Subscribe(Struct, frozen=True, kw_only=True):
    channel: str
    auth: str | None = None
    channel_data: str | None = None


class Unsubscribe(Struct, frozen=True, kw_only=True):
    channel: str


class Grant(Struct, frozen=True, kw_only=True):
    """`channel_data` of the engine's channels: who listens, and from where on. `token`: the id of the token
    that must stay good; without one the tenant's own back end vouches for the user."""

    user_id: int
    token: int | None = None
    since: int | None = None
    names: str | None = None


class PresenceData(Struct, frozen=True, kw_only=True):
    """`channel_data` of the tenant's own presence channels."""

    user_id: str | int
    user_info: Raw | UnsetType = UNSET


decode_message: Final = msgspec.json.Decoder(Message).decode
_encode: Final = msgspec.json.Encoder().encode
_text: Final = msgspec.json.Decoder(str).decode


def data_of(message: Message, kind: type[T]) -> T:
    """Raises msgspec.DecodeError."""
    raw = bytes(message.data)
    if raw.startswith(b'"'):
        return msgspec.json.decode(_text(raw), type=kind)
    return msgspec.json.decode(raw, type=kind)


def grant_of(channel_data: str) -> Grant:
    """Ids may be text. Raises msgspec.DecodeError."""
    return msgspec.json.decode(channel_data, type=Grant, strict=False)


def frame(event: str, data: Any, channel: str | None = None) -> bytes:
    """What the server says: `data` becomes JSON text within the JSON."""
    message = {"event": event, "data": _encode(data).decode()}
    if channel is not None:
        message["channel"] = channel
    return _encode(message)


def error_frame(code: int | None, sentence: str) -> bytes:
    return frame("pusher:error", {"code": code, "message": sentence})
