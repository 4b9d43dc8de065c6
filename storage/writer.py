"""The batching writer: everything that handlers decide becomes durable here.

One writer per database, one transaction at a time: while a batch commits, the next one gathers, so a lone
write set commits at once and a flood shares its fsyncs, without any timer. A batch crosses to asyncio once
and to the server once (`storage.commit`): the ownership check and a set-based part for each kind of row,
together one statement. COPY would be a little faster and cannot be had: PostgreSQL refuses COPY into tables
with row-level security.

Promises
    Order      write sets of a tenant are committed in the order of their submission; `done` is called in the
               trio thread after the commit, for the sets of one address in the order of submission. Before
               that, the batch's events went to the EventSink, once per batch, by cursor. Between tenants
               nothing is promised but turns:
    Fairness   tenants that share the database take turns of `TURN_ROWS` (`engine.runtime.fair_queue`), and a
               batch holds one turn of each, unless one tenant is alone: a flood makes nobody else's batch
               longer, and the one before it neither. What a tenant may have waiting moves with what is free
               (`engine.runtime.shared_room`); bulk leaves the last quarter to the other lanes.
    Cursor     each tenant's events are numbered without gaps in commit order. The numbers are given when a
               batch is built and given again when it failed.
    Verdict    every set gets exactly one: None (durable), CommitConflict or CommitPoisoned (the database
               refused its rows), CommitAbandoned (an earlier set of its activation was refused, or the
               writer was cancelled), Fenced (another node took the tenant). A refused set never drags its
               neighbours along: a failing batch is split in halves, each its own transaction, until the
               culprit is alone.
    Doubt      a batch whose commit was not answered is tried again under the same id, for as long as it
               takes. The id is inserted together with the ownership check, before any row. If the first try
               was committed, the second one stops at the id's primary key, and that is the proof; if the
               first is still running on the server, the second waits for its end at that same key; if it is
               gone, the second one is the first. So there is no moment at which looking up would tell a lie.
    Fencing    the ownership row's epoch and cursor are compared and moved in the transaction of the rows.

Limits     see WriterLimits. `submit` always takes the rows; `has_room` says when a tenant should stop
           submitting.
Restart    a cancelled writer answers what it holds with CommitAbandoned. What was in doubt at that moment may
           be durable all the same; redelivery finds it by its unique keys.
"""

import sys
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from contextlib import suppress
from itertools import chain
from random import Random
from typing import Any, Final

import structlog
import trio
from msgspec import Struct

from engine.errors import (
    CommitAbandoned,
    CommitConflict,
    CommitFailed,
    CommitPoisoned,
    Defect,
    Fenced,
    MijraError,
    StoreUnavailable,
)
from engine.ports import EventSink, LoggedEvent
from engine.runtime import Lane
from engine.runtime.fair_queue import FairQueue
from engine.runtime.mailbox import room_of
from engine.runtime.shared_room import SharedRoom
from storage.batch import Done, WriteSet, event_data, tenants_of
from storage.commit import Batch, analyze, batch_id, commit_batch, forget_batches, take_ownership
from storage.databases import Pool

RETRY_FIRST_SECONDS: Final = 0.05
RETRY_SECONDS_MAX: Final = 2.0
"""A restarted PostgreSQL is back within seconds; asking twice a second costs nothing and is seen at once."""

AWAY_AFTER_SECONDS: Final = 2.0
"""A lost connection or a restart is over within a second or two, and its callers rather wait for it; what
takes longer is an outage, and whoever is told so at once can send again when it is over."""

FORGET_EVERY_SECONDS: Final = 60.0

ANALYZE_AFTER_ROWS: Final = 2_000
ANALYZE_GROWTH: Final = 8
"""Autovacuum looks once a minute. In its first busy minute a tenant's tables go from empty to tens of
thousands of rows, and the planner, believing them empty, takes any index for as good as any other: loading 32
contacts among 750 took over a second. So the writer has them counted after 2,000 rows, 16,000, 128,000 and a
million, which takes some 50 ms each, beside the batches; from there on autovacuum keeps up."""

ANALYZE_ROWS_MAX: Final = 1_024_000

TURN_ROWS: Final = 125
"""A tenant's turn, in rows: a sixteenth of the largest batch, so that one that floods adds a few ms to the
others' commits and sixteen fill it. Beside a tenant that writes now and then this costs the flood a tenth to
a quarter of its throughput, and the other one's median is some twenty times shorter (ARCHITECTURE.md)."""

SHARED_BATCHES: Final = 100
"""Batches that are kept to a turn of each tenant after another tenant's set was in one: about a second. After
that a tenant counts as alone in the database, and its batches are as large as they may be."""

