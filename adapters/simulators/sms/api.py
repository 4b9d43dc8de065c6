"""The REST API of the played Twilio: messages, look-ups, files, errors.

Source      The Twilio sheet, sections 4 to 8. A send is never idempotent.
"""

import base64
import binascii
import re
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from email.utils import formatdate
from typing import Any, Final
from urllib.parse import parse_qsl

import trio
from msgspec import Struct

from adapters.simulators.faults import FaultBook, Route
from adapters.simulators.http import Request, Response, json_response
from adapters.simulators.ledger import Ledger, Send
from adapters.simulators.limits import AccountLimits
from adapters.simulators.media import MediaStore, file_response
from adapters.simulators.playing.calls import Calls, Refusal
from adapters.simulators.webhooks import now_ms
from adapters.sms.segments import segments

Json = dict[str, Any]
Form = dict[str, str]

API: Final = "2010-04-01"
_STATUSES: Final = {20003: 401, 20404: 404, 20429: 429, 20500: 500, 20503: 503}
"""What goes with a code; 400 with all others."""
_NUMBER: Final = re.compile(r"\+[1-9][0-9]{6,14}|[0-9]{3,6}")
_CONTENT: Final = re.compile(r"HX[0-9a-f]{32}", re.IGNORECASE)
_STORE: Final = "store"


class SmsAccount(Struct, frozen=True, kw_only=True):
    """A sender and the account that it belongs to."""

    account_id: str
    account_sid: str
    auth_token: str

    @property
    def access_token(self) -> str:
        return self.auth_token


Accepted = Callable[[SmsAccount, Send, Form], None]


