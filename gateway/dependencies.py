"""What the HTTP API needs from the rest of the system, by name.

`gateway.boot` fills `Dependencies` once; nothing in the API looks anything up elsewhere. The Protocols here
name only what is used, so that tests can see what a handler may touch.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from msgspec import Struct

from engine.domain.config import Channel, TenantConfig
from engine.domain.conversation.messages import ConversationCommand
from engine.domain.customers.messages import CustomersMessage
from engine.domain.outbound import Send
from engine.domain.platforms import Platform
from engine.domain.rows import Row
from engine.domain.tenant.messages import TenantCommand
from engine.ports import EventLog, MediaStore, OpenFile
from engine.reading import ConversationPlace, CustomerReads, DirectoryEntry, Landlord, Reads
from gateway.client_address import DIRECT, ClientOf
from gateway.push.news import News
from gateway.push.pusher.apps import App
from gateway.push.tickets import Tickets


class EngineCalls(Protocol):
    """The engine as the API sees it. Asks raise what the actor refused with (the Rejected family), or
    Unavailable; a cancelled ask may still be carried out."""

    async def ask_conversation(
        self, tenant_id: int, place: ConversationPlace, message: ConversationCommand
    ) -> Any: ...

    async def ask_contact(
        self, tenant_id: int, channel_id: int, contact_key: str, message: ConversationCommand
    ) -> Any: ...

    async def ask_tenant(self, tenant_id: int, message: TenantCommand) -> Any: ...

    async def ask_customers(self, tenant_id: int, message: CustomersMessage) -> Any: ...

    async def commit(self, tenant_id: int, rows: Sequence[Row]) -> None:
        """Makes rows durable that no actor owns: uploaded files, audit entries."""
        ...

    async def config(self, tenant_id: int) -> TenantConfig: ...

    def new_id(self) -> int: ...

    def now(self) -> int: ...

    def actors(self) -> Any:
        """The live tree for the operator: plain objects that JSON can hold."""
        ...


class Vault(Protocol):
    """Encryption at rest. What is sealed for one tenant and subject opens for no other."""

    def seal(self, tenant_id: int, subject_id: int, secrets: dict[str, str]) -> bytes: ...

    def open(self, tenant_id: int, subject_id: int, sealed: bytes) -> dict[str, str]: ...


class Directory(Protocol):
    """The edge's directory of connected accounts; changes count for the next webhook."""

    def add(self, entry: DirectoryEntry) -> None: ...

    def remove(self, platform: str, external_id: str) -> None: ...


class Media(MediaStore, Protocol):
    """Files, also for those who fetch them."""

    async def open(self, key: str) -> OpenFile: ...


class PushApps(Protocol):
    """Tenants' apps for Pusher's protocol."""

    async def have(self, tenant_id: int) -> App | None:
        """Made if there is none. None: its secret cannot be opened."""
        ...


class AccountCheck(Struct, frozen=True, kw_only=True):
    """What a platform said about an account's credentials. `detail` is a sentence for people; `facts` are
    what it told (display number, verified name, quality): nothing secret."""

    ok: bool
    detail: str
    facts: dict[str, Any] = {}


FitSend = Callable[[Channel, Send, bool], Mapping[str, Any]]
"""(channel, send, whether the conversation has been answered): raises InvalidInput when the platform would
refuse it. The answer is what the message's content says beside what was asked: `sent_as`, how it is sent
where the platform cannot carry it as it is, and what else the agent should know."""

VerifyAccount = Callable[[Channel, dict[str, str]], Awaitable[AccountCheck]]
"""Asks the platform. Raises Unavailable when the platform cannot be reached."""


class ChannelHealth(Struct, frozen=True, kw_only=True):
    """What this process knows of an account. Times in ms, and like `counts` since the start; `error` is the
    last failed call's (code, sentence, when). `sending`: what the channel's actor says now, empty while it
    has nothing to do. `renewal`: None where credentials are not renewed from here."""

    queued: int = 0
    paused_until: int | None = None
    received_at: int | None = None
    accepted_at: int | None = None
    error: tuple[str, str, int] | None = None
    counts: Mapping[str, int] = {}
    sending: Mapping[str, Any] = {}
    renewal: "Renewal | None" = None


class Renewal(Struct, frozen=True, kw_only=True):
    """How the renewing of an account's credentials goes. Times in ms; `error`: why the last try failed."""

    due_at: int | None
    renewed_at: int | None
    failures: int
    error: str | None


HealthOf = Callable[[int, int], ChannelHealth]
"""(tenant id, channel id)."""

RightsChanged = Callable[[int, int | None], None]
"""(tenant id, user id or None for all): subscriptions are checked again, connections of the revoked
closed."""


class Dependencies(Struct, frozen=True, kw_only=True):
    engine: EngineCalls
    reads: Reads
    customers: CustomerReads
    landlord: Landlord
    events: EventLog
    media: Media
    vault: Vault
    directory: Directory
    platforms: Mapping[str, Platform]
    fit_send: FitSend
    verify_account: VerifyAccount
    channel_health: HealthOf
    rights_changed: RightsChanged
    news: News
    push_apps: PushApps
    tickets: Tickets
    master_key: bytes
    base_url: Callable[[], str]
    client_of: ClientOf = DIRECT
    body_bytes_max: int = 1024 * 1024
    webhook_bytes_max: int = 3 * 1024 * 1024
    upload_bytes_max: int = 100 * 1024 * 1024
    request_seconds_max: float = 30.0
    isolation: str = "own"
