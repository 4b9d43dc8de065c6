"""A browser's own WebSocket against the real server; skipped where there is no Chromium or no Node."""

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, Final

import pytest

from tests.clients.node import HERE, packages
from tests.gateway.conftest import Business
from tests.patience import PATIENCE_SECONDS

pytestmark = [pytest.mark.real_time, pytest.mark.slow]

NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
"""A browser's start takes its time on a busy machine."""


@contextmanager
def browsing(**wish: Any) -> Iterator[SimpleQueue[dict[str, Any]]]:
    executable = next(filter(None, map(shutil.which, NAMES)), None)
    if executable is None:
        pytest.skip("there is no Chromium here, whose own WebSocket would connect")
    packages()
    process = subprocess.Popen(
        ["node", "browser.mjs", json.dumps({**wish, "executable": executable})],
        cwd=HERE,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    heard: SimpleQueue[dict[str, Any]] = SimpleQueue()
    lines = process.stdout

    def read() -> None:
        for line in lines:
            heard.put(json.loads(line))

    reader = threading.Thread(target=read, name="browser")
    reader.start()
    try:
        yield heard
    finally:
        process.stdin.close()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join()
        process.stdout.close()


def test_a_browser_hears_an_event(business: Business) -> None:
    """Handshake, text frames both ways, and an event that is committed meanwhile."""
    number = "966699999101"
    business.customer_writes(number, "first")
    with browsing(
        url=business.system.base_url.replace("http", "ws", 1) + "/ws",
        auth={"type": "auth", "token": business.owner.token, "tenant": business.slug},
        subscribe={"type": "subscribe", "channel": "inbox"},
    ) as heard:
        assert heard.get(timeout=PATIENCE_SECONDS)["type"] == "welcome"
        assert heard.get(timeout=PATIENCE_SECONDS)["type"] == "subscribed"
        business.customer_writes(number, "second")
        event = heard.get(timeout=PATIENCE_SECONDS)
        assert (event["type"], event["name"]) == ("event", "message.received")
        assert event["data"]["message"]["content"]["body"] == "second"
