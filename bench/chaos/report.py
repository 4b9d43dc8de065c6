"""The run told: a table for people, a page, a picture, one JSON object."""

import json
import statistics
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.chaos.run import Outcome
from bench.harness import machine

ALWAYS_TOLD = ("lost", "doubled", "out of order", "gap")


def median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else 0.0


def by_kind(outcome: Outcome) -> list[tuple[str, int, float, float, float]]:
    """(kind, rounds, fault seconds, recovery p50, recovery max), the slowest recovery last."""
    kinds: dict[str, list[Any]] = {}
    for one in outcome.rounds:
        kinds.setdefault(one.kind, []).append(one)
    told = [
        (
            kind,
            len(rounds),
            median([one.fault_seconds for one in rounds]),
            median([one.recovery_seconds for one in rounds]),
            max(one.recovery_seconds for one in rounds),
        )
        for kind, rounds in kinds.items()
    ]
    return sorted(told, key=lambda one: one[3])


def figures(outcome: Outcome) -> list[tuple[str, str]]:
    """What the run did, in the order of a reader's questions."""
    counts = outcome.violations.counts
    rate = outcome.messages / max(outcome.seconds, 1e-9)
    recoveries = [one.recovery_seconds for one in outcome.rounds]
    told = [
        ("rounds", f"{len(outcome.rounds)}, {len({one.kind for one in outcome.rounds})} kinds of fault"),
        ("acknowledged messages", f"{outcome.messages:,} in {outcome.webhooks:,} webhooks answered 200"),
        ("acknowledged sends", f"{outcome.sends:,} answered 201"),
        ("pushed and compared", f"{outcome.pushed:,} frames on {outcome.connections:,} connections"),
    ]
    told += [(name, f"{counts[name]:,}") for name in ALWAYS_TOLD]
    told += [(name, f"{count:,}") for name, count in sorted(counts.items()) if name not in ALWAYS_TOLD]
    told += [
        ("recovery p50 / max", f"{median(recoveries):.2f} s / {max(recoveries, default=0):.2f} s"),
        ("refused or unanswered, posted again", f"{outcome.refused:,} / {outcome.unanswered:,}"),
        ("posted again though answered", f"{outcome.repeated:,}"),
        (
            "sends repeated after an unknown outcome",
            f"{outcome.audit.get('sent_again_and_flagged', 0):,}, flagged",
        ),
        (
            "screens: gaps announced, furthest behind",
            f"{outcome.gaps_announced:,}, {outcome.lag_max:,} events",
        ),
        ("exceptions in the server's log", f"{outcome.tracebacks:,}"),
        ("server's memory, highest", f"{outcome.memory_peak / 2**20:,.0f} MiB"),
        ("seconds", f"{outcome.seconds:,.0f}, {rate:,.0f} messages/s with all outages in it"),
        ("comparing took", f"{sum(one.compare_seconds for one in outcome.rounds):,.0f} s in all"),
        ("seed", str(outcome.plan.seed)),
    ]
    return told


def show(outcome: Outcome, console: Console) -> None:
    """The tables for people."""
    table = Table(title="Faults and recoveries", title_justify="left")
    for title in ("fault", "rounds", "lasted, s", "recovery p50, s", "max, s"):
        table.add_column(title, justify="left" if title == "fault" else "right")
    for kind, rounds, lasted, middle, longest in by_kind(outcome):
        table.add_row(kind, str(rounds), f"{lasted:.2f}", f"{middle:.2f}", f"{longest:.2f}")
    for kind, why in outcome.skipped.items():
        table.add_row(kind, "skipped", why, "", "", style="dim")
    console.print(table)
    said = Table(show_header=False)
    for name, value in figures(outcome):
        said.add_row(name, value)
    console.print(said)
    for words in outcome.violations.words:
        console.print(f"VIOLATION {words}", highlight=False)


