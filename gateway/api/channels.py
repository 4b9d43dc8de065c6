"""Channels: connected accounts on platforms.

Credentials go in and never come out: an answer says which are set. They are sealed before they are stored
anywhere. The webhook's URL and verify token, which have to be typed into the platform's console, are shown
when the account is connected.
"""

import secrets
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field, to_builtins

from engine.domain.config import Channel
from engine.domain.platforms import Connection, Field, Platform, rules_of
from engine.domain.resources import rfc3339
from engine.domain.tenant.messages import NeedAttention
from engine.errors import InvalidInput, NotFound
from engine.reading import Page
from gateway.api.channel_health import HealthOut, SummaryOut, health_of, summary_of
from gateway.envelope import Answer
from gateway.paging import page_by_id
from gateway.permissions import Permission
from gateway.provisioning import Account, Provisioning
from gateway.routing import Routes, TenantCall
from gateway.schemas import END, Input, Moment, Name, PageQuery, given, invalid, milliseconds

routes = Routes("channels")

Secret = Annotated[str, Meta(min_length=1, max_length=4096)]
Secrets = Annotated[dict[str, Secret | None], Meta(max_length=50)]
SettingsBody = Annotated[dict[str, str | int | bool | None], Meta(max_length=50)]
PlatformName = Annotated[str, Meta(min_length=1, max_length=40)]
ExternalId = Annotated[str, Meta(min_length=1, max_length=100, pattern="^[A-Za-z0-9._@+:/-]+" + END)]


class ChannelBody(Input, frozen=True, kw_only=True):
    """`GET platforms` says for each platform what `external_id` and `business_account_id` are there, and
    which credentials and settings it has. Credentials that are made where none is given are shown in the
    answer. `credentials_expire_at`: when they expire, where the platform said so; without it they are renewed
    sooner than they have to be."""

    platform: PlatformName
    name: Name
    external_id: ExternalId
    business_account_id: ExternalId | None = None
    credentials: Secrets = field(default_factory=dict)
    credentials_expire_at: Moment | None = None
    settings: SettingsBody = field(default_factory=dict)


class ChannelPatch(Input, frozen=True, kw_only=True):
    """Credentials are replaced one by one, `settings` as a whole; what is left out stays."""

    name: Name | UnsetType = UNSET
    status: Literal["active", "disabled"] | UnsetType = UNSET
    credentials: Secrets | UnsetType = UNSET
    credentials_expire_at: Moment | UnsetType | None = UNSET
    settings: SettingsBody | UnsetType = UNSET


class ChannelOut(Struct, frozen=True, kw_only=True):
    """`credentials` says which are set. `credentials_expire_at` is null where they do not expire, or nobody
    has said when. `one_way`: the account only sends, nobody can answer it."""

    id: int
    platform: str
    name: str
    external_id: str
    status: str
    status_note: str | None
    one_way: bool
    credentials: dict[str, bool]
    credentials_changed_at: str
    credentials_expire_at: str | None
    settings: dict[str, Any]
    health: SummaryOut
    created_at: str
    updated_at: str


class ConnectedOut(ChannelOut, frozen=True, kw_only=True):
    """`webhook_url` and `verify_token` go into the platform's console as `guide` says; the token is shown
    this once, and is empty where the platform has no handshake."""

    webhook_url: str
    verify_token: str
    guide: str


class FieldOut(Struct, frozen=True, kw_only=True):
    """`generated`: one is made where none is given. `kind`: text, number or flag."""

    name: str
    label: str
    required: bool
    generated: bool
    kind: str
    pattern: str | None


class PlatformOut(Struct, frozen=True, kw_only=True):
    name: str
    aliases: list[str]
    label: str
    capabilities: dict[str, Any]
    external_id: FieldOut
    business_account_id: FieldOut | None
    credentials: list[FieldOut]
    settings: list[FieldOut]
    guide: str


class CheckOut(Struct, frozen=True, kw_only=True):
    verified: bool
    detail: str
    facts: dict[str, Any]
    channel: ChannelOut


@routes.get("/channels", needs=Permission.CHANNELS_VIEW, answer=ChannelOut, paged=True)
async def list_channels(call: TenantCall, query: PageQuery) -> Answer:
    """List connected accounts."""
    page = page_by_id(
        call.config.channels.values(), lambda each: each.id, limit=query.limit, cursor=query.cursor
    )
    return Answer(data=Page(items=[_out(call, each) for each in page.items], next_cursor=page.next_cursor))


