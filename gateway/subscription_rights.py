"""Who may listen to what: the WebSocket's door, on the same tokens and roles as the API.

Rights are looked at when somebody subscribes and again whenever the hub is told that they changed, so nothing
here is remembered. A revoked token, a suspended tenant or a deactivated user may subscribe to nothing any
more.

    inbox                          owners and admins: it carries every conversation of the tenant
    conversations.{id}, presence-  who may see that conversation
    users.{id}                     that user
    campaigns.{id}                 owners and admins
"""

from engine.errors import Forbidden, NotFound, Unauthenticated, Unavailable
from engine.reading import Tenant
from gateway.authentication import Principal
from gateway.permissions import Permission, granted, may_see, sees_all
from gateway.push.session import Viewer
from gateway.routing import Site


class SubscriptionRights:
    def __init__(self, site: Site) -> None:
        self._site = site

    async def authenticate(self, token: str, slug: str | None) -> Viewer:
        """Without a slug, the tenant is the token's, or the only one of the user."""
        principal = await self._site.authenticator.authenticate(token)
        tenant = await self._tenant(principal, slug)
        role, _ = await self._role(principal, tenant)
        config = await self._site.deps.engine.config(tenant.id)
        if not role:
            raise Forbidden("Your account in this tenant is not active.", code="user_inactive")
        name = config.agents[principal.user_id].name
        return Viewer(tenant_id=tenant.id, user_id=principal.user_id, name=name, principal=principal)

    async def may_subscribe(self, viewer: Viewer, channel: str) -> bool:
        principal = viewer.principal
        assert isinstance(principal, Principal)
        if not await self._site.authenticator.still_valid(principal.token_id):
            return False
        found = await self._site.tenants.by_ids([viewer.tenant_id])
        if not found or found[0].status != "active":
            return False
        role, abilities = await self._role(principal, found[0])
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
        if tenant.status != "active":
            raise Forbidden("This tenant is suspended.", code="tenant_suspended")
        if tenant.placement_state == "creating":
            raise Unavailable("This tenant is still being set up.", code="tenant_not_ready")
        return tenant

    async def _role(self, principal: Principal, tenant: Tenant) -> tuple[str, tuple[str, ...]]:
        """The role now (empty: none) and the token's abilities."""
        config = await self._site.deps.engine.config(tenant.id)
        agent = config.agents.get(principal.user_id)
        return (agent.role if agent is not None and agent.active else "", principal.abilities)
