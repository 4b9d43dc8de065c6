"""Chores of the databases and the object store, at the start and every hour."""

from itertools import chain
from typing import Final

import trio

from engine.domain.intake import deliveries_prefix
from gateway.boot.clock import wall_ms
from gateway.boot.stores import Stores
from storage.upkeep import forget_deliveries, forget_parked, upkeep

UPKEEP_EVERY_SECONDS: Final = 3600.0
"""Partitions are made three days ahead, so an hour's pause leaves room for many failures."""


async def keep_up(stores: Stores) -> None:
    await upkeep(stores.server, stores.placements.tenants_by_database(), now=wall_ms())
    await forget_parked(stores.landlord, now=wall_ms())


async def keep_up_hourly(stores: Stores) -> None:
    """Until cancelled; the first time after an hour, for the start has done it."""
    while True:
        tenants = chain.from_iterable(stores.placements.tenants_by_database().values())
        await forget_deliveries(stores.objects, map(deliveries_prefix, tenants), now=wall_ms())
        await trio.sleep(UPKEEP_EVERY_SECONDS)
        await keep_up(stores)
