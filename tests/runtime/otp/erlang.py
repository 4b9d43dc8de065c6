"""OTP's answer to scenarios: a fresh one where Erlang is installed, the recorded ones everywhere.

python -m tests.runtime.otp.erlang          # record traces.json anew; needs escript (Debian: erlang-base)
"""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.runtime.otp.scenarios import Scenario, as_erlang, fixed, generated

_HERE: Final = Path(__file__).parent
RECORDED: Final = _HERE / "traces.json"
RECORDED_SEEDS: Final = range(1, 201)
_SECONDS_MAX: Final = 120


def escript() -> str | None:
    """Where Erlang's escript is, if it is installed."""
    return shutil.which("escript")


def traces(scenarios: Sequence[Scenario]) -> dict[str, list[str]]:
    """What OTP's supervisor does, by the scenario's id."""
    program = escript()
    assert program is not None
    with tempfile.TemporaryDirectory() as directory:
        terms = Path(directory) / "scenarios"
        terms.write_text("\n".join(map(as_erlang, scenarios)) + "\n")
        done = subprocess.run(
            [program, str(_HERE / "supervisor.escript"), str(terms)],
            capture_output=True,
            text=True,
            check=True,
            timeout=_SECONDS_MAX,
        )
    lines = (line.split("\t") for line in done.stdout.splitlines())
    return {name: trace.split(",") for name, trace in lines}


def recorded() -> dict[str, list[str]]:
    """What a real OTP did when the traces were recorded."""
    found: dict[str, list[str]] = json.loads(RECORDED.read_text())["traces"]
    return found


def recorded_scenarios() -> list[Scenario]:
    return [*fixed(), *map(generated, RECORDED_SEEDS)]


def _release() -> str:
    program = shutil.which("erl")
    assert program is not None
    said = "io:format(erlang:system_info(otp_release)), halt()."
    done = subprocess.run([program, "-noshell", "-eval", said], capture_output=True, text=True, check=True)
    return done.stdout


if __name__ == "__main__":
    found = {name: ",".join(trace).split(",") for name, trace in sorted(traces(recorded_scenarios()).items())}
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(trace)}" for name, trace in found.items())
    RECORDED.write_text(f'{{"otp_release": "{_release()}", "traces": {{\n{lines}\n}}}}\n')
