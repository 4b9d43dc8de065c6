"""Planting one bug into a copy of the tree and running days there until one of them is broken."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from msgspec import Struct

from tests.simulation.mutants import Mutant

ROOT: Final = Path(__file__).parents[3]
COPIED: Final = ("engine", "storage", "adapters", "gateway", "tests")

DAY_SECONDS_MAX: Final = 20.0
"""On average: a day takes half a second, on a busy machine a few. What takes longer loops without ever
coming back to the scheduler, where the simulation would notice."""


class Outcome(Struct):
    """`seed` None: not found in `days` days; `error`: it could not even be planted or run."""

    mutant: Mutant
    seed: int | None = None
    days: int = 0
    violation: str = ""
    error: str = ""


def hunt(mutant: Mutant, *, days: int) -> Outcome:
    """Days 0, 1, 2 … in a process of their own, until one is broken or `days` have passed."""
    try:
        with planted(mutant) as tree:
            ended = simulate(tree, "--seeds", f"0-{days - 1}", "--first", days=days)
    except (LookupError, OSError) as error:
        return Outcome(mutant, error=str(error))
    except subprocess.TimeoutExpired as error:
        return Outcome(mutant, error=f"it has not ended after {error.timeout:.0f} s")
    lines = ended.stdout.splitlines()
    if not lines or not lines[-1].startswith("{"):
        return Outcome(mutant, error=f"it does not run: {ended.stderr.strip()[-400:]}")
    found = json.loads(lines[-1])
    return Outcome(mutant, found["seed"], found["runs"], found["violation"])


@contextmanager
def planted(mutant: Mutant) -> Iterator[Path]:
    """A copy of the program with the bug in it. Raises LookupError like `Mutant.plant`."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as directory:
        tree = Path(directory)
        for name in COPIED:
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        mutant.plant(tree)
        yield tree


def simulate(tree: Path, *arguments: str, days: int) -> subprocess.CompletedProcess[str]:
    """`python -m tests.simulation` of the copy. Raises TimeoutExpired after the time for so many days."""
    return subprocess.run(
        [sys.executable, "-m", "tests.simulation", *arguments],
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
        timeout=DAY_SECONDS_MAX * (days + 1),
    )
