"""Supervision as the specification has it: who may crash, how soon anything is tried again, who is harmed."""

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import trio

from engine.runtime.specs import DECIDER_BACKOFF, WORKER_BACKOFF
from tests.simulation.database import POISON

if TYPE_CHECKING:
    from engine.runtime import Address, DeadLetter
    from tests.simulation.process import Process
    from tests.simulation.world import World

PLANNED = "the model store answers with nonsense"
QUICK_RESTARTS_MAX = 9
"""In ten seconds, with the backoff of workers and deciders (engine/runtime/specs.py says seven to nine)."""


class Supervision:
    def __init__(self, world: "World") -> None:
        self.world = world
        self._restarts: dict[tuple[int, str], list[float]] = defaultdict(list)

    def crashed(self, process: "Process", address: "Address", error: BaseException) -> None:
        if PLANNED not in str(error):
            self.world.violate("supervision", f"{address} crashed: {error!r}")

    def worker_crashed(self, process: "Process", path: str, error: BaseException) -> None:
        if PLANNED not in _all_of(error):
            self.world.violate("supervision", f"{path} crashed: {error!r}")

    def load_failed(self, process: "Process", address: "Address", delay_seconds: float) -> None:
        self._delayed(process, str(address), delay_seconds, DECIDER_BACKOFF.first_seconds)

    def restarting(self, process: "Process", path: str, delay_seconds: float) -> None:
        self._delayed(
            process, path, delay_seconds, min(DECIDER_BACKOFF.first_seconds, WORKER_BACKOFF.first_seconds)
        )

    def _delayed(self, process: "Process", path: str, delay_seconds: float, least: float) -> None:
        if process.dead:
            return
        if delay_seconds < least * 0.79:
            self.world.violate("supervision", f"{path} is tried again after {delay_seconds:.3f} s")
        now = trio.current_time()
        times = self._restarts[process.number, path]
        times.append(now)
        del times[: -QUICK_RESTARTS_MAX - 1]
        if len(times) > QUICK_RESTARTS_MAX and now - times[0] < 10.0:
            self.world.violate("supervision", f"{path} is restarted without pause")

    def escalated(self, process: "Process", path: str, error: BaseException | None) -> None:
        self.world.violate("supervision", f"{path} gave up: {error!r}")

    def parked(self, process: "Process", letter: "DeadLetter") -> None:
        if POISON not in str(letter.message):
            self.world.violate(
                "supervision", f"{letter.address} parked {letter.message!r:.300}: {letter.error[-600:]}"
            )
        elif letter.attempts < 3:
            # More are lawful: a look-up that crashed counts beside the commits that were refused.
            self.world.violate("supervision", f"poison was parked after {letter.attempts} tries")

    def undeliverable(self, process: "Process", address: "Address", message: Any, reason: str) -> None:
        owner = self.world.databases[address.tenant].owners.get(address.tenant)
        fenced_off = owner is not None and owner.node != f"n{process.number}"
        # One that was fenced off discards what it has, as it should. Without leases that may also be the
        # newest: its predecessor may take the tenant after it.
        if not process.dead and process is self.world.newest and not fenced_off:
            self.world.violate("supervision", f"{address} lost {message!r:.300}: {reason}")


def _all_of(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return " ".join(_all_of(one) for one in error.exceptions)
    return str(error)
