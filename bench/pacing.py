"""P8: how near to a platform's limit, and never over it, beside Celery's rate_limit.

    python -m bench.pacing [--quick] [--json] [--plot FILE.png] [--rounds N] [--seconds S]

Two accounts send at once, one that may send 80 messages a second and one that may send 1,000, each with more
to send than that. The platform is bench/platform_stub.py, in a process of its own: it answers after 50 ms and
notes when the kernel had each call. Then every window is looked at: the second that begins with each arrival,
and, for the one recipient whom half of the first account's messages are for, every stretch of t seconds
against 45 + t / 6 (WhatsApp sheet, 6.1).

Ours is the real channel actor with its pacing and the real WhatsApp sender over HTTP, on the runtime. The
store beneath is in memory and says "durable" after 2 to 12 ms, as a busy writer does; what the outbox costs
with PostgreSQL is `bench.outbox`'s to say. Celery is one worker with threads and a Redis that persists
nothing, a task with a rate_limit for each account; it has no limit for a recipient.

"Share" is what arrived in the whole seconds from the first arrival on, of the most that is allowed in them.
"""

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import count
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, Final

import httpx
import trio
from rich.console import Console

from adapters.channel import Channels
from adapters.guard import Guard
from adapters.port import Account
from adapters.simulators.accounts import demo_account
from adapters.whatsapp.limits import PAIR_BURST, PAIR_SECONDS
from adapters.whatsapp.sending import WhatsAppSender
from bench.client import LoadClient
from bench.harness import Contest, Missing, as_json, plot, show
from bench.rounds import OURS, flat, quiet
from bench.servers import ROOT, StartFailed, child, first_line, redis_server, until_exists
from bench.webhooks import Traffic
from bench.windows import over_limit, over_pair_limit, share_used
from engine.domain.conversation.messages import KIND as CONVERSATION_KIND
from engine.domain.conversation.messages import OutboxVerdict
from engine.domain.outbound import OutboxItem, SendText, Sent
from engine.domain.outbox import Deliver, Refresh, channel_address
from engine.errors import CommitFailed, NotFound
from engine.ports import MediaFile
from engine.runtime import Address, Context, Decider, Effects, Lane, LoadRequest, Supervisor, System

CELERY: Final = "celery"
RATES: Final = (80, 1000)
ANSWER_MS: Final = 50
TENANT: Final = 1
# More than fifty calls are under way at 1,000 a second and 50 ms.
CONCURRENCY: Final = 128
CHATTY: Final = "+201000000000"


class MemoryStore:
    """`Committer` and `OutboxStore` for the channel: it takes its time, and knows what is open."""

    def __init__(self) -> None:
        self._random = Random(1)
        self._waiting: deque[Callable[[CommitFailed | None], None]] = deque()
        self._wake = trio.Event()
        self.open: dict[int, OutboxItem] = {}

    def submit(
        self,
        address: Address,
        generation: int,
        rows: Sequence[object],
        done: Callable[[CommitFailed | None], None],
    ) -> None:
        self._waiting.append(done)
        self._wake.set()

    def has_room(self, tenant: int, lane: Lane = Lane.NORMAL) -> bool:
        return True

    def when_room(self, callback: Callable[[], None]) -> None:
        callback()

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            await trio.sleep(self._random.uniform(0.002, 0.012))
            batch, self._waiting = self._waiting, deque()
            for done in batch:
                done(None)

    async def load_outbox(
        self, tenant_id: int, channel_id: int, *, after_id: int, limit: int
    ) -> Sequence[OutboxItem]:
        found = [item for item in self.open.values() if item.channel_id == channel_id and item.id > after_id]
        return sorted(found, key=lambda item: item.id)[:limit]

    async def load_pending_media(self, tenant_id: int, *, after_id: int, limit: int) -> Sequence[Any]:
        return []

    async def open_work(self, tenant_id: int) -> Any:
        raise NotImplementedError("nobody wakes up here")


class NoMedia:
    """`MediaStore` without files."""

    async def write(
        self, key: str, chunks: Callable[[], Awaitable[bytes]], *, media_type: str, bytes_max: int
    ) -> MediaFile:
        raise NotImplementedError("texts only")

    async def read(self, key: str) -> bytes:
        raise NotFound("texts only")

    async def delete(self, key: str) -> None:
        raise NotImplementedError("texts only")


