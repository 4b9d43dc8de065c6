"""A load generator for any Mijra: signed WhatsApp texts at a fixed rate, or as fast as the server answers.

    python -m bench.load --url http://…/api/webhooks/whatsapp --secret S --phone-number-id N \\
        --rate 500 --seconds 20
    python -m bench.load --dev FILE --connections 64          # FILE holds the line of `mijra dev --json`

The secret is the app secret of an account that is connected there (MIJRA_LOAD_SECRET serves as well, and is
in no list of processes), the number its phone_number_id: without them the server rightly refuses every
request.
What is sent becomes messages of that account, from customers whose numbers begin with 2010.

With --rate the loop is open: requests are due at fixed moments whatever the server does, and latencies count
from those moments, so that a stall is charged to everyone who had to wait for it. Without it the loop is
closed: each connection sends again when it has its answer. Progress is shown while it runs: a table on a
terminal, a line a second elsewhere. Before the run the generator measures itself against a server that does
nothing (`generator limit`); a result near that limit, or a processor share near 100 %, is the generator's own
and not the server's. Ctrl-C ends the run with the figures so far. Exit status 1 when not every request was
answered with 200.
"""

import argparse
import json
import math
import os
import signal
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import trio
from rich.console import Console
from rich.live import Live
from rich.table import Table

from adapters.simulators.accounts import WhatsAppAccount, demo_account
from bench.client import LoadClient, LoadFailed, Outcome
from bench.harness import Missing, figure, machine
from bench.histogram import Histogram, milliseconds
from bench.rounds import CLIENT_SHARE_MAX, flat, quiet
from bench.servers import StartFailed, echo_server
from bench.webhooks import Traffic

SHARES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
_LIMIT_SECONDS: Final = 1.5
_CONNECT_SECONDS_MAX: Final = 5
_BAR: Final = 50
SECRET: Final = "MIJRA_LOAD_SECRET"

HINTS: Final = {
    401: "the signature was refused: is --secret the app secret of the account with this --phone-number-id?",
    403: "the signature was refused: is --secret the app secret of the account with this --phone-number-id?",
    404: "nothing is there: does --url end in /api/webhooks/whatsapp, and is the account connected?",
    429: "the server asked to slow down",
    503: "the server had no room: the rate is above what it takes",
}
"""What an answer other than 200 usually means."""


def target(chosen: argparse.Namespace) -> tuple[str, WhatsAppAccount]:
    """The endpoint and the signing account, from --dev or the single options; exits when one is missing."""
    account = demo_account()
    if chosen.dev is not None:
        try:
            ready = json.loads(chosen.dev.read_text())
        except (OSError, json.JSONDecodeError) as error:
            sys.exit(f"bench.load: {chosen.dev} does not hold the one line of `mijra dev --json`: {error}")
        try:
            keys = ready["whatsapp"]
            url = chosen.url or f"{ready['base_url'].rstrip('/')}/api/webhooks/whatsapp"
            secret, number, waba = keys["app_secret"], keys["phone_number_id"], keys["waba_id"]
        except (KeyError, TypeError) as error:
            sys.exit(f"bench.load: {chosen.dev} does not hold the line of `mijra dev --json`: {error}")
    elif chosen.url and (chosen.secret or os.environ.get(SECRET)) and chosen.phone_number_id:
        url, secret = chosen.url, chosen.secret or os.environ[SECRET]
        number, waba = chosen.phone_number_id, chosen.waba_id or account.waba_id
    else:
        sys.exit(
            f"bench.load: give --dev FILE, or --url with --secret (or {SECRET}) and --phone-number-id of an "
            "account that is connected there"
        )
    return url, WhatsAppAccount(
        app_secret=secret,
        phone_number_id=number,
        waba_id=waba,
        verify_token=account.verify_token,
        access_token=account.access_token,
        display_phone_number=account.display_phone_number,
    )


async def generator_limit(account: WhatsAppAccount, connections: int) -> float:
    """Answers per second that this generator gets from a server that does nothing."""
    with TemporaryDirectory(prefix="mijra-load-") as name:
        async with echo_server(Path(name)) as url:
            traffic = Traffic(url, account)
            traffic.encode(int(_LIMIT_SECONDS * 15_000))
            outcome = await LoadClient(traffic, seconds=_LIMIT_SECONDS, connections=connections).run()
            return outcome.rate


