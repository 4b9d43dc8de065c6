"""PostgreSQL's sessions, seen from outside and as the superuser: the application's role does not see what
other sessions wait for."""

import asyncpg
import trio

from storage.databases import DatabaseServer
from tests.patience import PATIENCE_SECONDS


async def until_a_session(databases: DatabaseServer, condition: str) -> None:
    """Returns when there is a row of `pg_stat_activity` of which `condition` is true."""

    async def look(connection: asyncpg.Connection) -> bool:
        sql = f"SELECT EXISTS (SELECT FROM pg_stat_activity WHERE {condition})"
        found: bool = await connection.fetchval(sql)
        return found

    with trio.fail_after(PATIENCE_SECONDS):
        while not await databases._bridge.run(databases._apart, None, look):  # noqa: ASYNC110
            await trio.sleep(0.02)


async def until_asleep(databases: DatabaseServer, pid: int) -> None:
    """Returns when that session is in a `pg_sleep`."""
    await until_a_session(databases, f"pid = {pid} AND wait_event = 'PgSleep'")
