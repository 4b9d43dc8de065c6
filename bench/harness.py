"""What every bench shares: interleaved rounds, medians with their range, one table, one JSON line, one plot.

Why        A figure counts only beside its peer's in the same run on the same machine.
Promises   contestants take turns within each round, so that a noisy minute hits all of them; each round of
           each is kept; a contestant that is not installed is named as missing and never guessed.
Leaves     what is measured, and that it is the same for all, to the benches.
"""

import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct, field
from rich.console import Console
from rich.markup import escape
from rich.table import Table

Measure = Callable[[], float]


class Missing(Exception):
    """A contestant cannot run here; the text says what is not installed."""


class Contest(Struct, kw_only=True):
    """One question put to us and to others. `ours` names the contestant that is this project's.

    A goal is met by the median; by the worst round where it is something that may never happen
    (`every_round`).
    """

    name: str
    unit: str
    ours: str
    contestants: Mapping[str, Measure]
    goal: float | None = None
    less_is_better: bool = False
    every_round: bool = False
    ratios: bool = True
    """False where a quotient says nothing (what may be zero, or below)."""
    limit: str | None = None
    results: dict[str, list[float]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def median(self, name: str) -> float:
        """The middle of the rounds of one contestant."""
        return statistics.median(self.results[name])

    def met(self) -> bool:
        """Whether the goal is reached. Only where there is one."""
        assert self.goal is not None
        values = self.results[self.ours]
        if self.less_is_better:
            return (max(values) if self.every_round else self.median(self.ours)) <= self.goal
        return (min(values) if self.every_round else self.median(self.ours)) >= self.goal

    def ratio(self, name: str) -> float | None:
        """Ours divided by theirs; None where that says nothing."""
        theirs = self.median(name)
        return self.median(self.ours) / theirs if theirs and self.ratios else None


def run_rounds(contests: Sequence[Contest], rounds: int, console: Console) -> None:
    """Run every contestant of every contest once in each round, in turn, showing where it is."""
    with console.status("starting") as status:
        for number in range(1, rounds + 1):
            for contest in contests:
                for name, measure in contest.contestants.items():
                    if name in contest.missing:
                        continue
                    status.update(f"round {number} of {rounds}: {contest.name}, {name}")
                    try:
                        contest.results.setdefault(name, []).append(measure())
                    except Missing as missing:
                        contest.missing[name] = str(missing)
                        contest.results.pop(name, None)


def show(contests: Sequence[Contest], console: Console) -> None:
    """The table for people."""
    for contest in contests:
        table = Table(title=f"{contest.name} ({contest.unit})", title_justify="left")
        for title in ("", "median", "lowest", "highest", "ours / theirs"):
            table.add_column(title, justify="left" if not title else "right")
        for name, values in contest.results.items():
            of_theirs = None if name == contest.ours else contest.ratio(name)
            ratio = "" if of_theirs is None else f"{of_theirs:.2f}"
            cells = [figure(value) for value in (contest.median(name), min(values), max(values))]
            table.add_row(name, *cells, ratio, style="bold" if name == contest.ours else None)
        for name, reason in contest.missing.items():
            table.add_row(name, "missing", "", "", escape(reason), style="dim")
        if contest.goal is not None:
            in_each = " in each round" if contest.every_round else ""
            verdict = "met" if contest.met() else "missed"
            table.caption = f"goal {figure(contest.goal)}{in_each}: {verdict}"
        console.print(table)


def figure(value: float) -> str:
    """A number for people: three digits when it is small, whole with separated thousands when it is not."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def as_json(bench: str, contests: Sequence[Contest]) -> str:
    """The line for machines: the first contest in the contract's fields, all of them under `contests`."""
    answers = {contest.name: _answer(contest) for contest in contests}
    first = answers[contests[0].name]
    return json.dumps({"bench": bench, **first, "contests": answers, "machine": machine()})


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": [round(value, 2) for value in os.getloadavg()],
    }


def plot(contests: Sequence[Contest], path: Path) -> None:
    """Bars with their range, one picture for all contests. Needs matplotlib, which is an extra."""
    try:
        import matplotlib as mpl
    except ImportError:
        sys.exit("--plot needs matplotlib: pip install 'mijra[bench]'")
    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(contests), 1, figsize=(9, 2.2 * len(contests)), squeeze=False)
    for axis, contest in zip(axes[:, 0], contests, strict=True):
        names = list(reversed(contest.results))
        medians = [contest.median(name) for name in names]
        below = [contest.median(name) - min(contest.results[name]) for name in names]
        above = [max(contest.results[name]) - contest.median(name) for name in names]
        colours = ["tab:blue" if name == contest.ours else "tab:gray" for name in names]
        axis.barh(names, medians, xerr=[below, above], color=colours)
        axis.set_title(f"{contest.name} ({contest.unit})", loc="left", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def _answer(contest: Contest) -> dict[str, Any]:
    peers = {name: contest.median(name) for name in contest.results if name != contest.ours}
    values = contest.results[contest.ours]
    return {
        "ours": contest.median(contest.ours),
        "ours_name": contest.ours,
        "unit": contest.unit,
        "goal": contest.goal,
        "met": None if contest.goal is None else contest.met(),
        "less_is_better": contest.less_is_better,
        "every_round": contest.every_round,
        "peers": peers,
        "peer_spreads": {name: [min(contest.results[name]), max(contest.results[name])] for name in peers},
        "missing": contest.missing,
        "limit": peers.get(contest.limit) if contest.limit else None,
        "ratios": {name: ratio for name in peers if (ratio := contest.ratio(name)) is not None},
        "rounds": len(values),
        "spread": [min(values), max(values)],
    }
