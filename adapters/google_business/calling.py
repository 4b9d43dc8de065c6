"""Calls to Google's APIs: addresses, authorisation, and what came of it.

Promises    `call` raises nothing but Cancelled. A call that Google refused for its token alone is made once
            more with another one, where one can be had: a refused call was surely not taken.
"""

from typing import Final, Self

import httpx
import msgspec
from msgspec import Struct

from adapters.calling import repeatable
from adapters.client import PlatformClient
from adapters.google_business.errors import read_failure
from adapters.google_business.limits import LABEL
from adapters.google_business.naming import is_location
from adapters.google_business.tokens import AccessTokens
from adapters.guard import Guard
from adapters.port import Account, Declined, Failure, Turn, Unanswered
from adapters.wire import Json, decoded

_HOSTS: Final = {
    False: "https://businessmessages.googleapis.com/v1",
    True: "https://mybusiness.googleapis.com/v4",
}
"""By whether the account is a profile (sheet, A4 and B4)."""
_ANSWER_BYTES_MAX: Final = 1_048_576
"""A page of 50 reviews of 4,096 characters each is some 300 kB."""
_object: Final = msgspec.json.Decoder(Json)


class Answered(Struct, frozen=True):
    """A success. `body` is empty where the answer was."""

    body: Json


class GoogleCalls:
    """A client and the accounts' tokens. Use as an async context manager."""

    def __init__(self, guard: Guard, *, connections_max: int, seconds_max: float) -> None:
        self._client = PlatformClient(
            guard, LABEL, read_failure, connections_max=connections_max, seconds_max=seconds_max
        )
        self._tokens = AccessTokens(self._client)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.__aexit__()

    async def call(
        self, account: Account, method: str, path: str, body: Json | None = None, turn: Turn | None = None
    ) -> Answered | Failure:
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
    ) -> Answered | Failure:
        answer = await self._client.call(
            method,
            f"{_base_of(account)}/{path}",
            json=body,
            headers={"Authorization": f"Bearer {token}"},
            turn=turn,
            answer_bytes_max=_ANSWER_BYTES_MAX,
        )
        if not isinstance(answer, httpx.Response):
            return answer
        read = decoded(_object, answer.content) if answer.content.strip() else {}
        return Unanswered(reason="a success that cannot be read") if read is None else Answered(read)

    async def read(self, account: Account, path: str) -> Json | Declined:
        """A GET, which changes nothing: without an answer it may be tried again."""
        result = repeatable(await self.call(account, "GET", path), LABEL)
        return result if isinstance(result, Declined) else result.body


_TOKEN_CODES: Final = frozenset({"UNAUTHENTICATED", "http_401"})


def _base_of(account: Account) -> str:
    location = is_location(account.external_id)
    if not account.settings.get("base_url"):
        return _HOSTS[location]
    return f"{account.base_url('')}/{'v4' if location else 'v1'}"
