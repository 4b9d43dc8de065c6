"""A played platform with its customers, as one object to script: what all of them share.

Owns        the accounts, the customers, what is planned for them, and the HTTP server that plays the
            platform: its own API, and the control API at `/__sim/…` (see `control`).
Promises    Silent until told to speak. Speaks over real HTTP, with the habits that `Settings` asks for and
            the faults that a script sets. The ledger knows everything that was acknowledged, accepted or
            refused.
            One seed gives one course of decisions; moments remain those of the real clock and network.
Limits      Those of the settings, of the cast and of the ledger.
Restart     Nothing is kept. Ids carry a run id, so that a new run does not repeat those of the last.
"""

import random
import secrets
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from math import inf
from typing import Any, Generic, Protocol, Self, TypedDict, TypeVar, Unpack

import msgspec
import trio

from adapters.simulators.faults import Fault, FaultBook
from adapters.simulators.http import HttpServer, Request, Response
from adapters.simulators.ledger import Fact, FactKind, Ledger, Send
from adapters.simulators.playing.calls import Calls
from adapters.simulators.playing.cast import Cast, Customer, Json, Said
from adapters.simulators.playing.control import Action, ControlApi
from adapters.simulators.settings import Settings
from adapters.simulators.talk import Talk
from adapters.simulators.webhooks import UNSIGNED, Event, Post, Speech, WebhookSender, now_ms
from engine.errors import Conflicting, InvalidInput, NotFound, Unavailable


class PlayedAccount(Protocol):
    """What of an account is known here. A subclass's accounts are msgspec Structs with more."""

    @property
    def account_id(self) -> str: ...

    @property
    def access_token(self) -> str: ...


class Making(TypedDict, total=False):
    """With what else a simulator is made. `seed` decides its course (1), `settings` its habits (calm ones);
    simulators with one `ledger` are witnesses as one (its own); `run_id` goes into its ids (a random one)."""

    seed: int
    settings: Settings | None
    ledger: Ledger | None
    run_id: str | None


A = TypeVar("A", bound=PlayedAccount)
C = TypeVar("C", bound=Customer)


