"""The webhooks of the WhatsApp Cloud platform, as pure functions that return plain dicts.

Why         The simulator, the tests and the load generators must speak one and the same dialect.
Promises    The shapes of the platform's fact sheet, sections 3, 4 and 7, and the byte form and signature of
            section 2. No clock, no randomness, no state: what goes in comes out.
Leaves      When and how often something is said to `customers` and `webhooks`.

A `messages[]` element is built by one of the `*_message` functions, wrapped by `message_webhook`, and
turned into bytes by `webhook_bytes`. `text_webhook_bytes` is the short way for load.
"""

import base64
import hmac
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from adapters.simulators.accounts import WhatsAppAccount
from adapters.simulators.graph_errors import webhook_error

Json = dict[str, Any]


class Person(Struct, frozen=True, kw_only=True):
    """A WhatsApp user as the platform names one. Users with a username may hide `wa_id`."""

    name: str
    wa_id: str | None = None
    user_id: str | None = None
    parent_user_id: str | None = None
    username: str | None = None


class MediaRef(Struct, frozen=True, kw_only=True):
    """What a webhook tells of a media object; `sha256` is the base64 of the digest."""

    id: str
    mime_type: str
    sha256: str
    url: str | None = None


# ── bytes and ids ────────────────────────────────────────────────────────────────────────────────────


def webhook_bytes(payload: Json) -> bytes:
    r"""The platform's byte form: compact, non-ASCII as `\uXXXX` with lower-case digits, `/` as `\/`."""
    # A slash occurs in JSON inside strings only, so the text may be replaced as a whole.
    return json.dumps(payload, ensure_ascii=True, separators=(",", ":")).replace("/", "\\/").encode("ascii")


def signature(app_secret: str, body: bytes) -> str:
    """The value of `X-Hub-Signature-256` for exactly these bytes."""
    return "sha256=" + hmac.digest(app_secret.encode(), body, "sha256").hex()


def wamid(wa_id: str, serial: str, *, inbound: bool) -> str:
    """A message id that looks like the platform's; unique when `serial` (hex digits) is."""
    user, number = wa_id.encode(), serial.upper().encode()
    direction = 0x12 if inbound else 0x11
    raw = b"".join(
        (
            b"\x1c\x18",
            bytes([len(user)]),
            user,
            b"\x15\x02\x00",
            bytes([direction, 0x18, len(number)]),
            number,
        )
    )
    return "wamid." + base64.b64encode(raw + b"\x00").decode("ascii")


# ── messages[] elements ──────────────────────────────────────────────────────────────────────────────


def _message(
    person: Person, message_id: str, timestamp: int, kind: str, content: Json | None, **extra: Any
) -> Json:
    message: Json = {}
    for name in ("context", "referral"):
        if extra.get(name) is not None:
            message[name] = extra[name]
    if person.wa_id is not None:
        message["from"] = person.wa_id
    else:
        message["from_user_id"] = person.user_id
        if person.parent_user_id is not None:
            message["from_parent_user_id"] = person.parent_user_id
    message |= {"id": message_id, "timestamp": str(timestamp), "type": kind}
    if content is not None:
        message[kind] = content
    return message


def quote(author: str, message_id: str) -> Json:
    """`context` of a reply: who wrote the quoted message, and its id."""
    return {"from": author, "id": message_id}


def forwarded(*, many_times: bool = False) -> Json:
    """`context` of a forwarded message."""
    return {"frequently_forwarded" if many_times else "forwarded": True}


def product_question(author: str, message_id: str, catalog_id: str, product: str) -> Json:
    """`context` of a question about a product of the catalogue."""
    referred = {"catalog_id": catalog_id, "product_retailer_id": product}
    return {"from": author, "id": message_id, "referred_product": referred}


def ad_referral(source_id: str, headline: str, body: str, click_id: str) -> Json:
    """`referral` of the first message after a click on an advertisement (section 4.7)."""
    return {
        "source_url": f"https://fb.me/{source_id}",
        "source_id": source_id,
        "source_type": "ad",
        "headline": headline,
        "body": body,
        "media_type": "image",
        "image_url": f"https://scontent.example.com/{source_id}.jpg",
        "ctwa_clid": click_id,
    }


def text_message(
    person: Person,
    message_id: str,
    timestamp: int,
    body: str,
    *,
    context: Json | None = None,
    referral: Json | None = None,
) -> Json:
    """A text; `timestamp` in seconds, here and below."""
    return _message(person, message_id, timestamp, "text", {"body": body}, context=context, referral=referral)


def _media(media: MediaRef, **extra: Any) -> Json:
    content: Json = {"mime_type": media.mime_type, "sha256": media.sha256, "id": media.id}
    if media.url is not None:
        content["url"] = media.url
    return content | {name: value for name, value in extra.items() if value is not None}


