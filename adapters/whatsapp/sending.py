"""The outbound half of the WhatsApp adapter: a send becomes one Graph request, an answer one result.

Promises    `check` knows every limit of the sheet's section 5.1 that concerns what we send, so that a caller
            is told before anything is accepted. `send` raises nothing but Cancelled. Our message id travels
            in biz_opaque_callback_data, which every status webhook brings back.
Unknown     A request is Unanswered once it may have been written and no answer that can be understood came:
            the time ran out, the connection broke while writing or reading, the success had no message id, or
            a 5xx had no error of the platform's (a proxy's page says nothing about what happened behind it).
            It is Declined, so surely not sent, when no connection was made or the platform named an error.
Leaves      Retries, pace and order to adapters/channel.py.
Source      The WhatsApp sheet, sections 5 and 6.
"""

from collections.abc import Sequence
from typing import Any, assert_never

import httpx
import msgspec
import trio
from msgspec import Struct

from adapters.fitting import Problems, unfit
from adapters.guard import AddressRefused, Guard, guarded_client
from adapters.port import (
    Accepted,
    Account,
    Declined,
    ErrorClass,
    Fitted,
    Limits,
    SendResult,
    Turn,
    Unanswered,
)
from adapters.turns import written_in
from adapters.whatsapp import limits
from adapters.whatsapp.errors import read_failure
from adapters.whatsapp.media import BOUNDED, Uploads, bearer, graph_url, token_problem
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
from engine.errors import InvalidInput
from engine.ports import MediaStore

Json = dict[str, Any]

CALL_SECONDS_MAX = 30.0
"""A whole call, body included. The platform answers in under a second; who gives up early makes unknown
outcomes."""

_CONNECT_SECONDS_MAX = 5.0
_CONNECTIONS_MAX = 256
"""Over all accounts: eight accounts at full concurrency. A call that waits for a connection was not sent."""

_MEDIA_TYPES = {"voice": "audio"}
_CAPTIONED = frozenset({"image", "video", "document"})
_KINDS = frozenset({"image", "video", "audio", "voice", "document", "sticker"})


class _SentId(Struct):
    id: str
    message_status: str | None = None


class _SentBody(Struct):
    messages: list[_SentId]


class _DoneBody(Struct):
    success: bool


_sent_body = msgspec.json.Decoder(_SentBody)
_done_body = msgspec.json.Decoder(_DoneBody)


class WhatsAppSender:
    """Implements `adapters.port.Sender` for all accounts. Use as an async context manager."""

    platform = "whatsapp"

    def __init__(
        self, media: MediaStore, guard: Guard, *, call_seconds_max: float = CALL_SECONDS_MAX
    ) -> None:
        self._timeout = httpx.Timeout(call_seconds_max, connect=_CONNECT_SECONDS_MAX)
        self._client = guarded_client(guard, connections_max=_CONNECTIONS_MAX, timeout=self._timeout)
        self._call_seconds_max = call_seconds_max
        self._uploads = Uploads(media, self._client)

    async def __aenter__(self) -> "WhatsAppSender":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    def fit(self, send: Send) -> Fitted:
        check(send)
        return Fitted(send=send)

    def limits(self, account: Account) -> Limits:
        return limits.limits_of(account)

    async def send(self, item: OutboxItem, account: Account, turn: Turn) -> SendResult:
        try:
            check(item.send)
        except InvalidInput as error:
            return unfit(error)
        if (problem := token_problem(account)) is not None:
            return problem
        media: Json | None = None
        if isinstance(item.send, SendMedia):
            prepared = await self._uploads.prepare(item.send.media, account)
            if isinstance(prepared, Declined):
                return prepared
            media = prepared
        result = await self._post(item, account, build(item, media), turn)
        if isinstance(item.send, SendMedia) and isinstance(result, Declined):
            self._uploads.forget(item.send.media, account, result)
        return result

    async def _post(self, item: OutboxItem, account: Account, body: Json, turn: Turn) -> SendResult:
        try:
            request = self._client.build_request(
                "POST",
                graph_url(account, account.external_id, "messages"),
                content=msgspec.json.encode(body),
                headers={**bearer(account), "Content-Type": "application/json"},
                extensions={
                    **BOUNDED,
                    "timeout": self._timeout.as_dict(),
                    **written_in(turn),
                },
            )
        except (httpx.InvalidURL, ValueError, UnicodeError):
            return _misconfigured("The account's address cannot be used in a request.")
        try:
            with trio.fail_after(self._call_seconds_max):
                answer = await self._client.send(request)
        except (AddressRefused, httpx.UnsupportedProtocol, httpx.LocalProtocolError) as error:
            return _misconfigured(f"The account's address is not one that may be called ({error}).")
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            return Declined(
                error_class=ErrorClass.UNREACHABLE,
                platform_code="unreachable",
                message=f"WhatsApp cannot be reached ({type(error).__name__}).",
            )
        except (httpx.HTTPError, httpx.StreamError, trio.TooSlowError) as error:
            return Unanswered(reason=type(error).__name__)
        return _read(answer, signal=isinstance(item.send, MarkRead))


