"""What an earlier process left to do."""

import structlog

from engine.domain.engine import Engine
from engine.errors import MijraError
from gateway.boot.stores import Stores

log = structlog.get_logger()


async def wake_all(stores: Stores, engine: Engine) -> None:
    """Tenant by tenant. A tenant whose database does not answer is woken by its next message."""
    for tenant in await stores.landlord.all_tenants():
        if tenant.placement_state != "ready":
            continue
        try:
            work = await stores.outbox.open_work(tenant.id)
            if work.channel_ids or work.media or work.timers or work.waiting:
                await engine.wake(tenant.id, work)
        except MijraError as error:
            log.warning("tenant.not_woken", tenant=tenant.id, reason=str(error))