class Ours:
    """The runtime with channel actors; a round uses channels of its own."""

    name = OURS

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self._accounts: dict[int, Account] = {}
        self._sent: dict[int, int] = {}
        self._store = MemoryStore()
        host = base_url.removeprefix("http://")
        self._sender = WhatsAppSender(NoMedia(), Guard(allowed={host}))
        self._ids = count(1)
        self._channels = channels = Channels(
            ask=self._ask,
            committer=self._store,
            store=self._store,
            senders={"whatsapp": self._sender},
            accounts=lambda tenant_id, channel_id: self._accounts.get(channel_id),
            wall_ms=_wall_ms,
            random=Random(2),
            unknown_wait_seconds=30.0,
            on_trouble=lambda trouble: None,
        )
        conversation = Decider(kind=CONVERSATION_KIND, decide=self._decide, load=_load)
        self._system: System = System(
            tenant=Supervisor(name="tenant", children=[conversation, channels.worker()]),
            committer=self._store,
            ids=self._ids.__next__,
            wall_ms=_wall_ms,
            random=Random(3),
            config_for=lambda tenant: None,
            dead_letter=lambda letter: (),
        )

    async def _ask(self, address: Address, message: object, *, timeout_seconds: float) -> Any:
        return await self._system.ask(address, message, timeout_seconds=timeout_seconds)

    def _decide(self, state: object, message: object, context: Context) -> Effects | None:
        assert isinstance(message, OutboxVerdict)
        if isinstance(message.outcome, Sent):
            key = context.address.key
            assert isinstance(key, tuple)
            channel_id = key[0]
            assert isinstance(channel_id, int)
            self._sent[channel_id] += 1
            self._store.open.pop(message.outbox_id, None)
        return Effects(commit=(message,))

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Ours"]:
        async with self._sender, trio.open_nursery() as nursery:
            nursery.start_soon(self._store.run)
            await nursery.start(self._system.run)
            yield self
            await self._system.stop(5)
            nursery.cancel_scope.cancel()

    async def send(self, accounts: dict[int, str], seconds: float) -> None:
        """Keep both accounts busy for so long; what is left over then is forgotten with its channel."""
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                for rate, account in accounts.items():
                    nursery.start_soon(self._feed, rate, account)
        # Without an account nothing more goes out.
        channel_ids = list(self._accounts)
        self._accounts.clear()
        self._store.open.clear()
        for channel_id in channel_ids:
            await self._system.tell(channel_address(TENANT, channel_id), Refresh())

    async def _feed(self, rate: int, account: str) -> None:
        channel_id = next(self._ids)
        self._sent[channel_id] = 0
        self._accounts[channel_id] = Account(
            tenant_id=TENANT,
            channel_id=channel_id,
            platform="whatsapp",
            external_id=account,
            credentials={"access_token": "token"},
            settings={
                "base_url": self._base_url,
                "messages_per_second": rate,
                "concurrency": CONCURRENCY if rate > 100 else 32,
            },
        )
        address = channel_address(TENANT, channel_id)
        for delivered in count():
            # Half a second's worth ahead, and for the one who gets no more: never idle.
            while delivered - self._sent[channel_id] > rate / 2 + 60:
                await trio.sleep(0.02)
            recipient = recipient_of(rate, delivered)
            item = OutboxItem(
                id=next(self._ids),
                tenant_id=TENANT,
                channel_id=channel_id,
                conversation_id=1,
                contact_key=recipient,
                message_id=delivered + 1,
                recipient=recipient,
                lane=1,
                state="queued",
                attempts=0,
                not_before=0,
                send=SendText(body=TEXT),
                reply_to=None,
                trace="",
                created_at=_wall_ms(),
            )
            self._store.open[item.id] = item
            while not self._system.offer(address, Deliver(item)):
                await trio.sleep(0.001)


TEXT: Final = "Your order is on its way. Thank you for your patience, and have a nice day."


def recipient_of(rate: int, number: int) -> str:
    """Everybody in turn; in the slow account every other message is for one person, up to 60."""
    if rate == RATES[0] and number % 2 and number < 2 * 60:
        return CHATTY
    return f"+2010{number % 5000 + 1:08d}"


async def _load(requests: Sequence[LoadRequest]) -> Sequence[Any]:
    return [[] for _ in requests]


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


