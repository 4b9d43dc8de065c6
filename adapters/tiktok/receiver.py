"""The inbound half of TikTok: whom to believe, and bytes into events.

Promises    A delivery is exactly one event. What is not understood becomes `Unsupported` with the raw JSON.
            `parse` raises InvalidInput and nothing else.
Contacts    A person is known by the conversation's id, which is what answers are addressed to; there is one
            conversation for each person and account.
Ids         Messages have their own. Referrals, which have none, get one of their conversation and time.
Echoes      The platform echoes everything that the business writes, our own sends too: `message_tag.source`
            says by which way it was written, so only those by the API may be ours.
EEA, CH, UK Webhooks about people there are stripped to the receiver and the time: `Announced`, and read by
            `adapters/tiktok/reading.py`.
Source      The TikTok sheet, sections 2 to 4 and 7.
"""

import hmac
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from adapters.receiving import odd, secrets_of, vouching
from adapters.tiktok.shapes import shape_of
from adapters.wire import Json, decode_json, moment, read_json_text, usable_id
from engine.domain.content import compact
from engine.domain.inbound import (
    AccessWithdrawn,
    AccountNotice,
    Announced,
    Contact,
    InboundEvent,
    MessageEchoed,
    MessageReceived,
    RoutedEvent,
    StatusesReached,
    Unsupported,
)
from engine.errors import InvalidInput
from engine.ports import NO_HEADERS, Endpoint, WebhookRequest

REPLAY_SECONDS_MAX: Final = 300
"""How old a signature may be, or how far ahead. The platform leaves it to the app. Five minutes are more than
clocks differ and networks delay, and what somebody recorded is worth nothing after that; deliveries that the
platform repeats later are taken to be signed anew (unconfirmed)."""

_SIGNED: Final = re.compile(r"t=([0-9]{1,12}),\s?s=([0-9a-f]{64})")

_ACCOUNT_HINT: Final = re.compile(rb'"user_openid"\s?:\s?"([A-Za-z0-9_.-]{1,200})"')
_HINT_BYTES_MAX: Final = 512

_NAME_MAX: Final = 200

_NOTICES: Final = frozenset(
    {
        "im_auto_message_config_update",
        "im_auto_message_audit_update",
        "im_receive_high_intent_comment",
        "comment.update",
    }
)
_NOTICE_FAMILIES: Final = ("post.publish.", "video.upload.")


