"""How a call to a platform ended, where the platform's own words say nothing: shared by the adapters.

Promises    What is `Declined` here was surely not taken. `NEVER_SENT` are the errors of httpx after which no
            byte of the request can have reached anybody.
"""

from typing import Final

import httpx

from adapters.guard import AddressRefused
from adapters.port import Account, Declined, ErrorClass, SendResult, Unanswered

NEVER_SENT: Final = (
    AddressRefused,
    httpx.UnsupportedProtocol,
    httpx.LocalProtocolError,
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.InvalidURL,
    UnicodeError,
)

RETRY_SECONDS_MAX: Final = 86_400.0
"""A platform that asks for a longer rest is asked again after a day."""


def declined(error_class: ErrorClass, code: str, sentence: str, *, wait: float | None = None) -> Declined:
    return Declined(error_class=error_class, platform_code=code, message=sentence, retry_after_seconds=wait)


def no_source() -> Declined:
    """A file of which the webhook gave neither an id nor an address."""
    return declined(ErrorClass.BAD_REQUEST, "no_source", "The platform named no file.")


def never_sent(error: Exception) -> Declined:
    """What one of `NEVER_SENT` means."""
    unreachable = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
    if isinstance(error, unreachable) and not isinstance(error, AddressRefused):
        sentence = f"The platform cannot be reached ({type(error).__name__})."
        return declined(ErrorClass.UNREACHABLE, "unreachable", sentence)
    sentence = "The account's address is not one that may be called."
    return declined(ErrorClass.ACCOUNT, "address_refused", sentence)


def token_problem(account: Account) -> Declined | None:
    """Why the account's token cannot be sent at all."""
    token = account.credentials.get("access_token", "")
    if token and token.isascii() and token.isprintable() and " " not in token:
        return None
    return declined(ErrorClass.AUTH, "no_token", "The account has no access token that can be used.")


def by_status(status: int, wait: float | None) -> SendResult:
    """An answer that is no success and has no error that can be read. A 5xx comes from something in front of
    the platform: whether the call went through, nobody knows (503 and 408 say that it did not)."""
    if status == 429:
        error_class, sentence = ErrorClass.RATE_ACCOUNT, "The account sends faster than the platform allows."
    elif status in (401, 403):
        error_class = ErrorClass.AUTH
        sentence = "The access token has expired or was revoked. Connect the account again."
    elif status in (408, 425, 503):
        error_class, sentence = ErrorClass.TRANSIENT, "The platform is temporarily not available."
    elif 300 <= status < 400 or status == 404:
        error_class = ErrorClass.ACCOUNT
        sentence = "The account's address at the platform is wrong: check its id."
    elif 400 <= status < 500:
        error_class, sentence = (
            ErrorClass.BAD_REQUEST,
            f"The platform did not accept the message (HTTP {status}).",
        )
    else:
        return Unanswered(reason=f"HTTP {status} without an error that can be read")
    return declined(error_class, f"http_{status}", sentence, wait=wait)


def seconds_of(retry_after: str | None) -> float | None:
    """Retry-After in its seconds form (RFC 9110, 10.2.3), a day at most."""
    try:
        seconds = float(retry_after) if retry_after is not None else -1.0
    except ValueError:
        return None
    return min(seconds, RETRY_SECONDS_MAX) if seconds >= 0 else None
