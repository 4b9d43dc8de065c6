"""All platforms that this installation speaks to: the built-in ones, and those of other packages.

Promises    `adapters()` gives each platform once, built-in ones first, others by name; the same objects every
            time. A package's adapter that cannot be loaded, is none, or takes a name that is in use is left
            out with an error in the log: the other channels must still be served.
Leaves      how to write one to adapters/README.md.
"""

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Final

import structlog

from adapters.port import Adapter
from engine.domain import platforms
from engine.errors import NotFound

ENTRY_POINTS: Final = "mijra.adapters"
"""The group under which a package names its adapter: an Adapter instance, or a class or function without
arguments that gives one."""

BUILT_IN: Final = ("whatsapp", "messenger", "instagram", "tiktok", "google_business", "email", "sms")
"""Folders of this package with an `ADAPTER`, in the order of the README's table."""

_log = structlog.get_logger()


@cache
def adapters() -> Mapping[str, Adapter]:
    """By platform name."""
    found: dict[str, Adapter] = {}
    taken: set[str] = set()
    for folder in BUILT_IN:
        _take(found, taken, import_module(f"adapters.{folder}").ADAPTER)
    for entry in sorted(entry_points(group=ENTRY_POINTS), key=lambda one: one.name):
        try:
            loaded = entry.load()
            _take(found, taken, loaded if isinstance(loaded, Adapter) else loaded())
        except Exception:  # noqa: BLE001  # somebody else's code; see above
            _log.exception("adapter.not_loaded", name=entry.name, value=entry.value)
    return found


def adapter_of(name: str) -> Adapter:
    """By name or alias. Raises NotFound with the names that there are."""
    known = adapters()
    for adapter in known.values():
        if name == adapter.platform.name or name in adapter.platform.aliases:
            return adapter
    raise NotFound(f"There is no platform {name[:40]}; there are {', '.join(known)}.")


def describe_all() -> None:
    """Makes every platform known to the engine; once, before it runs."""
    for adapter in adapters().values():
        platforms.describe(adapter.platform)


def _take(found: dict[str, Adapter], taken: set[str], adapter: object) -> None:
    if not isinstance(adapter, Adapter):
        raise TypeError(f"{type(adapter).__name__} is no adapters.port.Adapter")
    names = {adapter.platform.name, *adapter.platform.aliases}
    if names & taken:
        raise ValueError(f"{', '.join(sorted(names & taken))} is taken by another adapter")
    taken |= names
    found[adapter.platform.name] = adapter
