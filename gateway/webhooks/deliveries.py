"""What the intake is given of a request: for each tenant in it, its events and the bytes it may see."""

from collections.abc import Sequence

import msgspec

from engine.domain.intake import Delivery
from engine.domain.platforms import rules_of
from engine.ports import Endpoint
from gateway.webhooks.sorting import Group
from gateway.webhooks.work import Work


def by_tenant(work: Work, groups: Sequence[Group]) -> dict[int, Delivery]:
    """One delivery for each tenant; the body as it came only for a tenant that is alone in it."""
    of_tenants: dict[int, list[Group]] = {}
    for group in groups:
        of_tenants.setdefault(group[0].tenant_id, []).append(group)
    work.tenants = tuple(of_tenants)
    if len(of_tenants) == 1:
        (tenant_id,) = of_tenants
        return {tenant_id: _delivery(work, groups, work.request.body, "accepted")}
    return {
        tenant_id: _delivery(work, own, _own_part(own), "accepted") for tenant_id, own in of_tenants.items()
    }


def not_understood(work: Work, owner: Endpoint) -> Delivery:
    """An authentic body that is kept as it is."""
    return _delivery(work, [(owner, [])], work.request.body, "not_understood")


def _delivery(work: Work, groups: Sequence[Group], body: bytes, outcome: str) -> Delivery:
    return Delivery(
        platform=work.platform,
        trace=work.trace,
        received_at=work.received_at,
        headers=rules_of(work.platform).kept_of(work.request.headers),
        body=body,
        groups=groups,
        outcome=outcome,
    )


def _own_part(groups: Sequence[Group]) -> bytes:
    part = [{"external_id": endpoint.external_id, "events": events} for endpoint, events in groups]
    return msgspec.json.encode({"shared_delivery": part})
