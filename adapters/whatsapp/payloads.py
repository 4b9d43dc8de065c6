"""Wire types of the platform's webhooks, and the careful reading of bytes into them.

Why         A delivery is a batch, and one odd item must not cost its siblings. So the bytes become plain
            objects first, and each item is then converted to its type on its own; what does not fit is that
            item's failure alone.
Promises    `read_delivery` raises InvalidInput and nothing else. Members that are not named here are ignored;
            the raw item keeps them.
Source      The WhatsApp sheet, sections 3, 4 and 7.
"""

import base64
import binascii
from typing import Any

from msgspec import Struct, field

from adapters.wire import Json, decode_json
from engine.errors import InvalidInput

# ------------------------------------------------------------------ wire types


class Profile(Struct):
    name: str | None = None
    username: str | None = None


class WireContact(Struct):
    wa_id: str | None = None
    user_id: str | None = None
    parent_user_id: str | None = None
    profile: Profile | None = None


class Context(Struct):
    id: str | None = None
    from_: str | None = field(default=None, name="from")
    forwarded: bool = False
    frequently_forwarded: bool = False
    referred_product: Json | None = None


class TextPart(Struct):
    body: str


class MediaPart(Struct):
    id: str | None = None
    url: str | None = None
    mime_type: str | None = None
    sha256: str | None = None
    caption: str | None = None
    filename: str | None = None
    voice: bool = False
    animated: bool | None = None


class LocationPart(Struct):
    latitude: float
    longitude: float
    name: str | None = None
    address: str | None = None
    url: str | None = None


class CardName(Struct):
    formatted_name: str | None = None
    first_name: str | None = None
    last_name: str | None = None


class CardPhone(Struct):
    phone: str | None = None
    wa_id: str | None = None


class CardEmail(Struct):
    email: str | None = None


class CardOrganization(Struct):
    company: str | None = None


class Card(Struct):
    name: CardName | None = None
    phones: list[CardPhone] = []
    emails: list[CardEmail] = []
    org: CardOrganization | None = None


class Reply(Struct):
    id: str | None = None
    title: str | None = None
    description: str | None = None


class FormReply(Struct):
    name: str | None = None
    body: str | None = None
    response_json: str | None = None


class InteractivePart(Struct):
    type: str
    button_reply: Reply | None = None
    list_reply: Reply | None = None
    nfm_reply: FormReply | None = None


class ButtonPart(Struct):
    text: str | None = None
    payload: str | None = None


class ReactionPart(Struct):
    message_id: str
    emoji: str | None = None


class OrderItem(Struct):
    product_retailer_id: str
    quantity: int | float
    item_price: int | float
    currency: str


class OrderPart(Struct):
    catalog_id: str
    product_items: list[OrderItem]
    text: str | None = None


class SystemPart(Struct):
    type: str
    body: str | None = None
    wa_id: str | None = None


class RevokePart(Struct):
    original_message_id: str


class Content(Struct):
    """The members of which a message has the one that its type names."""

    type: str
    text: TextPart | None = None
    image: MediaPart | None = None
    video: MediaPart | None = None
    audio: MediaPart | None = None
    document: MediaPart | None = None
    sticker: MediaPart | None = None
    location: LocationPart | None = None
    contacts: list[Card] | None = None
    interactive: InteractivePart | None = None
    button: ButtonPart | None = None
    reaction: ReactionPart | None = None
    order: OrderPart | None = None
    system: SystemPart | None = None


class EditPart(Struct):
    original_message_id: str
    message: Content


class WireMessage(Content, kw_only=True):
    """One of `messages[]` or `message_echoes[]`."""

    id: str
    timestamp: str | int
    from_: str | None = field(default=None, name="from")
    from_user_id: str | None = None
    from_parent_user_id: str | None = None
    to: str | None = None
    to_user_id: str | None = None
    to_parent_user_id: str | None = None
    group_id: str | None = None
    context: Context | None = None
    identity: Json | None = None
    referral: Json | None = None
    edit: EditPart | None = None
    revoke: RevokePart | None = None


class WireStatus(Struct):
    id: str
    status: str
    timestamp: str | int
    recipient_id: str | None = None
    recipient_user_id: str | None = None
    recipient_type: str | None = None
    recipient_participant_id: str | None = None
    recipient_participant_user_id: str | None = None
    biz_opaque_callback_data: str | None = None
    conversation: Json | None = None
    pricing: Json | None = None
    errors: list[Any] | None = None


# ------------------------------------------------------------------ reading


def read_delivery(body: bytes) -> list[Any]:
    """The `entry` list of a delivery. Raises InvalidInput when the bytes are no delivery of this platform."""
    delivery = decode_json(body)
    if not isinstance(delivery, dict) or delivery.get("object") != "whatsapp_business_account":
        raise InvalidInput("this is not a delivery of a WhatsApp Business Account", code="not_understood")
    entries = delivery.get("entry")
    if not isinstance(entries, list) or not entries:
        raise InvalidInput("the delivery has no entries", code="not_understood")
    return entries


def hex_digest(digest: str | None) -> str | None:
    """A SHA-256 in base64, as the platform writes it, in lower-case hex; None for what is no such digest."""
    if digest is None:
        return None
    try:
        raw = base64.b64decode(digest, validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw.hex() if len(raw) == 32 else None


def phone(number: str | None) -> str | None:
    """E.164 with '+' from the platform's digits. E.164 has at most 15 digits, and no country fewer than 5."""
    if number is None or not (5 <= len(number) <= 15 and number.isascii() and number.isdigit()):
        return None
    return f"+{number}"
