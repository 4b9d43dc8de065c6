"""Names and times of Google's resources."""

import pytest

from adapters.google_business.describing import PLATFORM
from adapters.google_business.naming import is_location, micros, millis, under_location


@pytest.mark.parametrize(
    ("name", "location"),
    [
        ("brands/40bd963f-ff92-425c-b273-8f0892d2d017/agents/7196e8ab-1377-4b9c-b64c-3bd5d0f1a0b2", False),
        ("accounts/111111111111/locations/222222222222", True),
    ],
)
def test_an_account_is_of_the_kind_that_its_name_says(name: str, location: bool) -> None:
    assert PLATFORM.connection.account.problem(name) is None
    assert is_location(name) is location


@pytest.mark.parametrize(
    "name",
    [
        "",
        "locations/1",
        "accounts/1/locations/2/reviews/3",
        "brands/1/agents/",
        "accounts/../locations/2",
        "accounts/1/locations/2\n",
        "x accounts/1/locations/2",
    ],
)
def test_another_name_is_none(name: str) -> None:
    assert PLATFORM.connection.account.problem(name) is not None


def test_what_is_below_a_profile_is_known_by_its_rest() -> None:
    """A question's answers by the question; nothing that would lead elsewhere in an address."""
    profile = "accounts/1/locations/2"
    assert under_location(f"{profile}/reviews/Ab_3-x") == (profile, "reviews/Ab_3-x")
    assert under_location(f"{profile}/questions/q/answers/1") == (profile, "questions/q")
    for other in (None, 7, profile, f"{profile}/reviews/", f"{profile}/reviews/..", f"{profile}/media/1"):
        assert under_location(other) is None


@pytest.mark.parametrize(
    ("text", "exact"),
    [
        ("2024-01-15T09:59:58Z", 1_705_312_798_000_000),
        ("2024-01-15T09:59:58.5Z", 1_705_312_798_500_000),
        ("2024-01-15T09:59:58.000001Z", 1_705_312_798_000_001),
        ("2024-01-15T09:59:58.000001999Z", 1_705_312_798_000_001),
        ("2024-01-15T11:59:58+02:00", 1_705_312_798_000_000),
    ],
)
def test_a_time_is_as_exact_as_it_is_written(text: str, exact: int) -> None:
    assert micros(text) == exact
    assert millis(text) == exact // 1_000


@pytest.mark.parametrize(
    "odd",
    [
        None,
        7,
        "",
        "yesterday",
        "2024-01-15T09:59:58",
        "1969-01-01T00:00:00Z",
        "2024-13-01T00:00:00Z",
        "9" * 50,
    ],
)
def test_what_is_no_time_is_none(odd: object) -> None:
    """Neither is one without a zone, or before the epoch."""
    assert micros(odd) is None
