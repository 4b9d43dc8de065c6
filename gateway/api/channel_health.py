"""How connected accounts are doing, as the API shows it: nothing secret in it."""

from typing import Any

from msgspec import Struct

from engine.domain.config import Channel
from engine.domain.resources import rfc3339
from gateway.dependencies import ChannelHealth, Renewal


class SummaryOut(Struct, frozen=True, kw_only=True):
    """The gist of `GET channels/{id}/health`. `last_error` is a code."""

    queued: int
    paused_until: str | None
    last_error: str | None


class RenewalOut(Struct, frozen=True, kw_only=True):
    """`failures` are those since the last success; `error` says why the last try failed."""

    due_at: str | None
    renewed_at: str | None
    failures: int
    error: str | None


class ErrorOut(Struct, frozen=True, kw_only=True):
    code: str
    message: str
    at: str


class HealthOut(Struct, frozen=True, kw_only=True):
    """What came last, and `counts`, are of the time since the server's start. `queued`: messages that wait
    to be sent; `paused_until`: none goes out before. `counts` has `sent`, `refused` and `retry_` with a class
    of error. `renewal` is null where credentials do not expire or a person has to replace them. `sending` is
    what the account's actor knows now; empty while it has nothing to do."""

    status: str
    status_note: str | None
    webhook_url: str
    credentials_changed_at: str
    credentials_expire_at: str | None
    renewal: RenewalOut | None
    last_received_at: str | None
    last_accepted_at: str | None
    last_error: ErrorOut | None
    queued: int
    paused_until: str | None
    counts: dict[str, int]
    sending: dict[str, Any]


def summary_of(known: ChannelHealth) -> SummaryOut:
    return SummaryOut(
        queued=known.queued,
        paused_until=rfc3339(known.paused_until),
        last_error=None if known.error is None else known.error[0],
    )


def health_of(channel: Channel, known: ChannelHealth, webhook_url: str) -> HealthOut:
    return HealthOut(
        status=channel.status,
        status_note=channel.status_note,
        webhook_url=webhook_url,
        credentials_changed_at=rfc3339(channel.credentials_at) or "",
        credentials_expire_at=rfc3339(channel.credentials_expire_at),
        renewal=_renewal(known.renewal),
        last_received_at=rfc3339(known.received_at),
        last_accepted_at=rfc3339(known.accepted_at),
        last_error=_error(known.error),
        queued=known.queued,
        paused_until=rfc3339(known.paused_until),
        counts=dict(known.counts),
        sending=dict(known.sending),
    )


def _renewal(known: Renewal | None) -> RenewalOut | None:
    if known is None:
        return None
    return RenewalOut(
        due_at=rfc3339(known.due_at),
        renewed_at=rfc3339(known.renewed_at),
        failures=known.failures,
        error=known.error,
    )


def _error(known: tuple[str, str, int] | None) -> ErrorOut | None:
    if known is None:
        return None
    code, message, at = known
    return ErrorOut(code=code, message=message, at=rfc3339(at) or "")
