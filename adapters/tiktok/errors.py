"""What the Business API's codes mean when an account sends.

Source      The TikTok sheet, section 6. Unconfirmed there: which of 40001 to 40003 are about
            permissions and which about parameters, and the range of the transient codes.
Promises    Every code has a class. One that nobody has seen is final (BAD_REQUEST); the HTTP status counts
            only where the answer has no code, since it is 200 for most errors.
"""

from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import Struct

from adapters.calling import by_status, declined, seconds_of
from adapters.port import ErrorClass, Failure
from adapters.tiktok.limits import LABEL
from adapters.wire import decoded

OK: Final = 0

_TOKEN: Final = (ErrorClass.AUTH, "The access token has expired or was revoked. Connect the account again.")
_RIGHT: Final = (ErrorClass.AUTH, "The app lacks a permission that sending needs.")
_SLOW: Final = (ErrorClass.RATE_ACCOUNT, "The app sends faster than the platform allows.")
_AWAY: Final = (ErrorClass.TRANSIENT, "The platform is temporarily not available.")
_PART: Final = (ErrorClass.BAD_REQUEST, "The platform does not accept a part of this message.")

CODES: Final[Mapping[int, tuple[ErrorClass, str]]] = {
    40001: _RIGHT,
    # On the pages that speak of messages a parameter; were it a token's, parking the whole account for one
    # message that is wrong would still be the worse mistake.
    40002: _PART,
    40003: _RIGHT,
    40004: (ErrorClass.RECIPIENT, "The platform does not find this conversation."),
    40064: _SLOW,
    40100: _SLOW,
    40105: _TOKEN,
}
_AWAY_CODES: Final = frozenset({50000, 50001, 50002})
_AWAY_FAMILY: Final = range(51000, 52000)


class _Error(Struct):
    code: int
    message: str = ""


_error: Final = msgspec.json.Decoder(_Error)


def classify(code: str) -> tuple[ErrorClass, str]:
    """The class and the sentence of a code in digits."""
    number = int(code) if code.isascii() and code.isdigit() and len(code) <= 9 else -1
    if number in CODES:
        return CODES[number]
    if number in _AWAY_CODES or number in _AWAY_FAMILY:
        return _AWAY
    return ErrorClass.BAD_REQUEST, f"The platform did not accept the message (code {code[:40]})."


def read_failure(status: int, body: bytes, headers: Mapping[str, str]) -> Failure:
    """What an answer means whose HTTP status is no success, or whose code is not `OK`."""
    wait = seconds_of(headers.get("retry-after"))
    error = decoded(_error, body)
    if error is None or error.code == OK:
        return by_status(status, wait, LABEL)
    error_class, sentence = classify(str(error.code))
    if status == 429 or (error_class is ErrorClass.BAD_REQUEST and status >= 500):
        error_class, sentence = _SLOW if status == 429 else _AWAY
    if error_class is ErrorClass.BAD_REQUEST and error.message:
        sentence = f"{sentence} ({error.message[:300]})"
    return declined(error_class, str(error.code), sentence, wait=wait)
