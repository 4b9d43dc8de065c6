"""How played Google signs what it sends: an HMAC for agents, tokens of its own keys for Pub/Sub's pushes."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from adapters.simulators.google.accounts import GoogleAccount

_TOKEN_SECONDS = 3_600
_REUSED_SECONDS = 3_000
"""One token comes with several pushes, as Google's does."""


def signature(secret: str, body: bytes) -> str:
    """`X-Goog-Signature`."""
    return base64.b64encode(hmac.digest(secret.encode(), body, "sha512")).decode()


def new_private_key() -> str:
    """A key pair to sign pushes with, as PEM."""
    pair = _new_pair()
    return pair.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def key_id(private_key: str) -> str:
    """What a pair is called in the set and in tokens."""
    return _id_of(_read(private_key))


class PushKeys:
    """Google's key pairs, beginning with those that are given (PEM). The newest signs; the one before stays
    in the set until the next change."""

    def __init__(self, given: Sequence[str] = ()) -> None:
        self._pairs = [(key_id(each), _read(each)) for each in given]
        self._tokens: dict[str, tuple[str, float]] = {}
        self.kid = self._pairs[-1][0] if self._pairs else self.rotate()

    def rotate(self) -> str:
        """A new key signs from now on; returns its id."""
        pair = _new_pair()
        self.kid = _id_of(pair)
        self._pairs.append((self.kid, pair))
        del self._pairs[:-2]
        self._tokens.clear()
        return self.kid

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


def _new_pair() -> rsa.RSAPrivateKey:
    # Numbers of RFC 7518, 3.3.
    return rsa.generate_private_key(public_exponent=65_537, key_size=2_048)


def _read(private_key: str) -> rsa.RSAPrivateKey:
    pair = load_pem_private_key(private_key.encode(), password=None)
    assert isinstance(pair, rsa.RSAPrivateKey)
    return pair


def _id_of(pair: rsa.RSAPrivateKey) -> str:
    """Of no two pairs alike: who knows a key by its id must not meet another under it."""
    public = pair.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(public).hexdigest()[:40]
