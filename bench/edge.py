"""This project's edge as a server to measure: the real listening, lane (or Quart route), sessions and hub.
What is not there is the engine: the event log is a list in memory, every token is good, and events come from
a control port.

    python -m bench.edge [--route]

Prints two ports: of the WebSockets, and of the control connection, where each line becomes the data of one
committed event, announced to the hub as the storage writer does after a commit.
"""

import argparse
import gc
import sys
from collections.abc import Sequence
from typing import Final

import structlog
import trio
from prometheus_client import CollectorRegistry
from quart_trio import QuartTrio

from engine.ports import LoggedEvent
from gateway.lane.push.lane import PushLane
from gateway.metrics import Metrics
from gateway.push.hub import Hub
from gateway.push.rights import Viewer
from gateway.push.session import SessionLimits
from gateway.push.sessions import Sessions
from gateway.routes import push_blueprint
from gateway.serving import ServingLimits, serve

TENANT: Final = 1
CONNECTIONS_MAX: Final = 15_000


class MemoryLog:
    """The EventLog port on a list. It holds everything, so there are no gaps."""

    def __init__(self) -> None:
        self.events: list[LoggedEvent] = []

    def append(self, data: bytes) -> LoggedEvent:
        event = LoggedEvent(
            tenant_id=TENANT,
            cursor=len(self.events) + 1,
            name="message.received",
            channels=("inbox",),
            data=data,
            trace="0123456789abcdef0123456789abcdef",
            at=1_772_355_599_000,
        )
        self.events.append(event)
        return event

    async def head(self, tenant_id: int) -> int:
        await trio.lowlevel.checkpoint()
        return len(self.events)

    async def oldest(self, tenant_id: int) -> int:
        await trio.lowlevel.checkpoint()
        return 1

    async def read(
        self, tenant_id: int, *, after: int, limit: int, channels: Sequence[str] | None = None
    ) -> Sequence[LoggedEvent]:
        await trio.lowlevel.checkpoint()
        return self.events[after : after + limit]


class _Anybody:
    """Everybody is the one user and may hear everything. See `gateway.push.rights.Rights`."""

    async def authenticate(self, token: str, tenant: str | None, address: str) -> Viewer:
        await trio.lowlevel.checkpoint()
        return Viewer(tenant_id=TENANT, user_id=1, name="Agent")

    async def redeem(self, ticket: str, address: str) -> Viewer:
        return await self.authenticate("", None, address)

    async def vouched(self, tenant_id: int, user_id: int, token_id: int | None) -> Viewer:
        return await self.authenticate("", None, "")

    async def renew(self, viewer: Viewer) -> Viewer:
        return viewer

    async def may_subscribe(self, viewer: Viewer, channel: str) -> bool:
        await trio.lowlevel.checkpoint()
        return True

    async def tenant_is_active(self, tenant_id: int) -> bool:
        return True


async def _epoch_of(tenant_id: int) -> str:
    return "1"


async def main(*, route: bool) -> None:
    gc.set_threshold(100_000, 50, 50)  # as `gateway.boot` does
    log, metrics = MemoryLog(), Metrics(CollectorRegistry())
    hub = Hub(log, metrics)
    sessions = Sessions(
        hub,
        metrics,
        rights=_Anybody(),
        epoch_of=_epoch_of,
        # The crowd says nothing for as long as others are measured.
        limits=SessionLimits(connections_per_tenant_max=CONNECTIONS_MAX, silence_seconds_max=3600),
    )
    app = QuartTrio("edge")
    app.register_blueprint(push_blueprint(sessions))

    async def control(stream: trio.SocketStream) -> None:
        rest = b""
        async for data in stream:
            *lines, rest = (rest + bytes(data)).split(b"\n")
            for line in lines:
                hub.committed([log.append(line)])

    async with trio.open_nursery() as nursery:
        stop = trio.Event()

        async def run(task_status: trio.TaskStatus[int]) -> None:
            await serve(
                app,  # type: ignore[arg-type]
                host="127.0.0.1",
                port=0,
                stop=stop,
                metrics=metrics,
                limits=ServingLimits(connections_max=CONNECTIONS_MAX),
                lanes=[] if route else [PushLane(sessions, metrics)],
                task_status=task_status,
            )

        port = await nursery.start(run)
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, control, listeners)
        print(port, listeners[0].socket.getsockname()[1], flush=True)


if __name__ == "__main__":
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(40),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    parser = argparse.ArgumentParser(prog="bench.edge")
    parser.add_argument("--route", action="store_true", help="through Hypercorn and Quart, without the lane")
    trio.run(lambda: main(route=parser.parse_args().route))
