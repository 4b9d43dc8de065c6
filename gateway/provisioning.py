"""Making tenants, users and connected accounts: steps over several stores, in an order that a crash cannot
spoil.

Landlord database, tenant database and the edge's directory are separate; no transaction spans them. So each
operation goes in an order in which every prefix is harmless, and repeating the whole call completes it:

    tenant    its database first, then the owner's login, membership and agent
    user      login, membership, agent; a login without an agent may do nothing
    channel   the directory entry first (its key decides who owns the account), then the channel; an entry
              whose channel never came is taken over by the next attempt of the same tenant

The API's routes and the command line use the same functions.
"""

import secrets
from typing import Any, Final

import structlog
from msgspec import Struct, structs

from engine.domain.config import Agent, Channel
from engine.domain.conversation.messages import By
from engine.domain.tenant.messages import Remove, Save
from engine.errors import Conflicting, NotFound
from engine.reading import DirectoryEntry, Login, Tenant
from gateway.authentication import new_token
from gateway.permissions import EVERYTHING
from gateway.routing import Site
from gateway.schemas import invalid

RESERVED_SLUGS: Final = frozenset({"landlord", "webhooks", "docs", "openapi", "health", "metrics", "system"})
"""Words that are paths beside the tenants'."""

ENDPOINT_KEY_BYTES: Final = 24

log = structlog.get_logger()


class NewUser(Struct, frozen=True, kw_only=True):
    email: str
    name: str
    password: str | None
    role: str
    capacity: int | None = None


class Account(Struct, frozen=True, kw_only=True):
    """An account on a platform as it is connected. `parent_id`: a higher account's id, where there is one."""

    platform: str
    name: str
    external_id: str
    parent_id: str | None
    credentials: dict[str, str]
    settings: dict[str, Any]


class Connected(Struct, frozen=True, kw_only=True):
    """`endpoint_key` is the unguessable part of the account's own webhook URL."""

    channel: Channel
    endpoint_key: str
    verify_token: str


