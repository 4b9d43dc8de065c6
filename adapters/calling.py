"""How a call to a platform ended, where the platform's own words say nothing: shared by the adapters.

Promises    What is `Declined` here was surely not taken. Every sentence says what happened and, where a
            person can do something, what; none has a secret in it. `label` is the platform's name for
            sentences.
"""

from typing import Final, TypeVar

import httpx

from adapters.guard import AddressRefused
from adapters.port import Account, Declined, ErrorClass, Unanswered

T = TypeVar("T")

NEVER_SENT: Final = (
    httpx.UnsupportedProtocol,
    httpx.LocalProtocolError,
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.InvalidURL,
    UnicodeError,
)
"""The errors of httpx after which no byte of the request can have reached anybody. The guard's refusal
(`AddressRefused`) is a ConnectError."""

RETRY_SECONDS_MAX: Final = 86_400.0
"""A platform that asks for a longer rest is asked again after a day."""


def declined(error_class: ErrorClass, code: str, sentence: str, *, wait: float | None = None) -> Declined:
    """`wait`: the seconds that the platform asks for, of which `RETRY_SECONDS_MAX` count."""
    wait = None if wait is None else min(wait, RETRY_SECONDS_MAX)
    return Declined(error_class=error_class, platform_code=code, message=sentence, retry_after_seconds=wait)


def no_source() -> Declined:
    """A file of which the webhook gave neither an id nor an address."""
    return declined(ErrorClass.BAD_REQUEST, "no_source", "The platform named no file.")


def never_sent(error: Exception, label: str = "The platform") -> Declined:
    """What one of `NEVER_SENT` means."""
    unreachable = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
    if isinstance(error, unreachable) and not isinstance(error, AddressRefused):
        return unreached(label, error)
    # Only the guard's own words: those of others may repeat a header.
    why = f" ({error})" if isinstance(error, AddressRefused) else ""
    sentence = f"The account's address is not one that may be called{why}."
    return declined(ErrorClass.ACCOUNT, "address_refused", sentence)


def unreached(label: str, error: Exception) -> Declined:
    """There was no connection over which anything could have been written."""
    sentence = f"{label} cannot be reached ({type(error).__name__})."
    return declined(ErrorClass.UNREACHABLE, "unreachable", sentence)


def repeatable(result: T | Declined | Unanswered, label: str) -> T | Declined:
    """For a call that sends no message: what nobody can know is tried again."""
    if isinstance(result, Unanswered):
        sentence = f"{label} gave no answer that can be read ({result.reason})."
        return declined(ErrorClass.TRANSIENT, "unanswered", sentence)
    return result


def not_understood(label: str) -> Declined:
    """The same for a success that does not say what it should."""
    return repeatable(Unanswered(reason="a success that cannot be read"), label)


def is_token(text: str) -> bool:
    """Whether a text can stand in a header as a token or key."""
    return bool(text) and text.isascii() and text.isprintable() and " " not in text


def token_problem(account: Account) -> Declined | None:
    """Why the account's token cannot be sent at all; None when it can. The platform would say the same
    later."""
    return None if is_token(account.credentials.get("access_token", "")) else no_token()


def no_token() -> Declined:
    sentence = "The account has no access token that can be used. Connect it again."
    return declined(ErrorClass.AUTH, "no_token", sentence)


def by_status(status: int, wait: float | None, label: str = "The platform") -> Declined | Unanswered:
    """An answer that is no success and has no error that can be read: an HTTP 4xx was refused before it was
    read. A 5xx comes from something in front of the platform: whether the call went through, nobody knows.
    503 says that it did not (RFC 9110, 15.6.4), and 408 that it did not arrive as a whole."""
    if status == 429:
        error_class, sentence = ErrorClass.RATE_ACCOUNT, f"{label} asks to slow down."
    elif status in (401, 403):
        error_class = ErrorClass.AUTH
        sentence = f"{label} does not accept the account's credentials. Connect the account again."
    elif status in (408, 425, 503):
        error_class, sentence = ErrorClass.TRANSIENT, f"{label} is temporarily not available."
    elif 300 <= status < 400 or status == 404:
        error_class = ErrorClass.ACCOUNT
        sentence = f"{label} has nothing at the account's address: check the account's id."
    elif 400 <= status < 500:
        error_class = ErrorClass.BAD_REQUEST
        sentence = f"{label} did not accept the message (HTTP {status})."
    else:
        return Unanswered(reason=f"HTTP {status} without an error that can be read")
    return declined(error_class, f"http_{status}", sentence, wait=wait)


def seconds_of(retry_after: str | None) -> float | None:
    """Retry-After in its seconds form (RFC 9110, 10.2.3), the only one that the platforms use."""
    try:
        seconds = float(retry_after) if retry_after is not None else -1.0
    except ValueError:
        return None
    # Also false for NaN.
    return seconds if seconds >= 0 else None
