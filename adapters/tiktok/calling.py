"""One call of the Business API, and what it came to.

Promises    `call` raises nothing but Cancelled. With a `turn` it writes the request at its turn. For a call
            that sends nothing, `again` makes what nobody can know a refusal that is tried again.
Source      The TikTok sheet, section 5.
"""

from typing import Any, Final

import httpx
import msgspec
import trio

from adapters.calling import NEVER_SENT, declined, never_sent
from adapters.port import Account, Declined, ErrorClass, SendResult, Turn, Unanswered
from adapters.tiktok import limits
from adapters.tiktok.errors import read_answer
from adapters.turns import written_in

CALL_SECONDS_MAX: Final = 30.0
UPLOAD_SECONDS_MAX: Final = 60.0
"""3 MB at 50 kB/s."""
ANSWER_BYTES_MAX: Final = 65_536
"""Answers are a few hundred bytes; a hundred conversations have twenty thousand."""


def api_url(account: Account, path: str) -> str:
    base = str(account.settings.get("base_url") or limits.BASE_URL).rstrip("/")
    return f"{base}/open_api/{limits.API_VERSION}/{path}/"


def token_header(account: Account) -> dict[str, str]:
    return {"Access-Token": account.credentials.get("access_token", "")}


async def call(
    client: httpx.AsyncClient,
    method: str,
    url: str,
    *,
    turn: Turn | None = None,
    seconds_max: float = CALL_SECONDS_MAX,
    body_bytes_max: int = ANSWER_BYTES_MAX,
    **request: Any,
) -> msgspec.Raw | SendResult:
    """The answer's `data` as JSON, or why there is none."""
    extensions: dict[str, Any] = {"body_bytes_max": body_bytes_max}
    if turn is not None:
        extensions |= written_in(turn)
    try:
        with trio.fail_after(seconds_max):
            answer = await client.request(
                method,
                url,
                timeout=httpx.Timeout(seconds_max, connect=5.0),
                extensions=extensions,
                **request,
            )
    except NEVER_SENT as error:
        return never_sent(error)
    except (httpx.HTTPError, httpx.StreamError, trio.TooSlowError) as error:
        return Unanswered(reason=type(error).__name__)
    read = read_answer(answer.status_code, answer.content, answer.headers)
    return read if isinstance(read, SendResult) else read.data


def again(result: SendResult) -> Declined:
    """What no answer means for a call that sends no message: it is tried again."""
    if isinstance(result, Declined):
        return result
    return declined(ErrorClass.UNREACHABLE, "unreachable", "The platform's answer cannot be understood.")
