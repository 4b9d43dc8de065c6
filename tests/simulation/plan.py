"""A scenario: what is to happen on one day, made from a seed and small enough to be shrunk.

Every operation has a number of its own from which everything random about it follows, so the others stay
what they are when it is left out.
"""

from random import Random
from typing import Final

from msgspec import Struct

from tests.simulation.chance import EVENTS, FAULTS, FLOOD

BUSY_SECONDS: Final = 25.0
HOURS_MAX: Final = 6.0

_KINDS: Final = {"write": 30, "order": 26, "team": 3}
"""What people do, and how often beside one another."""


class Operation(Struct, frozen=True):
    """At `at` seconds of the day `kind` happens; `number` decides the rest."""

    at: float
    kind: str
    number: int


class Scenario(Struct, frozen=True, kw_only=True):
    """`without`: kinds of faults that are left out. `operations` None: all that the seed plans."""

    seed: int
    without: frozenset[str] = frozenset()
    operations: tuple[Operation, ...] | None = None

    def planned(self) -> tuple[Operation, ...]:
        operations = plan(self.seed) if self.operations is None else self.operations
        return tuple(one for one in operations if one.kind not in self.without)


def plan(seed: int) -> tuple[Operation, ...]:
    """A day of some hours: a few busy stretches with pauses between them, and what breaks in them."""
    random = Random(f"{seed}/plan")
    starts = sorted(random.uniform(0.0, HOURS_MAX * 3600.0) for _ in range(random.randint(2, 4)))
    starts[0] = 0.0
    operations: list[Operation] = []
    for start in starts:
        for _ in range(random.randint(5, 18)):
            kind = random.choices(list(_KINDS), list(_KINDS.values()))[0]
            at = start + random.uniform(0.0, BUSY_SECONDS)
            operations.append(Operation(at, kind, random.getrandbits(32)))
    chosen = [kind for kind in EVENTS if random.random() < 0.35]
    for kind in chosen:
        for _ in range(random.choice((1, 1, 2))):
            at = random.choice(starts) + random.uniform(0.0, BUSY_SECONDS + 10.0)
            operations.append(Operation(at, kind, random.getrandbits(32)))
    floods = Random(f"{seed}/floods")
    if floods.random() < 0.35:
        at = floods.choice(starts) + floods.uniform(0.0, BUSY_SECONDS)
        operations.append(Operation(at, FLOOD, floods.getrandbits(32)))
    return tuple(sorted(operations, key=lambda one: (one.at, one.number)))


def fault_kinds() -> tuple[str, ...]:
    return (*EVENTS, FLOOD, *FAULTS)
