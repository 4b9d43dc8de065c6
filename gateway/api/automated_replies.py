"""Automated replies: greeting, keyword and away rules, and a dry run.

Patterns are checked when they are saved: what RE2 does not take is refused here with the reason, not found
out when a customer writes.
"""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, to_builtins

from engine.domain import autoreply
from engine.domain.config import ReplyRule
from engine.domain.outbound import Option, Send, SendInteractive, SendText
from engine.domain.resources import rfc3339
from engine.domain.tenant.messages import Remove, Save
from engine.errors import NotFound
from engine.reading import Page
from gateway.api.sending import OptionBody
from gateway.envelope import Answer
from gateway.paging import page_by_id
from gateway.permissions import Permission
from gateway.routing import Routes, TenantCall
from gateway.schemas import Id, Input, Name, PageQuery, given, invalid

routes = Routes("automated-replies")

COOLDOWN_SECONDS_DEFAULT = 12 * 3600
"""Once in half a day per conversation and rule: a customer who writes ten times is greeted once."""

Kind = Literal["greeting", "keyword", "away"]
Match = Literal["contains", "exact", "regex"]
Patterns = Annotated[
    tuple[Annotated[str, Meta(min_length=1, max_length=autoreply.PATTERN_CHARACTERS_MAX)], ...],
    Meta(max_length=autoreply.PATTERNS_MAX),
]
ChannelIds = Annotated[tuple[Id, ...], Meta(max_length=100)]
Cooldown = Annotated[int, Meta(ge=0, le=90 * 24 * 3600)]
Priority = Annotated[int, Meta(ge=0, le=100_000)]


class TextReply(Input, frozen=True, kw_only=True, tag="text"):
    """`{{ customer_name }}`, `{{ first_name }}`, `{{ business_name }}` and `{{ agent_name }}` are filled
    in."""

    body: Annotated[str, Meta(min_length=1, max_length=4096)]


class InteractiveReply(Input, frozen=True, kw_only=True, tag="interactive"):
    kind: Literal["buttons", "list"]
    body: Annotated[str, Meta(min_length=1, max_length=1024)]
    options: Annotated[list[OptionBody], Meta(min_length=1, max_length=10)]
    header: str | None = None
    footer: str | None = None
    button: str | None = None


Reply = TextReply | InteractiveReply


class RuleBody(Input, frozen=True, kw_only=True):
    """`match` and `patterns` go with keyword rules. The smallest `priority` is tried first. No channel ids:
    every channel."""

    kind: Kind
    name: Name
    reply: Reply
    active: bool = True
    priority: Priority = 100
    channel_ids: ChannelIds = ()
    match: Match | None = None
    patterns: Patterns = ()
    cooldown_seconds: Cooldown = COOLDOWN_SECONDS_DEFAULT


class RulePatch(Input, frozen=True, kw_only=True):
    kind: Kind | UnsetType = UNSET
    name: Name | UnsetType = UNSET
    reply: Reply | UnsetType = UNSET
    active: bool | UnsetType = UNSET
    priority: Priority | UnsetType = UNSET
    channel_ids: ChannelIds | UnsetType = UNSET
    match: Match | UnsetType | None = UNSET
    patterns: Patterns | UnsetType = UNSET
    cooldown_seconds: Cooldown | UnsetType = UNSET


class TestBody(Input, frozen=True, kw_only=True):
    """`first_message`: as if it opened a conversation."""

    text: Annotated[str, Meta(max_length=4096)]
    channel_id: Id
    first_message: bool = False


class RuleOut(Struct, frozen=True, kw_only=True):
    id: int
    kind: str
    name: str
    active: bool
    priority: int
    channel_ids: list[int]
    match: str | None
    patterns: list[str]
    reply: dict[str, Any]
    cooldown_seconds: int
    created_at: str
    updated_at: str


class TestResult(Struct, frozen=True, kw_only=True):
    """`reply` is the text as it would be sent, with the variables of a customer called "Customer"."""

    triggered: bool
    rule: RuleOut | None
    reply: str | None


@routes.get("/automated-replies", needs=Permission.AUTOMATED_REPLIES_VIEW, answer=RuleOut, paged=True)
async def list_rules(call: TenantCall, query: PageQuery) -> Answer:
    """List automated replies, oldest first."""
    page = page_by_id(
        call.config.rules.values(), lambda rule: rule.id, limit=query.limit, cursor=query.cursor
    )
    return Answer(data=Page(items=[_out(rule) for rule in page.items], next_cursor=page.next_cursor))


@routes.post("/automated-replies", needs=Permission.AUTOMATED_REPLIES_MANAGE, answer=RuleOut, status=201)
async def create_rule(call: TenantCall, body: RuleBody) -> Answer:
    """Create an automated reply."""
    values = _values(given(body))
    _check(call, values)
    save = Save(kind="rule", values=values, by=call.by, trace=call.trace)
    rule = await call.deps.engine.ask_tenant(call.tenant.id, save)
    return Answer(data=_out(rule), status=201, message="Automated reply created")


