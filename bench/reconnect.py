"""Five thousand clients that all come back at once with their cursors, as after a restart of a proxy.

    python -m bench.reconnect [--quick] [--json] [--plot FILE.png] [--rounds N] [--clients N] [--away N]

A server with the real edge (bench/edge.py) has committed events; while all clients are away it commits
`--away` more. Then all of them connect, as fast as the backlog lets them in, authenticate and subscribe with
the cursor that they have. The time counts until the last client has heard everything it missed, each event
once and in order, which is checked for every client; anything else (a gap, a duplicate, a refusal, a lost
connection) ends the bench with exit status 1. Beside the lane stands our own plain route through Hypercorn
and Quart: none of the other servers of `fanout` keeps what a client missed.
"""

import argparse
import socket
import sys
import time
from pathlib import Path
from typing import Final

from rich.console import Console

from bench.crowd import Crowd, CrowdFailed
from bench.fanout import note, raise_file_limit
from bench.fanout_servers import (
    OURS,
    ROUTE,
    Contestant,
    StartFailed,
    contestants,
    event_data,
    native,
    started,
)
from bench.harness import Contest, as_json, plot, show

BEFORE: Final = 100
"""Events that the clients have heard already."""

AT_ONCE: Final = 1_000
"""Handshakes under way: the listener's backlog is 1,024, and a SYN beyond it is repeated after a second."""


def questions(clients: int, away: int) -> list[Contest]:
    def ask(name: str, unit: str, *, less: bool = True) -> Contest:
        return Contest(name=name, unit=unit, ours=OURS, contestants={}, less_is_better=less)

    return [
        ask(f"{clients:,} clients back at once, {away} events behind: all have resumed", "s"),
        ask("all are connected and subscribed", "s"),
        ask("frames resumed", "per second", less=False),
        ask("most memory held by the server", "MB"),
    ]


def one_round(contestant: Contestant, asked: list[Contest], *, clients: int, away: int, source: int) -> str:
    with started(contestant) as server:
        assert server.control is not None
        with socket.create_connection(("127.0.0.1", server.control)) as control:
            control.sendall(b"".join(event_data(number) + b"\n" for number in range(BEFORE + away)))
        _until_committed(server.port, BEFORE + away)
        server.settle()
        crowd = Crowd(native(since=BEFORE), server.port, clients, source=f"127.0.2.{source}")
        try:
            connected, resumed = crowd.resume(BEFORE, away, at_once=AT_ONCE)
            peak = server.peak_bytes()
        finally:
            crowd.close()
    for contest, value in zip(asked, (resumed, connected, clients * away / resumed, peak / 1e6), strict=True):
        note(contest, contestant.name, value)
    return f"all in after {connected:.1f} s, all resumed after {resumed:.1f} s, at most {peak / 1e6:.0f} MB"


def _until_committed(port: int, head: int) -> None:
    """A client that asks for the last event gets it when it is there."""
    until = time.monotonic() + 20
    while True:
        probe = Crowd(native(since=head - 1), port, 1)
        try:
            probe.resume(head - 1, 1, at_once=1)
        except CrowdFailed:  # the cursor was beyond the head, which is answered by a gap
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
        else:
            return
        finally:
            probe.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.reconnect", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="within 45 s: a thousand clients")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", type=int, default=0, help="default 5,000, with --quick 1,000")
    parser.add_argument("--away", type=int, default=20, help="events that they missed")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    chosen = parser.parse_args()
    console = Console(stderr=chosen.json, soft_wrap=True, highlight=False)
    raise_file_limit(console)
    clients: int = chosen.clients or (1_000 if chosen.quick else 5_000)
    asked = questions(clients, chosen.away)
    ours = [each for each in contestants() if each.name in (OURS, ROUTE)]
    try:
        for number in range(1, chosen.rounds + 1):
            for place, contestant in enumerate(ours):
                if contestant.name == ROUTE and chosen.quick:
                    continue  # one round of it may take half a minute
                source = 2 + (number * len(ours) + place) % 200
                said = one_round(contestant, asked, clients=clients, away=chosen.away, source=source)
                console.print(f"round {number} of {chosen.rounds}: {contestant.name}: {said}")
    except (CrowdFailed, StartFailed) as error:
        sys.exit(f"bench.reconnect: {error}")
    if chosen.quick:
        for contest in asked:
            contest.missing[ROUTE] = "left out with --quick"
    show(asked, console)
    console.print("Every client heard every event that it missed, once and in order; no gaps, no errors.")
    if chosen.plot:
        plot(asked, chosen.plot)
    if chosen.json:
        print(as_json("reconnect", asked))


if __name__ == "__main__":
    main()
