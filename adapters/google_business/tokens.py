"""Access tokens: what Google's calls are authorised with, had by what the account was given.

    service_account    a key file's JSON: a signed assertion is exchanged for a token (RFC 7523)
    refresh_token      with client_id and client_secret: exchanged for a token (RFC 6749, 6)
    access_token       used as it is, until it expires

Why here    Both exchanges can be repeated at will and leave the grant as it was, so nothing has to be stored:
            a token is had when it is needed and kept in memory for its hour.
Promises    One exchange at a time for each account. A token is replaced `_EARLY_SECONDS` before it expires,
            and at once after `forget`. Exchanging sends no message, so whatever becomes of it is `Declined`
            and may be tried again.
Limits      `_KEPT_MAX` accounts' tokens (some 5 MB); forgetting one costs another exchange.
Source      The Google Business sheet, A4, B4 and B5; the address is unconfirmed there: for a stand-in it is
            `{base_url}/token`.
"""

import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

import jwt
import msgspec
import trio
from msgspec import Struct, structs

from adapters.calling import declined, is_token, no_token, not_understood, token_problem
from adapters.client import PlatformClient
from adapters.google_business.limits import LABEL
from adapters.google_business.naming import is_location
from adapters.port import Account, Declined, ErrorClass
from adapters.wire import decoded
from engine.domain.platforms import Field

TOKEN_URL: Final = "https://oauth2.googleapis.com/token"  # noqa: S105  an address
SCOPES: Final = {
    False: "https://www.googleapis.com/auth/businessmessages",
    True: "https://www.googleapis.com/auth/business.manage",
}
"""By whether the account is a profile."""

CREDENTIALS: Final = (
    Field(name="service_account", label="A service account's key file: its JSON."),
    Field(name="refresh_token", label="Of the user who manages the profile; goes with the next two."),
    Field(name="client_id", label="Of the OAuth client that the refresh token was made for."),
    Field(name="client_secret", label="Of the OAuth client."),
    Field(name="access_token", label="In place of these: a token that is used as it is until it expires."),
)

_EARLY_SECONDS: Final = 300.0
"""A call may wait some minutes for its turn, and clocks differ."""
_LIFE_SECONDS: Final = 3_600
"""What Google gives and takes for an assertion at most."""
_KEPT_MAX: Final = 10_000
_CALL_SECONDS_MAX: Final = 10.0
_JWT_BEARER: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"


class _Granted(Struct):
    access_token: str
    expires_in: int = _LIFE_SECONDS


class _Key(Struct):
    client_email: str
    private_key: str
    private_key_id: str | None = None


_granted: Final = msgspec.json.Decoder(_Granted)
_key: Final = msgspec.json.Decoder(_Key)


class _Kept:
    """One account's token. `made_with` are the credentials that it was had by."""

    def __init__(self) -> None:
        self.lock = trio.Lock()
        self.token: str | None = None
        self.expires_at = 0.0
        self.made_with: Mapping[str, str] = {}


class AccessTokens:
    def __init__(self, client: PlatformClient) -> None:
        self._client = client
        self._kept: OrderedDict[tuple[int, int], _Kept] = OrderedDict()

    async def have(self, account: Account) -> str | Declined:
        """A token that holds for some minutes."""
        credentials = account.credentials
        if not (credentials.get("service_account") or credentials.get("refresh_token")):
            return token_problem(account) or credentials["access_token"]
        key = (account.tenant_id, account.channel_id)
        kept = self._kept.setdefault(key, _Kept())
        self._kept.move_to_end(key)
        if len(self._kept) > _KEPT_MAX:
            self._kept.popitem(last=False)
        async with kept.lock:
            fresh = kept.expires_at - _EARLY_SECONDS > time.monotonic()
            if kept.token is not None and fresh and kept.made_with == credentials:
                return kept.token
            granted = await self._exchange(account)
            if isinstance(granted, Declined):
                return granted
            kept.token, kept.made_with = granted.access_token, credentials
            kept.expires_at = time.monotonic() + granted.expires_in
            return kept.token

    def forget(self, account: Account, token: str) -> bool:
        """Google takes this token no more. Whether another one can be had."""
        kept = self._kept.get((account.tenant_id, account.channel_id))
        if kept is None:
            return False
        if kept.token == token:
            kept.token = None
        return True

    async def _exchange(self, account: Account) -> _Granted | Declined:
        url = f"{account.base_url('')}/token" if account.settings.get("base_url") else TOKEN_URL
        form = _form_of(account, url)
        if isinstance(form, Declined):
            return form
        answer = await self._client.ask("POST", url, data=form, seconds_max=_CALL_SECONDS_MAX)
        if isinstance(answer, Declined):
            if answer.error_class is not ErrorClass.BAD_REQUEST:
                return answer
            # The message is not to blame: without another grant nothing can be sent at all.
            return structs.replace(answer, error_class=ErrorClass.AUTH)
        granted = decoded(_granted, answer.content)
        if granted is None:
            return not_understood(LABEL)
        return granted if is_token(granted.access_token) else no_token()


def _form_of(account: Account, url: str) -> dict[str, str] | Declined:
    credentials = account.credentials
    if not credentials.get("service_account"):
        return {
            "grant_type": "refresh_token",
            **{name: credentials.get(name, "") for name in ("refresh_token", "client_id", "client_secret")},
        }
    try:
        key = _key.decode(credentials["service_account"])
        now = int(time.time())
        assertion = jwt.encode(
            {
                "iss": key.client_email,
                "scope": SCOPES[is_location(account.external_id)],
                "aud": url,
                "iat": now,
                "exp": now + _LIFE_SECONDS,
            },
            key.private_key,
            algorithm="RS256",
            headers={"kid": key.private_key_id} if key.private_key_id else None,
        )
    except (msgspec.DecodeError, jwt.PyJWTError, ValueError, TypeError):
        sentence = "The service account's key file cannot be read: it is the JSON that Google hands out."
        return declined(ErrorClass.AUTH, "no_token", sentence)
    return {"grant_type": _JWT_BEARER, "assertion": assertion}
