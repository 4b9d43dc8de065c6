"""Everything random and every clock of a day, from its seed; log lines into its record."""

import hashlib
import logging
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, tzinfo
from functools import cache
from importlib import import_module
from itertools import count
from pkgutil import walk_packages
from random import Random
from types import ModuleType, SimpleNamespace
from typing import Any, Self
from uuid import UUID

import structlog
import trio
from msgspec import structs
from trio._core import _run as trio_run

import adapters.guard
import gateway.push.session
import gateway.webhooks.handling
import storage.writer
from adapters.registry import describe_all
from engine.domain.platforms import describe, rules_of
from tests.simulation.patching import replaced
from tests.simulation.world import World

_UNTOLD = frozenset({"exc_info", "session"})


@contextmanager
def determined(world: World) -> Iterator[None]:
    """For one day, from its making to its end: trio's scheduler, ids, tokens and clocks follow the seed, and
    calls go to the day's platforms."""
    seed = world.scenario.seed
    ids = Random(f"{seed}/ids")
    batches = count(1)

    def batch_id() -> UUID:
        return UUID(int=(next(batches) << 64) | ids.getrandbits(64))

    ours = _clock(lambda: world.wall_ms() * 1_000_000)
    platforms = _clock(world.platform_nanoseconds)
    log = structlog.get_config()
    trio_run._r.seed(int.from_bytes(hashlib.sha256(f"{seed}/scheduler".encode()).digest()[:8]))
    structlog.configure(
        processors=[_recorder(world)],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.ReturnLoggerFactory(),
        cache_logger_on_first_use=False,
    )
    tokens = _Tokens(ids)
    try:
        with (
            ExitStack() as stack,
            replaced(trio_run, "_ALLOW_DETERMINISTIC_SCHEDULING", True),
            replaced(storage.writer, "batch_id", batch_id),
            replaced(gateway.push.session, "secrets", tokens),
            replaced(gateway.webhooks.handling, "os", SimpleNamespace(urandom=ids.randbytes)),
            replaced(adapters.guard, "GuardedTransport", lambda guard, **_: guard.transport),
        ):
            for module in _modules():
                played = module.__name__.startswith("adapters.simulators.")
                if getattr(module, "time", None) is time:
                    stack.enter_context(replaced(module, "time", platforms if played else ours))
                if played and getattr(module, "datetime", None) is datetime:
                    stack.enter_context(replaced(module, "datetime", _calendar(world)))
                if getattr(module, "secrets", None) is secrets:
                    stack.enter_context(replaced(module, "secrets", tokens))
            yield
    finally:
        structlog.configure(**log)


@contextmanager
def windows(world: World) -> Iterator[None]:
    """The platforms described as on this day."""
    describe_all()
    for name, seconds in world.windows.items():
        platform = rules_of(name)
        capabilities = structs.replace(platform.capabilities, window_seconds=seconds)
        describe(structs.replace(platform, capabilities=capabilities))
    try:
        yield
    finally:
        describe_all()


class _Tokens:
    """Stands for `secrets`."""

    compare_digest = staticmethod(secrets.compare_digest)

    def __init__(self, random: Random) -> None:
        self._random = random

    def token_hex(self, size: int = 16) -> str:
        return f"{self._random.getrandbits(8 * size):x}"

    def token_urlsafe(self, size: int = 32) -> str:
        return self.token_hex(size)


def _calendar(world: World) -> type[datetime]:
    """Stands for `datetime`."""

    class Calendar(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return cls.fromtimestamp(world.platform_nanoseconds() / 1e9, tz)

    return Calendar


def _clock(nanoseconds: Callable[[], int]) -> Any:
    """Stands for `time`."""
    return SimpleNamespace(
        time=lambda: nanoseconds() / 1e9,
        time_ns=nanoseconds,
        monotonic=trio.current_time,
        gmtime=lambda: time.gmtime(nanoseconds() // 1_000_000_000),
        strftime=time.strftime,
    )


@cache
def _modules() -> tuple[ModuleType, ...]:
    """All of the adapters', those too that are only imported when somebody needs them."""
    names = (each.name for each in walk_packages(adapters.__path__, "adapters."))
    return tuple(import_module(name) for name in names if not name.endswith("__main__"))


def _recorder(world: World) -> Any:
    """Every log line goes into the hash, and the worse ones into the timeline."""

    def record(_: Any, level: str, fields: dict[str, Any]) -> str:
        shown = {name: value for name, value in fields.items() if name not in _UNTOLD}
        if level in ("warning", "error", "exception"):
            event = shown.pop("event")
            about = [
                value
                for name, value in shown.items()
                if name in ("message_id", "outbox_id", "conversation_id")
            ]
            world.tell("log", f"{event} {shown}", *about)
        else:
            world.record.add("log", shown)
        raise structlog.DropEvent

    return record
