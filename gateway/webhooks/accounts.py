"""The connected accounts that events name, and whose secrets are tried on a delivery."""

from collections.abc import Iterable, Sequence
from typing import Final

from engine.domain.inbound import RoutedEvent
from engine.ports import Endpoint
from gateway.directory import Directory, Signer, signer_of

SIGNERS_TRIED_MAX: Final = 4
"""An installation has one app of its own per platform, two while it moves to another. Each secret tried costs
another pass over an attacker's body."""


def named_by(event: RoutedEvent, platform: str, directory: Directory) -> Sequence[Endpoint]:
    """The endpoints that the event names. About a whole parent account: all accounts under it."""
    if event.external_id is not None:
        for name in (event.external_id, *event.also_known_as):
            endpoint = directory.by_account(platform, name)
            if endpoint is not None:
                return (endpoint,)
        return ()
    if event.parent_id is not None:
        return directory.by_parent(platform, event.parent_id)
    return ()


def few_signers(endpoints: Iterable[Endpoint]) -> list[Endpoint]:
    """Those of the first few different secrets: a body can name accounts of a thousand apps, and each app
    costs a pass over it, while a real one names accounts of one."""
    signers: set[Signer] = set()
    kept = []
    for endpoint in endpoints:
        signer = signer_of(endpoint)
        if signer not in signers and len(signers) == SIGNERS_TRIED_MAX:
            continue
        signers.add(signer)
        kept.append(endpoint)
    return kept
