"""Who gets the next conversation: round robin or least loaded among the agents who are there.

Owns       the agents' loads (open conversations) and the line of conversations that wait for one.
Limits     1,024 messages wait at most; 10,000 conversations in line (others are found again when the line is
           empty); a restart counts afresh.
Promises   a conversation is offered to one agent at a time, who is active, online and, where the tenant
           wants it, at work and below capacity; one that nobody can take waits until somebody can. The
           conversation has the last word: a person who was faster is not overruled.
Restart    loads and line are read from the store, so nothing that waited is forgotten.
Counting   what is told while the store is being read may be in the answer already or not, so a count may be
           off by what was under way. It is taken afresh every five minutes of use, and within half a minute
           where somebody waits only because everybody there is full.
"""

from collections.abc import Sequence
from typing import assert_never

from msgspec import Struct

from engine.domain.assigner.messages import (
    ASSIGNER_LOAD,
    KIND,
    AssignerMessage,
    Declined,
    LoadChanged,
    Reconsider,
    Want,
)
from engine.domain.config import Agent, TenantConfig
from engine.domain.conversation.messages import SYSTEM, Assign
from engine.domain.conversation.messages import address_of as conversation_of
from engine.domain.workhours import at_work, next_opening
from engine.ports import AssignmentSnapshot, TenantStore
from engine.runtime import Context, Decider, Effects, LoadRequest, Lookup, LookupRequest, SetTimer, Tell

WAITING_MAX = 10_000
OFFERS_MAX = 200
"""Offers made in one step: a long line at opening time is worked off in several, so that one step stays
short and the conversations' mailboxes see a stream instead of a wall."""

MORE_AFTER_MS = 250
RECOUNT_MS = 5 * 60 * 1000
"""How long a count that drifted may be used: one query in five minutes for a busy tenant."""

RECOUNT_FULL_MS = 30 * 1000
"""The same where it keeps a customer waiting."""

RECHECK_MS_MAX = 3600 * 1000
"""With nobody there, look again at the next opening of any agent, at the latest after an hour."""


class AssignerState(Struct, kw_only=True):
    """`offered`: conversation → agent, told and not yet confirmed. `more`: the store has others in line.
    `counted_at`: when the store was read (0: by this activation's load). `brought_by`: the message that this
    activation was loaded for; it was told after its commit, so the store's count has it already."""

    loads: dict[int, int]
    last_user_id: int | None
    waiting: dict[int, Want]
    offered: dict[int, int] = {}
    more: bool = False
    counted_at: int = 0
    brought_by: object = None


def decide(state: AssignerState, message: AssignerMessage, ctx: Context) -> Effects | Lookup | None:
    config: TenantConfig = ctx.config
    if config.assignment.mode not in ASSIGNER_LOAD:
        # Loads are not reported in this mode; whoever switches it on again asks for a fresh count.
        state.waiting.clear()
        state.offered.clear()
        return None
    counted = message is state.brought_by
    timers: list[SetTimer] = []
    match message:
        case Want():
            if state.counted_at and ctx.now - state.counted_at >= RECOUNT_MS:
                if not isinstance(ctx.found, AssignmentSnapshot):
                    return Lookup(ctx.address.tenant)
                _take_over(state, ctx.found, ctx.now)
            if message.conversation_id in state.offered:
                return None
            if len(state.waiting) >= WAITING_MAX:
                state.more = True
                return None
            state.waiting[message.conversation_id] = message
        case LoadChanged(conversation_id, before, after):
            state.waiting.pop(conversation_id, None)
            expected = state.offered.pop(conversation_id, None)
            if before is not None and not counted:
                _count(state, before, -1)
            if after is not None and after != expected and not counted:
                _count(state, after, 1)
            if expected is not None and after != expected:
                _count(state, expected, -1)
        case Declined(conversation_id, user_id):
            if state.offered.get(conversation_id) == user_id:
                del state.offered[conversation_id]
                _count(state, user_id, -1)
        case Reconsider(afresh, twice):
            if afresh:
                if not isinstance(ctx.found, AssignmentSnapshot):
                    return Lookup(ctx.address.tenant)
                _take_over(state, ctx.found, ctx.now)
            if twice:
                timers.append(SetTimer("recount", ctx.now + RECOUNT_FULL_MS, Reconsider(afresh=True)))
        case _:
            assert_never(message)
    return _offer(state, config, ctx, timers)


