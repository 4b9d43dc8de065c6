"""`mijra migrate`: all databases to the schema of this version, before the server of this version starts.

The server migrates at its own start as well; this command is for whoever wants to see it done first, or does
it from one machine while the others still run the version before.
"""

import os
import sys
import time

import click

from engine.errors import Unavailable
from gateway.cli.databases import database_server
from gateway.cli.running import run
from gateway.logging import configure_logging
from gateway.settings import Settings, read_settings
from storage.landlord import LandlordStore
from storage.migrate import Migrated
from storage.placements import Placements
from storage.schemas import TENANT_MIGRATIONS, bring_up


@click.command("migrate")
def command() -> None:
    """Bring the landlord's and every tenant's database to this version's schema.

    Prints a line per database. What fails leaves that database as it was, the others are done all the same;
    running it again goes on there. Ends with status 1 when any failed.
    """
    settings = read_settings(os.environ)
    configure_logging("warning", settings.log_format, sys.stderr.buffer)
    outcomes = run(_migrated, settings)
    for outcome in outcomes:
        click.echo(_line(outcome))
    failed = sum(outcome.error is not None for outcome in outcomes)
    if failed:
        raise Unavailable(f"{failed} of {len(outcomes)} databases were not migrated; see above.")


async def _migrated(settings: Settings) -> list[Migrated]:
    async with database_server(settings) as server:
        landlord = LandlordStore(server, Placements(server), tenant_migrations=TENANT_MIGRATIONS)
        return await bring_up(server, landlord, lambda: time.time_ns() // 1_000_000)


def _line(outcome: Migrated) -> str:
    if outcome.error is not None:
        return f"{outcome.database}: failed: {outcome.error}"
    applied = ", ".join(f"{number:04}" for number in outcome.applied)
    return f"{outcome.database}: schema {outcome.version}, " + (
        f"applied {applied}" if applied else "nothing to do"
    )
