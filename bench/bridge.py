"""How asyncio runs beside trio: the candidates of `storage.bridge`, side by side.

    python -m bench.bridge [--quick] [--json]

For each candidate, interleaved, the median over the rounds:

idle µs      one `SELECT 1` at a time on an otherwise idle process: the cost of a crossing and a round trip
calls/s      `SELECT 1` by 64 trio tasks over 8 connections: how crossings share their wake-ups
rows/s       batches of 100 rows (unnest, 4 columns, one durable commit each), 8 at a time, beside a busy trio
stall p99    the delay that trio's other tasks see meanwhile, in ms: a task asks for 1 ms of sleep, over and
stall max    over, and notes how much later it is woken

"Busy" is a trio task that computes in slices of 2 ms with a checkpoint between them, which is what an engine
under load looks like to its database library. The database is the embedded one, on the same cores. The limit
is asyncpg under uvloop alone, without trio and without the busy task; nothing can be faster.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import asyncpg
import trio
import uvloop
from msgspec import Struct, structs

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

Candidate = tuple[str, BridgeKind, float]
# name, kind, switch interval of the thread. 0.1 ms shows what smaller intervals cost.
CANDIDATES: Final[tuple[Candidate, ...]] = (
    ("thread, 0.5 ms", "thread", 0.0005),
    ("thread, 0.1 ms", "thread", 0.0001),
    ("thread, 5 ms (default)", "thread", 0.005),
    ("trio-asyncio", "trio-asyncio", 0.005),
)


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
    ids = list(range(first, first + BATCH_ROWS))
    await connection.execute(_INSERT, [7] * BATCH_ROWS, ids, ids, ["x" * 200] * BATCH_ROWS)


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
    """All figures of one candidate, on a bridge and connections of its own."""
    _, kind, interval = candidate
    async with Bridge(kind, switch_interval_seconds=interval) as bridge:
        connections = await bridge.run(connect, dsn)
        figures = Round()
        figures.idle_us = 1e6 / await rate(bridge, connections, 1, seconds)
        figures.calls = await rate(bridge, connections, CALLERS, seconds)
        await under_load(bridge, connections, seconds * 2, figures)
        await bridge.run(close, connections)
        return figures


async def rate(bridge: Bridge, connections: list[asyncpg.Connection], callers: int, seconds: float) -> float:
    """Completed `SELECT 1` per second; callers take connections in turn."""
    free = list(connections)
    limiter = trio.CapacityLimiter(len(connections))
    done = 0

    async def call() -> None:
        nonlocal done
        while True:
            async with limiter:
                connection = free.pop()
                await bridge.run(select, connection)
                free.append(connection)
            done += 1

    started = time.perf_counter()
    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for _ in range(callers):
                nursery.start_soon(call)
    return done / (time.perf_counter() - started)


async def under_load(
    bridge: Bridge, connections: list[asyncpg.Connection], seconds: float, figures: Round
) -> None:
    """Batches on every connection, a busy task, and a task that notes how late it is woken."""
    batches = 0
    stalls: list[float] = []

    async def write(connection: asyncpg.Connection) -> None:
        nonlocal batches
        while True:
            await bridge.run(insert, connection, batches * BATCH_ROWS)
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
            for connection in connections:
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


def median(rounds: list[Round]) -> Round:
    return Round(*(statistics.median(column) for column in zip(*map(structs.astuple, rounds), strict=True)))


def line(name: str, figures: Round) -> str:
    stalls = f"{figures.stall_p99_ms:>9.1f} {figures.stall_max_ms:>9.1f}" if figures.stall_max_ms else ""
    return f"{name:<24}{figures.idle_us:>8.0f} {figures.calls:>9.0f} {figures.rows:>9.0f} {stalls}"


async def main(quick: bool) -> tuple[dict[str, list[Round]], list[Round]]:
    rounds = 5 if quick else 9
    seconds = 0.3 if quick else 1.0
    results: dict[str, list[Round]] = {name: [] for name, _, _ in CANDIDATES}
    limit: list[Round] = []
    with tempfile.TemporaryDirectory() as directory:
        async with embedded_postgres(Path(directory)) as dsn:
            for number in range(1, rounds + 1):
                async with Bridge() as bridge:
                    await bridge.run(prepare, dsn)
                limit.append(await trio.to_thread.run_sync(measure_limit, dsn, seconds))
                for candidate in CANDIDATES:
                    results[candidate[0]].append(await measure(candidate, dsn, seconds))
                    latest = line(candidate[0], results[candidate[0]][-1])
                    print(f"round {number}/{rounds}  {latest}", file=sys.stderr, flush=True)
    return results, limit


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="five short rounds, under 45 s")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    options = parser.parse_args()
    results, limit = trio.run(main, options.quick)
    print(f"{'':<24}{'idle µs':>8} {'calls/s':>9} {'rows/s':>9} {'stall p99':>9} {'stall max':>9}")
    for name, rounds in results.items():
        print(line(name, median(rounds)))
    print(line("limit: uvloop alone", median(limit)))
    if options.json:
        ours, *peers = results
        rows = {name: median(rounds).rows for name, rounds in results.items()}
        spread = [one.rows for one in results[ours]]
        print(
            json.dumps(
                {
                    "bench": "bridge",
                    "ours": rows[ours],
                    "unit": "rows/s",
                    "peers": {name: rows[name] for name in peers},
                    "limit": median(limit).rows,
                    "ratios": {name: rows[ours] / rows[name] for name in peers},
                    "rounds": len(spread),
                    "spread": [min(spread), max(spread)],
                    "machine": f"{os.cpu_count()} cores, Python {platform.python_version()}",
                    "medians": {name: structs.asdict(median(rounds)) for name, rounds in results.items()},
                }
            )
        )
