"""Google's public keys, with which pushes are verified: fetched, kept and refreshed.

Why         Verifying a push is pure and takes no time; keys have to be fetched, and change. So a service
            keeps them here, and the receiver reads.
Owns        the keys by the address of their set, and which account uses which address: Google's own, or that
            of the stand-in that plays it for the account. A tenant who names an address of his own can sign
            for his own accounts, and for nobody else's.
Promises    Keys are there soon after an account is connected; they are fetched again when the answer's
            Cache-Control says that they are old, and when a push names a key that is not there, at most once
            in `ASK_SECONDS` for each address. When Google cannot be reached the old keys go on counting. A
            key that is no longer in the set counts no more.
Limits      `KEYS_MAX` keys and `_SET_BYTES_MAX` bytes for each address; `_AT_ONCE` addresses at a time.
Source      The Google Business sheet, B3.
"""

import re
import time
from collections.abc import Callable
from math import inf
from typing import Any, Final

import jwt
import structlog
import trio
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from adapters.client import PlatformClient
from adapters.google_business.limits import LABEL
from adapters.guard import Guard
from adapters.port import Declined
from adapters.wire import decode_json
from engine.errors import InvalidInput

CERTS_URL: Final = "https://www.googleapis.com/oauth2/v3/certs"
"""The `jwks_uri` of accounts.google.com's discovery document; unconfirmed in the sheet, hence a setting."""

KEYS_MAX: Final = 50
"""Google publishes two or three."""
KEY_BITS_MIN: Final = 2_048
"""RFC 7518, 3.3."""
ASK_SECONDS: Final = 30.0
"""A push with a new key is repeated within minutes, and a stranger's invented ones must not make us call
Google all the time."""
FIRST_SECONDS: Final = 5.0
"""Between attempts while no key is known at all: a profile that was just connected believes nothing."""
AGE_SECONDS: Final = (300.0, 86_400.0)
"""What of a max-age is believed: not so little that we call all the time, not so much that a key that was
taken back counts for days. Google says five to seven hours."""
AGE_SECONDS_USUAL: Final = 3_600.0

_SET_BYTES_MAX: Final = 65_536
_CALL_SECONDS_MAX: Final = 10.0
_AT_ONCE: Final = 4
_IDLE_MAX: Final = 16
"""Addresses that nobody uses any more and whose keys are still known: some 20 kB."""
_MAX_AGE: Final = re.compile(r"(?:^|[,\s])max-age\s*=\s*\"?([0-9]{1,9})")

_log = structlog.get_logger()

AccountKey = tuple[int, int]
"""(tenant id, channel id)"""


class _Ring:
    """The keys of one address. Times are of the clock that `PublicKeys` has."""

    __slots__ = ("asked_at", "due_at", "keys", "users")

    def __init__(self) -> None:
        self.keys: dict[str, jwt.PyJWK] = {}
        self.users: set[AccountKey] = set()
        self.asked_at = -inf
        self.due_at = -inf


