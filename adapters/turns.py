"""A turn at the account's limits, taken at the moment when a request is written."""

from collections.abc import Mapping
from typing import Any

from adapters.port import Turn


class Writing:
    """Follows one request as httpx's extension `trace` (httpcore awaits it at each step): when a connection
    is there it waits for the turn, lets the request be written at once, and says so. `begun`: bytes of the
    request may have been written."""

    def __init__(self, turn: Turn | None) -> None:
        self.begun = False
        self._turn = turn

    async def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        if event == "http11.send_request_headers.started":
            if self._turn is not None:
                await self._turn.come()
            self.begun = True
        elif event == "http11.send_request_body.complete" and self._turn is not None:
            self._turn.written()
