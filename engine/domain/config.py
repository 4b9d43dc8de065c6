"""A tenant's configuration: the snapshot that handlers decide with.

Owned by the tenant's actor (engine/domain/tenant.py), which is its only writer and replaces the whole
snapshot on each change; everybody else reads the snapshot of the moment. Never changed in place.
"""

from typing import Any
from zoneinfo import ZoneInfo

from msgspec import Struct

Json = dict[str, Any]


class Interval(Struct, frozen=True, kw_only=True):
    """A stretch of one local day in minutes from midnight, `end` exclusive, at most 1,440."""

    start: int
    end: int


class Week(Struct, frozen=True, kw_only=True):
    """Opening intervals by weekday, Monday first. `None` for the week means: always open."""

    days: tuple[tuple[Interval, ...], ...]


class Agent(Struct, frozen=True, kw_only=True):
    id: int
    name: str
    email: str
    role: str  # owner | admin | agent
    active: bool
    availability: str  # online | away | offline
    week: Week | None  # None: the tenant's
    capacity: int | None
    created_at: int
    updated_at: int


class Channel(Struct, frozen=True, kw_only=True):
    """`credentials` stays sealed here; only adapters open it, where they use it. `credentials_at` is when the
    present ones were given or renewed; it names them: two different ones never have the same.
    `credentials_expire_at`: None where they do not expire, or nobody has said when."""

    id: int
    platform: str
    name: str
    external_id: str
    credentials: bytes
    settings: Json
    status: str  # active | disabled | needs_attention
    status_note: str | None
    created_at: int
    updated_at: int
    credentials_at: int = 0
    credentials_expire_at: int | None = None


class Tag(Struct, frozen=True, kw_only=True):
    id: int
    name: str
    color: str
    created_at: int
    updated_at: int


class ReplyRule(Struct, frozen=True, kw_only=True):
    """`match` and `patterns` are for keywords: contains | exact | regex (RE2 syntax)."""

    id: int
    kind: str  # greeting | keyword | away
    name: str
    active: bool
    priority: int
    channel_ids: tuple[int, ...]
    match: str | None
    patterns: tuple[str, ...]
    reply: Json
    cooldown_seconds: int
    created_at: int
    updated_at: int


class AssignmentSettings(Struct, frozen=True, kw_only=True):
    """`mode`: manual | round_robin | least_loaded. Only agents who are online and, with
    `respect_work_hours`, at work are given conversations."""

    mode: str = "manual"
    respect_work_hours: bool = True
    reassign_on_reopen: bool = False


class ConversationSettings(Struct, frozen=True, kw_only=True):
    """A customer who writes again within `reopen_seconds` after resolution continues the old
    conversation; later, or after archiving, a new one begins."""

    reopen_seconds: int = 7 * 24 * 3600


class TenantConfig(Struct, frozen=True, kw_only=True):
    tenant_id: int
    slug: str
    name: str
    timezone: ZoneInfo
    agents: dict[int, Agent]
    channels: dict[int, Channel]
    tags: dict[int, Tag]
    rules: dict[int, ReplyRule]
    assignment: AssignmentSettings
    week: Week | None
    conversations: ConversationSettings
