"""A system that runs: what starts and stops, and in which order. See `gateway.boot`."""

import gc
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import trio
from msgspec import Struct

from engine.domain.engine import Engine
from engine.ports import EventLog
from engine.reading import Reads
from gateway.boot.addresses import reachable
from gateway.boot.system import System
from gateway.boot.upkeep import keep_up, keep_up_hourly
from gateway.boot.waking import wake_all
from gateway.directory import Directory
from gateway.master_key import master_key
from gateway.settings import Settings
from storage.bridge import Bridge
from storage.databases import ConnectionLimits, DatabaseServer, Pool
from storage.embedded import embedded_postgres
from storage.landlord import LandlordStore
from storage.vault import Vault

GC_THRESHOLDS: Final = (100_000, 50, 50)
"""Activations are many small, long-lived objects: at the default of 700 allocations the collector walks them
over and over, which costs a third of the activation rate (`python -m bench.mailbox`)."""

DOOR_SHARE: Final = 0.3
RENEWALS_SHARE: Final = 0.1
ENGINE_SHARE: Final = 0.4
"""Of the time for stopping: requests under way end within a second unless something hangs, a renewal of
credentials is one call, a conversation's backlog may take longer; the rest is for the last commits."""


class Running(Struct, kw_only=True):
    """A started system. `listening` has the addresses of the services that listen, by name, once they do.
    `local_token` is good for every landlord route and for setting tenants
    up (users, channels, tokens, settings), not for reading what their customers wrote."""

    settings: Settings
    base_url: str
    ws_url: str
    operator_url: str
    database_url: str
    local_token: str
    engine: Engine
    landlord: LandlordStore
    reads: Reads
    events: EventLog
    vault: Vault
    directory: Directory
    pool_of: Callable[[int], Pool]
    listening: Mapping[str, str]


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Running]:
    """A complete system, from here to the end of the block."""
    gc.set_threshold(*GC_THRESHOLDS)
    key = await trio.to_thread.run_sync(master_key, settings)
    async with AsyncExitStack() as stack:
        bridge = await stack.enter_async_context(Bridge())
        dsn = settings.database_url
        if dsn is None:
            dsn = await stack.enter_async_context(embedded_postgres(settings.data_dir / "postgres"))
        server = await stack.enter_async_context(
            DatabaseServer(
                bridge,
                dsn,
                prefix=f"{settings.database_prefix}_",
                limits=_connection_limits(settings.db_connections_max),
            )
        )
        system = System(settings, key, server, bridge)
        await system.stores.prepare()
        await keep_up(system.stores)
        await system.platforms.enter(stack)
        await stack.enter_async_context(system.actors.fetchers)
        nursery = await stack.enter_async_context(trio.open_nursery())
        try:
            yield await _start(system, nursery, dsn)
        finally:
            # Whatever ends the block, also a cancellation: the stop has its own deadlines.
            with trio.CancelScope(shield=True):
                await _stop(system)
            nursery.cancel_scope.cancel()


async def _start(system: System, nursery: trio.Nursery, dsn: str) -> Running:
    settings, stores, edge = system.settings, system.stores, system.edge
    system.troubles.nursery = nursery
    trio.lowlevel.add_instrument(edge.ticks)
    await nursery.start(stores.writers.run)
    await nursery.start(system.engine.run)
    await system.directory.load(stores.landlord)
    await edge.push_apps.load()
    await nursery.start(edge.sessions.presence.run)
    await wake_all(stores, system.engine)
    nursery.start_soon(keep_up_hourly, stores)
    nursery.start_soon(system.profiles.run)
    nursery.start_soon(system.services.run)
    nursery.start_soon(system.renewer.run)
    operator_port = await nursery.start(edge.serve_operator)
    port = await nursery.start(edge.serve_public)
    local_url = f"http://{reachable(settings.host)}:{port}"
    operator_url = f"http://{reachable(settings.operator_host)}:{operator_port}"
    system.addresses.opened(local_url)
    base_url = system.addresses.base_url
    local_token = await system.local_operator.let_in(local_url, operator_url)
    return Running(
        settings=settings,
        base_url=base_url,
        ws_url=base_url.replace("http", "ws", 1) + "/ws",
        operator_url=operator_url,
        database_url=dsn,
        local_token=local_token,
        engine=system.engine,
        landlord=stores.landlord,
        reads=edge.reads,
        events=stores.events,
        vault=stores.vault,
        directory=system.directory,
        pool_of=stores.placements.pool,
        listening=system.listening,
    )


async def _stop(system: System) -> None:
    edge, seconds_max = system.edge, system.settings.stop_seconds_max
    edge.operator.stopping = True
    system.local_operator.forget()
    with trio.move_on_after(seconds_max):
        edge.sessions.close_all()
        edge.news.close()
        edge.public_stop.set()
        if edge.public_ended is not None:
            # What was taken is answered while there is still an engine to answer it.
            door_seconds_max = seconds_max * DOOR_SHARE
            async with trio.open_nursery() as closing:
                closing.cancel_scope.deadline = trio.current_time() + 2 * door_seconds_max
                closing.start_soon(system.services.stop, door_seconds_max)
                with trio.move_on_after(door_seconds_max):
                    await edge.public_ended.wait()
        await system.local_operator.shut_out()
        with trio.move_on_after(seconds_max * RENEWALS_SHARE):
            await system.renewer.settle()
        await system.engine.stop(seconds_max * ENGINE_SHARE)
        system.stores.writers.stop()
        await system.stores.writers.flush()
    edge.operator_stop.set()


def _connection_limits(connections_max: int) -> ConnectionLimits:
    """Half for readers, half for the writers of busy databases: an idle one is disconnected for another."""
    half = max(2, connections_max // 2)
    return ConnectionLimits(readers_max=half, writers_max=max(2, connections_max - half))
