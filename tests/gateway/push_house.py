"""A hub with sessions of both protocols, on a model log and model rights; clients without a network, and the
same served over real sockets."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio
import trio.lowlevel
import trio.testing
from msgspec import structs
from prometheus_client import CollectorRegistry
from quart_trio import QuartTrio
from trio_websocket import WebSocketConnection, open_websocket_url

from engine.errors import Forbidden, MijraError, Unauthenticated
from gateway.lane.push.lane import PushLane
from gateway.lane.push.socket import SocketLimits
from gateway.metrics import Metrics
from gateway.push.connection import Ending, Peer
from gateway.push.hub import Hub, ReplayLimits, RingLimits
from gateway.push.pusher.apps import App, Apps
from gateway.push.pusher.signature import subscription_auth
from gateway.push.queued import QueuedConnection
from gateway.push.rights import Viewer
from gateway.push.session import SessionLimits
from gateway.push.sessions import Sessions
from gateway.push.tickets import Tickets
from gateway.routes import push_blueprint
from gateway.serving import ServingLimits, serve
from tests.gateway.test_hub import TENANT, ModelLog
from tests.patience import PATIENCE_SECONDS

Message = dict[str, Any]
AUTH: Message = {"type": "auth", "token": "1|good"}
APP = App(tenant_id=TENANT, key="the-key", secret=b"the-secret")
PUSHER_PATH = f"/app/{APP.key}"


class ModelRights:
    """Tokens are "<id>|good" of user 6 + id; everything is allowed that is not forbidden."""

    def __init__(self) -> None:
        self.tokens = {"1|good": 7, "2|good": 8}
        self.lifetimes: dict[int, float] = {}  # user id to when the token ends
        self.tickets = Tickets()
        self.gone: set[int] = set()  # users who were deactivated
        self.forbidden: set[str] = set()
        self.suspended = False
        self.auth_error: MijraError | None = None
        self.error: Exception | None = None
        self.held: trio.Event | None = None

    async def authenticate(self, token: str, tenant: str | None, address: str) -> Viewer:
        await trio.lowlevel.checkpoint()
        if self.auth_error is not None:
            raise self.auth_error
        if token not in self.tokens:
            raise Unauthenticated("No such token.")
        if tenant not in (None, "acme"):
            raise Forbidden("Not your tenant.")
        return await self.vouched(TENANT, self.tokens[token], int(token.partition("|")[0]))

    async def redeem(self, ticket: str, address: str) -> Viewer:
        viewer = self.tickets.use(ticket)
        if viewer is None:
            raise Unauthenticated("No such ticket.")
        return viewer

    async def vouched(self, tenant_id: int, user_id: int, token_id: int | None) -> Viewer:
        await trio.lowlevel.checkpoint()
        ends = self.lifetimes.get(user_id, float("inf"))
        known = token_id is None or self.tokens.get(f"{token_id}|good") == user_id
        if not known or user_id in self.gone or trio.current_time() >= ends:
            raise Unauthenticated("The token is not good any more.")
        return Viewer(
            tenant_id=tenant_id,
            user_id=user_id,
            name=f"Agent {user_id}",
            expires_at=ends,
            principal=token_id,
        )

    async def renew(self, viewer: Viewer) -> Viewer:
        token_id = viewer.principal
        assert token_id is None or isinstance(token_id, int)
        return await self.vouched(viewer.tenant_id, viewer.user_id, token_id)

    async def may_subscribe(self, viewer: Viewer, channel: str) -> bool:
        answer = channel not in self.forbidden  # as it was when asked
        await trio.lowlevel.checkpoint()
        if self.held is not None:
            await self.held.wait()
        if self.error is not None:
            raise self.error
        return answer

    async def tenant_is_active(self, tenant_id: int) -> bool:
        return not self.suspended


class House:
    """`commit` appends to the log and announces it, as a commit does."""

    def __init__(
        self,
        *,
        limits: SessionLimits | None = None,
        ring: RingLimits | None = None,
        replays: ReplayLimits | None = None,
        origins: tuple[str, ...] = ("*",),
    ) -> None:
        self.log = ModelLog()
        self.metrics = Metrics(CollectorRegistry())
        self.hub = Hub(self.log, self.metrics, ring=ring, replays=replays)
        self.rights = ModelRights()
        self.apps = Apps()
        self.apps.add(APP)
        self.sessions = Sessions(
            self.hub,
            self.metrics,
            rights=self.rights,
            epoch_of=self._epoch_of,
            apps=self.apps,
            origins=origins,
            limits=limits,
        )

    async def _epoch_of(self, tenant_id: int) -> str:
        return f"epoch-{tenant_id}"

    def commit(self, *channels: str, name: str = "message.received", data: bytes = b"{}") -> int:
        event = structs.replace(self.log.append(*channels, data=data), name=name)
        self.log.events[-1] = event
        self.hub.committed([event])
        return event.cursor

    def nobody_is_left(self) -> bool:
        statistics = self.hub.statistics()
        listening = any(tenant.live for tenant in self.hub._tenants.values())
        rooms = self.sessions.rooms
        nobody = not (len(rooms) or rooms.channels(TENANT) or len(self.sessions.presence))
        return nobody and not (
            statistics.connections or statistics.replaying or len(self.sessions) or listening
        )


class Client:
    """The client's end of a session, without a network."""

    def __init__(self, house: House, path: str = "/ws", query: str = "") -> None:
        self.house = house
        self.peer = Peer(path=path, query=query)
        self._to_session, self._from_client = trio.open_memory_channel[str](100)
        self.sent: list[Message] = []
        self.frames: list[bytes] = []
        self.ending: Ending | None = None
        self.reading = True
        self._go_on = trio.Event()
        self._scope = trio.CancelScope()

    @property
    def code(self) -> int | None:
        return None if self.ending is None else self.ending.code

    async def run(self) -> None:
        connection = QueuedConnection(self.house.sessions, self.peer, self._from_client.receive, self._send)
        with self._scope:
            self.ending = await connection.run()

    def lose(self) -> None:
        """As when the network is gone: the transport cancels the session."""
        self._scope.cancel()

    async def _send(self, frame: bytes) -> None:
        await trio.lowlevel.checkpoint()
        if not self.reading:
            await self._go_on.wait()
        self.frames.append(frame)
        self.sent.append(msgspec.json.decode(frame))

    async def say(self, *messages: Message | str) -> list[Message]:
        """Sends, and returns what came back until everything is quiet."""
        for message in messages:
            text = message if isinstance(message, str) else msgspec.json.encode(message).decode()
            await self._to_session.send(text)
        return await self.heard()

    async def heard(self) -> list[Message]:
        await trio.testing.wait_all_tasks_blocked(0.001)
        await trio.sleep(0.1)  # the model log's answers take hundredths
        await trio.testing.wait_all_tasks_blocked(0.001)
        return self.taken()

    def taken(self) -> list[Message]:
        """What came so far."""
        taken, self.sent = self.sent, []
        return taken


