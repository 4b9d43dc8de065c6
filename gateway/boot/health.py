"""How a channel is doing, put together from those who know a part of it."""

from msgspec import structs

from adapters.channel import Channels
from adapters.renewing import Renewer
from engine.domain.engine import Engine
from gateway.dependencies import ChannelHealth, Renewal


class Health:
    def __init__(self, engine: Engine, channels: Channels, renewer: Renewer) -> None:
        self._engine = engine
        self._channels = channels
        self._renewer = renewer

    def of(self, tenant_id: int, channel_id: int) -> ChannelHealth:
        now, record = self._channels.record(tenant_id, channel_id)
        error, renewal = record.error, self._renewer.state(tenant_id, channel_id)
        return ChannelHealth(
            queued=0 if now is None else now.queued,
            paused_until=None if now is None else now.paused_until,
            received_at=self._engine.intake.received_at(tenant_id, channel_id),
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
