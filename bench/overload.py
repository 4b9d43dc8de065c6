"""Overload: what an open loop at three times the capacity leaves of the goodput, and what the rest is told.

    python -m bench.overload [--quick] [--json] [--plot FILE.png] [--rounds N] [--seconds S] [--factor F]

One round has these parts on one running `mijra dev`. The capacity: a closed loop of 64 connections, as in
bench.ingest. The peak: an open loop at that rate, on 4,096 connections. The capacity beside the client: the
closed loop again, while the client of the open loop sends what is above the capacity to a server that does
nothing but refuse (bench/peers/refusing.py). The overload: the open loop of the peak at --factor times the
rate (3), whatever the server answers. The fall: an open loop at half the capacity, in slices of half a
second, until a slice is answered with 200 throughout and nobody waits for longer than a quarter of a second.
Every second round has the overload before the peak.

Goodput is counted in answers of status 200 within a second of their being due: what comes later a platform
counts as slow, and it may have sent again. Everything that was answered 200, late or not, must be in the
database once, or the bench ends with exit status 1 and no figures. A refusal's latency counts from its
sending. Nobody stands beside this: the question is about ours alone.

The client of the open loops is a process of its own with one core at most (bench/apart.py). It still shares
the cores, and at three times the rate it takes more of them. So the goodput is told as a share of three
figures of its round: of what the same client gets at the capacity, of what a client gets that has hardly
anything to do, and of what that one gets beside the first at its work, which is what the machine has for the
server then. What does not depend on who else uses the machine is told in processor time of the server's
process: for an acknowledgement, both at the capacity and under overload with all its refusals, and for a
refusal, which is what the overload took beyond its acknowledgements at their price at the capacity.
"""

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import trio
from msgspec import Struct
from rich.console import Console

from bench.apart import Load, ready
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
    """One round. Rates are a second's; the processor's microseconds are of the server's process."""

    capacity: float
    peak: float
    capacity_beside: float
    goodput: float
    acknowledgement_us: float
    acknowledgement_us_overloaded: float
    refusal_us: float
    refused_p50_ms: float
    refused_p99_ms: float
    told_when: float
    """The share of refusals that carried Retry-After."""
    recovery_seconds: float
    memory_growth: float
    latency_p99_ms: float
    client_share: float

    def answers(self) -> tuple[float, ...]:
        """To the questions of `contests`, in their order."""
        return (
            self.goodput / self.peak,
            self.goodput / self.capacity,
            self.goodput / self.capacity_beside,
            self.peak,
            self.capacity,
            self.capacity_beside,
            self.goodput,
            self.acknowledgement_us,
            self.acknowledgement_us_overloaded,
            self.refusal_us,
            self.refused_p50_ms,
            self.refused_p99_ms,
            self.told_when,
            self.latency_p99_ms,
            self.recovery_seconds,
            self.memory_growth,
        )


def contests(factor: float) -> list[Contest]:
    """What is asked; the first one is the bench's headline."""

    def ask(name: str, unit: str, goal: float | None, *, less: bool = True) -> Contest:
        return Contest(name=name, unit=unit, ours=OURS, contestants={}, goal=goal, less_is_better=less)

    goodput, second = f"goodput at {factor:g} times the capacity", "per second"
    return [
        ask(goodput, "share of the same client's at the capacity", 0.9, less=False),
        ask(f"{goodput}, beside an idle client", "share of the capacity", 0.9, less=False),
        ask(
            f"{goodput}, with the client's work allowed for",
            "share of the capacity beside it",
            0.9,
            less=False,
        ),
        ask("goodput at the capacity, open loop", f"{second} in time", None, less=False),
        ask("capacity: durable acknowledgements, closed loop", second, None, less=False),
        ask("capacity beside a client that sends the rest elsewhere", second, None, less=False),
        ask("goodput under overload", f"{second} in time", None, less=False),
        ask("processor time of an acknowledgement at the capacity", "µs", None),
        ask("processor time of an acknowledgement under overload, refusals included", "µs", None),
        ask("processor time of a refusal", "µs", None),
        ask("p50 of a refusal", "ms", None),
        ask("p99 of a refusal", "ms", 100),
        ask("refusals that say when to come again", "share", 1, less=False),
        ask("p99 of an acknowledgement under overload", "ms", 1000),
        ask("until all is answered again after the load fell", "s", 5),
        ask("memory grown under overload", "MiB", 256),
    ]


class Opened(Struct, kw_only=True):
    """What an open loop left. `used`: processor seconds of the server's process; `fallen`: when it ended."""

    outcome: Outcome
    used: float
    in_time: int
    memory_growth: float
    fallen: float


