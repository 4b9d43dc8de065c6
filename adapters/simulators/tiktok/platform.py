"""TikTok with its customers, as one object to script.

Owns        beside what every played platform owns, the Business API at `/open_api/v1.3/…` and media.
Promises    Speaks and answers as the sheet says: one event in each delivery, its content JSON in a string,
            signed with the time of the attempt; echoes of the business's own sends (at times before the
            answer to the send), read marks instead of statuses, tokens that end and can be renewed.
"""

import hashlib
import hmac
import json
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final, Unpack

import msgspec
import trio

from adapters.simulators.ledger import Send
from adapters.simulators.media import MediaStore
from adapters.simulators.playing.cast import Customer, Json, Said
from adapters.simulators.playing.control import Action, Body
from adapters.simulators.playing.platform import Making, Played
from adapters.simulators.settings import Settings
from adapters.simulators.tiktok.accounts import TikTokAccount
from adapters.simulators.tiktok.api import CALLS_PER_SECOND, BusinessApi
from adapters.simulators.tiktok.history import History
from adapters.simulators.tiktok.people import People, between
from adapters.simulators.webhooks import Event, Post, Verdict, now_ms
from engine.errors import InvalidInput

WINDOW_SECONDS: Final = 48 * 3_600.0
RETRY_SECONDS_MAX: Final = 72 * 3_600.0
"""How long a delivery is repeated (sheet, 0)."""
_MEDIA_URL_SECONDS: Final = 86_400.0
_UNREAD_MAX: Final = 1_000


class Signed:
    """Implements `adapters.simulators.webhooks.Speech`."""

    def post(self, events: Sequence[Event]) -> Post:
        (event,) = events
        account = event.account
        delivery = {
            "client_key": account.client_key,
            "event": event.change["event"],
            "create_time": now_ms() // 1_000,
            "user_openid": account.account_id,
            "content": json.dumps(event.change["content"], ensure_ascii=False, separators=(",", ":")),
        }
        return self.post_of(account, event.url, json.dumps(delivery, separators=(",", ":")).encode())

    def post_of(self, account: Any, url: str, body: bytes) -> Post:
        moment = int(time.time())
        signed = f"{moment}.".encode() + body
        digest = hmac.new(account.client_secret.encode(), signed, hashlib.sha256).hexdigest()
        headers = {"Content-Type": "application/json", "TikTok-Signature": f"t={moment},s={digest}"}
        return Post(body, headers, lambda: self.post_of(account, url, body))

    def company(self, event: Event) -> None:
        return None

    def verdict(self, status: int) -> Verdict:
        return "acknowledged" if status == 200 else "again"


class _Removal(Body, kw_only=True):
    reason: int = 1


class _Pictures(Body, kw_only=True):
    allowed: bool


