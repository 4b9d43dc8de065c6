"""The outbound half: messages of agents, and public answers to reviews.

Messages    go under an id that is ours and the same for each attempt (a UUID that holds our message's id), so
            a repetition after an unknown outcome is known to Google as one, and receipts bring it back.
Answers     A review has one public answer: PUT makes it or takes the place of the earlier one, and the same
            words twice are one answer. Its id is the review's and the time that Google gives it.
Promises    `send` raises nothing but Cancelled; Unanswered once a request may have been written and no answer
            that can be understood came.
Source      The Google Business sheet, A4, B4 and B5.
"""

from typing import Final
from urllib.parse import quote

from adapters.calling import declined
from adapters.client import CALL_SECONDS_MAX, Connected
from adapters.degrading import LOCATED, located
from adapters.fitting import Problems, unfit
from adapters.google_business import limits
from adapters.google_business.calling import Answered, GoogleCalls
from adapters.google_business.composing import compose, fit_message
from adapters.google_business.messages import our_uuid
from adapters.google_business.naming import answer_id, is_location, micros
from adapters.port import (
    Accepted,
    Account,
    Declined,
    ErrorClass,
    Fitted,
    Limits,
    Outlet,
    SendResult,
    Tools,
    Turn,
    Unanswered,
)
from adapters.wire import Json
from engine.domain.content import compact
from engine.domain.outbound import MarkRead, OutboxItem, Send, SendLocation, SendMedia, SendText
from engine.errors import InvalidInput

PUBLIC: Final = "Sent as the public answer under the review."
REPLACES: Final = "Sent as the public answer under the review, in place of the earlier one."

_CONNECTIONS_MAX: Final = 64
"""Over all accounts: four agents at full concurrency."""
_REPLYING: Final = "reviews/"


class GoogleSender(Connected[GoogleCalls]):
    """Implements `adapters.port.OpenSender` for accounts of both kinds."""

    def __init__(self, platform: str, tools: Tools) -> None:
        self.platform = platform
        self._tools = tools
        super().__init__(
            GoogleCalls(tools.guard, connections_max=_CONNECTIONS_MAX, seconds_max=CALL_SECONDS_MAX)
        )

    def limits(self, account: Account) -> Limits:
        if is_location(account.external_id):
            # One at a time: the answers to one review have to stand in their order.
            return Limits(
                messages_per_second=limits.ANSWERS_PER_SECOND, pair_seconds=0.0, pair_burst=1, concurrency=1
            )
        pace = account.number(
            "messages_per_second", limits.MESSAGES_PER_SECOND, limits.MESSAGES_PER_SECOND_MOST
        )
        return Limits(
            messages_per_second=pace, pair_seconds=0.0, pair_burst=1, concurrency=limits.CONCURRENCY
        )

    def fit(self, send: Send) -> Fitted:
        """As an agent's message; a profile's answers are fitted by `fit_for`."""
        return fit_message(send)

    async def send(self, item: OutboxItem, account: Account, turn: Turn) -> SendResult:
        location = is_location(account.external_id)
        try:
            send = (fit_answer(item.send) if location else fit_message(item.send)).send
        except InvalidInput as error:
            return unfit(error)
        if location:
            return await self._answer(item, send, account, turn)
        if isinstance(send, MarkRead):
            return await self._signal(item, send, account, turn)
        return await self._message(item, send, account, turn)

    # -------------------------------------------------------------- messages

    async def _message(self, item: OutboxItem, send: Send, account: Account, turn: Turn) -> SendResult:
        name = our_uuid(item.message_id if item.message_id is not None else item.id)
        body = {
            "messageId": name,
            "representative": _representative(item, account),
            **compose(send, self._file_url(send, account)),
        }
        path = f"conversations/{quote(item.recipient, safe='')}/messages"
        result = await self._client.call(account, "POST", path, body, turn)
        if isinstance(result, Answered):
            # Some answer names the message, and it is the one that we gave.
            return Accepted(platform_id=name) if result.body else _nothing()
        if isinstance(result, Declined) and result.platform_code == "ALREADY_EXISTS":
            return Accepted(platform_id=name)
        return result

    async def _signal(self, item: OutboxItem, send: MarkRead, account: Account, turn: Turn) -> SendResult:
        """Business Messages shows that the business types; it has no read mark for it to set."""
        if not send.typing:
            return Accepted(platform_id="")
        path = f"conversations/{quote(item.recipient, safe='')}/events?eventId={our_uuid(item.id)}"
        body = {"eventType": "TYPING_STARTED", "representative": _representative(item, account)}
        result = await self._client.call(account, "POST", path, body, turn)
        return Accepted(platform_id="") if isinstance(result, Answered) else result

    def _file_url(self, send: Send, account: Account) -> str | None:
        if not isinstance(send, SendMedia):
            return None
        ref = send.media
        return ref.link if ref.storage_key is None else self._tools.link(account.tenant_id, ref.storage_key)

    # -------------------------------------------------------------- answers

    async def _answer(self, item: OutboxItem, send: Send, account: Account, turn: Turn) -> SendResult:
        if isinstance(send, MarkRead):
            return Accepted(platform_id="")
        assert isinstance(send, SendText)
        if not item.recipient.startswith(_REPLYING):
            sentence = "Only reviews can be answered from here; a question is answered on the profile."
            return declined(ErrorClass.RECIPIENT, "not_answerable", sentence)
        path = f"{account.external_id}/{item.recipient}/reply"
        result = await self._client.call(account, "PUT", path, {"comment": send.body}, turn)
        if not isinstance(result, Answered):
            return result
        if not result.body:
            return _nothing()
        at = micros(result.body.get("updateTime"))
        name = answer_id(item.recipient, at) if at is not None else f"{item.recipient}/reply#{item.id}"
        return Accepted(platform_id=name)


def fit_for(send: Send, outlet: Outlet) -> Fitted:
    """As the channel carries it, which is known by its account."""
    if not is_location(outlet.external_id):
        return fit_message(send)
    fitted = fit_answer(send)
    public = REPLACES if outlet.answered else PUBLIC
    return Fitted(send=fitted.send, note=public if fitted.note is None else f"{fitted.note} {public}")


def fit_answer(send: Send) -> Fitted:
    """Raises InvalidInput with a sentence for each field. Pure."""
    if isinstance(send, MarkRead):
        return Fitted(send=send)
    if isinstance(send, SendLocation):
        return Fitted(send=fit_answer(located(send)).send, note=LOCATED)
    problems = Problems(limits.LABEL)
    if isinstance(send, SendText):
        problems.text(
            "body",
            send.body,
            limits.ANSWER_BYTES_MAX,
            length=lambda text: len(text.encode("utf-8", "replace")),
            unit="bytes in UTF-8",
        )
    else:
        problems.add("type", "A review is answered in public and with words alone: send a text.")
    problems.refuse()
    return Fitted(send=send)


def _representative(item: OutboxItem, account: Account) -> Json:
    name = account.settings.get("representative_name")
    return compact(
        representativeType="HUMAN" if item.by_person else "BOT",
        displayName=name if isinstance(name, str) and name else None,
    )


def _nothing() -> Unanswered:
    return Unanswered(reason="a success without content")
