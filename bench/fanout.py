"""P5, P6: one publication to many WebSockets, beside what others use for it.

    python -m bench.fanout [--quick] [--json] [--plot FILE.png] [--rounds N] [--large-rounds N] [--seconds S]
                           [--only NAME …]

Ours is a server process with the real edge: listening, lane, sessions and hub (bench/edge.py). A publication
is one line on a control connection, which the hub is told as a committed event; for the peers it is one
message of a publishing client, and for the limit a loop of bare non-blocking `send`. All send frames of the
same size to the same crowd (bench/crowd.py), and every socket must have heard every publication once.

    one at a time   the next publication is made when the last socket has heard the one before: no server can
                    put two into one send, so this is the rate that P5 compares with the kernel's
    saturated       sixteen are under way: what waits may be joined, by us and by the peers that do it
    latency         at a fixed rate, from when the publication was due until the last socket's frame was read
    whole system    `mijra dev` with its PostgreSQL: from when a signed webhook was due to the last screen,
                    with and without the lane
    memory          what the process holds more with all clients connected and subscribed than before

"Per second of processor time" is the rate at which a core that is the server's alone would send; on a machine
that others use as well it is the steadiest of these figures.
"""

import argparse
import math
import resource
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from msgspec import Struct, field
from rich.console import Console

from bench.crowd import Crowd, CrowdFailed, Heard, Publisher
from bench.fanout_servers import (
    KERNEL,
    OURS,
    ROUTE,
    Contestant,
    Server,
    StartFailed,
    contestants,
    event_data,
    payload,
    started,
)
from bench.fanout_system import system
from bench.harness import Contest, Missing, as_json, plot, show
from bench.histogram import milliseconds

FEW: Final = 500
MANY: Final = 5_000
IDLE: Final = 10_000
FILES_WANTED: Final = 20_000
WINDOW: Final = 16
FEW_RATE: Final = 10.0
MANY_RATE: Final = 2.0
SYSTEM_RATE: Final = 5.0
"""Publications per second while latency is measured."""

SHARE_OF_KERNEL: Final = 0.6
# What the contract allows is 45; the rest is for the round under way, the memory and the table.
QUICK_SECONDS_MAX: Final = 32

# Those that are also measured with thousands of clients: the others would take minutes for a round.
LARGE: Final = (OURS, "npm ws", "socket.io", "mosquitto", "nats-server", "python websockets", KERNEL)


# A publication takes these half a second: with --quick one round of them has to do.
SLOW: Final = (ROUTE, "django channels")


class Questions(Struct):
    """The contests, in the order of the table."""

    alone: Contest
    processor: Contest
    saturated: Contest
    few_p99: Contest
    few_p50: Contest
    many_p99: Contest
    many_p50: Contest
    memory: Contest
    system_p99: Contest
    system_p50: Contest
    shares: list[float] = field(default_factory=list)
    own_limits: list[float] = field(default_factory=list)

    @property
    def contests(self) -> list[Contest]:
        asked = [self.alone, self.processor, self.saturated, self.few_p99, self.few_p50]
        large = (self.many_p99, self.many_p50, self.memory, self.system_p99, self.system_p50)
        return asked + [contest for contest in large if contest.results]


def questions(*, idle: int, many: int) -> Questions:
    def ask(name: str, unit: str, goal: float | None = None, *, less: bool = False) -> Contest:
        return Contest(
            name=name,
            unit=unit,
            ours=OURS,
            contestants={},
            goal=goal,
            less_is_better=less,
            limit=None if unit == "KB" or name.startswith("whole system") else KERNEL,
        )

    last = "publication to the last of {:,} sockets, {}"
    return Questions(
        alone=ask(f"frames to {FEW} sockets, one publication at a time", "per second"),
        processor=ask(
            f"frames to {FEW} sockets, one at a time, by processor", "per second of processor time"
        ),
        saturated=ask(f"frames to {FEW} sockets, saturated", "per second"),
        few_p99=ask(last.format(FEW, "p99"), "ms", 10, less=True),
        few_p50=ask(last.format(FEW, "p50"), "ms", less=True),
        many_p99=ask(last.format(many, "p99"), "ms", 150 if many == MANY else None, less=True),
        many_p50=ask(last.format(many, "p50"), "ms", less=True),
        memory=ask(f"memory per idle connection, {idle:,} of them", "KB", 12, less=True),
        system_p99=ask(f"whole system: webhook to the last of {FEW} screens, p99", "ms", less=True),
        system_p50=ask(f"whole system: webhook to the last of {FEW} screens, p50", "ms", less=True),
    )


