"""`mijra channel`: a tenant's accounts on messaging platforms."""

from typing import Any

import click

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


@connect.command("whatsapp")
@click.option("--tenant", required=True, help="The tenant's slug.")
@click.option("--name", required=True, help="What agents see.")
@click.option("--phone-number-id", required=True, help="The number's id at Meta, not the number itself.")
@click.option("--waba-id", help="The WhatsApp Business Account above it.")
@click.option(
    "--access-token", envvar="WHATSAPP_ACCESS_TOKEN", show_envvar=True, help="Asked for if left out."
)
@click.option("--app-secret", envvar="WHATSAPP_APP_SECRET", show_envvar=True, help="Asked for if left out.")
@click.option(
    "--verify-token", envvar="WHATSAPP_VERIFY_TOKEN", show_envvar=True, help="Made and shown if left out."
)
@click.option("--base-url", help="Where a stand-in plays the platform, such as a simulator.")
@admin.options
def connect_whatsapp(
    url: str | None,
    token: str | None,
    tenant: str,
    name: str,
    phone_number_id: str,
    waba_id: str | None,
    access_token: str | None,
    app_secret: str | None,
    verify_token: str | None,
    base_url: str | None,
) -> None:
    """Connect a WhatsApp number of the Cloud API.

    Prints the webhook's URL and verify token; both are entered in the app's dashboard at Meta under WhatsApp,
    Configuration.
    """
    credentials = {
        "access_token": asked("--access-token", access_token),
        "app_secret": asked("--app-secret", app_secret),
        "verify_token": verify_token,
    }
    body = {
        "platform": "whatsapp",
        "name": name,
        "external_id": phone_number_id,
        "business_account_id": waba_id,
        "credentials": credentials,
        "settings": {"base_url": base_url} if base_url else {},
    }

    async def work(api: Api) -> Any:
        return await api.post(f"/api/{tenant}/channels", body)

    made = admin.administer(url, token, work)
    show({"channel": made["name"], "id": made["id"], "webhook url": made["webhook_url"]})
    show_once("verify token", made["verify_token"])
