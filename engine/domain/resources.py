"""The public resources: what the API answers and events carry. One builder per resource, used by both,
so that events folded into an old answer equal a fresh answer.

Times leave as RFC 3339 UTC with milliseconds, ids as integers.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

import msgspec
from msgspec import Struct, structs

from engine.domain.config import Channel, TenantConfig
from engine.domain.platforms import rules_of
from engine.domain.rows import CustomerRow, NoteRow

Json = dict[str, Any]

OPTED_OUT: Final = "opted_out_at"
"""In a conversation's metadata: since when (ms) the contact wants no messages on this channel."""
UNDELIVERABLE: Final = "undeliverable"
"""And since when, and why, what is sent there comes back (engine/domain/conversation/consent.py)."""
THREAD_KEY: Final = "thread"
AUTOMATIC_KEY: Final = "automatic_answers"
JOIN_KEY: Final = "joining"
"""Members of a conversation's metadata that are ours alone (engine/domain/conversation/threads.py and
joining.py)."""


def rfc3339(ms: int | None) -> str | None:
    """Milliseconds since the epoch as `2026-01-31T12:00:00.000Z`."""
    if ms is None:
        return None
    seconds, rest = divmod(ms, 1000)
    return f"{_second(seconds)}{rest:03d}Z"


@lru_cache(maxsize=4096)
def _second(seconds: int) -> str:
    """Most times of a busy hour fall into a few thousand seconds; formatting one costs 5 µs."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.")


class CustomerRef(Struct, frozen=True, kw_only=True):
    """Who somebody is. `merged_id`: the customer that was merged into this one, where the conversation is
    that customer's; it tells which conversations change when the merge is undone."""

    id: int
    name: str
    avatar_url: str | None = None
    merged_id: int | None = None


class HandleRef(Struct, frozen=True, kw_only=True):
    """One of the names by which a customer is found on a channel."""

    platform: str
    channel_id: int
    external_id: str
    display: str | None


class CustomerResource(Struct, frozen=True, kw_only=True):
    """A customer as he is kept; `merged_into` is whom he is shown as. `last_seen_at` is coarse and not
    pushed."""

    id: int
    name: str
    avatar_url: str | None
    email: str | None
    phone: str | None
    handles: tuple[HandleRef, ...]
    locale: str | None
    timezone: str | None
    attributes: Json
    groups: tuple[int, ...]
    source: str
    merged_into: CustomerRef | None
    first_seen_at: str
    last_seen_at: str
    created_at: str


class ChannelRef(Struct, frozen=True, kw_only=True):
    id: int
    platform: str
    name: str


class UserRef(Struct, frozen=True, kw_only=True):
    id: int
    name: str


class TagRef(Struct, frozen=True, kw_only=True):
    id: int
    name: str
    color: str


class LastMessage(Struct, frozen=True, kw_only=True):
    seq: int
    direction: str
    type: str
    preview: str
    at: str


class ReplyWindow(Struct, frozen=True, kw_only=True):
    """`reason` is None while open, else `expired` or `no_customer_message`. Platforms without a
    window are always open with `ends_at` None. `human_ends_at`: until then a person may answer although the
    window is closed, where the platform allows it and the account has the permission."""

    open: bool
    ends_at: str | None
    reason: str | None
    human_ends_at: str | None = None


class Undeliverable(Struct, frozen=True, kw_only=True):
    """Since when nothing sent to the customer here arrives, and what the platform said."""

    at: str
    platform_code: str
    message: str


class ConversationResource(Struct, frozen=True, kw_only=True):
    id: int
    customer: CustomerRef
    channel: ChannelRef
    platform: str
    channel_type: str
    status: str
    assigned_to: UserRef | None
    department_id: int | None
    last_message: LastMessage | None
    last_message_at: str | None
    first_response_at: str | None
    resolved_at: str | None
    snoozed_until: str | None
    message_count: int
    unread_count: int
    last_seq: int
    reply_window: ReplyWindow
    opted_out_at: str | None
    undeliverable: Undeliverable | None
    sla: None
    tags: tuple[TagRef, ...]
    metadata: Json
    created_at: str
    updated_at: str


class AttachmentResource(Struct, frozen=True, kw_only=True):
    id: int
    type: str
    state: str
    url: str | None
    filename: str | None
    media_type: str | None
    size: int | None
    width: int | None
    height: int | None
    duration: float | None


class SenderRef(Struct, frozen=True, kw_only=True):
    type: str
    id: int | None
    name: str | None


class ReplyRef(Struct, frozen=True, kw_only=True):
    id: int
    seq: int


