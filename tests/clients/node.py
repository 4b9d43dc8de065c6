"""Node and its packages for the tests, or a reason why not; and one running `client.mjs`."""

import hashlib
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Final

import pytest

from tests.patience import PATIENCE_SECONDS

HERE: Final = Path(__file__).parent
STAMP: Final = HERE / "node_modules" / ".installed"
INSTALL_SECONDS_MAX: Final = 180

Happened = dict[str, Any]


@cache
def packages() -> Path:
    """The folder with the packages of package-lock.json, installed once. Skips the test that asks where there
    is no Node or the packages cannot be had."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("there is no Node here, with which the clients' own libraries run")
    locked = hashlib.sha256((HERE / "package-lock.json").read_bytes()).hexdigest()
    if not STAMP.exists() or STAMP.read_text() != locked:
        try:
            subprocess.run(
                ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"],
                cwd=HERE,
                check=True,
                capture_output=True,
                timeout=INSTALL_SECONDS_MAX,
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            pytest.skip(f"npm could not fetch the clients' libraries: {error}")
        STAMP.write_text(locked)
    return HERE / "node_modules"


class NodeClient:
    """A process that is told what to do and tells what happened. Times out after `PATIENCE_SECONDS`."""

    def __init__(self) -> None:
        packages()
        self._happened: SimpleQueue[Happened] = SimpleQueue()
        self._untaken: list[Happened] = []
        self.seen: list[Happened] = []

    def __enter__(self) -> "NodeClient":
        self._process = subprocess.Popen(
            ["node", "client.mjs"], cwd=HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._reader = threading.Thread(target=self._read, name="node client")
        self._reader.start()
        try:
            self.next("ready")
        except AssertionError:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._happened.put(json.loads(line))

    def do(self, name: str, **rest: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": name, **rest}) + "\n")
        self._process.stdin.flush()

    def until(self, wanted: Callable[[Happened], bool], *, seconds: float = PATIENCE_SECONDS) -> Happened:
        """The first thing that is wanted and was not taken before; the others stay for later."""
        deadline = time.monotonic() + seconds
        for happened in self._untaken:
            if wanted(happened):
                self._untaken.remove(happened)
                return happened
        while True:
            try:
                happened = self._happened.get(timeout=max(0.0, deadline - time.monotonic()))
            except Empty:
                raise AssertionError(f"it did not happen; last were {self.seen[-10:]}") from None
            self.seen.append(happened)
            if wanted(happened):
                return happened
            self._untaken.append(happened)

    def next(self, what: str, **members: Any) -> Happened:
        """The next thing of this kind with these members."""
        wanted = {"is": what, **members}
        return self.until(lambda each: wanted.items() <= each.items())

    def answer(self) -> tuple[int, Any]:
        answer = self.next("answer")
        return answer["status"], answer["body"]
