"""The outbound half of TikTok: a send becomes one call, an answer one result.

Promises    `fit` knows the limits of the sheet's section 5; `send` raises nothing but Cancelled.
Quotes      Only a text can quote; with a picture or a card the quote is left out.
Signals     One call each, since ten a second are few: typing does not mark as read too.
Pictures    Are not for every country: where the platform says so for the conversation, the send is refused
            with that sentence before anything is uploaded.
Unknown     Unanswered once a request may have been written and no answer that can be understood came. Nothing
            of ours travels with a message; the platform's echo settles it by its words.
Source      The TikTok sheet, section 5.
"""

import time
from collections import OrderedDict
from typing import Any, Final

import msgspec
from msgspec import Struct

from adapters.calling import declined, token_problem
from adapters.client import Connected
from adapters.fitting import unfit
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
from adapters.tiktok import composing, limits
from adapters.tiktok.calling import TikTokClient, api_url, token_header
from adapters.tiktok.media import Uploads
from adapters.wire import Json, decoded
from engine.domain.outbound import MarkRead, MediaRef, OutboxItem, Send, SendInteractive, SendMedia, SendText
from engine.errors import InvalidInput

_CONNECTIONS_MAX: Final = 256
"""Over all accounts: sixteen at full concurrency."""
_ABLE_SECONDS: Final = 3_600.0
"""What a conversation can take is asked for again after an hour: people move, and rules change."""
_ABLE_MAX: Final = 10_000


class _Message(Struct):
    message_id: str = ""


class _Sent(Struct):
    message: _Message


class _Ability(Struct):
    capability_type: str
    capability_result: Any = None


class _Abilities(Struct):
    capability_infos: list[_Ability]


_sent: Final = msgspec.json.Decoder(_Sent)
_abilities: Final = msgspec.json.Decoder(_Abilities)


class TikTokSender(Connected[TikTokClient]):
    """Implements `adapters.port.OpenSender` for all accounts."""

    platform = "tiktok"

    def __init__(self, tools: Tools) -> None:
        super().__init__(TikTokClient(tools.guard, connections_max=_CONNECTIONS_MAX))
        self._uploads = Uploads(tools.media, self._client)
        self._able: OrderedDict[tuple[int, int, str], tuple[bool, float]] = OrderedDict()

    def limits(self, account: Account) -> Limits:
        return Limits(
            messages_per_second=account.number(
                "messages_per_second", limits.CALLS_PER_SECOND, limits.CALLS_PER_SECOND_MOST
            ),
            pair_seconds=0.0,
            pair_burst=1,
            concurrency=limits.CONCURRENCY,
        )

    def fit(self, send: Send) -> Fitted:
        return composing.fit(send)

    async def send(self, item: OutboxItem, account: Account, turn: Turn) -> SendResult:
        try:
            send = self.fit(item.send).send
        except InvalidInput as error:
            return unfit(error)
        if (problem := token_problem(account)) is not None:
            return problem
        match send:
            case MarkRead():
                return await self._signal(item, send, account, turn)
            case SendMedia():
                return await self._picture(item, send.media, account, turn)
            case SendText():
                body: Json = {"message_type": "TEXT", "text": {"body": send.body}}
                if item.reply_to is not None:
                    body["referenced_message_info"] = {"referenced_message_id": item.reply_to}
                return await self._message(item, account, body, turn)
            case SendInteractive():
                body = {"message_type": "TEMPLATE", "template": composing.card(send)}
                return await self._message(item, account, body, turn)
            case _:
                raise AssertionError(f"{type(send).__name__} does not fit")

    async def _message(self, item: OutboxItem, account: Account, body: Json, turn: Turn) -> SendResult:
        result = await self._post(item, account, body, turn)
        if isinstance(result, Accepted) and not result.platform_id:
            return Unanswered(reason="a success without a message id")
        return result

    async def _signal(self, item: OutboxItem, send: MarkRead, account: Account, turn: Turn) -> SendResult:
        action = "TYPING" if send.typing else "MARK_READ"
        return await self._post(
            item, account, {"message_type": "SENDER_ACTION", "sender_action": action}, turn
        )

    async def _picture(self, item: OutboxItem, ref: MediaRef, account: Account, turn: Turn) -> SendResult:
        if not await self._takes_pictures(item.recipient, account):
            sentence = "TikTok lets this account send no pictures to this customer."
            return declined(ErrorClass.BAD_REQUEST, "image_not_available", sentence)
        media_id = await self._uploads.prepare(ref, account)
        if isinstance(media_id, Declined):
            return media_id
        body: Json = {"message_type": "IMAGE", "image": {"media_id": media_id}}
        result = await self._message(item, account, body, turn)
        if isinstance(result, Declined):
            self._uploads.forget(ref, account, result)
        return result

    async def _post(self, item: OutboxItem, account: Account, body: Json, turn: Turn) -> SendResult:
        addressed = {
            "business_id": account.external_id,
            "recipient_type": "CONVERSATION",
            "recipient": item.recipient,
            **body,
        }
        answer = await self._client.data(
            "POST",
            api_url(account, "business/message/send"),
            json=addressed,
            headers=token_header(account),
            turn=turn,
        )
        if not isinstance(answer, msgspec.Raw):
            return answer
        sent = decoded(_sent, answer)
        if sent is None:
            return Unanswered(reason="a success that cannot be read")
        return Accepted(platform_id=sent.message.message_id)

    async def _takes_pictures(self, conversation_id: str, account: Account) -> bool:
        """False only when the platform says so; without an answer the send itself will tell."""
        key = (account.tenant_id, account.channel_id, conversation_id)
        known = self._able.get(key)
        if known is not None and known[1] > time.monotonic():
            return known[0]
        answer = await self._client.ask_data(
            "GET",
            api_url(account, "business/message/capabilities/get"),
            params={
                "business_id": account.external_id,
                "conversation_id": conversation_id,
                "conversation_type": "SINGLE",
                "capability_types": '["IMAGE_SEND"]',
            },
            headers=token_header(account),
        )
        found = None if isinstance(answer, Declined) else decoded(_abilities, answer)
        if found is None:
            return True
        able = not any(
            each.capability_type == "IMAGE_SEND" and each.capability_result is False
            for each in found.capability_infos
        )
        self._able[key] = (able, time.monotonic() + _ABLE_SECONDS)
        if len(self._able) > _ABLE_MAX:
            self._able.popitem(last=False)
        return able
