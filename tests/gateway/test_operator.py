"""The operator port, and the serving that both ports share, over real sockets."""

from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import trio
import trio.testing
from prometheus_client import CollectorRegistry

from engine.errors import StoreUnavailable
from gateway.metrics import Metrics
from gateway.operator import CHECK_SECONDS_MAX, Operator
from gateway.serving import AsgiApp, ServingLimits, serve
from tests.patience import PATIENCE_SECONDS

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


@asynccontextmanager
async def served(
    app: AsgiApp, *, limits: ServingLimits | None = None, metrics: Metrics | None = None
) -> AsyncIterator[tuple[int, trio.Event]]:
    stop = trio.Event()
    async with trio.open_nursery() as nursery:

        async def run(task_status: trio.TaskStatus[int]) -> None:
            await serve(
                app,
                host="127.0.0.1",
                port=0,
                stop=stop,
                limits=limits,
                metrics=metrics,
                task_status=task_status,
            )

        port = await nursery.start(run)
        yield port, stop
        stop.set()


async def fine() -> bool:
    return True


# ------------------------------------------------------------------ health and metrics


@pytest.mark.real_time
async def test_the_operator_port_answers_its_three_questions() -> None:
    """Live, ready with each check by name, and the registry's series in Prometheus' text."""
    metrics = Metrics(CollectorRegistry())
    metrics.webhook_deliveries.labels("whatsapp", "accepted").inc(3)
    operator = Operator(metrics.registry, {"database": fine, "writers": fine})
    async with (
        served(operator) as (port, _),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_SECONDS) as client,
    ):
        assert (await client.get("/health/live")).status_code == 200
        ready = await client.get("/health/ready")
        assert (ready.status_code, ready.json()["data"]) == (200, {"database": "ok", "writers": "ok"})
        page = await client.get("/metrics")
        assert page.headers["content-type"].startswith("text/plain")
        line = 'mijra_webhook_deliveries_total{outcome="accepted",platform="whatsapp"} 3.0'
        assert line in page.text.splitlines()
        assert (await client.get("/api/anything")).json()["code"] == "not_found"
        assert (await client.post("/health/live")).status_code == 405
        assert (await client.head("/health/live")).content == b""


async def test_each_failing_check_is_named(autojump_clock: trio.testing.MockClock) -> None:
    """False, an error of ours, a defect and a check that hangs: 503 with what is wrong, within a deadline."""

    async def says_no() -> bool:
        return False

    async def away() -> bool:
        raise StoreUnavailable("away")

    async def broken() -> bool:
        raise RuntimeError("a bug")

    async def hangs() -> bool:
        await trio.Event().wait()
        return True

    checks = {"a": fine, "b": says_no, "c": away, "d": broken, "e": hangs}
    operator = Operator(CollectorRegistry(), checks)
    status, _, body = await operator.answer("GET", "/health/ready")
    assert status == 503
    assert b'"data":{"a":"ok","b":"failed","c":"store_unavailable","d":"crashed","e":"timeout"}' in body
    assert trio.current_time() == pytest.approx(CHECK_SECONDS_MAX)


async def test_probes_share_one_look_and_stopping_is_seen_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Ten probes at once run the checks once; a stop needs no check at all."""
    looks = 0

    async def slow() -> bool:
        nonlocal looks
        looks += 1
        await trio.sleep(0.2)
        return True

    operator = Operator(CollectorRegistry(), {"database": slow})
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(operator.ready)
    assert looks == 1
    await trio.sleep(2)
    assert await operator.ready() == {"database": "ok"}
    assert looks == 2
    operator.stopping = True
    assert (await operator.answer("GET", "/health/ready"))[0] == 503
    assert (await operator.answer("GET", "/health/live"))[0] == 200


# ------------------------------------------------------------------ serving


class Slow:
    """Answers when it is told to."""

    def __init__(self, body: bytes = b"done") -> None:
        self.body = body
        self.asked = trio.Event()
        self.go = trio.Event()
        self.cancelled = False

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": f"{message['type']}.complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        self.asked.set()
        try:
            await self.go.wait()
        except trio.Cancelled:
            self.cancelled = True
            raise
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": self.body})


GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.real_time
async def test_a_shutdown_lets_calls_under_way_end() -> None:
    """After the stop: no new connections, the call that was being answered gets its answer."""
    app = Slow()
    async with served(app) as (port, stop):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        await stream.send_all(GET)
        await app.asked.wait()
        stop.set()
        with trio.fail_after(PATIENCE_SECONDS):
            while True:
                try:
                    extra = await trio.open_tcp_stream("127.0.0.1", port)
                except OSError:
                    break
                await extra.aclose()
                await trio.sleep(0.01)
            app.go.set()
            answer = b""
            while chunk := await stream.receive_some():
                answer += bytes(chunk)
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"done" in answer
        await stream.aclose()


@pytest.mark.real_time
async def test_a_shutdown_does_not_wait_longer_than_its_grace() -> None:
    """A call that never ends is cancelled after the grace, and the server returns."""
    app = Slow()
    with trio.fail_after(PATIENCE_SECONDS):
        async with served(app, limits=ServingLimits(graceful_seconds_max=0.2)) as (port, stop):
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            await stream.send_all(GET)
            await app.asked.wait()
            stop.set()
        assert app.cancelled
        await stream.aclose()


@pytest.mark.real_time
async def test_a_client_that_never_reads_cannot_pin_the_server() -> None:
    """Hypercorn shields its sends; the edge's deadline ends them all the same, and the shutdown goes on."""
    metrics = Metrics(CollectorRegistry())
    app = Slow(body=b"x" * 20_000_000)
    app.go.set()
    with trio.fail_after(PATIENCE_SECONDS):
        limits = ServingLimits(send_seconds_max=0.3, graceful_seconds_max=0.1)
        async with served(app, limits=limits, metrics=metrics) as (port, stop):
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            await stream.send_all(GET)
            await app.asked.wait()
            stop.set()
        assert metrics.registry.get_sample_value("mijra_edge_sends_timed_out_total") == 1
        assert metrics.registry.get_sample_value("mijra_edge_connections") == 0
        await stream.aclose()


