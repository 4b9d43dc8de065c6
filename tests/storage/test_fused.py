"""Which statements of a batch may go together, and what they look like then. Pure."""

import re

from hypothesis import given
from hypothesis import strategies as st

from storage.batch import STATEMENTS
from storage.fused import Call, fuse, waves
from storage.statements import Statement

TABLES = ("messages", "conversations", "events")


def call(table: str, name: str = "upsert", keys: tuple[int, ...] | None = None) -> Call:
    statement = Statement(f"{name}_{table}", "for the test", f"INSERT INTO {table} SELECT $1, $2", 2)
    known = None if keys is None else frozenset((1, key) for key in keys)
    return Call(statement, table, [[1], [2]], known)


def test_what_touches_different_tables_goes_together() -> None:
    calls = [call(table) for table in TABLES]
    assert waves(calls) == [calls]


def test_what_may_touch_the_same_row_is_one_after_the_other_in_its_order() -> None:
    remove, add, change = (call("messages", name) for name in ("delete", "upsert", "patch"))
    other = call("events")
    assert waves([remove, add, other, change]) == [[remove, other], [add], [change]]


def test_new_rows_and_changes_of_others_go_together() -> None:
    new = call("messages", "insert", (1, 2))
    assert waves([new, call("messages", "patch", (3, 4))]) == [[new, call("messages", "patch", (3, 4))]]
    assert [len(wave) for wave in waves([new, call("messages", "patch", (2, 3))])] == [1, 1]


_KEYS = st.none() | st.sets(st.integers(1, 4), max_size=3).map(lambda keys: tuple(keys))


@given(
    st.lists(
        st.tuples(st.sampled_from(TABLES), _KEYS),
        max_size=8,
    )
)
def test_nothing_is_left_out_and_no_wave_holds_two_that_may_meet(
    wanted: list[tuple[str, tuple[int, ...] | None]],
) -> None:
    """Whatever comes: every call is in one wave; within a wave, two of one table have different rows; of one
    table, an earlier call is never in a later wave than one it may meet."""
    calls = [call(table, f"n{number}", keys) for number, (table, keys) in enumerate(wanted)]
    found = waves(calls)
    assert sorted(c.statement.name for wave in found for c in wave) == sorted(c.statement.name for c in calls)
    place = {c.statement.name: number for number, wave in enumerate(found) for c in wave}
    for at, first in enumerate(calls):
        for second in calls[at + 1 :]:
            if first.table == second.table:
                apart = first.keys is not None and second.keys is not None
                if not (apart and first.keys.isdisjoint(second.keys)):  # type: ignore[union-attr, arg-type]
                    assert place[first.statement.name] < place[second.statement.name]


def test_parameters_are_numbered_through_and_every_part_reads_the_gate() -> None:
    """The gate's own come first; each statement of rows in writer.sql waits for the gate."""
    gate = STATEMENTS["open_batch"]
    rows = [s for s in STATEMENTS.values() if s.name.startswith(("insert_", "upsert_", "patch_", "delete_"))]
    calls = [Call(s, s.name, [[number] for number in range(s.parameters)]) for s in rows]
    sql, arguments = fuse(gate, ["a"] * gate.parameters, calls)
    numbers = {int(number) for number in re.findall(r"\$(\d+)", sql)}
    assert numbers == set(range(1, len(arguments) + 1))
    assert len(arguments) == gate.parameters + sum(s.parameters for s in rows)
    assert all(re.search(r"\), gate\b", s.sql) for s in rows)
