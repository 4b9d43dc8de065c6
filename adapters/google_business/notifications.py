"""Notifications of a Business Profile, as Pub/Sub pushes them: a push into one event.

Why         A notification names what is new and does not hold it. A review becomes `Announced`; what it says
            is read before the push is answered (adapters/google_business/reviews.py).
Questions   and their answers are named likewise, and the sheet has no call that reads them: they stand in the
            conversation as `unsupported`, with a sentence that says where to look.
Unconfirmed the casing of the names in the data, and whether the type is there or among the attributes: both
            are read.
Source      The Google Business sheet, B1 and B2.
"""

import base64
import binascii
from typing import Final

from adapters.google_business.naming import LOCATION, millis, under_location
from adapters.receiving import odd
from adapters.wire import Json, decode_json, usable_id
from engine.domain.inbound import AccountNotice, Announced, Contact, InboundEvent, RoutedEvent, Unsupported
from engine.errors import InvalidInput

_QUESTION: Final = (
    "The profile has news of a question. Google's notification does not hold its words, and there is no call "
    "that is documented to read or answer it: look at the profile."
)


def is_push(delivery: Json) -> bool:
    """Whether a body is a wrapped push of Pub/Sub."""
    message = delivery.get("message")
    return isinstance(delivery.get("subscription"), str) and isinstance(message, dict)


def read_push(delivery: Json) -> RoutedEvent:
    """Raises nothing, whatever is in it."""
    message: Json = delivery["message"]
    at = millis(message.get("publishTime") or message.get("publish_time"))
    data = _data_of(message)
    attributes = message.get("attributes")
    if data is None:
        event: InboundEvent = odd(delivery, "a push without data that can be read", at)
        return RoutedEvent(external_id=None, parent_id=None, event=event)
    kind = data.get("notificationType") or data.get("notification_type")
    if not isinstance(kind, str) and isinstance(attributes, dict):
        kind = attributes.get("notificationType") or attributes.get("notification_type")
    kind = kind[:100] if isinstance(kind, str) and kind else "UNKNOWN"
    named = _named(data, "review") or _named(data, "question") or _named(data, "answer")
    location = named[0] if named is not None else _location_of(data)
    if named is None:
        event = AccountNotice(kind=kind.lower(), at=at, raw=data)
    elif named[1].startswith("reviews/"):
        contact = Contact(keys=(named[1],))
        event = Announced(contact=contact, kind=kind.lower(), at=at, raw=data)
    else:
        push = usable_id(message.get("messageId") or message.get("message_id"))
        event = Unsupported(
            contact=Contact(keys=(named[1],)),
            platform_id=f"{named[1]}@{push}"[:500] if push is not None else None,
            at=at,
            raw=data,
            reason=_QUESTION,
        )
    return RoutedEvent(external_id=location, parent_id=None, event=event)


def _data_of(message: Json) -> Json | None:
    encoded = message.get("data")
    if not isinstance(encoded, str):
        return None
    try:
        data = decode_json(base64.b64decode(encoded, validate=True))
    except (binascii.Error, ValueError, InvalidInput):
        return None
    return data if isinstance(data, dict) else None


def _named(data: Json, what: str) -> tuple[str, str] | None:
    return under_location(data.get(f"{what}_name") or data.get(f"{what}Name"))


def _location_of(data: Json) -> str | None:
    name = data.get("location_name") or data.get("locationName")
    return name if isinstance(name, str) and LOCATION.fullmatch(name) else None
