"""The port for what an adapter does by itself: listeners and pollers, which last as long as the process.

Why         Most platforms call us, by webhooks. Some have to be listened to on a port of their own, or asked
            whether there is anything new. What runs all of them is adapters/services.py.
Promises    A service that fails is started again, after a pause that grows; it never takes the server down.
            Services end before the engine drains, so what they have been promised durable is.
"""

import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeVar, TypeVarTuple

import trio
from msgspec import Struct

from adapters.port import Account, Tools
from engine.domain.intake import Delivery, DeliveryReceipt
from engine.ports import Endpoint

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Service(Struct, frozen=True, kw_only=True):
    """Runs once in the process. `run(stopping)` returns soon after the event is set, and is cancelled a few
    seconds later; what it has under way then is as after a kill. Returning earlier says that there is
    nothing to do, and it is not called again. Whatever it raises is logged, and it is called again."""

    name: str
    run: Callable[[trio.Event], Awaitable[None]]


class AccountService(Struct, frozen=True, kw_only=True):
    """Runs once for each connected account that is active and that `wants` wants (pure). `run(account,
    stopping)` is cancelled when the account is disconnected or disabled, and called anew with the changed
    one when its credentials or settings change. For the rest it is as `Service.run`."""

    name: str
    wants: Callable[[Account], bool]
    run: Callable[[Account, trio.Event], Awaitable[None]]


class Cursors(Protocol):
    """A text for each channel that outlives the process: how far its account was read."""

    async def get(self, account: Account) -> str | None:
        """None before the first `put`. Raises StoreUnavailable."""
        ...

    async def put(self, account: Account, text: str) -> None:
        """Returns when it is durable. To be called after what it covers is. Raises CommitFailed (another
        process has the tenant, too), and InvalidInput for more than `CURSOR_BYTES_MAX` of UTF-8. When
        cancelled, it may still become durable."""
        ...


class Listen(Struct, frozen=True, kw_only=True):
    """An address that the operator wants a listener on; port 0 takes a free one."""

    host: str
    port: int


class AsyncioServer(Protocol):
    """Runs a server that is written for asyncio."""

    async def __call__(
        self,
        protocol: Callable[["TrioCalls"], Any],
        host: str,
        port: int,
        *,
        task_status: trio.TaskStatus[int] = ...,
    ) -> None:
        """Listens until cancelled, then closes the listener and cuts the connections; for `nursery.start`,
        which gives the port. `protocol` makes an asyncio protocol for each connection. Raises OSError where
        nobody can listen."""
        ...


class TrioCalls(Protocol):
    """What a protocol on the asyncio side calls trio with; `loop` is the asyncio loop."""

    @property
    def loop(self) -> Any: ...

    async def __call__(self, fn: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T: ...


class ServiceTools(Struct, frozen=True, kw_only=True):
    """What the root lends to the services of one platform, beside `tools`.

    `deliver` returns when everything in the delivery is durable and raises Unavailable when its sender has
    to send it again (`engine.domain.intake.Intake.deliver`). `endpoint(external_id)` and `account(endpoint)`
    are the connected account as the edge knows it and with everything opened; None when there is none.
    `attention(account, sentence)` marks the channel `needs_attention`. `listen` has the listeners that the
    operator asked for, by name; `tls` makes a context for them, or None without a certificate;
    `listening(name, host, port)` tells where one listens in fact, `serve_asyncio` runs those that are
    written for asyncio. `new_trace` is for each delivery's trace id, `wall_ms` the time in ms since the
    epoch.
    """

    tools: Tools
    deliver: Callable[[Delivery], Awaitable[DeliveryReceipt]]
    endpoint: Callable[[str], Endpoint | None]
    account: Callable[[Endpoint], Awaitable[Account | None]]
    cursors: Cursors
    attention: Callable[[Account, str], None]
    new_trace: Callable[[], str]
    wall_ms: Callable[[], int]
    serve_asyncio: AsyncioServer
    listen: Mapping[str, Listen] = {}
    tls: Callable[[], ssl.SSLContext | None] = lambda: None
    listening: Callable[[str, str, int], None] = lambda _name, _host, _port: None
