"""Passwords and keys on the command line: asked for, taken from the environment, or made.

What stands in an argument can be read by everybody on the machine and stays in the shell's history, so every
secret option may be left out.
"""

import secrets
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final

import click

from engine.errors import InvalidInput

PASSWORD_BYTES: Final = 15
"""120 bits in 20 characters that survive copying."""


def new_password() -> str:
    return secrets.token_urlsafe(PASSWORD_BYTES)


def asked(option: str, value: str | None) -> str:
    """The option's value, else what is typed without echo. Raises UsageError where nobody can be asked."""
    if value:
        return value
    if not sys.stdin.isatty():
        raise click.UsageError(f"{option} is needed: as an option, from the environment, or typed.")
    typed: str = click.prompt(option.removeprefix("--").replace("-", " ").capitalize(), hide_input=True)
    return typed


async def with_password(
    given: str | None, create: Callable[[str | None], Awaitable[Any]]
) -> tuple[Any, str | None]:
    """What `create(password)` returns, and the password if one was made here.

    Somebody who has a login keeps its password, so the first try is made without one, and only when the
    server says that it needs one is it made."""
    if given is not None:
        return await create(given), None
    try:
        return await create(None), None
    except InvalidInput as error:
        if not any(field.endswith("password") for field in error.fields):
            raise
    made = new_password()
    return await create(made), made
