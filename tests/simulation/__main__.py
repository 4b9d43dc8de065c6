"""`python -m tests.simulation --seed N` replays one day; `--seeds A-B` runs many at once."""

import json
import sys
import time
from collections import Counter

import click

from tests.simulation.many import count
from tests.simulation.plan import Scenario, fault_kinds
from tests.simulation.run import Report, run
from tests.simulation.shrink import shrunk

STORY_MAX = 150


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seed", type=int, help="Run this one day and tell what happened.")
@click.option("--seeds", metavar="A-B", help="Run the days from A to B, both included.")
@click.option("--jobs", type=click.IntRange(1), help="Processes at once with --seeds; one for each core.")
@click.option("--first", is_flag=True, help="With --seeds: stop at the first that fails; ends with JSON.")
@click.option("--without", multiple=True, type=click.Choice(fault_kinds()), help="Leave out a kind of fault.")
@click.option("--json", "as_json", is_flag=True, help="End with one line for programs (--seed).")
@click.option("--timeline", is_flag=True, help="Tell everything, not only what a violation concerns.")
@click.option("--shrink/--no-shrink", default=True, help="Whether a failing day is made smaller first.")
def main(
    seed: int | None,
    seeds: str | None,
    jobs: int | None,
    first: bool,
    without: tuple[str, ...],
    as_json: bool,
    timeline: bool,
    shrink: bool,
) -> None:
    """The whole engine over one simulated day, or many. Exits with 1 when a promise was broken."""
    if (seed is None) == (seeds is None):
        raise click.UsageError("Say --seed N or --seeds A-B.")
    if seeds is not None and first:
        sys.exit(_first(_range(seeds)))
    if seeds is not None:
        sys.exit(_many(seeds, jobs, shrink=shrink))
    assert seed is not None
    scenario = Scenario(seed=seed, without=frozenset(without))
    report = run(scenario, whole_story=timeline)
    _tell(report, whole=timeline)
    if report.violations and shrink and not as_json:
        _tell_shrunk(scenario, report)
    if as_json:
        click.echo(report.line())
    sys.exit(1 if report.violations else 0)


def _range(seeds: str) -> range:
    first, _, last = seeds.partition("-")
    try:
        return range(int(first), int(last or first) + 1)
    except ValueError as error:
        raise click.UsageError("--seeds takes A-B.") from error


def _first(seeds: range) -> int:
    """One after the other, until one fails."""
    for runs, seed in enumerate(seeds, start=1):
        report = run(Scenario(seed=seed))
        if report.violations:
            click.echo(json.dumps({"seed": seed, "runs": runs, "violation": report.violations[0]}))
            return 1
    click.echo(json.dumps({"seed": None, "runs": len(seeds), "violation": ""}))
    return 0


def _many(seeds: str, jobs: int | None, *, shrink: bool) -> int:
    chosen = _range(seeds)
    began, faults, steps, simulated = time.monotonic(), Counter[str](), 0, 0.0

    def progress(number: int, whole: int, report: Report) -> None:
        nonlocal steps, simulated
        faults.update(report.faults)
        steps += report.steps
        simulated += report.simulated_seconds
        if report.violations:
            click.echo(f"\nseed {report.seed}: {report.violations[0][:400]}", err=True)
        if number == whole or number % 10 == 0:
            rate = number / (time.monotonic() - began)
            click.echo(f"\r{number} of {whole} days, {rate:.1f} a second", nl=number == whole, err=True)

    failed = count(chosen, jobs=jobs, progress=progress)
    click.echo(
        f"{len(chosen)} days, {simulated / 3600:,.0f} simulated hours, {steps:,} steps, "
        f"{sum(faults.values()):,} faults of {len(faults)} kinds: {len(failed)} days went wrong"
    )
    for report in failed:
        click.echo(f"seed {report.seed}: {report.violations[0][:400]}")
    if failed and shrink:
        _tell_shrunk(Scenario(seed=failed[0].seed), failed[0])
    return 1 if failed else 0


def _tell(report: Report, *, whole: bool) -> None:
    if report.violations or whole:
        click.echo("\n".join(report.story if whole else report.story[-STORY_MAX:]))
    hours = report.simulated_seconds / 3600
    click.echo(f"seed {report.seed}: {hours:.1f} simulated hours, {report.steps} steps, hash {report.hash}")
    shown = ", ".join(f"{kind} {times}" for kind, times in report.faults.items())
    click.echo(f"faults: {shown or 'none'}")
    for violation in report.violations:
        click.echo(f"BROKEN  {violation}")
    if not report.violations:
        click.echo("Every promise was kept.")


def _tell_shrunk(scenario: Scenario, report: Report) -> None:
    small, found = shrunk(scenario, report, run)
    operations, faults = small.planned(), [kind for kind in fault_kinds() if found.faults.get(kind)]
    click.echo(f"\nThe same with less: seed {small.seed}, {len(operations)} operations, faults: {faults}")
    for one in operations:
        click.echo(f"  at {one.at:9.3f} s  {one.kind} ({one.number})")
    click.echo("\n".join(found.story[-STORY_MAX:]))
    click.echo(f"BROKEN  {found.violations[0]}")


if __name__ == "__main__":
    main()
