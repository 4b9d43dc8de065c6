"""Business Messages' webhooks: a delivery into events.

Promises    One event for each message, suggestion response, status, receipt and answer in it. What is not
            understood becomes `Unsupported` with the raw JSON.
Ids         Messages have their own. The rest is known by `requestId`, which names a delivery within its
            conversation and is the same when it is repeated.
Pictures    come as a text that is nothing but a signed address at Google's file store. Emulators have other
            hosts, so the signature's parameters decide; the fetcher's guard stands before the download.
Source      The Google Business sheet, A3. The service ended on 2024-07-31; the shape lives on in replays and
            emulations. Unconfirmed there: surveys, and what a suggestion's message names.
"""

from collections.abc import Iterator
from typing import Final
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

from adapters.google_business.naming import last_part, millis
from adapters.receiving import odd
from adapters.wire import Json, usable_id
from engine.domain.content import compact
from engine.domain.inbound import (
    AccountNotice,
    Contact,
    InboundEvent,
    Media,
    MessageReceived,
    RoutedEvent,
    StatusChanged,
    Unsupported,
)

_STATUSES: Final = {"DELIVERED": "delivered", "READ": "read"}
_SIGNED: Final = frozenset({"x-goog-algorithm", "x-goog-signature"})
_ADDRESS_MAX: Final = 4_096

_OURS: Final = 0x6D696A72_6100_8000 << 64
"""The first half of our messages' ids: a custom UUID (version 8, RFC 9562) that spells who we are. The second
half is the variant's two bits and our message's id."""
_VARIANT: Final = 0b10 << 62
_ID_BITS: Final = (1 << 62) - 1


def our_uuid(message_id: int) -> str:
    """What a message of ours is called at Google. The same for each attempt, so that Google knows a
    repetition; it comes back in receipts."""
    return str(UUID(int=_OURS | _VARIANT | (message_id & _ID_BITS)))


def our_id(given: str) -> str | None:
    """Our message's id in one of those; None for another's."""
    try:
        number = UUID(given).int
    except ValueError:
        return None
    return str(number & _ID_BITS) if number & ~_ID_BITS == _OURS | _VARIANT else None


def read_messages(delivery: Json) -> Iterator[RoutedEvent]:
    """Raises nothing, whatever is in it."""
    agent = usable_id(delivery.get("agent"))
    item = _Item(delivery)
    found = False
    for name, read in _MEMBERS.items():
        about = delivery.get(name)
        if about is not None:
            found = True
            events = read(item, about) if isinstance(about, dict) else [item.odd(f"{name} is no object")]
            for event in events:
                yield RoutedEvent(external_id=agent, parent_id=None, event=event)
    if not found:
        event = item.odd("a delivery of a kind that is not known")
        yield RoutedEvent(external_id=agent, parent_id=None, event=event)


class _Item:
    """What all deliveries have: who, when, and the JSON for what is not understood."""

    def __init__(self, raw: Json) -> None:
        self.raw = raw
        key = usable_id(raw.get("conversationId"))
        context = raw.get("context")
        self.context: Json = context if isinstance(context, dict) else {}
        user = self.context.get("userInfo")
        name = user.get("displayName") if isinstance(user, dict) else None
        self.contact = (
            Contact(keys=(key,), name=name if isinstance(name, str) and name else None) if key else None
        )
        self.request = usable_id(raw.get("requestId"))
        self.sent_at = millis(raw.get("sendTime"))

    def at(self, about: Json) -> int | None:
        return millis(about.get("createTime")) or self.sent_at

    def made_id(self, kind: str) -> str | None:
        if self.contact is None or self.request is None:
            return None
        return f"{kind}:{self.contact.keys[0]}:{self.request}"[:500]

    def odd(self, reason: str, platform_id: str | None = None) -> Unsupported:
        return Unsupported(
            contact=self.contact,
            platform_id=platform_id or self.made_id("item"),
            at=self.sent_at,
            raw=self.raw,
            reason=reason,
        )

    def metadata(self) -> Json:
        """Where the customer came from and which language they see."""
        names = {
            "entryPoint": "entry_point",
            "placeId": "place_id",
            "nearPlaceId": "near_place_id",
            "resolvedLocale": "locale",
            "customContext": "custom",
        }
        found = {
            ours: value
            for theirs, ours in names.items()
            if isinstance(value := self.context.get(theirs), str) and value
        }
        bot = self.raw.get("dialogflowResponse")
        return compact(context=found or None, bot_answered=True if isinstance(bot, dict) else None)