def _misconfigured(sentence: str) -> Declined:
    return Declined(error_class=ErrorClass.ACCOUNT, platform_code="address_refused", message=sentence)


def _read(answer: httpx.Response, *, signal: bool) -> SendResult:
    content = answer.content
    if not answer.is_success:
        return read_failure(answer.status_code, content, answer.headers.get("retry-after"))
    try:
        if signal:
            done = _done_body.decode(content).success
            return Accepted(platform_id="") if done else Unanswered(reason="a success that is none")
        sent = _sent_body.decode(content).messages
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Unanswered(reason="a success that cannot be read")
    if not sent or not sent[0].id:
        return Unanswered(reason="a success without a message id")
    return Accepted(platform_id=sent[0].id, standing=sent[0].message_status)


# ------------------------------------------------------------------ the request


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
    problems = Problems()
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
            problems.text("message_id", send.platform_message_id, limits.CALLBACK_DATA_MAX, required=False)
            # The longest emoji sequences have about ten code points (families with skin tones, flags).
            problems.text("emoji", send.emoji, 32, required=False)
        case MarkRead():
            problems.text("message_id", send.platform_message_id, limits.CALLBACK_DATA_MAX)
        case _:
            assert_never(send)
    if problems.fields:
        raise InvalidInput("WhatsApp would not accept this message", fields=problems.fields)


def _check_media(media: MediaRef, problems: Problems) -> None:
    if media.kind not in _KINDS:
        problems.add("kind", "One of image, video, audio, voice, document, sticker.")
        return
    if (media.storage_key is None) == (media.link is None):
        problems.add("attachment", "Either a stored file or a link.")
    if media.link is not None and not media.link.startswith(("https://", "http://")):
        problems.add("link", "An http or https address.")
    if media.caption:
        if media.kind not in _CAPTIONED:
            problems.add("caption", f"WhatsApp shows no caption with a {media.kind}.")
        problems.text("caption", media.caption, limits.CAPTION_MAX)


def _check_template(send: SendTemplate, problems: Problems) -> None:
    # 512 characters are what names may have; language codes look like en or en_US.
    problems.text("name", send.name, 512)
    problems.text("language", send.language, 20)
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
    if not 1 <= len(send.options) <= most:
        problems.add("options", f"Between 1 and {most}.")
    if len({option.id for option in send.options}) != len(send.options):
        problems.add("options", "Ids must differ.")
    for index, option in enumerate(send.options):
        problems.text(f"options.{index}.title", option.title, title_max)
        problems.text(f"options.{index}.id", option.id, id_max)
        if is_list:
            problems.text(
                f"options.{index}.description",
                option.description,
                limits.ROW_DESCRIPTION_MAX,
                required=False,
            )
            problems.text(
                f"options.{index}.section", option.section, limits.SECTION_TITLE_MAX, required=False
            )
