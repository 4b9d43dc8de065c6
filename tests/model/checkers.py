"""What must be true after any day, however it went. Each checker raises AssertionError with what it found."""

from collections import Counter, defaultdict
from collections.abc import Callable

import msgspec

from engine.domain.assigner.actor import choose
from engine.domain.assigner.messages import ASSIGNER_LOAD
from engine.domain.conversation.state import OPEN_STATUSES
from engine.domain.conversation.statuses import RANK, UNDECIDED
from engine.domain.resources import CustomerRef, conversation_resource
from engine.domain.rows import MessageRow
from tests.domain.desk import CHANNEL
from tests.model.world import World

SILENT = ("reaction", "system")


def everything_answered_is_stored_once(world: World) -> None:
    stored = Counter(
        (row.channel_id, row.platform_message_id) for row in world.messages() if row.platform_message_id
    )
    assert not [key for key, times in stored.items() if times > 1]
    for platform_id in world.answered:
        if platform_id in world.poisoned or platform_id.endswith((".edit", ".gone")):
            continue
        assert (CHANNEL, platform_id) in stored, f"{platform_id} was answered and is nowhere"
    originals = {row.platform_message_id: row for row in world.messages()}
    for platform_id in world.answered:
        original, _, about = platform_id.rpartition(".")
        if about in ("edit", "gone") and original in world.answered and original not in world.poisoned:
            target = originals[original]
            applied = target.edited_at if about == "edit" else target.deleted_at
            assert applied or platform_id in originals, f"{platform_id} left no trace"


def sequences_have_no_gaps(world: World) -> None:
    seqs: dict[int, list[int]] = defaultdict(list)
    for row in world.messages():
        seqs[row.conversation_id].append(row.seq)
    for conversation in world.store.conversations.values():
        expected = list(range(1, conversation.last_seq + 1))
        assert sorted(seqs[conversation.id]) == expected, (
            f"{conversation.id}: {sorted(seqs[conversation.id])}"
        )
        assert conversation.message_count == conversation.last_seq


def a_contact_has_one_open_conversation(world: World) -> None:
    open_ones = Counter(
        row.contact_key for row in world.store.conversations.values() if row.status in OPEN_STATUSES
    )
    assert all(times == 1 for times in open_ones.values()), open_ones


def a_person_is_one_contact(world: World) -> None:
    by_platform_id = {row.platform_message_id: row for row in world.messages()}
    for person in world.people:
        if person.loose:
            continue
        contacts = {by_platform_id[each].contact_key for each in person.written if each in by_platform_id} | {
            world.store.handles[CHANNEL, key].contact_key
            for key in person.keys
            if (CHANNEL, key) in world.store.handles
        }
        assert len(contacts) <= 1, f"{person.name} is {contacts}"
    for handle in world.store.handles.values():
        owner = world.store.handles[handle.channel_id, handle.contact_key]
        assert owner.customer_id == handle.customer_id


def statuses_never_go_back(world: World) -> None:
    for patch, before in world.store.status_moves:
        assert patch.status is not None
        lawful = (
            RANK[patch.status] > RANK[before]
            or (patch.status == "failed" and RANK[before] < RANK["delivered"])
            or (before in UNDECIDED and patch.status in UNDECIDED)
            or (patch.status == "pending" and patch.clear_failure)
            or patch.status == before
        )
        assert lawful, f"message {patch.id} went from {before} to {patch.status}"
    rows = world.store.messages
    for event in world.acknowledged:
        if event.callback is None or event.status == "failed":
            continue
        row = rows[int(event.callback)]
        assert RANK[row.status] >= RANK[event.status], f"{row.id} is {row.status}, was told {event.status}"


def the_last_event_shows_the_conversation_as_it_is(world: World) -> None:
    assert not world.store.untold, f"nobody was told of {world.store.untold[0]}"
    last: dict[int, tuple[int, dict[str, object]]] = {}
    for event in world.events():
        data = msgspec.json.decode(event.data)
        if "conversation" in data:
            last[data["conversation"]["id"]] = (event.at, data["conversation"])
    for row in world.store.conversations.values():
        at, shown = last[row.id]
        customer = world.store.customers[row.customer_id]
        reference = CustomerRef(id=customer.id, name=customer.name, avatar_url=customer.avatar_url)
        fresh = conversation_resource(row, reference, world.config(), at)
        assert shown == msgspec.json.decode(msgspec.json.encode(fresh))


