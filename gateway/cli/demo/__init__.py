"""`mijra demo`: the whole system at work, and a proof at the end that nothing was lost on the way.

Every platform is played in this process, the real server runs in another one on a database of its own,
and a few agents with an inbox each answer a few dozen customers. The platforms behave as the real ones do on
an ordinary day: they post concurrently, redeliver, batch, and tell statuses out of order.

    play             the course of it          server          the server's process
    agents           who answers               subscription    how they hear of it
    tally, screen    what is shown             database        what is stored
    reconciliation   the verdict
"""

import os
import sys

import click
from rich.console import Console

from gateway.cli.running import run
from gateway.logging import configure_logging
from gateway.settings import read_settings


@click.command("demo")
@click.option(
    "--seconds", type=click.FloatRange(0, min_open=True), help="How long; without it, until Ctrl-C."
)
@click.option("--customers", type=click.IntRange(1, 10_000), default=36, show_default=True)
@click.option(
    "--rate",
    type=click.FloatRange(0, 200, min_open=True),
    default=6.0,
    show_default=True,
    help="Messages per second that customers write of their own accord, on average.",
)
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed, the same customers.")
def command(seconds: float | None, customers: int, rate: float, seed: int) -> None:
    """Let customers talk on simulated platforms, and reconcile everything at the end.

    Data goes to MIJRA_DATA_DIR, or to a temporary directory. Ctrl-C or the end of --seconds ends the talk;
    then everything comes to rest and is compared: what the platform was acknowledged for, what is in the
    database, what was pushed, what reached the customers. Ends with status 1 unless all of it agrees.
    """
    configure_logging("error", "auto", sys.stderr.buffer)
    # Imported here, because --help needs neither simulator nor database driver.
    from gateway.cli.demo.play import Wish, run_demo

    wish = Wish(seconds=seconds, customers=customers, rate=rate, seed=seed)
    if not run(run_demo, read_settings(os.environ), wish, Console()):
        sys.exit(1)
