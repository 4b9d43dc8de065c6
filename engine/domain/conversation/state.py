"""What one contact's actor remembers between messages, and how it grows and is bounded.

Rows handed to the store are copies: the actor goes on changing its own while they wait for their commit.
Lists and dicts inside a row are therefore never changed in place, always replaced.
"""

import copy
from typing import Any

from msgspec import Struct

from engine.domain.inbound import StatusChanged, StatusesReached
from engine.domain.resources import CustomerRef, MessageResource, customer_ref
from engine.domain.rows import ConversationRow, CustomerRow, MessageRow
from engine.ports import ContactSnapshot, TrackedMessage

RECENT_MAX = 128
"""Messages remembered by id. More than in_flight_max of the actor, so that whatever is not committed
yet is always resident; enough that a redelivery within minutes costs no query."""

BURST_MAX = 2048
BURST_MS = 2_000
"""Platforms tell time in seconds, so messages of the same second cannot be told apart from forgotten ones
by their time. During a burst all of the last two seconds are remembered, so that a hot conversation is not
slowed down by a look-up for each message."""

LOADED_MAX = 32
"""Messages loaded with an activation: a burst's redeliveries are recent, the rest is looked up."""

OLDER_MAX = 128
"""Conversations other than the newest that are remembered, the last used ones. More than in_flight_max of the
actor: what is changed by a bulk command and not committed yet must not be looked up as it was before."""

EARLY_MAX = 16
"""Statuses, edits and deletions that overtook their message, kept until it comes."""

FOREIGN_MAX = 16
FOREIGN_MS = 5 * 60 * 1000
"""A handle that seems to be another contact's is tried again only after this: each try costs a refused commit
and a reload, and with a person who came in by two doors every message would pay it."""

PLATFORM_SKEW_MS = 5 * 60 * 1000
"""How far a platform's clock may be ahead of ours when we bound what is not resident."""

OPEN_STATUSES = frozenset({"new", "open", "pending"})


class Tracked(Struct, kw_only=True, gc=False):
    """A message by its ids and its standing. `answer` is kept while its commit may be under way, so that
    a repeated client key gets the first answer without a query. `withdrawn`: it failed because the customer
    opted out, and a call may have been under way."""

    id: int
    conversation_id: int
    seq: int
    outbound: bool
    status: str
    author: str  # 'customer', 'user:<id>', 'bot', 'system'
    platform_id: str | None
    client_key: str | None
    platform_at: int
    sent_at: int | None = None
    delivered_at: int | None = None
    read_at: int | None = None
    failed_at: int | None = None
    edited_at: int | None = None
    deleted_at: int | None = None
    trace: str = ""
    answer: MessageResource | None = None
    withdrawn: bool = False


class Early(Struct, kw_only=True, frozen=True):
    """Something about a message that has not come yet: at most one status of each kind."""

    statuses: tuple[StatusChanged, ...] = ()
    deleted_at: int | None = None


