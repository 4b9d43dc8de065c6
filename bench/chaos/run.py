"""The rounds: load, a fault, the recovery, the comparison."""

import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import asyncpg
import trio
from msgspec import Struct, field

from bench.chaos.agents import Agents
from bench.chaos.customers import MESSAGES_MAX, Crowd, Pace
from bench.chaos.faults import Chaos
from bench.chaos.ledger import Account, Violations
from bench.chaos.screens import InboxScreen
from bench.chaos.system import System, system
from storage.bridge import Bridge

CONNECTIONS_EACH: Final = 24
AGENTS_EACH: Final = 2
AGENT_SENDS_PER_SECOND: Final = 4.0
SCREENS_EACH: Final = 1
RECOVERY_SECONDS_MAX: Final = 90.0
"""A round without an acknowledgement by then ends the run: nothing recovered."""
READ_TRIES_MAX: Final = 180
"""Half a second apart. PostgreSQL's own recovery may be under way when a cut or a kill is compared."""
SCREENS_SECONDS_MAX: Final = 60.0
SETTLE_SECONDS_MAX: Final = 300.0


class Stuck(Exception):
    """Something that must come back did not."""


class Plan(Struct, frozen=True, kw_only=True):
    """What was asked for. The run goes on until `rounds` and `acknowledgements` are both reached, or until
    `seconds` are over."""

    seed: int
    rounds: int
    acknowledgements: int
    seconds: float
    rate: float | None
    messages_max: int = MESSAGES_MAX
    before_seconds: tuple[float, float] = (0.5, 1.5)
    after_seconds: tuple[float, float] = (0.3, 1.0)
    platform_down_seconds: float = 0.0


class Round(Struct, kw_only=True):
    """One round. `began`: seconds since the start of the run."""

    number: int
    kind: str
    began: float
    fault_seconds: float
    recovery_seconds: float
    messages: int
    compare_seconds: float
    violations: int


class Outcome(Struct, kw_only=True):
    """The run in numbers."""

    plan: Plan
    rounds: list[Round] = field(default_factory=list)
    violations: Violations = field(default_factory=Violations)
    skipped: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    messages: int = 0
    webhooks: int = 0
    repeated: int = 0
    sends: int = 0
    refused: int = 0
    unanswered: int = 0
    pushed: int = 0
    connections: int = 0
    gaps_announced: int = 0
    lag_max: int = 0
    memory_peak: int = 0
    tracebacks: int = 0
    audit: dict[str, int] = field(default_factory=dict)
    curve: list[tuple[float, int]] = field(default_factory=list)
    """(seconds, acknowledged messages so far), twice a second."""


