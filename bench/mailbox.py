"""P1 and P2: how fast the runtime takes messages in, answers, and activates actors.

    tell       messages from one sender to one supervised actor that does nothing, until all are handled
    ask        round trips with 50 askers at a time (Thespian: one, its `ask` is synchronous)
    activate   addresses that get their first message, until all are loaded and have handled it
    memory     growth of the resident set for each of these while idle, its address included

Ours goes through the whole runtime: address table, bounded mailbox, dispatcher, effects. The loader answers
at once and the handler commits nothing, so a store is no part of it. The peers do the same with what they
have: asyncio.Queue is a bare queue between tasks (no supervision, no addresses), Pykka a thread for each
actor (so it is asked for fewer), Thespian its simpleSystemBase, Erlang plain processes on one scheduler.

Each contestant runs in a process of its own, started for each round, so that none inherits another's heap.
Python's cycle collector runs with the thresholds that the runtime's page advises for servers; the contestant
`mijra, default collector` is without.
"""

import argparse
import asyncio
import gc
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import trio
from rich.console import Console

from bench.harness import Contest, Missing, as_json, plot, run_rounds, show
from engine.errors import CommitFailed
from engine.runtime import (
    Address,
    Committer,
    Context,
    Decider,
    Effects,
    Lane,
    LoadRequest,
    Supervisor,
    System,
)

ESCRIPT = Path(__file__).parent / "peers" / "mailbox.escript"
ASKERS = 50


class NoStore(Committer):
    """Commits nothing; nothing is submitted in this bench."""

    def submit(
        self,
        address: Address,
        generation: int,
        rows: Sequence[object],
        done: Callable[[CommitFailed | None], None],
    ) -> None:
        done(None)

    def has_room(self, tenant: int, lane: Lane = Lane.NORMAL) -> bool:
        return True

    def when_room(self, callback: Callable[[], None]) -> None:
        callback()


async def load(requests: Sequence[LoadRequest]) -> Sequence[Any]:
    return [[] for _ in requests]


class Sink:
    """A handler that counts and tells when it has had everything."""

    def __init__(self, count: int) -> None:
        self.left = count
        self.done = trio.Event()

    def __call__(self, state: object, message: object, context: Context) -> None:
        self.left -= 1
        if not self.left:
            self.done.set()


def answer(state: object, message: object, context: Context) -> Effects:
    return Effects(reply=message)


def system_for(decide: Callable[[Any, Any, Context], Effects | None]) -> System:
    kind = Decider(kind="bench", decide=decide, load=load, mailbox_max=4096, resident_max=1_000_000)
    ids = iter(range(1 << 53))
    return System(
        tenant=Supervisor(name="tenant", children=[kind]),
        committer=NoStore(),
        ids=ids.__next__,
        wall_ms=lambda: time.time_ns() // 1_000_000,
        random=random.Random(1),
        config_for=lambda tenant: None,
        dead_letter=lambda letter: (),
    )


async def our_tell(count: int) -> list[float]:
    sink = Sink(count)
    system = system_for(sink)
    async with trio.open_nursery() as nursery:
        await nursery.start(system.run)
        address = Address("bench", 1, 1)
        start = time.perf_counter()
        sent = 0
        while sent < count:
            if system.offer(address, sent):
                sent += 1
            else:
                await trio.lowlevel.checkpoint()
        await sink.done.wait()
        seconds = time.perf_counter() - start
        await system.stop(1)
    return [count / seconds]


async def our_awaited_tell(count: int) -> list[float]:
    sink = Sink(count)
    system = system_for(sink)
    async with trio.open_nursery() as nursery:
        await nursery.start(system.run)
        address = Address("bench", 1, 1)
        start = time.perf_counter()
        for message in range(count):
            await system.tell(address, message)
        await sink.done.wait()
        seconds = time.perf_counter() - start
        await system.stop(1)
    return [count / seconds]


