"""The inbound half: form posts into typed events (sheet, sections 3 and 6).

Promises    Pure functions over bytes. A form is one event: a customer's message, or what became of one of
            ours. What Twilio posts as JSON (event streams) is kept and not interpreted. `parse` raises
            InvalidInput and nothing else, whatever the bytes. Parameters that nobody knows are no reason for
            anything.
Addresses   Callbacks carry our message's id and the sender in their address, which is signed like
            the rest: so an outcome that nobody knew is settled by the first of them.
Times       Twilio tells none; the time of receipt counts.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import parse_qs, unquote_plus

from adapters.receiving import odd
from adapters.sms import optout
from adapters.sms.errors import status_error
from adapters.sms.forms import read_form
from adapters.sms.signing import TwilioSigned
from adapters.wire import Json, bounded, decode_json, usable_id
from engine.domain.content import compact
from engine.domain.inbound import (
    NO_TIME,
    Contact,
    InboundEvent,
    Media,
    MessageReceived,
    RoutedEvent,
    StatusChanged,
    Unsupported,
)
from engine.errors import InvalidInput
from engine.ports import NO_HEADERS, Acknowledgement, WebhookRequest

Form = Mapping[str, str]

MESSAGE, SENDER = "message", "sender"
"""What a callback's address carries: our message's id, and the account's id."""

MEDIA_MAX: Final = 10

_STATUSES: Final = {
    "accepted": "sent",
    "scheduled": "sent",
    "queued": "sent",
    "sending": "sent",
    "sent": "sent",
    "delivered": "delivered",
    "partially_delivered": "delivered",
    "read": "read",
    "undelivered": "failed",
    "failed": "failed",
    "canceled": "failed",
}
"""Twilio has taken what it queues, which is what our `sent` means; `raw_status` keeps the difference."""
_INBOUND: Final = frozenset({"received", "receiving"})
_OPTS: Final = {optout.STOP: "out", optout.START: "in"}
_FAMILIES: Final = frozenset({"image", "video", "audio"})
_KNOWN_TYPES: Final = frozenset(
    {
        "",
        *("text", "image", "video", "audio", "voice", "document", "sticker"),
        *("location", "button", "interactive"),
    }
)
"""Of WhatsApp's messages through Twilio; SMS names none."""


class SmsReceiver(TwilioSigned):
    """Implements `engine.ports.Receiver`, with `ReadsAddresses` and `Acknowledges`."""

    platform = "sms"
    aliases: tuple[str, ...] = ("twilio",)
    acknowledgement = Acknowledgement(
        content_type="text/xml", body=b'<?xml version="1.0" encoding="UTF-8"?><Response/>'
    )

    def account_hint(self, body: bytes) -> str | None:
        """Whom a customer's message is for; callbacks give way by their address."""
        if b"SmsStatus=received" not in body:
            return None
        for part in body.split(b"&", 64):
            if part.startswith(b"To="):
                return unquote_plus(part[3:].decode("ascii", "replace")) or None
        return None

    def parse(self, body: bytes, headers: Mapping[str, str] = NO_HEADERS) -> Sequence[RoutedEvent]:
        return _read(body, {})

    def parse_request(self, request: WebhookRequest) -> Sequence[RoutedEvent]:
        try:
            query = parse_qs(request.query, max_num_fields=32)
        except ValueError:
            query = {}
        return _read(request.body, {name: values[-1] for name, values in query.items()})


def _read(body: bytes, query: Mapping[str, str]) -> Sequence[RoutedEvent]:
    if body.lstrip()[:1] in (b"{", b"["):
        return bounded(_kept(item) for item in _items(decode_json(body)))
    pairs = read_form(body)
    form: dict[str, str] = {}
    for name, value in pairs:
        form.setdefault(name, value)
    sid = usable_id(form.get("MessageSid") or form.get("SmsSid") or form.get("SmsMessageSid"))
    parent = usable_id(form.get("AccountSid"))
    if sid is None and parent is None:
        raise InvalidInput("the form names neither a message nor an account", code="not_understood")
    status = form.get("MessageStatus") or form.get("SmsStatus") or "received"
    if status in _INBOUND:
        to = usable_id(form.get("To"))
        return [
            RoutedEvent(
                external_id=to, parent_id=parent, event=_message(form, sid), also_known_as=_others(form, to)
            )
        ]
    sender = usable_id(query.get(SENDER) or form.get("From"))
    return [
        RoutedEvent(
            external_id=sender,
            parent_id=parent,
            event=_status(form, sid, status, query.get(MESSAGE)),
            also_known_as=_others(form, sender),
        )
    ]


def _items(decoded: Any) -> Iterator[Any]:
    if isinstance(decoded, list):
        yield from decoded
    else:
        yield decoded


def _kept(item: Any) -> RoutedEvent:
    raw = item if isinstance(item, dict) and item else {"value": item}
    parent = usable_id(raw.get("AccountSid") or raw.get("account_sid"))
    return RoutedEvent(external_id=None, parent_id=parent, event=odd(raw, "posted as JSON"))


