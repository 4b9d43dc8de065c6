"""The read side: what the API reads, as a Protocol that storage supplies.

Reads see committed data only. Lists are keyset pages: `cursor` is opaque text from the page before
(a cursor that was not given out raises InvalidInput), `limit` is at most 100. What belongs to another
tenant is not there. All methods may raise StoreUnavailable.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

from msgspec import Struct

from engine.domain.resources import (
    ConversationResource,
    CustomerResource,
    HandleRef,
    MessageResource,
    SignUrl,
)
from engine.domain.rows import AssignmentRow, AttachmentRow, FileRow, MergeRow, NoteRow

T = TypeVar("T")


class Page(Struct, Generic[T], frozen=True, kw_only=True):
    items: Sequence[T]
    next_cursor: str | None


class ConversationFilter(Struct, frozen=True, kw_only=True):
    """All given members must hold. `assigned_to`: a user id, 0 for nobody. Times in milliseconds,
    by last message. `visible_to`: only what this agent may see (their own and unassigned ones).
    `search` looks in customers' names, phones, e-mails and in message texts."""

    status: tuple[str, ...] = ()
    platform: str | None = None
    channel_id: int | None = None
    assigned_to: int | None = None
    unread: bool | None = None
    tag_id: int | None = None
    search: str | None = None
    since: int | None = None
    until: int | None = None
    visible_to: int | None = None


class ConversationPlace(Struct, frozen=True, kw_only=True):
    """Where a conversation's actor is, and what the rights checks need. `answered`: by a person, at any
    time."""

    conversation_id: int
    channel_id: int
    contact_key: str
    assigned_to: int | None
    status: str
    answered: bool = False


class MessagePlace(Struct, frozen=True, kw_only=True):
    message_id: int
    conversation: ConversationPlace


class Reads(Protocol):
    async def conversations(
        self, tenant_id: int, where: ConversationFilter, *, limit: int, cursor: str | None
    ) -> Page[ConversationResource]:
        """Newest activity first (last_message_at, then id)."""
        ...

    async def conversation(self, tenant_id: int, conversation_id: int) -> ConversationResource | None: ...

    async def conversation_statistics(
        self, tenant_id: int, *, visible_to: int | None = None
    ) -> dict[str, Any]:
        """{"total", "unread", "unassigned", "by_status": {…}, "by_platform": {…}}"""
        ...

    async def place(self, tenant_id: int, conversation_id: int) -> ConversationPlace | None: ...

    async def places(self, tenant_id: int, ids: Sequence[int]) -> Sequence[ConversationPlace]: ...

    async def message_place(self, tenant_id: int, message_id: int) -> MessagePlace | None: ...

    async def messages(
        self,
        tenant_id: int,
        conversation_id: int,
        *,
        limit: int,
        cursor: str | None,
        sign: SignUrl,
        after_seq: int | None = None,
    ) -> Page[MessageResource]:
        """Newest first; with `after_seq`, those after it, oldest first."""
        ...

    async def message(self, tenant_id: int, message_id: int, *, sign: SignUrl) -> MessageResource | None: ...

    async def notes(
        self, tenant_id: int, conversation_id: int, *, limit: int, cursor: str | None
    ) -> Page[NoteRow]: ...

    async def note(self, tenant_id: int, conversation_id: int, note_id: int) -> NoteRow | None: ...

    async def transfers(
        self, tenant_id: int, conversation_id: int, *, limit: int, cursor: str | None
    ) -> Page[AssignmentRow]:
        """The whole history of assignments and transfers, newest first."""
        ...

    async def attachment(self, tenant_id: int, attachment_id: int) -> AttachmentRow | None: ...

    async def file(self, tenant_id: int, file_id: int) -> FileRow | None: ...

    def export_conversations(
        self, tenant_id: int, where: ConversationFilter
    ) -> AsyncIterator[ConversationResource]:
        """All that match, by a keyset walk in pages; at most 100,000."""
        ...

    # ------------------------------------------------------------- idempotency keys

    async def claim_key(self, tenant_id: int, user_id: int, key: str, request: bytes, now: int) -> "KeyClaim":
        """Atomically claims (user, key) for 24 h. `request` is the SHA-256 of method, path and body."""
        ...

    async def keep_answer(
        self, tenant_id: int, user_id: int, key: str, status: int, answer: bytes
    ) -> None: ...

    async def release_key(self, tenant_id: int, user_id: int, key: str) -> None:
        """The call failed without effect (5xx, 429): the next one may try again."""
        ...


class ConversationCounts(Struct, frozen=True, kw_only=True):
    total: int
    open: int
    unread: int


class Profile(Struct, frozen=True, kw_only=True):
    """A person: the customer who survived, those who were merged into him, and what is of any of them: all
    handles, the newest conversations and how many there are."""

    customer: CustomerResource
    members: Sequence[CustomerResource]
    handles: Sequence[HandleRef]
    conversations: Sequence[ConversationResource]
    counts: ConversationCounts


class Candidate(Struct, frozen=True, kw_only=True):
    """Perhaps the same person. `reasons`: phone, phone_variant (another way to write the same number),
    email."""

    customer: CustomerResource
    reasons: Sequence[str]


