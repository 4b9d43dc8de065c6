"""Webhooks and the WebSockets as plain Quart routes: the way in that always works.

Thin on purpose. What is behind these routes knows nothing of Quart, so that a faster lane in front of it can
call the same functions; a test holds that both answer alike.
"""

import trio
from quart import Blueprint, Response, g, request, websocket
from werkzeug.exceptions import RequestTimeout

from gateway import envelope
from gateway.problems import failure_of
from gateway.push.connection import Peer
from gateway.push.queued import QueuedConnection
from gateway.push.sessions import Sessions
from gateway.webhooks import Webhooks


def webhook_blueprint(webhooks: Webhooks, *, body_seconds_max: float = 10.0) -> Blueprint:
    """`GET` and `POST /api/webhooks/{platform}` and `/api/webhooks/{platform}/{endpoint_key}`.

    A body that is not here after `body_seconds_max` is given up (408); platforms send theirs at once. The
    application's own limit for these paths must not be below `webhooks.bytes_max`.
    """
    blueprint = Blueprint("webhooks", __name__)
    methods = ["GET", "POST"]

    @blueprint.route("/api/webhooks/<platform>", methods=methods, provide_automatic_options=False)
    @blueprint.route(
        "/api/webhooks/<platform>/<endpoint_key>", methods=methods, provide_automatic_options=False
    )
    async def handle(platform: str, endpoint_key: str | None = None) -> Response:
        body: bytes | None = None
        bytes_max = webhooks.bytes_max(request.path)
        # Where more may come, it may take as much longer.
        with trio.move_on_after(body_seconds_max * bytes_max / webhooks.limits.body_bytes_max):
            body = await _read(bytes_max)
        if body is None:
            failure = failure_of(RequestTimeout())
            return Response(
                envelope.failure_body(failure),
                status=failure.status,
                headers={"Content-Type": envelope.JSON_TYPE, "Connection": "close"},
            )
        headers: dict[str, str] = {}
        for name, value in request.headers.items():
            lower = name.lower()
            headers[lower] = f"{headers[lower]}, {value}" if lower in headers else value
        answer = await webhooks.handle(
            request.method,
            request.path,
            request.query_string.decode("latin-1"),
            headers,
            body,
            trace=g.get("trace"),
            raw_path=request.scope.get("raw_path", b"").decode("latin-1") or None,
        )
        return Response(answer.body, status=answer.status, headers=dict(answer.headers))

    return blueprint


async def _read(bytes_max: int) -> bytes:
    """The body, or as much of it as shows that it is too large: no more than a chunk over the limit."""
    chunks = []
    size = 0
    async for chunk in request.body:
        chunks.append(chunk)
        size += len(chunk)
        if size > bytes_max:
            break
    return b"".join(chunks)


def push_blueprint(sessions: Sessions) -> Blueprint:
    """The WebSockets, at the paths that `sessions` serves."""
    blueprint = Blueprint("push", __name__)

    @blueprint.websocket("/ws")
    @blueprint.websocket("/app/<key>")
    async def serve(key: str | None = None) -> None:
        peer = Peer(
            path=websocket.path,
            query=websocket.query_string.decode("latin-1"),
            origin=websocket.headers.get("Origin"),
            address=websocket.remote_addr or "",
            forwarded=",".join(websocket.headers.getlist("X-Forwarded-For")) or None,
        )
        if sessions.refusal(peer) is not None:
            await websocket.close(1008)  # before the handshake is accepted, so the server answers 403
            return
        await websocket.accept()
        ending = await QueuedConnection(sessions, peer, websocket.receive, _send_text).run()
        if ending is not None:
            await websocket.close(ending.code, ending.reason)

    return blueprint


async def _send_text(frame: bytes) -> None:
    # ASGI wants text frames as str and encodes them again: the price of this way in.
    await websocket.send(frame.decode())
