"""What the stand-ins of all played platforms share (`adapters.port.StandIn`)."""

import secrets
from collections.abc import Mapping
from typing import Final, TypeVar

from msgspec import Struct

from adapters.port import Play
from adapters.simulators.playing.platform import Making
from adapters.simulators.settings import Settings

_DEMO: Final = Settings(
    duplicate_probability=0.05, late_probability=0.03, batch_probability=0.25, status_disorder_probability=0.1
)
"""The bad habits that the real platform has every day, except failed sends: each reply must arrive."""

HABITS: Final[Mapping[str, Settings]] = {
    "calm": Settings(),
    "demo": _DEMO,
    "open": Settings(strangers_taken=True),
    "rough": Settings().rough(),
}

A = TypeVar("A", bound=Struct)


def making_of(play: Play) -> Making:
    """With what a simulator is made."""
    return {"seed": play.seed, "settings": HABITS[play.habits], "ledger": play.ledger}


def accounts_of(play: Play, made: type[A], account_field: str) -> list[A]:
    """The accounts of the keys, which are named as the members are; `account_field` is the account's id."""
    return [
        made(
            account_id=keys[account_field],
            **{name: keys[name] for name in made.__struct_fields__ if name in keys},
        )
        for keys in play.accounts
    ]


def digits(count: int) -> str:
    """A number of so many digits, as platforms' ids are."""
    return str(10 ** (count - 1) + secrets.randbelow(9 * 10 ** (count - 1)))


def access_token() -> str:
    """A new one, plainly a simulator's."""
    return "SIM" + secrets.token_urlsafe(48)
