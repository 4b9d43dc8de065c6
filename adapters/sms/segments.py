"""How a text is cut into the parts that networks carry and operators charge for (sheet, section 5). Pure."""

from typing import Final

from msgspec import Struct

GSM_7: Final = "GSM-7"
UCS_2: Final = "UCS-2"

_BASIC: Final = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_EXTENSION: Final = frozenset("^{}\\[~]|€\f")
"""An escape and a character: two septets, which stay together."""
_SIZES: Final = {GSM_7: (160, 153), UCS_2: (70, 67)}
"""Units in a message of one part, and in each part of a longer one, which has a header."""


class Segments(Struct, frozen=True, kw_only=True):
    """`units` are septets, or UTF-16 code units (an emoji has two)."""

    encoding: str
    units: int
    count: int


def segments(text: str) -> Segments:
    """One character outside GSM-7 makes the whole message UCS-2; Arabic always is."""
    gsm = all(letter in _BASIC or letter in _EXTENSION for letter in text)
    encoding = GSM_7 if gsm else UCS_2
    widths = [_width(letter, gsm=gsm) for letter in text]
    units = sum(widths)
    alone, together = _SIZES[encoding]
    if units <= alone:
        return Segments(encoding=encoding, units=units, count=1)
    count, free = 1, together
    for width in widths:
        if width > free:
            count, free = count + 1, together
        free -= width
    return Segments(encoding=encoding, units=units, count=count)


def _width(letter: str, *, gsm: bool) -> int:
    if gsm:
        return 2 if letter in _EXTENSION else 1
    return 2 if ord(letter) > 0xFFFF else 1
