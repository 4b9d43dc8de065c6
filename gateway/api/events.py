"""The event log by pull: the twin of the push, for who cannot hold a WebSocket open.

A cursor is a position in the tenant's one ordered log. Reading from the last cursor gives every event since,
once and in order, or says that the beginning is no longer held (`gap`): then refetch, as with the push.
"""

from typing import Annotated

import msgspec
import trio
from msgspec import Meta, Struct

from engine.domain.ids import ID_MAX
from engine.domain.resources import rfc3339
from engine.errors import Forbidden
from engine.ports import LoggedEvent
from gateway.envelope import Answer
from gateway.permissions import Permission
from gateway.push.frames import refetch
from gateway.routing import Routes, TenantCall
from gateway.schemas import Input

routes = Routes("events")

LIMIT_MAX = 500
"""Events are small and read by machines that catch up; about half a megabyte."""


READ_SECONDS_MAX = 30

WAIT_SECONDS_MAX = 25
"""Proxies cut a silent request after 30 s or more."""

PAUSE_SECONDS = 0.1
"""Between two looks for one channel's events in a busy log."""


class EventsQuery(Input, frozen=True, kw_only=True):
    """`since` is the last cursor one has; 0 reads from the oldest that is held. `channel` narrows it to
    one. `wait`: when there is nothing yet, the answer comes with the next event, or after so many seconds."""

    since: Annotated[int, Meta(ge=0, le=ID_MAX)] = 0
    limit: Annotated[int, Meta(ge=1, le=LIMIT_MAX)] = 100
    channel: Annotated[str, Meta(max_length=100)] | None = None
    wait: Annotated[int, Meta(ge=0, le=WAIT_SECONDS_MAX)] = 0


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
    """Events from `from` to `to` are no longer held. `refetch`, with a channel: what to load instead, paths
    below `/api/{tenant}/`."""

    from_: int = msgspec.field(name="from")
    to: int
    refetch: list[str]


class EventPage(Struct, frozen=True, kw_only=True):
    """`cursor` is what to send as `since` next; equal to `head` when there is nothing more."""

    items: list[EventOut]
    cursor: int
    head: int
    gap: Gap | None


@routes.get(
    "/events", needs=Permission.EVENTS_VIEW, answer=EventPage, seconds_max=WAIT_SECONDS_MAX + READ_SECONDS_MAX
)
async def list_events(call: TenantCall, query: EventsQuery) -> Answer:
    """Read the tenant's event log from a cursor on, or wait for what comes next."""
    if (
        query.channel
        and query.channel.startswith("users.")
        and query.channel != f"users.{call.caller.user_id}"
    ):
        raise Forbidden("That channel is another user's.")
    until = trio.current_time() + query.wait
    since = query.since
    while True:
        news = call.deps.news.watch(call.tenant.id)
        page = await _page(call, query, since)
        over = page.items or page.gap or trio.current_time() >= until
        if over or not await call.deps.news.wait(news, until):
            return Answer(data=page)
        since = max(since, page.cursor)
        await trio.sleep(PAUSE_SECONDS if query.channel else 0)


async def _page(call: TenantCall, query: EventsQuery, since: int) -> EventPage:
    log = call.deps.events
    head = await log.head(call.tenant.id)
    channels = [query.channel] if query.channel else None
    found = await log.read(call.tenant.id, after=since, limit=query.limit, channels=channels)
    # After the page: what retention took meanwhile may be missing in it.
    oldest = await log.oldest(call.tenant.id)
    gap = None
    if 0 < since < oldest - 1:
        gap = Gap(from_=since + 1, to=oldest - 1, refetch=refetch(query.channel or "inbox"))
    items = [_out(event) for event in found]
    # A full page ends where it ends; a short one has seen everything up to the head read before it.
    cursor = (
        items[-1].cursor if len(items) == query.limit else max(head, items[-1].cursor if items else since)
    )
    return EventPage(items=items, cursor=cursor, head=max(head, cursor), gap=gap)


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
