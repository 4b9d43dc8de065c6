"""Reads the body of `POST /{phone_number_id}/messages` as strictly as the platform does.

Promises    Every limit of the sheet's section 5.1 is checked, and the first violation is raised as a
            `GraphError` with the code of section 6.3: 100 for the frame and for lengths, 131008 for what is
            missing, 131009 for what is wrong, 131051 for an unknown type, 132xxx for templates.
Leaves      Tokens, rates and the 24-hour window to the caller.
"""

import re
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from adapters.simulators.graph_errors import GraphError
from adapters.simulators.settings import Template

CALLBACK_DATA_MAX = 512
_MEDIA_TYPES = ("image", "video", "audio", "document", "sticker")
_CAPTIONED = ("image", "video", "document")
_USER_ID = re.compile(r"[A-Z]{2}\.(ENT\.)?[0-9A-Za-z]{1,128}")


class OutboundMessage(Struct, frozen=True, kw_only=True):
    """An acceptable send. `recipient` is digits without `+`, or a business-scoped user id."""

    recipient: str
    given: str
    type: str
    callback_data: str | None
    media_id: str | None
    voice: bool
    body: dict[str, Any]


class ReadMark(Struct, frozen=True, kw_only=True):
    """The other thing that this endpoint takes (section 5.3)."""

    message_id: str
    typing: bool


def read_send(body: object, templates: Sequence[Template]) -> OutboundMessage | ReadMark:
    """Checks the whole body; raises `GraphError`."""
    if not isinstance(body, dict):
        raise GraphError(100, "The body must be a JSON object")
    if body.get("messaging_product") != "whatsapp":
        raise GraphError(100, "messaging_product must be whatsapp")
    if "status" in body:
        return _read_mark(body)
    given, recipient = _recipient(body)
    kind = body.get("type", "text")
    callback_data = body.get("biz_opaque_callback_data")
    if callback_data is not None and (
        not isinstance(callback_data, str) or len(callback_data) > CALLBACK_DATA_MAX
    ):
        raise GraphError(
            100, f"biz_opaque_callback_data must be text of at most {CALLBACK_DATA_MAX} characters"
        )
    if "context" in body:
        _text(_object(body, "context"), "message_id", "context.message_id", 1_000)
    media_id = None
    match kind:
        case "text":
            _text(_object(body, "text"), "body", "text.body", 4_096)
        case "location":
            _location(_object(body, "location"))
        case "contacts":
            _contacts(body)
        case "reaction":
            reaction = _object(body, "reaction")
            _text(reaction, "message_id", "reaction.message_id", 1_000)
            if not isinstance(reaction.get("emoji", ""), str):
                raise GraphError(131009, "reaction.emoji must be text")
        case "interactive":
            _interactive(_object(body, "interactive"))
        case "template":
            _template(_object(body, "template"), templates)
        case _ if kind in _MEDIA_TYPES:
            media_id = _media(_object(body, kind), kind)
        case _:
            raise GraphError(131051, f"Unsupported message type {kind!r:.40}")
    return OutboundMessage(
        recipient=recipient,
        given=given,
        type=kind,
        callback_data=callback_data,
        media_id=media_id,
        voice=kind == "audio",
        body=body,
    )


def _read_mark(body: dict[str, Any]) -> ReadMark:
    if body["status"] != "read":
        raise GraphError(131009, "status must be read")
    typing = body.get("typing_indicator")
    if typing is not None and (not isinstance(typing, dict) or typing.get("type") != "text"):
        raise GraphError(131009, "typing_indicator.type must be text")
    return ReadMark(message_id=_text(body, "message_id", "message_id", 1_000), typing=typing is not None)


def _recipient(body: dict[str, Any]) -> tuple[str, str]:
    """What was given, and the normal form of it."""
    if body.get("recipient_type", "individual") not in ("individual", "group"):
        raise GraphError(131009, "recipient_type must be individual or group")
    to, user_id = body.get("to"), body.get("recipient")
    if to is None and user_id is None:
        raise GraphError(100, "The parameter to is required")
    if to is None:
        if not isinstance(user_id, str) or not _USER_ID.fullmatch(user_id):
            raise GraphError(131009, "recipient is not a user id")
        return user_id, user_id
    if not isinstance(to, str):
        raise GraphError(100, "to must be text")
    if body.get("recipient_type") == "group":
        return to, to
    digits = re.sub(r"[ ()+-]", "", to)
    # 5 to 15 digits: E.164 has at most 15, and no country has fewer than 5.
    if not digits.isascii() or not digits.isdigit() or not 5 <= len(digits) <= 15:
        raise GraphError(131009, "to is not a phone number")
    return to, digits


def _object(holder: dict[str, Any], name: str) -> dict[str, Any]:
    if name not in holder:
        raise GraphError(131008, f"{name} is required")
    found = holder[name]
    if not isinstance(found, dict):
        raise GraphError(100, f"{name} must be an object")
    return found


def _list(holder: dict[str, Any], name: str, path: str, least: int, most: int) -> list[dict[str, Any]]:
    found = holder.get(name)
    if found is None:
        raise GraphError(131008, f"{path} is required")
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise GraphError(100, f"{path} must be an array of objects")
    if not least <= len(found) <= most:
        raise GraphError(131009, f"{path} must have {least} to {most} elements, not {len(found)}")
    return found


def _text(holder: dict[str, Any], name: str, path: str, most: int, *, required: bool = True) -> str:
    found = holder.get(name)
    if found is None and not required:
        return ""
    if found is None or found == "":
        raise GraphError(131008, f"{path} is required")
    if not isinstance(found, str):
        raise GraphError(100, f"{path} must be text")
    if len(found) > most:
        raise GraphError(100, f"{path} must be at most {most} characters long")
    return found


