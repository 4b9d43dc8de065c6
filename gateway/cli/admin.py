"""Where administrative commands find the server that they speak to.

    --url and --token    that server, with that token
    a running server     of this data directory, by the `server.json` that it keeps there
    neither              the system is started in this process on free ports, called, and stopped

In each case a command makes the same HTTP calls.

Promises   A command never starts a second system beside a live one on the same data directory: while the
           process in `server.json` lives, it is either spoken to or the command is refused.
"""

import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import click
import msgspec
import trio
from msgspec import Struct, structs

from engine.errors import InvalidInput, Unavailable
from gateway.cli.api import Api
from gateway.cli.running import run
from gateway.logging import configure_logging
from gateway.settings import Settings, read_settings

FILE_NAME: Final = "server.json"
PROBE_SECONDS_MAX: Final = 5.0
"""A live server answers its health check in milliseconds; a busy machine is given some patience."""

P = ParamSpec("P")
T = TypeVar("T")


class ServerFile(Struct, frozen=True, kw_only=True):
    """What a running server says of itself in its data directory, readable by its owner alone."""

    pid: int
    base_url: str
    operator_url: str
    token: str


class Target(Struct, frozen=True, kw_only=True):
    """What a person asked for. Both or neither."""

    url: str | None
    token: str | None

    def __post_init__(self) -> None:
        if (self.url is None) != (self.token is None):
            raise InvalidInput("--url and --token go together: the token belongs to one server.")


def options(command: Callable[P, T]) -> Callable[Concatenate[str | None, str | None, P], T]:
    """Gives a command --url and --token, as parameters `url` and `token`."""
    url = click.option("--url", help="A server elsewhere; without it, the one of MIJRA_DATA_DIR.")
    token = click.option(
        "--token", envvar="MIJRA_TOKEN", show_envvar=True, help="A token for that server, <id>|<secret>."
    )
    decorated: Any = url(token(command))
    result: Callable[Concatenate[str | None, str | None, P], T] = decorated
    return result


def administer(url: str | None, token: str | None, work: Callable[[Api], Awaitable[T]]) -> T:
    """Find the server, let `work` make its calls there, and return what it returns.

    `token` counts only with `url`: it may be in the environment for other commands' sake."""
    target = Target(url=url, token=token if url is not None else None)

    async def main() -> T:
        async with administration(target, read_settings(os.environ)) as api:
            return await work(api)

    return run(main)


@asynccontextmanager
async def administration(target: Target, settings: Settings) -> AsyncIterator[Api]:
    """The way to the server. Raises Unavailable when one is there and does not answer."""
    if target.url is not None:
        async with Api(target.url, target.token) as api:
            yield api
        return
    found = live_server(settings.data_dir)
    if found is not None:
        await _check_answers(found, settings.data_dir)
        async with Api(found.base_url, found.token) as api:
            yield api
        return
    # Imported here, because finding a running server needs neither web framework nor database driver.
    from gateway.boot import running

    configure_logging("warning", settings.log_format, sys.stderr.buffer)
    alone = structs.replace(settings, host="127.0.0.1", port=0, operator_host="127.0.0.1", operator_port=0)
    async with running(alone) as system, Api(system.base_url, system.local_token) as api:
        yield api


def live_server(data_dir: Path) -> ServerFile | None:
    """What `server.json` says when its process lives; None when there is none or a dead one left it."""
    path = data_dir / FILE_NAME
    try:
        found = msgspec.json.decode(path.read_bytes(), type=ServerFile)
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise Unavailable(f"{path} belongs to another user: run this as the server's user.") from error
    except msgspec.DecodeError:
        return None  # cut off by a crash while it was written; its server never got ready
    # After a restart of a container the same small number may well be our own.
    return found if found.pid != os.getpid() and _is_alive(found.pid) else None


async def _check_answers(found: ServerFile, data_dir: Path) -> None:
    try:
        with trio.fail_after(PROBE_SECONDS_MAX):
            async with Api(found.base_url, found.token) as api:
                await api.get("/api/landlord/tenants", limit=1)
    except (Unavailable, trio.TooSlowError) as error:
        raise Unavailable(
            f"Process {found.pid} does not answer at {found.base_url}. If it is a server that is starting or "
            f"stopping, wait for it; if it is another program, remove {data_dir / FILE_NAME}."
        ) from error


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
