"""Who gets the next conversation."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.domain.assigner.actor import AssignerState, choose, decide
from engine.domain.assigner.messages import Declined, LoadChanged, Reconsider, Want
from engine.domain.config import AssignmentSettings, Interval, TenantConfig, Week
from engine.domain.conversation.messages import Assign, By
from engine.ports import AssignmentSnapshot, WaitingConversation
from engine.runtime import Address, Context, Effects, Lookup
from tests.domain.desk import ANN, BOB, NOON, TENANT, agent, config

CLEO = By(kind="user", id=503, name="Cleo")


def team(mode: str = "round_robin", **changes: Any) -> TenantConfig:
    agents = {each.id: agent(each) for each in (ANN, BOB, CLEO) if each.id is not None}
    return config(
        agents={**agents, **changes.pop("agents", {})}, assignment=AssignmentSettings(mode=mode), **changes
    )


class Room:
    """The assigner by hand."""

    def __init__(self, configuration: TenantConfig) -> None:
        self.state = AssignerState(loads={}, last_user_id=None, waiting={})
        self.ctx = Context(lambda: 1)
        self.ctx.now = NOON
        self.ctx.config = configuration
        self.ctx.address = Address("assigner", TENANT, "assigner")

    def tell(self, message: Any, found: object = None) -> list[tuple[int, int]]:
        self.ctx.found = found
        outcome = decide(self.state, message, self.ctx)
        assert not isinstance(outcome, Lookup)
        self.effects = outcome
        if outcome is None:
            return []
        return [
            (tell.message.conversation_id, tell.message.user_id)
            for tell in outcome.tell
            if isinstance(tell.message, Assign)
        ]


def want(number: int) -> Want:
    return Want(number, 71, str(number))


def test_round_robin_takes_turns() -> None:
    room = Room(team())

    given_to = [room.tell(want(number))[0][1] for number in range(1, 7)]

    assert given_to == [501, 502, 503, 501, 502, 503]


def test_least_loaded_evens_out_what_agents_have() -> None:
    room = Room(team("least_loaded"))
    room.state.loads = {501: 5, 502: 3, 503: 4}

    given_to = Counter(room.tell(want(number))[0][1] for number in range(1, 7))

    assert given_to == {501: 1, 502: 3, 503: 2}


def test_only_agents_who_are_there_and_below_capacity_are_chosen() -> None:
    away = team(agents={501: agent(ANN, availability="away"), 502: agent(BOB, capacity=1)})
    room = Room(away)

    given_to = [room.tell(want(number))[0][1] for number in range(1, 4)]

    assert given_to == [502, 503, 503]


def test_with_nobody_there_the_line_waits_for_the_next_opening() -> None:
    monday = Week(days=((Interval(start=540, end=1020),), (), (), (), (), (), ()))
    room = Room(team(week=monday))

    offered = room.tell(want(1))

    assert offered == []
    assert isinstance(room.effects, Effects)
    assert room.effects.timers[0].at <= NOON + 3_600_000  # type: ignore[union-attr]
    room.ctx.now += 2 * 24 * 3_600_000 - 3 * 3_600_000 + 60_000  # Monday 09:01 UTC
    assert room.tell(Reconsider()) == [(1, 501)]


def test_an_offer_that_was_taken_counts_once_and_a_declined_one_not_at_all() -> None:
    room = Room(team())
    room.tell(want(1))
    room.tell(LoadChanged(1, None, 501))
    room.tell(want(2))
    room.tell(Declined(2, 502))

    assert room.state.loads == {501: 1, 502: 0}


def test_a_freed_agent_gets_the_next_in_line() -> None:
    only = {each.id: agent(each, capacity=1) for each in (ANN,)}
    room = Room(config(agents=only, assignment=AssignmentSettings(mode="round_robin")))
    room.tell(want(1))
    room.tell(LoadChanged(1, None, 501))
    assert room.tell(want(2)) == []

    assert room.tell(LoadChanged(1, 501, None)) == [(2, 501)]


def test_a_fresh_look_asks_the_store_and_offers_what_waits_there() -> None:
    room = Room(team())
    question = decide(room.state, Reconsider(afresh=True), room.ctx)
    found = AssignmentSnapshot(
        loads={501: 2},
        last_user_id=501,
        waiting=(WaitingConversation(conversation_id=8, channel_id=71, contact_key="8"),),
        more=False,
    )

    assert isinstance(question, Lookup)
    assert room.tell(Reconsider(afresh=True), found=found) == [(8, 502)]


def test_in_manual_mode_nobody_is_given_anything() -> None:
    assert Room(team("manual")).tell(want(1)) == []


@pytest.mark.parametrize("mode", ["round_robin", "least_loaded"])
@given(
    loads=st.dictionaries(st.sampled_from([501, 502, 503]), st.integers(0, 9)),
    last=st.sampled_from([None, 501, 502, 503, 999]),
)
def test_somebody_is_always_chosen_while_somebody_is_there(
    mode: str, loads: dict[int, int], last: int | None
) -> None:
    configuration = team(mode)

    found = choose(configuration, loads, last, NOON)

    assert found is not None
    if mode == "least_loaded":
        assert loads.get(found.id, 0) == min(loads.get(each, 0) for each in (501, 502, 503))


def test_a_declined_offer_frees_the_agent_for_the_next_in_line() -> None:
    """Nobody waits for the next look while somebody has become free."""
    only = {each.id: agent(each, capacity=1) for each in (ANN,)}
    room = Room(config(agents=only, assignment=AssignmentSettings(mode="round_robin")))
    room.tell(want(1))
    room.tell(want(2))

    assert room.tell(Declined(1, 501)) == [(2, 501)]


def test_the_change_that_brought_the_assigner_into_memory_is_counted_once() -> None:
    """It was told after its commit, so the store's count has it already."""
    room = Room(team())
    change = LoadChanged(1, 501, None)
    room.state = AssignerState(loads={501: 3}, last_user_id=None, waiting={}, brought_by=change)

    room.tell(change)
    room.tell(LoadChanged(2, 501, None))

    assert room.state.loads == {501: 2}


def test_a_line_before_a_full_team_is_counted_afresh_soon() -> None:
    """A count that is off by one must not keep a customer waiting for an hour."""
    only = {each.id: agent(each, capacity=1) for each in (ANN,)}
    room = Room(config(agents=only, assignment=AssignmentSettings(mode="round_robin")))
    room.state.loads = {501: 1}

    room.tell(want(1))

    assert isinstance(room.effects, Effects)
    recount = [timer for timer in room.effects.timers if timer.name == "recount"]
    assert [timer.at <= NOON + 30_000 for timer in recount] == [True]  # type: ignore[union-attr]
    assert [timer.message for timer in recount] == [Reconsider(afresh=True)]  # type: ignore[union-attr]


def test_a_count_in_long_use_is_taken_afresh() -> None:
    """Drift lasts minutes, not days."""
    room = Room(team())
    room.tell(want(1))
    room.ctx.now += 6 * 60_000

    room.ctx.found = None
    assert isinstance(decide(room.state, want(2), room.ctx), Lookup)
    found = AssignmentSnapshot(loads={501: 7}, last_user_id=501, waiting=(), more=False)
    assert room.tell(want(2), found=found) == [(2, 502)]
    assert room.state.loads == {501: 7, 502: 1}