def _message(item: _Item, message: Json) -> Iterator[InboundEvent]:
    mid = usable_id(message.get("messageId")) or last_part(message.get("name"))
    text, at = message.get("text"), item.at(message)
    if item.contact is None or mid is None or at is None:
        yield item.odd("a message without an id, a conversation or a time", mid)
        return
    if not isinstance(text, str):
        yield item.odd("a message without a text", mid)
        return
    address = text.strip()
    picture = _is_signed_address(address)
    yield MessageReceived(
        contact=item.contact,
        platform_id=mid,
        at=at,
        type="image" if picture else "text",
        content={} if picture else {"body": text},
        text="" if picture else text,
        media=(Media(kind="image", source_url=address),) if picture else (),
        metadata=item.metadata(),
    )


def _is_signed_address(text: str) -> bool:
    if not text.startswith(("https://", "http://")) or len(text) > _ADDRESS_MAX or len(text.split()) != 1:
        return False
    try:
        query = urlsplit(text).query
    except ValueError:
        return False
    return {name.lower() for name in parse_qs(query, keep_blank_values=True)} >= _SIGNED


def _suggestion(item: _Item, chosen: Json) -> Iterator[InboundEvent]:
    at, made = item.at(chosen), item.made_id("suggestion")
    if item.contact is None or at is None or made is None:
        yield item.odd("a suggestion response without a conversation, a request or a time")
        return
    words, data = chosen.get("text"), chosen.get("postbackData")
    text = words if isinstance(words, str) else ""
    kind = chosen.get("suggestionType")
    yield MessageReceived(
        contact=item.contact,
        platform_id=made,
        at=at,
        type="interactive",
        content=compact(
            kind="postback",
            id=data if isinstance(data, str) else None,
            title=text or None,
            payload=data,
        ),
        text=text,
        reply_to=last_part(chosen.get("message")),
        metadata={
            **item.metadata(),
            **compact(suggestion_type=kind if isinstance(kind, str) else None),
        },
    )


def _user_status(item: _Item, status: Json) -> Iterator[InboundEvent]:
    """That somebody types is news for a second and kept nowhere; that they want a person is."""
    if status.get("requestedLiveAgent") is not True:
        kind = "user_typing" if isinstance(status.get("isTyping"), bool) else "user_status"
        yield AccountNotice(kind=kind, at=item.at(status), raw=item.raw)
        return
    yield from _system(item, status, "live_agent_requested", "The customer asks for a person.")


def _authentication(item: _Item, answer: Json) -> Iterator[InboundEvent]:
    """The code is a secret for who began the authentication; the raw delivery alone keeps it."""
    details = answer.get("errorDetails")
    error = details.get("error") if isinstance(details, dict) else None
    failed = isinstance(error, str) and error
    said = f"The customer did not sign in ({error})."[:300] if failed else "The customer signed in."
    yield from _system(item, answer, "authentication", said)


def _survey(item: _Item, answer: Json) -> Iterator[InboundEvent]:
    yield item.odd("an answer to Google's survey, whose form is not documented")


def _system(item: _Item, about: Json, kind: str, sentence: str) -> Iterator[InboundEvent]:
    at, made = item.at(about), item.made_id(kind)
    if item.contact is None or at is None or made is None:
        yield item.odd(f"{kind} without a conversation, a request or a time")
        return
    yield MessageReceived(
        contact=item.contact,
        platform_id=made,
        at=at,
        type="system",
        content={"kind": kind, "body": sentence},
        text=sentence,
        metadata=item.metadata(),
    )


def _receipts(item: _Item, receipts: Json) -> Iterator[InboundEvent]:
    found = receipts.get("receipts")
    if not isinstance(found, list) or not found:
        yield item.odd("receipts without a receipt")
        return
    at = item.at(receipts)
    for receipt in found:
        about = receipt if isinstance(receipt, dict) else {}
        mid, kind = last_part(about.get("message")), about.get("receiptType")
        status = _STATUSES.get(kind) if isinstance(kind, str) else None
        if item.contact is None or at is None or mid is None or status is None:
            raw = receipt if isinstance(receipt, dict) and receipt else {"receipt": receipt}
            yield odd(raw, "a receipt of no kind", at)
            continue
        yield StatusChanged(
            contact=item.contact,
            platform_id=mid,
            status=status,
            at=at,
            raw_status=str(kind),
            callback=our_id(mid),
        )


_MEMBERS: Final = {
    "message": _message,
    "suggestionResponse": _suggestion,
    "userStatus": _user_status,
    "receipts": _receipts,
    "authenticationResponse": _authentication,
    "surveyResponse": _survey,
}
