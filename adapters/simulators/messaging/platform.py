"""Messenger or Instagram with its customers, as one object to script.

Owns        the accounts, the customers, what is planned for them, and the HTTP server that plays the
            platform: the Graph API at `/v25.0/…`, media, and the control API at `/__sim/…` (see `control`).
Promises    Silent until told to speak. Speaks and answers as the sheets say, over real HTTP, with the habits
            that `Settings` asks for and the faults that a script sets: watermarks instead of statuses, echoes
            of the business's own sends (at times before the answer to the send), usage headers, windows. The
            ledger knows everything that was acknowledged, accepted or refused.
Limits      Those of the settings and of the ledger.
Restart     Nothing is kept. Message ids carry a run id, so that a new run does not repeat those of the last.
"""

import json
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import httpx
import msgspec
import trio

from adapters.simulators import builders
from adapters.simulators.faults import Fault, FaultBook
from adapters.simulators.http import HttpServer, Request, Response
from adapters.simulators.ledger import Fact, FactKind, Ledger, Send
from adapters.simulators.media import MediaStore
from adapters.simulators.messaging.control import ControlApi
from adapters.simulators.messaging.graph import MessagingAccount, MessagingGraph, body_limit
from adapters.simulators.messaging.people import Customer, Json, People, Said
from adapters.simulators.settings import Settings
from adapters.simulators.talk import Talk
from adapters.simulators.webhooks import Event, WebhookSender, handshake, now_ms
from engine.errors import Conflicting, DeliveryFailed, InvalidInput, NotFound, Unavailable

ACCOUNT_FIELDS: Final = {"facebook": "page_id", "instagram": "instagram_id"}
_OBJECTS: Final = {"facebook": "page", "instagram": "instagram"}
_APP_ID: Final = 1_517_776_481_860_111
_SENDS_PER_SECOND: Final = 300
"""Of an account (both sheets, section 6)."""
_UNREAD_MAX: Final = 1_000


