"""The simple model: what has been promised to somebody, kept apart from the program and its tables."""

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from engine.domain.conversation.statuses import RANK
from tests.simulation.mail import Item, is_poison

if TYPE_CHECKING:
    from tests.simulation.world import World


class Ledger:
    """`acknowledged` and `accepted` are looked at in the moment of the answer and again at the end."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.accepted: list[tuple[int, int]] = []
        self.keyed: dict[tuple[int, int, str], set[int]] = defaultdict(set)
        self.clicks: Counter[tuple[int, str]] = Counter()
        self.poisoned: set[str] = set()
        self.times: Counter[tuple[object, ...]] = Counter()

    def acknowledged(self, item: Item) -> None:
        """A 200 came back for it."""
        self.times[item.name] += 1
        if is_poison(item):
            self.poisoned.add(item.platform_id)
        for problem in self.problems(item):
            self.world.violate("loss", problem, item.platform_id, item.message_id)

    def problems(self, item: Item) -> list[str]:
        """Why what was acknowledged cannot be found."""
        world, tenant = self.world, item.line.tenant_id
        if item.kind == "status":
            if item.message_id is None:
                return []
            row = world.store.row(tenant, "messages", item.message_id)
            if row is None:
                return [f"{item.message_id} has a status and is nowhere"]
            if item.status not in ("failed", "sent") and RANK[row.status] < RANK[item.status]:
                return [f"{item.message_id} is {row.status} and was reported {item.status}"]
            return []
        if item.kind in ("edit", "gone", "watermark", "other"):
            return []
        key = ("messages_platform_id", tenant, item.line.channel_id, item.platform_id)
        if key in world.databases[tenant].unique:
            return []
        if item.announced and not item.line.voice.can_tell(item.platform_id):
            # Told of so late that the platform's own list, the newest 20 of a conversation, has gone on.
            return []
        letters = world.store.table(tenant, "dead_letters")
        if is_poison(item) and any(item.platform_id in str(letter.message) for letter in letters):
            return []
        return [f"{item.kind} {item.platform_id} was answered with 200 and is nowhere"]
