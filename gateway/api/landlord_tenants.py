"""The landlord's tenants: create with placement and first owner, list, suspend."""

from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from msgspec import Meta, Struct

from engine.domain.conversation.messages import By
from engine.domain.resources import rfc3339
from engine.errors import NotFound
from engine.reading import Page, Tenant
from gateway.api.users import Password
from gateway.envelope import Answer
from gateway.provisioning import NewUser, Provisioning
from gateway.routing import Access, Call, Routes
from gateway.schemas import END, Email, Input, Name, PageQuery, invalid

routes = Routes("tenants", prefix="/api/landlord", in_tenant=False)

CREATE_SECONDS_MAX = 120.0
"""Creating and migrating a database takes a second or two, minutes on a busy server."""


class OwnerBody(Input, frozen=True, kw_only=True):
    """`password` may be left out for somebody who has a login already; theirs stays."""

    email: Email
    name: Name
    password: Password | None = None


class TenantBody(Input, frozen=True, kw_only=True):
    """`placement`: a database of its own, or a pooled one; without it, the system's default."""

    slug: Annotated[str, Meta(pattern="^[a-z0-9][a-z0-9-]{0,62}" + END)]
    name: Name
    owner: OwnerBody
    locale: Annotated[str, Meta(pattern="^[a-z]{2,3}(-[A-Za-z0-9]{2,8})*" + END, max_length=20)] = "en"
    timezone: Annotated[str, Meta(min_length=1, max_length=64)] = "UTC"
    placement: Literal["own", "pooled"] | None = None


class ToggleBody(Input, frozen=True, kw_only=True):
    """Without a status it is the other one; say which, and repeating the call changes nothing."""

    status: Literal["active", "suspended"] | None = None


class TenantOut(Struct, frozen=True, kw_only=True):
    id: int
    slug: str
    name: str
    status: str
    locale: str
    timezone: str
    placement: str
    placement_state: str
    created_at: str


class CreatedOut(TenantOut, frozen=True, kw_only=True):
    owner_id: int


@routes.get("/tenants", needs=Access.LANDLORD, answer=TenantOut, paged=True)
async def list_tenants(call: Call, query: PageQuery) -> Answer:
    """List tenants."""
    page = await call.deps.landlord.tenants(limit=query.limit, cursor=query.cursor)
    return Answer(data=Page(items=[_out(tenant) for tenant in page.items], next_cursor=page.next_cursor))


@routes.post("/tenants", needs=Access.LANDLORD, answer=CreatedOut, status=201, seconds_max=CREATE_SECONDS_MAX)
async def create_tenant(call: Call, body: TenantBody) -> Answer:
    """Create a tenant, its database and its first owner. A call that was cut off is finished by repeating
    it."""
    check_timezone(body.timezone)
    tenant, owner = await Provisioning(call.site).create_tenant(
        slug=body.slug,
        name=body.name,
        locale=body.locale,
        timezone=body.timezone,
        isolation=body.placement,
        owner=NewUser(
            email=body.owner.email, name=body.owner.name, password=body.owner.password, role="owner"
        ),
        by=By(kind="system", id=call.caller.user_id, name=call.caller.name),
        trace=call.trace,
    )
    await _audit(call, "tenant.created", tenant)
    shown = _out(tenant)
    members = {name: getattr(shown, name) for name in shown.__struct_fields__}
    return Answer(data=CreatedOut(**members, owner_id=owner.id), status=201, message="Tenant created")


@routes.patch("/tenants/<id:tenant_id>/toggle-status", needs=Access.LANDLORD, answer=TenantOut)
async def toggle_status(call: Call, tenant_id: int, body: ToggleBody) -> Answer:
    """Suspend a tenant, or let it work again. Webhooks of a suspended tenant are still taken."""
    tenant = await _tenant(call, tenant_id)
    status = body.status or ("suspended" if tenant.status == "active" else "active")
    await call.deps.landlord.set_tenant_status(tenant_id, status, call.deps.engine.now())
    call.site.tenants.forget(tenant.slug)
    call.deps.rights_changed(tenant_id, None)
    tenant = await _tenant(call, tenant_id)
    await _audit(call, f"tenant.{status}", tenant)
    return Answer(data=_out(tenant), message=f"Tenant is {status}")


def check_timezone(name: str) -> None:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise invalid("timezone", "Is not in the IANA time zone database.") from error


async def _tenant(call: Call, tenant_id: int) -> Tenant:
    found = await call.site.tenants.by_ids([tenant_id])
    if not found:
        raise NotFound("There is no such tenant.")
    return found[0]


async def _audit(call: Call, action: str, tenant: Tenant) -> None:
    await call.deps.landlord.audit(
        audit_id=call.deps.engine.new_id(),
        user_id=call.caller.user_id,
        action=action,
        subject=f"tenant:{tenant.id}",
        after={"slug": tenant.slug, "status": tenant.status, "isolation": tenant.isolation},
        trace=call.trace,
        now=call.deps.engine.now(),
    )


def _out(tenant: Tenant) -> TenantOut:
    return TenantOut(
        id=tenant.id,
        slug=tenant.slug,
        name=tenant.name,
        status=tenant.status,
        locale=tenant.locale,
        timezone=tenant.timezone,
        placement=tenant.isolation,
        placement_state=tenant.placement_state,
        created_at=rfc3339(tenant.created_at) or "",
    )
