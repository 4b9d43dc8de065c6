"""What breaks, one kind each. A fault returns at its end, from which the recovery is measured.

`DECK` says how often each kind comes up in a deck; decks are shuffled by the seed, and the run deals from one
after the other, so every kind has its turn and the order is the seed's alone.
"""

import os
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec
import trio

from adapters.simulators.faults import Fault
from bench.chaos.system import System
from bench.listener import ListenerClosed, open_listener
from bench.servers import StartFailed

LONGER_THAN_PATIENCE_SECONDS: Final = 13.0
"""The edge answers 503 after 12 s; whoever is stopped for longer finds everybody gone."""

STALLED_EACH: Final = 20
"""Stalled heads, dribbled bodies and screens that never read, so many of each."""

_STALLING_SECONDS_MAX: Final = 10.0


class Chaos:
    """The faults of one run against one system."""

    def __init__(self, on: System, rng: random.Random) -> None:
        self.on = on
        self.rng = rng
        self.kinds: Final[dict[str, Callable[[], Awaitable[None]]]] = {
            "server: kill -9": self.kill,
            "server: kill -9 between commit and answer": self.kill_in_commit,
            "server: SIGTERM and start": self.terminate,
            "server: stopped briefly": self.pause,
            "server: stopped for longer than any timeout": self.pause_long,
            "postgres: restarted": self.restart_postgres,
            "postgres: kill -9 of the postmaster": self.kill_postmaster,
            "postgres: kill -9 of a backend": self.kill_backend,
            "postgres: stopped briefly": self.freeze_postgres,
            "postgres: stopped for longer than any timeout": self.freeze_postgres_long,
            "connection: cut before the COMMIT arrived": lambda: self.cut("commit_lost"),
            "connection: cut after the COMMIT, before its answer": lambda: self.cut("answer_lost"),
            "connection: cut, the COMMIT arrives late": lambda: self.cut("commit_late"),
            "connection: cut, the transaction lingers": lambda: self.cut("abort_late"),
            "connection: all cut at once": lambda: self.cut("cut_all"),
            "disk: full": self.fill_disk,
            "clients: stalled and dribbling": self.stalled_clients,
            "platform: down": self.platform_down,
            "platform: hangs, taking or not": self.platform_hangs,
        }
        self.skipped: dict[str, str] = {}
        if not on.volume.mounted:
            self.skipped["disk: full"] = on.volume.why_not
        self._dealt: list[str] = []
        self._ended: list[float] = []

    async def strike(self, kind: str) -> float:
        """Do it; when it was over, on `time.monotonic`."""
        self._ended.clear()
        await self.kinds[kind]()
        return self._ended[0] if self._ended else time.monotonic()

    def deal(self) -> str:
        """The next round's kind."""
        if not self._dealt:
            self._dealt = [
                kind for kind in self.kinds for _ in range(DECK.get(kind, 2)) if kind not in self.skipped
            ]
            self.rng.shuffle(self._dealt)
        return self._dealt.pop()

    # ---------------------------------------------------------------- the server

    async def kill(self) -> None:
        await trio.to_thread.run_sync(self.on.server.kill)
        await trio.sleep(self.rng.uniform(0, 0.5))
        self._launch()

    async def kill_in_commit(self) -> None:
        await self.on.proxy.act("answer_withheld")
        await self.kill()

    async def terminate(self) -> None:
        status = await self.on.server.terminated()
        if status != 0:
            raise StartFailed(f"SIGTERM ended the server with status {status}")
        self._launch()

    def _launch(self) -> None:
        """The recovery is measured from here on, so it contains the start."""
        self._ended.append(time.monotonic())
        self.on.server.launch()

    async def pause(self) -> None:
        await self._pause(self.rng.uniform(0.3, 4))

    async def pause_long(self) -> None:
        await self._pause(LONGER_THAN_PATIENCE_SECONDS)

    async def _pause(self, seconds: float) -> None:
        self.on.server.send_signal(signal.SIGSTOP)
        try:
            await trio.sleep(seconds)
        finally:
            self.on.server.send_signal(signal.SIGCONT)

    # ---------------------------------------------------------------- PostgreSQL and the way to it

    async def restart_postgres(self) -> None:
        await self.on.postgres.stop()
        await trio.sleep(self.rng.uniform(0, 1))
        await self._start_postgres()

    async def kill_postmaster(self) -> None:
        self.on.postgres.kill()
        await trio.sleep(self.rng.uniform(0, 0.5))
        await self.on.postgres.stop()
        await self._start_postgres()

    async def kill_backend(self) -> None:
        """The postmaster then throws everybody out and recovers by itself."""
        backends = [pid for pid in self.on.postgres.children() if _is_backend(pid)]
        if backends:
            _kill(self.rng.choice(backends))

    async def freeze_postgres(self) -> None:
        with self.on.postgres.frozen():
            await trio.sleep(self.rng.uniform(0.3, 4))

    async def freeze_postgres_long(self) -> None:
        with self.on.postgres.frozen():
            await trio.sleep(LONGER_THAN_PATIENCE_SECONDS)

    async def cut(self, how: str) -> None:
        await self.on.proxy.act(how)

    async def fill_disk(self) -> None:
        with self.on.volume.full():
            await trio.sleep(self.rng.uniform(2, 4))
        # A full disk under the WAL is a PANIC, and where recovery finds no room either, the end.
        await trio.sleep(0.5)
        if not self.on.postgres.alive:
            await self.on.postgres.stop()
            await self._start_postgres()

    async def _start_postgres(self) -> None:
        self._ended.append(time.monotonic())
        await self.on.postgres.start()

    # ---------------------------------------------------------------- clients and the platform

    async def stalled_clients(self) -> None:
        async with stalled(self.on, STALLED_EACH):
            await trio.sleep(self.rng.uniform(2, 4))

    async def platform_down(self) -> None:
        seconds = self.rng.uniform(1, 5)
        self.on.platform.go_down(seconds)
        await trio.sleep(seconds)

    async def platform_hangs(self) -> None:
        seconds = self.rng.uniform(1, 3)
        for accepts in (True, False):
            self.on.platform.fault(
                Fault(kind="hang", accepts=accepts, seconds=1.0, probability=0.4, for_seconds=seconds)
            )
        await trio.sleep(seconds)


