"""Has something become slower than its peers? `python -m bench.check [--record] [--only NAME …]`.

Why        A time says what a machine was doing that day. A ratio of two contestants that took turns in one
           run says what the code does, so ratios alone are compared, with those in bench/ratios.json.
How        Every bench runs with --quick, and each ratio (ours / a peer's, by the median of the rounds) is
           put beside the recorded one. It is a regression when ours became worse by more than the tolerance,
           and again so in a second run: a machine that is busy for a minute spoils one run, not two.
Tolerance  What the records themselves show: --record runs each bench several times (--runs) and keeps the
           lowest and the highest ratio. Allowed is what lies outside of them by their own width again, and by
           15 % at least: medians of five short rounds on a quiet machine differ by about so much.
Leaves     Goals and absolute figures to the benches themselves; ratios to a peer that is missing here, or
           that has no record, which are named and skipped.

Exit status 1 for a regression, a bench that fails, or nothing at all that could be compared.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.all import ROOT, present, run_one
from bench.harness import machine

RATIOS: Final = ROOT / "bench" / "ratios.json"
MARGIN: Final = 0.15
RUNS: Final = 3
# Ways of running asyncpg among each other: nothing there becomes slower by a change of ours.
_LEFT_OUT: Final = ("bridge",)


class Recorded(Struct, frozen=True, kw_only=True):
    """One ratio as it was recorded: its middle, and its range over the runs."""

    ratio: float
    low: float
    high: float
    less_is_better: bool = False

    def worst(self) -> float:
        """The ratio at which a regression begins."""
        slack = max(self.high - self.low, MARGIN * self.ratio)
        return self.high + slack if self.less_is_better else self.low - slack

    def regressed(self, now: float) -> bool:
        return now > self.worst() if self.less_is_better else now < self.worst()


class Record(Struct, kw_only=True):
    """The file: ratios by "bench / question / peer", and what they were taken on."""

    taken: str
    machine: dict[str, Any]
    ratios: dict[str, Recorded]


class Verdict(Struct, frozen=True, kw_only=True):
    """One line of the table. `now` is None where there is nothing to compare, and `note` says why."""

    name: str
    recorded: Recorded | None
    now: float | None
    note: str = ""

    @property
    def regressed(self) -> bool:
        return self.recorded is not None and self.now is not None and self.recorded.regressed(self.now)


def ratios_of(result: Mapping[str, Any]) -> dict[str, tuple[float, bool]]:
    """A bench's ratios by name, and whether less is better."""
    found = {}
    for question, answer in (result.get("contests") or {}).items():
        for peer, ratio in answer["ratios"].items():
            if ratio > 0:
                found[f"{result['bench']} / {question} / {peer}"] = (ratio, answer["less_is_better"])
    return found


def missing_of(result: Mapping[str, Any]) -> dict[str, str]:
    """Why a ratio is not there, by its name."""
    return {
        f"{result['bench']} / {question} / {peer}": why
        for question, answer in (result.get("contests") or {}).items()
        for peer, why in answer.get("missing", {}).items()
    }


def compare(record: Record, results: Sequence[Mapping[str, Any]]) -> Iterator[Verdict]:
    """Every ratio that is recorded for these benches, and every new one."""
    now: dict[str, tuple[float, bool]] = {}
    missing: dict[str, str] = {}
    for result in results:
        now |= ratios_of(result)
        missing |= missing_of(result)
    ran = {str(result["bench"]) for result in results}
    for name, recorded in record.ratios.items():
        if name.split(" / ", 1)[0] not in ran:
            continue
        if name in now:
            yield Verdict(name=name, recorded=recorded, now=now[name][0])
        else:
            yield Verdict(
                name=name, recorded=recorded, now=None, note=missing.get(name, "not asked any more")
            )
    for name in now.keys() - record.ratios.keys():
        yield Verdict(name=name, recorded=None, now=now[name][0], note="not recorded; see --record")


