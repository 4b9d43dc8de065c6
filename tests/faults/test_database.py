"""The database is away, or does not answer: the edge says so, and later everything is there.

The server of these tests has a PostgreSQL of its own that the test stops, freezes and starts.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trio

from adapters.simulators.builders import Person
from storage.bridge import Bridge
from storage.databases import DatabaseServer
from tests.faults.load import load
from tests.faults.outages import Postgres
from tests.fixtures.system import PLAIN, Json, Line, Server, line, until
from tests.ledger import books_of
from tests.patience import PATIENCE_SECONDS

ANSWER_SECONDS_MAX = 30.0
"""The edge's own deadline is 12 s; the rest is a busy machine."""

TOLD_SECONDS_MAX = 8.0
"""Once the outage is known nobody is kept waiting until that deadline."""


@asynccontextmanager
async def system_with(directory: Path) -> AsyncIterator[tuple[Postgres, Server]]:
    postgres = Postgres(directory / "postgres")
    await postgres.start()
    try:
        server = Server(directory / "server", database_url=postgres.dsn, prefix="away")
        try:
            await trio.to_thread.run_sync(server.start)
            yield postgres, server
        finally:
            await trio.to_thread.run_sync(server.close)
    finally:
        await postgres.stop()


async def refused_meanwhile(phone: Line, seconds: float) -> set[str]:
    """Until the time is over: each webhook and each call is answered 503 with Retry-After, in time. The ids
    that were tried."""
    person = Person(name="Early", wa_id=phone.new_customer())
    until_ = trio.current_time() + seconds
    tried: set[str] = set()
    async with httpx.AsyncClient(
        base_url=phone.server.operator_url, timeout=PATIENCE_SECONDS, **PLAIN
    ) as operator:
        while trio.current_time() < until_:
            wamid = f"wamid.{len(tried)}{person.wa_id}"
            tried.add(wamid)
            body = phone.text_webhook(person, wamid)
            began = trio.current_time()
            answer = await phone.post(body, phone.sign(body))
            assert answer.status_code == 503, answer.text
            assert int(answer.headers["Retry-After"]) >= 1
            took = trio.current_time() - began
            assert took < (TOLD_SECONDS_MAX if len(tried) > KNOWN_AFTER else ANSWER_SECONDS_MAX)
            ready = await operator.get("/health/ready")
            assert ready.status_code == 503
            assert (await operator.get("/health/live")).status_code == 200
            call = await phone.agent.call("GET", "conversations")
            assert (call.status_code, bool(call.headers.get("Retry-After"))) == (503, True), call.text
            await trio.sleep(0.3)
    return tried


@asynccontextmanager
async def under_load(
    phone: Line, accepted: dict[int, Json], outage: Callable[[], AbstractAsyncContextManager[None]]
) -> AsyncIterator[None]:
    """The block runs in the outage; before and after it customers and agents are busy."""
    async with load(phone, lambda one: accepted.update({one["id"]: one}), messages_per_second=15) as seen:

        async def busy(answers: int) -> bool:
            return seen.accepted >= answers and len(phone.sim.ledger.acknowledged()) >= answers

        await until("customers and agents are busy", lambda: busy(5))
        async with outage():
            yield
        answers = seen.accepted + 5
        await until("agents are answered again", lambda: busy(answers), 2 * PATIENCE_SECONDS)
    assert {status for status, _ in seen.errors} <= {503}, seen.errors


async def books_balance(phone: Line, postgres: Postgres, accepted: dict[int, Json], posted: set[str]) -> None:
    async with (
        Bridge() as bridge,
        DatabaseServer(bridge, postgres.dsn, prefix=f"{phone.server.prefix}_") as database,
    ):
        books = await books_of(phone.business, phone.sim, phone.channel_id, database)
        books.accepted.update(accepted)
        books.posted.update(posted)
        await books.settle()
        await books.check()


KNOWN_AFTER = 3
"""Webhooks that may meet a connection of before."""

SECONDS_AWAY = 15.0
"""Longer than the edge's deadline, and than the longest pause between two attempts to reach the database."""


@pytest.mark.slow
async def test_a_database_that_is_away_costs_time_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Webhooks and calls are answered 503 + Retry-After meanwhile, an operator reads why, and all that was
    acknowledged before, during and after is there once."""
    async with system_with(tmp_path_factory.mktemp("away")) as (postgres, server):
        business = await trio.to_thread.run_sync(server.create_business, "own")
        accepted: dict[int, Json] = {}
        async with line(business) as phone:

            @asynccontextmanager
            async def stopped() -> AsyncIterator[None]:
                await postgres.stop()
                try:
                    yield
                finally:
                    await postgres.start()

            since = server.log_size()
            async with under_load(phone, accepted, stopped):
                posted = await refused_meanwhile(phone, SECONDS_AWAY)
                told = await server.logged("webhook.unavailable", since)
                assert (told["status"], told["level"], bool(told["why"])) == (503, "error", True)
            await books_balance(phone, postgres, accepted, posted)
            server.no_tracebacks(since)


@pytest.mark.slow
async def test_a_database_that_does_not_answer_holds_nobody_for_ever(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Frozen, connections and all: a webhook is answered 503 within its deadline, and later all is there."""
    async with system_with(tmp_path_factory.mktemp("frozen")) as (postgres, server):
        business = await trio.to_thread.run_sync(server.create_business, "pooled")
        accepted: dict[int, Json] = {}
        async with line(business) as phone:

            @asynccontextmanager
            async def frozen() -> AsyncIterator[None]:
                with postgres.frozen():
                    yield

            async with under_load(phone, accepted, frozen):
                person = Person(name="Patient", wa_id=phone.new_customer())
                wamid = f"wamid.{person.wa_id}"
                body = phone.text_webhook(person, wamid)
                began = trio.current_time()
                answer = await phone.post(body, phone.sign(body))
                assert (answer.status_code, bool(answer.headers["Retry-After"])) == (503, True)
                assert trio.current_time() - began < ANSWER_SECONDS_MAX
            await books_balance(phone, postgres, accepted, {wamid})
