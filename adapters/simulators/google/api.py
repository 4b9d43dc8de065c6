"""What the two played APIs have in common: who may call, and how a refusal looks (sheet, B5)."""

from collections.abc import Callable, Collection, Mapping
from typing import Final

from adapters.simulators.faults import FaultBook
from adapters.simulators.google.accounts import GoogleAccount
from adapters.simulators.http import Request, Response, json_response
from adapters.simulators.ledger import Ledger
from adapters.simulators.limits import AccountLimits
from adapters.simulators.playing.calls import Calls, Refusal

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
        sends_per_second_max: Callable[[str], int],
    ) -> None:
        super().__init__(ledger=ledger, faults=faults)
        self.limits = AccountLimits(sends_per_second_max)
        self.accounts = accounts
        self.expired = expired

    def written(self, refused: Refusal) -> Response:
        word = _WORDS.get(refused.code, "UNKNOWN")
        status = refused.status or (refused.code if refused.code in _WORDS else 500)
        error = {"code": status, "message": refused.message, "status": word}
        return json_response({"error": error}, status)

    def authorised(self, request: Request) -> GoogleAccount:
        """The account that the call's token is for. Raises Refusal."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        for account in self.accounts.values():
            known = token and token == account.access_token and account.account_id not in self.expired
            if scheme.lower() == "bearer" and known:
                return account
        raise Refusal(401, "Request had invalid authentication credentials.")
