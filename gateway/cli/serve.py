"""`mijra serve`: the server, as the environment describes it."""

import os

import click
import structlog
import trio

from gateway.cli.running import run, until_signalled
from gateway.logging import configure_logging
from gateway.settings import Settings, read_settings, unknown_variables


@click.command("serve")
def command() -> None:
    """Run the server until SIGTERM or Ctrl-C.

    Everything is set by MIJRA_ variables (see the README); logs go to standard output. The first signal stops
    it in order and loses nothing, the second at once.
    """
    settings = read_settings(os.environ)
    configure_logging(settings.log_level, settings.log_format)
    log = structlog.get_logger()
    for sentence in unknown_variables(os.environ):
        log.warning("settings.unknown", advice=sentence)
    run(_serve, settings)


async def _serve(settings: Settings) -> None:
    # Imported here: a mistake in the environment is told in a fraction of the time that this takes.
    from gateway.boot import running

    log = structlog.get_logger()
    async with until_signalled() as asked:
        try:
            async with running(settings) as system:
                log.info(
                    "server.ready",
                    base_url=system.base_url,
                    ws_url=system.ws_url,
                    operator_url=system.operator_url,
                )
                await asked.wait()
                log.info("server.stopping")
            log.info("server.stopped")
        except trio.Cancelled:
            log.warning("server.stopped_at_once")
            raise