class TikTokSimulator(Played[TikTokAccount, Customer]):
    """See `adapters.simulators.playing.platform`. Beside its control calls there are

    POST /__sim/authorization {reason?, account_id?}   the owner takes the app's access away
    POST /__sim/pictures {allowed}                     whether pictures can be sent here
    """

    account_field = "open_id"
    api: BusinessApi

    def __init__(
        self,
        accounts: Sequence[TikTokAccount],
        **making: Unpack[Making],
    ) -> None:
        making["settings"] = usual(making.get("settings") or Settings())
        super().__init__("tiktok", accounts, **making)
        self._media = MediaStore(_MEDIA_URL_SECONDS, 10**15 + time.time_ns() // 1_000)
        self._people = People(self.random("people"), self._new_mid, self._put_file)
        self.history = History()
        self._unread: dict[tuple[str, str], list[Send]] = {}
        self.api = BusinessApi(
            self.accounts,
            self._people,
            ledger=self.ledger,
            media=self._media,
            history=self.history,
            faults=self.faults,
            new_mid=self._new_mid,
            accepted=self._accepted,
            expired=self.expired,
            renewed=self._renewed,
            sends_per_second_max=lambda account_id: self.per_second_max(account_id, CALLS_PER_SECOND),
            settings=lambda: self.settings,
            base_url=lambda: self.base_url,
        )

    @property
    def cast(self) -> People:
        return self._people

    def speech(self) -> Signed:
        return Signed()

    def actions(self) -> Mapping[str, Action]:
        return {
            "authorization": self._remove_authorization,
            "pictures": self._allow_pictures,
        }

    # ── customers speak ──────────────────────────────────────────────────────────────────────────

    def compose(self, account: TikTokAccount, customer: Customer, kind: str, text: str | None) -> Said:
        said = self._people.say(account, customer, kind, self.moment(), text)
        self._keep(account, said.item)
        return said

    def said_by_hand(self, account: TikTokAccount, customer: Customer, item: Json) -> Said:
        """A message's content, without the parties; with a message_id and a type."""
        content = {**between(account, customer, ours=False), "timestamp": self.moment(), **item}
        mid = content.get("message_id")
        if not isinstance(mid, str):
            raise InvalidInput("item needs a message_id")
        return Said({"event": "im_receive_msg", "content": content}, mid, "item")

    def _keep(self, account: TikTokAccount, item: Json) -> None:
        content: Json = item.get("whole") or item["content"]
        if "message_id" in content:
            self.history.add(account.account_id, content["conversation_id"], content)

    def echo(self, customer: Customer, text: str, *, account_id: str | None = None) -> str:
        account = self.account(account_id)
        mid = self._new_mid()
        content = {"type": "text", "text": {"body": text}, "message_tag": {"source": "APP"}}
        fact = self.fact("echo", account, mid, customer.key, "text")
        self.tell_item(account, self._echoed(account, customer, mid, content), (fact,))
        return mid

    # ── the platform's reactions to a send ───────────────────────────────────────────────────────

    def _accepted(self, account: TikTokAccount, send: Send, body: Json) -> None:
        customer = self.heard(account, send, body)
        if customer is None:
            return
        rng, settings = self.rng, self.settings
        # The echo may well come before the answer to the send: it is told at once.
        self.attempt(partial(self._tell_echo, account, customer, send, body))
        if rng.random() < settings.read_probability:
            unread = self._unread.setdefault((account.account_id, customer.key), [])
            unread.append(send)
            del unread[:-_UNREAD_MAX]
            delay = rng.uniform(*settings.sent_seconds) + rng.uniform(*settings.read_seconds)
            self.later(delay, partial(self._tell_read, account, customer))

    def _tell_echo(self, account: TikTokAccount, customer: Customer, send: Send, body: Json) -> None:
        kept = ("text", "image", "template", "referenced_message_info")
        content = {name: body[name] for name in kept if name in body}
        content |= {"type": send.type, "message_tag": {"source": "API"}}
        fact = self.fact("status", account, send.id, send.recipient, send.type, status="sent")
        self.tell_item(account, self._echoed(account, customer, send.id, content), (fact,))

    def _tell_read(self, account: TikTokAccount, customer: Customer) -> None:
        """A watermark: everything to this person up to now."""
        unread = self._unread.pop((account.account_id, customer.key), [])
        if not unread:
            return
        now = now_ms()
        content = {
            **between(account, customer, ours=False),
            "timestamp": now,
            "read": {"last_read_timestamp": now},
        }
        facts = tuple(
            self.fact("status", account, one.id, one.recipient, one.type, status="read") for one in unread
        )
        self.tell_item(account, {"event": "im_mark_read_msg", "content": content}, facts)

    # ── scripting ────────────────────────────────────────────────────────────────────────────────

    def remove_authorization(self, account_id: str | None = None, *, reason: int = 1) -> None:
        """The account's owner takes the app's access away: its tokens are worth nothing, and a webhook says
        so. `renew_token` gives it back."""
        account = self.account(account_id)
        self.api.removed.add(account.account_id)
        fact = self.fact("other", account, f"removed:{self.next_id()}", "", "authorization")
        removed = {"event": "authorization.removed", "content": {"reason": reason}}
        self.tell_item(account, removed, (fact,))

    def renew_token(self, access_token: str, account_id: str | None = None) -> None:
        super().renew_token(access_token, account_id)
        self.api.removed.discard(self.account(account_id).account_id)

    # ── within ───────────────────────────────────────────────────────────────────────────────────

    def _remove_authorization(self, body: bytes) -> object:
        removal = msgspec.json.decode(body or b"{}", type=_Removal)
        self.remove_authorization(removal.account_id, reason=removal.reason)
        return {"removed": True}

    def _allow_pictures(self, body: bytes) -> object:
        self.api.pictures = msgspec.json.decode(body, type=_Pictures).allowed
        return {"allowed": self.api.pictures}

    def _renewed(self, account_id: str, access_token: str, refresh_token: str) -> None:
        self.renew_token(access_token, account_id)
        account = self.accounts[account_id]
        self.accounts[account_id] = msgspec.structs.replace(account, refresh_token=refresh_token)

    def _new_mid(self) -> str:
        return f"{self.run_id}+{self.next_id()}/=="

    def _put_file(self, account_id: str, media_type: str, content: bytes) -> str:
        return self._media.put(account_id, media_type, content, trio.current_time()).id

    def _echoed(self, account: TikTokAccount, customer: Customer, mid: str, content: Json) -> Json:
        whole = {
            **between(account, customer, ours=True),
            "message_id": mid,
            "timestamp": self.moment(),
            **content,
        }
        item = {"event": "im_send_msg", "content": whole}
        self._keep(account, item)
        return item


def usual(settings: Settings) -> Settings:
    """The platform's own window and time of repeating, in place of those that other platforms have."""
    return msgspec.structs.replace(
        settings, window_seconds=WINDOW_SECONDS, retry_seconds_max=RETRY_SECONDS_MAX
    )
