"""The names and times of Google's resources: one place that knows how they look.

    account of messages   brands/{brand}/agents/{agent}
    account of reviews    accounts/{account}/locations/{location}
    contact of messages   the conversation's id
    contact of reviews    reviews/{review}: under the location, so the account's name in front makes it whole

A version of a review is its name and the time of its last change (sheet, B4).
"""

import re
from datetime import UTC, datetime
from typing import Any, Final

from adapters.wire import usable_id

_PART: Final = r"[A-Za-z0-9_-][A-Za-z0-9_.~-]{0,199}"
"""Parts go into addresses as they are, so none begins with a dot."""
AGENT: Final = re.compile(rf"brands/{_PART}/agents/{_PART}")
LOCATION: Final = re.compile(rf"accounts/{_PART}/locations/{_PART}")
ACCOUNT_PATTERN: Final = rf"^({AGENT.pattern}|{LOCATION.pattern})$(?!\n)"
"""Without the line's end that `$` alone would let through."""

_UNDER_LOCATION: Final = re.compile(rf"({LOCATION.pattern})/((?:reviews|questions)/{_PART})(?:/.*)?")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def is_location(account: str) -> bool:
    """Whether the account is a profile with reviews, and not an agent of Business Messages."""
    return LOCATION.fullmatch(account) is not None


def under_location(name: object) -> tuple[str, str] | None:
    """(location, the rest) of a review's or question's name; None for another. What stands below a question
    (its answers) is left out."""
    found = _UNDER_LOCATION.fullmatch(name) if isinstance(name, str) else None
    return (found[1], found[2]) if found is not None else None


def last_part(name: object) -> str | None:
    """The id at the end of a name; of an id itself, the id."""
    return usable_id(name.rpartition("/")[2]) if isinstance(name, str) else None


def micros(value: Any) -> int | None:
    """A time as RFC 3339 in microseconds: as exact as Google writes it."""
    if not isinstance(value, str) or not 10 < len(value) <= 40:
        return None
    try:
        found = datetime.fromisoformat(value)
        if found.tzinfo is None:
            return None
        passed = found - _EPOCH
    except (ValueError, OverflowError):
        return None
    whole = (passed.days * 86_400 + passed.seconds) * 1_000_000 + passed.microseconds
    return whole if whole > 0 else None


def millis(value: Any) -> int | None:
    """The same in milliseconds."""
    exact = micros(value)
    return None if exact is None else exact // 1_000


def version(key: str, updated: int) -> str:
    """The id of one version of a review, by the microsecond of its change."""
    return f"{key}@{updated}"


def answer_id(key: str, updated: int) -> str:
    """The id of one version of the public answer to it."""
    return f"{key}/reply@{updated}"
