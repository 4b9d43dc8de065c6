"""The Graph API of the played Pages and accounts: sends, uploads, profiles, usage headers, errors.

Source      The Messenger and Instagram sheets, sections 5 and 6. A send is never idempotent.
"""

import itertools
import json
import re
import secrets
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

import trio
from msgspec import Struct

from adapters.simulators.faults import FaultBook, Route
from adapters.simulators.graph import CALL_BYTES_MAX, UPLOAD_BYTES_MAX
from adapters.simulators.http import Request, Response, json_response
from adapters.simulators.ledger import Ledger, Mark, Send
from adapters.simulators.limits import AccountLimits
from adapters.simulators.media import MediaStore, file_response
from adapters.simulators.messaging.people import People
from adapters.simulators.playing.calls import Calls, Refusal, member_of, object_of
from adapters.simulators.webhooks import now_ms

Json = dict[str, Any]

_VERSION: Final = re.compile(r"v\d{1,3}\.\d{1,2}")
_STATUSES: Final = {190: 401, 10: 403, 200: 403, 2: 503, 1: 500}
"""What goes with a code; 400 with all others."""
_DAY_MS: Final = 86_400_000
_LIFE_SECONDS: Final = 60 * 86_400
_REFRESH: Final = "refresh_access_token"
ACTIONS: Final = ("typing_on", "typing_off", "mark_seen", "react", "unreact")
ATTACHMENTS: Final = ("image", "audio", "video", "file", "template", "like_heart", "MEDIA_SHARE")


class MessagingAccount(Struct, frozen=True, kw_only=True):
    """A Page or an Instagram account, as the platform and the business both know it."""

    account_id: str
    app_secret: str
    verify_token: str
    access_token: str


Accepted = Callable[[MessagingAccount, Send, Json], None]


