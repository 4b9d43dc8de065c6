"""What Google's refusals mean.

Source      The Google Business sheet, B5: `{"error": {"code", "message", "status"}}`; the word in `status`
            decides, HTTP's number only where there is none. OAuth's words are RFC 6749's (5.2). The list is
            unconfirmed in the sheet.
Promises    Every word has a class. One that nobody has seen is final (BAD_REQUEST) below HTTP 500 and
            TRANSIENT above.
"""

from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import Struct

from adapters.calling import by_status, declined, seconds_of
from adapters.google_business.limits import LABEL
from adapters.port import ErrorClass, Failure
from adapters.wire import decoded

_AUTH, _BAD, _AWAY = ErrorClass.AUTH, ErrorClass.BAD_REQUEST, ErrorClass.TRANSIENT
_DOWN: Final = (_AWAY, "Google is temporarily not available.")
_GRANT: Final = (_AUTH, "Google accepts the account's grant no longer. Connect the account again.")

CODES: Final[dict[str, tuple[ErrorClass, str]]] = {
    "UNAUTHENTICATED": (_AUTH, "The access token has expired or was revoked. Connect the account again."),
    "PERMISSION_DENIED": (
        _AUTH,
        "Google does not let this account do that: the profile is not verified, the grant lacks the scope, "
        "or the user lost the profile.",
    ),
    "NOT_FOUND": (ErrorClass.RECIPIENT, "It is not there any more: the review or conversation was deleted."),
    "RESOURCE_EXHAUSTED": (ErrorClass.RATE_ACCOUNT, "The account calls faster than Google allows."),
    "INTERNAL": _DOWN,
    "UNAVAILABLE": _DOWN,
    "DEADLINE_EXCEEDED": _DOWN,
    "ABORTED": _DOWN,
    "UNKNOWN": _DOWN,
    "INVALID_ARGUMENT": (_BAD, "Google does not accept a part of this message."),
    "FAILED_PRECONDITION": (_BAD, "Google does not accept this as things are."),
    "OUT_OF_RANGE": (_BAD, "Google does not accept a part of this message."),
    "UNIMPLEMENTED": (ErrorClass.ACCOUNT, "Google has ended this service."),
    "invalid_grant": _GRANT,
    "invalid_client": (_AUTH, "Google does not know the OAuth client, or its secret is wrong."),
    "unauthorized_client": _GRANT,
    "invalid_scope": _GRANT,
}


class _Error(Struct):
    status: str = ""
    message: str = ""


class _Body(Struct):
    error: _Error | str


_body: Final = msgspec.json.Decoder(_Body)


def classify(code: str, *, status: int = 400) -> tuple[ErrorClass, str]:
    """The class and the sentence of a word."""
    known = CODES.get(code)
    if known is not None:
        return known
    sentence = f"Google did not accept it (code {code[:40]})."
    return (_AWAY if status >= 500 else _BAD), sentence


def read_failure(status: int, body: bytes, headers: Mapping[str, str]) -> Failure:
    """What an answer that is no success means; OAuth's have the word alone: `{"error": "invalid_grant"}`."""
    wait = seconds_of(headers.get("retry-after"))
    read = decoded(_body, body)
    error = _Error() if read is None else read.error
    if isinstance(error, str):
        error = _Error(status=error)
    if not error.status:
        return by_status(status, wait, LABEL)
    error_class, sentence = classify(error.status, status=status)
    if error_class is _BAD and error.message:
        sentence = f"{sentence} ({error.message[:300]})"
    return declined(error_class, error.status[:60], sentence, wait=wait)
