"""One connected account: the only sender of its messages.

Owns       the open items of the account's outbox while they are in memory, its pace and its circuit breaker.
Limits     10,000 items in memory for each lane; what is beyond is forgotten and read from the store again,
           where each is a committed row. At most `Limits.concurrency` items in hand. Idle for five minutes
           with nothing to send, the actor ends.
Promises   One conversation's items go out in the order of their ids, the next one only when the one before is
           decided; different conversations do not wait for each other; realtime goes before normal before
           bulk. Before each call the row says `sending`, durably. Every outcome reaches the conversation,
           which commits it, before the item is let go. An item whose outcome is unknown is sent again only
           after a wait for the platform's word (`Settled`), and flagged; `retrying.UNKNOWN_MAX` times at
           most.
Restart    reads the store afresh. What was in hand is `sending` there, so unknown, and is treated as such.
Stop       takes nothing new, ends what is in hand within the runtime's deadline; what is cut stays `sending`.
Cancelled  as a stop whose deadline has passed.

The life of an item here:

    queued ──commit "sending"──> call ──accepted──> ask the conversation: Sent ──> gone
                                  │
                                  ├─declined, try again──> commit "queued", not_before ──> queued
                                  ├─declined for good────> ask: Refused ──> gone
                                  ├─credentials──────────> commit "queued"; the account stops until Refresh
                                  └─no answer────────────> ask: OutcomeUnknown ──> wait ──Settled──> gone
                                                                                    └─time over──> ask:
                                                                                    Resending
                                                                                                   ──> queued,
                                                                                                   flagged
Signals (read marks, typing: items without a message) concern no conversation's state. They are tried twice at
most, dropped when older than a minute, and their rows are ended here.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from math import inf
from random import Random
from typing import Any, Final

import msgspec
import structlog
import trio
from msgspec import Struct

from adapters import retrying
from adapters.backlog import Backlog
from adapters.circuit import Circuit
from adapters.committing import Commit, room
from adapters.lines import Entry, Line, Lines
from adapters.pacing import AccountPace, Call, PairPace, Window
from adapters.port import (
    RETRYABLE,
    Accepted,
    Account,
    AccountOf,
    Declined,
    ErrorClass,
    Limits,
    Sender,
    SendResult,
    Unanswered,
)
from adapters.reporting import Ask, Leaving, report
from engine.domain.conversation.messages import OutboxVerdict, address_of
from engine.domain.outbound import (
    OutboxItem,
    OutboxPayload,
    OutcomeUnknown,
    Refused,
    Resending,
    SendOutcome,
    Sent,
)
from engine.domain.outbox import CHANNEL_KIND, Deliver, Halt, Refresh, Settled, Wake
from engine.domain.rows import OutboxPatch
from engine.errors import CommitFailed
from engine.ports import OutboxStore
from engine.runtime import Address, Committer, Envelope, Inbox, Restart, Worker

log = structlog.get_logger()

ITEMS_MAX: Final = 10_000
"""For each lane, so that a campaign leaves room for agents: about 15 MB an account when all three are full,
and two minutes of sending at 80 messages a second, so that reading more is rare."""

_FINISHED_MAX: Final = 4_096
"""Ended items that are remembered: a second telling of the same item comes within seconds, if at all, and so
does one that its own end has overtaken."""

_SIGNAL_MS_MAX: Final = 60_000
"""A typing sign lasts 25 s on the customer's screen; one about the past misleads."""

_IDLE_SECONDS_MAX: Final = 300.0
"""More than the 270 s after which every recipient's debt is paid, so ending forgets nothing that matters."""

_NAP_SECONDS_MIN: Final = 0.001
"""Rounding may leave a wait that is too short to move the clock."""

_LEAD_SECONDS: Final = 0.05
"""An item is begun at most this long before its call may be made: a commit takes less, so no place stays
empty, and what has begun holds up urgent items, and is unknown after a crash, for no longer than that."""

_COMMIT_RETRY_SECONDS: Final = 5.0

_OUTAGE: Final = frozenset({ErrorClass.TRANSIENT, ErrorClass.UNREACHABLE})
"""Declines that say that the platform cannot be talked to, for the circuit breaker."""


class Trouble(Struct, frozen=True, kw_only=True):
    """A person has to act on an account, says the platform of a call with the credentials of
    `credentials_at`. `note` is a sentence for people. `halted`: nothing is sent until they are changed."""

    tenant_id: int
    channel_id: int
    code: str
    note: str
    halted: bool
    credentials_at: int


