"""Whether a push is Google's, and for whose subscription: the token in its Authorization header.

Checked     In the sheet's words (B3): `alg` is RS256 and nothing else, the key is one of Google's, the
            signature holds, `iss` is Google, `aud` and `email` are those of the account's subscription,
            `email_verified` is true, `exp` is ahead and `iat` is not. All of them, each time: a token is good
            for an hour and for several pushes, so it is no proof against repetition; ids are. Nor does it
            cover the body: a push only names what is then read from Google with the account's own grant.
Order       Audience and address decide first whose subscription it could be: they cost nothing, and a
            stranger's token then neither asks for keys nor fills the log. Nothing is believed before the
            signature holds.
Source      The Google Business sheet, B3; RFC 7519, RFC 8725.
"""

import hmac
from collections.abc import Sequence
from typing import Any, Final

import jwt

from adapters.google_business.keys import PublicKeys
from engine.errors import Unavailable
from engine.ports import Endpoint

_ALGORITHM: Final = "RS256"
_ISSUERS: Final = ("https://accounts.google.com", "accounts.google.com")
_TOKEN_MAX: Final = 8_192
"""Google's have about 1,000 characters; a header of a request is hardly longer than this anyway."""
_KID_MAX: Final = 200
_LEEWAY_SECONDS: Final = 60
"""Two clocks that are kept by NTP differ by less than a second; a minute forgives a machine that is not."""


def pushed_for(authorization: str, endpoints: Sequence[Endpoint], keys: PublicKeys) -> Sequence[Endpoint]:
    """Those of the accounts whose subscription pushed this; empty refuses. Raises Unavailable when the token
    could be right and the key that it names is not known: a refresh is asked for, and Pub/Sub repeats
    whatever is not answered with success."""
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not 0 < len(token) <= _TOKEN_MAX:
        return ()
    try:
        header = jwt.get_unverified_header(token)
        claimed: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, RecursionError):
        return ()
    kid = header.get("kid")
    if header.get("alg") != _ALGORITHM or not isinstance(kid, str) or not 0 < len(kid) <= _KID_MAX:
        return ()
    if claimed.get("email_verified") is not True:
        return ()
    meant = [each for each in endpoints if _is_meant(claimed, each)]
    found, missing = [], 0
    for endpoint in meant:
        key = keys.find((endpoint.tenant_id, endpoint.channel_id), kid)
        if key is None:
            missing += 1
        elif _holds(token, key, endpoint.secrets["push_audience"]):
            found.append(endpoint)
    if missing and not found:
        sentence = "Google's key for this push is not known yet."
        raise Unavailable(sentence, code="keys_unknown", retry_after_seconds=10.0)
    return found


def _is_meant(claimed: dict[str, Any], endpoint: Endpoint) -> bool:
    """By what the token says of itself."""
    fits = True
    for claim, secret in (("aud", "push_audience"), ("email", "push_email")):
        said, expected = claimed.get(claim), endpoint.secrets.get(secret, "")
        fits &= (
            bool(expected)
            and isinstance(said, str)
            and hmac.compare_digest(expected.encode(), said.encode("utf-8", "replace"))
        )
    return fits


def _holds(token: str, key: jwt.PyJWK, audience: str) -> bool:
    try:
        jwt.decode(
            token,
            key,
            algorithms=[_ALGORITHM],
            audience=audience,
            issuer=_ISSUERS,
            leeway=_LEEWAY_SECONDS,
            options={"require": ["exp", "iat", "iss", "aud"]},
        )
    except (jwt.PyJWTError, ValueError, RecursionError):
        return False
    return True