BROKEN_MAX: Final = 4096
"""Failed activations remembered beyond what waits: the runtime submits nothing for one that has failed."""

_log = structlog.get_logger(__name__)


class WriterLimits(Struct, frozen=True, kw_only=True):
    """How much one database's writer takes on.

    A batch of 2,000 rows commits in some 50 ms on two cores; larger ones gain nothing in throughput (the cost
    is per row by then) and only make everybody in them wait longer. 8 MB keep its encoding and its WAL below
    a noticeable pause; a single write set larger than that goes alone. 20,000 waiting rows are about a second
    of work, and 64 MB what a process can spare for it: more would not be written sooner. The tenants of the
    database share them; one alone may have two thirds.
    """

    batch_rows_max: int = 2_000
    batch_bytes_max: int = 8 * 1024 * 1024
    waiting_rows_max: int = 20_000
    waiting_bytes_max: int = 64 * 1024 * 1024


class WriterStatistics(Struct, frozen=True, kw_only=True):
    """Totals since the start; `waiting_*` of this moment, sets under way included. `commit_seconds` is the
    time spent in batches that succeeded, `unavailable` how many tries the database did not take."""

    database: str
    waiting_sets: int
    waiting_rows: int
    waiting_rows_peak: int
    waiting_rows_max: int
    waiting_bytes: int
    tenants_owned: int
    batches: int
    rows: int
    sets: int
    batch_rows_last: int
    commit_seconds: float
    commit_seconds_last: float
    refused: int
    abandoned: int
    fenced: int
    unavailable: int
    resolved: int


class _Ownership:
    __slots__ = ("cursor", "epoch", "fenced")

    def __init__(self, epoch: int, cursor: int) -> None:
        self.epoch = epoch
        self.cursor = cursor
        self.fenced = False


