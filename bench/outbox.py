"""The outbox as a job queue: jobs per second and the time from enqueueing to start, beside Procrastinate and
PgQueuer.

    python -m bench.outbox [--quick] [--json] [--plot FILE.png] [--rounds N] [--jobs N] [--seconds S]

A job is enqueued durably (its producer waits for the commit), started once, and its end is durable too. The
work itself is nothing, so that what remains is the queue. Two questions in each round:

    throughput    64 producers enqueue as fast as they are let; until the end of the last job is durable
    latency       100 jobs a second are due at fixed moments (open loop); from then until each starts

Ours is the way of every message that an agent sends: a row through the batching writer, the channel actor
(which writes down `sending` before the call and keeps order, pace and circuit), a stub in place of the
platform, and the verdict that ends the row through the conversation's actor. That is three commits for a job
where the peers have an insert, a fetch and an end; theirs keep no order within a conversation. The peers run
as their documentation has it (bench/peers/job_queues.py). All have a database of their own in one
PostgreSQL, fsync and synchronous_commit on; each round of each is a process of its own; after it no job may
be open, and each must have been started once.
"""

import argparse
import asyncio
import gc
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from importlib.resources import files
from itertools import count
from pathlib import Path
from random import Random
from typing import Any, Final
from urllib.parse import urlsplit

import asyncpg
import msgspec
import trio
from rich.console import Console

from adapters.channel import Channels
from adapters.port import Accepted, Account, Fitted, Limits, SendResult, Turn
from bench.harness import Contest, as_json, plot, show
from bench.histogram import Histogram, milliseconds
from bench.memory import Nobody, single_tenant
from bench.rounds import OURS, Unproven, flat, quiet
from engine.domain.conversation.messages import KIND as CONVERSATION_KIND
from engine.domain.conversation.messages import OutboxVerdict
from engine.domain.outbound import OutboxItem, OutboxPayload, Send, SendText
from engine.domain.outbox import Deliver, channel_address
from engine.domain.rows import OutboxPatch, OutboxRow
from engine.errors import CommitFailed
from engine.runtime import Address, Context, Decider, Effects, LoadRequest, Supervisor, System
from gateway.boot import GC_THRESHOLDS
from storage.bridge import Bridge
from storage.databases import DatabaseServer
from storage.embedded import embedded_postgres
from storage.migrate import load_migrations, migrate
from storage.outbox import Outbox
from storage.placements import Placements
from storage.upkeep import upkeep
from storage.writers import Writers

PROCRASTINATE: Final = "procrastinate"
PGQUEUER: Final = "pgqueuer"
PRODUCERS: Final = 64
LATENCY_RATE: Final = 100
TENANT: Final = 1
CHANNEL: Final = 7
_DRAIN_SECONDS_MAX: Final = 60


class Log:
    """When which job was due, started and finished; shared by all contestants."""

    def __init__(self) -> None:
        self.due: dict[int, int] = {}
        self.starts: Counter[int] = Counter()
        self.ends = 0
        self.latency = Histogram()

    def started(self, number: int) -> None:
        self.starts[number] += 1
        due = self.due.get(number)
        if due is not None:
            self.latency.record(time.perf_counter_ns() - due)

    def finished(self, number: int) -> None:
        self.ends += 1

    def figures(self, jobs: int, seconds: float) -> dict[str, float]:
        twice = sum(times > 1 for times in self.starts.values())
        if twice or len(self.starts) != jobs + len(self.due):
            raise Unproven(
                f"of {jobs + len(self.due)} jobs {len(self.starts)} were started, {twice} more than once"
            )
        return {
            "throughput": jobs / seconds,
            "p50": milliseconds(self.latency.at(0.5)),
            "p99": milliseconds(self.latency.at(0.99)),
        }


# ── ours ─────────────────────────────────────────────────────────────────────────────────────────────


class StubSender:
    """A platform's adapter that accepts everything at once."""

    platform = "whatsapp"

    def __init__(self, log: Log) -> None:
        self._log = log

    def fit(self, send: Send) -> Fitted:
        return Fitted(send=send)

    def limits(self, account: Account) -> Limits:
        # No pace: what is asked is how fast the queue is.
        return Limits(
            messages_per_second=1_000_000, pair_seconds=1e-6, pair_burst=1_000_000, concurrency=PRODUCERS
        )

    async def send(self, item: OutboxItem, account: Account, turn: Turn) -> SendResult:
        await turn.come()
        turn.written()
        assert item.message_id is not None
        self._log.started(item.message_id)
        return Accepted(platform_id=f"wamid.{item.id}")


