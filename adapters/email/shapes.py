"""Whose delivery is it? Each provider is known by what it posts.

Promises    `shape_of` raises InvalidInput for what none of them posts, and nothing else.
"""

from typing import Any, Final

from msgspec import Struct

from adapters.email import mailgun, postmark, sendgrid
from adapters.email.forms import Form, read_form
from adapters.wire import decode_json
from engine.errors import InvalidInput

Json = dict[str, Any]

_SPACE: Final = b" \t\r\n"


class Shape(Struct, frozen=True, kw_only=True):
    """A delivery, read as far as it says whose it is. One of `form`, `delivery` and `batch` is there.
    `signature` is Mailgun's, and `about` what a token of it is good for."""

    provider: str
    is_mail: bool
    form: Form | None = None
    delivery: Json = {}
    batch: list[Any] = []
    signature: Json = {}
    about: str = ""


def shape_of(body: bytes) -> Shape:
    """Raises InvalidInput."""
    first = body[:64].lstrip(_SPACE)[:1]
    if first in (b"{", b"["):
        return _of_json(decode_json(body))
    return _of_form(read_form(body))


def _of_json(decoded: Any) -> Shape:
    if isinstance(decoded, list) and decoded:
        return Shape(provider="sendgrid", is_mail=False, batch=decoded)
    if isinstance(decoded, dict):
        if "event-data" in decoded:
            signature, data = decoded.get("signature"), decoded["event-data"]
            about = str(data.get("id")) if isinstance(data, dict) else ""
            return Shape(
                provider="mailgun",
                is_mail=False,
                delivery=decoded,
                signature=signature if isinstance(signature, dict) else {},
                about=about,
            )
        if "RecordType" in decoded:
            return Shape(provider="postmark", is_mail=False, delivery=decoded)
        if postmark.is_mail(decoded):
            return Shape(provider="postmark", is_mail=True, delivery=decoded)
    raise InvalidInput("this is no delivery of a mail provider", code="not_understood")


def _of_form(form: Form) -> Shape:
    if mailgun.is_mail(form):
        signature = {name: form.text(name) for name in ("timestamp", "token", "signature")}
        named = form.text("Message-Id") or form.text("message-id") or form.text("message-headers") or ""
        return Shape(
            provider="mailgun",
            is_mail=True,
            form=form,
            signature=signature,
            about=f"{form.text('recipient')}\0{named}",
        )
    if sendgrid.is_mail(form):
        return Shape(provider="sendgrid", is_mail=True, form=form)
    raise InvalidInput("this is no delivery of a mail provider", code="not_understood")
