"""Tickets: let somebody in once, within half a minute, so that no token has to stand in a URL.

For clients that can say nothing before they are connected: `POST /api/{tenant}/push-tickets` with the token,
then `/ws?ticket=…`. What proxies and browsers log of it is worth nothing any more.

Promises   a ticket is good once and for `SECONDS`.
Limits     `TICKETS_MAX` unused ones; beyond that the oldest go.
Restart    forgotten; the client asks for another. They are good on the process that made them.
"""

import secrets
from collections import OrderedDict
from typing import Final

import trio

from gateway.push.rights import Viewer

SECONDS: Final = 30.0
TICKETS_MAX: Final = 10_000
"""Twice what one tenant may connect at once; some 5 MB."""

TICKET_BYTES: Final = 32


class Tickets:
    def __init__(self) -> None:
        self._viewers: OrderedDict[str, tuple[Viewer, float]] = OrderedDict()

    def make(self, viewer: Viewer) -> str:
        now = trio.current_time()
        while self._viewers and next(iter(self._viewers.values()))[1] <= now:
            self._viewers.popitem(last=False)
        if len(self._viewers) >= TICKETS_MAX:
            self._viewers.popitem(last=False)
        ticket = secrets.token_urlsafe(TICKET_BYTES)
        self._viewers[ticket] = (viewer, now + SECONDS)
        return ticket

    def use(self, ticket: str) -> Viewer | None:
        """Who it lets in; None when it is used, too old or was never made."""
        # 256 random bits: how long the look-up takes tells nothing that helps to guess one.
        viewer, until = self._viewers.pop(ticket, (None, 0.0))
        return viewer if until > trio.current_time() else None

    def __len__(self) -> int:
        return len(self._viewers)
