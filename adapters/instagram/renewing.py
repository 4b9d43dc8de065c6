"""A new long-lived token for the old one, with Instagram Login.

Source      The Instagram sheet, section 8: `GET /refresh_access_token?grant_type=ig_refresh_token`, without a
            version in the path, for a token that is 24 hours old at least and has not expired; the new one
            holds 60 days. The old one is not used up.
"""

from typing import Final

from adapters.checking import unreadable
from adapters.clock import wall_ms
from adapters.guard import Guard
from adapters.instagram.describing import DIALECT, LOGIN_URL
from adapters.meta.account import read
from adapters.port import Account, Declined, Renewed

_SECONDS_MAX: Final = 400 * 86_400
"""More than any platform's token holds; a number beyond is no duration."""


async def renew_token(account: Account, guard: Guard) -> Renewed | Declined | None:
    """See `adapters.port.Adapter.renew`. A linked Page's token does not expire."""
    if account.settings.get("page_id"):
        return None
    url = f"{account.base_url(LOGIN_URL)}/refresh_access_token"
    parameters = {
        "grant_type": "ig_refresh_token",
        "access_token": account.credentials.get("access_token", ""),
    }
    found = await read(DIALECT, account, guard, url, parameters)
    if isinstance(found, Declined):
        return found
    token, seconds = found.get("access_token"), found.get("expires_in")
    if not isinstance(token, str) or not token:
        raise unreadable(DIALECT.label)
    expires_at = None
    if isinstance(seconds, int) and not isinstance(seconds, bool) and 0 < seconds <= _SECONDS_MAX:
        expires_at = wall_ms() + seconds * 1_000
    return Renewed(credentials={"access_token": token}, expires_at=expires_at)
