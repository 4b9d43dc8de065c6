"""Dynamic thresholds: a room that no tenant fills, and that a lone one may nearly fill."""

from hypothesis import given
from hypothesis import strategies as st

from engine.runtime.shared_room import ALPHA, SharedRoom

LIMIT = 1000


def fill(room: SharedRoom, tenant: int) -> int:
    while room.has_room(tenant):
        room.take(tenant, 1)
    return room.held(tenant)


def test_one_alone_may_use_most_of_it() -> None:
    """Two thirds, without anything being configured."""
    assert fill(SharedRoom(LIMIT), 1) == round(LIMIT * ALPHA / (ALPHA + 1))


def test_floods_leave_room_for_everybody_else() -> None:
    """Three begin one after the other before anything has drained, or thirty at once: a tenant that needs
    little finds room."""
    room = SharedRoom(LIMIT)
    for tenant in range(3):
        fill(room, tenant)
    assert room.has_room(99)
    room = SharedRoom(LIMIT)
    for _ in range(LIMIT):
        for tenant in range(30):
            if room.has_room(tenant):
                room.take(tenant, 1)
    assert room.has_room(99)
    assert room.total < LIMIT


def test_a_threshold_falls_when_others_come_and_rises_when_they_leave() -> None:
    room = SharedRoom(LIMIT)
    alone = fill(room, 1)
    beside = fill(room, 2)
    assert not room.has_room(1)
    room.give_back(1, alone)
    assert fill(room, 1) < alone
    room.give_back(2, beside)
    assert room.has_room(1)


def test_a_reserve_is_for_others_use() -> None:
    """Who may not touch the last quarter stops when the rest is full, and the others do not."""
    room = SharedRoom(LIMIT)
    for tenant in range(1, 200):
        while room.has_room(tenant, reserve=LIMIT // 4) and room.held(tenant) < 10:
            room.take(tenant, 1)
    assert room.total == LIMIT - LIMIT // 4
    assert not room.has_room(500, reserve=LIMIT // 4)
    assert room.has_room(500)


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 80), st.booleans()), max_size=200))
def test_the_room_is_never_passed_by_who_asks_and_nothing_leaks(
    steps: list[tuple[int, int, bool]],
) -> None:
    """One unit at a time, by any number of tenants in any order."""
    room = SharedRoom(LIMIT)
    held: dict[int, int] = {}
    for tenant, units, back in steps:
        if back:
            units = min(units, held.get(tenant, 0))
            if units:
                room.give_back(tenant, units)
                held[tenant] -= units
        else:
            for _ in range(units):
                if room.has_room(tenant):
                    room.take(tenant, 1)
                    held[tenant] = held.get(tenant, 0) + 1
        assert room.total == sum(held.values()) <= LIMIT
        assert all(room.held(each) == units for each, units in held.items())
    for tenant, units in held.items():
        if units:
            room.give_back(tenant, units)
    assert (room.total, room._held) == (0, {})
