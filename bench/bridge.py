"""How asyncio runs beside trio: the candidates of `storage.bridge`, and a process of its own, side by side.

    python -m bench.bridge [--quick] [--json] [--plot FILE.png] [--rounds N]

For each candidate, interleaved, the median over the rounds:

idle µs      one `SELECT 1` at a time on an otherwise idle process: the cost of a crossing and a round trip
calls/s      `SELECT 1` by 64 trio tasks over 8 connections: how crossings share their wake-ups
rows/s       batches of 100 rows (unnest, 4 columns, one durable commit each), 8 at a time, beside a busy trio
stall p99    the delay that trio's other tasks see meanwhile, in ms: a task asks for 1 ms of sleep, over and
stall max    over, and notes how much later it is woken

The process (bench/peers/storage_process.py) is asked over a Unix socket, its arguments as MessagePack.

"Busy" is a trio task that computes in slices of 2 ms with a checkpoint between them, which is what an engine
under load looks like to its database library. The database is the embedded one, on the same cores. The limit
is asyncpg under uvloop alone, without trio and without the busy task; nothing can be faster.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import asyncpg
import msgspec
import trio
import uvloop
from msgspec import Struct
from rich.console import Console

from bench.harness import Contest, as_json, plot, show
from storage.bridge import Bridge, BridgeKind
from storage.embedded import embedded_postgres

CONNECTIONS: Final = 8
CALLERS: Final = 64
BATCH_ROWS: Final = 100
BUSY_SLICE_SECONDS: Final = 0.002
_INSERT: Final = """
INSERT INTO bench_rows (tenant_id, id, at, body)
SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[])
"""

Candidate = tuple[str, BridgeKind | Literal["process"], float]
# name, kind, switch interval of the thread. 0.1 ms shows what smaller intervals cost.
CANDIDATES: Final[tuple[Candidate, ...]] = (
    ("thread, 0.5 ms", "thread", 0.0005),
    ("thread, 0.1 ms", "thread", 0.0001),
    ("thread, 5 ms (default)", "thread", 0.005),
    ("trio-asyncio", "trio-asyncio", 0.005),
    ("process", "process", 0.005),
)

OURS: Final = CANDIDATES[0][0]
LIMIT: Final = "uvloop alone"


class Round(Struct):
    """One candidate's figures of one round."""

    idle_us: float = 0.0
    calls: float = 0.0
    rows: float = 0.0
    stall_p99_ms: float = 0.0
    stall_max_ms: float = 0.0


async def select(connection: asyncpg.Connection) -> None:
    await connection.fetchval("SELECT 1")


async def insert(connection: asyncpg.Connection, first: int) -> None:
    await connection.execute(_INSERT, *columns(first))


class Door(Protocol):
    """The way to `CONNECTIONS` connections, by number."""

    async def select(self, connection: int) -> None: ...
    async def insert(self, connection: int, first: int) -> None: ...


class BridgeDoor:
    def __init__(self, bridge: Bridge, connections: list[asyncpg.Connection]) -> None:
        self._bridge = bridge
        self._connections = connections

    async def select(self, connection: int) -> None:
        await self._bridge.run(select, self._connections[connection])

    async def insert(self, connection: int, first: int) -> None:
        await self._bridge.run(insert, self._connections[connection], first)


