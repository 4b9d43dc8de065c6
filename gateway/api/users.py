"""Users: a tenant's people. One login may belong to several tenants; role and availability are per tenant.

Only an owner makes, changes or removes an owner, and the tenant's actor keeps the last one. E-mail and
password belong to the login: a tenant may set them only while the login is its own alone, or an admin of one
tenant could take over a person's account in another.
"""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from engine.domain.config import Agent
from engine.domain.resources import rfc3339
from engine.domain.tenant.messages import Remove, Save
from engine.errors import Conflicting, Forbidden, NotFound
from engine.reading import Login, Page
from gateway.api.settings import DayOut, WeekBody, week_of, week_out
from gateway.envelope import Answer
from gateway.paging import page_by_id
from gateway.permissions import Permission
from gateway.provisioning import NewUser, Provisioning
from gateway.routing import Routes, TenantCall
from gateway.schemas import Email, Input, Name, PageQuery, given

routes = Routes("users")

Role = Literal["owner", "admin", "agent"]
Availability = Literal["online", "away", "offline"]
Capacity = Annotated[int, Meta(ge=1, le=10_000)]
Password = Annotated[str, Meta(min_length=8, max_length=256)]


class UserBody(Input, frozen=True, kw_only=True):
    """`password` may be left out for somebody who has a login already; theirs stays."""

    email: Email
    name: Name
    role: Role = "agent"
    password: Password | None = None
    capacity: Capacity | None = None


class UserPatch(Input, frozen=True, kw_only=True):
    """`work_hours` null: the tenant's. `capacity` null: no limit of open conversations."""

    name: Name | UnsetType = UNSET
    email: Email | UnsetType = UNSET
    password: Password | UnsetType = UNSET
    role: Role | UnsetType = UNSET
    active: bool | UnsetType = UNSET
    capacity: Capacity | UnsetType | None = UNSET
    work_hours: WeekBody | UnsetType | None = UNSET


class AvailabilityBody(Input, frozen=True, kw_only=True):
    availability: Availability


class UserOut(Struct, frozen=True, kw_only=True):
    id: int
    name: str
    email: str
    role: str
    active: bool
    availability: str
    work_hours: list[DayOut] | None
    capacity: int | None
    created_at: str
    updated_at: str


@routes.get("/users", needs=Permission.USERS_VIEW, answer=UserOut, paged=True)
async def list_users(call: TenantCall, query: PageQuery) -> Answer:
    """List users."""
    page = page_by_id(
        call.config.agents.values(), lambda agent: agent.id, limit=query.limit, cursor=query.cursor
    )
    return Answer(data=Page(items=[_out(agent) for agent in page.items], next_cursor=page.next_cursor))


@routes.post("/users", needs=Permission.USERS_MANAGE, answer=UserOut, status=201)
async def create_user(call: TenantCall, body: UserBody) -> Answer:
    """Add a user, with a login if the e-mail has none yet."""
    if body.role == "owner":
        _check_owner(call)
    user = NewUser(
        email=body.email, name=body.name, password=body.password, role=body.role, capacity=body.capacity
    )
    agent = await Provisioning(call.site).create_user(call.tenant.id, user, by=call.by, trace=call.trace)
    return Answer(data=_out(agent), status=201, message="User added")


@routes.get("/users/<id:user_id>", needs=Permission.USERS_VIEW, answer=UserOut)
async def show_user(call: TenantCall, user_id: int) -> Answer:
    """Show one user."""
    return Answer(data=_out(_agent(call, user_id)))


@routes.update("/users/<id:user_id>", needs=Permission.USERS_MANAGE, answer=UserOut)
async def update_user(call: TenantCall, user_id: int, body: UserPatch) -> Answer:
    """Change a user; members that are left out stay. Deactivating revokes the user's tokens here, a new
    password all that the login has anywhere."""
    before = _agent(call, user_id)
    members = given(body)
    if "owner" in (before.role, members.get("role")):
        _check_owner(call)
    if "email" in members or "password" in members:
        await _check_login_is_ours(call, user_id)
    password = members.pop("password", None)
    # Hashed before anything is changed: a password that is refused must not leave half a change.
    password_hash = await call.site.passwords.hash(password) if password is not None else None
    if "work_hours" in members:
        week = members.pop("work_hours")
        members["week"] = week_of(week) if week is not None else None
    agent = await _save(call, user_id, members)
    if password_hash is not None or "email" in members:
        await _update_login(call, user_id, members, password_hash)
    if password_hash is not None:
        # Who knew the old one may have logged in with it, without saying for which tenant.
        await _revoke(call, user_id, None)
    elif members.get("active") is False:
        await _revoke(call, user_id, await _only_here(call, user_id))
    call.deps.rights_changed(call.tenant.id, user_id)
    return Answer(data=_out(agent), message="User changed")


