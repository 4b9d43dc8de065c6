"""What of the adapters runs as long as the process: their listeners and pollers, and what is lent to them."""

import os
import ssl
from collections.abc import Callable
from random import SystemRandom

import structlog

from adapters.cursors import DurableCursors
from adapters.port import Account
from adapters.service import Listen, ServiceTools
from adapters.services import Services
from engine.domain.engine import Engine
from engine.ports import Endpoint
from gateway.boot.accounts import Accounts
from gateway.boot.addresses import reachable
from gateway.boot.clock import wall_ms
from gateway.boot.platforms import Platforms
from gateway.boot.stores import Stores
from gateway.directory import Directory
from gateway.settings import Settings
from storage.bridge import Bridge
from storage.cursors import CursorReads

log = structlog.get_logger()


class PlatformServices:
    """`listening` has the addresses of those that listen, by name, once they do."""

    def __init__(
        self,
        settings: Settings,
        stores: Stores,
        platforms: Platforms,
        engine: Engine,
        accounts: Accounts,
        directory: Directory,
        bridge: Bridge,
        *,
        attention: Callable[[Account, str], None],
    ) -> None:
        self.listening: dict[str, str] = {}
        self._settings = settings

        def tools(platform: str) -> ServiceTools:
            def endpoint(external_id: str) -> Endpoint | None:
                return directory.by_account(platform, external_id)

            return ServiceTools(
                tools=platforms.tools,
                deliver=engine.intake.deliver,
                endpoint=endpoint,
                account=accounts.at,
                cursors=DurableCursors(CursorReads(stores.placements), stores.writers, wall_ms),
                attention=attention,
                new_trace=lambda: os.urandom(16).hex(),
                wall_ms=wall_ms,
                serve_asyncio=bridge.serve,
                listen={name: Listen(host=host, port=port) for name, (host, port) in settings.listen.items()},
                tls=self._tls_context,
                listening=self._is_listening,
            )

        self.services = Services(
            {name: each.services(tools(name)) for name, each in platforms.adapters.items()},
            accounts.on,
            SystemRandom(),
        )

    def _tls_context(self) -> ssl.SSLContext | None:
        """Raises OSError (ssl.SSLError among them) for files that cannot be used."""
        if self._settings.tls_certificate is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self._settings.tls_certificate, self._settings.tls_key)
        return context

    def _is_listening(self, name: str, host: str, port: int) -> None:
        log.info("service.listening", listener=name, host=host, port=port)
        self.listening[name] = f"{reachable(host)}:{port}"
