"""Telling a conversation what became of something, until it has made it durable."""

from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, Final, Protocol

import trio

from engine.errors import ActorStopped, MijraError, Unavailable
from engine.runtime import Address

_ASK_SECONDS_MAX: Final = 30.0
_BACKOFF_SECONDS: Final = (0.2, 10.0)
"""First and longest wait between two askings of a conversation that cannot answer (store away,
overloaded)."""


class Ask(Protocol):
    """`System.ask`, which the root passes in (the system is made after the specs)."""

    def __call__(self, address: Address, message: object, *, timeout_seconds: float) -> Awaitable[Any]: ...


class Leaving(Exception):
    """We are stopping and the conversation has stopped: what is not reported stays open in the store."""


async def report(
    ask: Ask,
    address: Address,
    message: object,
    *,
    random: Random,
    closing: Callable[[], bool],
    delayed: Callable[[Unavailable, float], None],
) -> MijraError | None:
    """Asks until there is an answer: None when the verdict is durable, else why the conversation never will.

    Anything that waiting helps is waited for, however long (a verdict is repeated after a timeout, so taking
    it must be idempotent); `delayed` is told each time. Raises `Leaving`. When cancelled, the verdict may be
    durable.
    """
    wait, most = _BACKOFF_SECONDS
    while True:
        try:
            await ask(address, message, timeout_seconds=_ASK_SECONDS_MAX)
        except Unavailable as error:
            if closing() and isinstance(error, ActorStopped):
                raise Leaving from error
            delayed(error, wait)
        except MijraError as error:
            return error
        else:
            return None
        await trio.sleep(wait * (1.0 + 0.2 * random.random()))
        wait = min(most, wait * 2)
