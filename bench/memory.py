"""Memory of conversations: resident and idle, known but not resident, and after they have left.

    python -m bench.memory [--quick] [--json] [--plot FILE.png] [--rounds N] [--known N] [--resident N]

A million conversations are in PostgreSQL; 100,000 of them are made resident by the real engine: each gets a
message (an agent has read it, which changes nothing), so its actor loads the contact's handle, customer,
conversation and last three messages through the real store. Then the clock of the process is put forward by
ten minutes, the idle time of production, and all of them leave. Then 100,000 others come.

    resident          growth of the resident set for each, its address and all of its state included
    left              what the resident set did not give back, for each that has left
    objects left      allocated blocks of Python that remain, for each that has left
    second growth     growth for each of the others that come next: what had been left must serve again
    activations       from the database, in groups as the runtime makes them

Beside it: the same rows as a program without actors would keep them, a dict of dicts (no peer named in the
goals keeps state for each conversation in memory). Each round of each contestant is a process of its own on
the same database. With --quick there are 11,000 known conversations and 5,000 resident ones.
"""

import argparse
import asyncio
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import Any, Final

import asyncpg
import trio
from rich.console import Console

from bench.harness import Contest, as_json, plot, show
from bench.rounds import OURS, quiet
from engine.domain.conversation.messages import KIND, SYSTEM, MarkConversationRead, address_of
from engine.domain.engine import Engine
from engine.domain.ids import IdAllocator
from engine.reading import Tenant
from gateway.boot import GC_THRESHOLDS
from storage.bridge import Bridge
from storage.contacts import Contacts
from storage.databases import DatabaseServer, transaction
from storage.embedded import embedded_postgres
from storage.migrate import load_migrations, migrate
from storage.people import People
from storage.placements import Placements
from storage.tenants import Tenants
from storage.upkeep import upkeep
from storage.writers import Writers

DICTS: Final = "the rows as dicts"
TENANT: Final = 1
CHANNEL: Final = 7
IDLE_SECONDS: Final = 600.0
# Plans, decoders and pools are there before anything is measured.
WARM: Final = 500
_FILL_ROWS: Final = 50_000


# ── the database ─────────────────────────────────────────────────────────────────────────────────────

_FILL: Final = (
    """INSERT INTO customers (tenant_id, id, name, phone, attributes, source, first_seen_at, last_seen_at,
        created_at)
    SELECT 1, n, 'Customer ' || n, '+2010' || lpad(n::text, 8, '0'), '{}', 'whatsapp', now(), now(), now()
    FROM generate_series($1::bigint, $2::bigint) AS n""",
    """INSERT INTO customer_handles (tenant_id, channel_id, external_id, contact_key, customer_id, platform,
        display, created_at)
    SELECT 1, 7, '2010' || lpad(n::text, 8, '0'), '2010' || lpad(n::text, 8, '0'), n, 'whatsapp',
        '+2010' || lpad(n::text, 8, '0'), now()
    FROM generate_series($1::bigint, $2::bigint) AS n""",
    """INSERT INTO conversations (tenant_id, id, channel_id, platform, contact_key, customer_id, channel_type,
        status, last_seq, message_count, unread_count, last_message, last_message_at, last_inbound_at,
        reply_window_ends_at, tag_ids, auto_replied, metadata, created_at, updated_at)
    SELECT 1, n, 7, 'whatsapp', '2010' || lpad(n::text, 8, '0'), n, 'direct', 'open', 3, 3, 0,
        jsonb_build_object('seq', 3, 'direction', 'inbound', 'type', 'text', 'preview',
            'Hello, I would like to know when my order will arrive.', 'at', 1760000000000),
        now(), now(), now() + interval '1 day', '{}', '{}', '{}', now(), now()
    FROM generate_series($1::bigint, $2::bigint) AS n""",
    """INSERT INTO messages (tenant_id, conversation_id, seq, id, channel_id, contact_key, direction, type,
        sender_type, sender_name, content, text, status, platform_message_id, platform_at, metadata, trace,
        created_at)
    SELECT 1, n, seq, n * 4 + seq, 7, '2010' || lpad(n::text, 8, '0'),
        CASE seq WHEN 2 THEN 'outbound' ELSE 'inbound' END, 'text',
        CASE seq WHEN 2 THEN 'bot' ELSE 'customer' END, 'Customer ' || n,
        '{"body": "Hello, I would like to know when my order will arrive."}',
        'Hello, I would like to know when my order will arrive.',
        CASE seq WHEN 2 THEN 'read' ELSE 'received' END,
        'wamid.HBgLMjAxMDAwMDAwMDAwFQIAERgS' || lpad((n * 4 + seq)::text, 20, '0'), now(), '{}',
        lpad(n::text, 32, '0'), now()
    FROM generate_series($1::bigint, $2::bigint) AS n, generate_series(1, 3) AS seq""",
)


