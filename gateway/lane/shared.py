"""What the connections of one webhook lane share: whom they ask, limits, the bytes they hold, the poller."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol

from msgspec import Struct

from gateway.lane.poller import Poller
from gateway.lane.refusing import Entrance, OpenEntrance, Refusing
from gateway.metrics import Metrics
from gateway.webhooks import Answer, Rest

READ_BYTES: Final = 64 * 1024


class Handle(Protocol):
    """`gateway.webhooks.Webhooks.handle`."""

    def __call__(
        self, method: str, path: str, query: str, headers: Mapping[str, str], body: bytes, /
    ) -> Awaitable[Answer]: ...


class Begin(Protocol):
    """`gateway.webhooks.Webhooks.begin`."""

    def __call__(
        self,
        path: str,
        query: str,
        headers: Mapping[str, str],
        body: bytes,
        answered: Callable[[Answer], None],
        ready: float,
        /,
    ) -> Rest | None: ...


class LaneLimits(Struct, frozen=True, kw_only=True):
    """`body_bytes_max`: as the handler's. `head_bytes_max`, `idle_seconds_max`, `send_seconds_max` and
    `requests_per_connection_max`: as `gateway.serving.ServingLimits`, for its reasons. `head_seconds_max` and
    `body_seconds_max`: platforms send both at once; a body of 3 MB in 10 s is a poor mobile line.
    `answer_seconds_max`: a net below the handler's own limit of 12 s. `reading_bytes_max`: bodies that
    are still arriving, of all connections together; 20 of the largest, where ordinary ones have a few KB and
    arrive with their head."""

    head_bytes_max: int = 16 * 1024
    head_seconds_max: float = 10.0
    body_bytes_max: int = 3 * 1024 * 1024
    body_seconds_max: float = 10.0
    idle_seconds_max: float = 75.0
    answer_seconds_max: float = 30.0
    send_seconds_max: float = 30.0
    requests_per_connection_max: int = 100_000
    reading_bytes_max: int = 64 * 1024 * 1024


class Parkable(Protocol):
    """A connection that a poller has, as its lane sees it."""

    def is_idle(self, now: float) -> bool:
        """Whether it has been between two requests for too long."""
        ...

    def dismiss(self) -> None:
        """End it."""
        ...


class Shared:
    """`reading_bytes`: of bodies that are still arriving. `parked`: the connections that the poller has."""

    def __init__(
        self,
        handle: Handle,
        metrics: Metrics,
        limits: LaneLimits,
        *,
        begin: Begin | None,
        bytes_max: Callable[[str], int] | None,
        entrance: Entrance | None,
    ) -> None:
        self.handle = handle
        self.begin = begin
        entrance = entrance or OpenEntrance()
        self.refusing = Refusing(entrance)
        self.metrics = metrics
        self.limits = limits
        self.bytes_max = bytes_max or (lambda path: limits.body_bytes_max)
        self.stopping = False
        self.reading_bytes = 0
        self.poller = Poller(entrance)
        self.parked: set[Parkable] = set()
