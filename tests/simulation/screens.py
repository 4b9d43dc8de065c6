"""Screens: WebSocket clients of the real sessions, in memory, that check each frame as it comes.

A screen remembers the last cursor of each channel and resumes from it, however its connection ended. What it
may rely on is what `gateway/push` promises: every event of the channel after the cursor once and in order, or
a gap that names the ones that are no longer held.
"""

from typing import TYPE_CHECKING, Any

import msgspec
import trio

from gateway.push.connection import Peer
from gateway.push.frames import NativeEncoder
from gateway.push.protocol import encode
from gateway.push.queued import QueuedConnection

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.world import World

PING_SECONDS = 1_800.0
PEER = Peer(path="/ws")


class Screen:
    def __init__(self, world: "World", name: str, tenant_id: int, user_id: int, *, inbox: bool) -> None:
        self.world = world
        self.name = name
        self.tenant_id = tenant_id
        self.token = f"{tenant_id}/{user_id}"
        self.channels: dict[str, int | None] = {"inbox": None} if inbox else {}
        self.connected = False
        self.live: set[str] = set()
        self._inbox = inbox
        self._encoder = NativeEncoder()
        self._scope = trio.CancelScope()
        self._random = world.chance.stream(f"screen {name}")

    async def run(self) -> None:
        """Connects again whenever it is disconnected."""
        world = self.world
        while True:
            await trio.sleep(self._random.uniform(0.0, 3.0))
            process = world.door()
            if process is None:
                continue
            self._scope = trio.CancelScope()
            with self._scope:
                code = await self._connection(process)
                world.record.add("closed", self.name, code)
            self.connected = False
            self.live.clear()

    async def _connection(self, process: "Process") -> int:
        """Ends with the process, which takes its connections along."""
        to_server, receiving = trio.open_memory_channel[str](100)

        async def send(frame: bytes) -> None:
            if process.dead:
                await trio.sleep_forever()
            if self.world.chance.strikes("screen_slow"):
                await trio.sleep(self.world.chance.uniform("screen_slow", 1.0, 40.0))
            self._got(frame)
            if self.world.chance.strikes("screen_lost"):
                self._scope.cancel()
                await trio.lowlevel.checkpoint()

        world = self.world
        async with trio.open_nursery() as nursery:
            to_server.send_nowait(_text(type="auth", token=self.token))
            if not self._inbox:
                self._look_around()
            for channel, since in self.channels.items():
                to_server.send_nowait(_text(type="subscribe", channel=channel, since=since))
            nursery.start_soon(self._pings, to_server, process)
            self.connected = True
            connection = QueuedConnection(process.sessions, PEER, receiving.receive, send)
            watched = (self.name, connection._queue, process.sessions.limits.queue_bytes_max)
            world.bounds.queues.append(watched)
            try:
                ending = await connection.run()
            finally:
                world.bounds.queues.remove(watched)
            nursery.cancel_scope.cancel()
        return 0 if ending is None else ending.code

    async def _pings(self, to_server: trio.MemorySendChannel[str], process: "Process") -> None:
        while True:
            with trio.move_on_after(PING_SECONDS):
                await process.gone.wait()
                self._scope.cancel()
                return
            await to_server.send(_text(type="ping"))

    def _look_around(self) -> None:
        """An agent opens some of the conversations that there are."""
        rows = self.world.store.table(self.tenant_id, "conversations")
        for row in rows[-3:]:
            self.channels.setdefault(f"conversations.{row.id}", None)

    # ---------------------------------------------------------------- what must hold of each frame

    def _got(self, frame: bytes) -> None:
        self.world.record.add("frame", self.name, frame)
        message = msgspec.json.decode(frame)
        match message["type"]:
            case "event":
                self._event(message["channel"], message["cursor"], frame)
            case "subscribed":
                self._subscribed(message["channel"], message["cursor"])
            case "gap":
                self._gap(message["channel"], message["from"], message["to"])
            case "error":
                channel = message.get("channel")
                if message["code"] != "forbidden" or self._inbox:
                    self._violate(f"is told {message}")
                self.channels.pop(channel, None)
                self.live.discard(channel)
            case _:
                pass

    def _subscribed(self, channel: str, cursor: int) -> None:
        since = self.channels[channel]
        if since is not None and cursor != since:
            self._violate(f"asked for {channel} since {since} and gets it from {cursor}")
        self.channels[channel] = cursor
        self.live.add(channel)

    def _event(self, channel: str, cursor: int, frame: bytes) -> None:
        log = self.world.databases[self.tenant_id].log[self.tenant_id]
        position = self.channels.get(channel)
        if position is None:
            self._violate(f"hears of {channel} without having asked")
            return
        if cursor > len(log):
            self._violate(f"sees event {cursor}, which is not committed")
            return
        event = log[cursor - 1]
        if self._encoder.event(event, channel) != frame or channel not in event.channels:
            self._violate(f"sees something else than event {cursor} on {channel}")
        if cursor <= position:
            self._violate(f"sees event {cursor} of {channel} after {position}")
        missed = self._between(channel, position, cursor - 1)
        if missed:
            self._violate(f"sees event {cursor} of {channel} and not {missed}")
        self.channels[channel] = cursor

    def _gap(self, channel: str, first: int, last: int) -> None:
        position = self.channels.get(channel)
        database = self.world.databases[self.tenant_id]
        trimmed = database.trimmed[self.tenant_id]
        if position is None or first != position + 1:
            self._violate(f"is at {position} of {channel} and told of a gap from {first}")
        elif last > trimmed and last - position <= self.world.replay_distance_max:
            self._violate(f"is told that {first} to {last} of {channel} are gone, and they are held")
        self.channels[channel] = last

    def missing(self) -> list[str]:
        """What it should have seen by now."""
        found = []
        log = self.world.databases[self.tenant_id].log[self.tenant_id]
        for channel in self.live:
            position = self.channels.get(channel)
            if position is not None and (missed := self._between(channel, position, len(log))):
                found.append(f"{self.name} has not seen {missed} of {channel}")
        return found

    def _between(self, channel: str, after: int, last: int) -> list[int]:
        log = self.world.databases[self.tenant_id].log[self.tenant_id]
        return [event.cursor for event in log[after:last] if channel in event.channels]

    def _violate(self, what: str) -> None:
        self.world.violate("push", f"{self.name} {what}")


def _text(**members: Any) -> str:
    return encode(members).decode()