def _others(form: Form, address: str | None) -> tuple[str, ...]:
    """A number may be connected without its `+`, or by the service that it belongs to; on other channels than
    SMS the service has another address."""
    if address is None or ":" in address:
        return ()
    service = usable_id(form.get("MessagingServiceSid"))
    bare = (address[1:],) if address.startswith("+") else ()
    return (*bare, service) if service is not None else bare


def _contact(address: str | None, name: str | None = None) -> Contact | None:
    """Whom an address names. Numbers are known by their digits, on whichever channel; short codes, names and
    other channels' ids by what is written."""
    written = usable_id(address)
    if written is None:
        return None
    channel, colon, rest = written.partition(":")
    number = rest if colon and channel in ("whatsapp", "rcs") else written
    digits = number.removeprefix("+")
    if number.startswith("+") and digits.isascii() and digits.isdigit():
        return Contact(keys=(digits,), name=name or None, phone=number)
    return Contact(keys=(written,), name=name or None)


# ------------------------------------------------------------------ a customer's message


def _message(form: Form, sid: str | None) -> InboundEvent:
    contact = _contact(form.get("From"), form.get("ProfileName"))
    kind = form.get("MessageType", "")
    if contact is None or sid is None:
        return odd(dict(form), "without a sender or an id that can be used")
    if kind not in _KNOWN_TYPES:
        return Unsupported(
            contact=contact, platform_id=sid, at=None, raw=dict(form), reason=f"type {kind[:40]} is not known"
        )
    body = form.get("Body", "")
    media = _media(form)
    type_, content, text = _shape(form, kind, body, media)
    told = form.get("OptOutType", "").lower()
    word = told if told in (optout.STOP, optout.START, optout.HELP) else optout.keyword(body)
    return MessageReceived(
        contact=contact,
        platform_id=sid,
        at=NO_TIME,
        type=type_,
        content=content,
        text=text,
        media=media,
        reply_to=usable_id(form.get("OriginalRepliedMessageSid")),
        metadata=_metadata(form),
        opts=_OPTS.get(word) if word is not None else None,
        automated=not told,  # Twilio has answered already
    )


def _shape(form: Form, kind: str, body: str, media: tuple[Media, ...]) -> tuple[str, Json, str]:
    """Type, content and text in the public shape (engine/domain/content.py)."""
    place = _place(form)
    if media:
        return media[0].kind, compact(caption=body or None), body
    if place is not None:
        text = ", ".join(part for part in (form.get("Label"), form.get("Address")) if part)
        return "location", place, text
    if form.get("ListId"):
        title = form.get("ListTitle") or body
        return "interactive", {"kind": "list_reply", "id": form["ListId"], "title": title}, title
    if form.get("ButtonPayload") or form.get("ButtonText"):
        title, payload = form.get("ButtonText") or body, form.get("ButtonPayload")
        if kind == "interactive":
            return "interactive", compact(kind="button_reply", id=payload, title=title), title
        return "interactive", compact(kind="template_button", title=title, payload=payload), title
    return "text", {"body": body}, body


def _place(form: Form) -> Json | None:
    try:
        latitude, longitude = float(form["Latitude"]), float(form["Longitude"])
    except (KeyError, ValueError):
        return None
    if not (abs(latitude) <= 90 and abs(longitude) <= 180):  # also false for NaN
        return None
    return compact(
        latitude=latitude,
        longitude=longitude,
        name=form.get("Label") or None,
        address=form.get("Address") or None,
    )


def _media(form: Form) -> tuple[Media, ...]:
    found = []
    for number in range(MEDIA_MAX):
        url = form.get(f"MediaUrl{number}", "")
        if not url.startswith(("https://", "http://")):
            continue
        media_type = form.get(f"MediaContentType{number}") or None
        family = (media_type or "").partition("/")[0].lower()
        kind = family if family in _FAMILIES else "document"
        found.append(Media(kind=kind, source_url=url, media_type=media_type))
    return tuple(found)


def _metadata(form: Form) -> Json:
    referral = {
        name.removeprefix("Referral").lower(): value
        for name, value in form.items()
        if name.startswith("Referral") and name != "ReferralNumMedia" and value
    }
    parts = form.get("NumSegments", "")
    return compact(
        segments={"count": int(parts)} if parts.isascii() and parts.isdigit() and len(parts) < 4 else None,
        forwarded=True if form.get("Forwarded") == "true" else None,
        frequently_forwarded=True if form.get("FrequentlyForwarded") == "true" else None,
        referral=referral or None,
    )


# ------------------------------------------------------------------ what became of ours


def _status(form: Form, sid: str | None, status: str, callback: str | None) -> InboundEvent:
    contact = _contact(form.get("To"))
    known = "read" if form.get("EventType") == "READ" else _STATUSES.get(status)
    if contact is None or sid is None or known is None:
        return odd(dict(form), f"status {status[:40]} is not known or without its message")
    names = ("RawDlrDoneDate", "ErrorMessage", "ChannelPrefix", "MessagingServiceSid")
    return StatusChanged(
        contact=contact,
        platform_id=sid,
        status=known,
        at=NO_TIME,
        raw_status=status,
        callback=callback,
        error=status_error(form.get("ErrorCode"), status) if known == "failed" else None,
        detail={name: form[name] for name in names if form.get(name)},
    )
