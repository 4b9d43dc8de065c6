"""What runs under the faults: PostgreSQL on a volume of its own, the proxy, the server, its businesses."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import trio
from msgspec import Struct

from adapters.simulators import Simulator, WhatsAppAccount, demo_account
from adapters.simulators.settings import Settings as Habits
from bench.harness import Missing
from bench.servers import ROOT, StartFailed, free_port
from tests.faults.outages import Postgres, Volume, mounted_volume

PLACEMENTS: Final = ("own", "pooled")
VOLUME_BYTES: Final = 24 * 1024**3
"""Sparse, so only what is written counts: a million messages with their events and bodies are some 6 GB."""
_START_SECONDS_MAX: Final = 120

HABITS: Final = Habits(
    window_enforced=False,
    sent_seconds=(0.01, 0.1),
    delivered_seconds=(0.01, 0.1),
    read_seconds=(0.01, 0.2),
    retry_gaps_seconds=(0.3, 0.5, 1.0, 2.0),
)
"""A platform that tells quickly what became of a send. Customers' messages do not go through it."""


# ── the proxy ────────────────────────────────────────────────────────────────────────────────────────


class CommitProxy:
    """`bench.chaos.proxy` as seen from here."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.dsn = ""
        self._process = process

    async def line(self) -> str:
        """Its next line. Raises StartFailed when it ends, TooSlowError after 20 s."""
        assert self._process.stdout is not None
        descriptor, text = self._process.stdout.fileno(), b""
        with trio.fail_after(20):
            while not text.endswith(b"\n"):
                await trio.lowlevel.wait_readable(descriptor)
                byte = os.read(descriptor, 1)
                if not byte:
                    raise StartFailed("the proxy ended")
                text += byte
        return text.decode().strip()

    async def act(self, what: str) -> None:
        """Arm it, and return when it has cut."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what}\n".encode())
        self._process.stdin.flush()
        await self.line()


@asynccontextmanager
async def commit_proxy(dsn: str, directory: Path) -> AsyncIterator[CommitProxy]:
    await trio.Path(directory).mkdir()
    command = [sys.executable, "-m", "bench.chaos.proxy", dsn, str(directory)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: ASYNC220
    try:
        proxy = CommitProxy(process)
        proxy.dsn = await proxy.line()
        yield proxy
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


# ── the server ───────────────────────────────────────────────────────────────────────────────────────


class Server:
    """`mijra serve` on ports and data that stay, however often it is started."""

    def __init__(self, data_dir: Path, database_url: str, platform_port: int) -> None:
        self.data_dir = data_dir
        self.port = free_port()
        self.base_url = f"http://127.0.0.1:{self.port}"
        self.token = ""
        self.operator_url = ""
        self.log = data_dir / "server.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._given: Final = {
            "DATA_DIR": str(data_dir),
            "DATABASE_URL": database_url,
            "DATABASE_PREFIX": "chaos",
            "PORT": str(self.port),
            "OPERATOR_PORT": "0",
            "LOG_LEVEL": "warning",
            "LOG_FORMAT": "json",
            "OUTBOUND_UNKNOWN_WAIT_SECONDS": "2",
            "ALLOW_PRIVATE_MEDIA_HOSTS": f"127.0.0.1:{platform_port}",
        }
        data_dir.mkdir(parents=True, exist_ok=True)

    def launch(self) -> None:
        """Start it and return at once."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MIJRA_")}
        environment |= {f"MIJRA_{name}": value for name, value in self._given.items()}
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-c", "from gateway.cli import main; main()", "serve"],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    async def until_ready(self) -> None:
        """Raises StartFailed with the end of its log when it ends, or is not ready in time."""
        deadline = time.monotonic() + _START_SECONDS_MAX
        while time.monotonic() < deadline and self.running:
            try:
                known = json.loads((self.data_dir / "server.json").read_bytes())
            except (FileNotFoundError, json.JSONDecodeError):
                known = {}
            # A killed server leaves its file behind.
            if known.get("pid") == self.pid:
                self.token, self.operator_url = known["token"], known["operator_url"]
                return
            await trio.sleep(0.02)
        tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])
        raise StartFailed(f"the server did not start:\n{tail}")

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def send_signal(self, which: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(which)

    async def terminated(self) -> int:
        """Ask for an ordered stop; its exit status."""
        assert self._process is not None
        self._process.terminate()
        with trio.move_on_after(60):
            while self._process.poll() is None:
                await trio.sleep(0.02)
        self.kill()
        return self._process.returncode

    def memory_bytes(self) -> int:
        """Resident, 0 when it does not run."""
        try:
            fields = Path(f"/proc/{self.pid}/statm").read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            return 0
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if len(fields) > 1 else 0

    def close(self) -> None:
        if self._process is not None:
            # A stopped process does not hear SIGTERM.
            self.send_signal(signal.SIGCONT)
            self._process.terminate()
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()

    def tracebacks(self) -> int:
        """Log lines that carry an exception: bugs, not faults from outside."""
        found = 0
        with self.log.open("rb") as file:
            for line in file:
                found += b'"exception"' in line or line.startswith(b"Traceback")
        return found


class Business(Struct, kw_only=True):
    """A tenant with its number, its owner's token and the name of its database."""

    id: int
    slug: str
    placement: str
    token: str
    account: WhatsAppAccount
    channel_id: int = 0