def unread_counts_follow_from_the_events(world: World) -> None:
    unread: Counter[int] = Counter()
    for event in world.events():
        data = msgspec.json.decode(event.data)
        if "conversation" not in data:
            continue
        number, message = data["conversation"]["id"], data.get("message")
        if event.name == "message.received" and message["type"] not in SILENT:
            unread[number] += 1
        elif (
            event.name == "message.sent"
            and message["sender"]["type"] == "user"
            and not message["metadata"].get("echo")
        ):
            unread[number] = 0
        elif event.name == "conversation.read":
            assert data["conversation"]["unread_count"] <= unread[number]
            unread[number] = data["conversation"]["unread_count"]
    for row in world.store.conversations.values():
        assert row.unread_count == unread[row.id], (
            f"{row.id}: {row.unread_count}, events say {unread[row.id]}"
        )


def outbox_and_messages_agree(world: World) -> None:
    lawful = {
        "done": ("sent", "delivered", "read", "failed"),
        "dead": ("failed", "delivered", "read"),
        "queued": ("pending",),
    }
    for item in world.store.outbox.values():
        if item.message_id is None:
            continue
        message = world.store.messages[item.message_id]
        assert message.status in lawful[item.state], (
            f"{message.id} is {message.status}, its item {item.state}"
        )
    for message in world.messages():
        if message.direction == "outbound" and not message.metadata.get("echo"):
            assert message.id in world.store.outbox


def what_was_sent_twice_says_so(world: World) -> None:
    taken = Counter(message_id for message_id, _ in world.platform.taken if message_id is not None)
    for message_id, times in taken.items():
        message = world.store.messages[message_id]
        assert times == 1 or message.metadata.get("resent") or message_id in world.retried, (
            f"{message_id} was sent {times} times without a word"
        )


def a_message_has_failed_only_with_its_last_attempt(world: World) -> None:
    last = dict(world.platform.taken)
    for message in world.messages():
        if message.status == "failed" and message.error and message.error["platform_code"] == "131049":
            assert last[message.id] in world.platform.failed, f"{message.id} failed by an earlier attempt"


def a_client_key_is_one_message(world: World) -> None:
    for (conversation_id, key), ids in world.keyed.items():
        stored = {
            row.id
            for row in world.messages()
            if row.conversation_id == conversation_id and row.client_key == key
        }
        assert ids == stored, f"{key} in {conversation_id} was answered with {ids}, stored are {stored}"


def automated_replies_answer_customers_only_and_not_too_often(world: World) -> None:
    last: dict[tuple[int, int], int] = {}
    by_place: dict[tuple[int, int], MessageRow] = {
        (row.conversation_id, row.seq): row for row in world.messages()
    }
    for row in world.messages():
        if row.sender_type != "bot":
            continue
        before = by_place[row.conversation_id, row.seq - 1]
        assert (before.sender_type, before.direction) == ("customer", "inbound")
        number = row.metadata["auto_reply"]
        previous = last.get((row.conversation_id, number))
        cooldown = world.config().rules[number].cooldown_seconds * 1000
        assert previous is None or row.created_at - previous >= cooldown
        last[row.conversation_id, number] = row.created_at


def nobody_waits_while_somebody_is_free(world: World) -> None:
    config = world.config()
    if config.assignment.mode not in ASSIGNER_LOAD:
        return
    free = choose(config, world.store.loads(), None, world.now())
    waiting = [row.id for row in world.store.waiting()]
    assert free is None or not waiting, f"{waiting} wait, and {free} is free"


def only_poison_is_in_the_dead_letters(world: World) -> None:
    for letter in world.store.dead_letters.values():
        planted = any(platform_id in str(letter.message) for platform_id in world.poisoned)
        assert planted, f"{letter.address}: {letter.error[-1500:]}"
    assert not world.watch.crashes, world.watch.crashes


def nothing_is_left_to_do(world: World) -> None:
    statistics = world.statistics
    assert (statistics.waiting, statistics.in_flight, statistics.asking) == (0, 0, 0)
    assert not [row for row in world.store.attachments.values() if row.state == "pending"]
    for row in world.store.conversations.values():
        timer = row.metadata.get("snooze_timer")
        assert (timer is not None) == (row.snoozed_until is not None)
        assert timer is None or (timer in world.store.timers and row.status == "pending")
    for timer_row in world.store.timers.values():
        assert timer_row.due_at > world.now() - 60_000, "a deadline has passed and nobody woke up"


CHECKERS: tuple[Callable[[World], None], ...] = (
    only_poison_is_in_the_dead_letters,
    everything_answered_is_stored_once,
    sequences_have_no_gaps,
    a_contact_has_one_open_conversation,
    a_person_is_one_contact,
    statuses_never_go_back,
    unread_counts_follow_from_the_events,
    the_last_event_shows_the_conversation_as_it_is,
    outbox_and_messages_agree,
    what_was_sent_twice_says_so,
    a_message_has_failed_only_with_its_last_attempt,
    a_client_key_is_one_message,
    automated_replies_answer_customers_only_and_not_too_often,
    nobody_waits_while_somebody_is_free,
    nothing_is_left_to_do,
)
