"""`kill -9` of the server under load, and an ordered stop, with the client's own account of promises.

Each round: customers write and agents answer; the process ends in the middle; it starts again on the same
data; everybody goes on. In the end the books must balance: see `tests.ledger`.
"""

import pytest
import trio

from adapters.simulators.faults import Fault
from storage.databases import DatabaseServer
from tests.faults.load import load
from tests.fixtures.system import Business, line, screen, until
from tests.ledger import books_of

ROUNDS = 3


@pytest.mark.slow
async def test_nothing_acknowledged_is_lost_when_the_server_is_killed(
    fragile: Business, fragile_database: DatabaseServer
) -> None:
    """Three rounds, with sends in flight each time (the platform is slow to answer a third of them)."""
    server = fragile.server
    async with line(fragile) as phone:
        books = await books_of(fragile, phone.sim, phone.channel_id, fragile_database)
        phone.sim.fault(Fault(kind="slow", seconds=0.4, probability=0.3))
        async with load(phone, books.note) as seen:
            for _ in range(ROUNDS):
                before = seen.accepted, len(phone.sim.ledger.acknowledged())

                async def under_way(before: tuple[int, int] = before) -> bool:
                    told = len(phone.sim.ledger.acknowledged())
                    return seen.accepted >= before[0] + 8 and told >= before[1] + 25

                await until("customers and agents are busy", under_way)
                await trio.to_thread.run_sync(server.kill)
                await trio.sleep(0.3)  # webhooks and calls meet a closed door
                await trio.to_thread.run_sync(server.start)
        phone.sim.clear_faults()
        await books.settle()
        await books.check()
        told = len(phone.sim.ledger.acknowledged())
        assert told >= ROUNDS * 25
        assert len(books.accepted) >= ROUNDS * 8


@pytest.mark.slow
async def test_an_ordered_stop_under_load_loses_nothing_and_answers_no_error(
    fragile: Business, fragile_database: DatabaseServer
) -> None:
    """SIGTERM: what was taken is answered, screens are told to come back, the process ends with status 0."""
    server = fragile.server
    since = server.log_size()
    async with line(fragile) as phone, screen(fragile) as desk:
        books = await books_of(fragile, phone.sim, phone.channel_id, fragile_database)
        async with load(phone, books.note) as seen:

            async def under_way() -> bool:
                return seen.accepted >= 8 and len(phone.sim.ledger.acknowledged()) >= 25

            await until("customers and agents are busy", under_way)
            server.terminate()
            status = await trio.to_thread.run_sync(server.wait_stopped)
            refused = list(seen.errors)
            posted = [attempt.outcome for attempt in phone.sim.ledger.attempts]
            await trio.to_thread.run_sync(server.start)
        assert status == 0
        assert not refused
        assert not [outcome for outcome in posted if outcome.startswith("5")]
        assert await desk.wait_closed() == 4200
        await server.logged("server.stopped", since)
        server.no_tracebacks(since)
        await books.settle()
        await books.check()
