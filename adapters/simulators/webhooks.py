"""Tells the server what happened: signed POSTs, repeated until they are acknowledged.

Owns        The events that are not acknowledged yet, and the connections to the callback addresses.
Limits      `events_waiting_max` events (telling more is refused with `MailboxFull`), and
            `webhook_connections_max` calls at a time.
Promises    An event is repeated with growing gaps until an HTTP 200 or the end of the retry time; every
            attempt is in the ledger. Order is not promised, as on the real platform: calls are concurrent,
            retries come late. Late events, duplicates and batches appear by the settings' probabilities.
Restart     Nothing is kept.
"""

import heapq
import itertools
import random
import secrets
import ssl
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Hashable, Mapping, Sequence
from contextlib import aclosing
from functools import cache
from typing import Any, Final, Literal, Protocol, cast

import httpx
import trio
from msgspec import Struct

from adapters.simulators import builders
from adapters.simulators.builders import Json
from adapters.simulators.ledger import Attempt, Fact, Ledger
from adapters.simulators.settings import Settings
from engine.errors import DeliveryFailed, MailboxFull

_ANSWER_BYTES_MAX = 65_536
"""A callback's answer is of no interest beyond its status; a longer one ends the connection."""


def now_ms() -> int:
    """The platform's wall clock."""
    return time.time_ns() // 1_000_000


class Signing(Protocol):
    """What of one of Meta's accounts is needed to tell something of it."""

    @property
    def app_secret(self) -> str: ...

    @property
    def verify_token(self) -> str: ...


class Event(Struct, frozen=True):
    """One change to tell, for one account; `facts` are what the ledger knows of it."""

    account: Any
    url: str
    change: Json
    facts: tuple[Fact, ...]


class Post(Struct, frozen=True):
    """One POST to a callback address, signed as the platform signs. `headers` name the content type. `again`
    makes it anew for a repetition, where signatures grow old."""

    body: bytes
    headers: Mapping[str, str]
    again: Callable[[], "Post"] | None = None


UNSIGNED: Final = {"Content-Type": "application/json"}
"""Headers of a body that nobody has signed."""

Verdict = Literal["acknowledged", "refused", "again"]


class Speech(Protocol):
    """How a platform puts what happened into requests, and what it makes of the answers."""

    def post(self, events: Sequence[Event]) -> Post:
        """The request that tells these events, which share an address and `company`."""
        ...

    def post_of(self, account: Any, url: str, body: bytes) -> Post:
        """Any body, signed as the account's."""
        ...

    def company(self, event: Event) -> Hashable | None:
        """Events of one such value may share a request; None: this one is told alone."""
        ...

    def verdict(self, status: int) -> Verdict:
        """What an answer means: done, given up, or to be repeated."""
        ...


class MetaSpeech:
    """Meta's: JSON signed with the app's secret, batches, and 200 alone is an acknowledgement."""

    def __init__(self, body_of: Callable[[Sequence[Event]], bytes]) -> None:
        self._body_of = body_of

    def post(self, events: Sequence[Event]) -> Post:
        return self.post_of(events[0].account, events[0].url, self._body_of(events))

    def post_of(self, account: Any, url: str, body: bytes) -> Post:
        return Post(
            body,
            {
                "Content-Type": "application/json",
                "User-Agent": "facebookexternalua",
                "X-Hub-Signature-256": builders.signature(account.app_secret, body),
            },
        )

    def company(self, event: Event) -> Hashable:
        # Only what is signed under the same key can share a body.
        return str(event.account.app_secret)

    def verdict(self, status: int) -> Verdict:
        return "acknowledged" if status == 200 else "again"


class _Delivery(Struct):
    """One request on its way, perhaps of several events."""

    id: int
    url: str
    post: Post
    facts: tuple[Fact, ...]
    events: int
    began: float
    attempts: int = 0
    acknowledged: bool = False
    repeats_left: int = 0


class _Body(httpx.AsyncByteStream):
    """A body in one piece.

    httpx's own is an asynchronous generator, which a cancelled call leaves to the garbage collector; trio
    warns of that, and rightly. An iterator has nothing to clean up.
    """

    def __init__(self, content: bytes) -> None:
        self._pieces = [content] if content else []

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self._pieces:
            raise StopAsyncIteration
        return self._pieces.pop()


