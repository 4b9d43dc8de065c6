"""The tenant: the only writer of its configuration.

Owns       the TenantConfig snapshot: agents, channels, tags, automated replies, settings.
Limits     64 changes wait at most; at most 500 agents, 200 channels, 500 tags and 500 rules, because the
           whole snapshot stays in memory and is replaced on each change.
Promises   a change is validated against the present snapshot, committed with its audit row, and in force
           everywhere in this process before it is answered. A tenant always keeps an active owner.
Restart    the snapshot is read afresh.
"""

from collections.abc import Callable
from typing import Any, Final, assert_never

from msgspec import Struct, structs, to_builtins

from engine.domain.assigner.messages import Reconsider
from engine.domain.assigner.messages import address_of as assigner_of
from engine.domain.config import (
    Agent,
    Channel,
    ReplyRule,
    Tag,
    TenantConfig,
)
from engine.domain.conversation.messages import SYSTEM, By, Received
from engine.domain.outbox import Halt, Refresh, channel_address
from engine.domain.resources import encode, rfc3339
from engine.domain.rows import (
    AuditRow,
    ChannelRow,
    ConfigDelete,
    EventRow,
    Json,
    ReplyRuleRow,
    Row,
    SettingRow,
    TagRow,
    UserRow,
)
from engine.domain.tenant.messages import KIND, NeedAttention, Remove, Save, TenantCommand
from engine.errors import Conflicting, InvalidInput, MijraError, NotFound
from engine.ports import TenantStore
from engine.runtime import Context, Decider, Effects, LoadRequest, Tell

CONFIG_CHANGED: Final = "config.changed"
"""The event that carries a new snapshot to this process (`local`) and the news of it to others."""

CHANNEL_UPDATED: Final = "channel.updated"
"""The event that tells screens of a channel's other status."""

NUMBER_MAX: Final = {"agent": 500, "channel": 200, "tag": 500, "rule": 500}


class TenantState(Struct):
    config: TenantConfig


def decide(state: TenantState, message: TenantCommand, ctx: Context) -> Effects:
    try:
        match message:
            case Save():
                return _save(state, message, ctx)
            case Remove():
                return _remove(state, message, ctx)
            case NeedAttention():
                return _need_attention(state, message, ctx)
    except MijraError as refusal:
        # Raised before anything of the state was touched.
        return Effects(refuse=refusal)
    assert_never(message)


def tenants(store: TenantStore) -> Decider:
    async def load(requests: Any) -> list[TenantState | BaseException]:
        states: list[TenantState | BaseException] = []
        for request in requests:
            states.append(await _load_one(store, request))
        return states

    return Decider(
        kind=KIND,
        decide=decide,
        load=load,
        mailbox_max=64,
        idle_seconds_max=300.0,
        resident_max=10_000,
    )


async def _load_one(store: TenantStore, request: LoadRequest) -> TenantState:
    return TenantState(await store.load_config(request.address.tenant))


def _save(state: TenantState, message: Save, ctx: Context) -> Effects:
    config, values, now = state.config, message.values, ctx.now
    tells: list[Tell] = []
    told: tuple[Row, ...] = ()
    match message.kind:
        case "agent" | "channel" | "tag" | "rule":
            kind = _KINDS[message.kind]
            entities: dict[int, Any] = getattr(config, kind.member)
            before, entity = _entity(kind, entities, message, ctx)
            _check_unique(kind, entities, entity)
            after = structs.replace(config, **{kind.member: {**entities, entity.id: entity}})
            row = kind.row(config.tenant_id, entity)
            subject = f"{message.kind}:{entity.id}"
            if message.kind == "agent":
                _check_owner(after)
                tells.append(Tell(assigner_of(config.tenant_id), Reconsider()))
            elif message.kind == "channel":
                tells.append(Tell(channel_address(config.tenant_id, entity.id), Refresh()))
                told = _told(before, entity, config.tenant_id, message.trace, ctx)
        case "assignment":
            before = config.assignment
            entity = structs.replace(before, **values)
            after = structs.replace(config, assignment=entity)
            row, subject = _setting(config, "assignment", to_builtins(entity), now)
            switched = entity.mode != before.mode
            tells.append(Tell(assigner_of(config.tenant_id), Reconsider(afresh=switched, twice=switched)))
        case "conversations":
            before = config.conversations
            entity = structs.replace(before, **values)
            after = structs.replace(config, conversations=entity)
            row, subject = _setting(config, "conversations", to_builtins(entity), now)
        case "work_hours":
            before = config.week
            entity = values["week"]
            after = structs.replace(config, week=entity)
            row, subject = _setting(config, "work_hours", {"week": to_builtins(entity)}, now)
            tells.append(Tell(assigner_of(config.tenant_id), Reconsider()))
        case other:
            raise InvalidInput(f"There is no configuration called {other}.")
    state.config = after
    action = "created" if before is None else "changed"
    return Effects(
        commit=(row, *_trail(after, message.by, message.trace, action, subject, before, entity, ctx), *told),
        tell=tells,
        reply=entity,
    )


