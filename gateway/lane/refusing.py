"""What arrives while the server is overloaded: let in, or refused at the price of a look and an answer.

Promises   What is refused gets the bytes that the long way would have answered it with, apart from the
           request id. Only what is framed plainly (`plain`) is refused here; everything else is let in, to be
           read and perhaps refused in its turn.
Leaves     who is refused, and the counting, to the entrance.
"""

import os
from typing import Final, Protocol

from gateway.lane import answer as answers
from gateway.lane.line import Door, OpenDoor
from gateway.lane.plain import plain_request
from gateway.webhooks import Answer

_TEMPLATES_MAX: Final = 8
"""Of refusals; there are two, made once."""


class Entrance(Door, Protocol):
    """`gateway.webhooks.shedding.Shedding`."""

    def arrive(self, place: str | None, body: bytes, /) -> Answer | int:
        """While overloaded: what is said to a request that is refused unread, or the tenant whose place it
        has until it is `called`. `place` is what follows the lane's prefix in the path; None: not to be
        refused."""
        ...


class OpenEntrance(OpenDoor):
    """Nobody is ever refused."""

    def arrive(self, place: str | None, body: bytes) -> int:
        return 0


class Refusing:
    """The entrance, for bytes."""

    def __init__(self, entrance: Entrance) -> None:
        self.entrance: Final = entrance
        self._templates: dict[int, answers.Template] = {}  # by identity; each keeps its answer

    def enter(self, received: bytes) -> bytes | int:
        """The whole answer to what has arrived, or the tenant whose place it has."""
        plain = plain_request(received)
        if plain is None:
            return self.let_in()
        said = self.entrance.arrive(*plain)
        if isinstance(said, int):
            return said
        template = self._templates.get(id(said))
        if template is None:
            if len(self._templates) == _TEMPLATES_MAX:
                self._templates.clear()
            template = self._templates[id(said)] = answers.Template(said)
        return template.filled(os.urandom(16).hex())

    def let_in(self) -> int:
        """Whose place something has that must not be refused here."""
        place = self.entrance.arrive(None, b"")
        assert isinstance(place, int)
        return place