OnTrouble = Callable[[Trouble], None]
"""Must not block."""


class LastError(Struct, frozen=True, kw_only=True):
    """Why a call failed last. `at` in ms."""

    code: str
    message: str
    at: int


class AccountRecord(Struct):
    """What is remembered of an account between two lives of its actor, since the process started."""

    outcomes: Counter[str]
    accepted_at: int | None = None
    error: LastError | None = None


class ChannelStatistics(Struct, frozen=True, kw_only=True):
    """One account at this moment. `outcomes` counts since the process started, and `accepted_at` (ms) and
    `error` are the last since then. `paused_until` (ms): nothing is sent before, whatever waits."""

    tenant_id: int
    channel_id: int
    queued: int
    by_lane: tuple[int, ...]
    in_hand: int
    rate_per_second: float
    circuit: str
    halted: str | None
    reading_store: bool
    outcomes: Mapping[str, int]
    paused_until: int | None = None
    accepted_at: int | None = None
    error: LastError | None = None


class Channels:
    """What the accounts' actors share; makes the runtime's spec of them.

    `ask` reaches conversations; `accounts` opens an account's credentials when it is first used and after
    each Refresh; `senders` are the platforms' adapters by name; `on_trouble` is told when a person has to
    act on an account.
    """

    def __init__(
        self,
        *,
        ask: Ask,
        committer: Committer,
        store: OutboxStore,
        senders: Mapping[str, Sender],
        accounts: AccountOf,
        wall_ms: Callable[[], int],
        random: Random,
        unknown_wait_seconds: float,
        on_trouble: OnTrouble,
        items_max: int = ITEMS_MAX,
    ) -> None:
        self.ask = ask
        self.committer = committer
        self.store = store
        self.senders = senders
        self.accounts = accounts
        self.wall_ms = wall_ms
        self.random = random
        self.unknown_wait_seconds = unknown_wait_seconds
        self.on_trouble = on_trouble
        self.items_max = items_max
        self._live: dict[tuple[int, int], _Channel] = {}
        self._records: dict[tuple[int, int], AccountRecord] = {}

    def worker(self) -> Worker:
        """The spec for the tenants' supervisor."""
        return Worker(
            kind=CHANNEL_KIND,
            run=self._run,
            restart=Restart.TRANSIENT,
            mailbox_max=4_096,
            # A platform that is well answers in under a second, so an ordinary stop leaves no unknown
            # outcome; a call that hangs longer would hold up everybody's shutdown and is cut.
            stop_seconds_max=10.0,
            lazily=True,
        )

    def statistics(self) -> list[ChannelStatistics]:
        """The accounts that are active now."""
        return [channel.statistics() for channel in self._live.values()]

    def record(self, tenant_id: int, channel_id: int) -> tuple[ChannelStatistics | None, AccountRecord]:
        """What the account's actor says now (None: it has nothing to do), and what is remembered."""
        place = (tenant_id, channel_id)
        live = self._live.get(place)
        record = self._records.get(place) or AccountRecord(Counter())
        return (None if live is None else live.statistics()), record

    async def _run(self, inbox: Inbox) -> None:
        key = inbox.address.key
        assert isinstance(key, int)
        place = (inbox.address.tenant, key)
        channel = _Channel(self, inbox, *place, self._records.setdefault(place, AccountRecord(Counter())))
        self._live[place] = channel
        try:
            await channel.run()
        finally:
            del self._live[place]