@routes.post("/channels", needs=Permission.CHANNELS_MANAGE, answer=ConnectedOut, status=201, secret=True)
async def connect(call: TenantCall, body: ChannelBody) -> Answer:
    """Connect an account. 409 when it is connected already, by whomever."""
    platform = _platform_named(call, body.platform)
    connection = platform.connection
    settings = _given(body.settings)
    credentials = _given(body.credentials)
    _check({**_named(connection, body), **connection.problems(credentials, settings, whole=True)})
    if body.business_account_id is not None and connection.parent is not None:
        settings[connection.parent.name] = body.business_account_id
    account = Account(
        platform=platform.name,
        name=body.name,
        external_id=body.external_id,
        parent_id=body.business_account_id,
        credentials={**_generated(connection), **credentials},
        settings=settings,
        credentials_expire_at=milliseconds(body.credentials_expire_at),
    )
    made = await Provisioning(call.site).connect(call.tenant.id, account, by=call.by, trace=call.trace)
    shown = _out(call, made.channel)
    result = ConnectedOut(
        **{name: getattr(shown, name) for name in shown.__struct_fields__},
        webhook_url=_webhook_url(call, made.channel, made.endpoint_key),
        verify_token=made.verify_token,
        guide=connection.guide,
    )
    return Answer(data=result, status=201, message="Connected; the verify token is shown only now")


@routes.get("/channels/<id:channel_id>", needs=Permission.CHANNELS_VIEW, answer=ChannelOut)
async def show_channel(call: TenantCall, channel_id: int) -> Answer:
    """Show one connected account."""
    return Answer(data=_out(call, _channel(call, channel_id)))


@routes.update("/channels/<id:channel_id>", needs=Permission.CHANNELS_MANAGE, answer=ChannelOut)
async def update_channel(call: TenantCall, channel_id: int, body: ChannelPatch) -> Answer:
    """Change name, status, settings or credentials; what is left out stays, credentials one by one."""
    channel = _channel(call, channel_id)
    values = given(body)
    secrets_given = _given(values.pop("credentials", {}))
    settings = _given(values.pop("settings", {}))
    connection = rules_of(channel.platform).connection
    _check(connection.problems(secrets_given, settings, whole=False))
    if body.settings is not UNSET:
        known = connection.setting_names
        kept = {name: value for name, value in channel.settings.items() if name not in known}
        values["settings"] = {**kept, **settings}
    if "credentials_expire_at" in values:
        values["credentials_expire_at"] = milliseconds(values["credentials_expire_at"])
    if "status" in values or secrets_given:
        values.setdefault("status", "disabled" if channel.status == "disabled" else "active")
        values["status_note"] = None
    changed = await Provisioning(call.site).change_channel(
        call.tenant.id, channel, values, secrets_given, by=call.by, trace=call.trace
    )
    return Answer(data=_out(call, changed), message="Channel changed")


@routes.delete("/channels/<id:channel_id>", needs=Permission.CHANNELS_MANAGE)
async def disconnect(call: TenantCall, channel_id: int) -> Answer:
    """Disconnect an account. Its conversations stay; what still waits to be sent is not sent."""
    channel = _channel(call, channel_id)
    await Provisioning(call.site).disconnect(call.tenant.id, channel, by=call.by, trace=call.trace)
    return Answer(message="Channel disconnected")


@routes.post("/channels/<id:channel_id>/verify", needs=Permission.CHANNELS_MANAGE, answer=CheckOut)
async def verify(call: TenantCall, channel_id: int) -> Answer:
    """Ask the platform whether the credentials work. The channel's status follows the answer."""
    channel = _channel(call, channel_id)
    secrets_known = call.deps.vault.open(call.tenant.id, channel.id, channel.credentials)
    check = await call.deps.verify_account(channel, secrets_known)
    if not check.ok:
        mark = NeedAttention(
            channel_id=channel.id,
            note=check.detail,
            halts=False,
            credentials_at=channel.credentials_at,
            trace=call.trace,
        )
        await call.deps.engine.ask_tenant(call.tenant.id, mark)
        channel = (await call.deps.engine.config(call.tenant.id)).channels.get(channel_id, channel)
    elif channel.status == "needs_attention":
        channel = await Provisioning(call.site).change_channel(
            call.tenant.id,
            channel,
            {"status": "active", "status_note": None},
            {},
            by=call.by,
            trace=call.trace,
        )
    result = CheckOut(verified=check.ok, detail=check.detail, facts=check.facts, channel=_out(call, channel))
    return Answer(data=result, message="Verified" if check.ok else "The platform refused the credentials")


