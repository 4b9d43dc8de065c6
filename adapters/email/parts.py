"""Where the files of a mail are: inside what was delivered, which the object store keeps whole.

A file's id is `SHAPE:DIGEST:WHERE`: how the delivery is read, the SHA-256 of its bytes, and the part in it.
The digest is also the delivery's key in the object store, so that the same delivery that comes again is the
same object.
"""

import hashlib
from typing import Final

from msgspec import Struct

SHAPES: Final = ("mime", "form", "form-mime", "postmark", "postmark-mime")
"""A mail's bytes; a form with files; a form with a mail in a field; Postmark's JSON, and with a mail in
it."""


class Place(Struct, frozen=True, kw_only=True):
    """A file's id, taken apart."""

    shape: str
    digest: str
    where: str


def source_of(delivered: bytes, shape: str = "mime") -> str:
    """What the ids of a delivery's files begin with."""
    return f"{shape}:{hashlib.sha256(delivered).hexdigest()}"


def place_of(source_id: str) -> Place | None:
    """None for what is no id of ours."""
    shape, _, rest = source_id.partition(":")
    digest, _, where = rest.partition(":")
    if shape not in SHAPES or len(digest) != 64 or not where:
        return None
    return Place(shape=shape, digest=digest, where=where)
