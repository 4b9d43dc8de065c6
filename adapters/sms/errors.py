"""What Twilio's error codes mean: the class that decides on a retry, and a sentence for people.

Source      The sheet, section 7. The code decides, the HTTP status only where there is no code.
Promises    Every code has a class. One that nobody has seen is final (BAD_REQUEST).
"""

from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import Struct

from adapters.calling import by_status, declined, seconds_of
from adapters.port import RETRYABLE, ErrorClass, Failure, Unanswered
from adapters.wire import decoded
from engine.domain.inbound import PlatformError

_AUTH, _BAD, _ACCOUNT = ErrorClass.AUTH, ErrorClass.BAD_REQUEST, ErrorClass.ACCOUNT
_RATE, _TRANSIENT, _RECIPIENT = ErrorClass.RATE_ACCOUNT, ErrorClass.TRANSIENT, ErrorClass.RECIPIENT

LABEL: Final = "Twilio"

CODES: Final[dict[str, tuple[ErrorClass, str]]] = {
    "20003": (_AUTH, "Twilio does not accept the account's token or key. Connect the account again."),
    "20404": (_AUTH, "Twilio knows no such account: check the AccountSid."),
    "20429": (_RATE, "Twilio is asked too often at the moment."),
    "20500": (_TRANSIENT, "Twilio had an error of its own."),
    "20503": (_TRANSIENT, "Twilio is temporarily not available."),
    "21211": (_RECIPIENT, "The recipient's number is not valid."),
    "21214": (_RECIPIENT, "The recipient's number cannot be reached."),
    "21408": (_ACCOUNT, "The account may not send to that country: enable it in Twilio's geo permissions."),
    "21602": (_BAD, "The message is empty."),
    "21606": (_ACCOUNT, "The sender is not one of the account's that can send messages."),
    "21610": (ErrorClass.OPTED_OUT, "The customer has opted out (STOP); Twilio sends them nothing."),
    "21611": (_RATE, "The sender's queue at Twilio is full."),
    "21612": (_RECIPIENT, "This recipient cannot be reached from this sender."),
    "21614": (_RECIPIENT, "The recipient's number is no mobile number."),
    "21617": (_BAD, "The message has more than 1,600 characters."),
    "30001": (_RATE, "The sender's queue overflowed before the message could go out."),
    "30002": (_ACCOUNT, "Twilio has suspended the account."),
    "30003": (_RECIPIENT, "The customer's phone cannot be reached: switched off, or out of coverage."),
    "30004": (_RECIPIENT, "The message was blocked: the customer or their operator wants none from here."),
    "30005": (_RECIPIENT, "The customer's number is unknown or no longer in use."),
    "30006": (_RECIPIENT, "The number is a landline, or its operator carries no messages."),
    "30007": (_BAD, "The operator filtered the message as unwanted."),
    "30008": (_TRANSIENT, "The operator did not say why the message was not delivered."),
    "30017": (_TRANSIENT, "The operator's network is congested."),
    "30034": (_ACCOUNT, "The sender is not registered for business messages (A2P)."),
    "63016": (ErrorClass.WAIT_LONG, "More than 24 hours have passed: only a template can be sent."),
    "63017": (_RATE, "The account sends faster than Twilio allows."),
    "63018": (_RATE, "The channel sends faster than Twilio allows."),
    "63024": (_RECIPIENT, "The recipient is not on this channel."),
    "63032": (_RECIPIENT, "The platform does not deliver to this recipient for its own reasons."),
    "63038": (_ACCOUNT, "The account's limit of messages for a day is used up."),
}
"""20500 and 20503 are what Twilio's HTTP statuses are called as codes."""


_LATER: Final = frozenset({"30003"})
"""The recipient's fault, and not for good (section 7): the phone may be on again."""


class _ErrorBody(Struct):
    code: int


_error_body: Final = msgspec.json.Decoder(_ErrorBody)


def classify(code: str) -> tuple[ErrorClass, str]:
    """The class and the sentence of a code in digits."""
    return CODES.get(code) or (_BAD, f"Twilio did not accept the message (code {code[:20]}).")


def status_error(code: str | None, status: str) -> PlatformError:
    """Why a message was not delivered, as a status callback tells it."""
    if not code:
        sentence = {
            "canceled": "The message was cancelled at Twilio.",
            "undelivered": "The operator could not deliver the message and gave no reason.",
        }.get(status, "The message failed, and Twilio gave no reason.")
        return PlatformError(platform_code=status, message=sentence, retryable=True)
    error_class, sentence = classify(code)
    return PlatformError(
        platform_code=code[:20],
        message=sentence,
        retryable=error_class in RETRYABLE or code in _LATER,
        opted_out=error_class is ErrorClass.OPTED_OUT,
    )


def read_failure(status: int, body: bytes, headers: Mapping[str, str]) -> Failure:
    """What an answer that is no success means.

    Twilio takes no key against doubling, so what may have been taken must not look refused: a 5xx is
    Unanswered, unless it is 503, which says that the request was not worked on (RFC 9110, 15.6.4).
    """
    wait = seconds_of(headers.get("retry-after"))
    if status >= 500 and status != 503:
        return Unanswered(reason=f"HTTP {status}")
    error = decoded(_error_body, body)
    if error is None or (status == 429 and str(error.code) not in CODES):
        return by_status(status, wait, LABEL)
    error_class, sentence = classify(str(error.code))
    return declined(error_class, str(error.code), sentence, wait=wait)
