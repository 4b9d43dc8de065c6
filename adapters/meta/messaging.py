"""Messaging items of Pages and Instagram accounts: bytes into events.

Promises    Every item of `messaging`, `standby` and `changes`, and a change that stands in the entry itself,
            is exactly one event, in order. What is not understood becomes `Unsupported` with the raw JSON.
            `parse` raises InvalidInput and nothing else.
Ids         Items without one of their own get one made of what they are about, the same each time: edits
            `edit:MID:N`, deletions `deleted:MID`, reactions, postbacks and the rest their kind, sender and
            time.
Times       Milliseconds; seconds and digits in a string are taken too, since some senders write them so.
Source      The Messenger sheet, sections 3, 4 and 7; the Instagram sheet, sections 3, 4 and 7.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from adapters.meta.shapes import shape_of
from adapters.meta.signing import MetaSigned
from adapters.receiving import odd
from adapters.wire import Json, bounded, decode_json, moment, usable_id
from engine.domain.content import compact
from engine.domain.inbound import (
    AccountNotice,
    Contact,
    InboundEvent,
    MessageDeleted,
    MessageEchoed,
    MessageEdited,
    MessageReceived,
    RoutedEvent,
    StatusChanged,
    StatusesReached,
    Unsupported,
)
from engine.errors import InvalidInput
from engine.ports import NO_HEADERS

OURS: Final = "mijra:"
"""What `metadata` of our sends begins with; the message's id follows. Echoes bring it back."""

_SYSTEM: Final = (
    "referral",
    "optin",
    "account_linking",
    "pass_thread_control",
    "take_thread_control",
    "request_thread_control",
    "response_feedback",
)
"""Members that tell something about the person or the thread, kept in the history as system messages."""

_ACCOUNT: Final = ("policy_enforcement", "app_roles")

_FIRST_ENTRY: Final = re.compile(rb'"entry":\[\{[^{}\[\]]{0,100}"id":"([0-9]{1,32})"')
_HINT_BYTES_MAX: Final = 512

EMOJI: Final = {
    "love": "❤", "smile": "😆", "laugh": "😆", "wow": "😮", "sad": "😢", "angry": "😠", "like": "👍",
    "dislike": "👎",
}  # fmt: skip
"""Reactions by name, for webhooks that bring no emoji and for our own."""


