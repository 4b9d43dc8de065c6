"""The inbound half of the WhatsApp adapter: handshake, signature, and payloads into typed events.

Promises    Pure functions over bytes. Every item of a delivery becomes exactly one event, in order: each
            message, echo, status and error, and each change that has none of these. What is not understood
            becomes `Unsupported` with the raw JSON. `parse` raises InvalidInput and nothing else, whatever
            the bytes.
Leaves      Finding the account, de-duplication, storing: the gateway and the conversations.
Source      The WhatsApp sheet, sections 1 to 4 and 7.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from adapters.meta.signing import MetaSigned
from adapters.receiving import odd
from adapters.whatsapp.errors import webhook_error
from adapters.whatsapp.payloads import (
    Content,
    InteractivePart,
    MediaPart,
    WireContact,
    WireMessage,
    WireStatus,
    hex_digest,
    phone,
    read_delivery,
)
from adapters.wire import Json, bounded, moment, read_json_text, usable_id
from engine.domain.content import compact
from engine.domain.inbound import (
    AccountNotice,
    Contact,
    ContactRenumbered,
    InboundEvent,
    Media,
    MessageDeleted,
    MessageEchoed,
    MessageEdited,
    MessageReceived,
    RoutedEvent,
    StatusChanged,
    Unsupported,
)
from engine.ports import NO_HEADERS

_NUMBER_MEMBER = b'"phone_number_id":"'
_NUMBER_BYTES_MAX = 32
_STATUSES = {"sent": "sent", "delivered": "delivered", "read": "read", "played": "read", "failed": "failed"}
"""`played` (a voice message was heard) is our `read`; `raw_status` keeps the difference."""


class WhatsAppReceiver(MetaSigned):
    """Implements `engine.ports.Receiver`. Handshake and signature: the sheet's sections 1 and 2."""

    platform = "whatsapp"

    def account_hint(self, body: bytes) -> str | None:
        """Sheet, section 2: each change's metadata has the number's id. The first one, as it stands there."""
        at = body.find(_NUMBER_MEMBER)
        if at < 0:
            return None
        at += len(_NUMBER_MEMBER)
        end = body.find(b'"', at, at + _NUMBER_BYTES_MAX)
        return body[at:end].decode("ascii", "replace") if end > 0 else None

    def parse(self, body: bytes, headers: Mapping[str, str] = NO_HEADERS) -> Sequence[RoutedEvent]:
        """Everything in the delivery, in its order."""
        return bounded(event for entry in read_delivery(body) for event in _entry(entry))


# ------------------------------------------------------------------ the envelope


def _entry(entry: Any) -> Iterator[RoutedEvent]:
    if not isinstance(entry, dict):
        yield RoutedEvent(external_id=None, parent_id=None, event=odd(entry, "an entry that is no object"))
        return
    parent = usable_id(entry.get("id"))
    at = moment(entry.get("time"))
    changes = entry.get("changes")
    if not isinstance(changes, list) or not changes:
        yield RoutedEvent(external_id=None, parent_id=parent, event=odd(entry, "an entry without changes"))
        return
    for change in changes:
        number = _number(change)
        for event in _change(change, at):
            yield RoutedEvent(external_id=number, parent_id=parent, event=event)


def _number(change: Any) -> str | None:
    value = change.get("value") if isinstance(change, dict) else None
    metadata = value.get("metadata") if isinstance(value, dict) else None
    return usable_id(metadata.get("phone_number_id")) if isinstance(metadata, dict) else None


def _change(change: Any, at: int | None) -> Iterator[InboundEvent]:
    value = change.get("value") if isinstance(change, dict) else None
    if not isinstance(value, dict):
        yield odd(change, "a change without a value")
        return
    kind = change.get("field")
    if kind not in ("messages", "smb_message_echoes"):
        yield AccountNotice(kind=kind if isinstance(kind, str) and kind else "unknown", at=at, raw=value)
        return
    people = _People(value.get("contacts"))
    found = False
    for name, read in _LISTS:
        items = value.get(name)
        if items is None:
            continue
        found = found or items != []
        if not isinstance(items, list):
            yield odd({name: items}, f"{name} is no list")
            continue
        for item in items:
            yield read(item, people)
    if not found:
        yield odd(change, "a change with nothing in it")


