"""The API of the played agents: messages, events, and the pictures that customers send (sheet, A4)."""

from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import trio

from adapters.simulators.faults import Route
from adapters.simulators.google.accounts import GoogleAccount
from adapters.simulators.google.api import GoogleApi
from adapters.simulators.http import Request, Response, json_response
from adapters.simulators.ledger import Mark, Send
from adapters.simulators.playing.calls import Refusal, object_of
from adapters.simulators.playing.cast import Json
from adapters.simulators.webhooks import now_ms

if TYPE_CHECKING:
    from adapters.simulators.google.messages import MessagesSimulator

_SENDS_PER_SECOND: Final = 100
"""Of an agent; the sheet has no number."""
_EVENTS: Final = ("TYPING_STARTED", "TYPING_STOPPED", "REPRESENTATIVE_JOINED", "REPRESENTATIVE_LEFT")
_CONTENTS: Final = ("text", "image", "richCard")


class MessagesApi(GoogleApi):
    """The historic Business Messages API (sheet, A4)."""

    def __init__(self, sim: "MessagesSimulator") -> None:
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

    def _ensure_known(self, key: str) -> None:
        if self._sim.cast.find(key) is None and not self._sim.settings.strangers_taken:
            raise Refusal(404, "Requested entity was not found.")

    def _send(self, account: GoogleAccount, key: str, body: Json) -> tuple[Response, Send | None]:
        self._ensure_known(key)
        name = _uuid(body.get("messageId"))
        self._check(body)
        if self.ledger.send(name) is not None:
            raise Refusal(409, "Requested entity already exists")
        if not self.limits.admit(account.account_id, trio.current_time()):
            raise Refusal(429, "Quota exceeded.")
        self.ledger.ensure_room()
        send = Send(
            id=name,
            phone_number_id=account.account_id,
            recipient=key,
            type=next(each for each in _CONTENTS if each in body),
            # A UUID of version 8 is its maker's own: the business has put its message's id there.
            callback_data=str(UUID(name).int & (1 << 62) - 1) if UUID(name).version == 8 else None,
            accepted_at=now_ms(),
        )
        self.ledger.record_send(send, body)
        self._sim.accepted(account, send, body)
        return json_response({**body, "name": f"conversations/{key}/messages/{name}"}), send

    def _event(self, account: GoogleAccount, key: str, name: str, body: Json) -> Response:
        self._ensure_known(key)
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
