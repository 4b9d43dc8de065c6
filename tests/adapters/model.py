"""A model platform, a model store and stand-in conversations, for the channel actor on the real runtime.

The store applies rows after a short delay, as the writer does; the conversations only write down what they
are told and end the outbox row with it, which is the contract of the real ones. Time is trio's, so a test
under `autojump_clock` is virtual.
"""

from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import msgspec
import trio

from adapters.channel import Channels
from adapters.port import Accepted, Account, Fitted, Limits, SendResult, Turn
from engine.domain.conversation.messages import KIND as CONVERSATION_KIND
from engine.domain.conversation.messages import OutboxVerdict
from engine.domain.outbound import (
    MarkRead,
    OutboxItem,
    OutcomeUnknown,
    Refused,
    Resending,
    Send,
    SendOutcome,
    SendText,
    Sent,
)
from engine.domain.outbox import Deliver, channel_address
from engine.domain.rows import OutboxPatch
from engine.errors import CommitFailed, CommitPoisoned, MijraError, StoreUnavailable
from engine.runtime import (
    Address,
    Context,
    Decider,
    Effects,
    Lane,
    LoadRequest,
    Supervisor,
    System,
)

BASE_MS = 1_760_000_000_000
TENANT, CHANNEL = 7, 70


def wall_ms() -> int:
    return BASE_MS + round(trio.current_time() * 1000)


def item(
    number: int,
    contact: str = "a",
    *,
    lane: int = 0,
    send: Send | None = None,
    state: str = "queued",
    attempts: int = 0,
    signal: bool = False,
    created_at: int | None = None,
    not_before: int = BASE_MS,
) -> OutboxItem:
    if send is None:
        send = MarkRead(platform_message_id="wamid.1") if signal else SendText(body=f"text {number}")
    return OutboxItem(
        id=number,
        tenant_id=TENANT,
        channel_id=CHANNEL,
        conversation_id=500,
        contact_key=contact,
        message_id=None if signal else 10_000 + number,
        recipient=contact,
        lane=lane,
        state=state,
        attempts=attempts,
        not_before=not_before,
        send=send,
        reply_to=None,
        trace=f"trace-{number}",
        created_at=created_at if created_at is not None else wall_ms(),
    )


class Platform:
    """A `Sender` whose answers are scripted for each item, or computed."""

    platform = "model"

    def __init__(self, *, per_second: int = 80, concurrency: int = 32, seconds: float = 0.1) -> None:
        self.per_second = per_second
        self.concurrency = concurrency
        self.seconds = seconds
        self.calls: list[tuple[float, int]] = []
        self.under_way = 0
        self.peak = 0
        self.script: dict[int, deque[SendResult | Exception]] = {}
        self.answer: Callable[[OutboxItem], SendResult] = lambda item: Accepted(
            platform_id=f"wamid.{item.id}"
        )
        self.accounts: list[Account] = []
        self.hang: set[int] = set()
        self.weight: Callable[[Send], int] | None = None

    def say(self, number: int, *results: SendResult | Exception) -> None:
        self.script[number] = deque(results)

    def fit(self, send: Send) -> Fitted:
        return Fitted(send=send)

    def limits(self, account: Account) -> Limits:
        return Limits(
            messages_per_second=self.per_second,
            pair_seconds=6.0,
            pair_burst=45,
            concurrency=self.concurrency,
            weight=self.weight,
        )

    async def send(self, item: OutboxItem, account: Account, turn: Turn) -> SendResult:
        await turn.come()
        turn.written()
        self.calls.append((trio.current_time(), item.id))
        self.accounts.append(account)
        self.under_way += 1
        self.peak = max(self.peak, self.under_way)
        try:
            if item.id in self.hang:
                await trio.sleep_forever()
            await trio.sleep(self.seconds)
        finally:
            self.under_way -= 1
        script = self.script.get(item.id)
        if script:
            result = script.popleft()
            if isinstance(result, Exception):
                raise result
            return result
        return self.answer(item)

    @property
    def sent(self) -> list[int]:
        return [number for _, number in self.calls]

    def times(self, number: int) -> list[float]:
        return [at for at, one in self.calls if one == number]


