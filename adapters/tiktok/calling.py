"""Calls of the Business API, and what they came to.

Promises    As `adapters.client`; a success is one by its code too, since HTTP's status is 200 for most
            errors.
Source      The TikTok sheet, sections 5 and 6.
"""

from typing import Any, Final

import httpx
import msgspec
from msgspec import Struct

from adapters.calling import repeatable
from adapters.client import CALL_SECONDS_MAX, PlatformClient
from adapters.guard import Guard
from adapters.port import Account, Declined, Failure, Unanswered
from adapters.tiktok import limits
from adapters.tiktok.errors import OK, read_failure
from adapters.wire import decoded

UPLOAD_SECONDS_MAX: Final = 60.0
"""3 MB at 50 kB/s."""


class _Envelope(Struct):
    """The shape of every answer; `data` is read by whoever asked."""

    code: int
    data: msgspec.Raw = msgspec.Raw(b"{}")


_envelope: Final = msgspec.json.Decoder(_Envelope)


class TikTokClient(PlatformClient):
    """Calls whose answers are the envelope's `data`."""

    def __init__(self, guard: Guard, *, connections_max: int, seconds_max: float = CALL_SECONDS_MAX) -> None:
        super().__init__(
            guard, limits.LABEL, read_failure, connections_max=connections_max, seconds_max=seconds_max
        )

    async def data(self, method: str, url: str, **request: Any) -> msgspec.Raw | Failure:
        """`call`, and the data of its answer as JSON."""
        answer = await self.call(method, url, **request)
        if not isinstance(answer, httpx.Response):
            return answer
        read = decoded(_envelope, answer.content)
        if read is None:
            return Unanswered(reason="a success that cannot be read")
        if read.code != OK:
            return read_failure(answer.status_code, answer.content, answer.headers)
        return read.data

    async def ask_data(self, method: str, url: str, **request: Any) -> msgspec.Raw | Declined:
        """`data` for what may be repeated without harm: what nobody can know is tried again."""
        return repeatable(await self.data(method, url, **request), self.label)


def api_url(account: Account, path: str) -> str:
    return f"{account.base_url(limits.BASE_URL)}/open_api/{limits.API_VERSION}/{path}/"


def token_header(account: Account) -> dict[str, str]:
    return {"Access-Token": account.credentials.get("access_token", "")}
