"""A delivery's events by the account they are for, as far as it is proven that they may reach it."""

from collections.abc import Sequence

from msgspec import Struct

from engine.domain.inbound import Announced, InboundEvent, RoutedEvent
from engine.ports import Endpoint
from gateway.directory import Directory
from gateway.webhooks.accounts import few_signers, named_by
from gateway.webhooks.claims import Claim, Signed

Group = tuple[Endpoint, list[InboundEvent]]


class Sorted(Struct, kw_only=True):
    """`groups` by the account's id; `unrouted`: of accounts that nobody has connected; `refused`: how many
    are of accounts whose secret has not signed."""

    groups: dict[str, Group]
    unrouted: list[RoutedEvent]
    refused: int = 0

    def stored(self) -> int:
        return sum(len(events) for _, events in self.groups.values())

    def announced(self) -> bool:
        """Whether something in it has to be read from the platform first."""
        return any(type(event) is Announced for _, events in self.groups.values() for event in events)


def sort(claim: Claim, signed: Signed, directory: Directory) -> Sorted:
    """Pure, but for asking the receiver about the secrets of accounts that were not among the candidates."""
    platform = claim.served.platform
    addressed = claim.addressed
    wanted: list[tuple[RoutedEvent, Sequence[Endpoint]]] = []
    proven = {endpoint.external_id for endpoint in signed.signers}
    unproven: dict[str, Endpoint] = {}
    for event in signed.events:
        targets = named_by(event, platform, directory)
        if event.or_addressed and addressed is not None:
            # A tenant's own address speaks for all of the tenant's accounts, and for nobody else's.
            own = tuple(each for each in targets if each.tenant_id == addressed.tenant_id)
            targets = own or (addressed,)
            proven.update(each.external_id for each in targets)
        elif not targets and addressed is not None and _may_speak_of(event, addressed):
            targets = (addressed,)
        wanted.append((event, targets))
        unproven.update((t.external_id, t) for t in targets if t.external_id not in proven)
    if unproven:
        also_signed = claim.served.receiver.verify(claim.request, few_signers(unproven.values()))
        proven.update(endpoint.external_id for endpoint in also_signed)
    result = Sorted(groups={}, unrouted=[])
    recogniser = claim.served.recogniser
    for event, targets in wanted:
        if not targets:
            result.unrouted.append(event)
            continue
        believed = [target for target in targets if target.external_id in proven]
        if not believed:
            result.refused += 1
        for target in believed:
            own_event = event.event if recogniser is None else recogniser.recognise(event.event, target)
            result.groups.setdefault(target.external_id, (target, []))[1].append(own_event)
    if addressed is not None and not wanted:
        result.groups[addressed.external_id] = (addressed, [])  # nothing in it, but authentic: kept
    return result


def _may_speak_of(event: RoutedEvent, addressed: Endpoint) -> bool:
    """Whether an event that names no connected account is the keyed endpoint's own: it names none, or only
    the parent, and not another parent than the one we know."""
    return event.external_id is None and (
        event.parent_id is None or addressed.parent_id in (None, event.parent_id)
    )
