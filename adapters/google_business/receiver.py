"""What Google sends us: whom to believe, and what is in it.

Two kinds of accounts share the address. Business Messages signs the body (sheet, A2); Pub/Sub, which tells of
a profile's reviews, brings a token of Google's in a header (B3). A request is judged by the proof that it
brings, and an account by the secrets that it has.
"""

import base64
import hmac
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from adapters.google_business.keys import PublicKeys
from adapters.google_business.messages import read_messages
from adapters.google_business.naming import AGENT
from adapters.google_business.notifications import is_push, read_push
from adapters.google_business.oidc import pushed_for
from adapters.receiving import is_known, secrets_of, vouching
from adapters.wire import bounded, decode_json
from engine.domain.inbound import RoutedEvent
from engine.errors import InvalidInput
from engine.ports import NO_HEADERS, Endpoint, WebhookRequest

_SIGNING: Final = ("partner_key", "client_token")
"""Which of the two signs differs between Google's older and newer material."""

_HANDSHAKE_BYTES_MAX: Final = 4_096
_CHALLENGE_MAX: Final = 1_024
"""Google's is some 20 characters; nobody gets a page of his own choice echoed from our address."""

_AGENT: Final = re.compile(rb'"agent":\s{0,4}"(' + AGENT.pattern.encode() + rb')"')
_HINT_BYTES_MAX: Final = 2_048
"""The agent is among the first members, or the last before them is a text of ordinary length."""


class GoogleReceiver:
    """Implements `engine.ports.Receiver`. `keys` are Google's, kept fresh by a service; reading them is all
    that is not pure here."""

    def __init__(self, platform: str, aliases: tuple[str, ...], keys: PublicKeys) -> None:
        self.platform = platform
        self.aliases = aliases
        self._keys = keys

    def is_handshake(self, request: WebhookRequest) -> bool:
        """A POST of `clientToken` and `secret` and nothing else."""
        return _handshake_of(request) is not None

    def challenge(self, request: WebhookRequest, endpoints: Sequence[Endpoint]) -> bytes | None:
        """The secret goes back when the token is one of an account of ours."""
        found = _handshake_of(request)
        if found is None:
            return None
        token, secret = found[0], found[1].encode("utf-8", "replace")
        known = is_known(endpoints, "client_token", token)
        return secret if known and 0 < len(secret) <= _CHALLENGE_MAX else None

    def account_hint(self, body: bytes) -> str | None:
        """The agent, where it stands in the open; a push holds its location encoded."""
        found = _AGENT.search(body, 0, _HINT_BYTES_MAX)
        return found[1].decode("ascii") if found is not None else None

    def verify(self, request: WebhookRequest, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
        """Raises Unavailable for a push whose key is not known yet: Pub/Sub repeats it."""
        signature = request.headers.get("x-goog-signature")
        if signature is not None:
            return _signed(request.body, signature, endpoints)
        return pushed_for(request.headers.get("authorization", ""), endpoints, self._keys)

    def parse(self, body: bytes, headers: Mapping[str, str] = NO_HEADERS) -> Sequence[RoutedEvent]:
        delivery = decode_json(body)
        if isinstance(delivery, dict):
            if is_push(delivery):
                return [read_push(delivery)]
            if isinstance(delivery.get("agent"), str):
                return bounded(read_messages(delivery))
        raise InvalidInput("this is neither Business Messages nor a push of Pub/Sub", code="not_understood")


def _handshake_of(request: WebhookRequest) -> tuple[str, str] | None:
    body = request.body
    if request.method != "POST" or len(body) > _HANDSHAKE_BYTES_MAX or b'"clientToken"' not in body:
        return None
    try:
        given: Any = decode_json(body)
    except InvalidInput:
        return None
    if not isinstance(given, dict) or set(given) != {"clientToken", "secret"}:
        return None
    token, secret = given["clientToken"], given["secret"]
    return (token, secret) if isinstance(token, str) and isinstance(secret, str) else None


def _signed(body: bytes, signature: str, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
    """HMAC-SHA512 of the bytes as received, as base64, compared as text: base64 has spellings that decode
    alike."""
    given = signature.encode("utf-8", "replace")

    def fits(secret: str) -> bool:
        expected = base64.b64encode(hmac.digest(secret.encode(), body, "sha512"))
        return hmac.compare_digest(expected, given)

    return vouching(endpoints, lambda endpoint: secrets_of(endpoint, _SIGNING), fits)
