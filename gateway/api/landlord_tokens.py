"""Tokens that the operators of this system make in a user's name: for `mijra token create` and set-ups by
script.

Whoever may call this could set a password as well, so it gives no new power; it is in the audit log either
way.
"""

from typing import Annotated

from msgspec import Meta, Struct

from engine.domain.resources import rfc3339
from engine.errors import NotFound
from gateway.authentication import new_token
from gateway.envelope import Answer
from gateway.permissions import EVERYTHING, Permission
from gateway.routing import Access, Call, Routes
from gateway.schemas import Email, Input, Moment, Name, invalid, milliseconds

routes = Routes("landlord-tokens", prefix="/api/landlord", in_tenant=False)


class TokenForBody(Input, frozen=True, kw_only=True):
    """`tenant` is a slug, `email` one of its users'. `abilities`: permissions, or `*` for what the role
    gives."""

    tenant: Annotated[str, Meta(min_length=1, max_length=63)]
    email: Email
    name: Name
    abilities: Annotated[tuple[str, ...], Meta(min_length=1, max_length=50)] = (EVERYTHING,)
    expires_at: Moment | None = None


class TokenForOut(Struct, frozen=True, kw_only=True):
    """`token` is shown this once."""

    id: int
    name: str
    user_id: int
    tenant: str
    abilities: tuple[str, ...]
    expires_at: str | None
    token: str


@routes.post("/tokens", needs=Access.LANDLORD, answer=TokenForOut, status=201, secret=True, also=(404,))
async def create_token_for(call: Call, body: TokenForBody) -> Answer:
    """Create a token for a tenant in one of its users' names."""
    now = call.deps.engine.now()
    expires_at = milliseconds(body.expires_at)
    if expires_at is not None and expires_at <= now:
        raise invalid("expires_at", "Must lie in the future.")
    known = {permission.value for permission in Permission} | {EVERYTHING}
    for ability in body.abilities:
        if ability not in known:
            raise invalid("abilities", f"{ability} is not a permission.")
    tenant = await call.site.tenants.by_slug(body.tenant)
    if tenant is None:
        raise NotFound("There is no such tenant.")
    login = await call.deps.landlord.login_by_email(body.email)
    if login is None or tenant.id not in login.tenant_ids:
        raise NotFound("The tenant has no user with this e-mail.")
    token, text = new_token(
        token_id=call.deps.engine.new_id(),
        user_id=login.id,
        tenant_id=tenant.id,
        name=body.name,
        abilities=body.abilities,
        expires_at=expires_at,
        now=now,
    )
    await call.deps.landlord.create_token(token)
    await call.deps.landlord.audit(
        audit_id=call.deps.engine.new_id(),
        user_id=call.caller.user_id,
        action="token.created",
        subject=f"user:{login.id}",
        after={"token_id": token.id, "tenant": tenant.slug, "name": token.name, "abilities": body.abilities},
        trace=call.trace,
        now=now,
    )
    shown = TokenForOut(
        id=token.id,
        name=token.name,
        user_id=login.id,
        tenant=tenant.slug,
        abilities=token.abilities,
        expires_at=rfc3339(token.expires_at),
        token=text,
    )
    return Answer(data=shown, status=201, message="Token created; it is shown only now")
