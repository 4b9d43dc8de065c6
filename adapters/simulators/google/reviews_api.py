"""The API of the played profiles: reviews and their answers, keys, access tokens (sheet, B3 to B5)."""

import secrets
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs

import trio

from adapters.simulators.faults import Route
from adapters.simulators.google.accounts import GoogleAccount
from adapters.simulators.google.api import GoogleApi
from adapters.simulators.google.times import micros
from adapters.simulators.http import Request, Response, json_response
from adapters.simulators.ledger import Send
from adapters.simulators.playing.calls import Refusal, object_of
from adapters.simulators.playing.cast import Json
from adapters.simulators.webhooks import now_ms

if TYPE_CHECKING:
    from adapters.simulators.google.reviews import ReviewsSimulator

RATINGS: Final = ("ONE", "TWO", "THREE", "FOUR", "FIVE")
_EDITS_PER_SECOND: Final = 20
"""Of a profile. Google is said to take ten a minute, too few for a demo."""


class ReviewsApi(GoogleApi):
    """The Business Profile API's reviews, Google's keys, and its token endpoint (sheet, B3 to B5)."""

    def __init__(self, sim: "ReviewsSimulator") -> None:
        super().__init__(
            sim.accounts,
            ledger=sim.ledger,
            faults=sim.faults,
            expired=sim.expired,
            sends_per_second_max=lambda account_id: sim.per_second_max(account_id, _EDITS_PER_SECOND),
        )
        self._sim = sim

    def route(self, request: Request) -> tuple[Route, str | None]:
        return ("send" if request.method == "PUT" else "management"), None

    def do(self, request: Request) -> tuple[Response, Send | None]:
        parts = request.path.strip("/").split("/")
        if request.path == "/oauth2/v3/certs":
            headers = {"Cache-Control": "public, max-age=3600"}
            return Response(200, self._sim.keys.published(), headers=headers), None
        if request.path == "/token" and request.method == "POST":
            return self._token(request), None
        account = self.authorised(request)
        location = account.account_id
        if parts[0] != "v4" or "/".join(parts[1:5]) != location or parts[5:6] != ["reviews"]:
            raise Refusal(404, "Requested entity was not found.")
        match (request.method, parts[6:]):
            case ("GET", []):
                return self._page(location, request), None
            case ("GET", [_]):
                return json_response(self._review(location, parts[6])), None
            case ("PUT", [_, "reply"]):
                return self._reply(account, parts[6], object_of(request.body, 400))
            case ("DELETE", [_, "reply"]):
                if self._review(location, parts[6]).pop("reviewReply", None) is None:
                    raise Refusal(404, "Requested entity was not found.")
                return json_response({}), None
            case _:
                raise Refusal(404, "Requested entity was not found.")

    def _review(self, location: str, review: str) -> Json:
        found = self._sim.reviews.get(f"{location}/reviews/{review}")
        if found is None:
            raise Refusal(404, "Requested entity was not found.")
        return found

    def _page(self, location: str, request: Request) -> Response:
        """The newest change first, 50 at most."""
        size = request.query.get("pageSize", "50")
        token = request.query.get("pageToken", "0")
        if not (size.isdigit() and 1 <= int(size) <= 50 and token.isdigit()):
            raise Refusal(400, "pageSize is 1 to 50")
        found = [each for name, each in self._sim.reviews.items() if name.startswith(f"{location}/")]
        found.sort(key=lambda each: each["updateTime"], reverse=True)
        start, end = int(token), int(token) + int(size)
        page: Json = {"reviews": found[start:end], "totalReviewCount": len(found)}
        if found:
            page["averageRating"] = sum(1 + RATINGS.index(each["starRating"]) for each in found) / len(found)
        if end < len(found):
            page["nextPageToken"] = str(end)
        return json_response(page)

    def _reply(self, account: GoogleAccount, review_id: str, body: Json) -> tuple[Response, Send | None]:
        review, comment = self._review(account.account_id, review_id), body.get("comment")
        if not isinstance(comment, str) or not 1 <= len(comment.encode()) <= 4_096:
            raise Refusal(400, "comment has 1 to 4096 bytes")
        if not self.limits.admit(account.account_id, trio.current_time()):
            raise Refusal(429, "Quota exceeded.")
        self.ledger.ensure_room()
        at = self._sim.now()
        reply = {"comment": comment, "updateTime": at}
        review["reviewReply"] = reply
        key = f"reviews/{review_id}"
        send = Send(
            id=f"{key}/reply@{micros(at)}",
            phone_number_id=account.account_id,
            recipient=key,
            type="text",
            callback_data=None,
            accepted_at=now_ms(),
        )
        self.ledger.record_send(send, body)
        self._sim.heard(account, send, body)
        return json_response(reply), send

    def _token(self, request: Request) -> Response:
        """An access token for a refresh token (RFC 6749, 6)."""
        form = {name: values[0] for name, values in parse_qs(request.body.decode("utf-8", "replace")).items()}
        for account in self.accounts.values():
            names = ("refresh_token", "client_id", "client_secret")
            if form.get("grant_type") == "refresh_token" and all(
                getattr(account, name) and secrets.compare_digest(form.get(name, ""), getattr(account, name))
                for name in names
            ):
                if account.account_id in self.expired:
                    break
                token = account.access_token
                return json_response({"access_token": token, "expires_in": 3_599, "token_type": "Bearer"})
        error = {"error": "invalid_grant", "error_description": "Token has been expired or revoked."}
        return json_response(error, 400)
