"""A turn at the account's limits, taken at the moment when a request is written."""

from collections.abc import Mapping
from typing import Any

from adapters.port import Turn


def written_in(turn: Turn) -> dict[str, Any]:
    """httpx's extensions for the request that `turn` is for: when a connection is there it waits for the
    turn, writes at once, and says so (httpcore awaits `trace` at each step of a request)."""

    async def follow(event: str, info: Mapping[str, Any]) -> None:
        if event == "http11.send_request_headers.started":
            await turn.come()
        elif event == "http11.send_request_body.complete":
            turn.written()

    return {"trace": follow}
