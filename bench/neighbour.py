"""P11: what a thousand tenants feel of one that floods.

    python -m bench.neighbour [--quick] [--json] [--plot FILE.png] [--rounds N] [--seconds S] [--tenants N]

A thousand tenants with an account each, in one pooled database, on the real server over its webhook lane.
First the server's capacity with all of them is measured (closed loop). Then 999 of them send together half of
that, at fixed moments (open loop), in three phases of equal length, in turn, in each round:

    calm      nobody floods
    at 10x    the thousandth tenant sends ten times its share (a thousandth of the capacity)
    no end    the thousandth tenant sends as fast as it is answered, over 64 connections

Asked is the p99 from when a webhook of the 999 was due until its 200, and by how much the flood multiplies
it. One that was not acknowledged (a 429 or 503 for load) counts as waiting until the end of the phase. After
each phase every acknowledged message, the flood's too, must be in the database once.

The peer is the same stack as in `ingest`, which tells tenants apart by a channel's number and has no fairness
of its own; it gets the half of its own capacity. Each floods its own server, so ratios are compared, not
milliseconds.
"""

import argparse
import sys
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import trio
from msgspec import Struct
from rich.console import Console

from adapters.simulators.accounts import WhatsAppAccount
from bench.client import LoadClient, LoadFailed, Outcome
from bench.harness import Contest, Missing, as_json, plot, show
from bench.histogram import Histogram, milliseconds
from bench.many_tenants import accounts as accounts_of
from bench.rounds import (
    CLIENT_SHARE_MAX,
    FASTAPI,
    OURS,
    Unproven,
    flat,
    prove_stored,
    quick_seconds,
    quiet,
    settle,
)
from bench.servers import StartFailed, crowd, fastapi_stack
from bench.webhooks import Traffic
from storage.bridge import Bridge

CALM: Final = "calm"
TENFOLD: Final = "at 10x"
ENDLESS: Final = "no end"
CONNECTIONS: Final = 64
LOAD: Final = 0.5
"""Of the capacity: at more, anybody's burst is felt by everybody, flood or not."""


_WAKE_SECONDS_MAX: Final = 15


class Phase(Struct):
    """What the 999 had of one phase, and what the flood got."""

    p99_ms: float
    flood_rate: float
    refused: int
    client_share: float


def contests() -> list[Contest]:
    """What is asked; the first one is the bench's headline."""

    def ask(name: str, unit: str, goal: float | None = None) -> Contest:
        return Contest(name=name, unit=unit, ours=OURS, contestants={}, goal=goal, less_is_better=True)

    return [
        ask("others' p99 while one floods at 10x its share", "times the calm one", goal=2),
        ask("others' p99 while one floods without end", "times the calm one", goal=2),
        ask("others' p99, calm", "ms"),
        ask("others' p99, flood at 10x", "ms"),
        ask("others' p99, flood without end", "ms"),
    ]


async def capacity(subject: Any, accounts: list[WhatsAppAccount], seconds: float) -> float:
    """Acknowledgements per second with all tenants, closed loop; also wakes all of them up."""
    # Everybody once, before anything counts: configurations are read, plans are made.
    woken = 0
    with trio.move_on_after(_WAKE_SECONDS_MAX):
        while woken < len(accounts):
            traffic = Traffic(subject.webhook_url, accounts[woken:], customers=2 * len(accounts))
            woken += (await LoadClient(traffic, seconds=0.5, connections=CONNECTIONS).run()).acknowledged
    traffic = Traffic(subject.webhook_url, accounts, customers=2 * len(accounts))
    outcome = await LoadClient(traffic, seconds=seconds, connections=CONNECTIONS).run()
    await settle(subject, 5)
    return outcome.rate


async def phase(
    subject: Any,
    accounts: list[WhatsAppAccount],
    *,
    rate: float,
    flood: float | None,
    floods: bool,
    seconds: float,
    seed: int,
) -> Phase:
    """Load by the others, and by the flood beside it."""
    others = Traffic(subject.webhook_url, accounts[:-1], customers=2 * len(accounts), seed=seed)
    others.encode(int(rate * seconds))
    client = LoadClient(others, seconds=seconds, rate=rate, connections=CONNECTIONS)
    flooding: LoadClient | None = None
    one = Traffic(subject.webhook_url, accounts[-1], customers=50, seed=seed)
    if floods:
        one.encode(int((flood or 3000) * seconds))
        flooding = LoadClient(one, seconds=seconds, rate=flood, connections=CONNECTIONS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run)
        if flooding is not None:
            nursery.start_soon(flooding.run)
    await settle(subject, 3 * seconds)
    await prove_stored(subject, others, client.outcome)
    if flooding is not None:
        await prove_stored(subject, one, flooding.outcome)
    return Phase(
        p99_ms=milliseconds(p99(client.outcome, seconds)),
        flood_rate=flooding.outcome.rate if flooding is not None else 0.0,
        refused=client.outcome.sent - client.outcome.acknowledged,
        # Both clients are in this process; each counts the whole process.
        client_share=client.outcome.processor_share,
    )


