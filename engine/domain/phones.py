"""Telephone numbers that are written in two ways and ring one line: national variants. Pure.

Some countries lengthened their mobile numbers, or put a digit into the international form that is not dialled
at home. Platforms go on naming people by the older form, and people write the newer one: WhatsApp's `wa_id`
of a Brazilian may lack the ninth digit. `phonenumbers` (9.0) takes the two forms for different numbers, and
the older ones of Mexico and Benin for none, so the countries are a table here.

Sources    Brazil: Anatel, Resolução 553/2010 (a 9 before the eight digits of mobile numbers, which begin with
           6 to 9; all area codes since 2016-11-06). Argentina: Plan Fundamental de Numeración Nacional,
           Resolución SC 46/97 (from abroad, mobiles are dialled +54 9 and the same ten digits; a number is
           either a mobile or a fixed line). Mexico: IFT, Plan Técnico Fundamental de Numeración (+52 1 for
           mobiles until 2019-08-03, ten digits since). Benin: ARCEP Bénin (all numbers get 01 in front, 8 to
           10 digits, since 2024-11-30).
Promises   The variants of a number have each other as variants: it does not matter which one came first. At
           most one beside the number itself. What fits no rule has none: two people are never taken for one
           because a country is missing here, only suggested to a person less often.
"""

import re
from typing import Final

_RULES: Final = tuple(
    (re.compile(older), re.compile(newer), to_newer, to_older)
    for older, newer, to_newer, to_older in (
        (r"55([1-9]{2})([6-9]\d{7})", r"55([1-9]{2})9([6-9]\d{7})", r"55\g<1>9\2", r"55\1\2"),
        (r"54([1-3]\d{9})", r"549([1-3]\d{9})", r"549\1", r"54\1"),
        (r"521([2-9]\d{9})", r"52([2-9]\d{9})", r"52\1", r"521\1"),
        (r"229(\d{8})", r"22901(\d{8})", r"22901\1", r"229\1"),
    )
)

_COUNTRIES: Final = ("55", "54", "52", "229")


def variants(digits: str) -> tuple[str, ...]:
    """The other ways to write the number (E.164 without '+'); empty for most."""
    if not digits.startswith(_COUNTRIES):
        return ()  # each inbound message asks
    for older, newer, to_newer, to_older in _RULES:
        match = newer.fullmatch(digits)
        if match is not None:
            return (match.expand(to_older),)
        match = older.fullmatch(digits)
        if match is not None:
            return (match.expand(to_newer),)
    return ()


def with_variants(digits: str) -> tuple[str, ...]:
    """The number first, then its variants."""
    return (digits, *variants(digits))
