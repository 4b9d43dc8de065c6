"""The contestants of `fanout` and `reconnect`: how each is started, and what its clients say.

Promises   a server that is left is stopped; one that is not installed is named (`Missing`) and never guessed.
           Each is configured for its best: no compression, no disk, in-process layers, its own broadcast.
"""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from msgspec import Struct

from bench.crowd import Dialect, frame
from bench.harness import Missing

ROOT: Final = Path(__file__).parent.parent
PEERS: Final = ROOT / "bench" / "peers" / "fanout"
PAYLOAD_BYTES: Final = 400
"""Of one text frame: the median of the events that a WhatsApp text leads to is a little above it."""

MARKER: Final = b"n="
OURS: Final = "mijra"
ROUTE: Final = "hypercorn-quart (our route)"
KERNEL: Final = "bare kernel send"

_START_SECONDS_MAX: Final = 30.0
_STOP_SECONDS_MAX: Final = 5.0


class StartFailed(Exception):
    """A server that is installed did not start; the text holds what it said."""


class Server(Struct, kw_only=True):
    """A running contestant. `control` is the port that takes lines to publish; without it, its clients
    publish."""

    name: str
    dialect: Dialect
    port: int
    control: int | None
    process: subprocess.Popen[bytes]

    def memory_bytes(self) -> int:
        """What the process holds (proportional set size, proc(5)), without the kernel's socket buffers."""
        for line in Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
        raise StartFailed("no Pss in smaps_rollup")

    def processor_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def settle(self, seconds_max: float = 5.0) -> None:
        """Returns when it uses less than a tenth of a core."""
        until = time.monotonic() + seconds_max
        used = self.processor_seconds()
        while time.monotonic() < until:
            time.sleep(0.1)
            used, before = self.processor_seconds(), used
            if used - before < 0.02:
                return

    def peak_bytes(self) -> int:
        """The most that it ever held resident (proc(5): VmHWM)."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise StartFailed("no VmHWM in status")


class Contestant(Struct, frozen=True, kw_only=True):
    """`command` is given a directory and a port, and says how to start it. One that finds its own port prints
    it as its first line, with the control port behind it if it has one."""

    name: str
    dialect: Dialect
    command: Callable[[Path, int], list[str]]
    prints_port: bool = True


def payload(number: int) -> bytes:
    """What a peer sends for a publication: as many bytes as our frame for it."""
    head = b"n=%010d " % number
    return head + b"x" * (PAYLOAD_BYTES - len(head))


def event_data(number: int) -> bytes:
    """The data of the event that makes our frame `PAYLOAD_BYTES` long, but for the digits of its cursor."""
    return json.dumps({"n": f"n={number:010d}", "text": "x" * 184}, separators=(",", ":")).encode()


@contextmanager
def started(contestant: Contestant) -> Iterator[Server]:
    """Raises Missing, or StartFailed."""
    with TemporaryDirectory(prefix="mijra-bench-") as name:
        directory = Path(name)
        port = _free_port()
        command = contestant.command(directory, port)
        log = directory / "log"
        with log.open("wb") as errors:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if contestant.prints_port else errors,
                stderr=errors,
            )
        try:
            control = None
            if contestant.prints_port:
                assert process.stdout is not None
                ports = [int(word) for word in process.stdout.readline().split()]
                if not ports:
                    raise StartFailed(f"{contestant.name}: {_tail(log)}")
                port, control = ports[0], ports[1] if len(ports) > 1 else None
            else:
                _until_listening(contestant.name, process, port, log)
            yield Server(
                name=contestant.name,
                dialect=contestant.dialect,
                port=port,
                control=control,
                process=process,
            )
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()


def native(since: int | None = None) -> Dialect:
    """A client of ours that listens to the inbox, from now on or after a cursor."""
    subscribe = b'{"type":"subscribe","channel":"inbox","since":%b}' % json.dumps(since).encode()
    return Dialect(
        path="/ws",
        greeting=(
            (frame(b'{"type":"auth","token":"1|good"}'), b'"welcome"'),
            (frame(subscribe), b'"subscribed"'),
        ),
        marker=MARKER,
    )


def contestants() -> list[Contestant]:
    """All of them, ours first."""
    ready = Dialect(
        greeting=((b"", b"ready"),), publisher_path="/publish", publisher_greeting=(), marker=MARKER
    )
    return [
        Contestant(name=OURS, dialect=native(), command=_python("bench.edge")),
        Contestant(name=ROUTE, dialect=native(), command=_python("bench.edge", "--route")),
        Contestant(name="npm ws", dialect=ready, command=_node("ws.js", "ws")),
        Contestant(name="socket.io", dialect=_socketio(), command=_node("socketio.js", "socket.io")),
        Contestant(name="mosquitto", dialect=_mqtt(), command=_mosquitto, prints_port=False),
        Contestant(name="nats-server", dialect=_nats(), command=_nats_server, prints_port=False),
        Contestant(
            name="python websockets",
            dialect=ready,
            command=_python("bench.peers.fanout.websockets_server", needs=("websockets", "uvloop")),
        ),
        Contestant(name="django channels", dialect=ready, command=_daphne, prints_port=False),
        Contestant(
            name=KERNEL,
            dialect=Dialect(marker=MARKER),
            command=_python("bench.peers.fanout.kernel"),
        ),
    ]


# ── how to start them ────────────────────────────────────────────────────────────────────────────────


def _python(module: str, *arguments: str, needs: tuple[str, ...] = ()) -> Callable[[Path, int], list[str]]:
    def command(directory: Path, port: int) -> list[str]:
        _need(*needs)
        return [sys.executable, "-m", module, *arguments]

    return command


def _node(script: str, package: str) -> Callable[[Path, int], list[str]]:
    def command(directory: Path, port: int) -> list[str]:
        node = shutil.which("node")
        if node is None:
            raise Missing("Node is not installed")
        if not (PEERS / "node" / "node_modules" / package).exists():
            raise Missing(f"run: npm install --no-package-lock --prefix {(PEERS / 'node').relative_to(ROOT)}")
        return [node, str(PEERS / "node" / script)]

    return command


def _mosquitto(directory: Path, port: int) -> list[str]:
    program = _program("mosquitto")
    configuration = directory / "mosquitto.conf"
    # Version 2.0.11 does not start with a WebSocket listener alone, nor with an address for it.
    configuration.write_text(
        f"listener 0 {directory / 'mqtt.sock'}\n"
        f"listener {port}\nprotocol websockets\nallow_anonymous true\npersistence false\n"
        "log_type none\nmax_queued_messages 0\nset_tcp_nodelay true\nuser root\n"
    )
    return [program, "-c", str(configuration)]


def _nats_server(directory: Path, port: int) -> list[str]:
    program = _program("nats-server")
    configuration = directory / "nats.conf"
    configuration.write_text(
        f'host: 127.0.0.1\nport: -1\nping_interval: "1h"\nmax_connections: 100000\n'
        f"websocket {{ host: 127.0.0.1, port: {port}, no_tls: true }}\n"
    )
    return [program, "-c", str(configuration)]


def _daphne(directory: Path, port: int) -> list[str]:
    _need("daphne", "channels")
    command = [sys.executable, "-m", "daphne", "-b", "127.0.0.1", "-p", str(port), "-v", "0"]
    command += ["--ping-interval", "86400", "--websocket_timeout", "-1"]
    return [*command, "bench.peers.fanout.channels_server:application"]


def _program(name: str) -> str:
    # Debian puts servers where a person's path does not lead.
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise Missing(f"not installed: {name} (Debian: apt-get install {name})")
    return found


def _need(*modules: str) -> None:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise Missing(f"not installed: {', '.join(missing)}")


# ── what their clients say ───────────────────────────────────────────────────────────────────────────


def _socketio() -> Dialect:
    connect: tuple[tuple[bytes, bytes], ...] = ((b"", b"0{"), (frame(b"40"), b"40{"))
    return Dialect(
        path="/socket.io/?EIO=4&transport=websocket",
        greeting=(*connect, (frame(b'42["listen"]'), b"ready")),
        publisher_greeting=connect,
        publish=lambda text: frame(b'42["publish","%b"]' % text),
        marker=MARKER,
    )


def _mqtt() -> Dialect:
    """MQTT 3.1.1: a clean session without keep-alive; topic `t` with QoS 0."""
    connect = (frame(b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x00\x00\x00", 2), b"\x20\x02\x00\x00")
    subscribe = (frame(b"\x82\x06\x00\x01\x00\x01t\x00", 2), b"\x90\x03\x00\x01")

    def publish(text: bytes) -> bytes:
        size = 3 + len(text)
        assert 128 <= size < 16_384, "two bytes of remaining length"
        return frame(bytes((0x30, size & 0x7F | 0x80, size >> 7)) + b"\x00\x01t" + text, 2)

    return Dialect(
        path="/mqtt",
        headers="Sec-WebSocket-Protocol: mqtt\r\n",
        greeting=(connect, subscribe),
        publisher_greeting=(connect,),
        publish=publish,
        marker=MARKER,
    )


def _nats() -> Dialect:
    info = (b"", b"INFO")
    connect = b'CONNECT {"verbose":false,"pedantic":false,"echo":true}\r\n'
    return Dialect(
        greeting=(info, (frame(connect + b"SUB t 1\r\nPING\r\n", 2), b"PONG")),
        publisher_greeting=(info, (frame(connect + b"PING\r\n", 2), b"PONG")),
        publish=lambda text: frame(b"PUB t %d\r\n%b\r\n" % (len(text), text), 2),
        # It puts several messages into one frame when it has them.
        stream_bytes=len(b"MSG t 1 %d\r\n\r\n" % PAYLOAD_BYTES) + PAYLOAD_BYTES,
        keep_alive=(b"PING\r\n", frame(b"PONG\r\n", 2)),
    )


# ── processes ────────────────────────────────────────────────────────────────────────────────────────


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _until_listening(name: str, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + _START_SECONDS_MAX
    while time.monotonic() < until and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise StartFailed(f"{name}: {_tail(log)}")


def _tail(log: Path) -> str:
    return " / ".join(log.read_text(errors="replace").splitlines()[-5:]) or "it said nothing"
