"""What the actor that merges customers decides on (engine.ports.CustomerStore).

Promises   what is committed, of one tenant; a person is walked along its merges by look-ups, never by reading
a table.
Limits     as many steps as a person may have customers; one crossing of the bridge for each question, because
           people merge customers by hand.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from engine.domain.customers.actor import MEMBERS_MAX
from engine.domain.rows import CustomerRow, MergeRow
from engine.ports import Member, PeopleQuery, Person, PersonsQuery
from storage.placements import Placements
from storage.records import Reader
from storage.statements import load_sql

_SQL: Final = load_sql("customers.sql")
_customers: Final = Reader(CustomerRow)
_merges: Final = Reader(MergeRow)


class People:
    """The store of who is one person with whom."""

    def __init__(self, placements: Placements) -> None:
        self._placements = placements

    async def find_people(self, queries: Sequence[PeopleQuery]) -> Sequence[tuple[Any, ...]]:
        """See engine.ports."""
        return [await self._found(query) for query in queries]

    async def _found(self, query: PeopleQuery) -> tuple[Any, ...]:
        if isinstance(query, PersonsQuery):
            ids = list(query.customer_ids)
            records = await self._rows("persons", query.tenant_id, ids, MEMBERS_MAX)
            return tuple(
                _person([each for each in records if each["position"] == position])
                for position in range(1, len(ids) + 1)
            )
        records = await self._rows("unsettled_merges", query.tenant_id, query.limit)
        return tuple(_merges.read(record) for record in records)

    async def _rows(self, name: str, tenant_id: int, *arguments: object) -> list[Any]:
        pool = self._placements.pool(tenant_id)
        return await pool.fetch(_SQL[name], tenant_id, *arguments, tenants=(tenant_id,))


def _person(records: Iterable[Any]) -> Person | None:
    members = [_member(record) for record in records]
    if not members:
        return None
    root_id = next(each.customer.id for each in members if each.merge is None)
    return Person(root_id=root_id, members=tuple(members))


def _member(record: Any) -> Member:
    customer = _customers.read(record)
    merge = None
    if record["merge_id"] is not None:
        merge = MergeRow(
            tenant_id=customer.tenant_id,
            id=record["merge_id"],
            survivor_id=record["survivor_id"],
            merged_id=customer.id,
            by_user_id=record["by_user_id"],
            created_at=record["merge_created_at"],
            settled=record["settled"],
        )
    place = None
    if record["contact_key"] is not None:
        place = (record["channel_id"], record["contact_key"])
    return Member(customer=customer, merge=merge, place=place)
