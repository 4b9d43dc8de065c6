"""What the platform's error codes mean: the class that decides on a retry, and a sentence for people.

Source      The WhatsApp sheet, sections 4.8, 6.2 and 6.3. The code decides, the HTTP status only where there
            is no code; the platform's own texts change and are never branched on.
Promises    Every code has a class. One that nobody has seen is final (BAD_REQUEST) below HTTP 500 and
            TRANSIENT above: retrying an unknown refusal for a day helps nobody, giving up on a failing server
            helps nobody either.
"""

from collections.abc import Mapping
from typing import Any, Final

from adapters.calling import by_status, declined
from adapters.meta.graph import read_error, retry_after
from adapters.port import RETRYABLE, ErrorClass, Failure
from adapters.whatsapp.limits import LABEL
from engine.domain.inbound import PlatformError

_AUTH, _BAD = ErrorClass.AUTH, ErrorClass.BAD_REQUEST
_RATE, _SPAM, _TRANSIENT = ErrorClass.RATE_ACCOUNT, ErrorClass.SPAM_PAUSE, ErrorClass.TRANSIENT
_RECIPIENT, _LONG, _ACCOUNT = ErrorClass.RECIPIENT, ErrorClass.WAIT_LONG, ErrorClass.ACCOUNT

CODES: Final[dict[int, tuple[ErrorClass, str]]] = {
    0: (_AUTH, "WhatsApp does not accept this account's access token."),
    1: (_TRANSIENT, "WhatsApp had an unknown error."),
    2: (_TRANSIENT, "WhatsApp is temporarily not available."),
    3: (_AUTH, "The app lacks a permission that sending needs."),
    4: (_RATE, "The app has used up its calls to WhatsApp for now."),
    10: (_AUTH, "The permission to send for this number was not granted or has been removed."),
    33: (_RECIPIENT, "The business phone number has been deleted."),
    100: (_BAD, "WhatsApp does not accept a part of this message."),
    190: (_AUTH, "The access token has expired or was revoked. Connect the account again."),
    368: (_ACCOUNT, "WhatsApp has blocked this account for a time because of its policies."),
    80007: (_RATE, "The WhatsApp Business Account has reached its rate limit."),
    130429: (_RATE, "This number sends faster than WhatsApp allows."),
    130472: (_RECIPIENT, "WhatsApp keeps this customer out of such messages as part of an experiment."),
    130497: (_ACCOUNT, "This business may not write to customers in that country."),
    131000: (_TRANSIENT, "Something went wrong at WhatsApp."),
    131005: (_AUTH, "WhatsApp denies access to this number. Check the token's permissions."),
    131008: (_BAD, "A part that WhatsApp requires is missing from this message."),
    131009: (_BAD, "A value in this message is not valid for WhatsApp."),
    131016: (_TRANSIENT, "A WhatsApp service is temporarily not available."),
    131021: (_RECIPIENT, "The recipient is the sending number itself."),
    131026: (
        _RECIPIENT,
        "WhatsApp cannot deliver to this customer: no WhatsApp, an old version, or terms not accepted.",
    ),
    131030: (_RECIPIENT, "The recipient is not on the list of allowed test numbers."),
    131031: (_ACCOUNT, "WhatsApp has locked this business account."),
    131037: (_ACCOUNT, "The number's display name needs WhatsApp's approval before it may send."),
    131042: (_ACCOUNT, "WhatsApp could not charge the business: check the payment method."),
    131044: (_ACCOUNT, "WhatsApp could not charge the business: check the payment method."),
    131045: (_ACCOUNT, "The number is not registered properly with WhatsApp (certificate)."),
    131047: (_LONG, "More than 24 hours have passed since the customer wrote: only a template can be sent."),
    131048: (_SPAM, "WhatsApp limits this number because customers blocked or reported its messages."),
    131049: (
        _LONG,
        "WhatsApp did not deliver this to keep the customer's mailbox healthy. Wait at least a day.",
    ),
    131050: (_RECIPIENT, "The customer does not want marketing messages from this business."),
    131051: (_BAD, "WhatsApp does not know this type of message."),
    131052: (_BAD, "WhatsApp could not download the file."),
    131053: (_BAD, "WhatsApp does not accept the file: check its type and size."),
    131056: (ErrorClass.RATE_PAIR, "Too many messages to this customer in a short time."),
    131057: (_TRANSIENT, "The account is in maintenance at WhatsApp."),
    131062: (_ACCOUNT, "WhatsApp does not let this account send now."),
    131063: (_ACCOUNT, "WhatsApp does not let this account send now."),
    131064: (_RATE, "This number sends faster than WhatsApp allows."),
    132000: (_BAD, "The number of values does not fit the template."),
    132001: (_BAD, "There is no such template in this language, or it is not approved."),
    132005: (_BAD, "The filled-in template is too long."),
    132007: (_BAD, "The template's content violates a WhatsApp policy."),
    132008: (_BAD, "A value has the wrong form for the template."),
    132012: (_BAD, "A value has the wrong form for the template."),
    132015: (_BAD, "The template is paused because of its quality."),
    132016: (_BAD, "The template has been disabled because of its quality."),
    132068: (_BAD, "The form (flow) is blocked."),
    132069: (_BAD, "The form (flow) is throttled."),
    133016: (_RATE, "Too many registrations of this number in a short time."),
    135000: (_TRANSIENT, "WhatsApp could not send this for an unknown reason."),
    137000: (_RECIPIENT, "The customer's identity has changed and must be acknowledged first."),
}


def classify(code: int, *, text: str = "", status: int = 400) -> tuple[ErrorClass, str]:
    """The class of an error code and its sentence. `text` matters for code 1 alone (sheet, 6.3)."""
    known = CODES.get(code)
    if code == 1 and "unknown" not in text.lower():
        return _BAD, "WhatsApp does not accept this call."
    if known is not None:
        return known
    if 200 <= code <= 299:
        return _AUTH, "The token lacks a permission that sending needs."
    if 133_000 <= code <= 133_999:
        return _ACCOUNT, "The number is not registered properly with WhatsApp."
    return (_TRANSIENT if status >= 500 else _BAD), f"WhatsApp did not accept the message (code {code})."


def webhook_error(error: Any) -> PlatformError:
    """From an error object of a webhook (sheet, 4.8); anything that is none becomes code `unknown`."""
    code = error.get("code") if isinstance(error, dict) else None
    if not isinstance(code, int) or isinstance(code, bool):
        return PlatformError(platform_code="unknown", message="WhatsApp reported a failure without a code.")
    title = error.get("title")
    error_class, sentence = classify(code, text=title if isinstance(title, str) else "")
    return PlatformError(platform_code=str(code), message=sentence, retryable=error_class in RETRYABLE)


def read_failure(status: int, body: bytes, headers: Mapping[str, str]) -> Failure:
    """What an answer that is no success means. The error code decides, the status only in its absence."""
    wait = retry_after(headers)
    error = read_error(body)
    if error is None:
        return by_status(status, wait, LABEL)
    error_class, sentence = classify(error.code, text=error.message or "", status=status)
    if error_class is _BAD and error.details:
        # Bad requests are ours or the caller's to repair, and only the platform's detail says which part is
        # meant.
        sentence = f"{sentence} ({error.details[:300]})"
    return declined(error_class, str(error.code), sentence, wait=wait)