class CustomerReads(Protocol):
    """Customers as the API reads them, with the promises of Reads."""

    async def customers(
        self, tenant_id: int, *, search: str | None, limit: int, cursor: str | None
    ) -> Page[CustomerResource]:
        """Persons, newest first. `search` looks in names, phones and e-mails of all their customers."""
        ...

    async def customer(self, tenant_id: int, customer_id: int) -> CustomerResource | None:
        """Also one that was merged into another."""
        ...

    async def profile(self, tenant_id: int, customer_id: int, *, visible_to: int | None) -> Profile | None:
        """Of the person that the customer is part of. `visible_to`: only conversations that this agent may
        see."""
        ...

    async def candidates(self, tenant_id: int, customer_id: int) -> Sequence[Candidate] | None:
        """Other persons who share a telephone number or an e-mail address with this one, at most 20."""
        ...

    async def merges(
        self, tenant_id: int, *, customer_id: int | None, limit: int, cursor: str | None
    ) -> Page[MergeRow]:
        """Newest first, with those that were undone."""
        ...


class KeyClaim(Struct, frozen=True, kw_only=True):
    """`state`: claimed (go on) | answered (send `status`, `answer`) | reused (other request: 409) |
    running (the first call has not ended: 409, retryable)."""

    state: str
    status: int | None = None
    answer: bytes | None = None


# ------------------------------------------------------------------ landlord


class Tenant(Struct, frozen=True, kw_only=True):
    id: int
    slug: str
    name: str
    status: str  # active | suspended
    locale: str
    timezone: str
    database: str
    isolation: str  # own | pooled
    placement_state: str
    created_at: int


class Login(Struct, frozen=True, kw_only=True):
    id: int
    email: str
    name: str
    password_hash: str
    active: bool
    landlord: bool
    tenant_ids: tuple[int, ...]
    created_at: int


class Token(Struct, frozen=True, kw_only=True):
    id: int
    user_id: int
    tenant_id: int | None
    name: str
    secret_hash: bytes
    abilities: tuple[str, ...]
    expires_at: int | None
    last_used_at: int | None
    revoked_at: int | None
    created_at: int


class DirectoryEntry(Struct, frozen=True, kw_only=True):
    platform: str
    external_id: str
    tenant_id: int
    channel_id: int
    endpoint_key: str
    parent_id: str | None
    credentials: bytes
    created_at: int
    credentials_at: int = 0
    credentials_expire_at: int | None = None


class PushApp(Struct, frozen=True, kw_only=True):
    """A tenant's app for Pusher's protocol. `secret` is sealed."""

    tenant_id: int
    key: str
    secret: bytes
    created_at: int


class Landlord(Protocol):
    """The landlord database. Small and rarely written: each call is its own transaction."""

    async def tenants(self, *, limit: int, cursor: str | None) -> Page[Tenant]: ...
    async def all_tenants(self) -> Sequence[Tenant]: ...
    async def tenant(self, slug: str) -> Tenant | None: ...

    async def create_tenant(
        self, *, tenant_id: int, slug: str, name: str, locale: str, timezone: str, isolation: str, now: int
    ) -> Tenant:
        """Places it, creates and migrates its database, and only then makes it ready. Repeating the
        call for a slug whose placement is still 'creating' finishes it. Conflicting: slug is taken."""
        ...

    async def set_tenant_status(self, tenant_id: int, status: str, now: int) -> None: ...

    async def login_by_email(self, email: str) -> Login | None: ...
    async def login(self, user_id: int) -> Login | None: ...

    async def create_login(
        self, *, user_id: int, email: str, name: str, password_hash: str, landlord: bool, now: int
    ) -> Login:
        """Conflicting: the e-mail is in use."""
        ...

    async def update_login(
        self,
        user_id: int,
        *,
        name: str | None = None,
        email: str | None = None,
        password_hash: str | None = None,
        active: bool | None = None,
        now: int,
    ) -> None: ...

    async def add_membership(self, user_id: int, tenant_id: int, now: int) -> None: ...
    async def remove_membership(self, user_id: int, tenant_id: int) -> None: ...

    async def create_token(self, token: Token) -> None: ...
    async def token(self, token_id: int) -> Token | None: ...
    async def tokens_of(self, user_id: int, *, limit: int, cursor: str | None) -> Page[Token]: ...
    async def touch_token(self, token_id: int, now: int) -> None: ...
    async def revoke_token(self, token_id: int, now: int) -> None: ...
    async def revoke_tokens_of(self, user_id: int, tenant_id: int | None, now: int) -> Sequence[int]: ...

    async def directory(self) -> Sequence[DirectoryEntry]: ...

    async def directory_entry(self, platform: str, external_id: str) -> DirectoryEntry | None: ...

    async def add_directory(self, entry: DirectoryEntry) -> None:
        """Conflicting: the account is connected already (by whom is not said)."""
        ...

    async def update_directory(self, entry: DirectoryEntry) -> None:
        """Its credentials, their times and its parent. Raises NotFound."""
        ...

    async def remove_directory(self, platform: str, external_id: str, tenant_id: int) -> None: ...

    async def push_apps(self) -> Sequence[PushApp]: ...

    async def add_push_app(self, app: PushApp) -> PushApp:
        """Returns the tenant's app: this one, or the one it had already."""
        ...

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

    async def audit(
        self,
        *,
        audit_id: int,
        user_id: int | None,
        action: str,
        subject: str,
        after: Any,
        trace: str,
        now: int,
    ) -> None: ...
