"""Channels: connected accounts on platforms.

Credentials go in and never come out: an answer says which are set. They are sealed before they are stored
anywhere. The webhook's URL and verify token, which have to be typed into the platform's console, are shown
when the account is connected.
"""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from engine.domain.config import Channel
from engine.domain.resources import rfc3339
from engine.errors import NotFound
from engine.reading import Page
from gateway.envelope import Answer
from gateway.paging import page_by_id
from gateway.permissions import Permission
from gateway.provisioning import Account, Provisioning
from gateway.routing import Routes, TenantCall
from gateway.schemas import Input, Name, PageQuery, given

routes = Routes("channels")

Secret = Annotated[str, Meta(min_length=1, max_length=4096)]
ExternalId = Annotated[str, Meta(min_length=1, max_length=100, pattern="^[A-Za-z0-9._@+:-]+$")]
SECRETS = ("access_token", "app_secret", "app_secret_previous", "verify_token")


class WhatsAppCredentials(Input, frozen=True, kw_only=True):
    """`app_secret_previous` counts beside the new one while a secret is rotated. Without a `verify_token`,
    one is made."""

    access_token: Secret
    app_secret: Secret
    app_secret_previous: Secret | None = None
    verify_token: Secret | None = None


class WhatsAppCredentialsPatch(Input, frozen=True, kw_only=True):
    access_token: Secret | UnsetType = UNSET
    app_secret: Secret | UnsetType = UNSET
    app_secret_previous: Secret | UnsetType = UNSET
    verify_token: Secret | UnsetType = UNSET


class ChannelSettings(Input, frozen=True, kw_only=True, omit_defaults=True):
    """`base_url` lets a stand-in play the platform. `messages_per_second` is the account's limit there."""

    base_url: Annotated[str, Meta(pattern="^https?://[^\\s?#]+$", max_length=500)] | None = None
    api_version: Annotated[str, Meta(pattern="^v[0-9]{1,3}\\.[0-9]{1,2}$")] | None = None
    messages_per_second: Annotated[int, Meta(ge=1, le=1000)] | None = None


class ChannelBody(Input, frozen=True, kw_only=True):
    """WhatsApp: `external_id` is the phone number id, `business_account_id` the WABA's."""

    platform: Literal["whatsapp"]
    name: Name
    external_id: ExternalId
    business_account_id: ExternalId | None = None
    credentials: WhatsAppCredentials
    settings: ChannelSettings = ChannelSettings()


class ChannelPatch(Input, frozen=True, kw_only=True):
    name: Name | UnsetType = UNSET
    status: Literal["active", "disabled"] | UnsetType = UNSET
    credentials: WhatsAppCredentialsPatch | UnsetType = UNSET
    settings: ChannelSettings | UnsetType = UNSET


class ChannelOut(Struct, frozen=True, kw_only=True):
    """`credentials` says which are set."""

    id: int
    platform: str
    name: str
    external_id: str
    status: str
    status_note: str | None
    credentials: dict[str, bool]
    settings: dict[str, Any]
    created_at: str
    updated_at: str


class ConnectedOut(ChannelOut, frozen=True, kw_only=True):
    """`webhook_url` and `verify_token` go into the platform's console; the token is shown this once."""

    webhook_url: str
    verify_token: str


class CheckOut(Struct, frozen=True, kw_only=True):
    verified: bool
    detail: str
    facts: dict[str, Any]
    channel: ChannelOut


class HealthOut(Struct, frozen=True, kw_only=True):
    """`sending` is what the account's actor knows now; empty while it has nothing to do."""

    status: str
    status_note: str | None
    webhook_url: str
    sending: dict[str, Any]


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
    given_secrets = {name: getattr(body.credentials, name) for name in SECRETS}
    account = Account(
        platform=body.platform,
        name=body.name,
        external_id=body.external_id,
        parent_id=body.business_account_id,
        credentials={name: value for name, value in given_secrets.items() if value is not None},
        settings={
            **_settings(body.settings),
            **({"waba_id": body.business_account_id} if body.business_account_id else {}),
        },
    )
    made = await Provisioning(call.site).connect(call.tenant.id, account, by=call.by, trace=call.trace)
    shown = _out(call, made.channel)
    result = ConnectedOut(
        **{name: getattr(shown, name) for name in shown.__struct_fields__},
        webhook_url=_webhook_url(call, made.channel, made.endpoint_key),
        verify_token=made.verify_token,
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
    secrets_given = given(values.pop("credentials")) if "credentials" in values else {}
    if "settings" in values:
        kept = {name: value for name, value in channel.settings.items() if name not in _SETTABLE}
        values["settings"] = {**kept, **_settings(values["settings"])}
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
    if channel.status != "disabled":
        values = {
            "status": "active" if check.ok else "needs_attention",
            "status_note": None if check.ok else check.detail,
        }
        if (channel.status, channel.status_note) != (values["status"], values["status_note"]):
            channel = await Provisioning(call.site).change_channel(
                call.tenant.id, channel, values, {}, by=call.by, trace=call.trace
            )
    result = CheckOut(verified=check.ok, detail=check.detail, facts=check.facts, channel=_out(call, channel))
    return Answer(data=result, message="Verified" if check.ok else "The platform refused the credentials")


@routes.get("/channels/<id:channel_id>/health", needs=Permission.CHANNELS_VIEW, answer=HealthOut)
async def health(call: TenantCall, channel_id: int) -> Answer:
    """Show how the account is doing: status, queue, rates, errors."""
    channel = _channel(call, channel_id)
    entry = await Provisioning(call.site).entry_of(call.tenant.id, channel)
    result = HealthOut(
        status=channel.status,
        status_note=channel.status_note,
        webhook_url=_webhook_url(call, channel, entry.endpoint_key),
        sending=call.deps.channel_health(call.tenant.id, channel.id),
    )
    return Answer(data=result)


_SETTABLE = frozenset(ChannelSettings.__struct_fields__)


def _settings(settings: ChannelSettings) -> dict[str, Any]:
    members = ((name, getattr(settings, name)) for name in ChannelSettings.__struct_fields__)
    return {name: value for name, value in members if value is not None}


def _channel(call: TenantCall, channel_id: int) -> Channel:
    channel = call.config.channels.get(channel_id)
    if channel is None:
        raise NotFound("There is no such channel.")
    return channel


def _webhook_url(call: TenantCall, channel: Channel, endpoint_key: str) -> str:
    return f"{call.deps.base_url()}/api/webhooks/{channel.platform}/{endpoint_key}"


def _out(call: TenantCall, channel: Channel) -> ChannelOut:
    known = call.deps.vault.open(call.tenant.id, channel.id, channel.credentials)
    return ChannelOut(
        id=channel.id,
        platform=channel.platform,
        name=channel.name,
        external_id=channel.external_id,
        status=channel.status,
        status_note=channel.status_note,
        credentials={name: bool(known.get(name)) for name in SECRETS},
        settings=channel.settings,
        created_at=rfc3339(channel.created_at) or "",
        updated_at=rfc3339(channel.updated_at) or "",
    )