class WebhookSender:
    """`run` in a nursery; `tell` from anywhere in the same trio run."""

    def __init__(
        self,
        ledger: Ledger,
        rng: random.Random,
        settings: Callable[[], Settings],
        speech: Speech,
    ) -> None:
        self.speech = speech
        self._ledger = ledger
        self._rng = rng
        self._settings = settings
        self._serial = itertools.count(1)
        self._ready: deque[_Delivery] = deque()
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._batches: dict[tuple[str, Hashable], list[Event]] = {}
        self._idle_workers = trio.lowlevel.ParkingLot()
        self._timer = trio.Event()
        self._quiet = trio.lowlevel.ParkingLot()
        self._waiting = 0
        self._planned = 0
        self._in_flight = 0

    def tell(self, event: Event, *, after_seconds: float = 0.0) -> None:
        """Take responsibility for an event; never blocks. `MailboxFull` when too many are waiting."""
        settings = self._settings()
        if self._waiting >= settings.events_waiting_max:
            raise MailboxFull(f"{self._waiting} events wait to be acknowledged by {event.url}")
        if self._rng.random() < settings.late_probability:
            after_seconds += self._rng.uniform(*settings.late_seconds)
        self._waiting += 1
        if after_seconds > 0:
            self._at(after_seconds, lambda: self._release(event))
        else:
            self._release(event)

    def after(self, seconds: float, action: Callable[[], None]) -> bool:
        """Run a plain function later, in no task of its own. False (and never) when too much is planned."""
        if self._planned >= self._settings().events_waiting_max:
            return False
        self._planned += 1

        def act() -> None:
            self._planned -= 1
            action()
            self._tell_if_quiet()

        self._at(seconds, act)
        return True

    async def post_raw(self, url: str, post: Post) -> str:
        """One POST of anything, once, unrecorded; returns the outcome. For tests of bad input."""
        async with _client(1) as client:
            return await self._outcome(client, url, post)

    async def wait_quiet(self) -> None:
        """Wait until every event is acknowledged or given up and nothing is planned."""
        while not self._is_quiet():
            await self._quiet.park()

    def statistics(self) -> dict[str, int]:
        """Waiting (not yet acknowledged), in flight, planned, and the limit."""
        return {
            "waiting": self._waiting,
            "in_flight": self._in_flight,
            "planned": self._planned,
            "limit": self._settings().events_waiting_max,
        }

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Work until cancelled; what is in flight then is cut off, its outcome unrecorded."""
        workers = self._settings().webhook_connections_max
        async with _client(workers) as client, trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_time)
            for _ in range(workers):
                nursery.start_soon(self._work, client)
            task_status.started()

    # ── time ─────────────────────────────────────────────────────────────────────────────────────

    def _at(self, seconds: float, action: Callable[[], None]) -> None:
        due = trio.current_time() + seconds
        first = not self._later or due < self._later[0][0]
        heapq.heappush(self._later, (due, next(self._serial), action))
        if first:
            self._timer.set()

    async def _keep_time(self) -> None:
        while True:
            self._timer = trio.Event()
            now = trio.current_time()
            while self._later and self._later[0][0] <= now:
                heapq.heappop(self._later)[2]()
            with trio.move_on_at(self._later[0][0] if self._later else float("inf")):
                await self._timer.wait()

    # ── batching ─────────────────────────────────────────────────────────────────────────────────

    def _release(self, event: Event) -> None:
        settings = self._settings()
        company = self.speech.company(event)
        if company is None:
            self._enqueue([event])
            return
        destination = (event.url, company)
        batch = self._batches.get(destination)
        if batch is not None:
            batch.append(event)
            if len(batch) >= settings.batch_events_max:
                self._close_batch(destination, batch)
        elif self._rng.random() < settings.batch_probability:
            opened = self._batches[destination] = [event]
            self._at(settings.batch_seconds, lambda: self._close_batch(destination, opened))
        else:
            self._enqueue([event])

    def _close_batch(self, destination: tuple[str, Hashable], batch: list[Event]) -> None:
        if self._batches.get(destination) is batch:
            del self._batches[destination]
            self._enqueue(batch)

    def _enqueue(self, events: Sequence[Event]) -> None:
        delivery = _Delivery(
            id=next(self._serial),
            url=events[0].url,
            post=self.speech.post(events),
            facts=tuple(fact for event in events for fact in event.facts),
            events=len(events),
            began=trio.current_time(),
            repeats_left=self._settings().duplicates_max,
        )
        self._make_ready(delivery)

    def _make_ready(self, delivery: _Delivery) -> None:
        self._ready.append(delivery)
        self._idle_workers.unpark()

    # ── the calls ────────────────────────────────────────────────────────────────────────────────

    async def _work(self, client: httpx.AsyncClient) -> None:
        while True:
            while not self._ready:
                await self._idle_workers.park()
            delivery = self._ready.popleft()
            self._in_flight += 1
            try:
                await self._attempt(client, delivery)
            finally:
                self._in_flight -= 1
            self._tell_if_quiet()

    async def _attempt(self, client: httpx.AsyncClient, delivery: _Delivery) -> None:
        delivery.attempts += 1
        if delivery.attempts > 1 and delivery.post.again is not None:
            delivery.post = delivery.post.again()
        began = trio.current_time()
        outcome = await self._outcome(client, delivery.url, delivery.post)
        attempt = Attempt(
            delivery=delivery.id,
            number=delivery.attempts,
            outcome=outcome,
            facts=len(delivery.facts),
            bytes=len(delivery.post.body),
            milliseconds=round((trio.current_time() - began) * 1_000, 3),
            at=now_ms(),
        )
        verdict = self.speech.verdict(int(outcome)) if outcome.isdigit() else "again"
        acknowledged = verdict == "acknowledged"
        self._ledger.record_attempt(attempt, delivery.facts, acknowledged=acknowledged)
        if acknowledged and not delivery.acknowledged:
            delivery.acknowledged = True
            self._waiting -= delivery.events
        self._plan_next(delivery, verdict)

    def _plan_next(self, delivery: _Delivery, verdict: Verdict) -> None:
        settings = self._settings()
        if verdict == "acknowledged":
            if delivery.repeats_left and self._rng.random() < settings.duplicate_probability:
                delivery.repeats_left -= 1
                self.after(self._rng.uniform(*settings.duplicate_seconds), lambda: self._make_ready(delivery))
            return
        if delivery.acknowledged:
            # A duplicate that was refused: the platform has had its 200 and lets it rest.
            return
        gaps = settings.retry_gaps_seconds
        gap = gaps[min(delivery.attempts, len(gaps)) - 1] * settings.time_factor
        too_late = (
            trio.current_time() + gap - delivery.began > settings.retry_seconds_max * settings.time_factor
        )
        used_up = settings.retries_max is not None and delivery.attempts > settings.retries_max
        if too_late or used_up or verdict == "refused":
            self._waiting -= delivery.events
            for fact in delivery.facts:
                fact.abandoned = True
            return
        # A tenth of jitter, so that retries after an outage do not all come at once.
        self._at(gap * self._rng.uniform(1.0, 1.1), lambda: self._make_ready(delivery))

    async def _outcome(self, client: httpx.AsyncClient, url: str, post: Post) -> str:
        headers = {**post.headers, "Content-Length": str(len(post.body))}
        with trio.move_on_after(self._settings().webhook_answer_seconds_max):
            try:
                # httpx completes neither Host nor Content-Length for a stream of one's own.
                target = httpx.URL(url)
                headers["Host"] = target.netloc.decode("ascii")
                request = httpx.Request("POST", target, headers=headers, stream=_Body(post.body))
                response = await client.send(request, stream=True)
                async with aclosing(response):
                    # Read to its end, because only then can the connection be used again.
                    received = 0
                    # httpx promises an iterator and gives a generator, which must be closed when left early.
                    async with aclosing(cast("AsyncGenerator[bytes]", response.aiter_raw())) as pieces:
                        async for piece in pieces:
                            received += len(piece)
                            if received > _ANSWER_BYTES_MAX:
                                return "cut"
                    return str(response.status_code)
            except httpx.ConnectError:
                return "refused"
            except httpx.TimeoutException:
                return "timeout"
            except (httpx.TransportError, httpx.InvalidURL):
                return "cut"
        return "timeout"

    # ── quiet ────────────────────────────────────────────────────────────────────────────────────

    def _is_quiet(self) -> bool:
        return not (self._waiting or self._planned or self._in_flight or self._ready)

    def _tell_if_quiet(self) -> None:
        if self._is_quiet():
            self._quiet.unpark_all()


async def shake_hands(account: Signing, url: str) -> None:
    """Meta's GET to a new callback address (WhatsApp sheet, section 1). Raises DeliveryFailed unless it is
    answered 200 with the challenge within 10 seconds."""
    challenge = str(secrets.randbelow(10**10))
    query = {"hub.mode": "subscribe", "hub.challenge": challenge, "hub.verify_token": account.verify_token}
    try:
        async with _client(1) as client:
            response = await client.get(url, params=query)
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise DeliveryFailed(f"no answer from the callback address: {type(error).__name__}") from error
    if response.status_code != 200 or response.text != challenge:
        raise DeliveryFailed(
            f"the callback address answered {response.status_code} to the handshake and "
            f"{'the challenge' if response.text == challenge else 'not the challenge'}"
        )


def _client(connections: int) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    # Proxies from the environment would send a sandbox's calls out of the machine.
    return httpx.AsyncClient(limits=limits, timeout=10.0, trust_env=False, verify=_trust())


@cache
def _trust() -> ssl.SSLContext:
    """Reading the certificates of all authorities takes a tenth of a second, more than a simulator lives in
    some tests; the context is shared."""
    return httpx.create_ssl_context(trust_env=False)