# ------------------------------------------------------------------ people


class _People:
    """The contacts of one change, found by id and never by position (sheet, section 3)."""

    def __init__(self, contacts: Any) -> None:
        self._by_id: dict[str, WireContact] = {}
        for raw in contacts if isinstance(contacts, list) else ():
            try:
                contact = msgspec.convert(raw, WireContact)
            except msgspec.ValidationError:
                continue  # a profile is decoration; the message does not depend on it
            for key in (contact.wa_id, contact.user_id):
                if key:
                    self._by_id.setdefault(key, contact)

    def contact(
        self, number: Any, user_id: Any, parent_user_id: Any = None, group: str | None = None
    ) -> Contact | None:
        """Everything known about whom these ids name, the phone number first; None without a usable id."""
        known = self._by_id.get(number) if isinstance(number, str) else None
        if known is None and isinstance(user_id, str):
            known = self._by_id.get(user_id)
        known = known or WireContact()
        candidates = (number, known.wa_id, user_id, known.user_id, parent_user_id, known.parent_user_id)
        keys = tuple(dict.fromkeys(key for candidate in candidates if (key := usable_id(candidate))))
        if not keys:
            return None
        profile = known.profile
        return Contact(
            keys=keys,
            name=(profile.name or profile.username or None) if profile is not None else None,
            phone=phone(number if isinstance(number, str) else None) or phone(known.wa_id),
            group=group,
        )


# ------------------------------------------------------------------ messages


def _message(raw: Any, people: _People) -> InboundEvent:
    if not isinstance(raw, dict):
        return odd(raw, "a message that is no object")
    contact = people.contact(
        raw.get("from"),
        raw.get("from_user_id"),
        raw.get("from_parent_user_id"),
        usable_id(raw.get("group_id")),
    )
    return _item(raw, contact, by_business=False)


def _echo(raw: Any, people: _People) -> InboundEvent:
    if not isinstance(raw, dict):
        return odd(raw, "an echo that is no object")
    contact = people.contact(
        raw.get("to"), raw.get("to_user_id"), raw.get("to_parent_user_id"), usable_id(raw.get("group_id"))
    )
    return _item(raw, contact, by_business=True)


def _item(raw: Json, contact: Contact | None, *, by_business: bool) -> InboundEvent:
    platform_id, at = usable_id(raw.get("id")), moment(raw.get("timestamp"))

    def unsupported(reason: str) -> Unsupported:
        return Unsupported(contact=contact, platform_id=platform_id, at=at, raw=raw, reason=reason)

    if contact is None or platform_id is None or at is None:
        return unsupported("without a sender, an id or a time that can be used")
    try:
        message = msgspec.convert(raw, WireMessage)
    except (msgspec.ValidationError, RecursionError) as error:
        # The converter names the member and the types, never the content.
        return unsupported(f"wrongly typed: {error}")
    if message.type == "unsupported":
        return unsupported(_unsupported_reason(raw))
    if message.type == "revoke" and message.revoke is not None:
        original = usable_id(message.revoke.original_message_id)
        if original is None:
            return unsupported("revoke without the original's id")
        return MessageDeleted(
            contact=contact, platform_id=platform_id, original_id=original, at=at, by_business=by_business
        )
    if message.type == "edit" and message.edit is not None:
        original, shape = usable_id(message.edit.original_message_id), _shape(message.edit.message)
        if original is None or shape is None:
            return unsupported("edit that is not understood")
        kind, content, text, media = shape
        return MessageEdited(
            contact=contact,
            platform_id=platform_id,
            original_id=original,
            at=at,
            type=kind,
            content=content,
            text=text,
            media=media,
            by_business=by_business,
        )
    shape = _shape(message)
    if shape is None:
        return unsupported(f"type {message.type[:40]} is not known or has no content")
    kind, content, text, media = shape
    if kind == "system":
        content = {**raw["system"], **content}
        content.pop("type", None)
        new_key = usable_id(raw["system"].get("wa_id"))
        if content["kind"] == "user_changed_number" and new_key is not None:
            return ContactRenumbered(
                contact=contact,
                platform_id=platform_id,
                at=at,
                new_key=new_key,
                new_phone=phone(new_key),
                content=content,
                text=text,
            )
    event = MessageEchoed if by_business else MessageReceived
    return event(
        contact=contact,
        platform_id=platform_id,
        at=at,
        type=kind,
        content=content,
        text=text,
        media=media,
        reply_to=usable_id(message.context.id) if message.context is not None else None,
        metadata=_metadata(message),
    )


