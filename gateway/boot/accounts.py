"""Connected accounts with everything opened, for whoever speaks to a platform."""

from collections.abc import Sequence

import structlog

from adapters.port import Account
from engine.domain.config import Channel
from engine.domain.engine import Engine
from engine.errors import MijraError
from engine.ports import Endpoint
from gateway.directory import Directory
from storage.vault import Vault

log = structlog.get_logger()


class Accounts:
    def __init__(self, engine: Engine, vault: Vault, directory: Directory) -> None:
        self._engine = engine
        self._vault = vault
        self._directory = directory

    def known(self, tenant_id: int, channel_id: int) -> Account | None:
        """Of a tenant whose configuration is in memory; None for one that cannot be used."""
        channel = self._engine.configs.get(tenant_id).channels.get(channel_id)
        if channel is None:
            return None
        try:
            credentials = self._vault.open(tenant_id, channel_id, channel.credentials)
        except MijraError as error:
            # Sealed with another master key: nothing can be sent, nothing is lost, a person has to act.
            log.error(
                "channel.credentials_unreadable", tenant=tenant_id, channel_id=channel_id, reason=str(error)
            )
            return None
        return account_of(tenant_id, channel, credentials)

    async def find(self, tenant_id: int, channel_id: int) -> Account | None:
        """As `known`, of any tenant. Raises StoreUnavailable, NotFound."""
        await self._engine.config(tenant_id)
        return self.known(tenant_id, channel_id)

    async def at(self, endpoint: Endpoint) -> Account | None:
        return await self.find(endpoint.tenant_id, endpoint.channel_id)

    async def on(self, platform: str) -> Sequence[Account]:
        """All that can be used now."""
        found = []
        for endpoint in self._directory.on(platform):
            try:
                account = await self.at(endpoint)
            except MijraError as error:
                log.warning("service.account_unknown", tenant=endpoint.tenant_id, reason=str(error))
                continue
            if account is not None:
                found.append(account)
        return found


def account_of(tenant_id: int, channel: Channel, credentials: dict[str, str]) -> Account:
    return Account(
        tenant_id=tenant_id,
        channel_id=channel.id,
        platform=channel.platform,
        external_id=channel.external_id,
        credentials=credentials,
        settings=channel.settings,
        active=channel.status != "disabled",
        credentials_at=channel.credentials_at,
        credentials_expire_at=channel.credentials_expire_at,
    )
