"""Bearer tokens: `<id>|<secret>`, of which we keep the id and a SHA-256 of the secret.

The secret has 256 random bits, so a plain hash is as good as a slow one: there is nothing to guess.

Promises   `authenticate` compares in constant time and gives one answer, whatever was wrong with a token.
           A revocation in this process counts at once; one made elsewhere within `CACHE_SECONDS`.
Limits     `CACHE_MAX` tokens are remembered. Unknown tokens are not, so each costs a query; `failures` bounds
           how many of those one address may cause.
Leaves     what a principal may do in a tenant to `gateway.permissions`.
"""

import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

import trio
from msgspec import Struct

from engine.domain.ids import ID_MAX
from engine.errors import Unauthenticated
from engine.reading import Landlord, Login, Token
from gateway.ratelimit import Buckets, Rate, refuse_over

CACHE_SECONDS: Final = 10.0
"""How long a revocation made by another process may go unnoticed; also one query per token and 10 s."""

CACHE_MAX: Final = 10_000
"""About 10 MB; more tokens than are in use at once on one process."""

TOUCH_MS: Final = 60_000
"""`last_used_at` is good to the minute: a write per request would cost more than the request."""

SECRET_BYTES: Final = 32
FAILURES: Final = Rate(per_second=5, burst=50)

_SENTENCE = "A valid token is needed: Authorization: Bearer <id>|<secret>."


class Principal(Struct, frozen=True, kw_only=True):
    """Who is calling. `tenant_id`: the token is good for that tenant alone (None: for `tenant_ids`).
    `landlord`: may call the landlord's admin routes."""

    user_id: int
    token_id: int
    name: str
    email: str
    tenant_id: int | None
    tenant_ids: tuple[int, ...]
    abilities: tuple[str, ...]
    landlord: bool
    expires_at: int | None

    def belongs_to(self, tenant_id: int) -> bool:
        return tenant_id in self.tenant_ids and self.tenant_id in (None, tenant_id)


class _Known(Struct, kw_only=True):
    token: Token
    principal: Principal
    fresh_until: float
    touched_at: int


class Authenticator:
    """One per process. `clock_ms` is the wall clock that expiry is measured on."""

    def __init__(self, landlord: Landlord, clock_ms: Callable[[], int]) -> None:
        self._landlord = landlord
        self._clock_ms = clock_ms
        self._known: OrderedDict[int, _Known] = OrderedDict()
        self._failures: Buckets[str] = Buckets(FAILURES)

    async def authenticate(self, text: str, address: str = "") -> Principal:
        """The principal behind `<id>|<secret>`. Raises Unauthenticated; RateLimited for an address that
        keeps on sending wrong tokens; StoreUnavailable when the token must be looked up and cannot be."""
        token_id, secret = _parse(text)
        known = self._known.get(token_id)
        now = self._clock_ms()
        if known is None or known.fresh_until <= trio.current_time():
            known = await self._look_up(token_id, address)
        if known is None or not hmac.compare_digest(hash_secret(secret), known.token.secret_hash):
            self._failed(address)
            raise Unauthenticated(_SENTENCE)
        if known.token.expires_at is not None and known.token.expires_at <= now:
            raise Unauthenticated("This token has expired.", code="token_expired")
        if now - known.touched_at >= TOUCH_MS:
            known.touched_at = now
            await self._landlord.touch_token(token_id, now)
        return known.principal

    async def recall(self, token_id: int) -> Principal | None:
        """Who a token that was right before belongs to, if it is good now: for connections that outlive their
        request."""
        known = self._known.get(token_id)
        if known is None or known.fresh_until <= trio.current_time():
            known = await self._look_up(token_id, "")
        expires_at = known.token.expires_at if known is not None else 0
        good = known is not None and (expires_at is None or expires_at > self._clock_ms())
        return known.principal if known is not None and good else None

    def forget_token(self, token_id: int) -> None:
        """After a revocation: the next use is looked up."""
        self._known.pop(token_id, None)

    def forget_user(self, user_id: int) -> None:
        """After a change of a login or its memberships."""
        for token_id in [k for k, known in self._known.items() if known.principal.user_id == user_id]:
            del self._known[token_id]

    async def _look_up(self, token_id: int, address: str) -> _Known | None:
        verdict = self._failures.peek(address, trio.current_time())
        refuse_over(verdict, "Too many wrong tokens from this address.")
        token = await self._landlord.token(token_id)
        login = await self._landlord.login(token.user_id) if token and token.revoked_at is None else None
        if token is None or login is None or not login.active:
            self._known.pop(token_id, None)
            return None
        known = _Known(
            token=token,
            principal=_principal(token, login),
            fresh_until=trio.current_time() + CACHE_SECONDS,
            touched_at=token.last_used_at or 0,
        )
        self._known[token_id] = known
        self._known.move_to_end(token_id)
        if len(self._known) > CACHE_MAX:
            self._known.popitem(last=False)
        return known

    def _failed(self, address: str) -> None:
        self._failures.take(address, trio.current_time())


def new_token(
    *,
    token_id: int,
    user_id: int,
    tenant_id: int | None,
    name: str,
    abilities: Sequence[str],
    expires_at: int | None,
    now: int,
) -> tuple[Token, str]:
    """A token's record and its text, which is shown once and kept nowhere."""
    secret = secrets.token_urlsafe(SECRET_BYTES)
    token = Token(
        id=token_id,
        user_id=user_id,
        tenant_id=tenant_id,
        name=name,
        secret_hash=hash_secret(secret),
        abilities=tuple(abilities),
        expires_at=expires_at,
        last_used_at=None,
        revoked_at=None,
        created_at=now,
    )
    return token, f"{token_id}|{secret}"


def hash_secret(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def bearer(header: str | None) -> str:
    """The token in an Authorization header. Raises Unauthenticated when there is none."""
    scheme, _, text = (header or "").partition(" ")
    if scheme.lower() != "bearer" or not text.strip():
        raise Unauthenticated(_SENTENCE)
    return text.strip()


def _parse(text: str) -> tuple[int, str]:
    number, bar, secret = text.partition("|")
    if not bar or not (number.isascii() and number.isdigit()) or len(number) > 16 or len(secret) > 128:
        raise Unauthenticated(_SENTENCE)
    token_id = int(number)
    if token_id > ID_MAX:
        raise Unauthenticated(_SENTENCE)
    return token_id, secret


def _principal(token: Token, login: Login) -> Principal:
    return Principal(
        user_id=login.id,
        token_id=token.id,
        name=login.name,
        email=login.email,
        tenant_id=token.tenant_id,
        tenant_ids=login.tenant_ids,
        abilities=token.abilities,
        landlord=login.landlord,
        expires_at=token.expires_at,
    )
