"""Rows: what handlers ask the store to make durable.

A handler returns these as `Effects.commit`; the writer turns all rows of a batch into one set-based
statement per type. They are the domain's side of the store's contract: column names are those of
storage/sql/tenant, times are milliseconds since the epoch, JSON columns hold plain objects or, where
named `…_json`, bytes that are encoded already.

Four kinds, told apart by the class they derive from:
    Insert   a new row; its key must not exist (a unique key that refuses it is a CommitConflict).
    Upsert   the whole row; the last one of a batch wins, so ten changes cost one.
    Patch    some columns of an existing row; None leaves a column alone, later ones of a batch win
             column by column. JSON columns are replaced, but MessagePatch.metadata is merged into
             the object that is there.
    Change   of rows that are found by more than their key: a statement for each, in the order given.
"""

from typing import Any

from msgspec import Struct

Json = dict[str, Any]


class Row(Struct, kw_only=True):
    """Base of all. `tenant_id` decides which database and which rows are visible."""

    tenant_id: int


class Insert(Row):
    pass


class Upsert(Row):
    pass


class Patch(Row):
    pass


class Change(Row):
    pass


# ------------------------------------------------------------------ configuration


class UserRow(Upsert):
    id: int
    name: str
    email: str
    role: str
    active: bool
    availability: str
    work_hours: Json | None
    capacity: int | None
    created_at: int
    updated_at: int


class ChannelRow(Upsert):
    id: int
    platform: str
    name: str
    external_id: str
    credentials: bytes
    settings: Json
    status: str
    status_note: str | None
    created_at: int
    updated_at: int
    credentials_at: int = 0
    credentials_expire_at: int | None = None


class TagRow(Upsert):
    id: int
    name: str
    color: str
    created_at: int
    updated_at: int


class ReplyRuleRow(Upsert):
    id: int
    kind: str
    name: str
    active: bool
    priority: int
    channel_ids: list[int]
    match: str | None
    patterns: list[str]
    reply: Json
    cooldown_seconds: int
    created_at: int
    updated_at: int


class SettingRow(Upsert):
    name: str
    value: Json
    updated_at: int


class ConfigDelete(Row):
    """Removes one row of a configuration table by id: users, channels, tags or automated_replies."""

    table: str
    id: int


# ------------------------------------------------------------------ people and conversations


class CustomerRow(Upsert):
    """`named_by_hand`: a person chose the name, and the platform's no longer counts. `merged_into` is the
    customer that this one is shown as, with a copy of its name and picture (`shown_…`), so that whoever shows
    a conversation needs this row alone. `link_version` says how new that is."""

    id: int
    name: str
    avatar_url: str | None
    email: str | None
    phone: str | None
    locale: str | None
    timezone: str | None
    attributes: Json
    source: str
    first_seen_at: int
    last_seen_at: int
    created_at: int
    named_by_hand: bool = False
    merged_into: int | None = None
    shown_name: str | None = None
    shown_avatar_url: str | None = None
    link_version: int = 0


class MergeRow(Upsert):
    """Goes to customer_merges: two customers were said to be one person. `settled`: the customers' own rows
    say so too."""

    id: int
    survivor_id: int
    merged_id: int
    by_user_id: int | None
    created_at: int
    undone_by_user_id: int | None = None
    undone_at: int | None = None
    settled: bool = False


class HandleRow(Insert):
    channel_id: int
    external_id: str
    contact_key: str
    customer_id: int
    platform: str
    display: str | None
    created_at: int
    moved_at: int | None = None


class ContactMove(Change):
    """Goes to customer_handles: all handles of one contact lead to another from now on, or to whom that one
    has moved itself."""

    channel_id: int
    from_key: str
    into_key: str
    at: int


class ConversationRow(Upsert):
    id: int
    channel_id: int
    platform: str
    contact_key: str
    customer_id: int
    channel_type: str
    status: str
    assigned_to: int | None
    department_id: int | None
    last_seq: int
    message_count: int
    unread_count: int
    last_message: Json | None
    last_message_at: int | None
    last_inbound_at: int | None
    first_response_at: int | None
    resolved_at: int | None
    reply_window_ends_at: int | None
    snoozed_until: int | None
    tag_ids: list[int]
    auto_replied: dict[str, int]
    metadata: Json
    created_at: int
    updated_at: int


