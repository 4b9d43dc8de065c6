"""An agent's WebSocket that notes when each frame came.

Why        A WebSocket library costs more per frame than the frame's journey; only the time of arrival is
           wanted.
Promises   `on_frame(payload, arrived_ns)` for each text frame, in order, with `time.perf_counter_ns` taken
           right after the bytes were read; pings are answered; whatever else is sent by the server ends the
           run with ListenerClosed, which names the close code.
Limits     the client's part of RFC 6455 that a bench needs: no TLS, no extensions, no fragmented messages,
           frames of at most 16 MiB.
"""

import base64
import hashlib
import os
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

import trio

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_FRAME_BYTES_MAX: Final = 16 * 1024 * 1024
_TEXT, _CLOSE, _PING, _PONG = 1, 8, 9, 10


class ListenerClosed(Exception):
    """The server refused or ended the connection."""


class Listener:
    """One connection. Open it with `open_listener`."""

    def __init__(self, stream: trio.SocketStream, rest: bytes) -> None:
        self._stream: Final = stream
        self._buffer = bytearray(rest)
        self._sending: Final = trio.Lock()
        self.frames = 0

    async def send(self, text: bytes) -> None:
        """Send one text frame."""
        await self._send_frame(_TEXT, text)

    async def receive(self) -> bytes:
        """The next text frame; for the talk before `listen`."""
        while True:
            while (frame := self._next_frame()) is not None:
                text = await self._handle(*frame)
                if text is not None:
                    return text
            await self._read()

    async def listen(self, on_frame: Callable[[bytes, int], None]) -> None:
        """Hand every text frame to `on_frame` until cancelled; ListenerClosed when the server ends it."""
        arrived_ns = time.perf_counter_ns()
        while True:
            while (frame := self._next_frame()) is not None:
                text = await self._handle(*frame)
                if text is not None:
                    on_frame(text, arrived_ns)
            await self._read()
            arrived_ns = time.perf_counter_ns()

    async def _read(self) -> None:
        try:
            data = await self._stream.receive_some(262_144)
        except trio.BrokenResourceError:
            data = b""
        if not data:
            raise ListenerClosed("the server ended the connection without a close frame")
        self._buffer += data

    def _next_frame(self) -> tuple[int, bytes] | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        if not buffer[0] & 0x80 or buffer[0] & 0x70 or buffer[1] & 0x80:
            raise ListenerClosed("the server sent a fragmented, extended or masked frame")
        length, at = buffer[1], 2
        if length == 126:
            if len(buffer) < 4:
                return None
            length, at = int.from_bytes(buffer[2:4], "big"), 4
        elif length == 127:
            if len(buffer) < 10:
                return None
            length, at = int.from_bytes(buffer[2:10], "big"), 10
        if length > _FRAME_BYTES_MAX:
            raise ListenerClosed(f"the server sent a frame of {length} bytes")
        if len(buffer) < at + length:
            return None
        payload = bytes(buffer[at : at + length])
        kind = buffer[0] & 0x0F
        del buffer[: at + length]
        return kind, payload

    async def _handle(self, kind: int, payload: bytes) -> bytes | None:
        if kind == _TEXT:
            self.frames += 1
            return payload
        if kind == _PING:
            await self._send_frame(_PONG, payload)
        elif kind == _CLOSE:
            code = int.from_bytes(payload[:2], "big") if len(payload) >= 2 else 1005
            raise ListenerClosed(f"closed by the server: {code} {payload[2:].decode(errors='replace')}")
        return None

    async def _send_frame(self, kind: int, payload: bytes) -> None:
        length = len(payload)
        if length > 65_535:
            raise ValueError("a bench sends small frames only")
        size = bytes([0x80 | length]) if length < 126 else b"\xfe" + struct.pack(">H", length)
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[index & 3] for index, byte in enumerate(payload))
        async with self._sending:
            await self._stream.send_all(bytes([0x80 | kind]) + size + mask + masked)


@asynccontextmanager
async def open_listener(url: str, *, seconds_max: float = 10) -> AsyncIterator[Listener]:
    """Connect and upgrade. Raises ListenerClosed when the server answers with anything but 101."""
    parts = urlsplit(url)
    if parts.scheme != "ws" or parts.hostname is None:
        raise ValueError(f"the listener speaks plain WebSocket: ws://host:port/path, not {url!r}")
    with trio.fail_after(seconds_max):
        stream = await trio.open_tcp_stream(parts.hostname, parts.port or 80)
    async with stream:
        with trio.fail_after(seconds_max):
            rest = await _upgrade(
                stream, parts.netloc, parts.path + (f"?{parts.query}" if parts.query else "")
            )
        yield Listener(stream, rest)


async def _upgrade(stream: trio.SocketStream, host: str, path: str) -> bytes:
    key = base64.b64encode(os.urandom(16))
    await stream.send_all(
        f"GET {path or '/'} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key.decode()}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    data = b""
    while b"\r\n\r\n" not in data:
        more = await stream.receive_some(65_536)
        if not more or len(data) > 65_536:
            raise ListenerClosed(f"no answer to the upgrade, only {data[:80]!r}")
        data += more
    head, rest = data.split(b"\r\n\r\n", 1)
    accept = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())
    if not head.startswith(b"HTTP/1.1 101") or accept not in head:
        raise ListenerClosed(f"no upgrade: {head.splitlines()[0].decode(errors='replace')}")
    return rest