def p99(outcome: Outcome, seconds: float) -> int:
    """In nanoseconds; a request without a 200 waited as long as the phase lasted."""
    latency = Histogram()
    latency.merge(outcome.latency)
    for _ in range(outcome.sent - outcome.acknowledged):
        latency.record(int(seconds * 1e9))
    return latency.at(0.99)


async def measure(
    questions: list[Contest], console: Console, *, rounds: int, seconds: float, tenants: int, quick: bool
) -> float:
    """Fill the contests' results; the load clients' highest share of a core is returned."""
    share, began = 0.0, trio.current_time()
    accounts = accounts_of(tenants)
    with TemporaryDirectory(prefix="mijra-bench-") as name:
        async with Bridge() as bridge, AsyncExitStack() as stack:
            with console.status(f"{tenants:,} tenants"):
                places = [Path(name) / each for each in ("mijra", "peer")]
                for place in places:
                    place.mkdir()
                subjects: list[Any] = [await stack.enter_async_context(crowd(places[0], bridge, accounts))]
                try:
                    peer = fastapi_stack(places[1], bridge, accounts=accounts)
                    subjects.append(await stack.enter_async_context(peer))
                except Missing as why:
                    for question in questions:
                        question.missing[FASTAPI] = str(why)
                rates = {}
                for subject in subjects:
                    found = await capacity(subject, accounts, 1.0 if quick else 3.0)
                    rates[subject.name] = found
                    console.print(
                        f"{subject.name}: {found:,.0f}/s with all tenants; the others send "
                        f"{LOAD * found:,.0f}/s, ten times a share is {10 * found / tenants:,.0f}/s",
                        highlight=False,
                    )
            for number in range(1, rounds + 1):
                for subject in subjects:
                    title = f"round {number} of {rounds}: {subject.name}"
                    if quick:
                        slices = 3 * ((rounds + 1 - number) * len(subjects))
                        seconds = quick_seconds(began, slices, seconds, overhead=0.5)
                    found = rates[subject.name]
                    phases = {}
                    for kind, flood in ((CALM, None), (TENFOLD, 10 * found / tenants), (ENDLESS, None)):
                        with console.status(f"{title}, {kind}"):
                            phases[kind] = await phase(
                                subject,
                                accounts,
                                rate=LOAD * found,
                                flood=flood,
                                floods=kind != CALM,
                                seconds=seconds,
                                seed=number,
                            )
                        share = max(share, phases[kind].client_share)
                    calm, tenfold, endless = (phases[kind].p99_ms for kind in (CALM, TENFOLD, ENDLESS))
                    figures = (tenfold / calm, endless / calm, calm, tenfold, endless)
                    for question, value in zip(questions, figures, strict=True):
                        question.results.setdefault(subject.name, []).append(value)
                    console.print(
                        f"{title}: p99 {calm:.1f} ms calm, {tenfold:.1f} ms at 10x, {endless:.1f} ms without "
                        f"end ({phases[ENDLESS].flood_rate:,.0f}/s of the flood got through, "
                        f"{phases[ENDLESS].refused} of the others' were not acknowledged)",
                        highlight=False,
                    )
    return share


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.neighbour", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="within 45 s: five rounds, phases of a second")
    parser.add_argument("--rounds", type=int, default=0, help="default 7, with --quick 5")
    parser.add_argument("--seconds", type=float, default=0, help="of a phase; default 5, with --quick 1")
    parser.add_argument("--tenants", type=int, default=1000)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    chosen = parser.parse_args()
    if chosen.tenants < 2:
        sys.exit("bench.neighbour: a neighbour needs at least 2 tenants")
    quiet()
    console = Console(stderr=chosen.json, soft_wrap=True)
    questions = contests()
    failed: list[str] = []
    share = 0.0
    try:
        share = trio.run(
            partial(
                measure,
                questions,
                console,
                rounds=chosen.rounds or (5 if chosen.quick else 7),
                seconds=chosen.seconds or (1 if chosen.quick else 5),
                tenants=chosen.tenants,
                quick=chosen.quick,
            )
        )
    except* (Unproven, StartFailed, LoadFailed) as failures:
        failed = [f"bench.neighbour: {one}" for one in flat(failures)]
    if failed:
        sys.exit("\n".join(failed))
    show(questions, console)
    verdict = "never the bottleneck" if share < CLIENT_SHARE_MAX else "TOO BUSY, the figures are its own"
    console.print(f"The load clients used at most {share:.0%} of a core: {verdict}.", highlight=False)
    if chosen.plot:
        plot(questions, chosen.plot)
    if chosen.json:
        print(as_json("neighbour", questions))


if __name__ == "__main__":
    main()