def _unsupported_reason(raw: Json) -> str:
    errors, named = raw.get("errors"), raw.get("unsupported")
    code = webhook_error(errors[0]).platform_code if isinstance(errors, list) and errors else "no code"
    kind = named.get("type") if isinstance(named, dict) else None
    return f"the platform does not pass it on ({code}{f', {kind[:40]}' if isinstance(kind, str) else ''})"


def _metadata(message: WireMessage) -> Json:
    context = message.context
    return compact(
        forwarded=True if context is not None and context.forwarded else None,
        frequently_forwarded=True if context is not None and context.frequently_forwarded else None,
        referred_product=context.referred_product if context is not None else None,
        referral=message.referral,
        group=message.group_id,
        identity=message.identity,
    )


_Shape = tuple[str, Json, str, tuple[Media, ...]]
"""type, content, text, media: a message in the public shape of engine/domain/content.py."""


def _shape(message: Content) -> _Shape | None:
    """None: the type is not known, or its content is missing."""
    match message.type:
        case "text" if message.text is not None:
            return "text", {"body": message.text.body}, message.text.body, ()
        case "image" if message.image is not None:
            return _media("image", message.image)
        case "video" if message.video is not None:
            return _media("video", message.video)
        case "audio" if message.audio is not None:
            return _media("voice" if message.audio.voice else "audio", message.audio)
        case "document" if message.document is not None:
            return _media("document", message.document)
        case "sticker" if message.sticker is not None:
            return _media("sticker", message.sticker)
        case "location" if message.location is not None:
            at = message.location
            content = compact(
                latitude=at.latitude, longitude=at.longitude, name=at.name, address=at.address, url=at.url
            )
            return "location", content, ", ".join(part for part in (at.name, at.address) if part), ()
        case "contacts" if message.contacts is not None:
            return _cards(message)
        case "interactive" if message.interactive is not None:
            return _interactive(message.interactive)
        case "button" if message.button is not None:
            button = message.button
            content = compact(kind="template_button", title=button.text, payload=button.payload)
            return "interactive", content, button.text or "", ()
        case "reaction" if message.reaction is not None and usable_id(message.reaction.message_id):
            emoji = message.reaction.emoji or None  # empty or missing: taken back
            content = {"emoji": emoji, "message_id": None, "platform_message_id": message.reaction.message_id}
            return "reaction", content, emoji or "", ()
        case "order" if message.order is not None:
            order = message.order
            items = [
                {
                    "product_id": item.product_retailer_id,
                    "quantity": item.quantity,
                    "price": item.item_price,
                    "currency": item.currency,
                }
                for item in order.product_items
            ]
            text = order.text or ""
            return "order", {"catalog_id": order.catalog_id, "text": text, "items": items}, text, ()
        case "system" if message.system is not None:
            body = message.system.body or ""
            return "system", {"kind": message.system.type, "body": body}, body, ()
    return None