def image_message(
    person: Person,
    message_id: str,
    timestamp: int,
    media: MediaRef,
    caption: str | None = None,
    context: Json | None = None,
) -> Json:
    """A picture, with or without a caption."""
    return _message(person, message_id, timestamp, "image", _media(media, caption=caption), context=context)


def video_message(
    person: Person,
    message_id: str,
    timestamp: int,
    media: MediaRef,
    caption: str | None = None,
    context: Json | None = None,
) -> Json:
    """A film, with or without a caption."""
    return _message(person, message_id, timestamp, "video", _media(media, caption=caption), context=context)


def audio_message(
    person: Person,
    message_id: str,
    timestamp: int,
    media: MediaRef,
    *,
    voice: bool = True,
    context: Json | None = None,
) -> Json:
    """A voice note, or a sound file when not `voice`."""
    return _message(person, message_id, timestamp, "audio", _media(media, voice=voice), context=context)


def document_message(
    person: Person,
    message_id: str,
    timestamp: int,
    media: MediaRef,
    filename: str | None = None,
    caption: str | None = None,
    context: Json | None = None,
) -> Json:
    """A file of any kind."""
    content = _media(media, filename=filename, caption=caption)
    return _message(person, message_id, timestamp, "document", content, context=context)


def sticker_message(
    person: Person, message_id: str, timestamp: int, media: MediaRef, *, animated: bool = False
) -> Json:
    """A WebP sticker."""
    return _message(person, message_id, timestamp, "sticker", _media(media, animated=animated))


def location_message(
    person: Person,
    message_id: str,
    timestamp: int,
    latitude: float,
    longitude: float,
    *,
    name: str | None = None,
    address: str | None = None,
    url: str | None = None,
) -> Json:
    """A place; named places carry name, address and sometimes a link."""
    content: Json = {"latitude": latitude, "longitude": longitude}
    named = {"name": name, "address": address, "url": url}
    content |= {key: value for key, value in named.items() if value is not None}
    return _message(person, message_id, timestamp, "location", content)


def contacts_message(person: Person, message_id: str, timestamp: int, contacts: Sequence[Json]) -> Json:
    """Address-book cards; see `contact_card`."""
    return _message(person, message_id, timestamp, "contacts", None) | {"contacts": list(contacts)}


def contact_card(first_name: str, last_name: str | None, wa_id: str, phone_type: str = "CELL") -> Json:
    """One card of a `contacts` message."""
    name = {
        "formatted_name": f"{first_name} {last_name}" if last_name else first_name,
        "first_name": first_name,
    }
    if last_name:
        name["last_name"] = last_name
    return {"name": name, "phones": [{"phone": f"+{wa_id}", "wa_id": wa_id, "type": phone_type}]}


def button_reply_message(
    person: Person, message_id: str, timestamp: int, button_id: str, title: str, *, context: Json
) -> Json:
    """A tap on a reply button; `context` quotes the message that had it."""
    content = {"type": "button_reply", "button_reply": {"id": button_id, "title": title}}
    return _message(person, message_id, timestamp, "interactive", content, context=context)


def list_reply_message(
    person: Person,
    message_id: str,
    timestamp: int,
    row_id: str,
    title: str,
    description: str | None = None,
    *,
    context: Json,
) -> Json:
    """A choice from a list message."""
    row = {"id": row_id, "title": title}
    if description is not None:
        row["description"] = description
    content = {"type": "list_reply", "list_reply": row}
    return _message(person, message_id, timestamp, "interactive", content, context=context)


def flow_reply_message(
    person: Person, message_id: str, timestamp: int, answers: Mapping[str, Any], *, context: Json
) -> Json:
    """A filled-in Flow; the answers travel as a JSON string."""
    reply = {"name": "flow", "body": "Sent", "response_json": json.dumps(answers)}
    content = {"type": "nfm_reply", "nfm_reply": reply}
    return _message(person, message_id, timestamp, "interactive", content, context=context)


def interactive_without_content_message(
    person: Person, message_id: str, timestamp: int, *, context: Json
) -> Json:
    """What the platform sends in practice beside `value.errors`: type interactive and nothing in it."""
    return _message(person, message_id, timestamp, "interactive", None, context=context)


def template_button_message(
    person: Person, message_id: str, timestamp: int, payload: str, text: str, *, context: Json
) -> Json:
    """A tap on the quick-reply button of a template."""
    return _message(
        person, message_id, timestamp, "button", {"payload": payload, "text": text}, context=context
    )


