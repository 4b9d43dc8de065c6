"""The peer's HTTP and WebSocket side, for uvicorn."""

import asyncio
import hmac
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import orjson
from arq import create_pool as create_queue
from arq.connections import RedisSettings
from fastapi import FastAPI, Request, Response, WebSocket
from redis.asyncio import Redis

from bench.peers.fastapi_stack import store
from bench.peers.fastapi_stack.push import INBOX, Inbox

_SECRET = os.environ["PEER_APP_SECRET"].encode()
_TOKEN = os.environ["PEER_TOKEN"]
_REDIS_SOCKET = os.environ["PEER_REDIS_SOCKET"]
_POOL_SIZE = int(os.environ.get("PEER_POOL_SIZE", "20"))


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open what the routes use, once per process."""
    app.state.pool = await store.create_pool(os.environ["PEER_DATABASE_URL"], _POOL_SIZE)
    app.state.channels = await store.channels(app.state.pool)
    app.state.redis = Redis(unix_socket_path=_REDIS_SOCKET)
    app.state.queue = await create_queue(RedisSettings(unix_socket_path=_REDIS_SOCKET))
    app.state.inbox = Inbox(app.state.redis)
    reader = asyncio.create_task(app.state.inbox.read())
    yield
    reader.cancel()
    with suppress(asyncio.CancelledError):
        await reader
    await app.state.queue.aclose()
    await app.state.redis.aclose()
    await app.state.pool.close()


app = FastAPI(lifespan=lifespan, openapi_url=None)


@app.get("/health")
async def health() -> dict[str, str]:
    """Answers once everything is open."""
    return {"status": "ok"}


@app.post("/webhooks/whatsapp")
async def webhook(request: Request) -> Response:
    """Store every message of a signed delivery, then answer."""
    body = await request.body()
    expected = "sha256=" + hmac.digest(_SECRET, body, "sha256").hex()
    if not hmac.compare_digest(expected, request.headers.get("x-hub-signature-256", "")):
        return Response(status_code=401)
    try:
        payload = orjson.loads(body)
    except orjson.JSONDecodeError:
        return Response(status_code=400)
    for entry in payload["entry"]:
        for change in entry["changes"]:
            if change["field"] == "messages":
                await _receive(change["value"])
    return Response(status_code=200)


async def _receive(value: dict[str, Any]) -> None:
    state = app.state
    channel_id = state.channels.get(value["metadata"]["phone_number_id"])
    if channel_id is None:
        return
    names = {contact["wa_id"]: contact["profile"]["name"] for contact in value.get("contacts", ())}
    for message in value.get("messages", ()):
        name = names.get(message["from"], message["from"])
        event = await store.store_message(state.pool, channel_id, name, message)
        if event is not None:
            await asyncio.gather(
                state.queue.enqueue_job("after_message", channel_id, event["data"]["id"]),
                state.redis.publish(INBOX, orjson.dumps(event)),
            )


@app.websocket("/ws")
async def inbox_socket(socket: WebSocket, token: str = "") -> None:
    """The agent's screen: every event of the inbox from now on."""
    if not hmac.compare_digest(token, _TOKEN):
        await socket.close(4001)
        return
    await socket.accept()
    await app.state.inbox.serve(socket)
