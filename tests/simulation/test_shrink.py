"""Making a failing day smaller: what is left is what it takes, and the day still fails in the same way."""

from collections.abc import Callable
from typing import Final

from tests.simulation.plan import Scenario, fault_kinds
from tests.simulation.run import Report
from tests.simulation.shrink import RUNS_MAX, shrunk

SEED: Final = 3
PLANNED: Final = Scenario(seed=SEED).planned()
FAULTS: Final = ("commit_lost", "kill", "screen_slow", "slow_load")


class Bug:
    """A day fails if these operations and these faults are in it. Counts how often it was tried."""

    def __init__(self, operations: set[int], faults: set[str], kind: str = "loss") -> None:
        self.runs = 0
        self._operations = operations
        self._faults = faults
        self._kind = kind

    def run(self, scenario: Scenario) -> Report:
        self.runs += 1
        numbers = {one.number for one in scenario.planned()}
        struck = {kind: 1 for kind in FAULTS if kind not in scenario.without}
        fails = self._operations <= numbers and self._faults <= set(struck)
        kinds = [self._kind] if fails else ["other"]
        return Report(
            seed=scenario.seed,
            hash="",
            steps=len(numbers),
            simulated_seconds=0.0,
            faults=struck,
            violations=[f"{kind}: it is gone" for kind in kinds],
            kinds=kinds,
        )


def smallest(bug: Bug, run: Callable[[Scenario], Report] | None = None) -> Scenario:
    whole = Scenario(seed=SEED)
    scenario, report = shrunk(whole, bug.run(whole), run or bug.run)
    assert report.kinds == ["loss"]
    return scenario


def test_what_it_takes_is_left_and_nothing_else() -> None:
    """Two operations far from each other, and one of four kinds of faults."""
    wanted = {PLANNED[1].number, PLANNED[-2].number}
    small = smallest(Bug(wanted, {"kill"}))
    assert {one.number for one in small.planned()} == wanted
    assert [kind for kind in FAULTS if kind not in small.without] == ["kill"]
    assert small.seed == SEED


def test_a_day_that_needs_no_fault_is_told_without_any() -> None:
    """All kinds are left out then, those too that did not strike."""
    small = smallest(Bug({PLANNED[0].number}, set()))
    assert [one.number for one in small.planned()] == [PLANNED[0].number]
    assert small.without == frozenset(fault_kinds())


def test_another_failure_is_not_taken_for_the_same() -> None:
    """What is left out must not be what made it fail in its own way: the rest fails otherwise."""
    everything = {one.number for one in PLANNED}
    small = smallest(Bug(everything, {"commit_lost", "slow_load"}))
    assert {one.number for one in small.planned()} == everything


def test_it_is_over_after_so_many_runs() -> None:
    """However large the day is."""
    bug = Bug({one.number for one in PLANNED[::2]}, set(FAULTS))
    smallest(bug)
    assert bug.runs <= RUNS_MAX + 1
