"""The peer's push: Redis pub/sub in, WebSockets out."""

import asyncio
from contextlib import suppress

from fastapi import WebSocket, WebSocketDisconnect
from redis.asyncio import Redis

INBOX = "inbox"
_WAITING_MAX = 10_000


class Inbox:
    """The WebSockets of this process. One pub/sub connection serves them all."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._queues: set[asyncio.Queue[str]] = set()

    async def read(self) -> None:
        """Hand every published event to every socket, until cancelled."""
        async with self._redis.pubsub(ignore_subscribe_messages=True) as subscription:
            await subscription.subscribe(INBOX)
            async for message in subscription.listen():
                text = message["data"].decode()
                for queue in list(self._queues):
                    try:
                        queue.put_nowait(text)
                    except asyncio.QueueFull:
                        self._queues.discard(queue)

    async def serve(self, socket: WebSocket) -> None:
        """Send events to one socket until it closes or is too slow."""
        queue: asyncio.Queue[str] = asyncio.Queue(_WAITING_MAX)
        self._queues.add(queue)
        sender = asyncio.create_task(self._send(socket, queue))
        try:
            while True:
                await socket.receive_text()
        except WebSocketDisconnect:
            pass
        finally:
            self._queues.discard(queue)
            sender.cancel()
            with suppress(asyncio.CancelledError):
                await sender

    async def _send(self, socket: WebSocket, queue: "asyncio.Queue[str]") -> None:
        while queue in self._queues or not queue.empty():
            await socket.send_text(await queue.get())
        await socket.close(1013, "too slow")
