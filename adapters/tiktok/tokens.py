"""New tokens in place of those that end after a day.

Source      The TikTok sheet, section 8. Whether a refresh token works more than once is not in it, so it is
            taken to work once; the one that comes with the answer takes its place.
"""

import time
from typing import Final

import httpx
import msgspec
from msgspec import Struct

from adapters.calling import declined
from adapters.guard import Guard, guarded_client
from adapters.port import Account, Declined, ErrorClass, Renewed
from adapters.tiktok.calling import api_url, call
from engine.errors import Unavailable

_SECONDS_MAX: Final = 15.0
_LATER: Final = frozenset({ErrorClass.TRANSIENT, ErrorClass.UNREACHABLE})
_TOKEN_MAX: Final = 2_048
"""Tokens have some 70 characters."""


class _Tokens(Struct):
    access_token: str
    expires_in: int
    refresh_token: str | None = None
    open_id: str | None = None


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
    timeout = httpx.Timeout(_SECONDS_MAX, connect=5.0)
    async with guarded_client(guard, connections_max=1, timeout=timeout) as client:
        answer = await call(
            client,
            "POST",
            api_url(account, "tt_user/oauth2/refresh_token"),
            seconds_max=_SECONDS_MAX,
            json=body,
        )
    if isinstance(answer, msgspec.Raw):
        return _read(answer, account)
    if isinstance(answer, Declined) and answer.error_class is ErrorClass.RATE_ACCOUNT:
        return answer
    if not isinstance(answer, Declined) or answer.error_class in _LATER:
        sentence = answer.message if isinstance(answer, Declined) else "TikTok did not answer."
        raise Unavailable(sentence, code="platform_unavailable", retry_after_seconds=5.0)
    # Whatever else is wrong with the call, the same refresh token will not do.
    sentence = "TikTok does not renew this account's token. Connect the account again."
    return declined(ErrorClass.AUTH, answer.platform_code, sentence)


def _read(answer: msgspec.Raw, account: Account) -> Renewed | Declined:
    try:
        tokens = msgspec.json.decode(answer, type=_Tokens)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise _not_understood() from None
    if tokens.open_id not in (None, account.external_id):
        sentence = "The refresh token is another TikTok account's. Connect this one again."
        return declined(ErrorClass.AUTH, "another_account", sentence)
    given = {"access_token": tokens.access_token, "refresh_token": tokens.refresh_token}
    fresh = {name: token for name, token in given.items() if token is not None}
    if tokens.expires_in <= 0 or not all(_is_token(token) for token in fresh.values()):
        raise _not_understood()
    return Renewed(credentials=fresh, expires_at=time.time_ns() // 1_000_000 + tokens.expires_in * 1_000)


def _is_token(token: str) -> bool:
    return 0 < len(token) <= _TOKEN_MAX and token.isascii() and token.isprintable() and " " not in token


def _not_understood() -> Unavailable:
    return Unavailable("TikTok's answer cannot be understood.", code="platform_unavailable")
