"""What an operator may set, from the environment.

Exists so that a setting is described once: the fields of `Settings` carry default, unit and sentence,
and the reader, the error messages and the README's table are all made from them. To add a setting, add
a field; its variable is the field's name in capitals behind `MIJRA_`.

Promises   `read_settings` is pure: it looks at the mapping it is given and touches neither disk nor network.
           Everything that is wrong is said at once, each with what to do, and no secret is repeated.
Leaves     the master key's file to `gateway.master_key`, opening of anything to `gateway.boot`.

`python -m gateway.settings` checks the present environment; with `--markdown` it prints the README's table.
"""

import base64
import binascii
import difflib
import os
import re
from collections.abc import Callable, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple, get_type_hints
from urllib.parse import SplitResult, urlsplit

import click
from msgspec import Struct

from engine.errors import InvalidInput

PREFIX: Final = "MIJRA_"
MASTER_KEY_BYTES: Final = 32


class InvalidSettings(InvalidInput):
    """The environment does not describe a system that can start; `fields` has a sentence per variable."""

    code = "invalid_settings"


class Setting(NamedTuple):
    """What the README says of one variable, and how its text becomes a value.

    `parse` raises ValueError with the end of the sentence "MIJRA_X …".
    """

    sentence: str
    parse: Callable[[str], object]
    unit: str = ""
    shown_default: str = ""
    secret: bool = False


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise ValueError(f"must be a whole number from {low} to {high}") from None
        if not low <= value <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return value

    return parse


def _port(text: str) -> int:
    if text.startswith("tcp://"):
        # Kubernetes announces a Service called "mijra" to every pod beside it under this very name.
        raise ValueError(
            "looks like a Kubernetes service link: set enableServiceLinks: false on the pod, or set a number"
        )
    return _whole(0, 65_535)(text)


def _seconds(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise ValueError(f"must be a number of seconds from {low:g} to {high:g}") from None
        if not low <= value <= high:  # also false for nan
            raise ValueError(f"must be a number of seconds from {low:g} to {high:g}")
        return value

    return parse


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return text.lower()

    return parse


def _host(text: str) -> str:
    if "/" in text or "[" in text or any(c.isspace() for c in text) or text.count(":") == 1:
        raise ValueError("must be a host name or an IP address alone, without scheme, port or brackets")
    return text


def _identifier(text: str) -> str:
    # PostgreSQL cuts names at 63 bytes; what follows the prefix (`_t_` and a tenant's id) needs up to 19.
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,31}", text):
        raise ValueError("must be a letter and at most 31 more lower-case letters, digits and underscores")
    return text


def _database_url(text: str) -> str:
    parts = _split(text)
    if parts.scheme not in ("postgresql", "postgres"):
        raise ValueError("must look like postgresql://user:password@host:5432/database")
    return text


def _public_url(text: str) -> str:
    parts = _split(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("must look like https://chat.example.com, without query")
    return text.rstrip("/")


def _object_store_url(text: str) -> str:
    # memory:// is refused although obstore has it: what customers sent would be gone at the next start.
    if _split(text).scheme not in ("file", "s3", "gs", "az", "abfss", "https"):
        raise ValueError("must be a file:///…, s3://…, gs://…, az://…, abfss://… or https://… URL")
    return text


def _master_key(text: str) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
    except binascii.Error:
        key = b""
    if len(key) != MASTER_KEY_BYTES:
        raise ValueError(f"must be {MASTER_KEY_BYTES} bytes in base64; `openssl rand -base64 32` makes one")
    return key


def _hosts_with_ports(text: str) -> tuple[str, ...]:
    hosts = _listed(text)
    for host in hosts:
        name, _, port = host.rpartition(":")
        if not name or not port.isdigit() or not 0 < int(port) < 65_536:
            raise ValueError("must be a comma-separated list of host:port, such as 127.0.0.1:9000")
    return hosts


def _ports(text: str) -> tuple[int, ...]:
    ports = _listed(text)
    if not all(port.isdecimal() and 0 < int(port) < 65_536 for port in ports):
        raise ValueError("must be a comma-separated list of ports, such as 10025,10143")
    return tuple(map(int, ports))


def _listeners(text: str) -> dict[str, tuple[str, int]]:
    found = {}
    for each in _listed(text):
        name, _, address = each.partition("=")
        host, _, port = address.rpartition(":")
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,31}", name) or not host or not port.isdigit():
            raise ValueError("must be a comma-separated list of name=host:port, such as smtp=0.0.0.0:25")
        found[name] = (_host(host.strip("[]")), _port(port))
    return found


