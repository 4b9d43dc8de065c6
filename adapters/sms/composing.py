"""What we send by SMS and MMS: parameters of a message, how the rest is degraded, and what does not fit.

Segments    A text's encoding and number of parts stand in the message's content (`segments`).
Source      The Twilio sheet, sections 4 and 5.
"""

import re
from typing import Any, Final

import msgspec
from msgspec import structs

from adapters.degrading import LOCATED, NUMBERED, located, numbered
from adapters.fitting import Problems
from adapters.port import Fitted
from adapters.sms.segments import segments
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
from engine.errors import InvalidInput

TEXT_MAX: Final = 1_600
MEDIA_BYTES_MAX: Final = 5_000_000
"""All files of a message together (section 4); operators take less."""

_CONTENT_SID: Final = re.compile(r"HX[0-9a-fA-F]{32}")
_VARIABLES_MAX: Final = 100
_KINDS: Final = ("image", "video", "audio", "voice", "document")


def fit(send: Send) -> Fitted:
    """Raises InvalidInput with a sentence for each field. Pure."""
    match send:
        case SendText():
            return _text(send)
        case SendInteractive():
            return structs.replace(_text(numbered(send)), note=NUMBERED)
        case SendLocation():
            return structs.replace(_text(located(send)), note=LOCATED)
        case SendMedia():
            problems = Problems("SMS")
            _look_at_media(send.media, problems)
            problems.refuse()
            return Fitted(send=send)
        case SendTemplate():
            _content_variables(send)
            return Fitted(send=send)
        case SendReaction():
            raise _refused("emoji", "SMS carries no reactions.")
        case MarkRead():
            return Fitted(send=send)


def compose(send: Send, media_url: str | None) -> dict[str, str]:
    """The content's parameters of what fits. `media_url`: where a file is."""
    match send:
        case SendText():
            return {"Body": send.body}
        case SendMedia():
            return {
                "MediaUrl": media_url or "",
                **({"Body": send.media.caption} if send.media.caption else {}),
            }
        case SendTemplate():
            variables = _content_variables(send)
            filled = {"ContentVariables": msgspec.json.encode(variables).decode()} if variables else {}
            return {"ContentSid": send.name, **filled}
        case _:
            raise AssertionError(f"{type(send).__name__} does not fit")


def _refused(field: str, sentence: str) -> InvalidInput:
    return InvalidInput("SMS would not accept this message", fields={field: [sentence]})


def _text(send: SendText) -> Fitted:
    if not send.body.strip():
        raise _refused("body", "This is required.")
    found = segments(send.body)
    if len(send.body) > TEXT_MAX:
        sentence = f"At most {TEXT_MAX} characters; this has {len(send.body)}, in {found.count} segments."
        raise _refused("body", sentence)
    return Fitted(send=send, facts={"segments": {"encoding": found.encoding, "count": found.count}})


def _look_at_media(media: MediaRef, problems: Problems) -> None:
    problems.source(media)
    problems.text("caption", media.caption, TEXT_MAX, required=False)
    if media.kind not in _KINDS:
        problems.add("kind", f"One of {', '.join(_KINDS)}; a sticker goes as an image.")


def _content_variables(send: SendTemplate) -> dict[str, Any]:
    """Templates are numbered through; those of `body` are 1, 2, 3, as most templates have. A single object
    names them itself."""
    if not _CONTENT_SID.fullmatch(send.name):
        raise _refused("name", "A template is named by its ContentSid: HX and 32 hexadecimal digits.")
    variables: dict[str, Any] = {}
    for component, values in send.variables.items():
        if component != "body":
            raise _refused(f"variables.{component}", "Twilio numbers a template's values: give all in body.")
        for value in values:
            if isinstance(value, dict):
                variables.update({str(name): str(each) for name, each in value.items()})
            elif isinstance(value, str) and value:
                variables[str(len(variables) + 1)] = value
            else:
                raise _refused("variables.body", "A value is text that is not empty, or an object.")
    if len(variables) > _VARIABLES_MAX:
        raise _refused("variables.body", f"At most {_VARIABLES_MAX} values.")
    return variables
