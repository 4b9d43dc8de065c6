"""What deliveries only announce, read from the platform and put in place of the announcements."""

from collections.abc import Awaitable, Callable, Iterable, Sequence

from engine.domain.inbound import Announced, InboundEvent
from engine.errors import Unavailable
from engine.ports import Endpoint
from gateway.webhooks.sorting import Group

ReadAnnounced = Callable[[Endpoint, Announced], Awaitable[Sequence[InboundEvent]]]
"""What an account's platform has only named. Raises Unavailable while it cannot be read."""


async def read_all(groups: Iterable[Group], read: ReadAnnounced | None) -> None:
    """Raises Unavailable: the platform keeps the delivery and repeats it."""
    if read is None:
        raise Unavailable("Nothing here reads what the platform announces.", code="not_readable_now")
    for endpoint, events in groups:
        whole: list[InboundEvent] = []
        for event in events:
            whole += await read(endpoint, event) if isinstance(event, Announced) else (event,)
        events[:] = whole
