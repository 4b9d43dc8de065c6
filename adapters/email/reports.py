"""Reports about mail of ours: delivery status (RFC 3464), complaints (ARF, RFC 5965), receipts (RFC 8098).

Promises    `report_of` gives a status only for a report that names a message by its Message-ID; others are
            mail like any other, marked automatic.
Source      The sheet, section 6.
"""

import re
from typing import Final

from msgspec import Struct

from adapters.email.letter import Letter
from adapters.email.threading import ids_in, normalised
from adapters.email.words import clean, text_of
from engine.domain.inbound import PlatformError

ADDRESS_IS_WRONG: Final = frozenset({"5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10", "5.2.1"})
"""Nothing that is sent to this address will arrive."""

_OPTED_OUT: Final = frozenset({"complaint", "unsubscribed"})
_SENTENCES: Final = {
    "complaint": "The recipient marked the message as spam. Write to them no more.",
    "unsubscribed": "The recipient wants no more mail.",
    "suppressed": "The mail service sends nothing to this address, because earlier mail came back.",
    "5.1.1": "There is no such mailbox.",
    "5.1.2": "There is no such domain.",
    "5.1.3": "The address is not a valid one.",
    "5.1.6": "The mailbox has moved.",
    "5.1.10": "The domain takes no mail.",
    "5.2.1": "The mailbox is disabled.",
    "5.2.2": "The mailbox is full.",
    "5.2.3": "The message is too large for the mailbox.",
    "5.3.4": "The message is too large for the recipient's server.",
    "5.4.1": "The recipient's server does not answer.",
    "5.4.4": "The recipient's server cannot be found.",
    "5.4.7": "The message could not be delivered in time.",
    "5.7.1": "The recipient's server refuses the message by its policy.",
    "5.7.26": "The recipient's server could not verify the sender (SPF, DKIM or DMARC).",
}
_KINDS: Final = {
    "1": "The recipient's address was refused.",
    "2": "The recipient's mailbox takes nothing.",
    "3": "The recipient's mail system refuses the message.",
    "4": "The recipient's server could not be reached.",
    "5": "The mail servers did not understand each other.",
    "6": "The recipient's server does not take this content.",
    "7": "The recipient's server refuses the message by its policy.",
}
_ENHANCED: Final = re.compile(r"\b([245])\.(\d{1,3})\.(\d{1,3})\b")
_REPLY: Final = re.compile(r"\b([245]\d\d)\b")
_MESSAGE_ID: Final = re.compile(r"^message-id:\s*(.{1,1000})$", re.IGNORECASE | re.MULTILINE)
_TEXT_MAX: Final = 500
_TOLD: Final[tuple[str, ...]] = (
    "action", "status", "diagnostic-code", "remote-mta", "will-retry-until",
)  # fmt: skip


class Report(Struct, frozen=True, kw_only=True):
    """What a report says of one message of ours. `status`: delivered, read, failed, or None for what changes
    nothing (delayed, relayed). `about`: the message's id."""

    about: str
    recipient: str | None
    status: str | None
    raw_status: str
    error: PlatformError | None = None
    detail: dict[str, str] = {}


def report_of(letter: Letter) -> Report | None:
    """The report that a mail is, if it is one about a message that it names."""
    if not letter.report:
        return None
    about = _named(letter)
    if about is None:
        return None
    complaint = letter.report.get("message/feedback-report")
    if complaint is not None:
        return _complaint(about, complaint)
    seen = letter.report.get("message/disposition-notification")
    if seen is not None:
        return _disposition(about, seen)
    status = letter.report.get("message/delivery-status")
    status = status or letter.report.get("message/global-delivery-status")
    return _delivery(about, status) if status is not None else None


def failure(code: str, said: str, *, undeliverable: bool = False) -> PlatformError:
    """The error for an enhanced status code (RFC 3463), or an SMTP reply code, and what the server said; with
    `complaint` and `unsubscribed` for what readers do. `undeliverable`: the service knows that the address is
    dead, whatever the code."""
    sentence = _SENTENCES.get(code)
    if sentence is None:
        found = _ENHANCED.fullmatch(code)
        sentence = _KINDS.get(found[2]) if found is not None else None
    said = " ".join(clean(said).split())[:_TEXT_MAX]
    whole = sentence or "The message could not be delivered."
    return PlatformError(
        platform_code=code[:40],
        message=f"{whole} ({said})" if said else whole,
        retryable=code.startswith("4"),
        opted_out=code in _OPTED_OUT,
        undeliverable=undeliverable or code in ADDRESS_IS_WRONG,
    )


