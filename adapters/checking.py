"""Calls outside of sending that a person or a schedule waits for: does an account work, who is a customer,
new credentials. Shared by the adapters.

Promises    What passes by itself (no connection, the platform's own trouble, too many calls) raises
            Unavailable with a time; what a person has to act on is an answer.
"""

from typing import Final

from adapters.port import Declined, ErrorClass
from engine.errors import Unavailable

SECONDS_MAX: Final = 15.0
"""Somebody looks at a screen meanwhile."""
_RETRY_SECONDS: Final = 5.0

_PASSING: Final = frozenset({ErrorClass.TRANSIENT, ErrorClass.UNREACHABLE, ErrorClass.RATE_ACCOUNT})


def lasting(refused: Declined) -> Declined:
    """The refusal, if it stays one. Raises Unavailable if it passes by itself."""
    if refused.error_class in _PASSING:
        raise Unavailable(
            refused.message,
            code="platform_unavailable",
            retry_after_seconds=refused.retry_after_seconds or _RETRY_SECONDS,
        )
    return refused


def unreadable(label: str) -> Unavailable:
    """A success that does not say what it should."""
    return Unavailable(
        f"{label}'s answer cannot be understood.",
        code="platform_unavailable",
        retry_after_seconds=_RETRY_SECONDS,
    )
