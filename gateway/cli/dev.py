"""`mijra dev`: a system that is ready to be tried, driven by a script, or developed against.

It is the real server on the real database; only the platform is played, by a simulator in this process that
says nothing until it is told to. With --json, standard output carries one line and nothing else.
"""

import os
import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click
import msgspec
from msgspec import Struct, structs

from adapters.simulators import Simulator
from engine.errors import InvalidInput, Unavailable
from gateway.cli.admin import live_server
from gateway.cli.api import Api
from gateway.cli.running import run, until_signalled
from gateway.cli.sandbox import (
    EMAIL,
    TENANT,
    Person,
    Ready,
    Sandbox,
    account_of,
    connect_simulator,
    remember,
)
from gateway.logging import configure_logging
from gateway.settings import Settings, read_settings, variable

if TYPE_CHECKING:
    from gateway.boot import Running


class Wish(Struct, frozen=True, kw_only=True):
    """What the options ask for."""

    as_json: bool
    simulator_url: str | None


@click.command("dev")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line when ready, and nothing else.")
@click.option(
    "--port", type=click.IntRange(0, 65_535), help="The public port; 0 takes free ones for everything."
)
@click.option(
    "--simulator-url",
    metavar="URL",
    help="Another stand-in for WhatsApp, such as `mijra simulate`; without it, one is started in here.",
)
def command(as_json: bool, port: int | None, simulator_url: str | None) -> None:
    """Start a ready system: the tenant "demo", an agent, and a WhatsApp account played by a simulator.

    Data, keys and token stay in MIJRA_DATA_DIR and come back at the next start. Logs go to standard error.
    Runs until SIGTERM or Ctrl-C.
    """
    settings = read_settings(os.environ)
    # Absolute, because the line names the database's socket, and its readers may be anywhere.
    settings = structs.replace(settings, data_dir=settings.data_dir.resolve())
    if port is not None:
        settings = structs.replace(settings, port=port)
    if port is not None and not os.environ.get(variable("operator_port")):
        # Who chooses the public port runs several of these, and the fixed default would be taken.
        settings = structs.replace(settings, operator_port=0)
    if simulator_url is not None and urlsplit(simulator_url).scheme not in ("http", "https"):
        raise click.BadParameter("must look like http://127.0.0.1:9000", param_hint="--simulator-url")
    configure_logging(settings.log_level, settings.log_format, sys.stderr.buffer)
    run(_develop, settings, Wish(as_json=as_json, simulator_url=simulator_url))


async def _develop(settings: Settings, wish: Wish) -> None:
    # Imported here, so that a mistake in an option is told at once.
    from gateway.boot import running

    other = live_server(settings.data_dir)
    if other is not None:
        raise Unavailable(
            f"Process {other.pid} runs a server on {settings.data_dir} already, at {other.base_url}."
        )
    remembered = remember(settings.data_dir)
    async with AsyncExitStack() as stack:
        asked = await stack.enter_async_context(until_signalled())
        keys, simulator = remembered.whatsapp, None
        if wish.simulator_url is not None:
            simulator_url = wish.simulator_url.rstrip("/")
            keys = await account_of(simulator_url) or keys
        else:
            simulator = await stack.enter_async_context(Simulator([keys.account()]).running())
            simulator_url = simulator.base_url
        system = await stack.enter_async_context(running(_trusting(settings, simulator_url)))
        landlord = await stack.enter_async_context(Api(system.base_url, system.local_token))
        sandbox = Sandbox(landlord, settings.data_dir, remembered, keys)
        token, owner_id, pusher = await sandbox.prepare(simulator_url)
        callback_url = f"{system.base_url}/api/webhooks/whatsapp"
        if simulator is not None:
            await simulator.connect(callback_url)
        else:
            await connect_simulator(simulator_url, keys, callback_url)
        ready = Ready(
            base_url=system.base_url,
            ws_url=system.ws_url,
            operator_url=system.operator_url,
            simulator_url=simulator_url,
            tenant=TENANT,
            token=token,
            agent=Person(id=owner_id, email=EMAIL, password=remembered.password),
            whatsapp=keys,
            database_url=await _database_of(system),
            pusher=pusher,
        )
        click.echo(msgspec.json.encode(ready) if wish.as_json else page(ready))
        await asked.wait()


async def _database_of(system: "Running") -> str:
    """The tenant's own database, as the server's user: what a tool that looks at the rows wants to open."""
    tenant = await system.landlord.tenant(TENANT)
    assert tenant is not None, "it was prepared just now"
    return urlsplit(system.database_url)._replace(path=f"/{tenant.database}").geturl()


def _trusting(settings: Settings, simulator_url: str) -> Settings:
    """Media come from the simulator, whose address is private and would be refused otherwise."""
    parts = urlsplit(simulator_url)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise InvalidInput(f"{simulator_url} has no usable port.") from error
    host = f"{parts.hostname}:{port}"
    return structs.replace(settings, allow_private_media_hosts=(*settings.allow_private_media_hosts, host))


def page(ready: Ready) -> str:
    """What a person needs to take the first steps."""
    api = f"{ready.base_url}/api/{ready.tenant}"
    return f"""
Mijra is ready.

  API          {api}
  reference    {ready.base_url}/api/docs
  WebSocket    {ready.ws_url}
  Pusher       app {ready.pusher.app_id}, key {ready.pusher.key}, secret {ready.pusher.secret}
  operator     {ready.operator_url}/health/ready   {ready.operator_url}/metrics
  simulator    {ready.simulator_url}   plays WhatsApp number {ready.whatsapp.phone_number_id}
  agent        {ready.agent.email}   password {ready.agent.password}
  token        {ready.token}

A customer writes:
  curl {ready.simulator_url}/__sim/messages -d '{{"from": "15550100123", "text": "Is this in stock?"}}'

The agent's inbox:
  curl {api}/conversations -H 'Authorization: Bearer {ready.token}'

The agent answers (put the conversation's id in place of ID):
  curl {api}/conversations/ID/messages -H 'Authorization: Bearer {ready.token}' \\
    -H 'Content-Type: application/json' -d '{{"type": "text", "content": "Yes, it is."}}'

Ctrl-C stops it; data and keys stay.
"""
