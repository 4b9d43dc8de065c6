"""Many seeds, in as many processes as there are cores."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import suppress
from multiprocessing import get_context

from tests.simulation.plan import Scenario
from tests.simulation.run import Report, run


def run_seed(seed: int) -> Report:
    return run(Scenario(seed=seed))


def reports(seeds: Sequence[int], *, jobs: int | None = None) -> Iterator[Report]:
    """One report for each seed, as they come."""
    if jobs == 1:
        yield from map(run_seed, seeds)
        return
    # Spawned, since whoever calls may have threads.
    with ProcessPoolExecutor(jobs or cores(), mp_context=get_context("spawn")) as pool:
        waiting: set[Future[Report]] = set()
        left = iter(seeds)
        try:
            while True:
                with suppress(StopIteration):
                    while len(waiting) < 2 * (jobs or cores()):
                        waiting.add(pool.submit(run_seed, next(left)))
                if not waiting:
                    return
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for one in done:
                    yield one.result()
        finally:
            for one in waiting:
                one.cancel()


def cores() -> int:
    return len(os.sched_getaffinity(0))


def count(
    seeds: Sequence[int], *, jobs: int | None, progress: Callable[[int, int, Report], None]
) -> list[Report]:
    """Runs all and returns the reports of those that failed, by seed."""
    failed = []
    for number, report in enumerate(reports(seeds, jobs=jobs), start=1):
        if report.violations:
            failed.append(report)
        progress(number, len(seeds), report)
    return sorted(failed, key=lambda report: report.seed)