def summary(outcome: Outcome, limit: float | None) -> dict[str, Any]:
    """The run in numbers, for the JSON line."""
    return {
        "load": "open" if outcome.interval_ns else "closed",
        "sent": outcome.sent,
        "acknowledged": outcome.acknowledged,
        "statuses": {str(status): count for status, count in sorted(outcome.statuses.items())},
        "broken": outcome.broken,
        "unanswered": outcome.unanswered,
        "seconds": round(outcome.seconds, 3),
        "acknowledged_per_second": round(outcome.rate, 1),
        "latency_ms": {name: milliseconds(outcome.latency.at(share)) for name, share in SHARES.items()},
        "lag_ms": {name: milliseconds(outcome.lag.at(share)) for name, share in SHARES.items()},
        "generator": {
            "limit_per_second": None if limit is None else round(limit),
            "processor_share": round(outcome.processor_share, 3),
        },
        "machine": machine(),
    }


def table(outcome: Outcome, limit: float | None) -> Table:
    """The run for people, also while it goes on."""
    shown = Table(show_header=False, box=None)
    shown.add_row("sent", f"{outcome.sent:,}")
    shown.add_row("acknowledged", f"{outcome.acknowledged:,} ({figure(outcome.rate)}/s)")
    others = {status: count for status, count in sorted(outcome.statuses.items()) if status != 200}
    if others:
        shown.add_row("other answers", ", ".join(f"{status}: {count:,}" for status, count in others.items()))
    if outcome.broken or outcome.unanswered:
        shown.add_row("broken off / unanswered", f"{outcome.broken:,} / {outcome.unanswered:,}")
    latency = {name: milliseconds(outcome.latency.at(share)) for name, share in SHARES.items()}
    shown.add_row("latency, ms", "  ".join(f"{name} {figure(value)}" for name, value in latency.items()))
    if outcome.interval_ns:
        lag = {name: milliseconds(outcome.lag.at(SHARES[name])) for name in ("p50", "p99", "max")}
        shown.add_row("sent late by, ms", "  ".join(f"{name} {figure(value)}" for name, value in lag.items()))
    known = "not measured" if limit is None else f"{figure(limit)}/s"
    busy = "" if outcome.processor_share < CLIENT_SHARE_MAX else ": TOO BUSY, these figures are its own"
    shown.add_row("generator limit", f"{known}; now {outcome.processor_share:.0%} of a core{busy}")
    return shown


def progress(outcome: Outcome, seconds: float) -> str:
    """The run so far, in a line."""
    latency = "  ".join(
        f"{name} {figure(milliseconds(outcome.latency.at(SHARES[name])))}" for name in ("p50", "p99", "max")
    )
    other = outcome.statuses.total() - outcome.acknowledged + outcome.broken
    trouble = f", {other:,} not acknowledged" if other else ""
    return (
        f"{seconds:3.0f} s  sent {outcome.sent:,}, acknowledged {outcome.acknowledged:,} "
        f"({figure(outcome.rate)}/s){trouble}; latency, ms: {latency}"
    )


def histogram(latency: Histogram) -> list[str]:
    """Bars over bounds of 1, 2 and 5 times powers of ten, from the first that is used to the last."""
    if not len(latency):
        return []
    counts: dict[float, int] = {}
    seen = 0
    for value, share in latency.curve():
        up_to = round(share * len(latency))
        bound = next_bound(value / 1e6)
        counts[bound] = counts.get(bound, 0) + up_to - seen
        seen = up_to
    bounds, at = [], min(counts)
    while at <= max(counts):
        bounds.append(at)
        at = next_bound(at * 1.001)
    most, below, lines = max(counts.values()), 0, []
    for bound in bounds:
        count = counts.get(bound, 0)
        below += count
        bar = "█" * max(round(_BAR * count / most), 1 if count else 0)
        lines.append(f"  ≤ {bound:>7g} ms {count:>9,} {100 * below / len(latency):6.2f} %  {bar}")
    return lines


def next_bound(value_ms: float) -> float:
    """The smallest of 0.001, 0.002, 0.005, 0.01 … that is not below the value."""
    power = math.floor(math.log10(max(value_ms, 0.001)))
    for bound in (float(f"{step}e{power}") for step in (1, 2, 5, 10)):
        if bound >= value_ms:
            return bound
    raise AssertionError("ten times the power of ten is above every value of its decade")


async def generate(chosen: argparse.Namespace, console: Console) -> tuple[Outcome, float | None]:
    """Measure the generator, then load, showing how far it is."""
    url, account = target(chosen)
    traffic = Traffic(url, account, customers=chosen.customers, seed=chosen.seed)
    client = LoadClient(traffic, seconds=chosen.seconds, rate=chosen.rate, connections=chosen.connections)
    await somebody_listens(traffic)
    limit: float | None = None
    if not chosen.no_limit:
        try:
            limit = await generator_limit(account, chosen.connections)
        except Missing as why:
            console.print(f"generator limit not measured: {why}")
    if chosen.rate is None:
        traffic.encode(int(chosen.seconds * 3000))
    outcome = client.outcome
    async with trio.open_nursery() as nursery:
        nursery.start_soon(show_live if console.is_terminal else show_lines, outcome, limit, console)
        nursery.start_soon(_end_on_signal, nursery.cancel_scope)
        await client.run()
        nursery.cancel_scope.cancel()
    console.print(table(outcome, limit))
    for line in histogram(outcome.latency):
        console.print(line, highlight=False)
    for status in sorted(set(outcome.statuses) & set(HINTS)):
        console.print(f"{status}: {HINTS[status]}", highlight=False)
    return outcome, limit


