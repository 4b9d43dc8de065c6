"""`mijra demo` from start to verdict, as `make demo` runs it without a terminal."""

from pathlib import Path

import pytest
import trio

from gateway.cli.sandbox import played_by, stand_ins
from tests.cli.commands import mijra


@pytest.mark.slow
@pytest.mark.real_time
async def test_the_demo_ends_with_a_clean_reconciliation(tmp_path: Path) -> None:
    """A few seconds of talk on every channel, with the platforms' ordinary bad habits: all checks clean."""
    done = await mijra(tmp_path / "data", "demo", "--seconds", "5", "--rate", "15", "--seed", "7")
    shown = done.stdout.decode()
    assert done.returncode == 0, (shown, done.stderr)
    assert shown.count("clean") == 10
    for name in stand_ins():
        assert f"│ {played_by(name).platform.label} " in shown, shown
    assert "Nothing was lost, doubled or invented." in shown
    log_file = next(word for word in shown.split() if word.endswith("server.log"))
    assert "server.json" not in [path.name for path in await trio.Path(tmp_path, "data").iterdir()]
    assert b'"event":"webhook.accepted"' in await trio.Path(log_file).read_bytes()