def _need_attention(state: TenantState, message: NeedAttention, ctx: Context) -> Effects:
    """No Refresh: a channel that its platform refused would try the same credentials at once, for ever."""
    config = state.config
    channel = config.channels.get(message.channel_id)
    if channel is None or channel.status == "disabled" or _is_past(channel, message):
        return Effects(reply=Received(outcome="ignored"))
    tells: list[Tell] = []
    if message.halts:
        tells.append(Tell(channel_address(config.tenant_id, channel.id), Halt(message.note)))
    if (channel.status, channel.status_note) == ("needs_attention", message.note):
        return Effects(tell=tells, reply=Received(outcome="ignored"))
    marked = structs.replace(channel, status="needs_attention", status_note=message.note, updated_at=ctx.now)
    state.config = structs.replace(config, channels={**config.channels, channel.id: marked})
    trail = _trail(
        state.config, SYSTEM, message.trace, "changed", f"channel:{channel.id}", channel, marked, ctx
    )
    return Effects(
        commit=(
            _channel_row(config.tenant_id, marked),
            *trail,
            *_told(channel, marked, config.tenant_id, message.trace, ctx),
        ),
        tell=tells,
        reply=Received(outcome="applied"),
    )


def _is_past(channel: Channel, message: NeedAttention) -> bool:
    """Whether the credentials that it is about have been replaced."""
    if message.credentials_at is not None:
        return message.credentials_at != channel.credentials_at
    return message.at is not None and message.at < channel.credentials_at


def _remove(state: TenantState, message: Remove, ctx: Context) -> Effects:
    config = state.config
    kind = _KINDS.get(message.kind)
    if kind is None:
        raise InvalidInput(f"There is no configuration called {message.kind}.")
    entities: dict[int, Any] = getattr(config, kind.member)
    entity = entities.get(message.id)
    if entity is None:
        raise NotFound(f"There is no such {message.kind}.")
    rest = {each: value for each, value in entities.items() if each != message.id}
    after = structs.replace(config, **{kind.member: rest})
    tells: list[Tell] = []
    if message.kind == "agent":
        _check_owner(after)
        tells.append(Tell(assigner_of(config.tenant_id), Reconsider()))
    elif message.kind == "channel":
        tells.append(Tell(channel_address(config.tenant_id, message.id), Refresh()))
    state.config = after
    subject = f"{message.kind}:{message.id}"
    return Effects(
        commit=(
            ConfigDelete(tenant_id=config.tenant_id, table=kind.table, id=message.id),
            *_trail(after, message.by, message.trace, "removed", subject, entity, None, ctx),
        ),
        tell=tells,
    )


def _entity(kind: "_Kind", entities: dict[int, Any], message: Save, ctx: Context) -> tuple[Any | None, Any]:
    """The entity before (None: new) and after."""
    if message.id is not None and not message.create:
        before = entities.get(message.id)
        if before is None:
            raise NotFound(f"There is no such {message.kind}.")
        return before, _dated(before, structs.replace(before, **message.values, updated_at=ctx.now), ctx.now)
    if message.id is not None and message.id in entities:
        raise Conflicting(f"This {message.kind} exists already.")
    if len(entities) >= NUMBER_MAX[message.kind]:
        raise Conflicting(
            f"A tenant has at most {NUMBER_MAX[message.kind]} of this kind.", code="limit_reached"
        )
    new_id = message.id if message.id is not None else ctx.new_id()
    made = kind.type(**message.values, id=new_id, created_at=ctx.now, updated_at=ctx.now)
    return None, _dated(None, made, ctx.now)


def _dated(before: Any, after: Any, now: int) -> Any:
    """A channel's new credentials get a time that no earlier ones had, where they come without one."""
    if not isinstance(after, Channel) or (before is not None and before.credentials == after.credentials):
        return after
    earlier = 0 if before is None else before.credentials_at
    if after.credentials_at > earlier:
        return after
    return structs.replace(after, credentials_at=max(now, earlier + 1))


