"""Tenants by slug and by id, remembered for a moment.

Every request starts with a slug; asking the landlord database each time would make it the busiest one.

Promises   A change made in this process counts at once (`forget`), one made elsewhere within `FRESH_SECONDS`.
Limits     `SLUGS_MAX` tenants by slug; slugs that do not exist are never remembered.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Final

import trio

from engine.reading import Landlord, Tenant

FRESH_SECONDS: Final = 10.0
SLUGS_MAX: Final = 20_000
"""Twice the tenants that one pooled database is planned for; some 10 MB at most."""


class Tenants:
    def __init__(self, landlord: Landlord) -> None:
        self._landlord = landlord
        self._by_slug: OrderedDict[str, tuple[Tenant, float]] = OrderedDict()
        self._by_id: dict[int, Tenant] = {}
        self._all_until = 0.0

    async def by_slug(self, slug: str) -> Tenant | None:
        found = self._by_slug.get(slug)
        if found is not None and found[1] > trio.current_time():
            return found[0]
        tenant = await self._landlord.tenant(slug)
        if tenant is None:
            self._by_slug.pop(slug, None)
            return None
        self._by_slug[slug] = (tenant, trio.current_time() + FRESH_SECONDS)
        self._by_slug.move_to_end(slug)
        if len(self._by_slug) > SLUGS_MAX:
            self._by_slug.popitem(last=False)
        return tenant

    async def by_ids(self, tenant_ids: Iterable[int]) -> Sequence[Tenant]:
        """Those that exist, in the order asked."""
        wanted = list(tenant_ids)
        known = all(tenant_id in self._by_id for tenant_id in wanted)
        if not known or self._all_until <= trio.current_time():
            self._by_id = {tenant.id: tenant for tenant in await self._landlord.all_tenants()}
            self._all_until = trio.current_time() + FRESH_SECONDS
        return [self._by_id[tenant_id] for tenant_id in wanted if tenant_id in self._by_id]

    def forget(self, slug: str) -> None:
        self._by_slug.pop(slug, None)
        self._all_until = 0.0