class MessageError(Struct, frozen=True, kw_only=True):
    code: str
    platform_code: str | None
    message: str
    retryable: bool


class MessageResource(Struct, frozen=True, kw_only=True):
    id: int
    conversation_id: int
    seq: int
    direction: str
    sender: SenderRef
    type: str
    content: Json
    reply_to: ReplyRef | None
    attachments: tuple[AttachmentResource, ...]
    status: str
    sent_at: str | None
    delivered_at: str | None
    read_at: str | None
    failed_at: str | None
    error: MessageError | None
    platform_message_id: str | None
    client_key: str | None
    edited_at: str | None
    deleted_at: str | None
    metadata: Json
    trace: str
    created_at: str


SignUrl = Callable[[int, int], str]
"""(tenant id, attachment id) -> a signed, expiring URL."""


def window_is_open(platform: str, ends_at: int | None, now: int) -> bool:
    """Whether a free-form message may go out at `now`. Before the customer wrote (None) it may not."""
    return rules_of(platform).reply_window_ms is None or (ends_at is not None and now < ends_at)


def has_human_window(channel: Channel | None) -> bool:
    """Whether the account may use the platform's longer time for people's answers, where there is one."""
    return channel is not None and channel.settings.get("human_agent") is True


def human_window_ends_at(platform: str, ends_at: int | None) -> int | None:
    """Until when a person's answer may go out after the reply window `ends_at`; None where there is no such
    time. Whether the account has the platform's permission for it is the channel's setting."""
    rules = rules_of(platform)
    if ends_at is None or rules.human_window_ms is None or rules.reply_window_ms is None:
        return None
    return ends_at - rules.reply_window_ms + rules.human_window_ms


def reply_window(platform: str, ends_at: int | None, now: int, channel: Channel | None = None) -> ReplyWindow:
    """The window at `now`, as clients see it. `channel` is the account, whose settings may widen it."""
    if rules_of(platform).reply_window_ms is None:
        return ReplyWindow(open=True, ends_at=None, reason=None)
    if window_is_open(platform, ends_at, now):
        return ReplyWindow(
            open=True, ends_at=rfc3339(ends_at), reason=None, human_ends_at=_human(platform, ends_at, channel)
        )
    reason = "no_customer_message" if ends_at is None else "expired"
    return ReplyWindow(
        open=False,
        ends_at=rfc3339(ends_at),
        reason=reason,
        human_ends_at=_human(platform, ends_at, channel),
    )


def _human(platform: str, ends_at: int | None, channel: Channel | None) -> str | None:
    return rfc3339(human_window_ends_at(platform, ends_at)) if has_human_window(channel) else None


def conversation_resource(
    row: Any, customer: CustomerRef, config: TenantConfig, now: int
) -> ConversationResource:
    """From anything with the columns of `conversations` as attributes (a ConversationRow, a resident
    conversation, a database record behind an adapter) and the configuration for names."""
    channel = config.channels.get(row.channel_id)
    agent = config.agents.get(row.assigned_to) if row.assigned_to is not None else None
    last: Mapping[str, Any] | None = row.last_message
    assigned = None
    if row.assigned_to is not None:
        assigned = UserRef(id=row.assigned_to, name=agent.name if agent else "")
    return ConversationResource(
        id=row.id,
        customer=customer,
        channel=ChannelRef(id=row.channel_id, platform=row.platform, name=channel.name if channel else ""),
        platform=row.platform,
        channel_type=row.channel_type,
        status=row.status,
        assigned_to=assigned,
        department_id=row.department_id,
        last_message=LastMessage(
            seq=last["seq"],
            direction=last["direction"],
            type=last["type"],
            preview=last["preview"],
            at=rfc3339(last["at"]) or "",
        )
        if last
        else None,
        last_message_at=rfc3339(row.last_message_at),
        first_response_at=rfc3339(row.first_response_at),
        resolved_at=rfc3339(row.resolved_at),
        snoozed_until=rfc3339(row.snoozed_until),
        message_count=row.message_count,
        unread_count=row.unread_count,
        last_seq=row.last_seq,
        reply_window=reply_window(row.platform, row.reply_window_ends_at, now, channel),
        opted_out_at=rfc3339(row.metadata.get(OPTED_OUT)),
        undeliverable=_undeliverable(row.metadata.get(UNDELIVERABLE)),
        sla=None,
        tags=tag_refs(row.tag_ids, config),
        metadata=_shown(row.metadata),
        created_at=rfc3339(row.created_at) or "",
        updated_at=rfc3339(row.updated_at) or "",
    )


