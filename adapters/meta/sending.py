"""The outbound half of Messenger and Instagram: a send becomes one Graph request, an answer one result.

Promises    `fit` knows the limits of the sheets' section 5; `send` raises nothing but Cancelled. Where the
            platform echoes `metadata`, our message id travels in it.
Windows     Within the reply window RESPONSE; after it, a person's message goes with the tag HUMAN_AGENT where
            the channel's setting `human_agent` says that the app has the permission for it.
Limits      Those of `limits`; when the usage headers say that the account's calls are nearly used up, the
            pace is halved before the platform refuses.
Unknown     As with WhatsApp: Unanswered once a request may have been written and no answer that can be
            understood came.
Source      The Messenger sheet and the Instagram sheet, sections 5 and 6. Unconfirmed there: the upload's
            answer.
"""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Final

import httpx
import msgspec
import trio
from msgspec import Struct

from adapters.calling import declined, not_understood, token_problem
from adapters.client import Connected, PlatformClient
from adapters.clock import wall_ms
from adapters.fitting import unfit
from adapters.meta import composing, limits
from adapters.meta.composing import Dialect, compose, reaction
from adapters.meta.errors import read_failure
from adapters.meta.graph import bearer, graph_url, usage
from adapters.meta.messaging import OURS
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
from adapters.uploads import KnownUploads, read_stored
from adapters.wire import Json, decoded
from engine.domain.outbound import MarkRead, MediaRef, OutboxItem, Send, SendMedia, SendReaction
from engine.errors import InvalidInput

_UPLOAD_SECONDS_MAX: Final = 120.0
"""25 MB at 200 kB/s."""
_PACES_MAX: Final = 10_000
_CONNECTIONS_MAX: Final = 256
_SLOW_KINDS: Final = frozenset({"video", "audio", "voice"})


class _SentBody(Struct):
    message_id: str | None = None


class _UploadBody(Struct):
    attachment_id: str


_sent_body: Final = msgspec.json.Decoder(_SentBody)
_upload_body: Final = msgspec.json.Decoder(_UploadBody)


class MessagingSender(Connected[PlatformClient]):
    """Implements `adapters.port.OpenSender` for all accounts of one of the two platforms."""

    def __init__(self, dialect: Dialect, tools: Tools, now_ms: Callable[[], int] = wall_ms) -> None:
        self.platform = dialect.platform
        self._dialect = dialect
        self._tools = tools
        self._wall_ms = now_ms
        super().__init__(
            PlatformClient(
                tools.guard,
                dialect.label,
                partial(read_failure, label=dialect.label),
                connections_max=_CONNECTIONS_MAX,
            )
        )
        self._uploads = KnownUploads(limits.UPLOAD_LIFE_SECONDS)
        self._paces: OrderedDict[tuple[int, int], AccountPace] = OrderedDict()

    def limits(self, account: Account) -> Limits:
        most = limits.CALLS_PER_SECOND
        return Limits(
            messages_per_second=account.number("messages_per_second", most, most),
            pair_seconds=0.0,
            pair_burst=1,
            concurrency=limits.CONCURRENCY,
        )

    def fit(self, send: Send) -> Fitted:
        return composing.fit(self._dialect, send)

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
        message = compose(send, attachment)
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

    async def _react(self, item: OutboxItem, send: SendReaction, account: Account, turn: Turn) -> SendResult:
        result = await self._post(account, {**self._addressed(item), **reaction(send)}, turn)
        # The platform gives reactions no id; ours is a message and needs one that nobody else has.
        return Accepted(platform_id=f"reaction:{item.id}") if isinstance(result, Accepted) else result

    async def _signal(self, item: OutboxItem, send: MarkRead, account: Account, turn: Turn) -> SendResult:
        result = await self._post(account, {**self._addressed(item), "sender_action": "mark_seen"}, turn)
        if send.typing and isinstance(result, Accepted):
            return await self._post(account, {**self._addressed(item), "sender_action": "typing_on"})
        return result

    async def _post(self, account: Account, body: Json, turn: Turn | None = None) -> SendResult:
        """`turn` is None for a second request of the same item."""
        answer = await self._client.call(
            "POST", self._url(account, "messages"), json=body, headers=bearer(account), turn=turn
        )
        if not isinstance(answer, httpx.Response):
            return answer
        sent = decoded(_sent_body, answer.content)
        if sent is None:
            return Unanswered(reason="a success that cannot be read")
        nearly = usage(answer.headers)[0] >= limits.USED_UP_PERCENT
        return Accepted(platform_id=sent.message_id or "", slow_down=nearly)

    def _url(self, account: Account, edge: str) -> str:
        return graph_url(
            account, self._dialect.node_of(account), edge, base_url=self._dialect.base_url_of(account)
        )

    async def _take_turn(self, account: Account) -> None:
        key = (account.tenant_id, account.channel_id)
        pace = self._paces.get(key)
        if pace is None:
            pace = self._paces[key] = AccountPace(limits.FILES_PER_SECOND, trio.current_time())
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
        if (known := self._uploads.find(ref, account)) is not None:
            return {"attachment_id": known}
        uploaded = await self._upload(ref, ref.storage_key, account)
        if isinstance(uploaded, Declined):
            return uploaded
        self._uploads.keep(ref, account, uploaded)
        return {"attachment_id": uploaded}

    def _forget(self, ref: MediaRef, account: Account, refused: Declined) -> None:
        """After a refusal that may be the upload's fault, the next attempt uploads afresh."""
        if refused.error_class is ErrorClass.BAD_REQUEST:
            self._uploads.forget(ref, account)

    async def _upload(self, ref: MediaRef, storage_key: str, account: Account) -> str | Declined:
        """An upload sends no message, so whatever becomes of it may be tried again."""
        content = await read_stored(self._tools.media, storage_key)
        if isinstance(content, Declined):
            return content
        most = self._dialect.media_bytes_max[ref.kind]
        if not 0 < len(content) <= most:
            sentence = f"The file has {len(content)} bytes; {self._dialect.label} takes 1 to {most}."
            return declined(ErrorClass.BAD_REQUEST, "100/2018109", sentence)
        described = {"attachment": {"type": composing.TYPES[ref.kind], "payload": {"is_reusable": True}}}
        media_type = ref.media_type or "application/octet-stream"
        answer = await self._client.ask(
            "POST",
            self._url(account, "message_attachments"),
            data={"message": msgspec.json.encode(described).decode()},
            files={"filedata": (ref.filename or "file", content, media_type)},
            headers=bearer(account),
            seconds_max=_UPLOAD_SECONDS_MAX,
        )
        if isinstance(answer, Declined):
            return answer
        uploaded = decoded(_upload_body, answer.content)
        return not_understood(self._dialect.label) if uploaded is None else uploaded.attachment_id
