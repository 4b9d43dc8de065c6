"""The Graph API of the played platform: what a business calls.

Promises    Routes, answers and error bodies of the sheet's sections 5, 6 and 8: `messages`, `media` with
            look-up, download and delete, phone numbers, templates, `subscribed_apps`, `register`. A send is
            never idempotent: each accepted POST is a new message, as on the real platform.
Limits      1 MB for a call, 100 MB for an upload (the sheet's largest kind, with its frame).
Leaves      Statuses and customers' answers to `whatsapp`, through the `accepted` callback.
"""

import itertools
import re
import zlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

import trio
from msgspec import Struct

from adapters.simulators.accounts import WhatsAppAccount
from adapters.simulators.faults import FaultBook, Route
from adapters.simulators.graph_errors import GraphError
from adapters.simulators.http import Request, Response, json_response, multipart_of
from adapters.simulators.ledger import Ledger, Mark, Send
from adapters.simulators.limits import NumberLimit, PairLimit
from adapters.simulators.media import MediaObject, MediaStore
from adapters.simulators.playing.calls import Calls, Refusal, object_of
from adapters.simulators.sends import OutboundMessage, ReadMark, read_send
from adapters.simulators.settings import Settings
from adapters.simulators.webhooks import now_ms
from engine.errors import Unavailable

CALL_BYTES_MAX = 1_000_000
UPLOAD_BYTES_MAX = 101_000_000
_VERSION = re.compile(r"v\d{1,3}\.\d{1,2}")

Accepted = Callable[[WhatsAppAccount, OutboundMessage, Send], None]


class _Call(Struct, frozen=True):
    route: Route
    node: str
    edge: str


