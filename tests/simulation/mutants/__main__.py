"""Plants each bug into a copy of the tree and looks which seed finds it."""

import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Final

import click

from tests.simulation.many import cores
from tests.simulation.mutants import all_mutants
from tests.simulation.mutants.hunting import Outcome, hunt

MISSED_MAX: Final = 3
"""Of all of them. The days change with the program, so another bug may slip through now and then; when it
does, make a fault more frequent or a checker more exact."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1)
@click.option("--seeds", type=click.IntRange(1), default=100, show_default=True, help="Days for each bug.")
@click.option("--jobs", type=click.IntRange(1), default=cores(), show_default=True, help="How many at once.")
def main(names: tuple[str, ...], seeds: int, jobs: int) -> None:
    """Exits with 1 when an edit no longer applies, or more than 3 are missed (of named ones: any)."""
    known = {one.name: one for one in all_mutants()}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise click.UsageError(f"There is no {', '.join(unknown)}. There are: {', '.join(known)}.")
    chosen = [known[name] for name in dict.fromkeys(names)] or list(known.values())
    began = time.monotonic()
    outcomes = []
    with ThreadPoolExecutor(jobs) as pool:
        hunts = [pool.submit(hunt, one, days=seeds) for one in chosen]
        for number, ended in enumerate(as_completed(hunts), start=1):
            outcomes.append(ended.result())
            click.echo(f"[{number}/{len(chosen)}] {_line(outcomes[-1])}")
    found = [one for one in outcomes if one.seed is not None]
    broken = [one for one in outcomes if one.error]
    missed = [one for one in outcomes if one.seed is None and not one.error]
    click.echo(
        f"{len(outcomes)} planted bugs: {len(found)} found, {len(missed)} missed, {len(broken)} not planted, "
        f"in {time.monotonic() - began:.0f} s"
    )
    for one in (*broken, *missed):
        click.echo(f"{'BROKEN' if one.error else 'MISSED'}  {one.mutant.name}: {_told(one)}")
    sys.exit(1 if broken or len(missed) > (0 if names else MISSED_MAX) else 0)


def _line(outcome: Outcome) -> str:
    return f"{outcome.mutant.name:<28} {_told(outcome)}\n        {outcome.mutant.description}"


def _told(outcome: Outcome) -> str:
    if outcome.error:
        return outcome.error
    if outcome.seed is None:
        return f"NOT FOUND in {outcome.days} days"
    return f"found by seed {outcome.seed}: {outcome.violation.splitlines()[0][:110]}"


if __name__ == "__main__":
    main()
