"""The public shape of a message's `content`, by type. One place, so that adapters, auto-replies,
events and the API agree. All members are optional unless said otherwise.

    text         {"body": str, "rating": int}; the rating, 1 to 5, with reviews. Mail has its new text as
                 "body", and {"subject": str, "quoted": str, "signature": str, "html": str, "inline":
                 {content id: place among the attachments}, "truncated": true,
                 "left_out": {"why": str, "files": [{"filename", "media_type", "bytes"}]}}; what is left out
                 of a mail that is too large is in its mailbox. The HTML is harmless and whole
                 (with what is quoted); images of the web stand in it as `remote:URL` and are for the reader
                 to ask for, those of the mail as `cid:ID`
    image, video, audio, voice, document, sticker
                 {"caption": str, "filename": str, "animated": bool}; the file itself is an attachment
    location     {"latitude": float, "longitude": float, "name": str, "address": str, "url": str}
    contacts     {"contacts": [{"name": str, "phones": [str], "emails": [str],
                 "organization": str, "raw": {…}}]}
    interactive  from a customer: {"kind": "button_reply" | "list_reply" | "template_button" | "form_reply" |
                 "postback", "id": str, "title": str, "description": str, "payload": …};
                 from us: {"kind": "buttons" | "list" | "quick_replies", "body": str, "header": str,
                 "footer": str, "button": str, "options": [{"id", "title", "description", "section"}]}
    template     {"name": str, "language": str, "variables": {…}}
    reaction     {"emoji": str | null, "message_id": int | null, "platform_message_id": str}
    order        {"catalog_id": str, "text": str, "items": [{"product_id", "quantity", "price", "currency"}]}
    system       {"kind": str, "body": str, …}
    unsupported  {"reason": str, "raw": {…}}

A content of ours may have "sent_as": how it was sent where the platform cannot carry it as it is, a sentence;
and "segments" {"encoding": str, "count": int}: the parts that operators carry and charge for.

Message metadata that adapters set: `forwarded`, `frequently_forwarded`, `referral` {…}, `referred_product`
{…}, `group`, `identity`, `story` {"id", "url"} (a reply to it), `standby` (true: another app has the
conversation), `app` (the app that wrote an echo), `review` {"rating", "name", "changed"}, `context` {…}
(where the customer came from), `segments` {"count"} (an SMS came in so many parts), `email` {"from", "to",
"cc", "delivered_to", "message_id", "automatic" (why it is taken for a robot's), "encrypted", "flaws" (what
of a broken mail could not be read), and what the service or the mail server says: "spam",
"spf", "dkim", "dmarc", "warning" (a sentence: the sender may be somebody else), …}. The engine adds:
`written_by` (who answered for the contact from another address), `opts`
(out or in: with it the customer ended or resumed messages here), `auto_reply` (rule id), `resent` (true),
`reactions`, `edits`."""

from typing import Any

PREVIEW_CHARACTERS = 120
"""An inbox line shows about this much; longer previews only cost bytes in each conversation row."""

DELETED_PREVIEW = "Deleted message"

_LABELS = {
    "image": "Photo",
    "video": "Video",
    "audio": "Audio",
    "voice": "Voice message",
    "document": "Document",
    "sticker": "Sticker",
    "location": "Location",
    "contacts": "Contact",
    "interactive": "Interactive message",
    "template": "Template",
    "reaction": "Reaction",
    "order": "Order",
    "system": "System message",
    "unsupported": "Unsupported message",
}


def preview(message_type: str, text: str) -> str:
    """One line for the inbox: the text where there is one, else a word for the type."""
    line = " ".join(text.split())
    if not line:
        return _LABELS.get(message_type, message_type)
    return line if len(line) <= PREVIEW_CHARACTERS else line[: PREVIEW_CHARACTERS - 1] + "…"


def compact(**members: Any) -> dict[str, Any]:
    """A content object without the members that are None."""
    return {name: value for name, value in members.items() if value is not None}