DECK: Final = {
    "server: kill -9": 4,
    "server: kill -9 between commit and answer": 3,
    "postgres: kill -9 of the postmaster": 3,
    # These take long and say little more the second time.
    "server: stopped for longer than any timeout": 1,
    "postgres: stopped for longer than any timeout": 1,
}
"""Two of each other kind."""


def _is_backend(pid: int) -> bool:
    """A session, by the title that PostgreSQL gives its processes."""
    try:
        title = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return title.startswith(b"postgres: ") and b"[local]" in title


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


# ── clients that hold on ─────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def stalled(on: System, each: int) -> AsyncIterator[None]:
    """`each` connections with half a head, `each` that dribble a body, `each` screens that never read."""
    async with AsyncExitStack() as stack:
        streams = [
            await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", on.server.port))
            for _ in range(2 * each)
        ]
        for stream in streams[:each]:
            await stream.send_all(b"POST /api/webhooks/whatsapp HTTP/1.1\r\nHost: x\r\nX-Half")
        for stream in streams[each:]:
            await stream.send_all(
                b"POST /api/webhooks/whatsapp HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n{"
            )
        with trio.move_on_after(_STALLING_SECONDS_MAX):
            for number in range(each):
                business = on.businesses[number % len(on.businesses)]
                login = {"type": "auth", "token": business.token, "tenant": business.slug}
                try:
                    opened = open_listener(f"ws://127.0.0.1:{on.server.port}/ws")
                    listener = await stack.enter_async_context(opened)
                    await listener.send(msgspec.json.encode(login))
                    await listener.receive()
                    await listener.send(b'{"type":"subscribe","channel":"inbox"}')
                except (ListenerClosed, OSError, trio.BrokenResourceError, trio.TooSlowError):
                    continue
        async with trio.open_nursery() as nursery:
            for stream in streams[each:]:
                nursery.start_soon(_dribble, stream)
            yield
            nursery.cancel_scope.cancel()


async def _dribble(stream: trio.SocketStream) -> None:
    try:
        while True:
            await stream.send_all(b" ")
            await trio.sleep(0.2)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
