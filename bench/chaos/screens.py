"""Screens that listen to the inbox, come back after every lost connection, and resume with their cursor."""

from typing import Final

import msgspec
import trio
from msgspec import Struct

from bench.chaos.ledger import Account, Pushed
from bench.chaos.system import Server
from bench.listener import Listener, ListenerClosed, open_listener

_AGAIN_SECONDS: Final = 0.2
_PING_SECONDS: Final = 10.0
# A server that is stopped says nothing and keeps the connection; a client gives it up after a while.
_SILENCE_SECONDS_MAX: Final = 25.0


class _Message(Struct):
    id: int = 0


class _Data(Struct):
    message: _Message | None = None


class _Frame(Struct):
    """As much of a frame as is compared."""

    type: str
    cursor: int = 0
    name: str = ""
    epoch: str = ""
    data: _Data | None = None
    from_: int = msgspec.field(default=0, name="from")
    to: int = 0
    code: str = ""


_decode = msgspec.json.Decoder(_Frame).decode


class InboxScreen:
    """One screen of one business."""

    def __init__(self, account: Account, server: Server, number: int) -> None:
        self.pushed = Pushed(f"{account.business.slug}: screen {number}")
        account.screens.append(self.pushed)
        self._account = account
        self._server = server
        self._epoch = ""
        self._subscribed = False
        self._heard_at = 0.0

    async def live(self) -> None:
        """Until cancelled."""
        while True:
            try:
                async with open_listener(f"ws://127.0.0.1:{self._server.port}/ws") as listener:
                    await self._listen(listener)
            except* (
                OSError,
                ListenerClosed,
                trio.BrokenResourceError,
                trio.ClosedResourceError,
                trio.TooSlowError,
            ):
                pass
            await trio.sleep(_AGAIN_SECONDS)

    async def _listen(self, listener: Listener) -> None:
        business = self._account.business
        with trio.fail_after(15):
            await listener.send(
                msgspec.json.encode({"type": "auth", "token": business.token, "tenant": business.slug})
            )
            welcome = _decode(await listener.receive())
            if welcome.type != "welcome":
                raise ListenerClosed(f"no welcome but {welcome}")
        if self._epoch and welcome.epoch != self._epoch:
            self._account.violations.add("gap", f"{self.pushed.name}: the log started anew")
        self._epoch = welcome.epoch
        ask = {"type": "subscribe", "channel": "inbox", "since": self.pushed.cursor}
        await listener.send(msgspec.json.encode(ask))
        self.pushed.connections += 1
        self._heard_at = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_alive, listener)
            await listener.listen(self._on_frame)

    async def _keep_alive(self, listener: Listener) -> None:
        while True:
            await trio.sleep(_PING_SECONDS)
            if trio.current_time() - self._heard_at > _SILENCE_SECONDS_MAX:
                raise ListenerClosed("nothing was heard for too long")
            await listener.send(b'{"type":"ping"}')

    def _on_frame(self, payload: bytes, _: int) -> None:
        self._heard_at = trio.current_time()
        frame = _decode(payload)
        pushed, violations = self.pushed, self._account.violations
        match frame.type:
            case "event":
                if frame.cursor <= pushed.cursor:
                    violations.add(
                        "pushed twice", f"{pushed.name}: event {frame.cursor} after {pushed.cursor}"
                    )
                    return
                pushed.cursor = frame.cursor
                if frame.name in ("message.received", "message.sent") and frame.data and frame.data.message:
                    pushed.arrivals.append((frame.cursor, frame.data.message.id))
            case "gap":
                pushed.gaps.append((frame.from_, frame.to))
                pushed.cursor = max(pushed.cursor, frame.to)
            case "subscribed":
                if frame.cursor < pushed.cursor:
                    violations.add(
                        "pushed and not durable", f"{pushed.name}: {pushed.cursor}, now {frame.cursor}"
                    )
                pushed.cursor = max(pushed.cursor, frame.cursor)
            case "error":
                # The store is away; the next connection asks again.
                raise ListenerClosed(frame.code)
            case _:  # pong
                pass
