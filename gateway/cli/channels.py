"""`mijra channel`: a tenant's accounts on messaging platforms.

The commands under `connect` are made from what each adapter says that an account consists of.
"""

from typing import Any

import click

from adapters.registry import adapters
from engine.domain.platforms import Field, Platform
from gateway.cli import admin
from gateway.cli.api import Api
from gateway.cli.asking import asked
from gateway.cli.printing import show, show_once


@click.group("channel")
def command() -> None:
    """Connect accounts on platforms."""


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
