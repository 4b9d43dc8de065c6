"""National variants of telephone numbers."""

import phonenumbers
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.domain.phones import variants, with_variants


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("551187654321", "5511987654321"),
        ("541123456789", "5491123456789"),
        ("5215512345678", "525512345678"),
        ("22997123456", "2290197123456"),
    ],
)
def test_both_ways_lead_to_each_other(older: str, newer: str) -> None:
    assert variants(older) == (newer,)
    assert variants(newer) == (older,)
    assert with_variants(older) == (older, newer)


@pytest.mark.parametrize(
    "digits",
    [
        "551133334444",  # a fixed line of São Paulo: these got no ninth digit
        "5511933334444",  # a mobile that never had eight digits
        "5500987654321",  # no area code begins with 0
        "549123456789",  # a digit short
        "15550001111",
        "966501234567",
        "5215512345",
        "120363041234567890",
        "BR.13491208655302741918",
        "",
    ],
)
def test_what_fits_no_rule_has_none(digits: str) -> None:
    assert variants(digits) == ()


@given(st.from_regex(r"(?:55|54|52|229|1|966)[0-9]{6,12}", fullmatch=True))
def test_a_variant_of_a_variant_is_the_number(digits: str) -> None:
    for other in variants(digits):
        assert other != digits
        assert variants(other) == (digits,)


def test_the_library_knows_none_of_them() -> None:
    """If it did, the table could go."""
    match = phonenumbers.MatchType.EXACT_MATCH
    for newer in ("5511987654321", "5491123456789", "525512345678", "2290197123456"):
        (older,) = variants(newer)
        assert phonenumbers.is_number_match(f"+{newer}", f"+{older}") != match
