"""The whole system as a contestant of `fanout`: `mijra dev` with its PostgreSQL, signed webhooks in, and the
frame about each message out to every screen that listens to the inbox."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from adapters.simulators.accounts import WhatsAppAccount, demo_account
from bench.crowd import Dialect, frame
from bench.fanout_servers import ROOT, StartFailed
from bench.webhooks import Traffic

_STOP_SECONDS_MAX: Final = 20.0
_CUSTOMERS: Final = 200


class WebhookPublisher:
    """Each publication is the next signed webhook on one kept connection; what it says is its own."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self._next = 0
        self._socket = socket.create_connection((traffic.host, traffic.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def publish(self, payload: bytes) -> None:
        if self._next == len(self._traffic.requests):
            self._traffic.encode(100)
        self._socket.sendall(self._traffic.requests[self._next])
        self._next += 1
        try:
            while self._socket.recv(65_536, socket.MSG_DONTWAIT):
                pass
        except BlockingIOError:
            pass

    def close(self) -> None:
        self._socket.close()


@contextmanager
def system(*, push_lane: bool) -> Iterator[tuple[Dialect, int, WebhookPublisher]]:
    """What a screen says, the port, and who publishes. Raises StartFailed."""
    with TemporaryDirectory(prefix="mijra-bench-") as directory:
        log = Path(directory) / "log"
        command = [
            sys.executable,
            "-c",
            "from gateway.cli import main; main()",
            "dev",
            "--json",
            "--port",
            "0",
        ]
        environment = {
            "MIJRA_DATA_DIR": str(Path(directory) / "data"),
            "MIJRA_LOG_LEVEL": "warning",
            "MIJRA_PUSH_LANE": "on" if push_lane else "off",
        }
        with log.open("wb") as errors:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        try:
            assert process.stdout is not None
            try:
                ready: dict[str, Any] = msgspec.json.decode(process.stdout.readline())
            except msgspec.DecodeError as error:
                raise StartFailed(f"mijra dev: {log.read_text(errors='replace')[-500:]}") from error
            publisher = WebhookPublisher(_traffic(ready))
            yield _screen(ready), urlsplit(ready["base_url"]).port or 80, publisher
            publisher.close()
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()


def _traffic(ready: dict[str, Any]) -> Traffic:
    keys = ready["whatsapp"]
    account = WhatsAppAccount(
        app_secret=keys["app_secret"],
        verify_token=keys["verify_token"],
        phone_number_id=keys["phone_number_id"],
        waba_id=keys["waba_id"],
        access_token=keys["access_token"],
        display_phone_number=keys.get("display_phone_number", demo_account().display_phone_number),
    )
    url = f"{ready['base_url'].rstrip('/')}/api/webhooks/whatsapp"
    traffic = Traffic(url, account, customers=_CUSTOMERS)
    traffic.encode(500)
    return traffic


def _screen(ready: dict[str, Any]) -> Dialect:
    auth = msgspec.json.encode({"type": "auth", "token": ready["token"], "tenant": ready["tenant"]})
    return Dialect(
        path="/ws",
        greeting=(
            (frame(auth), b'"welcome"'),
            (frame(b'{"type":"subscribe","channel":"inbox"}'), b'"subscribed"'),
        ),
        # A message leads to other events as well, of which there may be more or fewer.
        marker=b'"name":"message.received"',
        every_frame=False,
    )
