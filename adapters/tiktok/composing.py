"""What we send by TikTok: bodies of its messages, how the rest is degraded, and what does not fit.

Choices     Up to three go out as a card of buttons under a title of 40 characters; what is longer, and lists,
            as text with numbered lines. A click comes back as the button's words.
Source      The TikTok sheet, section 5.
"""

from adapters.degrading import LOCATED, NUMBERED, joined, located, numbered
from adapters.fitting import Problems
from adapters.port import Fitted
from adapters.tiktok import limits
from adapters.wire import Json
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


def fit(send: Send) -> Fitted:
    """Raises InvalidInput with a sentence for each field. Pure."""
    fitted = _degraded(send)
    problems = _Problems(limits.LABEL)
    if isinstance(send, SendInteractive):
        problems.look_at_choices(send)
    problems.look_at(fitted.send)
    problems.refuse()
    return fitted


def card(send: SendInteractive) -> Json:
    """A template. Short words stand on buttons, longer ones as links."""
    short = all(len(each.title) <= limits.BUTTON_TITLE_MAX for each in send.options)
    return {
        "type": "QA_BUTTON_CARD" if short else "QA_LINK_CARD",
        "title": _title(send),
        "buttons": [{"type": "REPLY", "title": each.title, "id": each.id} for each in send.options],
    }


def _degraded(send: Send) -> Fitted:
    match send:
        case SendLocation():
            return Fitted(send=located(send), note=LOCATED)
        case SendInteractive() if not _is_card(send):
            return Fitted(send=numbered(send), note=NUMBERED)
        case _:
            return Fitted(send=send)


def _title(send: SendInteractive) -> str:
    return joined(send.header, send.body, send.footer)


def _is_card(send: SendInteractive) -> bool:
    return (
        send.kind in ("buttons", "quick_replies")
        and len(send.options) <= limits.BUTTONS_MAX
        and len(_title(send)) <= limits.CARD_TITLE_MAX
        and all(
            len(each.title) <= limits.LINK_TITLE_MAX
            and len(each.id) <= limits.BUTTON_ID_MAX
            and not each.description
            for each in send.options
        )
    )


class _Problems(Problems):
    def look_at(self, send: Send) -> None:
        match send:
            case SendText():
                self.text("body", send.body, limits.TEXT_MAX)
            case SendMedia():
                self._media(send.media)
            case SendTemplate():
                self.add("template", "TikTok has no approved templates; send text, choices or a picture.")
            case SendReaction():
                self.add("emoji", "TikTok lets businesses send no reactions.")
            case SendLocation():
                raise AssertionError("a location is degraded before")
            case SendInteractive() | MarkRead():
                pass

    def _media(self, media: MediaRef) -> None:
        if media.kind != "image":
            self.add("kind", "TikTok takes pictures and no other files.")
            return
        self.source(media)
        if media.media_type is not None and media.media_type.split(";")[0] not in limits.IMAGE_TYPES:
            self.add("media_type", "TikTok takes JPG and PNG pictures.")
        if media.caption:
            self.add("caption", "TikTok shows no words with a picture; send them as a message of their own.")

    def look_at_choices(self, send: SendInteractive) -> None:
        """What no way of sending them repairs."""
        self.text("body", send.body, limits.TEXT_MAX)
        if not send.options:
            self.add("options", "At least one.")
        if len({option.id for option in send.options}) != len(send.options):
            self.add("options", "Ids must differ.")
        for index, option in enumerate(send.options):
            self.text(f"options.{index}.title", option.title, limits.TEXT_MAX)
            self.text(f"options.{index}.id", option.id, limits.TEXT_MAX)