def _check_unique(kind: "_Kind", entities: dict[int, Any], entity: Any) -> None:
    if kind.unique is None:
        return
    field, key = kind.unique
    wanted = key(entity)
    for other in entities.values():
        if other.id != entity.id and key(other) == wanted:
            raise Conflicting(
                f"Another {type(entity).__name__.lower()} has this {field}.",
                code="conflict",
                fields={field: ["Is in use already."]},
            )


def _check_owner(config: TenantConfig) -> None:
    if not any(agent.role == "owner" and agent.active for agent in config.agents.values()):
        raise Conflicting("A tenant must keep an active owner.", code="last_owner")


def _trail(
    config: TenantConfig,
    by: By,
    trace: str,
    action: str,
    subject: str,
    before: Any,
    after: Any,
    ctx: Context,
) -> tuple[Row, Row]:
    audit = AuditRow(
        tenant_id=config.tenant_id,
        id=ctx.new_id(),
        user_id=by.id,
        action=action,
        subject=subject,
        before=_shown(before),
        after=_shown(after),
        trace=trace,
        at=ctx.now,
    )
    event = EventRow(
        tenant_id=config.tenant_id,
        name=CONFIG_CHANGED,
        channels=(),
        data_json=encode({"subject": subject, "action": action}),
        trace=trace,
        at=ctx.now,
        local=config,
    )
    return audit, event


def _told(
    before: Channel | None, after: Channel, tenant_id: int, trace: str, ctx: Context
) -> tuple[Row, ...]:
    """To the screens, when a channel has another status."""
    if before is None or (before.status, before.status_note) == (after.status, after.status_note):
        return ()
    channel = {
        "id": after.id,
        "platform": after.platform,
        "name": after.name,
        "status": after.status,
        "status_note": after.status_note,
        "credentials_expire_at": rfc3339(after.credentials_expire_at),
        "updated_at": rfc3339(after.updated_at),
    }
    event = EventRow(
        tenant_id=tenant_id,
        name=CHANNEL_UPDATED,
        channels=("inbox",),
        data_json=encode({"channel": channel}),
        trace=trace,
        at=ctx.now,
    )
    return (event,)


def _shown(entity: Any) -> Json | None:
    """An entity for the audit log: never with credentials, not even sealed ones."""
    if entity is None:
        return None
    shown = to_builtins(entity)
    if isinstance(entity, Channel):
        shown.pop("credentials", None)
    return shown if isinstance(shown, dict) else {"value": shown}


def _setting(config: TenantConfig, name: str, value: Json, now: int) -> tuple[SettingRow, str]:
    row = SettingRow(tenant_id=config.tenant_id, name=name, value=value, updated_at=now)
    return row, f"settings:{name}"


# ------------------------------------------------------------------ entities and their rows


def _agent_row(tenant_id: int, agent: Agent) -> UserRow:
    members = structs.asdict(agent)
    week = members.pop("week")
    return UserRow(tenant_id=tenant_id, work_hours=to_builtins(week) if week is not None else None, **members)


def _channel_row(tenant_id: int, channel: Channel) -> ChannelRow:
    return ChannelRow(tenant_id=tenant_id, **structs.asdict(channel))


def _tag_row(tenant_id: int, tag: Tag) -> TagRow:
    return TagRow(tenant_id=tenant_id, **structs.asdict(tag))


def _rule_row(tenant_id: int, rule: ReplyRule) -> ReplyRuleRow:
    members = structs.asdict(rule)
    members["channel_ids"] = list(rule.channel_ids)
    members["patterns"] = list(rule.patterns)
    return ReplyRuleRow(tenant_id=tenant_id, **members)


class _Kind(Struct, frozen=True):
    """How one kind of entity is kept: its member of TenantConfig, table, type, row and unique key."""

    member: str
    table: str
    type: type[Any]
    row: Callable[[int, Any], Row]
    unique: tuple[str, Callable[[Any], Any]] | None


_KINDS: Final = {
    "agent": _Kind("agents", "users", Agent, _agent_row, ("email", lambda each: each.email.lower())),
    "channel": _Kind(
        "channels",
        "channels",
        Channel,
        _channel_row,
        ("external_id", lambda each: (each.platform, each.external_id)),
    ),
    "tag": _Kind("tags", "tags", Tag, _tag_row, ("name", lambda each: each.name.casefold())),
    "rule": _Kind("rules", "automated_replies", ReplyRule, _rule_row, None),
}
