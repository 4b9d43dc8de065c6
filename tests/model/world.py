"""A small business day, from a seed: customers, a platform, agents and a process that dies now and then.

The engine is the real one with the real channel actor; its store, its platform and its clock are models. One
generator decides everything, so a seed is a story that can be told again; `timeline` tells it.
"""

from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Any

import trio
from msgspec import Struct, structs

from adapters.channel import Channels
from adapters.port import (
    Accepted,
    Account,
    Declined,
    ErrorClass,
    Fitted,
    Limits,
    SendResult,
    Turn,
    Unanswered,
)
from engine.domain.config import AssignmentSettings, Channel, TenantConfig
from engine.domain.conversation.messages import (
    AddNote,
    Assign,
    By,
    ChangeTags,
    MarkConversationRead,
    MediaVerdict,
    Retry,
    SendMessage,
    SetStatus,
    ShowTyping,
    Start,
    Transfer,
    Unassign,
)
from engine.domain.conversation.messages import address_of as conversation_of
from engine.domain.engine import Engine
from engine.domain.inbound import (
    Contact,
    ContactRenumbered,
    InboundEvent,
    Media,
    MessageDeleted,
    MessageEchoed,
    MessageEdited,
    MessageReceived,
    PlatformError,
    StatusChanged,
)
from engine.domain.intake import Delivery
from engine.domain.outbound import OutboxItem, Send, SendTemplate, SendText
from engine.domain.outbox import MEDIA_KIND, Fetch
from engine.domain.rows import AttachmentRow, ConversationRow, CustomerRow, HandleRow, MessageRow
from engine.domain.tenant.messages import Save
from engine.errors import CommitConflict, MijraError, Rejected, Unavailable
from engine.ports import Endpoint, LoggedEvent
from engine.reading import ConversationPlace
from engine.runtime import Inbox, SilentObserver, Worker
from tests.domain.desk import ANN, BOB, CHANNEL, HOUR, NOON, TENANT, agent, config, rule
from tests.model.store import POISON, Faults, ModelStore, ModelWriter

CLEO = By(kind="user", id=503, name="Cleo")
AGENTS = (ANN, BOB, CLEO)
ASK_SECONDS_MAX = 3.0
SETTLE_SECONDS_MAX = 3_000.0


class Person(Struct):
    """A customer: the handles by which the platform may name them, and what they have written."""

    name: str
    keys: list[str]
    loose: bool = False  # named by one key or another, so that nobody can know that it is one person
    written: list[str] = []


class Sink:
    """Checks what every listener relies on: committed events only, cursors without holes."""

    def __init__(self, store: ModelStore) -> None:
        self._store = store
        self.cursor = len(store.events)

    def committed(self, events: Any) -> None:
        for event in events:
            assert event.cursor == self.cursor + 1, f"a hole before cursor {event.cursor}"
            assert self._store.events[event.cursor - 1] is event, "told before it was committed"
            self.cursor = event.cursor


class Watch(SilentObserver):
    def __init__(self, tell: Callable[..., None]) -> None:
        self._tell = tell
        self.crashes: list[BaseException] = []

    def crashed(self, address: Any, error: BaseException, attempts: int) -> None:
        self._tell("CRASHED", address, repr(error))
        self.crashes.append(error)

    def commit_failed(self, address: Any, error: BaseException, decided_again: int) -> None:
        self._tell("commit failed", address, repr(error), decided_again)

    def parked(self, letter: Any) -> None:
        self._tell("parked", letter.address, letter.error[-300:])

    def undeliverable(self, address: Any, message: object, reason: str) -> None:
        self._tell("undeliverable", address, reason)


