"""Procrastinate and PgQueuer, each as its documentation sets it up: jobs in PostgreSQL, one worker.

A `Queue` puts a number in, durably, and runs `started(number)` as the job. Producers and worker share one
process and loop (uvloop), as ours do.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg

CONCURRENCY = 64

Enqueue = Callable[[int], Awaitable[object]]
Started = Callable[[int], None]


@asynccontextmanager
async def procrastinate(dsn: str, started: Started, finished: Started) -> AsyncIterator[Enqueue]:
    from procrastinate import App, PsycopgConnector

    app = App(connector=PsycopgConnector(conninfo=dsn, max_size=10))

    @app.task(name="send", queue="outbox")
    async def send(number: int) -> None:
        started(number)
        finished(number)

    async with app.open_async():
        if not await _has(dsn, "procrastinate_jobs"):
            await app.schema_manager.apply_schema_async()
        worker = asyncio.create_task(
            app.run_worker_async(queues=["outbox"], concurrency=CONCURRENCY, install_signal_handlers=False)
        )

        async def enqueue(number: int) -> object:
            return await send.defer_async(number=number)

        try:
            yield enqueue
        finally:
            worker.cancel()
            await asyncio.gather(worker, return_exceptions=True)


@asynccontextmanager
async def pgqueuer(dsn: str, started: Started, finished: Started) -> AsyncIterator[Enqueue]:
    from pgqueuer import AsyncpgPoolDriver, Job, Queries, QueueManager

    async with asyncpg.create_pool(dsn, min_size=2, max_size=10) as pool:
        driver = AsyncpgPoolDriver(pool)
        queries = Queries(driver)
        if not await _has(dsn, "pgqueuer"):
            await queries.install()
        manager = QueueManager(queries)

        @manager.entrypoint("send")
        async def send(job: Job) -> None:
            number = int(job.payload or b"0")
            started(number)
            finished(number)

        worker = asyncio.create_task(manager.run(batch_size=CONCURRENCY))

        async def enqueue(number: int) -> object:
            return await queries.enqueue("send", str(number).encode())

        try:
            yield enqueue
        finally:
            manager.shutdown.set()
            worker.cancel()
            await asyncio.gather(worker, return_exceptions=True)


async def _has(dsn: str, table: str) -> bool:
    connection = await asyncpg.connect(dsn)
    try:
        return bool(await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", table))
    finally:
        await connection.close()


async def open_jobs(dsn: str) -> int:
    """Jobs that are not finished."""
    connection = await asyncpg.connect(dsn)
    try:
        if await connection.fetchval("SELECT to_regclass('procrastinate_jobs') IS NOT NULL"):
            sql = "SELECT count(*) FROM procrastinate_jobs WHERE status IN ('todo', 'doing')"
        else:
            sql = "SELECT count(*) FROM pgqueuer"
        return int(await connection.fetchval(sql))
    finally:
        await connection.close()