class Celery:
    """One worker; it stands still (SIGSTOP) while tasks are put into Redis and while others have their
    turn."""

    name = CELERY

    def __init__(self, base_url: str, app: Any, worker: subprocess.Popen[bytes]) -> None:
        self._base_url = base_url
        self._app = app
        self._worker = worker

    async def send(self, accounts: dict[int, str], seconds: float) -> None:
        self._worker.send_signal(signal.SIGSTOP)
        wanted = await trio.to_thread.run_sync(self._enqueue, accounts, seconds)
        self._worker.send_signal(signal.SIGCONT)
        # Until all are through, so that nothing of this round is in the next one.
        with trio.move_on_after(max(10, 4 * seconds)):
            for account, number in wanted.items():
                while len((await arrivals(self._base_url, account))[0]) < number:
                    await trio.sleep(0.2)

    def _enqueue(self, accounts: dict[int, str], seconds: float) -> dict[str, int]:
        tasks = []
        for rate, account in accounts.items():
            url = f"{self._base_url}/v25.0/{account}/messages"
            for number in range(int(rate * seconds)):
                body = {
                    "messaging_product": "whatsapp",
                    "recipient_type": "individual",
                    "to": recipient_of(rate, number),
                    "type": "text",
                    "text": {"body": TEXT},
                }
                tasks.append((number / rate, rate, url, body))
        tasks.sort(key=lambda task: task[0])
        with self._app.producer_pool.acquire(block=True) as producer:
            for _, rate, url, body in tasks:
                self._app.send_task(f"send_{rate}", (url, body), producer=producer)
        return {account: int(rate * seconds) for rate, account in accounts.items()}


@asynccontextmanager
async def celery(base_url: str, directory: Path) -> AsyncIterator[Celery]:
    """Redis and the worker. Raises Missing when something of it is not installed."""
    missing = [name for name in ("celery", "redis") if importlib.util.find_spec(name) is None]
    if missing:
        raise Missing(f"not installed: {', '.join(missing)}")
    redis = redis_server()
    redis_socket = directory / "redis.sock"
    command = [redis, "--port", "0", "--unixsocket", str(redis_socket), "--save", "", "--appendonly", "no"]
    async with child(command, directory / "redis.log"):
        await until_exists(redis_socket, directory / "redis.log")
        environment = {"PEER_REDIS_SOCKET": str(redis_socket)}
        work = [sys.executable, "-m", "celery", "-A", "bench.peers.celery_pacing", "worker", "-P", "threads"]
        work += ["-c", str(CONCURRENCY), "--without-gossip", "--without-mingle", "--without-heartbeat"]
        work += ["-l", "error"]
        async with child(work, directory / "celery.log", environment) as worker:
            os.environ.update(environment)
            app = (await trio.to_thread.run_sync(_celery_app)).app
            contestant = Celery(base_url, app, worker)
            try:
                with trio.move_on_after(40) as waiting:
                    while not await trio.to_thread.run_sync(_answers, app):
                        if worker.poll() is not None:
                            raise StartFailed(f"celery: {(directory / 'celery.log').read_text()[-800:]}")
                        await trio.sleep(0.1)
                if waiting.cancelled_caught:
                    raise StartFailed("the Celery worker did not answer within 40 s")
                yield contestant
            finally:
                # A process that stands still does not hear that it should end.
                if worker.poll() is None:
                    worker.send_signal(signal.SIGCONT)


def _celery_app() -> Any:
    from bench.peers import celery_pacing

    return celery_pacing


def _answers(app: Any) -> bool:
    return bool(app.control.ping(timeout=0.5))


@asynccontextmanager
async def platform(directory: Path, answer_ms: float) -> AsyncIterator[str]:
    """The stub's base URL."""
    command = [sys.executable, "-m", "bench.platform_stub", "--answer-ms", str(answer_ms)]
    log = directory / "stub.log"
    with log.open("ab") as errors:
        process = subprocess.Popen(  # noqa: ASYNC220  a fork takes milliseconds; nothing is measured yet
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, cwd=ROOT
        )
    try:
        ready = json.loads(await first_line(process, log))
        yield f"http://127.0.0.1:{ready['port']}"
    finally:
        process.terminate()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


async def arrivals(base_url: str, account: str) -> tuple[list[float], list[str]]:
    """When each call of an account came and to whom it was, by time."""
    async with httpx.AsyncClient(verify=False) as client:
        noted = (await client.get(f"{base_url}/arrivals/{account}", timeout=30)).json()
    return noted["at"], noted["to"]


async def stub_limit(directory: Path) -> float:
    """Calls per second that the stub takes from a client that costs next to nothing."""
    async with platform(directory, 0) as base_url:
        traffic = Traffic(f"{base_url}/v25.0/alone/messages", demo_account())
        traffic.encode(8_000)
        return (await LoadClient(traffic, seconds=0.5, connections=64).run()).rate