async def our_ask(count: int) -> list[float]:
    system = system_for(answer)

    async def asker(key: int) -> None:
        address = Address("bench", 1, key)
        for message in range(count // ASKERS):
            await system.ask(address, message, timeout_seconds=5)

    async with trio.open_nursery() as nursery:
        await nursery.start(system.run)
        start = time.perf_counter()
        async with trio.open_nursery() as askers:
            for key in range(ASKERS):
                askers.start_soon(asker, key)
        seconds = time.perf_counter() - start
        await system.stop(1)
    return [count / seconds]


async def our_activate(count: int) -> list[float]:
    sink = Sink(count)
    system = system_for(sink)
    async with trio.open_nursery() as nursery:
        await nursery.start(system.run)
        gc.collect()
        before = psutil.Process().memory_info().rss
        start = time.perf_counter()
        for key in range(count):
            system.offer(Address("bench", 1, key), key)
        await sink.done.wait()
        seconds = time.perf_counter() - start
        gc.collect()
        size = (psutil.Process().memory_info().rss - before) / count
        nursery.cancel_scope.cancel()
    return [count / seconds, size]


async def asyncio_tell(count: int) -> list[float]:
    queue: asyncio.Queue[int] = asyncio.Queue(4096)

    async def consume() -> None:
        for _ in range(count):
            await queue.get()

    consumer = asyncio.create_task(consume())
    start = time.perf_counter()
    for message in range(count):
        await queue.put(message)
    await consumer
    return [count / (time.perf_counter() - start)]


async def asyncio_ask(count: int) -> list[float]:
    queue: asyncio.Queue[tuple[int, asyncio.Future[int]]] = asyncio.Queue(4096)

    async def serve() -> None:
        while True:
            message, future = await queue.get()
            future.set_result(message)

    async def asker() -> None:
        for message in range(count // ASKERS):
            future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            await queue.put((message, future))
            await future

    server = asyncio.create_task(serve())
    start = time.perf_counter()
    await asyncio.gather(*(asker() for _ in range(ASKERS)))
    seconds = time.perf_counter() - start
    server.cancel()
    return [count / seconds]


def pykka_contest(what: str, count: int) -> list[float]:
    import pykka

    class Actor(pykka.ThreadingActor):  # type: ignore[misc, unused-ignore]
        def on_receive(self, message: Any) -> Any:
            return message

    try:
        if what == "activate":
            before = psutil.Process().memory_info().rss
            start = time.perf_counter()
            actors = [Actor.start() for _ in range(count)]
            for waiting in [actor.ask(1, block=False) for actor in actors]:
                waiting.get()
            seconds = time.perf_counter() - start
            return [count / seconds, (psutil.Process().memory_info().rss - before) / count]
        actor = Actor.start()
        start = time.perf_counter()
        if what == "tell":
            for message in range(count):
                actor.tell(message)
            actor.ask(0)
        else:
            for first in range(0, count, ASKERS):
                batch = [actor.ask(first + message, block=False) for message in range(ASKERS)]
                for waiting in batch:
                    waiting.get()
        return [count / (time.perf_counter() - start)]
    finally:
        pykka.ActorRegistry.stop_all()


def thespian_contest(what: str, count: int) -> list[float]:
    from thespian.actors import ActorSystem

    from bench.peers.thespian_echo import Echo

    actors = ActorSystem("simpleSystemBase")
    try:
        start = time.perf_counter()
        if what == "activate":
            for _ in range(count):
                actors.ask(actors.createActor(Echo), 1)
        else:
            echo = actors.createActor(Echo)
            for message in range(count):
                if what == "tell":
                    actors.tell(echo, "no answer")
                else:
                    actors.ask(echo, message)
        return [count / (time.perf_counter() - start)]
    finally:
        actors.shutdown()


CONTESTANTS: dict[str, Callable[[str, int], list[float]]] = {
    "ours": lambda what, count: trio.run(
        {"tell": our_tell, "await": our_awaited_tell, "ask": our_ask, "activate": our_activate}[what], count
    ),
    "asyncio": lambda what, count: asyncio.run({"tell": asyncio_tell, "ask": asyncio_ask}[what](count)),
    "pykka": pykka_contest,
    "thespian": thespian_contest,
}


def apart(
    who: str, what: str, count: int, *, collector: str = "server", index: int = 0
) -> Callable[[], float]:
    """A measurement in a fresh process; `index` picks the figure."""

    def measure() -> float:
        command = [sys.executable, "-m", "bench.mailbox", "--one", who, what, str(count), collector]
        return _figures(command, who)[index]

    return measure


def erlang(what: str, count: int, *, index: int = 0) -> Callable[[], float]:
    def measure() -> float:
        escript = shutil.which("escript")
        if escript is None:
            raise Missing("Erlang is not installed (apt-get install erlang-base)")
        return _figures([escript, str(ESCRIPT), what, str(count)], "erlang")[index]

    return measure


def _figures(command: list[str], who: str) -> list[float]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        error = done.stderr.strip().rsplit("\n", 1)[-1]
        if "ModuleNotFoundError" in error:
            raise Missing(f"{who} is not installed (pip install 'mijra[bench]')")
        raise RuntimeError(f"{who}: {error}")
    return [float(line) for line in done.stdout.split()]


def one(who: str, what: str, count: int, collector: str) -> None:
    """The child's side of `apart`."""
    if collector == "server":
        gc.set_threshold(100_000, 50, 50)
    for figure in CONTESTANTS[who](what, count):
        print(figure)


def contests(scale: float) -> list[Contest]:
    """The four questions; `scale` shortens them."""

    def some(count: int) -> int:
        return int(count * scale)

    actors = some(100_000)
    return [
        Contest(
            name="P1 tell",
            unit="messages/s",
            ours="mijra offer",
            goal=1_000_000,
            limit="erlang",
            contestants={
                "mijra offer": apart("ours", "tell", some(2_000_000)),
                "mijra await tell": apart("ours", "await", some(1_000_000)),
                "asyncio.Queue": apart("asyncio", "tell", some(600_000)),
                "pykka": apart("pykka", "tell", some(100_000)),
                "thespian": apart("thespian", "tell", some(20_000)),
                "erlang": erlang("tell", some(2_000_000)),
            },
        ),
        Contest(
            name="P1 ask",
            unit="round trips/s",
            ours="mijra",
            goal=50_000,
            limit="erlang",
            contestants={
                "mijra": apart("ours", "ask", some(100_000)),
                "asyncio.Queue and Future": apart("asyncio", "ask", some(100_000)),
                "pykka": apart("pykka", "ask", some(10_000)),
                "thespian": apart("thespian", "ask", some(10_000)),
                "erlang": erlang("ask", some(400_000)),
            },
        ),
        Contest(
            name="P2 activate",
            unit="actors/s",
            ours="mijra",
            goal=200_000,
            limit="erlang",
            contestants={
                "mijra": apart("ours", "activate", actors),
                "mijra, default collector": apart("ours", "activate", actors, collector="default"),
                "pykka": apart("pykka", "activate", some(2_000)),
                "thespian": apart("thespian", "activate", some(2_000)),
                "erlang": erlang("spawn", actors),
            },
        ),
        Contest(
            name="P2 memory",
            unit="bytes/idle actor",
            ours="mijra",
            goal=1_500,
            less_is_better=True,
            contestants={
                "mijra": apart("ours", "activate", actors, index=1),
                "pykka": apart("pykka", "activate", some(2_000), index=1),
                "erlang": erlang("spawn", actors, index=1),
            },
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.mailbox", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="within 45 s: half the size, five rounds")
    parser.add_argument("--rounds", type=int, default=0, help="default 7, with --quick 5")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        who, what, count, collector = chosen.one
        one(who, what, int(count), collector)
        return
    console = Console(stderr=chosen.json)
    questions = contests(0.5 if chosen.quick else 1.0)
    run_rounds(questions, chosen.rounds or (5 if chosen.quick else 7), console)
    show(questions, console)
    if chosen.plot:
        plot(questions, chosen.plot)
    if chosen.json:
        print(as_json("mailbox", questions))


if __name__ == "__main__":
    main()
