"""The shape of every JSON answer: `{"success", "message", "data"}` or `{"success", "message", "code",
"errors"}`.

One place, so that clients can rely on it for answers of handlers, of the router and of crashes alike.
Resources are msgspec Structs whose times are RFC 3339 text already; a handler never formats JSON itself.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

JSON_TYPE = "application/json"

_encode = msgspec.json.Encoder().encode


class Answer(Struct, frozen=True, kw_only=True):
    """What a handler returns: `data` is anything that msgspec encodes."""

    data: Any = None
    status: int = 200
    message: str = "OK"
    headers: Mapping[str, str] = {}


class Failure(Struct, frozen=True, kw_only=True):
    """A refusal. `data` carries what the caller has missed (a stale conversation) and is left out else."""

    status: int
    code: str
    message: str
    errors: Mapping[str, Sequence[str]] = {}
    headers: Mapping[str, str] = {}
    data: Any = None


def success_body(answer: Answer) -> bytes:
    return _encode({"success": True, "message": answer.message, "data": answer.data})


def failure_body(failure: Failure) -> bytes:
    body: dict[str, Any] = {
        "success": False,
        "message": failure.message,
        "code": failure.code,
        "errors": failure.errors,
    }
    if failure.data is not None:
        body["data"] = failure.data
    return _encode(body)
