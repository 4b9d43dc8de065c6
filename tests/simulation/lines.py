"""A connected account, and what is to be known of its platform to play it: the `Voice`.

The rest of the simulation speaks of messages, statuses and calls; how they look on the wire is the voice's.
`whatsapp` has one, made of the builders; `voices` has one for each platform that `adapters/simulators` plays.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import httpx
from msgspec import Struct

if TYPE_CHECKING:
    from random import Random

    from tests.simulation.mail import Item
    from tests.simulation.people import Person
    from tests.simulation.platform import Call


class Post(Struct, frozen=True, kw_only=True):
    """A webhook as it is sent. Header names are lower-case."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    query: str = ""


class Taken(Struct, frozen=True, kw_only=True):
    """A send that the platform accepted, by the name that it gave it, and what it answers."""

    platform_id: str
    answer: httpx.Response


class Refusal(Struct, frozen=True, kw_only=True):
    """A send that the platform refuses by its own rules.

    `rule`: window | used_up | opted_out | known | other."""

    rule: str
    answer: httpx.Response


class Voice(Protocol):
    """How one account's platform speaks. `platform` is the adapter's name; `settings` are the channel's.

    `per_second` and `concurrency` are the limits that the adapter has to keep. `company`: deliveries of one
    such value may be joined; None: each thing is told alone. `faults`: what calls can end with here, beside
    what ends any call. `starts`: the business may write first. `knows_ours`: what is told of our messages
    names them by our ids."""

    platform: str
    external_id: str
    parent_id: str | None
    settings: dict[str, Any]
    per_second: int
    concurrency: int
    company: Hashable | None
    faults: frozenset[str]
    starts: bool
    knows_ours: bool
    line: "Line"

    def credentials(self) -> dict[str, str]:
        """Those that hold now."""
        ...

    def life(self) -> tuple[int, int | None]:
        """When the first credentials were given, and when they expire (ms)."""
        ...

    def revoke(self) -> None:
        """The credentials hold no more; the platform may tell it."""
        ...

    def restore(self) -> None:
        """There are new ones, for somebody to enter."""
        ...

    # ---------------------------------------------------------------- people

    def person(self, number: int, options: "Random") -> "Person":
        """The line's customer of this number."""
        ...

    def say(self, person: "Person", random: "Random", text: str | None) -> "Sequence[Item]":
        """What the customer does next; a text as it is, where one is given."""
        ...

    # ---------------------------------------------------------------- webhooks

    def post(self, items: "Sequence[Item]", key: str | None) -> Post:
        """Items of one company as the platform tells them now, to the address with the account's key if
        there is one."""
        ...

    def forgery(self, number: int, stranger: Any) -> tuple[str, Post]:
        """A message that nobody wrote, signed by `stranger`, another account's voice: its name, and the
        post."""
        ...

    # ---------------------------------------------------------------- calls

    def is_message(self, request: httpx.Request) -> bool:
        """Whether the call is to send a message; all others are `other`'s."""
        ...

    def renews(self, request: httpx.Request) -> bool:
        """Whether one of the others gives new credentials for the present ones."""
        ...

    def other(self, request: httpx.Request) -> httpx.Response: ...

    def words(self, request: httpx.Request) -> str:
        """What is to be sent, as a person would read it."""
        ...

    def holds(self, request: httpx.Request) -> httpx.Response | None:
        """How the call is refused for its credentials; None: it is not."""
        ...

    def refusal(self, kind: str, retry_after: float) -> httpx.Response:
        """How a call is refused by chance; `kind` is one of `faults`."""
        ...

    def window_ended_at(self, key: str) -> int:
        """The end of the person's reply window (ms)."""
        ...

    def take(self, call: "Call", request: httpx.Request) -> Taken | Refusal:
        """The call has its effect, and what follows is on its way."""
        ...


class Line(Struct, kw_only=True):
    """A connected account: who has it, and how its platform speaks.

    `tokens`: how often its credentials were taken back. `owner_is_told`: somebody is about to enter new ones.
    `cut_off`: how often an answer with new ones was lost; `renewed_by`: the processes that got some."""

    tenant_id: int
    channel_id: int
    endpoint_key: str
    voice: Any  # a Voice; msgspec knows no protocols
    tokens: int = 0
    owner_is_told: bool = False
    cut_off: int = 0
    renewed_by: list[Any] = []

    @property
    def platform(self) -> str:
        return str(self.voice.platform)

    @property
    def number(self) -> str:
        return str(self.voice.external_id)

    @property
    def host(self) -> str:
        """Where its platform is called."""
        return f"line{self.channel_id}.example"
