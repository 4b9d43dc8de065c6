"""`python -m bench.chaos`: see the package."""

import argparse
import importlib.util
import os
import random
import sys
from pathlib import Path

import trio
from rich.console import Console

import bench.chaos
from bench.chaos import report
from bench.chaos.customers import MESSAGES_MAX
from bench.chaos.run import Outcome, Plan, Stuck, run
from bench.chaos.system import needed
from bench.harness import Missing
from bench.rounds import flat, quiet
from bench.servers import StartFailed


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="bench.chaos",
        description=bench.chaos.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=20, help="at least so many faults (default 20)")
    parser.add_argument("--acknowledgements", type=int, default=0, help="at least so many messages")
    parser.add_argument(
        "--seconds", type=float, default=7200, help="at most so long, whatever is missing then"
    )
    parser.add_argument(
        "--rate", type=float, help="webhooks per second at most; without it, as fast as answered"
    )
    parser.add_argument(
        "--messages-per-webhook", type=int, default=MESSAGES_MAX, metavar="N", help="at most (default 5)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of faults, moments and traffic; default: a new one"
    )
    parser.add_argument(
        "--load-seconds",
        type=float,
        default=1.5,
        metavar="S",
        help="of load before each fault, at most; at least a third of it (default 1.5)",
    )
    parser.add_argument(
        "--platform-down",
        type=float,
        default=0,
        metavar="SECONDS",
        help="take the platform away once for so long",
    )
    parser.add_argument("--quick", action="store_true", help="three rounds, within 45 s")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    parser.add_argument("--report", type=Path, metavar="FILE.md", help="write the run as a page")
    chosen = parser.parse_args()
    if chosen.plot and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib: pip install 'mijra[bench]'")
    quiet()
    console = Console(stderr=chosen.json, soft_wrap=True)
    plan = Plan(
        seed=chosen.seed or random.randrange(1, 1_000_000),
        rounds=3 if chosen.quick else chosen.rounds,
        acknowledgements=chosen.acknowledgements,
        seconds=20 if chosen.quick else chosen.seconds,
        rate=chosen.rate,
        messages_max=chosen.messages_per_webhook,
        before_seconds=(chosen.load_seconds / 3, chosen.load_seconds),
        platform_down_seconds=chosen.platform_down,
    )
    failed: list[str] = []
    outcome: Outcome | None = None
    try:
        needed()
        with console.status(f"seed {plan.seed}: starting") as status:

            def tell(words: str) -> None:
                status.update(words)
                if not console.is_terminal:
                    console.print(words, highlight=False)

            outcome = trio.run(run, plan, tell)
    except* (Missing, Stuck, StartFailed) as failures:
        failed = [f"bench.chaos: {one} (seed {plan.seed})" for one in flat(failures)]
    if outcome is None:
        sys.exit("\n".join(failed))
    report.show(outcome, console)
    if chosen.plot:
        report.plot(outcome, chosen.plot)
    if chosen.report:
        picture = os.path.relpath(chosen.plot, chosen.report.parent) if chosen.plot else None
        command = " ".join(["python -m bench.chaos", *sys.argv[1:]])
        chosen.report.write_text(report.page(outcome, command, picture))
    if chosen.json:
        print(report.as_json(outcome))
    sys.exit(1 if outcome.violations.counts else 0)


if __name__ == "__main__":
    main()