class Writer:
    """The writer of one database. `spawn` starts its task when there is work; idle, it has none."""

    def __init__(
        self,
        pool: Pool,
        *,
        node: str,
        sink: EventSink,
        spawn: Callable[[Callable[[], Awaitable[object]]], object],
        on_room: Callable[[], None] = lambda: None,
        limits: WriterLimits = WriterLimits(),  # noqa: B008  immutable
        random: Random | None = None,
    ) -> None:
        self._pool = pool
        self._node = node
        self._sink = sink
        self._spawn = spawn
        self._on_room = on_room
        self._limits = limits
        self._random = random or Random()  # noqa: S311  jitter
        self._waiting: FairQueue[WriteSet] = FairQueue(TURN_ROWS)
        self._under_way: Sequence[WriteSet] = ()
        self._last_tenant: int | None = None
        self._shared = 0
        self._owned: dict[int, _Ownership] = {}
        self._to_take: dict[int, trio.Event] = {}
        self._broken: OrderedDict[tuple[Hashable, int], int] = OrderedDict()
        self._active = False
        self._idle = trio.Event()
        self._idle.set()
        self._submitted = 0
        self._settled = 0
        self._rows_room = SharedRoom(limits.waiting_rows_max)
        self._bytes_room = SharedRoom(limits.waiting_bytes_max)
        self._reserves = {
            lane: tuple(
                most - room_of(most, lane) for most in (limits.waiting_rows_max, limits.waiting_bytes_max)
            )
            for lane in Lane
        }
        self._sent_away: set[tuple[int, Lane]] = set()
        self._peak = 0
        self._batches = 0
        self._rows = 0
        self._sets = 0
        self._batch_rows_last = 0
        self._commit_seconds = 0.0
        self._commit_seconds_last = 0.0
        self._refused = 0
        self._abandoned = 0
        self._fenced = 0
        self._unavailable = 0
        self._resolved = 0
        self._asking_since: float | None = None
        self._forget_at = 0.0
        self._analyze_at = ANALYZE_AFTER_ROWS

    # ---------------------------------------------------------------- for everybody

    def submit(
        self, tenant_id: int, address: Hashable, generation: int, rows: Sequence[object], done: Done
    ) -> None:
        """Take one write set; the rows are copied here and now. Never blocks, never refuses."""
        write_set = WriteSet(tenant_id, address, generation, rows, done)
        self._submitted += 1
        write_set.number = self._submitted
        self._waiting.push(tenant_id, write_set)
        self._rows_room.take(tenant_id, len(write_set.encoded))
        self._bytes_room.take(tenant_id, write_set.bytes)
        self._peak = max(self._peak, self._rows_room.total)
        self._wake()

    def has_room(self, tenant_id: int, lane: Lane = Lane.NORMAL) -> bool:
        """Whether the tenant should submit more: it has its share waiting neither in rows nor in bytes, and
        the database is not away. If not, `on_room` is called when that has changed.

        While it is away, callers are told at once instead of after their deadline; what was submitted stays
        and is committed when it is back."""
        if self._admits(tenant_id, lane):
            return True
        self._sent_away.add((tenant_id, lane))
        return False

    async def take(self, tenant_id: int) -> int:
        """Make this node the tenant's owner, also if it was already or was fenced; returns the epoch.

        Waits for a batch under way, and for the database to come back if it is away. Whoever reads a tenant's
        rows to decide upon them must take it first: what is read before may be another owner's to change.
        When cancelled, it may have been taken or not.
        """
        await self._taken(tenant_id)
        return self._owned[tenant_id].epoch

    async def head(self, tenant_id: int) -> int:
        """The cursor of the tenant's last event that went to the sink; takes the tenant if nobody has."""
        if tenant_id not in self._owned:
            await self._taken(tenant_id)
        return self._owned[tenant_id].cursor

    def epoch(self, tenant_id: int) -> int | None:
        """The epoch that this writer writes under; None before the first write and after being fenced."""
        owned = self._owned.get(tenant_id)
        return None if owned is None or owned.fenced else owned.epoch

    async def flush(self) -> None:
        """Wait until everything submitted so far has its verdict."""
        while self._active:
            await self._idle.wait()

    def statistics(self) -> WriterStatistics:
        return WriterStatistics(
            database=self._pool.database,
            waiting_sets=self._submitted - self._settled,
            waiting_rows=self._rows_room.total,
            waiting_rows_peak=self._peak,
            waiting_rows_max=self._limits.waiting_rows_max,
            waiting_bytes=self._bytes_room.total,
            tenants_owned=sum(not owned.fenced for owned in self._owned.values()),
            batches=self._batches,
            rows=self._rows,
            sets=self._sets,
            batch_rows_last=self._batch_rows_last,
            commit_seconds=self._commit_seconds,
            commit_seconds_last=self._commit_seconds_last,
            refused=self._refused,
            abandoned=self._abandoned,
            fenced=self._fenced,
            unavailable=self._unavailable,
            resolved=self._resolved,
        )

    # ---------------------------------------------------------------- the task

    def _wake(self) -> None:
        if not self._active:
            self._active = True
            self._idle = trio.Event()
            self._spawn(self._drain)

    async def _taken(self, tenant_id: int) -> None:
        event = self._to_take.get(tenant_id)
        if event is None:
            event = self._to_take[tenant_id] = trio.Event()
        self._wake()
        await event.wait()
        if tenant_id not in self._owned:
            raise StoreUnavailable("The writer was stopped.")

    async def _drain(self) -> None:
        """Commit batch after batch until nothing waits."""
        try:
            while self._waiting or self._to_take:
                sets = self._under_way = self._next_sets()
                to_take = {s.tenant_id for s in sets if s.tenant_id not in self._owned}.union(self._to_take)
                if to_take:
                    await self._take_ownership(sorted(to_take))
                await self._commit(sets)
                await self._forget_old_batches()
                self._analyze_when_grown()
        finally:
            self._active = False
            # Only after a cancellation or a defect of ours is anything left.
            self._abandon_all([s for s in self._under_way if s.done is not _settled] + list(self._waiting))
            self._idle.set()

    def _next_sets(self) -> Sequence[WriteSet]:
        rows = size = 0
        sets: list[WriteSet] = []
        spent: dict[int, int] = {}
        waiting = self._waiting
        while (head := waiting.peek()) is not None:
            rows += len(head.encoded)
            size += head.bytes
            if sets and (rows > self._limits.batch_rows_max or size > self._limits.batch_bytes_max):
                break
            tenant_id = head.tenant_id
            if tenant_id != self._last_tenant:
                self._shared = SHARED_BATCHES if self._last_tenant is not None else 0
                self._last_tenant = tenant_id
            of_tenant = spent.get(tenant_id, 0)
            if of_tenant >= TURN_ROWS and self._shared:
                break  # everybody had a turn; the next batch begins with whoever comes meanwhile
            cost = self._cost(head)
            spent[tenant_id] = of_tenant + cost
            sets.append(head)
            waiting.pop()
            waiting.balance -= cost
        self._shared = max(0, self._shared - 1)
        return sets

    def _cost(self, write_set: WriteSet) -> int:
        """In rows; bytes count as the rows that the limits of a batch weigh them with."""
        limits = self._limits
        return max(
            1, len(write_set.encoded), write_set.bytes * limits.batch_rows_max // limits.batch_bytes_max
        )

    async def _commit(self, sets: Sequence[WriteSet]) -> None:
        """Give each of `sets` its verdict, as few transactions as possible."""
        start = 0
        for index, write_set in enumerate(sets):
            if write_set.refused is not None:
                # What its activation submitted before it is settled before it.
                await self._commit_together(sets[start:index])
                for admitted in self._admitted((write_set,)):
                    self._refuse(admitted, write_set.refused)
                start = index + 1
        await self._commit_together(sets[start:])
        self._tell_of_room()

    async def _commit_together(self, sets: Sequence[WriteSet]) -> None:
        """As one transaction if the database lets us."""
        sets = self._admitted(sets)
        if not sets:
            return
        batch = self._batch(sets)
        started = time.perf_counter()
        try:
            fenced = await self._insist(batch.tenants, commit_batch, batch)
        except CommitFailed as error:
            if isinstance(error, CommitConflict) and error.constraint == "batches_pkey":
                # This very batch was committed by an earlier try whose answer was lost.
                self._resolved += 1
                fenced = []
            elif len(sets) == 1:
                self._refuse(sets[0], error)
                return
            else:
                middle = len(sets) // 2
                await self._commit_together(sets[:middle])
                await self._commit_together(sets[middle:])
                return
        if fenced:
            for tenant_id in fenced:
                self._owned[tenant_id].fenced = True
                _log.error("writer.fenced", tenant=tenant_id, epoch=self._owned[tenant_id].epoch)
            await self._commit_together(sets)
            return
        self._commit_seconds_last = time.perf_counter() - started
        self._commit_seconds += self._commit_seconds_last
        self._publish(batch)

    def _admitted(self, sets: Sequence[WriteSet]) -> Sequence[WriteSet]:
        """Those that may be tried; the others get their verdict here."""
        admitted = []
        for write_set in sets:
            if self._broken and (write_set.address, write_set.generation) in self._broken:
                self._abandoned += 1
                self._settle(write_set, CommitAbandoned("An earlier write set of this activation failed."))
            elif self._owned[write_set.tenant_id].fenced:
                self._fenced += 1
                error = Fenced(f"Tenant {write_set.tenant_id} belongs to another node now.")
                self._break(write_set)
                self._settle(write_set, error)
            else:
                admitted.append(write_set)
        return admitted

    def _batch(self, sets: Sequence[WriteSet]) -> Batch:
        tenants = tenants_of(sets)
        events = dict.fromkeys(tenants, 0)
        for write_set in sets:
            events[write_set.tenant_id] += len(write_set.events)
        owned = [self._owned[tenant_id] for tenant_id in tenants]
        before = [owner.cursor for owner in owned]
        after = [cursor + events[tenant_id] for cursor, tenant_id in zip(before, tenants, strict=True)]
        return Batch(batch_id(), sets, tenants, [owner.epoch for owner in owned], before, after)

    def _publish(self, batch: Batch) -> None:
        """The batch is durable: cursors, then events, then the sets' verdicts."""
        for tenant_id, cursor in zip(batch.tenants, batch.after, strict=True):
            self._owned[tenant_id].cursor = cursor
        cursors = dict(zip(batch.tenants, batch.before, strict=True))
        events = []
        for write_set in batch.sets:
            for row, data in event_data(write_set):
                cursors[row.tenant_id] += 1
                events.append(
                    LoggedEvent(
                        tenant_id=row.tenant_id,
                        cursor=cursors[row.tenant_id],
                        name=row.name,
                        channels=row.channels,
                        data=data,
                        trace=row.trace,
                        at=row.at,
                        local=row.local,
                    )
                )
        self._batches += 1
        self._sets += len(batch.sets)
        self._batch_rows_last = sum(len(write_set.encoded) for write_set in batch.sets)
        self._rows += self._batch_rows_last
        if events:
            self._sink.committed(events)
        for write_set in batch.sets:
            self._settle(write_set, None)
        self._tell_of_room()

    def _refuse(self, write_set: WriteSet, error: CommitFailed) -> None:
        self._refused += 1
        self._break(write_set)
        _log.warning(
            "writer.refused",
            tenant=write_set.tenant_id,
            address=str(write_set.address),
            code=error.code,
            reason=error.message,
        )
        self._settle(write_set, error)

    def _break(self, write_set: WriteSet) -> None:
        """Remember that this activation failed, for what it has submitted already."""
        self._broken[write_set.address, write_set.generation] = self._submitted
        if len(self._broken) > BROKEN_MAX:
            oldest = min(s.number for s in chain(self._under_way, self._waiting.heads()))
            while len(self._broken) > BROKEN_MAX and next(iter(self._broken.values())) < oldest:
                self._broken.popitem(last=False)

    def _settle(self, write_set: WriteSet, error: CommitFailed | None) -> None:
        self._settled += 1
        self._rows_room.give_back(write_set.tenant_id, len(write_set.encoded))
        self._bytes_room.give_back(write_set.tenant_id, write_set.bytes)
        done, write_set.done = write_set.done, _settled
        done(error)

    def _admits(self, tenant_id: int, lane: Lane) -> bool:
        rows, size = self._reserves[lane]
        return (
            not self._is_away()
            and self._rows_room.has_room(tenant_id, reserve=rows)
            and self._bytes_room.has_room(tenant_id, reserve=size)
        )

    def _tell_of_room(self) -> None:
        """If a tenant that was sent away may come again, everybody is asked to look again."""
        if self._sent_away and any(self._admits(*each) for each in self._sent_away):
            self._sent_away.clear()
            self._on_room()

    def _abandon_all(self, sets: Iterable[WriteSet]) -> None:
        self._waiting = FairQueue(TURN_ROWS)
        for event in self._to_take.values():
            event.set()
        self._to_take.clear()
        for write_set in sets:
            self._abandoned += 1
            self._settle(
                write_set, CommitAbandoned("The writer was stopped before this was known to be durable.")
            )
        self._tell_of_room()

    # ---------------------------------------------------------------- the database

    async def _take_ownership(self, tenants: list[int]) -> None:
        rows: list[tuple[int, int, int]] | None = None
        while rows is None:
            try:
                rows = await self._insist(tenants, take_ownership, tenants, self._node)
            except CommitFailed:
                # Nothing can be written until somebody has repaired the schema; it is logged as a defect.
                await trio.sleep(RETRY_SECONDS_MAX)
        for tenant_id, epoch, cursor in rows:
            self._owned[tenant_id] = _Ownership(epoch, cursor)
            _log.info("writer.owns", tenant=tenant_id, epoch=epoch, cursor=cursor)
            event = self._to_take.pop(tenant_id, None)
            if event is not None:
                event.set()

    async def _insist(self, tenants: Sequence[int], fn: Callable[..., Any], *args: object) -> Any:
        """Run `fn`, on a session of these tenants, until the database has said yes or no. A refusal comes as
        CommitFailed."""
        self._asking_since = trio.current_time()
        try:
            return await self._until_answered(tenants, fn, *args)
        finally:
            self._asking_since = None
            self._tell_of_room()

    async def _until_answered(self, tenants: Sequence[int], fn: Callable[..., Any], *args: object) -> Any:
        delay = RETRY_FIRST_SECONDS
        unavailable_since: float | None = None
        while True:
            try:
                answer = await self._pool.write(fn, *args, tenants=tenants)
            except StoreUnavailable as error:
                self._unavailable += 1
                if unavailable_since is None:
                    unavailable_since = trio.current_time()
                _log.warning("writer.unavailable", database=self._pool.database, reason=error.message)
                await trio.sleep(delay * self._random.uniform(0.5, 1.0))
                delay = min(delay * 2, RETRY_SECONDS_MAX)
                continue
            except Defect as error:
                # Our mistake, and yet only the rows that provoke it should suffer for it.
                _log.error("writer.defect", database=self._pool.database, exc_info=error)
                raise CommitPoisoned(error.message) from error
            if unavailable_since is not None:
                seconds = round(trio.current_time() - unavailable_since, 3)
                _log.info("writer.available", database=self._pool.database, after_seconds=seconds)
            return answer

    def _is_away(self) -> bool:
        """Whether the database owes an answer for so long that nobody should wait for it."""
        return (
            self._asking_since is not None and trio.current_time() - self._asking_since >= AWAY_AFTER_SECONDS
        )

    async def _forget_old_batches(self) -> None:
        now = trio.current_time()
        if now < self._forget_at:
            return
        self._forget_at = now + FORGET_EVERY_SECONDS
        with suppress(MijraError):  # housekeeping: the next round does it
            await self._pool.write(forget_batches)

    def _analyze_when_grown(self) -> None:
        if self._rows >= self._analyze_at:
            grown = self._analyze_at * ANALYZE_GROWTH
            self._analyze_at = grown if grown <= ANALYZE_ROWS_MAX else sys.maxsize
            self._spawn(self._analyze)

    async def _analyze(self) -> None:
        """Beside the batches, on a reader's connection: nobody waits for it, and it may fail."""
        with suppress(MijraError):
            await self._pool.run(analyze)


def _settled(_: CommitFailed | None) -> None:
    raise Defect("A write set got a second verdict.")
