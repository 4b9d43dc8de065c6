"""The `mijra` command as a whole."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway.cli import COMMANDS, LazyGroup, main


def test_every_listed_command_exists_and_explains_itself() -> None:
    """Each row of the table imports and has a help text."""
    for name in COMMANDS:
        result = CliRunner().invoke(main, [name, "--help"])
        assert result.exit_code == 0, (name, result.output)
        assert result.output.startswith(f"Usage: main {name}")


def test_an_unknown_command_is_a_usage_error() -> None:
    """Status 2, and the name is repeated."""
    result = CliRunner().invoke(main, ["nonsense"])
    assert result.exit_code == 2
    assert "nonsense" in result.stderr


def test_errors_of_the_project_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a command raises from the error tree ends with its sentence and status 1."""
    (tmp_path / "failing_command.py").write_text(
        "import click\nfrom engine.errors import NotFound\n"
        "@click.command()\ndef command():\n    raise NotFound('there is no tenant demo')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    result = CliRunner().invoke(LazyGroup("mijra", modules={"fail": "failing_command"}), ["fail"])
    assert (result.exit_code, result.stderr) == (1, "Error: there is no tenant demo\n")


def test_reading_logs_does_not_load_the_server() -> None:
    """`mijra logs` starts without the web framework, the database driver and trio."""
    code = (
        "import sys; from gateway.cli import main\n"
        "try: main(['logs', '--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'quart', 'hypercorn', 'asyncpg', 'trio'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