async def open_loop(subject: Mijra, rate: float, seconds: float, seed: int) -> Opened:
    """The client apart at a rate, whatever is answered; not proven yet."""
    peak = memory = subject.memory_bytes()
    async with ready(_load(subject, subject.webhook_url, rate, seconds, seed)) as run:
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                nonlocal peak
                while True:
                    peak = max(peak, subject.memory_bytes())
                    await trio.sleep(0.1)

            nursery.start_soon(watch)
            used = subject.processor_seconds()
            outcome = await run()
            used = subject.processor_seconds() - used
            nursery.cancel_scope.cancel()
        fallen = trio.current_time()
    return Opened(
        outcome=outcome,
        used=used,
        in_time=outcome.latency.count_up_to(IN_TIME_NS),
        memory_growth=(peak - memory) / MEBIBYTE,
        fallen=fallen,
    )


async def one_round(
    subject: Mijra, refusing: str, console: Console, factor: float, seconds: float, number: int
) -> Figures:
    """All parts, each proven; what they are is said above."""
    seed = number * 1000
    calm = await capacity(subject, seconds, seed)
    parts: dict[float, Opened] = {}
    recovery = 0.0
    for times in (1.0, factor) if number % 2 else (factor, 1.0):
        part = parts[times] = await open_loop(subject, calm.rate * times, seconds, seed + round(10 * times))
        if times == factor:
            recovery = await recovered(subject, calm.rate / 2, part.fallen, seed)
        await settle(subject, 5)
        traffic = _load(subject, subject.webhook_url, 1, seconds, seed + round(10 * times)).traffic()
        await prove_stored(subject, traffic, part.outcome)
    rest = _load(subject, refusing, calm.rate * (factor - 1), seconds, seed + 1)
    async with ready(rest) as run, trio.open_nursery() as nursery:
        nursery.start_soon(run)
        beside = await capacity(subject, seconds, seed + 2)
    peak, over = parts[1.0], parts[factor]
    refused, price = over.outcome.statuses[503], peak.used / max(peak.outcome.acknowledged, 1)
    figures = Figures(
        capacity=calm.rate,
        peak=max(peak.in_time, 1) / seconds,
        capacity_beside=beside.rate,
        goodput=over.in_time / seconds,
        acknowledgement_us=price * 1e6,
        acknowledgement_us_overloaded=over.used / max(over.outcome.acknowledged, 1) * 1e6,
        refusal_us=max(over.used - price * over.outcome.acknowledged, 0) / max(refused, 1) * 1e6,
        refused_p50_ms=milliseconds(over.outcome.refused_latency.at(0.5)),
        refused_p99_ms=milliseconds(over.outcome.refused_latency.at(0.99)),
        told_when=over.outcome.refused_with_retry_after / refused if refused else 1.0,
        recovery_seconds=recovery,
        memory_growth=over.memory_growth,
        latency_p99_ms=milliseconds(over.outcome.latency.at(0.99)),
        client_share=over.outcome.processor_share,
    )
    console.print(
        f"capacity {figures.capacity:,.0f}/s, beside the client {figures.capacity_beside:,.0f}/s; at it "
        f"{figures.peak:,.0f}/s in time, at {factor:g} times {figures.goodput:,.0f}/s, answers "
        f"{dict(over.outcome.statuses)}, refused within {figures.refused_p99_ms:.0f} ms for "
        f"{figures.refusal_us:.0f} µs each, calm after {figures.recovery_seconds:.1f} s, client "
        f"{figures.client_share:.0%} and server {over.used / seconds:.0%} of a core",
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


def _traffic(subject: Mijra, seed: int) -> Traffic:
    return Traffic(subject.webhook_url, subject.account, customers=CUSTOMERS, seed=seed)


def _load(subject: Mijra, url: str, rate: float, seconds: float, seed: int) -> Load:
    return Load(
        url=url,
        account=subject.account,
        customers=CUSTOMERS,
        seed=seed,
        run=f"{seed:012d}",
        rate=rate,
        seconds=seconds,
        connections=CONNECTIONS,
        drain_seconds_max=0.01,
        pause_seconds=PAUSE_SECONDS,
    )


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
                    seconds = quick_seconds(began, 4 * (rounds + 1 - number), seconds, overhead=1.5)
                found = await one_round(subject, refusing, console, factor, seconds, number)
                share = max(share, found.client_share)
                for question, value in zip(questions, found.answers(), strict=True):
                    question.results.setdefault(OURS, []).append(value)
    return share


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.overload", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="within 45 s: two rounds")
    parser.add_argument("--rounds", type=int, default=0, help="default 5, with --quick 2")
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
                rounds=chosen.rounds or (2 if chosen.quick else 5),
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
