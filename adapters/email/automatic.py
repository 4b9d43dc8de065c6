"""Is a mail written by a robot? Such mail is kept and shown, and never answered by one.

Source      RFC 3834; the sheet, section 5.
"""

import re
from typing import Final

from adapters.email.letter import Headers, Letter

MARK: Final = "X-Mijra-Loop"
"""A header of everything that we send; its value is the account's address."""

_ROBOTS: Final = re.compile(
    r"(?:mailer-daemon|postmaster|no[._-]?reply|do[._-]?not[._-]?reply|bounces?(?:[+._-].*)?|.*-bounces?"
    r"|notifications?|auto-?reply|daemon|root|listserv|majordomo)(?:\+.*)?",
    re.IGNORECASE,
)
_PRECEDENCES: Final = frozenset({"bulk", "junk", "list", "auto_reply", "auto-reply"})
_MARKS: Final = ("x-autoreply", "x-autorespond", "x-autoresponse", "x-loop", "x-auto-response-suppress",
                 "feedback-id", "x-failed-recipients")  # fmt: skip
_REPORTS: Final = frozenset(
    {"multipart/report", "message/disposition-notification", "message/feedback-report"}
)


def why_automatic(letter: Letter, *, sender: str, envelope_from: str | None, account: str) -> str | None:
    """In a word, or None for what a person seems to have written. `envelope_from` is "" for the empty sender
    and None where nobody knows it."""
    headers = letter.headers
    if headers.get(MARK) is not None:
        return "own"
    if sender == account:
        return "own_address"
    if letter.kind in _REPORTS:
        return "report"
    submitted = _word(headers.get("auto-submitted"))
    if submitted and submitted != "no":
        return "auto_replied" if submitted == "auto-replied" else "auto_submitted"
    if envelope_from == "" or _word(headers.get("return-path")) == "<>":
        return "empty_sender"
    local = sender.rpartition("@")[0]
    if _ROBOTS.fullmatch(local) or _ROBOTS.fullmatch((envelope_from or "").rpartition("@")[0]):
        return "robot_address"
    if _word(headers.get("precedence")) in _PRECEDENCES:
        return "precedence"
    return _by_mark(headers)


def _by_mark(headers: Headers) -> str | None:
    names = headers.names()
    if any(name.startswith("list-") for name in names):
        return "list"
    marked = next((name for name in _MARKS if name in names), None)
    if marked == "x-auto-response-suppress" and _word(headers.get(marked)) == "none":
        return None
    return marked


def _word(value: str | None) -> str:
    """The first word, in lower case, without parameters and comments."""
    words = (value or "").partition(";")[0].partition("(")[0].split()
    return words[0].lower() if words else ""
