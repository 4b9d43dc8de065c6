"""Who may listen to what: the WebSocket's door, on the same tokens and roles as the API.

Rights are looked at when somebody subscribes and again whenever the hub is told that they changed, so nothing
here is remembered. A revoked token, a suspended tenant or a deactivated user may subscribe to nothing any
more.

    inbox                          owners and admins: it carries every conversation of the tenant
    conversations.{id}, presence-  who may see that conversation
    users.{id}                     that user
    campaigns.{id}                 owners and admins
"""

from typing import Final

import trio

from engine.domain.ids import ID_MAX
from engine.errors import Forbidden, NotFound, Unauthenticated, Unavailable
from engine.reading import Tenant
from gateway.authentication import Principal
from gateway.permissions import EVERYTHING, Permission, granted, may_see, sees_all
from gateway.push.rights import Viewer
from gateway.push.tickets import Tickets
from gateway.routing import Site

VOUCHED: Final = 0
"""In the place of a token's id: the tenant's own back end named the user."""

EXPIRY_MARGIN_SECONDS: Final = 0.05
"""Asked a moment after a token's end, the clocks of trio and of the wall agree that it is over."""


class SubscriptionRights:
    """See `gateway.push.rights.Rights`."""

    def __init__(self, site: Site, tickets: Tickets) -> None:
        self._site = site
        self._tickets = tickets

    async def authenticate(self, token: str, tenant: str | None, address: str) -> Viewer:
        principal = await self._site.authenticator.authenticate(token, address)
        return await self.viewer_of(principal, tenant)

    async def viewer_of(self, principal: Principal, slug: str | None) -> Viewer:
        """Without a slug, the tenant is the token's, or the only one of the user."""
        return await self._viewer(principal, await self._tenant(principal, slug))

    async def redeem(self, ticket: str, address: str) -> Viewer:
        viewer = self._tickets.use(ticket)
        if viewer is None:
            raise Unauthenticated("This ticket was used already, or is older than half a minute.")
        return await self.renew(viewer)

    async def vouched(self, tenant_id: int, user_id: int, token_id: int | None) -> Viewer:
        tenant = await self._active(tenant_id)
        principal = None
        if token_id is not None:
            principal = await self._site.authenticator.recall(token_id) if 0 < token_id <= ID_MAX else None
            if principal is None or principal.user_id != user_id or not principal.belongs_to(tenant_id):
                raise Unauthenticated("The token is not good any more.")
        else:
            principal = Principal(
                user_id=user_id,
                token_id=VOUCHED,
                name="",
                email="",
                tenant_id=tenant_id,
                tenant_ids=(tenant_id,),
                abilities=(EVERYTHING,),
                landlord=False,
                expires_at=None,
            )
        return await self._viewer(principal, tenant)

    async def renew(self, viewer: Viewer) -> Viewer:
        token_id = _principal(viewer).token_id
        return await self.vouched(viewer.tenant_id, viewer.user_id, token_id or None)

    async def may_subscribe(self, viewer: Viewer, channel: str) -> bool:
        principal = _principal(viewer)
        if principal.token_id != VOUCHED and not await self._site.authenticator.recall(principal.token_id):
            return False
        if not await self.tenant_is_active(viewer.tenant_id):
            return False
        role, abilities = await self._role(principal, viewer.tenant_id)
        if Permission.CONVERSATIONS_VIEW not in granted(role, abilities):
            return False
        kind, _, number = channel.removeprefix("presence-").partition(".")
        match kind:
            case "inbox" | "campaigns":
                return sees_all(role)
            case "users":
                return number == str(viewer.user_id)
            case "conversations":
                place = await self._site.deps.reads.place(viewer.tenant_id, int(number))
                return place is not None and may_see(role, viewer.user_id, place)
            case _:
                return False

    async def tenant_is_active(self, tenant_id: int) -> bool:
        found = await self._site.tenants.by_ids([tenant_id])
        return bool(found) and found[0].status == "active"

    async def _viewer(self, principal: Principal, tenant: Tenant) -> Viewer:
        role, _ = await self._role(principal, tenant.id)
        config = await self._site.deps.engine.config(tenant.id)
        if not role:
            raise Forbidden("Your account in this tenant is not active.", code="user_inactive")
        return Viewer(
            tenant_id=tenant.id,
            user_id=principal.user_id,
            name=config.agents[principal.user_id].name,
            expires_at=self._expires_at(principal),
            principal=principal,
        )

    def _expires_at(self, principal: Principal) -> float:
        if principal.expires_at is None:
            return float("inf")
        left = (principal.expires_at - self._site.deps.engine.now()) / 1000
        return trio.current_time() + left + EXPIRY_MARGIN_SECONDS

    async def _active(self, tenant_id: int) -> Tenant:
        found = await self._site.tenants.by_ids([tenant_id])
        if not found:
            raise NotFound("There is no such tenant.")
        _check_usable(found[0])
        return found[0]

    async def _tenant(self, principal: Principal, slug: str | None) -> Tenant:
        if slug is not None:
            tenant = await self._site.tenants.by_slug(slug)
        else:
            ids = [principal.tenant_id] if principal.tenant_id is not None else list(principal.tenant_ids)
            if len(ids) != 1:
                raise Unauthenticated("Say which tenant; this token has several.", code="tenant_required")
            found = await self._site.tenants.by_ids(ids)
            tenant = found[0] if found else None
        if tenant is None or not principal.belongs_to(tenant.id):
            raise NotFound("There is no such tenant.")
        _check_usable(tenant)
        return tenant

    async def _role(self, principal: Principal, tenant_id: int) -> tuple[str, tuple[str, ...]]:
        """The role now (empty: none) and the token's abilities."""
        config = await self._site.deps.engine.config(tenant_id)
        agent = config.agents.get(principal.user_id)
        return (agent.role if agent is not None and agent.active else "", principal.abilities)


def _check_usable(tenant: Tenant) -> None:
    if tenant.status != "active":
        raise Forbidden("This tenant is suspended.", code="tenant_suspended")
    if tenant.placement_state == "creating":
        raise Unavailable("This tenant is still being set up.", code="tenant_not_ready")


def _principal(viewer: Viewer) -> Principal:
    assert isinstance(viewer.principal, Principal)
    return viewer.principal
