"""Agents of Business Messages with their customers, as one object to script.

Promises    Speaks and answers as the sheet's part A says: one event for each POST, signed; receipts of what
            was accepted; pictures by signed address; message ids that the business chooses, so that a
            repetition is refused as one; the handshake.
"""

import json
import secrets
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, Unpack
from uuid import UUID

import httpx
import trio

from adapters.simulators.google.accounts import GoogleAccount
from adapters.simulators.google.messages_api import MessagesApi, suggestions_of
from adapters.simulators.google.people import WRITTEN, Writers
from adapters.simulators.google.signing import signature
from adapters.simulators.google.times import written
from adapters.simulators.http import Request, Response
from adapters.simulators.ledger import Send
from adapters.simulators.media import MediaStore, file_response, png
from adapters.simulators.playing.cast import Customer, Json, Said
from adapters.simulators.playing.platform import Making, Played
from adapters.simulators.webhooks import Event, Post, Verdict
from engine.errors import DeliveryFailed, InvalidInput

_PICTURE_SECONDS: Final = 604_800.0
_HANDSHAKE_SECONDS_MAX: Final = 10.0


class MessagesSpeech:
    """One event for each request, signed with the partner key."""

    def post(self, events: Sequence[Event]) -> Post:
        (event,) = events
        body = json.dumps(event.change, ensure_ascii=False, separators=(",", ":")).encode()
        return self.post_of(event.account, event.url, body)

    def post_of(self, account: GoogleAccount, url: str, body: bytes) -> Post:
        signed = signature(account.partner_key, body)
        return Post(body, {"Content-Type": "application/json", "X-Goog-Signature": signed})

    def company(self, event: Event) -> None:
        return None

    def verdict(self, status: int) -> Verdict:
        return "acknowledged" if 200 <= status < 300 else "again"


