"""Many statements as one: what a batch writes goes to PostgreSQL in a single round trip.

Each kind of row has its statement in writer.sql. Sent one after the other they cost a round trip each, and
with them, between BEGIN and COMMIT, nine hand-overs between trio's thread and asyncio's; as the WITH parts of
one statement they cost one, and the statement is its own transaction.

PostgreSQL gives all parts of a statement the same snapshot and promises no order among them. So two that
might meet in one row do not go together: `waves` puts them into statements that follow each other, in the
order in which they were given. Nearly every batch is a single wave.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

from msgspec import Struct

from storage.statements import Statement

FUSIONS_MAX: Final = 256
"""Combinations of kinds whose text is kept. A system at work uses some thirty; asyncpg keeps 256 plans."""

_PARAMETER: Final = re.compile(r"\$(\d+)")


class Call(Struct, frozen=True):
    """A statement with its arguments, one array for each column.

    `keys` are the rows (tenant, id) that it adds or changes where that says all about whom it may meet: an
    insert and a patch of different rows of one table do not mind each other. None where it does not.
    """

    statement: Statement
    table: str
    columns: Sequence[Sequence[Any]]
    keys: frozenset[tuple[int, int]] | None = None


def waves(calls: Sequence[Call]) -> list[list[Call]]:
    """`calls` in as few groups as possible, each to be one statement. Those of one table that may touch the
    same rows are in different groups, in their order."""
    found: list[list[Call]] = []
    # By table: its last wave, and the rows that are touched there.
    last: dict[str, tuple[int, frozenset[tuple[int, int]] | None]] = {}
    for call in calls:
        number, keys = 0, call.keys
        if call.table in last:
            number, touched = last[call.table]
            if touched is None or keys is None or not touched.isdisjoint(keys):
                number += 1
            else:
                keys = touched | keys
        if number == len(found):
            found.append([])
        found[number].append(call)
        last[call.table] = number, keys
    return found


def fuse(gate: Statement, arguments: Sequence[object], calls: Sequence[Call]) -> tuple[str, Sequence[object]]:
    """One statement, which begins with `gate` (it takes `arguments`) and does what `calls` do, with all
    arguments."""
    text = _text(gate, tuple(call.statement for call in calls))
    return text, [*arguments, *(column for call in calls for column in call.columns)]


@lru_cache(FUSIONS_MAX)
def _text(gate: Statement, statements: tuple[Statement, ...]) -> str:
    parts, offset = [gate.sql], gate.parameters
    for statement in statements:
        parts.append(f"{statement.name} AS (\n{_shifted(statement.sql, offset)}\n)")
        offset += statement.parameters
    return ", ".join(parts) + "\nSELECT 1 FROM gate"


def _shifted(sql: str, offset: int) -> str:
    return _PARAMETER.sub(lambda match: f"${int(match[1]) + offset}", sql)
