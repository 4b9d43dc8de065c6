"""What the server sends, as bytes for the socket (RFC 6455, section 5): whole frames, unmasked and
uncompressed.

Unmasked, so that one encoding serves every reader; not compressed, because a context per connection would
cost each of them some 300 KB and each frame its own pass.
"""

from typing import Final

_TEXT: Final = 0x81  # FIN and the opcode
_CLOSE: Final = 0x88
_PONG: Final = 0x8A

REASON_BYTES_MAX: Final = 123
"""A control frame holds 125 bytes (section 5.5), two of them the code."""


def text(payload: bytes) -> bytes:
    """One text frame. `payload` is UTF-8 already."""
    size = len(payload)
    if size < 126:
        head = bytes((_TEXT, size))
    elif size < 1 << 16:
        head = bytes((_TEXT, 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((_TEXT, 127)) + size.to_bytes(8, "big")
    return head + payload


def close(code: int, reason: str = "") -> bytes:
    """A close frame. A reason that is too long is cut between two characters."""
    cut = reason.encode()[:REASON_BYTES_MAX].decode(errors="ignore").encode()
    return bytes((_CLOSE, 2 + len(cut))) + code.to_bytes(2, "big") + cut


def close_without_code() -> bytes:
    """The answer to a close frame that had none either."""
    return bytes((_CLOSE, 0))


def pong(payload: bytes) -> bytes:
    """The answer to a ping: the same payload, of at most 125 bytes."""
    return bytes((_PONG, len(payload))) + payload