class PusherClient(Client):
    """Speaks Pusher's protocol by hand; what comes has its data decoded."""

    def __init__(self, house: House, path: str = PUSHER_PATH, query: str = "protocol=7&client=test") -> None:
        super().__init__(house, path, query)
        self.socket_id = ""

    def taken(self) -> list[Message]:
        taken = super().taken()
        for message in taken:
            if isinstance(message.get("data"), str):
                message["data"] = msgspec.json.decode(message["data"])
            if message["event"] == "pusher:connection_established":
                self.socket_id = message["data"]["socket_id"]
        return taken

    async def subscribe(self, channel: str, **grant: Any) -> list[Message]:
        """As the client that was given this grant by the authorizer; user 7 with token 1 unless told."""
        return await self.say(self.subscription(channel, **grant))

    def subscription(self, channel: str, **grant: Any) -> Message:
        data: Message = {"channel": channel}
        if channel.startswith(("private-", "presence-")):
            granted = {"user_id": "7", "token": "1", **grant}
            shown = {name: value for name, value in granted.items() if value is not None}
            data["channel_data"] = msgspec.json.encode(shown).decode()
            data["auth"] = subscription_auth(APP, self.socket_id, channel, data["channel_data"])
        return {"event": "pusher:subscribe", "data": data}