class Provisioning:
    def __init__(self, site: Site) -> None:
        self._site = site
        self._deps = site.deps

    async def create_tenant(
        self,
        *,
        slug: str,
        name: str,
        locale: str,
        timezone: str,
        isolation: str | None,
        owner: NewUser,
        by: By,
        trace: str,
    ) -> tuple[Tenant, Agent]:
        """Raises Conflicting when the slug is taken by a tenant that has users already. Takes as long as
        creating and migrating a database does: seconds."""
        if slug in RESERVED_SLUGS:
            raise invalid("slug", "Is reserved.")
        existing = await self._deps.landlord.tenant(slug)
        unfinished = existing is not None and not (await self._has_users(existing))
        if existing is None or existing.placement_state == "creating":
            tenant = await self._deps.landlord.create_tenant(
                tenant_id=existing.id if existing else self._deps.engine.new_id(),
                slug=slug,
                name=name,
                locale=locale,
                timezone=timezone,
                isolation=isolation or self._deps.isolation,
                now=self._deps.engine.now(),
            )
        elif unfinished:
            tenant = existing
        else:
            raise Conflicting("This slug is in use.", fields={"slug": ["Is in use already."]})
        self._site.tenants.forget(slug)
        await self._deps.push_apps.have(tenant.id)
        agent = await self.create_user(tenant.id, structs.replace(owner, role="owner"), by=by, trace=trace)
        log.info("tenant.created", tenant=slug, isolation=tenant.isolation, trace=trace)
        return tenant, agent

    async def create_user(self, tenant_id: int, user: NewUser, *, by: By, trace: str) -> Agent:
        """The login (an existing one with this e-mail is used, its password stays), membership and agent.

        Raises Conflicting when the e-mail belongs to a user of this tenant already."""
        config = await self._deps.engine.config(tenant_id)
        email = user.email.strip()
        if any(agent.email.casefold() == email.casefold() for agent in config.agents.values()):
            raise Conflicting("A user has this e-mail.", fields={"email": ["Is in use already."]})
        login = await self._login(email, user)
        now = self._deps.engine.now()
        await self._deps.landlord.add_membership(login.id, tenant_id, now)
        self._site.authenticator.forget_user(login.id)
        values = {
            "name": user.name,
            "email": email,
            "role": user.role,
            "active": True,
            "availability": "offline",
            "week": None,
            "capacity": user.capacity,
        }
        save = Save(kind="agent", id=login.id, create=True, values=values, by=by, trace=trace)
        agent: Agent = await self._deps.engine.ask_tenant(tenant_id, save)
        return agent

    async def create_token(self, user_id: int, tenant_id: int | None, name: str) -> tuple[int, str]:
        """A token that does not expire; for the command line. Its id and its text."""
        token, text = new_token(
            token_id=self._deps.engine.new_id(),
            user_id=user_id,
            tenant_id=tenant_id,
            name=name,
            abilities=[EVERYTHING],
            expires_at=None,
            now=self._deps.engine.now(),
        )
        await self._deps.landlord.create_token(token)
        return token.id, text

    async def connect(self, tenant_id: int, account: Account, *, by: By, trace: str) -> Connected:
        """Raises Conflicting when the account is connected already, here or elsewhere."""
        config = await self._deps.engine.config(tenant_id)
        identity = (account.platform, account.external_id)
        if any((each.platform, each.external_id) == identity for each in config.channels.values()):
            raise Conflicting("This account is connected already.")
        await self._drop_unfinished(tenant_id, account)
        credentials = account.credentials
        entry = DirectoryEntry(
            platform=account.platform,
            external_id=account.external_id,
            tenant_id=tenant_id,
            channel_id=(channel_id := self._deps.engine.new_id()),
            endpoint_key=secrets.token_urlsafe(ENDPOINT_KEY_BYTES),
            parent_id=account.parent_id,
            credentials=self._deps.vault.seal(tenant_id, channel_id, credentials),
            created_at=self._deps.engine.now(),
        )
        await self._deps.landlord.add_directory(entry)
        values = {
            "platform": account.platform,
            "name": account.name,
            "external_id": account.external_id,
            "credentials": entry.credentials,
            "settings": account.settings,
            "status": "active",
            "status_note": None,
        }
        save = Save(kind="channel", id=channel_id, create=True, values=values, by=by, trace=trace)
        channel: Channel = await self._deps.engine.ask_tenant(tenant_id, save)
        self._deps.directory.add(entry)
        return Connected(
            channel=channel, endpoint_key=entry.endpoint_key, verify_token=credentials.get("verify_token", "")
        )

    async def entry_of(self, tenant_id: int, channel: Channel) -> DirectoryEntry:
        """Raises NotFound when the directory does not know the channel."""
        for entry in await self._deps.landlord.directory():
            same = (entry.platform, entry.external_id) == (channel.platform, channel.external_id)
            if same and entry.tenant_id == tenant_id:
                return entry
        raise NotFound("The account is not in the directory.")

    async def change_channel(
        self,
        tenant_id: int,
        channel: Channel,
        values: dict[str, Any],
        secrets_given: dict[str, str],
        *,
        by: By,
        trace: str,
    ) -> Channel:
        """`secrets_given` are put over the present ones; what is not named stays."""
        if secrets_given:
            entry = await self.entry_of(tenant_id, channel)
            merged = {**self._deps.vault.open(tenant_id, channel.id, channel.credentials), **secrets_given}
            sealed = self._deps.vault.seal(tenant_id, channel.id, merged)
            # The edge first: a delivery signed with the new secret must not be refused in between.
            await self._deps.landlord.update_directory(
                channel.platform, channel.external_id, credentials=sealed, parent_id=entry.parent_id
            )
            self._deps.directory.add(structs.replace(entry, credentials=sealed))
            values = {**values, "credentials": sealed}
        save = Save(kind="channel", id=channel.id, values=values, by=by, trace=trace)
        changed: Channel = await self._deps.engine.ask_tenant(tenant_id, save)
        return changed

    async def disconnect(self, tenant_id: int, channel: Channel, *, by: By, trace: str) -> None:
        """The channel first, then the directory: in between, deliveries find no channel and are parked."""
        await self._deps.engine.ask_tenant(
            tenant_id, Remove(kind="channel", id=channel.id, by=by, trace=trace)
        )
        self._deps.directory.remove(channel.platform, channel.external_id)
        await self._deps.landlord.remove_directory(channel.platform, channel.external_id, tenant_id)

    async def _drop_unfinished(self, tenant_id: int, account: Account) -> None:
        """An entry of this tenant without a channel is what a crash between the two steps left."""
        for entry in await self._deps.landlord.directory():
            if (entry.platform, entry.external_id, entry.tenant_id) == (
                account.platform,
                account.external_id,
                tenant_id,
            ):
                self._deps.directory.remove(entry.platform, entry.external_id)
                await self._deps.landlord.remove_directory(entry.platform, entry.external_id, tenant_id)

    async def _login(self, email: str, user: NewUser) -> Login:
        login = await self._deps.landlord.login_by_email(email)
        if login is not None:
            return login
        if user.password is None:
            raise invalid("password", "Is required for somebody who has no login yet.")
        return await self._deps.landlord.create_login(
            user_id=self._deps.engine.new_id(),
            email=email,
            name=user.name,
            password_hash=await self._site.passwords.hash(user.password),
            landlord=False,
            now=self._deps.engine.now(),
        )

    async def _has_users(self, tenant: Tenant) -> bool:
        if tenant.placement_state == "creating":
            return False
        return bool((await self._deps.engine.config(tenant.id)).agents)
