"""What a mail consists of, however it was brought: as one message, or taken apart by a provider."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from msgspec import Struct

FILES_MAX: Final = 100
"""Attachments of one mail. Programs that send photos send dozens; the raw mail keeps the rest."""


class File(Struct, frozen=True, kw_only=True):
    """A part that is no text of the mail. `where` finds its bytes in what was delivered (`parts`), unless it
    stayed with the service, at `url`."""

    where: str
    filename: str
    media_type: str
    content_id: str | None = None
    url: str | None = None


class LeftOut(Struct, frozen=True, kw_only=True):
    """What of a mail was not brought, and a sentence why. `sizes`: the encoded bytes of those parts, by
    `File.where`; the parts themselves are there, empty. `cut`: texts are not whole, or missing."""

    why: str
    sizes: Mapping[str, int] = {}
    cut: bool = False


class Headers:
    """A mail's headers, in their order; names in any case. Values are as they stood: undecoded."""

    def __init__(self, fields: Iterable[tuple[str, str]]) -> None:
        self._fields = [(name.lower(), value) for name, value in fields]

    def get(self, name: str) -> str | None:
        """The first."""
        wanted = name.lower()
        return next((value for known, value in self._fields if known == wanted), None)

    def all(self, name: str) -> list[str]:
        wanted = name.lower()
        return [value for known, value in self._fields if known == wanted]

    def names(self) -> set[str]:
        return {name for name, _ in self._fields}

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._fields)


class Letter(Struct, frozen=True, kw_only=True):
    """`text` and `html` are what was written, None where there is no such part. `flaws`: what could not be
    read as it should, in words. `kind` is the media type of the whole; `encrypted`: pgp or smime, where
    nobody here can read it. `report`: the parts of a report (message/delivery-status and the like) by media
    type."""

    headers: Headers
    text: str | None = None
    html: str | None = None
    files: tuple[File, ...] = ()
    flaws: tuple[str, ...] = ()
    kind: str = "text/plain"
    encrypted: str | None = None
    report: dict[str, bytes] = {}
