"""The business's people in the demo: they are given conversations, read, answer, and mark as read.

Each agent is a user of its own with a token of its own, listens to its own channel (`users.{id}`) and answers
by HTTP, as a person with an inbox would. Conversations are handed out by the server, round robin.

Promises   A reply that was accepted is in `Office.replies`. A reply whose answer was lost is repeated under
           the same client key, so that it stays one. Who writes over a customer's newer message is refused
           by the server (409 stale_conversation), reads, and writes again.
Limits     One conversation at a time per agent; each conversation waits once, however much is said in it.
"""

import random
import secrets
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final

import trio
from msgspec import Struct

from engine.errors import Conflicting, MijraError, Unavailable
from gateway.cli.api import Api
from gateway.cli.asking import new_password
from gateway.cli.demo.subscription import Subscription

NAMES: Final = ("Salma", "Diego", "Mei", "Tariq", "Ines", "Oskar")
THINKING_SECONDS: Final = (0.2, 1.2)
ATTEMPTS_MAX: Final = 5
PAUSE_SECONDS: Final = 1.0
CALL_SECONDS_MAX: Final = 30.0
NO_ANSWER_TO: Final = frozenset({"reaction", "system"})

ANSWERS: Final = (
    "Hello {name}, thank you for writing. I am looking into it.",
    "Good question, {name}. Yes, we have it in stock.",
    "It is on its way and should be with you tomorrow.",
    "Of course, {name}. Would you like me to reserve one for you?",
    "I have passed it on to the warehouse. They answer within the hour.",
    "Done! Is there anything else that I can do for you?",
    "Thank you for the picture, {name}. That helps.",
    "أهلا {name}، نعم متوفر. هل تريد أن أحجز لك واحدا؟",
)


class Case(Struct, frozen=True):
    """A conversation that waits for an answer, as the agent has it on screen."""

    conversation_id: int
    customer: str
    seen_seq: int


class Office:
    """All agents and what they did."""

    def __init__(self, ws_url: str, tenant: str, seed: int) -> None:
        self._ws_url = ws_url
        self._tenant = tenant
        self._seed = seed
        self.agents: list[Agent] = []
        self.replies: set[int] = set()
        self.stale = 0
        self.refused: OrderedDict[str, int] = OrderedDict()

    async def hire(self, owner: Api, count: int) -> None:
        """Make the users, or take back those of an earlier run, and let conversations be handed out."""
        users = {user["email"]: user for user in await owner.items(f"/api/{self._tenant}/users")}
        for number, name in enumerate(NAMES[:count], start=1):
            email, password = f"agent{number}@demo.example", new_password()
            known = users.get(email)
            if known is None:
                body = {"email": email, "name": name, "role": "agent", "password": password}
                known = await owner.post(f"/api/{self._tenant}/users", body)
            else:
                await owner.put(f"/api/{self._tenant}/users/{known['id']}", {"password": password})
            async with Api(owner.base_url, None) as anybody:
                login = await anybody.post(
                    "/api/landlord/auth/login",
                    {"email": email, "password": password, "tenant": self._tenant, "device": "mijra demo"},
                )
            rng = random.Random(f"{self._seed}/{email}")  # noqa: S311 - how long an agent thinks, no secret
            api = Api(owner.base_url, login["token"], seconds_max=CALL_SECONDS_MAX)
            self.agents.append(Agent(self, known["id"], name, api, login["token"], rng))
        await owner.patch(
            f"/api/{self._tenant}/settings/assignment-settings",
            {"mode": "round_robin", "respect_work_hours": False},
        )

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Work until cancelled."""
        async with trio.open_nursery() as nursery:
            for agent in self.agents:
                await nursery.start(agent.run, self._ws_url, self._tenant)
            task_status.started()

    @property
    def busy(self) -> bool:
        return any(agent.busy for agent in self.agents)

    def refuse(self, code: str) -> None:
        self.refused[code] = self.refused.get(code, 0) + 1


class Agent:
    """One of them."""

    def __init__(
        self, office: Office, user_id: int, name: str, api: Api, token: str, rng: random.Random
    ) -> None:
        self.user_id = user_id
        self.name = name
        self._office = office
        self._api = api
        self._token = token
        self._rng = rng
        self._waiting: OrderedDict[int, Case] = OrderedDict()
        self._told = trio.Event()
        self._working = False

    @property
    def busy(self) -> bool:
        return self._working or bool(self._waiting)

    async def run(
        self, ws_url: str, tenant: str, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Listen first, then say that one is there: so no conversation is handed over unheard."""
        mine = Subscription(ws_url, self._token, tenant, f"users.{self.user_id}", self.hear)
        async with self._api, trio.open_nursery() as nursery:
            await nursery.start(mine.run)
            await self._api.put(
                f"/api/{tenant}/users/{self.user_id}/availability", {"availability": "online"}
            )
            task_status.started()
            await self._work(tenant)

    def hear(self, event: dict[str, Any]) -> None:
        """What a screen would show: a message of a customer, or a conversation handed over with one."""
        if event["name"] not in ("message.received", "conversation.assigned"):
            return
        conversation = event["data"]["conversation"]
        assigned, last = conversation["assigned_to"], conversation["last_message"]
        if assigned is None or assigned["id"] != self.user_id or last is None:
            return
        if last["direction"] != "inbound" or last["type"] in NO_ANSWER_TO:
            return
        if conversation["reply_window"]["open"]:
            name = conversation["customer"]["name"]
            self._wait(Case(conversation["id"], name, conversation["last_seq"]))

    def _wait(self, case: Case) -> None:
        self._waiting[case.conversation_id] = case
        self._told.set()

    async def _work(self, tenant: str) -> None:
        while True:
            while not self._waiting:
                self._told = trio.Event()
                await self._told.wait()
            self._working = True
            conversation_id = next(iter(self._waiting))
            await trio.sleep(self._rng.uniform(*THINKING_SECONDS))
            case = self._waiting.pop(conversation_id)
            path = f"/api/{tenant}/conversations/{conversation_id}"
            try:
                await self._answer(path, case)
                await self._api.post(f"{path}/mark-read", {"up_to_seq": case.seen_seq})
            except MijraError as error:
                self._office.refuse(error.code)
            self._working = False

    async def _answer(self, path: str, case: Case) -> None:
        text = self._rng.choice(ANSWERS).format(name=case.customer.split(" ")[0])
        key = secrets.token_hex(12)
        for attempt in range(ATTEMPTS_MAX):
            body = {"type": "text", "content": text, "seen_seq": case.seen_seq, "client_key": key}
            try:
                made = await self._api.post(f"{path}/messages", body)
            except Unavailable as error:
                if attempt + 1 == ATTEMPTS_MAX:
                    raise
                await trio.sleep(error.retry_after_seconds or PAUSE_SECONDS)
            except Conflicting as error:
                if error.code != "stale_conversation":
                    raise
                self._office.stale += 1
                self._read_again(case, error.data)
                return
            else:
                self._office.replies.add(made["id"])
                return

    def _read_again(self, case: Case, data: Any) -> None:
        """The event of the newer message may still be on its way; what was missed is in the refusal."""
        missed: Sequence[dict[str, Any]] = (data or {}).get("missed", ())
        newest = max((message["seq"] for message in missed), default=case.seen_seq)
        waiting = self._waiting.get(case.conversation_id)
        if waiting is None or waiting.seen_seq < newest:
            self._wait(Case(case.conversation_id, case.customer, newest))
