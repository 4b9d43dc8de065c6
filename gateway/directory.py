"""The directory: which connected account a webhook is for, answered from memory.

A delivery is routed before anything about it is known to be true, thousands of times a second, so no
database is asked. Loaded from the landlord's database at the start, kept up by whoever connects and
disconnects accounts.

Promises   every look-up is a dictionary access. An account is listed under one endpoint at a time.
Limits     one entry per connected account, about 2 KB; 100,000 accounts are 200 MB and more than one
           process serves.
Leaves     who may connect an account, and that it is connected once, to the landlord's database; the
           opening of secrets to the callable it is given; whether a signature holds to the adapters.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import islice
from typing import Protocol

import structlog

from engine.domain.platforms import rules_of
from engine.ports import Endpoint
from engine.reading import DirectoryEntry

_log = structlog.get_logger()

OpenSecrets = Callable[[DirectoryEntry], Mapping[str, str]]
Listed = Callable[[DirectoryEntry], None]
"""Is told of each account that is listed, or listed anew. Must neither block nor raise."""
Signer = frozenset[tuple[str, str]]


class Connected(Protocol):
    """What of the landlord's database is used here."""

    async def directory(self) -> Sequence[DirectoryEntry]: ...


class Directory:
    """All methods belong to the trio thread. The sequences it returns are snapshots."""

    def __init__(
        self,
        open_secrets: OpenSecrets,
        *,
        listed: Listed | None = None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """`changed` is called after each account that comes or goes; it must not block."""
        self._open_secrets = open_secrets
        self._listed = listed
        self._changed = changed
        self._by_account: dict[tuple[str, str], Endpoint] = {}
        self._by_key: dict[tuple[str, str], Endpoint] = {}
        self._by_parent: dict[tuple[str, str], dict[str, Endpoint]] = {}
        self._by_signer: dict[str, dict[Signer, dict[str, Endpoint]]] = {}

    async def load(self, landlord: Connected) -> int:
        """Takes in everything that is connected; returns how many. Raises StoreUnavailable."""
        for entry in await landlord.directory():
            self.add(entry)
        _log.info("directory.loaded", accounts=len(self._by_account))
        return len(self._by_account)

    def add(self, entry: DirectoryEntry) -> None:
        """Lists the account, in place of what was listed for it (new credentials, another parent).

        Credentials that cannot be opened (sealed with another master key) leave the account unlisted and
        an error in the log: the others must still be served, and its platform keeps sending for days.
        """
        self.remove(entry.platform, entry.external_id)
        if self._listed is not None:
            self._listed(entry)
        try:
            secrets = dict(self._open_secrets(entry))
        except Exception:  # noqa: BLE001  # whatever the vault raises; see above
            _log.exception(
                "directory.unreadable",
                platform=entry.platform,
                tenant=entry.tenant_id,
                channel_id=entry.channel_id,
            )
            return
        endpoint = Endpoint(
            platform=entry.platform,
            external_id=entry.external_id,
            parent_id=entry.parent_id,
            tenant_id=entry.tenant_id,
            channel_id=entry.channel_id,
            endpoint_key=entry.endpoint_key,
            secrets=secrets,
        )
        self._by_account[endpoint.platform, endpoint.external_id] = endpoint
        self._by_key[endpoint.platform, endpoint.endpoint_key] = endpoint
        if endpoint.parent_id is not None:
            family = self._by_parent.setdefault((endpoint.platform, endpoint.parent_id), {})
            family[endpoint.external_id] = endpoint
        signers = self._by_signer.setdefault(endpoint.platform, {})
        signers.setdefault(signer_of(endpoint), {})[endpoint.external_id] = endpoint
        self._changed()

    def remove(self, platform: str, external_id: str) -> None:
        """Unlists the account; what comes for it later is parked. Idempotent."""
        endpoint = self._by_account.pop((platform, external_id), None)
        if endpoint is None:
            return
        self._by_key.pop((platform, endpoint.endpoint_key), None)
        if endpoint.parent_id is not None:
            family = self._by_parent[platform, endpoint.parent_id]
            del family[external_id]
            if not family:
                del self._by_parent[platform, endpoint.parent_id]
        signers = self._by_signer[platform]
        sharing = signers[signer_of(endpoint)]
        del sharing[external_id]
        if not sharing:
            del signers[signer_of(endpoint)]
        self._changed()

    def by_account(self, platform: str, external_id: str) -> Endpoint | None:
        return self._by_account.get((platform, external_id))

    def by_key(self, platform: str, endpoint_key: str) -> Endpoint | None:
        """By the unguessable part of the account's own webhook URL."""
        return self._by_key.get((platform, endpoint_key))

    def by_parent(self, platform: str, parent_id: str) -> Sequence[Endpoint]:
        """Every account under the platform's higher one (WhatsApp: the numbers of a WABA)."""
        return tuple(self._by_parent.get((platform, parent_id), {}).values())

    def signers(self, platform: str, *, limit: int) -> Sequence[Endpoint]:
        """One endpoint for each different set of signing secrets, at most `limit`."""
        signers = self._by_signer.get(platform, {})
        return [next(iter(sharing.values())) for sharing in islice(signers.values(), limit)]

    def tenants_signing_like(self, endpoint: Endpoint) -> Collection[int]:
        """The tenants whose accounts share the endpoint's signing secrets: those of one app."""
        sharing = self._by_signer.get(endpoint.platform, {}).get(signer_of(endpoint), {})
        return {other.tenant_id for other in sharing.values()}

    def on(self, platform: str) -> Sequence[Endpoint]:
        """Every account on the platform. For the handshake, which names no account."""
        signers = self._by_signer.get(platform, {})
        return [endpoint for sharing in signers.values() for endpoint in sharing.values()]

    def __len__(self) -> int:
        return len(self._by_account)


def signer_of(endpoint: Endpoint) -> Signer:
    """What the endpoint signs with; equal for the accounts of one app. Holds secrets: for comparing alone.

    A platform that does not say which of an account's secrets sign has none in common."""
    signing = rules_of(endpoint.platform).connection.signing_names
    return frozenset(item for item in endpoint.secrets.items() if not signing or item[0] in signing)
