"""Frames: what an event looks like in a client's protocol, as bytes that many connections can share.

The hub asks an encoder once per event, channel and protocol and hands the same object to every subscriber,
so an encoder must not depend on who reads. The native protocol's are here, Pusher's in
`gateway.push.pusher.frames`.
"""

from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from engine.domain.resources import rfc3339
from engine.ports import LoggedEvent
from gateway.push.names import Names
from gateway.push.presence import Member, Typist
from gateway.push.protocol import Gap, Presence, PresenceChange, Subscribed, TypingNow, encode


class Encoder(Protocol):
    """Pure. `protocol` is the key under which frames are shared: equal names mean equal bytes."""

    @property
    def protocol(self) -> str: ...

    def event(self, event: LoggedEvent, channel: str) -> bytes: ...

    def gap(self, channel: str, first: int, last: int) -> bytes: ...

    def subscribed(self, channel: str, cursor: int) -> bytes | None:
        """None: somebody else says it."""
        ...


_text: Final = msgspec.json.Encoder().encode


class NativeEncoder:
    """An event has the members that the pull API gives it, and `"type": "event"`."""

    def __init__(self, names: Names = Names.DOTTED) -> None:
        self._names = names
        self.protocol: Final = "native" if names is Names.DOTTED else f"native.{names.value}"

    def event(self, event: LoggedEvent, channel: str) -> bytes:
        # The data is JSON already, and by far the largest part: it is copied, never decoded.
        return b'{"type":"event","cursor":%d,"channel":%b,"name":%b,"data":%b,"trace":%b,"at":%b}' % (
            event.cursor,
            _text(channel),
            _text(self._names.of(event.name)),
            event.data,
            _text(event.trace),
            _text(rfc3339(event.at)),
        )

    def gap(self, channel: str, first: int, last: int) -> bytes:
        return encode(Gap(channel=channel, first=first, last=last, refetch=refetch(channel)))

    def subscribed(self, channel: str, cursor: int) -> bytes:
        return encode(Subscribed(channel=channel, cursor=cursor))


class NativeVoice:
    """Presence and typing: the whole once, then what changes."""

    protocol: Final = "native"

    def entered(self, channel: str, present: Sequence[Member]) -> bytes:
        return encode(Presence(channel=channel, users=[member.info for member in present]))

    def changed(self, channel: str, joined: Sequence[Member], left: Sequence[Member]) -> Sequence[bytes]:
        change = PresenceChange(
            channel=channel,
            joined=[member.info for member in joined],
            left=[int(member.id) for member in left],
        )
        return (encode(change),)

    def typing(
        self, channel: str, typists: Sequence[Typist], again: bool
    ) -> Sequence[tuple[bytes, str | None]]:
        if again:
            return ()
        notice = TypingNow(channel=channel, user_ids=[int(typist.member.id) for typist in typists])
        return ((encode(notice), None),)


def refetch(channel: str) -> list[str]:
    """What to load again after a gap: paths below `/api/{tenant}/`, in the order to load them."""
    kind, _, number = channel.partition(".")
    match kind:
        case "inbox":
            return ["conversations"]
        case "conversations":
            return [f"conversations/{number}", f"conversations/{number}/messages"]
        case "users":
            return [f"conversations?assigned_to={number}"]
        case _:
            return []
