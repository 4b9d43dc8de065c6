"""Every bench, one after the other, into one page: `python -m bench.all [--quick] [--only NAME …]`.

Each bench runs as a process of its own, as a person would run it, and its last line is taken as its result.
The page (bench/RESULTS.md by default, pictures in a directory beside it) names the machine and every peer
that was missing. A bench that fails has its last words on the page instead of figures, and the exit status is
1.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from bench.harness import figure, machine

ROOT: Final = Path(__file__).parent.parent
# In the order of a message's way; the sentence is what the bench asks.
BENCHES: Final = {
    "mailbox": "P1, P2: messages to actors, questions and answers, activations, memory when idle",
    "bridge": "how asyncio's database driver runs beside trio",
    "storage": "P7: durable messages through the batching writer",
    "ingest": "P3: durable webhook acknowledgements per second in one process",
    "latency": "P4: from the platform's webhook to the agent's WebSocket",
    "overload": "an open loop at three times the capacity: goodput, refusals, recovery",
}
# A full run of the slowest one takes some five minutes on two cores.
_SECONDS_MAX: Final = 1800


class Run(Struct):
    """One bench's end: its result, or what it said when it failed."""

    name: str
    seconds: float
    result: dict[str, Any] | None
    words: str


def present() -> list[str]:
    """The benches whose module is here."""
    return [name for name in BENCHES if (ROOT / "bench" / f"{name}.py").exists()]


def print_list() -> None:
    """What there is, and how to run it."""
    for name in present():
        print(f"  python -m bench.{name:<9} {BENCHES[name]}")
    print("  python -m bench.chaos     long runs under real faults, with a ledger of what was acknowledged")
    print("  python -m bench.load      a load generator for a running server")
    print("  python -m bench.all       all of them, into bench/RESULTS.md")
    print("Options of all: --quick (within 45 s), --json (one object as the last line), --plot FILE.png (all")
    print("but bridge). Peers come with `pip install -e '.[bench]'`. See bench/README.md.")


def run_one(name: str, *, quick: bool, picture: Path | None) -> Run:
    """Run one bench to its end; its progress goes where ours goes."""
    command = [sys.executable, "-m", f"bench.{name}", "--json", *(["--quick"] if quick else [])]
    # The bridge's bench draws nothing.
    if picture is not None and name != "bridge":
        command += ["--plot", str(picture)]
    began = time.monotonic()
    try:
        done = subprocess.run(
            command, cwd=ROOT, stdout=subprocess.PIPE, timeout=_SECONDS_MAX, text=True, check=False
        )
        said, code = done.stdout.strip().splitlines(), done.returncode
    except subprocess.TimeoutExpired:
        said, code = [f"not finished within {_SECONDS_MAX} s"], 1
    seconds = time.monotonic() - began
    try:
        result = json.loads(said[-1]) if code == 0 else None
    except (IndexError, json.JSONDecodeError):
        result = None
    return Run(name, seconds, result, "\n".join(said[-20:]) or f"exit status {code}")


def page(runs: Sequence[Run], *, quick: bool, pictures: str | None) -> str:
    """The results as Markdown."""
    on = machine()
    lines = [
        "# Results",
        "",
        f"Taken {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by `python -m bench.all{' --quick' if quick else ''}` "
        f"on {on['cores']} cores, {on['system']}, Python {on['python']}. Load average at the end "
        f"{os.getloadavg()[2]:.1f}: above {on['cores']}, others were using the machine too.",
        "How to read this: bench/README.md. Medians, with the range of the rounds.",
    ]
    for run in runs:
        lines += ["", f"## {run.name}", "", BENCHES[run.name] + "."]
        if run.result is None:
            lines += ["", "Failed:", "", "```", run.words, "```"]
            continue
        lines += ["", *rows(run.result), "", f"{run.seconds:.0f} s."]
        if pictures is not None and run.name != "bridge":
            lines.append(f"![{run.name}]({pictures}/{run.name}.png)")
    return "\n".join(lines) + "\n"


def rows(result: dict[str, Any]) -> list[str]:
    """One table of all questions that a bench answered."""
    answers = result.get("contests") or {result["bench"]: result}
    lines = ["| question | ours | range | goal | peers (ours / theirs) |", "|---|---:|---:|---:|---|"]
    for question, answer in answers.items():
        peers = [
            f"{name} {figure(value)}"
            + (f" ({answer['ratios'][name]:.2f})" if name in answer["ratios"] else "")
            for name, value in answer["peers"].items()
        ]
        peers += [f"{name}: missing, {why}" for name, why in answer.get("missing", {}).items()]
        low, high = answer["spread"]
        goal = "" if answer.get("goal") is None else figure(answer["goal"])
        lines.append(
            f"| {question}, {answer['unit']} | {figure(answer['ours'])} | {figure(low)} – {figure(high)} "
            f"| {goal} | {'; '.join(peers)} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.all", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="each bench within 45 s")
    parser.add_argument("--only", nargs="+", choices=sorted(BENCHES), metavar="NAME")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "RESULTS.md")
    chosen = parser.parse_args()
    pictures: Path = chosen.out.parent / "plots"
    pictures.mkdir(parents=True, exist_ok=True)
    runs = []
    for name in chosen.only or present():
        print(f"── {name}", file=sys.stderr, flush=True)
        runs.append(run_one(name, quick=chosen.quick, picture=pictures / f"{name}.png"))
    drawn = any(pictures.iterdir())
    chosen.out.write_text(page(runs, quick=chosen.quick, pictures=pictures.name if drawn else None))
    print(f"written: {chosen.out}")
    if failed := [run.name for run in runs if run.result is None]:
        sys.exit(f"bench.all: failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
