"""The WhatsApp Cloud platform with its customers, as one object to script.

Owns        The accounts, the customers, what is planned for them, and the HTTP server that plays the
            platform: Graph API at `/v25.0/…`, media, and the control API at `/__sim/…` (see `control`).
Promises    Silent until told to speak. Speaks and answers as the platform's fact sheet says, over real HTTP,
            with the habits that `Settings` asks for and the faults that a script sets. The ledger knows
            everything that was acknowledged, accepted or refused. One seed gives one course of decisions;
            moments and interleaving remain those of the real clock and network.
Limits      Those of the settings and of the ledger; nothing grows without a bound.
Restart     Nothing is kept. Message ids carry a run id, so that a new run does not repeat those of the last.

    async with Simulator([account], seed=7).running() as platform:
        await platform.connect("http://127.0.0.1:8080/api/webhooks/whatsapp")
        message_id = platform.say("15550100001", "Is this in stock?")
        await platform.wait_quiet()
        assert platform.ledger.message(message_id).acknowledged_at
"""

import hashlib
import random
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx
import msgspec
import trio

from adapters.simulators import builders
from adapters.simulators.accounts import WhatsAppAccount
from adapters.simulators.builders import Json, Person
from adapters.simulators.control import ControlApi
from adapters.simulators.customers import WEIGHTS, Cast, Customer, Writer
from adapters.simulators.faults import Fault, FaultBook
from adapters.simulators.graph import GraphApi, body_limit
from adapters.simulators.graph_errors import webhook_error
from adapters.simulators.http import HttpServer, Request, Response
from adapters.simulators.ledger import Fact, FactKind, Ledger, Send
from adapters.simulators.media import MediaStore
from adapters.simulators.sends import OutboundMessage
from adapters.simulators.settings import Settings
from adapters.simulators.statuses import draw_failure, plan_statuses
from adapters.simulators.talk import Talk
from adapters.simulators.webhooks import (
    UNSIGNED,
    Event,
    MetaSpeech,
    Post,
    WebhookSender,
    handshake,
    now_ms,
)
from engine.errors import Conflicting, DeliveryFailed, InvalidInput, NotFound, Unavailable

_WINDOWS_MAX = 1_000_000
"""Pairs of number and user with a known last message; about 150 bytes each. The oldest are forgotten."""


