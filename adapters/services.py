"""Runs the services of all adapters (adapters/service.py) for the life of the process.

Promises    A crash costs the service that crashed a pause, and nobody else anything: it is logged and the
            service is started again after `RESTART_SECONDS`, twice as long each time. One that has run for
            `STEADY_SECONDS` begins at the shortest pause again.
            An account's service never runs twice at a time: the one before has ended when the next begins.
            What changes is noticed at once where somebody says so (`changed`, `committed`), and otherwise
            within `LOOK_SECONDS`.
Owns        one task for each service, and one for each account of each account service.
Stops       `stop` asks all of them to end, waits, and cancels those that have not.
Leaves      what they do to the adapters; which accounts there are to the callable it is given.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from random import Random
from typing import Final

import structlog
import trio

from adapters.port import Account
from adapters.service import AccountService, Service
from engine.domain.tenant.actor import CONFIG_CHANGED
from engine.errors import MijraError
from engine.ports import LoggedEvent

RESTART_SECONDS: Final = (1.0, 300.0)
"""First and longest pause before a restart: quick for a hiccup, and a mailbox that is down for hours is not
asked more often than a person would."""

STEADY_SECONDS: Final = 60.0
"""Who has run for so long did not fail at the start."""

LOOK_SECONDS: Final = 60.0
"""A tenant whose database did not answer, or a change that nobody told, is noticed by then."""

log = structlog.get_logger()

AccountsOn = Callable[[str], Awaitable[Sequence[Account]]]
"""Platform -> its connected accounts, credentials opened. Leaves out those that cannot be read now."""


class Services:
    """Implements `engine.ports.EventSink`. `run` in a nursery, `stop` before the engine is stopped."""

    def __init__(
        self, services: Mapping[str, Sequence[Service | AccountService]], accounts: AccountsOn, random: Random
    ) -> None:
        """`services` by platform."""
        self._services = services
        self._accounts = accounts
        self._random = random
        self._stopping = trio.Event()
        self._ended = trio.Event()
        self._changed = trio.Event()
        self._scope = trio.CancelScope()

    def changed(self) -> None:
        """An account was connected, changed or disconnected. Never blocks."""
        self._changed.set()
        self._changed = trio.Event()

    def committed(self, events: Sequence[LoggedEvent]) -> None:
        if any(event.name == CONFIG_CHANGED for event in events):
            self.changed()

    async def run(self) -> None:
        """Until `stop`, or cancelled."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    for platform, services in self._services.items():
                        for service in services:
                            if isinstance(service, AccountService):
                                nursery.start_soon(self._follow, platform, service)
                            else:
                                nursery.start_soon(self._supervise, service.name, service.run)
        finally:
            self._ended.set()

    async def stop(self, seconds_max: float) -> None:
        """Returns when all have ended; those that need longer are cancelled. For one that `run` runs."""
        self._stopping.set()
        with trio.move_on_after(seconds_max):
            await self._ended.wait()
        self._scope.cancel()
        await self._ended.wait()

    # ---------------------------------------------------------------- accounts

    async def _follow(self, platform: str, service: AccountService) -> None:
        """Keeps one task for each account that is wanted."""
        kept: dict[tuple[int, int], _Kept] = {}
        async with trio.open_nursery() as nursery:
            while not self._stopping.is_set():
                changed = self._changed
                wanted = await self._wanted(platform, service)
                if wanted is not None:
                    for key, one in kept.items():
                        one.want(wanted.get(key))
                    kept = {key: one for key, one in kept.items() if not one.ended}
                    for key, account in wanted.items():
                        if key not in kept:
                            kept[key] = _Kept(account)
                            nursery.start_soon(self._keep, service, kept[key])
                with trio.move_on_after(LOOK_SECONDS):
                    await self._either(changed)

    async def _wanted(self, platform: str, service: AccountService) -> dict[tuple[int, int], Account] | None:
        try:
            accounts = await self._accounts(platform)
            return {
                (each.tenant_id, each.channel_id): each
                for each in accounts
                if each.active and service.wants(each)
            }
        except Exception:  # as it is known now is kept; the next look may tell more
            log.exception("service.accounts_unknown", service=service.name)
            return None

    async def _either(self, changed: trio.Event) -> None:
        """Returns when `changed` or the stop is told."""
        async with trio.open_nursery() as nursery:

            async def first(event: trio.Event) -> None:
                await event.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(first, changed)
            nursery.start_soon(first, self._stopping)

    async def _keep(self, service: AccountService, kept: "_Kept") -> None:
        """One account's task: its service, again for each change, until it is wanted no more."""
        while (account := kept.account) is not None and not self._stopping.is_set():
            changed = kept.changed
            with trio.CancelScope() as kept.scope:
                run = partial(service.run, account)
                await self._supervise(
                    service.name, run, tenant=account.tenant_id, channel_id=account.channel_id
                )
                # It has nothing to do, for this account as it is.
                await self._either(changed)
        kept.ended = True

    # ---------------------------------------------------------------- one service

    async def _supervise(self, name: str, run: Callable[[trio.Event], Awaitable[None]], **names: int) -> None:
        """Returns when the service did."""
        first, longest = RESTART_SECONDS
        pause = first
        while not self._stopping.is_set():
            began = trio.current_time()
            try:
                await run(self._stopping)
                return
            except Exception as error:  # noqa: BLE001  # whatever an adapter's bug raises; the others go on
                if trio.current_time() - began >= STEADY_SECONDS:
                    pause = first
                seconds = pause * (1.0 + 0.2 * self._random.random())
                self._tell(name, error, seconds, names)
            except BaseExceptionGroup as group:
                # It was cancelled and failed at that; the failure must not end the tasks above.
                failure, others = group.split(Exception)
                if failure is not None:
                    self._tell(name, failure, 0.0, names)
                if others is not None:
                    raise others from None
                return
            pause = min(longest, pause * 2)
            with trio.move_on_after(seconds):
                await self._stopping.wait()

    def _tell(self, name: str, error: Exception, seconds: float, names: Mapping[str, int]) -> None:
        told = {"service": name, "restart_seconds": round(seconds, 1), **names}
        if isinstance(error, MijraError):
            log.warning("service.interrupted", **told, code=error.code, reason=error.message)
        else:
            log.error("service.crashed", **told, exc_info=error)


class _Kept:
    """What one account's task is to do: written by the one that follows the accounts."""

    def __init__(self, account: Account) -> None:
        self.account: Account | None = account
        self.changed = trio.Event()
        self.scope = trio.CancelScope()
        self.ended = False

    def want(self, account: Account | None) -> None:
        """None: not any more. It may be wanted again before its task has ended."""
        if account != self.account:
            self.account = account
            self.changed.set()
            self.changed = trio.Event()
            self.scope.cancel()
