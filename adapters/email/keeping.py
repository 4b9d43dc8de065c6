"""Connections to mail servers that are kept for the next mail of the same account.

Why         A new connection costs TCP, TLS and a login, four to six round trips, before the first word of a
            mail.
Promises    A connection has one user at a time, is used for one login alone, and is closed with the sender.
            Nothing waits here.
Limits      `IDLE_SECONDS`, `MAILS_MAX` and `AGE_SECONDS` of each, `IDLE_MAX` of all accounts together. Those
            that were used last are used next, so that the others can go.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import trio

from adapters.email.client import Client, MailServer

IDLE_SECONDS: Final = 15.0
"""Servers wait some minutes (RFC 5321, 4.5.3.2.7: five); busy ones less, and a connection that nobody needs
holds one of their places."""
MAILS_MAX: Final = 50
"""Servers that count allow a hundred or more."""
AGE_SECONDS: Final = 300.0
"""The address behind the name was checked when it was opened, and the name may have moved since."""
IDLE_MAX: Final = 64

Key = tuple[MailServer, str]


class KeptClients:
    """`run` closes what is idle for too long."""

    def __init__(self, clock: Callable[[], float] = trio.current_time) -> None:
        self._clock = clock
        self._idle: OrderedDict[Client, tuple[Key, float]] = OrderedDict()
        self._stirred = trio.Event()

    def take(self, server: MailServer, ehlo: str) -> Client | None:
        """The one that was used last and may be used again; None: a new one is needed."""
        self._close_idle()
        wanted = (server, ehlo)
        client = next((each for each in reversed(self._idle) if self._idle[each][0] == wanted), None)
        if client is not None:
            del self._idle[client]
        return client

    def put(self, client: Client, server: MailServer, ehlo: str) -> None:
        """After a mail: kept, or closed where it has done enough."""
        now = self._clock()
        if client.mails >= MAILS_MAX or now - client.opened_at >= AGE_SECONDS:
            client.leave()
            return
        self._idle[client] = ((server, ehlo), now)
        while len(self._idle) > IDLE_MAX:
            self._idle.popitem(last=False)[0].leave()
        self._stirred.set()

    def forget(self, server: MailServer, ehlo: str) -> None:
        """Closes all that nobody uses."""
        for client in [each for each, (key, _) in self._idle.items() if key == (server, ehlo)]:
            del self._idle[client]
            client.cut()

    async def run(self) -> None:
        """Until it is cancelled; closes all then."""
        try:
            while True:
                if not self._idle:
                    self._stirred = trio.Event()
                    await self._stirred.wait()
                await trio.sleep(IDLE_SECONDS / 3)
                self._close_idle()
        finally:
            for client in self._idle:
                client.leave()
            self._idle.clear()

    def _close_idle(self) -> None:
        now = self._clock()
        for client, (_, since) in list(self._idle.items()):
            if now - since < IDLE_SECONDS:
                break
            del self._idle[client]
            client.leave()
