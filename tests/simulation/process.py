"""One life of the program, wired as the composition root wires it: the real engine, writers, webhooks, hub,
sessions and adapters; the database, the platform and the clocks are the model's."""

import contextlib
from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec
import trio
from prometheus_client import CollectorRegistry

from adapters.channel import Channels, Trouble
from adapters.guard import Guard
from adapters.port import Account, Declined, ErrorClass, Renewed, Tools
from adapters.registry import adapters
from adapters.renewing import Expiring, Renewer
from engine.domain.conversation import actor as conversation_actor
from engine.domain.conversation.messages import MediaVerdict
from engine.domain.conversation.messages import address_of as conversation_of
from engine.domain.engine import Engine
from engine.domain.ids import IdAllocator
from engine.domain.inbound import Announced, InboundEvent
from engine.domain.outbox import MEDIA_KIND, Fetch
from engine.domain.rows import AuditRow
from engine.domain.tenant.messages import NeedAttention
from engine.errors import Forbidden, MijraError, Unavailable
from engine.ports import Endpoint, LoggedEvent
from engine.reading import DirectoryEntry
from engine.runtime import Address, DeadLetter, Inbox, Worker
from gateway.directory import Directory
from gateway.locks import Locks
from gateway.metrics import Metrics
from gateway.observing import EngineLog, JournalLog
from gateway.provisioning import Provisioning
from gateway.push.hub import Hub, ReplayLimits, RingLimits
from gateway.push.reassigned import Reassigned
from gateway.push.rights import Viewer
from gateway.push.session import SessionLimits
from gateway.push.sessions import Sessions
from gateway.webhooks import WebhookLimits, Webhooks
from storage.writer import WriterLimits
from storage.writers import Writers
from tests.simulation.bounds import chosen
from tests.simulation.database import ModelPool
from tests.simulation.lines import Line
from tests.simulation.patching import replaced
from tests.simulation.platform import RESEND_SECONDS_MIN, Known
from tests.simulation.played import PUBLIC_URL
from tests.simulation.store import ModelStore

if TYPE_CHECKING:
    from tests.simulation.world import World


class Observer(EngineLog):
    """The program's own log of its engine, and what the checkers want of it."""

    def __init__(self, process: "Process") -> None:
        self._process = process

    def crashed(self, address: Address, error: BaseException, attempts: int) -> None:
        super().crashed(address, error, attempts)
        self._process.world.supervision.crashed(self._process, address, error)

    def worker_crashed(self, path: str, error: BaseException) -> None:
        super().worker_crashed(path, error)
        self._process.worker_crashed_at = trio.current_time()
        self._process.world.supervision.worker_crashed(self._process, path, error)

    def restarting(self, path: str, delay_seconds: float) -> None:
        super().restarting(path, delay_seconds)
        self._process.world.supervision.restarting(self._process, path, delay_seconds)

    def load_failed(self, address: Address, error: BaseException, delay_seconds: float) -> None:
        super().load_failed(address, error, delay_seconds)
        self._process.world.supervision.load_failed(self._process, address, delay_seconds)

    def escalated(self, path: str, error: BaseException | None) -> None:
        super().escalated(path, error)
        self._process.world.supervision.escalated(self._process, path, error)

    def parked(self, letter: DeadLetter) -> None:
        super().parked(letter)
        self._process.world.supervision.parked(self._process, letter)

    def undeliverable(self, address: Address, message: object, reason: str) -> None:
        super().undeliverable(address, message, reason)
        self._process.world.supervision.undeliverable(self._process, address, message, reason)

    def overrun(self, sender: Address, receiver: Address) -> None:
        super().overrun(sender, receiver)
        self._process.world.violate("bounds", f"{sender} overran {receiver}")


class Sinks:
    """Listeners to committed events, in order; the first one is the checker."""

    def __init__(self) -> None:
        self.all: tuple[Any, ...] = ()

    def committed(self, events: Sequence[LoggedEvent]) -> None:
        for sink in self.all:
            sink.committed(events)


