"""A WebSocket's handshake, from bytes to what a session takes, and its answer (RFC 6455, section 4.2). Pure.

Only a handshake that is sound to the letter is taken. Every other request, however close it looks, is
somebody else's, who answers it as if there were no lane.
"""

import re
from typing import Final

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from msgspec import Struct
from wsproto.utilities import generate_accept_token

from gateway.lane.parser import HeaderLines, NotForLane

_STARTS: Final = (b"GET /ws ", b"GET /ws?", b"GET /app/")
# No escapes, so that a path has one reading.
_REQUEST_LINE: Final = re.compile(rb"GET (/ws|/app/[A-Za-z0-9_-]+)(?:\?([!-~]*))? HTTP/1\.1\r\n")
_KEY: Final = re.compile(r"[A-Za-z0-9+/]{22}==")
"""16 bytes in base64 (section 4.1)."""


class Upgrade(Struct, frozen=True, kw_only=True):
    """`query` is as it was sent, without its question mark."""

    path: str
    query: str
    origin: str | None
    forwarded: str | None
    key: str


def may_be_upgrade(received: bytes) -> bool:
    """Whether a request that begins so is a handshake for one of our paths, or may turn out to be."""
    return any(received.startswith(start) or start.startswith(received) for start in _STARTS)


def is_upgrade(received: bytes) -> bool:
    """Whether enough has come to know that it is for one of our paths."""
    return received.startswith(_STARTS)


def read_upgrade(raw: bytes) -> Upgrade:
    """The handshake in `raw`, which ends with the empty line. Raises NotForLane."""
    line = _REQUEST_LINE.match(raw)
    if line is None:
        raise NotForLane
    lines = HeaderLines()
    try:
        HttpRequestParser(lines).feed_data(raw)
    except HttpParserUpgrade:
        pass
    except HttpParserError:
        raise NotForLane from None
    headers = lines.headers
    key = headers.get("sec-websocket-key", "")
    sound = (
        lines.complete
        and lines.hosts == 1
        and headers.get("upgrade", "").lower() == "websocket"
        and "upgrade" in [token.strip(" \t") for token in headers.get("connection", "").lower().split(",")]
        and headers.get("sec-websocket-version") == "13"
        and _KEY.fullmatch(key) is not None
        and "transfer-encoding" not in headers
        and headers.get("content-length", "0") == "0"
    )
    if not sound:
        raise NotForLane
    return Upgrade(
        path=line[1].decode("ascii"),
        query=(line[2] or b"").decode("ascii"),
        origin=headers.get("origin"),
        forwarded=headers.get("x-forwarded-for"),
        key=key,
    )


def accepted(upgrade: Upgrade) -> bytes:
    """The answer that opens the WebSocket: no subprotocol and no extension, compression among them."""
    token = generate_accept_token(upgrade.key.encode())
    return (
        "HTTP/1.1 101 \r\nupgrade: websocket\r\nconnection: upgrade\r\n"
        f"sec-websocket-accept: {token.decode()}\r\n\r\n"
    ).encode()
