"""How the server writes its log: one line per fact, to standard output.

Exists so that every line, ours or a library's, has the same shape and passes the same net against secrets.

    {"ts": "2026-03-01T09:00:00.123Z", "level": "info", "event": "conversation.committed", "trace": "…", …}

Promises   `ts` (RFC 3339, UTC, milliseconds), `level` and `event` lead each line, then `trace`, `tenant`
           and `actor` where bound; the rest follows in the order given. A value that cannot be rendered
           never costs the line. Values under keys that usually hold a secret, a message's content or a
           phone number are replaced: a net for slips, not a licence to log them.
Leaves     collecting, rotating and shipping to whoever runs the process. Each line is flushed as it
           happens, so that a crash loses none; a reader of standard output that stops reading therefore
           stops the server once the pipe (64 KiB on Linux) is full.

Who begins a unit of work binds what all its lines share, once:
`structlog.contextvars.bound_contextvars(trace=…, tenant=…)`; trio gives each task a copy of its parent's.
"""

import functools
import logging
import re
import sys
import time
from collections.abc import Mapping, MutableMapping
from typing import Any, BinaryIO, Final, Literal
from urllib.parse import urlsplit, urlunsplit

import msgspec
import structlog
from structlog.typing import EventDict, WrappedLogger

REDACTED: Final = "[redacted]"

_LEADING: Final = ("ts", "level", "event", "trace", "tenant", "actor")
_SENSITIVE: Final = frozenset(
    (
        "token",
        "tokens",
        "secret",
        "secrets",
        "password",
        "passwd",
        "authorization",
        "authentication",
        "cookie",
        "cookies",
        "credential",
        "credentials",
        "apikey",
        "bearer",
        "body",
        "payload",
        "content",
        "text",
        "caption",
        "preview",
        "phone",
        "msisdn",
        "email",
        "dsn",
    )
)
_SENSITIVE_KEYS: Final = frozenset(("api", "access", "master", "private", "signing", "encryption"))
# `token_id` or `body_bytes` speak about the thing, they are not it.
_ABOUT: Final = frozenset(
    (
        "id",
        "ids",
        "type",
        "kind",
        "bytes",
        "count",
        "max",
        "min",
        "ms",
        "seconds",
        "at",
        "name",
        "names",
        "state",
        "status",
        "code",
        "rows",
        "size",
        "length",
        "hash",
    )
)
_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
# Fields nest a level or two; anything deeper is data that somebody dumped into the log.
_DEPTH_MAX: Final = 6


def configure_logging(
    level: Literal["debug", "info", "warning", "error"] = "info",
    layout: Literal["json", "console", "auto"] = "auto",
    stream: BinaryIO | None = None,
) -> None:
    """Send structlog's and the standard library's records to `stream` (standard output by default).

    Called once, by the composition root, before anything logs; calling it again replaces what was set for
    loggers that have not been used yet.
    """
    out = stream if stream is not None else sys.stdout.buffer
    if layout == "auto":
        layout = "console" if out.isatty() else "json"
    number = getattr(logging, level.upper())
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        _stamp,
        redact,
    ]
    if layout == "json":
        processors += [structlog.processors.format_exc_info, _render_json]
    else:
        # The library's default shows local variables with a traceback; they hold whatever was being handled.
        processors += [
            structlog.dev.ConsoleRenderer(
                colors=out.isatty(),
                timestamp_key="ts",
                exception_formatter=structlog.dev.plain_traceback,
            ),
            _encode,
        ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.BytesLoggerFactory(file=out),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, _ToStructlog)]:
        root.removeHandler(handler)
    root.addHandler(_ToStructlog())
    root.setLevel(number)
    # At info these write a line per request with the full URL, and media URLs carry tokens.
    for chatty in ("httpx", "httpcore", "hypercorn.access"):
        logging.getLogger(chatty).setLevel(max(number, logging.WARNING))


def redact(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    """Replace what must not be in a log, by the name it is given under; passwords inside URLs too."""
    for key, value in event_dict.items():
        if type(value) in _HARMLESS or key == "event":
            continue
        event_dict[key] = _redacted(key, value, _DEPTH_MAX)
    return event_dict


_HARMLESS: Final = frozenset((bool, int, float, type(None)))


def _redacted(key: str, value: object, depth: int) -> object:
    if value is None or isinstance(value, bool):
        return value
    kind = _kind_of(key)
    if kind == "sensitive":
        return REDACTED
    if isinstance(value, str):
        return _without_credentials(value) if kind == "url" else value
    if isinstance(value, Mapping):
        if not depth:
            return REDACTED
        return {name: _redacted(str(name), inner, depth - 1) for name, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        if not depth:
            return REDACTED
        return [_redacted(key, inner, depth - 1) for inner in value]
    return value


@functools.lru_cache(maxsize=4096)  # names in code are few; the bound is for names that come from outside
def _kind_of(key: str) -> Literal["sensitive", "url", "plain"]:
    words = [word.lower() for word in _WORD.findall(key)]
    if not words:
        return "plain"
    names_a_key = words[-1] == "key" and bool(_SENSITIVE_KEYS.intersection(words))
    if words[-1] not in _ABOUT and (names_a_key or _SENSITIVE.intersection(words)):
        return "sensitive"
    if words[-1] in ("url", "uri"):
        return "url"
    return "plain"


def _without_credentials(url: str) -> str:
    """The URL without user, password and query: signatures and tokens travel in all three."""
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit((parts.scheme, host, parts.path, "", ""))
    except ValueError:
        return REDACTED


def _stamp(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    ms = time.time_ns() // 1_000_000
    seconds, ms = divmod(ms, 1000)
    event_dict["ts"] = f"{_date_and_time(seconds)}.{ms:03}Z"
    return event_dict


@functools.lru_cache(maxsize=2)  # most lines share their second with the one before
def _date_and_time(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _fallback(value: object) -> object:
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {value}"
    return str(value)


_ENCODER: Final = msgspec.json.Encoder(enc_hook=_fallback)


def _render_json(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> bytes:
    ordered = {key: event_dict.pop(key) for key in _LEADING if key in event_dict}
    ordered.update(event_dict)
    try:
        return _ENCODER.encode(ordered)
    except Exception:  # noqa: BLE001  # whatever a value's own methods raise, the line is worth more than the value
        return _ENCODER.encode({_clean(key): _clean(value) for key, value in ordered.items()})


def _clean(value: object) -> str:
    try:
        text = value if isinstance(value, str) else repr(value)
    except Exception:  # noqa: BLE001  # a broken repr must not cost the line
        text = f"<{type(value).__name__} that cannot be shown>"
    return text[:1000].encode("utf-8", "backslashreplace").decode("utf-8")


def _encode(_logger: WrappedLogger, _method: str, line: Any) -> bytes:
    return str(line).encode("utf-8", "backslashreplace")


class _ToStructlog(logging.Handler):
    """Brings the libraries' records (hypercorn, quart, asyncio under storage) into the same lines."""

    def emit(self, record: logging.LogRecord) -> None:
        fields: MutableMapping[str, object] = {"logger": record.name, "message": record.getMessage()}
        if record.exc_info:
            fields["exc_info"] = record.exc_info
        method = record.levelname.lower()
        log = structlog.get_logger()
        getattr(log, method if method in ("debug", "info", "warning", "error", "critical") else "info")(
            "library.logged", **fields
        )