class PublicKeys:
    """All methods belong to the trio thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rings: dict[str, _Ring] = {}
        self._urls: dict[AccountKey, str] = {}
        self._waiting: set[trio.Event] = set()

    def use(self, account: AccountKey, url: str) -> None:
        """The account's pushes are signed by the keys at this address from now on."""
        self.drop(account)
        self._urls[account] = url
        ring = self._rings.setdefault(url, _Ring())
        if not ring.users:
            # Nobody has looked after it; what is known of it counts until the answer comes.
            ring.due_at = -inf
        ring.users.add(account)
        self._stir()

    def drop(self, account: AccountKey) -> None:
        """Nothing is believed for the account any more. Idempotent."""
        url = self._urls.pop(account, None)
        if url is None:
            return
        self._rings[url].users.discard(account)
        # Kept for whoever comes back: a channel whose settings change is dropped and used again.
        idle = [each for each, ring in self._rings.items() if not ring.users]
        for each in idle[:-_IDLE_MAX]:
            del self._rings[each]

    def uses(self, account: AccountKey) -> str | None:
        """Where the account's keys are had from; None: nothing is believed for it."""
        return self._urls.get(account)

    def find(self, account: AccountKey, kid: str) -> jwt.PyJWK | None:
        """The key of this id among those that count for the account. None asks for a refresh."""
        ring = self._rings.get(self._urls.get(account, ""))
        if ring is None:
            return None
        key = ring.keys.get(kid)
        if key is None:
            ring.due_at = min(ring.due_at, ring.asked_at + ASK_SECONDS)
            self._stir()
        return key

    async def run(self, guard: Guard, stopping: trio.Event) -> None:
        """Keeps all keys fresh until `stopping`."""
        async with (
            PlatformClient(
                guard, LABEL, connections_max=_AT_ONCE + 1, seconds_max=_CALL_SECONDS_MAX
            ) as client,
            trio.open_nursery() as nursery,
        ):
            room = trio.CapacityLimiter(_AT_ONCE)
            while not stopping.is_set():
                stirred = trio.Event()
                self._waiting.add(stirred)
                try:
                    for url, ring in self._taken_due():
                        # Whatever others name and however long it takes, Google's own are asked at once.
                        own = trio.CapacityLimiter(1) if url == CERTS_URL else room
                        nursery.start_soon(self._refresh, client, url, ring, own)
                    with trio.move_on_after(max(0.0, self._next_due() - self._clock())):
                        await _either(stirred, stopping)
                finally:
                    self._waiting.discard(stirred)
            nursery.cancel_scope.cancel()

    # -------------------------------------------------------------- within

    def _stir(self) -> None:
        for event in self._waiting:
            event.set()

    def _next_due(self) -> float:
        return min((ring.due_at for ring in self._rings.values() if ring.users), default=inf)

    def _taken_due(self) -> list[tuple[str, _Ring]]:
        """What is to be fetched now."""
        now = self._clock()
        due = [(url, ring) for url, ring in self._rings.items() if ring.users and ring.due_at <= now]
        for _, ring in due:
            ring.asked_at, ring.due_at = now, inf
        return due

    async def _refresh(
        self, client: PlatformClient, url: str, ring: _Ring, room: trio.CapacityLimiter
    ) -> None:
        async with room:
            answer = await client.ask("GET", url, answer_bytes_max=_SET_BYTES_MAX)
        try:
            if isinstance(answer, Declined):
                raise InvalidInput(answer.message)
            keys = read_set(answer.content)
        except InvalidInput as error:
            _log.warning("google.keys_not_fetched", url=url, reason=error.message, kept=len(ring.keys))
            later = ASK_SECONDS if ring.keys else FIRST_SECONDS
        else:
            _log.info("google.keys_fetched", url=url, keys=len(keys))
            ring.keys = keys
            later = _age(answer.headers.get("cache-control"))
        ring.due_at = self._clock() + later
        self._stir()


def read_set(body: bytes) -> dict[str, jwt.PyJWK]:
    """The RSA keys of a JWK set by id (RFC 7517); others are left out. Raises InvalidInput when it is none,
    or has no key that can be used: an empty set would undo what is known."""
    found = decode_json(body)
    keys = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(keys, list):
        raise InvalidInput("it is no JWK set")
    usable: dict[str, jwt.PyJWK] = {}
    for each in keys[:KEYS_MAX]:
        if not isinstance(each, dict) or each.get("kty") != "RSA" or each.get("use", "sig") != "sig":
            continue
        kid = each.get("kid")
        key = _key_of(each)
        if isinstance(kid, str) and kid and key is not None:
            usable[kid] = key
    if not usable:
        raise InvalidInput("it has no key that can be used")
    return usable


def _key_of(each: dict[str, Any]) -> jwt.PyJWK | None:
    if each.get("alg", "RS256") != "RS256":
        return None
    try:
        key = jwt.PyJWK.from_dict(each, "RS256")
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    public = key.key
    return key if isinstance(public, RSAPublicKey) and public.key_size >= KEY_BITS_MIN else None


def _age(cache_control: str | None) -> float:
    """Seconds until the set is old."""
    found = _MAX_AGE.search((cache_control or "").lower())
    least, most = AGE_SECONDS
    return AGE_SECONDS_USUAL if found is None else min(most, max(least, float(found[1])))


async def _either(first: trio.Event, second: trio.Event) -> None:
    """Returns when one of the two is set."""
    async with trio.open_nursery() as nursery:

        async def wait(event: trio.Event) -> None:
            await event.wait()
            nursery.cancel_scope.cancel()

        nursery.start_soon(wait, first)
        nursery.start_soon(wait, second)