class Played(ABC, Generic[A, C]):
    """All methods belong to the trio run in which `running` or `serve` was entered.

    `account_field` is the name that the account's id has among a connection's fields. A subclass sets `api`
    while it is made.
    """

    account_field: str
    api: Calls

    def __init__(self, platform: str, accounts: Sequence[A], **making: Unpack[Making]) -> None:
        if not accounts or len({one.account_id for one in accounts}) != len(accounts):
            raise InvalidInput("a simulator needs accounts with different ids")
        self.platform = platform
        self.settings = making.get("settings") or Settings()
        self.accounts: dict[str, A] = {one.account_id: one for one in accounts}
        self.run_id = making.get("run_id") or secrets.token_hex(5)
        self.ledger = making.get("ledger") or Ledger(self.settings.ledger_records_max)
        self._seed = making.get("seed", 1)
        self.rng = self.random("")
        self.faults = FaultBook(self.random("faults"))
        self.expired: set[str] = set()
        self._throttles: dict[str, tuple[int, float]] = {}
        self._sender = WebhookSender(
            self.ledger, self.random("webhooks"), lambda: self.settings, self.speech()
        )
        self._callbacks: dict[str, str | None] = dict.fromkeys(self.accounts)
        self._ids = 0
        self._last_ms = 0
        self.untold = 0
        self._talk: Talk | None = None
        self._talk_scope: trio.CancelScope | None = None
        self._talk_over = trio.Event()
        self._talk_over.set()
        self._talked = 0
        self._nursery: trio.Nursery | None = None
        self._control = ControlApi(self, self.actions())
        self._server: HttpServer | None = None

    # ── the platform's own ───────────────────────────────────────────────────────────────────────

    @property
    @abstractmethod
    def cast(self) -> Cast[C]: ...

    @abstractmethod
    def speech(self) -> Speech:
        """How what happened is put into requests. Called while this object is being made."""

    @abstractmethod
    def compose(self, account: A, customer: C, kind: str, text: str | None) -> Said:
        """What a customer says, of one of the cast's kinds. Raises InvalidInput for another kind."""

    def say_more(self, account: A, customer: C, send: Send, message: Json) -> None:
        """The customer answers what the business sent."""
        text = self.rng.choice(customer.tongue.answers)
        self.send(customer, "text", text, account_id=account.account_id)

    async def shake_hands(self, account: A, callback_url: str) -> None:
        """What the platform does before it uses a new callback address; raises DeliveryFailed."""

    def said_by_hand(self, account: A, customer: C, item: Json) -> Said:
        """An item that a script wrote. Raises InvalidInput for what the platform cannot tell."""
        raise InvalidInput("items by hand are not known here; use kind")

    def echo(self, customer: C, text: str, *, account_id: str | None = None) -> str:
        """A person of the business writes in the platform's own inbox; returns the message id."""
        raise InvalidInput("this platform tells nothing of what is written elsewhere")

    def actions(self) -> Mapping[str, Action]:
        """Control calls of the platform's own. Called while this object is being made."""
        return {}

    # ── life ─────────────────────────────────────────────────────────────────────────────────────

    @asynccontextmanager
    async def running(self, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Self]:
        """Serve for as long as the block lasts; port 0 takes a free one."""
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
        server = self._server = HttpServer(self._answer, host=host, port=port, body_limit=self.api.body_limit)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await nursery.start(self._sender.run)
            url = await nursery.start(server.run)
            await self.start_more(nursery)
            task_status.started(url)

    async def start_more(self, nursery: trio.Nursery) -> None:
        """Whatever else the platform serves, before it counts as started."""

    @property
    def base_url(self) -> str:
        """What a channel's `base_url` must be set to."""
        if self._server is None:
            raise Conflicting("the simulator is not running yet")
        return self._server.base_url

    @property
    def webhooks(self) -> WebhookSender:
        return self._sender

    async def _answer(self, request: Request) -> Response:
        if request.path.startswith("/__sim/"):
            return await self._control.answer(request)
        return await self.api.answer(request)

    def change_settings(self, changes: Mapping[str, Any]) -> Settings:
        """Change some settings while running; InvalidInput for unknown names or wrong values."""
        try:
            self.settings = msgspec.convert(msgspec.to_builtins(self.settings) | dict(changes), Settings)
        except msgspec.ValidationError as error:
            raise InvalidInput(str(error)) from error
        return self.settings

    # ── accounts ─────────────────────────────────────────────────────────────────────────────────

    def account(self, account_id: str | None = None) -> A:
        """By id, or the first one; NotFound otherwise."""
        if account_id is None:
            return next(iter(self.accounts.values()))
        if account_id not in self.accounts:
            raise NotFound(f"the simulator has no account {account_id:.40}")
        return self.accounts[account_id]

    async def connect(
        self, callback_url: str, account_id: str | None = None, /, *, check: bool = True
    ) -> None:
        """Use a callback address from now on, for one account or for all; after a handshake where the
        platform has one and `check`. Raises DeliveryFailed, and nothing changes, when that fails."""
        chosen = [self.account(account_id)] if account_id else list(self.accounts.values())
        for account in chosen if check else ():
            await self.shake_hands(account, callback_url)
        for account in chosen:
            self.use(account, callback_url)

    def use(self, account: A, callback_url: str | None) -> None:
        """The same for one account, without a handshake; None disconnects it."""
        self._callbacks[account.account_id] = callback_url

    def callback_url(self, account_id: str) -> str | None:
        """Where webhooks of an account go; None while it is not connected."""
        return self._callbacks[account_id]

    def connected_url(self, account: A) -> str:
        """The same; raises Conflicting where there is none."""
        url = self._callbacks[account.account_id]
        if url is None:
            raise Conflicting(f"account {account.account_id} has no callback address; connect it first")
        return url

    # ── customers speak ──────────────────────────────────────────────────────────────────────────

    def say(self, key: str, text: str, *, name: str | None = None, account_id: str | None = None) -> str:
        """The customer with this id (made when new) writes a text; returns the message id."""
        return self.send(self.cast.adopt(key, name), "text", text, account_id=account_id)

    def send(
        self,
        customer: C,
        kind: str,
        text: str | None = None,
        *,
        account_id: str | None = None,
        after_seconds: float = 0.0,
    ) -> str:
        """A customer sends an item of one of the cast's kinds; returns the id that it is known by.
        Conflicting when the account is not connected, MailboxFull or Unavailable when no more can wait or be
        recorded."""
        account = self.account(account_id)
        self.connected_url(account)
        said = self.compose(account, customer, kind, text)
        return self.tell(account, customer, said, after_seconds=after_seconds)

    def tell(self, account: A, customer: C, said: Said, *, after_seconds: float = 0.0) -> str:
        """A customer sends any item, as built by hand."""
        fact = self.fact("message", account, said.fact_id, said.key or customer.key, said.type)
        fact.original_id = said.original_id
        customer.heard_at = now_ms()
        self.tell_item(account, said.item, (fact,), after_seconds)
        return said.fact_id

    async def post_raw(self, body: bytes, *, signed: bool = True, account_id: str | None = None) -> str:
        """POST any bytes to the callback address, once, outside the ledger; returns the outcome."""
        account = self.account(account_id)
        url = self.connected_url(account)
        post = self._sender.speech.post_of(account, url, body) if signed else Post(body, UNSIGNED)
        return await self._sender.post_raw(url, post)

    async def wait_quiet(self) -> None:
        """Wait until everything told is acknowledged or given up, and nobody is about to speak."""
        await self._sender.wait_quiet()

    # ── talk ─────────────────────────────────────────────────────────────────────────────────────

    def start_talking(self, talk: Talk) -> None:
        """Customers talk from now on; a talk that is under way is replaced. Raises InvalidInput for a talk
        that makes no sense here."""
        kinds, weights = self.cast.kinds, talk.weights
        if weights is not None and (set(weights) - set(kinds) or not any(w > 0 for w in weights.values())):
            raise InvalidInput(f"weights name kinds among {', '.join(kinds)}, one of them above 0")
        if talk.messages_per_second <= 0 or talk.customers < 1 or talk.burst_max < 1:
            raise InvalidInput("messages_per_second, customers and burst_max are positive")
        for account in self.accounts.values():
            self.connected_url(account)
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
        return self._talk is not None

    async def _keep_talking(self, talk: Talk, people: list[C], scope: trio.CancelScope) -> None:
        due = trio.current_time()
        scope.deadline = due + talk.seconds if talk.seconds is not None else float("inf")
        left = talk.messages_max if talk.messages_max is not None else float("inf")
        with scope:
            while left > 0:
                await trio.sleep_until(due)
                customer = self.rng.choice(people)
                burst = 1
                if self.rng.random() < talk.burst_probability:
                    burst = self.rng.randint(2, max(2, talk.burst_max))
                burst = int(min(burst, left))
                try:
                    self._say_burst(talk, customer, burst)
                except Unavailable:
                    # The ledger or the queue is full: the statistics show it, and waiting may help the queue.
                    await trio.sleep(1.0)
                left -= burst
                # One gap for each message of the burst keeps the mean rate; a late loop catches up.
                due += sum(self.rng.expovariate(talk.messages_per_second) for _ in range(burst))
        if self._talk_scope is scope:
            self.stop_talking()

    def _say_burst(self, talk: Talk, customer: C, burst: int) -> None:
        account = self.rng.choice(list(self.accounts.values()))
        wait = 0.0
        for _ in range(burst):
            kind = self.cast.draw_kind(customer, talk.weights)
            self.send(customer, kind, account_id=account.account_id, after_seconds=wait)
            self._talked += 1
            wait += self.rng.uniform(0.03, 0.4)

    # ── the business was heard ───────────────────────────────────────────────────────────────────

    def heard(self, account: A, send: Send, message: Json) -> C | None:
        """A send was accepted: its customer hears it, and may answer where they talk. None: there is nobody
        to tell anything of it."""
        customer = self.cast.find(send.recipient)
        if customer is None or self._callbacks[account.account_id] is None:
            self.untold += 1
            return None
        customer.heard.append(send.id)
        talk = self._talk
        if talk is not None and self.rng.random() < talk.answer_probability:
            answer = partial(self._answer_back, talk, account, customer, send, message)
            self.later(self.rng.uniform(*talk.answer_seconds), answer)
        return customer

    def _answer_back(self, talk: Talk, account: A, customer: C, send: Send, message: Json) -> None:
        if self._talk is talk:
            self.say_more(account, customer, send, message)

    def later(self, seconds: float, tell: Callable[[], object]) -> None:
        """Tell something after a while, if there is room for it then."""
        self._sender.after(seconds, partial(self.attempt, tell))

    def attempt(self, tell: Callable[[], object]) -> None:
        """Tell something of our own accord; counted where there is no room."""
        try:
            tell()
        except Unavailable:
            self.untold += 1

    # ── scripting ────────────────────────────────────────────────────────────────────────────────

    def fault(self, fault: Fault) -> int:
        """Arm a fault from now on; returns its id for `clear_faults`."""
        return self.faults.add(fault, trio.current_time())

    def clear_faults(self, fault_id: int | None = None) -> int:
        return self.faults.clear(fault_id)

    def throttle(
        self, per_second: int | None, account_id: str | None = None, for_seconds: float = inf
    ) -> None:
        """Another limit for the sends of an account, or of all, for a time; 0 refuses all, None is the
        platform's own again."""
        if per_second is not None and per_second < 0:
            raise InvalidInput("per_second is 0 or more")
        chosen = self.accounts if account_id is None else [self.account(account_id).account_id]
        for each in chosen:
            if per_second is None:
                self._throttles.pop(each, None)
            else:
                self._throttles[each] = (per_second, trio.current_time() + for_seconds)

    def per_second_max(self, account_id: str, usual: int) -> int:
        """How many sends of an account are accepted in a second now."""
        per_second, until = self._throttles.get(account_id, (usual, inf))
        return per_second if until > trio.current_time() else usual

    def expire_token(self, account_id: str | None = None, *, expired: bool = True) -> None:
        """Calls with the account's token are refused as expired from now on, or taken again."""
        chosen = self.account(account_id).account_id
        (self.expired.add if expired else self.expired.discard)(chosen)

    def renew_token(self, access_token: str, account_id: str | None = None) -> None:
        """The account has another token from now on, and the old one is worth nothing."""
        account: Any = self.account(account_id)
        self.accounts[account.account_id] = msgspec.structs.replace(account, access_token=access_token)
        self.expired.discard(account.account_id)

    def go_down(self, seconds: float) -> None:
        """The platform is gone: connections are refused, open ones cut. Its webhooks go on."""
        assert self._server is not None
        self._server.go_down(seconds)

    def come_up(self) -> None:
        """End `go_down` early."""
        assert self._server is not None
        self._server.come_up()

    def set_window(self, key: str, *, opened: bool, account_id: str | None = None) -> None:
        """Open or close the reply window of a customer by hand."""
        self.cast.adopt(key).heard_at = now_ms() if opened else 0

    def statistics(self) -> dict[str, Any]:
        """Counts of everything, for people and checks."""
        assert self._server is not None
        return {
            "run_id": self.run_id,
            "platform": self.platform,
            "talking": self.talking,
            "talked": self._talked,
            "customers": len(self.cast.everybody),
            "untold": self.untold,
            "webhooks": self._sender.statistics(),
            "http": {"connections": self._server.connections, "requests": self._server.requests},
            **self.ledger.statistics(),
        }

    # ── for subclasses ───────────────────────────────────────────────────────────────────────────

    def random(self, name: str) -> random.Random:
        """A source of its own for each part, so that one part's course does not depend on another's."""
        return random.Random(f"{self._seed}/{self.platform}/{name}")  # noqa: S311 - a script, no secret

    def next_id(self) -> str:
        """Ten digits, new in this run."""
        self._ids += 1
        return f"{self._ids:010d}"

    def moment(self) -> int:
        """Now in ms; no two items get the same one."""
        self._last_ms = max(self._last_ms + 1, now_ms())
        return self._last_ms

    def fact(
        self, kind: FactKind, account: A, fact_id: str, key: str, type_: str, *, status: str = ""
    ) -> Fact:
        return Fact(
            kind=kind,
            id=fact_id,
            status=status,
            phone_number_id=account.account_id,
            wa_id=key,
            type=type_,
            created_at=now_ms(),
        )

    def tell_item(self, account: A, item: Json, facts: tuple[Fact, ...], after_seconds: float = 0.0) -> None:
        url = self.connected_url(account)
        self.ledger.ensure_room()
        self._sender.tell(Event(account, url, item, facts), after_seconds=after_seconds)
        for fact in facts:
            self.ledger.record_fact(fact)
