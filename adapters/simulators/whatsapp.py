"""The WhatsApp Cloud platform with its customers, as one object to script.

Owns        beside what every played platform owns, the Graph API at `/v25.0/…` and media.
Promises    Speaks and answers as the platform's fact sheet says.

    async with Simulator([account], seed=7).running() as platform:
        await platform.connect("http://127.0.0.1:8080/api/webhooks/whatsapp")
        message_id = platform.say("15550100001", "Is this in stock?")
        await platform.wait_quiet()
        assert platform.ledger.message(message_id).acknowledged_at

Beside the control calls of all played platforms:

    POST   /__sim/recipients                    {recipient, code | null}: sends to it end as failed
    POST   /__sim/template-status               {name, event, account_id?}
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Unpack

import msgspec

from adapters.simulators import builders
from adapters.simulators.accounts import WhatsAppAccount
from adapters.simulators.builders import Json, Person
from adapters.simulators.customers import Cast, Customer, Writer
from adapters.simulators.graph import GraphApi
from adapters.simulators.graph_errors import webhook_error
from adapters.simulators.ledger import Send
from adapters.simulators.media import MediaStore
from adapters.simulators.playing.cast import Said
from adapters.simulators.playing.control import Action, Body
from adapters.simulators.playing.platform import Making, Played
from adapters.simulators.sends import OutboundMessage
from adapters.simulators.settings import Settings
from adapters.simulators.statuses import draw_failure, plan_statuses
from adapters.simulators.webhooks import Event, MetaSpeech, now_ms, shake_hands
from engine.errors import InvalidInput

_WINDOWS_MAX = 1_000_000
"""Pairs of number and user with a known last message; about 150 bytes each. The oldest are forgotten."""


class _Recipient(Body, kw_only=True):
    recipient: str
    code: int | None


class _TemplateStatus(Body, kw_only=True):
    name: str
    event: str


class Simulator(Played[WhatsAppAccount, Customer]):
    """See `adapters.simulators.playing.platform`."""

    account_field = "phone_number_id"
    api: GraphApi

    def __init__(
        self,
        accounts: Sequence[WhatsAppAccount],
        *,
        username_share: float = 0.03,
        **making: Unpack[Making],
    ) -> None:
        super().__init__("whatsapp", accounts, **making)
        # Media ids look like the platform's 16 digits and differ from run to run, as message ids do.
        self.media = MediaStore(self.settings.media_url_seconds, 10**15 + time.time_ns() // 1_000)
        people = self.random("people")
        self._cast = Cast(people, username_share)
        self._writer = Writer(people, self.media, self._cast, self._new_id, time.monotonic)
        for one in accounts:
            self.use(one, one.callback_url)
        self._heard_at: dict[tuple[str, str], int] = {}
        self._failing: dict[str, int] = {}
        self.api = GraphApi(
            self.accounts,
            settings=lambda: self.settings,
            ledger=self.ledger,
            media=self.media,
            faults=self.faults,
            new_id=self._new_id,
            base_url=lambda: self.base_url,
            accepted=self._accepted,
            per_second_max=lambda id_: self.per_second_max(id_, self.settings.sends_per_second_max),
            expired=self.expired,
        )

    @property
    def cast(self) -> Cast:
        return self._cast

    def speech(self) -> MetaSpeech:
        return MetaSpeech(_body_of)

    def actions(self) -> Mapping[str, Action]:
        return {"recipients": self._act_recipient, "template-status": self._act_template}

    async def shake_hands(self, account: WhatsAppAccount, callback_url: str) -> None:
        await shake_hands(account, callback_url)

    def change_settings(self, changes: Mapping[str, Any]) -> Settings:
        """`webhook_connections_max`, `ledger_records_max`, `media_url_seconds` are read at the start only."""
        changed = super().change_settings(changes)
        self.api.settings_changed()
        return changed

    # ── customers speak ──────────────────────────────────────────────────────────────────────────

    def compose(self, account: WhatsAppAccount, customer: Customer, kind: str, text: str | None) -> Said:
        person = customer.person
        message = self._writer.compose(account, customer, kind, now_ms() // 1_000, text)
        return self.said(account, person, message, empty=kind == "interactive_empty")

    def said_by_hand(self, account: WhatsAppAccount, customer: Customer, item: Json) -> Said:
        """A `messages[]` element."""
        if not isinstance(item.get("id"), str) or not isinstance(item.get("type"), str):
            raise InvalidInput("an item needs id and type")
        return self.said(account, customer.person, item)

    def said(self, account: WhatsAppAccount, person: Person, message: Json, *, empty: bool = False) -> Said:
        """A `messages[]` element of this person on its way. `empty`: the platform says that it left something
        out."""
        # The number of one who just changed it is told by the message itself, without `contacts`.
        people = () if message.get("type") == "system" else (person,)
        members: Json = {"messages": [message]}
        if empty:
            members["errors"] = [webhook_error(131000, "Unsupported webhook payload")]
        changed = message.get(message["type"])
        original_id = changed.get("original_message_id") if isinstance(changed, dict) else None
        change = builders.change(builders.value(account, people, **members))
        key = person.wa_id or person.user_id
        return Said(change, message["id"], message["type"], original_id, key)

    def tell(
        self, account: WhatsAppAccount, customer: Customer, said: Said, *, after_seconds: float = 0.0
    ) -> str:
        told = super().tell(account, customer, said, after_seconds=after_seconds)
        for key in (said.key, *self._cast.keys(customer)):
            if key is not None:
                self._hear(account.phone_number_id, key)
        return told

    def echo(self, customer: Customer, text: str, *, account_id: str | None = None) -> str:
        """The business writes to a customer from its phone app; returns the message id."""
        account = self.account(account_id)
        message_id = self._new_id(customer.key, False)
        said = builders.text_message(customer.person, message_id, now_ms() // 1_000, text)
        echoed = builders.echo(account, customer.person, said)
        change = builders.change(
            builders.value(account, (customer.person,), message_echoes=[echoed]), "smb_message_echoes"
        )
        self.tell_item(account, change, (self.fact("echo", account, message_id, customer.key, "text"),))
        return message_id

    def tell_template_status(self, name: str, event: str, *, account_id: str | None = None) -> None:
        """The platform approves, rejects or pauses a template."""
        account = self.account(account_id)
        template = next((one for one in self.settings.templates if one.name == name), None)
        language, category = (template.language, template.category) if template else ("en_US", "UTILITY")
        value = builders.template_status_value(name, language, event, 1_689_556_908_129_832, category)
        fact = self.fact("other", account, f"{name}/{event}", "", "message_template_status_update")
        self.tell_item(account, builders.change(value, "message_template_status_update"), (fact,))

    def say_more(self, account: WhatsAppAccount, customer: Customer, send: Send, message: Json) -> None:
        person = customer.person
        _, answer = self._writer.answer(account, customer, send.id, message, now_ms() // 1_000)
        self.tell(account, customer, self.said(account, person, answer))

    # ── the platform's reactions to a send ───────────────────────────────────────────────────────

    def _accepted(self, account: WhatsAppAccount, message: OutboundMessage, send: Send) -> None:
        template = message.body.get("template") if message.type == "template" else None
        category = "service"
        if template is not None:
            named = [one for one in self.settings.templates if one.name == template["name"]]
            category = named[0].category.lower() if named else category
        code = self._failing.get(message.recipient)
        if code is None and template is None and not self._window_open(account, message.recipient):
            code = 131047
        if code is None:
            code = draw_failure(self.rng, self.settings)
        if self.callback_url(account.account_id) is None or self._is_strangers(message.recipient):
            # Nobody is listening, or somebody else plays the customer.
            self.untold += 1
            return
        if code is not None:
            wait = self.rng.uniform(*self.settings.sent_seconds)
            self.later(wait, partial(self._tell_status, account, send, "failed", category, code))
            return
        for wait, name in plan_statuses(self.rng, self.settings, voice=message.voice):
            self.later(wait, partial(self._tell_status, account, send, name, category, None))
        if self.cast.find(message.recipient) is not None:
            self.heard(account, send, message.body)

    def _tell_status(
        self, account: WhatsAppAccount, send: Send, name: str, category: str, code: int | None
    ) -> None:
        now = now_ms()
        known = self.cast.find(send.recipient)
        person = known.person if known else Person(name="", wa_id=send.recipient)
        pair = f"{account.phone_number_id}/{send.recipient}".encode()
        status = builders.status(
            send.id,
            name,
            now // 1_000,
            send.recipient,
            callback_data=send.callback_data,
            conversation_id=hashlib.sha256(pair).hexdigest()[:32],
            window_ends=(now // 1_000) + int(self.settings.window_seconds),
            category=category,
            error=None if code is None else webhook_error(code, "The message was not delivered."),
        )
        people = (person,) if known else ()
        fact = self.fact("status", account, send.id, send.recipient, send.type, status=name)
        self.tell_item(account, builders.change(builders.value(account, people, statuses=[status])), (fact,))

    # ── scripting ────────────────────────────────────────────────────────────────────────────────

    def fail_recipient(self, recipient: str, code: int | None) -> None:
        """Sends to this recipient end as `failed` with this code; None lets them arrive again."""
        if code is None:
            self._failing.pop(recipient, None)
        elif len(self._failing) >= 10_000:
            raise InvalidInput("10000 recipients fail already; that should do")
        else:
            self._failing[recipient] = code

    def set_window(self, key: str, *, opened: bool, account_id: str | None = None) -> None:
        account = self.account(account_id)
        if opened:
            self._hear(account.phone_number_id, key)
        else:
            self._heard_at.pop((account.phone_number_id, key), None)

    def statistics(self) -> dict[str, Any]:
        return {**super().statistics(), "peak_sends_per_second": self.api.peaks()}

    # ── within ───────────────────────────────────────────────────────────────────────────────────

    def _act_recipient(self, body: bytes) -> object:
        recipient = msgspec.json.decode(body, type=_Recipient)
        self.fail_recipient(recipient.recipient, recipient.code)
        return {"code": recipient.code}

    def _act_template(self, body: bytes) -> object:
        change = msgspec.json.decode(body, type=_TemplateStatus)
        self.tell_template_status(change.name, change.event, account_id=change.account_id)
        return {"told": True}

    def _new_id(self, key: str, inbound: bool) -> str:
        digits = "".join(filter(str.isdigit, key))[-15:]
        return builders.wamid(digits, f"3A{self.run_id}{int(self.next_id()):08x}", inbound=inbound)

    def _hear(self, phone_number_id: str, key: str) -> None:
        pair = (phone_number_id, key)
        self._heard_at.pop(pair, None)
        self._heard_at[pair] = now_ms()
        if len(self._heard_at) > _WINDOWS_MAX:
            del self._heard_at[next(iter(self._heard_at))]

    def _is_strangers(self, recipient: str) -> bool:
        return self.settings.strangers_taken and self.cast.find(recipient) is None

    def _window_open(self, account: WhatsAppAccount, recipient: str) -> bool:
        if not self.settings.window_enforced or self._is_strangers(recipient):
            return True
        heard = self._heard_at.get((account.phone_number_id, recipient))
        return heard is not None and now_ms() - heard < self.settings.window_seconds * 1_000


def _body_of(events: Sequence[Event]) -> bytes:
    return builders.webhook_bytes(
        builders.merged([(event.account.waba_id, event.change) for event in events])
    )
