"""Ports: what the engine needs from the outside, as Protocols. storage and adapters supply them,
gateway/boot puts them together.

All methods may raise StoreUnavailable; a cancelled call has no effect that matters.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Protocol, runtime_checkable

from msgspec import Struct

from engine.domain.config import TenantConfig
from engine.domain.inbound import InboundEvent, RoutedEvent
from engine.domain.outbound import OutboxItem
from engine.domain.resources import CustomerRef
from engine.domain.rows import (
    AttachmentRow,
    ConversationRow,
    CustomerRow,
    HandleRow,
    MergeRow,
    TimerRow,
)

# ------------------------------------------------------------------ loading actors


class TrackedMessage(Struct, kw_only=True):
    """The part of a stored message that a conversation decides with."""

    id: int
    conversation_id: int
    seq: int
    direction: str
    status: str
    author: str  # customer | user:<id> | bot | system
    platform_message_id: str | None
    client_key: str | None
    platform_at: int | None
    sent_at: int | None
    delivered_at: int | None
    read_at: int | None
    failed_at: int | None
    edited_at: int | None
    deleted_at: int | None
    created_at: int
    trace: str = ""  # of what caused the message: its later statuses are told beside it


class ContactSnapshot(Struct, kw_only=True):
    """All that an actor of one contact on one channel account needs to decide.

    `conversation` is the newest one (open or not); `messages` are its and its predecessors' newest,
    newest first, at most `recent_max`; `complete` says that there are no older ones. `shared`: others were
    merged into the customer; `root`: the one that he was merged into.
    """

    customer: CustomerRow
    handles: tuple[HandleRow, ...]
    contact_key: str
    conversation: ConversationRow | None
    messages: tuple[TrackedMessage, ...]
    complete: bool
    shared: bool = False
    root: CustomerRef | None = None


class ContactRequest(Struct, frozen=True, kw_only=True):
    """`keys`: every external id known for the contact; the first is the key of the asking actor."""

    tenant_id: int
    channel_id: int
    keys: tuple[str, ...]


class MessageQuery(Struct, frozen=True, kw_only=True):
    """Finds one stored message of a channel by exactly one of the three. Found: a FoundMessage."""

    tenant_id: int
    channel_id: int
    platform_message_id: str | None = None
    message_id: int | None = None
    client_key: tuple[int, str] | None = None  # (conversation id, key)


class ConversationQuery(Struct, frozen=True, kw_only=True):
    """Finds a conversation that is not resident. Found: ConversationRow | None."""

    tenant_id: int
    conversation_id: int


class TrackedQuery(Struct, frozen=True, kw_only=True):
    """Our messages to one contact in these statuses, the newest `limit`; `named`: only those that have a
    platform id. Found: FoundTracked."""

    tenant_id: int
    channel_id: int
    contact_key: str
    statuses: tuple[str, ...]
    limit: int
    named: bool = True


class FoundTracked(Struct, frozen=True, kw_only=True):
    messages: tuple[TrackedMessage, ...] = ()


StoreQuery = MessageQuery | ConversationQuery | TrackedQuery


class FoundMessage(Struct, kw_only=True):
    """`message` None: there is none. With the message's attachments and last outbox item's payload."""

    message: Any | None  # MessageRow
    attachments: tuple[AttachmentRow, ...] = ()
    outbox: OutboxItem | None = None


class ConversationStore(Protocol):
    async def load_contacts(
        self, requests: Sequence[ContactRequest], *, recent_max: int
    ) -> Sequence[ContactSnapshot | None]:
        """One query per database for all of them. None: nobody is known by any of the keys. The
        snapshot's contact_key may differ from the asked key: then that actor owns the contact."""
        ...

    async def find(self, queries: Sequence[StoreQuery]) -> Sequence[object]:
        """Answers lookups, batched, in the order asked: FoundMessage, FoundTracked or
        ConversationRow | None."""
        ...


class Member(Struct, kw_only=True):
    """One customer of a person: `merge` is what makes him part of it (None: the one who survives), `place`
    his contact, (channel id, contact key). Without a place he was made by hand."""

    customer: CustomerRow
    merge: MergeRow | None
    place: tuple[int, str] | None


class Person(Struct, kw_only=True):
    """All customers that were merged into the one with `root_id`, and that one."""

    root_id: int
    members: tuple[Member, ...]

    def member(self, customer_id: int) -> Member:
        return next(each for each in self.members if each.customer.id == customer_id)

    @property
    def root(self) -> CustomerRow:
        return self.member(self.root_id).customer

    def below(self, customer_id: int) -> tuple[Member, ...]:
        """This customer, and those who are part of the person by him."""
        found = {customer_id}
        while True:
            more = {
                each.customer.id
                for each in self.members
                if each.merge is not None and each.merge.survivor_id in found
            }
            if more <= found:
                return tuple(each for each in self.members if each.customer.id in found)
            found |= more