def contests() -> list[Contest]:
    """What is asked; the first one is the bench's headline."""

    def ask(name: str, unit: str, goal: float, *, less: bool) -> Contest:
        return Contest(
            name=name,
            unit=unit,
            ours=OURS,
            contestants={},
            goal=goal,
            less_is_better=less,
            # Of what may never happen, a quotient says nothing.
            every_round=less,
            ratios=not less,
        )

    return [
        ask("share of 1,000 a second", "%", 99, less=False),
        ask("share of 80 a second", "%", 99, less=False),
        ask("windows over 1,000 a second", "windows", 0, less=True),
        ask("windows over 80 a second", "windows", 0, less=True),
        ask("calls over the pair limit", "calls", 0, less=True),
    ]


async def one_round(contestant: Any, base_url: str, number: int, seconds: int) -> list[float]:
    """The figures in the contests' order."""
    accounts = {rate: f"{contestant.name}-{number}-{rate}" for rate in RATES}
    # A little longer than what is looked at.
    await contestant.send(accounts, seconds + 0.15)
    await trio.sleep(0.2)
    slow, to = await arrivals(base_url, accounts[RATES[0]])
    fast, _ = await arrivals(base_url, accounts[RATES[1]])
    if not slow and not fast and number == 0:
        raise StartFailed(f"{contestant.name}: nothing arrived in the first round, which is not counted")
    pair = [at for at, recipient in zip(slow, to, strict=True) if recipient == CHATTY]
    return [
        100 * share_used(fast, RATES[1], seconds),
        100 * share_used(slow, RATES[0], seconds),
        over_limit(fast, RATES[1], 1.0),
        over_limit(slow, RATES[0], 1.0),
        over_pair_limit(pair, seconds=PAIR_SECONDS, burst=PAIR_BURST),
    ]


async def measure(questions: list[Contest], console: Console, *, rounds: int, seconds: int) -> float:
    """Fill the contests' results; the stub's own limit is returned."""
    with TemporaryDirectory(prefix="mijra-bench-") as name:
        directory = Path(name)
        alone = await stub_limit(directory)
        async with AsyncExitStack() as stack:
            base_url = await stack.enter_async_context(platform(directory, ANSWER_MS))
            contestants: list[Any] = [await stack.enter_async_context(Ours(base_url).running())]
            try:
                contestants.append(await stack.enter_async_context(celery(base_url, directory)))
            except Missing as why:
                for question in questions:
                    question.missing[CELERY] = str(why)
            for contestant in contestants:
                # Opens the connections; not counted.
                await one_round(contestant, base_url, 0, 1)
            for number in range(1, rounds + 1):
                for contestant in contestants:
                    title = f"round {number} of {rounds}: {contestant.name}"
                    with console.status(title):
                        figures = await one_round(contestant, base_url, number, seconds)
                    for question, figure in zip(questions, figures, strict=True):
                        question.results.setdefault(contestant.name, []).append(figure)
                    console.print(
                        f"{title}: {figures[0]:.1f} % of 1,000/s, {figures[1]:.1f} % of 80/s, windows over "
                        f"{figures[2]:.0f} and {figures[3]:.0f}, pair limit broken {figures[4]:.0f} times",
                        highlight=False,
                    )
    return alone


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.pacing", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="within 45 s: five rounds of 2 s")
    parser.add_argument("--rounds", type=int, default=0, help="default 7, with --quick 5")
    parser.add_argument("--seconds", type=int, default=0, help="of a round; default 7, with --quick 2")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    chosen = parser.parse_args()
    quiet()
    console = Console(stderr=chosen.json, soft_wrap=True)
    questions = contests()
    failed: list[str] = []
    alone = 0.0
    try:
        alone = trio.run(
            partial(
                measure,
                questions,
                console,
                rounds=chosen.rounds or (5 if chosen.quick else 7),
                seconds=chosen.seconds or (2 if chosen.quick else 7),
            )
        )
    except* StartFailed as failures:
        failed = [f"bench.pacing: {one}" for one in flat(failures)]
    if failed:
        sys.exit("\n".join(failed))
    show(questions, console)
    console.print(f"The stub platform itself takes {alone:,.0f} calls a second.", highlight=False)
    if chosen.plot:
        plot(questions, chosen.plot)
    if chosen.json:
        print(as_json("pacing", questions))


if __name__ == "__main__":
    main()
