"""`mijra user`: a tenant's people."""

from typing import Any

import click

from gateway.cli import admin
from gateway.cli.api import Api
from gateway.cli.asking import with_password
from gateway.cli.printing import show, show_once


@click.group("user")
def command() -> None:
    """Add people to a tenant."""


@command.command("create")
@click.option("--tenant", required=True, help="The tenant's slug.")
@click.option("--email", required=True)
@click.option("--name", required=True)
@click.option("--role", type=click.Choice(["owner", "admin", "agent"]), default="agent", show_default=True)
@click.option(
    "--password",
    envvar="USER_PASSWORD",
    show_envvar=True,
    help="Without it one is made and shown once, unless the person has a login already.",
)
@admin.options
def create(
    url: str | None,
    token: str | None,
    tenant: str,
    email: str,
    name: str,
    role: str,
    password: str | None,
) -> None:
    """Add a user to a tenant, with a login if the e-mail has none yet."""

    async def work(api: Api) -> tuple[Any, str | None]:
        return await with_password(
            password,
            lambda chosen: api.post(
                f"/api/{tenant}/users", {"email": email, "name": name, "role": role, "password": chosen}
            ),
        )

    made, generated = admin.administer(url, token, work)
    show({"user": made["email"], "id": made["id"], "role": made["role"], "tenant": tenant})
    show_once("password", generated)