def _media(media: dict[str, Any], kind: str) -> str | None:
    media_id, link = media.get("id"), media.get("link")
    if (media_id is None) == (link is None):
        raise GraphError(131008 if media_id is None else 131009, f"{kind} needs either id or link")
    if link is not None and not (isinstance(link, str) and link.startswith(("http://", "https://"))):
        raise GraphError(131009, f"{kind}.link must be an http or https address")
    if "caption" in media:
        if kind not in _CAPTIONED:
            raise GraphError(131009, f"{kind} takes no caption")
        _text(media, "caption", f"{kind}.caption", 1_024)
    if "filename" in media and kind != "document":
        raise GraphError(131009, f"{kind} takes no filename")
    return None if media_id is None else str(media_id)


def _location(location: dict[str, Any]) -> None:
    for name, most in (("latitude", 90), ("longitude", 180)):
        if name not in location:
            raise GraphError(131008, f"location.{name} is required")
        try:
            degrees = float(location[name])
        except (TypeError, ValueError):
            raise GraphError(131009, f"location.{name} must be a number") from None
        if not -most <= degrees <= most:
            raise GraphError(131009, f"location.{name} must lie between -{most} and {most}")


def _contacts(body: dict[str, Any]) -> None:
    for card in _list(body, "contacts", "contacts", 1, 257):
        _text(_object(card, "name"), "formatted_name", "contacts[].name.formatted_name", 1_024)


def _interactive(interactive: dict[str, Any]) -> None:
    kind = interactive.get("type")
    if kind is None:
        raise GraphError(131008, "interactive.type is required")
    header = interactive.get("header")
    if header is not None:
        header = _object(interactive, "header")
        if kind == "list" and header.get("type") != "text":
            raise GraphError(131009, "a list takes a text header only")
        if header.get("type") == "text":
            _text(header, "text", "interactive.header.text", 60)
    _text(_object(interactive, "body"), "text", "interactive.body.text", 4_096 if kind == "list" else 1_024)
    if "footer" in interactive:
        _text(_object(interactive, "footer"), "text", "interactive.footer.text", 60)
    action = _object(interactive, "action")
    match kind:
        case "button":
            _buttons(action)
        case "list":
            _sections(action)
        case "cta_url":
            _named_action(action, "cta_url")
            parameters = _object(action, "parameters")
            _text(parameters, "display_text", "action.parameters.display_text", 20)
            _text(parameters, "url", "action.parameters.url", 2_000)
        case "flow":
            _named_action(action, "flow")
            parameters = _object(action, "parameters")
            _text(parameters, "flow_cta", "action.parameters.flow_cta", 30)
            if parameters.get("flow_message_version") != "3":
                raise GraphError(131009, "action.parameters.flow_message_version must be 3")
            if not parameters.get("flow_id") and not parameters.get("flow_name"):
                raise GraphError(131008, "action.parameters needs flow_id or flow_name")
        case "location_request_message":
            _named_action(action, "send_location")
        case _:
            raise GraphError(131009, f"interactive.type {kind!r:.40} is not known")


def _named_action(action: dict[str, Any], name: str) -> None:
    if action.get("name") != name:
        raise GraphError(131009, f"action.name must be {name}")


def _buttons(action: dict[str, Any]) -> None:
    titles: set[str] = set()
    for button in _list(action, "buttons", "action.buttons", 1, 3):
        if button.get("type") != "reply":
            raise GraphError(131009, "action.buttons[].type must be reply")
        reply = _object(button, "reply")
        _text(reply, "id", "action.buttons[].reply.id", 256)
        title = _text(reply, "title", "action.buttons[].reply.title", 20)
        if title in titles:
            raise GraphError(131009, "button titles must differ")
        titles.add(title)


def _sections(action: dict[str, Any]) -> None:
    _text(action, "button", "action.button", 20)
    sections = _list(action, "sections", "action.sections", 1, 10)
    ids: list[str] = []
    for section in sections:
        _text(section, "title", "action.sections[].title", 24, required=len(sections) > 1)
        for row in _list(section, "rows", "action.sections[].rows", 1, 10):
            ids.append(_text(row, "id", "rows[].id", 200))
            _text(row, "title", "rows[].title", 24)
            _text(row, "description", "rows[].description", 72, required=False)
    if len(ids) > 10:
        raise GraphError(131009, f"a list has at most 10 rows in total, not {len(ids)}")
    if len(set(ids)) != len(ids):
        raise GraphError(131009, "row ids must differ")


def _template(template: dict[str, Any], templates: Sequence[Template]) -> None:
    name = _text(template, "name", "template.name", 512)
    code = _text(_object(template, "language"), "code", "template.language.code", 20)
    known = next((one for one in templates if (one.name, one.language) == (name, code)), None)
    if known is None:
        raise GraphError(132001, f"Template {name:.60} does not exist in {code}")
    given = 0
    components = template.get("components")
    for component in (
        [] if components is None else _list(template, "components", "template.components", 0, 20)
    ):
        if component.get("type") not in ("header", "body", "button"):
            raise GraphError(132012, "template.components[].type must be header, body or button")
        parameters = component.get("parameters", [])
        if not isinstance(parameters, list) or not all(isinstance(one, dict) for one in parameters):
            raise GraphError(100, "template.components[].parameters must be an array of objects")
        if component["type"] == "body":
            given = len(parameters)
    if given != known.parameters:
        raise GraphError(132000, f"body: {given} parameters given, {known.parameters} expected")
