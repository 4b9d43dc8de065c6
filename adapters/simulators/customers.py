"""The people who write to the businesses: who they are, what they say, how they answer.

Promises    The same seed gives the same people saying the same things. Numbers come from ranges that are
            set aside for fiction and tests: +1 NXX 555-01XX (NANPA), +44 7700 900xxx (Ofcom) and
            +33 6 39 98 xx xx (ARCEP). A few people hide their number, as users with a username may.
Limits      100 000 customers; each remembers its last 8 messages and the last 8 it got.
Leaves      When they speak to `whatsapp`, how it travels to `webhooks`.
"""

import random
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from adapters.simulators import builders
from adapters.simulators.accounts import WhatsAppAccount
from adapters.simulators.builders import Json, MediaRef, Person
from adapters.simulators.media import (
    MediaStore,
    mp4_beginning,
    pdf,
    png,
    sha256_text,
    silent_voice_note,
    webp_pixel,
)
from adapters.simulators.phrases import EMOJI, PLACES, TONGUES, Tongue
from adapters.simulators.playing import cast
from engine.errors import InvalidInput, Unavailable

WEIGHTS: dict[str, float] = {
    "text": 66,
    "text_reply": 4,
    "text_forwarded": 1,
    "text_ad": 1,
    "image": 6,
    "voice": 5,
    "audio": 0.5,
    "video": 1.5,
    "document": 2,
    "sticker": 2,
    "location": 1.5,
    "contacts": 0.7,
    "button_reply": 0.7,
    "list_reply": 0.5,
    "flow_reply": 0.2,
    "template_button": 0.3,
    "reaction": 3,
    "reaction_removed": 0.4,
    "order": 0.7,
    "edit": 1,
    "revoke": 0.6,
    "unsupported": 0.4,
    "interactive_empty": 0.1,
    "number_changed": 0,
}
"""How often which kind is said, unasked. Changing the number is left to scripts: it changes who one is."""

KINDS = tuple(WEIGHTS)


class Customer(cast.Customer):
    """One person and the little that it remembers. `key` is what a business addresses: the number, or the
    user id of one who hides it."""

    def __init__(self, person: Person, tongue: Tongue) -> None:
        super().__init__(person.wa_id or person.user_id or "", person.name, tongue)
        self.person = person
        self.said_texts: deque[str] = deque(maxlen=cast.REMEMBERED)
        self.reacted_to: str | None = None


class Cast(cast.Cast[Customer]):
    """All customers, found by number and by user id."""

    def __init__(self, rng: random.Random, username_share: float) -> None:
        super().__init__(rng, kinds=WEIGHTS, key_pattern="[0-9]{1,15}")
        self._username_share = username_share

    def made(self, key: str, name: str, tongue: Tongue) -> Customer:
        return Customer(Person(name=name, wa_id=key, user_id=f"US.{key.zfill(20)}"), tongue)

    def invent(self) -> Customer:
        tongue = self.rng.choice(TONGUES)
        name = self.name(tongue)
        user_id = f"US.{self.rng.randrange(10**19, 10**20)}"
        number = self.free_number()
        if self.rng.random() < self._username_share:
            return Customer(Person(name=name, user_id=user_id, username=f"user{number[-7:]}"), tongue)
        return Customer(Person(name=name, wa_id=number, user_id=user_id), tongue)

    def keys(self, customer: Customer) -> tuple[str, ...]:
        return tuple(key for key in (customer.person.wa_id, customer.person.user_id) if key is not None)

    def draw_kind(self, customer: Customer, weights: Mapping[str, float] | None = None) -> str:
        kind = super().draw_kind(customer, weights)
        needs = {
            "edit": customer.said_texts,
            "revoke": customer.said,
            "reaction": customer.heard,
            "reaction_removed": customer.reacted_to,
            "text_reply": customer.heard,
            "button_reply": customer.heard,
            "list_reply": customer.heard,
            "flow_reply": customer.heard,
            "template_button": customer.heard,
            "interactive_empty": customer.heard,
        }
        return kind if needs.get(kind, True) else "text"

    def move(self, customer: Customer, wa_id: str) -> None:
        """From now on this customer has another number."""
        person = customer.person
        if person.wa_id is None or self.find(wa_id) is not None:
            raise InvalidInput("only a shown number can change, and only to a free one")
        customer.person = Person(
            name=person.name, wa_id=wa_id, user_id=person.user_id, username=person.username
        )
        self.rename(customer, person.wa_id, wa_id)

    def free_number(self) -> str:
        """A number for fiction that nobody has."""
        # Drawn at random: with 100 000 customers at most in 81 000 + 1 000 + 10 000 numbers a draw may fail.
        for _ in range(1_000):
            number = self._draw_number()
            if self.find(number) is None:
                return number
        raise Unavailable("The ranges of telephone numbers for fiction are nearly used up.", code="cast_full")

    def _draw_number(self) -> str:
        rng = self.rng
        kind = rng.random()
        if kind < 0.04:
            return f"447700900{rng.randrange(1_000):03}"
        if kind < 0.2:
            return f"33639{98:02}{rng.randrange(10_000):04}"
        # Area codes are NXX with N in 2..9; the second digit 9 is kept for expansion by NANPA.
        return (
            f"1{rng.randrange(2, 10)}{rng.randrange(0, 9)}{rng.randrange(0, 10)}55501{rng.randrange(100):02}"
        )


