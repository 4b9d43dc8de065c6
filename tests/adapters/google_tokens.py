"""Push tokens as Google signs them, for tests: a key of our own in place of Google's."""

import json
import time
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

AUDIENCE = "https://shop.example/api/webhooks/google-business"
EMAIL = "pusher@shop-example.iam.gserviceaccount.com"


@cache
def private_key(kid: str) -> rsa.RSAPrivateKey:
    """One for each key id; made once, since that takes a tenth of a second."""
    return rsa.generate_private_key(public_exponent=65_537, key_size=2_048)


def claims(**changes: Any) -> dict[str, Any]:
    """Of a good token; a change to None leaves the claim out."""
    now = int(time.time())
    good = {
        "aud": AUDIENCE,
        "azp": "113700000000000000000",
        "email": EMAIL,
        "email_verified": True,
        "exp": now + 3_600,
        "iat": now,
        "iss": "https://accounts.google.com",
        "sub": "113700000000000000000",
    }
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


def push_token(kid: str = "k1", *, signer: str | None = None, **changes: Any) -> str:
    """`signer`: the id of the key that really signs."""
    return jwt.encode(claims(**changes), private_key(signer or kid), algorithm="RS256", headers={"kid": kid})


def key_set(*kids: str) -> bytes:
    """The public halves, as a JWK set."""
    keys = []
    for kid in kids:
        key = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(private_key(kid).public_key()))
        keys.append({**key, "kid": kid, "alg": "RS256", "use": "sig"})
    return json.dumps({"keys": keys}).encode()
