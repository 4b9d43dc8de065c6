"""The composition root: puts all parts together, starts them in order, stops them in reverse.

Start   database server, landlord's and tenants' schemas, stores, writers, engine, what an earlier process
        left to do, the adapters' services, operator port, public port. A server that says it is ready has all
        behind it running; a service that fails is started again beside it.
Stop    the door first (operator says not ready, no new connections, screens are told to come back, listeners
        and pollers end), then the engine drains (conversations decide what waits, channels end their calls),
        then the writers commit what is left, then the database. Each stage has its deadline; what does not
        make it is as after a kill, which loses nothing that was acknowledged.

`<data_dir>/server.json` (0600) tells the command line of a running server where it is and how to talk to it.
"""

import gc
import json
import os
import secrets
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import chain
from pathlib import Path
from random import SystemRandom
from typing import Any, Final

import structlog
import trio
from msgspec import Struct, structs
from prometheus_client import CollectorRegistry

from adapters.channel import Channels, Trouble
from adapters.cursors import DurableCursors
from adapters.fetcher import Fetchers
from adapters.guard import Guard
from adapters.port import Account, Declined, ErrorClass, Outlet, Renewed, Tools
from adapters.profiles import Profiles
from adapters.registry import adapters, describe_all
from adapters.renewing import Expiring, Renewer
from adapters.service import Listen, ServiceTools
from adapters.services import Services
from engine.domain.config import Channel
from engine.domain.engine import ASK_SECONDS_MAX, Engine
from engine.domain.ids import IdAllocator
from engine.domain.inbound import Announced, InboundEvent
from engine.domain.intake import deliveries_prefix, no_room
from engine.domain.outbound import Send
from engine.domain.rows import AuditRow
from engine.domain.tenant.messages import NeedAttention
from engine.errors import InvalidInput, MijraError, Unavailable
from engine.ports import Endpoint, EventLog, EventSink, LoggedEvent
from engine.reading import DirectoryEntry, Login, Reads, Tenant, Token
from gateway.app import create_app
from gateway.authentication import hash_secret
from gateway.broadcasting import broadcasting_blueprint
from gateway.client_address import Proxies
from gateway.dependencies import AccountCheck, ChannelHealth, Dependencies, Renewal
from gateway.directory import Directory
from gateway.enginemetrics import EngineCollector
from gateway.lane.connection import LaneLimits, WebhookLane
from gateway.lane.lanes import Lane
from gateway.lane.push.lane import PushLane
from gateway.master_key import master_key
from gateway.metrics import Metrics
from gateway.observing import EngineLog, JournalLog
from gateway.operator import Operator
from gateway.provisioning import Provisioning
from gateway.push.hub import Hub
from gateway.push.news import News
from gateway.push.pusher.apps import Apps
from gateway.push.reassigned import Reassigned
from gateway.push.sessions import Sessions
from gateway.push.tickets import Tickets
from gateway.push_apps import PushApps
from gateway.routes import push_blueprint, webhook_blueprint
from gateway.serving import serve as serve_http
from gateway.settings import Settings
from gateway.subscription_rights import SubscriptionRights
from gateway.ticks import Ticks
from gateway.webhooks import PREFIX, WebhookLimits, Webhooks
from storage.bridge import Bridge
from storage.contacts import Contacts
from storage.cursors import CursorReads
from storage.customers import Customers
from storage.databases import ConnectionLimits, DatabaseServer, Pool
from storage.embedded import embedded_postgres
from storage.events import Events
from storage.landlord import LandlordStore
from storage.objects import Objects
from storage.outbox import Outbox
from storage.people import People
from storage.placements import Placements
from storage.reads import ReadStore
from storage.schemas import TENANT_MIGRATIONS, bring_up
from storage.tenants import Tenants
from storage.upkeep import forget_deliveries, upkeep
from storage.vault import Vault
from storage.writers import Writers

log = structlog.get_logger()

SERVER_FILE: Final = "server.json"
UPKEEP_EVERY_SECONDS: Final = 3600.0
"""Partitions are made three days ahead, so an hour's pause leaves room for many failures."""

GC_THRESHOLDS: Final = (100_000, 50, 50)
"""Activations are many small, long-lived objects: at the default of 700 allocations the collector walks them
over and over, which costs a third of the activation rate (`python -m bench.mailbox`)."""

