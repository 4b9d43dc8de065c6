"""What of a run must stand nowhere: looked for in its log and in every file that it leaves, byte for byte."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from gateway.cli.sandbox import played_by, stand_ins

KEPT_ON_PURPOSE: Final = frozenset({"dev.json", "master.key"})
"""Readable by their owner alone."""


def secrets_of(line: Mapping[str, Any]) -> dict[str, str]:
    """The secrets in the line of `mijra dev --json`, by where they stand there."""
    found = {
        "token": line["token"].partition("|")[2],
        "agent.password": line["agent"]["password"],
        "pusher.secret": line["pusher"]["secret"],
    }
    for name in stand_ins():
        for field in played_by(name).platform.connection.secret_names:
            if line[name].get(field):
                found[f"{name}.{field}"] = line[name][field]
    return found


def told(secrets: Mapping[str, str], data_dir: Path, log: Path) -> list[tuple[str, str]]:
    """Which secret stands in which file. The database's files are its rows, indexes and journal."""
    return [
        (name, str(path.relative_to(data_dir.parent)))
        for path in (log, *_files(data_dir))
        for name in _in(path.read_bytes(), secrets)
    ]


def _in(content: bytes, secrets: Mapping[str, str]) -> Iterator[str]:
    for name, secret in secrets.items():
        if secret.encode() in content:
            yield name


def _files(data_dir: Path) -> Iterator[Path]:
    for path in sorted(data_dir.rglob("*")):
        if path.name not in KEPT_ON_PURPOSE and path.is_file():
            yield path
