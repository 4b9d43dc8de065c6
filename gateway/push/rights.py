"""Who is listening, and what a session asks about it. `gateway.subscription_rights` answers."""

from typing import Protocol

from msgspec import Struct


class Viewer(Struct, frozen=True, kw_only=True):
    """One user in one tenant. `expires_at` is when the token behind it ends by itself, on trio's clock.
    `principal` is for the one who answers and not looked at here."""

    tenant_id: int
    user_id: int
    name: str
    expires_at: float = float("inf")
    principal: object = None


class Rights(Protocol):
    """All raise Unauthenticated, Forbidden or NotFound for no, and Unavailable when they cannot tell."""

    async def authenticate(self, token: str, tenant: str | None, address: str) -> Viewer:
        """The user of a bearer token, in the tenant with this slug; without one, in the only one."""
        ...

    async def redeem(self, ticket: str, address: str) -> Viewer:
        """The user who had this ticket made. It is used up by it."""
        ...

    async def vouched(self, tenant_id: int, user_id: int, token_id: int | None) -> Viewer:
        """A user whom somebody named who may: a signature of the tenant's own app. With a token's id, only
        as long as that token is good."""
        ...

    async def renew(self, viewer: Viewer) -> Viewer:
        """The same viewer as things are now."""
        ...

    async def may_subscribe(self, viewer: Viewer, channel: str) -> bool: ...

    async def tenant_is_active(self, tenant_id: int) -> bool: ...
