"""How played Google signs what it sends: an HMAC for agents, tokens of its own keys for Pub/Sub's pushes."""

import base64
import hmac
import json
import secrets
import time
from collections.abc import Mapping
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from adapters.simulators.google.accounts import GoogleAccount

_TOKEN_SECONDS = 3_600
_REUSED_SECONDS = 3_000
"""One token comes with several pushes, as Google's does."""


def signature(secret: str, body: bytes) -> str:
    """`X-Goog-Signature`."""
    return base64.b64encode(hmac.digest(secret.encode(), body, "sha512")).decode()


class PushKeys:
    """Google's key pairs. The newest signs; the one before stays in the set until the next change."""

    def __init__(self) -> None:
        # Of no two runs alike: who knows a key by its id must not meet another under it.
        self._name = secrets.token_hex(8)
        self._pairs: list[tuple[str, rsa.RSAPrivateKey]] = []
        self._tokens: dict[str, tuple[str, float]] = {}
        self._made = 0
        self.kid = self.rotate()

    def rotate(self) -> str:
        """A new key signs from now on; returns its id."""
        self._made += 1
        self.kid = kid = f"{self._name}-{self._made}"
        # Numbers of RFC 7518, 3.3.
        self._pairs.append((kid, rsa.generate_private_key(public_exponent=65_537, key_size=2_048)))
        del self._pairs[:-2]
        self._tokens.clear()
        return kid

    def published(self) -> bytes:
        """The JWK set."""
        keys: list[Mapping[str, Any]] = []
        for kid, pair in self._pairs:
            key = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(pair.public_key()))
            keys.append(
                {"kid": kid, "alg": "RS256", "use": "sig", "kty": "RSA", "n": key["n"], "e": key["e"]}
            )
        return json.dumps({"keys": keys}).encode()

    def token(self, account: GoogleAccount) -> str:
        """An OIDC token of the account's push subscription."""
        now = time.time()
        known = self._tokens.get(account.account_id)
        if known is not None and known[1] > now:
            return known[0]
        kid, pair = self._pairs[-1]
        claims = {
            "aud": account.push_audience,
            "azp": "113774264463038321964",
            "email": account.push_email,
            "email_verified": True,
            "exp": int(now) + _TOKEN_SECONDS,
            "iat": int(now),
            "iss": "https://accounts.google.com",
            "sub": "113774264463038321964",
        }
        made = jwt.encode(claims, pair, algorithm="RS256", headers={"kid": kid})
        self._tokens[account.account_id] = (made, now + _REUSED_SECONDS)
        return made