class OurOutbox:
    """Writer, channel actor and conversations on one database."""

    def __init__(self, writers: Writers, placements: Placements, log: Log) -> None:
        self._writers = writers
        self._log = log
        # Ids go on from round to round in one database, so they come from the clock.
        self._ids = count(time.time_ns() // 1000)
        account = Account(
            tenant_id=TENANT,
            channel_id=CHANNEL,
            platform="whatsapp",
            external_id="1",
            credentials={"access_token": "token"},
            settings={},
        )
        channels = Channels(
            ask=self._ask,
            committer=writers,
            store=Outbox(placements),
            senders={"whatsapp": StubSender(log)},
            accounts=lambda tenant_id, channel_id: account,
            wall_ms=_wall_ms,
            random=Random(1),
            unknown_wait_seconds=30.0,
            on_trouble=lambda trouble: None,
        )
        conversation = Decider(kind=CONVERSATION_KIND, decide=self._decide, load=_load)
        self.system: System = System(
            tenant=Supervisor(name="tenant", children=[conversation, channels.worker()]),
            committer=writers,
            ids=self._ids.__next__,
            wall_ms=_wall_ms,
            random=Random(2),
            config_for=lambda tenant: None,
            dead_letter=lambda letter: (),
        )

    async def _ask(self, address: Address, message: object, *, timeout_seconds: float) -> Any:
        answer = await self.system.ask(address, message, timeout_seconds=timeout_seconds)
        assert isinstance(message, OutboxVerdict)
        self._log.finished(message.message_id or 0)
        return answer

    def _decide(self, state: object, message: object, context: Context) -> Effects | None:
        assert isinstance(message, OutboxVerdict)
        patch = OutboxPatch(tenant_id=TENANT, id=message.outbox_id, updated_at=context.now, state="done")
        return Effects(commit=(patch,))

    async def enqueue(self, number: int) -> None:
        """A row, durable when this returns; then the channel is told, as a conversation tells it."""
        while not self._writers.has_room(TENANT):
            room = trio.Event()
            self._writers.when_room(room.set)
            await room.wait()
        now, item_id, contact = _wall_ms(), next(self._ids), f"2010{number % 2000:08d}"
        send = SendText(body=TEXT)
        row = OutboxRow(
            tenant_id=TENANT,
            id=item_id,
            channel_id=CHANNEL,
            conversation_id=number % 2000 + 1,
            contact_key=contact,
            message_id=number,
            recipient=contact,
            lane=1,
            state="queued",
            attempts=0,
            not_before=now,
            payload=msgspec.to_builtins(OutboxPayload(send=send)),
            error=None,
            trace="",
            created_at=now,
            updated_at=now,
        )
        ended = trio.Event()
        errors: list[CommitFailed] = []

        def done(error: CommitFailed | None) -> None:
            if error is not None:
                errors.append(error)
            ended.set()

        self._writers.submit(Address("bench", TENANT, item_id), 1, (row,), done)
        await ended.wait()
        if errors:
            raise errors[0]
        item = OutboxItem(
            id=item_id,
            tenant_id=TENANT,
            channel_id=CHANNEL,
            conversation_id=row.conversation_id,
            contact_key=contact,
            message_id=number,
            recipient=contact,
            lane=1,
            state="queued",
            attempts=0,
            not_before=now,
            send=send,
            reply_to=None,
            trace="",
            created_at=now,
        )
        await self.system.tell(channel_address(TENANT, CHANNEL), Deliver(item))


TEXT: Final = "Your order is on its way. Thank you for your patience, and have a nice day."


async def _load(requests: Sequence[LoadRequest]) -> Sequence[Any]:
    return [[] for _ in requests]


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


async def ours(dsn: str, database: str, jobs: int, seconds: float) -> dict[str, float]:
    """One round."""
    log = Log()
    async with Bridge() as bridge, DatabaseServer(bridge, dsn) as server:
        placements = Placements(server)
        placements.put(single_tenant(database))
        writers = Writers(placements.pool_named, placements.database, node="bench", sink=Nobody())
        outbox = OurOutbox(writers, placements, log)
        async with trio.open_nursery() as nursery:
            await nursery.start(writers.run)
            await nursery.start(outbox.system.run)
            # The channel wakes up and reads its rows; plans are made.
            await outbox.enqueue(0)
            await _trio_until(lambda: log.ends == 1)
            log.starts.clear()
            began = time.perf_counter()
            numbers = iter(range(1, jobs + 1))

            async def producer() -> None:
                for number in numbers:
                    await outbox.enqueue(number)

            async with trio.open_nursery() as producers:
                for _ in range(PRODUCERS):
                    producers.start_soon(producer)
            await _trio_until(lambda: log.ends == 1 + jobs)
            took = time.perf_counter() - began
            due = trio.current_time()
            async with trio.open_nursery() as producers:
                for number in range(jobs + 1, jobs + 1 + int(seconds * LATENCY_RATE)):
                    due += 1 / LATENCY_RATE
                    await trio.sleep_until(due)
                    log.due[number] = time.perf_counter_ns()
                    producers.start_soon(outbox.enqueue, number)
            await _trio_until(lambda: log.ends == 1 + jobs + len(log.due))
            await outbox.system.stop(10)
            writers.stop()
            nursery.cancel_scope.cancel()
        left = await server.pool(database).fetchval(
            "SELECT count(*) FROM outbox WHERE state <> 'done'", tenants=(TENANT,)
        )
    if left:
        raise Unproven(f"{left} rows of the outbox are still open")
    return log.figures(jobs, took)


async def _trio_until(holds: Callable[[], bool]) -> None:
    with trio.fail_after(_DRAIN_SECONDS_MAX):
        while not holds():
            await trio.sleep(0.002)


# ── the peers ────────────────────────────────────────────────────────────────────────────────────────


async def theirs(who: str, dsn: str, jobs: int, seconds: float) -> dict[str, float]:
    """One round of a peer."""
    from bench.peers import job_queues

    log = Log()
    queue = job_queues.procrastinate if who == PROCRASTINATE else job_queues.pgqueuer
    async with queue(dsn, log.started, log.finished) as enqueue:
        await enqueue(0)
        await _asyncio_until(lambda: _ends(log, 1))
        log.starts.clear()
        began = time.perf_counter()
        numbers = iter(range(1, jobs + 1))

        async def producer() -> None:
            for number in numbers:
                await enqueue(number)

        await asyncio.gather(*(producer() for _ in range(PRODUCERS)))
        await _asyncio_until(lambda: _ends(log, 1 + jobs))
        # The end of a job is durable later than the job's own last line.
        await _asyncio_until(lambda: _none_open(job_queues.open_jobs, dsn))
        took = time.perf_counter() - began
        due, tasks = time.monotonic(), []
        for number in range(jobs + 1, jobs + 1 + int(seconds * LATENCY_RATE)):
            due += 1 / LATENCY_RATE
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            log.due[number] = time.perf_counter_ns()
            tasks.append(asyncio.create_task(_awaited(enqueue(number))))
        await asyncio.gather(*tasks)
        await _asyncio_until(lambda: _ends(log, 1 + jobs + len(log.due)))
        await _asyncio_until(lambda: _none_open(job_queues.open_jobs, dsn))
    return log.figures(jobs, took)


async def _awaited(one: Awaitable[object]) -> None:
    await one


async def _ends(log: Log, wanted: int) -> bool:
    return log.ends >= wanted


async def _none_open(open_jobs: Callable[[str], Awaitable[int]], dsn: str) -> bool:
    return await open_jobs(dsn) == 0


async def _asyncio_until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(_DRAIN_SECONDS_MAX):
        while not await holds():
            await asyncio.sleep(0.002)


# ── the bench ────────────────────────────────────────────────────────────────────────────────────────


def contests() -> dict[str, Contest]:
    """By the figure that each asks for; the first one is the bench's headline."""

    def ask(name: str, unit: str, *, less: bool = True) -> Contest:
        return Contest(name=name, unit=unit, ours=OURS, contestants={}, less_is_better=less)

    return {
        "throughput": ask("jobs from enqueueing to their durable end", "per second", less=False),
        "p50": ask(f"p50 from due to start, at {LATENCY_RATE} a second", "ms"),
        "p99": ask(f"p99 from due to start, at {LATENCY_RATE} a second", "ms"),
    }


def one(who: str, dsn: str, database: str, jobs: int, seconds: float) -> None:
    """The child's side: one round, printed."""
    quiet()
    gc.set_threshold(*GC_THRESHOLDS)
    if who == OURS:
        print(json.dumps(trio.run(ours, dsn, database, jobs, seconds)))
        return
    import uvloop

    peer = urlsplit(dsn)._replace(path=f"/{database}").geturl()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(theirs(who, peer, jobs, seconds))))