class TwilioApi(Calls):
    """What others see of it is in the ledger, the media store and the fault book."""

    def __init__(
        self,
        accounts: Mapping[str, SmsAccount],
        *,
        ledger: Ledger,
        media: MediaStore,
        faults: FaultBook,
        new_sid: Callable[[str], str],
        accepted: Accepted,
        expired: Collection[str],
        sends_per_second_max: Callable[[str], int],
        base_url: Callable[[], str],
    ) -> None:
        super().__init__(ledger=ledger, faults=faults)
        self.opted_out: set[tuple[str, str]] = set()
        self._accounts = accounts
        self._media = media
        self._new_sid = new_sid
        self._accepted = accepted
        self._expired = expired
        self._base_url = base_url
        self._limits = AccountLimits(sends_per_second_max)
        self._messages: dict[str, Json] = {}

    def route(self, request: Request) -> tuple[Route, str | None]:
        parts = request.path.strip("/").split("/")
        if parts[0] == _STORE:
            return "media_download", None
        if parts[0] != API or len(parts) < 3 or parts[1] != "Accounts":
            raise Refusal(20404, f"The requested resource {request.path:.80} was not found")
        if "Media" in parts:
            return "media_look_up", None
        if request.method == "POST" and parts[-1] == "Messages.json":
            return "send", None
        return "management", None

    def written(self, refused: Refusal) -> Response:
        status = refused.status or _STATUSES.get(refused.code, 400)
        body = {
            "code": refused.code,
            "message": refused.message,
            "more_info": f"https://www.twilio.com/docs/errors/{refused.code}",
            "status": status,
        }
        return json_response(body, status)

    def do(self, request: Request) -> tuple[Response, Send | None]:
        parts = request.path.strip("/").split("/")
        if parts[0] == _STORE:
            return self._stored(parts[1], request), None
        held = self._authorised(request)
        if parts[2].removesuffix(".json") != held[0].account_sid:
            raise Refusal(20404, "The account was not found")
        match (request.method, parts[3:]):
            case ("POST", ["Messages.json"]):
                return self._send(held, dict(parse_qsl(request.body.decode(), keep_blank_values=True)))
            case ("GET", ["Messages.json"]):
                to, day = request.query.get("To"), request.query.get("DateSent", "")
                found = [one for one in self._messages.values() if to in (None, one["to"])]
                return json_response({"messages": [one for one in found if one["day"].startswith(day)]}), None
            case ("GET", ["Messages", sid, "Media", media]):
                return self._redirected(sid, media), None
            case ("GET", ["Messages", sid]) if sid.removesuffix(".json") in self._messages:
                return json_response(self._messages[sid.removesuffix(".json")]), None
            case ("GET", []):
                shown = {"sid": held[0].account_sid, "friendly_name": "Simulated", "type": "Full"}
                return json_response({**shown, "status": "active"}), None
            case _:
                raise Refusal(20404, "The requested resource was not found")

    def file_url(self, sender: str, sid: str, media_type: str, content: bytes) -> str:
        """Where a file of a customer's message can be fetched, with the account's credentials."""
        stored = self._media.put(sender, media_type, content, trio.current_time())
        account_sid = self._accounts[sender].account_sid
        return f"{self._base_url()}/{API}/Accounts/{account_sid}/Messages/{sid}/Media/ME{stored.id}"

    # ── files ────────────────────────────────────────────────────────────────────────────────────

    def _redirected(self, sid: str, media: str) -> Response:
        stored = self._media.get(media.removeprefix("ME"), trio.current_time())
        if stored is None:
            raise Refusal(20404, "The requested resource was not found")
        secret = self._media.new_url_secret(stored, trio.current_time())
        return Response(
            307, b"", headers={"Location": f"{self._base_url()}/{_STORE}/{stored.id}?key={secret}"}
        )

    def _stored(self, stored_id: str, request: Request) -> Response:
        stored = self._media.by_url(stored_id, request.query.get("key", ""), trio.current_time())
        return file_response(stored)

    # ── sends ────────────────────────────────────────────────────────────────────────────────────

    def _authorised(self, request: Request) -> list[SmsAccount]:
        """The senders of the account whose credentials these are."""
        scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
        try:
            user, _, token = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, ValueError):
            user = token = ""
        held = [
            one
            for one in self._accounts.values()
            if scheme.lower() == "basic" and (one.account_sid, one.auth_token) == (user, token)
        ]
        if not held or any(one.account_id in self._expired for one in held):
            raise Refusal(20003, "Authenticate")
        return held

    def _send(self, held: list[SmsAccount], form: Form) -> tuple[Response, Send | None]:
        account = self._sender(held, form)
        to, body = form.get("To", ""), form.get("Body", "")
        if not _NUMBER.fullmatch(to.removeprefix("whatsapp:")):
            raise Refusal(21211, f"Invalid 'To' Phone Number: {to:.40}")
        if len(body) > 1_600:
            raise Refusal(21617, "The concatenated message body exceeds the 1600 character limit")
        if not (body.strip() or form.get("MediaUrl") or form.get("ContentSid")):
            raise Refusal(21602, "Message body is required")
        if "ContentSid" in form and not _CONTENT.fullmatch(form["ContentSid"]):
            raise Refusal(21655, "The ContentSid is invalid")
        if (account.account_id, to.lstrip("+")) in self.opted_out:
            raise Refusal(21610, "Attempt to send to unsubscribed recipient")
        if not self._limits.admit(account.account_id, trio.current_time()):
            raise Refusal(20429, "Too Many Requests")
        self.ledger.ensure_room()
        callback = dict(parse_qsl(form.get("StatusCallback", "").partition("?")[2]))
        send = Send(
            id=self._new_sid("MM" if "MediaUrl" in form else "SM"),
            phone_number_id=account.account_id,
            recipient=to.removeprefix("whatsapp:").removeprefix("+"),
            type="template" if "ContentSid" in form else "media" if "MediaUrl" in form else "text",
            callback_data=callback.get("message"),
            accepted_at=now_ms(),
        )
        self.ledger.record_send(send, dict(form))
        shown = self._shown(account, send, form)
        self._messages[send.id] = shown
        self._accepted(account, send, form)
        return json_response(shown, 201), send

    def _sender(self, held: list[SmsAccount], form: Form) -> SmsAccount:
        named = form.get("MessagingServiceSid") or form.get("From", "")
        for account in held:
            if account.account_id.partition("@")[0] == named:
                return account
        raise Refusal(21606, f"The 'From' {named:.40} is not one of this account's")

    def _shown(self, account: SmsAccount, send: Send, form: Form) -> Json:
        by_service = "MessagingServiceSid" in form
        return {
            "sid": send.id,
            "account_sid": account.account_sid,
            "messaging_service_sid": form.get("MessagingServiceSid"),
            "from": form.get("From"),
            "to": form["To"],
            "body": form.get("Body", ""),
            "status": "accepted" if by_service else "queued",
            "num_segments": "0" if by_service else str(segments(form.get("Body", "")).count),
            "num_media": "1" if "MediaUrl" in form else "0",
            "direction": "outbound-api",
            "error_code": None,
            "error_message": None,
            "date_created": formatdate(send.accepted_at / 1_000),
            "day": datetime.fromtimestamp(send.accepted_at / 1_000, UTC).date().isoformat(),
            "uri": f"/{API}/Accounts/{account.account_sid}/Messages/{send.id}.json",
        }