class GraphApi(Calls):
    """State that others see lives in the ledger, the media store and the fault book."""

    def __init__(
        self,
        accounts: Mapping[str, WhatsAppAccount],
        *,
        settings: Callable[[], Settings],
        ledger: Ledger,
        media: MediaStore,
        faults: FaultBook,
        new_id: Callable[[str, bool], str],
        base_url: Callable[[], str],
        accepted: Accepted,
        per_second_max: Callable[[str], int],
        expired: Collection[str],
    ) -> None:
        super().__init__(ledger=ledger, faults=faults)
        self._accounts = accounts
        self._settings = settings
        self._media = media
        self._new_id = new_id
        self._base_url = base_url
        self._accepted = accepted
        self._per_second_max = per_second_max
        self._expired = expired
        self._traces = itertools.count(1)
        self._pairs = PairLimit(settings().pair_seconds, settings().pair_burst_max)
        self._numbers = {id_: NumberLimit(settings().sends_per_second_max) for id_ in accounts}

    def body_limit(self, method: str, path: str) -> int:
        return UPLOAD_BYTES_MAX if method == "POST" and path.endswith("/media") else CALL_BYTES_MAX

    def settings_changed(self) -> None:
        """Take over new limits; debts of pairs stay as they are."""
        self._pairs.seconds = self._settings().pair_seconds
        self._pairs.burst = self._settings().pair_burst_max

    def peaks(self) -> dict[str, int]:
        """The most accepted sends of each number in any one second so far."""
        return {phone_number_id: limit.peak for phone_number_id, limit in self._numbers.items()}

    def route(self, request: Request) -> tuple[Route, str | None]:
        call = _route(request)
        return call.route, call.node

    def written(self, refused: Refusal) -> Response:
        # A fault's refusal knows a code alone.
        error = GraphError(refused.code, refused.message, status=refused.status, subcode=refused.subcode)
        return error.response(f"Sim{next(self._traces):08d}")

    def do(self, request: Request) -> tuple[Response, Send | None]:
        call = _route(request)
        now = trio.current_time()
        accounts = self._authorised(request)
        if call.route == "media_download":
            return self._download(call.node, request.query.get("hash", ""), accounts, now), None
        if call.route == "send":
            account = _own(accounts, call.node)
            parsed = read_send(object_of(request.body, 100), self._settings().templates)
            if isinstance(parsed, ReadMark):
                return self._mark(account, parsed), None
            return self._send(account, parsed, now)
        if call.route == "media_upload":
            return self._upload(_own(accounts, call.node), request, now), None
        stored = self._media.get(call.node, now)
        if stored is not None and not call.edge and _may_see(stored, accounts):
            return self._media_node(request, stored, now), None
        return self._manage(request, call, accounts), None

    def _authorised(self, request: Request) -> list[WhatsAppAccount]:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() not in ("bearer", "oauth") or not token:
            token = request.query.get("access_token", "")
        accounts = [
            account
            for account in self._accounts.values()
            if account.access_token == token and account.phone_number_id not in self._expired
        ]
        if not accounts:
            raise GraphError(190, "The access token is missing, malformed, expired or not known")
        return accounts

    # ── messages ─────────────────────────────────────────────────────────────────────────────────

    def _send(self, account: WhatsAppAccount, message: OutboundMessage, now: float) -> tuple[Response, Send]:
        if message.recipient == account.display_phone_number:
            raise GraphError(131021, "The recipient is the sender")
        if message.media_id is not None:
            stored = self._media.get(message.media_id, now)
            if stored is None or stored.phone_number_id != account.phone_number_id:
                raise GraphError(131009, "The media id is not known to this number")
        self._admit(account.phone_number_id, message.recipient, now)
        send = Send(
            id=self._new_id(message.recipient, False),
            phone_number_id=account.phone_number_id,
            recipient=message.recipient,
            type=message.type,
            callback_data=message.callback_data,
            accepted_at=now_ms(),
        )
        self.ledger.record_send(send, message.body)
        self._accepted(account, message, send)
        by_user_id = not message.recipient.isdigit()
        person = {"user_id": message.recipient} if by_user_id else {"wa_id": message.recipient}
        answer = {
            "messaging_product": "whatsapp",
            "contacts": [{"input": message.given, **person}],
            "messages": [{"id": send.id}],
        }
        if message.type == "template":
            answer["messages"] = [{"id": send.id, "message_status": "accepted"}]
        return json_response(answer), send

    def _admit(self, phone_number_id: str, recipient: str, now: float) -> None:
        settings = self._settings()
        try:
            self.ledger.ensure_room()
        except Unavailable as full:
            raise GraphError(131016, full.message) from full
        number = self._numbers[phone_number_id]
        number.per_second = self._per_second_max(phone_number_id)
        if not number.has_room(now):
            raise GraphError(
                130429,
                f"More than {number.per_second} messages per second",
                status=settings.rate_limit_http_status,
            )
        if not self._pairs.admit(phone_number_id, recipient, now):
            raise GraphError(131056, "Too many messages to this user in a short time")
        number.count(now)

    def _mark(self, account: WhatsAppAccount, mark: ReadMark) -> Response:
        known = self.ledger.message(mark.message_id)
        if known is None or known.phone_number_id != account.phone_number_id:
            raise GraphError(131009, "message_id is not that of a message to this number")
        self.ledger.record_mark(
            Mark(
                message_id=mark.message_id,
                phone_number_id=account.phone_number_id,
                typing=mark.typing,
                at=now_ms(),
            )
        )
        return json_response({"success": True})

    # ── media ────────────────────────────────────────────────────────────────────────────────────

    def _upload(self, account: WhatsAppAccount, request: Request, now: float) -> Response:
        parts = multipart_of(request)
        if parts is None:
            raise GraphError(100, "The body must be multipart/form-data")
        if parts.get("messaging_product", (b"", ""))[0] != b"whatsapp":
            raise GraphError(100, "messaging_product must be whatsapp")
        if "file" not in parts:
            raise GraphError(131008, "file is required")
        content, part_type = parts["file"]
        mime_type = parts["type"][0].decode("latin-1") if "type" in parts else part_type
        return json_response({"id": self._media.upload(account.phone_number_id, mime_type, content, now).id})

    def _media_node(self, request: Request, stored: MediaObject, now: float) -> Response:
        if request.query.get("phone_number_id", stored.phone_number_id) != stored.phone_number_id:
            raise _no_such_object(stored.id)
        if request.method == "DELETE":
            return json_response({"success": self._media.delete(stored.id)})
        if request.method != "GET":
            raise GraphError(100, f"Unsupported {request.method.lower()} request")
        secret = self._media.new_url_secret(stored, now)
        return json_response(
            {
                "messaging_product": "whatsapp",
                "url": f"{self._base_url()}/whatsapp_business/attachments/?mid={stored.id}&hash={secret}",
                "mime_type": stored.mime_type,
                "sha256": stored.sha256.hex(),
                "file_size": len(stored.content),
                "id": stored.id,
            }
        )

    def _download(self, media_id: str, secret: str, accounts: list[WhatsAppAccount], now: float) -> Response:
        stored = self._media.by_url(media_id, secret, now)
        if stored is None or not _may_see(stored, accounts):
            return Response(404, b"", "text/plain")
        return Response(200, stored.content, stored.mime_type)

    # ── management ───────────────────────────────────────────────────────────────────────────────

    def _manage(self, request: Request, call: _Call, accounts: list[WhatsAppAccount]) -> Response:
        numbers = [one for one in accounts if one.waba_id == call.node]
        match (request.method, call.edge):
            case ("GET", ""):
                return json_response(_phone_number(_own(accounts, call.node), self._settings()))
            case ("GET", "phone_numbers") if numbers:
                return json_response(_page([_phone_number(one, self._settings()) for one in numbers]))
            case ("GET", "message_templates") if numbers:
                return json_response(_page([_template(one) for one in self._settings().templates]))
            case ("GET", "subscribed_apps") if numbers:
                return json_response(
                    _page([{"whatsapp_business_api_data": {"id": "1", "name": "Simulated app"}}])
                )
            case ("POST", "subscribed_apps") if numbers:
                return json_response({"success": True})
            case ("POST", "register"):
                _own(accounts, call.node)
                return json_response({"success": True})
            case _:
                raise _no_such_object(call.node)


