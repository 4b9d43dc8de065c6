"""The gateway's numbers for Prometheus, on a registry that is passed in.

Not on the library's global registry: a test, or a second system in one process, has its own. Labels are
closed sets (platforms, outcomes, close codes), never tenants or ids, so that the number of series is bounded
(the one exception bounds itself); what is known per tenant is in the API's statistics. Names and labels are
for dashboards to rely on.
"""

from typing import Any, Final, TypeVar, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

M = TypeVar("M", bound=MetricWrapperBase)

# From a cached reply to the platforms' patience (the sheets: 5 s), dense around the goal of 50 ms.
_SECONDS_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.035, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


TENANTS_NAMED_MAX: Final = 50
"""Tenants that get a series of their own where one is needed to find a flood: more than flood at once, and
fifty series are nothing to a scrape."""


class Metrics:
    """Every series of webhooks, push and the edge's connections. One per process and registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.webhook_deliveries = Counter(
            "mijra_webhook_deliveries_total",
            "Webhook requests by what became of them.",
            ("platform", "outcome"),
            registry=registry,
        )
        self.webhook_events = Counter(
            "mijra_webhook_events_total",
            "Events inside webhook deliveries: accepted, unrouted (nobody connected the account) or refused "
            "(the account's secret did not sign the delivery).",
            ("platform", "outcome"),
            registry=registry,
        )
        self.webhook_seconds = Histogram(
            "mijra_webhook_seconds",
            "From the complete request to its answer, for deliveries that were committed.",
            ("platform",),
            buckets=_SECONDS_BUCKETS,
            registry=registry,
        )
        self.webhook_in_flight = Gauge(
            "mijra_webhook_in_flight", "Deliveries that wait for their commit.", registry=registry
        )
        self.webhook_in_flight_bytes = Gauge(
            "mijra_webhook_in_flight_bytes", "Their bodies' bytes.", registry=registry
        )
        self.webhook_over_share = Counter(
            "mijra_webhook_over_share_total",
            f"Deliveries refused because their tenant had its share in flight; the first {TENANTS_NAMED_MAX} "
            "such tenants by name, later ones together as `other`.",
            ("tenant",),
            registry=registry,
        )
        self.webhook_late = Counter(
            "mijra_webhook_late_total",
            "Deliveries refused unread under overload, not for a tenant's share: too late.",
            registry=registry,
        )
        self._named_tenants: set[int] = set()
        self._children: dict[tuple[MetricWrapperBase, tuple[str, ...]], Any] = {}
        self.push_events = Counter(
            "mijra_push_events_total", "Committed events that reached the hub.", registry=registry
        )
        self.push_frames = Counter(
            "mijra_push_frames_total", "Frames queued for live subscribers.", registry=registry
        )
        self.push_gaps = Counter(
            "mijra_push_gaps_total", "Gaps that were declared to resuming clients.", registry=registry
        )
        self.push_connections = Gauge(
            "mijra_push_connections", "WebSockets that are authenticated and open.", registry=registry
        )
        self.push_closes = Counter(
            "mijra_push_closes_total",
            "WebSockets closed by us or lost, by close code.",
            ("code",),
            registry=registry,
        )
        self.connections = Gauge(
            "mijra_edge_connections", "Open connections on the public port.", registry=registry
        )
        self.connections_refused = Counter(
            "mijra_edge_connections_refused_total", "Connections over the limit.", registry=registry
        )
        self.lane_refused = Counter(
            "mijra_edge_lane_refused_total",
            "Requests that the webhook lane refused for their form, by status.",
            ("status",),
            registry=registry,
        )
        self.sends_timed_out = Counter(
            "mijra_edge_sends_timed_out_total",
            "Connections cut because the client had stopped reading.",
            registry=registry,
        )

    def child(self, metric: M, *labels: str) -> M:
        """`metric.labels(…)`, found in one look-up after the first time; for what is counted with every
        delivery."""
        found = self._children.get((metric, labels))
        if found is None:
            found = self._children[metric, labels] = metric.labels(*labels)
        return cast(M, found)

    def refuse_over_share(self, tenant_id: int, deliveries: int = 1) -> None:
        """Count deliveries of a tenant that floods."""
        if tenant_id in self._named_tenants or len(self._named_tenants) < TENANTS_NAMED_MAX:
            self._named_tenants.add(tenant_id)
            self.webhook_over_share.labels(str(tenant_id)).inc(deliveries)
        else:
            self.webhook_over_share.labels("other").inc(deliveries)
