"""The Business API of the played accounts: sends, uploads, downloads, tokens, refusals.

Promises    As the sheet says: HTTP 200 with a code in the body for most refusals, ten messages in the 48
            hours after each of the person's, tokens that can be renewed once with each refresh token.
Source      The TikTok sheet, sections 5, 6 and 8. Which code refuses a message outside of the window is not
            in it; here it is 40002, a parameter that is not acceptable now.
"""

import itertools
import secrets
from collections.abc import Callable, Collection, MutableMapping
from typing import Any, Final

import trio

from adapters.simulators.faults import FaultBook, Route
from adapters.simulators.http import Request, Response, json_response, multipart_of
from adapters.simulators.ledger import Ledger, Mark, Send
from adapters.simulators.limits import AccountLimits
from adapters.simulators.media import MediaStore
from adapters.simulators.playing.calls import Calls, Refusal, member_of, object_of
from adapters.simulators.playing.cast import Customer, Json
from adapters.simulators.settings import Settings
from adapters.simulators.tiktok.accounts import TikTokAccount
from adapters.simulators.tiktok.history import History
from adapters.simulators.tiktok.people import People
from adapters.simulators.webhooks import now_ms

UPLOAD_BYTES_MAX: Final = 3_500_000
"""3 MB and the form around it."""
CALLS_PER_SECOND: Final = 10
WINDOW_MESSAGES_MAX: Final = 10
TOKEN_SECONDS: Final = 86_400
REFRESH_SECONDS: Final = 365 * 86_400
_VERSION: Final = ["open_api", "v1.3"]

SLOW, PERMISSION, PARAMETER, NOT_FOUND, TOKEN = 40100, 40001, 40002, 40004, 40105

Accepted = Callable[[TikTokAccount, Send, Json], None]


