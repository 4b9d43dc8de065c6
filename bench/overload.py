"""Overload: what an open loop at three times the capacity leaves of the goodput, and what the rest is told.

    python -m bench.overload [--quick] [--json] [--plot FILE.png] [--rounds N] [--seconds S] [--factor F]

One round has four parts on one running `mijra dev`. The capacity: a closed loop of 64 connections, as in
bench.ingest. The capacity beside the client: the same, while the client also sends what is above the capacity
to a server that does nothing but refuse (bench/peers/refusing.py). The overload: an open loop at --factor
times the capacity (3), on 4,096 connections, whatever the server answers. The fall: an open loop at half the
capacity, in slices of half a second, until a slice is answered with 200 throughout and nobody waits for
longer than a quarter of a second.

Goodput is counted in answers of status 200 within a second of their being due: what comes later a platform
counts as slow, and it may have sent again. Everything that was answered 200, late or not, must be in the
database once, or the bench ends with exit status 1 and no figures. A refusal's latency counts from its
sending. Nobody stands beside this: the question is about ours alone.

The load client shares the cores, and at three times the rate it takes more of them. So the goodput is told as
a share of both capacities: of the one that an idle client leaves, and of the one beside the same client at
the same work, which is what the machine has for the server then. A third figure does not depend on who else
uses the machine: acknowledgements for each second of processor time that the server used.
"""

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import trio
from msgspec import Struct
from rich.console import Console

from bench.client import LoadClient, LoadFailed, Outcome
from bench.harness import Contest, as_json, plot, show
from bench.histogram import milliseconds
from bench.rounds import CUSTOMERS, OURS, Unproven, flat, prove_stored, quick_seconds, quiet, settle
from bench.servers import Mijra, StartFailed, mijra, refusing_server
from bench.webhooks import Traffic
from storage.bridge import Bridge

IN_TIME_NS: Final = 1_000_000_000
CONNECTIONS: Final = 4096
"""So that no request waits in the client for a free one: 1.3 s of them at 3,000 a second."""

PAUSE_SECONDS: Final = 0.002
"""Between two looks of the client: a third of its processor time, for 2 ms of each latency."""

SLICE_SECONDS: Final = 0.5
CALM_NS: Final = 250_000_000
RECOVERY_SECONDS_MAX: Final = 12.0
MEBIBYTE: Final = 1024 * 1024


class Figures(Struct, kw_only=True):
    """One round. `per_processor_second`: acknowledgements in time, as a share of those at the capacity."""

    capacity: float
    capacity_beside: float
    goodput: float
    per_processor_second: float
    refused_p99_ms: float
    told_when: float
    """The share of refusals that carried Retry-After."""
    recovery_seconds: float
    memory_growth: float
    latency_p99_ms: float
    client_share: float
    statuses: dict[int, int]


def contests(factor: float) -> list[Contest]:
    """What is asked; the first one is the bench's headline."""

    def ask(name: str, unit: str, goal: float | None, *, less: bool = True) -> Contest:
        return Contest(name=name, unit=unit, ours=OURS, contestants={}, goal=goal, less_is_better=less)

    return [
        ask(f"goodput at {factor:g} times the capacity", "share of the capacity", 0.9, less=False),
        ask(
            "goodput, with the client's work allowed for", "share of the capacity beside it", 0.9, less=False
        ),
        ask("goodput for the server's processor time", "share of that at the capacity", None, less=False),
        ask("capacity: durable acknowledgements, closed loop", "per second", None, less=False),
        ask("capacity beside a client that sends the rest elsewhere", "per second", None, less=False),
        ask("goodput under overload", "per second in time", None, less=False),
        ask("p99 of a refusal", "ms", None),
        ask("refusals that say when to come again", "share", 1, less=False),
        ask("p99 of an acknowledgement under overload", "ms", 1000),
        ask("until all is answered again after the load fell", "s", 5),
        ask("memory grown under overload", "MiB", 256),
    ]


async def one_round(
    subject: Mijra, refusing: str, console: Console, factor: float, seconds: float, seed: int
) -> Figures:
    """Capacity alone and beside the client, overload, fall; proven."""
    used = subject.processor_seconds()
    calm = await capacity(subject, seconds, seed)
    per_second = calm.acknowledged / max(subject.processor_seconds() - used, 0.01)
    rate = calm.rate * factor
    elsewhere = _traffic(subject, seed + 1, refusing)
    beside = LoadClient(
        elsewhere,
        rate=max(rate - calm.rate, 1),
        seconds=seconds,
        connections=CONNECTIONS,
        drain_seconds_max=0.01,
        pause_seconds=PAUSE_SECONDS,
    )
    elsewhere.encode(int(rate * seconds))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(beside.run)
        calm_beside = await capacity(subject, seconds, seed + 2)
    memory, peak = subject.memory_bytes(), 0
    traffic = _traffic(subject, seed + 3)
    client = LoadClient(
        traffic,
        rate=rate,
        seconds=seconds,
        connections=CONNECTIONS,
        drain_seconds_max=0.01,
        pause_seconds=PAUSE_SECONDS,
    )
    # Encoded before the clock runs; it takes a while.
    traffic.encode(int(rate * seconds))
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            nonlocal peak
            while True:
                peak = max(peak, subject.memory_bytes())
                await trio.sleep(0.1)

        nursery.start_soon(watch)
        used = subject.processor_seconds()
        outcome = await client.run()
        used = subject.processor_seconds() - used
        fallen = trio.current_time()
        recovery = await recovered(subject, calm.rate / 2, fallen, seed)
        nursery.cancel_scope.cancel()
    await settle(subject, 5)
    await prove_stored(subject, traffic, outcome)
    refused = outcome.statuses[503]
    in_time = outcome.latency.count_up_to(IN_TIME_NS)
    figures = Figures(
        capacity=calm.rate,
        capacity_beside=calm_beside.rate,
        goodput=in_time / seconds,
        per_processor_second=in_time / max(used, 0.01) / per_second,
        refused_p99_ms=milliseconds(outcome.refused_latency.at(0.99)),
        told_when=outcome.refused_with_retry_after / refused if refused else 1.0,
        recovery_seconds=recovery,
        memory_growth=(peak - memory) / MEBIBYTE,
        latency_p99_ms=milliseconds(outcome.latency.at(0.99)),
        client_share=outcome.processor_share,
        statuses=dict(outcome.statuses),
    )
    console.print(
        f"capacity {figures.capacity:,.0f}/s, beside the client {figures.capacity_beside:,.0f}/s; at "
        f"{rate:,.0f}/s {figures.goodput:,.0f}/s in time, answers {figures.statuses}, refused within "
        f"{figures.refused_p99_ms:.0f} ms, calm after {figures.recovery_seconds:.1f} s, client "
        f"{figures.client_share:.0%} and server {used / seconds:.0%} of a core",
        highlight=False,
    )
    return figures


