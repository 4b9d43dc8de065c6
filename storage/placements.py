"""Which database a tenant is in: the landlord's table in memory, for every statement to find its way.

Promises   an answer without I/O; a tenant that is unknown or not ready yet is NotFound.
Leaves     keeping it true to `storage.landlord`, which fills it and adds what it creates.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import trio

from engine.errors import MijraError, NotFound
from engine.reading import Tenant
from storage.databases import DatabaseServer, Pool

T = TypeVar("T")
R = TypeVar("R")


class Placements:
    """All tenants that are ready, by id."""

    def __init__(self, server: DatabaseServer) -> None:
        self._server = server
        self._tenants: dict[int, Tenant] = {}

    def put(self, tenant: Tenant) -> None:
        """Add or replace one; a tenant whose database is not ready is left out."""
        if tenant.placement_state == "ready":
            self._tenants[tenant.id] = tenant
        else:
            self._tenants.pop(tenant.id, None)

    def tenant(self, tenant_id: int) -> Tenant:
        found = self._tenants.get(tenant_id)
        if found is None:
            raise NotFound(f"There is no tenant {tenant_id}.")
        return found

    def database(self, tenant_id: int) -> str:
        return self.tenant(tenant_id).database

    def pool(self, tenant_id: int) -> Pool:
        return self._server.pool(self.tenant(tenant_id).database)

    def pool_named(self, database: str) -> Pool:
        return self._server.pool(database)

    def tenants_by_database(self) -> dict[str, list[int]]:
        """All databases with the tenants in them."""
        found: dict[str, list[int]] = {}
        for tenant in self._tenants.values():
            found.setdefault(tenant.database, []).append(tenant.id)
        return found

    async def each_database(
        self,
        items: Sequence[T],
        tenant_of: Callable[[T], int],
        call: Callable[[Pool, list[T]], Awaitable[Sequence[R]]],
    ) -> list[R]:
        """Group `items` by database, `call` once for each, side by side, and put the answers in the order of
        the items. When a call fails, the first error is raised after the others have ended.
        """
        groups: dict[str, list[int]] = {}
        for index, item in enumerate(items):
            groups.setdefault(self.database(tenant_of(item)), []).append(index)
        answers: dict[int, R] = {}
        errors: list[MijraError] = []

        async def one(database: str, indexes: list[int]) -> None:
            try:
                found = await call(self._server.pool(database), [items[index] for index in indexes])
            except MijraError as error:
                errors.append(error)
            else:
                answers.update(zip(indexes, found, strict=True))

        if len(groups) == 1:
            await one(*groups.popitem())
        async with trio.open_nursery() as nursery:
            for database, indexes in groups.items():
                nursery.start_soon(one, database, indexes)
        if errors:
            raise errors[0]
        return [answers[index] for index in range(len(items))]
