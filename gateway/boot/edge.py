"""What listens: the public port with webhooks, API and screens, and the operator's."""

from typing import Any

import trio
from prometheus_client import CollectorRegistry

from engine.reading import Reads
from gateway.app import create_app
from gateway.boot.actors import Actors
from gateway.boot.addresses import Addresses
from gateway.boot.clock import wall_ms
from gateway.boot.platforms import Platforms
from gateway.boot.stores import Stores
from gateway.broadcasting import broadcasting_blueprint
from gateway.client_address import Proxies
from gateway.dependencies import Dependencies
from gateway.directory import Directory
from gateway.lane.lanes import Lane
from gateway.lane.push.lane import PushLane
from gateway.lane.shared import LaneLimits
from gateway.lane.webhook_lane import WebhookLane
from gateway.metrics import Metrics
from gateway.operator import Operator
from gateway.push.hub import Hub
from gateway.push.news import News
from gateway.push.pusher.apps import Apps
from gateway.push.sessions import Sessions
from gateway.push.tickets import Tickets
from gateway.push_apps import PushApps
from gateway.routes import push_blueprint, webhook_blueprint
from gateway.serving import serve
from gateway.settings import Settings
from gateway.subscription_rights import SubscriptionRights
from gateway.ticks import Ticks
from gateway.webhooks import WebhookLimits, Webhooks
from storage.customers import Customers
from storage.reads import ReadStore


class Edge:
    """`public_stop` and `operator_stop` end the ports; `public_ended` is there once the public port was
    asked to open, and set when its last connection has ended."""

    def __init__(
        self,
        settings: Settings,
        key: bytes,
        stores: Stores,
        platforms: Platforms,
        actors: Actors,
        directory: Directory,
        addresses: Addresses,
        *,
        channel_health: Any,
    ) -> None:
        """`channel_health`: as in `Dependencies`."""
        self._settings = settings
        self._engine = actors.engine
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry)
        self.ticks = Ticks()
        self.hub = Hub(stores.events, self.metrics)
        self.news = News()
        self.reads: Reads = ReadStore(
            stores.placements, config_for=actors.engine.configs.get, wall_ms=wall_ms
        )
        apps = Apps()
        self.push_apps = PushApps(stores.landlord, stores.vault, apps, wall_ms)
        tickets = Tickets()
        client_of = Proxies(settings.trusted_proxies).client_of
        webhooks = Webhooks(
            receivers=[each.receiver() for each in platforms.adapters.values()],
            directory=directory,
            intake=actors.engine.intake,
            landlord=stores.landlord,
            metrics=self.metrics,
            new_id=stores.ids,
            clock_ms=wall_ms,
            read=platforms.read_announced,
            limits=WebhookLimits(body_bytes_max=settings.webhook_bytes_max),
            ready_since=self.ticks.began,
            public_url=settings.public_url,
        )
        deps = Dependencies(
            engine=actors.engine,
            reads=self.reads,
            customers=Customers(stores.placements, config_for=actors.engine.configs.get, wall_ms=wall_ms),
            landlord=stores.landlord,
            events=stores.events,
            media=stores.objects,
            vault=stores.vault,
            directory=directory,
            platforms={name: each.platform for name, each in platforms.adapters.items()},
            fit_send=platforms.fit_send,
            verify_account=platforms.verify_account,
            channel_health=channel_health,
            rights_changed=self.hub.recheck,
            news=self.news,
            push_apps=self.push_apps,
            tickets=tickets,
            master_key=key,
            base_url=lambda: addresses.base_url,
            client_of=client_of,
            body_bytes_max=settings.body_bytes_max,
            webhook_bytes_max=settings.webhook_bytes_max,
            upload_bytes_max=settings.media_bytes_max,
            request_seconds_max=settings.request_seconds_max,
            isolation=settings.placement,
        )
        self.app = create_app(deps, blueprints=(webhook_blueprint(webhooks),))
        self.site = self.app.site
        rights = SubscriptionRights(self.site, tickets)
        self.sessions = Sessions(
            self.hub,
            self.metrics,
            rights=rights,
            epoch_of=self._log_epoch,
            apps=apps,
            origins=settings.ws_origins,
            client_of=client_of,
        )
        # Later than the rest: sessions ask the application's own authenticator and rights.
        self.app.register_blueprint(push_blueprint(self.sessions))
        self.app.register_blueprint(broadcasting_blueprint(self.site, rights, self.sessions))
        self._lanes = self._make_lanes(webhooks)
        self.operator = Operator(
            self.registry, {"database": stores.database_answers, "writers": stores.writers_take_more}
        )
        self.public_stop = trio.Event()
        self.public_ended: trio.Event | None = None
        self.operator_stop = trio.Event()

    def link(self, tenant_id: int, storage_key: str) -> str:
        """The public address of a stored file. The id that it is known by ends the key it is stored under
        (gateway/api/files.py)."""
        slug = self._engine.configs.get(tenant_id).slug
        return self.site.links.for_tenant(slug)(tenant_id, int(storage_key.rpartition("/")[2]))

    async def serve_operator(self, *, task_status: trio.TaskStatus[int]) -> None:
        """Until `operator_stop`; starts with the port."""
        await serve(
            self.operator,
            host=self._settings.operator_host,
            port=self._settings.operator_port,
            stop=self.operator_stop,
            task_status=task_status,
        )

    async def serve_public(self, *, task_status: trio.TaskStatus[int]) -> None:
        """Until `public_stop`; starts with the port."""
        ended = self.public_ended = trio.Event()
        app: Any = self.app  # Quart's types of ASGI are Hypercorn's, and narrower
        try:
            await serve(
                app,
                host=self._settings.host,
                port=self._settings.port,
                stop=self.public_stop,
                metrics=self.metrics,
                lanes=self._lanes,
                task_status=task_status,
            )
        finally:
            ended.set()

    def _make_lanes(self, webhooks: Webhooks) -> list[Lane]:
        lanes: list[Lane] = []
        if self._settings.webhook_lane == "on":
            lanes.append(
                WebhookLane(
                    webhooks.handle,
                    self.metrics,
                    LaneLimits(body_bytes_max=self._settings.webhook_bytes_max),
                    begin=webhooks.begin,
                    expire=webhooks.expire,
                    bytes_max=webhooks.bytes_max,
                    entrance=webhooks.shedding,
                )
            )
        if self._settings.push_lane == "on":
            lanes.append(PushLane(self.sessions, self.metrics))
        return lanes

    async def _log_epoch(self, tenant_id: int) -> str:
        """Cursors of a tenant start anew only when the tenant itself is created anew."""
        tenants = await self.site.tenants.by_ids([tenant_id])
        return str(tenants[0].created_at) if tenants else "0"