class Subject(Struct):
    """A running server with its crowd."""

    server: Server
    crowd: Crowd
    publisher: Publisher

    def payload(self, number: int) -> bytes:
        return event_data(number) if self.server.name in (OURS, ROUTE) else payload(number)

    def flood(self, seconds: float, window: int) -> tuple[Heard, float]:
        """And the server's processor time."""
        before = self.server.processor_seconds()
        heard = self.crowd.flood(self.publisher, self.payload, seconds=seconds, window=window)
        return heard, self.server.processor_seconds() - before

    def steady(self, seconds: float, rate: float) -> Heard:
        return self.crowd.steady(self.publisher, self.payload, seconds=seconds, rate=rate)

    def close(self) -> None:
        self.publisher.close()
        self.crowd.close()


def subject(server: Server, size: int, source: int) -> Subject:
    crowd = Crowd(server.dialect, server.port, size, source=f"127.0.1.{source}")
    crowd.open()
    lines = server.control is not None
    return Subject(server, crowd, Publisher(server.dialect, server.control or server.port, lines=lines))


def few_round(one: Subject, asked: Questions, seconds: float) -> str:
    """All questions about a small crowd, once."""
    alone, used = one.flood(seconds, 1)
    # Who needs a second for one publication would need half a minute for all that are under way.
    window = max(2, min(WINDOW, int(seconds * alone.rate / FEW) + 1))
    saturated, _ = one.flood(seconds, window)
    one.server.settle(2)
    # The same for all, except for those for whom it would be more than a quarter of what they can do.
    rate = min(FEW_RATE, alone.rate / FEW / 4)
    steady = one.steady(max(2 * seconds, 2 / rate), rate)
    name = one.server.name
    note(asked.alone, name, alone.rate)
    note(asked.processor, name, alone.frames / max(used, 0.01))
    note(asked.saturated, name, saturated.rate)
    note(asked.few_p99, name, milliseconds(steady.latency.at(0.99)))
    note(asked.few_p50, name, milliseconds(steady.latency.at(0.5)))
    asked.shares += [alone.share, saturated.share]
    asked.own_limits.append(alone.own_limit)
    return (
        f"{alone.rate:,.0f}/s one at a time, {saturated.rate:,.0f}/s saturated, "
        f"p99 {milliseconds(steady.latency.at(0.99)):.1f} ms at {rate:.0f}/s"
    )


def many_round(contestant: Contestant, asked: Questions, size: int, seconds: float, source: int) -> str:
    with started(contestant) as server:
        one = subject(server, size, source)
        try:
            server.settle()
            warm, _ = one.flood(0.1, 1)
            rate = min(MANY_RATE, warm.rate / size / 4)
            steady = one.steady(max(seconds, 4 / rate), rate)
        finally:
            one.close()
    note(asked.many_p99, contestant.name, milliseconds(steady.latency.at(0.99)))
    note(asked.many_p50, contestant.name, milliseconds(steady.latency.at(0.5)))
    return f"{size:,} sockets: p99 {milliseconds(steady.latency.at(0.99)):.0f} ms at {rate:.1f}/s"


def memory_round(contestant: Contestant, asked: Questions, size: int, source: int) -> str:
    with started(contestant) as server:
        server.settle()
        before = server.memory_bytes()
        crowd = Crowd(contestant.dialect, server.port, size, source=f"127.0.1.{source}")
        try:
            seconds = crowd.open()
            server.settle()
            each = (server.memory_bytes() - before) / size / 1024
        finally:
            crowd.close()
    note(asked.memory, contestant.name, each)
    return f"{each:.1f} KB for each of {size:,}, connected at {size / seconds:,.0f}/s"


def system_round(name: str, asked: Questions, seconds: float) -> str:
    with system(push_lane=name == OURS) as (screen, port, publisher):
        crowd = Crowd(screen, port, FEW)
        try:
            crowd.open()
            crowd.steady(publisher, payload, seconds=1, rate=SYSTEM_RATE)  # warm: conversations are made
            steady = crowd.steady(publisher, payload, seconds=max(2 * seconds, 2), rate=SYSTEM_RATE)
        finally:
            crowd.close()
    note(asked.system_p99, name, milliseconds(steady.latency.at(0.99)))
    note(asked.system_p50, name, milliseconds(steady.latency.at(0.5)))
    return f"whole system, {FEW} screens: p99 {milliseconds(steady.latency.at(0.99)):.0f} ms"


def note(contest: Contest, name: str, value: float) -> None:
    contest.results.setdefault(name, []).append(value)


class Failures(Struct):
    """Contestants that are out, and why; ours may not be among them."""

    why: dict[str, str] = field(default_factory=dict)

    def out(self, name: str, error: Exception) -> None:
        if name == OURS and not isinstance(error, Missing):
            raise error
        self.why[name] = str(error).splitlines()[0][:160] if str(error) else type(error).__name__


