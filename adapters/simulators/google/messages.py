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

from adapters.simulators.faults import Route
from adapters.simulators.google.accounts import GoogleAccount
from adapters.simulators.google.api import GoogleApi
from adapters.simulators.google.people import WRITTEN, Writers
from adapters.simulators.google.signing import signature
from adapters.simulators.http import Request, Response, json_response
from adapters.simulators.ledger import Mark, Send
from adapters.simulators.media import MediaStore, file_response, png
from adapters.simulators.playing.calls import Refusal, object_of
from adapters.simulators.playing.cast import Customer, Json, Said
from adapters.simulators.playing.platform import Making, Played
from adapters.simulators.webhooks import Event, Post, Verdict, now_ms
from engine.errors import DeliveryFailed, InvalidInput

_SENDS_PER_SECOND: Final = 100
"""Of an agent; the sheet has no number."""
_PICTURE_SECONDS: Final = 604_800.0
_HANDSHAKE_SECONDS_MAX: Final = 10.0
_EVENTS: Final = ("TYPING_STARTED", "TYPING_STOPPED", "REPRESENTATIVE_JOINED", "REPRESENTATIVE_LEFT")
_CONTENTS: Final = ("text", "image", "richCard")


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
    api: "MessagesApi"

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


class MessagesApi(GoogleApi):
    """The historic Business Messages API (sheet, A4)."""

    def __init__(self, sim: MessagesSimulator) -> None:
        super().__init__(
            sim.accounts,
            ledger=sim.ledger,
            faults=sim.faults,
            expired=sim.expired,
            sends_per_second_max=lambda account_id: sim.per_second_max(account_id, _SENDS_PER_SECOND),
        )
        self._sim = sim

    def route(self, request: Request) -> tuple[Route, str | None]:
        parts = request.path.strip("/").split("/")
        if parts[0] == "media":
            return "media_download", None
        sending = request.method == "POST" and parts[-1] == "messages"
        return ("send" if sending else "management"), None

    def do(self, request: Request) -> tuple[Response, Send | None]:
        parts = request.path.strip("/").split("/")
        if parts[0] == "media":
            return self._sim.download(request), None
        account = self.authorised(request)
        match (request.method, parts):
            case ("POST", ["v1", "conversations", key, "messages"]):
                return self._send(account, key, object_of(request.body, 400))
            case ("POST", ["v1", "conversations", key, "events"]):
                name = request.query.get("eventId", "")
                return self._event(account, key, name, object_of(request.body, 400)), None
            case ("GET", ["v1", *resource]) if "/".join(resource) == account.account_id:
                return json_response({"name": account.account_id, "displayName": "Simulated agent"}), None
            case _:
                raise Refusal(404, "Requested entity was not found.")

    def _customer(self, key: str) -> Customer:
        customer = self._sim.cast.find(key)
        if customer is None:
            raise Refusal(404, "Requested entity was not found.")
        return customer

    def _send(self, account: GoogleAccount, key: str, body: Json) -> tuple[Response, Send | None]:
        customer, name = self._customer(key), _uuid(body.get("messageId"))
        self._check(body)
        if self.ledger.send(name) is not None:
            raise Refusal(409, "Requested entity already exists")
        if not self.limits.admit(account.account_id, trio.current_time()):
            raise Refusal(429, "Quota exceeded.")
        self.ledger.ensure_room()
        send = Send(
            id=name,
            phone_number_id=account.account_id,
            recipient=customer.key,
            type=next(each for each in _CONTENTS if each in body),
            # A UUID of version 8 is its maker's own: the business has put its message's id there.
            callback_data=str(UUID(name).int & (1 << 62) - 1) if UUID(name).version == 8 else None,
            accepted_at=now_ms(),
        )
        self.ledger.record_send(send, body)
        self._sim.accepted(account, send, body)
        return json_response({**body, "name": f"conversations/{key}/messages/{name}"}), send

    def _event(self, account: GoogleAccount, key: str, name: str, body: Json) -> Response:
        self._customer(key)
        _uuid(name)
        if body.get("eventType") not in _EVENTS:
            raise Refusal(400, "eventType is not known")
        typing = body["eventType"] == "TYPING_STARTED"
        self.ledger.record_mark(
            Mark(message_id="", phone_number_id=account.account_id, typing=typing, at=now_ms())
        )
        return json_response({"name": f"conversations/{key}/events/{name}"})

    def _check(self, body: Json) -> None:
        representative = body.get("representative")
        kind = representative.get("representativeType") if isinstance(representative, dict) else None
        if kind not in ("BOT", "HUMAN"):
            raise Refusal(400, "representative.representativeType is BOT or HUMAN")
        contents = [each for each in _CONTENTS if each in body]
        if len(contents) != 1:
            raise Refusal(400, "one of text, image, richCard is required")
        text = body.get("text")
        if contents == ["text"] and not (isinstance(text, str) and 1 <= len(text) <= 3_072):
            raise Refusal(400, "text has 1 to 3072 characters")
        if contents == ["image"] and not _picture_url(body["image"]):
            raise Refusal(400, "image.contentInfo.fileUrl is required")
        if len(body.get("suggestions", [])) > 13:
            raise Refusal(400, "at most 13 suggestions")
        if contents == ["richCard"] and not _cards_of(body["richCard"]):
            raise Refusal(400, "richCard has a standaloneCard or a carouselCard with contents")


def suggestions_of(body: Json) -> list[Json]:
    """All suggestions of a message, wherever they stand."""
    cards = _cards_of(body["richCard"]) if "richCard" in body else []
    return [*body.get("suggestions", []), *(each for card in cards for each in card.get("suggestions", []))]


def _cards_of(rich: Any) -> list[Json]:
    if not isinstance(rich, dict):
        return []
    alone = rich.get("standaloneCard")
    if isinstance(alone, dict):
        return [alone["cardContent"]] if isinstance(alone.get("cardContent"), dict) else []
    row = rich.get("carouselCard")
    contents = row.get("cardContents") if isinstance(row, dict) else None
    return contents if isinstance(contents, list) and 2 <= len(contents) <= 10 else []


def _picture_url(image: Any) -> str | None:
    info = image.get("contentInfo") if isinstance(image, dict) else None
    url = info.get("fileUrl") if isinstance(info, dict) else None
    return url if isinstance(url, str) and url.startswith(("https://", "http://")) else None


def _uuid(given: Any) -> str:
    try:
        return str(UUID(given))
    except (ValueError, TypeError, AttributeError) as error:
        raise Refusal(400, "an id is a UUID") from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
