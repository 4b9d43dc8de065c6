"""Every bench, one after the other, into one page: `python -m bench.all [--quick] [--only NAME …]`.

Each bench runs as a process of its own, as a person would run it, and its last line is taken as its result.
The page (bench/RESULTS.md by default, pictures in a directory beside it) begins with the goals and how far
they were reached, names the machine, and every peer that was missing. A bench that fails has its last words
on the page instead of figures, and the exit status is 1.
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
    "memory": "memory of conversations: resident, after they have left, and a million that are only known",
    "bridge": "how asyncio's database driver runs beside trio",
    "storage": "P7: durable messages through the batching writer",
    "ingest": "P3: durable webhook acknowledgements per second in one process",
    "latency": "P4: from the platform's webhook to the agent's WebSocket",
    "neighbour": "P11: what a thousand tenants feel of one that floods",
    "outbox": "the outbox as a job queue: jobs per second, time from enqueueing to start",
    "pacing": "P8: how near to a platform's limits, and never over them",
    "fanout": "P5, P6: one event to many WebSockets, memory of an idle one",
    "stalled": "what others feel of WebSockets that have stopped reading",
    "reconnect": "everybody comes back at once and resumes",
    "chaos": "what is lost, doubled or late while things break",
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
        print(f"  python -m bench.{name:<10} {BENCHES[name]}")
    print("  python -m bench.load       a load generator for a running server")
    print("  python -m bench.all        all of them, into bench/RESULTS.md")
    print("  python -m bench.check      have their ratios become worse than bench/ratios.json?")
    print("Options of each: --quick (within 45 s), --json (one object as the last line), --plot FILE.png.")
    print("Peers come with `pip install -e '.[bench]'`. See bench/README.md.")


def run_one(name: str, *, quick: bool, picture: Path | None) -> Run:
    """Run one bench to its end; its progress goes where ours goes."""
    command = [sys.executable, "-m", f"bench.{name}", "--json", *(["--quick"] if quick else [])]
    if picture is not None:
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
        f"on {on['cores']} cores{_model()}, {on['system']}, Python {on['python']}. Load average at the end "
        f"{os.getloadavg()[2]:.1f}: above {on['cores']}, others were using the machine too.",
        "",
        "Figures are medians of interleaved rounds, with the range of the rounds. *ours / theirs* is the "
        "ratio of the medians; where less is better, below 1 is good. [README.md](README.md) says how to "
        "repeat and how to read them.",
    ]
    if summary := goals(runs):
        lines += ["", "## Goals", "", *summary]
    if absent := missing(runs):
        lines += ["", "Missing here, so without figures:", "", *absent]
    for run in runs:
        lines += ["", f"## {run.name}", "", f"{_capital(BENCHES[run.name])}. It took {run.seconds:.0f} s."]
        if run.result is None:
            lines += ["", "Failed:", "", "```", run.words, "```"]
            continue
        for question, answer in answers(run.result).items():
            lines += ["", f"**{_capital(question)}** ({answer['unit']}{_better(answer)})", "", *rows(answer)]
        if pictures is not None:
            lines += ["", f"![{run.name}]({pictures}/{run.name}.png)"]
    return "\n".join(lines) + "\n"


def answers(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What a bench was asked and answered, by question."""
    return result.get("contests") or {result["bench"]: result}


def goals(runs: Sequence[Run]) -> list[str]:
    """A table of every question with a goal."""
    lines = []
    for run in runs:
        for question, answer in answers(run.result).items() if run.result else ():
            if answer.get("goal") is None:
                continue
            sign = "at most" if answer.get("less_is_better") else "at least"
            verdict = "reached" if answer.get("met") else "**missed**"
            ours, always = answer["ours"], ""
            if answer.get("every_round"):
                # Judged by the worst round, so that one is shown.
                ours = answer["spread"][1 if answer.get("less_is_better") else 0]
                always = " in each round"
            lines.append(
                f"| [{run.name}](#{run.name}) | {question} ({answer['unit']}) "
                f"| {sign} {figure(answer['goal'])}{always} | {figure(ours)} | {verdict} |"
            )
    return lines and ["| bench | question | goal | ours | |", "|---|---|---:|---:|---|", *lines]


def missing(runs: Sequence[Run]) -> list[str]:
    """Each peer that was not there, with the reason, once."""
    seen: dict[tuple[str, str], str] = {}
    for run in runs:
        for answer in answers(run.result).values() if run.result else ():
            seen |= {(run.name, peer): why for peer, why in answer.get("missing", {}).items()}
    return [f"- {bench}: {peer} ({why})" for (bench, peer), why in seen.items()]


def rows(answer: dict[str, Any]) -> list[str]:
    """The table of one question."""
    low, high = answer["spread"]
    lines = ["| | median | range of the rounds | ours / theirs |", "|---|---:|---:|---:|"]
    name = answer.get("ours_name", "ours")
    lines.append(f"| **{name}** | **{figure(answer['ours'])}** | {figure(low)} – {figure(high)} | |")
    for name, value in answer["peers"].items():
        ratio = answer["ratios"].get(name)
        spread = answer.get("peer_spreads", {}).get(name)
        shown = "" if spread is None else f"{figure(spread[0])} – {figure(spread[1])}"
        lines.append(f"| {name} | {figure(value)} | {shown} | {'' if ratio is None else f'{ratio:.2f}'} |")
    lines += [f"| {name} | missing | | |" for name in answer.get("missing", {})]
    return lines


def _better(answer: dict[str, Any]) -> str:
    return ", less is better" if answer.get("less_is_better") else ""


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _model() -> str:
    """The processor's name, where the kernel tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next(
        (f" ({line.split(':', 1)[1].strip()})" for line in lines if line.startswith("model name")), ""
    )


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
