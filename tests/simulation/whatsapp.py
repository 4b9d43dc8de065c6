"""WhatsApp's voice, made of the simulator's builders."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import httpx
import msgspec

from adapters.simulators import builders
from adapters.simulators.accounts import WhatsAppAccount, demo_account
from adapters.simulators.graph_errors import GraphError, webhook_error
from engine.domain.phones import with_variants
from tests.simulation.database import POISON
from tests.simulation.lines import Line, Post, Refusal, Taken
from tests.simulation.mail import Item
from tests.simulation.people import Person

if TYPE_CHECKING:
    from random import Random

    from tests.simulation.platform import Call
    from tests.simulation.world import World

_REFUSALS: Final = {
    "send_throttled": (130429, "Too fast."),
    "send_pair_limited": (131056, "Too much for this person."),
    "send_error": (131016, "Later."),
    "send_refused": (131026, "Cannot be delivered."),
}


class WhatsAppVoice:
    """Implements `lines.Voice`."""

    platform = "whatsapp"
    faults = frozenset(_REFUSALS)
    starts = True
    knows_ours = True

    def __init__(self, world: "World", line: Line, options: "Random") -> None:
        self.line = line
        self._world = world
        self._account = demo_account(line.channel_id)
        if options.random() < 0.5:
            # Numbers of one app: one secret for several businesses.
            members = {name: getattr(self._account, name) for name in self._account.__struct_fields__}
            self._account = WhatsAppAccount(**{**members, "app_secret": "secret-of-one-app"})
        self.external_id = self._account.phone_number_id
        self.parent_id = self._account.waba_id
        self.per_second = options.choice((2, 20, 80))
        self.concurrency = options.choice((1, 4, 32))
        self.settings = {
            "messages_per_second": self.per_second,
            "concurrency": self.concurrency,
            "base_url": f"https://{line.host}",
        }
        self.company = ("whatsapp", self._account.app_secret)
        self._tokens = 0
        self._taken = 0
        self._said = 0

    def credentials(self) -> dict[str, str]:
        account = self._account
        return {
            "app_secret": account.app_secret,
            "verify_token": account.verify_token,
            "access_token": self._token,
        }

    def life(self) -> tuple[int, int | None]:
        return 0, None

    def revoke(self) -> None:
        self._tokens += 1

    def restore(self) -> None:
        pass

    @property
    def _token(self) -> str:
        return f"{self._account.access_token}-{self._tokens}"

    # ---------------------------------------------------------------- people

    def person(self, number: int, options: "Random") -> Person:
        # The third is a Brazilian, whose number is written in two ways.
        wa_id = f"1555000{number}" if number < 2 else "551180000002"
        user_id = f"US.{number}" if options.random() < 0.5 else None
        return Person(
            line=self.line,
            name=f"P{number}",
            wa_id=wa_id,
            user_id=user_id,
            loose=user_id is not None and options.random() < 0.2,
            keys=[*with_variants(wa_id), *([user_id] if user_id else [])],
            written=[],
        )

    def say(self, person: Person, random: "Random", text: str | None) -> Sequence[Item]:
        """An edit or a deletion may go out before its original."""
        self._said += 1
        # Numbers that other lines of the tenant do not have: the history is the tenant's.
        platform_id, at = f"wamid.in{self.line.channel_id}.{self._said}", self._world.platform_seconds()
        wire, kind, said = _wire(person, random), random.random(), text or ""
        if text is None:
            said = self._world.people.sentence(person, random)
        if text is not None or said == POISON:
            kind = 0.5
        if kind < 0.08:
            return [self._echo(person, wire, platform_id, at, said)]
        if kind < 0.14 and person.written:
            message = builders.reaction_message(wire, platform_id, at, random.choice(person.written), "+")
            return [self._item(person, wire, platform_id, message, said)]
        if kind < 0.16 and not person.renumbered and person.user_id is None:
            return [self._renumbered(person, wire, platform_id, at)]
        if kind < 0.2:
            media = builders.MediaRef(id=f"media{self._said}", mime_type="image/jpeg", sha256="")
            message = builders.image_message(wire, platform_id, at, media, said)
            return [self._item(person, wire, platform_id, message, said)]
        message = builders.text_message(wire, platform_id, at, said)
        received = self._item(person, wire, platform_id, message, said)
        person.written.append(platform_id)
        if kind < 0.8:
            return [received]
        marker = self._world.marker(self.line.tenant_id)
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
        change = builders.change(builders.value(self._account, [wire], messages=[message]))
        return Item(
            line=self.line, kind=kind, platform_id=platform_id, change=change, person=person, text=text
        )

    def _about(
        self, person: Person, wire: builders.Person, kind: str, original_id: str, message: Any
    ) -> Item:
        item = self._item(person, wire, f"{original_id}.{kind}", message, "", kind)
        item.original_id = original_id
        return item

    def _echo(self, person: Person, wire: builders.Person, platform_id: str, at: int, text: str) -> Item:
        message = builders.echo(self._account, wire, builders.text_message(wire, platform_id, at, text))
        change = builders.change(
            builders.value(self._account, [wire], message_echoes=[message]), "smb_message_echoes"
        )
        return Item(
            line=self.line, kind="echo", platform_id=platform_id, change=change, person=person, text=text
        )

    def _renumbered(self, person: Person, wire: builders.Person, platform_id: str, at: int) -> Item:
        new = f"1666{person.wa_id[4:]}"
        message = builders.number_changed_message(wire, platform_id, at, new)
        person.renumbered = person.loose = True
        self._world.later(10.0, self._goes_by, person, new)
        return self._item(person, wire, platform_id, message, "", "renumber")

    async def _goes_by(self, person: Person, number: str) -> None:
        person.wa_id = number
        person.keys.append(number)

    # ---------------------------------------------------------------- webhooks

    def post(self, items: Sequence[Item], key: str | None) -> Post:
        changes = [(item.line.voice.parent_id, item.change) for item in items]
        return self._signed(builders.webhook_bytes(builders.merged(changes)), key)

    def _signed(self, body: bytes, key: str | None) -> Post:
        return Post(
            path=f"/api/webhooks/whatsapp{f'/{key}' if key else ''}",
            headers={
                "x-hub-signature-256": builders.signature(self._account.app_secret, body),
                "content-type": "application/json",
            },
            body=body,
        )

    def forgery(self, number: int, stranger: Any) -> tuple[str, Post]:
        name = f"wamid.forged{number}"
        person = builders.Person(name="Mallory", wa_id="15559990000")
        message = builders.text_message(person, name, self._world.platform_seconds(), "forged")
        body = builders.webhook_bytes(builders.message_webhook(self._account, [person], [message]))
        keyed = self._world.chance.stream("webhook_forged").choice(
            (None, stranger.line.endpoint_key, self.line.endpoint_key)
        )
        return name, stranger._signed(body, keyed)

    # ---------------------------------------------------------------- calls

    def is_message(self, request: httpx.Request) -> bool:
        return bool(msgspec.json.decode(request.content).get("status") != "read")

    def renews(self, request: httpx.Request) -> bool:
        return False

    def other(self, request: httpx.Request) -> httpx.Response:
        return _json(200, {"success": True})

    def words(self, request: httpx.Request) -> str:
        return request.content.decode()

    def holds(self, request: httpx.Request) -> httpx.Response | None:
        if request.headers.get("authorization") == f"Bearer {self._token}":
            return None
        return _refused(GraphError(190, "The access token is not valid."))

    def refusal(self, kind: str, retry_after: float) -> httpx.Response:
        return _refused(GraphError(*_REFUSALS[kind]), retry_after)

    def window_ended_at(self, key: str) -> int:
        raise NotImplementedError  # this platform takes whatever comes

    def take(self, call: "Call", request: httpx.Request) -> Taken | Refusal:
        self._taken += 1
        body = msgspec.json.decode(request.content)
        name = f"wamid.out{self.line.channel_id}.{self._taken}"
        self._report(call, name, body)
        return Taken(
            platform_id=name,
            answer=_json(200, {"messaging_product": "whatsapp", "messages": [{"id": name}]}),
        )

    def _report(self, call: "Call", name: str, body: dict[str, Any]) -> None:
        """What becomes of it."""
        world, random = self._world, self._world.chance.stream("statuses")
        kinds = random.choice((["sent"], ["sent", "delivered"], ["sent", "delivered", "read"], ["read"]))
        if world.chance.strikes("delivery_failed"):
            kinds = ["sent", "failed"]
            world.platform.failed.add(name)
        recipient = (body.get("to") or body.get("recipient") or "").removeprefix("+")
        if not recipient.isdigit():
            recipient = world.person_by_key(self.line, recipient).wa_id
        if world.callbacks and random.random() < 0.1:
            recipient = "1999" + recipient[-4:]  # by a number that nobody has heard of
        for kind in kinds:
            error = webhook_error(131049, "Not today.") if kind == "failed" else None
            status = builders.status(
                name,
                kind,
                world.platform_seconds(),
                recipient,
                callback_data=body["biz_opaque_callback_data"] if world.callbacks else None,
                error=error,
            )
            item = Item(
                line=self.line,
                kind="status",
                platform_id=name,
                change=builders.change(builders.value(self._account, statuses=[status])),
                person=None,
                status=kind,
                message_id=call.message_id if world.callbacks else None,
            )
            world.mail.send(item, within=random.choice((5.0, 25.0)) if kind == "failed" else 5.0)


def _wire(person: Person, random: "Random") -> builders.Person:
    """As the platform names them this time: a number that is written in two ways comes in both."""
    ways = with_variants(person.wa_id)
    number = random.choice(ways) if len(ways) > 1 else person.wa_id
    if person.loose and person.user_id is not None:
        shown = random.choice(("number", "user", "both"))
        return builders.Person(
            name=person.name,
            wa_id=number if shown != "user" else None,
            user_id=person.user_id if shown != "number" else None,
        )
    return builders.Person(name=person.name, wa_id=number, user_id=person.user_id)


def _json(status: int, body: Any) -> httpx.Response:
    return httpx.Response(status, content=msgspec.json.encode(body))


def _refused(error: GraphError, retry_after: float = 0.0) -> httpx.Response:
    answer = error.response("trace", retry_after_seconds=retry_after or None)
    return httpx.Response(answer.status, content=answer.body, headers=dict(answer.headers))
