"""What we send by Messenger and Instagram: bodies of their messages, and what does not fit into them.

Source      The Messenger sheet and the Instagram sheet, section 5. Unconfirmed there: the limits of templates
            and the length of payloads (`limits`), and the names of reactions (`EMOJI` in `messaging`).
"""

from collections.abc import Callable
from typing import Any, Final

from msgspec import Struct

from adapters.degrading import LOCATED, joined, located
from adapters.fitting import Problems
from adapters.meta import limits
from adapters.meta.messaging import EMOJI
from adapters.port import Account, Fitted
from adapters.wire import Json
from engine.domain.content import compact
from engine.domain.outbound import (
    MarkRead,
    MediaRef,
    Send,
    SendInteractive,
    SendLocation,
    SendMedia,
    SendReaction,
    SendTemplate,
    SendText,
)

TYPES: Final = {"image": "image", "video": "video", "audio": "audio", "voice": "audio", "document": "file"}
"""Our kinds of files by the platform's names."""
REACTIONS: Final = {emoji: name for name, emoji in EMOJI.items() if name != "laugh"}


class Dialect(Struct, frozen=True, kw_only=True):
    """Where the two platforms differ. `text_length` measures a text in the unit of `text_max`; `uploads`:
    files are uploaded, else the platform fetches them; `metadata`: our id may travel with a message;
    `base_url_of` and `node_of` give the address and the id that messages are sent as."""

    platform: str
    label: str
    text_max: int
    text_unit: str
    text_length: Callable[[str], int]
    media_bytes_max: dict[str, int]
    uploads: bool
    metadata: bool
    base_url_of: Callable[[Account], str]
    node_of: Callable[[Account], str]


def fit(dialect: Dialect, send: Send) -> Fitted:
    """Raises InvalidInput with a sentence for each field. Pure."""
    if isinstance(send, SendLocation):
        return Fitted(send=fit(dialect, located(send)).send, note=LOCATED)
    problems = _Problems(dialect)
    problems.look_at(send)
    problems.refuse()
    return Fitted(send=send)


def compose(send: Send, attachment: Json | None) -> Json:
    """The member `message` of what fits. `attachment`: where a file is, for a media send."""
    match send:
        case SendText():
            return {"text": send.body}
        case SendMedia():
            return {"attachment": {"type": TYPES[send.media.kind], "payload": attachment}}
        case SendInteractive():
            return _interactive(send)
        case _:
            raise AssertionError(f"{type(send).__name__} does not fit")


def reaction(send: SendReaction) -> Json:
    """The action and its payload; without an emoji the reaction is taken back."""
    payload = {"message_id": send.platform_message_id}
    if not send.emoji:
        return {"sender_action": "unreact", "payload": payload}
    return {"sender_action": "react", "payload": {**payload, "reaction": REACTIONS[_plain(send.emoji)]}}


def _interactive(send: SendInteractive) -> Json:
    """Buttons are a button template, quick replies stand under a text; a list is a row of cards, the question
    first and then one for each choice."""
    text = joined(send.header, send.body, send.footer)
    if send.kind == "quick_replies":
        replies = [{"content_type": "text", "title": each.title, "payload": each.id} for each in send.options]
        return {"text": text, "quick_replies": replies}
    if send.kind == "buttons":
        buttons = [{"type": "postback", "title": each.title, "payload": each.id} for each in send.options]
        return _template(template_type="button", text=text, buttons=buttons)
    label = send.button or "Choose"
    first = compact(title=send.header or send.body, subtitle=send.body if send.header else send.footer)
    cards: list[Json] = [first]
    for each in send.options:
        button = {"type": "postback", "title": label, "payload": each.id}
        cards.append(compact(title=each.title, subtitle=each.description or None, buttons=[button]))
    return _template(template_type="generic", elements=cards)


def _template(**payload: Any) -> Json:
    return {"attachment": {"type": "template", "payload": payload}}


def _plain(emoji: str) -> str:
    """Without the mark that asks for colours (U+FE0F)."""
    return emoji.replace("\ufe0f", "")


# ------------------------------------------------------------------ limits, sections 5


class _Problems(Problems):
    def __init__(self, dialect: Dialect) -> None:
        super().__init__(dialect.label)
        self._dialect = dialect

    def look_at(self, send: Send) -> None:
        label = self.label
        match send:
            case SendText():
                self._body(send.body)
            case SendMedia():
                self._media(send.media)
            case SendInteractive():
                self._interactive(send)
            case SendReaction():
                if send.emoji and _plain(send.emoji) not in REACTIONS:
                    self.add("emoji", f"{label} has these reactions: {' '.join(REACTIONS)}.")
            case SendTemplate():
                self.add("template", f"{label} has no approved templates; send text, choices or a file.")
            case SendLocation():
                raise AssertionError("a location is degraded before")
            case MarkRead():
                pass

    def _body(self, value: str) -> None:
        dialect = self._dialect
        self.text("body", value, dialect.text_max, length=dialect.text_length, unit=dialect.text_unit)

    def _media(self, media: MediaRef) -> None:
        label = self.label
        if media.kind not in self._dialect.media_bytes_max:
            self.add("kind", f"{label} takes {', '.join(self._dialect.media_bytes_max)}.")
            return
        self.source(media)
        if media.caption:
            self.add("caption", f"{label} shows no words with a file; send them as a message of their own.")

    def _interactive(self, send: SendInteractive) -> None:
        text = joined(send.header, send.body, send.footer)
        match send.kind:
            case "quick_replies":
                self._body(text)
                most, title_max = limits.QUICK_REPLIES_MAX, limits.TITLE_MAX
            case "buttons":
                self.text("body", text, limits.BUTTON_TEXT_MAX)
                most, title_max = limits.BUTTONS_MAX, limits.TITLE_MAX
            case "list":
                self.text("body", send.body, limits.CARD_TEXT_MAX)
                for name, value, limit in (
                    ("header", send.header, limits.CARD_TEXT_MAX),
                    ("footer", send.footer, limits.CARD_TEXT_MAX),
                    ("button", send.button, limits.TITLE_MAX),
                ):
                    self.text(name, value, limit, required=False)
                if send.header and send.footer:
                    self.add("footer", "A card has room for two lines: leave out the header or the footer.")
                most, title_max = limits.CARDS_MAX - 1, limits.CARD_TEXT_MAX
            case _:
                self.add("kind", "One of buttons, list, quick_replies.")
                return
        self.options(
            send.options,
            most,
            title_max=title_max,
            id_max=limits.PAYLOAD_MAX,
            description_max=limits.CARD_TEXT_MAX,
            described=send.kind == "list",
        )
