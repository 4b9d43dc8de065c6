"""Calling a Mijra server over HTTP, with the envelope taken off.

Exists so that the command line does what any client could do: it goes through the same routes, the same
checks and the same audit as everybody else.

Promises   The answer's `data`, or the error of our own tree that the server's `code` and status stand for,
           with the server's sentences. A call is made once: what may be repeated is the caller's to know.
Limits     `seconds_max` for one call; creating a tenant's database is the slowest.
"""

from types import TracebackType
from typing import Any, Self

import httpx
import msgspec

from engine.errors import (
    Conflicting,
    Forbidden,
    InvalidInput,
    MijraError,
    NotFound,
    RateLimited,
    Rejected,
    Unauthenticated,
    Unavailable,
)

CALL_SECONDS_MAX = 150.0
"""A little more than the server gives itself for creating a database."""

_BY_STATUS: dict[int, type[MijraError]] = {
    400: InvalidInput,
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflicting,
    413: InvalidInput,
    415: InvalidInput,
    422: InvalidInput,
    429: RateLimited,
    503: Unavailable,
}


class Api:
    """Calls as one token's holder. Use as a context; calls at the same time are fine."""

    def __init__(self, base_url: str, token: str | None, *, seconds_max: float = CALL_SECONDS_MAX) -> None:
        self.base_url = base_url.rstrip("/")
        headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
        # A proxy from the environment is for the internet, and the server is mostly on this machine.
        self._client = httpx.AsyncClient(timeout=seconds_max, headers=headers, trust_env=False)

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.__aexit__(kind, error, trace)

    async def get(self, path: str, **query: str | int) -> Any:
        """`path` begins with a slash, as below."""
        return await self.call("GET", path, query=query)

    async def post(self, path: str, body: object = None) -> Any:
        return await self.call("POST", path, body)

    async def put(self, path: str, body: object) -> Any:
        return await self.call("PUT", path, body)

    async def patch(self, path: str, body: object) -> Any:
        return await self.call("PATCH", path, body)

    async def items(self, path: str, **query: str | int) -> list[Any]:
        """All of a list, page by page: for lists that are short by nature (users, channels, tenants)."""
        found: list[Any] = []
        cursor: str | None = None
        while True:
            page = await self.get(path, **query, limit=100, **({"cursor": cursor} if cursor else {}))
            found += page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                return found

    async def call(
        self, method: str, path: str, body: object = None, *, query: dict[str, str | int] | None = None
    ) -> Any:
        """Raises Unavailable also when nobody answers: then nothing is known of what became of the call."""
        content = msgspec.json.encode(body if body is not None else {}) if method != "GET" else None
        try:
            answer = await self._client.request(
                method,
                self.base_url + path,
                content=content,
                params=query or None,
                headers={"Content-Type": "application/json"} if content is not None else None,
            )
        except httpx.InvalidURL as error:
            raise InvalidInput(f"{self.base_url} is not the URL of a server.") from error
        except httpx.HTTPError as error:
            raise Unavailable(
                f"No answer from {self.base_url} ({type(error).__name__}).", code="unreachable"
            ) from error
        return _opened(answer)


def _opened(answer: httpx.Response) -> Any:
    try:
        envelope = answer.json()
        succeeded = envelope["success"]
    except (ValueError, KeyError, TypeError) as error:
        raise Unavailable(
            f"{answer.url.copy_with(query=None)} answered {answer.status_code}, not as a Mijra server does."
        ) from error
    if succeeded:
        return envelope["data"]
    fields: dict[str, list[str]] = envelope.get("errors") or {}
    retry_after = answer.headers.get("Retry-After")
    kind = _BY_STATUS.get(answer.status_code, Unavailable if answer.status_code >= 500 else Rejected)
    raise kind(
        _sentence(envelope["message"], fields),
        code=envelope.get("code"),
        fields=fields,
        retry_after_seconds=float(retry_after) if retry_after and retry_after.isdecimal() else None,
        data=envelope.get("data"),
    )


def _sentence(message: str, fields: dict[str, list[str]]) -> str:
    """The server's sentence, with the fields that it names unless it has said them already."""
    missing = [
        f"{field}: {sentence}"
        for field, sentences in fields.items()
        for sentence in sentences
        if sentence not in message
    ]
    return " ".join([message, *missing])
