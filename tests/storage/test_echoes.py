"""One message in the history for each message at the platform, in whatever order the answer to a send, its
echo, a watermark and a restart come: the real engine and writer, over PostgreSQL and over its model.

A platform is played that names our messages only in its answers, echoes everything, and brings a refused
delivery again. Messages of one contact go out one after the other, as the channel's actor sends them.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from random import Random
from typing import Any, cast

import pytest
import trio

from adapters.registry import describe_all
from engine.domain import rows
from engine.domain.conversation.messages import By, OutboxVerdict, SendMessage, address_of
from engine.domain.engine import Engine
from engine.domain.inbound import Contact, InboundEvent, MessageEchoed, MessageReceived, StatusesReached
from engine.domain.intake import Delivery
from engine.domain.outbound import OutcomeUnknown, Resending, SendText, Sent
from engine.domain.outbox import CHANNEL_KIND, Settled
from engine.errors import Unavailable
from engine.ports import ContactRequest, ContactSnapshot, Endpoint
from engine.runtime import Inbox, Restart, Worker
from tests.patience import PATIENCE_SECONDS
from tests.storage.test_contract import Node, Side, side
from tests.storage.writing import T0

__all__ = ["side"]  # the fixture: a database of either kind

pytestmark = pytest.mark.real_time

TENANT, CHANNEL, KEY = 1, 7, "7100"
ENDPOINT = Endpoint(
    platform="instagram",
    external_id="1784",
    parent_id=None,
    tenant_id=TENANT,
    channel_id=CHANNEL,
    endpoint_key="k",
    secrets={},
)
SEEDS = {"model": 100, "postgres": 12}
TEXTS = ("Yes", "No")
"""Few, so that two often say the same."""


class Played:
    """The platform, the channel's actor and the agents of one contact. `seed` decides everything."""

    def __init__(self, side: Side, seed: int) -> None:
        self.side = side
        self.rng = Random(seed)
        self.key = f"{KEY}{seed}"
        self.ids = count((seed + 1) * 100_000)
        self.names = count(1)
        self.clock = T0
        self.conversation = 0
        self.queued: list[tuple[int, str]] = []
        self.begun: set[int] = set()
        self.settled: set[int] = set()
        self.at_platform: list[str] = []
        self.deliveries: list[InboundEvent] = []

    @asynccontextmanager
    async def process(self) -> AsyncIterator[tuple[Node, Engine]]:
        async with self.side.node(f"n{self._now()}") as node, trio.open_nursery() as nursery:
            engine = Engine(
                conversation_store=node.contacts,
                tenant_store=node.tenants,
                customer_store=cast("Any", None),  # nobody asks about persons here
                committer=node.writers,
                workers=(Worker(kind=CHANNEL_KIND, run=self._hear, restart=Restart.TRANSIENT, lazily=True),),
                new_id=lambda: next(self.ids),
                wall_ms=self._now,
                rng=Random(1),
            )
            await nursery.start(engine.run)
            yield node, engine
            await engine.stop(5.0)
            nursery.cancel_scope.cancel()

    async def _hear(self, inbox: Inbox) -> None:
        while batch := await inbox.take(16):
            for envelope in batch:
                if isinstance(envelope.message, Settled):
                    self.settled.add(envelope.message.outbox_id)

    def _now(self) -> int:
        self.clock += 1
        return self.clock

    # ------------------------------------------------------------------ what happens

    async def day(self) -> None:
        """Messages from here and from the app, with a restart among them; then all is brought to its end."""
        script = ["say"] * self.rng.randint(1, 3) + ["app"] * self.rng.randint(0, 2)
        script += ["send"] * 2 + ["deliver"] * 4
        self.rng.shuffle(script)
        cut = self.rng.randrange(len(script))
        async with self.process() as (node, engine):
            await self._hello(node, engine)
            for step in script[:cut]:
                await self._step(step, node, engine)
        async with self.process() as (node, engine):
            for step in script[cut:]:
                await self._step(step, node, engine)
            with trio.fail_after(PATIENCE_SECONDS):
                while self.queued or self.deliveries:
                    await self._step("send", node, engine)
                    await self._step("deliver", node, engine)
            await self._check(node)

    async def _step(self, step: str, node: Node, engine: Engine) -> None:
        match step:
            case "say":
                await self._say(engine)
            case "app":
                self._echo(self._name(), self.rng.choice(TEXTS))
            case "send" if self.queued:
                await self._send(node, engine)
            case "deliver" if self.deliveries:
                await self._deliver(engine)

    async def _check(self, node: Node) -> None:
        contact = await self._contact(node)
        ours = [each for each in contact.messages if each.direction == "outbound"]
        assert sorted(each.platform_message_id or "" for each in ours) == sorted(self.at_platform)
        assert {each.status for each in ours} <= {"sent", "read"}

    async def _hello(self, node: Node, engine: Engine) -> None:
        channel = rows.ChannelRow(
            tenant_id=TENANT,
            id=CHANNEL,
            platform="instagram",
            name="Shop",
            external_id="1784",
            credentials=b"",
            settings={},
            status="active",
            status_note=None,
            created_at=T0,
            updated_at=T0,
        )
        await node.commit(channel)
        hello = MessageReceived(
            contact=Contact(keys=(self.key,)),
            platform_id=f"{self.key}.hello",
            at=self._now(),
            type="text",
            content={"body": "Hello"},
            text="Hello",
        )
        assert await self._take(engine, hello)
        conversation = (await self._contact(node)).conversation
        assert conversation is not None
        self.conversation = conversation.id

    async def _contact(self, node: Node) -> ContactSnapshot:
        asked = ContactRequest(tenant_id=TENANT, channel_id=CHANNEL, keys=(self.key,))
        (found,) = await node.contacts.load_contacts([asked], recent_max=100)
        assert isinstance(found, ContactSnapshot)
        return found

    async def _say(self, engine: Engine) -> None:
        text = self.rng.choice(TEXTS)
        message = SendMessage(
            conversation_id=self.conversation,
            by=By(kind="user", id=501, name="Ann"),
            send=SendText(body=text),
            type="text",
            content={"body": text},
            text=text,
            trace="t",
        )
        made = await engine.ask_contact(TENANT, CHANNEL, self.key, message)
        self.queued.append((made.id, text))

    async def _send(self, node: Node, engine: Engine) -> None:
        """The next message's next call, as the channel's actor makes it: written down first. Its answer comes
        late, or never; its echo, and what reading it leads to, may come before."""
        number, text = self.queued[0]
        if number in self.begun and number not in self.settled:
            # Begun by a process that died, or not answered: after a wait for the platform's word, once more.
            await self._verdict(engine, number, OutcomeUnknown(at=self._now()))
            for _ in range(self.rng.randint(0, 6)):
                await self._step("deliver", node, engine)
            if number not in self.settled:
                await self._verdict(engine, number, Resending(at=self._now()))
        if number in self.settled:
            self.queued.pop(0)
            return
        sending = rows.OutboxPatch(tenant_id=TENANT, id=number, state="sending", attempts=1, updated_at=T0)
        await node.commit(sending)
        self.begun.add(number)
        platform_id = self._name()
        # Shown otherwise than it was sent, at times.
        self._echo(platform_id, f"{text}…" if self.rng.random() < 0.3 else text)
        if self.rng.random() < 0.5:
            self._mark(platform_id)
        for _ in range(self.rng.randint(0, 4)):
            await self._step("deliver", node, engine)
        if number in self.settled:
            self.queued.pop(0)
        elif self.rng.random() < 0.6:
            await self._verdict(engine, number, Sent(platform_id=platform_id, at=self._now()))
            self.queued.pop(0)

    async def _verdict(self, engine: Engine, number: int, outcome: Any) -> None:
        verdict = OutboxVerdict(
            outbox_id=number,
            conversation_id=self.conversation,
            message_id=number,
            outcome=outcome,
            trace="t",
        )
        await engine.config(TENANT)
        await engine.system.ask(address_of(TENANT, CHANNEL, self.key), verdict, timeout_seconds=10.0)

    def _name(self) -> str:
        name = f"{self.key}.{next(self.names)}"
        self.at_platform.append(name)
        return name

    def _echo(self, platform_id: str, text: str) -> None:
        self.deliveries.append(
            MessageEchoed(
                contact=Contact(keys=(self.key,)),
                platform_id=platform_id,
                at=self._now(),
                type="text",
                content={"body": text},
                text=text,
                maybe_ours=True,
            )
        )

    def _mark(self, platform_id: str) -> None:
        self.deliveries.append(
            StatusesReached(
                contact=Contact(keys=(self.key,)),
                status="read",
                at=self._now(),
                raw_status="read",
                platform_id=platform_id,
            )
        )

    async def _deliver(self, engine: Engine) -> None:
        """One of those that wait, at times twice; what is refused comes again."""
        event = self.deliveries.pop(self.rng.randrange(len(self.deliveries)))
        if not await self._take(engine, event) or self.rng.random() < 0.2:
            self.deliveries.append(event)

    async def _take(self, engine: Engine, event: InboundEvent) -> bool:
        delivery = Delivery(
            platform="instagram",
            trace="t",
            received_at=self._now(),
            headers={},
            body=b"{}",
            groups=[(ENDPOINT, [event])],
        )
        try:
            receipt = await engine.intake.deliver(delivery)
        except Unavailable as error:
            if error.code != "undecided":
                raise
            return False
        assert receipt.parked == 0
        return True


async def test_each_message_at_the_platform_stands_in_the_history_once(
    side: Side, request: pytest.FixtureRequest
) -> None:
    """In a hundred orders of events over the model, and in a few of them over PostgreSQL."""
    describe_all()
    for seed in range(SEEDS[request.node.callspec.params["side"]]):
        try:
            await Played(side, seed).day()
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
