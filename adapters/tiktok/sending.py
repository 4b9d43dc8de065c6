"""The outbound half of TikTok: a send becomes one call, an answer one result.

Promises    `fit` knows the limits of the sheet's section 5; `send` raises nothing but Cancelled.
Choices     Up to three go out as a card of buttons under a title of 40 characters; what is longer, and lists,
            as text with numbered lines. A click comes back as the button's words.
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

import httpx
import msgspec
from msgspec import Struct

from adapters.calling import declined, token_problem
from adapters.degrading import LOCATED, NUMBERED, located, numbered
from adapters.fitting import Problems, unfit
from adapters.guard import guarded_client
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
from adapters.tiktok import limits
from adapters.tiktok.calling import CALL_SECONDS_MAX, api_url, call, token_header
from adapters.tiktok.media import Uploads
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

Json = dict[str, Any]

_CONNECTIONS_MAX: Final = 256
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


class TikTokSender:
    """Implements `adapters.port.OpenSender` for all accounts."""

    platform = "tiktok"

    def __init__(self, tools: Tools) -> None:
        timeout = httpx.Timeout(CALL_SECONDS_MAX, connect=5.0)
        self._client = guarded_client(tools.guard, connections_max=_CONNECTIONS_MAX, timeout=timeout)
        self._uploads = Uploads(tools.media, self._client)
        self._able: OrderedDict[tuple[int, int, str], tuple[bool, float]] = OrderedDict()

    async def __aenter__(self) -> "TikTokSender":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    def limits(self, account: Account) -> Limits:
        given = account.settings.get("messages_per_second")
        usable = isinstance(given, int) and not isinstance(given, bool)
        return Limits(
            messages_per_second=given
            if usable and isinstance(given, int) and 1 <= given <= limits.CALLS_PER_SECOND_MOST
            else limits.CALLS_PER_SECOND,
            pair_seconds=0.0,
            pair_burst=1,
            concurrency=limits.CONCURRENCY,
        )

    def fit(self, send: Send) -> Fitted:
        fitted = _degraded(send)
        problems = _Problems()
        if isinstance(send, SendInteractive):
            problems.look_at_choices(send)
        problems.look_at(fitted.send)
        if problems.fields:
            raise InvalidInput("TikTok would not accept this message", fields=problems.fields)
        return fitted

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
                body = {"message_type": "TEMPLATE", "template": _card(send)}
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
        if isinstance(result, Declined) and result.error_class is ErrorClass.BAD_REQUEST:
            self._uploads.forget(ref, account)
        return result

    async def _post(self, item: OutboxItem, account: Account, body: Json, turn: Turn) -> SendResult:
        addressed = {
            "business_id": account.external_id,
            "recipient_type": "CONVERSATION",
            "recipient": item.recipient,
            **body,
        }
        answer = await call(
            self._client,
            "POST",
            api_url(account, "business/message/send"),
            turn=turn,
            content=msgspec.json.encode(addressed),
            headers={**token_header(account), "Content-Type": "application/json"},
        )
        if not isinstance(answer, msgspec.Raw):
            return answer
        try:
            return Accepted(platform_id=msgspec.json.decode(answer, type=_Sent).message.message_id)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return Unanswered(reason="a success that cannot be read")

    async def _takes_pictures(self, conversation_id: str, account: Account) -> bool:
        """False only when the platform says so; without an answer the send itself will tell."""
        key = (account.tenant_id, account.channel_id, conversation_id)
        known = self._able.get(key)
        if known is not None and known[1] > time.monotonic():
            return known[0]
        answer = await call(
            self._client,
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
        if not isinstance(answer, msgspec.Raw):
            return True
        try:
            found = msgspec.json.decode(answer, type=_Abilities).capability_infos
        except (msgspec.DecodeError, UnicodeDecodeError):
            return True
        able = not any(
            each.capability_type == "IMAGE_SEND" and each.capability_result is False for each in found
        )
        self._able[key] = (able, time.monotonic() + _ABLE_SECONDS)
        if len(self._able) > _ABLE_MAX:
            self._able.popitem(last=False)
        return able


# ------------------------------------------------------------------ the message


def _degraded(send: Send) -> Fitted:
    match send:
        case SendLocation():
            return Fitted(send=located(send), note=LOCATED)
        case SendInteractive() if not _is_card(send):
            return Fitted(send=numbered(send), note=NUMBERED)
        case _:
            return Fitted(send=send)


def _title(send: SendInteractive) -> str:
    return "\n".join(part for part in (send.header, send.body, send.footer) if part)


def _is_card(send: SendInteractive) -> bool:
    return (
        send.kind in ("buttons", "quick_replies")
        and len(send.options) <= limits.BUTTONS_MAX
        and len(_title(send)) <= limits.CARD_TITLE_MAX
        and all(
            len(each.title) <= limits.LINK_TITLE_MAX
            and len(each.id) <= limits.BUTTON_ID_MAX
            and not each.description
            for each in send.options
        )
    )


def _card(send: SendInteractive) -> Json:
    """Short words stand on buttons, longer ones as links."""
    short = all(len(each.title) <= limits.BUTTON_TITLE_MAX for each in send.options)
    return {
        "type": "QA_BUTTON_CARD" if short else "QA_LINK_CARD",
        "title": _title(send),
        "buttons": [{"type": "REPLY", "title": each.title, "id": each.id} for each in send.options],
    }


class _Problems(Problems):
    def look_at(self, send: Send) -> None:
        match send:
            case SendText():
                self.text("body", send.body, limits.TEXT_MAX)
            case SendMedia():
                self._media(send.media)
            case SendTemplate():
                self.add("template", "TikTok has no approved templates; send text, choices or a picture.")
            case SendReaction():
                self.add("emoji", "TikTok lets businesses send no reactions.")
            case SendLocation():
                raise AssertionError("a location is degraded before")
            case SendInteractive() | MarkRead():
                pass

    def _media(self, media: MediaRef) -> None:
        if media.kind != "image":
            self.add("kind", "TikTok takes pictures and no other files.")
            return
        if (media.storage_key is None) == (media.link is None):
            self.add("attachment", "Either a stored file or a link.")
        if media.link is not None and not media.link.startswith(("https://", "http://")):
            self.add("link", "An http or https address.")
        if media.media_type is not None and media.media_type.split(";")[0] not in limits.IMAGE_TYPES:
            self.add("media_type", "TikTok takes JPG and PNG pictures.")
        if media.caption:
            self.add("caption", "TikTok shows no words with a picture; send them as a message of their own.")

    def look_at_choices(self, send: SendInteractive) -> None:
        """What no way of sending them repairs."""
        self.text("body", send.body, limits.TEXT_MAX)
        if not send.options:
            self.add("options", "At least one.")
        if len({option.id for option in send.options}) != len(send.options):
            self.add("options", "Ids must differ.")
        for index, option in enumerate(send.options):
            self.text(f"options.{index}.title", option.title, limits.TEXT_MAX)
            self.text(f"options.{index}.id", option.id, limits.TEXT_MAX)
