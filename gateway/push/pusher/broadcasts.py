"""The server API of Pusher's protocol: what a tenant's own back end publishes and asks.

Promises   only the app's own signature is heard; what is published goes to those of the tenant who are on the
           channel now and speak this protocol, once each. Nothing is stored.
Limits     `CHANNELS_MAX`, `BATCH_MAX`, `DATA_BYTES_MAX` as Pusher's own; calls per app and second.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import msgspec
import trio
from msgspec import Meta, Struct

from gateway.push.names import is_engines
from gateway.push.presence import Presence
from gateway.push.pusher.apps import App, Apps
from gateway.push.pusher.channels import Kind, channel_name
from gateway.push.pusher.rooms import Rooms
from gateway.push.pusher.signature import request_problem
from gateway.ratelimit import Buckets, Rate

CHANNELS_MAX: Final = 100
BATCH_MAX: Final = 10
DATA_BYTES_MAX: Final = 10 * 1024
NAME_CHARACTERS_MAX: Final = 200

CALLS: Final = Rate(per_second=200, burst=1000)
"""Per app: each may be a hundred channels, and the agents' own traffic goes first."""

_RESERVED: Final = ("pusher:", "pusher_internal:", "mijra:")
_Name = Annotated[str, Meta(min_length=1, max_length=NAME_CHARACTERS_MAX)]


class Refusal(Struct, frozen=True, kw_only=True):
    status: int
    code: str
    sentence: str


class Event(Struct, frozen=True, kw_only=True):
    """`channel` or `channels`; `info` asks for counts in the answer."""

    name: _Name
    data: str
    channels: Annotated[list[_Name], Meta(max_length=CHANNELS_MAX)] = []
    channel: _Name | None = None
    socket_id: str | None = None
    info: str | None = None

    def targets(self) -> list[str]:
        named = [self.channel] if self.channel is not None else []
        return list(dict.fromkeys([*named, *self.channels]))


class Batch(Struct, frozen=True, kw_only=True):
    batch: Annotated[list[Event], Meta(min_length=1, max_length=BATCH_MAX)]


_encode: Final = msgspec.json.Encoder().encode


class Broadcasts:
    def __init__(self, apps: Apps, rooms: Rooms, presence: Presence) -> None:
        self._apps = apps
        self._rooms = rooms
        self._presence = presence
        self._calls: Buckets[int] = Buckets(CALLS)

    def answer(
        self,
        method: str,
        path: str,
        app_id: str,
        rest: str,
        query: Sequence[tuple[str, str]],
        body: bytes,
        *,
        now_seconds: float,
    ) -> dict[str, Any] | Refusal:
        """`path` as it was signed, `rest` what follows the app in it; `query` decoded."""
        app = self._apps.by_id(app_id)
        if app is None:
            return Refusal(status=404, code="not_found", sentence="There is no such app.")
        problem = request_problem(app, method, path, query, body, now_seconds)
        if problem is not None:
            return Refusal(status=401, code="unauthenticated", sentence=problem)
        if self._calls.take(app.tenant_id, trio.current_time()).retry_after_seconds is not None:
            return Refusal(status=429, code="rate_limited", sentence="Too many requests for this app.")
        try:
            return self._carry(app, method, rest.split("/"), dict(query), body)
        except msgspec.ValidationError as error:
            return _bad(f"The body does not fit: {error}.")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return _bad("The body is not JSON.")

    def _carry(
        self, app: App, method: str, path: Sequence[str], query: Mapping[str, str], body: bytes
    ) -> dict[str, Any] | Refusal:
        match (method, *path):
            case ("POST", "events"):
                return self._publish(app, [msgspec.json.decode(body, type=Event)], batch=False)
            case ("POST", "batch_events"):
                return self._publish(app, msgspec.json.decode(body, type=Batch).batch, batch=True)
            case ("GET", "channels"):
                return self._channels(app, query)
            case ("GET", "channels", name):
                return self._channel(app, name, query)
            case ("GET", "channels", name, "users"):
                if channel_name(name).kind is not Kind.PRESENCE:
                    return _bad("Only presence channels have users.")
                users = self._presence.present(app.tenant_id, name)
                return {"users": [{"id": user_id} for user_id in users]}
            case _:
                return Refusal(status=404, code="not_found", sentence="There is nothing at this address.")

    def _publish(self, app: App, events: Sequence[Event], *, batch: bool) -> dict[str, Any] | Refusal:
        for event in events:  # all are looked at before any is sent
            problem = _problem(event)
            if problem is not None:
                return problem
        told: list[dict[str, Any]] = []
        for event in events:
            for name in event.targets():
                frame = _encode({"event": event.name, "channel": name, "data": event.data})
                self._rooms.publish(app.tenant_id, name, frame, but=event.socket_id)
                told.append(self._info(app, name, event.info))
        asked = any(event.info for event in events)
        if batch:
            return {"batch": told} if asked else {}
        return {"channels": dict(zip(events[0].targets(), told, strict=True))} if asked else {}

    def _channels(self, app: App, query: Mapping[str, str]) -> dict[str, Any] | Refusal:
        prefix, info = query.get("filter_by_prefix", ""), query.get("info")
        if "user_count" in (info or "").split(",") and not prefix.startswith(Kind.PRESENCE.value):
            return _bad("user_count is for presence channels: filter_by_prefix=presence-.")
        names = self._rooms.channels(app.tenant_id, prefix)
        return {"channels": {name: self._info(app, name, info) for name in names}}

    def _channel(self, app: App, name: str, query: Mapping[str, str]) -> dict[str, Any]:
        occupied = self._rooms.seats(app.tenant_id, name) > 0
        return {"occupied": occupied, **self._info(app, name, query.get("info"))}

    def _info(self, app: App, name: str, info: str | None) -> dict[str, Any]:
        asked = (info or "").split(",")
        told: dict[str, Any] = {}
        if "subscription_count" in asked:
            told["subscription_count"] = self._rooms.seats(app.tenant_id, name)
        if "user_count" in asked and name.startswith(Kind.PRESENCE.value):
            told["user_count"] = len(self._presence.present(app.tenant_id, name))
        return told


def _problem(event: Event) -> Refusal | None:
    if len(event.data.encode("utf-8", "surrogatepass")) > DATA_BYTES_MAX:
        return Refusal(status=413, code="too_large", sentence="An event may have 10 KB of data.")
    targets = event.targets()
    if not 1 <= len(targets) <= CHANNELS_MAX:
        return _bad("An event goes to 1 to 100 channels.")
    if event.name.startswith(_RESERVED):
        return _forbidden(f"{event.name} is the protocol's own.")
    for name in targets:
        channel = channel_name(name)
        if channel.problem is not None:
            return _bad(f"{name}: {channel.problem}")
        if channel.engine is not None and is_engines(event.name):
            return _forbidden(f"On {name}, {event.name} is for the engine alone to say.")
    return None


def _bad(sentence: str) -> Refusal:
    return Refusal(status=400, code="bad_request", sentence=sentence)


def _forbidden(sentence: str) -> Refusal:
    return Refusal(status=403, code="forbidden", sentence=sentence)