class BusinessApi(Calls):
    """What others see of it is in the ledger, the media store and the fault book. `pictures`: whether people
    of this country can be sent any. `removed`: accounts whose owners took the app's access away."""

    def __init__(
        self,
        accounts: MutableMapping[str, TikTokAccount],
        people: People,
        *,
        ledger: Ledger,
        media: MediaStore,
        history: History,
        faults: FaultBook,
        new_mid: Callable[[], str],
        accepted: Accepted,
        expired: Collection[str],
        renewed: Callable[[str, str, str], None],
        sends_per_second_max: Callable[[str], int],
        settings: Callable[[], Settings],
        base_url: Callable[[], str],
    ) -> None:
        super().__init__(ledger=ledger, faults=faults)
        self.pictures = True
        self.removed: set[str] = set()
        self._accounts = accounts
        self._people = people
        self._media = media
        self._history = history
        self._new_mid = new_mid
        self._accepted = accepted
        self._expired = expired
        self._renewed = renewed
        self._settings = settings
        self._base_url = base_url
        self._serial = itertools.count(1)
        self._limits = AccountLimits(sends_per_second_max)
        self._sent: dict[tuple[str, str], tuple[int, int]] = {}
        """Messages since the person was heard last: when that was, and how many."""

    # ── calls ────────────────────────────────────────────────────────────────────────────────────

    def body_limit(self, method: str, path: str) -> int:
        upload = path.rstrip("/").endswith("/media/upload")
        return UPLOAD_BYTES_MAX if upload else super().body_limit(method, path)

    def route(self, request: Request) -> tuple[Route, str | None]:
        match _call_of(request):
            case "business/message/send":
                return "send", None
            case "business/message/media/upload":
                return "media_upload", None
            case "business/message/media/download":
                return "media_look_up", None
            case "media":
                return "media_download", None
            case _:
                return "management", None

    def written(self, refused: Refusal) -> Response:
        usual = self._settings().rate_limit_http_status if refused.code == SLOW else 200
        content = {"code": refused.code, "message": refused.message, "request_id": self._request_id()}
        return json_response(content, refused.status or usual)

    def do(self, request: Request) -> tuple[Response, Send | None]:
        what = _call_of(request)
        if what == "media":
            return self._file(request), None
        if what == "tt_user/oauth2/refresh_token" and request.method == "POST":
            return self._renew(object_of(request.body, PARAMETER)), None
        account = self._authorised(request)
        match (request.method, what):
            case ("POST", "business/message/send"):
                return self._send(account, object_of(request.body, PARAMETER))
            case ("POST", "business/message/media/upload"):
                return self._upload(account, request), None
            case ("POST", "business/message/media/download"):
                return self._download(account, object_of(request.body, PARAMETER)), None
            case ("GET", "business/message/capabilities/get"):
                _ensure_own(account, request.query.get("business_id"))
                info = {"capability_type": "IMAGE_SEND", "capability_result": self.pictures}
                return self._ok({"capability_infos": [info]}), None
            case ("GET", "business/message/conversation/list"):
                _ensure_own(account, request.query.get("business_id"))
                kind = request.query.get("conversation_type")
                if kind not in ("STRANGER", "SINGLE"):
                    raise Refusal(PARAMETER, "conversation_type must be STRANGER or SINGLE")
                listed = self._history.conversations(account.account_id, answered=kind == "SINGLE")
                return self._ok({"conversations": listed, "cursor": len(listed), "has_more": False}), None
            case ("GET", "business/message/content/list"):
                _ensure_own(account, request.query.get("business_id"))
                key = request.query.get("conversation_id", "")
                return self._ok({"messages": self._history.messages(account.account_id, key)}), None
            case _:
                raise Refusal(NOT_FOUND, "No such interface", status=404)

    def _ok(self, data: Json) -> Response:
        content = {"code": 0, "message": "OK", "request_id": self._request_id(), "data": data}
        return json_response(content)

    def _request_id(self) -> str:
        return f"sim{next(self._serial):017d}"

    def _authorised(self, request: Request) -> TikTokAccount:
        token = request.headers.get("access-token", "")
        for account in self._accounts.values():
            if token and account.access_token == token:
                if account.account_id in self._expired or account.account_id in self.removed:
                    break
                return account
        raise Refusal(TOKEN, "Access token is invalid or has expired")

    def _renew(self, body: Json) -> Response:
        """A refresh token works once: with the new access token comes another."""
        for account in self._accounts.values():
            known = {
                "client_id": account.client_key,
                "client_secret": account.client_secret,
                "grant_type": "refresh_token",
                "refresh_token": account.refresh_token,
            }
            if account.account_id in self.removed or any(body.get(name) != known[name] for name in known):
                continue
            access, refresh = f"act.{secrets.token_urlsafe(32)}", f"rft.{secrets.token_urlsafe(32)}"
            self._renewed(account.account_id, access, refresh)
            return self._ok(
                {
                    "open_id": account.account_id,
                    "access_token": access,
                    "expires_in": TOKEN_SECONDS,
                    "refresh_token": refresh,
                    "refresh_token_expires_in": REFRESH_SECONDS,
                    "scope": "user.info.basic,message.list.send",
                    "token_type": "Bearer",
                }
            )
        raise Refusal(PARAMETER, "The refresh token is invalid or has expired")

    # ── files ────────────────────────────────────────────────────────────────────────────────────

    def _upload(self, account: TikTokAccount, request: Request) -> Response:
        parts = multipart_of(request)
        if parts is None or "file" not in parts:
            raise Refusal(PARAMETER, "file is required")
        _ensure_own(account, parts.get("business_id", (b"", ""))[0].decode("utf-8", "replace"))
        if parts.get("media_type", (b"", ""))[0] != b"IMAGE":
            raise Refusal(PARAMETER, "media_type must be IMAGE")
        content, kind = parts["file"]
        if kind not in ("image/jpeg", "image/png") or not 0 < len(content) <= 3_000_000:
            raise Refusal(PARAMETER, "file must be JPG or PNG of at most 3 MB")
        stored = self._media.put(account.account_id, kind, content, trio.current_time(), days=30)
        return self._ok({"media_id": stored.id})

    def _download(self, account: TikTokAccount, body: Json) -> Response:
        _ensure_own(account, body.get("business_id"))
        for name in ("conversation_id", "message_id", "media_id"):
            if not isinstance(body.get(name), str) or not body[name]:
                raise Refusal(PARAMETER, f"{name} is required")
        if body.get("media_type") not in ("IMAGE", "VIDEO"):
            raise Refusal(PARAMETER, "media_type must be IMAGE or VIDEO")
        now = trio.current_time()
        stored = self._media.get(body["media_id"], now)
        if stored is None or stored.phone_number_id != account.account_id:
            raise Refusal(NOT_FOUND, "The media does not exist")
        secret = self._media.new_url_secret(stored, now)
        return self._ok({"download_url": f"{self._base_url()}/media/?mid={stored.id}&hash={secret}"})

    def _file(self, request: Request) -> Response:
        now = trio.current_time()
        stored = self._media.by_url(request.query.get("mid", ""), request.query.get("hash", ""), now)
        owner = self._accounts.get(stored.phone_number_id) if stored is not None else None
        if stored is None or owner is None:
            return Response(404, b"", "text/plain")
        if request.headers.get("x-user") != owner.access_token:
            return Response(403, b"", "text/plain")
        return Response(200, stored.content, stored.mime_type)

    # ── sends ────────────────────────────────────────────────────────────────────────────────────

    def _send(self, account: TikTokAccount, body: Json) -> tuple[Response, Send | None]:
        _ensure_own(account, body.get("business_id"))
        if body.get("recipient_type") != "CONVERSATION":
            raise Refusal(PARAMETER, "recipient_type must be CONVERSATION")
        recipient = body.get("recipient")
        customer = self._people.find(recipient) if isinstance(recipient, str) else None
        if not isinstance(recipient, str) or (customer is None and not self._settings().strangers_taken):
            raise Refusal(NOT_FOUND, "The conversation does not exist")
        if not self._limits.admit(account.account_id, trio.current_time()):
            raise Refusal(SLOW, "Too many requests")
        kind = body.get("message_type")
        if kind == "SENDER_ACTION":
            self._act(account, body)
            return self._ok({"message": {"message_id": ""}}), None
        self._check_content(account, kind, body)
        if customer is not None:
            self._count(account, customer)
        self.ledger.ensure_room()
        send = Send(
            id=self._new_mid(),
            phone_number_id=account.account_id,
            recipient=recipient,
            type=str(kind).lower(),
            callback_data=None,
            accepted_at=now_ms(),
        )
        self.ledger.record_send(send, body)
        self._accepted(account, send, body)
        return self._ok({"message": {"message_id": send.id}}), send

    def _act(self, account: TikTokAccount, body: Json) -> None:
        action = body.get("sender_action")
        if action not in ("TYPING", "MARK_READ"):
            raise Refusal(PARAMETER, "sender_action must be TYPING or MARK_READ")
        typing, account_id = action == "TYPING", account.account_id
        self.ledger.record_mark(Mark(message_id="", phone_number_id=account_id, typing=typing, at=now_ms()))

    def _count(self, account: TikTokAccount, customer: Customer) -> None:
        """Ten messages after each of the person's, within the window."""
        settings = self._settings()
        if not settings.window_enforced:
            return
        if now_ms() - customer.heard_at >= settings.window_seconds * 1_000:
            raise Refusal(PARAMETER, "The conversation is outside of the messaging window")
        key = (account.account_id, customer.key)
        heard_at, count = self._sent.get(key, (customer.heard_at, 0))
        if heard_at != customer.heard_at:
            count = 0
        if count >= WINDOW_MESSAGES_MAX:
            raise Refusal(PARAMETER, "The messages of this messaging window are used up")
        self._sent[key] = (customer.heard_at, count + 1)

    def _check_content(self, account: TikTokAccount, kind: Any, body: Json) -> None:
        match kind:
            case "TEXT":
                text = member_of(body, "text", PARAMETER).get("body")
                if not isinstance(text, str) or not 1 <= len(text) <= 6_000:
                    raise Refusal(PARAMETER, "text.body has 1 to 6000 characters")
            case "IMAGE":
                media_id = member_of(body, "image", PARAMETER).get("media_id")
                stored = self._media.get(str(media_id), trio.current_time())
                if stored is None or stored.phone_number_id != account.account_id:
                    raise Refusal(PARAMETER, "image.media_id is not known")
                if not self.pictures:
                    raise Refusal(PERMISSION, "Pictures cannot be sent here")
            case "TEMPLATE":
                _check_card(member_of(body, "template", PARAMETER))
            case _:
                raise Refusal(PARAMETER, "message_type is not known")
        if "referenced_message_info" in body and kind != "TEXT":
            raise Refusal(PARAMETER, "Only a text can reply to a message")


