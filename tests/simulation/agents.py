"""Agents: what they order by the API, as the domain's own calls."""

from typing import TYPE_CHECKING, Any

import trio

from engine.domain.conversation.messages import (
    AddNote,
    Assign,
    By,
    ChangeCustomer,
    ChangeTags,
    MarkConversationRead,
    Retry,
    SendMessage,
    SetStatus,
    ShowTyping,
    Start,
    Transfer,
    Unassign,
)
from engine.domain.customers.messages import CreateCustomer, Merge, Unmerge
from engine.domain.outbound import SendTemplate, SendText
from engine.domain.phones import variants
from engine.domain.tenant.messages import Save
from engine.errors import MijraError, Rejected
from engine.reading import ConversationPlace

if TYPE_CHECKING:
    from random import Random

    from tests.simulation.lines import Line
    from tests.simulation.world import World

ASK_SECONDS_MAX = 10.0
TAG = 9
PEOPLE_CHANCE = 0.7
"""How often somebody looks after customers besides."""


class Agents:
    def __init__(self, world: "World") -> None:
        self.world = world

    async def order(self, tenant_id: int, by: By, random: "Random") -> None:
        """One thing that an agent does."""
        world = self.world
        rows = world.store.table(tenant_id, "conversations")
        if not rows:
            return
        row = random.choice(rows)
        failed = [
            one for one in world.store.table(tenant_id, "messages") if one.status in ("failed", "unknown")
        ]
        choice = random.random()
        if choice < 0.45:
            await self._send(tenant_id, row, self._reply(tenant_id, by, row, random), random)
        elif choice < 0.55 and failed:
            message = random.choice(failed)
            owner = world.store.row(tenant_id, "conversations", message.conversation_id)
            # Noted before it is answered: it may take effect although nobody heard of it.
            world.retried.add(message.id)
            await self._ask(
                tenant_id, owner, Retry(conversation_id=owner.id, message_id=message.id, by=by), random
            )
        elif choice < 0.62:
            # Now and then to somebody who has never written.
            lines = [line for line in world.lines_of(tenant_id) if line.voice.starts]
            if not lines:
                return
            new = ConversationPlace(
                conversation_id=0,
                channel_id=random.choice(lines).channel_id,
                contact_key=f"1777{random.randint(0, 2)}",
                assigned_to=None,
                status="new",
            )
            known = any(line.channel_id == row.channel_id for line in lines)
            place = new if random.random() < 0.3 or not known else self._other_way(row, random)
            await self._send(tenant_id, place, self._start(tenant_id, by, place, random), random)
        else:
            orders = self._orders(tenant_id, by, row, random)
            snoozes = [one for one in orders if isinstance(one, SetStatus)]
            await self._ask(
                tenant_id, row, random.choice(snoozes if row.status == "pending" else orders), random
            )
        if random.random() < PEOPLE_CHANCE:
            await self._people(tenant_id, by, random)

    def _other_way(self, row: Any, random: "Random") -> Any:
        """The contact's number as somebody may write it who looks it up elsewhere."""
        others = variants(row.contact_key)
        if not others:
            return row
        return ConversationPlace(
            conversation_id=row.id,
            channel_id=row.channel_id,
            contact_key=random.choice((row.contact_key, *others)),
            assigned_to=None,
            status=row.status,
        )

    async def _people(self, tenant_id: int, by: By, random: "Random") -> None:
        """Who is one person with whom, and what he is called."""
        process = self.world.door()
        customers = self.world.store.table(tenant_id, "customers")
        if process is None or not customers:
            return
        one, other = random.choice(customers).id, random.choice(customers).id
        message: Any = random.choice(
            (
                *[Merge(survivor_id=one, merged_id=other, by=by)] * 4,
                Unmerge(customer_id=one, by=by),
                ChangeCustomer(customer_id=one, values={"name": f"N{self.world.new_trace()}"}, by=by),
                CreateCustomer(values={"name": f"N{self.world.new_trace()}"}, by=by),
            )
        )
        try:
            await process.engine.ask_customers(tenant_id, message, timeout_seconds=ASK_SECONDS_MAX)
            said = "done"
        except MijraError as error:
            said = error.code
        self.world.tell("agent", f"{message}: {said}", one, other)

    def _orders(self, tenant_id: int, by: By, row: Any, random: "Random") -> list[Any]:
        place, now = row.id, self.world.wall_ms()
        other = random.choice(self.world.agents_of(tenant_id))
        assert other.id is not None
        return [
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
                until=now + random.choice((2_000, 5_000, 300_000, 7_200_000)),
                by=by,
            ),
            AddNote(conversation_id=place, body="note", by=by),
            ChangeTags(conversation_id=place, add=(TAG,), by=by),
            ChangeTags(conversation_id=place, remove=(TAG,), by=by),
            ShowTyping(conversation_id=place, by=by),
            MarkConversationRead(conversation_id=place, by=by),
            MarkConversationRead(conversation_id=place, by=by, up_to_seq=random.randint(1, row.last_seq + 1)),
        ]

    def _reply(self, tenant_id: int, by: By, row: Any, random: "Random") -> SendMessage:
        # Told apart from every other one, so that one that is stored twice is seen.
        body = f"reply {self.world.new_trace()}{self.world.marker(tenant_id)}"
        return SendMessage(
            conversation_id=row.id,
            by=by,
            send=SendText(body=body),
            type="text",
            content={"body": body},
            text=body,
            client_key=random.choice((None, f"key{random.randint(1, 5)}")),
        )

    def _start(self, tenant_id: int, by: By, place: Any, random: "Random") -> Start:
        key = place.contact_key
        line = next(one for one in self.world.lines_of(tenant_id) if one.channel_id == place.channel_id)
        words = f"hello{self.world.marker(tenant_id)}"
        with_template = line.platform == "whatsapp"
        return Start(
            by=by,
            recipient=f"+{key}" if key.isdecimal() else key,
            name=None,
            platform=line.platform,
            send=SendTemplate(name=words, language="en") if with_template else SendText(body=words),
            type="template" if with_template else "text",
            content={"name": words} if with_template else {"body": words},
            client_key=random.choice((None, f"key{random.randint(1, 5)}")),
        )

    async def _send(self, tenant_id: int, row: Any, message: SendMessage | Start, random: "Random") -> None:
        """Sometimes clicked twice; a key is one message for ever."""
        for _ in range(2 if self.world.chance.strikes("client_repeated") else 1):
            self.world.later(random.choice((0.0, 0.1)), self._sent, tenant_id, row, message, random)

    async def _sent(self, tenant_id: int, row: Any, message: SendMessage | Start, random: "Random") -> None:
        if isinstance(message, SendMessage):
            self.world.ledger.clicks[tenant_id, message.text] += 1
        answer = await self._ask(tenant_id, row, message, random)
        stored = answer.message if isinstance(message, Start) and answer is not None else answer
        if stored is None:
            return
        if self.world.store.row(tenant_id, "messages", stored.id) is None:
            self.world.violate("loss", f"{stored.id} was accepted and is nowhere", stored.id)
        self.world.ledger.accepted.append((tenant_id, stored.id))
        if message.client_key is not None:
            self.world.ledger.keyed[tenant_id, stored.conversation_id, message.client_key].add(stored.id)

    async def _ask(self, tenant_id: int, row: Any, message: Any, random: "Random") -> Any:
        """The answer; None when there was none, or a refusal."""
        world, name = self.world, type(message).__name__
        process = world.door()
        if process is None:
            return None
        seconds = ASK_SECONDS_MAX + 1.0
        if world.chance.strikes("client_hung_up"):
            seconds = world.chance.uniform("client_hung_up", 0.0, 0.3)
        about = (getattr(message, "conversation_id", None), getattr(message, "message_id", None))
        answer, said = None, "nothing came back"
        with trio.move_on_after(seconds):
            try:
                answer = await process.engine.ask_conversation(
                    tenant_id, row, message, timeout_seconds=ASK_SECONDS_MAX
                )
                said = "done"
            except Rejected as refusal:
                said = refusal.code
            except MijraError as error:
                said = repr(error)
        if process.dead:
            answer, said = None, "the server died"
        world.record.add("answer", name, said, answer)
        stored = getattr(answer, "id", None)
        world.tell(
            "agent", f"{name} in {row.contact_key}: {said}{f' {stored}' if stored else ''}", *about, stored
        )
        return answer

    async def come_and_go(self, tenant_id: int, random: "Random") -> None:
        """An agent goes away or comes back, or the owner changes how conversations are given out."""
        by = random.choice(self.world.agents_of(tenant_id))
        values: dict[str, Any] = {"availability": random.choice(("online", "away"))}
        kind, key = "agent", by.id
        if random.random() < 0.25:
            kind, key = "assignment", None
            values = {"mode": random.choice(("manual", "round_robin", "least_loaded"))}
        await self.configure(tenant_id, Save(kind=kind, id=key, values=values, by=by))

    async def connect_again(self, line: "Line") -> None:
        """The owner enters what holds now, until it is taken."""
        while not await self._enter(line):  # noqa: ASYNC110  there is nothing to wait for but time
            await trio.sleep(1.0)
        self.world.tell("owner", f"enters new credentials for {line.number}")

    async def _enter(self, line: "Line") -> bool:
        process = self.world.door()
        if process is None:
            return False
        values = {"status": "active", "status_note": None}
        try:
            channel = (await process.engine.config(line.tenant_id)).channels[line.channel_id]
            await process.provisioning.change_channel(
                line.tenant_id,
                channel,
                values,
                line.voice.credentials(),
                by=self.world.agents_of(line.tenant_id)[0],
                trace="",
            )
        except MijraError as error:
            self.world.tell("owner", f"new credentials for {line.number}: {error!r}")
            return False
        return not process.dead

    async def configure(self, tenant_id: int, change: Save) -> bool:
        """Whether the change was answered."""
        process = self.world.door()
        if process is None:
            return False
        try:
            await process.engine.ask_tenant(tenant_id, change, timeout_seconds=ASK_SECONDS_MAX)
        except MijraError as error:
            self.world.tell("owner", f"{change.kind} {change.values}: {error!r}")
            return False
        if process.dead:
            return False
        shown = {name: value for name, value in change.values.items() if name != "credentials"}
        self.world.tell("owner", f"{change.kind} {change.id} {shown}")
        return True
