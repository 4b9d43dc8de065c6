"""A mail that is too large to be read whole, as far as it can be: a mail of its own, which a reader of mail
understands, with the headers, the texts and those files for which there is room.

Promises    Headers, sender and subject stand as they are in the mailbox, so that the excerpt has the mail's
            Message-ID. Parts keep their order and their own headers; those that were left in the mailbox are
            empty, and `left_out` names them. The same mail gives the same excerpt.
Limits      `HEAD_BYTES_MAX`, `TEXT_BYTES` of each text, and as much of all parts together as a whole mail
            may have. Blocks: call it in a thread.
Source      RFC 3501, 6.4.5; RFC 2046, 5.1.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Final, Protocol

from msgspec import Struct

from adapters.email.letter import LeftOut
from adapters.email.mime import HEAD_BYTES_MAX, TEXT_BYTES_MAX, head_of, is_text
from adapters.email.structure import Leaf

TEXT_BYTES: Final = TEXT_BYTES_MAX * 3 // 2
"""What is shown of a text, in base64 with its line ends."""
PART_HEAD_BYTES: Final = 16 * 1024
_HEADS_AT_ONCE: Final = 50

_CONTENT_FIELDS: Final = re.compile(
    rb"^content-(?:type|transfer-encoding)[ \t]*:.*(?:\n[ \t].*)*\n?", re.IGNORECASE | re.MULTILINE
)


class Excerpt(Struct, frozen=True, kw_only=True):
    """A mail's bytes. `left_out`: what they lack; None: nothing, it is the mail."""

    raw: bytes
    left_out: LeftOut | None = None


class Mailbox(Protocol):
    """What an excerpt is read from: `adapters.email.mailbox.Mailbox`."""

    def sections(self, uid: int, wanted: Mapping[str, int]) -> dict[str, bytes] | None: ...

    def leaves(self, uid: int) -> Sequence[Leaf]: ...


def excerpt_of(mailbox: Mailbox, uid: int, *, size: int, most: int, by_parts: bool) -> Excerpt | None:
    """What can be read of a mail of `size` bytes, of which `most` may be read; its headers alone without
    `by_parts`. None when it was removed meanwhile."""
    found = mailbox.sections(uid, {"HEADER": HEAD_BYTES_MAX})
    if found is None:
        return None
    head = found["HEADER"].rstrip(b"\r\n") + b"\r\n"
    why = f"The mail has {size} bytes; of one that has more than {most} not everything is read."
    if size <= most:
        why = f"The mailbox sends more than the {most} bytes that are read of a mail."
    leaves = mailbox.leaves(uid) if by_parts else ()
    if not leaves:
        return Excerpt(
            raw=_CONTENT_FIELDS.sub(b"", head) + b"\r\n",
            left_out=LeftOut(why=f"{why} This one's parts could not be told apart.", cut=True),
        )
    heads = [head] if leaves[0].alone else _heads(mailbox, uid, leaves)
    room = _Room(most)
    texts = {at for at, each in enumerate(heads) if is_text(head_of(each))}
    # Texts first: whatever else there is, an agent should know what was written.
    wanted = {at: min(leaves[at].bytes, TEXT_BYTES) for at in sorted(texts)}
    wanted |= {at: each.bytes for at, each in enumerate(leaves) if at not in texts}
    taken = {at: each for at, each in wanted.items() if room.take(each)}
    contents = []
    for at, leaf in enumerate(leaves):
        read = mailbox.sections(uid, {leaf.section: taken[at]}) if taken.get(at) else {leaf.section: b""}
        if read is None:
            return None
        contents.append(read[leaf.section])
    left_out = LeftOut(
        why=why,
        sizes={str(at): leaf.bytes for at, leaf in enumerate(leaves) if at not in taken and at not in texts},
        cut=any(taken.get(at, 0) < leaves[at].bytes for at in texts),
    )
    raw = head + b"\r\n" + contents[0] if leaves[0].alone else _joined(head, heads, contents)
    return Excerpt(raw=raw, left_out=left_out)


class _Room:
    def __init__(self, left: int) -> None:
        self._left = left

    def take(self, wanted: int) -> bool:
        if wanted > self._left:
            return False
        self._left -= wanted
        return True


def _heads(mailbox: Mailbox, uid: int, leaves: Sequence[Leaf]) -> list[bytes]:
    heads: list[bytes] = []
    names = iter([f"{leaf.section}.MIME" for leaf in leaves])
    while group := list(islice(names, _HEADS_AT_ONCE)):
        found = mailbox.sections(uid, dict.fromkeys(group, PART_HEAD_BYTES)) or {}
        heads += [found.get(name, b"").strip(b"\r\n") + b"\r\n" for name in group]
    return heads


def _joined(head: bytes, heads: Iterable[bytes], contents: Sequence[bytes]) -> bytes:
    """One container with all parts, of the kind that the mail is."""
    kind = head_of(head).get_content_subtype()
    kind = kind if kind in ("report", "encrypted") else "mixed"
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content)
    boundary = f"excerpt-{digest.hexdigest()[:40]}"
    pieces = [
        _CONTENT_FIELDS.sub(b"", head),
        f'Content-Type: multipart/{kind}; boundary="{boundary}"\r\n\r\n'.encode(),
    ]
    for part_head, content in zip(heads, contents, strict=True):
        pieces += [f"--{boundary}\r\n".encode(), part_head.lstrip(b"\r\n"), b"\r\n", content, b"\r\n"]
    pieces.append(f"--{boundary}--\r\n".encode())
    return b"".join(pieces)
