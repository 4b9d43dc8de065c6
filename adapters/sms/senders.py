"""The kinds of senders there are, told by how an account is named, and how fast each may send.

Source      The sheet, sections 0 and 7. The rates of toll-free numbers and names are unconfirmed; the
            channel's settings `sender_type` and `segments_per_second` overrule both.
"""

import re
from typing import Final

from adapters.degrading import located, numbered
from adapters.port import Account, Limits
from adapters.sms.segments import segments
from engine.domain.outbound import Send, SendInteractive, SendLocation, SendText

LONG_CODE, TOLL_FREE, SHORT_CODE, NAME = "long_code", "toll_free", "short_code", "alphanumeric"
SEGMENTS_PER_SECOND: Final = {LONG_CODE: 1, TOLL_FREE: 3, SHORT_CODE: 100, NAME: 10}
SEGMENTS_PER_SECOND_MOST: Final = 1_000
CONCURRENCY: Final = 16
"""100 messages a second at the tenth of a second that a call takes, and some."""

_NAMED: Final = r"(?=[^@]*[A-Za-z])[A-Za-z0-9._-]{1,11}(@AC[0-9a-f]{32})?"
ONE_WAY: Final = f"^{_NAMED}$"
"""Senders that are names: at most eleven characters, one a letter at least; behind `@` the AccountSid where
another business on this installation has the name too. Nobody can write back to them."""
SENDER: Final = (
    r"^(\+?[1-9][0-9]{6,14}|[0-9]{3,6}|whatsapp:\+[1-9][0-9]{6,14}|MG[0-9a-f]{32}|" + _NAMED + ")$"
)

_ONE_WAY: Final = re.compile(ONE_WAY)
_TOLL_FREE: Final = re.compile(r"\+?1(800|833|844|855|866|877|888)[0-9]{7}")


def is_one_way(account: Account) -> bool:
    return _ONE_WAY.search(account.external_id) is not None


def sender_type(account: Account) -> str:
    """As the settings say, else as the sender looks. What a Messaging Service has in its pool cannot be
    seen."""
    given = account.settings.get("sender_type")
    if isinstance(given, str) and given in SEGMENTS_PER_SECOND:
        return given
    name = account.external_id
    if is_one_way(account):
        return NAME
    if name.isdecimal() and len(name) <= 6:
        return SHORT_CODE
    return TOLL_FREE if _TOLL_FREE.fullmatch(name) else LONG_CODE


def addressed(account: Account, recipient: str) -> dict[str, str]:
    """`To` and whom the message comes from, as the platform wants to be told."""
    sender = account.external_id.partition("@")[0]
    digits = recipient.removeprefix("+")
    if digits.isdecimal() and len(digits) <= 6:
        recipient = digits  # a short code; no telephone number is so short
    if sender.startswith("whatsapp:"):
        return {"To": f"whatsapp:{recipient}", "From": sender}
    if sender.startswith("MG"):
        return {"To": recipient, "MessagingServiceSid": sender}
    if sender.isdecimal() and len(sender) > 6:
        sender = f"+{sender}"
    return {"To": recipient, "From": sender}


def limits_of(account: Account) -> Limits:
    """Segments count, not messages: one of ten is ten at the operator."""
    usual = SEGMENTS_PER_SECOND[sender_type(account)]
    return Limits(
        messages_per_second=account.number("segments_per_second", usual, SEGMENTS_PER_SECOND_MOST),
        pair_seconds=0.0,
        pair_burst=1,
        concurrency=CONCURRENCY,
        weight=weight,
    )


def weight(send: Send) -> int:
    """Segments of what goes as text; the rest is one for the operator, or cannot be known."""
    match send:
        case SendText():
            return segments(send.body).count
        case SendInteractive():
            return segments(numbered(send).body).count
        case SendLocation():
            return segments(located(send).body).count
        case _:
            return 1
