"""What a TikTok message says, in the public shape of `engine/domain/content.py`.

What somebody shares has no type of its own: it is the message's text with the link, and whole in the member
`shared` of the content."""

from typing import Any, Final

import msgspec

from adapters.wire import Json, usable_id
from engine.domain.content import compact
from engine.domain.inbound import Media

Shape = tuple[str, Json, str, tuple[Media, ...]]
"""type, content, text, media"""

_FILES: Final = ("image", "video")
_URL_MAX: Final = 2_048


def shape_of(content: Json, message_id: str, conversation_id: str, *, ours: bool) -> Shape | None:
    """None: nothing in it that is known. `ours`: an echo, which may be a card of buttons."""
    kind = str(content.get("type") or content.get("message_type")).lower()
    if kind in _FILES:
        return _file(kind, content, message_id, conversation_id)
    if kind == "share_post":
        return _share(content.get("share_post"))
    if kind == "sticker":
        return "sticker", {}, "", _picture(content.get("sticker"))
    if kind == "template":
        return _card(content.get("template")) if ours else None
    text = _text(content)
    return ("text", {"body": text}, text, ()) if text else None


def _text(content: Json) -> str | None:
    """`text.body`; a plain string in `text` is taken too, since some senders write it so."""
    text = content.get("text")
    body = text.get("body") if isinstance(text, dict) else text
    return body if isinstance(body, str) else None


def _file(kind: str, content: Json, message_id: str, conversation_id: str) -> Shape | None:
    member = content.get(kind)
    media_id = usable_id(member.get("media_id")) if isinstance(member, dict) else None
    if media_id is None:
        return None
    source = source_id(kind, conversation_id, message_id, media_id)
    return kind, {}, "", (Media(kind=kind, source_id=source),)


def _picture(sticker: Any) -> tuple[Media, ...]:
    """Webhooks bring stickers without an address, the lists with one."""
    url = sticker.get("url") if isinstance(sticker, dict) else None
    usable = isinstance(url, str) and url.startswith("https://") and len(url) <= _URL_MAX
    return (Media(kind="sticker", source_url=url),) if usable else ()


def _share(post: Any) -> Shape | None:
    if not isinstance(post, dict):
        return None
    url = post.get("embed_url")
    if not isinstance(url, str) or not url.startswith(("https://", "http://")):
        return None
    return "text", {"body": url, "shared": [post]}, url, ()


def _card(card: Any) -> Shape:
    """As it is sent (section 5). Whether echoes have the same members is unconfirmed: one that has others is
    kept whole in `shared`."""
    title = card.get("title") if isinstance(card, dict) else None
    if not isinstance(title, str) or not title:
        return "interactive", {"kind": "buttons", "shared": [card]}, "", ()
    buttons = card.get("buttons")
    options = [
        compact(id=str(each.get("id") or ""), title=str(each.get("title") or ""))
        for each in (buttons if isinstance(buttons, list) else ())
        if isinstance(each, dict)
    ]
    return "interactive", {"kind": "buttons", "body": title, "options": options}, title, ()


# ------------------------------------------------------------------ files by name


def source_id(kind: str, conversation_id: str, message_id: str, media_id: str) -> str:
    """All that the platform wants to hear before it gives a file out, as one id."""
    return msgspec.json.encode([kind, conversation_id, message_id, media_id]).decode()


def read_source_id(source: str) -> list[str] | None:
    """kind, conversation, message and media id; None where it is none of ours."""
    try:
        parts = msgspec.json.decode(source, type=list[str])
    except msgspec.DecodeError:
        return None
    return parts if len(parts) == 4 else None
