"""What is authentic and nobody's: kept with the landlord, so that a person can see to it."""

from collections.abc import Callable
from typing import Protocol

import structlog

from engine.domain.platforms import rules_of
from gateway.webhooks.work import Work

_log = structlog.get_logger()


class UnroutedStore(Protocol):
    """What of the landlord's database is used here."""

    async def park_unrouted(
        self,
        *,
        delivery_id: int,
        platform: str,
        external_id: str | None,
        headers: dict[str, str],
        body: bytes,
        reason: str,
        trace: str,
        now: int,
    ) -> None: ...


class Parking:
    def __init__(self, landlord: UnroutedStore, new_id: Callable[[], int]) -> None:
        self._landlord = landlord
        self._new_id = new_id

    async def park(self, work: Work, external_id: str | None, reason: str) -> None:
        """Returns when it is durable. Raises StoreUnavailable."""
        await self._landlord.park_unrouted(
            delivery_id=self._new_id(),
            platform=work.platform,
            external_id=external_id,
            headers=rules_of(work.platform).kept_of(work.request.headers),
            body=work.request.body,
            reason=reason,
            trace=work.trace,
            now=work.received_at,
        )
        _log.warning("webhook.parked", reason=reason, external_id=external_id, **work.fields())
