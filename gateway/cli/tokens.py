"""`mijra token`: keys for programs that call the API."""

from typing import Any

import click

from gateway.cli import admin
from gateway.cli.api import Api
from gateway.cli.printing import show, show_once


@click.group("token")
def command() -> None:
    """Make API tokens."""


@command.command("create")
@click.option("--tenant", required=True, help="The tenant's slug; the token is good for this tenant alone.")
@click.option("--email", required=True, help="The user whose name the calls are made in.")
@click.option("--name", required=True, help="What the token is for; it is listed under this name.")
@click.option(
    "--ability",
    "abilities",
    multiple=True,
    help="A permission such as conversations.view; may be repeated. Without any: what the user's role gives.",
)
@admin.options
def create(
    url: str | None,
    token: str | None,
    tenant: str,
    email: str,
    name: str,
    abilities: tuple[str, ...],
) -> None:
    """Make a token that does not expire, in a user's name. It is shown once."""
    body: dict[str, object] = {"tenant": tenant, "email": email, "name": name}
    if abilities:
        body["abilities"] = list(abilities)

    async def work(api: Api) -> Any:
        return await api.post("/api/landlord/tokens", body)

    made = admin.administer(url, token, work)
    show({"id": made["id"], "name": made["name"], "abilities": ", ".join(made["abilities"])})
    show_once("token", made["token"])
