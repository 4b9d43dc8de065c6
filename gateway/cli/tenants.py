"""`mijra tenant`: the businesses on this server."""

from typing import Any

import click

from gateway.cli import admin
from gateway.cli.api import Api
from gateway.cli.asking import with_password
from gateway.cli.printing import show, show_once


@click.group("tenant")
def command() -> None:
    """Create and look after tenants."""


@command.command("create")
@click.argument("slug")
@click.option("--name", required=True, help="What people call the business.")
@click.option("--timezone", default="UTC", show_default=True, help="Its IANA time zone, for work hours.")
@click.option("--locale", default="en", show_default=True, help="Its language.")
@click.option(
    "--isolation",
    type=click.Choice(["own", "pooled"]),
    help="A database of its own or a shared one; without it, what MIJRA_PLACEMENT says.",
)
@click.option("--owner-email", required=True, help="Who may do everything there.")
@click.option("--owner-name", required=True)
@click.option(
    "--owner-password",
    envvar="OWNER_PASSWORD",
    show_envvar=True,
    help="Without it one is made and shown once, unless the owner has a login already.",
)
@admin.options
def create(
    url: str | None,
    token: str | None,
    slug: str,
    name: str,
    timezone: str,
    locale: str,
    isolation: str | None,
    owner_email: str,
    owner_name: str,
    owner_password: str | None,
) -> None:
    """Create the tenant SLUG with its database and its first owner.

    SLUG stands in its URLs: small letters, digits and dashes. A creation that was cut off is finished by
    giving the same command again.
    """

    async def work(api: Api) -> tuple[Any, str | None]:
        def body(password: str | None) -> dict[str, object]:
            owner = {"email": owner_email, "name": owner_name, "password": password}
            return {
                "slug": slug,
                "name": name,
                "timezone": timezone,
                "locale": locale,
                "placement": isolation,
                "owner": owner,
            }

        return await with_password(
            owner_password, lambda password: api.post("/api/landlord/tenants", body(password))
        )

    made, password = admin.administer(url, token, work)
    show(
        {
            "tenant": made["slug"],
            "id": made["id"],
            "placement": made["placement"],
            "owner": owner_email,
            "owner id": made["owner_id"],
        }
    )
    show_once("password", password)
