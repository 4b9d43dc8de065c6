"""The load client in a process of its own, which has one core at most.

Why        In the bench's process its time mixes with that of the proofs and of whatever watches the server,
           and the kernel moves it to whichever core the server would have. Apart, its share is told by the
           kernel, and it is in the server's way as little as two processes on two cores can be.
Promises   requests are encoded before the clock runs; the outcome is the client's own, to the last number.
Limits     open loops alone. One core, the last one that this process may use.
"""

import os
import sys
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog
import trio
from msgspec import Struct

from adapters.simulators.accounts import WhatsAppAccount
from bench.client import LoadClient, LoadFailed, Outcome
from bench.histogram import Histogram
from bench.servers import ROOT
from bench.webhooks import Traffic

_OVERDUE_SECONDS: Final = 60.0
"""Beyond the load itself: starting, encoding, and telling the outcome, on a machine with other load."""


class Load(Struct, kw_only=True):
    """As `bench.client.LoadClient` and `bench.webhooks.Traffic` take it; `run` marks the messages."""

    url: str
    account: WhatsAppAccount
    customers: int
    seed: int
    run: str
    rate: float
    seconds: float
    connections: int
    drain_seconds_max: float
    pause_seconds: float

    def traffic(self) -> Traffic:
        return Traffic(self.url, self.account, customers=self.customers, seed=self.seed, run=self.run)


class _Told(Struct, kw_only=True):
    """An `Outcome`, as it comes out of the process."""

    sent: int
    broken: int
    statuses: dict[int, int]
    latency: dict[str, Any]
    refused_latency: dict[str, Any]
    refused_with_retry_after: int
    lag: dict[str, Any]
    acknowledged_numbers: list[int]
    started_ns: int
    ended_ns: int
    processor_seconds: float
    interval_ns: float

    @classmethod
    def of(cls, outcome: Outcome) -> "_Told":
        return cls(
            sent=outcome.sent,
            broken=outcome.broken,
            statuses=dict(outcome.statuses),
            latency=outcome.latency.packed(),
            refused_latency=outcome.refused_latency.packed(),
            refused_with_retry_after=outcome.refused_with_retry_after,
            lag=outcome.lag.packed(),
            acknowledged_numbers=outcome.acknowledged_numbers.tolist(),
            started_ns=outcome.started_ns,
            ended_ns=outcome.ended_ns,
            processor_seconds=outcome.processor_seconds,
            interval_ns=outcome.interval_ns,
        )

    def outcome(self) -> Outcome:
        outcome = Outcome()
        outcome.sent = self.sent
        outcome.acknowledged = len(self.acknowledged_numbers)
        outcome.broken = self.broken
        outcome.statuses = Counter(self.statuses)
        outcome.latency = Histogram.unpacked(self.latency)
        outcome.refused_latency = Histogram.unpacked(self.refused_latency)
        outcome.refused_with_retry_after = self.refused_with_retry_after
        outcome.lag = Histogram.unpacked(self.lag)
        outcome.acknowledged_numbers = array("q", self.acknowledged_numbers)
        outcome.started_ns = self.started_ns
        outcome.ended_ns = self.ended_ns
        outcome.processor_seconds = self.processor_seconds
        outcome.interval_ns = self.interval_ns
        return outcome


@asynccontextmanager
async def ready(load: Load) -> AsyncIterator[Callable[[], Awaitable[Outcome]]]:
    """A client that has encoded its requests; the call runs it, once, and returns what came of it.

    Raises LoadFailed when the process ends without an outcome."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "bench.apart"], stdin=-1, stdout=-1, cwd=Path(ROOT)
    )
    assert process.stdin is not None
    assert process.stdout is not None
    said = b""

    async def until(ending: bytes) -> None:
        nonlocal said
        assert process.stdout is not None
        while not said.endswith(ending):
            more = await process.stdout.receive_some()
            if not more:
                raise LoadFailed("the load client ended without an outcome; what it said is above")
            said += more

    async def run() -> Outcome:
        nonlocal said
        said = b""
        assert process.stdin is not None
        await process.stdin.send_all(b"go\n")
        with trio.fail_after(load.seconds + load.drain_seconds_max + _OVERDUE_SECONDS):
            await until(b"\n")
        return msgspec.json.decode(said, type=_Told).outcome()

    try:
        await process.stdin.send_all(msgspec.json.encode(load) + b"\n")
        with trio.fail_after(_OVERDUE_SECONDS):
            await until(b"ready\n")
        yield run
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            await process.stdin.aclose()
            await process.stdout.aclose()


def main() -> None:
    """One load, as the first line of standard input says; "ready", and with the next line the outcome."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    load = msgspec.json.decode(sys.stdin.buffer.readline(), type=Load)
    traffic = load.traffic()
    traffic.encode(int(load.rate * load.seconds))
    client = LoadClient(
        traffic,
        rate=load.rate,
        seconds=load.seconds,
        connections=load.connections,
        drain_seconds_max=load.drain_seconds_max,
        pause_seconds=load.pause_seconds,
    )
    out = sys.stdout.buffer
    out.write(b"ready\n")
    out.flush()
    if sys.stdin.buffer.readline():
        outcome = trio.run(client.run)
        out.write(msgspec.json.encode(_Told.of(outcome)) + b"\n")
        out.flush()


if __name__ == "__main__":
    main()