def code_in(*texts: str) -> str | None:
    """The enhanced code in what a server said, else its reply code. The more exact one decides (sheet, 6)."""
    for pattern in (_ENHANCED, _REPLY):
        for text in texts:
            found = pattern.search(text[:2_000])
            if found is not None:
                return found[0]
    return None


def _disposition(about: str, part: bytes) -> Report:
    """RFC 8098: the reader's program tells that the mail was shown, or was thrown away unread."""
    fields = next(iter(_blocks(text_of(part, None))), {})
    disposition = fields.get("disposition", "").rpartition(";")[2].partition("/")[0].strip().lower()[:30]
    return Report(
        about=about,
        recipient=_recipient(fields),
        status="read" if disposition == "displayed" else None,
        raw_status=f"mdn_{disposition or 'unknown'}",
    )


def _named(letter: Letter) -> str | None:
    seen = letter.report.get("message/disposition-notification")
    if seen is not None:
        named = next(iter(_blocks(text_of(seen, None))), {}).get("original-message-id", "")
        if normalised(named) is not None:
            return normalised(named)
    for kind in ("text/rfc822-headers", "message/rfc822", "message/global-headers"):
        part = letter.report.get(kind)
        found = _MESSAGE_ID.search(text_of(part, None)) if part is not None else None
        if found is not None:
            ids = ids_in(found[1])
            return ids[0] if ids else normalised(found[1])
    # Some systems return nothing of the message, and answer as to a mail.
    for header in ("in-reply-to", "references", "x-failed-message-id"):
        ids = ids_in(letter.headers.get(header) or "")
        if ids:
            return ids[-1]
    return None


def _delivery(about: str, part: bytes) -> Report | None:
    blocks = _blocks(text_of(part, None))
    recipients = [block for block in blocks if "action" in block or "final-recipient" in block]
    if not recipients:
        return None
    # We send to one; of several (a list's members) the one that failed matters.
    chosen = next((one for one in recipients if _action(one) == "failed"), recipients[0])
    action = _action(chosen)
    said = chosen.get("diagnostic-code", "").partition(";")[2].strip() or chosen.get("diagnostic-code", "")
    code = code_in(chosen.get("status", ""), said) or ""
    detail = {name: chosen[name][:_TEXT_MAX] for name in _TOLD if name in chosen}
    return Report(
        about=about,
        recipient=_recipient(chosen),
        status={"failed": "failed", "delivered": "delivered"}.get(action),
        raw_status=f"dsn_{action or 'unknown'}"[:40],
        error=failure(code or "bounce", said) if action == "failed" else None,
        detail=detail,
    )


def _complaint(about: str, part: bytes) -> Report:
    fields = next(iter(_blocks(text_of(part, None))), {})
    kind = fields.get("feedback-type", "abuse").lower()[:40]
    recipient = fields.get("original-rcpt-to") or fields.get("removal-recipient")
    address = recipient.rpartition(";")[2].strip(" <>").lower() if recipient else None
    return Report(
        about=about,
        recipient=address if address and "@" in address else None,
        # `not-spam` is a reader who takes it back.
        status=None if kind == "not-spam" else "failed",
        raw_status=f"feedback_{kind}",
        error=failure("complaint", "") if kind != "not-spam" else None,
        detail={"feedback_type": kind},
    )


def _blocks(text: str) -> list[dict[str, str]]:
    """Groups of fields with empty lines between, names in lower case, lines that go on joined."""
    blocks: list[dict[str, str]] = [{}]
    last = ""
    for line in text.split("\n")[:2_000]:
        if not line.strip():
            if blocks[-1]:
                blocks.append({})
            last = ""
        elif line[0] in " \t" and last:
            blocks[-1][last] = f"{blocks[-1][last]} {line.strip()}"
        else:
            name, colon, value = line.partition(":")
            if colon:
                last = name.strip().lower()[:80]
                blocks[-1].setdefault(last, value.strip())
    return [block for block in blocks if block]


def _action(block: dict[str, str]) -> str:
    return block.get("action", "").partition(" ")[0].lower()


def _recipient(block: dict[str, str]) -> str | None:
    value = block.get("original-recipient") or block.get("final-recipient") or ""
    address = value.rpartition(";")[2].strip(" <>").lower()
    return address if "@" in address else None
