"""`mijra serve`: the server, as the environment describes it."""

import os

import click
import structlog

from gateway.cli.running import run
from gateway.logging import configure_logging
from gateway.settings import read_settings, unknown_variables


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
    # Imported here: a mistake in the environment is told in a fraction of the time that this takes.
    from gateway.boot import serve

    run(serve, settings)
