"""The outbound half: a send becomes one request to Twilio, an answer one result.

Promises    `fit` knows the limits of the sheet's sections 4 and 5. `send` raises nothing but Cancelled. Our
            message id travels in the address of the status callback.
Unknown     Unanswered once a request may have been written and no answer that can be understood came; a 5xx
            is one, since Twilio takes no key against doubling. The first callback settles it. The list of
            messages is not asked: it shows no mark of ours, so two equal texts could not be told apart, and
            taking one for the other would lose a message.
Source      The Twilio sheet, sections 4, 5 and 7.
"""

from typing import Final
from urllib.parse import urlencode, urlsplit

import httpx
import msgspec
from msgspec import Struct

from adapters.calling import declined
from adapters.client import CALL_SECONDS_MAX, Connected, PlatformClient
from adapters.fitting import unfit
from adapters.guard import is_public
from adapters.port import Accepted, Account, ErrorClass, Fitted, Limits, SendResult, Tools, Turn, Unanswered
from adapters.sms import composing, senders
from adapters.sms.account import account_url, authorization, credentials_problem
from adapters.sms.errors import LABEL, classify, read_failure
from adapters.sms.receiver import MESSAGE, SENDER
from adapters.wire import decoded
from engine.domain.outbound import (
    MarkRead,
    OutboxItem,
    Send,
    SendLocation,
    SendMedia,
    SendTemplate,
    SendText,
)
from engine.errors import InvalidInput

_CONNECTIONS_MAX: Final = 128
"""Over all accounts: eight at full concurrency."""
_ENDED: Final = frozenset({"failed", "undelivered", "canceled"})


class _SentBody(Struct):
    sid: str = ""
    status: str = ""
    error_code: int | None = None


_sent_body: Final = msgspec.json.Decoder(_SentBody)


class SmsSender(Connected[PlatformClient]):
    """Implements `adapters.port.OpenSender` for all accounts."""

    platform = "sms"

    def __init__(self, tools: Tools, *, call_seconds_max: float = CALL_SECONDS_MAX) -> None:
        self._tools = tools
        super().__init__(
            PlatformClient(
                tools.guard,
                LABEL,
                read_failure,
                connections_max=_CONNECTIONS_MAX,
                seconds_max=call_seconds_max,
            )
        )

    def limits(self, account: Account) -> Limits:
        return senders.limits_of(account)

    def fit(self, send: Send) -> Fitted:
        return composing.fit(send)

    async def send(self, item: OutboxItem, account: Account, turn: Turn) -> SendResult:
        if isinstance(item.send, MarkRead):
            return Accepted(platform_id="")  # nothing shows a customer that we have read
        if senders.is_one_way(account) and not isinstance(item.send, SendText | SendTemplate | SendLocation):
            sentence = "This sender is a name: it carries text alone, and nobody can answer it."
            return declined(ErrorClass.BAD_REQUEST, "one_way", sentence)
        try:
            send = self.fit(item.send).send
        except InvalidInput as error:
            return unfit(error)
        if (problem := credentials_problem(account)) is not None:
            return problem
        form = {
            **senders.addressed(account, item.recipient),
            **composing.compose(send, self._media_url(send, account)),
        }
        if (callback := self._callback(item, account)) is not None:
            form["StatusCallback"] = callback
        answer = await self._client.call(
            "POST", account_url(account, "Messages"), data=form, headers=authorization(account), turn=turn
        )
        return _read(answer.content) if isinstance(answer, httpx.Response) else answer

    def _media_url(self, send: Send, account: Account) -> str | None:
        """Where Twilio can fetch a file."""
        if not isinstance(send, SendMedia):
            return None
        return send.media.link or self._tools.link(account.tenant_id, send.media.storage_key or "")

    def _callback(self, item: OutboxItem, account: Account) -> str | None:
        """Where Twilio tells what became of it, with our id. None where it could not reach us: it refuses
        a message whose callback is an address of a private network."""
        address = account.credentials.get("webhook_url") or self._tools.webhook(account)
        if address is None or item.message_id is None:
            return None
        if not account.settings.get("base_url") and _is_local(address):
            return None
        return f"{address}?{urlencode({MESSAGE: item.message_id, SENDER: account.external_id})}"


def _read(body: bytes) -> SendResult:
    sent = decoded(_sent_body, body)
    if sent is None:
        return Unanswered(reason="a success that cannot be read")
    if not sent.sid:
        return Unanswered(reason="a success without a message id")
    if sent.status in _ENDED and sent.error_code is not None:
        code = str(sent.error_code)
        error_class, sentence = classify(code)
        return declined(error_class, code, sentence)
    return Accepted(platform_id=sent.sid)


def _is_local(address: str) -> bool:
    host = urlsplit(address).hostname or ""
    is_name = ":" not in host and not host.replace(".", "").isdigit()
    return host == "localhost" or (not is_name and not is_public(host))
