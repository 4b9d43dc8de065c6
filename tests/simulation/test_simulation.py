"""The engine's promises over a few hundred simulated days, each from a seed."""

import json
import re
import subprocess
import sys

import pytest

from tests.simulation.many import count
from tests.simulation.mutants import Mutant, all_mutants
from tests.simulation.mutants.hunting import ROOT, hunt, planted, simulate
from tests.simulation.plan import Scenario
from tests.simulation.run import Report, run
from tests.simulation.shrink import RUNS_MAX, shrunk

SEEDS = 200
"""About a minute of two cores; `make simulate SEEDS=n` runs any number."""

REPEATED = (10, 11, 14)
"""Between them they have accounts on each platform that is played."""

REGRESSIONS: dict[int, str] = {
    9: "a reply that an opt-out had withdrawn went out: it came to the channel after the news of that",
}
"""Seeds that found a bug, and which. A seed shows its bug only as long as the days stay what they are: each
bug has a test of its own too, and a seed that shows it no more is taken out."""


def _told(report: Report) -> str:
    """A failing day, made smaller, with the story of the conversation that it concerns."""
    small, found = shrunk(Scenario(seed=report.seed), report, run)
    return "\n".join(
        (
            f"seed {report.seed}: {report.violations[0]}",
            f"python -m tests.simulation --seed {report.seed} shows it; the same with less:",
            *(f"  at {one.at:.3f} s {one.kind}" for one in small.planned()),
            *found.story[-120:],
            f"BROKEN  {found.violations[0]}",
        )
    )


@pytest.mark.real_time
@pytest.mark.parametrize("seed", REGRESSIONS)
def test_a_seed_that_found_a_bug_is_kept(seed: int) -> None:
    """It does not come back."""
    report = run(Scenario(seed=seed))
    assert not report.violations, _told(report)


@pytest.mark.slow
@pytest.mark.real_time
def test_every_day_ends_with_all_promises_kept() -> None:
    """Nothing acknowledged is lost or doubled, order and counts are right, events equal the store."""
    failed = count(range(1_000, 1_000 + SEEDS), jobs=None, progress=lambda *_: None)
    assert not failed, _told(failed[0])


@pytest.mark.slow
@pytest.mark.real_time
@pytest.mark.parametrize("seed", REPEATED)
def test_a_seed_tells_the_same_story_in_any_process(seed: int) -> None:
    """Fresh processes with different hash seeds come to the same trace, byte for byte."""
    ends = _replayed_twice(seed)
    assert ends[0] == ends[1]
    assert ends[0].keys() == {"seed", "hash", "steps", "simulated_seconds", "faults", "violations"}
    assert ends[0]["steps"] != 0


def _replayed_twice(seed: int) -> list[dict[str, object]]:
    """At the same time, one on each core."""
    runs = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.simulation", "--seed", str(seed), "--json"],
            cwd=ROOT,
            env={"PYTHONHASHSEED": hash_seed, "PATH": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for hash_seed in ("0", "1234")
    ]
    told = [run.communicate() for run in runs]
    assert [run.returncode for run in runs] == [0, 0], [(out[-3_000:], err[-3_000:]) for out, err in told]
    return [json.loads(out.splitlines()[-1]) for out, _ in told]


@pytest.mark.parametrize("mutant", all_mutants(), ids=lambda mutant: mutant.name)
def test_a_planted_bug_fits_the_code_as_it_is(mutant: Mutant) -> None:
    """An edit whose lines have moved on is rewritten with them; `make simulate-mutants` hunts them all."""
    for path, text in mutant.planted(ROOT).items():
        compile(text, path, "exec")


@pytest.mark.slow
@pytest.mark.real_time
def test_a_planted_bug_is_found_and_its_day_told_with_less() -> None:
    """That a promise can be broken, in a copy of the whole program; that the command which replays the day
    says which one, with what little is needed for it, and what became of the message."""
    (mutant,) = (one for one in all_mutants() if one.name == "forgotten_dedup")
    outcome = hunt(mutant, days=20)
    assert outcome.seed is not None, outcome
    with planted(mutant) as tree:
        ended = simulate(tree, "--seed", str(outcome.seed), days=RUNS_MAX)
    assert ended.returncode == 1, ended.stderr
    whole, told = ended.stdout.split("\nThe same with less: ")
    told, broken = told.split("\nBROKEN  ")
    summary, *lines = told.splitlines()
    operations = [line for line in lines if line.startswith("  at ")]
    assert summary.startswith(f"seed {outcome.seed}, {len(operations)} operations, faults: ")
    assert 1 <= len(operations) < len(Scenario(seed=outcome.seed).planned()) / 2
    story = lines[len(operations) :]
    assert all(re.match(r"(\d+d )?\d\d:\d\d:\d\d\.\d{3}  \w+ +\S", line) for line in story), story
    assert any("  webhook   200 for message wamid." in line for line in story)
    assert any("  store     message " in line for line in story)
    assert any("  VIOLATION " in line for line in story)
    assert len(story) < len(whole.splitlines())
    assert broken.split(":")[0] == outcome.violation.split(":")[0]


def test_different_seeds_are_different_days() -> None:
    """The hash says something."""
    assert run(Scenario(seed=1)).hash != run(Scenario(seed=2)).hash


def test_leaving_a_fault_out_leaves_it_out() -> None:
    """What shrinking relies on."""
    whole = run(Scenario(seed=3))
    kind = max(whole.faults, key=lambda one: whole.faults[one])
    less = run(Scenario(seed=3, without=frozenset({kind})))
    assert kind in whole.faults
    assert kind not in less.faults