class ContactState(Struct, kw_only=True):
    """One contact on one channel account.

    `moved_to`      another key owns this contact; everything is forwarded there.
    `handles`       what the contact is known by, with the name shown there.
    `shared`        other customers are shown as this one.
    `root`          whom the customer was merged into, as loaded.
    `foreign`       ids of the person that a commit was refused with, and when: another contact may own them.
    `conversation`  the newest, open or not; None before the first.
    `older`         other conversations that commands referred to.
    `complete`      the resident messages are all there are.
    `floor`         no message that is not resident has a platform time above this.
    `newest_at`     the latest platform time of a message that was resident.
    `marks`         the latest watermark of each status, for messages whose sending was not answered yet.
    """

    tenant_id: int
    channel_id: int
    key: str
    moved_to: str | None = None
    customer: CustomerRow | None = None
    handles: dict[str, str | None] = {}
    shared: bool = False
    root: CustomerRef | None = None
    foreign: dict[str, int] = {}
    conversation: ConversationRow | None = None
    older: dict[int, ConversationRow] = {}
    messages: dict[int, Tracked] = {}
    by_platform: dict[str, int] = {}
    client_keys: dict[tuple[int, str], int] = {}
    complete: bool = True
    floor: int = 0
    newest_at: int = 0
    early: dict[str, Early] = {}
    marks: dict[str, StatusesReached] = {}

    def track(self, message: Tracked) -> None:
        """Remembers a message, forgetting the oldest beyond RECENT_MAX that are not part of a burst.

        One that was looked up and is about to change comes in by this too: until its commit is durable, the
        next look-up would show it as it was.
        """
        self.messages[message.id] = message
        self.newest_at = max(self.newest_at, message.platform_at)
        if message.platform_id is not None:
            self.by_platform[message.platform_id] = message.id
        if message.client_key is not None:
            self.client_keys[message.conversation_id, message.client_key] = message.id
        while len(self.messages) > RECENT_MAX:
            oldest = next(iter(self.messages.values()))
            if len(self.messages) <= BURST_MAX and oldest.platform_at > self.newest_at - BURST_MS:
                break
            self._forget(oldest)

    def _forget(self, message: Tracked) -> None:
        del self.messages[message.id]
        if message.platform_id is not None:
            self.by_platform.pop(message.platform_id, None)
        if message.client_key is not None:
            self.client_keys.pop((message.conversation_id, message.client_key), None)
        self.complete = False
        self.floor = max(self.floor, message.platform_at)

    def wants_handle(self, key: str, now: int) -> bool:
        """Whether this id of the person is new and may be ours to keep."""
        refused_at = self.foreign.get(key)
        return key not in self.handles and (refused_at is None or now - refused_at >= FOREIGN_MS)

    def leave_handle(self, key: str, now: int) -> None:
        """A commit was refused with this new handle in it, perhaps for it."""
        self.foreign.pop(key, None)
        self.foreign[key] = now
        if len(self.foreign) > FOREIGN_MAX:
            del self.foreign[next(iter(self.foreign))]

    def learn_platform_id(self, message: Tracked, platform_id: str) -> None:
        """The platform has named a message of ours; a message that is sent again gets another name."""
        if message.platform_id is not None:
            self.by_platform.pop(message.platform_id, None)
        message.platform_id = platform_id
        self.by_platform[platform_id] = message.id

    def known(self, platform_id: str) -> Tracked | None:
        message_id = self.by_platform.get(platform_id)
        return self.messages.get(message_id) if message_id is not None else None

    def remember_early(self, platform_id: str, what: Early) -> None:
        self.early.pop(platform_id, None)
        self.early[platform_id] = what
        if len(self.early) > EARLY_MAX:
            del self.early[next(iter(self.early))]

    def resident(self, conversation_id: int) -> ConversationRow | None:
        """The conversation, if it is in memory."""
        if self.conversation is not None and self.conversation.id == conversation_id:
            return self.conversation
        row = self.older.pop(conversation_id, None)
        if row is not None:
            self.older[conversation_id] = row
        return row

    def owns(self, contact_key: str) -> bool:
        """Whether what was stored under this key is this contact's. A contact that has moved into this one
        has left it its key among its handles."""
        return contact_key == self.key or contact_key in self.handles

    def adopt(self, row: ConversationRow) -> ConversationRow:
        """Takes in a conversation that was looked up; what is written of it from now on is under our key."""
        if self.customer is not None:
            row.contact_key, row.customer_id = self.key, self.customer.id
        self.older.pop(row.id, None)
        self.older[row.id] = row
        if len(self.older) > OLDER_MAX:
            del self.older[next(iter(self.older))]
        return row

    def customer_ref(self) -> CustomerRef:
        assert self.customer is not None
        return customer_ref(self.customer)

    def has_open(self) -> bool:
        return self.conversation is not None and self.conversation.status in OPEN_STATUSES


def snapshot(row: Any) -> Any:
    """A copy of a row to hand to the store."""
    return copy.copy(row)


def from_snapshot(tenant_id: int, channel_id: int, key: str, found: ContactSnapshot | None) -> ContactState:
    """The state of an activation."""
    if found is None:
        return _fresh(tenant_id, channel_id, key)
    if found.contact_key != key:
        state = _fresh(tenant_id, channel_id, key)
        state.moved_to = found.contact_key
        return state
    state = _fresh(tenant_id, channel_id, key)
    state.customer = found.customer
    state.handles = {handle.external_id: handle.display for handle in found.handles}
    state.shared, state.root = found.shared, found.root
    state.conversation = found.conversation
    for message in reversed(found.messages):
        state.track(tracked(message))
    state.complete = found.complete
    if not found.complete and found.messages:
        # What is not resident was stored before the oldest resident one, and a platform's time is not
        # later than ours by more than the skew.
        state.floor = found.messages[-1].created_at + PLATFORM_SKEW_MS
    return state


def tracked_row(row: MessageRow) -> Tracked:
    """The tracked part of a full row."""
    author = row.sender_type if row.sender_type != "user" else f"user:{row.sender_id}"
    return Tracked(
        id=row.id,
        conversation_id=row.conversation_id,
        seq=row.seq,
        outbound=row.direction == "outbound",
        status=row.status,
        author=author,
        platform_id=row.platform_message_id,
        client_key=row.client_key,
        platform_at=row.platform_at or 0,
        sent_at=row.sent_at,
        delivered_at=row.delivered_at,
        read_at=row.read_at,
        failed_at=row.failed_at,
        edited_at=row.edited_at,
        deleted_at=row.deleted_at,
        trace=row.trace,
    )


def _fresh(tenant_id: int, channel_id: int, key: str) -> ContactState:
    return ContactState(tenant_id=tenant_id, channel_id=channel_id, key=key)


def tracked(message: TrackedMessage) -> Tracked:
    """A loaded message as it is remembered."""
    return Tracked(
        id=message.id,
        conversation_id=message.conversation_id,
        seq=message.seq,
        outbound=message.direction == "outbound",
        status=message.status,
        author=message.author,
        platform_id=message.platform_message_id,
        client_key=message.client_key,
        platform_at=message.platform_at or 0,
        sent_at=message.sent_at,
        delivered_at=message.delivered_at,
        read_at=message.read_at,
        failed_at=message.failed_at,
        edited_at=message.edited_at,
        deleted_at=message.deleted_at,
        trace=message.trace,
    )