class _Channel:
    """One activation."""

    def __init__(
        self, shared: Channels, inbox: Inbox, tenant_id: int, channel_id: int, record: AccountRecord
    ) -> None:
        self._shared = shared
        self._inbox = inbox
        self._tenant_id = tenant_id
        self._channel_id = channel_id
        self._record = record
        self._outcomes = record.outcomes
        self._lines = Lines()
        self._account: Account | None = None
        self._sender: Sender | None = None
        self._limits = Limits(messages_per_second=1, pair_seconds=1.0, pair_burst=1, concurrency=1)
        now = trio.current_time()
        self._pace = AccountPace(1, now)
        self._window = Window(1)
        self._pairs = PairPace(1.0, 1)
        self._door = trio.Lock()
        self._circuit = Circuit()
        self._halted: str | None = None
        self._attention: str | None = None
        self._in_hand = 0
        # Begun, and not at its turn yet.
        self._coming: set[int] = set()
        self._closing = False
        self._changed = trio.Event()
        self._finished: OrderedDict[int, int] = OrderedDict()
        self._settled_early: OrderedDict[int, int] = OrderedDict()
        self._backlog = Backlog(
            shared.store,
            self._lines,
            self._admit,
            tenant_id=tenant_id,
            channel_id=channel_id,
            items_max=shared.items_max,
        )
        self._log = log.bind(tenant=tenant_id, channel=channel_id, actor="channel")

    def statistics(self) -> ChannelStatistics:
        now = trio.current_time()
        return ChannelStatistics(
            tenant_id=self._tenant_id,
            channel_id=self._channel_id,
            queued=len(self._lines) - self._in_hand,
            by_lane=tuple(self._lines.counts),
            in_hand=self._in_hand,
            rate_per_second=round(self._pace.rate(now), 2),
            circuit=self._circuit.state(now).value,
            halted=self._halted,
            reading_store=self._backlog.behind,
            outcomes=dict(self._outcomes),
            paused_until=self._paused_until(now),
            accepted_at=self._record.accepted_at,
            error=self._record.error,
        )

    def _paused_until(self, now: float) -> int | None:
        seconds = max(self._pace.paused(now), self._circuit.wait(now) or 0.0)
        return self._shared.wall_ms() + round(seconds * 1000) if seconds > 0 else None

    async def run(self) -> None:
        self._open_account()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._schedule, nursery)
            nursery.start_soon(self._read_store)
            await self._read_inbox()
            self._closing = True
            self._stir()
            while self._in_hand:
                await self._next_change()
            nursery.cancel_scope.cancel()

    # -------------------------------------------------------------- what comes in

    async def _read_inbox(self) -> None:
        while True:
            with trio.move_on_after(_IDLE_SECONDS_MAX) as nap:
                batch = await self._inbox.take(256)
                if not batch:
                    return
                self._take_in(batch)
            if nap.cancelled_caught and not len(self._lines) and not self._backlog.behind:
                return

    def _take_in(self, batch: list[Envelope]) -> None:
        for envelope in batch:
            match envelope.message:
                case Deliver(item, again):
                    self._deliver(item, again=again)
                case Settled(outbox_id):
                    self._settle(outbox_id)
                case Wake():
                    self._backlog.look_again()
                case Refresh():
                    self._open_account()
                case Halt(note):
                    self._halted = note
                case other:
                    self._log.error("channel.misaddressed", message_type=type(other).__name__)
            envelope.reply(None)
        self._stir()

    def _deliver(self, item: OutboxItem, *, again: bool) -> None:
        if item.id in self._settled_early:
            # A retry comes after what it repeats has ended; anything else was overtaken by its own end.
            del self._settled_early[item.id]
            if not again:
                self._outcomes["settled"] += 1
                return
        entry = self._lines.find(item.id)
        if entry is not None:
            if item.not_before > entry.item.not_before:
                # A person's retry, which uses the same row, may come before we hear that our refusal was
                # taken, or while a call hangs whose failure a status has told already.
                entry.again = item
            return
        # A second telling of an ended item is as old as the first; a retry is younger.
        ended = self._finished.get(item.id)
        if ended is None or item.not_before > ended:
            self._backlog.offer(item)

    def _settle(self, outbox_id: int) -> None:
        """In hand, the item learns it at its next step; waiting, it is over."""
        entry = self._lines.find(outbox_id)
        if entry is None:
            self._backlog.ended(outbox_id)
            if outbox_id not in self._finished:
                _note(self._settled_early, outbox_id, 0)
            return
        entry.settled = True
        # A retry that was asked for before is settled with it; only one that comes after starts anew.
        entry.again = None
        if not self._lines.in_hand(entry) and not entry.reopened:
            self._finish(entry, "settled")

    def _open_account(self) -> None:
        account = self._shared.accounts(self._tenant_id, self._channel_id)
        sender = self._shared.senders.get(account.platform) if account is not None else None
        self._account, self._sender = account, sender
        self._attention = None
        if account is None or sender is None:
            self._halted = "there is no such account any more"
            return
        self._halted = None if account.active else "the account is disabled"
        limits = sender.limits(account)
        if limits != self._limits:
            self._limits = limits
            self._pace = AccountPace(limits.messages_per_second, trio.current_time())
            self._window = Window(limits.messages_per_second)
            self._pairs = PairPace(limits.pair_seconds, limits.pair_burst)

    def _admit(self, item: OutboxItem) -> None:
        now = trio.current_time()
        late_ms = item.not_before - self._shared.wall_ms()
        entry = Entry(item, now + max(0, late_ms) / 1000)
        if entry.unknown and not entry.unsure:
            # Its conversation knows; a status may still be on its way.
            entry.due = now + self._shared.unknown_wait_seconds
        self._lines.add(entry, now)
        self._stir()

    async def _read_store(self) -> None:
        while True:
            while not self._backlog.wants_more():
                await self._next_change()
            await self._backlog.fill()

    # -------------------------------------------------------------- whose turn it is

    def _stir(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _next_change(self) -> None:
        await self._changed.wait()

    async def _schedule(self, nursery: trio.Nursery) -> None:
        while True:
            now = trio.current_time()
            wake_at = inf
            while not self._closing and self._halted is None and self._in_hand < self._limits.concurrency:
                line = self._lines.next(now)
                if line is None:
                    break
                gate = self._gate(line, now)
                if gate is None:
                    break
                if gate > 0:
                    wake_at = now + max(gate, _NAP_SECONDS_MIN)
                    break
                self._start(nursery, line, now)
            if not self._closing and self._halted is None and self._in_hand < self._limits.concurrency:
                # With its hands full, only the end of a call changes anything; a line may be due by then.
                wake_at = min(wake_at, self._lines.next_due())
            changed = self._changed
            with trio.move_on_at(wake_at):
                await changed.wait()

    def _gate(self, line: Line, now: float) -> float | None:
        """Seconds until the account may send; None: when something changes. Steps that call nobody pass."""
        entry = line.entries[0]
        if entry.unsure or entry.settled or self._is_stale(entry):
            return 0.0
        wait = self._circuit.wait(now)
        if wait is None:
            return None
        return max(
            wait, self._pace.wait(now), self._window.wait(now, ahead=len(self._coming)) - _LEAD_SECONDS
        )

    def _start(self, nursery: trio.Nursery, line: Line, now: float) -> None:
        entry = line.entries[0]
        calls = not (entry.unsure or entry.settled or self._is_stale(entry))
        if calls and not entry.is_signal:
            wait = self._pairs.wait(entry.item.recipient, now)
            if wait > 0:
                self._lines.postpone(line, now + wait, now)
                return
        if calls:
            weigh = self._limits.weight
            self._pace.take(now, weigh(entry.item.send) if weigh is not None and not entry.is_signal else 1)
            self._coming.add(entry.id)
        probe = calls and self._circuit.started(now)
        self._lines.begin(line)
        self._in_hand += 1
        nursery.start_soon(self._work, entry, probe)

    def _is_stale(self, entry: Entry) -> bool:
        return entry.is_signal and self._shared.wall_ms() - entry.item.created_at > _SIGNAL_MS_MAX

    # -------------------------------------------------------------- one step of one item

    async def _work(self, entry: Entry, probe: bool) -> None:
        reported = False
        try:
            if entry.unsure:
                await self._report(entry, OutcomeUnknown(at=self._shared.wall_ms()))
                entry.unsure = False
                entry.due = trio.current_time() + self._shared.unknown_wait_seconds
            elif entry.settled:
                await self._end_settled(entry)
            elif self._is_stale(entry):
                await self._end_row(entry, "done", None)
                self._finish(entry, "stale_signal")
            else:
                account = self._account
                assert account is not None
                result = await self._attempt(entry, account)
                if result is not None:
                    reported = True
                    self._learn(result, probe)
                    await self._conclude(entry, result, account)
        except CommitFailed as error:
            # The row cannot say what is true now; nothing goes out that is not written down first.
            self._log.error(
                "outbox.commit_failed", **self._names(entry), code=error.code, error=error.message
            )
            entry.due = trio.current_time() + _COMMIT_RETRY_SECONDS
        except Leaving:
            entry.due = inf
        finally:
            if probe and not reported:
                self._circuit.abandoned(probe=True)
            self._in_hand -= 1
            self._coming.discard(entry.id)
            if entry.id in self._lines:
                self._lines.put_back(entry, trio.current_time())
            self._stir()

    async def _attempt(self, entry: Entry, account: Account) -> SendResult | None:
        """The call, after the row says that it is being made. None: the item was settled meanwhile and is
        gone."""
        sender = self._sender
        assert sender is not None
        if entry.unknown:
            await self._report(entry, Resending(at=self._shared.wall_ms()))
            entry.resent = True
        await room(self._shared.committer, self._tenant_id)
        if self._is_settled(entry):
            return None
        attempt = entry.attempts + 1
        item = entry.item
        payload = OutboxPayload(
            send=item.send,
            reply_to=item.reply_to,
            resent=True,
            window_ends_at=item.window_ends_at,
            by_person=item.by_person,
            thread=item.thread,
        )
        commit = self._patch(
            entry,
            state="sending",
            attempts=attempt,
            payload=msgspec.to_builtins(payload) if entry.resent else None,
        )
        await commit.wait()
        entry.attempts = attempt
        entry.unknown = False
        if await self._was_overtaken(entry):
            return None
        names = self._names(entry)
        self._log.info("outbox.sending", **names, attempt=attempt, resent=entry.resent)
        began = trio.current_time()
        try:
            result = await sender.send(entry.item, account, _Turn(self, entry))
        except Exception as defect:  # noqa: BLE001
            # A sender promises not to raise. One message that breaks the promise must not stop the account
            # over and over: its outcome is unknown, which is bounded.
            self._log.error("outbox.sender_crashed", **names, exc_info=defect)
            result = Unanswered(reason=f"defect: {type(defect).__name__}")
        entry.took_ms = round((trio.current_time() - began) * 1000, 1)
        return result

    async def turn(self, entry: Entry) -> Call:
        """Waits until the account's limit lets this call be made now, and counts it; in order of coming."""
        async with self._door:
            # Looked at anew each time: a Refresh may have brought another limit.
            while (wait := self._window.wait(now := trio.current_time())) > 0:  # noqa: ASYNC110  for a time
                await trio.sleep(max(wait, _NAP_SECONDS_MIN))
            if not entry.is_signal:
                self._pairs.take(entry.item.recipient, now)
            self._coming.discard(entry.id)
            return self._window.take(now)

    def _is_settled(self, entry: Entry) -> bool:
        """Reads the inbox first: a `Settled` that is there already must not be overtaken by a send."""
        if not entry.settled and self._inbox.waiting:
            self._take_in(self._inbox.take_nowait(4_096))
        if entry.settled:
            self._finish(entry, "settled")
        return entry.settled

    async def _was_overtaken(self, entry: Entry) -> bool:
        """After a commit of ours: the conversation may have ended the row just before it, so that ours
        reopened it."""
        if not entry.settled and self._inbox.waiting:
            self._take_in(self._inbox.take_nowait(4_096))
        if entry.settled:
            entry.reopened = True
            await self._end_settled(entry)
        return entry.settled

    async def _end_settled(self, entry: Entry) -> None:
        """A retry that has been asked for since needs the row."""
        if entry.reopened and entry.again is None:
            await self._end_row(entry, "done", None)
        self._finish(entry, "settled")

    def _learn(self, result: SendResult, probe: bool) -> None:
        """What an answer says about the account and the platform."""
        now = trio.current_time()
        self._remember(result)
        declined = result if isinstance(result, Declined) else None
        if isinstance(result, Unanswered) or (declined is not None and declined.error_class in _OUTAGE):
            if self._circuit.failed(now, probe=probe):
                self._log.warning("channel.circuit_open", seconds=self._circuit.wait(now))
        else:
            self._circuit.succeeded()
        if isinstance(result, Accepted) and result.slow_down:
            self._pace.throttled(now)
            self._log.warning("channel.nearly_used_up", rate=round(self._pace.rate(now), 2))
        if declined is None:
            return
        if declined.error_class is ErrorClass.RATE_ACCOUNT:
            self._pace.throttled(now, declined.retry_after_seconds or 0.0)
            self._log.warning(
                "channel.throttled", code=declined.platform_code, rate=round(self._pace.rate(now), 2)
            )
        elif declined.retry_after_seconds and declined.error_class is ErrorClass.TRANSIENT:
            self._pace.pause(now, declined.retry_after_seconds)

    def _remember(self, result: SendResult) -> None:
        at = self._shared.wall_ms()
        match result:
            case Accepted():
                self._record.accepted_at = at
            case Declined():
                self._record.error = LastError(code=result.platform_code, message=result.message, at=at)
            case Unanswered():
                self._record.error = LastError(code="no_answer", message=result.reason, at=at)

    async def _conclude(self, entry: Entry, result: SendResult, account: Account) -> None:
        if entry.is_signal:
            await self._conclude_signal(entry, result, account)
            return
        match result:
            case Accepted():
                self._log.info(
                    "outbox.sent", **self._names(entry), **_effort(entry), platform_id=result.platform_id
                )
                await self._report(entry, Sent(platform_id=result.platform_id, at=self._shared.wall_ms()))
                self._finish(entry, "sent")
            case Unanswered():
                self._log.warning(
                    "outbox.unknown", **self._names(entry), **_effort(entry), reason=result.reason
                )
                await self._conclude_unknown(entry)
            case Declined():
                await self._conclude_declined(entry, result, account)

    async def _conclude_unknown(self, entry: Entry) -> None:
        if self._is_settled(entry):
            return
        entry.unknowns += 1
        if entry.unknowns >= retrying.UNKNOWN_MAX or entry.attempts >= retrying.UNKNOWN_ATTEMPTS_MAX:
            await self._refuse(
                entry,
                "outcome_unknown",
                "No answer came after several tries; it may have arrived.",
            )
            return
        await self._report(entry, OutcomeUnknown(at=self._shared.wall_ms()))
        if self._is_settled(entry):
            return
        entry.unknown = True
        entry.due = trio.current_time() + self._shared.unknown_wait_seconds

    async def _conclude_declined(self, entry: Entry, declined: Declined, account: Account) -> None:
        if self._is_settled(entry):
            return
        step = retrying.after(declined, entry.attempts, self._shared.random)
        if declined.error_class is ErrorClass.ACCOUNT:
            self._call_for_attention(declined, account)
        match step:
            case retrying.GiveUp():
                await self._refuse(
                    entry, declined.platform_code, declined.message, error_class=declined.error_class
                )
            case retrying.Halt():
                # A call made with credentials that have been replaced since says nothing about the new ones.
                if account is self._account:
                    self._halted = declined.message
                    self._call_for_attention(declined, account)
                await self._requeue(entry, declined, seconds=0.0, attempts=entry.attempts - 1)
            case retrying.RetryIn(seconds):
                if declined.error_class is ErrorClass.RATE_PAIR:
                    self._pairs.refused(entry.item.recipient, seconds, trio.current_time())
                elif declined.error_class is ErrorClass.SPAM_PAUSE:
                    self._pace.pause(trio.current_time(), seconds)
                await self._requeue(entry, declined, seconds=seconds, attempts=entry.attempts)

    async def _requeue(self, entry: Entry, declined: Declined, *, seconds: float, attempts: int) -> None:
        await room(self._shared.committer, self._tenant_id)
        if self._is_settled(entry):
            return
        entry.due = trio.current_time() + seconds
        entry.attempts = attempts
        commit = self._patch(
            entry,
            state="queued",
            attempts=attempts,
            not_before=self._shared.wall_ms() + round(seconds * 1000),
            error={"platform_code": declined.platform_code, "message": declined.message},
        )
        self._outcomes[f"retry_{declined.error_class.value}"] += 1
        self._log.warning(
            "outbox.retry",
            **self._names(entry),
            **_effort(entry),
            code=declined.platform_code,
            error_class=declined.error_class.value,
            seconds=round(seconds, 1),
        )
        await commit.wait()
        await self._was_overtaken(entry)

    async def _refuse(
        self, entry: Entry, code: str, message: str, *, error_class: ErrorClass | None = None
    ) -> None:
        outcome = Refused(
            platform_code=code,
            message=message,
            retryable=error_class is None or error_class in RETRYABLE,
            at=self._shared.wall_ms(),
            opted_out=error_class is ErrorClass.OPTED_OUT,
            undeliverable=error_class is ErrorClass.UNDELIVERABLE,
        )
        self._log.warning("outbox.refused", **self._names(entry), **_effort(entry), code=code)
        await self._report(entry, outcome)
        self._finish(entry, "refused")

    async def _conclude_signal(self, entry: Entry, result: SendResult, account: Account) -> None:
        if isinstance(result, Accepted):
            await self._end_row(entry, "done", None)
            self._finish(entry, "signalled")
        elif isinstance(result, Declined) and result.error_class is ErrorClass.AUTH:
            await self._conclude_declined(entry, result, account)
        elif entry.attempts >= retrying.SIGNAL_ATTEMPTS_MAX or (
            isinstance(result, Declined) and result.error_class not in _OUTAGE
        ):
            code = result.platform_code if isinstance(result, Declined) else "outcome_unknown"
            await self._end_row(entry, "done", {"platform_code": code})
            self._finish(entry, "signal_dropped")
        else:
            entry.due = trio.current_time() + 1.0

    # -------------------------------------------------------------- telling, writing, ending

    async def _report(self, entry: Entry, outcome: SendOutcome) -> None:
        """Asks the conversation until it has made the outcome durable. A conversation that breaks over it
        must not have the message sent for ever: then the row is ended from here."""
        if entry.is_signal:
            return
        item = entry.item
        address = address_of(self._tenant_id, self._channel_id, item.contact_key)
        verdict = OutboxVerdict(
            outbox_id=item.id,
            conversation_id=item.conversation_id,
            message_id=item.message_id,
            outcome=outcome,
            trace=item.trace,
        )
        failure = await report(
            self._shared.ask,
            address,
            verdict,
            random=self._shared.random,
            closing=lambda: self._closing,
            delayed=lambda error, seconds: self._log.warning(
                "outbox.report_delayed", **self._names(entry), code=error.code, seconds=seconds
            ),
        )
        if failure is not None:
            self._log.error(
                "outbox.report_failed", **self._names(entry), code=failure.code, error=failure.message
            )
            await self._end_row(entry, *_ROW_ENDS[type(outcome)])

    async def _end_row(self, entry: Entry, state: str, error: dict[str, Any] | None) -> None:
        await room(self._shared.committer, self._tenant_id)
        await self._patch(entry, state=state, error=error).wait()

    def _patch(self, entry: Entry, **columns: Any) -> Commit:
        patch = OutboxPatch(
            tenant_id=self._tenant_id, id=entry.id, updated_at=self._shared.wall_ms(), **columns
        )
        # An address for each item: one set that fails must not make the writer abandon the other items' sets.
        # A clock for a generation, since a retry of the same item is a new beginning.
        address = Address("outbox", self._tenant_id, entry.id)
        return Commit(self._shared.committer, address, self._shared.wall_ms(), (patch,))

    def _finish(self, entry: Entry, outcome: str) -> None:
        self._outcomes[outcome] += 1
        self._lines.finish(entry, trio.current_time())
        _note(self._finished, entry.id, entry.item.not_before)
        self._backlog.ended(entry.id)
        if entry.again is not None and outcome in ("refused", "settled"):
            self._backlog.offer(entry.again)
        self._stir()

    def _call_for_attention(self, declined: Declined, account: Account) -> None:
        """Once for each trouble and Refresh, not once for each message that meets it."""
        if self._attention == declined.platform_code:
            return
        self._attention = declined.platform_code
        self._log.error("channel.needs_attention", code=declined.platform_code, note=declined.message)
        self._shared.on_trouble(
            Trouble(
                tenant_id=self._tenant_id,
                channel_id=self._channel_id,
                code=declined.platform_code,
                note=declined.message,
                halted=declined.error_class is ErrorClass.AUTH,
                credentials_at=account.credentials_at,
            )
        )

    def _names(self, entry: Entry) -> dict[str, Any]:
        item = entry.item
        return {
            "trace": item.trace,
            "conversation": item.conversation_id,
            "message": item.message_id,
            "outbox": item.id,
        }


class _Turn:
    """`adapters.port.Turn` for one attempt."""

    __slots__ = ("_call", "_channel", "_entry")

    def __init__(self, channel: _Channel, entry: Entry) -> None:
        self._channel = channel
        self._entry = entry
        self._call: Call | None = None

    async def come(self) -> None:
        self._call = await self._channel.turn(self._entry)

    def written(self) -> None:
        if self._call is not None:
            self._call.written(trio.current_time())


def _effort(entry: Entry) -> dict[str, Any]:
    return {"attempt": entry.attempts, "duration_ms": entry.took_ms}


_ROW_ENDS: Final[dict[type, tuple[str, dict[str, Any] | None]]] = {
    Sent: ("done", None),
    Refused: ("dead", {"message": "The conversation could not take the refusal."}),
    OutcomeUnknown: ("unknown", None),
    Resending: ("unknown", None),
}


def _note(ids: OrderedDict[int, int], number: int, what: int) -> None:
    ids[number] = what
    ids.move_to_end(number)
    if len(ids) > _FINISHED_MAX:
        ids.popitem(last=False)
