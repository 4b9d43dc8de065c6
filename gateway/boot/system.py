"""All parts by name, and who is told of whom.

Some parts need each other (an adapter's tools the application's links, the application the adapters). The
earlier one is then given a way to ask, which nobody goes before `running` starts anything.
"""

from adapters.channel import Trouble
from adapters.port import Account
from adapters.profiles import Profiles
from engine.ports import Endpoint
from engine.reading import DirectoryEntry
from gateway.boot.accounts import Accounts
from gateway.boot.actors import Actors
from gateway.boot.addresses import Addresses
from gateway.boot.edge import Edge
from gateway.boot.health import Health
from gateway.boot.operator import LocalOperator
from gateway.boot.platforms import Platforms
from gateway.boot.renewals import Renewals
from gateway.boot.services import PlatformServices
from gateway.boot.stores import Stores
from gateway.boot.trouble import Troubles
from gateway.directory import Directory
from gateway.enginemetrics import EngineCollector
from gateway.observing import JournalLog
from gateway.push.reassigned import Reassigned
from gateway.settings import Settings
from storage.bridge import Bridge
from storage.databases import DatabaseServer


class System:
    """Constructing wires the parts; nothing runs then."""

    def __init__(self, settings: Settings, key: bytes, server: DatabaseServer, bridge: Bridge) -> None:
        self.settings = settings
        self.stores = Stores(settings, key, server)
        self.directory = Directory(
            self._secrets_of,
            listed=self._listed,
            changed=self._changed,
        )
        self.addresses = Addresses(settings.public_url, self.directory)
        self.platforms = Platforms(
            settings,
            self.stores.objects,
            link=self._link,
            webhook=self.addresses.webhook,
            account_at=self._account_at,
            attention=self._attention,
        )
        self.actors = Actors(
            settings,
            self.stores,
            self.platforms,
            accounts=self._account,
            on_trouble=self._in_trouble,
        )
        self.engine = self.actors.engine
        self.accounts = Accounts(self.engine, self.stores.vault, self.directory)
        self.renewals = Renewals(
            self.stores,
            self.platforms,
            self.engine,
            self.accounts,
            site=lambda: self.edge.site,
            on_trouble=self._in_trouble,
        )
        self.renewer = self.renewals.renewer
        self.troubles = Troubles(self.engine, self.renewer.hurry)
        self.profiles = Profiles(
            ask=self.actors.ask,
            adapters=self.platforms.adapters,
            accounts=self.accounts.known,
            tools=lambda: self.platforms.tools,
        )
        listening = PlatformServices(
            settings,
            self.stores,
            self.platforms,
            self.engine,
            self.accounts,
            self.directory,
            bridge,
            attention=self.troubles.tell_of,
        )
        self.services = listening.services
        self.listening = listening.listening
        self.edge = Edge(
            settings,
            key,
            self.stores,
            self.platforms,
            self.actors,
            self.directory,
            self.addresses,
            channel_health=Health(self.engine, self.actors.channels, self.renewer).of,
        )
        self.local_operator = LocalOperator(self.stores, settings.data_dir)
        # Snapshots before screens: whoever reacts to an event finds its configuration in force.
        self.stores.sinks.all = (
            self.engine.configs,
            JournalLog(),
            self.edge.hub,
            Reassigned(self.edge.hub),
            self.edge.news,
            self.profiles,
            self.services,
        )
        self.edge.registry.register(
            EngineCollector(
                self.engine, self.stores.writers, self.actors.channels, self.edge.hub, self.renewer
            )
        )

    # ---------------------------------------------------------------- ways to ask parts that are made later

    def _secrets_of(self, entry: DirectoryEntry) -> dict[str, str]:
        return self.stores.vault.open(entry.tenant_id, entry.channel_id, entry.credentials)

    def _listed(self, entry: DirectoryEntry) -> None:
        self.renewals.see(entry)

    def _changed(self) -> None:
        self.services.changed()

    def _link(self, tenant_id: int, storage_key: str) -> str:
        return self.edge.link(tenant_id, storage_key)

    def _account(self, tenant_id: int, channel_id: int) -> Account | None:
        return self.accounts.known(tenant_id, channel_id)

    async def _account_at(self, endpoint: Endpoint) -> Account | None:
        return await self.accounts.at(endpoint)

    def _in_trouble(self, trouble: Trouble) -> None:
        self.troubles.tell(trouble)

    def _attention(self, account: Account, note: str) -> None:
        self.troubles.tell_of(account, note)