def choose(config: TenantConfig, loads: dict[int, int], last_user_id: int | None, now: int) -> Agent | None:
    """The agent who is next, or None when nobody can take a conversation. Pure and deterministic."""
    there = sorted(
        (agent for agent in config.agents.values() if _can_take(agent, config, loads, now)),
        key=lambda agent: agent.id,
    )
    if not there:
        return None
    after = [agent for agent in there if last_user_id is not None and agent.id > last_user_id]
    if config.assignment.mode == "round_robin":
        return (after or there)[0]
    # Least loaded; equals take turns, so that a quiet morning does not fall to one person.
    turn = {agent.id: place for place, agent in enumerate([*after, *there])}
    for place, agent in enumerate(after):
        turn[agent.id] = place
    return min(there, key=lambda agent: (loads.get(agent.id, 0), turn[agent.id]))


def assigners(store: TenantStore) -> Decider:
    async def load(requests: Sequence[LoadRequest]) -> list[AssignerState]:
        states = []
        for request in requests:
            found = await store.load_assignment(request.address.tenant, waiting_max=WAITING_MAX)
            state = AssignerState(loads={}, last_user_id=None, waiting={}, brought_by=request.message)
            _take_over(state, found, 0)
            states.append(state)
        return states

    async def lookup(requests: Sequence[LookupRequest]) -> list[AssignmentSnapshot]:
        return [
            await store.load_assignment(request.address.tenant, waiting_max=WAITING_MAX)
            for request in requests
        ]

    return Decider(
        kind=KIND,
        decide=decide,
        load=load,
        lookup=lookup,
        mailbox_max=1024,
        idle_seconds_max=600.0,
        resident_max=10_000,
    )


def _offer(
    state: AssignerState, config: TenantConfig, ctx: Context, timers: list[SetTimer]
) -> Effects | None:
    state.counted_at = state.counted_at or ctx.now
    tells: list[Tell] = []
    while state.waiting and len(tells) < OFFERS_MAX:
        agent = choose(config, state.loads, state.last_user_id, ctx.now)
        if agent is None:
            break
        conversation_id = next(iter(state.waiting))
        want = state.waiting.pop(conversation_id)
        state.last_user_id = agent.id
        state.offered[conversation_id] = agent.id
        _count(state, agent.id, 1)
        tells.append(
            Tell(
                conversation_of(ctx.address.tenant, want.channel_id, want.contact_key),
                Assign(conversation_id=conversation_id, user_id=agent.id, by=SYSTEM, from_pool=True),
            )
        )
    if state.waiting:
        if len(tells) < OFFERS_MAX and _somebody_is_full(config, ctx.now):
            # At a fixed distance from the last count, so that a busy line does not put it off for ever.
            at = max(state.counted_at + RECOUNT_FULL_MS, ctx.now + MORE_AFTER_MS)
            timers.append(SetTimer("recount", at, Reconsider(afresh=True)))
        at = ctx.now + MORE_AFTER_MS if len(tells) >= OFFERS_MAX else _next_look(config, ctx.now)
        timers.append(SetTimer("look", at, Reconsider()))
    elif state.more:
        state.more = False
        timers.append(SetTimer("look", ctx.now + MORE_AFTER_MS, Reconsider(afresh=True)))
    if not tells and not timers:
        return None
    return Effects(tell=tells, timers=timers)


def _next_look(config: TenantConfig, now: int) -> int:
    openings = [
        opening
        for agent in config.agents.values()
        if agent.active
        and (opening := next_opening(agent.week or config.week, config.timezone, now + 1)) is not None
        and opening > now + 1
    ]
    return min([*openings, now + RECHECK_MS_MAX])


def _somebody_is_full(config: TenantConfig, now: int) -> bool:
    """Whether, with nobody able to take more, an agent is there who could but for the count."""
    return any(_can_take(agent, config, {}, now) for agent in config.agents.values())


def _can_take(agent: Agent, config: TenantConfig, loads: dict[int, int], now: int) -> bool:
    if not agent.active or agent.availability != "online":
        return False
    if agent.capacity is not None and loads.get(agent.id, 0) >= agent.capacity:
        return False
    return not config.assignment.respect_work_hours or at_work(agent, config, now)


def _count(state: AssignerState, user_id: int, change: int) -> None:
    state.loads[user_id] = max(0, state.loads.get(user_id, 0) + change)


def _take_over(state: AssignerState, found: AssignmentSnapshot, now: int) -> None:
    """Loads and line as the store has them; offers under way are told apart by the conversations."""
    state.loads = dict(found.loads)
    state.last_user_id = found.last_user_id
    state.waiting = {
        each.conversation_id: Want(each.conversation_id, each.channel_id, each.contact_key)
        for each in found.waiting
    }
    state.offered = {}
    state.more = found.more
    state.counted_at = now
