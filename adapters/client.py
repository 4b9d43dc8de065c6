"""Calls to a platform: one way to make them, whatever the platform.

Promises    Calls raise nothing but Cancelled. What is `Declined` was surely not taken: no byte of the request
            was written, or the platform said so. `Unanswered`: some may have been written, and no whole
            answer came within the time. With a `turn` the request is written when the turn has come, at once.
            No address, header or body of a request is in what comes back, so nothing secret is logged.
Limits      `seconds_max` for a whole call, its wait for a connection and the answer's body included;
            `CONNECT_SECONDS_MAX` of it for the connection; `answer_bytes_max` for the answer's body.
On cancel   The platform may or may not have taken the request.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Generic, Self, TypeVar

import httpx
import msgspec
import trio

from adapters.calling import NEVER_SENT, by_status, never_sent, repeatable, seconds_of, unreached
from adapters.guard import BodyTooLarge, Guard, guarded_client
from adapters.port import Declined, Failure, Turn, Unanswered
from adapters.turns import Writing

CALL_SECONDS_MAX: Final = 30.0
"""Platforms answer in under a second; who gives up early makes unknown outcomes."""
CONNECT_SECONDS_MAX: Final = 5.0
"""A handshake takes a tenth of a second across the world. What has no connection is surely not sent."""
ANSWER_BYTES_MAX: Final = 65_536
"""Answers are a few hundred bytes; error pages of proxies a few thousand."""

TOO_LARGE: Final = BodyTooLarge.__name__
"""The reason of what is `Unanswered` because the answer was longer than it may be."""

ReadFailure = Callable[[int, bytes, Mapping[str, str]], Failure]
"""(HTTP status, body, headers) of an answer that is no success -> what it means."""


class PlatformClient:
    """Calls to one platform, for any number of tasks and accounts. `label` is the platform's name in
    sentences; `connections_max` calls are made at a time, of all accounts: more wait, and were not sent if
    they wait in vain. Without `read_failure` the HTTP status alone says what a failure means. Use as an async
    context manager."""

    def __init__(
        self,
        guard: Guard,
        label: str,
        read_failure: ReadFailure | None = None,
        *,
        connections_max: int,
        seconds_max: float = CALL_SECONDS_MAX,
    ) -> None:
        self.label = label
        self._read_failure = read_failure or self._by_status
        self._seconds_max = seconds_max
        self._client = guarded_client(guard, connections_max=connections_max, timeout=_timeout(seconds_max))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def call(self, method: str, url: str, **request: Any) -> httpx.Response | Failure:
        """One call that succeeded, by HTTP's word at least; what follows the address is `exchange`'s."""
        answer = await self.exchange(method, url, **request)
        if not isinstance(answer, httpx.Response) or answer.is_success:
            return answer
        return self._read_failure(answer.status_code, answer.content, answer.headers)

    async def ask(self, method: str, url: str, **request: Any) -> httpx.Response | Declined:
        """`call` for what may be repeated without harm (reads, uploads): what nobody can know is tried
        again."""
        return repeatable(await self.call(method, url, **request), self.label)

    async def exchange(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        json: object = None,
        data: Mapping[str, str] | None = None,
        files: Mapping[str, tuple[str, bytes, str]] | None = None,
        turn: Turn | None = None,
        seconds_max: float | None = None,
        answer_bytes_max: int = ANSWER_BYTES_MAX,
        follow_redirects: bool = False,
    ) -> httpx.Response | Failure:
        """One call with its answer, whatever its status. `json` becomes the body where it is not None; `data`
        and `files` ({field: (name, content, media type)}) become a form."""
        seconds = self._seconds_max if seconds_max is None else seconds_max
        writing = Writing(turn)
        try:
            content = None if json is None else msgspec.json.encode(json)
            request = self._client.build_request(
                method,
                url,
                headers={**(headers or {}), **({} if content is None else _JSON)},
                params=params,
                content=content,
                data=data,
                files=files,
                timeout=_timeout(seconds),
                extensions={"body_bytes_max": answer_bytes_max, "trace": writing},
            )
            with trio.fail_after(seconds):
                return await self._client.send(request, follow_redirects=follow_redirects)
        except NEVER_SENT as error:
            return never_sent(error, self.label)
        except (httpx.HTTPError, httpx.StreamError, trio.TooSlowError) as error:
            if not writing.begun:
                return unreached(self.label, error)
            return Unanswered(reason=type(error).__name__)

    def _by_status(self, status: int, body: bytes, headers: Mapping[str, str]) -> Failure:
        return by_status(status, seconds_of(headers.get("retry-after")), self.label)


C = TypeVar("C", bound=AbstractAsyncContextManager[Any])


class Connected(Generic[C]):
    """What has a client, and is entered and left with it."""

    def __init__(self, client: C) -> None:
        self._client = client

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.__aexit__(None, None, None)


class Unconnected:
    """What calls nobody, where something with connections could stand."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None


_JSON: Final = {"Content-Type": "application/json"}


def _timeout(seconds: float) -> httpx.Timeout:
    return httpx.Timeout(seconds, connect=CONNECT_SECONDS_MAX)
