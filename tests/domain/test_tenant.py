"""Changes of a tenant's configuration."""

from itertools import count
from typing import Any

from engine.domain.assigner.messages import Reconsider
from engine.domain.config import AssignmentSettings, Channel, Tag, TenantConfig, Week
from engine.domain.conversation.messages import Received
from engine.domain.outbox import Halt, Refresh
from engine.domain.rows import AuditRow, ChannelRow, ConfigDelete, EventRow, SettingRow, TagRow, UserRow
from engine.domain.tenant.actor import CONFIG_CHANGED, TenantState, decide
from engine.domain.tenant.messages import NeedAttention, Remove, Save
from engine.errors import Conflicting, NotFound
from engine.runtime import Address, Context, Effects
from tests.domain.desk import ANN, BOB, CHANNEL, NOON, TENANT, agent, config


class Office:
    def __init__(self, configuration: TenantConfig) -> None:
        self.state = TenantState(configuration)
        ids = count(9000)
        self.ctx = Context(lambda: next(ids))
        self.ctx.now = NOON + 5
        self.ctx.address = Address("tenant", TENANT, "config")

    def save(
        self, kind: str, entity_id: int | None = None, *, create: bool = False, **values: Any
    ) -> Effects:
        return decide(
            self.state, Save(kind=kind, id=entity_id, values=values, by=ANN, create=create), self.ctx
        )

    def remove(self, kind: str, entity_id: int) -> Effects:
        return decide(self.state, Remove(kind=kind, id=entity_id, by=ANN), self.ctx)

    def mark(
        self, note: str, *, halts: bool = False, credentials_at: int | None = None, at: int | None = None
    ) -> Effects:
        message = NeedAttention(
            channel_id=CHANNEL, note=note, halts=halts, credentials_at=credentials_at, at=at
        )
        return decide(self.state, message, self.ctx)

    @property
    def channel(self) -> Channel:
        return self.state.config.channels[CHANNEL]


def owned() -> TenantConfig:
    return config(agents={501: agent(ANN, role="owner"), 502: agent(BOB)})


def test_a_new_tag_is_committed_with_its_trail_and_the_new_snapshot() -> None:
    office = Office(owned())

    effects = office.save("tag", name="urgent", color="#00f")

    row, audit, event = effects.commit
    assert isinstance(row, TagRow)
    assert isinstance(audit, AuditRow)
    assert isinstance(event, EventRow)
    assert isinstance(effects.reply, Tag)
    assert (event.name, event.channels) == (CONFIG_CHANGED, ())
    assert event.local.tags[row.id].name == "urgent"


def test_the_snapshot_before_is_left_as_it_was() -> None:
    before = owned()
    Office(before).save("tag", 9, name="VIP")

    assert before.tags[9].name == "vip"


def test_names_are_unique_whatever_their_case() -> None:
    office = Office(owned())

    effects = office.save("tag", name="VIP", color="#00f")

    assert isinstance(effects.refuse, Conflicting)
    assert 9 in office.state.config.tags


def test_changing_what_is_not_there_is_not_found() -> None:
    assert isinstance(Office(owned()).save("tag", 10, name="x").refuse, NotFound)
    assert isinstance(Office(owned()).remove("tag", 10).refuse, NotFound)


def test_the_last_owner_can_neither_leave_nor_be_demoted() -> None:
    office = Office(owned())

    for effects in (
        office.save("agent", 501, role="agent"),
        office.save("agent", 501, active=False),
        office.remove("agent", 501),
    ):
        assert isinstance(effects.refuse, Conflicting)
        assert effects.refuse.code == "last_owner"
    assert office.state.config.agents[501].role == "owner"


def test_an_agents_change_makes_the_assigner_look_again() -> None:
    effects = Office(owned()).save("agent", 502, availability="offline")

    assert isinstance(effects.commit[0], UserRow)
    assert [tell.message for tell in effects.tell] == [Reconsider()]