class Writer:
    """Puts what a customer wants to say into the platform's words.

    `new_id(wa_id, inbound)` gives message ids; `monotonic` is seconds, for the life of media.
    """

    def __init__(
        self,
        rng: random.Random,
        media: MediaStore,
        cast: Cast,
        new_id: Callable[[str, bool], str],
        monotonic: Callable[[], float],
    ) -> None:
        self._rng = rng
        self._media = media
        self._cast = cast
        self._new_id = new_id
        self._monotonic = monotonic

    def compose(
        self, account: WhatsAppAccount, customer: Customer, kind: str, at: int, text: str | None = None
    ) -> Json:
        """A `messages[]` element of one of `KINDS`; `at` in seconds. `InvalidInput` for an unknown kind.

        What refers to an earlier message and finds none refers to one that nobody knows: a customer may
        well react to something older than the connection of the account.
        """
        person = customer.person
        message_id = self._new_id(customer.key, True)
        message = self._compose(account, customer, person, message_id, kind, at, text)
        if kind not in ("reaction", "reaction_removed", "revoke", "edit", "number_changed"):
            customer.said.append(message_id)
        if kind.startswith("text"):
            customer.said_texts.append(message_id)
        return message

    def _compose(
        self,
        account: WhatsAppAccount,
        customer: Customer,
        person: Person,
        message_id: str,
        kind: str,
        at: int,
        text: str | None,
    ) -> Json:
        rng = self._rng
        said = text if text is not None else self._cast.sentence(customer)
        business = account.display_phone_number
        heard = customer.heard[-1] if customer.heard else self._new_id(customer.key, False)
        context = builders.quote(business, heard)
        match kind:
            case "text":
                return builders.text_message(person, message_id, at, said)
            case "text_reply":
                return builders.text_message(person, message_id, at, said, context=context)
            case "text_forwarded":
                marker = builders.forwarded(many_times=rng.random() < 0.3)
                return builders.text_message(person, message_id, at, said, context=marker)
            case "text_ad":
                referral = builders.ad_referral(
                    str(rng.randrange(10**17, 10**18)),
                    "Chat with us",
                    "Summer offer",
                    f"AR{rng.getrandbits(64):x}",
                )
                return builders.text_message(person, message_id, at, said, referral=referral)
            case "image":
                square = png(rng.randrange(256), rng.randrange(256), rng.randrange(256))
                caption = said if text is not None or rng.random() < 0.5 else None
                return builders.image_message(
                    person, message_id, at, self._file(account, "image/png", square), caption
                )
            case "video":
                film = self._file(account, "video/mp4", mp4_beginning())
                return builders.video_message(person, message_id, at, film, said)
            case "voice" | "audio":
                sound = self._file(account, "audio/ogg; codecs=opus", silent_voice_note(rng.uniform(1, 6)))
                return builders.audio_message(person, message_id, at, sound, voice=kind == "voice")
            case "document":
                number = rng.randrange(1_000, 9_999)
                paper = self._file(account, "application/pdf", pdf(f"Invoice {number}"))
                return builders.document_message(person, message_id, at, paper, f"invoice-{number}.pdf", text)
            case "sticker":
                drawing = self._file(account, "image/webp", webp_pixel())
                return builders.sticker_message(person, message_id, at, drawing)
            case "location":
                name, address, latitude, longitude = rng.choice(PLACES)
                return builders.location_message(
                    person, message_id, at, latitude, longitude, name=name, address=address
                )
            case "contacts":
                first, last = rng.choice(customer.tongue.first_names), rng.choice(customer.tongue.last_names)
                card = builders.contact_card(first, last, f"1555550{rng.randrange(100, 200):04}")
                return builders.contacts_message(person, message_id, at, [card])
            case "button_reply":
                return builders.button_reply_message(person, message_id, at, "yes", "Yes", context=context)
            case "list_reply":
                return builders.list_reply_message(person, message_id, at, "row-1", "First", context=context)
            case "flow_reply":
                answers = {"flow_token": "token", "size": rng.randrange(36, 46)}
                return builders.flow_reply_message(person, message_id, at, answers, context=context)
            case "template_button":
                return builders.template_button_message(
                    person, message_id, at, "more", "More", context=context
                )
            case "interactive_empty":
                return builders.interactive_without_content_message(person, message_id, at, context=context)
            case "reaction":
                customer.reacted_to = heard
                return builders.reaction_message(person, message_id, at, heard, text or rng.choice(EMOJI))
            case "reaction_removed":
                target, customer.reacted_to = customer.reacted_to or heard, None
                return builders.reaction_message(person, message_id, at, target, None)
            case "order":
                items = [
                    builders.order_item(product, rng.randrange(1, 4), price, "EUR")
                    for product, price in rng.sample(
                        [("SHIRT", 19.5), ("MUG", 8), ("BAG", 35)], rng.randrange(1, 4)
                    )
                ]
                return builders.order_message(person, message_id, at, "354160437058781", items, text or "")
            case "edit":
                original = (
                    customer.said_texts[-1] if customer.said_texts else self._new_id(customer.key, True)
                )
                changed = {"type": "text", "text": {"body": said}}
                return builders.edit_message(person, message_id, at, original, changed)
            case "revoke":
                original = customer.said.pop() if customer.said else self._new_id(customer.key, True)
                if original in customer.said_texts:
                    customer.said_texts.remove(original)
                return builders.revoke_message(person, message_id, at, original)
            case "unsupported":
                return builders.unsupported_message(person, message_id, at, rng.choice((None, "poll")))
            case "number_changed":
                new_number = self._cast.free_number()
                message = builders.number_changed_message(person, message_id, at, new_number)
                self._cast.move(customer, new_number)
                return message
            case _:
                raise InvalidInput(f"kind is one of {', '.join(KINDS)}")

    def answer(
        self, account: WhatsAppAccount, customer: Customer, send_id: str, body: dict[str, Any], at: int
    ) -> tuple[str, Json]:
        """How this customer answers what the business sent: the kind and the `messages[]` element."""
        context = builders.quote(account.display_phone_number, send_id)
        message_id = self._new_id(customer.key, True)
        person = customer.person
        interactive = body.get("interactive", {})
        match interactive.get("type"):
            case "button":
                reply = self._rng.choice(interactive["action"]["buttons"])["reply"]
                return "button_reply", builders.button_reply_message(
                    person, message_id, at, reply["id"], reply["title"], context=context
                )
            case "list":
                rows = [row for section in interactive["action"]["sections"] for row in section["rows"]]
                row = self._rng.choice(rows)
                return "list_reply", builders.list_reply_message(
                    person, message_id, at, row["id"], row["title"], row.get("description"), context=context
                )
            case "location_request_message":
                return "location", self.compose(account, customer, "location", at)
            case _:
                return self._free_answer(account, customer, body, at)

    def _free_answer(
        self, account: WhatsAppAccount, customer: Customer, body: Json, at: int
    ) -> tuple[str, Json]:
        draw = self._rng.random()
        if draw < 0.12 and body.get("type") != "reaction":
            return "reaction", self.compose(account, customer, "reaction", at)
        if draw < 0.2:
            kind = self._rng.choice(("voice", "sticker", "image"))
            return kind, self.compose(account, customer, kind, at)
        kind = "text_reply" if draw < 0.35 else "text"
        return kind, self.compose(account, customer, kind, at, self._rng.choice(customer.tongue.answers))

    def _file(self, account: WhatsAppAccount, mime_type: str, content: bytes) -> MediaRef:
        stored = self._media.put(account.phone_number_id, mime_type, content, self._monotonic())
        return MediaRef(id=stored.id, mime_type=mime_type, sha256=sha256_text(stored))
