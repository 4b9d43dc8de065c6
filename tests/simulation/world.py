"""One day of two businesses: customers, a platform, agents, screens, and a program that dies now and then.

The program is real (`process`); its database, platform, clients and clocks are models, and everything random
comes from the seed. `live` runs the day; what must hold is checked while it goes on, by whoever sees it
first, and at its end by `checkers`.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import trio
from msgspec import Struct

from adapters.registry import adapters
from engine.domain import rows
from engine.domain.conversation.messages import By
from engine.reading import DirectoryEntry
from engine.runtime import SystemStatistics
from tests.simulation.agents import TAG, Agents
from tests.simulation.bounds import Bounds
from tests.simulation.chance import Chance
from tests.simulation.commits import Commits
from tests.simulation.database import Database
from tests.simulation.ledger import Ledger
from tests.simulation.lines import Line
from tests.simulation.mail import Mail
from tests.simulation.people import People, Person
from tests.simulation.plan import Operation, Scenario
from tests.simulation.platform import Platform
from tests.simulation.process import Process, credentials_of, entry_of
from tests.simulation.record import Record
from tests.simulation.screens import Screen
from tests.simulation.store import ModelStore
from tests.simulation.supervision import Supervision
from tests.simulation.troubles import StoreTroubles
from tests.simulation.voices import VOICES
from tests.simulation.whatsapp import WhatsAppVoice

MORNING = 1_767_441_600_000  # Saturday 2026-01-03 12:00:00 UTC
TENANTS = (7, 8)
WHATSAPP_CHANCE = 0.4
"""How often an account is WhatsApp's; else it is one of the others', each as often."""
WINDOW_SECONDS = 1_800
"""A reply window on the days on which windows are so short that they end within the day."""
SETTLE_SECONDS_MAX = 86_400.0
"""From the last thing that happens until nothing is left to do; an hour of pauses is asked for at most."""

AFTERMATH_SECONDS = 120.0
"""A day on which a promise was broken is looked at for so long, and then it is over."""
VIOLATIONS_MAX = 20

__all__ = ["World"]


class Violation(Struct, frozen=True):
    """A promise that was not kept. `about` names what it concerns."""

    kind: str
    what: str
    about: frozenset[Any]


class World:
    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.chance = chance = Chance(scenario.seed, scenario.without)
        self.record = Record()
        self.violations: list[Violation] = []
        options = chance.stream("world")
        self.tenants = TENANTS
        self.callbacks = options.random() < 0.8
        self.replay_distance_max = options.choice((20, 50_000))
        self.jumps = 0
        self.ledger = Ledger(self)
        self.supervision = Supervision(self)
        self.commits = Commits(self)
        self.bounds = Bounds(self)
        self.retried: set[int] = set()
        self.decided: dict[int, float] = {}
        """Messages that are known to have been sent, and since when."""
        self.written: dict[int, int] = {}
        """Messages in the order of their commits; ids follow clocks, which are set back and forth."""
        self._wall_offset_ms = 0
        self._traces = 0
        self._broken = trio.Event()
        self.cut: Callable[[], None] = lambda: None
        """Ends the day at once."""
        self.complete = False
        """Whether the day came to its end, so that it can be judged as a whole."""
        self._pending = 0
        self._nothing_pending = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._processes: list[Process] = []
        self._door: Process | None = None
        self._starting = trio.Lock()
        self.statistics: SystemStatistics | None = None
        self._databases(options)
        self.mail = Mail(self)
        self.platform = Platform(self)
        self.people = People(self)
        self.agents = Agents(self)
        self.lines: list[Line] = []
        self.customers: list[Person] = []
        self.screens: list[Screen] = []
        self.entries: dict[tuple[str, str], DirectoryEntry] = {}
        """The landlord's directory."""
        self.windows: dict[str, int] = {}
        """Reply windows (s) that are shorter today than they are."""
        self.begun: dict[int, int] = {}
        """Messages that were written down as being sent, and by which transaction."""
        self.opted_out: dict[tuple[int, int, str], int] = {}
        """Contacts who want no messages, and since which transaction."""
        self._transactions = 0

    def set_up(self) -> None:
        """Who is there; after everything that is random has been given its seed."""
        options = self.chance.stream("world")
        if options.random() < 0.4:
            self.windows = {
                name: WINDOW_SECONDS
                for name, each in adapters().items()
                if each.platform.capabilities.window_seconds is not None
            }
        for tenant_id, number in ((7, 0), (8, 0), (8, 1)):
            self.lines.append(self._line(tenant_id, number, options))
        self.entries = {(line.platform, line.number): entry_of(line) for line in self.lines}
        self.customers += [person for line in self.lines for person in self._customers(line, options)]
        for tenant_id in TENANTS:
            self._settle_in(tenant_id, options)
        self.screens += [
            Screen(self, f"screen {tenant_id}{name}", tenant_id, user, inbox=inbox)
            for tenant_id in TENANTS
            for name, user, inbox in (("a", tenant_id * 100 + 1, True), ("b", tenant_id * 100 + 2, False))
        ]

    def _databases(self, options: Any) -> None:
        """Each tenant in a database of its own, or both in one."""
        names = options.choice((("d7", "d8"), ("pool", "pool")))
        usual = options.choice((0.005, 0.1))
        self.databases_by_name = {}
        self.reached = StoreTroubles(self.chance, usual)
        for name in dict.fromkeys(names):
            self.reached.committing = self.door
            self.databases_by_name[name] = Database(
                name, troubles=self.reached, committed=self._committed, spawn=self._spawn
            )
        self.databases = {
            tenant_id: self.databases_by_name[name] for tenant_id, name in zip(TENANTS, names, strict=True)
        }
        self.store = ModelStore(self.databases)

    def _line(self, tenant_id: int, number: int, options: Any) -> Line:
        line = Line(
            tenant_id=tenant_id,
            channel_id=tenant_id * 10 + number,
            endpoint_key=f"key{tenant_id}{number}",
            voice=None,
        )
        others = sorted(VOICES)
        name = "whatsapp" if options.random() < WHATSAPP_CHANCE else options.choice(others)
        line.voice = (WhatsAppVoice if name == "whatsapp" else VOICES[name])(self, line, options)
        return line

    def _customers(self, line: Line, options: Any) -> list[Person]:
        return [line.voice.person(number, options) for number in range(options.randint(1, 3))]

    def _settle_in(self, tenant_id: int, options: Any) -> None:
        """The tenant's configuration, before anybody is there."""
        at = {"created_at": MORNING, "updated_at": MORNING}
        capacity = options.choice((None, 1, 2))
        new: list[rows.Row] = [
            rows.UserRow(
                tenant_id=tenant_id,
                id=by.id or 0,
                name=by.name or "",
                email=f"{by.name}@shop{tenant_id}.example",
                role="owner" if number == 0 else "agent",
                active=True,
                availability="online",
                work_hours=None,
                capacity=capacity,
                **at,
            )
            for number, by in enumerate(self.agents_of(tenant_id))
        ]
        for line in self.lines_of(tenant_id):
            new.append(
                rows.ChannelRow(
                    tenant_id=tenant_id,
                    id=line.channel_id,
                    platform=line.platform,
                    name=f"Line {line.channel_id}",
                    external_id=line.number,
                    credentials=credentials_of(line),
                    settings=line.voice.settings,
                    status="active",
                    status_note=None,
                    credentials_at=line.voice.life()[0],
                    credentials_expire_at=line.voice.life()[1],
                    **at,
                )
            )
        new.append(rows.TagRow(tenant_id=tenant_id, id=TAG, name="vip", color="#ff0000", **at))
        if options.random() < 0.7:
            new += [
                self._rule(tenant_id, 1, "greeting", (), 60),
                self._rule(tenant_id, 2, "keyword", ("price", "reply"), options.choice((1, 20))),
            ]
        new.append(
            rows.SettingRow(
                tenant_id=tenant_id,
                name="assignment",
                value={
                    "mode": options.choice(("manual", "round_robin", "least_loaded")),
                    "reassign_on_reopen": options.random() < 0.3,
                    "respect_work_hours": False,
                },
                updated_at=MORNING,
            )
        )
        self.databases[tenant_id].put(*new)

    def _rule(
        self, tenant_id: int, number: int, kind: str, patterns: tuple[str, ...], cooldown_seconds: int
    ) -> rows.ReplyRuleRow:
        return rows.ReplyRuleRow(
            tenant_id=tenant_id,
            id=number,
            kind=kind,
            name=f"rule {number}",
            active=True,
            priority=10,
            channel_ids=[],
            match="contains" if kind == "keyword" else None,
            patterns=list(patterns),
            reply={"type": "text", "body": f"reply {number}{self.marker(tenant_id)}"},
            cooldown_seconds=cooldown_seconds,
            created_at=MORNING,
            updated_at=MORNING,
        )

    # ---------------------------------------------------------------- names, time, notes

    def agents_of(self, tenant_id: int) -> list[By]:
        return [
            By(kind="user", id=tenant_id * 100 + number, name=name)
            for number, name in enumerate(("Ann", "Bob", "Cleo"), start=1)
        ]

    def lines_of(self, tenant_id: int) -> list[Line]:
        return [line for line in self.lines if line.tenant_id == tenant_id]

    def line_of_host(self, host: str) -> Line:
        return next(line for line in self.lines if line.host == host)

    def person_by_key(self, line: Line, key: str) -> Person:
        return next(one for one in self.customers if one.line is line and key in one.keys)

    def place_of_message(self, message_id: int) -> tuple[int, int, str] | None:
        for tenant_id in self.tenants:
            row = self.store.row(tenant_id, "messages", message_id)
            if row is not None:
                return (tenant_id, row.channel_id, row.contact_key)
        return None

    @property
    def morning(self) -> int:
        """When the day begins, by the platforms' clocks (ms)."""
        return MORNING

    @staticmethod
    def marker(tenant_id: int) -> str:
        """Is in every text of the tenant and in nobody else's."""
        return f" #{tenant_id}#"

    def wall_ms(self) -> int:
        """The server's clock, which is set back and forth."""
        return MORNING + self._wall_offset_ms + round(self._elapsed() * 1000)

    def platform_seconds(self) -> int:
        """The platform's clock, which is right."""
        return MORNING // 1000 + int(self._elapsed())

    def platform_nanoseconds(self) -> int:
        return MORNING * 1_000_000 + round(self._elapsed() * 1e9)

    @staticmethod
    def _elapsed() -> float:
        """0 before the day begins."""
        return trio.current_time() if trio.lowlevel.in_trio_run() else 0.0

    def new_trace(self) -> int:
        self._traces += 1
        return self._traces

    def tell(self, who: str, what: str, *about: Any) -> None:
        self.record.tell(who, what, *about)

    def violate(self, kind: str, what: str, *about: Any) -> None:
        self._broken.set()
        if len(self.violations) < VIOLATIONS_MAX:
            self.tell("VIOLATION", f"{kind}: {what}", *about)
            self.violations.append(Violation(kind, what, frozenset(one for one in about if one is not None)))

    def later(self, seconds: float, call: Callable[..., Awaitable[Any]], *args: Any) -> None:
        """Does `call` then; the day is not over before."""
        assert self._nursery is not None
        self._pending += 1

        async def wait_and_call() -> None:
            try:
                await trio.sleep(seconds)
                await call(*args)
            finally:
                self._pending -= 1
                if not self._pending:
                    self._nothing_pending.set()

        self._nursery.start_soon(wait_and_call)

    def _spawn(self, call: Callable[[], Awaitable[None]]) -> None:
        assert self._nursery is not None
        self._nursery.start_soon(call)

    def _committed(self, name: str, calls: Any) -> None:
        """Every transaction that became durable."""
        self.record.add("commit", name, calls)
        self.commits.check(self.databases_by_name[name], calls)
        self._transactions += 1
        for statement, columns in calls:
            if statement == "take_ownership":
                self.tell("store", f"{columns[1]} owns {list(columns[0])}")
                continue
            row_type = _TOLD.get(statement)
            if row_type is None:
                continue
            names = row_type.__struct_fields__
            for values in zip(*columns, strict=True):
                row = dict(zip(names, values, strict=True))
                if statement == "insert_messages":
                    self.written.setdefault(row["id"], len(self.written))
                elif statement == "patch_messages" and row["status"] in ("sent", "delivered", "read"):
                    self.decided.setdefault(row["id"], trio.current_time())
                elif statement == "patch_messages" and row["status"] is not None:
                    self.decided.pop(row["id"], None)
                elif statement == "patch_outbox" and row["state"] == "sending":
                    self.begun[row["id"]] = self._transactions
                elif statement == "insert_events" and row["name"].startswith("customer.opted_"):
                    self._note_consent(row)
                elif statement == "upsert_channels" and row["status"] == "needs_attention":
                    self._owner_is_called(row["id"])
                self.tell("store", *_told(statement, row))

    def _note_consent(self, event: dict[str, Any]) -> None:
        number = msgspec.json.decode(event["data_json"])["conversation"]["id"]
        row = self.store.row(event["tenant_id"], "conversations", number)
        place = (row.tenant_id, row.channel_id, row.contact_key)
        if event["name"] == "customer.opted_out":
            self.opted_out[place] = self._transactions
        else:
            self.opted_out.pop(place, None)

    def _owner_is_called(self, channel_id: int) -> None:
        """A channel's credentials are said to hold no more."""
        (line,) = (one for one in self.lines if one.channel_id == channel_id)
        lost = line.tokens or line.cut_off or any(process.dead for process in line.renewed_by)
        if not lost:
            self.violate(
                "credentials", f"{line.number} is said to need a person, and nothing was taken from it"
            )
        self.later(0.0, self._connected_again, line, 90.0)

    # ---------------------------------------------------------------- processes

    def door(self) -> Process | None:
        """Who takes requests now; None while nobody does."""
        return self._door

    @property
    def newest(self) -> Process:
        return self._processes[-1]

    async def _start(self) -> None:
        """A new process takes over."""
        async with self._starting:
            process = Process(self, len(self._processes) + 1)
            self._processes.append(process)
            self.commits.began(f"n{process.number}")
            assert self._nursery is not None
            await self._nursery.start(process.run)
            if not process.dead:
                self._door = process
                self.tell("process", f"{process.number} is up")

    def kill_soon(self, process: Process) -> None:
        """It has died; somebody starts the next one."""
        if self._door is process:
            self._door = None
        self.later(self.chance.uniform("kill", 0.1, 5.0), self._start)

    async def _kill(self, random: Any) -> None:
        process = self._door
        if process is not None:
            self.tell("process", f"{process.number} is killed")
            process.kill()
            self.kill_soon(process)

    async def _clock_jump_and_kill(self, random: Any) -> None:
        """A clock that was ahead is set right, and the machine starts anew."""
        self._wall_offset_ms -= round(random.uniform(60.0, 7_200.0) * 1000)
        self.jumps += 1
        await self._kill(random)

    async def _split(self, random: Any) -> None:
        """The next process starts while the last one, which everybody thinks dead, goes on for a while."""
        old = self._door
        # One that has not served a tenant yet would take it from its successor, who is then refused for ever:
        # until there are leases, nothing but a person's restart ends that.
        if old is None or not all(old.engine.configs.has(tenant_id) for tenant_id in self.tenants):
            return
        self.tell("process", f"{old.number} is cut off and goes on")
        self._door = None
        await self._start()
        await trio.sleep(random.uniform(0.5, 20.0))
        self.tell("process", f"{old.number} ends")
        old.kill()

    async def _outage(self, random: Any) -> None:
        self.tell("database", "is away")
        self.reached.away = True
        await trio.sleep(random.choice((0.5, 3.0, 20.0, 300.0)))
        self.reached.away = False
        self.tell("database", "is back")

    async def _clock_jump(self, random: Any) -> None:
        seconds = random.choice((-7_200, -60, -2, 2, 60, 7_200)) * random.uniform(0.5, 1.5)
        self._wall_offset_ms += round(seconds * 1000)
        self.jumps += 1
        self.tell("clock", f"jumps by {seconds:.0f} s")

    async def _token_revoked(self, random: Any) -> None:
        """The platform takes an account's credentials back; later the owner enters new ones."""
        line = random.choice(self.lines)
        line.tokens += 1
        line.voice.revoke()
        self.tell("platform", f"revokes the token of {line.number}")
        await self._connected_again(line, random.choice((1.0, 30.0, 1_000.0)))

    async def _connected_again(self, line: Line, seconds: float) -> None:
        """The owner hears that something is wrong, and does something about it after a while."""
        if line.owner_is_told:
            return
        line.owner_is_told = True
        await trio.sleep(seconds)
        line.voice.restore()
        await self.agents.connect_again(line)
        line.owner_is_told = False

    async def _log_trimmed(self, random: Any) -> None:
        """Retention drops the older part of a tenant's event log."""
        tenant_id = random.choice(self.tenants)
        database = self.databases[tenant_id]
        database.trimmed[tenant_id] = random.randint(0, len(database.log[tenant_id]))
        self.tell("database", f"drops the events of {tenant_id} up to {database.trimmed[tenant_id]}")

    async def _flood(self, random: Any) -> None:
        """Somebody's keyboard is stuck."""
        person = random.choice(self.customers)
        self.tell("customer", f"{person.label} writes a lot", person.label)
        self.people.flood(person, random)

    async def _intruder(self, random: Any) -> None:
        """A second writer that the actors know nothing of makes somebody known."""
        person = random.choice(self.customers)
        line, key = person.line, person.keys[-1]
        if any(
            self.store.row(line.tenant_id, "customer_handles", line.channel_id, one) for one in person.keys
        ):
            return
        self.tell("intruder", f"makes {key} known", person.label)
        now = self.wall_ms()
        number = now * 100 + line.channel_id
        customer = rows.CustomerRow(
            tenant_id=line.tenant_id,
            id=number,
            name=person.name,
            avatar_url=None,
            email=None,
            phone=None,
            locale=None,
            timezone=None,
            attributes={},
            source=line.platform,
            first_seen_at=now,
            last_seen_at=now,
            created_at=now,
        )
        handle = rows.HandleRow(
            tenant_id=line.tenant_id,
            channel_id=line.channel_id,
            external_id=key,
            contact_key=key,
            customer_id=number,
            platform=line.platform,
            display=None,
            created_at=now,
        )
        self.databases[line.tenant_id].put(customer, handle)

    # ---------------------------------------------------------------- the day

    async def live(self) -> None:
        """From the first operation to the moment at which nothing is left to do."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await self._start()
            for operation in self.scenario.planned():
                self.later(operation.at, self._happen, operation)
            for screen in self.screens:
                nursery.start_soon(screen.run)
            self.cut = nursery.cancel_scope.cancel
            nursery.start_soon(self._give_up_when_broken)
            await self._everything_has_happened()
            with trio.move_on_after(SETTLE_SECONDS_MAX) as patience:
                await self._end()
            if patience.cancelled_caught:
                self.violate(
                    "settling", f"after {SETTLE_SECONDS_MAX / 3600:.0f} hours it has not come to rest"
                )
            self.complete = not patience.cancelled_caught
            nursery.cancel_scope.cancel()

    async def _give_up_when_broken(self) -> None:
        await self._broken.wait()
        await trio.sleep(AFTERMATH_SECONDS)
        self.cut()

    async def _happen(self, operation: Operation) -> None:
        random = self.chance.stream(f"operation {operation.number}")
        match operation.kind:
            case "write":
                await self.people.write(random.choice(self.customers), random)
            case "order":
                tenant_id = random.choice(self.tenants)
                await self.agents.order(tenant_id, random.choice(self.agents_of(tenant_id)), random)
            case "team":
                await self.agents.come_and_go(random.choice(self.tenants), random)
            case kind:
                self.chance.struck[kind] += 1
                await getattr(self, f"_{kind}")(random)

    async def _everything_has_happened(self) -> None:
        while self._pending:
            self._nothing_pending = trio.Event()
            await self._nothing_pending.wait()
        self.chance.calm = True

    async def _at_rest(self) -> None:
        while True:
            if self._door is not None and not self.unsettled():
                return
            await trio.sleep(30.0)

    def unsettled(self) -> bool:
        return self._pending > 0 or any(
            row.state in ("queued", "sending", "unknown")
            for tenant_id in self.tenants
            for row in self.store.table(tenant_id, "outbox")
        )

    async def _end(self) -> None:
        """A last look at everything at rest, and an orderly stop."""
        for seconds in (0.0, 120.0, 120.0):
            await trio.sleep(seconds)
            await self._at_rest()
        for screen in self.screens:
            for missed in screen.missing():
                self.violate("push", missed)
        process = self._door
        assert process is not None
        self.statistics = process.engine.system.statistics()
        await process.stop()


_TOLD = {
    "insert_messages": rows.MessageRow,
    "patch_messages": rows.MessagePatch,
    "insert_outbox": rows.OutboxRow,
    "patch_outbox": rows.OutboxPatch,
    "upsert_conversations": rows.ConversationRow,
    "upsert_channels": rows.ChannelRow,
    "insert_dead_letters": rows.DeadLetterRow,
    "insert_events": rows.EventRow,
}


def _told(statement: str, row: dict[str, Any]) -> tuple[Any, ...]:
    """One committed row, in words, and what it is about."""
    number = row.get("id")
    match statement:
        case "insert_messages":
            what = (
                f"message {number} seq {row['seq']} {row['direction']} {row['text'][:30]!r} {row['status']}"
            )
            return what, number, row["conversation_id"], row["platform_message_id"]
        case "patch_messages":
            changed = {
                name: value for name, value in row.items() if value and name not in ("id", "tenant_id")
            }
            return f"message {number} {changed}", number, row["platform_message_id"]
        case "insert_outbox":
            return f"to be sent: {number}, {row['state']}", number, row["conversation_id"]
        case "patch_outbox":
            return f"outbox {number} {row['state']}, attempt {row['attempts']}", number
        case "upsert_conversations":
            what = f"conversation {number} {row['status']} at {row['last_seq']}, of {row['assigned_to']}"
            return what, number, row["contact_key"]
        case "upsert_channels":
            return f"channel {number} {row['status']} {row['status_note'] or ''}", number
        case "insert_dead_letters":
            return f"dead letter of {row['address']}: {row['error'][-200:]}", row["address"]
        case _:
            shown = msgspec.json.decode(row["data_json"])
            conversation = shown.get("conversation") or {}
            return f"event {row['local']} {row['name']}", conversation.get("id")