async def capacity(subject: Mijra, seconds: float, seed: int) -> Outcome:
    """What the server acknowledges when nobody sends more than it can do; proven."""
    traffic = _traffic(subject, seed)
    traffic.encode(int(seconds * 3000))
    outcome = await LoadClient(traffic, seconds=seconds, connections=64).run()
    await settle(subject, seconds)
    await prove_stored(subject, traffic, outcome)
    if outcome.acknowledged < outcome.sent * 0.9:
        raise LoadFailed(
            f"the capacity cannot be told: {dict(outcome.statuses)}, {outcome.broken} broken off"
        )
    return outcome


def _traffic(subject: Mijra, seed: int, url: str = "") -> Traffic:
    return Traffic(url or subject.webhook_url, subject.account, customers=CUSTOMERS, seed=seed)


async def recovered(subject: Mijra, rate: float, since: float, seed: int) -> float:
    """Seconds until a slice of an ordinary load is answered as it should be, from its beginning."""
    number = 0
    while (began := trio.current_time()) - since < RECOVERY_SECONDS_MAX:
        number += 1
        traffic = _traffic(subject, seed + 100 + number)
        outcome = await LoadClient(
            traffic, rate=rate, seconds=SLICE_SECONDS, connections=128, drain_seconds_max=2
        ).run()
        await prove_stored(subject, traffic, outcome)
        if outcome.acknowledged == outcome.sent and outcome.latency.at(0.99) <= CALM_NS:
            return began - since
    return trio.current_time() - since


async def measure(
    questions: list[Contest], console: Console, *, rounds: int, seconds: float, factor: float, quick: bool
) -> float:
    """Fill the contests' results; the load client's highest share of a core is returned."""
    share, began = 0.0, trio.current_time()
    with TemporaryDirectory(prefix="mijra-bench-") as name:
        directory = Path(name)
        async with (
            Bridge() as bridge,
            mijra(directory, bridge) as subject,
            refusing_server(directory) as refusing,
        ):
            warm = _traffic(subject, 0)
            await LoadClient(warm, seconds=1.5, connections=64).run()
            await settle(subject, 3)
            for number in range(1, rounds + 1):
                if quick:
                    seconds = quick_seconds(began, 3 * (rounds + 1 - number), seconds, overhead=1.5)
                found = await one_round(subject, refusing, console, factor, seconds, number * 1000)
                share = max(share, found.client_share)
                answers = (
                    found.goodput / found.capacity,
                    found.goodput / found.capacity_beside,
                    found.per_processor_second,
                    found.capacity,
                    found.capacity_beside,
                    found.goodput,
                    found.refused_p99_ms,
                    found.told_when,
                    found.latency_p99_ms,
                    found.recovery_seconds,
                    found.memory_growth,
                )
                for question, value in zip(questions, answers, strict=True):
                    question.results.setdefault(OURS, []).append(value)
    return share


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.overload", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="within 45 s: three rounds")
    parser.add_argument("--rounds", type=int, default=0, help="default 5, with --quick 3")
    parser.add_argument("--seconds", type=float, default=0, help="of each part; default 8, with --quick 3")
    parser.add_argument("--factor", type=float, default=3, help="how many times the capacity (default 3)")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    chosen = parser.parse_args()
    quiet()
    console = Console(stderr=chosen.json, soft_wrap=True)
    questions = contests(chosen.factor)
    failed: list[str] = []
    share = 0.0
    try:
        share = trio.run(
            lambda: measure(
                questions,
                console,
                rounds=chosen.rounds or (3 if chosen.quick else 5),
                seconds=chosen.seconds or (3 if chosen.quick else 8),
                factor=chosen.factor,
                quick=chosen.quick,
            )
        )
    except* (Unproven, StartFailed, LoadFailed) as failures:
        failed = [f"bench.overload: {one}" for one in flat(failures)]
    if failed:
        sys.exit("\n".join(failed))
    show(questions, console)
    console.print(f"The load client used up to {share:.0%} of a core under overload.", highlight=False)
    if chosen.plot:
        plot(questions, chosen.plot)
    if chosen.json:
        print(as_json("overload", questions))


if __name__ == "__main__":
    main()
