"""Customers: who they are, what they write and how the platform reports it."""

from typing import TYPE_CHECKING, Any

import trio
from msgspec import Struct

from adapters.simulators import builders
from engine.domain.phones import with_variants
from tests.simulation.database import POISON
from tests.simulation.mail import Item

if TYPE_CHECKING:
    from random import Random

    from tests.simulation.platform import Line
    from tests.simulation.world import World


FLOOD_MESSAGES = 40
"""Three small mailboxes."""


class Person(Struct, kw_only=True):
    """`loose`: named by one id or another, so that nobody can know that it is one person. The same numbers
    write to several tenants."""

    line: "Line"
    name: str
    wa_id: str
    user_id: str | None
    loose: bool = False
    renumbered: bool = False
    keys: list[str] = []
    written: list[str] = []

    @property
    def label(self) -> str:
        return f"{self.line.tenant_id}/{self.line.channel_id}/{self.name}"

    def wire(self, random: "Random") -> builders.Person:
        """As the platform names them this time: a number that is written in two ways comes in both."""
        ways = with_variants(self.wa_id)
        number = random.choice(ways) if len(ways) > 1 else self.wa_id
        if self.loose and self.user_id is not None:
            shown = random.choice(("number", "user", "both"))
            return builders.Person(
                name=self.name,
                wa_id=number if shown != "user" else None,
                user_id=self.user_id if shown != "number" else None,
            )
        return builders.Person(name=self.name, wa_id=number, user_id=self.user_id)


class People:
    def __init__(self, world: "World") -> None:
        self.world = world
        self._number = 0

    async def write(self, person: Person, random: "Random") -> None:
        """One burst of one customer."""
        mail, burst = self.world.mail, []
        for _ in range(random.choice((1, 1, 2, 4))):
            burst += self._next(person, random)
            if random.random() < 0.5:
                await trio.sleep(random.uniform(0.0, 2.0))
        for item in burst:
            mail.send(item)
        if len(burst) > 1 and random.random() < 0.4:
            mail.bundle(burst)
        elif random.random() < 0.3:
            mail.hold(burst[-1])

    def flood(self, person: Person, random: "Random") -> None:
        """Many messages at once, each in a delivery of its own. None is poison: with several in a row whoever
        handles them is rightly restarted again and again."""
        world = self.world
        wire, at = person.wire(random), world.platform_seconds()
        for _ in range(FLOOD_MESSAGES):
            self._number += 1
            platform_id = f"wamid.in{self._number}"
            text = f"Hello?{world.marker(person.line.tenant_id)}"
            person.written.append(platform_id)
            message = builders.text_message(wire, platform_id, at, text)
            world.mail.send(self._item(person, wire, platform_id, message, text), within=0.1)

    def _next(self, person: Person, random: "Random") -> list[Item]:
        """What the customer does next; an edit or a deletion may go out before its original."""
        world = self.world
        self._number += 1
        platform_id, at = f"wamid.in{self._number}", world.platform_seconds()
        marker = world.marker(person.line.tenant_id)
        text = random.choice(("Hello", "what is the price?", "reply 1", "thanks")) + marker
        wire = person.wire(random)
        kind = random.random()
        if world.chance.strikes("poison"):
            text, kind = POISON, 1.0
        if kind < 0.08:
            return [self._echo(person, wire, platform_id, at, text)]
        if kind < 0.14 and person.written:
            message = builders.reaction_message(wire, platform_id, at, random.choice(person.written), "+")
            return [self._item(person, wire, platform_id, message, text)]
        if kind < 0.16 and not person.renumbered and person.user_id is None:
            return [self._renumbered(person, wire, platform_id, at)]
        if kind < 0.2:
            media = builders.MediaRef(id=f"media{self._number}", mime_type="image/jpeg", sha256="")
            message = builders.image_message(wire, platform_id, at, media, text)
            return [self._item(person, wire, platform_id, message, text)]
        message = builders.text_message(wire, platform_id, at, text)
        received = self._item(person, wire, platform_id, message, text)
        person.written.append(platform_id)
        if text == POISON or kind < 0.8:
            return [received]
        if kind < 0.9:
            body = {"type": "text", "text": {"body": f"changed{marker}"}}
            message = builders.edit_message(wire, f"{platform_id}.edit", at + 1, platform_id, body)
            return [received, self._about(person, wire, "edit", platform_id, message)]
        message = builders.revoke_message(wire, f"{platform_id}.gone", at + 1, platform_id)
        return [received, self._about(person, wire, "gone", platform_id, message)]

    def _item(
        self,
        person: Person,
        wire: builders.Person,
        platform_id: str,
        message: Any,
        text: str,
        kind: str = "message",
    ) -> Item:
        account = person.line.account
        change = builders.change(builders.value(account, [wire], messages=[message]))
        return Item(
            line=person.line, kind=kind, platform_id=platform_id, change=change, person=person, text=text
        )

    def _about(
        self, person: Person, wire: builders.Person, kind: str, original_id: str, message: Any
    ) -> Item:
        item = self._item(person, wire, f"{original_id}.{kind}", message, "", kind)
        item.original_id = original_id
        return item

    def _echo(self, person: Person, wire: builders.Person, platform_id: str, at: int, text: str) -> Item:
        account = person.line.account
        message = builders.echo(account, wire, builders.text_message(wire, platform_id, at, text))
        change = builders.change(
            builders.value(account, [wire], message_echoes=[message]), "smb_message_echoes"
        )
        return Item(
            line=person.line, kind="echo", platform_id=platform_id, change=change, person=person, text=text
        )

    def _renumbered(self, person: Person, wire: builders.Person, platform_id: str, at: int) -> Item:
        new = f"1666{person.wa_id[4:]}"
        message = builders.number_changed_message(wire, platform_id, at, new)
        person.renumbered = person.loose = True
        self.world.later(10.0, self._goes_by, person, new)
        return self._item(person, wire, platform_id, message, "", "renumber")

    async def _goes_by(self, person: Person, number: str) -> None:
        person.wa_id = number
        person.keys.append(number)
