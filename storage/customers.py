"""Customers as the API reads them (engine.reading.CustomerReads), as resources.

Promises   committed data of one tenant; what is merged is shown as the customers' own rows say, as
           conversations and events show it; each look-up is bounded, and served by an index where it is not a
           search.
Limits     a person has as many customers as the actor allows; a profile shows 20 conversations and counts up
           to 1,000 for each contact; 20 candidates are shown.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from engine.domain.config import TenantConfig
from engine.domain.customers.actor import MEMBERS_MAX
from engine.domain.ids import ID_MAX
from engine.domain.phones import variants
from engine.domain.resources import CustomerResource, HandleRef, customer_resource
from engine.domain.rows import CustomerRow, MergeRow
from engine.reading import Candidate, ConversationCounts, Page, Profile
from storage.databases import Pool
from storage.inbox import search_words
from storage.pages import bounded, cursor_text, cursor_values, cut
from storage.placements import Placements
from storage.reads import shown_conversation
from storage.records import Reader
from storage.statements import load_sql

SHOWN_MAX: Final = 20
"""Conversations of a profile: what a screen shows beside one. The list of conversations has all."""

COUNTED_MAX: Final = 1_000

CANDIDATES_MAX: Final = 20
"""More than anybody goes through by hand; an address that hundreds share tells nothing."""

_SQL: Final = load_sql("customers.sql")
_customers: Final = Reader(CustomerRow)
_merges: Final = Reader(MergeRow)
_handles: Final = Reader(HandleRef)


class Customers:
    """`config_for` and `wall_ms` as in storage.reads."""

    def __init__(
        self,
        placements: Placements,
        *,
        config_for: Callable[[int], TenantConfig],
        wall_ms: Callable[[], int],
    ) -> None:
        self._placements = placements
        self._config_for = config_for
        self._wall_ms = wall_ms

    async def customers(
        self, tenant_id: int, *, search: str | None, limit: int, cursor: str | None
    ) -> Page[CustomerResource]:
        """Persons, newest first."""
        limit = bounded(limit)
        before = ID_MAX + 1 if cursor is None else cursor_values("customers", cursor, 1)[0]
        sql, arguments = customers_statement(tenant_id, search, before=before, limit=limit + 1)
        records, more = cut(await self._pool(tenant_id).fetch(sql, *arguments, tenants=(tenant_id,)), limit)
        items = await self._shown(tenant_id, [_customers.read(record) for record in records])
        return Page(items=items, next_cursor=cursor_text("customers", items[-1].id) if more else None)

    async def customer(self, tenant_id: int, customer_id: int) -> CustomerResource | None:
        shown = await self._by_id(tenant_id, [customer_id])
        return shown.get(customer_id)

    async def profile(self, tenant_id: int, customer_id: int, *, visible_to: int | None) -> Profile | None:
        """See engine.reading."""
        person = await self._person_of(tenant_id, customer_id)
        if not person:
            return None
        members = await self._shown(tenant_id, person)
        ids = [each.id for each in members]
        records = await self._rows("conversations_of", tenant_id, ids, visible_to, SHOWN_MAX)
        (counts,) = await self._rows("conversation_counts_of", tenant_id, ids, visible_to, COUNTED_MAX)
        config, now = self._config_for(tenant_id), self._wall_ms()
        return Profile(
            customer=members[0],
            members=members[1:],
            handles=[handle for each in members for handle in each.handles],
            conversations=[shown_conversation(record, config, now) for record in records],
            counts=ConversationCounts(total=counts["total"], open=counts["open"], unread=counts["unread"]),
        )

    async def candidates(self, tenant_id: int, customer_id: int) -> Sequence[Candidate] | None:
        """See engine.reading."""
        person = await self._person_of(tenant_id, customer_id)
        if not person:
            return None
        phones = {each.phone for each in person if each.phone is not None}
        others = {f"+{other}" for phone in phones for other in variants(phone.removeprefix("+"))} - phones
        emails = {each.email.lower() for each in person if each.email is not None}
        if not phones and not emails:
            return []
        records = await self._rows(
            "candidates", tenant_id, person[0].id, sorted(phones | others), sorted(emails), 2 * CANDIDATES_MAX
        )
        reasons: dict[int, set[str]] = {}
        for row in map(_customers.read, records):
            found = reasons.setdefault(row.merged_into or row.id, set())
            if row.phone in phones:
                found.add("phone")
            elif row.phone in others:
                found.add("phone_variant")
            if row.email is not None and row.email.lower() in emails:
                found.add("email")
        chosen = sorted(reasons)[:CANDIDATES_MAX]
        shown = await self._by_id(tenant_id, chosen)
        return [
            Candidate(customer=shown[each], reasons=sorted(reasons[each])) for each in chosen if each in shown
        ]

    async def merges(
        self, tenant_id: int, *, customer_id: int | None, limit: int, cursor: str | None
    ) -> Page[MergeRow]:
        """All of the tenant, or those that a customer has a part in; newest first."""
        limit = bounded(limit)
        before = ID_MAX + 1 if cursor is None else cursor_values("merges", cursor, 1)[0]
        arguments: tuple[int, ...] = (before, limit + 1)
        if customer_id is not None:
            arguments = (*arguments, customer_id)
        name = "merges" if customer_id is None else "merges_of"
        records, more = cut(await self._rows(name, tenant_id, *arguments), limit)
        items = [_merges.read(record) for record in records]
        return Page(items=items, next_cursor=cursor_text("merges", items[-1].id) if more else None)

    # ---------------------------------------------------------------- helpers

    async def _person_of(self, tenant_id: int, customer_id: int) -> list[CustomerRow]:
        """The customers of the person that this one is part of, as their rows say, the one who survives
        first."""
        found = await self._rows("customers_by_id", tenant_id, [customer_id])
        if not found:
            return []
        root_id = found[0]["merged_into"] or customer_id
        records = await self._rows("members", tenant_id, root_id, MEMBERS_MAX)
        return [_customers.read(record) for record in records]

    async def _by_id(self, tenant_id: int, ids: Sequence[int]) -> dict[int, CustomerResource]:
        records = await self._rows("customers_by_id", tenant_id, list(ids))
        shown = await self._shown(tenant_id, [_customers.read(record) for record in records])
        return {each.id: each for each in shown}

    async def _shown(self, tenant_id: int, rows: Sequence[CustomerRow]) -> list[CustomerResource]:
        if not rows:
            return []
        handles: dict[int, list[HandleRef]] = {}
        for record in await self._rows("handles_of", tenant_id, [row.id for row in rows]):
            handles.setdefault(record["customer_id"], []).append(_handles.read(record))
        return [customer_resource(row, handles.get(row.id, ())) for row in rows]

    async def _rows(self, name: str, tenant_id: int, *arguments: object) -> list[Any]:
        return await self._pool(tenant_id).fetch(_SQL[name], tenant_id, *arguments, tenants=(tenant_id,))

    def _pool(self, tenant_id: int) -> Pool:
        return self._placements.pool(tenant_id)


def customers_statement(
    tenant_id: int, search: str | None, *, before: int, limit: int
) -> tuple[str, list[Any]]:
    """The list's statement and its arguments."""
    arguments: list[Any] = [tenant_id, before, limit]
    condition = ""
    if search is not None and search.strip():
        arguments.extend(search_words(search))
        condition = "AND " + _SQL["search_condition"].replace("/*words*/", "$4").replace(
            "/*beginning*/", "$5"
        )
    return _SQL["customers"].replace("/*and*/", condition), arguments
