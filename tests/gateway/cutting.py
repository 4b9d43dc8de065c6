"""The proof that forced drops lose nothing: clients behind a proxy that cuts each connection at a random
byte.

    python -m tests.gateway.cutting --drops 10000

Native clients and clients of Pusher's protocol, over real sockets and by the server's own transport, listen
to one channel while events are committed all the time, and come back with their last cursor after each cut.
In the end each must have seen every event once and in order. The suite does the same with fewer drops.
"""

import logging
import random
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import click
import msgspec
import structlog
import trio
import wsproto
import wsproto.events
import wsproto.utilities
from msgspec import Struct

from engine.ports import LoggedEvent
from gateway.push.hub import RingLimits
from gateway.push.pusher.signature import subscription_auth
from tests.gateway.push_house import APP, AUTH, PUSHER_PATH, House, served
from tests.gateway.test_hub import TENANT, ModelLog

CUTS: Final = ((1, 40), (40, 400), (400, 1_200), (1_200, 8_000))
"""Bytes after which a connection is cut: in the handshake, at the subscription, in the replay, later."""

PAUSE_SECONDS: Final = 0.02
STALLED_SECONDS_MAX: Final = 20.0


class Log(ModelLog):
    """As the model, but as quick at a hundred thousand events as at ten."""

    async def head(self, tenant_id: int) -> int:
        await trio.lowlevel.checkpoint()
        return len(self.events)

    async def oldest(self, tenant_id: int) -> int:
        await trio.lowlevel.checkpoint()
        return 1

    async def read(
        self, tenant_id: int, *, after: int, limit: int, channels: Sequence[str] | None = None
    ) -> Sequence[LoggedEvent]:
        await trio.sleep(0.001)
        self.reads += 1
        found = self.events[after : after + limit]
        return [event for event in found if channels is None or set(channels) & set(event.channels)]

    def append(self, *channels: str, tenant_id: int = TENANT, data: bytes = b"{}") -> LoggedEvent:
        event = LoggedEvent(
            tenant_id=tenant_id,
            cursor=len(self.events) + 1,
            name="message.received",
            channels=channels,
            data=data,
            trace="t",
            at=0,
        )
        self.events.append(event)
        return event


class Proof(Struct, kw_only=True):
    drops: int
    events: int
    clients: int
    seconds: float
    database_reads: int
    connections: int = 0
    missing: int = 0
    twice: int = 0
    disordered: int = 0
    gaps: int = 0

    @property
    def clean(self) -> bool:
        return not (self.missing or self.twice or self.disordered or self.gaps)


class Follower:
    """One client: remembers its cursor, and what it saw."""

    def __init__(self, run: "Run", native: bool) -> None:
        self._run = run
        self._native = native
        self.cursor = 0
        self.seen: list[int] = []
        self.gaps = 0
        self.connections = 0

    async def follow(self) -> None:
        while True:
            try:
                async with await trio.open_tcp_stream("127.0.0.1", self._run.proxy_port) as stream:
                    await self._converse(_Socket(stream))
            except (OSError, trio.BrokenResourceError, _Cut):
                pass
            await trio.lowlevel.checkpoint()

    async def _converse(self, socket: "_Socket") -> None:
        await socket.open("/ws" if self._native else f"{PUSHER_PATH}?protocol=7&client=test")
        if self._native:
            await socket.send(AUTH)
        while True:
            message = await socket.receive()
            match message.get("type") or message["event"]:
                case "welcome":
                    await socket.send({"type": "subscribe", "channel": "inbox", "since": self.cursor})
                case "pusher:connection_established":
                    socket_id = msgspec.json.decode(message["data"])["socket_id"]
                    await socket.send(self._subscription(socket_id))
                case "subscribed" | "pusher_internal:subscription_succeeded":
                    self.connections += 1
                case "event":
                    self._saw(message["cursor"])
                case "message.received":
                    self._saw(msgspec.json.decode(message["data"])["cursor"])
                case "gap" | "mijra:gap":
                    self.gaps += 1
                case _:
                    raise AssertionError(f"nobody should say {message}")

    def _subscription(self, socket_id: str) -> dict[str, Any]:
        granted = msgspec.json.encode({"user_id": "7", "since": self.cursor}).decode()
        auth = subscription_auth(APP, socket_id, "private-inbox", granted)
        data = {"channel": "private-inbox", "auth": auth, "channel_data": granted}
        return {"event": "pusher:subscribe", "data": data}

    def _saw(self, cursor: int) -> None:
        self.seen.append(cursor)
        self.cursor = cursor


class _Cut(Exception):
    """The connection has ended, in the middle of anything."""


