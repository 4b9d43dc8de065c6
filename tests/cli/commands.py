"""`mijra` as a process, the way a person or a script starts it."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import trio

from tests.patience import PATIENCE_SECONDS

STARTED_SECONDS_MAX = 2 * PATIENCE_SECONDS
STOPPED_SECONDS_MAX = 2 * PATIENCE_SECONDS


def environment(data_dir: Path, **more: str) -> dict[str, str]:
    """The machine's own, without settings of Mijra's that it may hold."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MIJRA_")}
    return {**kept, "MIJRA_DATA_DIR": str(data_dir), **more}


async def mijra(data_dir: Path, *arguments: str, **more: str) -> "subprocess.CompletedProcess[bytes]":
    """Run a command to its end, whatever its status."""
    return await trio.run_process(
        [sys.executable, "-m", "gateway.cli", *arguments],
        env=environment(data_dir, **more),
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )


class Started:
    """A command that runs until it is told to stop. `line` is the JSON that it printed when ready."""

    def __init__(self, process: trio.Process, line: dict[str, Any]) -> None:
        self.process = process
        self.line = line
        self.rest = b""
        self.status: int | None = None


def log_of(data_dir: Path) -> Path:
    """Where what is started on it logs to."""
    return data_dir.parent / f"{data_dir.name}.log"


@asynccontextmanager
async def started(data_dir: Path, *arguments: str, **more: str) -> AsyncIterator[Started]:
    """Stopped by SIGTERM at the end; then `rest` is what else it printed, and `status` how it ended."""
    with log_of(data_dir).open("ab") as log:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "gateway.cli", *arguments],
            env=environment(data_dir, **more),
            stdout=subprocess.PIPE,
            stderr=log,
        )
        try:
            assert process.stdout is not None
            line = b""
            with trio.fail_after(STARTED_SECONDS_MAX):
                while not line.endswith(b"\n"):
                    piece = await process.stdout.receive_some()
                    assert piece, f"it ended before it was ready; see {log.name}"
                    line += piece
            running = Started(process, msgspec.json.decode(line))
            yield running
            process.send_signal(signal.SIGTERM)
            with trio.fail_after(STOPPED_SECONDS_MAX):
                while piece := await process.stdout.receive_some():
                    running.rest += piece
                running.status = await process.wait()
        finally:
            with trio.CancelScope(shield=True):
                if process.poll() is None:
                    process.kill()
                await process.wait()
                await process.stdout.aclose()  # type: ignore[union-attr]


async def call(method: str, url: str, token: str | None = None, body: object = None) -> Any:
    """The answer's JSON; anything but success fails the test."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_SECONDS) as client:
        answer = await client.request(method, url, headers=headers, json=body)
    assert answer.is_success, (answer.status_code, answer.text)
    return answer.json()
