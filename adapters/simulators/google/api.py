"""What the two played APIs have in common: who may call, and how a refusal looks (sheet, B5)."""

from collections.abc import Collection, Mapping
from typing import Any, Final

import msgspec

from adapters.simulators.faults import FaultBook
from adapters.simulators.google.accounts import GoogleAccount
from adapters.simulators.http import Request, Response
from adapters.simulators.ledger import Ledger
from adapters.simulators.playing.calls import Calls, Refusal

Json = dict[str, Any]

CALL_BYTES_MAX: Final = 65_536
_WORDS: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ALREADY_EXISTS",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}


class GoogleApi(Calls):
    """A refusal's code is HTTP's, from which Google's word follows."""

    def __init__(
        self,
        accounts: Mapping[str, GoogleAccount],
        *,
        ledger: Ledger,
        faults: FaultBook,
        expired: Collection[str],
    ) -> None:
        super().__init__(ledger=ledger, faults=faults)
        self.accounts = accounts
        self.expired = expired

    def refusal(self, refused: Refusal, retry_after_seconds: float | None) -> Response:
        word = _WORDS.get(refused.code, "UNKNOWN")
        status = refused.status or (refused.code if refused.code in _WORDS else 500)
        error = {"code": status, "message": refused.message, "status": word}
        headers = {} if retry_after_seconds is None else {"Retry-After": f"{retry_after_seconds:g}"}
        return Response(status, msgspec.json.encode({"error": error}), headers=headers)

    def authorised(self, request: Request) -> GoogleAccount:
        """The account that the call's token is for. Raises Refusal."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        for account in self.accounts.values():
            known = token and token == account.access_token and account.account_id not in self.expired
            if scheme.lower() == "bearer" and known:
                return account
        raise Refusal(401, "Request had invalid authentication credentials.")


def ok(content: Json) -> Response:
    return Response(200, msgspec.json.encode(content))


def body_of(request: Request) -> Json:
    """Raises Refusal for a body that is no object."""
    try:
        decoded = msgspec.json.decode(request.body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refusal(400, "Invalid JSON payload received.") from error
    if not isinstance(decoded, dict):
        raise Refusal(400, "Invalid JSON payload received.")
    return decoded
