"""A request whose framing is beyond doubt, told by one look at its bytes. Pure.

Why        Under overload most requests are refused, and a refusal that is parsed like a delivery costs as
           much as ten that are not. What is refused unread needs no more than where the request ends and for
           whom it seems to be.
Promises   What is taken for plain `parser.read_head` reads alike: the same path, a body of exactly the bytes
           that follow, a connection that is kept and no interim answer wanted. Everything else, sound or not,
           is nothing to this: it goes the long way.

The pattern has no way back (every repetition is possessive), so it takes time in proportion to the head.
"""

import re
from typing import Final

from gateway.lane.parser import LANE_PREFIX

HEAD_BYTES_MAX: Final = 4 * 1024
"""Platforms and a proxy together send half of it."""

# Lines that say how a message is framed, or what becomes of the connection, are taken in one form alone.
# Their names begin with one of these letters; most others are told from them by the first one.
_FRAMING: Final = rb"(?i:con|exp|hos|pro|tra|upg)"
_NAME: Final = (
    rb"(?:(?![CcEeHhPpTtUu])[A-Za-z0-9-]++"
    rb"|(?!" + _FRAMING + rb")[A-Za-z0-9-]++"
    rb"|(?i:content-type|content-encoding|traceparent|tracestate))"
)
_LINE: Final = rb"(?:" + _NAME + rb":[ -~]*+\r\n|(?i:connection: keep-alive\r\n))"
_HOST: Final = rb"(?i:host): ?+[!-~]++\r\n"
_LENGTH: Final = rb"(?i:content-length): ?+([0-9]{1,8})\r\n"
_PLAIN: Final = re.compile(
    LANE_PREFIX
    + rb"([A-Za-z0-9_-]++(?:/[A-Za-z0-9_-]++)?+)(?:\?[!-~]*+)?+ HTTP/1\.1\r\n"
    + (_LINE + rb"*+")
    + rb"(?:%b(?:%b)*+%b|%b(?:%b)*+%b)" % (_HOST, _LINE, _LENGTH, _LENGTH, _LINE, _HOST)
    + (_LINE + rb"*+")
    + rb"\r\n"
)


def plain_request(received: bytes) -> tuple[str, bytes] | None:
    """The part of the path behind the lane's prefix, and the body, if `received` is one whole request and
    nothing else; None when it is not, or not plainly."""
    head = _PLAIN.match(received, 0, HEAD_BYTES_MAX)
    if head is None:
        return None
    body = received[head.end() :]
    if len(body) != int(head[2] or head[3]):
        return None
    return head[1].decode("ascii"), body
