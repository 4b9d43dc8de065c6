"""Plants each bug into a copy of the tree and looks which seed finds it."""

import json
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Final

import click
from msgspec import Struct

from tests.simulation.many import cores
from tests.simulation.mutants import Mutant, all_mutants

ROOT: Final = Path(__file__).parents[3]
COPIED: Final = ("engine", "storage", "adapters", "gateway", "tests")
FOUND_MIN: Final = 19
"""Of all of them. Which are missed is printed, so that seeds or checkers can be made for them."""


class Outcome(Struct):
    """`seed` None: not found; `error`: it could not even be planted or run."""

    mutant: Mutant
    seed: int | None = None
    seeds: int = 0
    violation: str = ""
    error: str = ""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1)
@click.option("--seeds", default=100, show_default=True, help="Days that may be tried for each.")
@click.option("--jobs", default=cores(), show_default=True, help="How many at once.")
def main(names: tuple[str, ...], seeds: int, jobs: int) -> None:
    """Exits with 1 when an edit no longer applies, or fewer than 19 are found (of named ones: not all)."""
    chosen = [one for one in all_mutants() if not names or one.name in names]
    with ThreadPoolExecutor(jobs) as pool:
        outcomes = []
        hunts = [pool.submit(_hunt, one, seeds) for one in chosen]
        for number, ended in enumerate(as_completed(hunts), start=1):
            outcome = ended.result()
            outcomes.append(outcome)
            click.echo(f"[{number}/{len(chosen)}] {_line(outcome)}")
    missed = [one for one in outcomes if one.seed is None and not one.error]
    broken = [one for one in outcomes if one.error]
    click.echo(f"{len(outcomes)} planted bugs: {sum(one.seed is not None for one in outcomes)} found")
    for one in (*broken, *missed):
        click.echo(
            f"{'BROKEN' if one.error else 'MISSED'}  {one.mutant.name}: {one.error or 'no seed finds it'}"
        )
    found = len(outcomes) - len(missed) - len(broken)
    sys.exit(1 if broken or found < min(FOUND_MIN, len(chosen)) else 0)


def _hunt(mutant: Mutant, seeds: int) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="mutant-") as directory:
        tree = Path(directory)
        for name in COPIED:
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        try:
            mutant.plant(tree)
        except (LookupError, OSError) as error:
            return Outcome(mutant, error=str(error))
        command = [sys.executable, "-m", "tests.simulation", "--seeds", f"0-{seeds - 1}", "--first"]
        ended = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
        lines = ended.stdout.splitlines()
        if not lines or not lines[-1].startswith("{"):
            return Outcome(mutant, error=f"it does not run: {ended.stderr.strip()[-400:]}")
        found = json.loads(lines[-1])
        return Outcome(mutant, found["seed"], found["runs"], found["violation"])


def _line(outcome: Outcome) -> str:
    told = outcome.error or (
        f"NOT FOUND in {outcome.seeds} days"
        if outcome.seed is None
        else f"found by seed {outcome.seed}: {outcome.violation.splitlines()[0][:110]}"
    )
    return f"{outcome.mutant.name:<28} {told}\n        {outcome.mutant.description}"


if __name__ == "__main__":
    main()