def recorded(results: Sequence[Mapping[str, Any]]) -> dict[str, Recorded]:
    """The record of several runs of the same benches."""
    seen: dict[str, list[float]] = {}
    less: dict[str, bool] = {}
    for result in results:
        for name, (ratio, less_is_better) in ratios_of(result).items():
            seen.setdefault(name, []).append(ratio)
            less[name] = less_is_better
    return {
        name: Recorded(
            ratio=_short(sorted(values)[len(values) // 2]),
            low=_short(min(values)),
            high=_short(max(values)),
            less_is_better=less[name],
        )
        for name, values in sorted(seen.items())
    }


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def show(verdicts: Sequence[Verdict], console: Console) -> None:
    """The table for people."""
    table = Table(title="ours / theirs, now and as recorded", title_justify="left")
    for title in ("bench / question / peer", "now", "recorded", "range", "worst allowed", ""):
        table.add_column(title, justify="left" if title in ("bench / question / peer", "") else "right")
    for one in sorted(verdicts, key=lambda each: (not each.regressed, each.name)):
        kept = one.recorded
        sign = "≤" if kept is not None and kept.less_is_better else "≥"
        table.add_row(
            escape(one.name),
            "" if one.now is None else f"{one.now:.2f}",
            "" if kept is None else f"{kept.ratio:.2f}",
            "" if kept is None else f"{kept.low:.2f} – {kept.high:.2f}",
            "" if kept is None else f"{sign} {kept.worst():.2f}",
            "REGRESSION" if one.regressed else escape(one.note) or "ok",
            style="bold red" if one.regressed else "dim" if one.now is None else None,
        )
    console.print(table)


def read(path: Path) -> Record:
    """The record. Exits with a sentence when there is none that can be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Record)
    except FileNotFoundError:
        sys.exit(f"bench.check: {path} is not there; `python -m bench.check --record` writes it")
    except msgspec.DecodeError as error:
        sys.exit(f"bench.check: {path} cannot be read: {error}")


def run(names: Sequence[str]) -> list[dict[str, Any]]:
    """The benches' results. Exits when one fails: its ratios would be missing from a record, or unseen."""
    results = []
    for name in names:
        print(f"── {name}", file=sys.stderr, flush=True)
        ended = run_one(name, quick=True, picture=None)
        if ended.result is None:
            sys.exit(f"bench.check: {name} failed:\n{ended.words}")
        results.append(ended.result)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.check", description=(__doc__ or "").split("\n", 1)[0])
    choices = [name for name in present() if name not in _LEFT_OUT]
    parser.add_argument("--only", nargs="+", choices=choices, metavar="NAME", default=choices)
    parser.add_argument("--record", action="store_true", help="write what is measured now as the record")
    parser.add_argument("--runs", type=int, default=RUNS, help=f"of each bench for a record, default {RUNS}")
    parser.add_argument("--file", type=Path, default=RATIOS)
    chosen = parser.parse_args()
    console = Console()
    if chosen.runs < 1:
        parser.error("--runs is at least 1")
    if chosen.record:
        results = [one for _ in range(chosen.runs) for one in run(chosen.only)]
        kept = read(chosen.file).ratios if chosen.file.exists() else {}
        others = {name: one for name, one in kept.items() if name.split(" / ", 1)[0] not in chosen.only}
        ratios = dict(sorted((others | recorded(results)).items()))
        record = Record(taken=f"{datetime.now(UTC):%Y-%m-%d}", machine=machine(), ratios=ratios)
        chosen.file.write_text(json.dumps(msgspec.to_builtins(record), indent=2) + "\n")
        console.print(f"written: {chosen.file}, {len(ratios)} ratios")
        return
    record = read(chosen.file)
    verdicts = list(compare(record, run(chosen.only)))
    suspects = sorted({one.name.split(" / ", 1)[0] for one in verdicts if one.regressed})
    if suspects:
        show(verdicts, console)
        console.print(f"Again, to tell a slow minute from slow code: {', '.join(suspects)}")
        second = {one.name: one for one in compare(record, run(suspects))}
        # The better of two runs counts: what is slower is slower twice.
        verdicts = [second[one.name] if one.regressed and one.name in second else one for one in verdicts]
    show(verdicts, console)
    if not any(one.recorded is not None and one.now is not None for one in verdicts):
        sys.exit("bench.check: no ratio could be compared; are the peers installed?")
    if regressed := [one.name for one in verdicts if one.regressed]:
        sys.exit("bench.check: worse than recorded: " + "; ".join(regressed))
    console.print("No regression.")


if __name__ == "__main__":
    main()
