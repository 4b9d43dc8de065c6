"""Credentials that expire, renewed while they still hold.

Why         A token that expires over night stops a business until somebody notices. Most platforms give a
            new one for the old one, but only while the old one is good.
Owns        when each account is due; nothing durable. What is due follows from the two times that stand
            beside the credentials, so a restart finds the same.
Promises    Each account of a platform with `Connection.renewal` is renewed when between half and two thirds
            of its credentials' life are over; where nobody said when they expire, as soon as an eighth of a
            usual life, a day at most, is over, and the platform allows it. An `AUTH` refusal of a send
            (`hurry`) renews at once, so that a token which died early is replaced and what was parked goes
            out. One call at a time for an account, `AT_ONCE` for all.
            The platform's refusal (AUTH, ACCOUNT) goes to `on_trouble` with its sentence and is not tried
            again with the same credentials; whatever else fails is tried again, also after the expiry, at
            which `on_trouble` is told. Credentials that were replaced meanwhile are left as they are.
            What the platform gave is held and stored again and again until the store has it.
Cannot      close the moment between the platform's answer and our commit: a process that dies in it has lost
            the answer. Where the old credentials stay good that costs nothing. Where a renewal uses up what
            it was made with (`Renewal.single_use`), the platform may refuse from then on; the channel is
            marked then, while the present token still has a third of its life or more. To keep the moment
            short, each call is written down before it is made, which a store that is away does not take and
            neither does one where another process has the tenant; and a stop waits for calls under way.
Limits      one entry of some 300 bytes for each account that expires.
On cancel   as a kill.
"""

from collections.abc import Awaitable, Callable, Mapping
from heapq import heappop, heappush
from math import inf
from random import Random
from typing import Final

import structlog
import trio
from msgspec import Struct

from adapters.channel import OnTrouble, Trouble
from adapters.port import Account, Adapter, Declined, ErrorClass, Renewed, Tools
from engine.domain.platforms import Renewal
from engine.errors import MijraError, NotFound

log = structlog.get_logger()

AT_ONCE: Final = 4
"""A renewal is one short call; four at a time renew ten thousand tokens of a day in minutes."""

CALL_SECONDS_MAX: Final = 60.0
"""An adapter's own limits end a call before; this one ends what forgot to have any."""

_NAP_SECONDS_MAX: Final = 3_600.0
"""How long a clock that was set forward goes unnoticed; what is due has hours left."""

_EIGHTH: Final = 8
_DAY_MS: Final = 86_400_000
_HOUR_MS: Final = 3_600_000

_RETRY_SECONDS_FIRST: Final = 30.0
_RETRY_SECONDS_MAX: Final = 3_600.0
"""The life that is left is hours at least: an outage is over before, and a platform that is back is not met
by everybody at once."""

_STORE_SECONDS_MAX: Final = 30.0

_FINAL: Final = frozenset({ErrorClass.AUTH, ErrorClass.ACCOUNT})


class Expiring(Struct, frozen=True, kw_only=True):
    """An account as the directory lists it: what says when it is due."""

    tenant_id: int
    channel_id: int
    platform: str
    credentials_at: int
    expires_at: int | None


AccountNow = Callable[[int, int], Awaitable[Account | None]]
"""(tenant id, channel id) -> the account of this moment. Raises Unavailable."""

Begin = Callable[[Account], Awaitable[None]]
"""Writes down, durably, that an account's credentials are about to be renewed. Raises what the store does."""

Keep = Callable[[Account, Renewed], Awaitable[bool]]
"""Stores new credentials of an account in place of those of `credentials_at`; False when these have been
replaced meanwhile. Repeating it is harmless. Raises Unavailable; NotFound when the account is gone."""


class RenewalState(Struct, frozen=True, kw_only=True):
    """One account's renewals, as health shows them. Times in ms; `error`: why the last try failed."""

    due_at: int | None
    renewed_at: int | None
    failures: int
    error: str | None


class _Entry:
    __slots__ = ("account", "busy", "due", "error", "failures", "refused", "renewed_at", "told")

    def __init__(self, account: Expiring) -> None:
        self.account = account
        self.due = inf  # wall clock, ms
        self.failures = 0
        self.error: str | None = None
        self.refused = False
        self.told = False
        self.busy = False
        self.renewed_at: int | None = None


