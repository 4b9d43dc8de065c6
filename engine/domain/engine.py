"""The engine in one piece: the tree of actors, and the typed calls by which the gateway reaches them.

Built by the composition root (gateway/boot), which supplies the ports. Knows no HTTP and no database.
"""

import random
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import trio
from msgspec import to_builtins

from engine.domain.assigner.actor import assigners
from engine.domain.assigner.messages import Reconsider
from engine.domain.assigner.messages import address_of as assigner_of
from engine.domain.config import TenantConfig
from engine.domain.configs import Configs
from engine.domain.conversation.actor import conversations
from engine.domain.conversation.messages import address_of as conversation_of
from engine.domain.customers.actor import customers
from engine.domain.customers.messages import Resume
from engine.domain.customers.messages import address_of as customers_of
from engine.domain.intake import Intake, no_room, verdict_to
from engine.domain.outbox import Wake, channel_address, media_address
from engine.domain.rows import DeadLetterRow, Row
from engine.domain.tenant.actor import tenants
from engine.domain.tenant.messages import address_of as tenant_of
from engine.domain.timers.actor import timers
from engine.domain.timers.messages import Tick
from engine.domain.timers.messages import address_of as timers_of
from engine.errors import MijraError
from engine.ports import ConversationStore, CustomerStore, MediaStore, OpenWork, TenantStore
from engine.runtime import (
    Address,
    Committer,
    DeadLetter,
    Gather,
    Lane,
    Observer,
    Supervisor,
    System,
    Worker,
)

ASK_SECONDS_MAX = 10.0
"""An API call that was not durable by then is answered 503; its key makes the repetition safe."""

RESIDENT_CONVERSATIONS_MAX = 100_000

ACTORS_SHOWN_MAX = 500
"""A page an operator can read; the tree above it counts them all."""


class ConversationAddress(Protocol):
    """What `ask_conversation` needs to know of a conversation (engine.reading.ConversationPlace)."""

    @property
    def channel_id(self) -> int: ...
    @property
    def contact_key(self) -> str: ...