class CommittedOnly:
    """What every listener relies on: events are told after their commit, in order, without holes."""

    def __init__(self, process: "Process") -> None:
        self._process = process
        self._cursors: dict[int, int] = {}

    def committed(self, events: Sequence[LoggedEvent]) -> None:
        world = self._process.world
        for event in events:
            log = world.databases[event.tenant_id].log[event.tenant_id]
            stored = log[event.cursor - 1] if event.cursor <= len(log) else None
            if stored is None or (stored.name, stored.data) != (event.name, event.data):
                world.violate("events", f"{event.name} {event.cursor} is told and not in the log")
            before = self._cursors.get(event.tenant_id)
            if before is not None and event.cursor != before + 1:
                world.violate("events", f"{event.cursor} is told after {before}")
            self._cursors[event.tenant_id] = event.cursor


class Process:
    """`run` is its life, `kill` its end without notice. What it says afterwards is not heard by anybody."""

    def __init__(self, world: "World", number: int) -> None:
        self.world = world
        self.number = number
        self.dead = False
        self.gone = trio.Event()
        self.worker_crashed_at = float("-inf")
        self._scope = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        random = world.chance.stream(f"process {number}")
        options = world.chance.stream("options")
        batch_rows, items = options.choice((8, 40, 2_000)), options.choice((2, 10_000))
        bounds = self.bounds = chosen(world.chance.stream("bounds"), items=items)
        self.ids = IdAllocator(world.wall_ms)
        self.sinks = Sinks()
        self.pools = {name: ModelPool(database) for name, database in world.databases_by_name.items()}
        self.writers = Writers(
            lambda name: self.pools[name],  # type: ignore[arg-type, return-value]
            lambda tenant_id: world.databases[tenant_id].name,
            node=f"n{number}",
            sink=self.sinks,
            limits=WriterLimits(batch_rows_max=batch_rows, waiting_rows_max=bounds.waiting_rows),
            random=random,
        )
        self.store = ModelStore(
            world.databases,
            reached=world.reached,
            take=self.writers.take,
            newest_id=self.ids.above,
            head=self.writers.head,
        )
        used = sorted({line.platform for line in world.lines})
        self.adapters = {name: adapters()[name] for name in used}
        self.tools = Tools(
            media=_NoMedia(),
            guard=Network(self),
            link=lambda tenant_id, key: f"{PUBLIC_URL}/{key}",
            webhook=self._webhook,
        )
        readers = ((name, each.reader(self.tools)) for name, each in self.adapters.items())
        self.readers = {name: reader for name, reader in readers if reader is not None}
        self.channels = Channels(
            ask=self.ask,
            committer=self.writers,
            store=self.store,
            senders={name: Known(each.sender(self.tools)) for name, each in self.adapters.items()},
            accounts=self._account,
            wall_ms=world.wall_ms,
            random=random,
            unknown_wait_seconds=RESEND_SECONDS_MIN,
            on_trouble=self._in_trouble,
            items_max=bounds.items,
        )
        with replaced(conversation_actor, "MAILBOX_MAX", bounds.mailbox):
            self.engine = Engine(
                conversation_store=self.store,
                tenant_store=self.store,
                customer_store=self.store,
                committer=self.writers,
                workers=(Worker(kind=MEDIA_KIND, run=self._fetch, lazily=True), self.channels.worker()),
                new_id=self.ids,
                wall_ms=world.wall_ms,
                observer=Observer(self),
                rng=random,
                monotonic=trio.current_time,
                resident_conversations_max=options.choice((1, 2, 1000)),
                idle_seconds_max=options.choice((0.5, 5.0, 600.0)),
            )
        metrics = Metrics(CollectorRegistry())
        self.hub = Hub(
            self.store,
            metrics,
            ring=RingLimits(events_max=options.choice((2, 20, 1_000))),
            replays=ReplayLimits(
                page_events=options.choice((2, 500)), distance_max=world.replay_distance_max
            ),
        )
        self.sessions = Sessions(
            self.hub,
            metrics,
            rights=self,
            epoch_of=self._epoch_of,
            limits=SessionLimits(
                silence_seconds_max=7_200.0, queue_bytes_max=options.choice((8 * 1024, 1024 * 1024))
            ),
        )
        self.sinks.all = (
            CommittedOnly(self),
            self.engine.configs,
            JournalLog(),
            self.hub,
            Reassigned(self.hub),
        )
        self.renewer = Renewer(
            adapters=self.adapters,
            tools=lambda: self.tools,
            account=self._account_now,
            begin=self._begin_renewal,
            keep=self._keep_renewed,
            on_trouble=self._in_trouble,
            wall_ms=world.wall_ms,
            random=random,
        )
        self.directory = Directory(lambda entry: msgspec.json.decode(entry.credentials), listed=self._listed)
        for entry in world.entries.values():
            self.directory.add(entry)
        landlord = _Landlord(world)
        self.provisioning = Provisioning(
            SimpleNamespace(  # type: ignore[arg-type]
                deps=SimpleNamespace(
                    engine=self.engine, landlord=landlord, directory=self.directory, vault=_Vault()
                ),
                changing=Locks(),
            )
        )
        self.webhooks = Webhooks(
            receivers=[self._receiver(name) for name in used],
            directory=self.directory,
            intake=self.engine.intake,
            landlord=landlord,
            metrics=metrics,
            new_id=self.ids,
            clock_ms=world.wall_ms,
            read=self._read_announced,
            public_url=PUBLIC_URL,
            limits=WebhookLimits(in_flight_max=bounds.in_flight),
        )
        world.bounds.watch(self)

    def _receiver(self, name: str) -> Any:
        receiver: Any = self.adapters[name].receiver()
        if hasattr(receiver, "_clock"):
            # It refuses old signatures: with a clock that is hours off, nothing would come in.
            receiver._clock = self.world.platform_seconds
        return receiver

    # ---------------------------------------------------------------- life and death

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until it is killed."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                await nursery.start(self.writers.run)
                await nursery.start(self.engine.run)
                nursery.start_soon(self.renewer.run)
                for tenant_id in self.world.tenants:
                    nursery.start_soon(self._wake, tenant_id)
                task_status.started()
                await trio.sleep_forever()

    async def _wake(self, tenant_id: int) -> None:
        while True:
            try:
                await self.engine.wake(tenant_id, await self.store.open_work(tenant_id))
                return
            except MijraError:
                await trio.sleep(0.5)

    def kill(self) -> None:
        """kill -9: nothing is told, nothing is finished."""
        self.dead = True
        self.gone.set()
        for pool in self.pools.values():
            pool.dead = True
        self._scope.cancel()

    async def die_here(self) -> None:
        """Killed by its own step: the caller does not come back."""
        self.world.tell("process", f"{self.number} dies in the middle of a commit")
        self.world.kill_soon(self)
        self.kill()
        await trio.sleep_forever()

    async def stop(self) -> None:
        """In order, as SIGTERM does."""
        self.sessions.close_all()
        await self.renewer.settle()
        await self.engine.stop(10.0)
        self.writers.stop()
        await self.writers.flush()
        self.kill()

    # ---------------------------------------------------------------- what parts need of each other

    async def ask(self, address: Any, message: object, *, timeout_seconds: float) -> Any:
        await self.engine.config(address.tenant)
        return await self.engine.system.ask(address, message, timeout_seconds=timeout_seconds)

    def in_hand(self, line: Line) -> int:
        """Calls of the account that are under way now."""
        return sum(
            each.in_hand
            for each in self.channels.statistics()
            if (each.tenant_id, each.channel_id) == (line.tenant_id, line.channel_id)
        )

    def _account(self, tenant_id: int, channel_id: int) -> Account | None:
        channel = self.engine.configs.get(tenant_id).channels.get(channel_id)
        if channel is None:
            return None
        return Account(
            tenant_id=tenant_id,
            channel_id=channel_id,
            platform=channel.platform,
            external_id=channel.external_id,
            credentials=msgspec.json.decode(channel.credentials),
            settings=channel.settings,
            active=channel.status != "disabled",
            credentials_at=channel.credentials_at,
            credentials_expire_at=channel.credentials_expire_at,
        )

    def _webhook(self, account: Account) -> str | None:
        endpoint = self.directory.by_account(account.platform, account.external_id)
        if endpoint is None:
            return None
        return f"{PUBLIC_URL}/api/webhooks/{account.platform}/{endpoint.endpoint_key}"

    async def _read_announced(self, endpoint: Endpoint, announced: Announced) -> Sequence[InboundEvent]:
        account = await self._account_now(endpoint.tenant_id, endpoint.channel_id)
        assert account is not None
        found = await self.readers[endpoint.platform].read(announced, account)
        if not isinstance(found, Declined):
            return found
        if found.error_class is ErrorClass.AUTH:
            trouble = Trouble(
                tenant_id=account.tenant_id,
                channel_id=account.channel_id,
                code="service",
                note=found.message,
                halted=False,
                credentials_at=account.credentials_at,
            )
            self._in_trouble(trouble)
        raise Unavailable(found.message)

    # ---------------------------------------------------------------- credentials

    def _listed(self, entry: DirectoryEntry) -> None:
        self.renewer.see(
            Expiring(
                tenant_id=entry.tenant_id,
                channel_id=entry.channel_id,
                platform=entry.platform,
                credentials_at=entry.credentials_at,
                expires_at=entry.credentials_expire_at,
            )
        )

    async def _account_now(self, tenant_id: int, channel_id: int) -> Account | None:
        await self.engine.config(tenant_id)
        return self._account(tenant_id, channel_id)

    async def _begin_renewal(self, account: Account) -> None:
        begun = AuditRow(
            tenant_id=account.tenant_id,
            id=self.ids(),
            user_id=None,
            action="renewing",
            subject=f"channel:{account.channel_id}",
            before=None,
            after=None,
            trace="",
            at=self.world.wall_ms(),
        )
        with trio.move_on_after(10.0):
            await self.engine.commit(account.tenant_id, (begun,))
            return
        raise Unavailable("the store takes nothing")

    async def _keep_renewed(self, account: Account, renewed: Renewed) -> bool:
        return await self.provisioning.renew_channel(
            account.tenant_id,
            account.channel_id,
            account.credentials_at,
            renewed.credentials,
            renewed.expires_at,
        )

    def _in_trouble(self, trouble: Trouble) -> None:
        assert self._nursery is not None
        self._nursery.start_soon(self._mark_attention, trouble)
        if trouble.halted:
            self.renewer.hurry(trouble.tenant_id, trouble.channel_id, trouble.credentials_at)

    async def _mark_attention(self, trouble: Trouble) -> None:
        mark = NeedAttention(
            channel_id=trouble.channel_id,
            note=trouble.note,
            halts=False,
            credentials_at=trouble.credentials_at,
        )
        with contextlib.suppress(MijraError):
            await self.engine.ask_tenant(trouble.tenant_id, mark)

    # ---------------------------------------------------------------- screens

    async def authenticate(self, token: str, tenant: str | None, address: str) -> Viewer:
        """Tokens read `tenant/user`."""
        tenant_id, user_id = (int(part) for part in token.split("/"))
        config = await self.engine.config(tenant_id)
        agent = config.agents.get(user_id)
        if agent is None:
            raise Forbidden("Nobody is known by this token.")
        return Viewer(tenant_id=tenant_id, user_id=user_id, name=agent.name, principal=agent.role)

    async def redeem(self, ticket: str, address: str) -> Viewer:
        raise Forbidden("Nobody has made a ticket.")

    async def vouched(self, tenant_id: int, user_id: int, token_id: int | None) -> Viewer:
        raise Forbidden("No app vouches for anybody.")

    async def renew(self, viewer: Viewer) -> Viewer:
        return await self.authenticate(f"{viewer.tenant_id}/{viewer.user_id}", None, "")

    async def tenant_is_active(self, tenant_id: int) -> bool:
        return True

    async def may_subscribe(self, viewer: Viewer, channel: str) -> bool:
        kind, _, number = channel.removeprefix("presence-").partition(".")
        if kind == "inbox":
            return viewer.principal == "owner"
        if kind != "conversations":
            return False
        await self.world.reached.read()
        row = self.store.row(viewer.tenant_id, "conversations", int(number))
        return row is not None and (viewer.principal == "owner" or row.assigned_to in (None, viewer.user_id))

    async def _epoch_of(self, tenant_id: int) -> str:
        return "1"

    # ---------------------------------------------------------------- media

    async def _fetch(self, inbox: Inbox) -> None:
        """A stand-in for the media fetcher: every file is there at once."""
        tenant_id = inbox.address.tenant
        while batch := await inbox.take():
            rows = {one.message.row.id: one.message.row for one in batch if isinstance(one.message, Fetch)}
            if len(rows) < len(batch):
                rows.update({row.id: row for row in await self._pending(tenant_id)})
            for row in rows.values():
                await self._fetched(row)

    async def _pending(self, tenant_id: int) -> Sequence[Any]:
        while True:
            try:
                return await self.store.load_pending_media(tenant_id, after_id=0, limit=100)
            except Unavailable:
                await trio.sleep(0.2)

    async def _fetched(self, row: Any) -> None:
        verdict = MediaVerdict(
            attachment_id=row.id,
            conversation_id=row.conversation_id,
            message_id=row.message_id,
            stored=True,
            attempts=1,
            storage_key=f"files/{row.id}",
        )
        asked = partial(self.ask, conversation_of(row.tenant_id, row.channel_id, row.contact_key), verdict)
        while True:
            try:
                await asked(timeout_seconds=10)
            except Unavailable:
                await trio.sleep(0.2)
            except MijraError:
                return
            else:
                return


