"""The outbound half of Messenger and Instagram: a send becomes one Graph request, an answer one result.

Promises    `fit` knows the limits of the sheets' section 5; `send` raises nothing but Cancelled. Where the
            platform echoes `metadata`, our message id travels in it.
Windows     Within the reply window RESPONSE; after it, a person's message goes with the tag HUMAN_AGENT where
            the channel's setting `human_agent` says that the app has the permission for it.
Limits      300 calls a second for each account and 10 with audio or video; when the usage headers say that
            the account's calls are nearly used up, the pace is halved before the platform refuses.
Unknown     As with WhatsApp: Unanswered once a request may have been written and no answer that can be
            understood came.
Source      The Messenger sheet and the Instagram sheet, sections 5 and 6. Unconfirmed there, and so easy to
            change here: the limits of templates, the length of payloads, the upload's answer.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import quote

import httpx
import msgspec
import trio
from msgspec import Struct

from adapters.calling import NEVER_SENT, declined, never_sent, token_problem
from adapters.degrading import LOCATED, located
from adapters.fitting import Problems, unfit
from adapters.guard import guarded_client
from adapters.meta.errors import read_failure, usage
from adapters.meta.messaging import EMOJI, OURS
from adapters.pacing import AccountPace
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
from adapters.turns import written_in
from engine.domain.content import compact
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
from engine.errors import InvalidInput, MijraError

Json = dict[str, Any]

API_VERSION: Final = "v25.0"
CALLS_PER_SECOND: Final = 300
FILES_PER_SECOND: Final = 10
CONCURRENCY: Final = 64
QUICK_REPLIES_MAX: Final = 13
TITLE_MAX: Final = 20
PAYLOAD_MAX: Final = 1_000
BUTTONS_MAX: Final = 3
BUTTON_TEXT_MAX: Final = 640
CARDS_MAX: Final = 10
CARD_TEXT_MAX: Final = 80
UPLOAD_LIFE_SECONDS: Final = 85 * 86_400
"""Reusable uploads are valid for 90 days; five fewer leave room for queues."""
USED_UP_PERCENT: Final = 90.0

CALL_SECONDS_MAX: Final = 30.0
UPLOAD_SECONDS_MAX: Final = 120.0
_UPLOADS_MAX: Final = 10_000
_PACES_MAX: Final = 10_000
_CONNECTIONS_MAX: Final = 256
_BOUNDED: Final[dict[str, Any]] = {"body_bytes_max": 65_536}
_TYPES: Final = {"image": "image", "video": "video", "audio": "audio", "voice": "audio", "document": "file"}
_SLOW_KINDS: Final = frozenset({"video", "audio", "voice"})
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


def graph_url(dialect: Dialect, account: Account, *path: str) -> str:
    version = account.settings.get("api_version") or API_VERSION
    parts = (quote(str(version), safe=""), *(quote(part, safe="") for part in path))
    return "/".join((dialect.base_url_of(account).rstrip("/"), *parts))


def bearer(account: Account) -> dict[str, str]:
    return {"Authorization": f"Bearer {account.credentials.get('access_token', '')}"}


class _SentBody(Struct):
    message_id: str | None = None
    recipient_id: str | None = None


class _UploadBody(Struct):
    attachment_id: str


_sent = msgspec.json.Decoder(_SentBody)
_uploaded = msgspec.json.Decoder(_UploadBody)


class MessagingSender:
    """Implements `adapters.port.OpenSender` for all accounts of one of the two platforms."""

    def __init__(self, dialect: Dialect, tools: Tools, wall_ms: Callable[[], int] | None = None) -> None:
        self.platform = dialect.platform
        self._dialect = dialect
        self._tools = tools
        self._wall_ms = wall_ms or _wall_ms
        timeout = httpx.Timeout(CALL_SECONDS_MAX, connect=5.0)
        self._client = guarded_client(tools.guard, connections_max=_CONNECTIONS_MAX, timeout=timeout)
        self._uploads: OrderedDict[tuple[int, int, str], tuple[str, float]] = OrderedDict()
        self._paces: OrderedDict[tuple[int, int], AccountPace] = OrderedDict()

    async def __aenter__(self) -> "MessagingSender":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    def limits(self, account: Account) -> Limits:
        given = account.settings.get("messages_per_second")
        usable = isinstance(given, int) and not isinstance(given, bool) and 1 <= given <= CALLS_PER_SECOND
        return Limits(
            messages_per_second=given if usable and isinstance(given, int) else CALLS_PER_SECOND,
            pair_seconds=0.0,
            pair_burst=1,
            concurrency=CONCURRENCY,
        )

    def fit(self, send: Send) -> Fitted:
        if isinstance(send, SendLocation):
            return Fitted(send=self.fit(located(send)).send, note=LOCATED)
        problems = _Problems(self._dialect)
        problems.look_at(send)
        if problems.fields:
            raise InvalidInput(f"{self._dialect.label} would not accept this message", fields=problems.fields)
        return Fitted(send=send)

    async def send(self, item: OutboxItem, account: Account, turn: Turn) -> SendResult:
        try:
            send = self.fit(item.send).send
        except InvalidInput as error:
            return unfit(error)
        if (problem := token_problem(account)) is not None:
            return problem
        if isinstance(send, MarkRead):
            return await self._signal(item, send, account, turn)
        if isinstance(send, SendReaction):
            return await self._react(item, send, account, turn)
        attachment: Json | None = None
        if isinstance(send, SendMedia):
            prepared = await self._prepare(send.media, account)
            if isinstance(prepared, Declined):
                return prepared
            attachment = prepared
            if send.media.kind in _SLOW_KINDS:
                await self._take_turn(account)
        message = self._message(send, attachment)
        if self._dialect.metadata and item.message_id is not None:
            message["metadata"] = f"{OURS}{item.message_id}"
        body = {**self._addressed(item), **self._typed(item, account), "message": message}
        if item.reply_to is not None:
            body["reply_to"] = {"mid": item.reply_to}
        result = await self._post(account, body, turn)
        if isinstance(result, Accepted) and not result.platform_id:
            return Unanswered(reason="a success without a message id")
        if isinstance(send, SendMedia) and isinstance(result, Declined):
            self._forget(send.media, account, result)
        return result

    # -------------------------------------------------------------- the request

    def _addressed(self, item: OutboxItem) -> Json:
        return {"recipient": {"id": item.recipient}}

    def _typed(self, item: OutboxItem, account: Account) -> Json:
        late = item.window_ends_at is not None and self._wall_ms() >= item.window_ends_at
        if late and item.by_person and account.settings.get("human_agent") is True:
            return {"messaging_type": "MESSAGE_TAG", "tag": "HUMAN_AGENT"}
        return {"messaging_type": "RESPONSE"}

    def _message(self, send: Send, attachment: Json | None) -> Json:
        match send:
            case SendText():
                return {"text": send.body}
            case SendMedia():
                return {"attachment": {"type": _TYPES[send.media.kind], "payload": attachment}}
            case SendInteractive():
                return _interactive(send)
            case _:
                raise AssertionError(f"{type(send).__name__} does not fit")

    async def _react(self, item: OutboxItem, send: SendReaction, account: Account, turn: Turn) -> SendResult:
        payload = {"message_id": send.platform_message_id}
        if send.emoji:
            payload["reaction"] = REACTIONS[_plain(send.emoji)]
        action = "react" if send.emoji else "unreact"
        body = {**self._addressed(item), "sender_action": action, "payload": payload}
        result = await self._post(account, body, turn)
        # The platform gives reactions no id; ours is a message and needs one that nobody else has.
        return Accepted(platform_id=f"reaction:{item.id}") if isinstance(result, Accepted) else result

    async def _signal(self, item: OutboxItem, send: MarkRead, account: Account, turn: Turn) -> SendResult:
        result = await self._post(account, {**self._addressed(item), "sender_action": "mark_seen"}, turn)
        if send.typing and isinstance(result, Accepted):
            return await self._post(account, {**self._addressed(item), "sender_action": "typing_on"})
        return result

    async def _post(self, account: Account, body: Json, turn: Turn | None = None) -> SendResult:
        """`turn` is None for a second request of the same item."""
        try:
            request = self._client.build_request(
                "POST",
                graph_url(self._dialect, account, self._dialect.node_of(account), "messages"),
                content=msgspec.json.encode(body),
                headers={**bearer(account), "Content-Type": "application/json"},
                extensions={
                    **_BOUNDED,
                    "timeout": httpx.Timeout(CALL_SECONDS_MAX, connect=5.0).as_dict(),
                    **({} if turn is None else written_in(turn)),
                },
            )
            with trio.fail_after(CALL_SECONDS_MAX):
                answer = await self._client.send(request)
        except NEVER_SENT as error:
            return never_sent(error)
        except (httpx.HTTPError, httpx.StreamError, trio.TooSlowError) as error:
            return Unanswered(reason=type(error).__name__)
        if not answer.is_success:
            return read_failure(answer.status_code, answer.content, answer.headers)
        try:
            sent = _sent.decode(answer.content)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return Unanswered(reason="a success that cannot be read")
        return Accepted(
            platform_id=sent.message_id or "", slow_down=usage(answer.headers)[0] >= USED_UP_PERCENT
        )

    async def _take_turn(self, account: Account) -> None:
        key = (account.tenant_id, account.channel_id)
        pace = self._paces.get(key)
        if pace is None:
            pace = self._paces[key] = AccountPace(FILES_PER_SECOND, trio.current_time())
            if len(self._paces) > _PACES_MAX:
                self._paces.popitem(last=False)
        while True:
            wait = pace.wait(trio.current_time())
            if wait <= 0:
                break
            await trio.sleep(wait)
        pace.take(trio.current_time())

    # -------------------------------------------------------------- files

    async def _prepare(self, ref: MediaRef, account: Account) -> Json | Declined:
        if ref.storage_key is None:
            return {"url": ref.link}
        if not self._dialect.uploads:
            return {"url": self._tools.link(account.tenant_id, ref.storage_key)}
        key = (account.tenant_id, account.channel_id, ref.storage_key)
        known = self._uploads.get(key)
        if known is not None and known[1] > time.monotonic():
            return {"attachment_id": known[0]}
        uploaded = await self._upload(ref, ref.storage_key, account)
        if isinstance(uploaded, Declined):
            return uploaded
        self._uploads[key] = (uploaded, time.monotonic() + UPLOAD_LIFE_SECONDS)
        if len(self._uploads) > _UPLOADS_MAX:
            self._uploads.popitem(last=False)
        return {"attachment_id": uploaded}

    def _forget(self, ref: MediaRef, account: Account, declined: Declined) -> None:
        """After a refusal that may be the upload's fault, the next attempt uploads afresh."""
        if declined.error_class is ErrorClass.BAD_REQUEST and ref.storage_key is not None:
            self._uploads.pop((account.tenant_id, account.channel_id, ref.storage_key), None)

    async def _upload(self, ref: MediaRef, storage_key: str, account: Account) -> str | Declined:
        """An upload sends no message, so whatever becomes of it may be tried again."""
        try:
            content = await self._tools.media.read(storage_key)
        except MijraError as error:
            if error.retryable:
                sentence = "The file store cannot be reached."
                return declined(ErrorClass.UNREACHABLE, "store_unavailable", sentence)
            sentence = "The file to be sent is no longer stored."
            return declined(ErrorClass.BAD_REQUEST, "file_missing", sentence)
        most = self._dialect.media_bytes_max[ref.kind]
        if not 0 < len(content) <= most:
            sentence = f"The file has {len(content)} bytes; {self._dialect.label} takes 1 to {most}."
            return declined(ErrorClass.BAD_REQUEST, "100/2018109", sentence)
        described = {"attachment": {"type": _TYPES[ref.kind], "payload": {"is_reusable": True}}}
        media_type = ref.media_type or "application/octet-stream"
        try:
            with trio.fail_after(UPLOAD_SECONDS_MAX):
                answer = await self._client.post(
                    graph_url(self._dialect, account, self._dialect.node_of(account), "message_attachments"),
                    data={"message": msgspec.json.encode(described).decode()},
                    files={"filedata": (ref.filename or "file", content, media_type)},
                    headers=bearer(account),
                    timeout=httpx.Timeout(UPLOAD_SECONDS_MAX, connect=5.0),
                    extensions=_BOUNDED,
                )
        except NEVER_SENT as error:
            return never_sent(error)
        except (httpx.HTTPError, httpx.StreamError, trio.TooSlowError) as error:
            sentence = f"The upload failed ({type(error).__name__})."
            return declined(ErrorClass.UNREACHABLE, "unreachable", sentence)
        if not answer.is_success:
            failure = read_failure(answer.status_code, answer.content, answer.headers)
            if isinstance(failure, Declined):
                return failure
        else:
            try:
                return _uploaded.decode(answer.content).attachment_id
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                pass
        sentence = "The answer to the upload cannot be understood."
        return declined(ErrorClass.UNREACHABLE, "not_understood", sentence)