class TikTokReceiver:
    """Implements `engine.ports.Receiver`. `clock` gives unix seconds."""

    platform = "tiktok"
    aliases: tuple[str, ...] = ()

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock

    def is_handshake(self, request: WebhookRequest) -> bool:
        """The platform has none; a GET is somebody who looks whether there is anything."""
        return request.method == "GET"

    def challenge(self, request: WebhookRequest, endpoints: Sequence[Endpoint]) -> bytes | None:
        return None

    def account_hint(self, body: bytes) -> str | None:
        """`user_openid`, where it stands as the platform writes it: before the content."""
        found = _ACCOUNT_HINT.search(body, 0, _HINT_BYTES_MAX)
        return found[1].decode("ascii") if found is not None else None

    def verify(self, request: WebhookRequest, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
        """HMAC-SHA256 of the time, a full stop and the bytes as received, under the app's secret or the one
        before it. Older than `REPLAY_SECONDS_MAX` is nobody's."""
        signed = _SIGNED.fullmatch(request.headers.get("tiktok-signature", ""))
        if signed is None or abs(self._clock() - int(signed[1])) > REPLAY_SECONDS_MAX:
            return ()
        content = signed[1].encode() + b"." + request.body
        given = signed[2].encode()

        def fits(secret: str) -> bool:
            expected = hmac.digest(secret.encode(), content, "sha256").hex().encode()
            return hmac.compare_digest(expected, given)

        return vouching(endpoints, _secrets, fits)

    def parse(self, body: bytes, headers: Mapping[str, str] = NO_HEADERS) -> Sequence[RoutedEvent]:
        delivery = decode_json(body)
        event = delivery.get("event") if isinstance(delivery, dict) else None
        if not isinstance(event, str) or not event:
            raise InvalidInput("this is not a delivery of an event", code="not_understood")
        account = usable_id(delivery.get("user_openid"))
        read = _event(event[:100], delivery, account)
        return [RoutedEvent(external_id=account, parent_id=None, event=read)]


def _secrets(endpoint: Endpoint) -> list[str]:
    return secrets_of(endpoint, ("client_secret", "client_secret_previous"))


# ------------------------------------------------------------------ events


def _event(name: str, delivery: Json, account: str | None) -> InboundEvent:
    content = delivery.get("content")
    if isinstance(content, str):
        content = read_json_text(content)
    at = moment(delivery.get("create_time"))
    if name == "authorization.removed":
        return _withdrawn(content, at, delivery)
    if name == "im_receive_msg_eu":
        told_at = moment(content.get("timestamp")) if isinstance(content, dict) else None
        return Announced(contact=None, kind="message", at=told_at or at, raw=delivery)
    if name in _NOTICES or name.startswith(_NOTICE_FAMILIES):
        return AccountNotice(kind=name, at=at, raw=delivery)
    if name not in _READERS:
        return odd(delivery, "an event that is not known")
    if not isinstance(content, dict):
        return odd(delivery, "an event without content that can be read")
    item = _Item(delivery, content, account)
    if item.contact is None or item.at is None:
        return odd(delivery, "without a conversation or a time that can be used")
    return _READERS[name](item)


def _withdrawn(content: Any, at: int | None, delivery: Json) -> AccessWithdrawn:
    """The time is in whole seconds: of the second's moments the last is meant, or news from the second in
    which the account was connected would be taken for older."""
    reason = content.get("reason") if isinstance(content, dict) else None
    why = _REASONS.get(reason) if isinstance(reason, int) else None
    return AccessWithdrawn(
        note=f"TikTok lets this app act for the account no more{why or ''}. Connect the account again.",
        at=at + 999 if at is not None else None,
        raw=delivery,
    )


_REASONS: Final = {
    1: ": its owner has disconnected the app",
    2: ": the account was deleted",
    3: ": the owner's age was changed",
    4: ": the account was banned",
    5: ": the app's developer has revoked it",
}
"""Unconfirmed in the sheet (section 4)."""


class _Item:
    """What all events of a conversation have: who, when, which side, and the JSON for what is not
    understood. `ours`: the business wrote or read it; None where the delivery does not say."""

    def __init__(self, delivery: Json, content: Json, account: str | None) -> None:
        self.delivery = delivery
        self.content = content
        self.at = moment(content.get("timestamp")) or moment(delivery.get("create_time"))
        sender, recipient = _party(content.get("from_user")), _party(content.get("to_user"))
        self.ours: bool | None = None
        if account is not None and account in (sender, recipient):
            self.ours = sender == account
        key = usable_id(content.get("conversation_id"))
        self._key = key

    @property
    def contact(self) -> Contact | None:
        if self._key is None:
            return None
        name = self.content.get("to" if self.ours else "from")
        shown = name[:_NAME_MAX] if isinstance(name, str) and name else None
        return Contact(keys=(self._key,), name=shown)

    @property
    def person(self) -> Contact:
        assert self.contact is not None
        return self.contact

    @property
    def time(self) -> int:
        assert self.at is not None
        return self.at

    def unsupported(self, reason: str, platform_id: str | None) -> Unsupported:
        return Unsupported(
            contact=self.contact, platform_id=platform_id, at=self.at, raw=self.content, reason=reason
        )


def message_of(content: Json, account: str) -> InboundEvent:
    """A message as the lists hold it, which have the members of webhooks under a few other names."""
    names = {"from": content.get("sender"), "to": content.get("recipient")}
    item = _Item(content, {**names, **content}, account)
    if item.contact is None or item.at is None:
        return odd(content, "without a conversation or a time that can be used")
    return _message(item, ours=False)


def _message(item: _Item, *, ours: bool) -> InboundEvent:
    """`ours`: what the event's name says; the parties' ids know better."""
    content = item.content
    mid = usable_id(content.get("message_id"))
    if mid is None:
        return odd(item.delivery, "a message without an id")
    if item.ours is None:
        item.ours = ours
    shape = shape_of(content, mid, item.person.keys[0], ours=item.ours)
    if shape is None:
        reason = "a message without content that is known"
        if not item.ours:
            return item.unsupported(reason, mid)
        shape = "unsupported", {"reason": reason, "raw": content}, "", ()
    kind, shown, text, media = shape
    quoted = content.get("referenced_message_info")
    common: Json = {
        "contact": item.person,
        "platform_id": mid,
        "at": item.time,
        "type": kind,
        "content": shown,
        "text": text,
        "media": media,
        "reply_to": usable_id(quoted.get("referenced_message_id")) if isinstance(quoted, dict) else None,
    }
    if not item.ours:
        return MessageReceived(**common)
    tag = content.get("message_tag")
    source = tag.get("source") if isinstance(tag, dict) else None
    named = source if isinstance(source, str) and source else "UNKNOWN_SOURCE"
    return MessageEchoed(
        **common,
        metadata={"app": named[:100]},
        maybe_ours=named in ("API", "UNKNOWN_SOURCE"),
    )


def _read(item: _Item) -> InboundEvent:
    """All our messages up to a moment were read; or the business has read, which tells us nothing."""
    read = item.content.get("read")
    up_to = moment(read.get("last_read_timestamp")) if isinstance(read, dict) else None
    if item.ours:
        return AccountNotice(kind="read_by_business", at=item.at, raw=item.content)
    if up_to is None:
        return odd(item.delivery, "a read without a mark")
    return StatusesReached(contact=item.person, status="read", at=item.time, raw_status="read", up_to=up_to)


def _referral(item: _Item) -> InboundEvent:
    """Somebody came by an advertisement or a link; what else is in it is unconfirmed, and kept."""
    about = compact(**{name: item.content.get(name) for name in ("referral", "ad", "ref", "scene_type")})
    return MessageReceived(
        contact=item.person,
        platform_id=f"referral:{item.person.keys[0]}:{item.time}"[:500],
        at=item.time,
        type="system",
        content={**about, "kind": "referral", "body": ""},
        text="",
        metadata=compact(referral=item.content),
    )


_READERS: Final[Mapping[str, Callable[[_Item], InboundEvent]]] = {
    "im_receive_msg": lambda item: _message(item, ours=False),
    "im_send_msg": lambda item: _message(item, ours=True),
    "im_mark_read_msg": _read,
    "im_referral_msg": _referral,
}


def _party(user: Any) -> str | None:
    return usable_id(user.get("id")) if isinstance(user, dict) else None
