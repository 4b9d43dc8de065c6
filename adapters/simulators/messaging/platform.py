"""Messenger or Instagram with its customers, as one object to script.

Owns        beside what every played platform owns, the Graph API at `/v25.0/…` and media.
Promises    Speaks and answers as the sheets say: watermarks instead of statuses, echoes of the business's own
            sends (at times before the answer to the send), usage headers, windows.
"""

import json
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final, Unpack

import msgspec
import trio

from adapters.simulators.ledger import Send
from adapters.simulators.media import MediaStore
from adapters.simulators.messaging.graph import MessagingAccount, MessagingGraph
from adapters.simulators.messaging.people import People
from adapters.simulators.playing.cast import Customer, Json, Said
from adapters.simulators.playing.control import Action, Body
from adapters.simulators.playing.platform import Making, Played
from adapters.simulators.webhooks import Event, MetaSpeech, now_ms, shake_hands
from engine.errors import InvalidInput

ACCOUNT_FIELDS: Final = {"facebook": "page_id", "instagram": "instagram_id"}
_OBJECTS: Final = {"facebook": "page", "instagram": "instagram"}
_APP_ID: Final = 1_517_776_481_860_111
_SENDS_PER_SECOND: Final = 300
"""Of an account (both sheets, section 6)."""
_UNREAD_MAX: Final = 1_000


class _Usage(Body, kw_only=True):
    percent: float


