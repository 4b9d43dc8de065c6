"""A controllable stand-in for the writer, and the smallest actors that show what the runtime does.

`ModelCommitter` keeps a writer's contract (order, one failure voids later sets of the same generation) and
lets a test hold verdicts back, fail chosen sets and close the room, for everybody or a tenant and lane.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio
import trio.testing

from engine.errors import CommitAbandoned, CommitFailed
from engine.runtime import (
    Address,
    Committer,
    Context,
    DeadLetter,
    Decider,
    Effects,
    Lane,
    LoadRequest,
    Lookup,
    SilentObserver,
    Spec,
    Supervisor,
    System,
)

Done = Callable[[CommitFailed | None], None]


class Submitted:
    def __init__(self, address: Address, generation: int, rows: list[object], done: Done) -> None:
        self.address = address
        self.generation = generation
        self.rows = rows
        self.done = done


class ModelCommitter(Committer):
    """Commits at once unless `held`; `verdict(rows)` may name an error for a set."""

    def __init__(self) -> None:
        self.held = False
        self.open = True
        self.closed_for: set[tuple[int, Lane]] = set()
        self.waiting: list[Submitted] = []
        self.committed: list[tuple[Address, object]] = []
        self.submitted = 0
        self.failed: set[tuple[Address, int]] = set()
        self.verdict: Callable[[Sequence[object]], CommitFailed | None] = lambda rows: None
        self._room: list[Callable[[], None]] = []

    def submit(self, address: Address, generation: int, rows: Sequence[object], done: Done) -> None:
        self.submitted += 1
        entry = Submitted(address, generation, list(rows), done)
        if self.held:
            self.waiting.append(entry)
        else:
            self._settle(entry)

    def has_room(self, tenant: int, lane: Lane = Lane.NORMAL) -> bool:
        return self.open and (tenant, lane) not in self.closed_for

    def when_room(self, callback: Callable[[], None]) -> None:
        self._room.append(callback)

    def settle(self, count: int | None = None) -> None:
        """Give the verdicts that were held back, oldest first."""
        batch = self.waiting[:count]
        del self.waiting[: len(batch)]
        for entry in batch:
            self._settle(entry)

    def let_go(self) -> None:
        self.held = False
        self.settle()

    def make_room(self) -> None:
        self.open = True
        callbacks, self._room = self._room, []
        for callback in callbacks:
            callback()

    def _settle(self, entry: Submitted) -> None:
        pair = (entry.address, entry.generation)
        if pair in self.failed:
            entry.done(CommitAbandoned("an earlier set failed"))
            return
        error = self.verdict(entry.rows)
        if error is not None:
            self.failed.add(pair)
        else:
            self.committed += [(entry.address, row) for row in entry.rows]
        entry.done(error)

    def rows(self, key: object = None) -> list[object]:
        return [row for address, row in self.committed if key is None or address.key == key]


class Watch(SilentObserver):
    """Keeps what the tests look at."""

    def __init__(self) -> None:
        self.trace: list[tuple[str, str]] = []
        self.crashes: list[tuple[Address, int]] = []
        self.parked_letters: list[DeadLetter] = []
        self.passive: list[Address] = []
        self.lost: list[tuple[Address, object]] = []
        self.stalls: list[tuple[Address, Address]] = []
        self.overruns: list[tuple[Address, Address]] = []
        self.fences: list[int] = []
        self.load_failures: list[tuple[Address, float]] = []
        self.commit_failures: list[int] = []

    def started(self, path: str) -> None:
        self.trace.append(("start", path))

    def stopped(self, path: str, reason: str) -> None:
        self.trace.append((reason, path))

    def restarting(self, path: str, delay_seconds: float) -> None:
        self.trace.append(("restart", path))

    def escalated(self, path: str, error: BaseException | None) -> None:
        self.trace.append(("give_up", path))

    def crashed(self, address: Address, error: BaseException, attempts: int) -> None:
        self.crashes.append((address, attempts))

    def commit_failed(self, address: Address, error: BaseException, decided_again: int) -> None:
        self.commit_failures.append(decided_again)

    def load_failed(self, address: Address, error: BaseException, delay_seconds: float) -> None:
        self.load_failures.append((address, delay_seconds))

    def parked(self, letter: DeadLetter) -> None:
        self.parked_letters.append(letter)

    def undeliverable(self, address: Address, message: object, reason: str) -> None:
        self.lost.append((address, message))

    def stalled(self, sender: Address, receiver: Address) -> None:
        self.stalls.append((sender, receiver))

    def overrun(self, sender: Address, receiver: Address) -> None:
        self.overruns.append((sender, receiver))

    def passivated(self, address: Address) -> None:
        self.passive.append(address)

    def fenced(self, tenant: int) -> None:
        self.fences.append(tenant)


def at(key: Any, kind: str = "thing", tenant: int = 1) -> Address:
    return Address(kind, tenant, key)


def wall_ms() -> int:
    return 1_700_000_000_000 + round(trio.current_time() * 1000)


async def load_lists(requests: Sequence[LoadRequest]) -> Sequence[Any]:
    return [[] for _ in requests]


Decide = Callable[[Any, Any, Context], Effects | Lookup | None]
Load = Callable[[Sequence[LoadRequest]], Awaitable[Sequence[Any]]]


def decider(decide: Decide, *, kind: str = "thing", load: Load = load_lists, **limits: Any) -> Decider:
    return Decider(kind=kind, decide=decide, load=load, **limits)


class World:
    """A running system with its stand-ins."""

    def __init__(self, tenant: Sequence[Spec], static: Sequence[Spec] = (), **options: Any) -> None:
        self.committer = ModelCommitter()
        self.watch = Watch()
        self.ids = 0
        supervisor = options.pop("tenant_supervisor", None) or Supervisor(name="tenant", children=tenant)
        self.system = System(
            static=static,
            tenant=supervisor,
            committer=self.committer,
            ids=self._next_id,
            wall_ms=wall_ms,
            random=random.Random(1),
            config_for=options.pop("config_for", lambda tenant: {"tenant": tenant}),
            dead_letter=lambda letter: [("dead", letter.message)],
            observer=self.watch,
            monotonic=trio.current_time,
            **options,
        )

    def _next_id(self) -> int:
        self.ids += 1
        return self.ids


@asynccontextmanager
async def running(*tenant: Spec, static: Sequence[Spec] = (), **options: Any) -> AsyncIterator[World]:
    """A system for one test, stopped afterwards."""
    world = World(tenant, static, **options)
    async with trio.open_nursery() as nursery:
        await nursery.start(world.system.run)
        yield world
        await world.system.stop(10)


async def settled() -> None:
    """Until nothing happens any more without the clock."""
    await trio.testing.wait_all_tasks_blocked()
