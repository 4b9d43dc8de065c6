"""P4: from the platform's webhook to the agent's screen, at a fixed rate, beside the usual stack.

    python -m bench.latency [--quick] [--json] [--plot FILE.png] [--rounds N] [--seconds S] [--rate R]

Signed WhatsApp texts are due at fixed moments, 1,000 and then 100 a second, whatever the server does (open
loop). One agent's WebSocket is subscribed to the whole inbox in the same process as the load client, so both
ends share one clock. A message's latency runs from the moment it was due until the frame about it was read;
one that was refused or never came counts as waiting until the end of its round, so a server that sheds load
gains nothing. After each round, every acknowledged message is in the database once and was pushed once, or
the bench ends with exit status 1 and no figures.

Calm comes first in a round, and a system has time to settle after each part, so that nobody pays for the part
before. "Highest rate" is the highest step of a ladder (each a quarter above the last) at which p99 stays
within 50 ms and every message is acknowledged; a step that fails is tried a second time. With --quick the
search may end for lack of time, and the rate is then a lower bound. The limit is the load client's own p99:
the same rate against a server that answers at once and does nothing.
"""

import argparse
import math
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import trio
from msgspec import Struct
from rich.console import Console

from bench.client import LoadClient, LoadFailed
from bench.harness import Contest, as_json, plot, show
from bench.histogram import Histogram, milliseconds
from bench.listener import ListenerClosed, open_listener
from bench.rounds import (
    CLIENT_ALONE,
    CLIENT_SHARE_MAX,
    CUSTOMERS,
    OURS,
    QUICK_SECONDS_MAX,
    Unproven,
    client_alone,
    compare,
    field,
    flat,
    prove_stored,
    quick_seconds,
    quiet,
    settle,
    show_progress,
)
from bench.servers import StartFailed, Subject
from bench.webhooks import Traffic

P99_MS_MAX: Final = 50.0
LADDER: Final = tuple(round(25 * 1.25**step) for step in range(26))  # 25/s … 6.6 k/s
CALM_RATE: Final = 100
# As many as a platform would open to an endpoint that answers slowly; a request without a free one waits, and
# its waiting counts.
CONNECTIONS: Final = 256


class Pushed(Struct):
    """What one round at one rate showed."""

    p50_ms: float
    p99_ms: float
    complete: bool
    """Whether everything sent was acknowledged and pushed."""
    client_share: float

    @property
    def good(self) -> bool:
        """Whether the rate was sustained within the limit."""
        return self.complete and self.p99_ms <= P99_MS_MAX


def contests(rate: int) -> list[Contest]:
    """What is asked; the first one is the bench's headline."""

    def ask(
        name: str, unit: str, goal: float | None, *, less: bool = True, limit: str | None = None
    ) -> Contest:
        return Contest(
            name=name, unit=unit, ours=OURS, contestants={}, goal=goal, less_is_better=less, limit=limit
        )

    return [
        ask(f"webhook to WebSocket, p99 at {rate:,}/s", "ms", P99_MS_MAX, limit=CLIENT_ALONE),
        ask(f"webhook to WebSocket, p50 at {rate:,}/s", "ms", 10, limit=CLIENT_ALONE),
        ask(f"webhook to WebSocket, p99 at {CALM_RATE}/s", "ms", None),
        ask(f"webhook to WebSocket, p50 at {CALM_RATE}/s", "ms", None),
        ask(f"highest rate with p99 of at most {P99_MS_MAX:.0f} ms", "per second", 1000, less=False),
    ]


async def push_round(
    subject: Subject, console: Console, title: str, *, rate: float, seconds: float
) -> Pushed:
    """One round of one rate, proven."""
    traffic = Traffic(subject.webhook_url, subject.account, customers=CUSTOMERS)
    client = LoadClient(traffic, rate=rate, seconds=seconds, connections=CONNECTIONS, drain_seconds_max=5)
    outcome = client.outcome
    pushed: Counter[int | None] = Counter()
    latency = Histogram()

    def on_frame(frame: bytes, arrived_ns: int) -> None:
        if b'"message.received"' not in frame or (number := traffic.number_in(frame)) is None:
            return
        pushed[number] += 1
        if pushed[number] == 1:
            latency.record(arrived_ns - outcome.due_ns(number))

    async with open_listener(subject.ws_url) as listener, trio.open_nursery() as nursery:
        await subject.join(listener)
        nursery.start_soon(listener.listen, on_frame)
        await show_progress(console, title, outcome, client.run)
        with trio.move_on_after(5):
            # Without an event from the listener: the load is over and nothing is measured any more.
            while any(number not in pushed for number in outcome.acknowledged_numbers):
                await trio.sleep(0.02)
        nursery.cancel_scope.cancel()
    await settle(subject, 3 * max(seconds, 1))
    await prove_stored(subject, traffic, outcome)
    compare(subject.name, "pushed", outcome, pushed)
    missed = [number for number in range(len(traffic.requests)) if number not in pushed]
    for number in missed:
        latency.record(outcome.ended_ns - outcome.due_ns(number))
    return Pushed(
        p50_ms=milliseconds(latency.at(0.5)),
        p99_ms=milliseconds(latency.at(0.99)),
        complete=not missed and outcome.acknowledged == len(traffic.requests),
        client_share=outcome.processor_share,
    )


