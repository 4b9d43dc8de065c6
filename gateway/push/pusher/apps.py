"""Apps: a tenant's key and secret for Pusher's protocol, answered from memory.

The key opens connections and is public; the secret signs for the tenant's own back end. One app per tenant,
as old as the tenant; its id is the tenant's.
"""

from typing import Final

from msgspec import Struct

KEY_BYTES: Final = 10
SECRET_BYTES: Final = 20
"""As Pusher's own: 20 and 40 hexadecimal digits."""


class App(Struct, frozen=True, kw_only=True):
    tenant_id: int
    key: str
    secret: bytes

    @property
    def id(self) -> str:
        return str(self.tenant_id)

    def __repr__(self) -> str:
        return f"App(tenant_id={self.tenant_id}, key={self.key!r}, secret=…)"


class Apps:
    """About 300 bytes per tenant. Loaded at the start, kept up by whoever makes tenants."""

    def __init__(self) -> None:
        self._by_key: dict[str, App] = {}
        self._by_tenant: dict[int, App] = {}

    def add(self, app: App) -> None:
        """In place of the tenant's former one."""
        former = self._by_tenant.get(app.tenant_id)
        if former is not None:
            self._by_key.pop(former.key, None)
        self._by_key[app.key] = app
        self._by_tenant[app.tenant_id] = app

    def by_key(self, key: str) -> App | None:
        return self._by_key.get(key)

    def by_id(self, app_id: str) -> App | None:
        return self._by_tenant.get(int(app_id)) if app_id.isascii() and app_id.isdecimal() else None

    def of_tenant(self, tenant_id: int) -> App | None:
        return self._by_tenant.get(tenant_id)

    def __len__(self) -> int:
        return len(self._by_key)