def _networks(text: str) -> tuple[str, ...]:
    networks = _listed(text)
    for network in networks:
        try:
            ip_network(network)
        except ValueError:
            raise ValueError(
                "must be a comma-separated list of addresses or networks, such as 10.0.0.0/8"
            ) from None
    return networks


def _origins(text: str) -> tuple[str, ...]:
    origins = _listed(text)
    for origin in origins:
        parts = _split(origin)
        if origin != "*" and (parts.scheme not in ("http", "https") or not parts.netloc or parts.path):
            raise ValueError(
                "must be * or a comma-separated list of origins, such as https://inbox.example.com"
            )
    return origins


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:  # such as an unclosed bracket; the callers' own sentences say more
        return urlsplit("")


def _listed(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in text.split(",") if item.strip())


class Settings(Struct, frozen=True, kw_only=True):
    """Everything that is set from outside. Made by `read_settings`, or by name in tests."""

    data_dir: Annotated[
        Path,
        Setting("Where the embedded database, received media and the generated master key live.", Path),
    ] = Path("data")
    database_url: Annotated[
        str | None,
        Setting(
            "A PostgreSQL server to use instead of the embedded one; its user needs CREATEDB.",
            _database_url,
            shown_default="embedded",
            secret=True,
        ),
    ] = None
    database_prefix: Annotated[
        str,
        Setting(
            "What the names of all databases begin with, so that two systems can share a server.", _identifier
        ),
    ] = "mijra"
    db_connections_max: Annotated[
        int,
        Setting(
            "Connections to the database server, readers and writers of all databases together.",
            _whole(4, 10_000),
            "connections",
        ),
    ] = 40
    placement: Annotated[
        Literal["own", "pooled"],
        Setting(
            "Where a new tenant goes unless said otherwise: a database of its `own` or a `pooled` one.",
            _one_of("own", "pooled"),
        ),
    ] = "own"
    host: Annotated[str, Setting("The address the public port listens on; `0.0.0.0` for all.", _host)] = (
        "127.0.0.1"
    )
    port: Annotated[int, Setting("The public port: API, webhooks, WebSocket. 0 takes a free one.", _port)] = (
        8080
    )
    operator_host: Annotated[
        str, Setting("The address the operator port listens on. Keep it away from the internet.", _host)
    ] = "127.0.0.1"
    operator_port: Annotated[
        int, Setting("The operator port: health and metrics. 0 takes a free one.", _port)
    ] = 9090
    listen: Annotated[
        Mapping[str, tuple[str, int]],
        Setting(
            "Further listeners that channels bring, as comma-separated name=host:port, each off unless it is "
            "named: `smtp` takes mail. Port 0 takes a free one.",
            _listeners,
            shown_default="none",
        ),
    ] = {}
    tls_certificate: Annotated[
        Path | None,
        Setting(
            "The certificate chain (PEM) with which those listeners offer TLS; read at start.",
            Path,
            shown_default="none",
        ),
    ] = None
    tls_key: Annotated[
        Path | None,
        Setting("Its private key (PEM), if that is not in the same file.", Path, shown_default="none"),
    ] = None
    public_url: Annotated[
        str | None,
        Setting(
            "How the outside reaches the public port; links to files are made with it.",
            _public_url,
            shown_default="http://host:port",
        ),
    ] = None
    master_key: Annotated[
        bytes | None,
        Setting(
            "What channels' credentials are encrypted with: 32 bytes in base64. Losing it loses them.",
            _master_key,
            shown_default="generated once into `master.key` in the data directory",
            secret=True,
        ),
    ] = None
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Setting("The least severe line that is written.", _one_of("debug", "info", "warning", "error")),
    ] = "info"
    log_format: Annotated[
        Literal["json", "console", "auto"],
        Setting(
            "`json` lines, `console` for people, or `auto`: console on a terminal and json elsewhere.",
            _one_of("json", "console", "auto"),
        ),
    ] = "auto"
    object_store_url: Annotated[
        str | None,
        Setting(
            "Where media goes: a `file:`, `s3:`, `gs:`, `az:`, `abfss:` or `https:` URL; the provider's own "
            "variables give the credentials.",
            _object_store_url,
            shown_default="`objects` in the data directory",
        ),
    ] = None
    media_bytes_max: Annotated[
        int,
        Setting(
            "The largest media file fetched or uploaded. WhatsApp itself stops at 100 MB.",
            _whole(1, 2**31),
            "bytes",
        ),
    ] = 100 * 1024 * 1024
    webhook_bytes_max: Annotated[
        int,
        Setting(
            "The largest webhook body read. WhatsApp sends at most 3 MB; less would refuse real deliveries.",
            _whole(1024, 2**26),
            "bytes",
        ),
    ] = 3 * 1024 * 1024
    webhook_lane: Annotated[
        Literal["on", "off"],
        Setting(
            "`on`: webhook POSTs take the short way past the web framework. `off`: they go through it, "
            "slower and with the same answers.",
            _one_of("on", "off"),
        ),
    ] = "on"
    push_lane: Annotated[
        Literal["on", "off"],
        Setting(
            "`on`: WebSockets take the short way past the web framework. `off`: they go through it, slower, "
            "with more memory for each, and with the same messages.",
            _one_of("on", "off"),
        ),
    ] = "on"
    body_bytes_max: Annotated[
        int, Setting("The largest body of any other request, uploads excepted.", _whole(1024, 2**26), "bytes")
    ] = 1024 * 1024
    request_seconds_max: Annotated[
        float,
        Setting(
            "How long a request may take from its first byte to its answer.", _seconds(1, 600), "seconds"
        ),
    ] = 30.0
    allow_private_media_hosts: Annotated[
        tuple[str, ...],
        Setting(
            "Comma-separated host:port pairs that may be called although they are private: for stand-ins "
            "of a platform, and a mail server of one's own network.",
            _hosts_with_ports,
            shown_default="none",
        ),
    ] = ()
    trusted_proxies: Annotated[
        tuple[str, ...],
        Setting(
            "Comma-separated addresses or networks of the reverse proxies in front, whose X-Forwarded-For "
            "says who the client is. Without it all clients behind one share the limits of one address.",
            _networks,
            shown_default="none",
        ),
    ] = ()
    allow_server_ports: Annotated[
        tuple[int, ...],
        Setting(
            "Comma-separated ports on which servers that accounts name (SMTP, IMAP) may be called, beside "
            "the usual ones.",
            _ports,
            shown_default="none",
        ),
    ] = ()
    ws_origins: Annotated[
        tuple[str, ...],
        Setting(
            "Comma-separated origins whose pages may open a WebSocket; `*` for all (it takes a token anyway, "
            "never a cookie).",
            _origins,
        ),
    ] = ("*",)
    resident_conversations_max: Annotated[
        int,
        Setting(
            "Conversations held in memory at once; the longest idle make room.",
            _whole(100, 10_000_000),
            "conversations",
        ),
    ] = 100_000
    idle_seconds: Annotated[
        float,
        Setting(
            "How long a conversation stays in memory after its last message.",
            _seconds(1, 86_400),
            "seconds",
        ),
    ] = 300.0
    outbound_unknown_wait_seconds: Annotated[
        float,
        Setting(
            "After a crash: how long to wait for the platform's word on messages that may have been sent, "
            "before they are sent again.",
            _seconds(0, 3600),
            "seconds",
        ),
    ] = 30.0
    stop_seconds_max: Annotated[
        float,
        Setting(
            "How long an ordered shutdown may take; keep it under the service manager's patience.",
            _seconds(1, 600),
            "seconds",
        ),
    ] = 20.0

    def __repr__(self) -> str:
        """Without the secrets, since this ends up in logs and tracebacks."""
        shown = (
            f"{name}={'…' if setting.secret and getattr(self, name) else repr(getattr(self, name))}"
            for name, setting in SETTINGS.items()
        )
        return f"Settings({', '.join(shown)})"

    @property
    def object_store(self) -> str:
        """The object store's URL with its default resolved."""
        return self.object_store_url or (self.data_dir.absolute() / "objects").as_uri()


