"""What we send by Business Messages: bodies of its API, and what does not fit into them.

Shapes      quick replies: a text with suggestions. Buttons: one card with them. A list: a row of cards, the
            question first and then one for each choice, since a message has either a text or cards.
            Telephones that cannot show cards show the same as numbered lines (`fallback`).
Source      The Google Business sheet, A4; members of pictures and cards are unconfirmed there.
"""

from typing import Final

from adapters.degrading import LOCATED, joined, located, numbered
from adapters.fitting import Problems
from adapters.google_business import limits
from adapters.port import Fitted
from adapters.wire import Json
from engine.domain.content import compact
from engine.domain.outbound import (
    MarkRead,
    MediaRef,
    Option,
    Send,
    SendInteractive,
    SendLocation,
    SendMedia,
    SendReaction,
    SendTemplate,
    SendText,
)

_LABEL: Final = "Business Messages"


def fit_message(send: Send) -> Fitted:
    """Raises InvalidInput with a sentence for each field. Pure."""
    if isinstance(send, SendLocation):
        return Fitted(send=fit_message(located(send)).send, note=LOCATED)
    problems = Problems(_LABEL)
    match send:
        case SendText():
            problems.text("body", send.body, limits.TEXT_MAX)
        case SendMedia():
            _check_media(send.media, problems)
        case SendInteractive():
            _check_choices(send, problems)
        case SendTemplate():
            problems.add("template", f"{_LABEL} has no approved templates; send text, choices or an image.")
        case SendReaction():
            problems.add("reaction", f"{_LABEL} has no reactions.")
        case MarkRead():
            pass
    problems.refuse()
    return Fitted(send=send)


def compose(send: Send, file_url: str | None) -> Json:
    """The content of `POST conversations/{id}/messages`, of what fits. `file_url`: where a picture is."""
    match send:
        case SendText():
            return {"text": send.body}
        case SendMedia():
            return {"image": {"contentInfo": {"fileUrl": file_url, "forceRefresh": False}}}
        case SendInteractive():
            return _choices(send)
        case _:
            raise AssertionError(f"{type(send).__name__} does not fit")


def _choices(send: SendInteractive) -> Json:
    if send.kind == "quick_replies":
        text = joined(send.header, send.body, send.footer)
        return {"text": text, "suggestions": [_suggestion(each, each.title) for each in send.options]}
    fallback = numbered(send).body[: limits.TEXT_MAX]
    words = joined(send.body, send.footer)
    if send.kind == "buttons":
        card = compact(
            title=send.header,
            description=words,
            suggestions=[_suggestion(each, each.title) for each in send.options],
        )
        return {"fallback": fallback, "richCard": {"standaloneCard": {"cardContent": card}}}
    cards = [compact(title=send.header, description=words)]
    cards += [
        compact(
            title=each.title,
            description=each.description,
            suggestions=[_suggestion(each, send.button or "Choose")],
        )
        for each in send.options
    ]
    carousel = {"cardWidth": "MEDIUM", "cardContents": cards}
    return {"fallback": fallback, "richCard": {"carouselCard": carousel}}


def _suggestion(option: Option, text: str) -> Json:
    return {"reply": {"text": text, "postbackData": option.id}}


def _check_media(media: MediaRef, problems: Problems) -> None:
    if media.kind != "image":
        problems.add("kind", f"{_LABEL} takes pictures alone.")
        return
    problems.source(media)
    if media.caption:
        sentence = f"{_LABEL} shows no words with a picture; send them as a message of their own."
        problems.add("caption", sentence)


def _check_choices(send: SendInteractive, problems: Problems) -> None:
    title_max = limits.SUGGESTION_TEXT_MAX
    match send.kind:
        case "quick_replies":
            text = joined(send.header, send.body, send.footer)
            problems.text("body", text, limits.TEXT_MAX)
            most = limits.SUGGESTIONS_MAX
        case "buttons" | "list":
            words = joined(send.body, send.footer)
            problems.text("body", words, limits.CARD_TEXT_MAX)
            problems.text("header", send.header, limits.CARD_TITLE_MAX, required=False)
            most = limits.CARD_SUGGESTIONS_MAX
            if send.kind == "list":
                problems.text("button", send.button, limits.SUGGESTION_TEXT_MAX, required=False)
                most, title_max = limits.CARDS_MAX - 1, limits.CARD_TITLE_MAX
        case _:
            problems.add("kind", "One of buttons, list, quick_replies.")
            return
    problems.options(
        send.options,
        most,
        title_max=title_max,
        id_max=limits.POSTBACK_MAX,
        description_max=limits.CARD_TEXT_MAX,
        described=send.kind == "list",
    )
