"""One demo from start to verdict.

start       simulator here, server as a process, agents hired and listening
talk        customers write, agents answer, for the time asked or until a signal
settle      customers fall silent; what is under way comes to rest, within `SETTLE_SECONDS_MAX`
reconcile   the three witnesses are compared while the server still runs
stop        the server in order; a clean run includes its clean end
"""

import os
import shutil
import tempfile
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, Final

import trio
from msgspec import Struct
from rich.console import Console

from adapters.port import Play
from adapters.simulators import Talk
from adapters.simulators.ledger import Ledger
from engine.errors import Unavailable
from gateway.cli.api import Api
from gateway.cli.databases import database_server
from gateway.cli.demo.agents import Office
from gateway.cli.demo.database import Witness
from gateway.cli.demo.reconciliation import Check, Evidence, reconcile
from gateway.cli.demo.screen import Screen
from gateway.cli.demo.server import Server, dev_server
from gateway.cli.demo.subscription import Subscription
from gateway.cli.demo.tally import Tally
from gateway.cli.running import until_signalled
from gateway.cli.sandbox import played_by, stand_ins
from gateway.settings import Settings, variable
from storage.embedded import embedded_postgres

AGENTS: Final = 3
SETTLE_SECONDS_MAX: Final = 45.0
"""Retries of the platform come after 5 and 15 s, `read` statuses within 5 s of a reply; the rest is spare."""
STORED_EVERY_SECONDS: Final = 1.0
SETTLE_EVERY_SECONDS: Final = 0.25


class Wish(Struct, frozen=True, kw_only=True):
    """What the options ask for. `seconds` None: until a signal."""

    seconds: float | None
    customers: int
    rate: float
    seed: int


async def run_demo(settings: Settings, wish: Wish, console: Console) -> bool:
    """Returns whether the run was clean. A signal ends the talk, a second one everything."""
    clean = False  # and stays so when the second signal cancels
    with _Places() as places:
        async with until_signalled() as asked:
            clean = await _Demo(settings, wish, Screen(console), places).run(asked)
    return clean


class _Places:
    """Where data and log go. What was made for this run is removed with it; the log always stays."""

    def __enter__(self) -> "_Places":
        self.directory = Path(tempfile.mkdtemp(prefix="mijra-demo-"))
        self.log_file = self.directory / "server.log"
        given = os.environ.get(variable("data_dir"))
        self.data_dir = Path(given) if given else self.directory / "data"
        self._temporary = not given
        return self

    def __exit__(self, *_: object) -> None:
        if self._temporary:
            shutil.rmtree(self.data_dir, ignore_errors=True)


