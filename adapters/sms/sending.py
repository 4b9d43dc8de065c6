"""The outbound half: a send becomes one request to Twilio, an answer one result.

Promises    `fit` knows the limits of the sheet's sections 4 and 5. `send` raises nothing but Cancelled. Our
            message id travels in the address of the status callback.
Segments    A text's encoding and number of parts stand in the message's content (`segments`), and count for
            the pace.
Unknown     Unanswered once a request may have been written and no answer that can be understood came; a 5xx
            is one, since Twilio takes no key against doubling. The first callback settles it. The list of
            messages is not asked: it shows no mark of ours, so two equal texts could not be told apart, and
            taking one for the other would lose a message.
Source      The Twilio sheet, sections 4, 5 and 7.
"""

import re
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import httpx
import msgspec
import trio
from msgspec import Struct, structs

from adapters.calling import declined
from adapters.degrading import LOCATED, NUMBERED, located, numbered
from adapters.guard import AddressRefused, guarded_client, is_public
from adapters.port import (
    Accepted,
    Account,
    Declined,
    ErrorClass,
    Fitted,
    Limits,
    SendResult,
    Tools,
    Turn,
    Unanswered,
)
from adapters.sms import senders
from adapters.sms.account import account_url, authorization, credentials_problem
from adapters.sms.errors import classify, read_failure
from adapters.sms.receiver import MESSAGE, SENDER
from adapters.sms.segments import segments
from adapters.turns import written_in
from engine.domain.outbound import (
    MarkRead,
    MediaRef,
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

TEXT_MAX: Final = 1_600
MEDIA_BYTES_MAX: Final = 5_000_000
"""All files of a message together (section 4); operators take less."""

CALL_SECONDS_MAX: Final = 30.0
_CONNECTIONS_MAX: Final = 128
_CONTENT_SID: Final = re.compile(r"HX[0-9a-fA-F]{32}")
_VARIABLES_MAX: Final = 100
_KINDS: Final = frozenset({"image", "video", "audio", "voice", "document"})
_ENDED: Final = frozenset({"failed", "undelivered", "canceled"})


class _SentBody(Struct):
    sid: str = ""
    status: str = ""
    error_code: int | None = None


_sent = msgspec.json.Decoder(_SentBody)


class SmsSender:
    """Implements `adapters.port.OpenSender` for all accounts."""

    platform = "sms"

    def __init__(self, tools: Tools, *, call_seconds_max: float = CALL_SECONDS_MAX) -> None:
        self._tools = tools
        self._timeout = httpx.Timeout(call_seconds_max, connect=5.0)
        self._call_seconds_max = call_seconds_max
        self._client = guarded_client(tools.guard, connections_max=_CONNECTIONS_MAX, timeout=self._timeout)

    async def __aenter__(self) -> "SmsSender":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    def limits(self, account: Account) -> Limits:
        return senders.limits_of(account)

    def fit(self, send: Send) -> Fitted:
        match send:
            case SendText():
                return _text(send)
            case SendInteractive():
                return structs.replace(_text(numbered(send)), note=NUMBERED)
            case SendLocation():
                return structs.replace(_text(located(send)), note=LOCATED)
            case SendMedia():
                return _media(send)
            case SendTemplate():
                _content_variables(send)
                return Fitted(send=send)
            case SendReaction():
                raise _refused("emoji", "SMS carries no reactions.")
            case MarkRead():
                return Fitted(send=send)

    async def send(self, item: OutboxItem, account: Account, turn: Turn) -> SendResult:
        if isinstance(item.send, MarkRead):
            return Accepted(platform_id="")  # nothing shows a customer that we have read
        if senders.is_one_way(account) and not isinstance(item.send, SendText | SendTemplate | SendLocation):
            sentence = "This sender is a name: it carries text alone, and nobody can answer it."
            return declined(ErrorClass.BAD_REQUEST, "one_way", sentence)
        try:
            send = self.fit(item.send).send
        except InvalidInput as error:
            sentences = "; ".join(one for some in error.fields.values() for one in some)
            return declined(ErrorClass.BAD_REQUEST, "validation_failed", sentences)
        if (problem := credentials_problem(account)) is not None:
            return problem
        form = {**senders.addressed(account, item.recipient), **self._content(send, account)}
        if (callback := self._callback(item, account)) is not None:
            form["StatusCallback"] = callback
        return await self._post(account, form, turn)

    def _content(self, send: Send, account: Account) -> dict[str, str]:
        match send:
            case SendText():
                return {"Body": send.body}
            case SendMedia():
                ref = send.media
                link = ref.link or self._tools.link(account.tenant_id, ref.storage_key or "")
                return {"MediaUrl": link, **({"Body": ref.caption} if ref.caption else {})}
            case SendTemplate():
                variables = _content_variables(send)
                filled = {"ContentVariables": msgspec.json.encode(variables).decode()} if variables else {}
                return {"ContentSid": send.name, **filled}
            case _:
                raise AssertionError(f"{type(send).__name__} does not fit")

    def _callback(self, item: OutboxItem, account: Account) -> str | None:
        """Where Twilio tells what became of it, with our id. None where it could not reach us: it refuses
        a message whose callback is an address of a private network."""
        address = account.credentials.get("webhook_url") or self._tools.webhook(account)
        if address is None or item.message_id is None:
            return None
        if not account.settings.get("base_url") and _is_local(address):
            return None
        return f"{address}?{urlencode({MESSAGE: item.message_id, SENDER: account.external_id})}"

    async def _post(self, account: Account, form: dict[str, str], turn: Turn) -> SendResult:
        try:
            request = self._client.build_request(
                "POST",
                account_url(account, "Messages"),
                data=form,
                headers=authorization(account),
                extensions={
                    "body_bytes_max": 65_536,
                    "timeout": self._timeout.as_dict(),
                    **written_in(turn),
                },
            )
        except (httpx.InvalidURL, ValueError):
            return _misconfigured("The account's address cannot be used in a request.")
        try:
            with trio.fail_after(self._call_seconds_max):
                answer = await self._client.send(request)
        except (AddressRefused, httpx.UnsupportedProtocol, httpx.LocalProtocolError) as error:
            return _misconfigured(f"The account's address is not one that may be called ({error}).")
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            sentence = f"Twilio cannot be reached ({type(error).__name__})."
            return declined(ErrorClass.UNREACHABLE, "unreachable", sentence)
        except (httpx.HTTPError, httpx.StreamError, trio.TooSlowError) as error:
            return Unanswered(reason=type(error).__name__)
        return _read(answer)


def _read(answer: httpx.Response) -> SendResult:
    if not answer.is_success:
        return read_failure(answer.status_code, answer.content, answer.headers.get("retry-after"))
    try:
        sent = _sent.decode(answer.content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Unanswered(reason="a success that cannot be read")
    if not sent.sid:
        return Unanswered(reason="a success without a message id")
    if sent.status in _ENDED and sent.error_code is not None:
        return declined(*_named(str(sent.error_code)))
    return Accepted(platform_id=sent.sid)


def _named(code: str) -> tuple[ErrorClass, str, str]:
    error_class, sentence = classify(code)
    return error_class, code, sentence


def _misconfigured(sentence: str) -> Declined:
    return declined(ErrorClass.ACCOUNT, "address_refused", sentence)


def _is_local(address: str) -> bool:
    host = urlsplit(address).hostname or ""
    is_name = ":" not in host and not host.replace(".", "").isdigit()
    return host == "localhost" or (not is_name and not is_public(host))


# ------------------------------------------------------------------ what fits


def _refused(field: str, sentence: str) -> InvalidInput:
    return InvalidInput("SMS would not carry this message", fields={field: [sentence]})


def _text(send: SendText) -> Fitted:
    if not send.body.strip():
        raise _refused("body", "This is required.")
    found = segments(send.body)
    if len(send.body) > TEXT_MAX:
        sentence = f"At most {TEXT_MAX} characters; this has {len(send.body)}, in {found.count} segments."
        raise _refused("body", sentence)
    return Fitted(send=send, facts={"segments": {"encoding": found.encoding, "count": found.count}})


def _media(send: SendMedia) -> Fitted:
    ref: MediaRef = send.media
    if (ref.storage_key is None) == (ref.link is None):
        raise _refused("attachment", "Either a stored file or a link.")
    if ref.link is not None and not ref.link.startswith(("https://", "http://")):
        raise _refused("link", "An http or https address.")
    if ref.caption and len(ref.caption) > TEXT_MAX:
        raise _refused("caption", f"At most {TEXT_MAX} characters.")
    if ref.kind not in _KINDS:
        raise _refused("kind", "One of image, video, audio, voice, document; a sticker goes as an image.")
    return Fitted(send=send)


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
