"""A conversation that has left gives its memory back: every object of its state, its cell and its address."""

import gc
import tracemalloc
from collections import Counter
from collections.abc import Sequence

import trio
from trio.testing import MockClock

from engine.domain.conversation.actor import conversations
from engine.domain.conversation.messages import SYSTEM, MarkConversationRead, address_of
from engine.domain.conversation.state import ContactState, Tracked
from engine.domain.rows import ConversationRow, CustomerRow, HandleRow
from engine.ports import (
    ContactRequest,
    ContactSnapshot,
    ConversationQuery,
    MessageQuery,
    TrackedMessage,
    TrackedQuery,
)
from engine.runtime.cell import Cell
from tests.domain.desk import CHANNEL, NOON, TENANT, config
from tests.runtime.model import running

COUNT = 500
IDLE_SECONDS = 600.0


class Store:
    """`ConversationStore` in which every contact is known, with a conversation of three messages."""

    async def load_contacts(
        self, requests: Sequence[ContactRequest], *, recent_max: int
    ) -> Sequence[ContactSnapshot | None]:
        return [snapshot(request.keys[0]) for request in requests]

    async def find(
        self, queries: Sequence[MessageQuery | ConversationQuery | TrackedQuery]
    ) -> Sequence[object]:
        raise AssertionError("all that is asked for is resident")


def snapshot(key: str) -> ContactSnapshot:
    number = int(key)
    return ContactSnapshot(
        customer=CustomerRow(
            tenant_id=TENANT,
            id=number,
            name=f"Customer {number}",
            avatar_url=None,
            email=None,
            phone=f"+{number}",
            locale=None,
            timezone=None,
            attributes={"city": "Cairo"},
            source="whatsapp",
            first_seen_at=NOON,
            last_seen_at=NOON,
            created_at=NOON,
        ),
        handles=(
            HandleRow(
                tenant_id=TENANT,
                channel_id=CHANNEL,
                external_id=key,
                contact_key=key,
                customer_id=number,
                platform="whatsapp",
                display=f"+{number}",
                created_at=NOON,
            ),
        ),
        contact_key=key,
        conversation=ConversationRow(
            tenant_id=TENANT,
            id=number,
            channel_id=CHANNEL,
            platform="whatsapp",
            contact_key=key,
            customer_id=number,
            channel_type="direct",
            status="open",
            assigned_to=None,
            department_id=None,
            last_seq=3,
            message_count=3,
            unread_count=0,
            last_message={
                "seq": 3,
                "direction": "inbound",
                "type": "text",
                "preview": f"Hello from {number}",
                "at": NOON,
            },
            last_message_at=NOON,
            last_inbound_at=NOON,
            first_response_at=None,
            resolved_at=None,
            reply_window_ends_at=NOON,
            snoozed_until=None,
            tag_ids=[1, 2],
            auto_replied={},
            metadata={},
            created_at=NOON,
            updated_at=NOON,
        ),
        messages=tuple(
            TrackedMessage(
                id=number * 4 + seq,
                conversation_id=number,
                seq=seq,
                direction="inbound",
                status="received",
                author="customer",
                platform_message_id=f"wamid.{number}.{seq}",
                client_key=None,
                platform_at=NOON,
                sent_at=None,
                delivered_at=None,
                read_at=None,
                failed_at=None,
                edited_at=None,
                deleted_at=None,
                created_at=NOON,
            )
            for seq in (3, 2, 1)
        ),
        complete=True,
    )


def read(number: int) -> MarkConversationRead:
    """Nothing is unread, so it changes nothing."""
    return MarkConversationRead(conversation_id=number, by=SYSTEM)


def living() -> Counter[str]:
    """How many cells and states there are."""
    gc.collect()
    return Counter(type(one).__name__ for one in gc.get_objects() if type(one) in (Cell, ContactState))


async def test_passivation_gives_memory_back(autojump_clock: MockClock) -> None:
    """Five hundred conversations come and go three times: no state and no cell is left, and what Python holds
    is what it held after the first time, within a twentieth of what they took."""
    held: list[int] = []
    known = config()
    spec = conversations(Store(), resident_max=COUNT, idle_seconds_max=IDLE_SECONDS)
    async with running(spec, config_for=lambda tenant: known) as world:
        before = living()
        tracemalloc.start()
        try:
            peak = 0
            for turn in range(3):
                # Others each time, as in life.
                last = (turn + 1) * COUNT
                for key in range(turn * COUNT + 1, last + 1):
                    assert world.system.offer(address_of(TENANT, CHANNEL, str(key)), read(key))
                await world.system.ask(address_of(TENANT, CHANNEL, str(last)), read(last), timeout_seconds=1)
                kind = world.system.statistics().kinds["conversation"]
                assert (kind.resident, kind.crashes) == (COUNT, 0)
                assert living() - before == {"Cell": COUNT, "ContactState": COUNT}
                peak = tracemalloc.get_traced_memory()[0]
                await trio.sleep(2 * IDLE_SECONDS)
                assert world.system.statistics().addresses == 0
                assert not living() - before
                world.watch.passive.clear()
                held.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
    taken = peak - held[-1]
    assert taken > COUNT * 1_000, "a conversation without a state would prove nothing"
    assert held[-1] - held[0] < taken / 20


def test_what_is_counted_is_what_a_conversation_is() -> None:
    """`Tracked` is not seen by the collector, so its memory is looked at in bytes above."""
    assert not gc.is_tracked(
        Tracked(
            id=1,
            conversation_id=1,
            seq=1,
            outbound=False,
            status="received",
            author="customer",
            platform_id=None,
            client_key=None,
            platform_at=0,
        )
    )