DOOR_SHARE: Final = 0.3
RENEWALS_SHARE: Final = 0.1
ENGINE_SHARE: Final = 0.4
"""Of the time for stopping: requests under way end within a second unless something hangs, a renewal of
credentials is one call, a conversation's backlog may take longer; the rest is for the last commits."""

LOCAL_LOGIN: Final = "local-operator@mijra.invalid"


class Running(Struct, kw_only=True):
    """A started system. `listening` has the addresses of the services that listen, by name, once they do.
    `local_token` is good for every landlord route and for setting tenants
    up (users, channels, tokens, settings), not for reading what their customers wrote."""

    settings: Settings
    base_url: str
    ws_url: str
    operator_url: str
    database_url: str
    local_token: str
    engine: Engine
    landlord: LandlordStore
    reads: Reads
    events: EventLog
    vault: Vault
    directory: Directory
    pool_of: Callable[[int], Pool]
    listening: Mapping[str, str]


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Running]:
    """A complete system, from here to the end of the block."""
    gc.set_threshold(*GC_THRESHOLDS)
    key = await trio.to_thread.run_sync(master_key, settings)
    async with AsyncExitStack() as stack:
        bridge = await stack.enter_async_context(Bridge())
        dsn = settings.database_url
        if dsn is None:
            dsn = await stack.enter_async_context(embedded_postgres(settings.data_dir / "postgres"))
        server = await stack.enter_async_context(
            DatabaseServer(
                bridge,
                dsn,
                prefix=f"{settings.database_prefix}_",
                limits=_connection_limits(settings.db_connections_max),
            )
        )
        system = _System(settings, key, server, bridge)
        await system.prepare()
        for part in (*system.senders.values(), *system.media_sources.values(), *system.readers.values()):
            await stack.enter_async_context(part)
        await stack.enter_async_context(system.fetchers)
        nursery = await stack.enter_async_context(trio.open_nursery())
        try:
            yield await system.start(nursery, dsn)
        finally:
            # Whatever ends the block, also a cancellation: the stop has its own deadlines.
            with trio.CancelScope(shield=True):
                await system.stop()
            nursery.cancel_scope.cancel()