def _interactive(send: SendInteractive) -> Json:
    """Buttons are a button template, quick replies stand under a text; a list is a row of cards, the question
    first and then one for each choice."""
    text = "\n".join(part for part in (send.header, send.body, send.footer) if part)
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


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def _plain(emoji: str) -> str:
    """Without the mark that asks for colours (U+FE0F)."""
    return emoji.replace("\ufe0f", "")


# ------------------------------------------------------------------ limits, sections 5


class _Problems(Problems):
    def __init__(self, dialect: Dialect) -> None:
        super().__init__()
        self._dialect = dialect

    def look_at(self, send: Send) -> None:
        label = self._dialect.label
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
        label = self._dialect.label
        if media.kind not in self._dialect.media_bytes_max:
            self.add("kind", f"{label} takes {', '.join(self._dialect.media_bytes_max)}.")
            return
        if (media.storage_key is None) == (media.link is None):
            self.add("attachment", "Either a stored file or a link.")
        if media.link is not None and not media.link.startswith(("https://", "http://")):
            self.add("link", "An http or https address.")
        if media.caption:
            self.add("caption", f"{label} shows no words with a file; send them as a message of their own.")

    def _interactive(self, send: SendInteractive) -> None:
        text = "\n".join(part for part in (send.header, send.body, send.footer) if part)
        match send.kind:
            case "quick_replies":
                self._body(text)
                most, title_max = QUICK_REPLIES_MAX, TITLE_MAX
            case "buttons":
                self.text("body", text, BUTTON_TEXT_MAX)
                most, title_max = BUTTONS_MAX, TITLE_MAX
            case "list":
                self.text("body", send.body, CARD_TEXT_MAX)
                for name, value, limit in (
                    ("header", send.header, CARD_TEXT_MAX),
                    ("footer", send.footer, CARD_TEXT_MAX),
                    ("button", send.button, TITLE_MAX),
                ):
                    self.text(name, value, limit, required=False)
                if send.header and send.footer:
                    self.add("footer", "A card has room for two lines: leave out the header or the footer.")
                most, title_max = CARDS_MAX - 1, CARD_TEXT_MAX
            case _:
                self.add("kind", "One of buttons, list, quick_replies.")
                return
        if not 1 <= len(send.options) <= most:
            self.add("options", f"Between 1 and {most}.")
        if len({option.id for option in send.options}) != len(send.options):
            self.add("options", "Ids must differ.")
        for index, option in enumerate(send.options):
            self.text(f"options.{index}.title", option.title, title_max)
            self.text(f"options.{index}.id", option.id, PAYLOAD_MAX)
            self.text(f"options.{index}.description", option.description, CARD_TEXT_MAX, required=False)
            if option.description and send.kind != "list":
                self.add(f"options.{index}.description", "Only a list shows descriptions.")