@routes.get("/channels/<id:channel_id>/health", needs=Permission.CHANNELS_VIEW, answer=HealthOut)
async def health(call: TenantCall, channel_id: int) -> Answer:
    """Show how the account is doing: status, credentials, what came and went last, queue, errors."""
    channel = _channel(call, channel_id)
    entry = await Provisioning(call.site).entry_of(call.tenant.id, channel)
    known = call.deps.channel_health(call.tenant.id, channel.id)
    return Answer(data=health_of(channel, known, _webhook_url(call, channel, entry.endpoint_key)))


@routes.get("/platforms", needs=Permission.CHANNELS_VIEW, answer=list[PlatformOut])
async def list_platforms(call: TenantCall) -> Answer:
    """List the platforms: what each can carry, and what connecting an account takes."""
    return Answer(data=[_described(each) for each in call.deps.platforms.values()])


def _described(platform: Platform) -> PlatformOut:
    connection = platform.connection
    return PlatformOut(
        name=platform.name,
        aliases=list(platform.aliases),
        label=platform.label,
        capabilities=to_builtins(platform.capabilities),
        external_id=_field(connection.account),
        business_account_id=_field(connection.parent) if connection.parent is not None else None,
        credentials=[_field(each) for each in connection.credentials],
        settings=[_field(each) for each in connection.settings],
        guide=connection.guide,
    )


def _field(one: Field) -> FieldOut:
    return FieldOut(
        name=one.name,
        label=one.label,
        required=one.required,
        generated=one.generated,
        kind=one.kind,
        pattern=one.pattern,
    )


def _platform_named(call: TenantCall, name: str) -> Platform:
    for platform in call.deps.platforms.values():
        if name == platform.name or name in platform.aliases:
            return platform
    raise invalid("platform", f"Is one of {', '.join(call.deps.platforms)}.")


def _check(problems: dict[str, list[str]]) -> None:
    if problems:
        raise InvalidInput("The account cannot be connected like this.", fields=problems)


def _named(connection: Connection, body: ChannelBody) -> dict[str, list[str]]:
    """What is wrong with the ids that the account and its parent go by."""
    found = {"external_id": connection.account.problem(body.external_id)}
    if connection.parent is not None and body.business_account_id is not None:
        found["business_account_id"] = connection.parent.problem(body.business_account_id)
    elif connection.parent is not None and connection.parent.required:
        found["business_account_id"] = "Is required."
    return {name: [sentence] for name, sentence in found.items() if sentence is not None}


def _generated(connection: Connection) -> dict[str, str]:
    return {one.name: secrets.token_urlsafe(24) for one in connection.credentials if one.generated}


def _given(values: dict[str, Any]) -> dict[str, Any]:
    """Null counts as left out."""
    return {name: value for name, value in values.items() if value is not None}


def _channel(call: TenantCall, channel_id: int) -> Channel:
    channel = call.config.channels.get(channel_id)
    if channel is None:
        raise NotFound("There is no such channel.")
    return channel


def _webhook_url(call: TenantCall, channel: Channel, endpoint_key: str) -> str:
    return f"{call.deps.base_url()}/api/webhooks/{channel.platform}/{endpoint_key}"


def _out(call: TenantCall, channel: Channel) -> ChannelOut:
    known = call.deps.vault.open(call.tenant.id, channel.id, channel.credentials)
    names = rules_of(channel.platform).connection.secret_names
    return ChannelOut(
        id=channel.id,
        platform=channel.platform,
        name=channel.name,
        external_id=channel.external_id,
        status=channel.status,
        status_note=channel.status_note,
        one_way=rules_of(channel.platform).connection.is_one_way(channel.external_id),
        credentials={name: bool(known.get(name)) for name in names},
        credentials_changed_at=rfc3339(channel.credentials_at) or "",
        credentials_expire_at=rfc3339(channel.credentials_expire_at),
        settings=channel.settings,
        health=summary_of(call.deps.channel_health(call.tenant.id, channel.id)),
        created_at=rfc3339(channel.created_at) or "",
        updated_at=rfc3339(channel.updated_at) or "",
    )