class _System:
    """All parts by name. Constructing wires them; nothing runs before `start`."""

    def __init__(self, settings: Settings, key: bytes, server: DatabaseServer, bridge: Bridge) -> None:
        self.settings = settings
        self.bridge = bridge
        self.server = server
        self.ids = IdAllocator(_wall_ms)
        self.node = f"{socket.gethostname()}:{os.getpid()}"
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry)
        self.vault = Vault(key)
        self.placements = Placements(server)
        self.objects = Objects(settings.object_store)
        self.sinks = _Sinks()
        self.writers = Writers(
            self.placements.pool_named, self.placements.database, node=self.node, sink=self.sinks
        )
        self.tenants = Tenants(self.placements, take=self.writers.take, newest_id=self.ids.above)
        self.outbox = Outbox(self.placements)
        self.events = Events(self.placements, head_of=self.writers.head)
        self.landlord = LandlordStore(server, self.placements, tenant_migrations=TENANT_MIGRATIONS)
        self.hub = Hub(self.events, self.metrics)
        self.news = News()
        self.tickets = Tickets()
        self.apps = Apps()
        self.push_apps = PushApps(self.landlord, self.vault, self.apps, _wall_ms)
        guard = Guard(
            allowed=settings.allow_private_media_hosts,
            plain_http=bool(settings.allow_private_media_hosts),
            ports=settings.allow_server_ports,
        )
        self.guard = guard
        describe_all()
        self.adapters = adapters()
        self.tools = Tools(media=self.objects, guard=guard, link=self._link, webhook=self._webhook)
        self.senders = {name: each.sender(self.tools) for name, each in self.adapters.items()}
        sources = ((name, each.media_source(self.tools)) for name, each in self.adapters.items())
        self.media_sources = {name: source for name, source in sources if source is not None}
        readers = ((name, each.reader(self.tools)) for name, each in self.adapters.items())
        self.readers = {name: reader for name, reader in readers if reader is not None}
        self.channels = Channels(
            ask=self._ask,
            committer=self.writers,
            store=self.outbox,
            senders=self.senders,
            accounts=self._account,
            wall_ms=_wall_ms,
            random=SystemRandom(),
            unknown_wait_seconds=settings.outbound_unknown_wait_seconds,
            on_trouble=self._in_trouble,
        )
        self.fetchers = Fetchers(
            ask=self._ask,
            committer=self.writers,
            store=self.outbox,
            media=self.objects,
            sources=self.media_sources,
            accounts=self._account,
            guard=guard,
            wall_ms=_wall_ms,
            random=SystemRandom(),
            bytes_max=settings.media_bytes_max,
        )
        self.engine = Engine(
            conversation_store=Contacts(self.placements),
            tenant_store=self.tenants,
            customer_store=People(self.placements),
            committer=self.writers,
            workers=(self.fetchers.worker(), self.channels.worker()),
            new_id=self.ids,
            wall_ms=_wall_ms,
            observer=EngineLog(),
            resident_conversations_max=settings.resident_conversations_max,
            idle_seconds_max=settings.idle_seconds,
            media=self.objects,
        )
        # Snapshots before screens: whoever reacts to an event finds its configuration in force.
        self.profiles = Profiles(
            ask=self._ask, adapters=self.adapters, accounts=self._account, tools=lambda: self.tools
        )
        self.listening: dict[str, str] = {}
        self.renewer = Renewer(
            adapters=self.adapters,
            tools=lambda: self.tools,
            account=self._account_now,
            begin=self._begin_renewal,
            keep=self._keep_renewed,
            on_trouble=self._in_trouble,
            wall_ms=_wall_ms,
            random=SystemRandom(),
        )
        self.directory = Directory(self._open_secrets, listed=self._listed, changed=self._accounts_changed)
        self.services = Services(
            {name: each.services(self._service_tools(name)) for name, each in self.adapters.items()},
            self._accounts_on,
            SystemRandom(),
        )
        self.sinks.all = (
            self.engine.configs,
            JournalLog(),
            self.hub,
            Reassigned(self.hub),
            self.news,
            self.profiles,
            self.services,
        )
        self.reads = ReadStore(self.placements, config_for=self.engine.configs.get, wall_ms=_wall_ms)
        self.customers = Customers(self.placements, config_for=self.engine.configs.get, wall_ms=_wall_ms)
        self.base_url = settings.public_url or ""
        self.public_stop = trio.Event()
        self.public_ended: trio.Event | None = None
        self.operator_stop = trio.Event()
        self.token: Token | None = None
        self.nursery: trio.Nursery | None = None
        self._wire_gateway(key)

    def _wire_gateway(self, key: bytes) -> None:
        settings = self.settings
        self.ticks = Ticks()
        webhooks = Webhooks(
            receivers=[each.receiver() for each in self.adapters.values()],
            directory=self.directory,
            intake=self.engine.intake,
            landlord=self.landlord,
            metrics=self.metrics,
            new_id=self.ids,
            clock_ms=_wall_ms,
            read=self._read_announced,
            limits=WebhookLimits(body_bytes_max=settings.webhook_bytes_max),
            ready_since=self.ticks.began,
            public_url=settings.public_url,
        )
        self.lanes: list[Lane] = []
        if settings.webhook_lane == "on":
            limits = LaneLimits(body_bytes_max=settings.webhook_bytes_max)
            self.lanes.append(
                WebhookLane(
                    webhooks.handle,
                    self.metrics,
                    limits,
                    begin=webhooks.begin,
                    expire=webhooks.expire,
                    bytes_max=webhooks.bytes_max,
                    entrance=webhooks.shedding,
                )
            )
        client_of = Proxies(settings.trusted_proxies).client_of
        deps = Dependencies(
            engine=self.engine,
            reads=self.reads,
            customers=self.customers,
            landlord=self.landlord,
            events=self.events,
            media=self.objects,
            vault=self.vault,
            directory=self.directory,
            platforms={name: each.platform for name, each in self.adapters.items()},
            fit_send=self._fit_send,
            verify_account=self._verify_account,
            channel_health=self._channel_health,
            rights_changed=self.hub.recheck,
            news=self.news,
            push_apps=self.push_apps,
            tickets=self.tickets,
            master_key=key,
            base_url=lambda: self.base_url,
            client_of=client_of,
            body_bytes_max=settings.body_bytes_max,
            webhook_bytes_max=settings.webhook_bytes_max,
            upload_bytes_max=settings.media_bytes_max,
            request_seconds_max=settings.request_seconds_max,
            isolation=settings.placement,
        )
        self.app = create_app(deps, blueprints=(webhook_blueprint(webhooks),))
        self.site: Any = self.app.site
        rights = SubscriptionRights(self.site, self.tickets)
        self.sessions = Sessions(
            self.hub,
            self.metrics,
            rights=rights,
            epoch_of=self._log_epoch,
            apps=self.apps,
            origins=settings.ws_origins,
            client_of=client_of,
        )
        # Later than the rest: sessions ask the application's own authenticator and rights.
        self.app.register_blueprint(push_blueprint(self.sessions))
        self.app.register_blueprint(broadcasting_blueprint(self.site, rights, self.sessions))
        if settings.push_lane == "on":
            self.lanes.append(PushLane(self.sessions, self.metrics))
        self.operator = Operator(
            self.registry, {"database": self._database_answers, "writers": self._writers_take_more}
        )
        self.registry.register(
            EngineCollector(self.engine, self.writers, self.channels, self.hub, self.renewer)
        )

    # ---------------------------------------------------------------- start and stop

    async def prepare(self) -> None:
        """Databases that exist and are at this version. Raises SchemaRefused with what to do.

        A tenant whose database cannot be brought up is logged and left: the others must be served."""
        for outcome in await bring_up(self.server, self.landlord, _wall_ms):
            if outcome.error is not None:
                log.error("schema.not_migrated", database=outcome.database, reason=str(outcome.error))
        await self._keep_up()

    async def start(self, nursery: trio.Nursery, dsn: str) -> Running:
        settings = self.settings
        self.nursery = nursery
        trio.lowlevel.add_instrument(self.ticks)
        await nursery.start(self.writers.run)
        await nursery.start(self.engine.run)
        await self.directory.load(self.landlord)
        await self.push_apps.load()
        await nursery.start(self.sessions.presence.run)
        await self._wake_all()
        nursery.start_soon(self._keep_up_hourly)
        nursery.start_soon(self.profiles.run)
        nursery.start_soon(self.services.run)
        nursery.start_soon(self.renewer.run)
        operator_port = await nursery.start(
            _serve(self.operator, settings.operator_host, settings.operator_port, self.operator_stop)
        )
        self.public_ended = trio.Event()
        port = await nursery.start(self._serve_public)
        host = _reachable(settings.host)
        self.base_url = settings.public_url or f"http://{host}:{port}"
        self.token, secret = await self._local_token()
        local_token = f"{self.token.id}|{secret}"
        operator_url = f"http://{_reachable(settings.operator_host)}:{operator_port}"
        await trio.to_thread.run_sync(
            _write_server_file, settings.data_dir, f"http://{host}:{port}", operator_url, local_token
        )
        return Running(
            settings=settings,
            base_url=self.base_url,
            ws_url=self.base_url.replace("http", "ws", 1) + "/ws",
            operator_url=operator_url,
            database_url=dsn,
            local_token=local_token,
            engine=self.engine,
            landlord=self.landlord,
            reads=self.reads,
            events=self.events,
            vault=self.vault,
            directory=self.directory,
            pool_of=self.placements.pool,
            listening=self.listening,
        )

    async def _serve_public(self, *, task_status: trio.TaskStatus[int]) -> None:
        assert self.public_ended is not None
        settings = self.settings
        try:
            await _serve(self.app, settings.host, settings.port, self.public_stop, self.metrics, self.lanes)(
                task_status=task_status
            )
        finally:
            self.public_ended.set()

    async def stop(self) -> None:
        self.operator.stopping = True
        with suppress(FileNotFoundError):
            (self.settings.data_dir / SERVER_FILE).unlink()
        with trio.move_on_after(self.settings.stop_seconds_max):
            self.sessions.close_all()
            self.news.close()
            self.public_stop.set()
            if self.public_ended is not None:
                # What was taken is answered while there is still an engine to answer it.
                seconds_max = self.settings.stop_seconds_max * DOOR_SHARE
                async with trio.open_nursery() as closing:
                    closing.cancel_scope.deadline = trio.current_time() + 2 * seconds_max
                    closing.start_soon(self.services.stop, seconds_max)
                    with trio.move_on_after(seconds_max):
                        await self.public_ended.wait()
            if self.token is not None:
                with suppress(MijraError):
                    await self.landlord.revoke_token(self.token.id, _wall_ms())
            with trio.move_on_after(self.settings.stop_seconds_max * RENEWALS_SHARE):
                await self.renewer.settle()
            await self.engine.stop(self.settings.stop_seconds_max * ENGINE_SHARE)
            self.writers.stop()
            await self.writers.flush()
        self.operator_stop.set()

    async def _wake_all(self) -> None:
        """What an earlier process left to do, tenant by tenant. A tenant whose database does not answer is
        woken by its next message."""
        for tenant in await self.landlord.all_tenants():
            if tenant.placement_state != "ready":
                continue
            try:
                work = await self.outbox.open_work(tenant.id)
                if work.channel_ids or work.media or work.timers or work.waiting:
                    await self.engine.wake(tenant.id, work)
            except MijraError as error:
                log.warning("tenant.not_woken", tenant=tenant.id, reason=str(error))

    async def _keep_up(self) -> None:
        await upkeep(self.server, self.placements.tenants_by_database(), now=_wall_ms())

    async def _keep_up_hourly(self) -> None:
        while True:
            tenants = chain.from_iterable(self.placements.tenants_by_database().values())
            await forget_deliveries(self.objects, map(deliveries_prefix, tenants), now=_wall_ms())
            await trio.sleep(UPKEEP_EVERY_SECONDS)
            await self._keep_up()

    async def _local_token(self) -> tuple[Token, str]:
        """A landlord's token for the command line on this machine, good while this process lives."""
        now = _wall_ms()
        login: Login | None = await self.landlord.login_by_email(LOCAL_LOGIN)
        if login is None:
            login = await self.landlord.create_login(
                user_id=self.ids(),
                email=LOCAL_LOGIN,
                name="Local operator",
                password_hash="!",  # noqa: S106  no password fits this, so nobody logs in with it
                landlord=True,
                now=now,
            )
        await self.landlord.revoke_tokens_of(login.id, None, now)
        secret = secrets.token_urlsafe(32)
        token = Token(
            id=self.ids(),
            user_id=login.id,
            tenant_id=None,
            name=f"command line of {self.node}",
            secret_hash=hash_secret(secret),
            abilities=("*",),
            expires_at=None,
            last_used_at=None,
            revoked_at=None,
            created_at=now,
        )
        await self.landlord.create_token(token)
        return token, secret

    # ---------------------------------------------------------------- what parts need of each other

    async def _ask(self, address: Any, message: object, *, timeout_seconds: float) -> Any:
        await self.engine.config(address.tenant)
        return await self.engine.system.ask(address, message, timeout_seconds=timeout_seconds)

    def _open_secrets(self, entry: DirectoryEntry) -> dict[str, str]:
        return self.vault.open(entry.tenant_id, entry.channel_id, entry.credentials)

    def _account(self, tenant_id: int, channel_id: int) -> Account | None:
        channel = self.engine.configs.get(tenant_id).channels.get(channel_id)
        if channel is None:
            return None
        try:
            credentials = self.vault.open(tenant_id, channel_id, channel.credentials)
        except MijraError as error:
            # Sealed with another master key: nothing can be sent, nothing is lost, a person has to act.
            log.error(
                "channel.credentials_unreadable", tenant=tenant_id, channel_id=channel_id, reason=str(error)
            )
            return None
        return _account_of(tenant_id, channel, credentials)

    def _service_tools(self, platform: str) -> ServiceTools:
        def endpoint(external_id: str) -> Endpoint | None:
            return self.directory.by_account(platform, external_id)

        listen = {name: Listen(host=host, port=port) for name, (host, port) in self.settings.listen.items()}
        return ServiceTools(
            tools=self.tools,
            deliver=self.engine.intake.deliver,
            endpoint=endpoint,
            account=self._account_at,
            cursors=DurableCursors(CursorReads(self.placements), self.writers, _wall_ms),
            attention=self._service_found_trouble,
            new_trace=lambda: os.urandom(16).hex(),
            wall_ms=_wall_ms,
            serve_asyncio=self.bridge.serve,
            listen=listen,
            tls=self._tls_context,
            listening=self._is_listening,
        )

    def _accounts_changed(self) -> None:
        self.services.changed()

    async def _account_at(self, endpoint: Endpoint) -> Account | None:
        await self.engine.config(endpoint.tenant_id)
        return self._account(endpoint.tenant_id, endpoint.channel_id)

    async def _accounts_on(self, platform: str) -> Sequence[Account]:
        found = []
        for endpoint in self.directory.on(platform):
            try:
                account = await self._account_at(endpoint)
            except MijraError as error:
                log.warning("service.account_unknown", tenant=endpoint.tenant_id, reason=str(error))
                continue
            if account is not None:
                found.append(account)
        return found

    def _tls_context(self) -> ssl.SSLContext | None:
        """Raises OSError (ssl.SSLError among them) for files that cannot be used."""
        if self.settings.tls_certificate is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.settings.tls_certificate, self.settings.tls_key)
        return context

    def _is_listening(self, name: str, host: str, port: int) -> None:
        log.info("service.listening", listener=name, host=host, port=port)
        self.listening[name] = f"{_reachable(host)}:{port}"

    def _fit_send(self, channel: Channel, send: Send, answered: bool) -> dict[str, Any]:
        sender = self.senders.get(channel.platform)
        if sender is None:
            raise InvalidInput(
                "Nothing can be sent on this platform: its adapter is not installed.", code="not_supported"
            )
        outlet = Outlet(external_id=channel.external_id, settings=channel.settings, answered=answered)
        fitted = self.adapters[channel.platform].fit(sender, send, outlet)
        return {**fitted.facts, **({} if fitted.note is None else {"sent_as": fitted.note})}

    async def _read_announced(self, endpoint: Endpoint, announced: Announced) -> Sequence[InboundEvent]:
        reader = self.readers.get(endpoint.platform)
        account = await self._account_at(endpoint)
        if reader is None or account is None:
            raise Unavailable("The channel's account cannot be used.", code="account_unusable")
        found = await reader.read(announced, account)
        if not isinstance(found, Declined):
            return found
        if found.error_class is ErrorClass.AUTH:
            self._service_found_trouble(account, found.message)
        raise Unavailable(
            found.message, code="not_readable_now", retry_after_seconds=found.retry_after_seconds or 10.0
        )

    def _webhook(self, account: Account) -> str | None:
        endpoint = self.directory.by_account(account.platform, account.external_id)
        if endpoint is None or endpoint.channel_id != account.channel_id:
            return None
        return f"{self.base_url}{PREFIX}{account.platform}/{endpoint.endpoint_key}"

    def _link(self, tenant_id: int, storage_key: str) -> str:
        """The id that a file is known by ends the key it is stored under (gateway/api/files.py)."""
        slug = self.engine.configs.get(tenant_id).slug
        link: str = self.site.links.for_tenant(slug)(tenant_id, int(storage_key.rpartition("/")[2]))
        return link

    async def _verify_account(self, channel: Channel, credentials: dict[str, str]) -> AccountCheck:
        adapter = self.adapters.get(channel.platform)
        if adapter is None:
            return AccountCheck(ok=False, detail="The platform's adapter is not installed here.")
        checked = await adapter.check(_account_of(0, channel, credentials), self.tools)
        return AccountCheck(ok=checked.ok, detail=checked.detail, facts=checked.facts)

    def _channel_health(self, tenant_id: int, channel_id: int) -> ChannelHealth:
        now, record = self.channels.record(tenant_id, channel_id)
        error, renewal = record.error, self.renewer.state(tenant_id, channel_id)
        return ChannelHealth(
            queued=0 if now is None else now.queued,
            paused_until=None if now is None else now.paused_until,
            received_at=self.engine.intake.received_at(tenant_id, channel_id),
            accepted_at=record.accepted_at,
            error=None if error is None else (error.code, error.message, error.at),
            counts=dict(record.outcomes),
            sending={}
            if now is None
            else {
                "queued": now.queued,
                "in_hand": now.in_hand,
                "rate_per_second": now.rate_per_second,
                "circuit": now.circuit,
                "halted": now.halted,
                "outcomes": dict(now.outcomes),
            },
            renewal=None if renewal is None else Renewal(**structs.asdict(renewal)),
        )

    def _listed(self, entry: DirectoryEntry) -> None:
        self.renewer.see(
            Expiring(
                tenant_id=entry.tenant_id,
                channel_id=entry.channel_id,
                platform=entry.platform,
                credentials_at=entry.credentials_at,
                expires_at=entry.credentials_expire_at,
            )
        )

    async def _account_now(self, tenant_id: int, channel_id: int) -> Account | None:
        await self.engine.config(tenant_id)
        return self._account(tenant_id, channel_id)

    async def _begin_renewal(self, account: Account) -> None:
        """A row in the audit log: only a store that takes rows, from who has the tenant, has it."""
        if not self.writers.has_room(account.tenant_id):
            raise no_room()
        begun = AuditRow(
            tenant_id=account.tenant_id,
            id=self.ids(),
            user_id=None,
            action="renewing",
            subject=f"channel:{account.channel_id}",
            before=None,
            after=None,
            trace="",
            at=_wall_ms(),
        )
        with trio.move_on_after(ASK_SECONDS_MAX):
            await self.engine.commit(account.tenant_id, (begun,))
            return
        raise no_room()

    async def _keep_renewed(self, account: Account, renewed: Renewed) -> bool:
        return await Provisioning(self.site).renew_channel(
            account.tenant_id,
            account.channel_id,
            account.credentials_at,
            renewed.credentials,
            renewed.expires_at,
        )

    def _in_trouble(self, trouble: Trouble) -> None:
        """Whoever tells may not wait, so the change is made by a task of its own."""
        if self.nursery is not None:
            self.nursery.start_soon(self._mark_attention, trouble)
        if trouble.halted:
            self.renewer.hurry(trouble.tenant_id, trouble.channel_id, trouble.credentials_at)

    def _service_found_trouble(self, account: Account, note: str) -> None:
        """What a service or reader may not do with an account's credentials is no reason to keep back what is
        sent with others of them."""
        trouble = Trouble(
            tenant_id=account.tenant_id,
            channel_id=account.channel_id,
            code="service",
            note=note,
            halted=False,
            credentials_at=account.credentials_at,
        )
        self._in_trouble(trouble)

    async def _mark_attention(self, trouble: Trouble) -> None:
        mark = NeedAttention(
            channel_id=trouble.channel_id,
            note=trouble.note,
            # The channel that found the trouble has stopped itself.
            halts=False,
            credentials_at=trouble.credentials_at,
        )
        try:
            await self.engine.ask_tenant(trouble.tenant_id, mark)
        except MijraError as error:
            log.warning(
                "channel.attention_not_marked",
                tenant=trouble.tenant_id,
                channel_id=trouble.channel_id,
                reason=str(error),
            )

    async def _log_epoch(self, tenant_id: int) -> str:
        """Cursors of a tenant start anew only when the tenant itself is created anew."""
        tenants: Sequence[Tenant] = await self.site.tenants.by_ids([tenant_id])
        return str(tenants[0].created_at) if tenants else "0"

    async def _database_answers(self) -> bool:
        return await self.server.pool(self.server.landlord_database).fetchval("SELECT true") is True

    async def _writers_take_more(self) -> bool:
        return all(each.waiting_rows < each.waiting_rows_max for each in self.writers.statistics())


