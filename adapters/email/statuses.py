"""What providers tell of our messages, in our words. Shared by the three."""

import re
from datetime import UTC, datetime
from typing import Any, Final

from adapters.email.reading import person
from adapters.email.threading import normalised
from adapters.wire import usable_id
from engine.domain.content import compact
from engine.domain.inbound import Contact, PlatformError, StandingChanged, StatusChanged

Json = dict[str, Any]

OUR_MESSAGE: Final = "mijra_message"
"""Under this name our message's id (decimal) goes with a send, where a provider brings such values back:
Mailgun's user variables, SendGrid's custom arguments, Postmark's metadata."""
OUR_ACCOUNT: Final = "mijra_account"
"""Likewise the account's address."""

_NUMBER: Final = re.compile(r"[1-9][0-9]{0,18}")
_DETAIL_MAX: Final = 1_000


def status(
    *,
    recipient: object,
    platform_id: object,
    to: str,
    raw: str,
    at: int | None,
    ours: Json,
    error: PlatformError | None = None,
    **detail: object,
) -> StatusChanged | None:
    """None without a recipient, a message's id or a time: then there is nobody whose message it could be."""
    who = person(recipient) if isinstance(recipient, str) else None
    named = normalised(platform_id) if isinstance(platform_id, str) else None
    if who is None or named is None or at is None:
        return None
    return StatusChanged(
        contact=Contact(keys=(who.address,)),
        platform_id=named,
        status=to,
        at=at,
        raw_status=raw[:80],
        callback=our_message(ours),
        error=error,
        detail=compact(**{name: shown(value) for name, value in detail.items()}),
    )


def standing(
    *, recipient: object, at: int | None, error: PlatformError | None, raw: Json
) -> StandingChanged | None:
    """What a service does with an address from now on; None without an address or a time."""
    who = person(recipient) if isinstance(recipient, str) else None
    if who is None or at is None:
        return None
    return StandingChanged(contact=Contact(keys=(who.address,)), at=at, error=error, raw=raw)


def our_message(ours: Json) -> str | None:
    """Our message's id among the values that came back."""
    value = ours.get(OUR_MESSAGE)
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    return text if _NUMBER.fullmatch(text) else None


def our_account(ours: Json) -> str | None:
    value = usable_id(ours.get(OUR_ACCOUNT))
    return value.lower() if value is not None else None


def shown(value: object) -> Any:
    """A value as it is kept beside a status: bounded, and nothing where there is nothing."""
    if isinstance(value, str):
        return value[:_DETAIL_MAX] or None
    return value if isinstance(value, bool | int | float) else None


def seconds(value: object) -> int | None:
    """Unix seconds, whole or not, as number or text, in ms."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        try:
            value = float(value[:40])
        except ValueError:
            return None
    if isinstance(value, int | float) and 0 < value < 1e11:
        return round(value * 1000)
    return None


def moment(value: object) -> int | None:
    """An ISO time in ms. Fractions of a second may have any number of digits."""
    if not isinstance(value, str):
        return None
    try:
        found = datetime.fromisoformat(re.sub(r"\.(\d{1,6})\d*", r".\1", value[:60]))
        if found.tzinfo is None:
            found = found.replace(tzinfo=UTC)
        return max(0, round(found.timestamp() * 1000))
    except (ValueError, OverflowError):
        return None
