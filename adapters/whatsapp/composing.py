"""What we send by WhatsApp: bodies of its messages, and what does not fit into them.

Promises    `check` knows every limit of the sheet's section 5.1 that concerns what we send, so that a caller
            is told before anything is accepted.
Source      The WhatsApp sheet, sections 5.1 and 5.3.
"""

from collections.abc import Sequence
from typing import Any, Final, assert_never

from adapters.fitting import Problems
from adapters.whatsapp import limits
from adapters.wire import Json
from engine.domain.content import compact
from engine.domain.outbound import (
    MarkRead,
    MediaRef,
    Option,
    OutboxItem,
    Send,
    SendInteractive,
    SendLocation,
    SendMedia,
    SendReaction,
    SendTemplate,
    SendText,
)

_MEDIA_TYPES: Final = {"voice": "audio"}
_CAPTIONED: Final = frozenset({"image", "video", "document"})


def build(item: OutboxItem, media: Json | None = None) -> Json:
    """The body of `POST /{phone_number_id}/messages`. `media` is {"id"} or {"link"} for a media send."""
    send = item.send
    if isinstance(send, MarkRead):
        body: Json = {
            "messaging_product": "whatsapp",
            "status": "read",
            "message_id": send.platform_message_id,
        }
        if send.typing:
            body["typing_indicator"] = {"type": "text"}
        return body
    kind, content = _content(send, media)
    body = {"messaging_product": "whatsapp", "recipient_type": "individual", **_recipient(item.recipient)}
    # A reaction names its message itself; a quote beside it is refused.
    if item.reply_to is not None and not isinstance(send, SendReaction):
        body["context"] = {"message_id": item.reply_to}
    body["type"] = kind
    body[kind] = content
    if item.message_id is not None:
        body["biz_opaque_callback_data"] = str(item.message_id)
    return body


def _recipient(recipient: str) -> Json:
    """Numbers go with '+', else the business number's country code may be put in front (5.1); anything
    else is a business-scoped user id."""
    digits = recipient.removeprefix("+")
    if digits.isascii() and digits.isdigit():
        return {"to": f"+{digits}"}
    return {"recipient": recipient}


def _content(send: Send, media: Json | None) -> tuple[str, Any]:
    match send:
        case SendText():
            return "text", compact(body=send.body, preview_url=True if send.preview_url else None)
        case SendMedia():
            ref = send.media
            kind = _MEDIA_TYPES.get(ref.kind, ref.kind)
            return kind, compact(
                **(media or {}),
                caption=ref.caption or None if kind in _CAPTIONED else None,
                filename=ref.filename if kind == "document" else None,
            )
        case SendTemplate():
            components = [_component(name, values) for name, values in send.variables.items()]
            return "template", compact(
                name=send.name, language={"code": send.language}, components=components or None
            )
        case SendInteractive():
            return "interactive", _interactive(send)
        case SendLocation():
            return "location", compact(
                latitude=send.latitude, longitude=send.longitude, name=send.name, address=send.address
            )
        case SendReaction():
            return "reaction", {"message_id": send.platform_message_id, "emoji": send.emoji or ""}
        case MarkRead():
            raise AssertionError("a signal has no content")
        case _:
            assert_never(send)


def _component(name: str, values: Sequence[Any]) -> Json:
    parameters = [value if isinstance(value, dict) else {"type": "text", "text": value} for value in values]
    if name.startswith("button:"):
        kinds = {parameter.get("type") for parameter in parameters}
        # A payload belongs to a quick reply, a text to the variable end of a URL.
        sub_type = "quick_reply" if kinds == {"payload"} else "url"
        index = name.removeprefix("button:")
        return {"type": "button", "sub_type": sub_type, "index": index, "parameters": parameters}
    return {"type": name, "parameters": parameters}


def _interactive(send: SendInteractive) -> Json:
    action: Json
    if send.kind == "buttons":
        buttons = [{"type": "reply", "reply": {"id": one.id, "title": one.title}} for one in send.options]
        action = {"buttons": buttons}
    else:
        action = {"button": send.button, "sections": _sections(send.options)}
    return compact(
        type="button" if send.kind == "buttons" else "list",
        header={"type": "text", "text": send.header} if send.header else None,
        body={"text": send.body},
        footer={"text": send.footer} if send.footer else None,
        action=action,
    )


