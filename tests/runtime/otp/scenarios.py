"""Scripted crashes: a supervision tree and what happens to its workers, as data, for OTP and for our runtime.

The fixed ones are one rule each; the generated ones mix them, by seed.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Final, Literal

from msgspec import Struct

RestartName = Literal["permanent", "transient", "temporary"]
StrategyName = Literal["one_for_one", "one_for_all", "rest_for_one"]

RESTARTS: Final[Sequence[RestartName]] = ("permanent", "transient", "temporary")
STRATEGIES: Final[Sequence[StrategyName]] = ("one_for_one", "one_for_all", "rest_for_one")

FOR_EVER_SECONDS: Final = 3600
"""A window that no scenario outlives, however busy the machine is."""
PERIOD_SECONDS: Final = 4
WAIT_SECONDS: Final = 5.5
"""OTP counts in whole seconds, so this is surely past the window."""


class Leaf(Struct, frozen=True, tag="worker"):
    """A stubborn one does not stop when it is asked to, and is killed."""

    name: str
    restart: RestartName = "permanent"
    stubborn: bool = False


class Branch(Struct, frozen=True, tag="sup"):
    name: str
    strategy: StrategyName
    children: "tuple[Leaf | Branch, ...]"
    intensity: int = 100
    period: int = FOR_EVER_SECONDS
    restart: RestartName = "permanent"


class Step(Struct, frozen=True):
    """`crash` or `end` a worker (nothing when it does not run), or `wait` past the window."""

    what: Literal["crash", "end", "wait"]
    name: str = ""


class Scenario(Struct, frozen=True):
    id: str
    tree: Branch
    steps: tuple[Step, ...]


def as_erlang(scenario: Scenario) -> str:
    """The term that supervisor.escript reads."""
    steps = ",".join(
        f"{{wait,{round(WAIT_SECONDS * 1000)}}}"
        if step.what == "wait"
        else f"{{'{step.what}',\"{step.name}\"}}"
        for step in scenario.steps
    )
    return f'{{"{scenario.id}",{_tree(scenario.tree)},[{steps}]}}.'


def _tree(node: Leaf | Branch) -> str:
    if isinstance(node, Leaf):
        return f'{{worker,"{node.name}",{node.restart},{"stubborn" if node.stubborn else "quick"}}}'
    children = ",".join(map(_tree, node.children))
    flags = f"{node.strategy},{node.intensity},{node.period},{node.restart}"
    return f'{{sup,"{node.name}",{flags},[{children}]}}'


# ── one rule each ────────────────────────────────────────────────────────────────────────────────────


def fixed() -> Iterator[Scenario]:
    """Each strategy with each restart type; limits, windows, escalation, stubborn children."""
    abc = tuple(Leaf(name) for name in "abc")
    for strategy in STRATEGIES:
        for restart in RESTARTS:
            tree = Branch("top", strategy, (Leaf("a"), Leaf("b", restart), Leaf("c")))
            for what in ("crash", "end"):
                yield Scenario(f"{strategy} {restart} {what}", tree, _steps(f"{what} b"))
            yield Scenario(f"{strategy} beside {restart}", tree, _steps("end b, crash a, crash c"))
        limited = Branch("top", strategy, abc, intensity=2)
        yield Scenario(f"{strategy} at the limit", limited, _steps("crash b, crash c"))
        yield Scenario(f"{strategy} over the limit", limited, _steps("crash b, crash c, crash a"))
        never = Branch("top", strategy, abc, intensity=0)
        yield Scenario(f"{strategy} without restarts", never, _steps("crash b"))
        window = Branch("top", strategy, abc, intensity=1, period=PERIOD_SECONDS)
        yield Scenario(f"{strategy} window", window, _steps("crash a, wait, crash b, crash c"))
        stubborn = Branch("top", strategy, (Leaf("a"), Leaf("b", stubborn=True), Leaf("c")))
        yield Scenario(f"{strategy} stubborn", stubborn, _steps("crash a, crash c, crash b"))
        for restart in RESTARTS:
            group = Branch("group", strategy, abc, intensity=1, restart=restart)
            tree = Branch("top", "rest_for_one", (Leaf("x"), group, Leaf("y")), intensity=1)
            yield Scenario(f"{strategy} escalates {restart}", tree, _steps("crash b, crash b, crash a"))
            twice = "crash a, crash a, crash b, crash b, crash c"
            yield Scenario(f"{strategy} escalates {restart} to the top", tree, _steps(twice))


def _steps(text: str) -> tuple[Step, ...]:
    return tuple(Step(*word.split()) for word in text.split(", "))  # type: ignore[arg-type]


# ── all of them mixed ────────────────────────────────────────────────────────────────────────────────


def generated(seed: int) -> Scenario:
    """A tree of up to three levels and a dozen things that happen to it."""
    rng = random.Random(seed)
    names = iter("abcdefghijklmnopqrstuvwxyz")
    workers: list[str] = []

    def leaf() -> Leaf:
        name = next(names)
        workers.append(name)
        return Leaf(name, rng.choice(RESTARTS), stubborn=rng.random() < 0.1)

    def branch(name: str, depth: int) -> Branch:
        children: list[Leaf | Branch] = []
        for number in range(rng.randint(1, 4 - depth)):
            nested = depth < 2 and rng.random() < 0.4
            children.append(branch(f"{name}{number}", depth + 1) if nested else leaf())
        restart = "permanent" if name == "s" else rng.choice(RESTARTS)
        strategy = rng.choice(STRATEGIES)
        return Branch(name, strategy, tuple(children), intensity=rng.randint(0, 4), restart=restart)

    tree = branch("s", 0)
    steps = tuple(
        Step("crash" if rng.random() < 0.75 else "end", rng.choice(workers))
        for _ in range(rng.randint(3, 12))
    )
    return Scenario(f"seed {seed}", tree, steps)
