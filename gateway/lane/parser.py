"""A request's head, from bytes to what the handler takes. Pure; knows neither sockets nor time.

llhttp (by httptools, in its strict mode) reads the header lines: it refuses control characters, folded lines,
bare CR and LF, whitespace before a colon, and every contradiction between Content-Length and
Transfer-Encoding. What it is lenient about is refused here: more than one space in the request line, versions
that are not HTTP/1.0 or 1.1, a missing Host. It is given one head at a time and never a body, because it
cannot say where in its input a message ended, and the next request may be for somebody else.
"""

import re
from typing import Final

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from msgspec import Struct

LANE_PREFIX: Final = b"POST /api/webhooks/"

HEAD_END: Final = re.compile(rb"\n\r?\n")
"""Also finds ends that are not allowed, so that they are refused at once and not waited out."""

_REQUEST_LINE: Final = re.compile(rb"POST ([!-~]+) HTTP/1\.([01])\r\n")
_PLAIN_TARGET: Final = re.compile(rb"(/api/webhooks/[A-Za-z0-9_-]+(?:/[A-Za-z0-9_-]+)?)(?:\?([!-~]*))?")
_OPTIONAL_SPACE: Final = b" \t"


class Refused(Exception):
    """The request is answered with `status` and the connection is closed: where the next one would begin
    cannot be known, or is not worth waiting for."""

    def __init__(self, status: int, code: str, why: str) -> None:
        super().__init__(why)
        self.status = status
        self.code = code
        self.why = why


class NotForLane(Exception):
    """A sound request, as far as can be told, that the ordinary way answers."""


class Head(Struct, frozen=True, kw_only=True):
    """`headers` by lower-case name, repeated ones joined by a comma; `length` is None for a chunked body."""

    path: str
    query: str
    headers: dict[str, str]
    length: int | None
    keep_alive: bool
    wants_continue: bool


def may_be_lanes(received: bytes) -> bool:
    """Whether a request that begins so is the lane's, or may turn out to be."""
    return received.startswith(LANE_PREFIX) or LANE_PREFIX.startswith(received)


def read_head(raw: bytes) -> Head:
    """The head in `raw`, which ends with the empty line. Raises Refused, or NotForLane."""
    line = _REQUEST_LINE.match(raw)
    if line is None:
        raise malformed("the request line")
    target = _PLAIN_TARGET.fullmatch(line[1])
    if target is None:
        raise NotForLane
    lines = HeaderLines()
    parser = HttpRequestParser(lines)
    try:
        parser.feed_data(raw)
    except HttpParserUpgrade:
        raise NotForLane from None
    except HttpParserError as error:
        if _only_the_coding_is_strange(lines):
            raise Refused(501, "not_supported", "a transfer coding other than chunked") from None
        raise malformed(str(error)) from None
    headers = lines.headers
    if not lines.complete:
        raise malformed("a head that does not end")
    if "upgrade" in headers:
        raise NotForLane
    is_1_1 = line[2] == b"1"
    if lines.hosts > 1 or (is_1_1 and not lines.hosts):
        raise malformed("not exactly one Host")
    return Head(
        path=target[1].decode("ascii"),
        query=(target[2] or b"").decode("ascii"),
        headers=headers,
        length=_length(headers, is_1_1),
        keep_alive=is_1_1 and parser.should_keep_alive(),
        wants_continue=is_1_1 and headers.get("expect", "").lower() == "100-continue",
    )


def malformed(why: str) -> Refused:
    """400: `why` says for the log what was wrong, never quoting what the client chose to send."""
    return Refused(400, "bad_request", why)


class HeaderLines:
    """What llhttp calls back; it wants these names."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.hosts = 0
        self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        key = name.decode("latin-1").lower()
        text = value.strip(_OPTIONAL_SPACE).decode("latin-1")
        if key == "host":
            self.hosts += 1
        self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text

    def on_headers_complete(self) -> None:
        self.complete = True


def _length(headers: dict[str, str], is_1_1: bool) -> int | None:
    coding = headers.get("transfer-encoding")
    if coding is not None:
        if not is_1_1:
            raise malformed("a transfer coding in HTTP/1.0")
        if coding.lower() != "chunked":
            raise Refused(501, "not_supported", "a transfer coding other than chunked")
        if "content-length" in headers:  # refused by llhttp already; what this guards is worth two locks
            raise malformed("both Content-Length and Transfer-Encoding")
        return None
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit()):
        raise malformed("the Content-Length")
    return int(length)


def _only_the_coding_is_strange(lines: HeaderLines) -> bool:
    """llhttp stops behind a complete head whose last coding is not chunked: a body without an end."""
    return lines.complete and "transfer-encoding" in lines.headers