class Simulator:
    """See the module. All methods belong to the trio run in which `running` or `serve` was entered."""

    def __init__(
        self,
        accounts: Sequence[WhatsAppAccount],
        *,
        seed: int = 1,
        settings: Settings | None = None,
        run_id: str | None = None,
        username_share: float = 0.03,
        ledger: Ledger | None = None,
    ) -> None:
        if not accounts or len({one.phone_number_id for one in accounts}) != len(accounts):
            raise InvalidInput("a simulator needs accounts with different phone_number_ids")
        self.settings = settings or Settings()
        self.accounts = {one.phone_number_id: one for one in accounts}
        self.run_id = run_id or secrets.token_hex(5)
        self.ledger = ledger or Ledger(self.settings.ledger_records_max)
        self._rng = random.Random(f"{seed}/behaviour")  # noqa: S311 - a script, no secret
        people = random.Random(f"{seed}/customers")  # noqa: S311
        speech = MetaSpeech(_body_of)
        self.webhooks = WebhookSender(
            self.ledger,
            random.Random(f"{seed}/webhooks"),  # noqa: S311
            self._now_settings,
            speech,
        )
        self.faults = FaultBook(random.Random(f"{seed}/faults"))  # noqa: S311
        # Media ids look like the platform's 16 digits and differ from run to run, as message ids do.
        self.media = MediaStore(self.settings.media_url_seconds, 10**15 + time.time_ns() // 1_000)
        self.cast = Cast(people, username_share)
        self._writer = Writer(people, self.media, self.cast, self._new_id, time.monotonic)
        self._callbacks = {one.phone_number_id: one.callback_url for one in accounts}
        self._ids = 0
        self._heard_at: dict[tuple[str, str], int] = {}
        self._failing: dict[str, int] = {}
        self._untold = 0
        self._talk: Talk | None = None
        self._talk_scope: trio.CancelScope | None = None
        self._talk_over = trio.Event()
        self._talk_over.set()
        self._talked = 0
        self._nursery: trio.Nursery | None = None
        self.graph = GraphApi(
            self.accounts,
            settings=self._now_settings,
            ledger=self.ledger,
            media=self.media,
            faults=self.faults,
            new_id=self._new_id,
            base_url=lambda: self.base_url,
            accepted=self._accepted,
        )
        self._control = ControlApi(self)
        self._server: HttpServer | None = None

    # ── life ─────────────────────────────────────────────────────────────────────────────────────

    @asynccontextmanager
    async def running(self, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator["Simulator"]:
        """Serve for as long as the block lasts; port 0 takes a free one. `OSError` when it is taken.

        At the end everything stops at once: what waits to be told is dropped (see `wait_quiet`).
        """
        async with trio.open_nursery() as nursery:
            await nursery.start(self.serve, host, port)
            try:
                yield self
            finally:
                nursery.cancel_scope.cancel()

    async def serve(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """The same for `nursery.start`, which returns the base URL; lasts until cancelled. Only once."""
        if self._server is not None:
            raise Conflicting("this simulator has been started before; make another one")
        server = self._server = HttpServer(self._answer, host=host, port=port, body_limit=body_limit)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await nursery.start(self.webhooks.run)
            url = await nursery.start(server.run)
            task_status.started(url)

    @property
    def base_url(self) -> str:
        """What a channel's platform base URL must be set to, without the version."""
        return self._running_server().base_url

    def _running_server(self) -> HttpServer:
        if self._server is None:
            raise Conflicting("the simulator is not running yet")
        return self._server

    async def _answer(self, request: Request) -> Response:
        if request.path.startswith("/__sim/"):
            return await self._control.answer(request)
        return await self.graph.answer(request)

    def _now_settings(self) -> Settings:
        return self.settings

    def change_settings(self, changes: Mapping[str, Any]) -> Settings:
        """Change some settings while running; `InvalidInput` for unknown names or wrong values.

        `webhook_connections_max`, `ledger_records_max` and `media_url_seconds` are read at the start only.
        """
        try:
            wanted = msgspec.to_builtins(self.settings) | dict(changes)
            self.settings = msgspec.convert(wanted, Settings)
        except msgspec.ValidationError as error:
            raise InvalidInput(str(error)) from error
        self.graph.settings_changed()
        return self.settings

    # ── accounts ─────────────────────────────────────────────────────────────────────────────────

    def account(self, phone_number_id: str | None = None) -> WhatsAppAccount:
        """By id, or the first one; `NotFound` otherwise."""
        if phone_number_id is None:
            return next(iter(self.accounts.values()))
        if phone_number_id not in self.accounts:
            raise NotFound(f"the simulator has no number {phone_number_id:.40}")
        return self.accounts[phone_number_id]

    async def connect(
        self, callback_url: str, phone_number_id: str | None = None, *, check: bool = True
    ) -> None:
        """Shake hands with a callback address and use it from then on, for one number or for all.

        The platform's GET must be answered 200 with the challenge, else `DeliveryFailed` and nothing changes.
        `check=False` leaves the GET out.
        """
        chosen = [self.account(phone_number_id)] if phone_number_id else list(self.accounts.values())
        if check:
            for account in chosen:
                await self._shake_hands(account, callback_url)
        for account in chosen:
            self._callbacks[account.phone_number_id] = callback_url

    async def _shake_hands(self, account: WhatsAppAccount, url: str) -> None:
        challenge = str(secrets.randbelow(10**10))
        try:
            status, body = await handshake(account, url, challenge)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise DeliveryFailed(f"no answer from the callback address: {type(error).__name__}") from error
        if status != 200 or body != challenge:
            raise DeliveryFailed(
                f"the callback address answered {status} to the handshake and "
                f"{'the challenge' if body == challenge else 'not the challenge'}"
            )

    def callback_url(self, phone_number_id: str) -> str | None:
        """Where webhooks of a number go; None while it is not connected."""
        return self._callbacks[phone_number_id]

    # ── customers speak ──────────────────────────────────────────────────────────────────────────

    def say(
        self, wa_id: str, text: str, *, name: str | None = None, phone_number_id: str | None = None
    ) -> str:
        """The customer with this number (made when new) writes a text; returns the message id."""
        return self.send(self.cast.adopt(wa_id, name), "text", text, phone_number_id=phone_number_id)

    def send(
        self,
        customer: Customer,
        kind: str,
        text: str | None = None,
        *,
        phone_number_id: str | None = None,
        after_seconds: float = 0.0,
    ) -> str:
        """A customer sends a message of one of `customers.KINDS`; returns its id.

        `Conflicting` when the number is not connected, `MailboxFull` or `Unavailable` when no more can wait
        or be recorded, `InvalidInput` for an unknown kind.
        """
        account = self.account(phone_number_id)
        self._ensure_connected(account)
        person = customer.person
        message = self._writer.compose(account, customer, kind, now_ms() // 1_000, text)
        return self.tell_message(account, person, message, after_seconds=after_seconds, kind=kind)

    def tell_message(
        self,
        account: WhatsAppAccount,
        person: Person,
        message: Json,
        *,
        after_seconds: float = 0.0,
        kind: str | None = None,
    ) -> str:
        """A customer sends any `messages[]` element, as built by hand; returns its id."""
        # The number of one who just changed it is told by the message itself, without `contacts`.
        people = () if message.get("type") == "system" else (person,)
        members: Json = {"messages": [message]}
        if kind == "interactive_empty":
            members["errors"] = [webhook_error(131000, "Unsupported webhook payload")]
        fact = self._fact(
            "message", account, message["id"], person.wa_id or person.user_id or "", message["type"]
        )
        changed = message.get(message["type"])
        if isinstance(changed, dict):
            fact.original_id = changed.get("original_message_id")
        change = builders.change(builders.value(account, people, **members))
        self._tell(account, change, (fact,), after_seconds)
        for key in (person.wa_id, person.user_id):
            if key is not None:
                self._hear(account.phone_number_id, key)
        return fact.id

    def echo(self, customer: Customer, text: str, *, phone_number_id: str | None = None) -> str:
        """The business writes to a customer from its phone app; returns the message id."""
        account = self.account(phone_number_id)
        message_id = self._new_id(customer.key, False)
        said = builders.text_message(customer.person, message_id, now_ms() // 1_000, text)
        echoed = builders.echo(account, customer.person, said)
        change = builders.change(
            builders.value(account, (customer.person,), message_echoes=[echoed]), "smb_message_echoes"
        )
        self._tell(account, change, (self._fact("echo", account, message_id, customer.key, "text"),))
        return message_id

    def tell_template_status(self, name: str, event: str, *, phone_number_id: str | None = None) -> None:
        """The platform approves, rejects or pauses a template."""
        account = self.account(phone_number_id)
        template = next((one for one in self.settings.templates if one.name == name), None)
        language, category = (template.language, template.category) if template else ("en_US", "UTILITY")
        value = builders.template_status_value(name, language, event, 1_689_556_908_129_832, category)
        fact = self._fact("other", account, f"{name}/{event}", "", "message_template_status_update")
        self._tell(account, builders.change(value, "message_template_status_update"), (fact,))

    async def post_raw(self, body: bytes, *, signed: bool = True, phone_number_id: str | None = None) -> str:
        """POST any bytes to the callback address, once, outside the ledger; returns the outcome."""
        account = self.account(phone_number_id)
        url = self._ensure_connected(account)
        post = self.webhooks.speech.post_of(account, url, body) if signed else Post(body, UNSIGNED)
        return await self.webhooks.post_raw(url, post)

    async def wait_quiet(self) -> None:
        """Wait until everything told is acknowledged or given up, and nobody is about to speak."""
        await self.webhooks.wait_quiet()

    # ── talk ─────────────────────────────────────────────────────────────────────────────────────

    def start_talking(self, talk: Talk) -> None:
        """Customers talk from now on; a talk that is under way is replaced."""
        unknown = set(talk.weights) - set(WEIGHTS)
        if unknown or not any(weight > 0 for weight in talk.weights.values()):
            raise InvalidInput(f"weights name kinds among {', '.join(WEIGHTS)}, one of them above 0")
        if talk.messages_per_second <= 0 or talk.customers < 1 or talk.burst_max < 1:
            raise InvalidInput("messages_per_second, customers and burst_max are positive")
        for account in self.accounts.values():
            self._ensure_connected(account)
        self._running_server()
        assert self._nursery is not None
        self.stop_talking()
        people = self.cast.ensure(talk.customers)
        self._talk, self._talk_scope, self._talk_over = talk, trio.CancelScope(), trio.Event()
        self._nursery.start_soon(self._keep_talking, talk, people, self._talk_scope)

    def stop_talking(self) -> None:
        """Nobody speaks or answers any more, except what is already planned."""
        if self._talk_scope is not None:
            self._talk_scope.cancel()
        self._talk = self._talk_scope = None
        self._talk_over.set()

    async def wait_talked(self) -> None:
        """Wait until the present talk is over; returns at once when nobody talks."""
        await self._talk_over.wait()

    @property
    def talking(self) -> bool:
        """Whether customers are talking."""
        return self._talk is not None

    async def _keep_talking(self, talk: Talk, people: list[Customer], scope: trio.CancelScope) -> None:
        due = trio.current_time()
        scope.deadline = due + talk.seconds if talk.seconds is not None else float("inf")
        left = talk.messages_max if talk.messages_max is not None else float("inf")
        with scope:
            while left > 0:
                await trio.sleep_until(due)
                customer = self._rng.choice(people)
                burst = 1
                if self._rng.random() < talk.burst_probability:
                    burst = self._rng.randint(2, max(2, talk.burst_max))
                burst = int(min(burst, left))
                try:
                    self._say_burst(talk, customer, burst)
                except Unavailable:
                    # The ledger or the queue is full: the statistics show it, and waiting may help the queue.
                    await trio.sleep(1.0)
                left -= burst
                # One gap for each message of the burst keeps the mean rate; a late loop catches up.
                due += sum(self._rng.expovariate(talk.messages_per_second) for _ in range(burst))
        if self._talk_scope is scope:
            self.stop_talking()

    def _say_burst(self, talk: Talk, customer: Customer, burst: int) -> None:
        account = self._rng.choice(list(self.accounts.values()))
        wait = 0.0
        for _ in range(burst):
            kind = self._writer.draw_kind(customer, talk.weights)
            self.send(customer, kind, phone_number_id=account.phone_number_id, after_seconds=wait)
            self._talked += 1
            wait += self._rng.uniform(0.03, 0.4)

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
            code = draw_failure(self._rng, self.settings)
        if self._callbacks[account.phone_number_id] is None:
            # Nobody is listening; the real platform would not keep these either.
            self._untold += 1
            return
        if code is not None:
            wait = self._rng.uniform(*self.settings.sent_seconds)
            self.webhooks.after(wait, lambda: self._tell_status(account, send, "failed", category, code))
            return
        for wait, name in plan_statuses(self._rng, self.settings, voice=message.voice):
            self.webhooks.after(wait, partial(self._tell_status, account, send, name, category, None))
        customer = self.cast.find(message.recipient)
        if customer is not None:
            customer.heard.append(send.id)
            self._plan_answer(account, customer, send, message)

    def _plan_answer(
        self, account: WhatsAppAccount, customer: Customer, send: Send, message: OutboundMessage
    ) -> None:
        talk = self._talk
        if talk is None or self._rng.random() >= talk.answer_probability:
            return

        def answer() -> None:
            if self._talk is not talk:
                return
            person = customer.person
            try:
                kind, said = self._writer.answer(account, customer, send.id, message.body, now_ms() // 1_000)
                self.tell_message(account, person, said, kind=kind)
            except Unavailable:
                self._untold += 1

        self.webhooks.after(self._rng.uniform(*talk.answer_seconds), answer)

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
        fact = self._fact("status", account, send.id, send.recipient, send.type, status=name)
        try:
            self._tell(account, builders.change(builders.value(account, people, statuses=[status])), (fact,))
        except Unavailable:
            self._untold += 1

    # ── scripting ────────────────────────────────────────────────────────────────────────────────

    def fault(self, fault: Fault) -> int:
        """Arm a fault from now on; returns its id for `clear_faults`."""
        return self.faults.add(fault, trio.current_time())

    def clear_faults(self, fault_id: int | None = None) -> int:
        """Disarm one fault or all; returns how many there were."""
        return self.faults.clear(fault_id)

    def throttle(self, phone_number_id: str, per_second: int, for_seconds: float = float("inf")) -> None:
        """Give one number another limit for a time; 0 refuses every send with 130429."""
        self.account(phone_number_id)
        if per_second < 0:
            raise InvalidInput("per_second is 0 or more")
        self.graph.throttle(phone_number_id, per_second, trio.current_time() + for_seconds)

    def go_down(self, seconds: float) -> None:
        """The platform is gone: connections are refused, open ones cut. Its webhooks go on."""
        self._running_server().go_down(seconds)

    def come_up(self) -> None:
        """End `go_down` early."""
        self._running_server().come_up()

    def fail_recipient(self, recipient: str, code: int | None) -> None:
        """Sends to this recipient end as `failed` with this code; None lets them arrive again."""
        if code is None:
            self._failing.pop(recipient, None)
        elif len(self._failing) >= 10_000:
            raise InvalidInput("10000 recipients fail already; that should do")
        else:
            self._failing[recipient] = code

    def set_window(self, recipient: str, *, opened: bool, phone_number_id: str | None = None) -> None:
        """Open or close the 24-hour window of a customer by hand."""
        account = self.account(phone_number_id)
        if opened:
            self._hear(account.phone_number_id, recipient)
        else:
            self._heard_at.pop((account.phone_number_id, recipient), None)

    def statistics(self) -> dict[str, Any]:
        """Counts of everything, for people and checks."""
        server = self._running_server()
        return {
            "run_id": self.run_id,
            "talking": self.talking,
            "talked": self._talked,
            "customers": len(self.cast.everybody),
            "untold": self._untold,
            "webhooks": self.webhooks.statistics(),
            "http": {"connections": server.connections, "requests": server.requests},
            "peak_sends_per_second": self.graph.peaks(),
            **self.ledger.statistics(),
        }

    # ── within ───────────────────────────────────────────────────────────────────────────────────

    def _new_id(self, key: str, inbound: bool) -> str:
        self._ids += 1
        digits = "".join(filter(str.isdigit, key))[-15:]
        return builders.wamid(digits, f"3A{self.run_id}{self._ids:08x}", inbound=inbound)

    def _fact(
        self,
        kind: FactKind,
        account: WhatsAppAccount,
        fact_id: str,
        wa_id: str,
        type_: str,
        *,
        status: str = "",
    ) -> Fact:
        return Fact(
            kind=kind,
            id=fact_id,
            status=status,
            phone_number_id=account.phone_number_id,
            wa_id=wa_id,
            type=type_,
            created_at=now_ms(),
        )

    def _tell(
        self, account: WhatsAppAccount, change: Json, facts: tuple[Fact, ...], after_seconds: float = 0.0
    ) -> None:
        url = self._ensure_connected(account)
        self.ledger.ensure_room()
        self.webhooks.tell(Event(account, url, change, facts), after_seconds=after_seconds)
        for fact in facts:
            self.ledger.record_fact(fact)

    def _ensure_connected(self, account: WhatsAppAccount) -> str:
        url = self._callbacks[account.phone_number_id]
        if url is None:
            raise Conflicting(f"number {account.phone_number_id} has no callback address; connect it first")
        return url

    def _hear(self, phone_number_id: str, key: str) -> None:
        pair = (phone_number_id, key)
        self._heard_at.pop(pair, None)
        self._heard_at[pair] = now_ms()
        if len(self._heard_at) > _WINDOWS_MAX:
            del self._heard_at[next(iter(self._heard_at))]

    def _window_open(self, account: WhatsAppAccount, recipient: str) -> bool:
        if not self.settings.window_enforced:
            return True
        heard = self._heard_at.get((account.phone_number_id, recipient))
        return heard is not None and now_ms() - heard < self.settings.window_seconds * 1_000


def _body_of(events: Sequence[Event]) -> bytes:
    return builders.webhook_bytes(
        builders.merged([(event.account.waba_id, event.change) for event in events])
    )
