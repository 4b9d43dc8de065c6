"""One request on its way, and what its log line says in the end."""

from typing import Any

import trio
from msgspec import Struct

from engine.ports import WebhookRequest


class Work(Struct, kw_only=True):
    """Times in trio's clock, `received_at` in ms since 1970. `ready`: when the request was there to be read,
    at the latest. The last three fields are filled in as they become known."""

    trace: str
    request: WebhookRequest
    started: float
    ready: float
    received_at: int
    platform: str = "unknown"  # a label must not be the caller's choice
    items: int = 0
    tenants: tuple[int, ...] = ()

    def fields(self) -> dict[str, Any]:
        """For its log line."""
        fields: dict[str, Any] = {"trace": self.trace, "platform": self.platform}
        if len(self.tenants) == 1:
            fields["tenant"] = self.tenants[0]
        elif self.tenants:
            fields["tenants"] = list(self.tenants)
        if self.items:
            fields["items"] = self.items
        fields["bytes"] = len(self.request.body)
        fields["duration_ms"] = round((trio.current_time() - self.started) * 1000, 2)
        return fields