def measure(
    asked: Questions,
    chosen: Sequence[Contestant],
    console: Console,
    *,
    rounds: int,
    seconds: float,
    idle: int,
    many: int,
    large_rounds: int,
    large: Sequence[str],
    until: float,
) -> Failures:
    failures = Failures()
    with ExitStack() as stack:
        subjects: list[Subject] = []
        for place, contestant in enumerate(chosen):
            try:
                one = subject(stack.enter_context(started(contestant)), FEW, place + 2)
                stack.callback(one.close)
                subjects.append(one)
            except (Missing, StartFailed, CrowdFailed, OSError) as error:
                failures.out(contestant.name, error)
        for number in range(1, rounds + 1):
            if time.monotonic() > until and number > 1:
                console.print(f"The time for --quick was up after {number - 1} rounds.")
                break
            for one in subjects:
                name = one.server.name
                if name in failures.why or (name in SLOW and number > 1 and until < math.inf):
                    continue
                title = f"round {number} of {rounds}: {name}"
                try:
                    with console.status(title):
                        said = few_round(one, asked, seconds)
                except (CrowdFailed, OSError) as error:
                    failures.out(name, error)
                else:
                    console.print(f"{title}: {said}", highlight=False)
    for number in range(1, large_rounds + 1):
        for place, contestant in enumerate(chosen):
            if contestant.name in failures.why or contestant.name not in large:
                continue
            title = f"round {number} of {large_rounds}: {contestant.name}"
            source = 20 + (number * 20 + place) % 200
            try:
                with console.status(title):
                    if many:
                        console.print(f"{title}: {many_round(contestant, asked, many, seconds, source)}")
                    if contestant.name != KERNEL:  # which keeps nothing for a connection
                        console.print(f"{title}: {memory_round(contestant, asked, idle, source)}")
            except (Missing, StartFailed, CrowdFailed, OSError) as error:
                failures.out(contestant.name, error)
    for contest in asked.contests:
        contest.missing.update(
            {name: why for name, why in failures.why.items() if name not in contest.results}
        )
    return failures


def raise_file_limit(console: Console) -> None:
    """The bench and the servers, which inherit it, need a descriptor for each socket."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_WANTED if hard == resource.RLIM_INFINITY else min(FILES_WANTED, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if wanted < IDLE + 500:
        console.print(f"Only {wanted:,} files may be open here (ulimit -Hn); large crowds will fail.")


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.fanout", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="within 45 s: small crowds only")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--large-rounds", type=int, help="with large crowds; default as --rounds, 0 for none")
    parser.add_argument("--seconds", type=float, default=0, help="of each part of a round; default 1.5")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these and ours, by parts of their names")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    chosen = parser.parse_args()
    console = Console(stderr=chosen.json, soft_wrap=True, highlight=False)
    raise_file_limit(console)
    everyone = contestants()
    if chosen.only:
        words = [OURS, KERNEL, *chosen.only]
        everyone = [each for each in everyone if any(word in each.name for word in words)]
    quick: bool = chosen.quick
    idle, many = (2_000, 0) if quick else (IDLE, MANY)
    large_rounds = 1 if quick else chosen.rounds if chosen.large_rounds is None else chosen.large_rounds
    asked = questions(idle=idle, many=many or MANY)
    began = time.monotonic()
    try:
        measure(
            asked,
            everyone,
            console,
            rounds=chosen.rounds,
            seconds=chosen.seconds or (0.15 if quick else 1.5),
            idle=idle,
            many=many,
            large_rounds=large_rounds,
            large=(OURS,) if quick else LARGE,
            until=began + QUICK_SECONDS_MAX if quick else math.inf,
        )
    except (StartFailed, CrowdFailed) as error:
        sys.exit(f"bench.fanout: {error}")
    show(asked.contests, console)
    if KERNEL in asked.alone.results:
        share = asked.alone.median(OURS) / asked.alone.median(KERNEL)
        verdict = "met" if share >= SHARE_OF_KERNEL else "missed"
        console.print(
            f"P5: {share:.0%} of the bare kernel rate; the goal of {SHARE_OF_KERNEL:.0%} is {verdict}."
        )
    busiest = max(asked.shares)
    console.print(
        f"The crowd used at most {busiest:.0%} of a core; with a core of its own it hears "
        f"{max(asked.own_limits):,.0f} frames per second. {time.monotonic() - began:.0f} s."
    )
    if chosen.plot:
        plot(asked.contests, chosen.plot)
    if chosen.json:
        print(as_json("fanout", asked.contests))


if __name__ == "__main__":
    main()