class Platform:
    """Takes, declines or loses what is sent, and sends status webhooks: late, twice, in any order."""

    platform = "whatsapp"

    def __init__(self, world: "World") -> None:
        self.world = world
        self.taken: list[tuple[int | None, str]] = []
        self.failed: set[str] = set()

    def fit(self, send: Send) -> Fitted:
        return Fitted(send=send)

    def limits(self, account: Account) -> Limits:
        return Limits(messages_per_second=200, pair_seconds=0.05, pair_burst=20, concurrency=8)

    async def send(self, item: OutboxItem, account: Account, turn: Turn) -> SendResult:
        await turn.come()
        turn.written()
        world, random = self.world, self.world.random
        await trio.sleep(random.uniform(0.0, 0.3))
        fate = random.random() if world.traffic else 1.0
        if fate < 0.04:
            return Declined(error_class=ErrorClass.RECIPIENT, platform_code="131026", message="Cannot.")
        if fate < 0.10:
            return Declined(error_class=ErrorClass.TRANSIENT, platform_code="131016", message="Later.")
        if fate < 0.14:
            return Unanswered(reason="lost on the way")
        platform_id = f"wamid.out{len(self.taken) + 1}"
        self.taken.append((item.message_id, platform_id))
        world.tell("platform took", item.message_id, platform_id)
        if item.message_id is not None:
            self._report(item.message_id, platform_id, item.contact_key)
        if fate < 0.2:
            return Unanswered(reason="the answer was lost")
        await trio.sleep(random.uniform(0.0, 0.3))
        return Accepted(platform_id=platform_id)

    def _report(self, message_id: int, platform_id: str, contact_key: str) -> None:
        random = self.world.random
        names = self.world.names_of(contact_key)
        if self.world.callbacks:
            names = [*names, "1999" + contact_key[-1]]  # by a number that we have never heard of
        kinds = random.choice(
            (["sent"], ["sent", "delivered"], ["sent", "delivered", "read"], ["read"], ["sent", "failed"])
        )
        for kind in kinds:
            status = StatusChanged(
                contact=Contact(keys=(random.choice(names),)),
                platform_id=platform_id,
                status=kind,
                at=self.world.now(),
                raw_status=kind,
                callback=str(message_id) if self.world.callbacks else None,
                error=PlatformError(platform_code="131049", message="Not today.")
                if kind == "failed"
                else None,
            )
            if kind == "failed":
                self.failed.add(platform_id)
            for _ in range(random.choice((1, 1, 2, 3))):
                late = random.choice((5.0, 25.0)) if kind == "failed" else 5.0
                self.world.later(random.uniform(0.0, late), self.world.webhook, [status])


