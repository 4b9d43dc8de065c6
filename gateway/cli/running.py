"""How a command enters the loop and leaves it.

Promises   An error of the project's tree that ends a command arrives as itself, and not inside the groups
           that nurseries make of it, so that the person reads one sentence. SIGINT and SIGTERM end a command
           that waits for them in order; a second one ends it at once.
"""

import errno
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final, TypeVar, TypeVarTuple

import trio

from engine.errors import Defect, MijraError, Unavailable
from gateway.settings import variable

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_PORT_TROUBLE: Final = (errno.EADDRINUSE, errno.EACCES, errno.EADDRNOTAVAIL)
_FILE_TROUBLE: Final = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.ENOTDIR)
"""A file, directory or program, which the error names; a port has no name."""


def run(main: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
    """Run a command's asynchronous part.

    Raises the one error that it failed with when that is of the tree; anything else, and a Defect, as it is,
    because then the traceback is the useful part."""
    try:
        return trio.run(main, *args)
    except (BaseExceptionGroup, OSError) as error:
        only = _only(error)
        if isinstance(only, OSError) and only.errno in _FILE_TROUBLE and only.filename is not None:
            raise Unavailable(f"{only.filename} cannot be used ({only.strerror}).") from only
        if isinstance(only, OSError) and only.errno in _PORT_TROUBLE and only.filename is None:
            raise Unavailable(
                f"A port cannot be listened on ({only.strerror}): stop what holds it, or choose another by "
                f"--port, {variable('port')} or {variable('operator_port')}; 0 takes a free one."
            ) from only
        if isinstance(only, KeyboardInterrupt) or (
            isinstance(only, MijraError) and not isinstance(only, Defect)
        ):
            raise only from None
        raise


def _only(error: BaseException) -> BaseException | None:
    """The one error at the bottom of nested groups; None when there are several."""
    while isinstance(error, BaseExceptionGroup):
        if len(error.exceptions) != 1:
            return None
        error = error.exceptions[0]
    return error


@asynccontextmanager
async def until_signalled() -> AsyncIterator[trio.Event]:
    """Gives an event that the first SIGTERM or SIGINT sets; the block leaves in its own order.

    The second signal cancels the block, for whoever has lost patience with it."""
    asked = trio.Event()
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:

            async def listen() -> None:
                async for _ in signals:
                    if asked.is_set():
                        nursery.cancel_scope.cancel()
                    asked.set()

            nursery.start_soon(listen)
            yield asked
            nursery.cancel_scope.cancel()
