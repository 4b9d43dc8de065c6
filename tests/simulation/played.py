"""How a platform that `adapters/simulators` plays becomes a voice: by the same object as in demos and tests,
without its server. Calls are handed to it in memory, what it tells is carried by `mail`, and its clock and
its randomness are the day's.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final
from urllib.parse import parse_qsl, unquote_plus, urlsplit

import httpx
from msgspec import structs

from adapters.simulators.http import Request, Response
from adapters.simulators.ledger import Fact
from adapters.simulators.playing.calls import Calls
from adapters.simulators.playing.calls import Refusal as Refused
from adapters.simulators.playing.cast import Customer
from adapters.simulators.playing.platform import Played
from adapters.simulators.settings import Settings
from adapters.simulators.webhooks import Event, now_ms
from engine.domain.phones import with_variants
from tests.simulation.database import POISON
from tests.simulation.lines import Line, Post, Refusal, Taken
from tests.simulation.mail import Item
from tests.simulation.people import Person

if TYPE_CHECKING:
    from random import Random

    from tests.simulation.platform import Call
    from tests.simulation.world import World

PUBLIC_URL: Final = "https://mijra.example"
"""Where the platforms reach the program."""

_KINDS: Final = {"edit": "edit", "revoke": "gone"}
"""What the simulators call an edit and a deletion."""


class Office:
    """Stands where a simulator's `WebhookSender` would: what is told goes out with the day's mail."""

    def __init__(self, voice: "PlayedVoice", speech: Any) -> None:
        self.speech = speech
        self._voice = voice

    def tell(self, event: Event, *, after_seconds: float = 0.0) -> None:
        self._voice.told(event)

    def after(self, seconds: float, action: Callable[[], object]) -> bool:
        async def act() -> None:
            action()

        self._voice.world.later(seconds, act)
        return True


class PlayedVoice(ABC):
    """Implements `lines.Voice`. A subclass says what only its platform has."""

    platform: str
    faults: frozenset[str]
    starts = False
    knows_ours = False
    echoes = True
    """Whether it tells what the business writes in the platform's own app."""
    kinds: ClassVar[Mapping[str, float]]
    """What its customers say beside texts, and how often."""
    codes: ClassVar[Mapping[str, tuple[int, str]]]
    """How a call is refused by chance: code and sentence."""
    rules: ClassVar[Mapping[str, str]]
    """Words in the sentence of a refusal, to the rule that it is by."""

    def __init__(self, world: "World", line: Line, options: "Random") -> None:
        self.world = world
        self.line = line
        self.sim = self.make(world.scenario.seed, self.habits(world), options)
        self.sim.run_id = f"s{line.channel_id}"
        self.account = next(iter(self.sim.accounts.values()))
        self.external_id = self.account.account_id
        self.parent_id: str | None = None
        url = f"https://{line.host}"
        self.sim._server = _Nowhere(url)  # type: ignore[assignment]
        self.sim._sender = Office(self, self.sim.speech())  # type: ignore[assignment]
        self.sim.use(self.account, f"{PUBLIC_URL}/api/webhooks/{self.platform}/{line.endpoint_key}")
        self.settings: dict[str, Any] = {"base_url": url}
        self.per_second, self.concurrency = self.pace(options)
        self.faults = frozenset(self.codes)
        self._taking: Call | None = None
        self._ours: dict[str, int] = {}

    @abstractmethod
    def make(self, seed: int, habits: Settings, options: "Random") -> Played[Any, Any]: ...

    def can_tell(self, platform_id: str) -> bool:
        """Whether the platform still tells of a message that a webhook only announced."""
        return True

    @abstractmethod
    def pace(self, options: "Random") -> tuple[int, int]:
        """Calls in a second and at once, after putting into `settings` what says so."""

    @property
    @abstractmethod
    def api(self) -> Calls: ...

    @property
    def company(self) -> Hashable | None:
        return None

    @abstractmethod
    def credentials(self) -> dict[str, str]: ...

    def life(self) -> tuple[int, int | None]:
        return 0, None

    def is_signal(self, content: str) -> bool:
        """Whether a call that sends only shows something (typing, a read mark)."""
        return "sender_action" in content

    def habits(self, world: "World") -> Settings:
        short = world.windows.get(self.platform)
        usual = Settings(failure_probability=world.chance.levels["delivery_failed"])
        return usual if short is None else structs.replace(usual, window_seconds=float(short))

    # ---------------------------------------------------------------- credentials

    def revoke(self) -> None:
        self.sim.expire_token(self.external_id)

    def restore(self) -> None:
        self.sim.renew_token(f"token-{self.sim.next_id()}", self.external_id)

    def now(self) -> Any:
        """The account as both sides know it now."""
        return self.sim.accounts[self.external_id]

    # ---------------------------------------------------------------- people

    def person(self, number: int, options: "Random") -> Person:
        key = self.key(number)
        for each in with_variants(key):
            self.sim.cast.adopt(each, f"P{number}")
        return Person(
            line=self.line,
            name=f"P{number}",
            wa_id=key,
            user_id=None,
            keys=list(with_variants(key)),
            written=[],
        )

    def key(self, number: int) -> str:
        """The id of a customer."""
        return str(7_100_000_000_000_000 + number)

    def say(self, person: Person, random: "Random", text: str | None) -> Sequence[Item]:
        customer: Customer = self.sim.cast.adopt(random.choice(with_variants(person.wa_id)))
        said = text
        if said is None:
            said = self.world.people.sentence(person, random)
        if said != POISON and text is None and random.random() < 0.08 and self.echoes:
            self.sim.echo(customer, said, account_id=self.external_id)
            return []
        kinds = ["text", *self.kinds]
        weights = [max(0.0, 1.0 - sum(self.kinds.values())), *self.kinds.values()]
        kind = "text" if text is not None or said == POISON else random.choices(kinds, weights)[0]
        if kind in ("edit", "deleted") and not customer.said:
            kind = "text"
        words = None if kind in ("reaction", "unreact", "stop", "start") else said
        composed = self.sim.compose(self.now(), customer, kind, words)
        customer.heard_at = now_ms()
        item = Item(
            line=self.line,
            kind=_KINDS.get(composed.type, "message"),
            platform_id=composed.fact_id,
            change=composed.item,
            person=person,
            text=said if kind in ("text", "reply") else "",
            original_id=composed.original_id,
            announced=kind == "stripped",
            opts={"stop": "out", "start": "in"}.get(kind),
        )
        if item.opts is not None:
            person.opted.append(item)
        if kind in ("text", "reply", "image", "stripped"):
            person.written.append(composed.fact_id)
        return [item]

    # ---------------------------------------------------------------- webhooks

    def told(self, event: Event) -> None:
        """The platform has something to tell of its own accord: what became of our sends, echoes, notices."""
        first = event.facts[0]
        ours = [self._message_of(fact) for fact in event.facts]
        item = Item(
            line=self.line,
            kind=first.kind if len(event.facts) == 1 else "watermark",
            platform_id=first.id,
            change=event.change,
            person=None,
            status=first.status,
            message_id=ours[0] if self.knows_ours else None,
            covers=tuple(each for each in ours if each is not None),
            url=event.url,
        )
        if first.kind == "status" and item.status == "failed":
            self.world.platform.failed.add(first.id)
        late = 25.0 if item.status == "failed" else 5.0
        self.world.mail.send(item, within=late)

    def _message_of(self, fact: Fact) -> int | None:
        if fact.kind != "status":
            return None
        if fact.id not in self._ours and self._taking is not None:
            self._ours[fact.id] = self._taking.message_id
        return self._ours.get(fact.id)

    def post(self, items: Sequence[Item], key: str | None) -> Post:
        url = items[0].url or f"{PUBLIC_URL}/api/webhooks/{self.platform}"
        if items[0].url is None and key is not None:
            url = f"{url}/{key}"
        events = [Event(item.line.voice.now(), url, item.change, ()) for item in items]
        return _posted(url, self.sim.webhooks.speech.post(events))

    def forgery(self, number: int, stranger: Any) -> tuple[str, Post]:
        mallory = self.sim.cast.adopt(self.key(99), "Mallory")
        said = self.sim.compose(self.now(), mallory, "text", "forged")
        url = f"{PUBLIC_URL}/api/webhooks/{self.platform}"
        speech = self.sim.webhooks.speech
        honest = speech.post([Event(self.now(), url, said.item, ())])
        return said.fact_id, _posted(url, speech.post_of(stranger.now(), url, honest.body))

    # ---------------------------------------------------------------- calls

    def is_message(self, request: httpx.Request) -> bool:
        route, _ = self.api.route(_request(request))
        return route == "send" and not self.is_signal(request.content.decode())

    def renews(self, request: httpx.Request) -> bool:
        return "refresh" in request.url.path

    def other(self, request: httpx.Request) -> httpx.Response:
        try:
            response, _ = self.api.do(_request(request))
        except Refused as refused:
            response = self.api.refusal(refused, None)
        return _response(response)

    def words(self, request: httpx.Request) -> str:
        return unquote_plus(request.content.decode())

    def holds(self, request: httpx.Request) -> httpx.Response | None:
        try:
            self.authorise(_request(request))
        except Refused as refused:
            return _response(self.api.refusal(refused, None))
        return None

    def authorise(self, request: Request) -> None:
        """Raises the simulator's Refusal for a call whose credentials do not hold."""
        self.api._authorised(request)  # type: ignore[attr-defined]

    def refusal(self, kind: str, retry_after: float) -> httpx.Response:
        return _response(self.api.refusal(Refused(*self.codes[kind]), retry_after or None))

    def window_ended_at(self, key: str) -> int:
        heard_at: int = self.sim.cast.adopt(key).heard_at
        return heard_at + round(self.sim.settings.window_seconds * 1000)

    def take(self, call: "Call", request: httpx.Request) -> Taken | Refusal:
        self._taking = call
        try:
            response, send = self.api.do(_request(request))
        except Refused as refused:
            found = (rule for words, rule in self.rules.items() if words in refused.message)
            return Refusal(rule=next(found, "other"), answer=_response(self.api.refusal(refused, None)))
        finally:
            self._taking = None
        assert send is not None
        self._ours[send.id] = call.message_id
        return Taken(platform_id=send.id, answer=_response(response))


class _Nowhere:
    """The server that a simulator has not got."""

    connections = requests = 0

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url


def _request(request: httpx.Request) -> Request:
    """As the simulators' server would have read it."""
    target = urlsplit(str(request.url))
    return Request(
        request.method,
        request.url.path,
        dict(parse_qsl(target.query, keep_blank_values=True)),
        {name.lower(): value for name, value in request.headers.items()},
        request.content,
    )


def _response(response: Response) -> httpx.Response:
    headers = {"content-type": response.content_type, **response.headers}
    return httpx.Response(response.status, content=response.body, headers=headers)


def _posted(url: str, post: Any) -> Post:
    target = urlsplit(url)
    headers = {name.lower(): value for name, value in post.headers.items()}
    return Post(path=target.path, query=target.query, headers=headers, body=post.body)
