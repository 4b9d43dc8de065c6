"""The engine's numbers for Prometheus, read when they are scraped: nothing is counted twice on a hot path."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from engine.domain.engine import Engine


class HasStatistics(Protocol):
    def statistics(self) -> Any: ...


class Renews(Protocol):
    @property
    def outcomes(self) -> Mapping[tuple[str, str], int]: ...

    def soonest(self) -> Mapping[str, float]: ...


class EngineCollector(Collector):
    """Mailboxes by kind, writers by database, outboxes and credentials by platform account, the hub's
    rings."""

    def __init__(
        self,
        engine: Engine,
        writers: HasStatistics,
        channels: HasStatistics,
        hub: HasStatistics,
        renewer: Renews,
    ) -> None:
        self._engine = engine
        self._writers = writers
        self._channels = channels
        self._hub = hub
        self._renewer = renewer

    def describe(self) -> Iterable[Metric]:
        """Nothing up front: the registry need not ask the engine for names before it runs."""
        return ()

    def collect(self) -> Iterable[Metric]:
        yield from self._actors()
        yield from self._databases()
        yield from self._accounts()
        yield from self._credentials()
        hub = self._hub.statistics()
        yield GaugeMetricFamily("mijra_push_ring_bytes", "Events held for resuming.", value=hub.ring_bytes)
        yield GaugeMetricFamily("mijra_push_replaying", "Subscriptions catching up.", value=hub.replaying)

    def _actors(self) -> Iterable[Metric]:
        statistics = self._engine.system.statistics()
        resident = GaugeMetricFamily("mijra_actors_resident", "Activations in memory.", labels=["kind"])
        waiting = GaugeMetricFamily("mijra_mailbox_messages", "Messages that wait.", labels=["kind"])
        handled = CounterMetricFamily("mijra_actor_messages", "Messages handled.", labels=["kind"])
        crashes = CounterMetricFamily("mijra_actor_crashes", "Handlers that raised.", labels=["kind"])
        parked = CounterMetricFamily("mijra_dead_letters", "Messages parked.", labels=["kind"])
        for kind, each in statistics.kinds.items():
            resident.add_metric([kind], each.resident)
            waiting.add_metric([kind], each.waiting)
            handled.add_metric([kind], each.handled)
            crashes.add_metric([kind], each.crashes)
            parked.add_metric([kind], each.parked)
        yield from (resident, waiting, handled, crashes, parked)

    def _databases(self) -> Iterable[Metric]:
        waiting = GaugeMetricFamily(
            "mijra_writer_waiting_rows", "Rows that wait for their commit.", labels=["database"]
        )
        batches = CounterMetricFamily("mijra_writer_batches", "Batches committed.", labels=["database"])
        rows = CounterMetricFamily("mijra_writer_rows", "Rows committed.", labels=["database"])
        seconds = CounterMetricFamily(
            "mijra_writer_commit_seconds", "Time in committed batches.", labels=["database"]
        )
        trouble = CounterMetricFamily(
            "mijra_writer_unavailable", "Tries that the database did not take.", labels=["database"]
        )
        for each in self._writers.statistics():
            waiting.add_metric([each.database], each.waiting_rows)
            batches.add_metric([each.database], each.batches)
            rows.add_metric([each.database], each.rows)
            seconds.add_metric([each.database], each.commit_seconds)
            trouble.add_metric([each.database], each.unavailable)
        yield from (waiting, batches, rows, seconds, trouble)

    def _accounts(self) -> Iterable[Metric]:
        labels = ["tenant", "channel"]
        queued = GaugeMetricFamily("mijra_outbox_queued", "Items that wait to be sent.", labels=labels)
        halted = GaugeMetricFamily("mijra_channel_halted", "1: a person has to act.", labels=labels)
        outcomes = CounterMetricFamily(
            "mijra_outbox_outcomes", "Send outcomes by class.", labels=[*labels, "outcome"]
        )
        for each in self._channels.statistics():
            place = [str(each.tenant_id), str(each.channel_id)]
            queued.add_metric(place, each.queued)
            halted.add_metric(place, 1 if each.halted else 0)
            for outcome, count in each.outcomes.items():
                outcomes.add_metric([*place, outcome], count)
        yield from (queued, halted, outcomes)

    def _credentials(self) -> Iterable[Metric]:
        renewals = CounterMetricFamily(
            "mijra_credentials_renewals",
            "Renewals of accounts' credentials: renewed, refused, failed, replaced, unneeded.",
            labels=["platform", "outcome"],
        )
        for (platform, outcome), count in self._renewer.outcomes.items():
            renewals.add_metric([platform, outcome], count)
        soonest = GaugeMetricFamily(
            "mijra_credentials_expire_seconds",
            "Until the first account's credentials expire; negative: they have.",
            labels=["platform"],
        )
        for platform, seconds in self._renewer.soonest().items():
            soonest.add_metric([platform], seconds)
        yield from (renewals, soonest)
