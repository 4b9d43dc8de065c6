"""What `ingest` and `latency` share: both systems up beside each other, one round of load, and the proof
after it.

Promises   all subjects run for the whole bench, each with a PostgreSQL of its own, so that a round of one
           finds the other idle and neither pays for starting; after each round the database is compared with
           what was acknowledged, message by message, and a difference ends the bench with Unproven.
Leaves     what is asked of a round and how it is told to the benches.
"""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import structlog
import trio
from msgspec import Struct
from rich.console import Console

from bench.client import LoadClient, Outcome
from bench.harness import Missing
from bench.servers import Subject, echo_server, fastapi_stack, mijra
from bench.webhooks import Traffic
from storage.bridge import Bridge

OURS: Final = "mijra"
FASTAPI: Final = "fastapi stack"
CLIENT_ALONE: Final = "load client alone"
# Enough people for row locks to matter seldom, few enough that most conversations exist already.
CUSTOMERS: Final = 2000
# Below this share of a core the client had time to spare, so the server set the pace.
CLIENT_SHARE_MAX: Final = 0.8


# What the contract allows is 45; the rest is for stopping everything and for the table.
QUICK_SECONDS_MAX: Final = 37


class Unproven(Exception):
    """What a system acknowledged and what it stored or pushed are not the same; its speed means nothing."""


class Field(Struct):
    """The systems under load, ours first, the URL of the trivial server, and who is missing and why."""

    subjects: list[Subject]
    echo_url: str | None
    missing: dict[str, str]


@asynccontextmanager
async def field(*, worker: bool = True, plain_route: bool = False) -> AsyncIterator[Field]:
    """Start everything on fresh data in a temporary directory. StartFailed when ours does not start."""
    missing: dict[str, str] = {}
    echo_url: str | None = None
    with TemporaryDirectory(prefix="mijra-bench-") as name:
        async with Bridge() as bridge, AsyncExitStack() as stack:
            ours = _fresh(Path(name), "mijra")
            subjects: list[Subject] = [await stack.enter_async_context(mijra(ours, bridge))]
            try:
                peer = fastapi_stack(_fresh(Path(name), "peer"), bridge, worker=worker)
                subjects.append(await stack.enter_async_context(peer))
            except Missing as why:
                missing[FASTAPI] = str(why)
            if plain_route:
                plain = mijra(_fresh(Path(name), "plain"), bridge, lane=False)
                subjects.append(await stack.enter_async_context(plain))
            try:
                echo_url = await stack.enter_async_context(echo_server(_fresh(Path(name), "echo")))
            except Missing as why:
                missing[CLIENT_ALONE] = str(why)
            yield Field(subjects, echo_url, missing)


def _fresh(parent: Path, name: str) -> Path:
    directory = parent / name
    directory.mkdir()
    return directory


async def show_progress(
    console: Console, title: str, outcome: Outcome, run: Callable[[], Awaitable[Outcome]]
) -> None:
    """Run a load under a status line that says how far it is, four times a second."""
    with console.status(title) as status:
        async with trio.open_nursery() as nursery:

            async def tell() -> None:
                while True:
                    await trio.sleep(0.25)
                    status.update(f"{title}: {outcome.acknowledged:,} acknowledged, {outcome.rate:,.0f}/s")

            nursery.start_soon(tell)
            await run()
            nursery.cancel_scope.cancel()


async def load(
    subject: Subject,
    traffic: Traffic,
    console: Console,
    title: str,
    *,
    seconds: float,
    connections: int,
    rate: float | None = None,
) -> Outcome:
    """One round of load, proven against the database."""
    client = LoadClient(traffic, seconds=seconds, connections=connections, rate=rate)
    await show_progress(console, title, client.outcome, client.run)
    await prove_stored(subject, traffic, client.outcome)
    return client.outcome


def quick_seconds(began: float, slices: float, wanted: float, *, overhead: float) -> float:
    """How long each of so many slices may take for a bench that began (trio's clock) to end in time.

    `overhead` is what comes on top of a slice. Never below 0.3 s, even where that is too late: a
    round must show something.
    """
    left = began + QUICK_SECONDS_MAX - trio.current_time()
    return max(0.3, min(wanted, left / slices - overhead))


async def settle(subject: Subject, seconds_max: float) -> None:
    """Wait until a system has worked off what a round left behind (the peer's jobs, an overload's backlog).

    Otherwise the next round, often somebody else's, pays for it. Idle is less than a tenth of a core.
    """
    with trio.move_on_after(seconds_max):
        used = subject.processor_seconds()
        while True:
            await trio.sleep(0.2)
            used, before = subject.processor_seconds(), used
            if used - before < 0.02:
                return


async def prove_stored(subject: Subject, traffic: Traffic, outcome: Outcome) -> None:
    """Each acknowledged message is in the database once, and nothing that was never sent is there.

    A request that was not acknowledged (refused, broken off, without an answer) may be stored or not: its
    sender does not know, and would send it again.
    """
    stored = Counter(traffic.number_in(one.encode()) for one in await subject.stored(traffic.id_prefix))
    compare(subject.name, "stored", outcome, stored)


def compare(name: str, what: str, outcome: Outcome, found: "Counter[int | None]") -> None:
    """Raise Unproven when an acknowledged number is missing, or one is there twice or was never sent."""
    lost = [number for number in outcome.acknowledged_numbers if number not in found]
    doubled = [number for number, times in found.items() if times > 1]
    strange = [number for number in found if number is None or not 0 <= number < outcome.sent]
    if lost or doubled or strange:
        raise Unproven(
            f"{name}: of {outcome.acknowledged} acknowledged messages {len(lost)} were not {what}, "
            f"{len(doubled)} were {what} more than once, and {len(strange)} were never sent"
        )


async def client_alone(
    echo_url: str, subject: Subject, *, seconds: float, connections: int, rate: float | None = None
) -> Outcome:
    """The same traffic against a server that does nothing: what the load client itself can do."""
    traffic = Traffic(echo_url, subject.account, customers=CUSTOMERS)
    if rate is None:
        traffic.encode(int(seconds * 12_000))
    return await LoadClient(traffic, seconds=seconds, connections=connections, rate=rate).run()


def quiet() -> None:
    """Keep the log lines of what runs inside the bench (the peer's PostgreSQL) off its standard output."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))


def flat(group: BaseExceptionGroup[Exception]) -> Iterator[Exception]:
    """The exceptions in a group and in the groups within it: nurseries wrap what ends a bench."""
    for one in group.exceptions:
        if isinstance(one, BaseExceptionGroup):
            yield from flat(one)
        else:
            yield one