class Engine:
    """`run` is the engine's life; everything else may be called while it runs.

    `new_id`, `wall_ms`, `rng` and `monotonic` are all it knows of time and chance; a simulation supplies its
    own. `media` keeps large deliveries, and those that bring files.
    """

    def __init__(
        self,
        *,
        conversation_store: ConversationStore,
        tenant_store: TenantStore,
        customer_store: CustomerStore,
        committer: Committer,
        workers: Sequence[Worker],
        new_id: Callable[[], int],
        wall_ms: Callable[[], int],
        observer: Observer | None = None,
        rng: random.Random | None = None,
        resident_conversations_max: int = RESIDENT_CONVERSATIONS_MAX,
        idle_seconds_max: float = 600.0,
        monotonic: Callable[[], float] = time.perf_counter,
        media: MediaStore | None = None,
    ) -> None:
        self.new_id = new_id
        self.now = wall_ms
        self._committer = committer
        self.configs = Configs(tenant_store)
        options: dict[str, Any] = {} if observer is None else {"observer": observer}
        self.system = System(
            static=(),
            tenant=Supervisor(
                name="tenant",
                # Start order is dependency order: channels come last and stop first, so that the
                # verdicts of their last calls still find the conversations.
                children=(
                    tenants(tenant_store),
                    conversations(
                        conversation_store,
                        resident_max=resident_conversations_max,
                        idle_seconds_max=idle_seconds_max,
                    ),
                    customers(customer_store),
                    assigners(tenant_store),
                    timers(tenant_store, wall_ms),
                    *workers,
                ),
            ),
            committer=committer,
            ids=new_id,
            wall_ms=wall_ms,
            random=rng if rng is not None else random.SystemRandom(),
            config_for=self.configs.get,
            dead_letter=self._dead_letter,
            monotonic=monotonic,
            **options,
        )
        self.intake = Intake(self.system, committer, self.configs, new_id, media)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until `stop`. Raises when the root of the tree gives up."""
        await self.system.run(task_status=task_status)

    async def stop(self, seconds_max: float) -> None:
        await self.system.stop(seconds_max)

    async def config(self, tenant_id: int) -> TenantConfig:
        return await self.configs.ensure(tenant_id)

    async def ask_conversation(
        self,
        tenant_id: int,
        place: ConversationAddress,
        message: Any,
        *,
        timeout_seconds: float = ASK_SECONDS_MAX,
    ) -> Any:
        """The conversation's answer, durable when it comes. Refusals are raised as Rejected, a full or
        stopping engine as Unavailable. On timeout or cancel the message may still take effect."""
        return await self.ask_contact(
            tenant_id, place.channel_id, place.contact_key, message, timeout_seconds=timeout_seconds
        )

    async def ask_contact(
        self,
        tenant_id: int,
        channel_id: int,
        contact_key: str,
        message: Any,
        *,
        timeout_seconds: float = ASK_SECONDS_MAX,
    ) -> Any:
        """As ask_conversation, for a contact that may have no conversation yet."""
        await self._admit(tenant_id)
        return await self.system.ask(
            conversation_of(tenant_id, channel_id, contact_key),
            message,
            lane=Lane.REALTIME,
            timeout_seconds=timeout_seconds,
        )

    async def ask_tenant(
        self, tenant_id: int, message: Any, *, timeout_seconds: float = ASK_SECONDS_MAX
    ) -> Any:
        """A change of the tenant's configuration; in force when it is answered."""
        await self._admit(tenant_id)
        return await self.system.ask(
            tenant_of(tenant_id), message, lane=Lane.REALTIME, timeout_seconds=timeout_seconds
        )

    async def ask_customers(
        self, tenant_id: int, message: Any, *, timeout_seconds: float = ASK_SECONDS_MAX
    ) -> Any:
        """What concerns customers and not one conversation: see engine/domain/customers/messages.py."""
        await self._admit(tenant_id)
        return await self.system.ask(
            customers_of(tenant_id), message, lane=Lane.REALTIME, timeout_seconds=timeout_seconds
        )

    async def commit(self, tenant_id: int, rows: Sequence[Row]) -> None:
        """Makes rows durable that no actor owns (an uploaded file, an audit entry). Raises CommitFailed.
        On cancel they may still become durable."""
        await self.configs.ensure(tenant_id)
        gather = Gather()
        address = Address("commit", tenant_id, self.new_id())
        self._committer.submit(address, 0, rows, verdict_to(gather.slot()))
        (outcome,) = await gather.wait()
        if isinstance(outcome, MijraError):
            raise outcome

    def actors(self) -> Any:
        """The live tree and the busiest actors, as plain objects: GET /api/landlord/system/actors."""
        return to_builtins(
            {"tree": self.system.tree(), "actors": self.system.describe(ACTORS_SHOWN_MAX)},
            str_keys=True,
            enc_hook=str,
        )

    async def _admit(self, tenant_id: int) -> None:
        """Nobody waits for a store that is away or has as much as it can take: they are told at once."""
        await self.configs.ensure(tenant_id)
        if not self._committer.has_room(tenant_id):
            raise no_room()

    async def wake(self, tenant_id: int, work: OpenWork) -> None:
        """After a start: tells the actors of a tenant what an earlier process left to do."""
        await self.configs.ensure(tenant_id)
        for channel_id in work.channel_ids:
            await self.system.tell(channel_address(tenant_id, channel_id), Wake())
        if work.media:
            await self.system.tell(media_address(tenant_id), Wake())
        if work.timers:
            await self.system.tell(timers_of(tenant_id), Tick())
        if work.waiting:
            await self.system.tell(assigner_of(tenant_id), Reconsider())
        if work.merges:
            await self.system.tell(customers_of(tenant_id), Resume())

    def _dead_letter(self, letter: DeadLetter) -> Sequence[Row]:
        address = letter.address
        return (
            DeadLetterRow(
                tenant_id=address.tenant,
                id=self.new_id(),
                address=f"{address.kind}/{address.tenant}/{address.key}",
                message=to_builtins(letter.message),
                error=letter.error,
                attempts=letter.attempts,
                state="parked",
                trace=getattr(letter.message, "trace", ""),
                created_at=self.now(),
            ),
        )
