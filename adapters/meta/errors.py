"""What the Graph API's errors mean when a Page or an Instagram account sends.

Source      The Messenger sheet, section 6; the Instagram sheet, section 6. Written `CODE/SUBCODE` where a
            subcode decides, else `CODE`; unconfirmed in the sheets: 32, 80006, 100/2534014.
Promises    Every code has a class. One that nobody has seen is final (BAD_REQUEST) below HTTP 500 and
            TRANSIENT above; `is_transient` in the answer makes any TRANSIENT.
"""

from collections.abc import Mapping
from typing import Final

from adapters.calling import by_status, declined
from adapters.meta.graph import read_error, retry_after
from adapters.port import ErrorClass, Failure

_AUTH, _BAD, _RATE = ErrorClass.AUTH, ErrorClass.BAD_REQUEST, ErrorClass.RATE_ACCOUNT
_TRANSIENT, _RECIPIENT, _LONG = ErrorClass.TRANSIENT, ErrorClass.RECIPIENT, ErrorClass.WAIT_LONG

_WINDOW: Final = (_LONG, "The reply window is closed: the customer has to write first.")
_GONE: Final = (_RECIPIENT, "This customer cannot be reached: gone, blocked, or never wrote to the account.")
_OWNED: Final = (_LONG, "Another app has this conversation now; take it back, or wait until it is passed on.")
_FETCH: Final = (_BAD, "The platform could not fetch or take the file.")
_TOKEN: Final = (_AUTH, "The access token has expired or was revoked. Connect the account again.")
_EXPIRED: Final = (_AUTH, "The access token has expired. Connect the account again.")
_REVOKED: Final = (_AUTH, "The access token was revoked or is wrong. Connect the account again.")
_RIGHT: Final = (_AUTH, "The app lacks a permission that sending needs.")
_SLOW: Final = (_RATE, "The account sends faster than the platform allows.")
_AWAY: Final = (_TRANSIENT, "The platform is temporarily not available.")

CODES: Final[dict[str, tuple[ErrorClass, str]]] = {
    "0": _TOKEN, "190": _TOKEN, "190/463": _EXPIRED, "190/460": _REVOKED, "190/467": _REVOKED,
    "3": _RIGHT, "10": _RIGHT, "200": _RIGHT, "230": _RIGHT,
    "4": _SLOW, "4/2018354": _SLOW, "32": _SLOW, "613": _SLOW, "80006": _SLOW,
    "1": _AWAY, "2": _AWAY, "1200": _AWAY, "9000001": _AWAY,
    "10/2018278": _WINDOW, "10/2018065": _WINDOW, "10/2534022": _WINDOW, "1545041": _WINDOW,
    "551": _GONE, "200/1545041": _GONE, "100/2018001": _GONE, "10/2018108": _GONE, "100/2534014": _GONE,
    "2018300": _OWNED, "10/2018300": _OWNED,
    "100/2018109": (_BAD, "The file is too large for the platform."),
    "100/2018008": _FETCH, "2018008": _FETCH, "2018047": _FETCH, "100/2018047": _FETCH,
    "2018294": _FETCH, "100/2018294": _FETCH,
    "100": (_BAD, "The platform does not accept a part of this message."),
    "9/2018352": (_BAD, "The platform does not accept this message."),
    "368": (ErrorClass.ACCOUNT, "The platform has blocked this account for a time because of its policies."),
}  # fmt: skip


def classify(code: str, *, status: int = 400) -> tuple[ErrorClass, str]:
    """The class and the sentence of `CODE` or `CODE/SUBCODE`."""
    known = CODES.get(code) or CODES.get(code.partition("/")[0])
    if known is not None:
        return known
    bare = code.partition("/")[0]
    if bare.isascii() and bare.isdigit() and 200 <= int(bare) <= 299:
        return _RIGHT
    sentence = f"The platform did not accept the message (code {code[:40]})."
    return (_TRANSIENT if status >= 500 else _BAD), sentence


def read_failure(status: int, body: bytes, headers: Mapping[str, str], label: str) -> Failure:
    """What an answer that is no success means: the error's code decides, the status only in its
    absence."""
    wait = retry_after(headers)
    error = read_error(body)
    if error is None:
        return by_status(status, wait, label)
    code = f"{error.code}/{error.error_subcode}" if error.error_subcode else str(error.code)
    error_class, sentence = classify(code, status=status)
    if error.is_transient and error_class is _BAD:
        error_class, sentence = _AWAY
    if error_class is _BAD and error.message:
        sentence = f"{sentence} ({error.message[:300]})"
    return declined(error_class, code, sentence, wait=wait)