class MessagingReceiver(MetaSigned):
    """Implements `engine.ports.Receiver` for one of the two platforms."""

    def __init__(
        self, platform: str, aliases: tuple[str, ...], *, webhook_object: str, echoes_say_whose: bool
    ) -> None:
        self.platform = platform
        self.aliases = aliases
        self._object = webhook_object
        self._echoes_say_whose = echoes_say_whose

    def account_hint(self, body: bytes) -> str | None:
        """The first entry's id, where it stands as the platforms write it."""
        found = _FIRST_ENTRY.search(body, 0, _HINT_BYTES_MAX)
        return found[1].decode("ascii") if found is not None else None

    def parse(self, body: bytes, headers: Mapping[str, str] = NO_HEADERS) -> Sequence[RoutedEvent]:
        delivery = decode_json(body)
        if not isinstance(delivery, dict) or delivery.get("object") != self._object:
            raise InvalidInput(f"this is not a delivery of the object {self._object}", code="not_understood")
        entries = delivery.get("entry")
        if not isinstance(entries, list) or not entries:
            raise InvalidInput("the delivery has no entries", code="not_understood")
        return bounded(event for entry in entries for event in self._entry(entry))

    def _entry(self, entry: Any) -> Iterator[RoutedEvent]:
        if not isinstance(entry, dict):
            yield _routed(None, odd(entry, "an entry that is no object"))
            return
        account = usable_id(entry.get("id"))
        found = False
        for name in ("messaging", "standby", "changes"):
            items = entry.get(name)
            if items is None:
                continue
            found = found or items != []
            if not isinstance(items, list):
                yield _routed(account, odd({name: items}, f"{name} is no list"))
                continue
            for item in items:
                read = self._change if name == "changes" else self._item
                yield _routed(account, read(item, account, entry.get("time"), name == "standby"))
        if "field" in entry:
            found = True
            yield _routed(account, self._change(entry, account, entry.get("time"), False))
        if not found:
            yield _routed(account, odd(entry, "an entry with nothing in it"))

    def _change(self, change: Any, account: str | None, time: Any, standby: bool) -> InboundEvent:
        """Comments, feeds, and messaging items that the dashboard's test wraps."""
        value = change.get("value") if isinstance(change, dict) else None
        if not isinstance(value, dict):
            return odd(change, "a change without a value")
        if isinstance(value.get("sender"), dict):
            return self._item(value, account, time, standby)
        kind = change.get("field")
        known = kind if isinstance(kind, str) and kind else "unknown"
        return AccountNotice(kind=known[:100], at=moment(time), raw=value)

    def _item(self, raw: Any, account: str | None, time: Any, standby: bool) -> InboundEvent:
        if not isinstance(raw, dict):
            return odd(raw, "an item that is no object")
        for name in _ACCOUNT:
            if name in raw:
                return AccountNotice(kind=name, at=moment(raw.get("timestamp")), raw=raw)
        item = _Item(raw, account, moment(raw.get("timestamp")) or moment(time), standby)
        if item.contact is None or item.at is None:
            return odd(raw, "without a sender or a time that can be used")
        if isinstance(raw.get("message"), dict):
            return self._message(item, raw["message"])
        for name, read in _MEMBERS.items():
            if isinstance(raw.get(name), dict):
                return read(item, raw[name])
        for name in _SYSTEM:
            if isinstance(raw.get(name), dict):
                return _system(item, name, raw[name])
        return item.unsupported("an item of a kind that is not known")

    def _message(self, item: "_Item", message: Json) -> InboundEvent:
        mid = usable_id(message.get("mid"))
        if mid is None:
            return item.unsupported("a message without an id")
        echo = message.get("is_echo") is True
        if message.get("is_self") is True:
            return AccountNotice(kind="message_to_self", at=item.at, raw=item.raw)
        if message.get("is_deleted") is True:
            return MessageDeleted(
                contact=item.person,
                platform_id=f"deleted:{mid}",
                original_id=mid,
                at=item.time,
                by_business=echo,
            )
        if message.get("is_unsupported") is True:
            return item.unsupported("the platform does not pass it on", mid)
        metadata = message.get("metadata")
        if echo and isinstance(metadata, str) and metadata.startswith(OURS):
            return StatusChanged(
                contact=item.person,
                platform_id=mid,
                status="sent",
                at=item.time,
                raw_status="echo",
                callback=metadata.removeprefix(OURS),
            )
        shape = shape_of(message)
        if shape is None:
            return item.unsupported("a message without content that is known", mid)
        kind, content, text, media = shape
        common: Json = {
            "contact": item.person,
            "platform_id": mid,
            "at": item.time,
            "type": kind,
            "content": content,
            "text": text,
            "media": media,
            "reply_to": _quoted(message),
            "metadata": {**_metadata(message, echo=echo), **({"standby": True} if item.standby else {})},
        }
        if echo:
            return MessageEchoed(**common, maybe_ours=not self._echoes_say_whose)
        return MessageReceived(**common, automated=not item.standby)


class _Item:
    """What all items have: who, when, and the JSON for what is not understood."""

    def __init__(self, raw: Json, account: str | None, at: int | None, standby: bool) -> None:
        self.raw = raw
        self.at = at
        self.standby = standby
        sender, recipient = _id_of(raw.get("sender")), _id_of(raw.get("recipient"))
        # Echoes go from the account to the person.
        key = recipient if sender is not None and sender == account else sender
        self.contact = Contact(keys=(key,)) if key is not None else None

    @property
    def person(self) -> Contact:
        assert self.contact is not None
        return self.contact

    @property
    def time(self) -> int:
        assert self.at is not None
        return self.at

    def made_id(self, kind: str, *more: object) -> str:
        return ":".join((kind, self.person.keys[0], str(self.time), *(str(each) for each in more)))[:500]

    def unsupported(self, reason: str, platform_id: str | None = None) -> Unsupported:
        return Unsupported(
            contact=self.contact,
            platform_id=platform_id or (self.made_id("item") if self.contact and self.at else None),
            at=self.at,
            raw=self.raw,
            reason=reason,
        )


def _edit(item: _Item, edit: Json) -> InboundEvent:
    mid, text, number = usable_id(edit.get("mid")), edit.get("text"), edit.get("num_edit")
    if mid is None or not isinstance(text, str):
        return item.unsupported("an edit that is not understood")
    which = number if isinstance(number, int) else item.time
    return MessageEdited(
        contact=item.person,
        platform_id=f"edit:{mid}:{which}"[:500],
        original_id=mid,
        at=item.time,
        type="text",
        content={"body": text},
        text=text,
    )