async def _databases(dsn: str) -> dict[str, str]:
    """A database for each contestant; its name."""
    async with Bridge() as bridge, DatabaseServer(bridge, dsn) as server:
        database = server.own_database(TENANT)
        await server.create_database(database)
        await migrate(server, database, load_migrations(files("storage") / "sql" / "tenant"))
        await upkeep(server, {database: [TENANT]}, now=_wall_ms())

        async def make(name: str) -> None:
            connection = await asyncpg.connect(dsn)
            try:
                await connection.execute(f"CREATE DATABASE {name}")
            finally:
                await connection.close()

        for name in (PROCRASTINATE, PGQUEUER):
            await bridge.run(make, name)
    return {OURS: database, PROCRASTINATE: PROCRASTINATE, PGQUEUER: PGQUEUER}


def _round(who: str, dsn: str, database: str, jobs: int, seconds: float) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "bench.outbox", "--one", who, dsn, database, str(jobs), str(seconds)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if done.returncode:
        raise Unproven(f"{who}: {done.stderr.strip()[-1500:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


async def measure(
    questions: dict[str, Contest], console: Console, *, rounds: int, jobs: int, seconds: float
) -> None:
    """Fill the contests' results."""
    present = [OURS]
    for name in (PROCRASTINATE, PGQUEUER):
        if importlib.util.find_spec(name) is None:
            for question in questions.values():
                question.missing[name] = "not installed (pip install 'mijra[bench]')"
        else:
            present.append(name)
    # Not in memory: fsync has to mean something.
    with tempfile.TemporaryDirectory(prefix="mijra-bench-", dir="/var/tmp") as directory:
        async with embedded_postgres(Path(directory)) as dsn:
            databases = await _databases(dsn)
            for number in range(1, rounds + 1):
                for who in present:
                    title = f"round {number} of {rounds}: {who}"
                    with console.status(title):
                        figures = await trio.to_thread.run_sync(
                            partial(_round, who, dsn, databases[who], jobs, seconds)
                        )
                    for name, question in questions.items():
                        question.results.setdefault(who, []).append(figures[name])
                    console.print(
                        f"{title}: {figures['throughput']:,.0f} jobs/s, start after p50 {figures['p50']:.1f} "
                        f"ms, p99 {figures['p99']:.1f} ms, each started once",
                        highlight=False,
                    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.outbox", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="within 45 s: fewer jobs, five rounds")
    parser.add_argument("--rounds", type=int, default=0, help="default 7, with --quick 5")
    parser.add_argument("--jobs", type=int, default=0, help="of a round; default 5,000, with --quick 300")
    parser.add_argument("--seconds", type=float, default=0, help="of latency; default 5, with --quick 0.5")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        who, dsn, database, jobs, seconds = chosen.one
        one(who, dsn, database, int(jobs), float(seconds))
        return
    quiet()
    console = Console(stderr=chosen.json, soft_wrap=True)
    questions = contests()
    failed: list[str] = []
    try:
        trio.run(
            partial(
                measure,
                questions,
                console,
                rounds=chosen.rounds or (5 if chosen.quick else 7),
                jobs=chosen.jobs or (300 if chosen.quick else 5_000),
                seconds=chosen.seconds or (0.5 if chosen.quick else 5),
            )
        )
    except* Unproven as failures:
        failed = [f"bench.outbox: {one}" for one in flat(failures)]
    if failed:
        sys.exit("\n".join(failed))
    asked = list(questions.values())
    show(asked, console)
    if chosen.plot:
        plot(asked, chosen.plot)
    if chosen.json:
        print(as_json("outbox", asked))


if __name__ == "__main__":
    main()
