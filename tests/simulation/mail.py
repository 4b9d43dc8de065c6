"""Webhooks on their way: signed as the platform signs them, late, twice, in bundles, until they are answered.

What must be true the moment a 200 comes back is looked at in that moment.
"""

from typing import TYPE_CHECKING, Any

import trio
from msgspec import Struct

from gateway.webhooks import Answer
from tests.simulation.database import POISON

if TYPE_CHECKING:
    from tests.simulation.lines import Line, Post
    from tests.simulation.people import Person
    from tests.simulation.process import Process
    from tests.simulation.world import World

DAY = 86_400.0
HANG_UP_SECONDS = 15.0
"""The platform waits no longer for an answer."""
PATIENCE_SECONDS_MAX = 1_800.0


class Item(Struct, kw_only=True):
    """One thing that the platform reports, as an element of a webhook. `message_id`: ours, which a status
    carries; `original_id`: what an edit or deletion is about; `covers`: our messages that a watermark or an
    echo is about; `announced`: the webhook says only that there is something; `opts`: the customer
    wants no more messages (out), or some again (in); `at`: when it
    happened; `url`: where it goes, if not to where everything goes."""

    line: "Line"
    kind: str  # message | echo | edit | gone | renumber | status | watermark | other
    platform_id: str
    change: Any
    person: "Person | None"
    text: str = ""
    status: str = ""
    message_id: int | None = None
    original_id: str | None = None
    covers: tuple[int, ...] = ()
    announced: bool = False
    opts: str | None = None
    at: float = 0.0
    url: str | None = None
    posts: int = 0
    answered: bool = False

    @property
    def name(self) -> tuple[object, ...]:
        return (self.line.tenant_id, self.line.channel_id, self.platform_id)


class Mail:
    """Everything that the platform has to say."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.told: list[Item] = []
        self.answered: list[Item] = []
        self.bundles: list[list[Item]] = []
        self.forged: list[str] = []
        self._held: dict[object, list[Item]] = {}

    def send(self, item: Item, *, within: float = 0.0) -> None:
        """On its way, as often and as late as the seed says."""
        chance = self.world.chance
        self.told.append(item)
        item.at = trio.current_time()
        times = 1
        while chance.strikes("webhook_twice") and times < 6:
            times += 1
        for _ in range(times):
            late = chance.uniform("webhook", 0.0, within)
            if chance.strikes("webhook_reordered"):
                late += chance.uniform("webhook_reordered", 0.0, 8.0)
            if chance.strikes("webhook_late"):
                late += chance.uniform("webhook_late", 60.0, 7_200.0)
            if chance.strikes("webhook_days_late"):
                late += chance.uniform("webhook_days_late", 0.2 * DAY, 2 * DAY)
            self.world.later(late, self.post, [item])
        if chance.strikes("webhook_forged"):
            self.world.later(chance.uniform("webhook_forged", 0.0, 5.0), self._forge, item)

    def bundle(self, items: list[Item]) -> None:
        """Several at once in one delivery; each may come on its own too."""
        self.world.later(self.world.chance.uniform("webhook", 0.0, 0.2), self.post, items)

    async def post(self, items: list[Item]) -> None:
        """Delivers until it is answered with 200, as the platform does."""
        world, chance = self.world, self.world.chance
        if chance.strikes("webhook_batched"):
            items = self._with_others(items)
        for item in items:
            item.posts += 1
        self.bundles.append(items)
        line = items[0].line
        keyed = len({item.line.number for item in items}) == 1 and chance.stream("webhook").random() < 0.5
        key = line.endpoint_key if keyed else None
        patience = 0.5
        while True:
            process = world.door()
            if process is not None:
                status = await self._request(process, line.voice.post(items, key))
                if status == 200 and self._answered(items):
                    return
                # Where the store has answered with nonsense the fault is ours, and the platform comes again.
                lawful = (None, 200, 503, *((500,) if chance.struck["load_crashed"] else ()))
                if status not in lawful:
                    world.violate("edge", f"a webhook was answered {status}", *self._about(items))
                    return
                for item in items:
                    item.posts += 1
            await trio.sleep(chance.uniform("webhook", 0.2, patience))
            patience = min(PATIENCE_SECONDS_MAX, patience * 2)

    async def _request(self, process: "Process", post: "Post") -> int | None:
        """One try. None: no answer came back."""
        chance = self.world.chance
        seconds = HANG_UP_SECONDS
        if chance.strikes("webhook_hung_up"):
            seconds = chance.uniform("webhook_hung_up", 0.0, 0.3)
        answer = None
        with trio.move_on_after(seconds):
            if chance.stream("webhook").random() < 0.5:
                answer = await self._begun(process, post)
            else:
                answer = await process.webhooks.handle(
                    "POST",
                    post.path,
                    post.query,
                    post.headers,
                    post.body,
                    trace=f"w{self.world.new_trace()}",
                )
        if answer is None or process.dead:
            return None
        self.world.record.add("webhook", post.path, post.body, answer.status, answer.body)
        if answer.status == 200 and chance.strikes("webhook_answer_lost"):
            return None
        return answer.status

    @staticmethod
    async def _begun(process: "Process", post: "Post") -> Answer:
        """The lane's way, without a task of the request's own as far as that goes."""
        told, answers = trio.Event(), list[Answer]()

        def answered(answer: Answer) -> None:
            answers.append(answer)
            told.set()

        rest = process.webhooks.begin(
            post.path, post.query, post.headers, post.body, answered, trio.current_time()
        )
        if rest is not None:
            return await rest()
        while not answers:
            with trio.move_on_after(1.0):
                await told.wait()
            process.webhooks.expire(trio.current_time())
        return answers[0]

    def _answered(self, items: list[Item]) -> bool:
        names = ", ".join(f"{item.kind} {item.platform_id}" for item in items)
        self.world.tell("webhook", f"200 for {names}", *self._about(items))
        for item in items:
            self.world.ledger.acknowledged(item)
            item.answered = True
            self.answered.append(item)
        return True

    async def _forge(self, item: Item) -> None:
        """Somebody with another business' secret tells what this one's customer has written."""
        world = self.world
        strangers = [
            one
            for one in world.lines
            if one.platform == item.line.platform and one.voice.company != item.line.voice.company
        ]
        process = world.door()
        if not strangers or process is None:
            return
        name, post = item.line.voice.forgery(len(self.forged), strangers[0].voice)
        self.forged.append(name)
        status = await self._request(process, post)
        world.tell("forger", f"is answered {status} for {name}")
        if status == 200:
            world.violate("isolation", f"{name} was signed by a stranger and taken", name)

    def _with_others(self, items: list[Item]) -> list[Item]:
        """With what was held back before for the same signer, or held back itself."""
        company = items[0].line.voice.company
        return [*items, *self._held.pop(company, [])] if company is not None else items

    def hold(self, item: Item) -> None:
        """Kept until another delivery of the same app takes it along; a copy is on its way anyway."""
        self._held.setdefault(item.line.voice.company, []).append(item)

    @staticmethod
    def _about(items: list[Item]) -> list[object]:
        names: list[object] = []
        for item in items:
            names += [item.platform_id, item.message_id, item.person and item.person.label]
        return names


def is_poison(item: Item) -> bool:
    return item.text == POISON
