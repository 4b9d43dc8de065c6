"""P3: durable webhook acknowledgements per second in one process, beside the usual stack.

    python -m bench.ingest [--quick] [--json] [--plot FILE.png] [--rounds N] [--seconds S] [--connections N]

One round is a closed loop: so many connections, each sending its next signed WhatsApp text as soon as the
last one was answered, which is how the platform behaves towards an endpoint that is slower than its traffic.
Counted are answers of status 200, over the time from the first request to the last answer; their latency is
that of a saturated server. The same customers and texts go to all, in turn; after each round every
acknowledged message must be in the database once (bench.rounds), or the bench ends with exit status 1 and no
figures.

Ours is `mijra dev` as one process, over its webhook lane; beside it, as a peer, its own plain Quart route.
The other peer is bench/peers/fastapi_stack (one uvicorn process, Redis, and an arq worker, which
`--no-worker` leaves out in the peer's favour). Each has a PostgreSQL of its own of the same build and
settings, fsync and synchronous_commit on, on the same cores as everything else. The limit is the load client
against a server that does nothing.
"""

import argparse
import sys
from pathlib import Path

import trio
from rich.console import Console

from bench.client import LoadFailed
from bench.harness import Contest, as_json, plot, show
from bench.histogram import milliseconds
from bench.rounds import (
    CLIENT_ALONE,
    CLIENT_SHARE_MAX,
    CUSTOMERS,
    OURS,
    Unproven,
    client_alone,
    field,
    flat,
    load,
    quick_seconds,
    quiet,
    settle,
)
from bench.servers import StartFailed, Subject
from bench.webhooks import Traffic


def contests() -> list[Contest]:
    """What is asked; the first one is the bench's headline."""

    def ask(name: str, unit: str, *, goal: float | None = None, less: bool = True) -> Contest:
        return Contest(name=name, unit=unit, ours=OURS, contestants={}, goal=goal, less_is_better=less)

    questions = [
        ask("durable acknowledgements", "per second", goal=3300, less=False),
        ask("p99 of an acknowledgement, saturated", "ms", goal=50),
        ask("p50 of an acknowledgement, saturated", "ms"),
        ask("processor time per acknowledgement, without PostgreSQL", "µs"),
    ]
    questions[0].limit = CLIENT_ALONE
    return questions


async def measure(
    questions: list[Contest],
    console: Console,
    *,
    rounds: int,
    seconds: float,
    connections: int,
    worker: bool,
    quick: bool,
) -> float:
    """Fill the contests' results; the load client's highest share of a core is returned."""
    share, began = 0.0, trio.current_time()
    async with field(worker=worker, plain_route=True) as found:
        for question in questions:
            question.missing.update(found.missing)
        # The first round makes the customers, and warms caches, plans and connections. It is not counted.
        for subject in found.subjects:
            await one_round(subject, console, f"warming {subject.name}", 0, min(seconds, 1.5), connections)
        for number in range(1, rounds + 1):
            if quick:
                # Anew in each round, because the one before may have taken longer than it should. The
                # overhead is the comparison with the database, half a second of the client alone for two, and
                # settling.
                slices = (rounds + 1 - number) * len(found.subjects)
                seconds = quick_seconds(began, slices, seconds, overhead=1.4)
            if found.echo_url is not None:
                alone = await client_alone(
                    found.echo_url,
                    found.subjects[0],
                    seconds=0.5,
                    connections=connections,
                )
                questions[0].results.setdefault(CLIENT_ALONE, []).append(alone.rate)
            for subject in found.subjects:
                title = f"round {number} of {rounds}: {subject.name}"
                figures, client_share = await one_round(subject, console, title, number, seconds, connections)
                share = max(share, client_share)
                for question, value in zip(questions, figures, strict=True):
                    question.results.setdefault(subject.name, []).append(value)
                console.print(
                    f"{title}: {figures[0]:,.0f}/s, p50 {figures[2]:.1f} ms, p99 {figures[1]:.1f} ms, "
                    f"each stored once",
                    highlight=False,
                )
    return share


async def one_round(
    subject: Subject, console: Console, title: str, number: int, seconds: float, connections: int
) -> tuple[list[float], float]:
    """The figures in the contests' order, and the load client's share of a core."""
    traffic = Traffic(subject.webhook_url, subject.account, customers=CUSTOMERS, seed=number)
    # Encoded beforehand as far as one can guess; a faster server is served by the client's top-ups.
    traffic.encode(int(seconds * 3000))
    before = subject.processor_seconds()
    outcome = await load(subject, traffic, console, title, seconds=seconds, connections=connections)
    # What the answer left to be done later belongs to its price, and must not fall into the next one's round.
    await settle(subject, 3 * seconds)
    used = subject.processor_seconds() - before
    if outcome.acknowledged == 0 or outcome.acknowledged < outcome.sent * 0.99:
        raise LoadFailed(
            f"{subject.name}: {outcome.sent} sent, {outcome.acknowledged} acknowledged, answers "
            f"{dict(outcome.statuses)}, {outcome.broken} broken off, {outcome.unanswered} without an answer"
        )
    latency = outcome.latency
    figures = [
        outcome.rate,
        milliseconds(latency.at(0.99)),
        milliseconds(latency.at(0.5)),
        used / outcome.acknowledged * 1e6,
    ]
    return figures, outcome.processor_share


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.ingest", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="within 45 s: five rounds of 2 s")
    parser.add_argument("--rounds", type=int, default=0, help="default 7, with --quick 5")
    parser.add_argument("--seconds", type=float, default=0, help="of a round; default 5, with --quick 2")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--no-worker", action="store_true", help="spare the peer its arq worker")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    chosen = parser.parse_args()
    quiet()
    console = Console(stderr=chosen.json, soft_wrap=True)
    questions = contests()
    failed: list[str] = []
    share = 0.0
    try:
        share = trio.run(
            lambda: measure(
                questions,
                console,
                rounds=chosen.rounds or (5 if chosen.quick else 7),
                seconds=chosen.seconds or (2 if chosen.quick else 5),
                connections=chosen.connections,
                worker=not chosen.no_worker,
                quick=chosen.quick,
            )
        )
    except* (Unproven, StartFailed, LoadFailed) as failures:
        failed = [f"bench.ingest: {one}" for one in flat(failures)]
    if failed:
        sys.exit("\n".join(failed))
    show(questions, console)
    verdict = "never the bottleneck" if share < CLIENT_SHARE_MAX else "TOO BUSY, the figures are its own"
    console.print(f"The load client used at most {share:.0%} of a core: {verdict}.", highlight=False)
    if chosen.plot:
        plot(questions, chosen.plot)
    if chosen.json:
        print(as_json("ingest", questions))


if __name__ == "__main__":
    main()
