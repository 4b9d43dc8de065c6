"""The engine's promises over many small days, each from a seed. A day that breaks one prints its story."""

import pytest
import trio
import trio.testing
from trio._core import _run as trio_run

from tests.model.checkers import CHECKERS
from tests.model.world import World

SEEDS = 200
TIMELINE_MAX = 400


def live(seed: int, monkeypatch: pytest.MonkeyPatch) -> World:
    """One day from morning to settled, in virtual time."""
    world = World(seed)
    # Trio runs ready tasks in random order; from the seed, so that a story is told the same way again.
    monkeypatch.setattr(trio_run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)
    trio_run._r.seed(seed)

    async def day() -> None:
        await world.run()
        for check in CHECKERS:
            check(world)

    try:
        trio.run(day, clock=trio.testing.MockClock(autojump_threshold=0))
    except BaseException as error:
        error.add_note(f"seed {seed}\n" + "\n".join(world.timeline[-TIMELINE_MAX:]))
        raise
    return world


@pytest.mark.parametrize("first", range(0, SEEDS, 20))
def test_every_day_ends_with_all_promises_kept(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing answered is lost or doubled, order and counts are right, events equal the store."""
    for seed in range(first, first + 20):
        live(seed, monkeypatch)


def test_a_seed_tells_the_same_story_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two lives of one seed have the same timeline, to the millisecond."""
    assert live(5, monkeypatch).timeline == live(5, monkeypatch).timeline
