"""A tenant's durable deadlines: the rows of `timers` that are due soon, in one heap.

Owns       the deadlines of the next hour, at most 10,000 of them; later ones are read when their hour comes.
Promises   each deadline is told to its conversation at its time or, after an outage, as soon as the server is
           back; it may be told twice, and the conversation ignores the second. The row goes away in the
           commit of what it caused.
Restart    the heap is read afresh.
"""

from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush
from typing import assert_never

from msgspec import Struct

from engine.domain.conversation.messages import TimerFired
from engine.domain.conversation.messages import address_of as conversation_of
from engine.domain.rows import TimerRow
from engine.domain.timers.messages import KIND, Arm, Disarm, Tick, TimersMessage
from engine.ports import TenantStore
from engine.runtime import Context, Decider, Effects, LoadRequest, Lookup, LookupRequest, SetTimer, Tell

HORIZON_MS = 3600 * 1000
LOADED_MAX = 10_000
FIRED_MAX = 500
"""Deadlines told in one step; the rest follows at once in the next, after other messages had their turn."""


class TimersState(Struct, kw_only=True):
    """`until`: deadlines before this moment are in the heap; later ones are only rows."""

    heap: list[tuple[int, int]]
    rows: dict[int, TimerRow]
    until: int


def decide(state: TimersState, message: TimersMessage, ctx: Context) -> Effects | Lookup:
    match message:
        case Arm(row):
            if row.due_at < state.until:
                state.rows[row.id] = row
                heappush(state.heap, (row.due_at, row.id))
        case Disarm(timer_id):
            state.rows.pop(timer_id, None)
        case Tick():
            if ctx.now >= state.until:
                # The hour is over: the next one is read.
                if not isinstance(ctx.found, TimersState):
                    return Lookup(ctx.now)
                state.heap, state.rows, state.until = ctx.found.heap, ctx.found.rows, ctx.found.until
        case _:
            assert_never(message)
    # Whatever woke this actor may be its only message: it looks again when its hour is over, at the latest.
    return _fire(state, ctx)


def timers(store: TenantStore, wall_ms: Callable[[], int]) -> Decider:
    async def load(requests: Sequence[LoadRequest]) -> list[TimersState]:
        return [await _load_one(store, request.address.tenant, wall_ms()) for request in requests]

    async def lookup(requests: Sequence[LookupRequest]) -> list[TimersState]:
        return [await _load_one(store, request.address.tenant, wall_ms()) for request in requests]

    return Decider(
        kind=KIND,
        decide=decide,
        load=load,
        lookup=lookup,
        mailbox_max=1024,
        idle_seconds_max=600.0,
        resident_max=10_000,
    )


async def _load_one(store: TenantStore, tenant_id: int, now: int) -> TimersState:
    until = now + HORIZON_MS
    rows = await store.load_timers(tenant_id, due_before=until, limit=LOADED_MAX)
    if len(rows) == LOADED_MAX:
        until = max(rows[-1].due_at, now + 1)
    heap = [(row.due_at, row.id) for row in rows]
    heapify(heap)
    return TimersState(heap=heap, rows={row.id: row for row in rows}, until=until)


def _fire(state: TimersState, ctx: Context) -> Effects:
    tells: list[Tell] = []
    while state.heap and len(tells) < FIRED_MAX:
        due_at, timer_id = state.heap[0]
        row = state.rows.get(timer_id)
        if row is not None and due_at > ctx.now:
            break
        heappop(state.heap)
        if row is None:
            continue
        del state.rows[timer_id]
        tells.append(
            Tell(
                conversation_of(row.tenant_id, row.channel_id, row.contact_key),
                TimerFired(
                    timer_id=row.id,
                    timer=row.kind,
                    conversation_id=row.conversation_id,
                    due_at=row.due_at,
                ),
            )
        )
    next_at = min(state.heap[0][0] if state.heap else state.until, state.until)
    return Effects(tell=tells, timers=(SetTimer("next", max(next_at, ctx.now), Tick()),))