@pytest.mark.real_time
async def test_an_unfinished_or_oversized_head_is_not_waited_for() -> None:
    """A head that trickles in is closed after the idle time; one beyond the limit is answered 431."""
    app = Slow()
    limits = ServingLimits(idle_seconds_max=0.3, head_bytes_max=4096)
    async with served(app, limits=limits) as (port, _):
        slow = await trio.open_tcp_stream("127.0.0.1", port)
        await slow.send_all(b"GET / HTTP/1.1\r\nHo")
        with trio.fail_after(PATIENCE_SECONDS):
            assert await slow.receive_some() == b""
        await slow.aclose()
        large = await trio.open_tcp_stream("127.0.0.1", port)
        await large.send_all(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 8192)
        with trio.fail_after(PATIENCE_SECONDS):
            assert bytes(await large.receive_some()).startswith(b"HTTP/1.1 431")
        await large.aclose()
    assert not app.asked.is_set()


@pytest.mark.real_time
@pytest.mark.parametrize("body", [b"x" * 2_000_000, b"not a chunk" * 100_000], ids=["unread", "malformed"])
async def test_who_is_answered_before_the_body_is_here_reads_the_answer(body: bytes) -> None:
    """Closing on unread bytes would reset the connection under a client that is still sending."""
    app = Slow()
    app.go.set()
    framing = b"Transfer-Encoding: chunked" if body.startswith(b"not") else b"Content-Length: 2000000"
    async with served(app) as (port, _):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        with trio.fail_after(PATIENCE_SECONDS):
            await stream.send_all(b"POST / HTTP/1.1\r\nHost: x\r\n" + framing + b"\r\n\r\n")
            answer = bytes(await stream.receive_some())
            for at in range(0, len(body), 100_000):
                await stream.send_all(body[at : at + 100_000])
            await stream.send_eof()
            while chunk := await stream.receive_some():
                answer += bytes(chunk)
        assert answer.startswith(b"HTTP/1.1 200")
        await stream.aclose()


@pytest.mark.real_time
async def test_connections_over_the_limit_are_told_to_come_back() -> None:
    """503 with Retry-After at once; when one leaves, the next is served."""
    metrics = Metrics(CollectorRegistry())
    app = Slow()
    app.go.set()
    async with served(app, limits=ServingLimits(connections_max=1), metrics=metrics) as (port, _):
        first = await trio.open_tcp_stream("127.0.0.1", port)
        await first.send_all(GET)
        await app.asked.wait()
        second = await trio.open_tcp_stream("127.0.0.1", port)
        with trio.fail_after(PATIENCE_SECONDS):
            assert b"503" in bytes(await second.receive_some())
        await second.aclose()
        await first.aclose()
        with trio.fail_after(PATIENCE_SECONDS):
            # Well before the idle time: a connection that the client closed is not held.
            while metrics.registry.get_sample_value("mijra_edge_connections"):  # noqa: ASYNC110
                await trio.sleep(0.01)
            third = await trio.open_tcp_stream("127.0.0.1", port)
            await third.send_all(GET)
            assert bytes(await third.receive_some()).startswith(b"HTTP/1.1 200")
            await third.aclose()
    assert metrics.registry.get_sample_value("mijra_edge_connections_refused_total") == 1