# In the order of the README's table.
SETTINGS: Final[Mapping[str, Setting]] = {
    field: next(extra for extra in hint.__metadata__ if isinstance(extra, Setting))
    for field, hint in get_type_hints(Settings, include_extras=True).items()
}


def variable(field: str) -> str:
    """The environment variable that sets the field."""
    return PREFIX + field.upper()


def read_settings(environ: Mapping[str, str]) -> Settings:
    """The settings that the environment describes. An empty variable counts as absent.

    Raises InvalidSettings with everything that is wrong, one line each.
    """
    values: dict[str, object] = {}
    problems: dict[str, list[str]] = {}
    for field, setting in SETTINGS.items():
        text = environ.get(variable(field), "").strip()
        if not text:
            continue
        try:
            values[field] = setting.parse(text)
        except ValueError as error:
            given = "" if setting.secret else f", not {_shortened(text)!r}"
            problems[variable(field)] = [f"{variable(field)} {error}{given}"]
    if not problems:
        settings = Settings(**values)  # type: ignore[arg-type]  # each value comes from its own field's parser
        problems = _contradictions(settings)
        if not problems:
            return settings
    lines = [sentence for sentences in problems.values() for sentence in sentences]
    raise InvalidSettings("The environment is not usable:\n  " + "\n  ".join(lines), fields=problems)


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """A sentence for each `MIJRA_…` variable that sets nothing, usually a slip of the pen.

    Worth a warning and no more: a newer version's variable must not keep an older one from starting.
    """
    known = {variable(field) for field in SETTINGS}
    sentences = []
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
            hint = f"; did you mean {near[0]}?" if near else "; it has no effect"
            sentences.append(f"{name} is not a setting{hint}")
    return sentences


