"""What commands make of their arguments, before anything is started."""

import errno
import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from engine.errors import InvalidInput, MijraError, NotFound, Unavailable
from gateway.cli import main
from gateway.cli.admin import live_server
from gateway.cli.asking import with_password
from gateway.cli.running import run
from gateway.cli.sandbox import remember


def _mijra(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(main, arguments, env=environment)


@pytest.mark.parametrize(
    "arguments",
    [
        ("tenant", "create"),
        ("tenant", "create", "acme", "--name", "Acme"),
        ("tenant", "create", "acme", "--isolation", "shared"),
        ("user", "create", "--tenant", "demo", "--email", "a@b.example", "--name", "A", "--role", "boss"),
        ("token", "create", "--tenant", "demo"),
        ("channel", "connect", "pigeon"),
        ("simulate", "--rate", "3"),
        ("simulate", "--port", "70000"),
        ("simulate", "--platform", "pigeon"),
        ("simulate", "--callback", "localhost:8080"),
        ("demo", "--seconds", "0"),
        ("demo", "--customers", "none"),
        ("dev", "--port", "-1"),
        ("dev", "--simulator-url", "localhost:9000"),
        ("dev", "--simulator-url", "pigeon=http://localhost:9000"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_status_2(arguments: tuple[str, ...]) -> None:
    """And the usage is shown."""
    result = _mijra(*arguments)
    assert result.exit_code == 2, result.output
    assert "Usage:" in result.stderr


def test_a_url_needs_a_token() -> None:
    """Without one, nothing is called."""
    result = _mijra("user", "create", "--tenant", "t", "--email", "a@b.c", "--name", "A", "--url", "http://x")
    assert result.exit_code == 1
    assert result.stderr == "Error: --url and --token go together: the token belongs to one server.\n"


def test_a_server_that_does_not_answer_is_said_so() -> None:
    """One sentence with its address; port 9 (discard) is where nobody listens."""
    options = ("--url", "http://127.0.0.1:9", "--token", "1|x")
    result = _mijra("user", "create", "--tenant", "t", "--email", "a@b.c", "--name", "A", *options)
    assert result.exit_code == 1
    assert result.stderr == "Error: No answer from http://127.0.0.1:9 (ConnectError).\n"


def test_a_secret_that_nobody_can_be_asked_for_is_a_usage_error() -> None:
    """Standard input is no terminal here, so a prompt would wait for ever or read something else."""
    account = ("--tenant", "demo", "--name", "Support", "--phone-number-id", "1")
    result = _mijra("channel", "connect", "whatsapp", *account)
    assert result.exit_code == 2
    assert "--access-token is needed" in result.stderr


def test_a_wrong_environment_is_told_before_anything_starts(tmp_path: Path) -> None:
    """By every command that reads it, in the words of the settings."""
    for command in (("serve",), ("dev",), ("migrate",), ("demo", "--seconds", "1")):
        result = _mijra(*command, MIJRA_DATA_DIR=str(tmp_path), MIJRA_PORT="many")
        assert result.exit_code == 1, command
        assert "MIJRA_PORT must be a whole number" in result.stderr


@pytest.mark.parametrize("content", [None, "", "{", '{"pid": 1}'])
def test_no_server_is_known_without_a_whole_file(tmp_path: Path, content: str | None) -> None:
    """A file that was cut off by a crash belongs to a server that never got ready."""
    if content is not None:
        (tmp_path / "server.json").write_text(content)
    assert live_server(tmp_path) is None


def test_a_dead_process_and_ourselves_are_no_server(tmp_path: Path) -> None:
    """Process numbers are used again, in containers at once; a living other process is taken at its word."""
    pid_max = int(Path("/proc/sys/kernel/pid_max").read_text())
    for pid, live in ((pid_max + 1, False), (os.getpid(), False), (os.getppid(), True)):
        members = {"pid": pid, "base_url": "http://h", "operator_url": "http://o", "token": "1|x"}
        (tmp_path / "server.json").write_text(json.dumps(members))
        assert (live_server(tmp_path) is not None) is live


def test_a_living_process_that_does_not_answer_is_not_started_beside(tmp_path: Path) -> None:
    """Two systems on one data directory would take the tenants from each other."""
    members = {"pid": os.getppid(), "base_url": "http://127.0.0.1:9", "operator_url": "", "token": "1|x"}
    (tmp_path / "server.json").write_text(json.dumps(members))
    result = _mijra(
        *("token", "create", "--tenant", "t", "--email", "a@b.c", "--name", "n"),
        MIJRA_DATA_DIR=str(tmp_path),
    )
    assert result.exit_code == 1
    assert "does not answer at http://127.0.0.1:9" in result.stderr
    assert "server.json" in result.stderr


def test_what_dev_remembers_survives_and_is_private(tmp_path: Path) -> None:
    """The second time the same, readable by its owner alone; a damaged file is not replaced in silence."""
    first = remember(tmp_path)
    assert remember(tmp_path) == first
    path = tmp_path / "dev.json"
    assert path.stat().st_mode & 0o077 == 0
    path.write_text("{")
    with pytest.raises(InvalidInput, match=r"dev\.json is damaged"):
        remember(tmp_path)


async def test_a_password_is_made_only_for_somebody_without_a_login() -> None:
    """The server is asked without one first; whoever has a login keeps the password that they know."""

    async def knows_them(password: str | None) -> str:
        assert password is None
        return "made"

    async def new_here(password: str | None) -> str:
        if password is None:
            raise InvalidInput("password: Is required.", fields={"password": ["Is required."]})
        return f"made with {password}"

    assert await with_password(None, knows_them) == ("made", None)
    made, password = await with_password(None, new_here)
    assert password is not None
    assert made == f"made with {password}"
    assert await with_password("given", new_here) == ("made with given", None)


async def test_another_refusal_is_not_answered_with_a_password() -> None:
    """What is wrong with the rest of the call is told as it is."""

    async def create(_: str | None) -> None:
        raise InvalidInput("slug: Is reserved.", fields={"slug": ["Is reserved."]})

    with pytest.raises(InvalidInput, match="reserved"):
        await with_password(None, create)


def _grouped(*errors: Exception) -> None:
    async def main_() -> None:
        raise ExceptionGroup("nursery", [ExceptionGroup("nursery", errors)])

    run(main_)


def test_the_one_error_of_a_nursery_is_raised_as_itself() -> None:
    """Then the person reads its sentence."""
    with pytest.raises(NotFound, match="no tenant"):
        _grouped(NotFound("There is no tenant."))


def test_a_port_that_is_taken_is_told_with_what_to_set() -> None:
    """The commonest reason why a first start fails deserves a sentence."""
    with pytest.raises(Unavailable, match=r"Address already in use.*MIJRA_PORT"):
        _grouped(OSError(errno.EADDRINUSE, "Address already in use"))


def test_a_file_that_may_not_be_used_is_told_by_its_name() -> None:
    """And is not taken for a port, although the system's error is the same."""
    with pytest.raises(Unavailable, match=r"^/opt/x cannot be used \(Permission denied\)\.$"):
        _grouped(OSError(errno.EACCES, "Permission denied", "/opt/x"))


def test_several_errors_and_our_own_bugs_keep_their_traceback() -> None:
    """One sentence would hide something."""
    for errors in ((Unavailable("a"), MijraError("b")), (ValueError("bug"),)):
        with pytest.raises(ExceptionGroup):
            _grouped(*errors)