class _Run:
    def __init__(
        self, plan: Plan, on: System, bridge: Bridge, outcome: Outcome, tell: Callable[[str], None]
    ) -> None:
        self.plan, self.on, self.bridge, self.outcome, self.tell = plan, on, bridge, outcome, tell
        self.rng = random.Random(plan.seed)
        self.run_id = f"{time.time_ns() // 1_000_000 % 2**40:X}"
        self.accounts = [Account(one, self.run_id, outcome.violations) for one in on.businesses]
        self.chaos = Chaos(on, random.Random(plan.seed + 1))
        outcome.skipped = self.chaos.skipped
        self.started = time.monotonic()
        self.measured_from = 0.0
        self.first_acknowledged: dict[int, float] = {}
        self.agents: list[Agents] = []
        self.crowds: list[Crowd] = []

    async def go(self) -> None:
        self.started = time.monotonic()
        for account in self.accounts:
            account.database = await self.bridge.run(_database_of, self.on.postgres.dsn, account.business.id)
        async with trio.open_nursery() as listening:
            for account in self.accounts:
                for number in range(SCREENS_EACH):
                    listening.start_soon(InboxScreen(account, self.on.server, number + 1).live)
            listening.start_soon(self._watch)
            async with trio.open_nursery() as load:
                for index, account in enumerate(self.accounts):
                    self._start_load(load, index, account)
                try:
                    await self._rounds()
                finally:
                    for crowd in self.crowds:
                        crowd.over = True
                    for agents in self.agents:
                        agents.over = True
                self.tell("waiting for the last answers")
                load.cancel_scope.deadline = trio.current_time() + 60
            self.tell("settling")
            await self._settle()
            await self._compare()
            await self._screens_have_all()
            await self._audit()
            listening.cancel_scope.cancel()

    def _start_load(self, nursery: trio.Nursery, index: int, account: Account) -> None:
        def acknowledged(posted: float) -> None:
            if posted >= self.measured_from and index not in self.first_acknowledged:
                self.first_acknowledged[index] = time.monotonic()

        address = ("127.0.0.1", self.on.server.port)
        rng = random.Random(self.rng.random())
        crowd = Crowd(account, address, rng, acknowledged, self.plan.messages_max)
        agents = Agents(account, self.on.server, random.Random(self.rng.random()), self.outcome.violations)
        self.crowds.append(crowd)
        self.agents.append(agents)
        pace = Pace(None if self.plan.rate is None else self.plan.rate / len(self.accounts))
        slow = Pace(AGENT_SENDS_PER_SECOND)
        for _ in range(CONNECTIONS_EACH):
            nursery.start_soon(crowd.write, pace)
        for _ in range(AGENTS_EACH):
            nursery.start_soon(agents.answer, slow)

    async def _watch(self) -> None:
        while True:
            self.outcome.curve.append((round(self.elapsed, 1), self.messages))
            self.outcome.memory_peak = max(self.outcome.memory_peak, self.on.server.memory_bytes())
            await trio.sleep(0.5)

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.started

    @property
    def messages(self) -> int:
        return sum(account.messages for account in self.accounts)

    def _enough(self) -> bool:
        plan = self.plan
        if self.elapsed >= plan.seconds:
            return True
        return len(self.outcome.rounds) >= plan.rounds and self.messages >= plan.acknowledgements

    # ---------------------------------------------------------------- rounds

    async def _rounds(self) -> None:
        await self._recovered(time.monotonic())
        if self.plan.platform_down_seconds:
            self.on.platform.go_down(self.plan.platform_down_seconds)
        while not self._enough():
            number, kind = len(self.outcome.rounds) + 1, self.chaos.deal()
            began, messages = self.elapsed, self.messages
            violations = self.outcome.violations.counts.total()
            self.tell(
                f"round {number}: {kind}; {self.messages:,} messages acknowledged, {violations} violations"
            )
            await trio.sleep(self.rng.uniform(*self.plan.before_seconds))
            at = time.monotonic()
            ended = await self.chaos.strike(kind)
            recovery = await self._recovered(ended)
            if not self.on.server.running:
                raise Stuck(f"the server ended by itself after: {kind}")
            await self.on.server.until_ready()
            await trio.sleep(self.rng.uniform(*self.plan.after_seconds))
            compared = time.monotonic()
            await self._compare()
            self.outcome.rounds.append(
                Round(
                    number=number,
                    kind=kind,
                    began=round(began, 2),
                    fault_seconds=round(ended - at, 3),
                    recovery_seconds=round(recovery, 3),
                    messages=self.messages - messages,
                    compare_seconds=round(time.monotonic() - compared, 3),
                    violations=self.outcome.violations.counts.total() - violations,
                )
            )

    async def _recovered(self, since: float) -> float:
        """Seconds from then until each business has had something acknowledged that was posted after it."""
        self.measured_from = since
        self.first_acknowledged.clear()
        with trio.move_on_after(RECOVERY_SECONDS_MAX):
            while len(self.first_acknowledged) < len(self.accounts):
                await trio.sleep(0.005)
            return max(self.first_acknowledged.values()) - since
        raise Stuck(f"nothing was acknowledged for {RECOVERY_SECONDS_MAX:g} s")

    async def _compare(self) -> None:
        for account in self.accounts:
            for attempt in range(READ_TRIES_MAX):
                promised = account.promised()
                try:
                    rows = await self.bridge.run(account.fetch_new, self.on.postgres.dsn)
                except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                    # PostgreSQL is still coming back.
                    if attempt == READ_TRIES_MAX - 1:
                        raise Stuck(f"the database cannot be read: {error}") from error
                    await trio.sleep(0.5)
                else:
                    account.compare(promised, rows)
                    break
            for pushed in account.screens:
                account.compare_screen(pushed)

    # ---------------------------------------------------------------- the end

    async def _screens_have_all(self) -> None:
        for account in self.accounts:
            for pushed in account.screens:
                with trio.move_on_after(SCREENS_SECONDS_MAX):
                    while pushed.awaited:
                        await trio.sleep(0.1)
                        account.compare_screen(pushed)
                if pushed.awaited:
                    words = f"{pushed.name}: {len(pushed.awaited)} messages after {SCREENS_SECONDS_MAX:g} s"
                    self.outcome.violations.add("not pushed", words)

    async def _settle(self) -> None:
        """Until everything is sent and the platform has told everything."""
        with trio.move_on_after(SETTLE_SECONDS_MAX):
            while True:
                waiting = 0
                for account in self.accounts:
                    waiting += await self.bridge.run(account.waiting, self.on.postgres.dsn)
                if not waiting and self.on.platform.webhooks.statistics()["waiting"] == 0:
                    return
                await trio.sleep(0.5)
        self.outcome.violations.add("never sent", f"after {SETTLE_SECONDS_MAX:g} s the outbox is not empty")

    async def _audit(self) -> None:
        positions: dict[str, list[int]] = {}
        for position, send in enumerate(self.on.platform.ledger.sends):
            if send.callback_data is not None:
                positions.setdefault(send.callback_data, []).append(position)
        totals: Counter[str] = Counter()
        for account in self.accounts:
            totals.update(await self.bridge.run(account.audit, self.on.postgres.dsn, positions))
        outcome = self.outcome
        outcome.audit = dict(totals)
        outcome.audit["sends_at_platform"] = len(self.on.platform.ledger.sends)
        outcome.seconds = self.elapsed
        outcome.messages = self.messages
        outcome.webhooks = sum(account.webhooks for account in self.accounts)
        outcome.repeated = sum(account.repeated for account in self.accounts)
        outcome.sends = sum(len(account.answered) for account in self.accounts)
        outcome.refused = sum(crowd.refused for crowd in self.crowds)
        outcome.unanswered = sum(crowd.unanswered for crowd in self.crowds)
        screens = [one for account in self.accounts for one in account.screens]
        outcome.pushed = sum(one.compared for one in screens)
        outcome.connections = sum(one.connections for one in screens)
        outcome.gaps_announced = sum(len(one.gaps) for one in screens)
        outcome.lag_max = max(one.lag_max for one in screens)
        outcome.tracebacks = self.on.server.tracebacks()
        if self.messages < self.plan.acknowledgements or len(outcome.rounds) < self.plan.rounds:
            self.tell("the time was over before the rounds or acknowledgements asked for")


async def _database_of(dsn: str, tenant_id: int) -> str:
    connection = await asyncpg.connect(dsn, database="chaos_landlord")
    try:
        name: Any = await connection.fetchval(
            "SELECT database FROM placements WHERE tenant_id = $1", tenant_id
        )
    finally:
        await connection.close()
    return str(name)


async def run(plan: Plan, tell: Callable[[str], None]) -> Outcome:
    """The whole run. Raises Stuck, StartFailed."""
    outcome = Outcome(plan=plan)
    with TemporaryDirectory(prefix="mijra-chaos-") as name:
        async with Bridge() as bridge, system(Path(name), plan.seed) as on:
            await _Run(plan, on, bridge, outcome, tell).go()
    return outcome