class MessageRow(Insert):
    conversation_id: int
    seq: int
    id: int
    channel_id: int
    contact_key: str
    direction: str
    type: str
    sender_type: str
    sender_id: int | None
    sender_name: str | None
    content: Json
    text: str
    reply_to_id: int | None
    reply_to_seq: int | None
    status: str
    platform_message_id: str | None
    client_key: str | None
    platform_at: int | None
    sent_at: int | None
    delivered_at: int | None
    read_at: int | None
    failed_at: int | None
    error: Json | None
    edited_at: int | None
    deleted_at: int | None
    metadata: Json
    trace: str
    created_at: int


class MessagePatch(Patch):
    """`clear_failure` empties failed_at and error (a retry); it applies before the other columns."""

    id: int
    type: str | None = None
    content: Json | None = None
    text: str | None = None
    status: str | None = None
    platform_message_id: str | None = None
    sent_at: int | None = None
    delivered_at: int | None = None
    read_at: int | None = None
    failed_at: int | None = None
    error: Json | None = None
    edited_at: int | None = None
    deleted_at: int | None = None
    metadata: Json | None = None
    clear_failure: bool = False


class AttachmentRow(Insert):
    id: int
    conversation_id: int
    message_id: int
    channel_id: int
    contact_key: str
    type: str
    state: str
    source_id: str | None
    source_url: str | None
    sha256: str | None
    filename: str | None
    media_type: str | None
    size: int | None
    width: int | None
    height: int | None
    duration: float | None
    storage_key: str | None
    attempts: int
    next_try_at: int | None
    error: str | None
    created_at: int


class AttachmentPatch(Patch):
    id: int
    state: str | None = None
    sha256: str | None = None
    media_type: str | None = None
    size: int | None = None
    storage_key: str | None = None
    attempts: int | None = None
    next_try_at: int | None = None
    error: str | None = None


class StatusRow(Insert):
    """`message_id` is None for a status whose message is not known (yet)."""

    id: int
    message_id: int | None
    platform_message_id: str
    status: str
    code: str | None
    detail: Json | None
    at: int
    received_at: int


class OutboxRow(Insert):
    id: int
    channel_id: int
    conversation_id: int
    contact_key: str
    message_id: int | None
    recipient: str
    lane: int
    state: str
    attempts: int
    not_before: int
    payload: Json
    error: Json | None
    trace: str
    created_at: int
    updated_at: int


class OutboxPatch(Patch):
    id: int
    updated_at: int
    state: str | None = None
    attempts: int | None = None
    not_before: int | None = None
    error: Json | None = None
    payload: Json | None = None


class NoteRow(Upsert):
    id: int
    conversation_id: int
    user_id: int
    user_name: str
    body: str
    created_at: int
    updated_at: int
    deleted_at: int | None


class TagHistoryRow(Insert):
    """Goes to conversation_tags."""

    id: int
    conversation_id: int
    tag_id: int
    action: str
    by_user_id: int | None
    at: int


class AssignmentRow(Insert):
    id: int
    conversation_id: int
    kind: str
    from_user_id: int | None
    to_user_id: int | None
    by_user_id: int | None
    note: str | None
    at: int


class TimerRow(Upsert):
    id: int
    kind: str
    channel_id: int
    contact_key: str
    conversation_id: int
    due_at: int


class ChannelCursorRow(Upsert):
    """How far an account was read by a service of its adapter. `value` is that adapter's text."""

    channel_id: int
    value: str
    updated_at: int


class TimerDone(Row):
    """Removes a timer: it fired, in the same commit as what it caused, or is no longer wanted."""

    id: int


# ------------------------------------------------------------------ logs


class DeliveryRow(Insert):
    id: int
    platform: str
    channel_id: int | None
    headers: Json
    body: bytes
    outcome: str
    items: int
    trace: str
    received_at: int
    storage_key: str | None = None  # where the object store has the body, which is then empty here


class EventRow(Insert):
    """One entry of the tenant's event log. The writer gives it its cursor, in commit order.

    `local` never leaves the process: what in-process listeners want beside the JSON (for
    `config.changed`, the new TenantConfig).
    """

    name: str
    channels: tuple[str, ...]
    data_json: bytes
    trace: str
    at: int
    local: Any = None


class DeadLetterRow(Insert):
    id: int
    address: str
    message: Any
    error: str
    attempts: int
    state: str
    trace: str
    created_at: int


class AuditRow(Insert):
    id: int
    user_id: int | None
    action: str
    subject: str
    before: Json | None
    after: Json | None
    trace: str
    at: int


class FileRow(Insert):
    id: int
    filename: str
    media_type: str
    size: int
    sha256: str
    storage_key: str
    user_id: int
    created_at: int
