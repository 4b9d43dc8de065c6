"""What must be true at the end of a day because of what is special to some platforms.

Echoes of our own sends, watermarks in place of statuses, credentials that are renewed. What must hold when
something is sent (who has opted out, reply windows) is looked at by `platform`.
"""

from collections import Counter
from collections.abc import Callable
from typing import Final

import msgspec

from adapters.port import ErrorClass
from adapters.registry import adapters
from engine.domain.conversation.delivery import CLOCKS_MS
from engine.domain.conversation.statuses import RANK
from engine.domain.resources import OPTED_OUT
from tests.simulation.world import World


def what_the_platform_took_is_one_entry(world: World) -> None:
    """A send and its echo are one message, whichever came first."""
    taken = Counter(call.message_id for call in world.platform.taken)
    for call in world.platform.taken:
        place = world.place_of_message(call.message_id)
        assert place is not None
        tenant_id, channel_id, _ = place
        row = world.store.row(tenant_id, "messages", call.message_id)
        # Of one that was sent twice only one name is ours; the echo of the other is an entry of its own.
        if taken[call.message_id] > 1 or row.status not in ("sent", "delivered", "read"):
            continue
        key = world.databases[tenant_id].unique.get(
            ("messages_platform_id", tenant_id, channel_id, call.taken_as)
        )
        assert key is not None, f"{call.message_id} is {row.status} and its name {call.taken_as} unknown"
        entry = world.store.row(tenant_id, "messages", *key[1:])
        assert not entry.metadata.get("echo"), f"{call.taken_as} is {row.id} and stands there as {entry.id}"


def watermarks_reach_what_they_cover(world: World) -> None:
    """By clocks that agree: moments are compared with them. A mark that overtakes the name of a message is
    kept in memory alone, so what was in doubt meanwhile may miss it."""
    if world.jumps:
        return
    taken = Counter(call.message_id for call in world.platform.taken)
    moves = (move for database in world.databases.values() for move in database.status_moves)
    in_doubt = {patch.id for patch, _ in moves if patch.status == "unknown"}
    for item in world.mail.answered:
        for number in item.covers:
            if item.kind not in ("watermark", "status") or item.line.voice.knows_ours:
                continue
            row = world.store.row(item.line.tenant_id, "messages", number)
            if taken[number] > 1 or number in {*world.retried, *in_doubt} or row.status == "failed":
                continue
            assert RANK[row.status] >= RANK[item.status], f"{number} is {row.status}, was {item.status}"


def the_credentials_in_use_are_the_last(world: World) -> None:
    """Those that the platform gave at a renewal, or that the owner entered."""
    for line in world.lines:
        channel = world.store.row(line.tenant_id, "channels", line.channel_id)
        held = msgspec.json.decode(channel.credentials)
        assert held == line.voice.credentials(), f"{line.number} has credentials that are none any more"
        listed = world.entries[line.platform, line.number]
        assert listed.credentials_at <= channel.credentials_at, f"{line.number} is listed with later ones"


def nothing_is_read_that_nobody_read(world: World) -> None:
    """Where the platform speaks of moments: some mark of the contact came after the message was taken."""
    taken = {call.message_id: call.at for call in world.platform.taken}
    marks: dict[tuple[object, str], float] = {}
    for item in world.mail.told:
        for number in item.covers:
            for status in ("delivered", "read"):
                if RANK[item.status] >= RANK[status]:
                    place = (world.place_of_message(number), status)
                    marks[place] = max(marks.get(place, 0.0), item.at)
    for line in world.lines:
        for row in world.store.table(line.tenant_id, "messages"):
            marked = row.channel_id == line.channel_id and row.status in ("delivered", "read")
            if not marked or row.id not in taken or line.voice.knows_ours or world.jumps:
                continue
            at = marks.get((world.place_of_message(row.id), row.status), 0.0)
            assert taken[row.id] <= at + CLOCKS_MS / 1000, f"{row.id} is {row.status}, and nobody said so"


def who_opted_out_is_known(world: World) -> None:
    """Who has said so and never the contrary, and was answered with 200."""
    for person in world.customers:
        said = {item.opts for item in person.opted}
        answered = [item for item in person.opted if item in world.mail.answered]
        if said != {"out"} or not answered:
            continue
        tenant_id, channel_id = person.line.tenant_id, person.line.channel_id
        rows = [
            row
            for row in world.store.table(tenant_id, "conversations")
            if row.channel_id == channel_id and row.contact_key in person.keys
        ]
        newest = max(rows, key=lambda row: row.id)
        assert OPTED_OUT in newest.metadata, f"{person.label} opted out, and {newest.id} does not know"


def nothing_fails_for_credentials(world: World) -> None:
    """It waits for the next ones."""
    known = adapters()
    for line in world.lines:
        for row in world.store.table(line.tenant_id, "messages"):
            if row.channel_id != line.channel_id or row.status != "failed":
                continue
            code = (row.error or {}).get("platform_code")
            refused = code is not None and known[line.platform].classify(code) is ErrorClass.AUTH
            assert not refused, f"{row.id} failed for its account's credentials"


CHANNEL_CHECKERS: Final[tuple[Callable[[World], None], ...]] = (
    what_the_platform_took_is_one_entry,
    watermarks_reach_what_they_cover,
    nothing_is_read_that_nobody_read,
    who_opted_out_is_known,
    the_credentials_in_use_are_the_last,
    nothing_fails_for_credentials,
)
