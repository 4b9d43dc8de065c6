"""Screens that come back: after a dropped connection, after a restart, after the history was let go. And what
was due while nobody ran."""

import time
from datetime import UTC, datetime

import pytest
import trio

from storage.bridge import Bridge
from storage.databases import DatabaseServer
from tests.fixtures.system import Business, line, screen
from tests.ledger import books_of


def received(frames: list[dict[str, object]]) -> list[str]:
    """Platform ids of the messages in these events, in order."""
    return [
        frame["data"]["message"]["platform_message_id"]  # type: ignore[index]
        for frame in frames
        if frame["name"] == "message.received"
    ]


async def test_a_screen_that_drops_and_returns_misses_nothing(business: Business) -> None:
    """With its last cursor it gets exactly what it missed, in order, and then what is new."""
    async with line(business) as phone:
        wa_id = phone.new_customer()
        async with screen(business) as before:
            first = phone.sim.say(wa_id, "Seen")
            await before.event(
                "message.received", lambda data: data["message"]["platform_message_id"] == first
            )
            cursor = before.last_cursor("inbox")
        missed = []
        for n in range(5):
            missed.append(phone.sim.say(wa_id, f"Missed {n}"))
            await phone.stored(missed[-1])
        async with screen(business, since=cursor) as after:
            new = phone.sim.say(wa_id, "New")
            await after.event("message.received", lambda data: data["message"]["platform_message_id"] == new)
            assert received(after.events) == [*missed, new]
            cursors = [event["cursor"] for event in after.events]
            assert cursors == sorted(set(cursors))
            assert cursors[0] > cursor


@pytest.mark.slow
async def test_after_a_restart_a_screen_resumes_from_the_database(
    fragile: Business, fragile_database: DatabaseServer
) -> None:
    """The new process has no ring; what was missed comes from the log. Where that was let go, a gap is told.
    A snooze that ended while nobody ran wakes the conversation."""
    server = fragile.server
    async with line(fragile) as phone:
        wa_id = phone.new_customer()
        async with screen(fragile) as before:
            stored = await phone.stored(phone.sim.say(wa_id, "Seen"))
            await before.event("message.received", lambda data: data["message"]["id"] == stored["id"])
            cursor = before.last_cursor("inbox")
        snoozed = await phone.opened("Later, please")
        until_ = datetime.fromtimestamp(time.time() + 2.0, UTC).isoformat(timespec="milliseconds")
        await phone.agent.patch(
            f"conversations/{snoozed['id']}/status", {"status": "pending", "until": until_}
        )
        missed = phone.sim.say(wa_id, "Missed")
        await phone.stored(missed)
        await trio.to_thread.run_sync(server.kill)
        await trio.to_thread.run_sync(server.start)
        async with screen(fragile, since=cursor) as after:
            await after.event(
                "message.received", lambda data: data["message"]["platform_message_id"] == missed
            )
            woken = await after.event(
                "conversation.status.changed",
                lambda data: (
                    (data["conversation"]["id"], data["conversation"]["status"]) == (snoozed["id"], "open")
                ),
            )
            assert woken["cursor"] > cursor
            cursors = [event["cursor"] for event in after.events]
            assert cursors == list(range(cursor + 1, cursor + 1 + len(cursors)))
        books = await books_of(fragile, phone.sim, phone.channel_id, fragile_database)
        await books.check()
        await trio.to_thread.run_sync(server.kill)
        await forget_history(server.database_url, books.pool.database, fragile.id, woken["cursor"] - 1)
        await trio.to_thread.run_sync(server.start)
        async with screen(fragile, since=cursor) as late:
            gap = await late.frame(lambda frame: frame["type"] == "gap")
            assert (gap["channel"], gap["from"]) == ("inbox", cursor + 1)
            assert gap["to"] >= woken["cursor"] - 1
            new = phone.sim.say(wa_id, "New")
            await late.event("message.received", lambda data: data["message"]["platform_message_id"] == new)


async def forget_history(dsn: str, database: str, tenant_id: int, up_to: int) -> None:
    """What retention does after a week."""
    async with Bridge() as bridge, DatabaseServer(bridge, dsn, prefix=database[:6]) as server:
        await server.pool(database).fetch(
            "DELETE FROM events WHERE tenant_id = $1 AND cursor <= $2", tenant_id, up_to, tenants=[tenant_id]
        )