def reaction_message(
    person: Person, message_id: str, timestamp: int, target_id: str, emoji: str | None
) -> Json:
    """A reaction to a message; None takes it back, with the member missing as the platform does."""
    content = {"message_id": target_id}
    if emoji is not None:
        content["emoji"] = emoji
    return _message(person, message_id, timestamp, "reaction", content)


def order_message(
    person: Person, message_id: str, timestamp: int, catalog_id: str, items: Sequence[Json], text: str = ""
) -> Json:
    """An order from the catalogue; see `order_item`."""
    content = {"catalog_id": catalog_id, "text": text, "product_items": list(items)}
    return _message(person, message_id, timestamp, "order", content)


def order_item(product: str, quantity: int, item_price: float, currency: str) -> Json:
    """One line of an order."""
    return {
        "product_retailer_id": product,
        "quantity": quantity,
        "item_price": item_price,
        "currency": currency,
    }


def number_changed_message(person: Person, message_id: str, timestamp: int, new_wa_id: str) -> Json:
    """The platform says that this user has another number now; comes without `contacts`."""
    body = f"User {person.name} changed from {person.wa_id} to {new_wa_id}"
    content = {"body": body, "wa_id": new_wa_id, "type": "user_changed_number"}
    return _message(person, message_id, timestamp, "system", content)


def revoke_message(person: Person, message_id: str, timestamp: int, original_message_id: str) -> Json:
    """The user deleted a message."""
    return _message(person, message_id, timestamp, "revoke", {"original_message_id": original_message_id})


def edit_message(
    person: Person, message_id: str, timestamp: int, original_message_id: str, message: Json
) -> Json:
    """The user changed a message; `message` has `type` and the content member."""
    content = {"original_message_id": original_message_id, "message": message}
    return _message(person, message_id, timestamp, "edit", content)


def unsupported_message(person: Person, message_id: str, timestamp: int, kind: str | None = None) -> Json:
    """A kind that the platform does not pass on, such as a poll; `kind` names it when the platform does."""
    message = _message(person, message_id, timestamp, "unsupported", {"type": kind} if kind else None)
    error = webhook_error(131051, "Message type is currently not supported.")
    del error["href"]
    error["title"] = error["message"] = "Message type unknown"
    return message | {"errors": [error]}


# ── statuses[] elements ──────────────────────────────────────────────────────────────────────────────


def status(
    message_id: str,
    reached: str,
    timestamp: int,
    recipient_id: str,
    *,
    callback_data: str | None = None,
    conversation_id: str | None = None,
    window_ends: int | None = None,
    category: str = "service",
    error: Json | None = None,
) -> Json:
    """One status change (section 7). `window_ends` in seconds appears on `sent` only, `error` on `failed`."""
    result: Json = {
        "id": message_id,
        "status": reached,
        "timestamp": str(timestamp),
        "recipient_id": recipient_id,
    }
    if callback_data is not None:
        result["biz_opaque_callback_data"] = callback_data
    if error is not None:
        return result | {"errors": [error]}
    if conversation_id is not None:
        conversation: Json = {"id": conversation_id, "origin": {"type": category}}
        if reached == "sent" and window_ends is not None:
            conversation["expiration_timestamp"] = str(window_ends)
        result["conversation"] = conversation
    billable = category != "service"
    result["pricing"] = {"billable": billable, "pricing_model": "PMP", "category": category}
    return result


# ── values, entries, whole webhooks ──────────────────────────────────────────────────────────────────


def contact(person: Person) -> Json:
    """An element of `value.contacts[]`."""
    profile = {"name": person.name}
    if person.username is not None:
        profile["username"] = person.username
    ids = {"wa_id": person.wa_id, "user_id": person.user_id, "parent_user_id": person.parent_user_id}
    return {"profile": profile} | {name: value for name, value in ids.items() if value is not None}


def value(account: WhatsAppAccount, people: Iterable[Person] = (), **members: Any) -> Json:
    """The `value` of a change; members are `messages`, `statuses`, `message_echoes`, `errors`."""
    result: Json = {
        "messaging_product": "whatsapp",
        "metadata": {
            "display_phone_number": account.display_phone_number,
            "phone_number_id": account.phone_number_id,
        },
    }
    if contacts := [contact(person) for person in people]:
        result["contacts"] = contacts
    return result | members


def change(value: Json, field: str = "messages") -> Json:
    """An element of `changes[]`."""
    return {"value": value, "field": field}


def entry(waba_id: str, changes: Sequence[Json], *, time: int | None = None) -> Json:
    """An element of `entry[]`; `time` in seconds is present on some fields only."""
    result: Json = {"id": waba_id}
    if time is not None:
        result["time"] = time
    return result | {"changes": list(changes)}


