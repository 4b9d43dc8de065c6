"""Every database at this code's version: what a start, and `mijra migrate`, do first.

Promises   the landlord's database exists and is migrated before anything is read from it; then every tenant
           database, side by side; a tenant whose creation was cut off is finished. Harmless when repeated.
"""

from collections.abc import Callable
from importlib.resources import files

from storage.databases import DatabaseServer
from storage.landlord import LandlordStore
from storage.migrate import Migrated, load_migrations, migrate, migrate_all

LANDLORD_MIGRATIONS = load_migrations(files("storage") / "sql" / "landlord")
TENANT_MIGRATIONS = load_migrations(files("storage") / "sql" / "tenant")


async def bring_up(
    server: DatabaseServer, landlord: LandlordStore, clock_ms: Callable[[], int]
) -> list[Migrated]:
    """Returns what became of each database, the landlord's first. A tenant database that failed carries its
    error and does not hold up the others; the landlord's raises (SchemaRefused, StoreUnavailable)."""
    await server.create_database(server.landlord_database)
    outcomes = [await migrate(server, server.landlord_database, LANDLORD_MIGRATIONS)]
    tenants = await landlord.all_tenants()
    ready = dict.fromkeys(tenant.database for tenant in tenants if tenant.placement_state == "ready")
    outcomes += await migrate_all(server, ready, TENANT_MIGRATIONS)
    await landlord.finish_creating(clock_ms())
    return outcomes
