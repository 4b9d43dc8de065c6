"""Meta's handshake and signature, which WhatsApp, Messenger and Instagram share (their sheets, 1 and 2)."""

import hmac
from collections.abc import Sequence
from typing import Final
from urllib.parse import parse_qs

from adapters.receiving import is_known, secrets_of, vouching
from engine.ports import Endpoint, WebhookRequest

_CHALLENGE_MAX: Final = 1_024
"""The platform sends about ten digits; nobody gets a page of his own choice echoed from our address."""

_SIGNED: Final = "sha256="


class MetaSigned:
    """The half of a Receiver that decides whom to believe. Without state."""

    aliases: tuple[str, ...] = ()

    def is_handshake(self, request: WebhookRequest) -> bool:
        return request.method == "GET"

    def challenge(self, request: WebhookRequest, endpoints: Sequence[Endpoint]) -> bytes | None:
        """The challenge goes back when the token is one that we gave out."""
        query = parse_qs(request.query, keep_blank_values=True)
        mode, token, challenge = (
            query.get(f"hub.{name}", [""])[0] for name in ("mode", "verify_token", "challenge")
        )
        if mode != "subscribe" or not token or not 0 < len(challenge) <= _CHALLENGE_MAX:
            return None
        return challenge.encode() if is_known(endpoints, "verify_token", token) else None

    def verify(self, request: WebhookRequest, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
        """HMAC-SHA256 of the bytes as received, under the app secret or the one before it. Accounts of one
        app share its secret."""
        header = request.headers.get("x-hub-signature-256", "")
        if not header.startswith(_SIGNED):
            return ()
        given = header[len(_SIGNED) :].encode("utf-8", "replace")

        def fits(secret: str) -> bool:
            expected = hmac.digest(secret.encode(), request.body, "sha256").hex().encode()
            return hmac.compare_digest(expected, given)

        return vouching(endpoints, _secrets, fits)


def _secrets(endpoint: Endpoint) -> list[str]:
    return secrets_of(endpoint, ("app_secret", "app_secret_previous"))