class ProcessDoor:
    """`listen` must be running."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._numbers = count()
        self._waiting: dict[int, trio.Event] = {}
        self._sending = trio.Lock()
        self._encode = msgspec.msgpack.Encoder().encode

    async def select(self, connection: int) -> None:
        await self._ask(connection, "SELECT 1", [])

    async def insert(self, connection: int, first: int) -> None:
        await self._ask(connection, _INSERT, columns(first))

    async def _ask(self, connection: int, sql: str, arguments: list[list[Any]]) -> None:
        number = next(self._numbers)
        answered = self._waiting[number] = trio.Event()
        request = self._encode([number, connection, sql, arguments])
        async with self._sending:
            await self._stream.send_all(len(request).to_bytes(4) + request)
        await answered.wait()

    async def listen(self) -> None:
        """Wake up whoever has an answer."""
        received = bytearray()
        while data := await self._stream.receive_some():
            received += data
            while len(received) >= 4 and len(received) >= 4 + (size := int.from_bytes(received[:4])):
                (number,) = msgspec.msgpack.decode(bytes(received[4 : 4 + size]))
                del received[: 4 + size]
                self._waiting.pop(number).set()


@asynccontextmanager
async def opened(candidate: Candidate, dsn: str) -> AsyncIterator[Door]:
    """The candidate's way to connections of its own."""
    _, kind, interval = candidate
    if kind != "process":
        async with Bridge(kind, switch_interval_seconds=interval) as bridge:
            connections = await bridge.run(connect, dsn)
            yield BridgeDoor(bridge, connections)
            await bridge.run(close, connections)
        return
    with tempfile.TemporaryDirectory(prefix="mijra-") as directory:
        path = f"{directory}/storage"
        command = [sys.executable, "-m", "bench.peers.storage_process", path, dsn, str(CONNECTIONS)]
        process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        await process.stdout.receive_some()
        async with trio.open_nursery() as nursery, await trio.open_unix_socket(path) as stream:
            door = ProcessDoor(stream)
            nursery.start_soon(door.listen)
            yield door
            nursery.cancel_scope.cancel()
        process.terminate()
        await process.wait()
        await process.stdout.aclose()


def columns(first: int) -> list[list[Any]]:
    """One batch."""
    ids = list(range(first, first + BATCH_ROWS))
    return [[7] * BATCH_ROWS, ids, ids, ["x" * 200] * BATCH_ROWS]


async def connect(dsn: str) -> list[asyncpg.Connection]:
    return [await asyncpg.connect(dsn) for _ in range(CONNECTIONS)]


async def close(connections: list[asyncpg.Connection]) -> None:
    for connection in connections:
        await connection.close()