def _route(request: Request) -> _Call:
    parts = request.path.strip("/").split("/")
    if parts[:2] == ["whatsapp_business", "attachments"] and request.method == "GET":
        return _Call("media_download", request.query.get("mid", ""), "")
    if not _VERSION.fullmatch(parts[0]) or not 2 <= len(parts) <= 3:
        raise GraphError(100, "Unknown path: expected /{version}/{id} or /{version}/{id}/{edge}", status=404)
    node, edge = parts[1], parts[2] if len(parts) == 3 else ""
    if request.method == "POST" and edge == "messages":
        return _Call("send", node, edge)
    if request.method == "POST" and edge == "media":
        return _Call("media_upload", node, edge)
    if request.method == "GET" and not edge:
        return _Call("media_look_up", node, edge)
    return _Call("management", node, edge)


def _own(accounts: list[WhatsAppAccount], phone_number_id: str) -> WhatsAppAccount:
    for account in accounts:
        if account.phone_number_id == phone_number_id:
            return account
    raise _no_such_object(phone_number_id)


def _may_see(stored: MediaObject, accounts: list[WhatsAppAccount]) -> bool:
    return any(account.phone_number_id == stored.phone_number_id for account in accounts)


def _no_such_object(node: str) -> GraphError:
    return GraphError(
        100, f"Object {node!r:.60} does not exist or is not visible with this token", subcode=33
    )


def _page(items: list[dict[str, Any]]) -> dict[str, Any]:
    return {"data": items, "paging": {"cursors": {"before": "MAZDZD", "after": "MjQZD"}}}


def _phone_number(account: WhatsAppAccount, settings: Settings) -> dict[str, Any]:
    high = settings.sends_per_second_max > 80
    return {
        "id": account.phone_number_id,
        "display_phone_number": f"+{account.display_phone_number}",
        "verified_name": "Simulated business",
        "quality_rating": "GREEN",
        "code_verification_status": "VERIFIED",
        "platform_type": "CLOUD_API",
        "throughput": {"level": "HIGH" if high else "STANDARD"},
        "whatsapp_business_manager_messaging_limit": "TIER_UNLIMITED",
    }


def _template(template: Any) -> dict[str, Any]:
    return {
        "id": str(zlib.crc32(f"{template.name}/{template.language}".encode())),
        "name": template.name,
        "language": template.language,
        "category": template.category,
        "status": "APPROVED",
        "components": [{"type": "BODY", "text": template.text}],
    }