class MessagesSimulator(Played[GoogleAccount, Customer]):
    """See `adapters.simulators.playing.platform`."""

    account_field = "resource_name"
    api: MessagesApi

    def __init__(
        self,
        accounts: Sequence[GoogleAccount],
        **making: Unpack[Making],
    ) -> None:
        super().__init__("google-business", accounts, **making)
        self._people = Writers(self.random("people"))
        self._media = MediaStore(_PICTURE_SECONDS, 10**15 + time.time_ns() // 1_000)
        self._offered: dict[str, tuple[str, Json]] = {}
        self.api = MessagesApi(self)

    @property
    def cast(self) -> Writers:
        return self._people

    def speech(self) -> MessagesSpeech:
        return MessagesSpeech()

    async def shake_hands(self, account: GoogleAccount, callback_url: str) -> None:
        """The POST with which Google looks at a new webhook (sheet, A1)."""
        secret = secrets.token_hex(8)
        given = {"clientToken": account.client_token, "secret": secret}
        try:
            async with httpx.AsyncClient(timeout=_HANDSHAKE_SECONDS_MAX, trust_env=False) as client:
                answer = await client.post(callback_url, json=given)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise DeliveryFailed(f"no answer from the callback address: {type(error).__name__}") from error
        if answer.status_code != 200 or answer.text.strip() != secret:
            raise DeliveryFailed(f"the callback address answered {answer.status_code} to the handshake")

    # ── customers speak ──────────────────────────────────────────────────────────────────────────

    def compose(self, account: GoogleAccount, customer: Customer, kind: str, text: str | None) -> Said:
        request = f"{self.run_id}{self.next_id()}"
        match kind:
            case "text":
                if self.rng.random() < 0.3:
                    self._type(account, customer)
                said = text if text is not None else self._people.sentence(customer)
                return self._message(account, customer, request, said, kind)
            case "image":
                return self._message(account, customer, request, self._picture(account), kind)
            case "suggestion":
                name, chosen = self._offered.get(
                    customer.key, ("generic", {"text": "Yes", "postbackData": "yes"})
                )
                about = {
                    "message": f"conversations/{customer.key}/messages/{name}",
                    **chosen,
                    "createTime": _now(),
                    "suggestionType": "REPLY",
                }
                item = self._item(account, customer, request, suggestionResponse=about)
                return Said(item, f"suggestion:{customer.key}:{request}", kind)
            case "live_agent":
                status = {"requestedLiveAgent": True, "createTime": _now()}
                item = self._item(account, customer, request, userStatus=status)
                return Said(item, f"live_agent_requested:{customer.key}:{request}", kind)
            case "survey":
                item = self._item(account, customer, request, surveyResponse={"rating": "SATISFIED"})
                return Said(item, f"item:{customer.key}:{request}", kind)
            case _:
                raise InvalidInput(f"kind is one of {', '.join(WRITTEN)}")

    def said_by_hand(self, account: GoogleAccount, customer: Customer, item: Json) -> Said:
        """What stands beside agent and conversation, with a message that has an id."""
        message = item.get("message")
        mid = message.get("messageId") if isinstance(message, dict) else None
        if not isinstance(mid, str):
            raise InvalidInput("item needs message with a messageId")
        made = self._item(account, customer, f"{self.run_id}{self.next_id()}")
        return Said({**made, **item}, mid, "item")

    def say_more(self, account: GoogleAccount, customer: Customer, send: Send, message: Json) -> None:
        offered = self._offered.get(customer.key)
        kind = "suggestion" if offered is not None and offered[0] == send.id else "text"
        text = self.rng.choice(customer.tongue.answers) if kind == "text" else None
        self.send(customer, kind, text, account_id=account.account_id)

    # ── the business was heard ───────────────────────────────────────────────────────────────────

    def accepted(self, account: GoogleAccount, send: Send, message: Json) -> None:
        """Receipts follow, perhaps an answer."""
        if self.heard(account, send, message) is None:
            return
        suggestions = [each["reply"] for each in suggestions_of(message) if "reply" in each]
        if suggestions:
            self._offered[send.recipient] = (send.id, self.rng.choice(suggestions))
        rng, settings = self.rng, self.settings
        delay = rng.uniform(*settings.sent_seconds)
        for status in ("delivered", "read"):
            if status == "read" and rng.random() >= settings.read_probability:
                continue
            span = settings.delivered_seconds if status == "delivered" else settings.read_seconds
            delay += rng.uniform(*span)
            self.later(delay, partial(self._tell_receipt, account, send, status))

    def _tell_receipt(self, account: GoogleAccount, send: Send, status: str) -> None:
        receipt = {
            "message": f"conversations/{send.recipient}/messages/{send.id}",
            "receiptType": status.upper(),
        }
        item = self._bare(account, send.recipient, f"{self.run_id}{self.next_id()}")
        item["receipts"] = {"receipts": [receipt], "createTime": _now()}
        fact = self.fact("status", account, send.id, send.recipient, send.type, status=status)
        self.tell_item(account, item, (fact,))

    # ── within ───────────────────────────────────────────────────────────────────────────────────

    def _message(
        self, account: GoogleAccount, customer: Customer, request: str, text: str, kind: str
    ) -> Said:
        mid = str(UUID(int=self.rng.getrandbits(128), version=4))
        message = {
            "messageId": mid,
            "name": f"conversations/{customer.key}/messages/{mid}",
            "text": text,
            "createTime": _now(),
        }
        customer.said.append(mid)
        return Said(self._item(account, customer, request, message=message), mid, kind)

    def _type(self, account: GoogleAccount, customer: Customer) -> None:
        request = f"{self.run_id}{self.next_id()}"
        item = self._bare(account, customer.key, request)
        item["userStatus"] = {"isTyping": True, "createTime": _now()}
        fact = self.fact("other", account, request, customer.key, "typing")
        self.tell_item(account, item, (fact,))

    def _picture(self, account: GoogleAccount) -> str:
        rng, now = self.rng, trio.current_time()
        content = png(rng.randrange(256), rng.randrange(256), rng.randrange(256))
        stored = self._media.put(account.account_id, "image/png", content, now)
        return (
            f"{self.base_url}/media/{stored.id}?x-goog-algorithm=GOOG4-RSA-SHA256&x-goog-expires=604800"
            f"&x-goog-signedheaders=host&x-goog-signature={self._media.new_url_secret(stored, now)}"
        )

    def download(self, request: Request) -> Response:
        """A picture, by its signed address."""
        media_id, secret = request.path.rpartition("/")[2], request.query.get("x-goog-signature", "")
        stored = self._media.by_url(media_id, secret, trio.current_time())
        return file_response(stored)

    def _bare(self, account: GoogleAccount, conversation: str, request: str) -> Json:
        return {
            "agent": account.account_id,
            "conversationId": conversation,
            "customAgentId": "simulated",
            "requestId": request,
            "sendTime": _now(),
        }

    def _item(self, account: GoogleAccount, customer: Customer, request: str, **member: Any) -> Json:
        context = {
            "entryPoint": "PLACESHEET",
            "placeId": "ChIJsimulated",
            "resolvedLocale": customer.tongue.language,
            "userInfo": {"displayName": customer.name, "userDeviceLocale": customer.tongue.language},
        }
        return {**self._bare(account, customer.key, request), **member, "context": context}


def _now() -> str:
    return written(datetime.now(UTC))