async def fill(server: DatabaseServer, known: int, tell: Callable[[int], None]) -> str:
    """A tenant's database with so many conversations of three messages; its name."""
    database = server.own_database(TENANT)
    await server.create_database(database)
    await migrate(server, database, load_migrations(files("storage") / "sql" / "tenant"))
    await upkeep(server, {database: [TENANT]}, now=time.time_ns() // 1_000_000)

    async def part(connection: Any, first: int, last: int) -> None:
        async with transaction(connection):
            for statement in _FILL:
                await connection.execute(statement, first, last)

    async def analyze(connection: Any) -> None:
        await connection.execute("VACUUM ANALYZE")

    for first in range(1, known + 1, _FILL_ROWS):
        tell(first - 1)
        last = min(known, first + _FILL_ROWS - 1)
        await server.pool(database).write(part, first, last, tenants=(TENANT,))
    await server.administer(database, analyze)
    return database


# ── ours ─────────────────────────────────────────────────────────────────────────────────────────────


class Forward(trio.abc.Clock):
    """The usual clock, which can be put forward."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        return time.perf_counter() + self.ahead

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return deadline - self.current_time()


class Nobody:
    """An event sink without listeners."""

    def committed(self, events: Any) -> None:
        pass


def contact_key(number: int) -> str:
    return f"2010{number:08d}"


async def ours(clock: Forward, dsn: str, database: str, count: int) -> dict[str, float]:
    """One round; the figures by name."""
    async with Bridge() as bridge, DatabaseServer(bridge, dsn) as server:
        placements = Placements(server)
        placements.put(single_tenant(database))
        writers = Writers(placements.pool_named, placements.database, node="bench", sink=Nobody())
        engine = Engine(
            conversation_store=Contacts(placements),
            tenant_store=Tenants(placements, take=writers.take),
            customer_store=People(placements),
            committer=writers,
            workers=(),
            new_id=IdAllocator(_wall_ms),
            wall_ms=_wall_ms,
            rng=Random(1),
            resident_conversations_max=count + WARM,
            idle_seconds_max=IDLE_SECONDS,
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(writers.run)
            await nursery.start(engine.run)
            await engine.config(TENANT)
            await activate(engine, 1, WARM)
            clock.ahead += 2 * IDLE_SECONDS
            await residents(engine, 0)
            before, blocks_before = resident_set(), sys.getallocatedblocks()
            started = time.perf_counter()
            await activate(engine, WARM + 1, count)
            seconds = time.perf_counter() - started
            full = resident_set()
            # Again and again: what a sweep passes over (a tenant's own actors) does not count.
            clock.ahead += 2 * IDLE_SECONDS
            await residents(engine, 0)
            after, blocks_after = resident_set(), sys.getallocatedblocks()
            await activate(engine, WARM + count + 1, count)
            again = resident_set()
            await engine.stop(10)
            writers.stop()
            nursery.cancel_scope.cancel()
    return {
        "resident": (full - before) / count,
        "left": (after - before) / count,
        "objects left": (blocks_after - blocks_before) / count,
        "second growth": (again - full) / count,
        "activations": count / seconds,
    }


async def activate(engine: Engine, first: int, count: int) -> None:
    """Conversations `first` and on, until all are resident and idle."""
    for number in range(first, first + count):
        address = address_of(TENANT, CHANNEL, contact_key(number))
        message = MarkConversationRead(conversation_id=number, by=SYSTEM)
        while not engine.system.offer(address, message):
            await trio.sleep(0.001)
        if number % 500 == 0:
            await trio.lowlevel.checkpoint()
    await residents(engine, count)


async def residents(engine: Engine, count: int) -> None:
    """Wait until so many conversations are resident and none of them has anything to do."""
    with trio.CancelScope() as scope:
        started = time.perf_counter()
        while True:
            kind = engine.system.statistics().kinds[KIND]
            if kind.resident == count and not kind.waiting and not kind.in_flight:
                break
            if kind.crashes or time.perf_counter() - started > 600:
                raise RuntimeError(f"{kind} instead of {count} resident conversations")
            await trio.sleep(0.05)
        scope.cancel()
    gc.collect()


def single_tenant(database: str) -> Tenant:
    return Tenant(
        id=TENANT,
        slug="bench",
        name="Bench",
        status="active",
        locale="en",
        timezone="UTC",
        database=database,
        isolation="own",
        placement_state="ready",
        created_at=0,
    )


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def resident_set() -> int:
    """Bytes of this process in memory (proc(5): statm)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# ── the rows alone ───────────────────────────────────────────────────────────────────────────────────

_ROWS: Final = (
    "SELECT * FROM customer_handles WHERE tenant_id = 1 AND customer_id BETWEEN $1 AND $2",
    "SELECT * FROM customers WHERE tenant_id = 1 AND id BETWEEN $1 AND $2",
    "SELECT * FROM conversations WHERE tenant_id = 1 AND id BETWEEN $1 AND $2",
    "SELECT * FROM messages WHERE tenant_id = 1 AND conversation_id BETWEEN $1 AND $2",
)


async def dicts(dsn: str, database: str, count: int) -> dict[str, float]:
    """The same rows in a dict by contact, JSON decoded, and then dropped."""
    connection = await asyncpg.connect(dsn, database=database)
    for name in ("json", "jsonb"):
        await connection.set_type_codec(name, schema="pg_catalog", encoder=json.dumps, decoder=json.loads)

    async def load(first: int, count: int) -> dict[str, dict[str, list[dict[str, Any]]]]:
        kept: dict[str, dict[str, list[dict[str, Any]]]] = {}
        for start in range(first, first + count, 500):
            end = min(start + 500, first + count) - 1
            for table, statement in zip("hcvm", _ROWS, strict=True):
                for row in await connection.fetch(statement, start, end):
                    key = contact_key(row["customer_id"] if table in "hv" else _number(row))
                    kept.setdefault(key, {}).setdefault(table, []).append(dict(row))
        gc.collect()
        return kept

    await load(1, WARM)
    gc.collect()
    before, blocks_before = resident_set(), sys.getallocatedblocks()
    started = time.perf_counter()
    kept = await load(WARM + 1, count)
    seconds = time.perf_counter() - started
    full = resident_set()
    kept.clear()
    gc.collect()
    after, blocks_after = resident_set(), sys.getallocatedblocks()
    kept = await load(WARM + count + 1, count)
    again = resident_set()
    await connection.close()
    return {
        "resident": (full - before) / len(kept),
        "left": (after - before) / count,
        "objects left": (blocks_after - blocks_before) / count,
        "second growth": (again - full) / count,
        "activations": count / seconds,
    }


def _number(row: Any) -> int:
    return int(row["conversation_id"] if "conversation_id" in row else row["id"])


# ── the bench ────────────────────────────────────────────────────────────────────────────────────────


def contests() -> dict[str, Contest]:
    """By the figure that each asks for; the first one is the bench's headline."""

    def ask(
        name: str, unit: str, *, goal: float | None = None, less: bool = True, ratios: bool = True
    ) -> Contest:
        return Contest(
            name=name, unit=unit, ours=OURS, contestants={}, goal=goal, less_is_better=less, ratios=ratios
        )

    return {
        "resident": ask("memory of a resident conversation", "bytes"),
        "left": ask("left of it after passivation", "bytes", ratios=False),
        "objects left": ask("objects left after passivation", "blocks each", ratios=False),
        "second growth": ask("growth by as many others afterwards", "bytes each", ratios=False),
        "activations": ask("activations from the database", "per second", less=False),
    }


def one(who: str, dsn: str, database: str, count: int) -> None:
    """The child's side: one round, printed."""
    quiet()
    gc.set_threshold(*GC_THRESHOLDS)
    if who == OURS:
        clock = Forward()
        print(json.dumps(trio.run(ours, clock, dsn, database, count, clock=clock)))
    else:
        print(json.dumps(asyncio.run(dicts(dsn, database, count))))


async def measure(
    questions: dict[str, Contest], console: Console, *, rounds: int, known: int, resident: int
) -> None:
    """Fill the contests' results."""
    with tempfile.TemporaryDirectory(prefix="mijra-bench-", dir="/var/tmp") as directory:
        async with embedded_postgres(Path(directory)) as dsn:
            with console.status("filling the database") as status:
                async with Bridge() as bridge, DatabaseServer(bridge, dsn) as server:
                    database = await fill(
                        server,
                        known,
                        lambda done: status.update(f"{done:,} of {known:,} known conversations"),
                    )
            for number in range(1, rounds + 1):
                for who in (OURS, DICTS):
                    title = f"round {number} of {rounds}: {who}"
                    command = [sys.executable, "-m", "bench.memory", "--one"]
                    with console.status(title):
                        done = await trio.to_thread.run_sync(
                            partial(
                                subprocess.run,
                                [*command, who, dsn, database, str(resident)],
                                capture_output=True,
                                text=True,
                                timeout=1200,
                                check=False,
                            )
                        )
                    if done.returncode:
                        raise RuntimeError(f"{who}: {done.stderr[-1500:]}")
                    figures = json.loads(done.stdout.splitlines()[-1])
                    for name, question in questions.items():
                        question.results.setdefault(who, []).append(figures[name])
                    console.print(
                        f"{title}: {figures['resident']:,.0f} bytes each, {figures['left']:,.0f} left, "
                        f"{figures['activations']:,.0f} activations/s",
                        highlight=False,
                    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.memory", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="within 45 s: fewer conversations, five rounds")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--known", type=int, default=0, help="default 1,000,000, with --quick 11,000")
    parser.add_argument("--resident", type=int, default=0, help="default 100,000, with --quick 5,000")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        who, dsn, database, count = chosen.one
        one(who, dsn, database, int(count))
        return
    quiet()
    known = chosen.known or (11_000 if chosen.quick else 1_000_000)
    resident = chosen.resident or (5_000 if chosen.quick else 100_000)
    if known < WARM + 2 * resident:
        sys.exit(f"bench.memory: --known must be at least {WARM} and twice --resident")
    console = Console(stderr=chosen.json, soft_wrap=True)
    questions = contests()
    trio.run(
        partial(measure, questions, console, rounds=chosen.rounds, known=known, resident=resident),
    )
    asked = list(questions.values())
    show(asked, console)
    console.print(f"{known:,} conversations known, {resident:,} of them resident.", highlight=False)
    if chosen.plot:
        plot(asked, chosen.plot)
    if chosen.json:
        print(as_json("memory", asked))


if __name__ == "__main__":
    main()