class PersonsQuery(Struct, frozen=True, kw_only=True):
    """The persons that these customers are part of by the merges that stand. Found: a Person for each, None
    where there is no such customer."""

    tenant_id: int
    customer_ids: tuple[int, ...]


class UnsettledQuery(Struct, frozen=True, kw_only=True):
    """Merges, made or undone, that the customers' own rows may not show yet, oldest first. Found:
    MergeRows."""

    tenant_id: int
    limit: int


PeopleQuery = PersonsQuery | UnsettledQuery


class CustomerStore(Protocol):
    async def find_people(self, queries: Sequence[PeopleQuery]) -> Sequence[tuple[Any, ...]]:
        """The answers in the order asked."""
        ...


class WaitingConversation(Struct, frozen=True, kw_only=True):
    conversation_id: int
    channel_id: int
    contact_key: str


class AssignmentSnapshot(Struct, frozen=True, kw_only=True):
    """Open conversations by agent, who was last given one from the pool, and who still waits
    (oldest first, at most `waiting_max`; `more` says that there are others)."""

    loads: dict[int, int]
    last_user_id: int | None
    waiting: tuple[WaitingConversation, ...]
    more: bool


class TenantStore(Protocol):
    async def load_config(self, tenant_id: int) -> TenantConfig: ...
    async def load_assignment(self, tenant_id: int, *, waiting_max: int) -> AssignmentSnapshot: ...
    async def load_timers(self, tenant_id: int, *, due_before: int, limit: int) -> Sequence[TimerRow]: ...


class OutboxStore(Protocol):
    """The channel actors' and media fetchers' durable queues (written through the committer)."""

    async def load_outbox(
        self, tenant_id: int, channel_id: int, *, after_id: int, limit: int
    ) -> Sequence[OutboxItem]:
        """Open items (queued, sending, unknown) with id > after_id, in id order."""
        ...

    async def load_pending_media(
        self, tenant_id: int, *, after_id: int, limit: int
    ) -> Sequence[AttachmentRow]: ...

    async def open_work(self, tenant_id: int) -> "OpenWork":
        """What must be woken after a start: channels with open items, media, timers, waiting, merges."""
        ...


class CursorStore(Protocol):
    """How far accounts were read by services of their adapters (written through the committer)."""

    async def load_cursor(self, tenant_id: int, channel_id: int) -> str | None: ...


class OpenWork(Struct, frozen=True, kw_only=True):
    channel_ids: tuple[int, ...]
    media: bool
    timers: bool
    waiting: bool
    merges: bool = False


# ------------------------------------------------------------------ the event log


class LoggedEvent(Struct, frozen=True, kw_only=True):
    """A committed event. `data` is its JSON as bytes, encoded once."""

    tenant_id: int
    cursor: int
    name: str
    channels: tuple[str, ...]
    data: bytes
    trace: str
    at: int
    local: Any = None


class EventSink(Protocol):
    def committed(self, events: Sequence[LoggedEvent]) -> None:
        """Called in the trio thread once per committed batch, after the commit and before any reply
        is released; per tenant in cursor order without holes. Must not block."""
        ...


class EventLog(Protocol):
    async def head(self, tenant_id: int) -> int:
        """The cursor of the last committed event; 0 before the first."""
        ...

    async def oldest(self, tenant_id: int) -> int:
        """The smallest cursor still held (head + 1 when none is)."""
        ...

    async def read(
        self, tenant_id: int, *, after: int, limit: int, channels: Sequence[str] | None = None
    ) -> Sequence[LoggedEvent]: ...


# ------------------------------------------------------------------ adapters


class Endpoint(Struct, frozen=True, kw_only=True):
    """A connected account as the edge sees it. `secrets` are opened credentials, never logged."""

    platform: str
    external_id: str
    parent_id: str | None
    tenant_id: int
    channel_id: int
    endpoint_key: str
    secrets: dict[str, str]


