"""The landlord's database (engine.reading.Landlord): tenants, placements, logins, tokens, directory.

Promises   each call is one transaction; what a unique key refuses is Conflicting. A tenant's creation
           survives a crash at any point: its place is written down first ('creating'), then its database is
           made and migrated, and only then is it ready. `finish_creating`, at the next start, or a call with
           the same slug goes on where it stopped.
Limits     `POOL_TENANTS_MAX` tenants share a pooled database; the next one opens the next pool.
Leaves     where a tenant is found in memory to `storage.placements`, which is kept up to date from here.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, NoReturn

from engine.domain.ids import ID_MAX
from engine.errors import CommitConflict, Conflicting, NotFound
from engine.reading import DirectoryEntry, Login, Page, PushApp, Tenant, Token
from storage.batch import clean, clean_json
from storage.databases import DatabaseServer, transaction
from storage.migrate import Migration, migrate
from storage.pages import bounded, cursor_text, cursor_values, cut
from storage.placements import Placements
from storage.records import Reader
from storage.statements import load_sql
from storage.upkeep import upkeep

POOL_TENANTS_MAX: Final = 10_000
"""What DATA_MODEL plans for one pooled database."""

_SQL: Final = load_sql("landlord.sql")
_tenants: Final = Reader(Tenant)
_logins: Final = Reader(Login)
_tokens: Final = Reader(Token)
_entries: Final = Reader(DirectoryEntry)
_apps: Final = Reader(PushApp)


class LandlordStore:
    """`tenant_migrations` are those of a tenant database; the landlord's own must be applied already."""

    def __init__(
        self,
        server: DatabaseServer,
        placements: Placements,
        *,
        tenant_migrations: Sequence[Migration],
        pool_tenants_max: int = POOL_TENANTS_MAX,
    ) -> None:
        self._server = server
        self._placements = placements
        self._migrations = tuple(tenant_migrations)
        self._pool_tenants_max = pool_tenants_max
        self._pool = server.pool(server.landlord_database)

    # ---------------------------------------------------------------- tenants

    async def tenants(self, *, limit: int, cursor: str | None) -> Page[Tenant]:
        """In the order of their ids."""
        limit = bounded(limit)
        after = 0 if cursor is None else cursor_values("tenants", cursor, 1)[0]
        records, more = cut(await self._pool.fetch(_SQL["tenants"], after, limit + 1), limit)
        items = [_tenants.read(record) for record in records]
        return Page(items=items, next_cursor=cursor_text("tenants", items[-1].id) if more else None)

    async def all_tenants(self) -> Sequence[Tenant]:
        """All, whatever their state; those that are ready are put into the placements."""
        records = await self._pool.fetch(_SQL["tenants"], 0, None)
        tenants = [_tenants.read(record) for record in records]
        for tenant in tenants:
            self._placements.put(tenant)
        return tenants

    async def tenant(self, slug: str) -> Tenant | None:
        record = await self._pool.fetchrow(_SQL["tenant"], clean(slug))
        return None if record is None else _tenants.read(record)

    async def create_tenant(
        self, *, tenant_id: int, slug: str, name: str, locale: str, timezone: str, isolation: str, now: int
    ) -> Tenant:
        """See engine.reading. What fails or is cancelled in the middle stays 'creating': call again."""
        names = (clean(slug), clean(name), clean(locale))
        # A conflict: the slug is there. Below we look whether that is a half-made tenant.
        with suppress(CommitConflict):
            await self._pool.write(self._place, tenant_id, *names, timezone, isolation, now)
        found = await self.tenant(slug)
        if found is None or found.placement_state != "creating":
            raise Conflicting(f"The slug {slug} is in use.", fields={"slug": ["is in use"]})
        return await self._finish(found, now)

    async def finish_creating(self, now: int) -> list[Tenant]:
        """Finish what a crash left half made. To be called at start, after `all_tenants`."""
        return [
            await self._finish(tenant, now)
            for tenant in await self.all_tenants()
            if tenant.placement_state == "creating"
        ]

    async def set_tenant_status(self, tenant_id: int, status: str, now: int) -> None:
        """Raises NotFound."""
        if await self._pool.fetchval(_SQL["set_tenant_status"], tenant_id, status, now) is None:
            raise NotFound(f"There is no tenant {tenant_id}.")
        await self.all_tenants()

    async def _finish(self, tenant: Tenant, now: int) -> Tenant:
        await self._server.create_database(tenant.database)
        await migrate(self._server, tenant.database, self._migrations)
        for kept in await upkeep(self._server, {tenant.database: [tenant.id]}, now=now):
            if kept.error is not None:
                raise kept.error
        await self._pool.fetch(_SQL["placement_ready"], tenant.id)
        ready = await self.tenant(tenant.slug)
        assert ready is not None, "tenants are never deleted"
        self._placements.put(ready)
        return ready

    async def _place(
        self,
        connection: Any,
        tenant_id: int,
        slug: str,
        name: str,
        locale: str,
        timezone: str,
        isolation: str,
        now: int,
    ) -> None:
        """On the asyncio side: write down the tenant and its place."""
        async with transaction(connection):
            await connection.fetch(_SQL["lock_creation"])
            database = self._server.own_database(tenant_id)
            if isolation == "pooled":
                prefix = self._server.pooled_database(0).removesuffix("0")
                number = await connection.fetchval(_SQL["choose_pool"], self._pool_tenants_max, prefix)
                database = self._server.pooled_database(number)
            await connection.execute(_SQL["add_tenant"], tenant_id, slug, name, locale, timezone, now)
            await connection.execute(_SQL["add_placement"], tenant_id, database, isolation)

    # ---------------------------------------------------------------- logins

    async def login_by_email(self, email: str) -> Login | None:
        record = await self._pool.fetchrow(_SQL["login_by_email"], clean(email))
        return None if record is None else _logins.read(record)

    async def login(self, user_id: int) -> Login | None:
        record = await self._pool.fetchrow(_SQL["login"], user_id)
        return None if record is None else _logins.read(record)

    async def create_login(
        self, *, user_id: int, email: str, name: str, password_hash: str, landlord: bool, now: int
    ) -> Login:
        """Conflicting: the e-mail is in use."""
        try:
            await self._pool.fetch(
                _SQL["create_login"], user_id, clean(email), clean(name), password_hash, landlord, now
            )
        except CommitConflict as error:
            _email_in_use(error)
        return Login(
            id=user_id,
            email=clean(email),
            name=clean(name),
            password_hash=password_hash,
            active=True,
            landlord=landlord,
            tenant_ids=(),
            created_at=now,
        )

    async def update_login(
        self,
        user_id: int,
        *,
        name: str | None = None,
        email: str | None = None,
        password_hash: str | None = None,
        active: bool | None = None,
        now: int,
    ) -> None:
        """Raises NotFound, and Conflicting when the e-mail is in use."""
        try:
            found = await self._pool.fetchval(
                _SQL["update_login"],
                user_id,
                None if name is None else clean(name),
                None if email is None else clean(email),
                password_hash,
                active,
                now,
            )
        except CommitConflict as error:
            _email_in_use(error)
        if found is None:
            raise NotFound(f"There is no login {user_id}.")

    async def add_membership(self, user_id: int, tenant_id: int, now: int) -> None:
        await self._pool.fetch(_SQL["add_membership"], user_id, tenant_id, now)

    async def remove_membership(self, user_id: int, tenant_id: int) -> None:
        await self._pool.fetch(_SQL["remove_membership"], user_id, tenant_id)

    # ---------------------------------------------------------------- tokens

    async def create_token(self, token: Token) -> None:
        await self._pool.fetch(
            _SQL["create_token"],
            token.id,
            token.user_id,
            token.tenant_id,
            clean(token.name),
            token.secret_hash,
            list(token.abilities),
            token.expires_at,
            token.last_used_at,
            token.revoked_at,
            token.created_at,
        )

    async def token(self, token_id: int) -> Token | None:
        record = await self._pool.fetchrow(_SQL["token"], token_id)
        return None if record is None else _tokens.read(record)

    async def tokens_of(self, user_id: int, *, limit: int, cursor: str | None) -> Page[Token]:
        """Newest first, revoked ones too."""
        limit = bounded(limit)
        before = ID_MAX + 1 if cursor is None else cursor_values("tokens", cursor, 1)[0]
        records, more = cut(await self._pool.fetch(_SQL["tokens_of"], user_id, before, limit + 1), limit)
        items = [_tokens.read(record) for record in records]
        return Page(items=items, next_cursor=cursor_text("tokens", items[-1].id) if more else None)

    async def touch_token(self, token_id: int, now: int) -> None:
        await self._pool.fetch(_SQL["touch_token"], token_id, now)

    async def revoke_token(self, token_id: int, now: int) -> None:
        await self._pool.fetch(_SQL["revoke_token"], token_id, now)

    async def revoke_tokens_of(self, user_id: int, tenant_id: int | None, now: int) -> Sequence[int]:
        """With a tenant, only the tokens that are for it alone. Returns the ids that were good until now."""
        records = await self._pool.fetch(_SQL["revoke_tokens_of"], user_id, tenant_id, now)
        return [record["id"] for record in records]

    # ---------------------------------------------------------------- directory

    async def directory(self) -> Sequence[DirectoryEntry]:
        return [_entries.read(record) for record in await self._pool.fetch(_SQL["directory"])]

    async def directory_entry(self, platform: str, external_id: str) -> DirectoryEntry | None:
        record = await self._pool.fetchrow(_SQL["directory_entry"], platform, clean(external_id))
        return None if record is None else _entries.read(record)

    async def add_directory(self, entry: DirectoryEntry) -> None:
        """Conflicting: the account is connected already (by whom is not said)."""
        try:
            await self._pool.fetch(
                _SQL["add_directory"],
                entry.platform,
                clean(entry.external_id),
                entry.tenant_id,
                entry.channel_id,
                entry.endpoint_key,
                None if entry.parent_id is None else clean(entry.parent_id),
                entry.credentials,
                entry.created_at,
                entry.credentials_at,
                entry.credentials_expire_at,
            )
        except CommitConflict as error:
            raise Conflicting(
                "This account is connected already.", fields={"external_id": ["is connected already"]}
            ) from error

    async def update_directory(self, entry: DirectoryEntry) -> None:
        """Its credentials, their times and its parent. Raises NotFound."""
        found = await self._pool.fetchval(
            _SQL["update_directory"],
            entry.platform,
            clean(entry.external_id),
            entry.credentials,
            None if entry.parent_id is None else clean(entry.parent_id),
            entry.credentials_at,
            entry.credentials_expire_at,
        )
        if found is None:
            raise NotFound("This account is not connected.")

    async def remove_directory(self, platform: str, external_id: str, tenant_id: int) -> None:
        await self._pool.fetch(_SQL["remove_directory"], platform, clean(external_id), tenant_id)

    # ---------------------------------------------------------------- push apps

    async def push_apps(self) -> Sequence[PushApp]:
        return [_apps.read(record) for record in await self._pool.fetch(_SQL["push_apps"])]

    async def add_push_app(self, app: PushApp) -> PushApp:
        record = await self._pool.fetchrow(
            _SQL["add_push_app"], app.tenant_id, app.key, app.secret, app.created_at
        )
        assert record is not None, "it was added, or was there already"
        return _apps.read(record)

    # ---------------------------------------------------------------- records

    async def park_unrouted(
        self,
        *,
        delivery_id: int,
        platform: str,
        external_id: str | None,
        headers: dict[str, str],
        body: bytes,
        reason: str,
        trace: str,
        now: int,
    ) -> None:
        await self._pool.fetch(
            _SQL["park_unrouted"],
            delivery_id,
            platform,
            None if external_id is None else clean(external_id),
            clean_json(headers),
            body,
            clean(reason),
            trace,
            now,
        )

    async def forget_unrouted(self, before: int) -> int:
        """Removes what was parked before a time and nobody has come for; how many, a bounded number."""
        return len(await self._pool.fetch(_SQL["forget_unrouted"], before))

    async def audit(
        self,
        *,
        audit_id: int,
        user_id: int | None,
        action: str,
        subject: str,
        after: Any,
        trace: str,
        now: int,
    ) -> None:
        await self._pool.fetch(
            _SQL["audit"],
            audit_id,
            user_id,
            action,
            clean(subject),
            None if after is None else clean_json(after),
            trace,
            now,
        )


def _email_in_use(error: CommitConflict) -> NoReturn:
    raise Conflicting("This e-mail is in use.", fields={"email": ["is in use"]}) from error
