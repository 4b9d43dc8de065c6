"""Calls to Google's APIs: addresses, authorisation, and what came of it.

Promises    `call` raises nothing but Cancelled. A call that Google refused for its token alone is made once
            more with another one, where one can be had: a refused call was surely not taken.
"""

from typing import Any, Final

import httpx
import msgspec
import trio
from msgspec import Struct

from adapters.calling import NEVER_SENT, never_sent, seconds_of
from adapters.google_business.errors import read_failure
from adapters.google_business.naming import is_location
from adapters.google_business.tokens import AccessTokens
from adapters.guard import Guard, guarded_client
from adapters.port import Account, Declined, ErrorClass, SendResult, Turn, Unanswered
from adapters.turns import written_in

Json = dict[str, Any]

_HOSTS: Final = {
    False: "https://businessmessages.googleapis.com/v1",
    True: "https://mybusiness.googleapis.com/v4",
}
"""By whether the account is a profile (sheet, A4 and B4)."""
_BOUNDED: Final[Json] = {"body_bytes_max": 1_048_576}
"""A page of 50 reviews of 4,096 characters each is some 300 kB."""
_object: Final = msgspec.json.Decoder(Json)


class Answered(Struct, frozen=True):
    """A success. `body` is empty where the answer was."""

    body: Json


class GoogleCalls:
    """A client and the accounts' tokens. Use as an async context manager."""

    def __init__(self, guard: Guard, *, connections_max: int, seconds_max: float) -> None:
        self._seconds_max = seconds_max
        self._timeout = httpx.Timeout(seconds_max, connect=5.0)
        self._client = guarded_client(guard, connections_max=connections_max, timeout=self._timeout)
        self._tokens = AccessTokens(self._client)

    async def __aenter__(self) -> "GoogleCalls":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def call(
        self, account: Account, method: str, path: str, body: Json | None = None, turn: Turn | None = None
    ) -> Answered | Declined | Unanswered:
        """`path` is what follows the version, its parts quoted where they need it."""
        for again in (True, False):
            token = await self._tokens.have(account)
            if isinstance(token, Declined):
                return token
            result = await self._once(account, method, path, body, token, turn)
            turn = None
            refused = isinstance(result, Declined) and result.platform_code in _TOKEN_CODES
            if not (refused and again and self._tokens.forget(account, token)):
                return result
        raise AssertionError("unreachable: the second round returns")

    async def _once(
        self, account: Account, method: str, path: str, body: Json | None, token: str, turn: Turn | None
    ) -> Answered | Declined | Unanswered:
        headers = {"Authorization": f"Bearer {token}"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            request = self._client.build_request(
                method,
                f"{_base_of(account)}/{path}",
                content=msgspec.json.encode(body) if body is not None else None,
                headers=headers,
                extensions={
                    **_BOUNDED,
                    "timeout": self._timeout.as_dict(),
                    **({} if turn is None else written_in(turn)),
                },
            )
            with trio.fail_after(self._seconds_max):
                answer = await self._client.send(request)
        except NEVER_SENT as error:
            return never_sent(error)
        except (httpx.HTTPError, httpx.StreamError, trio.TooSlowError) as error:
            return Unanswered(reason=type(error).__name__)
        if not answer.is_success:
            wait = seconds_of(answer.headers.get("retry-after"))
            failure: SendResult = read_failure(answer.status_code, answer.content, wait)
            assert isinstance(failure, Declined | Unanswered)
            return failure
        try:
            return Answered(_object.decode(answer.content) if answer.content.strip() else {})
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return Unanswered(reason="a success that cannot be read")

    async def read(self, account: Account, path: str) -> Json | Declined:
        """A GET, which changes nothing: without an answer it may be tried again."""
        result = await self.call(account, "GET", path)
        match result:
            case Answered():
                return result.body
            case Declined():
                return result
            case Unanswered():
                return Declined(
                    error_class=ErrorClass.TRANSIENT,
                    platform_code="unanswered",
                    message=f"Google gave no answer that can be read ({result.reason}).",
                )


_TOKEN_CODES: Final = frozenset({"UNAUTHENTICATED", "http_401"})


def _base_of(account: Account) -> str:
    location = is_location(account.external_id)
    base = account.settings.get("base_url")
    if not base:
        return _HOSTS[location]
    return f"{str(base).rstrip('/')}/{'v4' if location else 'v1'}"
