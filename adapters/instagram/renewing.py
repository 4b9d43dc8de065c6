"""A new long-lived token for the old one, with Instagram Login.

Source      The Instagram sheet, section 8: `GET /refresh_access_token?grant_type=ig_refresh_token`, without a
            version in the path, for a token that is 24 hours old at least and has not expired; the new one
            holds 60 days. The old one is not used up.
"""

import time
from typing import Final

from adapters.guard import Guard
from adapters.instagram.describing import DIALECT
from adapters.meta.account import call
from adapters.port import Account, Declined, Renewed
from engine.errors import Unavailable

_SECONDS_MAX: Final = 400 * 86_400
"""More than any platform's token holds; a number beyond is no duration."""


async def renew_token(account: Account, guard: Guard) -> Renewed | Declined | None:
    """See `adapters.port.Adapter.renew`. A linked Page's token does not expire."""
    if account.settings.get("page_id"):
        return None
    url = f"{DIALECT.base_url_of(account).rstrip('/')}/refresh_access_token"
    parameters = {
        "grant_type": "ig_refresh_token",
        "access_token": account.credentials.get("access_token", ""),
    }
    found = await call(DIALECT, account, guard, url, parameters)
    if isinstance(found, Declined):
        return found
    token, seconds = found.get("access_token"), found.get("expires_in")
    if not isinstance(token, str) or not token:
        raise Unavailable(f"{DIALECT.label}'s answer has no token in it.", code="platform_unavailable")
    expires_at = None
    if isinstance(seconds, int) and not isinstance(seconds, bool) and 0 < seconds <= _SECONDS_MAX:
        expires_at = time.time_ns() // 1_000_000 + seconds * 1000
    return Renewed(credentials={"access_token": token}, expires_at=expires_at)
