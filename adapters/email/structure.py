"""What an IMAP server tells of a mail: FETCH answers and body structures, taken apart.

Promises    Pure. What cannot be read gives nothing (None, or no parts), whatever the bytes.
Limits      `TOKENS_MAX`, `DEPTH_MAX`, and `PARTS_MAX` parts.
Source      RFC 3501, 7.4.2.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from msgspec import Struct

from adapters.email.mime import PARTS_MAX, media_type_of

TOKENS_MAX: Final = 20_000
"""A part has about thirty."""
DEPTH_MAX: Final = 200

_TOKEN: Final = re.compile(
    rb'[\s]*(?:(?P<open>\()|(?P<close>\))|"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<atom>[^\s()"{]+))', re.DOTALL
)
_LITERAL: Final = re.compile(rb"[\s]*\{\d+\+?\}$")
_END: Final = re.compile(rb"[\s]*$")
_ESCAPED: Final = re.compile(rb"\\(.)", re.DOTALL)


class Leaf(Struct, frozen=True, kw_only=True):
    """A part that is no container. `section` is what it is fetched by, `bytes` its size as it is encoded.
    `alone`: it is all of the mail, and its headers are the mail's."""

    section: str
    media_type: str
    bytes: int
    alone: bool = False


def told_of(uid: int, data: Sequence[Any]) -> dict[str, Any] | None:
    """What a FETCH answer, as imaplib gives it, tells of a mail, by the items' names. Strings are bytes, NIL
    is None, and lists are lists. None: it tells nothing of this mail."""
    found: dict[str, Any] = {}
    try:
        told = _parsed(data)
    except ValueError:
        return None
    for each in told:
        if isinstance(each, list):
            names = [
                name.decode("ascii", "replace").upper() if isinstance(name, bytes) else ""
                for name in each[::2]
            ]
            items = dict(zip(names, each[1::2], strict=False))
            if items.get("UID") == str(uid).encode():
                found |= items
    return found or None


def leaves_of(structure: Any) -> tuple[Leaf, ...]:
    """A body structure's parts in their order. A mail within the mail is one part."""
    leaves: list[Leaf] = []
    waiting: list[tuple[Any, str]] = [(structure, "")]
    while waiting and len(leaves) < PARTS_MAX:
        part, section = waiting.pop()
        if not isinstance(part, list) or not part:
            return ()
        if isinstance(part[0], list):
            # Behind the parts come the subtype and then, in a list, the parameters.
            inside = part[
                : next((at for at, each in enumerate(part) if not isinstance(each, list)), len(part))
            ]
            prefix = f"{section}." if section else ""
            waiting.extend((each, f"{prefix}{at}") for at, each in reversed(list(enumerate(inside, 1))))
        elif len(part) >= 7 and isinstance(part[6], bytes) and part[6].isdigit() and len(part[6]) < 16:
            main, sub = (
                each.decode("ascii", "replace") if isinstance(each, bytes) else "" for each in part[:2]
            )
            leaves.append(
                Leaf(
                    section=section or "1",
                    media_type=media_type_of(f"{main}/{sub}"),
                    bytes=int(part[6]),
                    alone=not section,
                )
            )
        else:
            return ()
    return tuple(leaves)


def _parsed(data: Sequence[Any]) -> list[Any]:
    """Raises ValueError."""
    top: list[Any] = []
    stack = [top]
    for count, (kind, value) in enumerate(_tokens(data)):
        if count >= TOKENS_MAX or len(stack) > DEPTH_MAX:
            raise ValueError("more than is read")
        if kind == "open":
            inner: list[Any] = []
            stack[-1].append(inner)
            stack.append(inner)
        elif kind == "close":
            stack.pop()
            if not stack:
                raise ValueError("closed without being opened")
        else:
            stack[-1].append(None if kind == "atom" and value.upper() == b"NIL" else value)
    return top


def _tokens(data: Sequence[Any]) -> Iterator[tuple[str, bytes]]:
    for piece in data:
        text, literal = piece if isinstance(piece, tuple) else (piece, None)
        at = 0
        while isinstance(text, bytes) and _END.match(text, at) is None:
            token = _TOKEN.match(text, at)
            if token is None:
                if literal is None or _LITERAL.match(text, at) is None:
                    raise ValueError("no answer to FETCH")
                break
            kind = str(token.lastgroup)
            value = token[kind]
            yield kind, _ESCAPED.sub(rb"\1", value) if kind == "quoted" else value
            at = token.end()
        if literal is not None:
            yield "literal", literal
