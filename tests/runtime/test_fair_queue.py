"""Deficit round robin: whatever is put in and taken out, and whatever it costs."""

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.runtime.fair_queue import FairQueue

QUANTUM = 4
COST_MAX = 10
TENANTS = 4

tenants = st.integers(1, TENANTS)
costs = st.integers(1, COST_MAX)
pushes = st.tuples(st.just("push"), tenants, costs)
takes = st.tuples(st.just("take"), st.integers(1, 6), st.just(1))
pops = st.tuples(st.just("pop"), st.just(0), st.just(0))


@given(st.lists(st.one_of(pushes, pushes, pops, pops, takes), max_size=200))
def test_whatever_waits_comes_out_and_each_tenants_items_in_order(steps: list[tuple[str, int, int]]) -> None:
    """Against a deque for each tenant: nothing is lost, doubled or overtaken, and a pop finds something
    exactly when something waits."""
    queue: FairQueue[tuple[int, int, int]] = FairQueue(QUANTUM)
    model: dict[int, deque[tuple[int, int, int]]] = {tenant: deque() for tenant in range(1, TENANTS + 1)}
    for number, (what, argument, cost) in enumerate(steps):
        if what == "push":
            queue.push(argument, (argument, number, cost))
            model[argument].append((argument, number, cost))
        elif what == "take":
            waiting = len(queue)
            taken = queue.take(argument)
            assert min(1, waiting) <= len(taken) <= argument
            several = len({item[0] for item in taken}) > 1
            for tenant in {item[0] for item in taken}:
                of_tenant = [item for item in taken if item[0] == tenant]
                assert of_tenant == [model[tenant].popleft() for _ in of_tenant]
                assert not several or len(of_tenant) <= QUANTUM
        else:
            ahead = queue.peek()
            item = queue.pop()
            assert item == ahead
            assert (item is None) == (not any(model.values()))
            if item is not None:
                assert model[item[0]].popleft() == item
                queue.balance -= item[2]
        assert len(queue) == sum(map(len, model.values()))
        assert bool(queue) == any(model.values())
        assert sorted(queue.heads()) == sorted(items[0] for items in model.values() if items)
        assert sorted(queue) == sorted(item for items in model.values() for item in items)
        assert all(queue.waiting(tenant) == len(items) for tenant, items in model.items())


@given(st.lists(st.tuples(tenants, costs), min_size=1, max_size=60), st.lists(costs, min_size=1, max_size=8))
def test_a_newcomer_waits_for_at_most_one_turn_of_each_other_tenant(
    flood: list[tuple[int, int]], lately: list[int]
) -> None:
    """However much the others have waiting, and however deep in a turn they are."""
    queue: FairQueue[tuple[int, int]] = FairQueue(QUANTUM)
    for tenant, cost in flood:
        for _ in range(30):
            queue.push(tenant, (tenant, cost))
    for _ in lately:
        item = queue.pop()
        assert item is not None
        queue.balance -= item[1]
    queue.push(99, (99, 1))
    spent = dict.fromkeys(range(1, TENANTS + 1), 0)
    while (item := queue.pop()) != (99, 1):
        assert item is not None
        queue.balance -= item[1]
        spent[item[0]] += item[1]
    assert max(spent.values()) < QUANTUM + COST_MAX


@given(st.lists(st.lists(costs, min_size=1, max_size=5), min_size=2, max_size=5), st.integers(1, 400))
def test_tenants_that_always_have_something_get_the_same(patterns: list[list[int]], pulls: int) -> None:
    """At any moment, whatever their items cost: some have few dear ones, others many cheap ones."""
    queue: FairQueue[tuple[int, int]] = FairQueue(QUANTUM)
    spent = [0] * len(patterns)
    given_out = [0] * len(patterns)

    def refill(tenant: int) -> None:
        pattern = patterns[tenant]
        queue.push(tenant, (tenant, pattern[given_out[tenant] % len(pattern)]))
        given_out[tenant] += 1

    for tenant in range(len(patterns)):
        refill(tenant)
        refill(tenant)
    for _ in range(pulls):
        item = queue.pop()
        assert item is not None
        queue.balance -= item[1]
        spent[item[0]] += item[1]
        refill(item[0])
        assert max(spent) - min(spent) <= 2 * QUANTUM + 2 * COST_MAX


def test_what_is_taken_together_is_at_most_a_turn_of_each_unless_one_is_alone() -> None:
    """A flood makes nobody's batch long, and its own as long as it may be."""
    queue: FairQueue[int] = FairQueue(QUANTUM)
    for _ in range(100):
        queue.push(1, 1)
    assert queue.take(50) == [1] * 50
    for tenant in (2, 3):
        queue.push(tenant, tenant)
    assert sorted(queue.take(50)) == [1] * QUANTUM + [2, 3]
    assert queue.take(50) == [1] * (50 - QUANTUM)


def test_a_debt_outlives_an_empty_moment() -> None:
    """A tenant with one dear item at a time pays for each before it gets the next: 40 against 1 is not a
    better deal than 1 against 1."""
    queue: FairQueue[str] = FairQueue(QUANTUM)
    spent = {"dear": 0, "cheap": 0}
    cost = {"dear": 40, "cheap": 1}
    queue.push(1, "dear")
    queue.push(2, "cheap")
    queue.push(2, "cheap")
    for _ in range(2000):
        item = queue.pop()
        assert item is not None
        queue.balance -= cost[item]
        spent[item] += cost[item]
        # The dear one comes again only after it was served, so its tenant has nothing waiting meanwhile.
        queue.push(1 if item == "dear" else 2, item)
    assert spent["dear"] == pytest.approx(spent["cheap"], abs=50)


def test_a_lone_tenant_is_not_measured() -> None:
    """What it took while nobody else was there is not held against it."""
    queue: FairQueue[int] = FairQueue(QUANTUM)
    for number in range(1000):
        queue.push(1, number)
    for _ in range(500):
        queue.pop()
        queue.balance -= 100
    queue.push(2, -1)
    order = [queue.pop()]
    queue.balance -= 1
    while order[-1] != -1:
        order.append(queue.pop())
        queue.balance -= 1
    assert order == [500, 501, 502, 503, -1]


def test_who_has_left_is_forgotten() -> None:
    """A thousand tenants that came and went take no memory and no turns."""
    queue: FairQueue[int] = FairQueue(QUANTUM)
    for tenant in range(1000):
        queue.push(tenant, tenant)
    while queue.pop() is not None:
        queue.balance -= COST_MAX
    queue.push(1, 1)
    assert queue.pop() == 1
    for _ in range(8):
        queue.push(1, 1)
        queue.push(2, 2)
        queue.pop()
        queue.balance -= QUANTUM
    assert len(queue._flows) <= 2
