"""The operator port: is it alive, is it ready, and its numbers. A bare ASGI application of three answers.

Separate from the public port, and without a framework, so that it answers when the public side is drowning
and is never reachable from the internet by accident.

    GET /health/live    200 while the event loop turns. Restart the process when it does not answer.
    GET /health/ready   200 when every check passes, else 503 with what failed. Send no traffic meanwhile.
    GET /metrics        Prometheus text

Limits     a check may take `CHECK_SECONDS_MAX`; checks run side by side, and a result is shared for
           `FRESH_SECONDS`, so that probes cannot load what they probe.
"""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final

import structlog
import trio
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from engine.errors import MijraError
from gateway.envelope import JSON_TYPE, Answer, Failure, failure_body, success_body

_log = structlog.get_logger()

CHECK_SECONDS_MAX: Final = 2.0
"""Probes usually wait for 1 to 5 s; a database that needs 2 s for `SELECT 1` is no place to send traffic."""

FRESH_SECONDS: Final = 1.0

Check = Callable[[], Awaitable[bool]]
"""True: fine. False, or any MijraError: not ready."""


class Operator:
    """`Operator(...)` is the ASGI application. `stopping` makes it unready at once, before anything closes,
    so that a balancer looks elsewhere while calls under way still end."""

    def __init__(self, registry: CollectorRegistry, checks: Mapping[str, Check]) -> None:
        self._registry = registry
        self._checks = dict(checks)
        self._lock = trio.Lock()
        self._known: dict[str, str] = {}
        self._known_until = float("-inf")
        self.stopping = False

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        status, kind, body = await self.answer(scope["method"], scope["path"])
        headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def answer(self, method: str, path: str) -> tuple[int, str, bytes]:
        """Status, content type and body."""
        if method not in ("GET", "HEAD"):
            return _failed(Failure(status=405, code="method_not_allowed", message="Only GET."))
        match path:
            case "/health/live":
                return 200, JSON_TYPE, success_body(Answer(message="Alive"))
            case "/health/ready":
                states = await self.ready()
                if all(state == "ok" for state in states.values()):
                    return 200, JSON_TYPE, success_body(Answer(message="Ready", data=states))
                failure = Failure(status=503, code="not_ready", message="Not ready.", data=states)
                return _failed(failure)
            case "/metrics":
                return 200, CONTENT_TYPE_LATEST, generate_latest(self._registry)
            case _:
                message = "There is nothing at this address."
                return _failed(Failure(status=404, code="not_found", message=message))

    async def ready(self) -> Mapping[str, str]:
        """Every check's name with `ok` or why not; `{"server": "stopping"}` from the stop on."""
        if self.stopping:
            return {"server": "stopping"}
        async with self._lock:
            if trio.current_time() >= self._known_until:
                states: dict[str, str] = {}
                async with trio.open_nursery() as nursery:
                    for name, check in self._checks.items():
                        nursery.start_soon(_run, name, check, states)
                self._known = {name: states[name] for name in self._checks}
                self._known_until = trio.current_time() + FRESH_SECONDS
            return self._known


async def _run(name: str, check: Check, states: dict[str, str]) -> None:
    state = "timeout"
    with trio.move_on_after(CHECK_SECONDS_MAX):
        try:
            state = "ok" if await check() else "failed"
        except MijraError as error:
            state = error.code
        except Exception:  # noqa: BLE001  # a check's defect is an answer too, not an end of the probes
            _log.exception("operator.check_crashed", check=name)
            state = "crashed"
    states[name] = state


def _failed(failure: Failure) -> tuple[int, str, bytes]:
    return failure.status, JSON_TYPE, failure_body(failure)


async def _lifespan(
    receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
    send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
