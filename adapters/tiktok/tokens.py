"""New tokens in place of those that end after a day.

Source      The TikTok sheet, section 8. Whether a refresh token works more than once is not in it, so it is
            taken to work once; the one that comes with the answer takes its place.
"""

from typing import Final

import msgspec
from msgspec import Struct

from adapters.calling import declined, is_token
from adapters.checking import SECONDS_MAX, lasting, unreadable
from adapters.clock import wall_ms
from adapters.guard import Guard
from adapters.port import Account, Declined, ErrorClass, Renewed
from adapters.tiktok.calling import TikTokClient, api_url
from adapters.tiktok.limits import LABEL
from adapters.wire import decoded

_TOKEN_MAX: Final = 2_048
"""Tokens have some 70 characters."""


class _Tokens(Struct):
    access_token: str
    expires_in: int
    refresh_token: str | None = None
    open_id: str | None = None


_tokens: Final = msgspec.json.Decoder(_Tokens)


async def renew_tokens(account: Account, guard: Guard) -> Renewed | Declined | None:
    """As `adapters.port.Adapter.renew` promises; None where the account has no refresh token, or nobody has
    said by which app it is renewed (`client_key`)."""
    refresh_token = account.credentials.get("refresh_token")
    client_key = account.settings.get("client_key")
    if not refresh_token or not isinstance(client_key, str) or not client_key:
        return None
    body = {
        "client_id": client_key,
        "client_secret": account.credentials.get("client_secret", ""),
        "grant_type": "refresh_token",
        "refresh_token": refresh_token,
    }
    async with TikTokClient(guard, connections_max=1, seconds_max=SECONDS_MAX) as client:
        answer = await client.ask_data("POST", api_url(account, "tt_user/oauth2/refresh_token"), json=body)
    if not isinstance(answer, Declined):
        return _read(answer, account)
    # Whatever does not pass by itself: the same refresh token will not do.
    refused = lasting(answer)
    sentence = "TikTok does not renew this account's token. Connect the account again."
    return declined(ErrorClass.AUTH, refused.platform_code, sentence)


def _read(answer: msgspec.Raw, account: Account) -> Renewed | Declined:
    tokens = decoded(_tokens, answer)
    if tokens is None:
        raise unreadable(LABEL)
    if tokens.open_id not in (None, account.external_id):
        sentence = "The refresh token is another TikTok account's. Connect this one again."
        return declined(ErrorClass.AUTH, "another_account", sentence)
    given = {"access_token": tokens.access_token, "refresh_token": tokens.refresh_token}
    fresh = {name: token for name, token in given.items() if token is not None}
    if tokens.expires_in <= 0 or not all(
        is_token(token) and len(token) <= _TOKEN_MAX for token in fresh.values()
    ):
        raise unreadable(LABEL)
    return Renewed(credentials=fresh, expires_at=wall_ms() + tokens.expires_in * 1_000)