def test_switching_the_mode_makes_the_assigner_count_afresh() -> None:
    effects = Office(owned()).save("assignment", mode="round_robin")

    assert isinstance(effects.commit[0], SettingRow)
    assert isinstance(effects.reply, AssignmentSettings)
    assert [tell.message for tell in effects.tell] == [Reconsider(afresh=True, twice=True)]


def test_a_channels_change_reaches_its_actor_and_its_credentials_never_the_audit_log() -> None:
    effects = Office(owned()).save("channel", CHANNEL, credentials=b"sealed", status="disabled")

    audit = effects.commit[1]
    assert isinstance(audit, AuditRow)
    assert audit.after is not None
    assert "credentials" not in audit.after
    assert [tell.message for tell in effects.tell] == [Refresh()]


def test_the_mark_that_a_channel_needs_attention_does_not_set_it_going_again() -> None:
    """It is the channel's own word; what a person changes afterwards is the sign to try again."""
    office = Office(owned())
    marked = office.mark("The token has expired.")
    assert marked.reply == Received(outcome="applied")
    assert office.channel.status == "needs_attention"
    assert office.channel.status_note == "The token has expired."
    assert [tell.message for tell in marked.tell] == []
    for change in ({"credentials": b"new"}, {"status": "active", "status_note": None}):
        again = Office(owned())
        again.mark("The token has expired.")
        assert [tell.message for tell in again.save("channel", CHANNEL, **change).tell] == [Refresh()]


def test_withdrawn_access_halts_the_channel_and_is_written_once() -> None:
    office = Office(owned())

    first = office.mark("The owner removed the app.", halts=True, at=NOON + 1)
    again = office.mark("The owner removed the app.", halts=True, at=NOON + 1)

    assert isinstance(first.commit[0], ChannelRow)
    assert [tell.message for tell in first.tell] == [Halt("The owner removed the app.")]
    # Told again all the same: the channel may have been started anew in between.
    assert [tell.message for tell in again.tell] == [Halt("The owner removed the app.")]
    assert again.commit == ()
    assert again.reply == Received(outcome="ignored")


def test_news_of_credentials_that_have_been_replaced_marks_nothing() -> None:
    office = Office(owned())
    office.save("channel", CHANNEL, credentials=b"new")
    assert office.channel.credentials_at == NOON + 5

    for credentials_at, at in ((0, None), (None, NOON + 4)):
        effects = office.mark("The token has expired.", halts=True, credentials_at=credentials_at, at=at)
        assert (effects.commit, effects.tell) == ((), ())
        assert effects.reply == Received(outcome="ignored")
    assert office.channel.status == "active"
    for credentials_at, at in ((NOON + 5, None), (None, NOON + 5), (None, None)):
        effects = office.mark(f"Expired ({credentials_at}, {at}).", credentials_at=credentials_at, at=at)
        assert effects.reply == Received(outcome="applied")


def test_a_disabled_channel_and_one_that_is_gone_are_not_marked() -> None:
    office = Office(owned())
    office.save("channel", CHANNEL, status="disabled")

    assert office.mark("The token has expired.").reply == Received(outcome="ignored")
    office.remove("channel", CHANNEL)
    assert office.mark("The token has expired.").reply == Received(outcome="ignored")


def test_different_credentials_never_have_the_same_time() -> None:
    """Even when they are changed twice in a millisecond; what changes nothing of them keeps it."""
    office = Office(owned())
    times = []
    for sealed in (b"one", b"two", b"two", b"three"):
        office.save("channel", CHANNEL, credentials=sealed)
        times.append(office.channel.credentials_at)
    office.save("channel", CHANNEL, name="Another")

    assert times == [NOON + 5, NOON + 6, NOON + 6, NOON + 7]
    assert office.channel.credentials_at == NOON + 7


def test_work_hours_are_replaced_as_a_whole() -> None:
    office = Office(owned())
    week = Week(days=((),) * 7)

    office.save("work_hours", week=week)
    assert office.state.config.week == week
    office.save("work_hours", week=None)
    assert office.state.config.week is None


def test_removing_deletes_the_row() -> None:
    effects = Office(owned()).remove("tag", 9)

    assert effects.commit[0] == ConfigDelete(tenant_id=TENANT, table="tags", id=9)
