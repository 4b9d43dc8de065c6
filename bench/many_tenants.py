"""A real server with many tenants: `python -m bench.many_tenants COUNT`, for benches that need a crowd.

The first tenant is made as any is, in a pooled database. The others are its like: their rows are written
straight into the tables, because a thousand requests to the API would take minutes and measure nothing. Each
has one WhatsApp account, sealed with the server's own key; all are in the directory before the server says
that it is ready, with one JSON line. Settings come from MIJRA_ variables. Runs until SIGTERM.
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

import asyncpg
import trio
from msgspec import structs

from adapters.simulators.accounts import WhatsAppAccount, demo_account
from gateway.boot import Running, running
from gateway.cli.running import until_signalled
from gateway.logging import configure_logging
from gateway.settings import read_settings
from storage.bridge import Bridge

_CHANNEL: Final = """
    INSERT INTO channels (tenant_id, id, platform, name, external_id, credentials, settings, status,
        created_at, updated_at)
    VALUES ($1, $2, 'whatsapp', $3, $3, $4, '{}', 'active', now(), now())"""
_DIRECTORY: Final = """
    INSERT INTO channel_directory (platform, external_id, tenant_id, channel_id, endpoint_key, parent_id,
        credentials, created_at)
    VALUES ('whatsapp', $3, $1, $2, 'bench-' || $3, $5, $4, now())"""


def accounts(count: int) -> list[WhatsAppAccount]:
    """One for each tenant. One app serves them all, as a platform partner's does: one secret."""
    secret = demo_account().app_secret
    return [structs.replace(demo_account(number), app_secret=secret) for number in range(count)]


async def make(system: Running, count: int, landlord_database: str) -> None:
    """All tenants with their accounts."""
    first = await system.landlord.create_tenant(
        tenant_id=system.engine.new_id(),
        slug="tenant-0",
        name="Tenant 0",
        locale="en",
        timezone="UTC",
        isolation="pooled",
        now=system.engine.now(),
    )
    tenant_ids = [first.id, *(system.engine.new_id() for _ in range(count - 1))]
    rows = []
    for tenant_id, account in zip(tenant_ids, accounts(count), strict=True):
        channel_id = system.engine.new_id()
        sealed = system.vault.seal(
            tenant_id,
            channel_id,
            {
                "app_secret": account.app_secret,
                "verify_token": account.verify_token,
                "access_token": account.access_token,
            },
        )
        rows.append((tenant_id, channel_id, account.phone_number_id, sealed, account.waba_id))

    async def others(dsn: str) -> None:
        connection = await asyncpg.connect(dsn, database=landlord_database)
        try:
            await connection.executemany(
                "INSERT INTO tenants (id, slug, name, status, locale, timezone, created_at, updated_at)"
                " VALUES ($1, $2, $2, 'active', 'en', 'UTC', now(), now())",
                [(tenant_id, f"tenant-{number}") for number, tenant_id in enumerate(tenant_ids) if number],
            )
            await connection.executemany(
                "INSERT INTO placements (tenant_id, database, isolation, state)"
                " VALUES ($1, $2, 'pooled', 'ready')",
                [(tenant_id, first.database) for tenant_id in tenant_ids[1:]],
            )
            await connection.executemany(_DIRECTORY, rows)
        finally:
            await connection.close()

    async def channels(connection: Any, rows: Sequence[tuple[Any, ...]]) -> None:
        await connection.executemany(_CHANNEL, [row[:4] for row in rows])

    async with Bridge() as bridge:
        await bridge.run(others, system.database_url)
    await system.pool_of(first.id).write(channels, rows, tenants=tenant_ids)
    # Reads them all, and with them where they are.
    await system.landlord.all_tenants()
    await system.directory.load(system.landlord)


async def serve(count: int) -> None:
    settings = structs.replace(
        read_settings(os.environ), port=0, operator_port=0, placement="pooled", host="127.0.0.1"
    )
    configure_logging(settings.log_level, settings.log_format, sys.stderr.buffer)
    began = time.monotonic()
    async with until_signalled() as asked, running(settings) as system:
        await make(system, count, f"{settings.database_prefix}_landlord")
        first = await system.landlord.tenant("tenant-0")
        assert first is not None
        ready = {
            "base_url": system.base_url,
            "database_url": system.database_url,
            "database": first.database,
            "seconds": round(time.monotonic() - began, 1),
        }
        print(json.dumps(ready), flush=True)
        await asked.wait()


if __name__ == "__main__":
    trio.run(serve, int(sys.argv[1]))