@asynccontextmanager
async def entered(*clients: Client) -> AsyncIterator[trio.Nursery]:
    """Clients whose sessions run, with what sessions need beside them; everybody is gone afterwards."""
    house = clients[0].house
    async with trio.open_nursery() as nursery:
        await nursery.start(house.sessions.presence.run)
        for client in clients:
            nursery.start_soon(client.run)
        yield nursery
        nursery.cancel_scope.cancel()
    assert house.nobody_is_left()


@asynccontextmanager
async def connected(house: House, *auths: Message) -> AsyncIterator[list[Client]]:
    """Native clients that have said their auth message and heard the welcome."""
    clients = [Client(house) for _ in auths or (AUTH,)]
    async with entered(*clients):
        for client, auth in zip(clients, auths or (AUTH,), strict=True):
            (welcome,) = await client.say(auth)
            assert welcome["type"] == "welcome"
        yield clients


@asynccontextmanager
async def pushers(house: House, count: int = 1) -> AsyncIterator[list[PusherClient]]:
    """Clients of Pusher's protocol that have their socket ids."""
    clients = [PusherClient(house) for _ in range(count)]
    async with entered(*clients):
        await clients[0].heard()
        for client in clients:
            client.taken()
            assert client.socket_id
        yield clients


async def end_of(client: Client, *messages: Message | str) -> tuple[int | None, list[Message]]:
    """How a connection ends that says this and then waits."""
    heard: list[Message] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run)
        for message in messages:
            heard += await client.say(message)
        with trio.move_on_after(1000):
            while client.ending is None:  # noqa: ASYNC110  # virtual time
                await trio.sleep(0.1)
        heard += await client.heard()
        nursery.cancel_scope.cancel()
    assert client.house.nobody_is_left()
    return client.code, heard


# ------------------------------------------------------------------ over real sockets


@asynccontextmanager
async def served(
    house: House,
    way: str = "lane",
    *,
    limits: ServingLimits | None = None,
    sockets: SocketLimits | None = None,
) -> AsyncIterator[tuple[str, trio.Event]]:
    app = QuartTrio("test")
    app.register_blueprint(push_blueprint(house.sessions))
    stop = trio.Event()

    async def run(task_status: trio.TaskStatus[int]) -> None:
        await serve(
            app,  # type: ignore[arg-type]
            host="127.0.0.1",
            port=0,
            stop=stop,
            metrics=house.metrics,
            limits=limits,
            lanes=[PushLane(house.sessions, house.metrics, sockets=sockets)] if way == "lane" else [],
            task_status=task_status,
        )

    async with trio.open_nursery() as beside:
        await beside.start(house.sessions.presence.run)
        async with trio.open_nursery() as nursery:
            port = await nursery.start(run)
            yield f"ws://127.0.0.1:{port}/ws", stop
            house.sessions.close_all()
            stop.set()
        beside.cancel_scope.cancel()


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[WebSocketConnection]:
    """A client that lets go of its socket also when the server closed first (the library keeps it then)."""
    sockets: list[WebSocketConnection] = []
    try:
        async with open_websocket_url(url) as socket:
            sockets.append(socket)
            yield socket
    finally:
        for socket in sockets:
            await trio.aclose_forcefully(socket._stream)


async def talk(socket: WebSocketConnection, message: Message) -> Message:
    await socket.send_message(msgspec.json.encode(message).decode())
    return await hear(socket)


async def hear(socket: WebSocketConnection) -> Message:
    with trio.fail_after(PATIENCE_SECONDS):
        text = await socket.get_message()
    assert isinstance(text, str), "frames are text frames"
    decoded: Message = msgspec.json.decode(text)
    return decoded