def webhook(entries: Sequence[Json]) -> Json:
    """The whole payload."""
    return {"object": "whatsapp_business_account", "entry": list(entries)}


def message_webhook(
    account: WhatsAppAccount, people: Iterable[Person], messages: Sequence[Json], errors: Sequence[Json] = ()
) -> Json:
    """One POST with messages of one number."""
    members: Json = {"messages": list(messages)}
    if errors:
        members["errors"] = list(errors)
    return webhook([entry(account.waba_id, [change(value(account, people, **members))])])


def status_webhook(account: WhatsAppAccount, people: Iterable[Person], statuses: Sequence[Json]) -> Json:
    """One POST with statuses of one number."""
    return webhook([entry(account.waba_id, [change(value(account, people, statuses=list(statuses)))])])


def echo(account: WhatsAppAccount, person: Person, message: Json) -> Json:
    """Turns a message element into one that the business sent from its phone app (section 4.3)."""
    turned = {name: part for name, part in message.items() if not name.startswith("from")}
    head: Json = {"from": account.display_phone_number}
    ids = {"to": person.wa_id, "to_user_id": person.user_id, "to_parent_user_id": person.parent_user_id}
    return head | {name: part for name, part in ids.items() if part is not None} | turned


def echo_webhook(account: WhatsAppAccount, people: Iterable[Person], echoes: Sequence[Json]) -> Json:
    """One POST of field `smb_message_echoes`."""
    echoed = change(value(account, people, message_echoes=list(echoes)), "smb_message_echoes")
    return webhook([entry(account.waba_id, [echoed])])


def template_status_value(name: str, language: str, event: str, template_id: int, category: str) -> Json:
    """The `value` of `message_template_status_update`; has no metadata, so it is routed by the WABA."""
    return {
        "event": event,
        "message_template_id": template_id,
        "message_template_name": name,
        "message_template_language": language,
        "reason": "NONE",
        "message_template_category": category,
    }


def template_status_webhook(account: WhatsAppAccount, value: Json, time: int) -> Json:
    """One POST of field `message_template_status_update`."""
    return webhook([entry(account.waba_id, [change(value, "message_template_status_update")], time=time)])


def merged(changes: Sequence[tuple[str, Json]]) -> Json:
    """One payload from many changes, given as (waba id, change) in order.

    Changes of one WABA share an entry. Neighbours of one number that hold only messages, or only statuses,
    are joined in one value, as the platform does when it batches.
    """
    entries: dict[str, list[Json]] = {}
    for waba_id, one in changes:
        siblings = entries.setdefault(waba_id, [])
        if not (siblings and _joined(siblings[-1], one)):
            # Copied two levels deep because joining appends to the lists.
            copied = {k: list(v) if isinstance(v, list) else v for k, v in one["value"].items()}
            siblings.append(change(copied, one["field"]))
    return webhook([entry(waba_id, siblings) for waba_id, siblings in entries.items()])


def _joined(into: Json, one: Json) -> bool:
    first, second = into["value"], one["value"]
    if into["field"] != one["field"] or first.get("metadata") != second.get("metadata"):
        return False
    for items in ("messages", "statuses"):
        plain = {"messaging_product", "metadata", "contacts", items}
        if items in first and first.keys() <= plain and items in second and second.keys() <= plain:
            first[items].extend(second[items])
            known = first.setdefault("contacts", [])
            known.extend(who for who in second.get("contacts", ()) if who not in known)
            return True
    return False


# ── the short way for load ───────────────────────────────────────────────────────────────────────────


def text_webhook_bytes(
    account: WhatsAppAccount, wa_id: str, name: str, message_id: str, timestamp: int, body: str
) -> bytes:
    """The bytes of one text message in one POST, some 20 times faster than through the dicts.

    The same bytes as `webhook_bytes(message_webhook(...))` for a person with `name` and `wa_id` only.
    """
    return (
        '{"object":"whatsapp_business_account","entry":[{"id":"'
        f'{account.waba_id}","changes":[{{"value":{{"messaging_product":"whatsapp","metadata":'
        f'{{"display_phone_number":"{account.display_phone_number}","phone_number_id":'
        f'"{account.phone_number_id}"}},"contacts":[{{"profile":{{"name":{_escaped(name)}}},"wa_id":"{wa_id}"}}],'
        f'"messages":[{{"from":"{wa_id}","id":{_escaped(message_id)},"timestamp":"{timestamp}","type":"text",'
        f'"text":{{"body":{_escaped(body)}}}}}]}},"field":"messages"}}]}}]}}'
    ).encode("ascii")


_quoted = json.encoder.encode_basestring_ascii


def _escaped(text: str) -> str:
    return _quoted(text).replace("/", "\\/")