def _reaction(item: _Item, reaction: Json) -> InboundEvent:
    mid, action = usable_id(reaction.get("mid")), reaction.get("action")
    if mid is None or action not in ("react", "unreact"):
        return item.unsupported("a reaction that is not understood")
    emoji = None
    if action == "react":
        given, name = reaction.get("emoji"), reaction.get("reaction")
        emoji = given if isinstance(given, str) and given else EMOJI.get(str(name), "❤")
    return MessageReceived(
        contact=item.person,
        platform_id=item.made_id("reaction", action, mid),
        at=item.time,
        type="reaction",
        content={"emoji": emoji, "message_id": None, "platform_message_id": mid},
        text=emoji or "",
        opens_window=action == "react",
        automated=not item.standby,
    )


def _postback(item: _Item, postback: Json) -> InboundEvent:
    title, payload = postback.get("title"), postback.get("payload")
    text = title if isinstance(title, str) else ""
    content = compact(
        kind="postback",
        id=payload if isinstance(payload, str) else None,
        title=text or None,
        payload=payload,
    )
    referral = postback.get("referral")
    return MessageReceived(
        contact=item.person,
        platform_id=usable_id(postback.get("mid")) or item.made_id("postback"),
        at=item.time,
        type="interactive",
        content=content,
        text=text,
        metadata=compact(
            referral=referral if isinstance(referral, dict) else None, standby=item.standby or None
        ),
        automated=not item.standby,
    )


def _delivery(item: _Item, delivery: Json) -> InboundEvent:
    """The watermark says it all; where it is missing, the last of the messages named does."""
    mids = delivery.get("mids")
    last = usable_id(mids[-1]) if isinstance(mids, list) and mids else None
    return _reached(item, "delivered", "delivery", moment(delivery.get("watermark")), last)


def _read(item: _Item, read: Json) -> InboundEvent:
    """Messenger gives a watermark, Instagram the last message that was seen."""
    return _reached(item, "read", "read", moment(read.get("watermark")), usable_id(read.get("mid")))


def _reached(item: _Item, status: str, raw_status: str, up_to: int | None, mid: str | None) -> InboundEvent:
    if up_to is None and mid is None:
        return odd(item.raw, f"a {raw_status} without a mark")
    return StatusesReached(
        contact=item.person,
        status=status,
        at=item.time,
        raw_status=raw_status,
        up_to=up_to,
        platform_id=mid if up_to is None else None,
    )


def _order(item: _Item, order: Json) -> InboundEvent:
    products, note = order.get("products"), order.get("note")
    items = [
        compact(
            product_id=str(each.get("retailer_id") or each.get("id") or ""),
            quantity=each.get("quantity"),
            price=each.get("unit_price"),
            currency=each.get("currency"),
        )
        for each in (products if isinstance(products, list) else ())
        if isinstance(each, dict)
    ]
    text = note if isinstance(note, str) else ""
    return MessageReceived(
        contact=item.person,
        platform_id=item.made_id("order"),
        at=item.time,
        type="order",
        content={"text": text, "items": items},
        text=text,
        automated=not item.standby,
    )


def _system(item: _Item, kind: str, about: Json) -> InboundEvent:
    return MessageReceived(
        contact=item.person,
        platform_id=item.made_id(kind),
        at=item.time,
        type="system",
        content={**about, "kind": kind, "body": ""},
        text="",
        metadata=compact(referral=about if kind == "referral" else None),
        opens_window=kind == "referral",
    )


_MEMBERS: Final = {
    "message_edit": _edit,
    "reaction": _reaction,
    "postback": _postback,
    "delivery": _delivery,
    "read": _read,
    "order": _order,
}


def _metadata(message: Json, *, echo: bool) -> Json:
    referral, reply = message.get("referral"), message.get("reply_to")
    product = referral.get("product") if isinstance(referral, dict) else None
    story = reply.get("story") if isinstance(reply, dict) else None
    app = message.get("app_id")
    commands = message.get("commands")
    return compact(
        referral=referral if isinstance(referral, dict) and product is None else None,
        referred_product=product if isinstance(product, dict) else None,
        story=story if isinstance(story, dict) else None,
        commands=commands if isinstance(commands, list) else None,
        app=str(app) if echo and isinstance(app, int | str) else None,
    )


def _quoted(message: Json) -> str | None:
    reply = message.get("reply_to")
    return usable_id(reply.get("mid")) if isinstance(reply, dict) else None


def _id_of(party: Any) -> str | None:
    """`user_ref` stands for people of the check-box plugin."""
    if not isinstance(party, dict):
        return None
    found = party.get("id")
    if isinstance(found, int) and not isinstance(found, bool):
        found = str(found)
    return usable_id(found) or usable_id(party.get("user_ref"))


def _routed(account: str | None, event: InboundEvent) -> RoutedEvent:
    return RoutedEvent(external_id=account, parent_id=None, event=event)
