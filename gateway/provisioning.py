"""Making tenants, users and connected accounts: steps over several stores, in an order that a crash cannot
spoil.

Landlord database, tenant database and the edge's directory are separate; no transaction spans them. So each
operation goes in an order in which every prefix is harmless, and repeating the whole call completes it:

    tenant    its database first, then the owner's login, membership and agent
    user      login, membership, agent; a login without an agent may do nothing
    channel   the directory entry first (its key decides who owns the account), then the channel; an entry
              whose channel never came is taken over by the next attempt of the same tenant
    renewal   the channel first, which sends with the new credentials; an entry that was not told says only
              that it is time to look

The API's routes and the command line use the same functions.
"""

import secrets
from collections.abc import Mapping
from typing import Any, Final

import structlog
from msgspec import Struct, structs

from engine.domain.config import Agent, Channel
from engine.domain.conversation.messages import SYSTEM, By
from engine.domain.platforms import rules_of
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
    credentials_expire_at: int | None = None


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
        now = self._deps.engine.now()
        entry = DirectoryEntry(
            platform=account.platform,
            external_id=account.external_id,
            tenant_id=tenant_id,
            channel_id=(channel_id := self._deps.engine.new_id()),
            endpoint_key=secrets.token_urlsafe(ENDPOINT_KEY_BYTES),
            parent_id=account.parent_id,
            credentials=self._deps.vault.seal(tenant_id, channel_id, credentials),
            created_at=now,
            credentials_at=now,
            credentials_expire_at=account.credentials_expire_at,
        )
        await self._deps.landlord.add_directory(entry)
        values = {
            "platform": account.platform,
            "name": account.name,
            "external_id": account.external_id,
            "credentials": entry.credentials,
            "credentials_at": entry.credentials_at,
            "credentials_expire_at": entry.credentials_expire_at,
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
        entry = await self._deps.landlord.directory_entry(channel.platform, channel.external_id)
        if entry is None or entry.tenant_id != tenant_id:
            raise NotFound("The account is not in the directory.")
        return entry

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
        """`secrets_given` are put over the present ones; what is not named stays. When they expire is
        forgotten with those that expire, unless `values` say it."""
        if not secrets_given and "credentials_expire_at" not in values:
            return await self._save(tenant_id, channel.id, values, by=by, trace=trace)
        async with self._site.changing.held(channel.id):
            channel = await self._present(tenant_id, channel.id)
            entry = await self.entry_of(tenant_id, channel)
            renewal = rules_of(channel.platform).connection.renewal
            lasting = renewal is not None and not secrets_given.keys() & set(renewal.names)
            dated = {"credentials_expire_at": channel.credentials_expire_at if lasting else None, **values}
            dated |= self._sealed(tenant_id, channel, secrets_given)
            # The edge first: a delivery signed with the new secret must not be refused in between.
            await self._list(entry, dated)
            return await self._save(tenant_id, channel.id, dated, by=by, trace=trace)

    async def renew_channel(
        self,
        tenant_id: int,
        channel_id: int,
        credentials_at: int,
        secrets_given: dict[str, str],
        expires_at: int | None,
    ) -> bool:
        """The platform's new credentials in place of those of `credentials_at`; the channel is good again.
        False when these have been replaced already. Raises NotFound when the channel is gone."""
        async with self._site.changing.held(channel_id):
            channel = await self._present(tenant_id, channel_id)
            entry = await self.entry_of(tenant_id, channel)
            known = self._deps.vault.open(tenant_id, channel_id, channel.credentials)
            if channel.credentials_at == credentials_at:
                values = {
                    "credentials_expire_at": expires_at,
                    **self._sealed(tenant_id, channel, secrets_given),
                }
                if channel.status != "disabled":
                    # Also where it seems active: a refusal of the old ones may be on its way to be noted.
                    values |= {"status": "active", "status_note": None}
                channel = await self._save(tenant_id, channel_id, values, by=SYSTEM, trace="")
            elif not secrets_given.items() <= known.items():
                return False
            # Else an earlier try was stored, whose answer came too late.
            await self._list(entry, structs.asdict(channel))
            return True

    async def _present(self, tenant_id: int, channel_id: int) -> Channel:
        channel = (await self._deps.engine.config(tenant_id)).channels.get(channel_id)
        if channel is None:
            raise NotFound("There is no such channel.")
        return channel

    def _sealed(self, tenant_id: int, channel: Channel, secrets_given: dict[str, str]) -> dict[str, Any]:
        """The credentials with these over the present ones, and their time, which no earlier ones had."""
        if not secrets_given:
            return {"credentials": channel.credentials, "credentials_at": channel.credentials_at}
        merged = {**self._deps.vault.open(tenant_id, channel.id, channel.credentials), **secrets_given}
        return {
            "credentials": self._deps.vault.seal(tenant_id, channel.id, merged),
            "credentials_at": max(self._deps.engine.now(), channel.credentials_at + 1),
        }

    async def _save(
        self, tenant_id: int, channel_id: int, values: dict[str, Any], *, by: By, trace: str
    ) -> Channel:
        save = Save(kind="channel", id=channel_id, values=values, by=by, trace=trace)
        changed: Channel = await self._deps.engine.ask_tenant(tenant_id, save)
        return changed

    async def _list(self, entry: DirectoryEntry, values: Mapping[str, Any]) -> None:
        """The directory says of the account's credentials what the channel says."""
        entry = structs.replace(
            entry,
            credentials=values["credentials"],
            credentials_at=values["credentials_at"],
            credentials_expire_at=values["credentials_expire_at"],
        )
        await self._deps.landlord.update_directory(entry)
        self._deps.directory.add(entry)

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