class MessagingSimulator:
    """All methods belong to the trio run in which `running` or `serve` was entered."""

    def __init__(
        self,
        platform: str,
        accounts: Sequence[MessagingAccount],
        *,
        seed: int = 1,
        settings: Settings | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        if not accounts or len({one.account_id for one in accounts}) != len(accounts):
            raise InvalidInput("a simulator needs accounts with different ids")
        self.platform = platform
        self.account_field = ACCOUNT_FIELDS[platform]
        self.settings = settings or Settings()
        self.accounts = {one.account_id: one for one in accounts}
        self.run_id = secrets.token_hex(5)
        self.ledger = ledger or Ledger(self.settings.ledger_records_max)
        self._rng = random.Random(f"{seed}/{platform}")  # noqa: S311 - a script, no secret
        self._sender = WebhookSender(
            self.ledger,
            random.Random(f"{seed}/{platform}/webhooks"),  # noqa: S311
            lambda: self.settings,
            self._body_of,
        )
        self.faults = FaultBook(random.Random(f"{seed}/{platform}/faults"))  # noqa: S311
        self._media = MediaStore(3_600.0, 10**15 + time.time_ns() // 1_000)
        self.people = People(
            platform,
            random.Random(f"{seed}/{platform}/people"),  # noqa: S311
            self._new_mid,
            self._file_url,
        )
        self._callbacks: dict[str, str | None] = dict.fromkeys(self.accounts)
        self._ids = 0
        self._last_ms = 0
        self._per_second: int | None = None
        self._unmarked: dict[tuple[str, str], dict[str, list[Send]]] = {}
        self._untold = 0
        self._talk: Talk | None = None
        self._talk_scope: trio.CancelScope | None = None
        self._talked = 0
        self._nursery: trio.Nursery | None = None
        self.graph = MessagingGraph(
            platform,
            self.accounts,
            self.people,
            ledger=self.ledger,
            media=self._media,
            faults=self.faults,
            new_mid=self._new_mid,
            accepted=self._accepted,
            sends_per_second_max=lambda: _SENDS_PER_SECOND if self._per_second is None else self._per_second,
            window_seconds=lambda: self.settings.window_seconds if self.settings.window_enforced else None,
        )
        self._control = ControlApi(self)
        self._server: HttpServer | None = None

    # ── life ─────────────────────────────────────────────────────────────────────────────────────

    @asynccontextmanager
    async def running(self, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator["MessagingSimulator"]:
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
        server = self._server = HttpServer(self._answer, host=host, port=port, body_limit=body_limit)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await nursery.start(self._sender.run)
            task_status.started(await nursery.start(server.run))

    @property
    def base_url(self) -> str:
        """What a channel's `base_url` must be set to, without the version."""
        if self._server is None:
            raise Conflicting("the simulator is not running yet")
        return self._server.base_url

    @property
    def webhooks(self) -> WebhookSender:
        return self._sender

    async def _answer(self, request: Request) -> Response:
        if request.path.startswith("/__sim/"):
            return await self._control.answer(request)
        return await self.graph.answer(request)

    def change_settings(self, changes: Mapping[str, Any]) -> Settings:
        """Change some settings while running; InvalidInput for unknown names or wrong values."""
        try:
            self.settings = msgspec.convert(msgspec.to_builtins(self.settings) | dict(changes), Settings)
        except msgspec.ValidationError as error:
            raise InvalidInput(str(error)) from error
        return self.settings

    # ── accounts ─────────────────────────────────────────────────────────────────────────────────

    def account(self, account_id: str | None = None) -> MessagingAccount:
        """By id, or the first one; NotFound otherwise."""
        if account_id is None:
            return next(iter(self.accounts.values()))
        if account_id not in self.accounts:
            raise NotFound(f"the simulator has no account {account_id:.40}")
        return self.accounts[account_id]

    async def connect(
        self, callback_url: str, account_id: str | None = None, /, *, check: bool = True
    ) -> None:
        """Shake hands with a callback address and use it from then on, for one account or for all.
        DeliveryFailed, and nothing changes, when the GET is not answered 200 with the challenge."""
        chosen = [self.account(account_id)] if account_id else list(self.accounts.values())
        for account in chosen if check else ():
            challenge = str(secrets.randbelow(10**10))
            try:
                status, body = await handshake(account, callback_url, challenge)
            except (httpx.TransportError, httpx.InvalidURL) as error:
                raise DeliveryFailed(
                    f"no answer from the callback address: {type(error).__name__}"
                ) from error
            if status != 200 or body != challenge:
                raise DeliveryFailed(f"the callback address answered {status} to the handshake")
        for account in chosen:
            self._callbacks[account.account_id] = callback_url

    def callback_url(self, account_id: str) -> str | None:
        return self._callbacks[account_id]

    # ── customers speak ──────────────────────────────────────────────────────────────────────────

    def say(self, key: str, text: str, *, name: str | None = None, account_id: str | None = None) -> str:
        """The customer with this id (made when new) writes a text; returns the message id."""
        return self.send(self.people.adopt(key, name), "text", text, account_id=account_id)

    def send(
        self,
        customer: Customer,
        kind: str,
        text: str | None = None,
        *,
        account_id: str | None = None,
        after_seconds: float = 0.0,
    ) -> str:
        """A customer sends an item of one of `people.KINDS`; returns the id that it is known by. Conflicting
        when the account is not connected, MailboxFull or Unavailable when no more can wait or be recorded."""
        account = self.account(account_id)
        self._url(account)
        said = self.people.say(account.account_id, customer, kind, self._moment(), text)
        return self.tell(account, customer, said, after_seconds=after_seconds)

    def tell(
        self, account: MessagingAccount, customer: Customer, said: Said, *, after_seconds: float = 0.0
    ) -> str:
        """A customer sends any item, as built by hand."""
        fact = self._fact("message", account, said.fact_id, customer.key, said.type)
        fact.original_id = said.original_id
        customer.heard_at = now_ms()
        self._tell(account, said.item, (fact,), after_seconds)
        return said.fact_id

    def echo(self, customer: Customer, text: str, *, account_id: str | None = None) -> str:
        """A person of the business writes in the platform's own inbox; returns the message id."""
        account = self.account(account_id)
        mid = self._new_mid()
        message = {"mid": mid, "text": text, "is_echo": True}
        if self.platform == "facebook":
            message["app_id"] = 26_390_203_743_090
        item = self._from_account(account, customer.key, message)
        self._tell(account, item, (self._fact("echo", account, mid, customer.key, "text"),))
        return mid

    async def post_raw(self, body: bytes, *, signed: bool = True, account_id: str | None = None) -> str:
        """POST any bytes to the callback address, once, outside the ledger; returns the outcome."""
        account = self.account(account_id)
        header = builders.signature(account.app_secret, body) if signed else None
        return await self._sender.post_raw(account, self._url(account), body, header)

    async def wait_quiet(self) -> None:
        """Wait until everything told is acknowledged or given up, and nobody is about to speak."""
        await self._sender.wait_quiet()

    # ── talk ─────────────────────────────────────────────────────────────────────────────────────

    def start_talking(self, talk: Talk) -> None:
        """Customers talk from now on; a talk that is under way is replaced. The kinds' weights are this
        platform's own."""
        if talk.messages_per_second <= 0 or talk.customers < 1 or talk.burst_max < 1:
            raise InvalidInput("messages_per_second, customers and burst_max are positive")
        for account in self.accounts.values():
            self._url(account)
        assert self._nursery is not None
        self.stop_talking()
        people = self.people.ensure(talk.customers)
        self._talk, self._talk_scope = talk, trio.CancelScope()
        self._nursery.start_soon(self._keep_talking, talk, people, self._talk_scope)

    def stop_talking(self) -> None:
        """Nobody speaks or answers any more, except what is already planned."""
        if self._talk_scope is not None:
            self._talk_scope.cancel()
        self._talk = self._talk_scope = None

    @property
    def talking(self) -> bool:
        return self._talk is not None

    async def _keep_talking(self, talk: Talk, people: list[Customer], scope: trio.CancelScope) -> None:
        due = trio.current_time()
        scope.deadline = due + talk.seconds if talk.seconds is not None else float("inf")
        left = talk.messages_max if talk.messages_max is not None else float("inf")
        with scope:
            while left > 0:
                await trio.sleep_until(due)
                customer = self._rng.choice(people)
                account = self._rng.choice(list(self.accounts.values()))
                try:
                    kind = self.people.draw_kind(customer)
                    self.send(customer, kind, account_id=account.account_id)
                    self._talked += 1
                except Unavailable:
                    await trio.sleep(1.0)
                left -= 1
                due += self._rng.expovariate(talk.messages_per_second)
        if self._talk_scope is scope:
            self.stop_talking()

    # ── the platform's reactions to a send ───────────────────────────────────────────────────────

    def _accepted(self, account: MessagingAccount, send: Send, message: Json) -> None:
        customer = self.people.find(send.recipient)
        if customer is None or self._callbacks[account.account_id] is None:
            self._untold += 1
            return
        customer.heard.append(send.id)
        rng, settings = self._rng, self.settings
        # The echo may well come before the answer to the send: it is told at once.
        self._try(partial(self._tell_echo, account, send, message))
        waiting = self._unmarked.setdefault((account.account_id, send.recipient), {})
        delay = rng.uniform(*settings.sent_seconds)
        for status in ("delivered", "read"):
            if status == "delivered" and self.platform == "instagram":
                continue
            if status == "read" and rng.random() >= settings.read_probability:
                continue
            waiting.setdefault(status, []).append(send)
            del waiting[status][:-_UNREAD_MAX]
            span = settings.delivered_seconds if status == "delivered" else settings.read_seconds
            delay += rng.uniform(*span)
            self._sender.after(delay, partial(self._try, partial(self._tell_mark, account, send, status)))
        talk = self._talk
        if talk is not None and rng.random() < talk.answer_probability:
            answer = partial(self._say_more, talk, account, customer, message)
            self._sender.after(rng.uniform(*talk.answer_seconds), partial(self._try, answer))

    def _say_more(self, talk: Talk, account: MessagingAccount, customer: Customer, message: Json) -> None:
        if self._talk is not talk:
            return
        free = self._rng.choice(("text", "reply", "reaction"))
        kind = "quick_reply" if message.get("quick_replies") else free
        text = self._rng.choice(customer.tongue.answers) if kind in ("text", "reply") else None
        self.send(customer, kind, text, account_id=account.account_id)

    def _tell_echo(self, account: MessagingAccount, send: Send, message: Json) -> None:
        echoed = {key: value for key, value in message.items() if key in ("text", "metadata")}
        if "attachment" in message:
            kind = message["attachment"]["type"]
            echoed["attachments"] = [{"type": kind, "payload": {"url": "https://cdn.example/echo"}}]
        echoed |= {"mid": send.id, "is_echo": True}
        if self.platform == "facebook":
            echoed["app_id"] = _APP_ID
        fact = self._fact("status", account, send.id, send.recipient, send.type, status="sent")
        self._tell(account, self._from_account(account, send.recipient, echoed), (fact,))

    def _tell_mark(self, account: MessagingAccount, send: Send, status: str) -> None:
        """A watermark: everything to this person up to this message, in one item."""
        waiting = self._unmarked.get((account.account_id, send.recipient), {}).get(status, [])
        covered = [one for one in waiting if one.accepted_at <= send.accepted_at]
        if not covered:
            return
        waiting[:] = [one for one in waiting if one.accepted_at > send.accepted_at]
        if self.platform == "instagram":
            member: Json = {"read": {"mid": send.id}}
        elif status == "read":
            member = {"read": {"watermark": send.accepted_at}}
        else:
            member = {"delivery": {"mids": [one.id for one in covered][-10:], "watermark": send.accepted_at}}
        item = {
            "sender": {"id": send.recipient},
            "recipient": {"id": account.account_id},
            "timestamp": now_ms(),
            **member,
        }
        facts = tuple(
            self._fact("status", account, one.id, one.recipient, one.type, status=status) for one in covered
        )
        self._tell(account, item, facts)

    def _try(self, tell: Callable[[], object]) -> None:
        try:
            tell()
        except Unavailable:
            self._untold += 1

    # ── scripting ────────────────────────────────────────────────────────────────────────────────

    def fault(self, fault: Fault) -> int:
        """Arm a fault from now on; returns its id for `clear_faults`."""
        return self.faults.add(fault, trio.current_time())

    def clear_faults(self, fault_id: int | None = None) -> int:
        return self.faults.clear(fault_id)

    def throttle(self, per_second: int | None) -> None:
        """Another limit for sends; 0 refuses all with 613, None is the platform's own again."""
        if per_second is not None and per_second < 0:
            raise InvalidInput("per_second is 0 or more")
        self._per_second = per_second

    def set_usage(self, percent: float) -> None:
        """What the usage headers say from now on."""
        self.graph.usage_percent = percent

    def expire_token(self, account_id: str | None = None, *, expired: bool = True) -> None:
        """Calls with the account's token are refused with 190/463 from now on, or taken again."""
        chosen = self.account(account_id).account_id
        (self.graph.expired.add if expired else self.graph.expired.discard)(chosen)

    def renew_token(self, access_token: str, account_id: str | None = None) -> None:
        """The account has another token from now on, and the old one is worth nothing."""
        account = self.account(account_id)
        self.accounts[account.account_id] = msgspec.structs.replace(account, access_token=access_token)
        self.graph.expired.discard(account.account_id)

    def go_down(self, seconds: float) -> None:
        """The platform is gone: connections are refused, open ones cut. Its webhooks go on."""
        assert self._server is not None
        self._server.go_down(seconds)

    def set_window(self, key: str, *, opened: bool) -> None:
        """Open or close the reply window of a customer by hand."""
        self.people.adopt(key).heard_at = now_ms() if opened else 0

    def statistics(self) -> dict[str, Any]:
        """Counts of everything, for people and checks."""
        return {
            "run_id": self.run_id,
            "platform": self.platform,
            "talking": self.talking,
            "talked": self._talked,
            "customers": len(self.people.everybody),
            "untold": self._untold,
            "webhooks": self._sender.statistics(),
            **self.ledger.statistics(),
        }

    # ── within ───────────────────────────────────────────────────────────────────────────────────

    def _new_mid(self) -> str:
        self._ids += 1
        prefix = "m_" if self.platform == "facebook" else "aWdf"
        return f"{prefix}{self.run_id}{self._ids:010d}"

    def _moment(self) -> int:
        """No two items of one millisecond: reactions and referrals are known by their time."""
        self._last_ms = max(self._last_ms + 1, now_ms())
        return self._last_ms

    def _file_url(self, account_id: str, media_type: str, content: bytes) -> str:
        now = trio.current_time()
        stored = self._media.put(account_id, media_type, content, now)
        return f"{self.base_url}/media?mid={stored.id}&hash={self._media.new_url_secret(stored, now)}"

    def _from_account(self, account: MessagingAccount, person: str, message: Json) -> Json:
        return {
            "sender": {"id": account.account_id},
            "recipient": {"id": person},
            "timestamp": now_ms(),
            "message": message,
        }

    def _fact(
        self,
        kind: FactKind,
        account: MessagingAccount,
        fact_id: str,
        key: str,
        type_: str,
        *,
        status: str = "",
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

    def _tell(
        self, account: MessagingAccount, item: Json, facts: tuple[Fact, ...], after_seconds: float = 0.0
    ) -> None:
        url = self._url(account)
        self.ledger.ensure_room()
        self._sender.tell(Event(account, url, item, facts), after_seconds=after_seconds)
        for fact in facts:
            self.ledger.record_fact(fact)

    def _body_of(self, events: Sequence[Event]) -> bytes:
        entries: dict[str, list[Json]] = {}
        for event in events:
            entries.setdefault(event.account.account_id, []).append(event.change)
        made = [
            {"id": account_id, "time": now_ms(), "messaging": items} for account_id, items in entries.items()
        ]
        payload = {"object": _OBJECTS[self.platform], "entry": made}
        return json.dumps(payload, ensure_ascii=True, separators=(",", ":")).encode("ascii")

    def _url(self, account: MessagingAccount) -> str:
        url = self._callbacks[account.account_id]
        if url is None:
            raise Conflicting(f"account {account.account_id} has no callback address; connect it first")
        return url
