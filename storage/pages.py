"""Keyset cursors: where a page ended, as opaque text.

Promises   what was given out is understood, whatever else comes in is InvalidInput: a cursor carries the name
           of its list, so one list's cursor is not another's, and each value's type is checked.
           It is not secret and not signed: it holds ids and times that its page showed.
"""

import base64
import binascii
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from engine.errors import InvalidInput

LIMIT_MAX: Final = 100
"""Items of a page, as the API says."""

_decode: Final = msgspec.json.Decoder(list[int | str]).decode


def cursor_text(name: str, *values: int) -> str:
    """The cursor of list `name` after the item with these sort keys."""
    return base64.urlsafe_b64encode(msgspec.json.encode([name, *values])).rstrip(b"=").decode()


def cursor_values(name: str, cursor: str, count: int) -> list[int]:
    """The sort keys in `cursor`. Raises InvalidInput for what was not given out."""
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        values = _decode(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, binascii.Error, msgspec.MsgspecError):
        values = []
    keys = [value for value in values[1:] if isinstance(value, int) and abs(value) < 2**63]
    if len(values) != count + 1 or values[0] != name or len(keys) != count:
        raise InvalidInput("The cursor is not one of ours.", fields={"cursor": ["is not valid"]})
    return keys


def bounded(limit: int) -> int:
    """`limit` within 1 and LIMIT_MAX."""
    return max(1, min(limit, LIMIT_MAX))


def cut(records: Sequence[Any], limit: int) -> tuple[Sequence[Any], bool]:
    """The page out of `limit` + 1 fetched records, and whether there are more."""
    return records[:limit], len(records) > limit