class MessagingGraph(Calls):
    """What others see of it is in the ledger, the media store and the fault book."""

    def __init__(
        self,
        platform: str,
        accounts: Mapping[str, MessagingAccount],
        people: People,
        *,
        ledger: Ledger,
        media: MediaStore,
        faults: FaultBook,
        new_mid: Callable[[], str],
        accepted: Accepted,
        expired: Collection[str],
        renew: Callable[[str, str], None],
        sends_per_second_max: Callable[[str], int],
        window_seconds: Callable[[], float | None],
        strangers_taken: Callable[[], bool],
    ) -> None:
        super().__init__(ledger=ledger, faults=faults)
        self.usage_percent = 1.0
        self._platform = platform
        self._accounts = accounts
        self._people = people
        self._media = media
        self._new_mid = new_mid
        self._accepted = accepted
        self._expired = expired
        self._renew = renew
        # A token that was renewed stays good until it expires.
        self._earlier: dict[str, str] = {}
        self._window = window_seconds
        self._strangers_taken = strangers_taken
        self._traces = itertools.count(1)
        self._limits = AccountLimits(sends_per_second_max)
        self._uploads: set[str] = set()

    def body_limit(self, method: str, path: str) -> int:
        return UPLOAD_BYTES_MAX if path.endswith("/message_attachments") else CALL_BYTES_MAX

    def route(self, request: Request) -> tuple[Route, str | None]:
        return _route(request)

    def written(self, refused: Refusal) -> Response:
        error: Json = {
            "message": f"(#{refused.code}) {refused.message}",
            "type": "OAuthException",
            "code": refused.code,
            "fbtrace_id": f"Sim{next(self._traces):08d}",
        }
        if refused.subcode is not None:
            error["error_subcode"] = refused.subcode
        status = refused.status or _STATUSES.get(refused.code, 400)
        return json_response({"error": error}, status, self._headers())

    def _headers(self) -> Mapping[str, str]:
        kind = "messenger" if self._platform == "facebook" else self._platform
        use = {
            "type": kind,
            "call_count": self.usage_percent,
            "total_cputime": 0,
            "total_time": 0,
            "estimated_time_to_regain_access": 1 if self.usage_percent >= 100 else 0,
        }
        account = next(iter(self._accounts))
        return {"X-Business-Use-Case-Usage": json.dumps({account: [use]})}

    def _ok(self, content: Json) -> Response:
        return json_response(content, headers=self._headers())

    # ── calls ────────────────────────────────────────────────────────────────────────────────────

    def do(self, request: Request) -> tuple[Response, Send | None]:
        parts = request.path.strip("/").split("/")
        if parts[0] == "media":
            return self._download(request), None
        account = self._authorised(request)
        if parts == [_REFRESH]:
            return self._refresh(account, request), None
        node, edge = parts[1], parts[2] if len(parts) == 3 else ""
        match (request.method, edge):
            case ("POST", "messages"):
                self._ensure_own(account, node)
                return self._send(account, object_of(request.body, 100))
            case ("POST", "message_attachments"):
                self._ensure_own(account, node)
                if b"is_reusable" not in request.body or b"filedata" not in request.body:
                    raise Refusal(100, "message and filedata are required")
                upload = str(10**15 + next(self._traces))
                self._uploads.add(upload)
                return self._ok({"attachment_id": upload}), None
            case ("POST", "subscribed_apps"):
                return self._ok({"success": True}), None
            case ("GET", "") if node in ("me", account.account_id):
                known = {"id": account.account_id, "user_id": account.account_id}
                return self._ok({**known, "name": "Simulated business", "username": "simulated"}), None
            case ("GET", ""):
                customer = self._people.find(node)
                if customer is None:
                    raise Refusal(100, "No such user", subcode=33)
                first, _, last = customer.name.partition(" ")
                shown = {"id": node, "first_name": first, "last_name": last, "name": customer.name}
                return self._ok({**shown, "username": f"user{node[-6:]}"}), None
            case _:
                raise Refusal(100, "Unsupported request", subcode=33)

    def _authorised(self, request: Request) -> MessagingAccount:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            token = request.query.get("access_token", "")
        for account in self._accounts.values():
            if token and (account.access_token == token or self._earlier.get(token) == account.account_id):
                if account.account_id in self._expired:
                    raise Refusal(190, "The session has expired", subcode=463, status=401)
                return account
        raise Refusal(190, "Invalid OAuth access token", subcode=467, status=401)

    def _refresh(self, account: MessagingAccount, request: Request) -> Response:
        """Instagram Login's long-lived tokens. What is not played: that they must be a day old."""
        if self._platform != "instagram" or request.query.get("grant_type") != "ig_refresh_token":
            raise Refusal(100, "grant_type must be ig_refresh_token")
        self._earlier[account.access_token] = account.account_id
        token = f"SIM{secrets.token_urlsafe(48)}"
        self._renew(token, account.account_id)
        return self._ok({"access_token": token, "token_type": "bearer", "expires_in": _LIFE_SECONDS})

    def _ensure_own(self, account: MessagingAccount, node: str) -> None:
        if node not in ("me", account.account_id):
            raise Refusal(100, "No such account for this token", subcode=33)

    def _download(self, request: Request) -> Response:
        stored = self._media.by_url(
            request.query.get("mid", ""), request.query.get("hash", ""), trio.current_time()
        )
        return file_response(stored)

    # ── sends ────────────────────────────────────────────────────────────────────────────────────

    def _send(self, account: MessagingAccount, body: Json) -> tuple[Response, Send | None]:
        recipient = member_of(body, "recipient", 100).get("id")
        customer = self._people.find(recipient) if isinstance(recipient, str) else None
        if not isinstance(recipient, str) or (customer is None and not self._strangers_taken()):
            raise Refusal(100, "No matching user found", subcode=2018001)
        if "sender_action" in body:
            self._act(account, body)
            return self._ok({"recipient_id": recipient}), None
        message = member_of(body, "message", 100)
        self._check_window(body, now_ms() if customer is None else customer.heard_at)
        self._check_message(message)
        if not self._limits.admit(account.account_id, trio.current_time()):
            raise Refusal(613, "Calls to this API have exceeded the rate limit")
        self.ledger.ensure_room()
        metadata = message.get("metadata")
        send = Send(
            id=self._new_mid(),
            phone_number_id=account.account_id,
            recipient=recipient,
            type=_type_of(message),
            callback_data=metadata.rpartition(":")[2] if isinstance(metadata, str) else None,
            accepted_at=now_ms(),
        )
        self.ledger.record_send(send, body)
        self._accepted(account, send, message)
        return self._ok({"recipient_id": recipient, "message_id": send.id}), send

    def _act(self, account: MessagingAccount, body: Json) -> None:
        action = body["sender_action"]
        if action not in ACTIONS:
            raise Refusal(100, "sender_action is not known")
        if action in ("react", "unreact"):
            if not isinstance(member_of(body, "payload", 100).get("message_id"), str):
                raise Refusal(100, "payload.message_id is required")
            return
        typing, account_id = action == "typing_on", account.account_id
        self.ledger.record_mark(Mark(message_id="", phone_number_id=account_id, typing=typing, at=now_ms()))

    def _check_window(self, body: Json, heard_at: int) -> None:
        kind, window = body.get("messaging_type", "RESPONSE"), self._window()
        if kind not in ("RESPONSE", "UPDATE", "MESSAGE_TAG"):
            raise Refusal(100, "messaging_type is not known")
        if kind == "MESSAGE_TAG" and body.get("tag") not in ("HUMAN_AGENT", "CUSTOMER_FEEDBACK"):
            raise Refusal(100, "tag is not known")
        if window is None:
            return
        open_ms = 7 * _DAY_MS if kind == "MESSAGE_TAG" else window * 1_000
        if now_ms() - heard_at >= open_ms:
            subcode = 2018278 if self._platform == "facebook" else 2534022
            raise Refusal(10, "This message is sent outside of allowed window", subcode=subcode, status=403)

    def _check_message(self, message: Json) -> None:
        text, attachment = message.get("text"), message.get("attachment")
        if isinstance(text, str):
            size = len(text.encode()) if self._platform == "instagram" else len(text)
            if not text or size > (1_000 if self._platform == "instagram" else 1_999):
                raise Refusal(100, "message.text has a length that is not allowed")
        elif not isinstance(attachment, dict):
            raise Refusal(100, "message needs text or attachment")
        replies = message.get("quick_replies", [])
        if len(replies) > 13:
            raise Refusal(100, "at most 13 quick replies")
        if isinstance(attachment, dict):
            self._check_attachment(attachment)

    def _check_attachment(self, attachment: Json) -> None:
        if attachment.get("type") not in ATTACHMENTS:
            raise Refusal(100, "attachment.type is not known")
        payload = attachment.get("payload", {})
        if attachment["type"] != "template":
            named = payload.get("attachment_id")
            if named is not None and named not in self._uploads:
                raise Refusal(100, "The attachment is not known", subcode=2018008)
            return
        match payload.get("template_type"):
            case "button":
                text, buttons = payload.get("text", ""), payload.get("buttons", [])
                if not 1 <= len(text) <= 640 or not 1 <= len(buttons) <= 3:
                    raise Refusal(100, "a button template has 640 characters and 1 to 3 buttons")
            case "generic":
                elements = payload.get("elements", [])
                if not 1 <= len(elements) <= 10 or any(len(one.get("title", "")) > 80 for one in elements):
                    raise Refusal(100, "a generic template has 1 to 10 elements, titles of 80 characters")
            case _:
                raise Refusal(100, "template_type is not known")


def _route(request: Request) -> tuple[Route, str]:
    parts = request.path.strip("/").split("/")
    if parts[0] == "media" and request.method == "GET":
        return "media_download", ""
    if parts == [_REFRESH] and request.method == "GET":
        return "management", ""
    if not _VERSION.fullmatch(parts[0]) or not 2 <= len(parts) <= 3:
        raise Refusal(100, "Unknown path", status=404)
    edge = parts[2] if len(parts) == 3 else ""
    if request.method == "POST" and edge == "messages":
        return "send", parts[1]
    if request.method == "POST" and edge == "message_attachments":
        return "media_upload", parts[1]
    return "management", parts[1]


def _type_of(message: Json) -> str:
    attachment = message.get("attachment")
    return str(attachment["type"]) if isinstance(attachment, dict) else "text"
