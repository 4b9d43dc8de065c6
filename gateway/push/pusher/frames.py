"""Events, presence and typing in Pusher's protocol. `data` is JSON text within the JSON, as its clients want
it; the cursor is a member of the data, because that is all that `pusher-js` hands to its user."""

from collections.abc import Sequence
from typing import Final

import msgspec

from engine.ports import LoggedEvent
from gateway.push.frames import refetch
from gateway.push.names import Names
from gateway.push.presence import Member, Typist
from gateway.push.pusher.protocol import frame

_text: Final = msgspec.json.Encoder().encode

SUBSCRIBED: Final = "pusher_internal:subscription_succeeded"
TYPING: Final = "client-typing"


class PusherEncoder:
    """For the engine's private channels."""

    def __init__(self, names: Names = Names.DOTTED) -> None:
        self._names = names
        self.protocol: Final = "pusher" if names is Names.DOTTED else f"pusher.{names.value}"

    def event(self, event: LoggedEvent, channel: str) -> bytes:
        return b'{"event":%b,"channel":%b,"data":%b}' % (
            _text(self._names.of(event.name)),
            _text(f"private-{channel}"),
            _text(_with_cursor(event.data, event.cursor).decode()),
        )

    def gap(self, channel: str, first: int, last: int) -> bytes:
        data = {"from": first, "to": last, "cursor": last, "refetch": refetch(channel)}
        return frame("mijra:gap", data, f"private-{channel}")

    def subscribed(self, channel: str, cursor: int) -> bytes | None:
        return frame(SUBSCRIBED, {"cursor": cursor}, f"private-{channel}")


class PresenceEncoder(PusherEncoder):
    """For presence channels: no events, and the room says who is there."""

    def subscribed(self, channel: str, cursor: int) -> bytes | None:
        return None


class PusherVoice:
    protocol: Final = "pusher"

    def entered(self, channel: str, present: Sequence[Member]) -> bytes:
        people = {member.id: member.info for member in present}
        presence = {"count": len(people), "ids": list(people), "hash": people}
        return frame(SUBSCRIBED, {"presence": presence}, channel)

    def changed(self, channel: str, joined: Sequence[Member], left: Sequence[Member]) -> Sequence[bytes]:
        return [
            frame("pusher_internal:member_added", {"user_id": each.id, "user_info": each.info}, channel)
            for each in joined
        ] + [frame("pusher_internal:member_removed", {"user_id": each.id}, channel) for each in left]

    def typing(
        self, channel: str, typists: Sequence[Typist], again: bool
    ) -> Sequence[tuple[bytes, str | None]]:
        frames = []
        for typist in typists:
            member_id, said = typist.member.id, typist.said or bytes(typist.member.info)
            frames.append((client_event(TYPING, channel, said, member_id), member_id))
        return frames


def client_event(name: str, channel: str, data: bytes, user_id: str | None) -> bytes:
    message: dict[str, object] = {"event": name, "channel": channel, "data": msgspec.Raw(data)}
    if user_id is not None:
        message["user_id"] = user_id
    return _text(message)


def _with_cursor(data: bytes, cursor: int) -> bytes:
    """An event's data is an object. Should it have a `cursor` of its own, ours counts for every reader of
    JSON, since the last one does."""
    comma = b"" if data == b"{}" else b","
    return b'%b%b"cursor":%d}' % (data[:-1], comma, cursor)
