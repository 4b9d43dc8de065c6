"""Keyset pages over what is in memory: the tenant's configuration, sorted by id.

Lists that grow with traffic are paged by the database (`engine.reading`). A tenant's tags, users, channels
and rules are in the configuration snapshot already; the cursor is the last id shown, so a page stays right
when entries come and go in between.
"""

import base64
import binascii
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from engine.errors import InvalidInput
from engine.reading import Page

T = TypeVar("T")

LIMIT_DEFAULT = 20
LIMIT_MAX = 100


def page_by_id(items: Iterable[T], id_of: Callable[[T], int], *, limit: int, cursor: str | None) -> Page[T]:
    """At most `limit` items after the cursor, oldest first. InvalidInput for a cursor we never gave out."""
    after = _position(cursor) if cursor else 0
    rest: Sequence[T] = sorted((item for item in items if id_of(item) > after), key=id_of)
    shown = rest[:limit]
    more = len(rest) > limit
    return Page(items=shown, next_cursor=_cursor(id_of(shown[-1])) if more else None)


def _cursor(position: int) -> str:
    return base64.urlsafe_b64encode(str(position).encode()).decode().rstrip("=")


def _position(cursor: str) -> int:
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode(
            "ascii"
        )
    except (binascii.Error, ValueError):
        text = ""
    if not text.isascii() or not text.isdigit() or len(text) > 16:
        raise InvalidInput("The cursor is not one of ours.", fields={"cursor": ["Is not a cursor."]})
    return int(text)
