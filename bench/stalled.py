"""What others feel of readers who have stopped: 500 WebSockets that read, with and without 50 that do not.

    python -m bench.stalled [--quick] [--json] [--plot FILE.png] [--rounds N] [--seconds S]

The same server process as in `bench.fanout` (bench/edge.py), the same crowd, one publication at a time: the
next one is made when the last healthy socket has heard the one before. The fifty subscribe and never read
again; before each round fresh ones come, and as much is published as fills their buffers, so that the server
has them to deal with. What becomes of them is the server's to decide: it closes them with a reason.
"""

import argparse
import sys
from contextlib import closing
from pathlib import Path
from typing import Final

from rich.console import Console

from bench.crowd import Crowd, CrowdFailed
from bench.fanout import FEW, Subject, note, raise_file_limit, subject
from bench.fanout_servers import OURS, StartFailed, contestants, started
from bench.harness import Contest, as_json, plot, show
from bench.histogram import milliseconds

STALLED: Final = 50
WITH: Final = f"with {STALLED} stalled"
WITHOUT: Final = "nobody stalled"
# More than a socket's buffers on both sides hold, in frames of 400 bytes.
FILLING_PUBLICATIONS: Final = 1_500
RISE_MAX: Final = 1.1


def questions() -> list[Contest]:
    def ask(name: str, unit: str, *, less: bool) -> Contest:
        return Contest(name=name, unit=unit, ours=WITH, contestants={}, less_is_better=less)

    return [
        ask(f"publication to the last of {FEW} healthy sockets, p99", "ms", less=True),
        ask(f"publication to the last of {FEW} healthy sockets, p50", "ms", less=True),
        ask(f"frames to {FEW} healthy sockets", "per second", less=False),
    ]


def one_round(healthy: Subject, asked: list[Contest], name: str, seconds: float) -> str:
    heard, _ = healthy.flood(seconds, 1)
    figures = [milliseconds(heard.latency.at(0.99)), milliseconds(heard.latency.at(0.5)), heard.rate]
    for contest, value in zip(asked, figures, strict=True):
        note(contest, name, value)
    return f"p99 {figures[0]:.1f} ms, p50 {figures[1]:.1f} ms, {figures[2]:,.0f} frames/s"


def measure(asked: list[Contest], console: Console, *, rounds: int, seconds: float) -> None:
    (ours,) = (each for each in contestants() if each.name == OURS)
    with started(ours) as server, closing(subject(server, FEW, 2)) as healthy:
        healthy.flood(0.3, 1)  # warm
        for number in range(1, rounds + 1):
            said = one_round(healthy, asked, WITHOUT, seconds)
            console.print(f"round {number} of {rounds}: {WITHOUT}: {said}")
            with closing(Crowd(ours.dialect, server.port, STALLED, source="127.0.1.3")) as stalled:
                stalled.open()
                filled = 0
                while filled < FILLING_PUBLICATIONS:
                    heard, _ = healthy.flood(0.3, 16)
                    filled += heard.publications
                said = one_round(healthy, asked, WITH, seconds)
            console.print(f"round {number} of {rounds}: {WITH}: {said}")
            server.settle()


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.stalled", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="within 45 s")
    parser.add_argument("--rounds", type=int, default=0, help="default 9, with --quick 5")
    parser.add_argument(
        "--seconds", type=float, default=0, help="of a measurement; default 3, with --quick 1"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    chosen = parser.parse_args()
    console = Console(stderr=chosen.json, soft_wrap=True, highlight=False)
    raise_file_limit(console)
    asked = questions()
    try:
        measure(
            asked,
            console,
            rounds=chosen.rounds or (5 if chosen.quick else 9),
            seconds=chosen.seconds or (1.0 if chosen.quick else 3.0),
        )
    except (StartFailed, CrowdFailed) as error:
        sys.exit(f"bench.stalled: {error}")
    show(asked, console)
    rise = asked[0].median(WITH) / asked[0].median(WITHOUT)
    verdict = "met" if rise <= RISE_MAX else "missed"
    console.print(f"The healthy ones' p99 is {rise:.2f} times that without; goal {RISE_MAX}: {verdict}.")
    if chosen.plot:
        plot(asked, chosen.plot)
    if chosen.json:
        print(as_json("stalled", asked))


if __name__ == "__main__":
    main()
