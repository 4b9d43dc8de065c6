"""Everything durable: databases, writers, stores, objects, and the secrets in them."""

import os
import socket
from collections.abc import Sequence

import structlog

from engine.domain.ids import IdAllocator
from engine.ports import EventSink, LoggedEvent
from gateway.boot.clock import wall_ms
from gateway.settings import Settings
from storage.databases import DatabaseServer
from storage.events import Events
from storage.landlord import LandlordStore
from storage.objects import Objects
from storage.outbox import Outbox
from storage.placements import Placements
from storage.schemas import TENANT_MIGRATIONS, bring_up
from storage.tenants import Tenants
from storage.vault import Vault
from storage.writers import Writers

log = structlog.get_logger()


class Stores:
    def __init__(self, settings: Settings, key: bytes, server: DatabaseServer) -> None:
        self.server = server
        self.ids = IdAllocator(wall_ms)
        self.node = f"{socket.gethostname()}:{os.getpid()}"
        self.vault = Vault(key)
        self.placements = Placements(server)
        self.objects = Objects(settings.object_store)
        self.sinks = Sinks()
        self.writers = Writers(
            self.placements.pool_named, self.placements.database, node=self.node, sink=self.sinks
        )
        self.tenants = Tenants(self.placements, take=self.writers.take, newest_id=self.ids.above)
        self.outbox = Outbox(self.placements)
        self.events = Events(self.placements, head_of=self.writers.head)
        self.landlord = LandlordStore(server, self.placements, tenant_migrations=TENANT_MIGRATIONS)

    async def prepare(self) -> None:
        """Databases that exist and are at this version. Raises SchemaRefused with what to do.

        A tenant whose database cannot be brought up is logged and left: the others must be served."""
        for outcome in await bring_up(self.server, self.landlord, wall_ms):
            if outcome.error is not None:
                log.error("schema.not_migrated", database=outcome.database, reason=str(outcome.error))

    async def database_answers(self) -> bool:
        return await self.server.pool(self.server.landlord_database).fetchval("SELECT true") is True

    async def writers_take_more(self) -> bool:
        return all(each.waiting_rows < each.waiting_rows_max for each in self.writers.statistics())


class Sinks:
    """Listeners to committed events, in order. Filled once, when all of them exist."""

    def __init__(self) -> None:
        self.all: tuple[EventSink, ...] = ()

    def committed(self, events: Sequence[LoggedEvent]) -> None:
        for sink in self.all:
            sink.committed(events)
