"""What a review says: read from the Business Profile API when a notification names it.

When        Before the push is answered. Pub/Sub keeps what is not acknowledged and repeats it for days, so
            while the API is away (or the account's grant is) every notification waits at Google, and nothing
            that was acknowledged lacks its words. Storing a bare notification first would put a message
            without content on agents' screens, which they could not answer either: the answer goes to the
            same API. A read costs one call, for which the push's deadline (10 s at least) leaves room.
Events      A review is a conversation of its own, its key `reviews/ID`.
            - the review: a message of that id, by its creation
            - changed, and not answered yet: an edit of it
            - changed after the answer: a new message, which quotes it
            - the answer that stands under it: an echo, where it is not one of ours
            - not there any more: a deletion
            All of them are made from each read: what is stored already is recognised by its id, so it does
            not matter which notifications came, in which order, or how often.
Promises    The rating is in the text and, as a number, in the content; a review without words has a text too.
            No rule answers a review: what stands in public under a business' name is a person's word.
Source      The Google Business sheet, B2 and B4.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

import trio

from adapters.calling import declined
from adapters.client import Connected
from adapters.google_business.calling import GoogleCalls
from adapters.google_business.naming import answer_id, last_part, micros, version
from adapters.port import Account, Declined, ErrorClass
from adapters.wire import Json
from engine.domain.content import compact
from engine.domain.inbound import (
    Announced,
    Contact,
    InboundEvent,
    MessageDeleted,
    MessageEchoed,
    MessageEdited,
    MessageReceived,
    Unsupported,
)

RATINGS: Final = {"ONE": 1, "TWO": 2, "THREE": 3, "FOUR": 4, "FIVE": 5}
ANONYMOUS: Final = "Anonymous reviewer"

READ_SECONDS_MAX: Final = 8.0
"""Less than the 10 s that a push's deadline has at least, and than the 12 s for a webhook."""
READS_AT_ONCE: Final = 8
"""Of one account: at 0.2 s a read that is 40 a second, and Google takes five. More are turned away at once,
upon which Pub/Sub sends fewer at a time."""
MISSING_SECONDS: Final = 600.0
"""A review that was announced so recently and is not found is not believed to be deleted: another of Google's
machines may not know it yet."""
AGAIN_SECONDS: Final = 10.0
"""What Pub/Sub is asked to wait; it begins with as much by itself."""
_ACCOUNTS_MAX: Final = 10_000


class ReviewReader(Connected[GoogleCalls]):
    """Implements `adapters.port.OpenReader`."""

    def __init__(self, platform: str, calls: GoogleCalls, wall_ms: Callable[[], int]) -> None:
        self.platform = platform
        super().__init__(calls)
        self._wall_ms = wall_ms
        self._rooms: OrderedDict[tuple[int, int], trio.CapacityLimiter] = OrderedDict()

    async def read(self, announced: Announced, account: Account) -> Sequence[InboundEvent] | Declined:
        room = self._room_of(account)
        try:
            room.acquire_nowait()
        except trio.WouldBlock:
            sentence = f"{READS_AT_ONCE} reviews of this account are being read already."
            return _later(ErrorClass.RATE_ACCOUNT, "reads_at_once", sentence)
        try:
            with trio.move_on_after(READ_SECONDS_MAX):
                return await self._read(announced, account)
        finally:
            room.release()
        return _later(ErrorClass.TRANSIENT, "too_late", "Google took too long to say what the review says.")

    async def _read(self, announced: Announced, account: Account) -> Sequence[InboundEvent] | Declined:
        key = _key_of(announced)
        found = await self._client.read(account, f"{account.external_id}/{key}")
        if not isinstance(found, Declined):
            return events_of(found, key) or [_odd(announced, found, "a review that is not understood")]
        match found.error_class:
            case ErrorClass.RECIPIENT:
                at = announced.at or self._wall_ms()
                if self._wall_ms() - at < MISSING_SECONDS * 1_000:
                    sentence = "The review that was announced just now cannot be found yet."
                    return _later(ErrorClass.TRANSIENT, found.platform_code, sentence)
                return [deleted(key, at)]
            case ErrorClass.BAD_REQUEST:
                return [_odd(announced, announced.raw, found.message)]
            case _:
                return found

    def _room_of(self, account: Account) -> trio.CapacityLimiter:
        key = (account.tenant_id, account.channel_id)
        room = self._rooms.get(key)
        if room is None:
            room = self._rooms[key] = trio.CapacityLimiter(READS_AT_ONCE)
            if len(self._rooms) > _ACCOUNTS_MAX:
                self._rooms.popitem(last=False)
        return room


