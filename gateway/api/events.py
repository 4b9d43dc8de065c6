"""The event log by pull: the twin of the push, for who cannot hold a WebSocket open.

A cursor is a position in the tenant's one ordered log. Reading from the last cursor gives every event since,
once and in order, or says that the beginning is no longer held (`gap`): then refetch, as with the push.
"""

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from engine.domain.ids import ID_MAX
from engine.domain.resources import rfc3339
from engine.errors import Forbidden
from engine.ports import LoggedEvent
from gateway.envelope import Answer
from gateway.permissions import Permission
from gateway.routing import Routes, TenantCall
from gateway.schemas import Input

routes = Routes("events")

LIMIT_MAX = 500
"""Events are small and read by machines that catch up; about half a megabyte."""


class EventsQuery(Input, frozen=True, kw_only=True):
    """`since` is the last cursor one has; 0 reads from the oldest that is held. `channel` narrows it to
    one."""

    since: Annotated[int, Meta(ge=0, le=ID_MAX)] = 0
    limit: Annotated[int, Meta(ge=1, le=LIMIT_MAX)] = 100
    channel: Annotated[str, Meta(max_length=100)] | None = None


class EventOut(Struct, frozen=True, kw_only=True):
    """`channel` is the first of `channels`: where the event belongs before all."""

    cursor: int
    channel: str
    channels: tuple[str, ...]
    name: str
    data: msgspec.Raw
    trace: str
    at: str


class Gap(Struct, frozen=True, kw_only=True):
    """Events from `from` to `to` are no longer held."""

    from_: int = msgspec.field(name="from")
    to: int


class EventPage(Struct, frozen=True, kw_only=True):
    """`cursor` is what to send as `since` next; equal to `head` when there is nothing more."""

    items: list[EventOut]
    cursor: int
    head: int
    gap: Gap | None


@routes.get("/events", needs=Permission.EVENTS_VIEW, answer=EventPage)
async def list_events(call: TenantCall, query: EventsQuery) -> Answer:
    """Read the tenant's event log from a cursor on."""
    log = call.deps.events
    channels = [query.channel] if query.channel else None
    if (
        query.channel
        and query.channel.startswith("users.")
        and query.channel != f"users.{call.caller.user_id}"
    ):
        raise Forbidden("That channel is another user's.")
    head = await log.head(call.tenant.id)
    oldest = await log.oldest(call.tenant.id)
    gap = Gap(from_=query.since + 1, to=oldest - 1) if 0 < query.since < oldest - 1 else None
    found = await log.read(call.tenant.id, after=query.since, limit=query.limit, channels=channels)
    items = [_out(event) for event in found]
    # A full page ends where it ends; a short one has seen everything up to the head read before it.
    cursor = (
        items[-1].cursor
        if len(items) == query.limit
        else max(head, items[-1].cursor if items else query.since)
    )
    return Answer(data=EventPage(items=items, cursor=cursor, head=max(head, cursor), gap=gap))


def _out(event: LoggedEvent) -> EventOut:
    return EventOut(
        cursor=event.cursor,
        channel=event.channels[0] if event.channels else "",
        channels=event.channels,
        name=event.name,
        data=msgspec.Raw(event.data),
        trace=event.trace,
        at=rfc3339(event.at) or "",
    )
