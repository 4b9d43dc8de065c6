"""What it means that a mail was not taken: SMTP replies, and the answers of mail services.

Codes       `5.1.1`, an enhanced status code (RFC 3463), which decides where a reply has one; `550`, the reply
            code otherwise; `mailgun_http_401`, a service's HTTP status; `postmark_406`, its own error code.
Promises    Every code has a class. One that nobody has seen is final (BAD_REQUEST), below 500 and in 4yz
            TRANSIENT.
Source      The sheet, sections 1.5, 2.5, 3.4 and 6; unconfirmed there: parts of the services' lists.
"""

import re
from typing import Final

from adapters.calling import declined
from adapters.email.reports import ADDRESS_IS_WRONG, code_in, failure
from adapters.port import Declined, ErrorClass

_AUTH, _BAD, _ACCOUNT = ErrorClass.AUTH, ErrorClass.BAD_REQUEST, ErrorClass.ACCOUNT
_TRANSIENT, _RECIPIENT, _RATE = ErrorClass.TRANSIENT, ErrorClass.RECIPIENT, ErrorClass.RATE_ACCOUNT
_DEAD: Final = ErrorClass.UNDELIVERABLE

LOGIN: Final = "The mail server does not accept the user name and password."
_KEY: Final = "The mail service does not accept the key. Enter a new one."

ENHANCED: Final[dict[str, ErrorClass]] = {
    **dict.fromkeys(ADDRESS_IS_WRONG, _DEAD),
    "4.2.1": ErrorClass.RATE_PAIR,  # Gmail: this mailbox receives too quickly
    "4.7.28": _RATE,  # Gmail: an unusual rate
    "5.1.7": _ACCOUNT,  # the sender's address is bad
    "5.1.8": _ACCOUNT,
    "5.2.3": _BAD,  # too large for the mailbox
    "5.3.4": _BAD,  # too large for the system
    "5.7.0": _AUTH,  # authentication required
    "5.7.8": _AUTH,
    "5.7.9": _AUTH,
    "5.7.57": _AUTH,  # Exchange: not authenticated to send
}
SUBJECTS: Final[dict[str, ErrorClass]] = {
    "1": _RECIPIENT, "2": _RECIPIENT, "3": _RECIPIENT, "4": _RECIPIENT, "5": _BAD, "6": _BAD, "7": _ACCOUNT,
}  # fmt: skip
"""Of 5.y.z. Policy (7) is the sender's reputation: a person has to act, and no mail to this recipient alone
is at fault."""

REPLIES: Final[dict[int, ErrorClass]] = {
    521: _RECIPIENT, 530: _AUTH, 534: _AUTH, 535: _AUTH, 538: _AUTH, 550: _RECIPIENT, 551: _RECIPIENT,
    553: _RECIPIENT, 554: _ACCOUNT, 556: _RECIPIENT,
}  # fmt: skip

SERVICES: Final[dict[str, ErrorClass]] = {
    "mailgun_http_401": _AUTH, "mailgun_http_402": _ACCOUNT, "mailgun_http_403": _ACCOUNT,
    "mailgun_http_404": _ACCOUNT,
    "sendgrid_http_401": _AUTH, "sendgrid_http_403": _AUTH, "sendgrid_http_404": _ACCOUNT,
    "postmark_http_401": _AUTH, "postmark_http_403": _AUTH, "postmark_http_404": _ACCOUNT,
    "postmark_10": _AUTH, "postmark_400": _ACCOUNT, "postmark_401": _ACCOUNT, "postmark_405": _ACCOUNT,
    "postmark_406": _DEAD, "postmark_412": _ACCOUNT,
}  # fmt: skip
_STATUSES: Final[dict[int, ErrorClass]] = {408: _TRANSIENT, 425: _TRANSIENT, 429: _RATE}

_ENHANCED: Final = re.compile(r"([245])\.(\d{1,3})\.\d{1,3}")
_SERVICE: Final = re.compile(r"[a-z]{1,20}_http_(\d{3})")

_SENTENCES: Final = {
    _AUTH: _KEY,
    _RATE: "The mail service takes no more at the moment.",
    _TRANSIENT: "The mail service is temporarily not available.",
    _DEAD: "The mail service sends nothing to this address, because earlier mail came back.",
    _ACCOUNT: "The mail service does not let this account send; a person has to look there.",
    _BAD: "The mail service does not accept the message.",
}


def classify(code: str) -> ErrorClass:
    """The class of a code as `Declined.platform_code` has it."""
    if code in SERVICES:
        return SERVICES[code]
    if (service := _SERVICE.fullmatch(code)) is not None:
        status = int(service[1])
        return _STATUSES.get(status, _TRANSIENT if status >= 500 else _BAD)
    if (enhanced := _ENHANCED.fullmatch(code)) is not None:
        known = ENHANCED.get(code)
        if known is not None:
            return known
        return _TRANSIENT if enhanced[1] == "4" else SUBJECTS.get(enhanced[2], _BAD)
    if code.isascii() and code.isdigit() and len(code) == 3:
        return REPLIES.get(int(code), _TRANSIENT if code.startswith("4") else _BAD)
    return _BAD


def smtp_refusal(reply: int, said: str, *, of_sender: bool = False) -> Declined:
    """For a reply of 4yz or 5yz. `of_sender`: it refuses the sender's address, so that a permanent one is the
    account's fault. Where the reply's class and the enhanced code's contradict each other, the enhanced one
    decides (sheet, 6); that authentication is wanted, the reply."""
    code = code_in(said) or str(reply)
    if "." not in code:
        code = str(reply)
    error_class = classify(code)
    if REPLIES.get(reply) is _AUTH:
        error_class, code = _AUTH, str(reply)
    elif of_sender and error_class in (_RECIPIENT, _DEAD, _BAD):
        error_class = _ACCOUNT
    sentence = LOGIN if error_class is _AUTH else failure(code, said).message
    return declined(error_class, code, sentence)


def service_refusal(code: str, said: str, *, retry_after_seconds: float | None = None) -> Declined:
    """For an answer of a mail service; `said` is its own sentence, which may be empty."""
    error_class = classify(code)
    said = " ".join(said.split())[:300]
    sentence = _SENTENCES.get(error_class, _SENTENCES[_BAD])
    sentence = f"{sentence} ({said})" if said and error_class is not _AUTH else sentence
    return declined(error_class, code, sentence, wait=retry_after_seconds)
