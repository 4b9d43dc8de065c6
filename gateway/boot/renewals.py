"""Credentials that expire: seen by the directory, noted before they are renewed, kept when they are."""

from collections.abc import Callable
from random import SystemRandom

import trio

from adapters.channel import Trouble
from adapters.port import Account, Renewed
from adapters.renewing import Expiring, Renewer
from engine.domain.engine import ASK_SECONDS_MAX, Engine
from engine.domain.intake import no_room
from engine.domain.rows import AuditRow
from engine.reading import DirectoryEntry
from gateway.boot.accounts import Accounts
from gateway.boot.clock import wall_ms
from gateway.boot.platforms import Platforms
from gateway.boot.stores import Stores
from gateway.provisioning import Provisioning
from gateway.routing import Site


class Renewals:
    def __init__(
        self,
        stores: Stores,
        platforms: Platforms,
        engine: Engine,
        accounts: Accounts,
        *,
        site: Callable[[], Site],
        on_trouble: Callable[[Trouble], None],
    ) -> None:
        """`site`: what the API's routes share, once there is an application."""
        self._stores = stores
        self._engine = engine
        self._site = site
        self.renewer = Renewer(
            adapters=platforms.adapters,
            tools=lambda: platforms.tools,
            account=accounts.find,
            begin=self._begin,
            keep=self._keep,
            on_trouble=on_trouble,
            wall_ms=wall_ms,
            random=SystemRandom(),
        )

    def see(self, entry: DirectoryEntry) -> None:
        """An account is listed, or has new credentials."""
        self.renewer.see(
            Expiring(
                tenant_id=entry.tenant_id,
                channel_id=entry.channel_id,
                platform=entry.platform,
                credentials_at=entry.credentials_at,
                expires_at=entry.credentials_expire_at,
            )
        )

    async def _begin(self, account: Account) -> None:
        """A row in the audit log: only a store that takes rows, from who has the tenant, has it."""
        if not self._stores.writers.has_room(account.tenant_id):
            raise no_room()
        begun = AuditRow(
            tenant_id=account.tenant_id,
            id=self._stores.ids(),
            user_id=None,
            action="renewing",
            subject=f"channel:{account.channel_id}",
            before=None,
            after=None,
            trace="",
            at=wall_ms(),
        )
        with trio.move_on_after(ASK_SECONDS_MAX):
            await self._engine.commit(account.tenant_id, (begun,))
            return
        raise no_room()

    async def _keep(self, account: Account, renewed: Renewed) -> bool:
        return await Provisioning(self._site()).renew_channel(
            account.tenant_id,
            account.channel_id,
            account.credentials_at,
            renewed.credentials,
            renewed.expires_at,
        )
