"""Making a failing scenario small: what can be left out while it still fails in the same way is left out.

Deterministic, and bounded by a number of runs. First kinds of faults go, half of them at a time, then
operations, in ever smaller stretches.
"""

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from msgspec import structs

from tests.simulation.plan import Scenario, fault_kinds
from tests.simulation.run import Report

RUNS_MAX: Final = 60
"""About a minute of one core."""

T = TypeVar("T")


def shrunk(
    scenario: Scenario, report: Report, run: Callable[[Scenario], Report], *, runs_max: int = RUNS_MAX
) -> tuple[Scenario, Report]:
    """The smallest scenario found that breaks a promise of the same kind, and its report."""
    best, left = (scenario, report), runs_max
    wanted = report.kinds[0]

    def fails(candidate: Scenario) -> bool:
        nonlocal best, left
        if left <= 0:
            return False
        left -= 1
        found = run(candidate)
        if wanted not in found.kinds:
            return False
        best = (candidate, found)
        return True

    def with_faults(kept: Sequence[str]) -> Scenario:
        return structs.replace(best[0], without=frozenset(fault_kinds()) - set(kept))

    def with_operations(kept: Sequence[object]) -> Scenario:
        return structs.replace(best[0], operations=tuple(kept))

    struck = [kind for kind in fault_kinds() if report.faults.get(kind)]
    fails(with_faults(struck))
    _without_stretches(struck, lambda kept: fails(with_faults(kept)))
    _without_stretches(best[0].planned(), lambda kept: fails(with_operations(kept)))
    return best


def _without_stretches(whole: Sequence[T], still_fails: Callable[[Sequence[T]], bool]) -> Sequence[T]:
    """Leaves out halves, quarters and so on, as long as what is left still fails."""
    kept = list(whole)
    size = max(1, len(kept) // 2)
    while kept:
        start = 0
        while start < len(kept):
            tried = kept[:start] + kept[start + size :]
            if still_fails(tried):
                kept = tried
            else:
                start += size
        if size == 1:
            break
        size //= 2
    return kept
