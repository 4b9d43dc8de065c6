"""`mijra channel`: a tenant's accounts on messaging platforms, and how they are doing.

The commands under `connect` are made from what each adapter says that an account consists of.
"""

from typing import Any

import click
from rich.console import Console
from rich.table import Table

from adapters.registry import adapters
from engine.domain.platforms import Field, Platform
from engine.errors import MijraError, NotFound
from gateway.cli import admin
from gateway.cli.api import Api
from gateway.cli.asking import asked
from gateway.cli.printing import show, show_once


@click.group("channel")
def command() -> None:
    """Connect accounts on platforms, and look after them."""


@command.command("list")
@click.option("--tenant", required=True, help="The tenant's slug.")
@admin.options
def list_channels(url: str | None, token: str | None, tenant: str) -> None:
    """List a tenant's accounts: status, what waits, when credentials expire, what a person has to do."""

    async def work(api: Api) -> list[Any]:
        return await _all(api, tenant)

    found = admin.administer(url, token, work)
    table = Table(box=None, pad_edge=False)
    for heading in ("id", "platform", "name", "status", "queued", "expires", "last error", "note"):
        table.add_column(heading, overflow="fold")
    for each in found:
        health = each["health"]
        table.add_row(
            str(each["id"]),
            each["platform"],
            each["name"],
            each["status"],
            str(health["queued"]),
            each["credentials_expire_at"] or "-",
            health["last_error"] or "-",
            each["status_note"] or "",
        )
    Console().print(table)


@command.command("check")
@click.option("--tenant", required=True, help="The tenant's slug.")
@click.argument("channel_id", type=int, required=False)
@admin.options
def check(url: str | None, token: str | None, tenant: str, channel_id: int | None) -> None:
    """Ask the platform whether an account's credentials work; without CHANNEL_ID, for all of the tenant's.

    A channel that needed attention and works is active again. Ends with 1 when one does not work.
    """

    async def work(api: Api) -> list[tuple[Any, Any, str | None]]:
        channels = await _all(api, tenant)
        chosen = [each for each in channels if channel_id is None or each["id"] == channel_id]
        if not chosen:
            raise NotFound("There is no such channel." if channel_id else "No account is connected.")
        answers: list[tuple[Any, Any, str | None]] = []
        for each in chosen:
            try:
                checked = await api.post(f"/api/{tenant}/channels/{each['id']}/verify", {})
                answers.append((each, checked, None))
            except MijraError as error:
                answers.append((each, None, str(error)))
        return answers

    answers = admin.administer(url, token, work)
    for channel, checked, problem in answers:
        works = checked is not None and checked["verified"]
        detail = problem if checked is None else checked["detail"]
        show(
            {
                "channel": f"{channel['name']} ({channel['platform']}, {channel['id']})",
                "works": "yes" if works else "no" if checked is not None else "nobody knows",
                "detail": detail,
                "expires": channel["credentials_expire_at"],
            }
        )
    if not all(checked is not None and checked["verified"] for _, checked, _ in answers):
        raise SystemExit(1)


async def _all(api: Api, tenant: str) -> list[Any]:
    found: list[Any] = []
    cursor: str | None = None
    while True:
        page = await api.get(
            f"/api/{tenant}/channels", limit=100, **({} if cursor is None else {"cursor": cursor})
        )
        found += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            return found


@command.group("connect")
def connect() -> None:
    """Connect an account of a platform to a tenant."""


def _option(field: Field) -> str:
    return f"--{field.name.replace('_', '-')}"


def _variable(platform: Platform, field: Field) -> str:
    return f"{platform.name.replace('-', '_')}_{field.name}".upper()


def _parameters(platform: Platform) -> list[click.Option]:
    connection = platform.connection
    made = [
        click.Option(["--tenant"], required=True, help="The tenant's slug."),
        click.Option(["--name"], required=True, help="What agents see."),
        click.Option([_option(connection.account)], required=True, help=connection.account.label),
    ]
    if connection.parent is not None:
        made.append(click.Option([_option(connection.parent)], help=connection.parent.label))
    for field in connection.credentials:
        otherwise = " Asked for if left out." if field.required else ""
        otherwise = " Made and shown if left out." if field.generated else otherwise
        variable = _variable(platform, field)
        made.append(
            click.Option(
                [_option(field)], envvar=variable, show_envvar=True, help=f"{field.label}{otherwise}"
            )
        )
    for field in connection.settings:
        kinds: dict[str, Any] = {"number": {"type": int}, "flag": {"is_flag": True, "default": None}}
        made.append(click.Option([_option(field)], help=field.label, **kinds.get(field.kind, {})))
    return made


def _connecting(platform: Platform) -> click.Command:
    connection = platform.connection

    def connect_account(url: str | None, token: str | None, **given: Any) -> None:
        credentials = {
            field.name: asked(_option(field), given[field.name]) if field.required else given[field.name]
            for field in connection.credentials
        }
        settings = {field.name: given[field.name] for field in connection.settings}
        body = {
            "platform": platform.name,
            "name": given["name"],
            "external_id": given[connection.account.name],
            "business_account_id": given[connection.parent.name] if connection.parent else None,
            "credentials": {name: value for name, value in credentials.items() if value is not None},
            "settings": {name: value for name, value in settings.items() if value is not None},
        }

        async def work(api: Api) -> Any:
            return await api.post(f"/api/{given['tenant']}/channels", body)

        made = admin.administer(url, token, work)
        show({"channel": made["name"], "id": made["id"], "webhook url": made["webhook_url"]})
        if made["verify_token"]:
            show_once("verify token", made["verify_token"])
        if connection.guide:
            click.echo(connection.guide)

    decorated = admin.options(connect_account)
    return click.Command(
        platform.name,
        callback=decorated,
        # What the decorator left on the function, as click does before a command is made of it.
        params=[*_parameters(platform), *reversed(getattr(decorated, "__click_params__", []))],
        help=f"Connect an account of {platform.label}. Prints the webhook's URL. {connection.guide}",
    )


for _adapter in adapters().values():
    for _name in (_adapter.platform.name, *_adapter.platform.aliases):
        connect.add_command(_connecting(_adapter.platform), _name)
