"""Whom to believe about mail: Mailgun's signature, SendGrid's, Postmark's login, and the secret address of
the webhook itself.

An account's deliveries are those of the providers whose secrets it has. Where a provider signs and the
account has the key, the signature must hold; where a provider signs nothing (Postmark, SendGrid's Parse by
default), the endpoint key in the webhook's address is the proof, so such deliveries are refused at the
address without a key. An account without any provider's secret takes all providers at its secret address,
Mailgun excepted, which always signs.

Mailgun's signature covers a time and a random token, not the mail. Each token is therefore good for one mail:
`Tokens` remembers what it came with. A provider that repeats a delivery brings the same mail; anybody who
repeats a token with another one is refused. Times are not judged, since a repeated delivery may have the
first one's (the sheet, 1.1); what has been forgotten after `TOKENS_MAX` others is stopped by the message's
own id.

What is not believed is answered 401, which Mailgun and Postmark repeat for hours. Their answers that end it
(406, 403) are never given: a key that was entered wrongly would cost the mail that came until it was set
right. What is authentic and cannot be understood is kept, and accepted.

Source      The sheet, sections 1.1, 2.2 and 3.2.
"""

import base64
import binascii
import hashlib
import hmac
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from adapters.email.shapes import Shape, shape_of
from engine.errors import InvalidInput
from engine.ports import Endpoint, WebhookRequest

TOKENS_MAX: Final = 20_000
"""About 3 MB; hours of mail for most installations."""

_SIGNATURE: Final = "x-twilio-email-event-webhook-signature"
_TIMESTAMP: Final = "x-twilio-email-event-webhook-timestamp"
_PROVIDERS: Final = ("mailgun", "sendgrid", "postmark")


class Tokens:
    """Mailgun's tokens that were seen, each with what it came with. Oldest are forgotten first."""

    def __init__(self, most: int = TOKENS_MAX) -> None:
        self._most = most
        self._seen: OrderedDict[bytes, bytes] = OrderedDict()

    def is_first_use(self, token: bytes, brought: bytes) -> bool:
        """Whether the token is new, or came with the same before; then it is remembered."""
        known = self._seen.setdefault(token, brought)
        if len(self._seen) > self._most:
            self._seen.popitem(last=False)
        return known == brought


def believed(request: WebhookRequest, endpoints: Sequence[Endpoint], tokens: Tokens) -> list[Endpoint]:
    """Of the candidates, those that this delivery is proven to be for."""
    try:
        shape = shape_of(request.body)
    except InvalidInput:
        # What is no provider's may still have come to somebody's secret address: it is kept there.
        shape = None
    tried: dict[str, bool] = {}

    def once(key: str, holds: Callable[[], bool]) -> bool:
        if key not in tried:
            tried[key] = holds()
        return tried[key]

    return [endpoint for endpoint in endpoints if _holds(request, endpoint, shape, tokens, once)]


Once = Callable[[str, Callable[[], bool]], bool]


def _holds(
    request: WebhookRequest, endpoint: Endpoint, shape: Shape | None, tokens: Tokens, once: Once
) -> bool:
    secrets = endpoint.secrets
    keyed = _is_keyed(request.path, endpoint.endpoint_key)
    providers = {name for name in _PROVIDERS if any(key.startswith(name) and secrets[key] for key in secrets)}
    if shape is None:
        return keyed and not any(secrets.get(name) for name in _SIGNING)
    if shape.provider not in providers and (providers or shape.provider == "mailgun"):
        return False
    match shape.provider:
        case "mailgun":
            key = secrets.get("mailgun_signing_key", "")
            return bool(key) and once(f"mailgun {key}", lambda: _mailgun(shape, key, tokens))
        case "sendgrid":
            key = secrets.get("sendgrid_parse_key" if shape.is_mail else "sendgrid_public_key", "")
            if not key:
                return keyed
            return once(f"sendgrid {key}", lambda: _ecdsa(request, key))
        case _:
            login = secrets.get("postmark_webhook_login", "")
            return (not login or _logged_in(request.headers, login)) and (bool(login) or keyed)


_SIGNING: Final = (
    "mailgun_signing_key",
    "sendgrid_public_key",
    "sendgrid_parse_key",
    "postmark_webhook_login",
)


def _is_keyed(path: str, endpoint_key: str) -> bool:
    given = path.rstrip("/").rpartition("/")[2]
    return bool(endpoint_key) and hmac.compare_digest(given.encode("utf-8", "replace"), endpoint_key.encode())


def _mailgun(shape: Shape, key: str, tokens: Tokens) -> bool:
    given: Mapping[str, Any] = shape.signature
    timestamp, token, signature = (str(given.get(name) or "") for name in ("timestamp", "token", "signature"))
    if not timestamp or not token or len(token) > 200:
        return False
    signed = f"{timestamp}{token}".encode("utf-8", "replace")
    expected = hmac.digest(key.encode(), signed, "sha256").hex().encode()
    if not hmac.compare_digest(expected, signature.encode("utf-8", "replace")):
        return False
    return tokens.is_first_use(
        hashlib.sha256(expected).digest()[:16],
        hashlib.sha256(shape.about.encode("utf-8", "replace")).digest()[:16],
    )


def _ecdsa(request: WebhookRequest, key: str) -> bool:
    timestamp = request.headers.get(_TIMESTAMP, "")
    public = _public_key(key)
    if public is None or not timestamp:
        return False
    try:
        signature = base64.b64decode(request.headers.get(_SIGNATURE, "").encode("ascii"), validate=True)
        public.verify(signature, timestamp.encode("latin-1") + request.body, ECDSA(SHA256()))
    except (InvalidSignature, binascii.Error, ValueError):
        return False
    return True


@lru_cache(maxsize=256)
def _public_key(key: str) -> EllipticCurvePublicKey | None:
    """None for what is no such key; then no signature holds."""
    try:
        loaded = load_der_public_key(base64.b64decode("".join(key.split())))
    except (ValueError, UnsupportedAlgorithm):
        return None
    return loaded if isinstance(loaded, EllipticCurvePublicKey) else None


def _logged_in(headers: Mapping[str, str], login: str) -> bool:
    scheme, _, given = headers.get("authorization", "").partition(" ")
    expected = base64.b64encode(login.encode())
    return scheme.lower() == "basic" and hmac.compare_digest(
        given.strip().encode("utf-8", "replace"), expected
    )
