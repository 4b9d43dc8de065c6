"""The load generator as an engineer runs it: against a server, against nothing, and with slips of the pen."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from adapters.simulators.builders import signature
from adapters.simulators.http import HttpServer, Request, Response
from bench.histogram import Histogram
from bench.load import SECRET, histogram, next_bound

ROOT = Path(__file__).parent.parent.parent
ACCOUNT = ["--secret", "their secret", "--phone-number-id", "123456"]

pytestmark = pytest.mark.real_time


@asynccontextmanager
async def server(status: int = 200) -> AsyncIterator[tuple[str, list[Request]]]:
    """A webhook endpoint that keeps what came."""
    requests: list[Request] = []

    async def answer(request: Request) -> Response:
        requests.append(request)
        return Response(status, b"{}")

    http = HttpServer(answer, body_limit=lambda method, path: 10_000)
    async with trio.open_nursery() as nursery:
        await nursery.start(http.run)
        yield f"{http.base_url}/api/webhooks/whatsapp", requests
        nursery.cancel_scope.cancel()


async def run(
    *arguments: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """`python -m bench.load` in pipes, so not on a terminal."""
    return await trio.run_process(
        [sys.executable, "-m", "bench.load", *arguments],
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )


async def test_a_server_of_their_own_is_loaded_with_their_secret(tmp_path: Path) -> None:
    """Signed with the account's secret, at the asked rate, with a line a second, the percentiles, the
    histogram, one JSON object as the last line, and a picture where matplotlib is."""
    picture = tmp_path / "tail.png"
    draws = importlib.util.find_spec("matplotlib") is not None
    plot = ["--plot", str(picture)] if draws else []
    async with server() as (url, requests):
        load = ["--rate", "40", "--seconds", "2.2", "--connections", "4", "--no-limit", "--json"]
        done = await run("--url", url, *ACCOUNT, *load, *plot)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert (said["load"], said["sent"], said["acknowledged"]) == ("open", 88, 88)
    assert said["latency_ms"].keys() == {"p50", "p90", "p99", "p99.9", "max"}
    assert len(requests) == 88
    for request in requests:
        assert request.headers["x-hub-signature-256"] == signature("their secret", request.body)
        assert b'"phone_number_id":"123456"' in request.body
    shown = done.stderr.decode()
    assert "  1 s  sent " in shown
    assert "  2 s  sent " in shown
    assert "p99.9" in shown
    assert "█" in shown
    assert "100.00 %" in shown
    assert picture.exists() == draws


async def test_the_secret_may_come_from_the_environment() -> None:
    """So that it is in no list of processes."""
    async with server() as (url, requests):
        load = ["--rate", "10", "--seconds", "0.5", "--no-limit"]
        done = await run("--url", url, "--phone-number-id", "1", *load, environment={SECRET: "a hidden one"})
    assert done.returncode == 0, done.stderr
    assert requests[0].headers["x-hub-signature-256"] == signature("a hidden one", requests[0].body)


async def test_refusals_are_counted_and_explained() -> None:
    """Exit status 1, and what a 401 usually means."""
    async with server(401) as (url, _):
        done = await run("--url", url, *ACCOUNT, "--rate", "10", "--seconds", "0.5", "--no-limit")
    assert done.returncode == 1
    assert b"401: 5" in done.stdout
    assert b"is --secret the app secret" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--rate", "0"], "must be a number above zero, not 0"),
        (["--rate", "nan"], "must be a number above zero, not nan"),
        (["--rate", "fast"], "must be a number above zero, not fast"),
        (["--seconds", "-1"], "must be a number above zero, not -1"),
        (["--seconds", "inf"], "must be a number above zero, not inf"),
        (["--rate", "0.01"], "is less than one request"),
        (["--connections", "0"], "must be a whole number from 1 on, not 0"),
        (["--customers", "0"], "must be a whole number from 1 on, not 0"),
        (["--url", "https://example.com/"], "speaks plain HTTP"),
        (["--url", "nonsense"], "speaks plain HTTP"),
        (["--url", "http://127.0.0.1:99999/"], "Port out of range"),
        (["--url", "http://127.0.0.1:9/"], "nobody listens at 127.0.0.1:9"),
        (["--phone-number-id", ""], "give --dev FILE, or --url"),
        (["--dev", "/dev/null"], "does not hold the one line"),
    ],
)
async def test_a_slip_of_the_pen_gets_a_sentence(arguments: list[str], sentence: str) -> None:
    """No traceback, and an exit status that says so."""
    done = await run("--url", "http://127.0.0.1:9/", *ACCOUNT, "--no-limit", *arguments)
    assert done.returncode != 0
    assert sentence in done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_bars_count_every_value_once() -> None:
    """Bounds are 1, 2 and 5 times powers of ten; empty ones between others are shown."""
    latency = Histogram([400_000] * 3 + [1_500_000] * 5 + [40_000_000])
    lines = [line.split() for line in histogram(latency)]
    assert [(float(line[1]), int(line[3])) for line in lines] == [
        (0.5, 3),
        (1, 0),
        (2, 5),
        (5, 0),
        (10, 0),
        (20, 0),
        (50, 1),
    ]
    assert lines[-1][4] == "100.00"
    assert histogram(Histogram()) == []


@pytest.mark.parametrize(
    ("value", "bound"), [(0.0, 0.001), (0.001, 0.001), (0.9, 1), (1, 1), (1.01, 2), (4.99, 5), (5.01, 10)]
)
def test_a_bound_is_the_next_round_number(value: float, bound: float) -> None:
    assert next_bound(value) == bound
