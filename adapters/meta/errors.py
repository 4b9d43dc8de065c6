"""What the Graph API's errors mean when a Page or an Instagram account sends.

Source      The Messenger sheet, section 6; the Instagram sheet, section 6. Written `CODE/SUBCODE` where a
            subcode decides, else `CODE`; unconfirmed in the sheets: 32, 80006, 100/2534014.
Promises    Every code has a class. One that nobody has seen is final (BAD_REQUEST) below HTTP 500 and
            TRANSIENT above; `is_transient` in the answer makes any TRANSIENT.
"""

from typing import Any, Final

import msgspec
from msgspec import Struct

from adapters.calling import RETRY_SECONDS_MAX, by_status, declined
from adapters.port import ErrorClass, SendResult

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


class _Error(Struct):
    code: int
    message: str | None = None
    error_subcode: int | None = None
    is_transient: bool = False


class _Body(Struct):
    error: _Error


_body: Final = msgspec.json.Decoder(_Body)


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


def read_failure(status: int, body: bytes, headers: Any) -> SendResult:
    """What an answer that is no success means: the error's code decides, the status only in its
    absence."""
    wait = retry_after(headers)
    try:
        error = _body.decode(body).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return by_status(status, wait)
    code = f"{error.code}/{error.error_subcode}" if error.error_subcode else str(error.code)
    error_class, sentence = classify(code, status=status)
    if error.is_transient and error_class is _BAD:
        error_class, sentence = _AWAY
    if error_class is _BAD and error.message:
        sentence = f"{sentence} ({error.message[:300]})"
    return declined(error_class, code, sentence, wait=wait)


# ------------------------------------------------------------------ what the headers say of the account's use


def retry_after(headers: Any) -> float | None:
    """Seconds from Retry-After, else what the usage header estimates; a day at most."""
    given = headers.get("retry-after")
    try:
        seconds = float(given) if given is not None else usage(headers)[1] * 60.0
    except ValueError:
        return None
    return min(seconds, RETRY_SECONDS_MAX) if seconds > 0 else None


def usage(headers: Any) -> tuple[float, float]:
    """The share of the account's calls that is used up, in percent, and the minutes until there are some
    again; zeros where the platform says nothing. Headers `X-Business-Use-Case-Usage`, {id: [{call_count,
    total_cputime, total_time, estimated_time_to_regain_access}]}, and `X-App-Usage`, the same without the
    lists."""
    percent = minutes = 0.0
    for name in ("x-business-use-case-usage", "x-app-usage"):
        try:
            found = msgspec.json.decode(headers.get(name) or "{}")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
        values = list(found.values()) if isinstance(found, dict) else []
        uses = [each for value in values if isinstance(value, list) for each in value]
        for use in (found, *uses):
            if not isinstance(use, dict):
                continue
            for member in ("call_count", "total_cputime", "total_time"):
                percent = max(percent, _number(use.get(member)))
            minutes = max(minutes, _number(use.get("estimated_time_to_regain_access")))
    return percent, minutes


def _number(value: Any) -> float:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1e9
    return float(value) if usable else 0.0
