"""The `mijra` command: one file per subcommand, each with a click command named `command`.

Commands are imported when they are called, so that `mijra logs` does not pay for the web server and a broken
one does not take the others with it. Together with `gateway.boot` this package is the composition root: it
may import everything, and nothing imports it.

Errors of the project's tree end the process with their sentence on standard error and status 1; a wrong
option with click's usage and status 2.
"""

import importlib
from collections.abc import Mapping
from typing import Any, Final

import click

from engine.errors import Defect, MijraError

# Name to module, in the order of `mijra --help`. To add a command, add its file and a row here.
COMMANDS: Final[Mapping[str, str]] = {
    "serve": "gateway.cli.serve",
    "demo": "gateway.cli.demo",
    "dev": "gateway.cli.dev",
    "migrate": "gateway.cli.migrate",
    "tenant": "gateway.cli.tenants",
    "user": "gateway.cli.users",
    "token": "gateway.cli.tokens",
    "channel": "gateway.cli.channels",
    "simulate": "gateway.cli.simulate",
    "logs": "gateway.cli.logs",
}


class LazyGroup(click.Group):
    """A group whose commands live in modules (name to module) that are imported on first use."""

    def __init__(self, *args: Any, modules: Mapping[str, str], **options: Any) -> None:
        super().__init__(*args, **options)
        self._modules = modules

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._modules:
            return None
        command = importlib.import_module(self._modules[cmd_name]).command
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Defect:
            raise  # our bug: the traceback is the useful part
        except MijraError as error:
            raise click.ClickException(error.message) from error


@click.group(cls=LazyGroup, modules=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mijra", prog_name="mijra")
def main() -> None:
    """A multi-tenant, omni-channel customer messaging engine."""