def _undeliverable(kept: Json | None) -> Undeliverable | None:
    if kept is None:
        return None
    at = rfc3339(kept["at"]) or ""
    return Undeliverable(at=at, platform_code=kept["platform_code"], message=kept["message"])


_HIDDEN = frozenset({THREAD_KEY, AUTOMATIC_KEY, UNDELIVERABLE, JOIN_KEY})


def _shown(metadata: Json) -> Json:
    """A conversation's metadata without what only we need, or show elsewhere."""
    if _HIDDEN.isdisjoint(metadata):
        return metadata
    return {name: value for name, value in metadata.items() if name not in _HIDDEN}


def customer_ref(row: CustomerRow) -> CustomerRef:
    """Whom conversations of this customer show."""
    if row.merged_into is None:
        return CustomerRef(id=row.id, name=row.name, avatar_url=row.avatar_url)
    return CustomerRef(
        id=row.merged_into,
        name=row.shown_name or row.name,
        avatar_url=row.shown_avatar_url,
        merged_id=row.id,
    )


def customer_resource(row: CustomerRow, handles: Iterable[HandleRef]) -> CustomerResource:
    """From the row and the handles of the customer himself, in any order."""
    into = customer_ref(row) if row.merged_into is not None else None
    return CustomerResource(
        id=row.id,
        name=row.name,
        avatar_url=row.avatar_url,
        email=row.email,
        phone=row.phone,
        handles=tuple(sorted(handles, key=lambda handle: (handle.channel_id, handle.external_id))),
        locale=row.locale,
        timezone=row.timezone,
        attributes=row.attributes,
        groups=(),
        source=row.source,
        merged_into=structs.replace(into, merged_id=None) if into is not None else None,
        first_seen_at=rfc3339(row.first_seen_at) or "",
        last_seen_at=rfc3339(row.last_seen_at) or "",
        created_at=rfc3339(row.created_at) or "",
    )


def tag_refs(tag_ids: Iterable[int], config: TenantConfig) -> tuple[TagRef, ...]:
    found = (config.tags.get(tag_id) for tag_id in tag_ids)
    return tuple(TagRef(id=tag.id, name=tag.name, color=tag.color) for tag in found if tag)


def attachment_resource(row: Any, sign: SignUrl | None) -> AttachmentResource:
    """Events carry no URL (`sign` None): a signed URL would expire in the log; clients ask for one."""
    url = sign(row.tenant_id, row.id) if sign is not None and row.state == "stored" else None
    return AttachmentResource(
        id=row.id,
        type=row.type,
        state=row.state,
        url=url,
        filename=row.filename,
        media_type=row.media_type,
        size=row.size,
        width=row.width,
        height=row.height,
        duration=row.duration,
    )


def message_resource(
    row: Any, attachments: Iterable[Any] = (), sign: SignUrl | None = None
) -> MessageResource:
    """From anything with the columns of `messages` as attributes and its attachments' rows."""
    reply_to = None
    if row.reply_to_id is not None:
        reply_to = ReplyRef(id=row.reply_to_id, seq=row.reply_to_seq)
    return MessageResource(
        id=row.id,
        conversation_id=row.conversation_id,
        seq=row.seq,
        direction=row.direction,
        sender=SenderRef(type=row.sender_type, id=row.sender_id, name=row.sender_name),
        type=row.type,
        content=row.content,
        reply_to=reply_to,
        attachments=tuple(attachment_resource(a, sign) for a in attachments),
        status=row.status,
        sent_at=rfc3339(row.sent_at),
        delivered_at=rfc3339(row.delivered_at),
        read_at=rfc3339(row.read_at),
        failed_at=rfc3339(row.failed_at),
        error=MessageError(**row.error) if row.error else None,
        platform_message_id=row.platform_message_id,
        client_key=row.client_key,
        edited_at=rfc3339(row.edited_at),
        deleted_at=rfc3339(row.deleted_at),
        metadata=row.metadata,
        trace=row.trace,
        created_at=rfc3339(row.created_at) or "",
    )


def note_resource(note: NoteRow) -> dict[str, object]:
    """A note as the API and events show it."""
    return {
        "id": note.id,
        "conversation_id": note.conversation_id,
        "user": {"id": note.user_id, "name": note.user_name},
        "body": note.body,
        "created_at": rfc3339(note.created_at),
        "updated_at": rfc3339(note.updated_at),
        "deleted_at": rfc3339(note.deleted_at),
    }


encode = msgspec.json.Encoder().encode
"""The one JSON encoder of resources and events."""
