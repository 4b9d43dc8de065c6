"""The registry, with a real package of somebody else's beside ours, and the README's table."""

import subprocess
import sys
from pathlib import Path

import pytest

from adapters.registry import adapter_of, adapters
from adapters.table import markdown
from engine.errors import NotFound
from tests.patience import PATIENCE_SECONDS

ROOT = Path(__file__).parents[3]

PIGEON = """
from adapters.port import Adapter, ErrorClass
from engine.domain.platforms import Capabilities, Connection, Field, Platform


class Pigeon(Adapter):
    platform = Platform(
        name="{name}",
        label="Carrier pigeon",
        capabilities=Capabilities(receives=("text",), sends=("text",), limits="1/day"),
        connection=Connection(account=Field(name="loft", label="Where it lives.")),
    )

    def receiver(self):
        raise NotImplementedError

    def sender(self, tools):
        raise NotImplementedError

    def media_source(self, tools):
        return None

    async def check(self, account, tools):
        raise NotImplementedError

    def classify(self, code):
        return ErrorClass.BAD_REQUEST

"""
PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "{package}"
version = "1.0"

[project.entry-points."mijra.adapters"]
pigeon = "{package}:{value}"

[tool.hatch.build.targets.wheel]
packages = ["{package}"]
"""


def installed(tmp_path: Path, package: str, source: str, value: str) -> Path:
    """A package as `pip install` leaves it: its files and a `.dist-info` with the entry point."""
    target = tmp_path / "site"
    (target / package).mkdir(parents=True)
    (target / package / "__init__.py").write_text(source)
    info = target / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[mijra.adapters]\npigeon = {package}:{value}\n")
    (info / "RECORD").write_text("")
    return target


def listed(site: Path) -> subprocess.CompletedProcess[str]:
    """`python -m adapters` where that package is installed too."""
    return subprocess.run(
        [sys.executable, "-m", "adapters"],
        cwd=ROOT,
        env={"PYTHONPATH": str(site), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
        timeout=2 * PATIENCE_SECONDS,
    )


def test_another_packages_adapter_is_found(tmp_path: Path) -> None:
    """By its entry point, after the built-in ones; nothing of ours names it."""
    site = installed(tmp_path, "pigeon_post", PIGEON.format(name="pigeon"), "Pigeon")
    lines = listed(site).stdout.splitlines()
    assert lines[-1].split() == ["pigeon", "Carrier", "pigeon", "pigeon_post"]
    assert len(lines) == len(adapters()) + 1


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("raise RuntimeError('broken')", "ADAPTER"),
        ("ADAPTER = object", "ADAPTER"),
        (PIGEON.format(name="whatsapp"), "Pigeon"),
        (PIGEON.format(name="pigeon"), "Penguin"),
    ],
    ids=["does not import", "is none", "takes a name in use", "is not there"],
)
def test_one_that_cannot_be_used_costs_no_other(tmp_path: Path, source: str, value: str) -> None:
    """It is left out and logged; the built-in ones are all there."""
    done = listed(installed(tmp_path, "pigeon_post", source, value))
    assert len(done.stdout.splitlines()) == len(adapters())
    assert "pigeon_post" not in done.stdout
    assert "adapter.not_loaded" in done.stderr


@pytest.mark.slow
def test_the_documented_package_installs(tmp_path: Path) -> None:
    """The page's pyproject.toml, built and installed by pip into a place of its own."""
    project = tmp_path / "project"
    (project / "pigeon_post").mkdir(parents=True)
    (project / "pigeon_post" / "__init__.py").write_text(
        PIGEON.format(name="pigeon") + "\nADAPTER = Pigeon()\n"
    )
    (project / "pyproject.toml").write_text(PROJECT.format(package="pigeon_post", value="ADAPTER"))
    site = tmp_path / "site"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--retries=1",
        "--no-deps",
        "--target",
        str(site),
        str(project),
    ]
    done = subprocess.run(pip, capture_output=True, text=True, timeout=5 * PATIENCE_SECONDS, check=False)
    if done.returncode:
        pytest.skip(f"pip cannot build here: {done.stderr[-300:]}")
    assert listed(site).stdout.splitlines()[-1].startswith("pigeon ")


def test_an_adapter_is_found_by_name_and_alias() -> None:
    """Whatever spelling; another name is refused with those that there are."""
    for adapter in adapters().values():
        for name in (adapter.platform.name, *adapter.platform.aliases):
            assert adapter_of(name) is adapter
    with pytest.raises(NotFound, match="whatsapp"):
        adapter_of("pigeon")


def test_what_is_played_has_a_name_of_its_own() -> None:
    """The platform's, or one that no platform has."""
    names = [name for each in adapters().values() for name in each.stand_ins()]
    assert len(set(names)) == len(names)
    for each in adapters().values():
        others = {name for name in each.stand_ins() if name != each.platform.name}
        for platform in (one.platform for one in adapters().values()):
            assert not others & {platform.name, *platform.aliases}


def test_the_readmes_channel_table_is_current() -> None:
    """`python -m adapters --markdown` is what stands there."""
    readme = (ROOT / "README.md").read_text()
    table = markdown([each.platform for each in adapters().values()])
    _, _, rest = readme.partition("<!-- channels: `python -m adapters --markdown` prints this table -->\n")
    assert rest.partition("<!-- /channels -->")[0] == table


_WORDS = frozenset({"email"})


def test_no_other_package_names_a_platform() -> None:
    """Adding one touches one folder: engine, gateway and storage have no branch on a platform's name. A name
    that is a word of its own, such as a person's `email`, counts where a line is about platforms."""
    names = [name for each in adapters().values() for name in (each.platform.name, *each.platform.aliases)]
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for package in ("engine", "gateway", "storage")
        for path in (ROOT / package).rglob("*.py")
        for name in names
        for line in path.read_text().splitlines()
        if f'"{name}"' in line and (name not in _WORDS or "platform" in line.lower())
    ]
    assert found == []
