"""The engine and its workers: the channels that send, the fetchers of media."""

from collections.abc import Callable
from random import SystemRandom
from typing import Any

from adapters.channel import Channels, Trouble
from adapters.fetcher import Fetchers
from adapters.port import Account
from engine.domain.engine import Engine
from gateway.boot.clock import wall_ms
from gateway.boot.platforms import Platforms
from gateway.boot.stores import Stores
from gateway.observing import EngineLog
from gateway.settings import Settings
from storage.contacts import Contacts
from storage.people import People


class Actors:
    def __init__(
        self,
        settings: Settings,
        stores: Stores,
        platforms: Platforms,
        *,
        accounts: Callable[[int, int], Account | None],
        on_trouble: Callable[[Trouble], None],
    ) -> None:
        """`accounts`: of a tenant and channel, opened."""
        self.channels = Channels(
            ask=self.ask,
            committer=stores.writers,
            store=stores.outbox,
            senders=platforms.senders,
            accounts=accounts,
            wall_ms=wall_ms,
            random=SystemRandom(),
            unknown_wait_seconds=settings.outbound_unknown_wait_seconds,
            on_trouble=on_trouble,
        )
        self.fetchers = Fetchers(
            ask=self.ask,
            committer=stores.writers,
            store=stores.outbox,
            media=stores.objects,
            sources=platforms.media_sources,
            accounts=accounts,
            guard=platforms.guard,
            wall_ms=wall_ms,
            random=SystemRandom(),
            bytes_max=settings.media_bytes_max,
        )
        self.engine = Engine(
            conversation_store=Contacts(stores.placements),
            tenant_store=stores.tenants,
            customer_store=People(stores.placements),
            committer=stores.writers,
            workers=(self.fetchers.worker(), self.channels.worker()),
            new_id=stores.ids,
            wall_ms=wall_ms,
            observer=EngineLog(),
            resident_conversations_max=settings.resident_conversations_max,
            idle_seconds_max=settings.idle_seconds,
            media=stores.objects,
        )

    async def ask(self, address: Any, message: object, *, timeout_seconds: float) -> Any:
        """As `engine.runtime.System.ask`, of a tenant that may not be in memory yet."""
        await self.engine.config(address.tenant)
        return await self.engine.system.ask(address, message, timeout_seconds=timeout_seconds)