class _Sinks:
    """Listeners to committed events, in order. Filled once, when all of them exist."""

    def __init__(self) -> None:
        self.all: tuple[EventSink, ...] = ()

    def committed(self, events: Sequence[LoggedEvent]) -> None:
        for sink in self.all:
            sink.committed(events)


def _serve(
    app: Any,
    host: str,
    port: int,
    stop: trio.Event,
    metrics: Metrics | None = None,
    lanes: Sequence[Lane] = (),
) -> Callable[..., Awaitable[None]]:
    async def run(*, task_status: trio.TaskStatus[int]) -> None:
        await serve_http(
            app, host=host, port=port, stop=stop, metrics=metrics, lanes=lanes, task_status=task_status
        )

    return run


def _account_of(tenant_id: int, channel: Channel, credentials: dict[str, str]) -> Account:
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


def _connection_limits(connections_max: int) -> ConnectionLimits:
    """Half for readers, half for the writers of busy databases: an idle one is disconnected for another."""
    half = max(2, connections_max // 2)
    return ConnectionLimits(readers_max=half, writers_max=max(2, connections_max - half))


def _write_server_file(data_dir: Path, base_url: str, operator_url: str, token: str) -> None:
    path = data_dir / SERVER_FILE
    text = json.dumps(
        {"pid": os.getpid(), "base_url": base_url, "operator_url": operator_url, "token": token}
    )
    partial = path.with_suffix(".partial")
    with suppress(FileNotFoundError):
        partial.unlink()
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    partial.replace(path)


def _reachable(host: str) -> str:
    """An address to reach a listener on this machine by; IPv6 ones in brackets."""
    if host in ("0.0.0.0", "::", ""):  # noqa: S104  not bound here
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000