class Network(Guard):
    """The way to the platforms: `run` puts it where the guarded connections would be."""

    def __init__(self, process: Process) -> None:
        super().__init__()
        self.transport = process.world.platform.transport(process)


class _Landlord:
    """What of the landlord's database is used here."""

    def __init__(self, world: "World") -> None:
        self._world = world

    async def park_unrouted(self, **what: Any) -> None:
        self._world.violate("edge", f"a delivery for {what['external_id']} was parked: {what['reason']}")

    async def directory_entry(self, platform: str, external_id: str) -> DirectoryEntry | None:
        await self._world.reached.read()
        return self._world.entries.get((platform, external_id))

    async def update_directory(self, entry: DirectoryEntry) -> None:
        await self._world.reached.read()
        self._world.entries[entry.platform, entry.external_id] = entry


class _Vault:
    """Nothing is sealed here: the vault is storage's and has tests of its own."""

    def seal(self, tenant_id: int, channel_id: int, credentials: dict[str, str]) -> bytes:
        return msgspec.json.encode(credentials)

    def open(self, tenant_id: int, channel_id: int, sealed: bytes) -> Any:
        return msgspec.json.decode(sealed)


class _NoMedia:
    async def write(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError

    read = delete = write


def entry_of(line: Line) -> DirectoryEntry:
    """The line as the landlord's directory lists it."""
    given_at, expires_at = line.voice.life()
    return DirectoryEntry(
        platform=line.platform,
        external_id=line.number,
        tenant_id=line.tenant_id,
        channel_id=line.channel_id,
        endpoint_key=line.endpoint_key,
        parent_id=line.voice.parent_id,
        credentials=credentials_of(line),
        created_at=0,
        credentials_at=given_at,
        credentials_expire_at=expires_at,
    )


def credentials_of(line: Line) -> bytes:
    """As `_Vault` would keep them."""
    return msgspec.json.encode(line.voice.credentials())