async def prepare(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute("DROP TABLE IF EXISTS bench_rows")
    await connection.execute("CREATE TABLE bench_rows (tenant_id bigint, id bigint, at bigint, body text)")
    await connection.close()


async def measure(candidate: Candidate, dsn: str, seconds: float) -> Round:
    """All figures of one candidate, over a door of its own."""
    async with opened(candidate, dsn) as door:
        figures = Round()
        figures.idle_us = 1e6 / await rate(door, 1, seconds)
        figures.calls = await rate(door, CALLERS, seconds)
        await under_load(door, seconds * 2, figures)
        return figures


async def rate(door: Door, callers: int, seconds: float) -> float:
    """Completed `SELECT 1` per second; callers take connections in turn."""
    free = list(range(CONNECTIONS))
    limiter = trio.CapacityLimiter(CONNECTIONS)
    done = 0

    async def call() -> None:
        nonlocal done
        while True:
            async with limiter:
                connection = free.pop()
                await door.select(connection)
                free.append(connection)
            done += 1

    started = time.perf_counter()
    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for _ in range(callers):
                nursery.start_soon(call)
    return done / (time.perf_counter() - started)


async def under_load(door: Door, seconds: float, figures: Round) -> None:
    """Batches on every connection, a busy task, and a task that notes how late it is woken."""
    batches = 0
    stalls: list[float] = []

    async def write(connection: int) -> None:
        nonlocal batches
        while True:
            await door.insert(connection, batches * BATCH_ROWS)
            batches += 1

    async def compute() -> None:
        while True:
            until = time.perf_counter() + BUSY_SLICE_SECONDS
            while time.perf_counter() < until:
                sum(range(100))
            await trio.lowlevel.checkpoint()

    async def watch() -> None:
        while True:
            asked = time.perf_counter()
            await trio.sleep(0.001)
            stalls.append(time.perf_counter() - asked - 0.001)

    started = time.perf_counter()
    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(compute)
            nursery.start_soon(watch)
            for connection in range(CONNECTIONS):
                nursery.start_soon(write, connection)
    figures.rows = batches * BATCH_ROWS / (time.perf_counter() - started)
    stalls.sort()
    figures.stall_p99_ms = stalls[int(len(stalls) * 0.99)] * 1e3
    figures.stall_max_ms = stalls[-1] * 1e3


def measure_limit(dsn: str, seconds: float) -> Round:
    """asyncpg under uvloop alone."""

    async def repeat(
        connections: list[asyncpg.Connection], step: Callable[..., Awaitable[None]], *args: object
    ) -> float:
        done = 0
        until = time.perf_counter() + seconds

        async def loop(connection: asyncpg.Connection) -> None:
            nonlocal done
            while time.perf_counter() < until:
                await step(connection, *args)
                done += 1

        await asyncio.gather(*map(loop, connections))
        return done / seconds

    async def main() -> Round:
        connections = await connect(dsn)
        figures = Round(
            idle_us=1e6 / await repeat(connections[:1], select),
            calls=await repeat(connections, select),
            rows=await repeat(connections, insert, 0) * BATCH_ROWS,
        )
        await close(connections)
        return figures

    return run_uvloop(main())


def run_uvloop(main: Coroutine[Any, Any, Round]) -> Round:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


def line(figures: Round) -> str:
    """One round for people."""
    stalls = f", stall p99 {figures.stall_p99_ms:.1f} ms" if figures.stall_max_ms else ""
    return f"{figures.idle_us:.0f} µs idle, {figures.calls:,.0f} calls/s, {figures.rows:,.0f} rows/s{stalls}"


def contests() -> dict[str, Contest]:
    """By the member of `Round` that each asks for; the first one is the bench's headline."""

    def ask(name: str, unit: str, *, less: bool = True) -> Contest:
        return Contest(name=name, unit=unit, ours=OURS, contestants={}, less_is_better=less)

    questions = {
        "rows": ask("durable rows beside a busy trio", "rows/s", less=False),
        "calls": ask("calls by 64 tasks", "calls/s", less=False),
        "idle_us": ask("one call, idle", "µs"),
        "stall_p99_ms": ask("delay of trio's other tasks, p99", "ms"),
        "stall_max_ms": ask("delay of trio's other tasks, worst", "ms"),
    }
    questions["rows"].limit = LIMIT
    return questions


async def measure_all(questions: dict[str, Contest], console: Console, *, quick: bool, rounds: int) -> None:
    """Fill the contests' results."""
    seconds = 0.3 if quick else 1.0

    def note(name: str, figures: Round) -> None:
        for member, question in questions.items():
            # The limit runs without trio, so nothing of trio's stalls.
            if name != LIMIT or not member.startswith("stall"):
                question.results.setdefault(name, []).append(getattr(figures, member))

    with tempfile.TemporaryDirectory() as directory:
        async with embedded_postgres(Path(directory)) as dsn:
            for number in range(1, rounds + 1):
                async with Bridge() as bridge:
                    await bridge.run(prepare, dsn)
                for candidate in CANDIDATES:
                    figures = await measure(candidate, dsn, seconds)
                    note(candidate[0], figures)
                    console.print(
                        f"round {number} of {rounds}: {candidate[0]}: {line(figures)}", highlight=False
                    )
                note(LIMIT, await trio.to_thread.run_sync(measure_limit, dsn, seconds))


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.bridge", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="within 45 s: five short rounds")
    parser.add_argument("--rounds", type=int, default=0, help="default 9, with --quick 5")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    chosen = parser.parse_args()
    console = Console(stderr=chosen.json, soft_wrap=True)
    questions = contests()
    rounds = chosen.rounds or (5 if chosen.quick else 9)
    trio.run(partial(measure_all, questions, console, quick=chosen.quick, rounds=rounds))
    asked = list(questions.values())
    show(asked, console)
    if chosen.plot:
        plot(asked, chosen.plot)
    if chosen.json:
        print(as_json("bridge", asked))


if __name__ == "__main__":
    main()
