"""What a Page's or Instagram account's message says, in the public shape of `engine/domain/content.py`.

Several attachments of one message are several files of one message. What somebody shares (posts, reels,
links, products) has no type of its own: it is the message's text with the link, and whole in the member
`shared` of the content."""

from typing import Any, Final

from adapters.wire import Json
from engine.domain.content import compact
from engine.domain.inbound import Media

Shape = tuple[str, Json, str, tuple[Media, ...]]
"""type, content, text, media"""

_KINDS: Final = {
    "image": "image",
    "video": "video",
    "audio": "audio",
    "file": "document",
    "sticker": "sticker",
}
_SHARED: Final = frozenset(
    ("reel", "ig_reel", "post", "ig_post", "share", "fallback", "template", "media", "story", "ig_story",
     "appointment_booking")
)  # fmt: skip
_ATTACHMENTS_MAX: Final = 30
"""The sheets' largest number of pictures in one message."""


def shape_of(message: Json) -> Shape | None:
    """None: nothing in it that is known."""
    text = message.get("text")
    text = text if isinstance(text, str) else ""
    quick = message.get("quick_reply")
    if isinstance(quick, dict):
        payload = quick.get("payload")
        content = compact(kind="button_reply", id=payload if isinstance(payload, str) else None, title=text)
        return "interactive", content, text, ()
    attachments = message.get("attachments")
    known = [each for each in attachments if isinstance(each, dict)] if isinstance(attachments, list) else []
    known = known[:_ATTACHMENTS_MAX]
    for read in (_location, _files, _mention, _heart, _shares):
        shape = read(known, text)
        if shape is not None:
            return shape
    if text:
        # With an attachment of a kind that nobody knows, the words still arrive, and the attachment beside.
        return "text", compact(body=text, shared=known or None), text, ()
    return None


def _payload(attachment: Json) -> Json:
    payload = attachment.get("payload")
    return payload if isinstance(payload, dict) else {}


def _url(attachment: Json) -> str | None:
    for url in (_payload(attachment).get("url"), attachment.get("url")):
        if isinstance(url, str) and url.startswith(("https://", "http://")):
            return url
    return None


def _files(attachments: list[Json], text: str) -> Shape | None:
    media: list[Media] = []
    stickers = [_payload(each).get("sticker_id") for each in attachments if each.get("type") == "sticker"]
    for each in attachments:
        if each.get("type") == "image" and _payload(each).get("sticker_id", "none") in stickers:
            continue  # Messenger sends stickers as pictures too, until August 2026 (its sheet, 4.1)
        kind, url = _KINDS.get(str(each.get("type"))), _url(each)
        if kind is None or url is None:
            continue
        if "sticker_id" in _payload(each):
            kind = "sticker"
        media.append(Media(kind=kind, source_url=url))
    if not media:
        return None
    return media[0].kind, compact(caption=text or None), text, tuple(media)


def _mention(attachments: list[Json], text: str) -> Shape | None:
    """The business was mentioned in a story, which is gone in a day: its picture is fetched."""
    for each in attachments:
        url = _url(each)
        if each.get("type") == "story_mention" and url is not None:
            content = compact(caption=text or None, story_mention=True)
            return "image", content, text, (Media(kind="image", source_url=url),)
    return None


def _heart(attachments: list[Json], text: str) -> Shape | None:
    if any(each.get("type") == "like_heart" for each in attachments):
        return "sticker", {"caption": "❤"}, text or "❤", ()
    return None


def _location(attachments: list[Json], text: str) -> Shape | None:
    """No longer documented; unconfirmed whether it still comes."""
    for each in attachments:
        at = _payload(each).get("coordinates")
        if each.get("type") != "location" or not isinstance(at, dict):
            continue
        latitude, longitude = at.get("lat"), at.get("long")
        if not _is_degree(latitude, 90) or not _is_degree(longitude, 180):
            continue
        title = each.get("title")
        name = title if isinstance(title, str) and title else None
        return "location", compact(latitude=latitude, longitude=longitude, name=name), name or text, ()
    return None


def _is_degree(value: Any, most: int) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -most <= value <= most


def _shares(attachments: list[Json], text: str) -> Shape | None:
    shared = [each for each in attachments if str(each.get("type")) in _SHARED]
    if not shared:
        return None
    words = [text] if text else []
    for each in shared:
        title, url = _payload(each).get("title") or each.get("title"), _url(each)
        words += [part for part in (title, url) if isinstance(part, str) and part and part not in words]
    body = "\n".join(words) or str(shared[0]["type"])
    return "text", {"body": body, "shared": shared}, body, ()
