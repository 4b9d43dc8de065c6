"""The outbound half of the WhatsApp adapter: a send becomes one Graph request, an answer one result.

Promises    `send` raises nothing but Cancelled. Our message id travels in biz_opaque_callback_data, which
            every status webhook brings back.
Unknown     A request is Unanswered once it may have been written and no answer that can be understood came:
            the time ran out, the connection broke while writing or reading, the success had no message id, or
            a 5xx had no error of the platform's (a proxy's page says nothing about what happened behind it).
            It is Declined, so surely not sent, when no connection was made or the platform named an error.
Leaves      What a body looks like, and what fits into it, to composing.py; retries, pace and order to
            adapters/channel.py.
Source      The WhatsApp sheet, sections 5 and 6.
"""

from typing import Final

import httpx
import msgspec
from msgspec import Struct

from adapters.calling import token_problem
from adapters.client import CALL_SECONDS_MAX, Connected, PlatformClient
from adapters.fitting import unfit
from adapters.guard import Guard
from adapters.meta.graph import bearer, graph_url
from adapters.port import Accepted, Account, Declined, Fitted, Limits, SendResult, Turn, Unanswered
from adapters.whatsapp import limits
from adapters.whatsapp.composing import build, check
from adapters.whatsapp.errors import read_failure
from adapters.whatsapp.media import Uploads
from adapters.wire import Json, decoded
from engine.domain.outbound import MarkRead, OutboxItem, Send, SendMedia
from engine.errors import InvalidInput
from engine.ports import MediaStore

_CONNECTIONS_MAX: Final = 256
"""Over all accounts: eight accounts at full concurrency. A call that waits for a connection was not sent."""


class _SentId(Struct):
    id: str
    message_status: str | None = None


class _SentBody(Struct):
    messages: list[_SentId]


class _DoneBody(Struct):
    success: bool


_sent_body: Final = msgspec.json.Decoder(_SentBody)
_done_body: Final = msgspec.json.Decoder(_DoneBody)


class WhatsAppSender(Connected[PlatformClient]):
    """Implements `adapters.port.OpenSender` for all accounts."""

    platform = "whatsapp"

    def __init__(
        self, media: MediaStore, guard: Guard, *, call_seconds_max: float = CALL_SECONDS_MAX
    ) -> None:
        super().__init__(
            PlatformClient(
                guard,
                limits.LABEL,
                read_failure,
                connections_max=_CONNECTIONS_MAX,
                seconds_max=call_seconds_max,
            )
        )
        self._uploads = Uploads(media, self._client)

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
        answer = await self._client.call(
            "POST",
            graph_url(account, account.external_id, "messages"),
            json=build(item, media),
            headers=bearer(account),
            turn=turn,
        )
        result = (
            _read(answer.content, signal=isinstance(item.send, MarkRead))
            if isinstance(answer, httpx.Response)
            else answer
        )
        if isinstance(item.send, SendMedia) and isinstance(result, Declined):
            self._uploads.forget(item.send.media, account, result)
        return result


def _read(body: bytes, *, signal: bool) -> SendResult:
    if signal:
        done = decoded(_done_body, body)
        if done is None or not done.success:
            return Unanswered(reason="a success that is none")
        return Accepted(platform_id="")
    sent = decoded(_sent_body, body)
    if sent is None:
        return Unanswered(reason="a success that cannot be read")
    if not sent.messages or not sent.messages[0].id:
        return Unanswered(reason="a success without a message id")
    return Accepted(platform_id=sent.messages[0].id, standing=sent.messages[0].message_status)
