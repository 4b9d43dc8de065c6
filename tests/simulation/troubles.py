"""What goes wrong between the program and its database, from the seed."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import asyncpg
import trio

from engine.errors import Defect, StoreUnavailable
from storage.batch import WriteSet
from tests.simulation.chance import Chance

if TYPE_CHECKING:
    from tests.simulation.process import Process


class StoreTroubles:
    """One database's: `database.Troubles` for its writers, `store.Reached` for its readers.

    `process_of_turn` is the process whose transaction is under way, for the crashes in the middle of it.
    """

    def __init__(self, chance: Chance, usual_seconds: float) -> None:
        self._chance = chance
        self._usual_seconds = usual_seconds
        self._victims: list[tuple[WriteSet, Exception]] = []
        self._spared: set[object] = set()
        self.away = False
        self.committing: Callable[[], Process | None] = lambda: None

    # ---------------------------------------------------------------- reading

    async def read(self) -> None:
        await self._chance.pause("slow_load", 0.01, 1.0)
        if self.away or self._chance.strikes("load_failed"):
            raise StoreUnavailable("the model store is away")
        if self._chance.strikes("load_crashed"):
            raise Defect("the model store answers with nonsense")

    async def answer(self) -> None:
        if self._chance.strikes("log_answer_slow"):
            await trio.sleep(self._chance.uniform("log_answer_slow", 0.1, 5.0))

    # ---------------------------------------------------------------- writing

    async def reach(self) -> None:
        await self._chance.pause("slow_commit", self._usual_seconds, 1.0)
        if self.away:
            raise ConnectionRefusedError("the model database is away")

    def victim(self, sets: Sequence[WriteSet]) -> tuple[WriteSet, Exception] | None:
        """Spares who was struck the last time: three refusals in a row would park a message that nothing is
        wrong with."""
        for chosen, error in self._victims:
            if any(each is chosen for each in sets):
                if len(sets) == 1:
                    self._victims = [one for one in self._victims if one[0] is not chosen]
                return chosen, error
        for each in sets:
            if each.address in self._spared:
                self._spared.discard(each.address)
                continue
            passing: Any = None
            if self._chance.strikes("set_conflicted"):
                passing = asyncpg.UniqueViolationError("somebody else was there for a moment")
                passing.constraint_name = "somebody"
            elif self._chance.strikes("set_refused"):
                passing = asyncpg.CheckViolationError("a passing refusal")
            if passing is not None:
                self._spared.add(each.address)
                if len(sets) > 1:
                    self._victims.append((each, passing))
                return each, passing
        return None

    def breaks(self) -> bool:
        return self._chance.strikes("connection_lost")

    async def commit(self, apply: Callable[[], None], later: Callable[[float], None]) -> Exception | None:
        chance, process = self._chance, self.committing()
        if process is not None and chance.strikes("crash_before_commit"):
            await process.die_here()
        if chance.strikes("commit_failed"):
            return _error(asyncpg.DiskFullError, "could not extend file")
        if chance.strikes("commit_lost"):
            return _lost("before")
        if chance.strikes("commit_in_flight"):
            later(chance.uniform("commit_in_flight", 0.1, 4.0))
            return _lost("during")
        apply()
        if process is not None and chance.strikes("crash_after_commit"):
            await process.die_here()
        if chance.strikes("commit_answer_lost"):
            return _lost("after")
        await trio.sleep(chance.uniform("slow_commit", 0.0, self._usual_seconds))
        return None


def _lost(when: str) -> Exception:
    return _error(asyncpg.ConnectionDoesNotExistError, f"the connection was closed {when} the commit")


def _error(kind: type[Exception], sentence: str) -> Exception:
    return kind(sentence)
