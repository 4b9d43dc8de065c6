"""What must hold of each transaction, looked at in the moment in which it becomes durable.

At the end of the day much has been put right again: a row that was left open has been closed by somebody
else, ids that went back have been passed by others.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from engine.domain import rows
from engine.domain.conversation.statuses import UNDECIDED

if TYPE_CHECKING:
    from tests.simulation.database import Database
    from tests.simulation.world import World

OPEN_ITEMS = frozenset({"queued", "sending", "unknown"})

_WITH_IDS = {
    "insert_messages": ("messages", rows.MessageRow),
    "insert_outbox": ("outbox", rows.OutboxRow),
}


class Commits:
    """`began` for each process, `check` for each transaction."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self._before: dict[str, dict[int, int]] = defaultdict(dict)
        self._moves: Counter[str] = Counter()
        self.items: dict[int, tuple[str, str]] = {}
        """Each outbox row's state, and the process that last said that it is being sent."""

    def began(self, node: str) -> None:
        """A process starts; its ids go on above what is stored now."""
        world = self.world
        for tenant_id in world.tenants:
            stored = [row.id for name in ("messages", "outbox") for row in world.store.table(tenant_id, name)]
            self._before[node][tenant_id] = max(stored, default=0)

    def check(self, database: "Database", calls: Sequence[Any]) -> None:
        """Right after it was applied."""
        for statement, columns in calls:
            if statement in _WITH_IDS:
                self._ids(database, *_WITH_IDS[statement], columns)
            elif statement == "patch_outbox":
                self._states(database, columns)
        self._what_is_decided_is_closed(database)

    def _ids(self, database: "Database", table: str, row_type: Any, columns: Sequence[Any]) -> None:
        """Order is by id in the outbox and among messages, whatever the clocks say."""
        names = row_type.__struct_fields__
        for tenant_id, number in zip(
            columns[names.index("tenant_id")], columns[names.index("id")], strict=True
        ):
            node = database.owners[tenant_id].node
            before = self._before[node].get(tenant_id, 0)
            if number <= before:
                self.world.violate(
                    "ids",
                    f"{node} puts {number} into {table}, and found {before} stored when it began",
                    number,
                )

    def _states(self, database: "Database", columns: Sequence[Any]) -> None:
        """The message that one process said that it is sending, another one first calls unknown. A signal
        (seen, typing) does no harm twice."""
        names = rows.OutboxPatch.__struct_fields__
        for values in zip(*columns, strict=True):
            patch = dict(zip(names, values, strict=True))
            number, state = patch["id"], patch["state"]
            node = database.owners[patch["tenant_id"]].node
            before, sender = self.items.get(number, ("queued", node))
            if state == "sending":
                item = database.tables["outbox"].get((patch["tenant_id"], number))
                is_message = item is not None and item.message_id is not None
                if is_message and before == "sending" and sender != node:
                    self.world.violate("outbox", f"{number} is sent by {sender} and by {node}", number)
                sender = node
            self.items[number] = (state or before, sender)

    def is_sent_by(self, number: int, node: str) -> bool:
        """Whether this process was the last to say that it sends the item. It may have lost the tenant since,
        and its successor called the outcome unknown: then its call is the one that is waited for."""
        return number in self.items and self.items[number][1] == node

    def _what_is_decided_is_closed(self, database: "Database") -> None:
        """A status that decides a message ends its outbox row in the same transaction: whoever reads the row
        afterwards would send it again."""
        moves = database.status_moves
        seen, self._moves[database.name] = self._moves[database.name], len(moves)
        for patch, before in moves[seen:]:
            if before not in UNDECIDED or patch.status in UNDECIDED:
                continue
            item = database.tables["outbox"].get((patch.tenant_id, patch.id))
            message = database.tables["messages"][patch.tenant_id, patch.id]
            if item is not None and item.state in OPEN_ITEMS and message.status not in UNDECIDED:
                self.world.violate(
                    "outbox", f"message {patch.id} is {message.status}, its row {item.state}", patch.id
                )
