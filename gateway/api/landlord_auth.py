"""Logging in and out. A login gives a token; everything else takes one."""

from typing import Annotated

from msgspec import Meta, Struct

from engine.domain.resources import rfc3339
from engine.errors import Forbidden, Unauthenticated
from engine.reading import Login, Tenant
from gateway.authentication import new_token
from gateway.envelope import Answer
from gateway.permissions import EVERYTHING
from gateway.routing import Access, Call, Routes
from gateway.schemas import Email, Input, Name

routes = Routes("auth", prefix="/api/landlord", in_tenant=False)

LOGIN_MS = 30 * 24 * 3600 * 1000
"""A login lasts a month; integrations make tokens of their own that last as long as they say."""


class LoginBody(Input, frozen=True, kw_only=True):
    """`tenant` (a slug) narrows the token to that tenant. `device` names the token in lists."""

    email: Email
    password: Annotated[str, Meta(min_length=1, max_length=1024)]
    tenant: Annotated[str, Meta(max_length=63)] | None = None
    device: Name | None = None


class UserOut(Struct, frozen=True, kw_only=True):
    id: int
    name: str
    email: str
    landlord: bool


class TenantRef(Struct, frozen=True, kw_only=True):
    id: int
    slug: str
    name: str


class LoginResult(Struct, frozen=True, kw_only=True):
    token: str
    token_id: int
    expires_at: str
    user: UserOut
    tenants: list[TenantRef]


@routes.post("/auth/login", needs=Access.PUBLIC, answer=LoginResult, also=(401,))
async def login(call: Call, body: LoginBody) -> Answer:
    """Log in with e-mail and password. The token is shown this once."""
    found = await _checked(call, body)
    tenants = list(await call.site.tenants.by_ids(found.tenant_ids))
    if body.tenant is not None:
        tenants = [tenant for tenant in tenants if tenant.slug == body.tenant]
        if not tenants:
            raise Unauthenticated("E-mail or password is wrong.", code="wrong_credentials")
    tenant_id = tenants[0].id if body.tenant is not None else None
    return await _logged_in(call, found, body, tenant_id, tenants)


@routes.post("/auth/admin/login", needs=Access.PUBLIC, answer=LoginResult, also=(401, 403))
async def admin_login(call: Call, body: LoginBody) -> Answer:
    """Log in as an operator of the whole system."""
    found = await _checked(call, body)
    if not found.landlord:
        raise Forbidden("This login is not a landlord admin's.")
    return await _logged_in(call, found, body, None, [])


@routes.post("/auth/logout", needs=Access.SIGNED_IN)
async def logout(call: Call) -> Answer:
    """Revoke the token that this call is made with."""
    principal = call.caller
    await call.deps.landlord.revoke_token(principal.token_id, call.deps.engine.now())
    call.site.authenticator.forget_token(principal.token_id)
    for tenant_id in principal.tenant_ids:
        call.deps.rights_changed(tenant_id, principal.user_id)
    return Answer(message="Logged out")


async def _checked(call: Call, body: LoginBody) -> Login:
    call.site.logins.admit(body.email, call.address)
    found = await call.deps.landlord.login_by_email(body.email)
    login = await call.site.logins.check(found, body.password)
    call.site.logins.clear(body.email, call.address)
    return login


async def _logged_in(
    call: Call, found: Login, body: LoginBody, tenant_id: int | None, tenants: list[Tenant]
) -> Answer:
    now = call.deps.engine.now()
    token, text = new_token(
        token_id=call.deps.engine.new_id(),
        user_id=found.id,
        tenant_id=tenant_id,
        name=body.device or "login",
        abilities=[EVERYTHING],
        expires_at=now + LOGIN_MS,
        now=now,
    )
    await call.deps.landlord.create_token(token)
    result = LoginResult(
        token=text,
        token_id=token.id,
        expires_at=rfc3339(token.expires_at) or "",
        user=UserOut(id=found.id, name=found.name, email=found.email, landlord=found.landlord),
        tenants=[TenantRef(id=tenant.id, slug=tenant.slug, name=tenant.name) for tenant in tenants],
    )
    return Answer(data=result, message="Logged in")