def _sections(options: Sequence[Option]) -> list[Json]:
    """Options of one section stand together, sections in the order of their first option."""
    rows: dict[str | None, list[Json]] = {}
    for option in options:
        row = compact(id=option.id, title=option.title, description=option.description or None)
        rows.setdefault(option.section or None, []).append(row)
    return [compact(title=title, rows=some) for title, some in rows.items()]


# ------------------------------------------------------------------ limits of the sheet, 5.1


def check(send: Send) -> None:
    """Raises InvalidInput, with a sentence for each field, for what the platform would refuse. Pure."""
    problems = Problems(limits.LABEL)
    match send:
        case SendText():
            problems.text("body", send.body, limits.TEXT_MAX)
        case SendMedia():
            _check_media(send.media, problems)
        case SendTemplate():
            _check_template(send, problems)
        case SendInteractive():
            _check_interactive(send, problems)
        case SendLocation():
            for name, value, most in (("latitude", send.latitude, 90), ("longitude", send.longitude, 180)):
                # Also false for NaN.
                if not -most <= value <= most:
                    problems.add(name, f"Between -{most} and {most}.")
        case SendReaction():
            # Empty as long as the conversation has not looked it up.
            problems.text("message_id", send.platform_message_id, limits.MESSAGE_ID_MAX, required=False)
            problems.text("emoji", send.emoji, limits.EMOJI_MAX, required=False)
        case MarkRead():
            problems.text("message_id", send.platform_message_id, limits.MESSAGE_ID_MAX)
        case _:
            assert_never(send)
    problems.refuse()


def _check_media(media: MediaRef, problems: Problems) -> None:
    if media.kind not in limits.UPLOAD_BYTES_MAX:
        problems.add("kind", f"One of {', '.join(limits.UPLOAD_BYTES_MAX)}.")
        return
    problems.source(media)
    if media.caption:
        if media.kind not in _CAPTIONED:
            problems.add("caption", f"WhatsApp shows no caption with a {media.kind}.")
        problems.text("caption", media.caption, limits.CAPTION_MAX)


def _check_template(send: SendTemplate, problems: Problems) -> None:
    problems.text("name", send.name, limits.TEMPLATE_NAME_MAX)
    problems.text("language", send.language, limits.LANGUAGE_MAX)
    for name, values in send.variables.items():
        field = f"variables.{name}"
        if name.startswith("button:"):
            index = name.removeprefix("button:")
            if not (index.isascii() and index.isdigit() and int(index) <= 9):
                problems.add(field, "A button's name is button:0 to button:9.")
        elif name not in ("header", "body"):
            problems.add(field, "One of header, body, button:<index>.")
        for value in values:
            if isinstance(value, dict):
                if not isinstance(value.get("type"), str):
                    problems.add(field, "A parameter object needs a type.")
            elif not isinstance(value, str) or not value:
                problems.add(field, "A parameter is text that is not empty, or an object.")


def _check_interactive(send: SendInteractive, problems: Problems) -> None:
    is_list = send.kind == "list"
    problems.text("body", send.body, limits.LIST_BODY_MAX if is_list else limits.BODY_MAX)
    problems.text("header", send.header, limits.HEADER_MAX, required=False)
    problems.text("footer", send.footer, limits.FOOTER_MAX, required=False)
    if is_list:
        most, title_max, id_max = limits.ROWS_MAX, limits.ROW_TITLE_MAX, limits.ROW_ID_MAX
        problems.text("button", send.button, limits.LIST_BUTTON_MAX)
        sections = {option.section or None for option in send.options}
        if len(sections) > 1 and None in sections:
            problems.add("options", "With several sections each needs a title.")
        if len(sections) > limits.SECTIONS_MAX:
            problems.add("options", f"At most {limits.SECTIONS_MAX} sections.")
    elif send.kind == "buttons":
        most, title_max, id_max = limits.BUTTONS_MAX, limits.BUTTON_TITLE_MAX, limits.BUTTON_ID_MAX
        titles = [option.title for option in send.options]
        if len(set(titles)) != len(titles):
            problems.add("options", "Button titles must differ.")
    else:
        problems.add("kind", "One of buttons, list.")
        return
    problems.options(
        send.options,
        most,
        title_max=title_max,
        id_max=id_max,
        description_max=limits.ROW_DESCRIPTION_MAX,
        described=is_list,
    )
    for index, option in enumerate(send.options if is_list else ()):
        problems.text(f"options.{index}.section", option.section, limits.SECTION_TITLE_MAX, required=False)
