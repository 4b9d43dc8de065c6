"""One fault after another under load, on one system: each costs time, and in the end the books balance.

The same kinds, at random and for as long as one likes: `python -m bench.chaos`.
"""

import os
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from msgspec import Struct

from storage.bridge import Bridge
from storage.databases import DatabaseServer
from tests.faults.load import load
from tests.faults.outages import Postgres, Volume, mounted_volume
from tests.fixtures.system import Line, Server, line, until
from tests.ledger import books_of
from tests.patience import PATIENCE_SECONDS
from tests.storage.proxy import Act, Proxy, lose_the_answer, lose_the_commit, proxied

VOLUME_BYTES = 1024**3
"""Sparse; the cluster needs a tenth."""

ANSWERED_AGAIN_SECONDS_MAX = 2 * PATIENCE_SECONDS


class Place(Struct, kw_only=True):
    """What can break."""

    volume: Volume
    postgres: Postgres
    proxy: Proxy
    server: Server


@asynccontextmanager
async def place() -> AsyncIterator[Place]:
    # Not pytest's: other runs move and clear that away, also while something is mounted in it. And a socket's
    # path has at most 107 bytes.
    with (
        tempfile.TemporaryDirectory(prefix="mijra-") as sockets,
        tempfile.TemporaryDirectory(prefix="mijra-") as name,
        mounted_volume(Path(name), VOLUME_BYTES) as volume,
    ):
        directory = Path(name)
        postgres = Postgres(volume.path / "postgres")
        await postgres.start()
        try:
            async with proxied(postgres.dsn, Path(sockets)) as proxy:
                server = Server(
                    directory / "server",
                    database_url=proxy.dsn,
                    prefix="battered",
                    outbound_unknown_wait_seconds=1,
                )
                try:
                    await trio.to_thread.run_sync(server.start)
                    yield Place(volume=volume, postgres=postgres, proxy=proxy, server=server)
                finally:
                    await trio.to_thread.run_sync(server.close)
        finally:
            await postgres.stop()


# ── the faults ───────────────────────────────────────────────────────────────────────────────────────


async def stop_the_server_for_a_moment(on: Place) -> None:
    """Connections stay open, and nobody answers on them."""
    os.kill(on.server.pid, signal.SIGSTOP)
    await trio.sleep(2)
    os.kill(on.server.pid, signal.SIGCONT)


Strike = Callable[[Place], Awaitable[None]]


def cut(how: Act) -> Strike:
    async def at_the_next_commit(on: Place) -> None:
        before = on.proxy.cuts
        on.proxy.at_commit = how

        async def done() -> bool:
            return on.proxy.cuts > before

        await until("a commit passes by", done)

    return at_the_next_commit


async def kill_between_commit_and_answer(on: Place) -> None:
    """The server dies when PostgreSQL has committed and it has not heard so."""
    await cut(on.proxy.withhold_the_answer(1.0))(on)
    await trio.to_thread.run_sync(on.server.kill)
    await trio.to_thread.run_sync(on.server.start)


async def cut_everything(on: Place) -> None:
    await on.proxy.cut_all()


async def kill_postgres(on: Place) -> None:
    """kill -9 of the postmaster, as the kernel does it when memory is short."""
    on.postgres.kill()
    await on.postgres.stop()
    await on.postgres.start()


async def fill_the_disk(on: Place) -> None:
    """First the tables cannot grow, then the WAL: a PANIC, and perhaps no recovery until there is room."""
    if not on.volume.mounted:
        return
    with on.volume.full():
        await trio.sleep(2)
    await trio.sleep(0.5)
    if not on.postgres.alive:
        await on.postgres.stop()
        await on.postgres.start()


FAULTS: dict[str, Strike] = {
    "the server stops for a moment": stop_the_server_for_a_moment,
    "cut before the COMMIT arrived": cut(lose_the_commit),
    "cut after the COMMIT, before its answer": cut(lose_the_answer),
    "all connections cut": cut_everything,
    "the server dies between commit and answer": kill_between_commit_and_answer,
    "PostgreSQL is killed": kill_postgres,
    "the disk is full": fill_the_disk,
}


@pytest.mark.slow
async def test_one_fault_after_another_loses_and_doubles_nothing(bridge: Bridge) -> None:
    """After each fault customers and agents are answered again; the only refusals are 503."""
    async with place() as on:
        business = await trio.to_thread.run_sync(on.server.create_business, "own")
        async with (
            DatabaseServer(bridge, on.postgres.dsn, prefix="battered_") as database,
            line(business) as phone,
        ):
            books = await books_of(business, phone.sim, phone.channel_id, database)
            async with load(phone, books.note, messages_per_second=40) as seen:
                await answered(phone, 3, lambda: seen.accepted, "at the start")
                for name, strike in FAULTS.items():
                    await strike(on)
                    await answered(phone, seen.accepted + 2, lambda: seen.accepted, f"after: {name}")
            assert {status for status, _ in seen.errors} <= {503}, seen.errors
            await books.settle()
            await books.check()
        on.server.no_tracebacks()
        if not on.volume.mounted:
            pytest.skip(f"all but the full disk was tried: {on.volume.why_not}")


async def answered(phone: Line, replies: int, accepted: Callable[[], int], when: str) -> None:
    """Until so many replies and some more messages than now are acknowledged."""
    told = len(phone.sim.ledger.acknowledged()) + 10

    async def busy() -> bool:
        return accepted() >= replies and len(phone.sim.ledger.acknowledged()) >= told

    await until(f"customers and agents are answered {when}", busy, ANSWERED_AGAIN_SECONDS_MAX)