class _Demo:
    def __init__(self, settings: Settings, wish: Wish, screen: Screen, places: _Places) -> None:
        self._settings = settings
        self._wish = wish
        self._screen = screen
        self._places = places
        # One ledger for all platforms: what it holds is compared with one database.
        self._ledger = Ledger()
        self._simulators = {
            name: each.simulator(
                Play(accounts=[each.demo_keys()], seed=wish.seed, habits="demo", ledger=self._ledger)
            )
            for name, each in stand_ins().items()
        }
        self._tally = Tally(self._ledger)
        self._state = "customers talk"
        self._began = 0.0

    async def run(self, asked: trio.Event) -> bool:
        screen, places = self._screen, self._places
        async with AsyncExitStack() as stack:
            for simulator in self._simulators.values():
                await stack.enter_async_context(simulator.running())
            screen.say(f"Starting the server; its log is {places.log_file}")
            if self._settings.database_url is None:
                # Held here as well: should the server die, the database is still there to be compared with,
                # and ends with this process.
                await stack.enter_async_context(embedded_postgres(places.data_dir / "postgres"))
            server = await stack.enter_async_context(
                dev_server(places.data_dir, places.log_file, self._urls())
            )
            checks = await self._with_server(server, asked)
        if server.exit_status != 0:
            checks.append(_server_failed(server.exit_status))
        if not checks:
            screen.say("It ended before a customer had written, so there is nothing to compare.")
            return False
        screen.shares(self._tally.shares)
        screen.checks(checks)
        clean = all(check.clean for check in checks)
        screen.say("Nothing was lost, doubled or invented." if clean else f"Not clean. See {places.log_file}")
        return clean

    async def _with_server(self, server: Server, asked: trio.Event) -> list[Check]:
        """None where nobody has written."""
        ready = server.ready
        played = "  ".join(f"{name} {url}" for name, url in self._urls().items())
        self._screen.say(f"API {ready.base_url}  WebSocket {ready.ws_url}  {played}")
        async with (
            database_server(self._settings, url=ready.database_url) as databases,
            Api(ready.base_url, ready.token) as owner,
            trio.open_nursery() as nursery,
        ):
            witness = await Witness.find(databases, ready.tenant)
            office = Office(ready.ws_url, ready.tenant, self._wish.seed)
            await office.hire(owner, AGENTS)
            inbox = Subscription(ready.ws_url, ready.token, ready.tenant, "inbox", self._tally.hear)
            await nursery.start(inbox.run)
            await nursery.start(office.run)
            self._began = trio.current_time()
            with self._screen.open():
                nursery.start_soon(self._show)
                nursery.start_soon(self._count_stored, witness)
                nursery.start_soon(_end_with, server, asked)
                await self._talk(asked)
                if not self._ledger.facts:
                    nursery.cancel_scope.cancel()
                    return []
                self._state = "settling"
                settled = await self._settle(server, witness, office, inbox)
                self._tally.stored = await witness.inbound()
                self._state = "at rest"
                self._show_once()
            checks = await self._verdict(witness, office, inbox, settled=settled)
            nursery.cancel_scope.cancel()
        return checks

    async def _talk(self, asked: trio.Event) -> None:
        share = len(self._simulators)
        for simulator in self._simulators.values():
            customers = max(1, self._wish.customers // share)
            simulator.start_talking(Talk(customers=customers, messages_per_second=self._wish.rate / share))
        with trio.move_on_after(self._wish.seconds if self._wish.seconds is not None else float("inf")):
            await asked.wait()
        for simulator in self._simulators.values():
            simulator.stop_talking()

    async def _settle(self, server: Server, witness: Witness, office: Office, inbox: Subscription) -> bool:
        """Whether everything came to rest in time: the platform has told all and been told all, agents have
        answered whoever waits, the server has nothing left to send or to fetch, and the screen shows the
        newest event."""
        with trio.move_on_after(SETTLE_SECONDS_MAX):
            while server.process.poll() is None:
                left = await witness.open()
                shown = (inbox.cursor or 0) >= left.cursor
                if shown and not (office.busy or left.outbox or left.attachments) and self._quiet():
                    return True
                await trio.sleep(SETTLE_EVERY_SECONDS)
        return False

    def _quiet(self) -> bool:
        told = [simulator.webhooks.statistics() for simulator in self._simulators.values()]
        return not any(each["waiting"] or each["planned"] or each["in_flight"] for each in told)

    def _urls(self) -> dict[str, str]:
        return {name: simulator.base_url for name, simulator in self._simulators.items()}

    async def _verdict(
        self, witness: Witness, office: Office, inbox: Subscription, *, settled: bool
    ) -> list[Check]:
        ledger, tally = self._ledger, self._tally
        evidence = Evidence(
            facts=ledger.facts,
            sends=ledger.sends,
            stored=await witness.messages(),
            pushed=tally.pushed,
            changed=tally.changed,
            replies=office.replies,
            gaps=inbox.gaps,
            disordered=inbox.disordered,
            earlier_id=witness.earlier_id,
            without_our_id=_without_our_id(),
        )
        checks = reconcile(evidence)
        attachments = await witness.attachments()
        checks.append(_media(attachments))
        if not settled:
            sentence = "something was still under way when the server ended or the time was over"
            checks.append(Check(name="everything came to rest", looked_at=1, problems=(sentence,)))
        changes = sum(fact.original_id is not None for fact in ledger.facts)
        self._screen.say(_aside(ledger.statistics(), changes, office, inbox))
        return checks

    # ---------------------------------------------------------------- showing

    async def _show(self) -> None:
        while True:
            self._show_once()
            await trio.sleep(self._screen.every_seconds)

    def _show_once(self) -> None:
        seconds = trio.current_time() - self._began
        self._screen.show(self._state, seconds, self._tally.refresh(), self._tally.lines)

    async def _count_stored(self, witness: Witness) -> None:
        """A database that is away for a moment is no reason to end: the next count tells."""
        while True:
            with suppress(Unavailable):
                self._tally.stored = await witness.inbound()
            await trio.sleep(STORED_EVERY_SECONDS)


def _without_our_id() -> set[str]:
    found = set()
    for name, stand_in in stand_ins().items():
        adapter = played_by(name)
        account = stand_in.demo_keys()[adapter.platform.connection.account.name]
        if not adapter.takes_our_id(account):
            found.add(account)
    return found


async def _end_with(server: Server, asked: trio.Event) -> None:
    """A server that dies ends the talk: nobody would answer any more."""
    await server.process.wait()
    asked.set()


def _media(attachments: dict[str, int]) -> Check:
    """Customers may have sent none, so nothing to look at is fine here."""
    problems = tuple(f"{count} are {state}" for state, count in attachments.items() if state != "stored")
    return Check(name="media: fetched and kept", looked_at=sum(attachments.values()), problems=problems)


def _server_failed(status: int | None) -> Check:
    return Check(name="the server stopped in order", looked_at=1, problems=(f"its exit status is {status}",))


def _aside(statistics: dict[str, Any], changes: int, office: Office, inbox: Subscription) -> str:
    """What the platform did to make it harder, and what went differently on the way."""
    told = statistics["told"]
    repeated = sum(told[kind]["repeated"] for kind in told)
    outcomes = statistics["attempts"]["by_outcome"]
    failed = sum(count for outcome, count in outcomes.items() if outcome != "200")
    parts = [
        f"The platform posted {statistics['attempts']['total']} webhooks, repeated {repeated} items that "
        f"were acknowledged already, and was turned away {failed} times.",
    ]
    if changes:
        parts.append(f"{changes} of the messages were edits and deletions, which change another one.")
    parts.append(
        f"Agents sent {len(office.replies)} replies; {office.stale} were held back because the customer "
        "had just written."
    )
    if inbox.connections > 1:
        parts.append(f"The inbox was resumed {inbox.connections - 1} times.")
    if office.refused:
        refused = ", ".join(f"{code} {count}" for code, count in office.refused.items())
        parts.append(f"Refused: {refused}.")
    return " ".join(parts)