class World:
    """One tenant and its day. `run` lives it; the checkers look at what is left."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        random = self.random = Random(seed)
        self.timeline: list[str] = []
        self.callbacks = random.random() < 0.8
        self.poison = random.random() < 0.15
        self.traffic = True
        rules = {
            1: rule(1, "greeting", cooldown_seconds=60),
            2: rule(2, "keyword", patterns=("price", "reply"), cooldown_seconds=random.choice((1, 20))),
        }
        mode = random.choice(("manual", "round_robin", "least_loaded"))
        capacity = random.choice((None, 1, 2))
        self.store = ModelStore(
            config(
                agents={by.id: agent(by, capacity=capacity) for by in AGENTS if by.id is not None},
                rules=rules if random.random() < 0.7 else {},
                assignment=AssignmentSettings(
                    mode=mode, reassign_on_reopen=random.random() < 0.3, respect_work_hours=False
                ),
                channels={
                    CHANNEL: Channel(
                        id=CHANNEL,
                        platform="whatsapp",
                        name="Shop line",
                        external_id="1066",
                        credentials=b"",
                        settings={},
                        status="active",
                        status_note=None,
                        created_at=NOON,
                        updated_at=NOON,
                    )
                },
            ),
            random,
            Faults(
                load_fails=random.choice((0.0, 0.02)),
                conflict=random.choice((0.0, 0.03)),
                poisoned=random.choice((0.0, 0.01)),
                load_seconds_max=random.choice((0.0, 0.05)),
                commit_seconds_max=random.choice((0.01, 0.2)),
            ),
        )
        self.people = [
            Person(name=f"P{n}", keys=[f"1555000{n}", *([f"US.{n}"] if random.random() < 0.5 else [])])
            for n in range(random.randint(2, 4))
        ]
        for person in self.people:
            person.loose = len(person.keys) > 1 and random.random() < 0.2
        self.platform = Platform(self)
        self.watch = Watch(self.tell)
        self.answered: Counter[str] = Counter()
        self.poisoned: set[str] = set()
        self.renumbered: set[str] = set()
        self.keyed: dict[tuple[int, str], set[int]] = defaultdict(set)
        self.acknowledged: list[StatusChanged] = []
        self.retried: set[int] = set()
        self.reads: list[tuple[int, int | None]] = []
        self.engine: Engine | None = None
        self._dying = trio.Lock()
        self._last_id = 0
        self._nursery: trio.Nursery | None = None
        self._pending = 0
        self._message_number = 0

    # ------------------------------------------------------------------ time, ids, notes

    def now(self) -> int:
        return NOON + round(trio.current_time() * 1000)

    def new_id(self) -> int:
        self._last_id = max(self._last_id + 1, round(trio.current_time() * 1000) * 4096 + 4096)
        return self._last_id

    def tell(self, *what: object) -> None:
        try:
            at = trio.current_time()
        except RuntimeError:
            at = 0.0
        self.timeline.append(f"{at:9.3f}  " + " ".join(map(str, what)))

    def names_of(self, contact_key: str) -> list[str]:
        return next((person.keys for person in self.people if contact_key in person.keys), [contact_key])

    def later(self, seconds: float, call: Callable[..., Awaitable[None]], *args: Any) -> None:
        """Does `call` then; the day is not over before."""
        assert self._nursery is not None
        self._pending += 1

        async def wait_and_call() -> None:
            try:
                await trio.sleep(seconds)
                await call(*args)
            finally:
                self._pending -= 1

        self._nursery.start_soon(wait_and_call)

    # ------------------------------------------------------------------ the process and its deaths

    async def _life(self, *, task_status: trio.TaskStatus[None]) -> None:
        """One process: until it is told to crash, or the day ends."""
        sink = Sink(self.store)
        listeners: list[Any] = [sink]
        writer = ModelWriter(self.store, listeners)
        channels = Channels(
            ask=self._ask,
            committer=writer,
            store=self.store,
            senders={"whatsapp": self.platform},
            accounts=lambda tenant_id, channel_id: Account(
                tenant_id=tenant_id,
                channel_id=channel_id,
                platform="whatsapp",
                external_id="1066",
                credentials={},
                settings={},
            ),
            wall_ms=self.now,
            random=self.random,
            unknown_wait_seconds=8.0,
            on_attention=lambda tenant_id, channel_id, note: None,
        )
        engine = Engine(
            conversation_store=self.store,
            tenant_store=self.store,
            committer=writer,
            workers=(channels.worker(), Worker(kind=MEDIA_KIND, run=self._fetch, lazily=True)),
            new_id=self.new_id,
            wall_ms=self.now,
            observer=self.watch,
            rng=self.random,
            monotonic=trio.current_time,
            resident_conversations_max=self.random.choice((1, 2, 1000)),
            idle_seconds_max=self.random.choice((0.5, 5.0, 600.0)),
        )
        listeners.append(engine.configs)
        self._scope = trio.CancelScope()
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(writer.run)
                await nursery.start(engine.run)
                self.engine = engine
                while True:
                    try:
                        await engine.wake(TENANT, await self.store.open_work(TENANT))
                        break
                    except Unavailable:
                        await trio.sleep(0.1)
                task_status.started()
                await trio.sleep_forever()
        self.engine = None
        writer.crash()

    async def _crash(self) -> None:
        async with self._dying:
            await self._die()

    async def _die(self) -> None:
        if self.engine is None:
            return
        self.tell("CRASH")
        self._scope.cancel()
        await trio.sleep(self.random.uniform(0.1, 2.0))
        assert self._nursery is not None
        await self._nursery.start(self._life)
        self.tell("up again")

    async def _ask(self, address: Any, message: object, *, timeout_seconds: float) -> Any:
        assert self.engine is not None
        return await self.engine.system.ask(address, message, timeout_seconds=timeout_seconds)

    async def _fetch(self, inbox: Inbox) -> None:
        """The media fetcher: every file is there at once."""
        while batch := await inbox.take():
            rows = {one.message.row.id: one.message.row for one in batch if isinstance(one.message, Fetch)}
            if len(rows) < len(batch):
                rows.update({row.id: row for row in await self._pending_media()})
            for row in rows.values():
                await self._fetched(row)

    async def _pending_media(self) -> Sequence[AttachmentRow]:
        while True:
            try:
                return await self.store.load_pending_media(TENANT, after_id=0, limit=100)
            except Unavailable:
                await trio.sleep(0.2)

    async def _fetched(self, row: AttachmentRow) -> None:
        verdict = MediaVerdict(
            attachment_id=row.id,
            conversation_id=row.conversation_id,
            message_id=row.message_id,
            stored=True,
            attempts=1,
            storage_key=f"files/{row.id}",
        )
        while True:
            try:
                await self._ask(
                    conversation_of(TENANT, row.channel_id, row.contact_key), verdict, timeout_seconds=10
                )
            except Unavailable:
                await trio.sleep(0.2)
            except MijraError:
                return
            else:
                return

    # ------------------------------------------------------------------ the platform's side

    async def webhook(self, events: list[InboundEvent]) -> None:
        """Delivers until it is answered, as platforms do."""
        endpoint = Endpoint(
            platform="whatsapp",
            external_id="1066",
            parent_id=None,
            tenant_id=TENANT,
            channel_id=CHANNEL,
            endpoint_key="k",
            secrets={},
        )
        patience = 0.5
        while True:
            engine = self.engine
            if engine is not None:
                delivery = Delivery(
                    platform="whatsapp",
                    trace=f"t{self.new_id()}",
                    received_at=self.now(),
                    headers={},
                    body=b"{}",
                    groups=[(endpoint, events)],
                )
                try:
                    with trio.move_on_after(5.0):
                        receipt = await engine.intake.deliver(delivery, wait_seconds_max=4.0)
                        names = [f"{type(e).__name__}:{getattr(e, 'platform_id', '')}" for e in events]
                        self.tell("answered", names, receipt)
                        for event in events:
                            self._note_answer(event)
                        return
                except Unavailable:
                    pass
            await trio.sleep(self.random.uniform(0.2, patience))
            patience *= 2

    def _note_answer(self, event: InboundEvent) -> None:
        if isinstance(event, StatusChanged):
            self.acknowledged.append(event)
        else:
            self.answered[getattr(event, "platform_id", "")] += 1

    def _contact(self, person: Person) -> Contact:
        keys = list(person.keys)
        self.random.shuffle(keys)
        if person.loose:
            keys = keys[: self.random.randint(1, len(keys))]
        return Contact(keys=tuple(keys), name=person.name)

    def _customer_event(self, person: Person) -> list[InboundEvent]:
        """What a customer does next; an edit or a deletion may go out before its original."""
        random = self.random
        self._message_number += 1
        platform_id = f"wamid.in{self._message_number}"
        text = random.choice(("Hello", "what is the price?", "reply 1", "thanks"))
        if self.poison and random.random() < 0.1:
            text = POISON
            self.poisoned.add(platform_id)
        members: dict[str, Any] = {
            "contact": self._contact(person),
            "platform_id": platform_id,
            "at": self.now() // 1000 * 1000,
            "type": "text",
            "content": {"body": text},
            "text": text,
        }
        kind = random.random()
        if kind < 0.08:
            return [MessageEchoed(**members)]
        if kind < 0.14 and person.written:
            quoted = random.choice(person.written)
            members.update(
                type="reaction",
                text="",
                content={"emoji": "+", "platform_message_id": quoted},
                reply_to=quoted,
            )
        elif kind < 0.2:
            members["media"] = (Media(kind="image", source_id=platform_id),)
        elif kind < 0.23 and person.name not in self.renumbered and text != POISON:
            self.renumbered.add(person.name)
            new_key = f"1666{person.name[1:]}"
            event = ContactRenumbered(
                contact=members["contact"],
                platform_id=platform_id,
                at=members["at"],
                new_key=new_key,
                new_phone=f"+{new_key}",
                content={"kind": "user_changed_number", "body": ""},
                text="",
            )
            self.later(10.0, self._goes_by, person, new_key)
            return [event]
        received = MessageReceived(**members)
        person.written.append(platform_id)
        if text == POISON or kind < 0.8:
            return [received]
        about: dict[str, Any] = {
            "contact": self._contact(person),
            "original_id": platform_id,
            "at": members["at"] + 1000,
        }
        if kind < 0.9:
            edit = MessageEdited(
                platform_id=f"{platform_id}.edit", type="text", content={"body": "x"}, text="x", **about
            )
            return [received, edit]
        return [received, MessageDeleted(platform_id=f"{platform_id}.gone", **about)]

    async def _goes_by(self, person: Person, key: str) -> None:
        person.keys.append(key)

    async def _customer(self, person: Person) -> None:
        random = self.random
        for _ in range(random.randint(2, 7)):
            await trio.sleep(random.choice((0.0, 0.0, random.uniform(0.0, 4.0))))
            burst = [event for _ in range(random.choice((1, 1, 3))) for event in self._customer_event(person)]
            for event in burst:
                for _ in range(random.choice((1, 1, 2, 5))):
                    late = random.choice((0.0, random.uniform(0.0, 0.1), random.uniform(0.0, 8.0)))
                    again = structs.replace(event, contact=self._contact(person))
                    self.later(late, self.webhook, [again])
            if random.random() < 0.3:
                self.later(0.0, self.webhook, burst)

    # ------------------------------------------------------------------ the business' side

    async def _agent(self, by: By) -> None:
        random = self.random
        for _ in range(random.randint(3, 12)):
            await trio.sleep(random.uniform(0.0, 2.5))
            rows = list(self.store.conversations.values())
            if not rows:
                continue
            await self._command(by, random.choice(rows))

    async def _command(self, by: By, row: ConversationRow) -> None:
        random, place = self.random, row.id
        other = random.choice(AGENTS)
        assert other.id is not None
        messages: list[Any] = [
            Assign(conversation_id=place, user_id=other.id, by=by),
            Unassign(conversation_id=place, by=by),
            Transfer(conversation_id=place, to_user_id=other.id, note="yours", by=by),
            SetStatus(
                conversation_id=place,
                status=random.choice(("open", "resolved", "pending", "archived")),
                by=by,
            ),
            SetStatus(conversation_id=place, status="resolved", by=by),
            SetStatus(
                conversation_id=place,
                status="pending",
                until=self.now() + random.choice((2_000, 5_000, 2 * HOUR // 100)),
                by=by,
            ),
            AddNote(conversation_id=place, body="note", by=by),
            ChangeTags(conversation_id=place, add=(9,), by=by),
            ChangeTags(conversation_id=place, remove=(9,), by=by),
            ShowTyping(conversation_id=place, by=by),
            MarkConversationRead(conversation_id=place, by=by),
            MarkConversationRead(conversation_id=place, by=by, up_to_seq=random.randint(1, row.last_seq + 1)),
        ]
        snoozes = [one for one in messages if isinstance(one, SetStatus)]
        failed = [one for one in self.store.messages.values() if one.status in ("failed", "unknown")]
        choice = random.random()
        if choice < 0.35:
            await self._send(by, row, self._reply(by, row))
        elif choice < 0.5 and failed:
            message = random.choice(failed)
            owner = self.store.conversations[message.conversation_id]
            # Noted before it is answered: it may take effect although nobody heard of it.
            self.retried.add(message.id)
            await self._order(owner, Retry(conversation_id=owner.id, message_id=message.id, by=by))
        elif choice < 0.6:
            # Now and then to somebody who has never written.
            new = ConversationPlace(
                conversation_id=0,
                channel_id=CHANNEL,
                contact_key=f"1777{random.randint(0, 2)}",
                assigned_to=None,
                status="new",
            )
            await self._send(by, new if random.random() < 0.3 else row, self._start(by))
        else:
            message = random.choice(snoozes if row.status == "pending" else messages)
            await self._order(row, message)

    def _reply(self, by: By, row: ConversationRow) -> SendMessage:
        return SendMessage(
            conversation_id=row.id,
            by=by,
            send=SendText(body="reply"),
            type="text",
            content={"body": "reply"},
            text="reply",
            client_key=self.random.choice((None, f"key{self.random.randint(1, 5)}")),
        )

    def _start(self, by: By) -> Start:
        return Start(
            by=by,
            recipient="+1",
            name=None,
            platform="whatsapp",
            send=SendTemplate(name="hello", language="en"),
            type="template",
            content={"name": "hello"},
            client_key=self.random.choice((None, f"key{self.random.randint(1, 5)}")),
        )

    async def _send(
        self, by: By, row: ConversationRow | ConversationPlace, message: SendMessage | Start
    ) -> None:
        """Sometimes clicked twice; a key is one message for ever."""
        for _ in range(self.random.choice((1, 2))):
            self.later(self.random.choice((0.0, 0.1)), self._sent, row, message)

    async def _sent(self, row: ConversationRow | ConversationPlace, message: SendMessage | Start) -> None:
        answer = await self._order(row, message)
        stored = answer.message if isinstance(message, Start) and answer is not None else answer
        if stored is not None and message.client_key is not None:
            self.keyed[stored.conversation_id, message.client_key].add(stored.id)

    async def _order(self, row: ConversationRow | ConversationPlace, message: Any) -> Any:
        engine = self.engine
        if engine is None:
            return None
        try:
            answer = await engine.ask_conversation(TENANT, row, message, timeout_seconds=ASK_SECONDS_MAX)
        except Rejected as refusal:
            self.tell(type(message).__name__, row.contact_key, refusal.code)
            return None
        except MijraError as error:
            self.tell(type(message).__name__, row.contact_key, repr(error))
            return None
        self.tell(type(message).__name__, row.contact_key, "done")
        return answer

    async def _team(self) -> None:
        """Agents come and go."""
        for _ in range(self.random.randint(0, 6)):
            await trio.sleep(self.random.uniform(0.0, 3.0))
            by = self.random.choice(AGENTS)
            values: dict[str, Any] = {"availability": self.random.choice(("online", "away"))}
            kind, key = "agent", by.id
            if self.random.random() < 0.25:
                kind, key = "assignment", None
                values = {"mode": self.random.choice(("manual", "round_robin", "least_loaded"))}
            if self.engine is not None:
                try:
                    await self.engine.ask_tenant(
                        TENANT, Save(kind=kind, id=key, values=values, by=by), timeout_seconds=ASK_SECONDS_MAX
                    )
                    self.tell("team", kind, key, values)
                except MijraError:
                    pass

    async def _intruder(self) -> None:
        """A second writer that the actors know nothing of opens a conversation with somebody new."""
        person = self.random.choice(self.people)
        await trio.sleep(self.random.uniform(0.0, 1.0))
        key = person.keys[-1]
        if any((CHANNEL, one) in self.store.handles for one in person.keys):
            return
        self.tell("intruder opens", key)
        now = self.now()
        customer = CustomerRow(
            tenant_id=TENANT,
            id=self.new_id(),
            name=person.name,
            avatar_url=None,
            email=None,
            phone=None,
            locale=None,
            timezone=None,
            attributes={},
            source="whatsapp",
            first_seen_at=now,
            last_seen_at=now,
            created_at=now,
        )
        handle = HandleRow(
            tenant_id=TENANT,
            channel_id=CHANNEL,
            external_id=key,
            contact_key=key,
            customer_id=customer.id,
            platform="whatsapp",
            display=None,
            created_at=now,
        )
        try:
            self.store.apply([customer, handle])
        except CommitConflict:
            self.tell("intruder was late")

    # ------------------------------------------------------------------ the day

    async def run(self) -> None:
        random = self.random
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await nursery.start(self._life)
            for person in self.people:
                self.later(0.0, self._customer, person)
            for by in AGENTS:
                self.later(0.0, self._agent, by)
            self.later(0.0, self._team)
            if random.random() < 0.3:
                self.later(0.0, self._intruder)
            for _ in range(random.choice((0, 0, 1, 2))):
                self.later(random.uniform(0.5, 12.0), self._crash)
            with trio.fail_after(SETTLE_SECONDS_MAX):
                while self._pending or self.unsettled():
                    await trio.sleep(1.0)
                    self.traffic = self._pending > 0 and trio.current_time() < 60
            self.store.faults = Faults()
            await trio.sleep(90.0)
            assert self.engine is not None
            self.statistics = self.engine.system.statistics()
            await self.engine.stop(10.0)
            nursery.cancel_scope.cancel()

    def unsettled(self) -> bool:
        return any(row.state in ("queued", "sending", "unknown") for row in self.store.outbox.values())

    def config(self) -> TenantConfig:
        return self.store.config

    def events(self) -> list[LoggedEvent]:
        return self.store.events

    def messages(self) -> list[MessageRow]:
        return sorted(self.store.messages.values(), key=lambda row: row.id)
