"""Customers: who they are and when they write; what they say is their platform's `lines.Voice`."""

from typing import TYPE_CHECKING, Any

import trio
from msgspec import Struct

from tests.simulation.database import POISON

if TYPE_CHECKING:
    from random import Random

    from tests.simulation.lines import Line
    from tests.simulation.world import World


FLOOD_MESSAGES = 40
"""Three small mailboxes."""


class Person(Struct, kw_only=True):
    """`loose`: named by one id or another, so that nobody can know that it is one person. `opted`: what they
    said about wanting messages. The same numbers write to several tenants."""

    line: "Line"
    name: str
    wa_id: str
    user_id: str | None
    loose: bool = False
    renumbered: bool = False
    keys: list[str] = []
    written: list[str] = []
    opted: list[Any] = []

    @property
    def label(self) -> str:
        return f"{self.line.tenant_id}/{self.line.channel_id}/{self.name}"


class People:
    def __init__(self, world: "World") -> None:
        self.world = world

    async def write(self, person: Person, random: "Random") -> None:
        """One burst of one customer."""
        mail, burst = self.world.mail, []
        for _ in range(random.choice((1, 1, 2, 4))):
            burst += person.line.voice.say(person, random, None)
            if random.random() < 0.5:
                await trio.sleep(random.uniform(0.0, 2.0))
        for item in burst:
            mail.send(item)
        joined = person.line.voice.company is not None
        if joined and len(burst) > 1 and random.random() < 0.4:
            mail.bundle(burst)
        elif joined and burst and random.random() < 0.3:
            mail.hold(burst[-1])

    def flood(self, person: Person, random: "Random") -> None:
        """Many messages at once, each in a delivery of its own. None is poison: with several in a row whoever
        handles them is rightly restarted again and again."""
        text = f"Hello?{self.world.marker(person.line.tenant_id)}"
        for _ in range(FLOOD_MESSAGES):
            for item in person.line.voice.say(person, random, text):
                self.world.mail.send(item, within=0.1)

    def sentence(self, person: Person, random: "Random") -> str:
        """What somebody writes, now and then something that no database takes."""
        if self.world.chance.strikes("poison"):
            return POISON
        words = random.choice(("Hello", "what is the price?", "reply 1", "thanks"))
        return words + self.world.marker(person.line.tenant_id)
