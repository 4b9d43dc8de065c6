"""`mijra dev`: a system that is ready to be tried, driven by a script, or developed against.

It is the real server on the real database; only the platforms are played, by simulators in this process that
say nothing until they are told to. With --json, standard output carries one line and nothing else.
"""

import os
import sys
from collections.abc import Iterable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import click
import msgspec
import trio
from msgspec import Struct, structs

from adapters.port import Adapter, Play
from adapters.registry import adapters
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
    played_by,
    remember,
    spellings,
    stand_ins,
)
from gateway.logging import configure_logging
from gateway.settings import Settings, read_settings, variable

if TYPE_CHECKING:
    from gateway.boot import Running


LISTENING_SECONDS_MAX: Final = 5.0
"""A listener starts at once or is in trouble, which the log tells; the rest is ready without it."""


class Wish(Struct, frozen=True, kw_only=True):
    """What the options ask for."""

    as_json: bool
    simulator_urls: dict[str, str]


@click.command("dev")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line when ready, and nothing else.")
@click.option(
    "--port", type=click.IntRange(0, 65_535), help="The public port; 0 takes free ones for everything."
)
@click.option(
    "--simulator-url",
    "simulator_urls",
    metavar="[PLATFORM=]URL",
    multiple=True,
    help="Another stand-in for a platform, such as `mijra simulate`; for the others one is started in here. "
    f"Without a name it plays {next(iter(stand_ins()))}.",
)
def command(as_json: bool, port: int | None, simulator_urls: tuple[str, ...]) -> None:
    """Start a ready system: the tenant "demo", an agent, and an account on each platform, played by a
    simulator.

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
    given = dict(_named(each) for each in simulator_urls)
    configure_logging(settings.log_level, settings.log_format, sys.stderr.buffer)
    run(_develop, settings, Wish(as_json=as_json, simulator_urls=given))


def _named(given: str) -> tuple[str, str]:
    """Platform and URL. Raises BadParameter."""
    name, equals, url = given.partition("=")
    if not equals or "/" in name:
        name, url = next(iter(stand_ins())), given
    if urlsplit(url).scheme not in ("http", "https"):
        raise click.BadParameter("must look like http://127.0.0.1:9000", param_hint="--simulator-url")
    for played in stand_ins():
        if name in spellings(played):
            return played, url.rstrip("/")
    known = ", ".join(stand_ins())
    raise click.BadParameter(
        f"there is no platform {name:.40}; there are {known}", param_hint="--simulator-url"
    )


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
        keys, simulators, urls = dict(remembered.accounts), {}, dict(wish.simulator_urls)
        elsewhere = []
        for name, stand_in in stand_ins().items():
            if name in urls:
                account = await account_of(name, urls[name])
                if account is not None:
                    keys[name] = account
                    elsewhere.append(name)
                continue
            played = stand_in.simulator(Play(accounts=[keys[name]], habits="open"))
            simulators[name] = await stack.enter_async_context(played.running())
            urls[name] = simulators[name].base_url
        trusting = _trusting(settings, urls.values())
        system = await stack.enter_async_context(running(_listening(trusting)))
        landlord = await stack.enter_async_context(Api(system.base_url, system.local_token))
        sandbox = Sandbox(landlord, settings.data_dir, remembered, keys)
        prepared = await sandbox.prepare(urls)
        for name, connected in prepared.channels.items():
            if name in simulators:
                await simulators[name].connect(connected.webhook_url)
            elif name in elsewhere:
                await connect_simulator(urls[name], connected.webhook_url)
        await _until_listening(system)
        ready = Ready(
            base_url=system.base_url,
            ws_url=system.ws_url,
            operator_url=system.operator_url,
            simulator_url=urls[next(iter(keys))],
            tenant=TENANT,
            token=prepared.token,
            agent=Person(id=prepared.owner_id, email=EMAIL, password=remembered.password),
            platforms={
                name: {
                    **keys[name],
                    "account_id": keys[name][played_by(name).platform.connection.account.name],
                    "channel_id": connected.id,
                    "webhook_url": connected.webhook_url,
                    "simulator_url": urls[name],
                    **_listener_urls(system, played_by(name)),
                }
                for name, connected in prepared.channels.items()
            },
            database_url=await _database_of(system),
            pusher=prepared.pusher,
        )
        click.echo(ready.line() if wish.as_json else page(ready))
        await asked.wait()


async def _database_of(system: "Running") -> str:
    """The tenant's own database, as the server's user: what a tool that looks at the rows wants to open."""
    tenant = await system.landlord.tenant(TENANT)
    assert tenant is not None, "it was prepared just now"
    return urlsplit(system.database_url)._replace(path=f"/{tenant.database}").geturl()


def _listening(settings: Settings) -> Settings:
    """Whatever channels can listen on is there to be tried; on free ports unless the operator says where."""
    names = [name for each in adapters().values() for name in each.listeners]
    return structs.replace(settings, listen={**dict.fromkeys(names, ("127.0.0.1", 0)), **settings.listen})


async def _until_listening(system: "Running") -> None:
    with trio.move_on_after(LISTENING_SECONDS_MAX):
        while system.settings.listen.keys() - system.listening.keys():  # noqa: ASYNC110  # has no event
            await trio.sleep(0.02)


def _listener_urls(system: "Running", adapter: Adapter) -> dict[str, str]:
    """Where those of this platform are, by `NAME_url`; what could not be listened on is left out."""
    return {
        f"{name}_url": f"{name}://{system.listening[name]}"
        for name in adapter.listeners
        if name in system.listening
    }


def _trusting(settings: Settings, simulator_urls: Iterable[str]) -> Settings:
    """Media come from the simulators, whose addresses are private and would be refused otherwise."""
    hosts = []
    for url in simulator_urls:
        parts = urlsplit(url)
        try:
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError as error:
            raise InvalidInput(f"{url} has no usable port.") from error
        hosts.append(f"{parts.hostname}:{port}")
    allowed = (*settings.allow_private_media_hosts, *hosts)
    return structs.replace(settings, allow_private_media_hosts=allowed)


def page(ready: Ready) -> str:
    """What a person needs to take the first steps."""
    api = f"{ready.base_url}/api/{ready.tenant}"
    played = "\n".join(
        f"  {played_by(name).platform.label:<16} {keys['simulator_url']}"
        for name, keys in ready.platforms.items()
    )
    writes = "\n".join(
        f"  curl {ready.platforms[name]['simulator_url']}/__sim/messages -d '{_json(stand_in.example())}'"
        for name, stand_in in stand_ins().items()
    )
    return f"""
Mijra is ready.

  API          {api}
  reference    {ready.base_url}/api/docs
  WebSocket    {ready.ws_url}
  Pusher       app {ready.pusher.app_id}, key {ready.pusher.key}, secret {ready.pusher.secret}
  operator     {ready.operator_url}/health/ready   {ready.operator_url}/metrics
  agent        {ready.agent.email}   password {ready.agent.password}
  token        {ready.token}

Played platforms:
{played}

A customer writes:
{writes}

The agent's inbox:
  curl {api}/conversations -H 'Authorization: Bearer {ready.token}'

The agent answers (put the conversation's id in place of ID):
  curl {api}/conversations/ID/messages -H 'Authorization: Bearer {ready.token}' \\
    -H 'Content-Type: application/json' -d '{{"type": "text", "content": "Yes, it is."}}'

Ctrl-C stops it; data and keys stay.
"""


def _json(body: object) -> str:
    return msgspec.json.encode(body).decode()