def events_of(review: Json, key: str) -> list[InboundEvent]:
    """What the review's conversation is to know. Empty when it is no review that can be used."""
    created, rating = micros(review.get("createTime")), RATINGS.get(str(review.get("starRating")))
    if created is None or rating is None or last_part(review.get("name")) not in (None, last_part(key)):
        return []
    updated = max(micros(review.get("updateTime")) or created, created)
    reviewer = review.get("reviewer")
    contact = Contact(keys=(key,), name=_name_of(reviewer if isinstance(reviewer, dict) else {}))
    comment = review.get("comment")
    text = _shown(rating, comment if isinstance(comment, str) else "")
    content: Json = {"body": text, "rating": rating}
    answer = _answer_of(review, key, contact)
    original = MessageReceived(
        contact=contact,
        platform_id=key,
        at=created // 1_000,
        type="text",
        content=content,
        text=text,
        metadata={"review": compact(rating=rating, name=review.get("name"))},
        automated=False,
    )
    if updated == created:
        return [original, *([answer] if answer is not None else [])]
    if answer is not None and _answered_at(review) < updated:
        newer = MessageReceived(
            contact=contact,
            platform_id=version(key, updated),
            at=updated // 1_000,
            type="text",
            content=content,
            text=text,
            reply_to=key,
            metadata={"review": compact(rating=rating, name=review.get("name"), changed=True)},
            automated=False,
        )
        return [answer, newer]
    edit = MessageEdited(
        contact=contact,
        platform_id=version(key, updated),
        original_id=key,
        at=updated // 1_000,
        type="text",
        content=content,
        text=text,
    )
    return [original, edit, *([answer] if answer is not None else [])]


def deleted(key: str, at: int) -> MessageDeleted:
    """The review is gone."""
    return MessageDeleted(contact=Contact(keys=(key,)), platform_id=f"deleted:{key}", original_id=key, at=at)


def _shown(rating: int, comment: str) -> str:
    stars = f"{'★' * rating}{'☆' * (5 - rating)} {rating} of 5"
    return f"{stars}\n{comment}" if comment.strip() else f"{stars}, without words"


def _name_of(reviewer: Json) -> str:
    name = reviewer.get("displayName")
    return name if isinstance(name, str) and name.strip() else ANONYMOUS


def _answered_at(review: Json) -> int:
    reply = review.get("reviewReply")
    return (micros(reply.get("updateTime")) if isinstance(reply, dict) else None) or 0


def _answer_of(review: Json, key: str, contact: Contact) -> MessageEchoed | None:
    """The public answer as it stands; one of ours is recognised by its id, or by its words while the answer
    to our call is on its way."""
    reply, at = review.get("reviewReply"), _answered_at(review)
    comment = reply.get("comment") if isinstance(reply, dict) else None
    if not at or not isinstance(comment, str) or not comment.strip():
        return None
    return MessageEchoed(
        contact=contact,
        platform_id=answer_id(key, at),
        at=at // 1_000,
        type="text",
        content={"body": comment},
        text=comment,
        maybe_ours=True,
    )


def _later(error_class: ErrorClass, code: str, sentence: str) -> Declined:
    return declined(error_class, code, sentence, wait=AGAIN_SECONDS)


def _key_of(announced: Announced) -> str:
    assert announced.contact is not None, "a review has a name"
    return announced.contact.keys[0]


def _odd(announced: Announced, raw: Json, reason: str) -> Unsupported:
    key = _key_of(announced)
    return Unsupported(
        contact=announced.contact,
        platform_id=f"unread:{key}:{announced.at or 0}"[:500],
        at=announced.at,
        raw=raw or announced.raw,
        reason=reason,
    )
