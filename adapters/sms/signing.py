"""Whose token signed a delivery: the address as the platform called it, and the form (sheet, section 2).

Promises    An empty token signs nothing; comparisons take the same time whatever is compared. A body is
            always covered: as the form that is part of the signed text, or by its digest in the signed
            address.
Limits      Bodies of 256 KB. Four addresses and two tokens for each account at most.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable, Sequence
from typing import Final
from urllib.parse import parse_qs

from adapters.receiving import secrets_of, vouching
from adapters.sms.forms import BODY_BYTES_MAX, read_form
from engine.errors import InvalidInput
from engine.ports import Endpoint, WebhookRequest

_DIGEST: Final = "bodySHA256"
_SHA1_BYTES: Final = 20


class TwilioSigned:
    """The half of a Receiver that decides whom to believe. Without state. There is no handshake."""

    def is_handshake(self, request: WebhookRequest) -> bool:
        return False

    def challenge(self, request: WebhookRequest, endpoints: Sequence[Endpoint]) -> bytes | None:
        return None

    def verify(self, request: WebhookRequest, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
        """HMAC-SHA1 under an account's token, or the one before it, over one of the addresses that it may
        have been called by."""
        try:
            given = base64.b64decode(request.headers.get("x-twilio-signature", ""), validate=True)
        except (binascii.Error, ValueError):
            return ()
        covered = _covered(request) if len(given) == _SHA1_BYTES else None
        if covered is None:
            return ()

        def fits(key: _Key) -> bool:
            return _signed(key[0], request.urls(key[1]), covered, given)

        return vouching(endpoints, _keys, fits)


def signature(token: str, url: str, form: Iterable[tuple[str, str]] = ()) -> str:
    """As the platform writes it into the header; for those who play it."""
    return base64.b64encode(_digest(token, url.encode() + _joined(form))).decode()


def _signed(token: str, urls: Sequence[str], covered: bytes, given: bytes) -> bool:
    known = False
    for url in urls:
        known |= hmac.compare_digest(_digest(token, url.encode("utf-8", "replace") + covered), given)
    return known


def _digest(token: str, text: bytes) -> bytes:
    return hmac.digest(token.encode(), text, "sha1")


def _covered(request: WebhookRequest) -> bytes | None:
    """What of the body is signed behind the address; None when the body cannot be the signed one."""
    if _DIGEST in request.query:
        promised = parse_qs(request.query).get(_DIGEST, [""])[-1].lower().encode("utf-8", "replace")
        if len(request.body) > BODY_BYTES_MAX:
            return None
        found = hashlib.sha256(request.body).hexdigest().encode()
        return b"" if hmac.compare_digest(found, promised) else None
    try:
        return _joined(read_form(request.body))
    except InvalidInput:
        return None


def _joined(form: Iterable[tuple[str, str]]) -> bytes:
    """Names in byte order, each with each of its different values in order, without separators. Code points
    sort as their bytes in UTF-8 do."""
    return "".join(name + value for name, value in sorted(set(form))).encode()


_Key = tuple[str, str | None]
"""A token, and the address that is configured for it."""


def _keys(endpoint: Endpoint) -> list[_Key]:
    configured = endpoint.secrets.get("webhook_url") or None
    return [(token, configured) for token in secrets_of(endpoint, ("auth_token", "auth_token_previous"))]