def _media(kind: str, part: MediaPart) -> _Shape:
    source_id, url = usable_id(part.id), part.url
    if url is not None and not url.startswith(("https://", "http://")):
        url = None
    media = Media(
        kind=kind,
        source_id=source_id,
        source_url=url,
        media_type=part.mime_type,
        sha256=hex_digest(part.sha256),
        filename=part.filename,
    )
    # The edit of a caption need not name the file again: then there is nothing to fetch.
    found = (media,) if source_id is not None or url is not None else ()
    content = compact(caption=part.caption, filename=part.filename, animated=part.animated)
    return kind, content, part.caption or "", found


def _cards(message: Content) -> _Shape | None:
    cards: list[Json] = []
    raw_cards = msgspec.to_builtins(message.contacts)
    for card, raw in zip(message.contacts or (), raw_cards, strict=True):
        cards.append(
            compact(
                name=_card_name(card.name.formatted_name, card.name.first_name, card.name.last_name)
                if card.name is not None
                else "",
                phones=[number for one in card.phones if (number := one.phone or phone(one.wa_id))],
                emails=[one.email for one in card.emails if one.email],
                organization=card.org.company if card.org is not None else None,
                raw=raw,
            )
        )
    return "contacts", {"contacts": cards}, ", ".join(card["name"] for card in cards if card["name"]), ()


def _card_name(formatted: str | None, first: str | None, last: str | None) -> str:
    return formatted or " ".join(part for part in (first, last) if part)


def _interactive(part: InteractivePart) -> _Shape | None:
    match part.type:
        case "button_reply" | "list_reply":
            reply = part.button_reply if part.type == "button_reply" else part.list_reply
            if reply is None:
                return None
            content = compact(kind=part.type, id=reply.id, title=reply.title, description=reply.description)
            return "interactive", content, reply.title or "", ()
        case "nfm_reply" if part.nfm_reply is not None:
            form = part.nfm_reply
            payload = read_json_text(form.response_json) if form.response_json is not None else None
            content = compact(kind="form_reply", title=form.name, description=form.body, payload=payload)
            return "interactive", content, form.body or "", ()
    return None


# ------------------------------------------------------------------ statuses and errors


def _status(raw: Any, people: _People) -> InboundEvent:
    try:
        status = msgspec.convert(raw, WireStatus)
    except (msgspec.ValidationError, RecursionError) as error:
        return odd(raw, f"a status that is wrongly typed: {error}")
    platform_id, at = usable_id(status.id), moment(status.timestamp)
    name = _STATUSES.get(status.status)
    in_group = status.recipient_type == "group"
    if in_group and (status.recipient_participant_id or status.recipient_participant_user_id):
        contact = people.contact(
            status.recipient_participant_id,
            status.recipient_participant_user_id,
            group=usable_id(status.recipient_id),
        )
    else:
        group = usable_id(status.recipient_id) if in_group else None
        contact = people.contact(status.recipient_id, status.recipient_user_id, group=group)
    if platform_id is None or at is None or name is None or contact is None:
        return odd(raw, f"a status that is not understood ({status.status[:40]})")
    errors = [error for error in status.errors or () if isinstance(error, dict)]
    return StatusChanged(
        contact=contact,
        platform_id=platform_id,
        status=name,
        at=at,
        raw_status=status.status,
        callback=status.biz_opaque_callback_data or None,
        error=webhook_error(errors[0] if errors else None) if name == "failed" else None,
        detail=compact(
            conversation=status.conversation,
            pricing=status.pricing,
            recipient_type=status.recipient_type,
            participant=status.recipient_participant_id or status.recipient_participant_user_id,
            errors=errors or None,
        ),
    )


def _error(raw: Any, people: _People) -> InboundEvent:
    return AccountNotice(kind="error", at=None, raw=raw if isinstance(raw, dict) else {"value": raw})


_LISTS: tuple[tuple[str, Callable[[Any, _People], InboundEvent]], ...] = (
    ("messages", _message),
    ("message_echoes", _echo),
    ("statuses", _status),
    ("errors", _error),
)