class Store:
    """`OutboxStore`'s outbox half and the `Committer`, over one dictionary of rows."""

    def __init__(self, seconds: float = 0.005) -> None:
        self.rows: dict[int, dict[str, Any]] = {}
        self.items: dict[int, OutboxItem] = {}
        self.patches: list[OutboxPatch] = []
        self.loads = 0
        self.away = False
        self.refuse_next: list[CommitFailed] = []
        self.seconds = seconds
        self._queue: deque[tuple[Sequence[object], Callable[[CommitFailed | None], None]]] = deque()
        self._wake = trio.Event()
        self.change = trio.Event()
        self.on_patch: Callable[[OutboxPatch], object] = lambda patch: None

    def insert(self, item: OutboxItem) -> None:
        self.items[item.id] = item
        self.rows[item.id] = {
            "state": item.state,
            "attempts": item.attempts,
            "not_before": item.not_before,
            "error": None,
            "payload": None,
        }

    def state(self, number: int) -> str:
        return str(self.rows[number]["state"])

    # Committer

    def submit(
        self,
        address: Address,
        generation: int,
        rows: Sequence[object],
        done: Callable[[CommitFailed | None], None],
    ) -> None:
        self._queue.append((rows, done))
        self._wake.set()

    def has_room(self, tenant: int, lane: Lane = Lane.NORMAL) -> bool:
        return True

    def when_room(self, callback: Callable[[], None]) -> None:
        callback()

    async def run(self) -> None:
        while True:
            while not self._queue:
                self._wake = trio.Event()
                await self._wake.wait()
            await trio.sleep(self.seconds)
            batch, self._queue = self._queue, deque()
            for rows, done in batch:
                if self.refuse_next and any(isinstance(row, OutboxPatch) for row in rows):
                    done(self.refuse_next.pop())
                    continue
                for row in rows:
                    if isinstance(row, OutboxPatch):
                        self._apply(row)
                done(None)
            self.change.set()
            self.change = trio.Event()

    def _apply(self, patch: OutboxPatch) -> None:
        self.patches.append(patch)
        self.on_patch(patch)
        row = self.rows[patch.id]
        for name in ("state", "attempts", "not_before", "error", "payload"):
            value = getattr(patch, name)
            if value is not None:
                row[name] = value

    # OutboxStore

    async def load_outbox(
        self, tenant_id: int, channel_id: int, *, after_id: int, limit: int
    ) -> Sequence[OutboxItem]:
        self.loads += 1
        await trio.sleep(self.seconds)
        if self.away:
            raise StoreUnavailable("the store is away")
        found = [
            msgspec.structs.replace(
                self.items[number],
                state=row["state"],
                attempts=row["attempts"],
                not_before=row["not_before"],
            )
            for number, row in sorted(self.rows.items())
            if number > after_id and row["state"] in ("queued", "sending", "unknown")
        ]
        return found[:limit]

    async def load_pending_media(self, tenant_id: int, *, after_id: int, limit: int) -> Sequence[Any]:
        return []

    async def open_work(self, tenant_id: int) -> Any:
        raise NotImplementedError("not a channel's business")


_STATES: Mapping[type, str | None] = {
    Sent: "done",
    Refused: "dead",
    OutcomeUnknown: "unknown",
    Resending: None,
}


class World:
    """One tenant with one channel."""

    def __init__(
        self, platform: Platform | None = None, *, items_max: int = 10_000, unknown_wait_seconds: float = 30.0
    ) -> None:
        self.platform = platform or Platform()
        self.store = Store()
        self.verdicts: list[tuple[float, int, SendOutcome]] = []
        self.attention: list[str] = []
        self.on_resending: Callable[[], object] = lambda: None
        self.verdict_errors: deque[MijraError | Exception] = deque()
        self.account: Account | None = Account(
            tenant_id=TENANT,
            channel_id=CHANNEL,
            platform="model",
            external_id="1",
            credentials={"access_token": "one"},
            settings={},
        )
        self.channels = Channels(
            ask=self._ask,
            committer=self.store,
            store=self.store,
            senders={"model": self.platform},
            accounts=lambda tenant_id, channel_id: self.account,
            wall_ms=wall_ms,
            random=Random(1),
            unknown_wait_seconds=unknown_wait_seconds,
            on_trouble=lambda trouble: self.attention.append(trouble.note),
            items_max=items_max,
        )
        ids = iter(range(1, 10**9))
        conversation = Decider(kind=CONVERSATION_KIND, decide=self._decide, load=_load)
        self.system: System = System(
            tenant=Supervisor(name="tenant", children=[conversation, self.channels.worker()]),
            committer=self.store,
            ids=lambda: next(ids),
            wall_ms=wall_ms,
            random=Random(2),
            config_for=lambda tenant: None,
            dead_letter=lambda letter: (),
        )

    async def _ask(self, address: Address, message: object, *, timeout_seconds: float) -> Any:
        return await self.system.ask(address, message, timeout_seconds=timeout_seconds)

    def _decide(self, state: object, message: object, context: Context) -> Effects | None:
        assert isinstance(message, OutboxVerdict)
        if self.verdict_errors:
            error = self.verdict_errors.popleft()
            if isinstance(error, MijraError):
                return Effects(refuse=error)
            raise error
        self.verdicts.append((trio.current_time(), message.outbox_id, message.outcome))
        if isinstance(message.outcome, Resending):
            self.on_resending()
        row_state = _STATES[type(message.outcome)]
        if row_state is None:
            return None
        patch = OutboxPatch(tenant_id=TENANT, id=message.outbox_id, updated_at=context.now, state=row_state)
        return Effects(commit=(patch,))

    @asynccontextmanager
    async def running(self) -> AsyncIterator["World"]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.store.run)
            await nursery.start(self.system.run)
            yield self
            await self.system.stop(seconds_max=60)
            nursery.cancel_scope.cancel()

    def tell(self, message: object) -> None:
        assert self.system.offer(channel_address(TENANT, CHANNEL), message)

    def deliver(self, *items: OutboxItem) -> None:
        """Commits and tells, as a conversation does."""
        for one in items:
            self.store.insert(one)
            self.tell(Deliver(one))

    def outcomes(self, number: int) -> list[str]:
        return [type(outcome).__name__ for _, one, outcome in self.verdicts if one == number]

    def refusal(self, number: int) -> Refused:
        (found,) = [
            outcome for _, one, outcome in self.verdicts if one == number and isinstance(outcome, Refused)
        ]
        return found

    def open(self) -> list[int]:
        return [number for number in self.store.rows if self.store.state(number) not in ("done", "dead")]

    async def drained(self, seconds_max: float = 100_000.0) -> None:
        """Returns when every row has ended."""
        with trio.fail_after(seconds_max):
            while self.open():
                await self.store.change.wait()
            # The actor hears of the commit after the store made it.
            await trio.sleep(0.05)


async def _load(requests: Sequence[LoadRequest]) -> Sequence[object]:
    return [object() for _ in requests]


POISON = CommitPoisoned("the database refuses this")