@routes.post("/automated-replies/test", needs=Permission.AUTOMATED_REPLIES_VIEW, answer=TestResult)
async def test_rules(call: TenantCall, body: TestBody) -> Answer:
    """Show which rule a text would trigger now. Nothing is sent."""
    if body.channel_id not in call.config.channels:
        raise invalid("channel_id", "There is no such channel.")
    rule = autoreply.would_trigger(
        call.config, body.channel_id, body.text, call.deps.engine.now(), body.first_message
    )
    if rule is None:
        return Answer(data=TestResult(triggered=False, rule=None, reply=None), message="No rule answers this")
    variables = autoreply.variables_for(call.config, "Customer", None)
    text = autoreply.render(str(rule.reply.get("body", "")), variables)
    return Answer(data=TestResult(triggered=True, rule=_out(rule), reply=text))


@routes.get("/automated-replies/<id:rule_id>", needs=Permission.AUTOMATED_REPLIES_VIEW, answer=RuleOut)
async def show_rule(call: TenantCall, rule_id: int) -> Answer:
    """Show one automated reply."""
    return Answer(data=_out(_rule(call, rule_id)))


@routes.update("/automated-replies/<id:rule_id>", needs=Permission.AUTOMATED_REPLIES_MANAGE, answer=RuleOut)
async def update_rule(call: TenantCall, rule_id: int, body: RulePatch) -> Answer:
    """Change an automated reply; members that are left out stay."""
    before = _rule(call, rule_id)
    values = _values(given(body))
    _check(call, {**_values_of(before), **values})
    save = Save(kind="rule", id=rule_id, values=values, by=call.by, trace=call.trace)
    rule = await call.deps.engine.ask_tenant(call.tenant.id, save)
    return Answer(data=_out(rule), message="Automated reply changed")


@routes.delete("/automated-replies/<id:rule_id>", needs=Permission.AUTOMATED_REPLIES_MANAGE)
async def delete_rule(call: TenantCall, rule_id: int) -> Answer:
    """Remove an automated reply."""
    await call.deps.engine.ask_tenant(
        call.tenant.id, Remove(kind="rule", id=rule_id, by=call.by, trace=call.trace)
    )
    return Answer(message="Automated reply removed")


def _rule(call: TenantCall, rule_id: int) -> ReplyRule:
    rule = call.config.rules.get(rule_id)
    if rule is None:
        raise NotFound("There is no such automated reply.")
    return rule


def _values(members: dict[str, Any]) -> dict[str, Any]:
    """In the types of engine/domain/config.py."""
    values = dict(members)
    if "reply" in values:
        values["reply"] = {
            name: value for name, value in to_builtins(values["reply"]).items() if value is not None
        }
    return values


def _values_of(rule: ReplyRule) -> dict[str, Any]:
    return {name: getattr(rule, name) for name in rule.__struct_fields__}


def _check(call: TenantCall, values: dict[str, Any]) -> None:
    """What the members mean together. Raises InvalidInput."""
    if values["kind"] == "keyword":
        if values.get("match") is None:
            raise invalid("match", "Is required for a keyword rule.")
        if not values.get("patterns"):
            raise invalid("patterns", "A keyword rule needs at least one.")
        if values["match"] == "regex":
            for pattern in values["patterns"]:
                autoreply.check_pattern(pattern)
    elif values.get("match") is not None or values.get("patterns"):
        raise invalid("patterns", "Go with keyword rules only.")
    for channel_id in values.get("channel_ids", ()):
        if channel_id not in call.config.channels:
            raise invalid("channel_ids", f"There is no channel {channel_id}.")
    for channel_id in values.get("channel_ids") or call.config.channels:
        call.deps.fit_send(call.config.channels[channel_id], _send(values["reply"]), False)


def _send(reply: dict[str, Any]) -> Send:
    if reply["type"] == "text":
        return SendText(body=reply["body"])
    return SendInteractive(
        kind=reply["kind"],
        body=reply["body"],
        options=tuple(Option(**option) for option in reply["options"]),
        header=reply.get("header"),
        footer=reply.get("footer"),
        button=reply.get("button"),
    )


def _out(rule: ReplyRule) -> RuleOut:
    return RuleOut(
        id=rule.id,
        kind=rule.kind,
        name=rule.name,
        active=rule.active,
        priority=rule.priority,
        channel_ids=list(rule.channel_ids),
        match=rule.match,
        patterns=list(rule.patterns),
        reply=rule.reply,
        cooldown_seconds=rule.cooldown_seconds,
        created_at=rfc3339(rule.created_at) or "",
        updated_at=rfc3339(rule.updated_at) or "",
    )