async def somebody_listens(traffic: Traffic) -> None:
    """Raises LoadFailed with a sentence when nothing answers a connection."""
    place = f"{traffic.host}:{traffic.port}"
    try:
        with trio.fail_after(_CONNECT_SECONDS_MAX):
            stream = await trio.open_tcp_stream(traffic.host, traffic.port)
    except trio.TooSlowError:
        raise LoadFailed(f"no connection to {place} within {_CONNECT_SECONDS_MAX} s") from None
    except OSError as error:
        raise LoadFailed(f"nobody listens at {place}: {error}") from error
    await stream.aclose()


async def show_live(outcome: Outcome, limit: float | None, console: Console) -> None:
    """A table that changes in place, until cancelled."""
    with Live(table(outcome, limit), console=console, auto_refresh=False, transient=True) as live:
        while True:
            await trio.sleep(0.5)
            live.update(table(outcome, limit), refresh=True)


async def show_lines(outcome: Outcome, limit: float | None, console: Console) -> None:
    """A line a second, until cancelled: for files, pipes and logs."""
    began = trio.current_time()
    for second in range(1, sys.maxsize):
        await trio.sleep_until(began + second)
        console.print(progress(outcome, second), highlight=False, soft_wrap=True)
        console.file.flush()


async def _end_on_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGINT) as signals:
        async for _ in signals:
            scope.cancel()


def plot_latency(outcome: Outcome, path: Path) -> None:
    """Latency over the share of requests that took longer, both logarithmic: where the tail begins shows."""
    try:
        import matplotlib as mpl
    except ImportError:
        sys.exit("--plot needs matplotlib: pip install 'mijra[bench]'")
    mpl.use("Agg")
    from matplotlib import pyplot

    drawing, axis = pyplot.subplots(figsize=(9, 4))
    points = [(value, 1 - share) for value, share in outcome.latency.curve() if share < 1]
    axis.plot([longer for _, longer in points], [milliseconds(value) for value, _ in points])
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.invert_xaxis()
    axis.set_xlabel("share of requests that took longer")
    axis.set_ylabel("latency, ms")
    axis.set_title(f"{outcome.acknowledged:,} acknowledgements, {figure(outcome.rate)}/s", loc="left")
    axis.grid(alpha=0.3)
    drawing.tight_layout()
    drawing.savefig(path, dpi=120)


def above_zero(text: str) -> float:
    """For argparse: a finite number above zero."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above zero, not {text}")
    return number


def whole_above_zero(text: str) -> int:
    """For argparse: a whole number above zero."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, not {text}")
    return int(text)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="bench.load", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dev", type=Path, metavar="FILE", help="the JSON line of `mijra dev --json`")
    parser.add_argument("--url", help="the webhook endpoint, plain HTTP")
    parser.add_argument("--secret", help=f"the app secret that signs (or {SECRET})")
    parser.add_argument("--phone-number-id", help="of the account whose customers write")
    parser.add_argument("--waba-id", help="the business account above it; any will do")
    parser.add_argument(
        "--rate", type=above_zero, help="requests per second (open loop); without it, closed loop"
    )
    parser.add_argument("--seconds", type=above_zero, default=10.0)
    parser.add_argument("--connections", type=whole_above_zero, default=64)
    parser.add_argument("--customers", type=whole_above_zero, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-limit", action="store_true", help="do not measure the generator first")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the latency's tail")
    chosen = parser.parse_args()
    if chosen.rate is not None and chosen.rate * chosen.seconds < 1:
        parser.error(f"{chosen.rate:g} a second for {chosen.seconds:g} s is less than one request")
    quiet()
    console = Console(stderr=chosen.json)
    failed: list[str] = []
    finished: tuple[Outcome, float | None] | None = None
    try:
        finished = trio.run(generate, chosen, console)
    except* (LoadFailed, StartFailed, OSError, ValueError) as failures:
        failed = [f"bench.load: {one}" for one in flat(failures)]
    if finished is None:
        sys.exit("\n".join(failed))
    outcome, limit = finished
    if chosen.plot:
        plot_latency(outcome, chosen.plot)
    if chosen.json:
        print(json.dumps(summary(outcome, limit)))
    sys.exit(0 if outcome.acknowledged == outcome.sent else 1)


if __name__ == "__main__":
    main()
