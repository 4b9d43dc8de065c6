"""Tenants' apps for Pusher's protocol: made with the tenant, sealed in the landlord's database, opened into
`gateway.push.pusher.apps.Apps`, which answers from memory."""

import secrets
from collections.abc import Callable
from typing import Final

import structlog

from engine.errors import MijraError
from engine.reading import Landlord, PushApp
from gateway.dependencies import Vault
from gateway.push.pusher.apps import KEY_BYTES, SECRET_BYTES, App, Apps

_SECRET: Final = "secret"  # noqa: S105  the name of a member

log = structlog.get_logger()


class PushApps:
    def __init__(self, landlord: Landlord, vault: Vault, apps: Apps, clock_ms: Callable[[], int]) -> None:
        self._landlord = landlord
        self._vault = vault
        self._apps = apps
        self._clock_ms = clock_ms

    async def load(self) -> None:
        """Every tenant's; who has none yet is given one. One whose secret cannot be opened (sealed with
        another master key) is left out and logged: its clients are refused, everybody else is served."""
        for record in await self._landlord.push_apps():
            self._open(record)
        for tenant in await self._landlord.all_tenants():
            if self._apps.of_tenant(tenant.id) is None:
                await self.have(tenant.id)
        log.info("push.apps_loaded", apps=len(self._apps))

    async def have(self, tenant_id: int) -> App | None:
        """The tenant's app, made if it has none. None: its secret cannot be opened. Raises
        StoreUnavailable."""
        known = self._apps.of_tenant(tenant_id)
        if known is not None:
            return known
        secret = secrets.token_hex(SECRET_BYTES)
        # Sealed for the tenant itself: no channel has a tenant's id.
        record = PushApp(
            tenant_id=tenant_id,
            key=secrets.token_hex(KEY_BYTES),
            secret=self._vault.seal(tenant_id, tenant_id, {_SECRET: secret}),
            created_at=self._clock_ms(),
        )
        self._open(await self._landlord.add_push_app(record))
        return self._apps.of_tenant(tenant_id)

    def _open(self, record: PushApp) -> None:
        tenant_id = record.tenant_id
        try:
            secret = self._vault.open(tenant_id, tenant_id, record.secret)[_SECRET]
        except MijraError as error:
            log.error("push.app_unreadable", tenant=tenant_id, reason=str(error))
            return
        self._apps.add(App(tenant_id=tenant_id, key=record.key, secret=secret.encode()))