async def highest_rate(
    subject: Subject, console: Console, title: str, ladder: Sequence[int], *, seconds: float, until: float
) -> tuple[int, bool]:
    """Bisect the ladder, whose lowest step is known to be sustained; whether the search came to its end.

    At `until` (trio's clock) it stops, and the rate is a lower bound. A step has to fail twice: others use
    the machine too.
    """
    low, high = 0, len(ladder)
    while high - low > 1:
        step = (low + high) // 2
        for _ in range(2):
            if trio.current_time() > until:
                return ladder[low], False
            at = f"{title}, {ladder[step]:,}/s"
            if (await push_round(subject, console, at, rate=ladder[step], seconds=seconds)).good:
                low = step
                break
        else:
            high = step
    return ladder[low], True


async def measure(
    questions: list[Contest], console: Console, *, rate: int, rounds: int, seconds: float, quick: bool
) -> float:
    """Fill the contests' results; the load client's highest share of a core is returned."""
    share, began = 0.0, trio.current_time()

    def note(number: int, name: str, value: float) -> None:
        questions[number].results.setdefault(name, []).append(value)

    sustained: Counter[tuple[str, int]] = Counter()
    async with field() as found:
        for question in questions:
            question.missing.update(found.missing)
        for subject in found.subjects:
            await push_round(subject, console, f"warming {subject.name}", rate=300, seconds=min(seconds, 1.5))
        for number in range(1, rounds + 1):
            if quick:
                # Anew in each round, because the one before may have taken longer than it should. For each
                # subject and round that is left a round at the rate and half a round at the calm rate, later
                # five steps of the ladder; on top of each a second for connecting, comparing and settling.
                slices = len(found.subjects) * (1.5 * (rounds + 1 - number) + 5)
                seconds = quick_seconds(began, slices, seconds, overhead=1.0)
            if found.echo_url is not None:
                alone = await client_alone(
                    found.echo_url, found.subjects[0], seconds=0.5, connections=CONNECTIONS, rate=rate
                )
                note(0, CLIENT_ALONE, milliseconds(alone.latency.at(0.99)))
                note(1, CLIENT_ALONE, milliseconds(alone.latency.at(0.5)))
            for subject in found.subjects:
                title = f"round {number} of {rounds}: {subject.name}"
                calm = await push_round(
                    subject, console, title, rate=CALM_RATE, seconds=max(0.5, seconds / 2)
                )
                full = await push_round(subject, console, title, rate=rate, seconds=seconds)
                sustained[subject.name, CALM_RATE] += calm.good
                sustained[subject.name, rate] += full.good
                share = max(share, full.client_share)
                for place, value in enumerate((full.p99_ms, full.p50_ms, calm.p99_ms, calm.p50_ms)):
                    note(place, subject.name, value)
                console.print(
                    f"{title}: at {rate:,}/s p50 {full.p50_ms:.1f} ms, p99 {full.p99_ms:.1f} ms"
                    f"{'' if full.complete else ' (not all acknowledged)'}; at {CALM_RATE}/s p50 "
                    f"{calm.p50_ms:.1f} ms, p99 {calm.p99_ms:.1f} ms",
                    highlight=False,
                )
        for _ in range(1 if quick else 3):
            for place, subject in enumerate(found.subjects):
                title = f"highest rate: {subject.name}"
                # The rounds have shown where to search: who failed most of them at the rate need not be
                # drowned in several times as much.
                passed = [tried for tried in (CALM_RATE, rate) if 2 * sustained[subject.name, tried] > rounds]
                known = max(passed, default=0)
                ladder = [
                    known,
                    *(step for step in LADDER if known < step and (known >= rate or step < rate)),
                ]
                left = began + QUICK_SECONDS_MAX - trio.current_time()
                until = trio.current_time() + left / (len(found.subjects) - place) if quick else math.inf
                reached, ended = await highest_rate(
                    subject, console, title, ladder, seconds=seconds if quick else 3, until=until
                )
                note(4, subject.name, reached)
                bound = "" if ended else " at least; the time for --quick was up"
                console.print(f"{title}: {reached:,}/s{bound}", highlight=False)
    return share


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.latency", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument(
        "--quick", action="store_true", help="within 45 s: five rounds of a second, one search"
    )
    parser.add_argument("--rounds", type=int, default=0, help="default 7, with --quick 5")
    parser.add_argument("--seconds", type=float, default=0, help="of a round; default 5, with --quick 1")
    parser.add_argument("--rate", type=int, default=1000, help="messages per second")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    chosen = parser.parse_args()
    quiet()
    console = Console(stderr=chosen.json, soft_wrap=True)
    questions = contests(chosen.rate)
    failed: list[str] = []
    share = 0.0
    try:
        share = trio.run(
            lambda: measure(
                questions,
                console,
                rate=chosen.rate,
                rounds=chosen.rounds or (5 if chosen.quick else 7),
                seconds=chosen.seconds or (1 if chosen.quick else 5),
                quick=chosen.quick,
            )
        )
    except* (Unproven, StartFailed, LoadFailed, ListenerClosed) as failures:
        failed = [f"bench.latency: {one}" for one in flat(failures)]
    if failed:
        sys.exit("\n".join(failed))
    show(questions, console)
    verdict = "never the bottleneck" if share < CLIENT_SHARE_MAX else "TOO BUSY, the figures are its own"
    console.print(f"The load client used at most {share:.0%} of a core: {verdict}.", highlight=False)
    if chosen.plot:
        plot(questions, chosen.plot)
    if chosen.json:
        print(as_json("latency", questions))


if __name__ == "__main__":
    main()
