"""The server of the demo: `mijra dev --json` as a process of its own, as a script would use it.

Promises   ended by SIGTERM at the end of the block, whatever ends it, and by SIGKILL if it does not go.
"""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Final

import msgspec
import trio

from engine.errors import MijraError, Unavailable
from gateway.cli.sandbox import Ready

READY_SECONDS_MAX: Final = 120.0
"""A first start on a busy machine makes a database cluster, which takes seconds; more is a failure."""
STOP_SECONDS_MAX: Final = 40.0
"""Twice what the server gives itself."""
LINE_BYTES_MAX: Final = 64 * 1024
LOG_LINES_SHOWN: Final = 8


class Server:
    """A started one. `exit_status` is known after the block."""

    def __init__(self, process: trio.Process, ready: Ready) -> None:
        self.process = process
        self.ready = ready
        self.exit_status: int | None = None


@asynccontextmanager
async def dev_server(
    data_dir: Path, log_file: Path, simulator_urls: Mapping[str, str]
) -> AsyncIterator[Server]:
    """Raises Unavailable with the end of the log when it does not get ready."""
    command = [sys.executable, "-m", "gateway.cli", "dev", "--json", "--port", "0"]
    for name, url in simulator_urls.items():
        command += ["--simulator-url", f"{name}={url}"]
    with log_file.open("wb") as log:
        process = await _start(command, data_dir, log)
        server: Server | None = None
        try:
            server = Server(process, await _ready(process, log_file))
            yield server
        finally:
            with trio.CancelScope(shield=True):
                status = await _stop(process)
            if server is not None:
                server.exit_status = status


async def _start(command: list[str], data_dir: Path, log: IO[bytes]) -> trio.Process:
    fixed = {"MIJRA_DATA_DIR": str(data_dir), "MIJRA_LOG_FORMAT": "json", "MIJRA_HOST": "127.0.0.1"}
    # Ports and addresses that the environment names belong to the server that it describes, not to a demo.
    foreign = ("MIJRA_PORT", "MIJRA_OPERATOR_PORT", "MIJRA_PUBLIC_URL", "MIJRA_LISTEN")
    inherited = {name: value for name, value in os.environ.items() if name not in foreign}
    # A session of its own: Ctrl-C ends the talking first and the server last, so it must not get it as well.
    return await trio.lowlevel.open_process(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log,
        env=inherited | fixed,
        start_new_session=True,
    )


async def _ready(process: trio.Process, log_file: Path) -> Ready:
    assert process.stdout is not None
    line = b""
    with trio.move_on_after(READY_SECONDS_MAX):
        while not line.endswith(b"\n") and len(line) < LINE_BYTES_MAX:
            piece = await process.stdout.receive_some()
            if not piece:
                break
            line += piece
    try:
        return Ready.read(line)
    except msgspec.DecodeError as error:
        raise Unavailable(f"The server did not get ready. {_end_of(log_file)}") from error


async def _stop(process: trio.Process) -> int:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    with trio.move_on_after(STOP_SECONDS_MAX):
        return await process.wait()
    process.kill()
    return await process.wait()


def _end_of(log_file: Path) -> str:
    try:
        lines = log_file.read_text("utf-8", "replace").splitlines()[-LOG_LINES_SHOWN:]
    except OSError as error:
        raise MijraError(f"{log_file} cannot be read: {error.strerror}") from error
    return f"The end of {log_file}:\n" + "\n".join(lines) if lines else f"{log_file} is empty."