class MessagingSimulator(Played[MessagingAccount, Customer]):
    """See `adapters.simulators.playing.platform`. Beside its control calls there is
    `POST /__sim/usage {percent}`: what the usage headers say from now on."""

    api: MessagingGraph

    def __init__(
        self,
        platform: str,
        accounts: Sequence[MessagingAccount],
        **making: Unpack[Making],
    ) -> None:
        super().__init__(platform, accounts, **making)
        self.account_field = ACCOUNT_FIELDS[platform]
        self._media = MediaStore(3_600.0, 10**15 + time.time_ns() // 1_000)
        self._people = People(platform, self.random("people"), self._new_mid, self._file_url)
        self._unmarked: dict[tuple[str, str], dict[str, list[Send]]] = {}
        self.api = MessagingGraph(
            platform,
            self.accounts,
            self._people,
            ledger=self.ledger,
            media=self._media,
            faults=self.faults,
            new_mid=self._new_mid,
            accepted=self._accepted,
            expired=self.expired,
            renew=self.renew_token,
            sends_per_second_max=lambda account_id: self.per_second_max(account_id, _SENDS_PER_SECOND),
            window_seconds=lambda: self.settings.window_seconds if self.settings.window_enforced else None,
            strangers_taken=lambda: self.settings.strangers_taken,
        )

    @property
    def cast(self) -> People:
        return self._people

    def speech(self) -> MetaSpeech:
        return MetaSpeech(self._body_of)

    def actions(self) -> Mapping[str, Action]:
        return {"usage": self._set_usage}

    async def shake_hands(self, account: MessagingAccount, callback_url: str) -> None:
        await shake_hands(account, callback_url)

    # ── customers speak ──────────────────────────────────────────────────────────────────────────

    def compose(self, account: MessagingAccount, customer: Customer, kind: str, text: str | None) -> Said:
        return self._people.say(account.account_id, customer, kind, self.moment(), text)

    def said_by_hand(self, account: MessagingAccount, customer: Customer, item: Json) -> Said:
        """A `messaging[]` item without sender and recipient, with a message that has a mid."""
        made = {
            "sender": {"id": customer.key},
            "recipient": {"id": account.account_id},
            "timestamp": now_ms(),
            **item,
        }
        message = made.get("message")
        mid = message.get("mid") if isinstance(message, dict) else None
        if not isinstance(mid, str):
            raise InvalidInput("item needs message with a mid")
        return Said(made, mid, "item")

    def echo(self, customer: Customer, text: str, *, account_id: str | None = None) -> str:
        account = self.account(account_id)
        mid = self._new_mid()
        message = {"mid": mid, "text": text, "is_echo": True}
        if self.platform == "facebook":
            message["app_id"] = 26_390_203_743_090
        item = self._from_account(account, customer.key, message)
        self.tell_item(account, item, (self.fact("echo", account, mid, customer.key, "text"),))
        return mid

    def say_more(self, account: MessagingAccount, customer: Customer, send: Send, message: Json) -> None:
        free = self.rng.choice(("text", "reply", "reaction"))
        kind = "quick_reply" if message.get("quick_replies") else free
        text = self.rng.choice(customer.tongue.answers) if kind in ("text", "reply") else None
        self.send(customer, kind, text, account_id=account.account_id)

    # ── the platform's reactions to a send ───────────────────────────────────────────────────────

    def _accepted(self, account: MessagingAccount, send: Send, message: Json) -> None:
        if self.heard(account, send, message) is None:
            return
        rng, settings = self.rng, self.settings
        # The echo may well come before the answer to the send: it is told at once.
        self.attempt(partial(self._tell_echo, account, send, message))
        waiting = self._unmarked.setdefault((account.account_id, send.recipient), {})
        delay = rng.uniform(*settings.sent_seconds)
        for status in ("delivered", "read"):
            if status == "delivered" and self.platform == "instagram":
                continue
            if status == "read" and rng.random() >= settings.read_probability:
                continue
            waiting.setdefault(status, []).append(send)
            del waiting[status][:-_UNREAD_MAX]
            span = settings.delivered_seconds if status == "delivered" else settings.read_seconds
            delay += rng.uniform(*span)
            self.later(delay, partial(self._tell_mark, account, send, status))

    def _tell_echo(self, account: MessagingAccount, send: Send, message: Json) -> None:
        echoed = {key: value for key, value in message.items() if key in ("text", "metadata")}
        if "attachment" in message:
            kind = message["attachment"]["type"]
            echoed["attachments"] = [{"type": kind, "payload": {"url": "https://cdn.example/echo"}}]
        echoed |= {"mid": send.id, "is_echo": True}
        if self.platform == "facebook":
            echoed["app_id"] = _APP_ID
        fact = self.fact("status", account, send.id, send.recipient, send.type, status="sent")
        self.tell_item(account, self._from_account(account, send.recipient, echoed), (fact,))

    def _tell_mark(self, account: MessagingAccount, send: Send, status: str) -> None:
        """A watermark: everything to this person up to this message, in one item."""
        waiting = self._unmarked.get((account.account_id, send.recipient), {}).get(status, [])
        covered = [one for one in waiting if one.accepted_at <= send.accepted_at]
        if not covered:
            return
        waiting[:] = [one for one in waiting if one.accepted_at > send.accepted_at]
        if self.platform == "instagram":
            member: Json = {"read": {"mid": send.id}}
        elif status == "read":
            member = {"read": {"watermark": send.accepted_at}}
        else:
            member = {"delivery": {"mids": [one.id for one in covered][-10:], "watermark": send.accepted_at}}
        item = {
            "sender": {"id": send.recipient},
            "recipient": {"id": account.account_id},
            "timestamp": now_ms(),
            **member,
        }
        facts = tuple(
            self.fact("status", account, one.id, one.recipient, one.type, status=status) for one in covered
        )
        self.tell_item(account, item, facts)

    # ── within ───────────────────────────────────────────────────────────────────────────────────

    def _set_usage(self, body: bytes) -> object:
        self.api.usage_percent = msgspec.json.decode(body, type=_Usage).percent
        return {"percent": self.api.usage_percent}

    def _new_mid(self) -> str:
        prefix = "m_" if self.platform == "facebook" else "aWdf"
        return f"{prefix}{self.run_id}{self.next_id()}"

    def _file_url(self, account_id: str, media_type: str, content: bytes) -> str:
        now = trio.current_time()
        stored = self._media.put(account_id, media_type, content, now)
        return f"{self.base_url}/media?mid={stored.id}&hash={self._media.new_url_secret(stored, now)}"

    def _from_account(self, account: MessagingAccount, person: str, message: Json) -> Json:
        return {
            "sender": {"id": account.account_id},
            "recipient": {"id": person},
            "timestamp": now_ms(),
            "message": message,
        }

    def _body_of(self, events: Sequence[Event]) -> bytes:
        entries: dict[str, list[Json]] = {}
        for event in events:
            entries.setdefault(event.account.account_id, []).append(event.change)
        made = [
            {"id": account_id, "time": now_ms(), "messaging": items} for account_id, items in entries.items()
        ]
        payload = {"object": _OBJECTS[self.platform], "entry": made}
        return json.dumps(payload, ensure_ascii=True, separators=(",", ":")).encode("ascii")