class _Socket:
    """A WebSocket client that takes the end of its stream at any byte for what it is. (trio-websocket waits
    for ever when the handshake's answer is cut.)"""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._protocol = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        self._text = ""
        self._messages: deque[dict[str, Any]] = deque()
        self._accepted = False

    async def open(self, target: str) -> None:
        request = wsproto.events.Request(host="127.0.0.1", target=target)
        await self._stream.send_all(self._protocol.send(request))
        while not self._accepted:
            await self._read()

    async def send(self, message: dict[str, Any]) -> None:
        text = msgspec.json.encode(message).decode()
        await self._stream.send_all(self._protocol.send(wsproto.events.TextMessage(data=text)))

    async def receive(self) -> dict[str, Any]:
        while not self._messages:
            await self._read()
        return self._messages.popleft()

    async def _read(self) -> None:
        data = await self._stream.receive_some(65_536)
        if not data:
            raise _Cut
        try:
            self._protocol.receive_data(data)
            for event in self._protocol.events():
                self._take(event)
        except wsproto.utilities.RemoteProtocolError as error:
            raise _Cut from error

    def _take(self, event: wsproto.events.Event) -> None:
        if isinstance(event, wsproto.events.AcceptConnection):
            self._accepted = True
        elif isinstance(event, wsproto.events.TextMessage):
            self._text += event.data
            if event.message_finished:
                self._messages.append(msgspec.json.decode(self._text))
                self._text = ""
        elif isinstance(event, wsproto.events.CloseConnection | wsproto.events.RejectConnection):
            raise _Cut


class Run:
    def __init__(self, drops: int, clients: int, seed: int) -> None:
        self.wanted = drops
        self.drops = 0
        self._chance = random.Random(seed)
        self.house = House(ring=RingLimits(events_max=2))
        self.house.hub._event_log = self.house.log = self.log = Log()
        self.followers = [Follower(self, native=number % 2 == 0) for number in range(clients)]
        self.port = 0
        self.proxy_port = 0

    async def prove(self) -> Proof:
        started = time.perf_counter()
        async with served(self.house) as (url, _), trio.open_nursery() as nursery:
            self.port = int(url.split(":")[2].split("/")[0])
            listeners = await nursery.start(trio.serve_tcp, self._forward, 0)
            self.proxy_port = listeners[0].socket.getsockname()[1]
            for follower in self.followers:
                nursery.start_soon(follower.follow)
            wanted = 0
            while self.drops < self.wanted:
                wanted = self.house.commit(
                    "inbox", data=b'{"text":"%b"}' % (b"x" * self._chance.randint(0, 300))
                )
                await trio.sleep(PAUSE_SECONDS)
            await self._settle(wanted)
            nursery.cancel_scope.cancel()
        return self._proof(time.perf_counter() - started)

    async def _settle(self, wanted: int) -> None:
        """Until everybody has caught up, or nobody gets any further."""
        behind = [each.cursor for each in self.followers]
        progress_at = trio.current_time()
        while any(cursor < wanted for cursor in behind):
            await trio.sleep(0.05)
            now = [each.cursor for each in self.followers]
            if now != behind:
                behind, progress_at = now, trio.current_time()
            elif trio.current_time() - progress_at > STALLED_SECONDS_MAX:
                return

    async def _forward(self, client: trio.SocketStream) -> None:
        server = await trio.open_tcp_stream("127.0.0.1", self.port)
        cutting = self.drops < self.wanted
        budgets = [self._chance.randint(*self._chance.choice(CUTS)) if cutting else 2**62 for _ in range(2)]
        # Mostly the answers are cut; sometimes the client's own words.
        if cutting and self._chance.random() < 0.8:
            budgets[0] = 2**62
        async with server, trio.open_nursery() as nursery:
            for source, sink, budget in ((client, server, budgets[0]), (server, client, budgets[1])):
                nursery.start_soon(self._pass_on, source, sink, budget, nursery.cancel_scope)

    async def _pass_on(
        self, source: trio.SocketStream, sink: trio.SocketStream, budget: int, end: trio.CancelScope
    ) -> None:
        try:
            while True:
                data = await source.receive_some(65_536)
                await sink.send_all(data[:budget])
                if len(data) >= budget:
                    self.drops += 1
                    break
                if not data:
                    break
                budget -= len(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        end.cancel()

    def _proof(self, seconds: float) -> Proof:
        events = [event.cursor for event in self.log.events]
        proof = Proof(
            drops=self.drops,
            events=len(events),
            clients=len(self.followers),
            seconds=round(seconds, 1),
            database_reads=self.log.reads,
        )
        for follower in self.followers:
            proof.connections += follower.connections
            proof.missing += len(set(events) - set(follower.seen))
            proof.twice += len(follower.seen) - len(set(follower.seen))
            proof.disordered += follower.seen != sorted(follower.seen)
            proof.gaps += follower.gaps
        return proof


@click.command()
@click.option("--drops", default=10_000, show_default=True)
@click.option("--clients", default=16, show_default=True)
@click.option("--seed", default=1, show_default=True)
def main(drops: int, clients: int, seed: int) -> None:
    """Cut so many connections and say what became of the events."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    proof = trio.run(Run(drops, clients, seed).prove)
    click.echo(msgspec.json.format(msgspec.json.encode(proof)))
    raise SystemExit(0 if proof.clean else 1)


if __name__ == "__main__":
    main()
