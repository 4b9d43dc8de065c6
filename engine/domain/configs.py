"""The configuration snapshots of this process, by tenant: what `ctx.config` shows.

Filled before the first message of a tenant (`ensure`), replaced when the tenant's actor commits a change
(`committed`, as one of the listeners to the event log, so before the change is answered).
"""

from collections.abc import Sequence

import trio

from engine.domain.config import TenantConfig
from engine.domain.tenant.actor import CONFIG_CHANGED
from engine.errors import Defect
from engine.ports import LoggedEvent, TenantStore


class Configs:
    def __init__(self, store: TenantStore) -> None:
        self._store = store
        self._resident: dict[int, TenantConfig] = {}
        self._loading: dict[int, trio.Lock] = {}

    def get(self, tenant_id: int) -> TenantConfig:
        """The snapshot of the moment. Defect when nobody ensured it: a bug of the caller."""
        config = self._resident.get(tenant_id)
        if config is None:
            raise Defect(f"The configuration of tenant {tenant_id} was not loaded.")
        return config

    def has(self, tenant_id: int) -> bool:
        """Whether `get` would answer."""
        return tenant_id in self._resident

    async def ensure(self, tenant_id: int) -> TenantConfig:
        """The snapshot, loaded once however many ask at the same time. StoreUnavailable, NotFound."""
        config = self._resident.get(tenant_id)
        if config is not None:
            return config
        lock = self._loading.setdefault(tenant_id, trio.Lock())
        async with lock:
            config = self._resident.get(tenant_id)
            if config is None:
                config = await self._store.load_config(tenant_id)
                # A change committed while we read has put its own, newer snapshot there.
                config = self._resident.setdefault(tenant_id, config)
        self._loading.pop(tenant_id, None)
        return config

    def committed(self, events: Sequence[LoggedEvent]) -> None:
        for event in events:
            if event.name == CONFIG_CHANGED and isinstance(event.local, TenantConfig):
                self._resident[event.tenant_id] = event.local

    def __len__(self) -> int:
        return len(self._resident)
