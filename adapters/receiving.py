"""What receivers share: whose secrets vouch for a delivery, and what becomes of what nobody understands.

Promises    Secrets are compared in constant time, on bytes, and each is tried once, however many accounts
            share it. An empty secret vouches for nothing.
"""

import hmac
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

from engine.domain.inbound import Unsupported
from engine.ports import Endpoint

K = TypeVar("K", bound=Hashable)


def secrets_of(endpoint: Endpoint, names: Sequence[str]) -> list[str]:
    """Those that the account has, in this order."""
    return [secret for name in names if (secret := endpoint.secrets.get(name))]


def vouching(
    endpoints: Sequence[Endpoint], keys_of: Callable[[Endpoint], Sequence[K]], fits: Callable[[K], bool]
) -> list[Endpoint]:
    """The accounts of which one of the keys fits. `fits` is asked once for each key, and must take the same
    time whatever it compares."""
    fitting: dict[K, bool] = {}
    for endpoint in endpoints:
        for key in keys_of(endpoint):
            if key not in fitting:
                fitting[key] = fits(key)
    return [endpoint for endpoint in endpoints if any(fitting[key] for key in keys_of(endpoint))]


def is_known(endpoints: Sequence[Endpoint], name: str, given: str) -> bool:
    """Whether a handshake's token is one that we gave out under this name."""
    token, known = given.encode("utf-8", "replace"), False
    for endpoint in endpoints:
        expected = endpoint.secrets.get(name, "")
        # No early end: the time must not tell which of the candidates fits.
        known |= bool(expected) and hmac.compare_digest(expected.encode(), token)
    return known


def odd(raw: Any, reason: str, at: int | None = None) -> Unsupported:
    """Nothing to store in a conversation: the raw delivery keeps it."""
    whole = raw if isinstance(raw, dict) and raw else {"value": raw}
    return Unsupported(contact=None, platform_id=None, at=at, raw=whole, reason=reason)
