"""Frames: what an event looks like in a client's protocol, as bytes that many connections can share.

The hub asks an encoder once per event, channel and protocol and hands the same object to every subscriber,
so an encoder must not depend on who reads. The native protocol is here; another one (Pusher's) is another
`Encoder` with another `protocol` name.
"""

from typing import Final, Protocol

import msgspec

from engine.domain.resources import rfc3339
from engine.ports import LoggedEvent
from gateway.push.protocol import Gap, Subscribed, encode


class Encoder(Protocol):
    """Pure. `protocol` is the key under which frames are shared: equal names mean equal bytes."""

    @property
    def protocol(self) -> str: ...

    def event(self, event: LoggedEvent, channel: str) -> bytes: ...

    def gap(self, channel: str, first: int, last: int) -> bytes: ...

    def subscribed(self, channel: str, cursor: int) -> bytes: ...


_text: Final = msgspec.json.Encoder().encode


class NativeEncoder:
    """An event has the members that the pull API gives it, and `"type": "event"`."""

    protocol: Final = "native"

    def event(self, event: LoggedEvent, channel: str) -> bytes:
        # The data is JSON already, and by far the largest part: it is copied, never decoded.
        return b'{"type":"event","cursor":%d,"channel":%b,"name":%b,"data":%b,"trace":%b,"at":%b}' % (
            event.cursor,
            _text(channel),
            _text(event.name),
            event.data,
            _text(event.trace),
            _text(rfc3339(event.at)),
        )

    def gap(self, channel: str, first: int, last: int) -> bytes:
        return encode(Gap(channel=channel, first=first, last=last))

    def subscribed(self, channel: str, cursor: int) -> bytes:
        return encode(Subscribed(channel=channel, cursor=cursor))