class Renewer:
    """`run` in a nursery; `see` whenever the directory lists an account."""

    def __init__(
        self,
        *,
        adapters: Mapping[str, Adapter],
        tools: Callable[[], Tools],
        account: AccountNow,
        begin: Begin,
        keep: Keep,
        on_trouble: OnTrouble,
        wall_ms: Callable[[], int],
        random: Random,
    ) -> None:
        self._adapters = {
            name: each for name, each in adapters.items() if each.platform.connection.renewal is not None
        }
        self._tools = tools
        self._account = account
        self._begin = begin
        self._keep = keep
        self._on_trouble = on_trouble
        self._wall_ms = wall_ms
        self._random = random
        self._entries: dict[tuple[int, int], _Entry] = {}
        self._heap: list[tuple[float, tuple[int, int]]] = []
        self._changed = trio.Event()
        self._calling = 0
        self._in_hand = 0
        self._closing = False
        self.outcomes: dict[tuple[str, str], int] = {}
        """Since the start, by (platform, outcome): renewed, refused, failed, replaced, unneeded."""

    # ---------------------------------------------------------------- what is due when

    def see(self, account: Expiring) -> None:
        """The account is connected, or has other credentials. Never blocks."""
        if account.platform not in self._adapters:
            return
        place = (account.tenant_id, account.channel_id)
        entry = self._entries.get(place)
        if entry is None:
            entry = self._entries[place] = _Entry(account)
        elif entry.account == account:
            return
        else:
            entry.account = account
            entry.failures, entry.error, entry.refused, entry.told = 0, None, False, False
        self._due(entry, self._due_at(account))

    def hurry(self, tenant_id: int, channel_id: int, credentials_at: int) -> None:
        """The platform refused these credentials: try to renew them now. At most once for the same ones, and
        once in an hour, since a platform that refuses fresh ones refuses the next ones too. Never blocks."""
        entry = self._entries.get((tenant_id, channel_id))
        now = self._wall_ms()
        if entry is None or entry.refused or entry.account.credentials_at != credentials_at:
            return
        if entry.renewed_at is None or now - entry.renewed_at >= _HOUR_MS:
            self._due(entry, now)

    def state(self, tenant_id: int, channel_id: int) -> RenewalState | None:
        """None for an account that is not renewed from here."""
        entry = self._entries.get((tenant_id, channel_id))
        if entry is None:
            return None
        return RenewalState(
            due_at=None if entry.due == inf else int(entry.due),
            renewed_at=entry.renewed_at,
            failures=entry.failures,
            error=entry.error,
        )

    def soonest(self) -> Mapping[str, float]:
        """By platform, the seconds until the first account's credentials expire; negative: they have."""
        soonest: dict[str, float] = {}
        now = self._wall_ms()
        for entry in self._entries.values():
            account = entry.account
            if account.expires_at is not None:
                left = (account.expires_at - now) / 1000
                soonest[account.platform] = min(left, soonest.get(account.platform, inf))
        return soonest

    def _due_at(self, account: Expiring) -> float:
        renewal = self._renewal(account)
        youngest = account.credentials_at + renewal.age_seconds_min * 1000
        if account.expires_at is None:
            soon = min(renewal.lifetime_seconds * 1000 / _EIGHTH, _DAY_MS)
            return max(youngest, account.credentials_at + soon * (1 + self._random.random() / _EIGHTH))
        life = max(0, account.expires_at - account.credentials_at)
        return max(youngest, account.credentials_at + life * (1 / 2 + self._random.random() / 6))

    def _renewal(self, account: Expiring) -> Renewal:
        renewal = self._adapters[account.platform].platform.connection.renewal
        assert renewal is not None
        return renewal

    def _due(self, entry: _Entry, at: float) -> None:
        entry.due = at
        if at != inf:
            heappush(self._heap, (at, (entry.account.tenant_id, entry.account.channel_id)))
        self._stir()

    def _stir(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    # ---------------------------------------------------------------- life

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                changed = self._changed
                seconds = inf
                while not self._closing and self._calling < AT_ONCE and self._heap:
                    at, place = self._heap[0]
                    entry = self._entries.get(place)
                    if entry is None or entry.due != at or entry.busy:
                        heappop(self._heap)  # it was told anew, or is gone
                        continue
                    seconds = (at - self._wall_ms()) / 1000
                    if seconds > 0:
                        break
                    heappop(self._heap)
                    entry.busy, entry.due = True, inf
                    self._in_hand += 1
                    self._calling += 1
                    nursery.start_soon(self._work, entry)
                    seconds = inf
                with trio.move_on_after(min(seconds, _NAP_SECONDS_MAX)):
                    await changed.wait()

    async def settle(self) -> None:
        """Begins nothing any more; returns when what is under way is stored or has failed."""
        self._closing = True
        while self._in_hand:
            await self._changed.wait()

    async def _work(self, entry: _Entry) -> None:
        listed = entry.account
        renewed: tuple[Account, Renewed] | None = None
        try:
            try:
                renewed = await self._renew(entry, listed)
            finally:
                # An answer that waits for the store holds up no other account's call.
                self._calling -= 1
                self._stir()
            if renewed is not None:
                await self._store(entry, *renewed)
        except Exception:  # an adapter's bug costs its accounts' renewal, nothing else
            log.exception("credentials.crashed", **_names(listed))
            self._failed(entry, listed, "defect in the adapter", None)
        finally:
            entry.busy = False
            self._in_hand -= 1
            self._due(entry, entry.due)  # what was said while it was busy has been passed over

    # ---------------------------------------------------------------- one renewal

    async def _renew(self, entry: _Entry, listed: Expiring) -> tuple[Account, Renewed] | None:
        """What is to be stored, where there is something."""
        place = (listed.tenant_id, listed.channel_id)
        try:
            account = await self._account(*place)
        except MijraError as error:
            self._failed(entry, listed, error.code, error.retry_after_seconds)
            return None
        if account is None:
            self._entries.pop(place, None)
            return None
        if account.credentials_at != listed.credentials_at:
            # The row is what counts: the directory was not told before a crash.
            self.see(_expiring(account))
            return None
        try:
            await self._begin(account)
        except MijraError as error:
            self._failed(entry, listed, error.code, error.retry_after_seconds)
            return None
        result = await self._ask(entry, listed, account)
        if isinstance(result, Renewed):
            return account, result
        if result is not None:
            self._declined(entry, listed, result)
        return None

    def _declined(self, entry: _Entry, listed: Expiring, result: Declined) -> None:
        if result.error_class not in _FINAL:
            self._failed(entry, listed, result.message, result.retry_after_seconds)
            return
        if entry.account != listed:
            return
        entry.refused, entry.error = True, result.message
        self._count(listed, "refused")
        log.error("credentials.refused", **_names(listed), code=result.platform_code, note=result.message)
        self._tell(entry, result.platform_code, result.message)

    async def _ask(self, entry: _Entry, listed: Expiring, account: Account) -> Renewed | Declined | None:
        """The platform's answer; None when there is nothing to do about it any more."""
        names = _names(listed)
        log.info("credentials.renewing", **names)
        try:
            with trio.fail_after(CALL_SECONDS_MAX):
                result = await self._adapters[account.platform].renew(account, self._tools())
        except trio.TooSlowError:
            self._failed(entry, listed, "no answer in time", None)
            return None
        except MijraError as error:
            self._failed(entry, listed, str(error) or error.code, error.retry_after_seconds)
            return None
        if result is None:
            self._count(listed, "unneeded")
        return result

    async def _store(self, entry: _Entry, account: Account, renewed: Renewed) -> None:
        names = _names(entry.account)
        wait, kept = 1.0, None
        while kept is None:
            try:
                kept = await self._keep(account, renewed)
            except NotFound:
                self._entries.pop((account.tenant_id, account.channel_id), None)
                return
            except MijraError as error:
                log.error("credentials.not_stored", **names, code=error.code, seconds=wait)
                await trio.sleep(wait)
                wait = min(2 * wait, _STORE_SECONDS_MAX)
        if not kept:
            log.warning("credentials.replaced_meanwhile", **names)
            self._count(entry.account, "replaced")
            return
        entry.renewed_at = self._wall_ms()
        self._count(entry.account, "renewed")
        log.info("credentials.renewed", **names, expires_at=renewed.expires_at)

    def _failed(self, entry: _Entry, account: Expiring, why: str, retry_after: float | None) -> None:
        """Tried again in a while, unless it was about credentials that have been replaced since. At the
        expiry people have to know."""
        now = self._wall_ms()
        if entry.account != account:
            return
        entry.failures += 1
        entry.error = why
        wait = min(_RETRY_SECONDS_MAX, _RETRY_SECONDS_FIRST * 2 ** min(entry.failures - 1, 16))
        if account.expires_at is not None and account.expires_at > now:
            # Not past the end: a last try while the present ones still hold.
            wait = min(wait, max(_RETRY_SECONDS_FIRST, (account.expires_at - now) / 2_000))
        wait = max(wait * (1 + self._random.random() / 5), retry_after or 0.0)
        self._count(account, "failed")
        log.warning("credentials.not_renewed", **_names(account), reason=why, seconds=round(wait))
        if account.expires_at is not None and account.expires_at <= now and not entry.told:
            entry.told = True
            self._tell(entry, "expired", f"The credentials have expired and could not be renewed: {why}")
        self._due(entry, now + wait * 1000)

    def _tell(self, entry: _Entry, code: str, note: str) -> None:
        """Sending goes on: the present ones may still hold, and the platform says so when they do not."""
        account = entry.account
        self._on_trouble(
            Trouble(
                tenant_id=account.tenant_id,
                channel_id=account.channel_id,
                code=code,
                note=note,
                halted=False,
                credentials_at=account.credentials_at,
            )
        )

    def _count(self, account: Expiring, outcome: str) -> None:
        key = (account.platform, outcome)
        self.outcomes[key] = self.outcomes.get(key, 0) + 1


def _expiring(account: Account) -> Expiring:
    return Expiring(
        tenant_id=account.tenant_id,
        channel_id=account.channel_id,
        platform=account.platform,
        credentials_at=account.credentials_at,
        expires_at=account.credentials_expire_at,
    )


def _names(account: Expiring) -> dict[str, object]:
    return {"tenant": account.tenant_id, "channel": account.channel_id, "platform": account.platform}
