"""Times as Google writes them: RFC 3339 to the microsecond."""

from datetime import UTC, datetime, timedelta
from typing import Final

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def written(at: datetime) -> str:
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")


def micros(at: str) -> int:
    """A written time in microseconds."""
    return (datetime.fromisoformat(at) - EPOCH) // timedelta(microseconds=1)
