"""Chance from one seed: a stream of numbers for each purpose, and the faults that strike.

Each purpose has a stream of its own, so leaving one kind of fault out of a run changes as little as possible
of everything else; that is what makes shrinking worth its time. Strings seed the streams, through SHA-512 and
not through `hash`, so the interpreter's hash seed has no say.
"""

from collections import Counter
from collections.abc import Collection
from random import Random
from typing import Final

import trio

FAULTS: Final[dict[str, tuple[float, ...]]] = {
    # The store, for each load, transaction or write set.
    "load_failed": (0.0, 0.03),
    "load_crashed": (0.0, 0.01),
    "connection_lost": (0.0, 0.03),
    "commit_failed": (0.0, 0.03),
    "commit_lost": (0.0, 0.03),
    "commit_answer_lost": (0.0, 0.05),
    "commit_in_flight": (0.0, 0.02),
    "set_conflicted": (0.0, 0.02),
    "set_refused": (0.0, 0.01),
    "crash_before_commit": (0.0, 0.002),
    "crash_after_commit": (0.0, 0.002),
    "slow_commit": (0.0, 0.3),
    "slow_load": (0.0, 0.2),
    # Webhooks, for each delivery.
    "webhook_twice": (0.1, 0.3),
    "webhook_reordered": (0.1, 0.4),
    "webhook_late": (0.0, 0.1),
    "webhook_days_late": (0.0, 0.0, 0.02),
    "webhook_batched": (0.0, 0.3),
    "webhook_hung_up": (0.0, 0.1),
    "webhook_answer_lost": (0.0, 0.1),
    "webhook_forged": (0.0, 0.05),
    "poison": (0.0, 0.0, 0.05),
    # The platform's API, for each call.
    "send_throttled": (0.0, 0.05),
    "send_pair_limited": (0.0, 0.03),
    "send_error": (0.0, 0.05),
    "send_gateway_error": (0.0, 0.03),
    "send_hung": (0.0, 0.02),
    "send_unreachable": (0.0, 0.04),
    "send_answer_lost": (0.0, 0.05),
    "send_refused": (0.0, 0.04),
    "delivery_failed": (0.0, 0.1),
    "call_failed": (0.0, 0.1),
    "call_answer_lost": (0.0, 0.0, 0.1),
    # Clients, for each call or frame.
    "client_hung_up": (0.0, 0.1),
    "client_repeated": (0.0, 0.3),
    "screen_lost": (0.0, 0.06),
    "screen_slow": (0.0, 0.05),
    # The event log, for each answer on its way back: what is committed meanwhile is not in it.
    "log_answer_slow": (0.0, 0.3),
}
"""Kind of fault to the probabilities that a seed chooses from."""

EVENTS: Final = (
    "kill",
    "clock_jump_and_kill",
    "split",
    "outage",
    "clock_jump",
    "token_revoked",
    "log_trimmed",
    "intruder",
)
"""Faults that are planned as moments of the day, not rolled for."""


FLOOD: Final = "flood"
"""One customer writes more at once than small bounds hold (`bounds`). Planned too, by a chance of its own."""


class Chance:
    """Streams by name, and the count of what struck."""

    def __init__(self, seed: int, without: Collection[str] = ()) -> None:
        self._seed = seed
        self._streams: dict[str, Random] = {}
        levels = self.stream("levels")
        self.levels = {kind: levels.choice(among) for kind, among in FAULTS.items()}
        for kind in without:
            self.levels[kind] = 0.0
        self.calm = False
        """Set when the day is over and everything is to settle: nothing strikes any more."""
        self.struck: Counter[str] = Counter()
        self._quiet_until: dict[str, float] = {}

    def stream(self, name: str) -> Random:
        """The numbers of one purpose; the same object each time."""
        found = self._streams.get(name)
        if found is None:
            found = self._streams[name] = Random(f"{self._seed}/{name}")
        return found

    def strikes(self, kind: str) -> bool:
        """Whether this kind of fault happens now."""
        level = self.levels[kind]
        if not level or self.calm or self.stream(kind).random() >= level:
            return False
        self.struck[kind] += 1
        return True

    def uniform(self, kind: str, low: float, high: float) -> float:
        """How long, from the stream of the kind."""
        return self.stream(kind).uniform(low, high)

    async def pause(self, kind: str, usual: float, slow: float) -> None:
        """Sleeps for as long as such a step takes."""
        most = slow if self.strikes(kind) else usual
        await trio.sleep(self.uniform(kind, 0.0, most))