def markdown() -> str:
    """The table for the README, one row per setting."""
    rows = ["| variable | default | unit | what it sets |", "| --- | --- | --- | --- |"]
    defaults = Settings()
    for field, setting in SETTINGS.items():
        default = setting.shown_default or _plain(getattr(defaults, field))
        rows.append(f"| `{variable(field)}` | {default} | {setting.unit} | {setting.sentence} |")
    return "\n".join(rows) + "\n"


def _contradictions(settings: Settings) -> dict[str, list[str]]:
    """What is wrong with values that are each fine alone."""
    problems: dict[str, list[str]] = {}
    if settings.port and settings.port == settings.operator_port and settings.host == settings.operator_host:
        name = variable("operator_port")
        problems[name] = [f"{name} must differ from {variable('port')}, both are {settings.port}"]
    return problems


def _plain(value: object) -> str:
    if isinstance(value, tuple):
        return "`" + ",".join(value) + "`"
    if isinstance(value, float):
        return f"`{value:g}`"
    return f"`{value}`"


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else text[:60] + "…"


@click.command()
@click.option("--markdown", "as_markdown", is_flag=True, help="Print the table for the README.")
def _command(as_markdown: bool) -> None:
    """Check the environment's MIJRA_ variables, or print what there is."""
    if as_markdown:
        click.echo(markdown(), nl=False)
        return
    for sentence in unknown_variables(os.environ):
        click.echo(sentence, err=True)
    try:
        click.echo(repr(read_settings(os.environ)))
    except InvalidSettings as error:
        raise click.ClickException(error.message) from None


if __name__ == "__main__":
    _command()
