"""Reviews that no notification told of: the profile's newest ones are looked through now and then.

Why         A profile has one notification setting, which the next tool that is connected overwrites, and a
            push subscription keeps what nobody takes for some days only. Neither says so.
Promises    What was written or changed since the profile was connected is stored, told or not, while Google
            still shows it: `LOOK_SECONDS` later, or soon after the start of the process. What is stored
            already is recognised by its id. An answer that was given elsewhere is found in the same way, as
            far as its review is looked at.
Keeps       the newest change that was looked at, in the channel's cursor; it moves after what it covers is
            durable. A profile begins with what comes after its connection: its past is not brought in.
Limits      `PAGES_MAX` pages in a look; who gets more reviews than that in an hour is told so in the log.
Source      The Google Business sheet, B1 and B4.
"""

from typing import Any, Final

import msgspec
import structlog
import trio

from adapters.client import CALL_SECONDS_MAX
from adapters.google_business.calling import GoogleCalls
from adapters.google_business.naming import micros, under_location
from adapters.google_business.reviews import events_of
from adapters.port import Account, Declined, ErrorClass
from adapters.service import ServiceTools
from adapters.wire import Json
from engine.domain.inbound import InboundEvent
from engine.domain.intake import Delivery

LOOK_SECONDS: Final = 3_600.0
"""One call an hour for each profile, of the 300 a minute that a project may make (unconfirmed)."""
OVERLAP_MICROS: Final = 600 * 1_000_000
"""A review may be shown some time after the moment that it bears."""
PAGES_MAX: Final = 100
_PAGE: Final = 50

_log = structlog.get_logger()


class Catching:
    """One for each platform. `run` is an account's service."""

    def __init__(self, platform: str, tools: ServiceTools) -> None:
        self._platform = platform
        self._tools = tools

    async def run(self, account: Account, stopping: trio.Event) -> None:
        """Looks at once and then now and then. Raises Unavailable when nothing can be made durable."""
        seen: set[tuple[str, int]] = set()
        guard = self._tools.tools.guard
        async with GoogleCalls(guard, connections_max=1, seconds_max=CALL_SECONDS_MAX) as calls:
            while not stopping.is_set():
                seen = await self.look(calls, account, seen)
                with trio.move_on_after(LOOK_SECONDS):
                    await stopping.wait()

    async def look(
        self, calls: GoogleCalls, account: Account, seen: set[tuple[str, int]]
    ) -> set[tuple[str, int]]:
        """One look. `seen` are the versions that the look before has found, and what this one returns."""
        cursor = await self._tools.cursors.get(account)
        if cursor is None:
            await self._tools.cursors.put(account, str(self._tools.wall_ms() * 1_000))
            return seen
        since = int(cursor)
        found = await self._newest(calls, account, since - OVERLAP_MICROS)
        if isinstance(found, Declined):
            _log.warning("google.reviews_not_looked_at", **_names(account), code=found.platform_code)
            if found.error_class is ErrorClass.AUTH:
                self._tools.attention(account, found.message)
            return seen
        versions = {(name, updated) for name, updated, _ in found}
        new = [(name, review) for name, updated, review in found if (name, updated) not in seen]
        if new:
            await self._deliver(account, new)
        newest = max((updated for _, updated, _ in found), default=since)
        if newest > since:
            await self._tools.cursors.put(account, str(newest))
        return versions

    async def _newest(
        self, calls: GoogleCalls, account: Account, since: int
    ) -> list[tuple[str, int, Json]] | Declined:
        """(key, change, review) of all that changed since then, the oldest first."""
        found: list[tuple[str, int, Json]] = []
        token = ""
        for _ in range(PAGES_MAX):
            path = f"{account.external_id}/reviews?pageSize={_PAGE}&orderBy=updateTime%20desc{token}"
            page = await calls.read(account, path)
            if isinstance(page, Declined):
                return page
            reviews, following = page.get("reviews"), page.get("nextPageToken")
            for review in reviews if isinstance(reviews, list) else ():
                key, updated = _version_of(review)
                if key is None or updated is None:
                    continue
                if updated <= since:
                    return found[::-1]
                found.append((key, updated, review))
            if not isinstance(following, str) or not following:
                return found[::-1]
            token = f"&pageToken={following}"
        _log.error("google.too_many_reviews", **_names(account), reviews=len(found))
        return found[::-1]

    async def _deliver(self, account: Account, reviews: list[tuple[str, Json]]) -> None:
        endpoint = self._tools.endpoint(account.external_id)
        if endpoint is None or endpoint.tenant_id != account.tenant_id:
            return
        # As many in one delivery as a page has: each is one commit, and its raw body one row.
        for first in range(0, len(reviews), _PAGE):
            some = reviews[first : first + _PAGE]
            events: list[InboundEvent] = [each for key, review in some for each in events_of(review, key)]
            await self._tools.deliver(
                Delivery(
                    platform=self._platform,
                    trace=self._tools.new_trace(),
                    received_at=self._tools.wall_ms(),
                    headers={},
                    body=msgspec.json.encode({"reviews": [review for _, review in some]}),
                    groups=[(endpoint, events)],
                )
            )


def _version_of(review: Any) -> tuple[str | None, int | None]:
    named = under_location(review.get("name")) if isinstance(review, dict) else None
    if named is None:
        return None, None
    return named[1], micros(review.get("updateTime")) or micros(review.get("createTime"))


def _names(account: Account) -> dict[str, int]:
    return {"tenant": account.tenant_id, "channel_id": account.channel_id}
