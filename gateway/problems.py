"""Errors to answers: the one place where the error tree becomes HTTP statuses.

    InvalidInput      422; 400 not_json, 413 too_large, 415 unsupported_media_type by its code
    Unauthenticated   401 with WWW-Authenticate
    Forbidden         403
    NotFound          404
    Conflicting       409, with `data` where the caller has missed something
    RateLimited       429 with Retry-After
    Unavailable       503 with Retry-After; so do a passed deadline and a lost fencing epoch
    anything else     500 with the request id and no detail: the log has the traceback

Whoever calls `failure_of` logs what comes back with status 500; nothing is logged here.
"""

import math

import trio
from werkzeug.exceptions import HTTPException

from engine.errors import (
    CommitAbandoned,
    CommitConflict,
    CommitPoisoned,
    Conflicting,
    DeliveryFailed,
    Fenced,
    Forbidden,
    InvalidInput,
    MijraError,
    NotFound,
    RateLimited,
    Rejected,
    Unauthenticated,
    Unavailable,
)
from gateway.envelope import Failure

RETRY_AFTER_SECONDS = 1
"""For an error that does not know better: our overloads and fail-overs pass within seconds, and clients
are expected to back off further by themselves."""

_INVALID_STATUS = {"not_json": 400, "too_large": 413, "unsupported_media_type": 415}
_FAMILIES: tuple[tuple[type[MijraError], int], ...] = (
    (InvalidInput, 422),
    (Unauthenticated, 401),
    (Forbidden, 403),
    (NotFound, 404),
    (Conflicting, 409),
    (Rejected, 400),
    (RateLimited, 429),
    (Unavailable, 503),
    (CommitConflict, 409),
    (CommitPoisoned, 422),
    (CommitAbandoned, 503),
    (Fenced, 503),
    (DeliveryFailed, 503),
)
_HTTP_CODES = {
    400: ("bad_request", "The request could not be read."),
    404: ("not_found", "There is nothing at this address."),
    405: ("method_not_allowed", "This address does not take this method."),
    408: ("timeout", "The request's body did not arrive in time."),
    413: ("too_large", "The request's body is larger than allowed here."),
    415: ("unsupported_media_type", "This content type is not taken here."),
}


def failure_of(error: BaseException) -> Failure:
    """The answer to a call that ended in `error`. Never raises, never shows a traceback."""
    error = _innermost(error)
    if isinstance(error, MijraError):
        return _ours(error)
    if isinstance(error, trio.TooSlowError):
        return Failure(
            status=503,
            code="timeout",
            message="The call took longer than allowed and may still take effect.",
            headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
        )
    if isinstance(error, HTTPException) and error.code in _HTTP_CODES:
        code, message = _HTTP_CODES[error.code]
        allowed = {name: value for name, value in error.get_headers() if name == "Allow"}
        return Failure(status=error.code, code=code, message=message, headers=allowed)
    return _internal()


def _ours(error: MijraError) -> Failure:
    status = next((status for family, status in _FAMILIES if isinstance(error, family)), 500)
    if status == 500:
        return _internal()
    if isinstance(error, InvalidInput):
        status = _INVALID_STATUS.get(error.code, status)
    headers: dict[str, str] = {}
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="mijra"'
    if status in (429, 503):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_seconds or RETRY_AFTER_SECONDS)))
    return Failure(
        status=status,
        code=error.code,
        message=error.message,
        errors=error.fields,
        headers=headers,
        data=error.data,
    )


def _internal() -> Failure:
    return Failure(
        status=500,
        code="internal",
        message="Something went wrong on our side. The request id helps to find it.",
    )


def _innermost(error: BaseException) -> BaseException:
    """A nursery wraps what its only failing child raised; the caller wants to know the child's error."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
