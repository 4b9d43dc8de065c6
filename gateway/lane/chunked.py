"""A chunked body, decoded as it arrives (RFC 9112, section 7.1). Pure; strict where senders have no reason to
differ.

Written by hand because the end must be known to the byte: what follows it is the next request. Extensions are
skipped and trailers dropped, as the RFC asks of who does not know them.
"""

import re
from typing import Final

from gateway.lane.parser import Refused, malformed

LINE_BYTES_MAX: Final = 256
"""A size and its extensions. No sender of webhooks uses extensions at all."""

TRAILER_BYTES_MAX: Final = 4 * 1024

FRAMING_BYTES_FREE: Final = 16 * 1024
"""Framing that is allowed in any case; beyond, there may be as much of it as of content. A chunk of one byte
costs us as much work as one of 64 KB, and no honest sender makes them."""

_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,8})(?:[ \t]*;[\t -~]*)?")
_TRAILER: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*")


class ChunkedBody:
    """Feed it until `complete`; then `content` is the body and `rest` what came behind it."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._buffer = bytearray()
        self._missing = 0  # of the present chunk, its CRLF included
        self._in_trailer = False
        self._framing = 0
        self._trailer = 0
        self.content = bytearray()
        self.complete = False

    @property
    def rest(self) -> bytes:
        return bytes(self._buffer) if self.complete else b""

    def feed(self, data: bytes) -> None:
        """Takes the next bytes. Raises Refused for what is not a chunked body, or a too large one."""
        buffer = self._buffer
        buffer += data
        position = 0  # what is before it is used up, and removed once per call: removing is a copy
        while not self.complete:
            if self._missing:
                taken = self._take_chunk(position)
            elif self._in_trailer:
                taken = self._take_trailer(position)
            else:
                taken = self._take_size(position)
            if not taken:
                break
            position += taken
        del buffer[:position]
        if self._framing > FRAMING_BYTES_FREE + len(self.content):
            raise malformed("more framing than content")

    def _take_size(self, start: int) -> int:
        line = self._line(start, LINE_BYTES_MAX)
        if line is None:
            return 0
        size = _SIZE.fullmatch(line)
        if size is None:
            raise malformed("a chunk's size")
        length = int(size[1], 16)
        if len(self.content) + length > self._bytes_max:
            raise Refused(413, "too_large", "a body larger than allowed")
        if length:
            self._missing = length + 2
        else:
            self._in_trailer = True
        self._framing += len(line) + 2
        return len(line) + 2

    def _take_chunk(self, start: int) -> int:
        """Content as it comes; the CRLF behind it in one piece."""
        buffer = self._buffer
        content = min(self._missing - 2, len(buffer) - start)
        if content:
            self.content += memoryview(buffer)[start : start + content]
            self._missing -= content
            return content
        if self._missing > 2 or len(buffer) - start < 2:
            return 0
        if buffer[start : start + 2] != b"\r\n":
            raise malformed("a chunk longer than its size")
        self._missing = 0
        self._framing += 2
        return 2

    def _take_trailer(self, start: int) -> int:
        line = self._line(start, TRAILER_BYTES_MAX - self._trailer)
        if line is None:
            return 0
        if not line:
            self.complete = True
        elif _TRAILER.fullmatch(line) is None:
            raise malformed("a trailer")
        self._trailer += len(line) + 2
        return len(line) + 2

    def _line(self, start: int, bytes_max: int) -> bytes | None:
        """The line at `start` without its end, or None while that is missing."""
        end = self._buffer.find(b"\r\n", start, start + bytes_max + 2)
        if end < 0:
            if len(self._buffer) - start > bytes_max:
                raise malformed("a line without end")
            return None
        return bytes(self._buffer[start:end])
