"""Mail as bytes (RFC 5322 with MIME) into one event.

Promises    Pure; whatever the bytes, an event, and the same one each time.
Leaves      what only the account can know to `recognising` (whose reply tokens are real); where files are to
            `parts`.
"""

from collections.abc import Sequence
from email.parser import BytesHeaderParser
from email.policy import compat32
from email.utils import parseaddr

from adapters.email.threading import normalised
from engine.domain.inbound import Contact, InboundEvent, MessageReceived, Unsupported


def read_message(
    raw: bytes, *, account: str, envelope_from: str | None, envelope_to: Sequence[str], source: str
) -> InboundEvent:
    """The event of one mail. `account` is the address that it came in on, lower-case. `envelope_from` is
    the SMTP sender where it is known ("" for the empty one), `envelope_to` the SMTP recipients. `source` says where
    the bytes will be kept: `adapters.email.parts.source_of(raw)`."""
    head = BytesHeaderParser(policy=compat32).parsebytes(raw)
    name, address = parseaddr(str(head.get("From", "")))
    key = (address or envelope_from or "").lower()
    platform_id = normalised(str(head.get("Message-ID", "")))
    if "@" not in key or platform_id is None:
        return Unsupported(
            contact=None, platform_id=None, at=None, raw={"source": source}, reason="no sender"
        )
    body = raw.partition(b"\r\n\r\n")[2].decode("utf-8", "replace")
    return MessageReceived(
        contact=Contact(keys=(key,), name=name or None),
        platform_id=platform_id,
        at=0,
        type="text",
        content={"body": body, "subject": str(head.get("Subject", ""))},
        text=body,
    )
