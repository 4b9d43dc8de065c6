"""What must be true at the end of any day, however it went.

Each checker raises AssertionError with what it found. What has to hold in the middle of the day is looked at
there: by `ledger` when something is acknowledged, by `commits` when something becomes durable, by `platform`
when something is sent, by `screens` when something is pushed, by `supervision` when something crashes, by
`bounds` whenever something waits.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from engine.domain.assigner.actor import choose
from engine.domain.assigner.messages import ASSIGNER_LOAD
from engine.domain.conversation.state import OPEN_STATUSES
from engine.domain.conversation.statuses import RANK, UNDECIDED
from engine.domain.resources import JOIN_KEY, conversation_resource, customer_ref
from engine.domain.rows import ConversationRow, MessageRow
from engine.ports import LoggedEvent
from tests.simulation.world import World

SILENT = ("reaction", "system")


def _messages(world: World) -> Iterator[MessageRow]:
    for tenant_id in world.tenants:
        yield from sorted(world.store.table(tenant_id, "messages"), key=lambda row: row.id)


def _conversations(world: World) -> Iterator[ConversationRow]:
    for tenant_id in world.tenants:
        yield from world.store.table(tenant_id, "conversations")


def _events(world: World) -> Iterator[LoggedEvent]:
    for tenant_id in world.tenants:
        yield from world.databases[tenant_id].log[tenant_id]


def everything_acknowledged_is_stored_once(world: World) -> None:
    stored = Counter(
        (row.tenant_id, row.channel_id, row.platform_message_id)
        for row in _messages(world)
        if row.platform_message_id
    )
    assert not [key for key, times in stored.items() if times > 1]
    by_name = {(row.tenant_id, row.channel_id, row.platform_message_id): row for row in _messages(world)}
    answered = {item.name for item in world.mail.answered}
    for item in world.mail.answered:
        problems = world.ledger.problems(item)
        assert not problems, problems
        if item.kind not in ("edit", "gone"):
            continue
        original = (item.line.tenant_id, item.line.channel_id, item.original_id)
        if original in answered and item.original_id not in world.ledger.poisoned:
            target = by_name[original]
            applied = target.edited_at if item.kind == "edit" else target.deleted_at
            assert applied or item.name in by_name, f"{item.platform_id} left no trace"
    for tenant_id, message_id in world.ledger.accepted:
        assert world.store.row(tenant_id, "messages", message_id) is not None, f"{message_id} is gone"


def nothing_is_stored_that_nobody_wrote(world: World) -> None:
    for row in _messages(world):
        assert row.platform_message_id not in world.mail.forged, f"{row.platform_message_id} is a forgery"


def tenants_do_not_meet(world: World) -> None:
    for tenant_id in world.tenants:
        foreign = [world.marker(other) for other in world.tenants if other != tenant_id]
        for row in world.store.table(tenant_id, "messages"):
            assert not any(mark in row.text for mark in foreign), f"{row.id} of {tenant_id} is another's"
        for event in world.databases[tenant_id].log[tenant_id]:
            assert not any(mark.encode() in event.data for mark in foreign), f"event {event.cursor}"
        for delivery in world.store.table(tenant_id, "deliveries"):
            assert not any(mark.encode() in delivery.body for mark in foreign), f"delivery {delivery.id}"


def sequences_have_no_gaps(world: World) -> None:
    seqs: dict[int, list[int]] = defaultdict(list)
    for row in _messages(world):
        seqs[row.conversation_id].append(row.seq)
    for conversation in _conversations(world):
        expected = list(range(1, conversation.last_seq + 1))
        found = sorted(seqs.pop(conversation.id, []))
        assert found == expected, f"{conversation.id}: {found}"
        assert conversation.message_count == conversation.last_seq
    assert not seqs, f"messages of conversations that are not there: {list(seqs)}"


def one_delivery_keeps_its_order(world: World) -> None:
    """Messages that came in one delivery, and in no other, stand in its order."""
    by_name: dict[tuple[object, ...], MessageRow] = {
        (row.tenant_id, row.channel_id, row.platform_message_id): row for row in _messages(world)
    }
    for bundle in world.mail.bundles:
        places: dict[int, int] = {}
        for item in bundle:
            row = by_name.get(item.name)
            if item.posts != 1 or item.kind != "message" or row is None or item.person is None:
                continue
            if item.person.loose:
                continue
            assert places.get(row.conversation_id, 0) < row.seq, f"{item.platform_id} is out of order"
            places[row.conversation_id] = row.seq


def a_contact_has_one_open_conversation(world: World) -> None:
    """Also where the contact that had one has moved into another."""
    open_ones: Counter[tuple[int, int, str]] = Counter()
    for row in _conversations(world):
        if row.status in OPEN_STATUSES:
            handle = world.store.row(row.tenant_id, "customer_handles", row.channel_id, row.contact_key)
            key = row.contact_key if handle is None else handle.contact_key
            open_ones[row.tenant_id, row.channel_id, key] += 1
    assert all(times == 1 for times in open_ones.values()), open_ones


def a_person_is_one_contact(world: World) -> None:
    by_name = {(row.tenant_id, row.channel_id, row.platform_message_id): row for row in _messages(world)}
    for person in world.customers:
        if person.loose:
            continue
        place = (person.line.tenant_id, person.line.channel_id)
        contacts = {by_name[*place, each].contact_key for each in person.written if (*place, each) in by_name}
        for key in person.keys:
            handle = world.store.row(place[0], "customer_handles", place[1], key)
            if handle is not None:
                contacts.add(handle.contact_key)
        assert len(contacts) <= 1, f"{person.label} is {contacts}"
    for tenant_id in world.tenants:
        for handle in world.store.table(tenant_id, "customer_handles"):
            owner = world.store.row(tenant_id, "customer_handles", handle.channel_id, handle.contact_key)
            assert owner is not None
            assert owner.customer_id == handle.customer_id
            assert owner.contact_key == handle.contact_key


def nothing_handed_over_waits(world: World) -> None:
    """Where two contacts became one, the conversation that was open has found its place."""
    waiting = [row.id for row in _conversations(world) if JOIN_KEY in row.metadata]
    assert not waiting, f"{waiting} were handed over and not taken up"


def everybody_is_shown_as_his_person(world: World) -> None:
    """As the merges that stand say: the one at the top, under the name that he has now."""
    for tenant_id in world.tenants:
        customers = {row.id: row for row in world.store.table(tenant_id, "customers")}
        merges = world.store.table(tenant_id, "customer_merges")
        above = {row.merged_id: row.survivor_id for row in merges if row.undone_at is None}
        for row in customers.values():
            root, steps = row.id, 0
            while root in above:
                root, steps = above[root], steps + 1
                assert steps <= len(above), f"the merges of {row.id} go round in a circle"
            if root == row.id:
                assert row.merged_into is None, f"{row.id} is still shown as {row.merged_into}"
            else:
                assert row.merged_into == root, f"{row.id} is shown as {row.merged_into} and not {root}"
                told, name = (row.shown_name, row.shown_avatar_url), customers[root]
                # A process that dies between a new name and the telling of it leaves the old one for a while.
                if world.newest.number == 1:
                    assert told == (name.name, name.avatar_url), f"{row.id} is called {told}"
        assert all(row.settled for row in merges), f"merges of {tenant_id} are not settled"


def statuses_never_go_back(world: World) -> None:
    for database in world.databases_by_name.values():
        # By an opt-out, while their call was under way; the platform's word is the later fact.
        withdrawn = {
            patch.id for patch, _ in database.status_moves if (patch.error or {}).get("code") == "opted_out"
        }
        for patch, before in database.status_moves:
            assert patch.status is not None
            lawful = (
                RANK[patch.status] > RANK[before]
                or (patch.status == "failed" and RANK[before] < RANK["delivered"])
                or (before in UNDECIDED and patch.status in UNDECIDED)
                or (patch.status == "pending" and patch.clear_failure)
                or (before == "failed" and patch.clear_failure and patch.id in withdrawn)
                or patch.status == before
            )
            assert lawful, f"message {patch.id} went from {before} to {patch.status}"


def the_last_event_shows_the_conversation_as_it_is(world: World) -> None:
    """With what is told of its customer, as the push page says."""
    last: dict[int, tuple[int, dict[str, Any]]] = {}
    for event in _events(world):
        data = msgspec.json.decode(event.data)
        if "conversation" in data:
            last[data["conversation"]["id"]] = (event.at, data["conversation"])
        if event.name in CUSTOMER_EVENTS:
            for _, conversation in last.values():
                _shows(conversation, data["customer"])
    for row in _conversations(world):
        assert row.id in last, f"nobody was told of conversation {row.id}"
        at, shown = last[row.id]
        customer = world.store.row(row.tenant_id, "customers", row.customer_id)
        fresh = conversation_resource(row, customer_ref(customer), world.store.config(row.tenant_id), at)
        assert shown == msgspec.json.decode(msgspec.json.encode(fresh)), (
            f"conversation {row.id} is shown as {shown}"
        )


CUSTOMER_EVENTS = frozenset({"customer.updated", "customer.merged", "customer.unmerged"})


def _shows(conversation: dict[str, Any], customer: dict[str, Any]) -> None:
    shown = conversation["customer"]
    if (shown["merged_id"] or shown["id"]) == customer["id"]:
        into = customer["merged_into"]
        conversation["customer"] = {
            name: (into or customer)[name] for name in ("id", "name", "avatar_url")
        } | {"merged_id": customer["id"] if into else None}


def unread_counts_follow_from_the_events(world: World) -> None:
    unread: Counter[int] = Counter()
    for event in _events(world):
        data = msgspec.json.decode(event.data)
        if "conversation" not in data:
            continue
        number, message = data["conversation"]["id"], data.get("message")
        if event.name == "message.received" and message["type"] not in SILENT:
            unread[number] += 1
        elif event.name == "message.received" and message["content"].get("kind") == "conversation_joined":
            unread[number] += unread.pop(message["content"]["conversation_id"], 0)
        elif (
            event.name == "message.sent"
            and message["sender"]["type"] == "user"
            and not message["metadata"].get("echo")
        ):
            unread[number] = 0
        elif event.name == "conversation.read":
            assert data["conversation"]["unread_count"] <= unread[number]
            unread[number] = data["conversation"]["unread_count"]
    for row in _conversations(world):
        assert row.unread_count == unread[row.id], f"{row.id}: {row.unread_count}, events: {unread[row.id]}"


def every_message_is_told_once(world: World) -> None:
    told: Counter[tuple[int, int]] = Counter()
    for event in _events(world):
        if event.name in ("message.received", "message.sent"):
            told[event.tenant_id, msgspec.json.decode(event.data)["message"]["id"]] += 1
    stored = {(row.tenant_id, row.id) for row in _messages(world)}
    assert set(told) == stored, f"told and stored differ: {set(told) ^ stored}"
    assert all(times == 1 for times in told.values())


def cursors_have_no_gaps(world: World) -> None:
    for tenant_id in world.tenants:
        database = world.databases[tenant_id]
        cursors = [event.cursor for event in database.log[tenant_id]]
        assert cursors == list(range(1, len(cursors) + 1)), f"cursors of {tenant_id}: {cursors}"
        assert database.owners[tenant_id].cursor == len(cursors)


def outbox_and_messages_agree(world: World) -> None:
    lawful = {
        "done": ("sent", "delivered", "read", "failed"),
        "dead": ("failed", "delivered", "read"),
        "queued": ("pending",),
    }
    for tenant_id in world.tenants:
        for item in world.store.table(tenant_id, "outbox"):
            if item.message_id is None:
                continue
            message = world.store.row(tenant_id, "messages", item.message_id)
            assert message.status in lawful.get(item.state, ()), (
                f"{message.id} is {message.status}, its item {item.state}"
            )
    for message in _messages(world):
        if message.direction == "outbound" and not message.metadata.get("echo"):
            assert world.store.row(message.tenant_id, "outbox", message.id) is not None


def what_was_sent_twice_says_so(world: World) -> None:
    taken = Counter(call.message_id for call in world.platform.taken)
    for message_id, times in taken.items():
        message = next(row for row in _messages(world) if row.id == message_id)
        assert times == 1 or message.metadata.get("resent") or message_id in world.retried, (
            f"{message_id} was sent {times} times without a word"
        )


def nothing_is_called_sent_that_never_was(world: World) -> None:
    taken = {call.message_id for call in world.platform.taken}
    for message in _messages(world):
        if message.direction == "outbound" and not message.metadata.get("echo"):
            sent = message.status in ("sent", "delivered", "read")
            assert not sent or message.id in taken, f"{message.id} is {message.status} and was never taken"


def a_message_has_failed_only_with_its_last_attempt(world: World) -> None:
    last = {call.message_id: call.taken_as for call in world.platform.taken}
    for message in _messages(world):
        if message.status == "failed" and message.error and message.error["platform_code"] == "131049":
            assert last[message.id] in world.platform.failed, f"{message.id} failed by an earlier attempt"


def a_client_key_is_one_message(world: World) -> None:
    for (tenant_id, conversation_id, key), ids in world.ledger.keyed.items():
        stored = {
            row.id
            for row in world.store.table(tenant_id, "messages")
            if row.conversation_id == conversation_id and row.client_key == key
        }
        assert ids == stored, f"{key} in {conversation_id} was answered with {ids}, stored are {stored}"


def what_was_said_once_is_stored_once(world: World) -> None:
    stored = Counter(
        (row.tenant_id, row.text)
        for row in _messages(world)
        if row.sender_type == "user" and not row.metadata.get("echo")
    )
    for key, clicks in world.ledger.clicks.items():
        assert stored[key] <= clicks, f"{key[1]!r} was sent {clicks} times and is stored {stored[key]} times"


def automated_replies_answer_customers_only_and_not_too_often(world: World) -> None:
    last: dict[tuple[int, int], int] = {}
    by_place = {(row.conversation_id, row.seq): row for row in _messages(world)}
    for row in sorted(_messages(world), key=lambda row: (row.conversation_id, row.seq)):
        if row.sender_type != "bot":
            continue
        before = by_place[row.conversation_id, row.seq - 1]
        assert (before.sender_type, before.direction) == ("customer", "inbound")
        number = row.metadata["auto_reply"]
        previous = last.get((row.conversation_id, number))
        cooldown = world.store.config(row.tenant_id).rules[number].cooldown_seconds * 1000
        assert previous is None or row.created_at - previous >= cooldown, f"{row.id} comes too soon"
        last[row.conversation_id, number] = row.created_at


def nobody_waits_while_somebody_is_free(world: World) -> None:
    for tenant_id in world.tenants:
        config = world.store.config(tenant_id)
        if config.assignment.mode not in ASSIGNER_LOAD:
            continue
        free = choose(config, world.store.loads(tenant_id), None, world.wall_ms())
        waiting = [row.id for row in world.store.waiting(tenant_id)]
        assert free is None or not waiting, f"{waiting} wait, and {free} is free"


def nothing_is_left_to_do(world: World) -> None:
    statistics = world.statistics
    assert statistics is not None
    assert (statistics.waiting, statistics.in_flight, statistics.asking) == (0, 0, 0), statistics
    for tenant_id in world.tenants:
        assert not [row for row in world.store.table(tenant_id, "attachments") if row.state == "pending"]
        timers = {row.id: row for row in world.store.table(tenant_id, "timers")}
        for row in world.store.table(tenant_id, "conversations"):
            timer = row.metadata.get("snooze_timer")
            assert (timer is not None) == (row.snoozed_until is not None)
            assert timer is None or (timer in timers and row.status == "pending")
        for timer_row in timers.values():
            assert timer_row.due_at > world.wall_ms() - 60_000, (
                f"the deadline of {timer_row.conversation_id} has passed and nobody woke up"
            )


def only_poison_is_in_the_dead_letters(world: World) -> None:
    for tenant_id in world.tenants:
        for letter in world.store.table(tenant_id, "dead_letters"):
            planted = any(platform_id in str(letter.message) for platform_id in world.ledger.poisoned)
            assert planted or "poison" in str(letter.message), f"{letter.address}: {letter.error[-1500:]}"


CHECKERS: tuple[Callable[[World], None], ...] = (
    only_poison_is_in_the_dead_letters,
    everything_acknowledged_is_stored_once,
    nothing_is_stored_that_nobody_wrote,
    tenants_do_not_meet,
    sequences_have_no_gaps,
    one_delivery_keeps_its_order,
    a_contact_has_one_open_conversation,
    a_person_is_one_contact,
    nothing_handed_over_waits,
    everybody_is_shown_as_his_person,
    statuses_never_go_back,
    cursors_have_no_gaps,
    every_message_is_told_once,
    unread_counts_follow_from_the_events,
    the_last_event_shows_the_conversation_as_it_is,
    outbox_and_messages_agree,
    what_was_sent_twice_says_so,
    nothing_is_called_sent_that_never_was,
    a_message_has_failed_only_with_its_last_attempt,
    a_client_key_is_one_message,
    what_was_said_once_is_stored_once,
    automated_replies_answer_customers_only_and_not_too_often,
    nobody_waits_while_somebody_is_free,
    nothing_is_left_to_do,
)