def page(outcome: Outcome, command: str, picture: str | None) -> str:
    """The run as Markdown."""
    on = machine()
    lines = [
        "# Chaos",
        "",
        f"Taken {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by `{command}`.",
        f"On {on['cores']} cores, {on['system']}, Python {on['python']}; PostgreSQL, the load, the proxy and "
        "the played platform ran on the same cores. What runs, what is checked and how recovery is counted: "
        "the docstring of `bench/chaos/__init__.py`.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in figures(outcome)),
        "",
        "| fault | rounds | lasted, s | recovery p50, s | max, s |",
        "|---|---:|---:|---:|---:|",
        *(
            f"| {kind} | {rounds} | {lasted:.2f} | {middle:.2f} | {longest:.2f} |"
            for kind, rounds, lasted, middle, longest in by_kind(outcome)
        ),
        *(f"| {kind} | skipped | {why} | | |" for kind, why in outcome.skipped.items()),
    ]
    if outcome.violations.words:
        lines += ["", "Violations:", "", *(f"- {words}" for words in outcome.violations.words)]
    if picture is not None:
        lines += ["", f"![acknowledgements and recoveries]({picture})"]
    return "\n".join(lines) + "\n"


def as_json(outcome: Outcome) -> str:
    """The line for machines; `ours` is the middle recovery. Nobody stands beside it."""
    recoveries = [one.recovery_seconds for one in outcome.rounds]
    counts = outcome.violations.counts
    return json.dumps(
        {
            "bench": "chaos",
            "ours": median(recoveries),
            "unit": "s from the end of a fault to the first acknowledgement, p50",
            "peers": {},
            "limit": None,
            "ratios": {},
            "rounds": len(outcome.rounds),
            "spread": [min(recoveries, default=0), max(recoveries, default=0)],
            "acknowledgements": outcome.messages,
            "webhooks": outcome.webhooks,
            "sends": outcome.sends,
            "pushed": outcome.pushed,
            **{name.replace(" ", "_"): counts[name] for name in ALWAYS_TOLD},
            "violations": dict(counts),
            "faults": {
                kind: {"rounds": rounds, "recovery_p50": middle, "recovery_max": longest}
                for kind, rounds, _, middle, longest in by_kind(outcome)
            },
            "skipped": outcome.skipped,
            "seed": outcome.plan.seed,
            "seconds": round(outcome.seconds, 1),
            "messages_per_second": round(outcome.messages / max(outcome.seconds, 1e-9)),
            "tracebacks": outcome.tracebacks,
            "memory_peak_bytes": outcome.memory_peak,
            "machine": machine(),
        }
    )


def plot(outcome: Outcome, path: Path) -> None:
    """Acknowledgements over time with each fault, and the recoveries of each kind."""
    try:
        import matplotlib as mpl
    except ImportError:
        sys.exit("--plot needs matplotlib: pip install 'mijra[bench]'")
    mpl.use("Agg")
    from matplotlib import pyplot

    drawing, (over_time, recoveries) = pyplot.subplots(
        2, 1, figsize=(10, 9), gridspec_kw={"height_ratios": [1, 1.4]}
    )
    curve = outcome.curve
    rates = [
        (later[0], (later[1] - sooner[1]) / max(later[0] - sooner[0], 1e-9))
        for sooner, later in pairwise(curve)
    ]
    over_time.plot([at for at, _ in rates], [rate for _, rate in rates], linewidth=0.6)
    for one in outcome.rounds:
        over_time.axvline(one.began, color="tab:red", alpha=0.15, linewidth=0.6)
    over_time.set_title(
        f"{outcome.messages:,} acknowledged messages, {len(outcome.rounds)} faults (red), "
        f"lost {outcome.violations.counts['lost']}, doubled {outcome.violations.counts['doubled']}",
        loc="left",
        fontsize=10,
    )
    over_time.set_xlabel("seconds")
    over_time.set_ylabel("acknowledged messages per second")
    kinds = [kind for kind, *_ in by_kind(outcome)]
    for height, kind in enumerate(kinds):
        values = [one.recovery_seconds for one in outcome.rounds if one.kind == kind]
        recoveries.plot(values, [height] * len(values), "o", alpha=0.5, color="tab:blue", markersize=4)
    recoveries.set_yticks(range(len(kinds)), kinds, fontsize=8)
    recoveries.set_xlabel("seconds from the end of the fault to the first acknowledgement")
    recoveries.set_xlim(left=0)
    recoveries.grid(axis="x", alpha=0.3)
    drawing.tight_layout()
    drawing.savefig(path, dpi=110)
