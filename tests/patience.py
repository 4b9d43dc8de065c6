"""How tests wait in real time: for a state, and with one bound that no honest machine reaches."""

from collections.abc import Callable
from typing import Final

import trio

PATIENCE_SECONDS: Final = 60.0
"""What should happen at once may take seconds on a machine that does many other things. Only a test that is
about to fail waits this long."""


async def until(holds: Callable[[], object]) -> None:
    """Returns when `holds` says something true. Raises TooSlowError when that takes too long."""
    with trio.fail_after(PATIENCE_SECONDS):
        while not holds():  # noqa: ASYNC110  # what is waited for has no event of its own
            await trio.sleep(0.005)