def _check_card(card: Json) -> None:
    longest = {"QA_BUTTON_CARD": 20, "QA_LINK_CARD": 40}.get(str(card.get("type")))
    title, buttons = card.get("title"), card.get("buttons")
    if longest is None or not isinstance(title, str) or not 1 <= len(title) <= 40:
        raise Refusal(PARAMETER, "template.type or template.title is not valid")
    if not isinstance(buttons, list) or not 1 <= len(buttons) <= 3:
        raise Refusal(PARAMETER, "template.buttons has 1 to 3 members")
    for each in buttons:
        words = [each.get("title"), each.get("id")] if isinstance(each, dict) else [None]
        if each.get("type") != "REPLY" or not all(isinstance(one, str) and one for one in words):
            raise Refusal(PARAMETER, "a button has type REPLY, a title and an id")
        if len(each["title"]) > longest or len(each["id"]) > 40:
            raise Refusal(PARAMETER, "a button's title or id is too long")


def _call_of(request: Request) -> str:
    parts = [part for part in request.path.split("/") if part]
    if parts == ["media"] and request.method == "GET":
        return "media"
    if parts[:2] != _VERSION:
        raise Refusal(NOT_FOUND, "No such interface", status=404)
    return "/".join(parts[2:])


def _ensure_own(account: TikTokAccount, business_id: object) -> None:
    if business_id != account.account_id:
        raise Refusal(PERMISSION, "The token is not this business account's")