class System(Struct, kw_only=True):
    """All of it, running."""

    volume: Volume
    postgres: Postgres
    proxy: CommitProxy
    server: Server
    platform: Simulator
    businesses: list[Business]


@asynccontextmanager
async def system(directory: Path, seed: int) -> AsyncIterator[System]:
    """Start everything on fresh data. StartFailed when something does not start."""
    accounts = [demo_account(number) for number in range(len(PLACEMENTS))]
    platform_port = free_port()
    with mounted_volume(directory, VOLUME_BYTES) as volume:
        postgres = Postgres(volume.path / "postgres")
        await postgres.start()
        try:
            async with (
                commit_proxy(postgres.dsn, directory / "proxy") as proxy,
                Simulator(accounts, seed=seed, settings=HABITS).running(port=platform_port) as platform,
            ):
                server = Server(directory / "server", proxy.dsn, platform_port)
                try:
                    server.launch()
                    await server.until_ready()
                    businesses = [
                        await _found(server, placement, account, platform)
                        for placement, account in zip(PLACEMENTS, accounts, strict=True)
                    ]
                    await platform.connect(f"{server.base_url}/api/webhooks/whatsapp", check=False)
                    yield System(
                        volume=volume,
                        postgres=postgres,
                        proxy=proxy,
                        server=server,
                        platform=platform,
                        businesses=businesses,
                    )
                finally:
                    with trio.CancelScope(shield=True):
                        await trio.to_thread.run_sync(server.close)
        finally:
            with trio.CancelScope(shield=True):
                await postgres.stop()


async def _found(server: Server, placement: str, account: WhatsAppAccount, platform: Simulator) -> Business:
    """A business with its number connected."""
    owner = {
        "email": f"owner@{placement}.example",
        "name": "Olga",
        "password": "correct horse battery staple",
    }
    tenant = await call(
        server,
        server.token,
        "landlord/tenants",
        {"slug": placement, "name": placement, "placement": placement, "timezone": "UTC", "owner": owner},
    )
    token = await call(
        server,
        server.token,
        "landlord/tokens",
        {"tenant": placement, "email": owner["email"], "name": "chaos"},
    )
    business = Business(
        id=tenant["id"], slug=placement, placement=placement, token=token["token"], account=account
    )
    channel = await call(
        server,
        business.token,
        f"{placement}/channels",
        {
            "platform": "whatsapp",
            "name": placement,
            "external_id": account.phone_number_id,
            "business_account_id": account.waba_id,
            "credentials": {
                "access_token": account.access_token,
                "app_secret": account.app_secret,
                "verify_token": account.verify_token,
            },
            "settings": {"base_url": platform.base_url},
        },
    )
    business.channel_id = channel["id"]
    return business


async def call(server: Server, token: str, path: str, body: dict[str, Any]) -> Any:
    """The data of a POST that must succeed."""
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=f"{server.base_url}/api/", headers=headers, timeout=60) as client:
        answer = await client.post(path, json=body)
    if not answer.is_success:
        raise StartFailed(f"{path} was answered {answer.status_code}: {answer.text[:300]}")
    return answer.json()["data"]


def needed() -> None:
    """Raise Missing for what the bench cannot do without."""
    if sys.platform != "linux":
        raise Missing("chaos stops and counts processes by way of /proc, so it needs Linux")