class WebhookRequest(Struct, frozen=True, kw_only=True):
    """A webhook as it came, knowing nothing of any web framework. Header names are lower-case.

    `path` is decoded, `raw_path` as it was written where the two differ. `public_url` is how the outside
    reaches us, if the operator has said so.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes
    raw_path: str | None = None
    public_url: str | None = None

    def urls(self, configured: str | None = None) -> list[str]:
        """The addresses that the platform may have called, for those that sign theirs; the likeliest first.

        From the address that the account was given (`configured`), else from the operator's public URL, else
        from the Host header, where nobody knows the scheme. X-Forwarded headers are anybody's and not
        looked at. Each comes also with the standard port and without one: platforms differ in which they
        sign.
        """
        query = f"?{self.query}" if self.query else ""
        target = (self.raw_path or self.path) + query
        if configured is not None:
            bases = [configured + query]
        elif self.public_url is not None:
            bases = [self.public_url + target]
        else:
            host = self.headers.get("host", "")
            bases = [f"https://{host}{target}", f"http://{host}{target}"] if host else []
        return [url for base in bases for url in _with_and_without_port(base)]


def _with_and_without_port(url: str) -> tuple[str, ...]:
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    name, colon, port = host.rpartition(":")
    if colon and port.isdecimal():
        return url, f"{scheme}://{name}{slash}{path}"
    return url, f"{scheme}://{host}:{443 if scheme == 'https' else 80}{slash}{path}"


class Acknowledgement(Struct, frozen=True, kw_only=True):
    """How a platform wants to hear that a delivery was taken."""

    status: int = 200
    content_type: str
    body: bytes


NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})


class Receiver(Protocol):
    """The inbound half of an adapter: pure functions over bytes. One instance per platform. `aliases` are
    other spellings of the platform in webhook addresses."""

    platform: str
    aliases: tuple[str, ...]

    def is_handshake(self, request: WebhookRequest) -> bool:
        """Whether a request is the platform's handshake (for most: a GET) and no delivery. Cheap."""
        ...

    def challenge(self, request: WebhookRequest, endpoints: Sequence[Endpoint]) -> bytes | None:
        """The body that answers the platform's handshake; None refuses it (403)."""
        ...

    def account_hint(self, body: bytes) -> str | None:
        """The account that the delivery seems to be for, by a look at its bytes; None when that is not plain.
        Unproven and perhaps wrong: good for refusing under overload, never for believing."""
        ...

    def verify(self, request: WebhookRequest, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
        """Of the candidates, those whose secret signed these bytes (constant time); empty refuses."""
        ...

    def parse(self, body: bytes, headers: Mapping[str, str] = NO_HEADERS) -> Sequence[RoutedEvent]:
        """Everything in the delivery; `headers` (lower-case names) for platforms whose bodies need them, such
        as a multipart boundary. Raises InvalidInput when it is not what the platform sends; never anything
        else, whatever the bytes."""
        ...


@runtime_checkable
class ReadsAddresses(Protocol):
    """What a Receiver may have beside: its deliveries' addresses are part of what they say (such as our own
    id in the address of a callback). It is asked in place of `parse`, with the same promises."""

    def parse_request(self, request: WebhookRequest) -> Sequence[RoutedEvent]: ...


@runtime_checkable
class Acknowledges(Protocol):
    """What a Receiver may have beside: its platform does not take our JSON for an answer."""

    acknowledgement: Acknowledgement


@runtime_checkable
class Recogniser(Protocol):
    """A Receiver that can say more of an event once it is known whose it is: what is signed with the
    account's own secrets, such as the references in a mail."""

    def recognise(self, event: InboundEvent, endpoint: Endpoint) -> InboundEvent:
        """The event as the account sees it that it is for. Pure; raises nothing."""
        ...


class MediaFile(Struct, frozen=True, kw_only=True):
    storage_key: str
    size: int
    sha256: str
    media_type: str


CHUNK_BYTES: Final = 256 * 1024
"""So that hashing one holds the loop for a fraction of a millisecond."""


def chunks_of(content: bytes) -> Callable[[], Awaitable[bytes]]:
    """Bytes that are here already, as `MediaStore.write` takes them."""
    pieces = (content[at : at + CHUNK_BYTES] for at in range(0, len(content), CHUNK_BYTES))

    async def chunk() -> bytes:
        return next(pieces, b"")

    return chunk


class OpenFile(Struct, frozen=True, kw_only=True):
    """A file that is being read. `chunk` gives its next bytes, b"" at the end, and raises Unavailable."""

    size: int
    chunk: Callable[[], Awaitable[bytes]]


class MediaStore(Protocol):
    async def write(
        self, key: str, chunks: Callable[[], Awaitable[bytes]], *, media_type: str, bytes_max: int
    ) -> MediaFile:
        """Stores what `chunks` yields until b"". Raises InvalidInput code too_large over the limit;
        what fails or is cancelled leaves nothing visible under the key."""
        ...

    async def read(self, key: str) -> bytes: ...
    async def delete(self, key: str) -> None: ...