@routes.put("/users/<id:user_id>/availability", needs=Permission.AVAILABILITY, answer=UserOut)
async def set_availability(call: TenantCall, user_id: int, body: AvailabilityBody) -> Answer:
    """Say whether a user takes conversations now: one's own, or anybody's with users.manage."""
    _agent(call, user_id)
    if user_id != call.caller.user_id and Permission.USERS_MANAGE not in call.permissions:
        raise Forbidden("Only one's own availability can be set.")
    return Answer(data=_out(await _save(call, user_id, {"availability": body.availability})), message="Set")


@routes.delete("/users/<id:user_id>", needs=Permission.USERS_MANAGE)
async def delete_user(call: TenantCall, user_id: int) -> Answer:
    """Remove a user from this tenant. What they wrote stays; the login stays for other tenants."""
    if _agent(call, user_id).role == "owner":
        _check_owner(call)
    await call.deps.engine.ask_tenant(
        call.tenant.id, Remove(kind="agent", id=user_id, by=call.by, trace=call.trace)
    )
    reach = await _only_here(call, user_id)
    await call.deps.landlord.remove_membership(user_id, call.tenant.id)
    await _revoke(call, user_id, reach)
    call.deps.rights_changed(call.tenant.id, user_id)
    return Answer(message="User removed")


def _agent(call: TenantCall, user_id: int) -> Agent:
    agent = call.config.agents.get(user_id)
    if agent is None:
        raise NotFound("There is no such user.")
    return agent


def _check_owner(call: TenantCall) -> None:
    if call.role not in ("owner", "operator"):
        raise Forbidden("Only an owner may make, change or remove an owner.")


async def _check_login_is_ours(call: TenantCall, user_id: int) -> Login:
    login = await call.deps.landlord.login(user_id)
    if login is None:
        raise NotFound("There is no such user.")
    own = user_id == call.caller.user_id
    if login.landlord or (not own and set(login.tenant_ids) != {call.tenant.id}):
        raise Forbidden("E-mail and password of this login are its owner's to change.")
    return login


async def _save(call: TenantCall, user_id: int, values: dict[str, Any]) -> Agent:
    save = Save(kind="agent", id=user_id, values=values, by=call.by, trace=call.trace)
    agent: Agent = await call.deps.engine.ask_tenant(call.tenant.id, save)
    return agent


async def _update_login(
    call: TenantCall, user_id: int, members: dict[str, Any], password_hash: str | None
) -> None:
    """The landlord may refuse the e-mail (somebody else's login): then the agent gets its old one back."""
    before = call.config.agents[user_id]
    try:
        await call.deps.landlord.update_login(
            user_id,
            email=members.get("email"),
            password_hash=password_hash,
            now=call.deps.engine.now(),
        )
    except Conflicting:
        await _save(call, user_id, {"email": before.email})
        raise
    call.site.authenticator.forget_user(user_id)


async def _only_here(call: TenantCall, user_id: int) -> int | None:
    """Whose tokens end when the user is out here: None for all of them, if this is the user's only tenant.
    Else those for this tenant; one for all tenants goes on being good for the others."""
    login = await call.deps.landlord.login(user_id)
    alone = login is not None and not login.landlord and set(login.tenant_ids) <= {call.tenant.id}
    return None if alone else call.tenant.id


async def _revoke(call: TenantCall, user_id: int, tenant_id: int | None) -> None:
    await call.deps.landlord.revoke_tokens_of(user_id, tenant_id, call.deps.engine.now())
    call.site.authenticator.forget_user(user_id)


def _out(agent: Agent) -> UserOut:
    return UserOut(
        id=agent.id,
        name=agent.name,
        email=agent.email,
        role=agent.role,
        active=agent.active,
        availability=agent.availability,
        work_hours=week_out(agent.week) if agent.week is not None else None,
        capacity=agent.capacity,
        created_at=rfc3339(agent.created_at) or "",
        updated_at=rfc3339(agent.updated_at) or "",
    )
